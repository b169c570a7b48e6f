"""Many networks at once: what each becomes is what it becomes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data.tensors import Augment, Counter, Samples, crop_flip
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.registry import build, names
from unlearnbench.training.loop import Diverged, train
from unlearnbench.training.models import Classifier, build_model
from unlearnbench.training.stacking import train_stacked

SGD = Recipe(
    optimizer="sgd", lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4, batch_size=16, epochs=4,
    schedule="one_cycle", label_smoothing=0.1,
)  # fmt: skip
ADAM = Recipe(batch_size=16, epochs=4, weight_decay=1e-4)
SHIFT_FLIP: Augment = partial(crop_flip, padding=2)

Models = list[Classifier]
Trainer = Callable[[Models, list[Samples], Recipe], None]


@dataclass(frozen=True)
class Problem:
    """Networks of one architecture, each with random images and labels of its own: 72 are 5 batches, the last of 8."""

    model: str = "cnn"
    params: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, int, int] = (1, 8, 8)
    size: int = 72
    count: int = 3
    dtype: torch.dtype = torch.float64
    augment: Augment | None = None

    def models(self) -> Models:
        kind = build("models", self.model, self.params)
        return [build_model(kind, self.shape, 3, seed).to(self.dtype) for seed in range(self.count)]

    def samples(self, counter: Counter | None = None) -> list[Samples]:
        rng, counter = torch.Generator().manual_seed(0), counter or Counter()
        sets = []
        for seed in range(self.count):
            x = torch.randn(self.size, *self.shape, generator=rng, dtype=torch.float64).to(self.dtype)
            sets.append(Samples(x, torch.randint(3, (self.size,), generator=rng), seed, self.augment, counter))
        return sets


def one_by_one(models: Models, samples: Sequence[Samples], recipe: Recipe) -> None:
    for model, some in zip(models, samples, strict=True):
        train(model, some, recipe)


def trained(trainer: Trainer, problem: Problem, recipe: Recipe) -> Models:
    models = problem.models()
    trainer(models, problem.samples(), recipe)
    return models


def assert_same(ours: Models, expected: Models, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    """Parameters and buffers; values below 1e-12 are sums that cancel, of which no digit is left."""
    for one, other in zip(ours, expected, strict=True):
        then = other.state_dict()
        assert list(one.state_dict()) == list(then)
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(
                tensor, then[name], rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}"
            )


# --- as one by one ---------------------------------------------------------------------------------------------------


RESNET9 = Problem("resnet9", {"width": 4}, (3, 8, 8))


@pytest.mark.parametrize("recipe", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("augment", [None, SHIFT_FLIP], ids=["plain", "augmented"])
@pytest.mark.parametrize("problem", [Problem(), RESNET9], ids=lambda p: p.model)
def test_twenty_steps_are_those_of_one_by_one(problem: Problem, augment: Augment | None, recipe: Recipe) -> None:
    problem = replace(problem, augment=augment)
    ours = trained(train_stacked, problem, recipe)
    assert_same(ours, trained(one_by_one, problem, recipe))
    with pytest.raises(AssertionError):
        assert_same(ours, problem.models())


SHORT = replace(SGD, epochs=1, batch_size=8)  # a batch of 8 and one of 4
LARGE = [
    Problem("resnet18", {}, (3, 8, 8), size=12, count=2),
    pytest.param(Problem("vit_tiny", {}, (1, 4, 4), size=12, count=2), marks=pytest.mark.slow),
    pytest.param(Problem("vgg16_bn", {}, (1, 32, 32), size=12, count=2), marks=pytest.mark.slow),
    pytest.param(Problem("resnet18-224", {}, (1, 8, 8), size=12, count=2), marks=pytest.mark.slow),
]


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention on the CPU has no rule for stacks
@pytest.mark.parametrize("problem", LARGE, ids=lambda p: p.model)
def test_two_steps_of_large_networks_are_those_of_one_by_one(problem: Problem) -> None:
    ours = trained(train_stacked, problem, SHORT)
    assert_same(ours, trained(one_by_one, problem, SHORT))
    with pytest.raises(AssertionError):
        assert_same(ours, problem.models())


def test_every_registered_network_is_among_them() -> None:
    tried = {"cnn", "resnet9", "resnet18", "vit_tiny", "vgg16_bn", "resnet18-224"}
    assert set(names("models")) == tried


def test_batch_statistics_are_each_networks_own() -> None:
    ours, expected = (trained(t, RESNET9, SGD) for t in (train_stacked, one_by_one))
    buffers = [dict(model.named_buffers()) for model in (*ours, *expected)]
    name = "encoder.0.1.running_mean"
    assert not torch.allclose(buffers[0][name], buffers[1][name], rtol=0.1)
    torch.testing.assert_close(buffers[1][name], buffers[4][name], rtol=1e-10, atol=0)
    assert [int(b["encoder.0.1.num_batches_tracked"]) for b in buffers] == [20] * 6


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_every_schedule_is_followed(schedule: Any) -> None:
    recipe = replace(SGD, schedule=schedule)
    assert_same(trained(train_stacked, Problem(), recipe), trained(one_by_one, Problem(), recipe))


def test_one_network_is_a_stack_too() -> None:
    problem = Problem(count=1)
    assert_same(trained(train_stacked, problem, SGD), trained(one_by_one, problem, SGD))


def test_the_same_seeds_give_the_same_bits() -> None:
    first, second = (trained(train_stacked, Problem(dtype=torch.float32), ADAM) for _ in range(2))
    assert_same(first, second, rtol=0, atol=0)


def test_samples_are_counted_as_they_are_one_by_one() -> None:
    counts = [Counter(), Counter()]
    for trainer, counter in zip((train_stacked, one_by_one), counts, strict=True):
        trainer(Problem().models(), Problem().samples(counter), SGD)
    assert [counter.samples for counter in counts] == [3 * 72 * 4] * 2


# Wrong versions, which the comparison must reject.


def all_in_the_first_ones_order(models: Models, samples: Sequence[Samples], recipe: Recipe) -> None:
    train_stacked(models, [samples[0].replace(s._x, s.labels) for s in samples], recipe)


def mean_over_the_stack(models: Models, samples: Sequence[Samples], recipe: Recipe) -> None:
    train_stacked(models, samples, replace(recipe, lr=recipe.lr / len(models)))


def without_buffers(models: Models, samples: Sequence[Samples], recipe: Recipe) -> None:
    before = [deepcopy(dict(model.named_buffers())) for model in models]
    train_stacked(models, samples, recipe)
    for model, buffers in zip(models, before, strict=True):
        model.load_state_dict(buffers, strict=False)


def only_whole_batches(models: Models, samples: Sequence[Samples], recipe: Recipe) -> None:
    train_stacked(models, [s.replace(s._x[:64], s.labels[:64]) for s in samples], recipe)


def first_one_copied(models: Models, samples: Sequence[Samples], recipe: Recipe) -> None:
    train_stacked(models, samples, recipe)
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())


@pytest.mark.parametrize(
    "wrong", [all_in_the_first_ones_order, mean_over_the_stack, without_buffers, only_whole_batches, first_one_copied]
)
def test_wrong_versions_are_told_apart(wrong: Trainer) -> None:
    with pytest.raises(AssertionError):
        assert_same(trained(wrong, RESNET9, SGD), trained(one_by_one, RESNET9, SGD))


# --- rounding --------------------------------------------------------------------------------------------------------


def update_of_one_step(trainer: Trainer, problem: Problem, recipe: Recipe) -> Tensor:
    """With plain SGD of rate 1: minus the gradients, of all networks, as one float64 vector for each."""
    before = problem.models()
    after = trained(trainer, problem, recipe)
    moves = [
        torch.cat([(q - p).double().flatten() for p, q in zip(a.parameters(), b.parameters(), strict=True)])
        for a, b in zip(before, after, strict=True)
    ]
    return torch.stack(moves)


SINGLE, HALF = "float32", "bfloat16"


@pytest.mark.parametrize(
    ("problem", "precision", "error"),
    [(Problem(), SINGLE, 2e-5), (Problem(), HALF, 0.05), (RESNET9, SINGLE, 2e-5), (RESNET9, HALF, 0.4)],
    ids=lambda value: getattr(value, "model", str(value)),
)
def test_a_step_in_less_precision_is_as_near_to_the_exact_one(problem: Problem, precision: Any, error: float) -> None:
    """Each against a reference in double precision, by the relative length of the difference."""
    problem, recipe = replace(problem, size=32), Recipe("sgd", 1.0, weight_decay=0.0, batch_size=32, epochs=1)
    exact = update_of_one_step(one_by_one, problem, recipe)
    for trainer in (train_stacked, one_by_one):
        single = replace(problem, dtype=torch.float32)
        rounded = update_of_one_step(trainer, single, replace(recipe, precision=precision))
        away = (rounded - exact).norm(dim=1) / exact.norm(dim=1)
        assert away.max() < error, trainer
    shuffled = exact.roll(1, 0)  # each network with its neighbour's gradient
    assert ((shuffled - exact).norm(dim=1) / exact.norm(dim=1)).min() > 0.5


# --- members are apart -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("problem", [Problem(), RESNET9], ids=lambda p: p.model)
def test_what_one_learns_does_not_touch_the_others(problem: Problem, recipe: Recipe) -> None:
    models, others = problem.models(), problem.models()
    samples, changed = problem.samples(), problem.samples()
    changed[1] = changed[1].replace(changed[1]._x.flip(3) * 2, (changed[1].labels + 1) % 3)
    train_stacked(models, samples, recipe)
    train_stacked(others, changed, recipe)
    assert_same(models[::2], others[::2], rtol=1e-12, atol=1e-12)
    with pytest.raises(AssertionError):
        assert_same([models[1]], [others[1]])


class Dropout(Classifier):
    def __init__(self, rate: float) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Dropout(rate)), nn.Linear(64, 3), 3)


@pytest.mark.parametrize(("rate", "same"), [(0.0, True), (0.5, False)])
def test_dropout_draws_anew_for_each(rate: float, same: bool) -> None:
    torch.manual_seed(0)
    first = Dropout(rate)
    models = [first, deepcopy(first)]
    one = Problem(dtype=torch.float32).samples()[0]
    train_stacked(models, [Samples(one._x, one.labels, 0, None, Counter()) for _ in models], SGD)
    assert torch.equal(models[0].head.weight, models[1].head.weight) == same


def test_models_are_ready_to_use() -> None:
    """Weights of their own, in the mode and dtype that they had, without gradients left over."""
    models = trained(train_stacked, Problem(dtype=torch.float32), ADAM)
    assert len({p.data_ptr() for model in models for p in model.parameters()}) == 3 * len(list(models[0].parameters()))
    assert all(p.requires_grad and p.grad is None and p.dtype == torch.float32 for p in models[0].parameters())
    x = torch.zeros(2, 1, 8, 8)
    F.cross_entropy(models[0](x), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None for p in models[0].parameters())


# --- divergence ------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_it() -> None:
    recipe = replace(SGD, lr=1e30, schedule="constant")
    with pytest.raises(Diverged, match=r"a loss became infinite in epoch 1 of 4: lower lr=1e\+30"):
        train_stacked(Problem().models(), Problem().samples(), recipe)


def test_one_that_diverges_ends_it_for_all() -> None:
    problem = Problem()
    samples = problem.samples()
    samples[2] = samples[2].replace(samples[2]._x * float("inf"), samples[2].labels)
    with pytest.raises(Diverged):
        train_stacked(problem.models(), samples, SGD)
