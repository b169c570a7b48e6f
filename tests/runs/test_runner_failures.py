"""A cell whose method does what it must not: a row that says so, and cells beside it that are none the worse."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from run_cases import CPU, DIGITS, ClassOnly, Toy, cell, run
from torch import nn

from unlearnbench.data.tensors import Data
from unlearnbench.plan.recipes import RECIPES
from unlearnbench.plan.spec import Access, Method
from unlearnbench.runs import runner
from unlearnbench.store.folder import Store
from unlearnbench.training.task import Task


@dataclass(frozen=True)
class Raises(Toy):
    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        raise ValueError("on purpose")


@dataclass(frozen=True)
class Exits(Toy):
    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        raise SystemExit(0)


@dataclass(frozen=True)
class Nan(Toy):
    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        for p in model.parameters():
            nn.init.constant_(p, float("nan"))
        return model


@dataclass(frozen=True)
class NoModel(Toy):
    def unlearn(self, model: nn.Module, task: Task) -> Any:
        return None


@dataclass(frozen=True)
class Nosy(Toy):
    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        task.validation.images()
        return model


# --- when it does not work -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Raises, "ValueError: on purpose"),
        (Nan, "outputs are not finite"),
        (NoModel, r"NoModel.unlearn must return the unlearned model, not NoneType"),
        (Nosy, r"task\.validation but does not declare it: add Access\.VALIDATION"),
    ],
)
def test_a_method_that_fails_gives_a_row_with_its_traceback(
    store: Store, register: Callable[..., None], method: type[Method], reason: str
) -> None:
    register("methods", toy=method)
    row = run(cell("toy"), store)
    assert row.status == "failed"
    assert row.reason.startswith("Traceback (most recent call last):")
    assert reason.replace("\\", "") in row.reason
    assert (row.evidence_sha256, dict(row.cost)) == ("", {})
    assert not store.done(cell("toy"))


def test_a_method_that_exits_fails_like_any_other(store: Store, register: Callable[..., None]) -> None:
    register("methods", toy=Exits)
    assert run(cell("toy"), store).status == "failed"


def test_a_failed_cell_is_tried_again(store: Store, register: Callable[..., None]) -> None:
    register("methods", toy=Raises)
    one = cell("toy")
    assert run(one, store).status == "failed"
    register("methods", toy=Toy)
    assert run(one, store).status == "ok"


def test_an_original_that_diverges_fails_its_cells(store: Store) -> None:
    one = replace(cell(), recipe=replace(RECIPES["camu"], lr=1e30, epochs=2))
    row = run(one, store)
    assert row.status == "failed"
    assert "the loss became nan" in row.reason
    assert not store.has_artifact(one.original_key)


def test_a_scenario_that_is_not_supported_is_not_a_failure(store: Store, register: Callable[..., None]) -> None:
    register("methods", toy=ClassOnly)
    row = run(cell("toy"), store)
    assert (row.status, row.reason) == ("n/a", "supports class only")
    assert store.done(cell("toy"))
    assert run(cell("toy", scenario="class"), store).status == "ok"


# --- what others see -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WritesIntoTheDataset(Toy):
    """It finds the dataset, wherever it lies."""

    fails: bool = False

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        for data in [thing for thing in gc.get_objects() if type(thing) is Data and thing.num_classes == 10]:
            data.x_validation.zero_()
        if self.fails:
            raise ValueError("and fails")
        return model


@dataclass(frozen=True)
class WritesWhileItPrepares(WritesIntoTheDataset):
    def prepare(self, task: Task) -> nn.Module:
        return super().unlearn(task.fresh_model(), task)

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return model


@dataclass(frozen=True)
class Looks(Toy):
    needs: ClassVar[Access] = Access.VALIDATION | Access.LABELS

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        with torch.no_grad():
            model.get_parameter("head.1.bias").add_(task.validation.images().mean())
        return model


@pytest.mark.parametrize(
    ("method", "params"),
    [(WritesIntoTheDataset, {}), (WritesIntoTheDataset, {"fails": True}), (WritesWhileItPrepares, {})],
    ids=["and goes on", "and fails", "while it prepares"],
)
def test_what_writes_into_the_dataset_fails_and_the_next_cell_is_unharmed(
    store: Store, tmp_path: Path, register: Callable[..., None], method: type[Method], params: dict[str, Any]
) -> None:
    register("methods", writes=method, looks=Looks)
    expected = run(cell("looks"), Store(tmp_path / "alone"))
    runner.load_data(DIGITS, store.root / "data", CPU)
    row = run(cell("writes", **params), store)
    assert row.status == "failed"
    assert f"method {method.__name__} wrote into the dataset, which all cells of this process share" in row.reason
    after = run(cell("looks"), store)
    assert (after.status, after.evidence_sha256) == ("ok", expected.evidence_sha256)


@dataclass(frozen=True)
class WritesIntoItsTask(Toy):
    """Into everything that it is handed, which is its own."""

    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS | Access.VALIDATION | Access.STATISTICS

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        for samples in (task.forget, task.retain, task.validation):
            samples.images().zero_()
            samples.labels.zero_()
        for statistic in task.statistics:
            statistic.zero_()
        return model


def test_what_a_method_writes_into_its_task_no_other_cell_sees(
    store: Store, tmp_path: Path, register: Callable[..., None]
) -> None:
    register("methods", writes=WritesIntoItsTask, looks=Looks)
    expected = run(cell("looks"), Store(tmp_path / "alone"))
    assert run(cell("writes"), store).status == "ok"
    assert run(cell("looks"), store).evidence_sha256 == expected.evidence_sha256


# --- networks of another shape ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparesAnother(Toy):
    def prepare(self, task: Task) -> nn.Module:
        return nn.Linear(2, 3)


@dataclass(frozen=True)
class BringsAnother(PreparesAnother):
    needs: ClassVar[Access] = Access.TRAINING | Access.LABELS

    def original(self, task: Task) -> nn.Module:
        return nn.Linear(2, 3)

    def blank(self, task: Task) -> nn.Module:
        return task.fresh_model()

    def prepare(self, task: Task) -> nn.Module:
        return task.fresh_model()


@dataclass(frozen=True)
class MakesMoreLogits(Toy):
    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return nn.Sequential(model, nn.ZeroPad1d((0, 2)))


@dataclass(frozen=True)
class MakesItWriteIntoImages(Toy):
    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return nn.Sequential(nn.ReLU(inplace=True), model)


ANOTHER = "returned a network of another architecture than Classifier of this cell"


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (PreparesAnother, f"PreparesAnother.prepare {ANOTHER}"),
        (BringsAnother, f"BringsAnother.original {ANOTHER}"),
        (MakesMoreLogits, "MakesMoreLogits.unlearn: its network maps 2 images to a tensor of shape (2, 12)"),
        (MakesItWriteIntoImages, "MakesItWriteIntoImages.unlearn: its network writes into the images that it is given"),
    ],
)
def test_a_network_that_does_not_fit_the_cell_is_named_and_not_kept(
    store: Store, register: Callable[..., None], method: type[Method], reason: str
) -> None:
    register("methods", toy=method)
    one = cell("toy")
    row = run(one, store)
    assert row.status == "failed"
    assert reason in row.reason
    assert not store.has_artifact(one.own_original_key)
    assert method is BringsAnother or not store.has_artifact(one.prepared_key)
