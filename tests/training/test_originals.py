"""What is kept of an original's training, and what a method that declares it is handed."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from method_cases import RANDOM, network, split_of
from torch import Tensor, nn
from unlearnbench_methods.finetune import FineTune

from unlearnbench import run
from unlearnbench.data.tensors import Counter, Data
from unlearnbench.plan.cells import Cell, Plugin, Recipe
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Access, AccessDenied, Method, UnlearnBenchError
from unlearnbench.training.loop import train
from unlearnbench.training.originals import class_statistics, initial_seed, keep, surrogates, trainee, training_log
from unlearnbench.training.task import Task


def cell_of(**recipe: Any) -> Cell:
    return Cell(Plugin("toy"), Plugin("cnn"), Recipe(**recipe), Plugin("toy"), Plugin("toy"), 0, 3)


def task_with(needs: Access, data: Data, seen: np.ndarray | None = None) -> Task:
    cell, split = cell_of(epochs=1), split_of(data, RANDOM)
    original, _ = trainee(cell, data, seen, Counter())
    records = keep(needs, cell, data, split, original, seen, lambda make: make())
    return Task.of(cell, data, split, needs, Counter(), records)


# --- the log of a training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_with_a_forget_sample_in_every_batch_the_log_is_the_whole_training(data: Data, optimizer: str) -> None:
    cell, split = cell_of(epochs=2, batch_size=96, optimizer=optimizer), split_of(data, RANDOM)
    model, samples = trainee(cell, data, None, Counter())
    before = deepcopy(model.state_dict())
    train(model, samples, cell.recipe)
    for name, added in training_log(cell, data, split).items():
        torch.testing.assert_close(before[name] + added, model.state_dict()[name], msg=name)


def test_a_training_that_held_no_forget_sample_has_an_empty_log(data: Data) -> None:
    split = split_of(data, RANDOM)
    log = training_log(cell_of(epochs=1, batch_size=8), data, split, seen=split.retain)
    assert all(not added.any() for added in log.values())


def test_only_the_steps_on_batches_with_a_forget_sample_are_in_the_log(data: Data) -> None:
    """Plain descent, one epoch, by hand: the steps of the other batches are missing from the sum."""
    cell, one = cell_of(epochs=1, batch_size=8, optimizer="sgd", lr=0.1, weight_decay=0.0), split_of(data, RANDOM)
    split = replace(one, forget=one.forget[:1])
    model, samples = trainee(cell, data, None, Counter())
    forgotten = data.x_train[split.forget[0]]
    expected = torch.zeros_like(model.get_parameter("head.1.bias"))
    steps = 0
    for x, y in samples.batches(8):
        gradients = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
        held = bool((x == forgotten).flatten(1).all(1).any())
        steps += held
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(0.1 * gradient)
        if held:
            expected -= 0.1 * gradients[-1]
    assert steps == 1
    torch.testing.assert_close(training_log(cell, data, split)["head.1.bias"], expected)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_statistics_of_classes_are_numpys(data: Data) -> None:
    model = network(dtype=torch.float32)
    means, covariances = class_statistics(model, data)
    features = model.encode(data.x_train).detach().numpy()
    for c in range(3):
        own = features[data.y_train.numpy() == c]
        np.testing.assert_allclose(means[c], own.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(covariances[c], np.cov(own.T), rtol=1e-3, atol=1e-6)


def test_statistics_of_what_was_seen_alone(data: Data) -> None:
    seen = np.flatnonzero(data.y_train.numpy() == 1)[:1]
    _, covariances = class_statistics(network(dtype=torch.float32), data, np.append(seen, [0, 2]))
    assert not covariances[1].any()  # a single image


# --- surrogate images ------------------------------------------------------------------------------------------------


def test_noise_is_standard_normal_and_depends_on_the_seed(data: Data) -> None:
    x = surrogates(cell_of(), data)("noise", 400).images()
    assert x.shape == (400, 1, 8, 8)
    assert abs(x.mean().item()) < 0.05
    assert abs(x.std().item() - 1) < 0.05
    torch.testing.assert_close(surrogates(cell_of(), data)("noise", 400).images(), x, rtol=0, atol=0)
    assert not torch.equal(surrogates(replace(cell_of(), seed=4), data)("noise", 400).images(), x)


def test_images_of_another_dataset_take_the_shape_of_this_one(data: Data, tmp_path: Path) -> None:
    wide = replace(data, x_train=torch.zeros(4, 3, 16, 16), root=tmp_path)
    samples = surrogates(cell_of(), wide)("digits", 30)
    assert samples.images().shape == (30, 3, 16, 16)
    with pytest.raises(AccessDenied):
        _ = samples.labels


@pytest.mark.parametrize("name", ["toy", "digits"])
def test_the_own_dataset_is_no_surrogate(data: Data, tmp_path: Path, name: str) -> None:
    cell = replace(cell_of(), dataset=Plugin(name))
    with pytest.raises(UnlearnBenchError, match=f"other than '{name}'"):
        surrogates(cell, replace(data, root=tmp_path))(name, 3)


# --- what the task hands out -----------------------------------------------------------------------------------------

USES: dict[Access, Callable[[Task], Any]] = {
    Access.INIT: lambda task: task.initial_model(),
    Access.LOG: lambda task: task.log,
    Access.STATISTICS: lambda task: task.statistics,
    Access.SURROGATE: lambda task: task.surrogate("noise", 3),
    Access.TRAINING: lambda task: task.training,
}


@pytest.mark.parametrize("need", USES, ids=lambda need: need.name)
def test_what_is_not_declared_is_refused_by_name(data: Data, need: Access) -> None:
    everything = Access.FORGET
    for flag in Access:
        everything |= flag
    USES[need](task_with(everything, data))
    with pytest.raises(AccessDenied, match=f"add Access.{need.name} to its needs"):
        USES[need](task_with(everything & ~need, data))


def test_initial_weights_are_those_that_the_training_began_with(data: Data) -> None:
    began = trainee(cell_of(epochs=1), data, None, Counter())[0].state_dict()
    given = task_with(Access.INIT, data).initial_model().state_dict()
    assert all(torch.equal(given[name], tensor) for name, tensor in began.items())
    assert initial_seed(cell_of()) != initial_seed(cell_of(), np.arange(3))


def test_the_training_set_comes_whole_with_what_is_to_be_forgotten(data: Data) -> None:
    task = task_with(Access.TRAINING | Access.LABELS, data)
    torch.testing.assert_close(task.training.images(), data.x_train)
    torch.testing.assert_close(task.training.labels, data.y_train)
    assert sorted(task.forgotten.nonzero().flatten().tolist()) == sorted(split_of(data, RANDOM).forget.tolist())


def test_a_part_of_a_request_has_other_sets_and_leaves_the_request_alone(data: Data) -> None:
    task = task_with(Access.FORGET | Access.RETAIN | Access.LABELS, data)
    part = task.request(task.forget.take(2), task.retain)
    assert (len(part.forget), len(part.retain)) == (2, len(task.retain))
    assert len(task.forget) == 24


# --- through the harness ---------------------------------------------------------------------------------------------


class Pair(nn.Module):
    """An original that no suite has: two networks whose logits are added."""

    def __init__(self, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x)


@dataclass(frozen=True)
class Brings(Method):
    """Brings an original of two networks, and retrains the second without the forget set."""

    paper: ClassVar[str] = "none"
    needs: ClassVar[Access] = Access.TRAINING | Access.LABELS

    def blank(self, task: Task) -> Pair:
        return Pair(task.fresh_model("one"), task.fresh_model("two"))

    def original(self, task: Task) -> Pair:
        assert not task.forgotten.any()  # nobody has asked for anything yet
        assert task.forget_classes == ()
        pair = self.blank(task)
        for model in (pair.one, pair.two):
            task.train(model, task.training)
        return pair

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        assert isinstance(model, Pair)
        x, y = task.training.images(), task.training.labels
        keep = ~task.forgotten
        model.two = task.train(task.fresh_model("again"), task.training.replace(x[keep], y[keep]))
        return model


@dataclass(frozen=True)
class UsesRecords(FineTune):
    """Takes the log away, adds what the original began with, and looks at the rest."""

    needs: ClassVar[Access] = Access.LOG | Access.INIT | Access.STATISTICS | Access.SURROGATE

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        assert task.statistics[0].shape == (10, 256)
        assert len(task.surrogate("noise", 5)) == 5
        began = dict(task.initial_model().named_parameters())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(0.01 * began[name] - 0.1 * task.log[name])
        return model


def test_both_kinds_run_as_rows_and_as_banks(
    tiny: Callable[..., Path], register: Callable[..., None], tmp_path: Path
) -> None:
    register("methods", brings=Brings, records=UsesRecords)
    suite = tiny("brings", "records", top="bank = 2\nunlearned_bank = 2\nshadows = 3")
    results = run(str(suite), results=tmp_path / "results", jobs=1)
    rows = results.values.drop_duplicates("key").set_index("method")
    assert rows.loc[["brings", "records"], "status"].tolist() == ["ok", "ok"]
    moved = results.values.query("metric == 'weight_distance'").set_index("method")["value"]
    assert 0 < moved["brings"] < 2  # from its own original, of which one half is as it was
    assert run(str(suite), results=tmp_path / "results", jobs=1).values.equals(results.values)


def test_the_own_original_is_trained_once_for_all_forget_sets() -> None:
    cell = cell_of()
    other = replace(cell, scenario=Plugin("class", {"classes": [1]}), split_seed=7)
    assert other.own_original_key == cell.own_original_key
    assert other.log_key(True) != cell.log_key(True)
    assert cell.log_key(False) != cell.log_key(True)
    assert build("scenarios", "class", {}).forget_classes == (0,)
