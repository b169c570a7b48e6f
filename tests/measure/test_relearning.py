"""Relearning: every count is that of a plain loop, on a copy, whatever the model that comes in."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data.tensors import Counter, Data, Samples
from unlearnbench.measure.relearning import anamnesis_steps, golatkar_epochs, outputs, relearn_curve, relearn_steps
from unlearnbench.plan.cells import Probe, Recipe
from unlearnbench.plan.registry import build
from unlearnbench.training.loop import predict, train
from unlearnbench.training.models import Classifier, build_model

PROBE = Probe(relearn_every=3, relearn_points=4, relearn_cap=30)


@pytest.fixture
def untrained() -> Classifier:
    return build_model(build("models", "cnn", {}), (1, 8, 8), 3, seed=0)


@pytest.fixture
def trained(data: Data) -> Classifier:
    model = build_model(build("models", "cnn", {}), (1, 8, 8), 3, seed=0)
    train(model, samples(data), Recipe(epochs=5))
    return model.eval()


def samples(data: Data, positions: object = slice(None), augment: object = None) -> Samples:
    return Samples(data.x_train[positions], data.y_train[positions], 0, augment, Counter())  # type: ignore[index, arg-type]


def loss(model: nn.Module, some: Samples) -> float:
    return F.cross_entropy(predict(model, some.images()), some.labels).item()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return (predict(model, x).argmax(1) == y).double().mean().item()


def state(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def history(
    model: nn.Module, optimizer: torch.optim.Optimizer, some: Samples, batch: int, steps: int, look: Callable[[], float]
) -> list[float]:
    """What ``look`` sees before the first and after each step of a plain loop."""
    seen, done = [look()], 0
    while True:
        for x, y in some.batches(batch):
            if done == steps:
                return seen
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            done += 1
            seen.append(look())


class Stuck(nn.Module):
    """Says 2, whatever it is shown and taught."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += torch.is_grad_enabled()
        return torch.tensor([-9.0, -9.0, 0.0]).expand(len(x), 3) + 0 * self.scale


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are trained themselves, not copies of them, so that a test may ask them what happened."""
    monkeypatch.setattr("unlearnbench.measure.relearning.deepcopy", lambda model: model)


# --- relearn_steps ---------------------------------------------------------------------------------------------------


def test_no_step_is_needed_where_the_target_is_met(trained: Classifier, data: Data) -> None:
    forget = samples(data)
    assert relearn_steps(trained, forget, loss(trained, forget), cap=30) == (0, 0.0)


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("cap", [1, 7])
def test_a_target_out_of_reach_gives_none_at_the_cap(data: Data, cap: int) -> None:
    model = Stuck()
    steps, seconds = relearn_steps(model, samples(data), -1.0, cap=cap)
    assert (steps, model.steps) == (None, cap)
    assert seconds > 0


def test_a_target_that_is_met_at_the_cap_is_met(untrained: Classifier, data: Data) -> None:
    target = 0.8 * loss(untrained, samples(data))
    [needed, _] = relearn_steps(untrained, samples(data), target, cap=100)
    assert needed is not None
    assert needed > 1
    assert relearn_steps(untrained, samples(data), target, cap=needed)[0] == needed
    assert relearn_steps(untrained, samples(data), target, cap=needed - 1)[0] is None


@pytest.mark.parametrize(("lr", "batch", "right"), [(1e-3, 32, True), (3e-3, 32, False), (1e-3, 96, False)])
def test_steps_are_those_of_plain_adam(untrained: Classifier, data: Data, lr: float, batch: int, right: bool) -> None:
    """For targets that lie between the losses after the steps of a loop of its own; with other settings it differs."""
    model = deepcopy(untrained)
    adam = torch.optim.Adam(model.parameters(), lr)
    losses = history(model, adam, samples(data), batch, 9, lambda: loss(model, samples(data)))
    assert losses == sorted(losses, reverse=True)
    found = [relearn_steps(untrained, samples(data), losses[wanted] + 1e-5, cap=30)[0] for wanted in (1, 4, 8)]
    assert (found == [1, 4, 8]) == right


class Slow(nn.Module):
    """Its one weight, the logit of class 0, moves by .001 in each step of Adam."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return (self.logit * torch.tensor([1.0, 0.0, 0.0])).expand(len(x), 3)


@pytest.mark.parametrize(
    ("reached", "shown"),
    [(1, 1), (39, 39), (40, 40), (41, 42), (42, 42), (59, 60), (61, 63), (81, 81), (82, 85), (100, 101)],
)
def test_after_forty_steps_it_looks_every_twentieth_of_them(data: Data, reached: int, shown: int) -> None:
    """The looks lie at 0 to 40, 42 to 60 by two, 63 to 81 by three, 85 to 101 by four, …"""
    logit = 1e-3 * (reached - 0.5)
    target = math.log(1 + 2 * math.exp(-logit))
    assert relearn_steps(Slow(), samples(data, data.y_train == 0), target, cap=1000)[0] == shown


