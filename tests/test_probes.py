"""Probes: what they report, on copies, whatever the model that comes in."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data import Counter, Data, Samples
from unlearnbench.models import Classifier, build_model
from unlearnbench.probes import collect, outputs, relearn_curve, relearn_steps, warm_up
from unlearnbench.registry import build
from unlearnbench.scenarios import ClassForget, Split, make_split
from unlearnbench.spec import Cell, Plugin, Probe, Recipe
from unlearnbench.training import predict, train

PROBE = Probe(relearn_every=3, relearn_points=4, relearn_cap=30)
CELL = Cell(Plugin("toy"), Plugin("cnn"), Recipe(), Plugin("class"), Plugin("toy"), 0, 0, PROBE)


@pytest.fixture
def untrained() -> Classifier:
    return build_model(build("models", "cnn", {}), (1, 8, 8), 3, seed=0)


@pytest.fixture
def trained(data: Data) -> Classifier:
    model = build_model(build("models", "cnn", {}), (1, 8, 8), 3, seed=0)
    train(model, samples(data), Recipe(epochs=5))
    return model.eval()


@pytest.fixture
def split(data: Data) -> Split:
    return make_split(ClassForget(classes=(0,)), data.y_train.numpy(), len(data.x_test), 0)


def samples(data: Data, positions: object = slice(None), augment: object = None) -> Samples:
    return Samples(data.x_train[positions], data.y_train[positions], 0, augment, Counter())  # type: ignore[index, arg-type]


def loss(model: nn.Module, some: Samples) -> float:
    return F.cross_entropy(predict(model, some.images()), some.labels).item()


def state(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


# --- relearn_steps ---------------------------------------------------------------------------------------------------


def test_no_step_is_needed_where_the_target_is_met(trained: Classifier, data: Data) -> None:
    forget = samples(data)
    assert relearn_steps(trained, forget, loss(trained, forget), cap=30) == (0, 0.0)


def test_a_target_out_of_reach_gives_none_at_the_cap(untrained: Classifier, data: Data) -> None:
    counter = Counter()
    forget = Samples(data.x_train[:32], data.y_train[:32], 0, None, counter)
    steps, seconds = relearn_steps(untrained, forget, -1.0, cap=7)
    assert steps is None
    assert seconds > 0


def test_steps_are_those_of_plain_adam(untrained: Classifier, data: Data) -> None:
    """Counted by a loop of its own, for targets that lie between the losses after its steps."""
    forget, model = samples(data), deepcopy(untrained)
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-3), [loss(untrained, samples(data))]
    for _ in range(3):
        for x, y in forget.batches(32):
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            losses.append(loss(model, samples(data)))
    for wanted in (1, 4, 8):
        target = losses[wanted] + 1e-5
        assert min(losses[:wanted]) > target
        assert relearn_steps(untrained, samples(data), target, cap=30)[0] == wanted


def test_relearning_happens_on_a_copy(untrained: Classifier, data: Data) -> None:
    before = state(untrained)
    untrained.eval()
    relearn_steps(untrained, samples(data), 0.1, cap=5)
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


class Norm(nn.Module):
    """Counts in which mode each forward pass with a gradient was done."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm2d(1), nn.Linear(64, 3)
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.modes.append(self.training)
        return self.linear(self.norm(x).flatten(1))


@pytest.mark.parametrize(("frozen", "training"), [(False, [True] * 7), (True, [True] + [False] * 6)])
def test_frozen_norm_trains_in_eval_mode_after_the_first_point(
    data: Data, frozen: bool, training: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Norm()
    monkeypatch.setattr("unlearnbench.probes.deepcopy", lambda m: m)
    probe = Probe(relearn_every=3, relearn_points=3, relearn_frozen_norm=frozen)
    relearn_curve(model, samples(data), samples(data), probe)
    assert model.modes == training


# --- outputs and evidence --------------------------------------------------------------------------------------------


def test_outputs_are_in_the_order_of_the_set(trained: Classifier, data: Data) -> None:
    order = torch.randperm(96)
    assert torch.allclose(outputs(trained, samples(data, order)), predict(trained, data.x_train)[order], atol=1e-5)


def test_outputs_on_augmented_images_are_always_on_the_same(trained: Classifier, data: Data) -> None:
    noisy = samples(data, augment=lambda x, rng: x + torch.rand(x.shape, generator=rng))
    first = outputs(trained, noisy)
    list(noisy.batches(32))
    assert torch.equal(outputs(trained, noisy), first)
    assert not torch.allclose(first, predict(trained, data.x_train), atol=1e-3)


def test_evidence_is_in_the_order_of_the_split(trained: Classifier, data: Data, split: Split) -> None:
    tensors, scalars = collect(CELL, trained, trained, data, split)
    for name, x in (("forget", data.x_train), ("retain", data.x_train), ("test", data.x_test)):
        positions = getattr(split, name)
        assert tensors[name].shape == (len(positions), 3)
        assert torch.allclose(tensors[name], predict(trained, x[positions]), atol=1e-5)
    assert np.array_equal(tensors["curve"][:, 0], [1, 4, 7, 10])
    assert scalars["relearn_steps"] == 0
    assert scalars["relearn_censored"] == 0
    assert scalars["relearn_time"] == 0
    forget = data.x_train[split.forget], data.y_train[split.forget]
    assert scalars["original_forget_loss"] == pytest.approx(
        F.cross_entropy(predict(trained, forget[0]), forget[1]).item()
    )


def test_a_model_that_does_not_relearn_in_time_is_censored(trained: Classifier, data: Data, split: Split) -> None:
    class Stuck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([-9.0, 0.0, 0.0]).expand(len(x), 3) + 0 * self.scale

    _, scalars = collect(CELL, trained, Stuck(), data, split)
    assert (scalars["relearn_steps"], scalars["relearn_censored"]) == (30, 1)


def test_evidence_leaves_both_models_alone(
    trained: Classifier, untrained: Classifier, data: Data, split: Split
) -> None:
    before = state(trained), state(untrained)
    collect(CELL, trained, untrained, data, split)
    assert torch.equal(state(trained), before[0])
    assert torch.equal(state(untrained), before[1])


def test_warming_up_leaves_no_trace(trained: Classifier, data: Data) -> None:
    before, drawn = state(trained), torch.random.get_rng_state()
    warm_up(trained, data, 32)
    assert torch.equal(state(trained), before)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert not trained.training