def test_relearning_happens_on_a_copy(untrained: Classifier, data: Data) -> None:
    before, x, y = state(untrained), data.x_test, data.y_test
    untrained.eval()
    relearn_steps(untrained, samples(data), 0.1, cap=5)
    anamnesis_steps(untrained, samples(data), x, y, 1.1, cap=5)
    golatkar_epochs(untrained, samples(data), samples(data), cap=2)
    relearn_curve(untrained, samples(data), samples(data), PROBE)
    assert torch.equal(state(untrained), before)
    assert not untrained.training
    assert all(p.grad is None for p in untrained.parameters())


@pytest.mark.parametrize("part", ["encoder", ""])
def test_frozen_weights_do_not_hinder_relearning(untrained: Classifier, data: Data, part: str) -> None:
    forget, frozen = samples(data), deepcopy(untrained)
    frozen.get_submodule(part).requires_grad_(False)
    target = 0.9 * loss(untrained, forget)
    assert relearn_steps(frozen, samples(data), target, 30)[0] == relearn_steps(untrained, forget, target, 30)[0]
    assert anamnesis_steps(frozen, forget, data.x_test, data.y_test, 0.8, 30) == anamnesis_steps(
        untrained, samples(data), data.x_test, data.y_test, 0.8, 30
    )


# --- anamnesis_steps -------------------------------------------------------------------------------------------------


def test_a_model_that_still_knows_the_class_needs_no_step(trained: Classifier, data: Data) -> None:
    x, y = data.x_test, data.y_test
    assert accuracy(trained, x, y) == 1
    assert anamnesis_steps(trained, samples(data), x, y, 1.0, cap=5) == 0
    assert anamnesis_steps(Stuck(), samples(data), x[y == 2], y[y == 2], 1.0, cap=5) == 0


@pytest.mark.usefixtures("in_place")
def test_a_model_that_never_learns_the_class_again_gives_none_at_the_cap(data: Data) -> None:
    x, y = data.x_test[data.y_test == 0], data.y_test[data.y_test == 0]
    model = Stuck()
    assert anamnesis_steps(model, samples(data), x, y, 0.5, cap=6) is None
    assert model.steps == 6


def noise_to_learn_by_heart() -> Samples:
    """300 samples: batches of 256 and 44."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 1, 8, 8, generator=rng), torch.randint(3, (300,), generator=rng)
    return Samples(x, y, 0, None, Counter())


@pytest.mark.parametrize(("lr", "batch", "right"), [(1e-3, 256, True), (2e-3, 256, False), (1e-3, 32, False)])
def test_anamnesis_steps_are_those_of_plain_adam_on_the_training_set(
    untrained: Classifier, lr: float, batch: int, right: bool
) -> None:
    """The samples it is judged on need not be held out: here they are a few of the training set."""
    training, model = noise_to_learn_by_heart(), deepcopy(untrained)
    x, y = training.images()[:50], training.labels[:50]
    adam = torch.optim.Adam(model.parameters(), lr)
    accuracies = history(model, adam, noise_to_learn_by_heart(), batch, 38, lambda: accuracy(model, x, y))
    expected = next((step for step, value in enumerate(accuracies) if value >= 0.6), None)
    found = anamnesis_steps(untrained, training, x, y, 0.6, cap=38)
    assert found is not None
    assert found > 5
    assert (found == expected) == right


# --- golatkar_epochs -------------------------------------------------------------------------------------------------


def test_a_small_loss_needs_no_epoch(data: Data) -> None:
    class Sure(Stuck):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([self.logit, 0.0, 0.0]).expand(len(x), 3) + 0 * self.scale

        def __init__(self, logit: float) -> None:
            super().__init__()
            self.logit = logit

    forget = samples(data, data.y_train == 0)
    # the loss is log(1 + 2·exp(-logit)): .0999 and .1001
    assert golatkar_epochs(Sure(2.9459), samples(data), forget, cap=2) == 0
    assert golatkar_epochs(Sure(2.9437), samples(data), forget, cap=2) is None


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("cap", [0, 1, 3])
def test_an_epoch_is_four_batches_of_125(data: Data, cap: int) -> None:
    model = Stuck()
    many = samples(data, torch.arange(500) % 96)
    assert golatkar_epochs(model, many, samples(data, data.y_train == 0), cap) is None
    assert model.steps == 4 * cap
    assert many._counter.samples == 500 * cap


@pytest.mark.parametrize(("lr", "batches", "right"), [(0.01, 4, True), (0.02, 4, False), (0.01, 1, False)])
def test_epochs_are_those_of_plain_sgd_on_the_training_set(
    untrained: Classifier, data: Data, lr: float, batches: int, right: bool
) -> None:
    train(untrained, samples(data), Recipe(epochs=2))
    forget, model, many = samples(data, data.y_train == 0), deepcopy(untrained), torch.arange(500) % 96
    sgd = torch.optim.SGD(model.parameters(), lr)
    losses = history(model, sgd, samples(data, many), 125, 60, lambda: loss(model, forget))
    expected = next(epoch for epoch, value in enumerate(losses[::batches]) if value <= 0.1)
    found = golatkar_epochs(untrained, samples(data, many), forget, cap=20)
    assert found is not None
    assert found > 2
    assert (found == expected) == right


# --- relearn_curve ---------------------------------------------------------------------------------------------------


def test_the_curve_starts_after_one_update(untrained: Classifier, data: Data) -> None:
    curve = relearn_curve(untrained, samples(data), samples(data), PROBE)
    assert curve[:, 0].tolist() == [1, 4, 7, 10]
    assert curve.dtype == torch.float64
    assert curve[:, 1].tolist() == [0, 0, 0, 0]  # retain and forget are the same set


@pytest.mark.parametrize(("every", "points"), [(20, 12), (1, 12)])
def test_without_a_number_of_points_there_are_at_least_twelve(
    untrained: Classifier, data: Data, every: int, points: int
) -> None:
    few = samples(data, slice(32))
    curve = relearn_curve(untrained, few, few, Probe(relearn_every=every))
    assert curve[:, 0].tolist() == [1 + i * every for i in range(points)]


def test_the_curve_of_a_long_epoch_ends_with_it(untrained: Classifier, data: Data) -> None:
    many = samples(data, torch.arange(32 * 14 + 1) % 96)  # 15 batches
    assert len(relearn_curve(untrained, many, samples(data, slice(32)), Probe(relearn_every=1))) == 15


def test_the_curve_is_the_difference_of_accuracies_in_points(trained: Classifier, data: Data) -> None:
    """A model that is right on everything, and a forget set of which a quarter carries the true label."""
    retain = samples(data)
    x, y = data.x_train[:32], data.y_train[:32].clone()
    y[8:] = (y[8:] + 1) % 3
    curve = relearn_curve(trained, retain, Samples(x, y, 0, None, Counter()), replace(PROBE, relearn_points=1))
    assert curve.tolist() == [[1, 75.0]]


# --- BatchNorm -------------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    """Remembers in which mode each forward pass with a gradient was done, and each without."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(1), nn.Linear(64, 3)
        self.learning: list[bool] = []
        self.looking: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        (self.learning if torch.is_grad_enabled() else self.looking).append(self.training)
        return self.linear(self.norm(x).flatten(1))


def curve(frozen: bool, points: int) -> Callable[[nn.Module, Data], object]:
    probe = Probe(relearn_every=3, relearn_points=points, relearn_frozen_norm=frozen)
    return lambda model, data: relearn_curve(model, samples(data), samples(data), probe)


PROBES: dict[str, tuple[Callable[[nn.Module, Data], Any], int]] = {
    "steps": (lambda model, data: relearn_steps(model, samples(data), -1.0, 7), 7),
    "anamnesis": (lambda model, data: anamnesis_steps(model, samples(data), data.x_test, data.y_test, 1.1, 7), 7),
    "golatkar": (lambda model, data: golatkar_epochs(model, samples(data), samples(data), 2), 8),
    "curve": (curve(frozen=False, points=3), 7),
}


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("probe", PROBES)
def test_it_learns_in_train_mode_and_is_looked_at_in_eval_mode(data: Data, probe: str) -> None:
    model = Norm().eval()
    run, steps = PROBES[probe]
    run(model, data)
    assert model.learning == [True] * steps
    assert model.looking
    assert not any(model.looking)
    assert int(model.norm.num_batches_tracked) == steps  # type: ignore[arg-type]


@pytest.mark.usefixtures("in_place")
def test_frozen_norm_trains_in_eval_mode_after_the_first_point(data: Data) -> None:
    model = Norm()
    curve(frozen=True, points=3)(model, data)
    assert model.learning == [True] + [False] * 6


# --- outputs ---------------------------------------------------------------------------------------------------------


def test_outputs_are_in_the_order_of_the_set(trained: Classifier, data: Data) -> None:
    order = torch.randperm(96)
    assert torch.allclose(outputs(trained, samples(data, order)), predict(trained, data.x_train)[order], atol=1e-5)


def noise(x: Tensor, rng: torch.Generator, size: float) -> Tensor:
    return x + size * torch.rand(x.shape, generator=rng)


def test_outputs_on_augmented_images_are_always_on_the_same(trained: Classifier, data: Data) -> None:
    noisy = samples(data, augment=partial(noise, size=1.0))
    first = outputs(trained, noisy)
    list(noisy.batches(32))
    assert torch.equal(outputs(trained, noisy), first)
    assert not torch.allclose(first, predict(trained, data.x_train), atol=1e-3)
