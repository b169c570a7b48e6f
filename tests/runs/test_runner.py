"""One cell from weights to row: what is stored when it works, when the method fails, and when it is asked for again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from run_cases import CPU, DIGITS, Toy, cell, run
from torch import nn

from unlearnbench.data.tensors import Counter
from unlearnbench.plan.cells import Plugin, Recipe, Row
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Access, Method, Model, UnlearnBenchError
from unlearnbench.runs import runner
from unlearnbench.store.folder import Store
from unlearnbench.training.loop import predict
from unlearnbench.training.models import Classifier, build_model
from unlearnbench.training.task import Task


@dataclass(frozen=True)
class Prepares(Toy):
    """Draws batches and global noise both when it prepares and when it unlearns."""

    def prepare(self, task: Task) -> nn.Module:
        return self._noise(task.fresh_model(), task)

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return self._noise(model, task)

    def _noise(self, model: nn.Module, task: Task) -> nn.Module:
        x, _ = next(iter(task.retain.batches(8)))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.01 * x.mean() + 0.01 * torch.rand(p.shape))
        return model


@dataclass(frozen=True)
class Dropout(Model):
    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5))
        return Classifier(encoder, nn.Linear(16, num_classes), num_classes)


# --- when it works ---------------------------------------------------------------------------------------------------


def test_a_cell_becomes_a_row_with_evidence(store: Store) -> None:
    one = cell()
    row = run(one, store)
    assert (row.status, row.key, row.reason) == ("ok", one.key, "")
    assert store.done(one)
    evidence = store.evidence(row)
    assert {name: logits.shape for name, logits in evidence.logits.items()} == {
        "forget": (12, 10), "retain": (108, 10), "test": (50, 10),  # one of each class is held out
    }  # fmt: skip
    assert evidence.labels["retain"].shape == (108,)
    assert evidence.curve[:, 0].tolist() == [1, 6]
    assert row.scalars["relearn_steps"] == 0  # identity has nothing to relearn
    assert {name: row.cost[name] for name in ("samples", "gradients", "peak_memory")} == {
        "samples": 0, "gradients": 0, "peak_memory": None,
    }  # fmt: skip
    assert row.environment["fingerprint"] == DIGITS.version
    assert {"device", "threads", "tf32", "python", "torch", "numpy", "source"} <= set(row.environment)
    assert row.environment["tf32"] is False  # on a processor


def test_identitys_outputs_are_the_originals(store: Store) -> None:
    one = cell()
    evidence = store.evidence(run(one, store))
    data = runner.load_data(one.dataset, store.root, CPU)
    original = runner.load_original(one, store, data)
    split = runner.make_cell_split(one, data)
    expected = predict(original, data.x_test[split.test])
    assert torch.allclose(torch.from_numpy(evidence.logits["test"]), expected, atol=1e-5)


def test_the_oracle_costs_what_its_training_cost(store: Store) -> None:
    row = run(cell("retrain"), store)
    assert (row.cost["samples"], row.cost["gradients"]) == (108, 108)
    again = run(cell("retrain"), store)
    assert again.cost == row.cost


# The CNN on 8x8: 5x5 convolutions to 16 channels and, on 4x4, to 32; 128 -> 256 -> 128 -> 10. 2 for a multiply-add.
FIRST = 2 * (16 * 64) * 25
SECOND = 2 * (32 * 16) * (25 * 16)
REST = 2 * 128 * 256 + 2 * (256 * 128 + 128 * 10)
FORWARD, BACKWARD = FIRST + SECOND + REST, FIRST + 2 * (SECOND + REST)  # images take no gradient


def test_operations_are_those_counted_by_hand(store: Store) -> None:
    assert run(cell("retrain"), store).cost["flops"] == 108 * (FORWARD + BACKWARD)
    assert run(cell("finetune", epochs=2), store).cost["flops"] == 2 * 108 * (FORWARD + BACKWARD)
    assert run(cell("retrain_other_seed"), store).cost["flops"] == 108 * (FORWARD + BACKWARD)
    assert run(cell(), store).cost["flops"] == 0


def test_the_oracle_never_saw_what_is_forgotten(store: Store) -> None:
    one = cell("retrain", scenario="class")
    evidence = store.evidence(run(one, store))
    assert evidence.forget_classes == (0,)
    assert set(evidence.labels["forget"]) == {0}
    assert 0 not in evidence.labels["retain"]
    assert (evidence.logits["forget"].argmax(1) == 0).mean() == 0


def test_all_methods_of_a_seed_share_original_and_split(store: Store) -> None:
    rows = [run(cell(method), store) for method in ("identity", "gradient_ascent")]
    assert rows[0].split_sha256 == rows[1].split_sha256
    assert len(list((store.root / "artifacts").glob("*.safetensors"))) == 1
    assert len(list((store.root / "splits").glob("*.safetensors"))) == 1
    assert run(cell(seed=1), store).split_sha256 != rows[0].split_sha256


def test_what_rows_are_compared_with_is_stored_once_for_all_methods(store: Store) -> None:
    """Outputs, in the order of the dataset, of the original and of a network of random weights."""
    one = cell()
    row = run(one, store)
    run(cell("gradient_ascent"), store)
    assert len(list((store.root / "outputs").glob("*.safetensors"))) == 2
    evidence, split = store.evidence(row), store.split(one)
    original, untrained = store.outputs(one.original_key), store.outputs(one.untrained_key)
    for outputs in (original, untrained):
        assert {n: (x.shape, x.dtype.name) for n, x in outputs.items()} == {
            "train": ((120, 10), "float32"), "test": ((50, 10), "float32"),
        }  # fmt: skip
    for name, part in (("forget", "train"), ("retain", "train"), ("test", "test")):
        np.testing.assert_allclose(original[part][split[name]], evidence.logits[name], atol=1e-5)  # identity's own
    data = runner.load_data(one.dataset, store.root, CPU)
    random = build_model(build("models", "cnn", {}), data.input_shape, 10, runner.derive_seed(0, "untrained"))
    np.testing.assert_allclose(untrained["test"], predict(random, data.x_test).numpy(), atol=1e-5)
    run(cell(seed=1), store)
    assert len(list((store.root / "outputs").glob("*.safetensors"))) == 4


def test_a_trainee_is_an_original_or_an_oracle_of_its_seed_alone(store: Store) -> None:
    one = cell()
    data = runner.load_data(one.dataset, store.root, CPU)
    split = runner.make_cell_split(one, data)
    original, everything = runner.trainee(one, data, None, Counter())
    oracle, retained = runner.trainee(one, data, split.retain, Counter())
    assert (len(everything), len(retained)) == (120, 108)
    assert torch.equal(retained.images(), data.x_train[split.retain])
    assert torch.equal(retained.labels, data.y_train[split.retain])
    weights = [model.get_parameter("head.1.weight") for model in (original, oracle)]
    assert not torch.equal(*weights)
    for method in ("camu", "retrain"):
        again, _ = runner.trainee(cell(method, scenario="class"), data, None, Counter())
        assert torch.equal(again.get_parameter("head.1.weight"), weights[0])
    other, _ = runner.trainee(cell(seed=1), data, None, Counter())
    assert not torch.equal(other.get_parameter("head.1.weight"), weights[0])


@pytest.mark.parametrize("method", ["retrain", "camu", "finetune", "random_label"])
def test_the_same_cell_gives_the_same_evidence(tmp_path: Path, method: str) -> None:
    one = cell(method)
    first = run(one, Store(tmp_path / "a"))
    torch.manual_seed(99)
    second = run(one, Store(tmp_path / "b"))
    assert first.status == "ok"
    assert first.evidence_sha256 == second.evidence_sha256


def test_the_original_is_not_what_the_method_changes(store: Store) -> None:
    """The target of relearning is the original's own loss, also after a method that changes its model in place."""
    ascent, identity = (run(cell(method), store) for method in ("gradient_ascent", "identity"))
    assert ascent.evidence_sha256 != identity.evidence_sha256
    assert ascent.scalars["original_forget_loss"] == identity.scalars["original_forget_loss"]


def test_a_cell_leaves_the_global_generator_alone(store: Store) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(cell(), store)
    assert torch.equal(torch.rand(2), expected)


def test_a_cell_that_is_done_is_not_run_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    row = run(cell(), store)
    monkeypatch.setattr(runner, "unlearn", lambda *_: pytest.fail("run again"))
    assert run(cell(), store).evidence_sha256 == row.evidence_sha256


def test_a_cell_whose_run_was_killed_is_run_again(store: Store) -> None:
    one = cell()
    store.put(Row(one.key, one, "started"))
    assert run(one, store).status == "ok"


# --- what must not matter --------------------------------------------------------------------------------------------


def test_what_was_prepared_before_changes_nothing(store: Store, tmp_path: Path, register: Callable[..., None]) -> None:
    """Killed after prepare() and run again must give what an uninterrupted run gives."""
    register("methods", prepares=Prepares)
    one, killed = cell("prepares"), Store(tmp_path / "killed")
    runner.prepare_cell(one, killed, store.root, CPU)
    assert run(one, store).evidence_sha256 == run(one, killed).evidence_sha256


def test_who_trains_the_original_does_not_matter(store: Store, tmp_path: Path, register: Callable[..., None]) -> None:
    """With dropout: in a job of its own, after other work, or within its first cell."""
    register("models", dropout=Dropout)
    one, ahead = cell(model="dropout"), Store(tmp_path / "ahead")
    torch.manual_seed(12)
    runner.load_original(one, ahead, runner.load_data(one.dataset, store.root, CPU))
    assert run(one, store).evidence_sha256 == run(one, ahead).evidence_sha256


# --- files that change ----------------------------------------------------------------------------------------------


def write_npz(path: Path, brightness: int) -> Plugin:
    """A dataset of your own: 8 and 4 images of one brightness."""
    images = np.full((12, 8, 8), brightness, np.uint8)
    labels = np.arange(12) % 2
    np.savez(path, allow_pickle=True, x_train=images[:8], y_train=labels[:8], x_test=images[8:], y_test=labels[8:])
    return Plugin.of("npz", build("datasets", "npz", {"path": str(path), "validation": 0.0}))


def brightness(plugin: Plugin, root: Path) -> float:
    x = runner.load_data(plugin, root, CPU).x_train
    assert x.min() == x.max()
    return float(x.max())


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    assert brightness(write_npz(path, 255), tmp_path) == 1.0
    assert brightness(write_npz(path, 51), tmp_path) == pytest.approx(0.2)


def test_a_file_that_is_no_longer_that_of_the_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    planned = write_npz(path, 255)
    now = write_npz(path, 51)
    with pytest.raises(UnlearnBenchError, match="dataset 'npz' changed during this run: run the same command again"):
        runner.load_data(planned, tmp_path, CPU)
    assert brightness(now, tmp_path) == pytest.approx(0.2)


def test_a_dataset_is_identified_once_for_all_cells_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs a pass over the files."""
    one = write_npz(tmp_path / "own.npz", 7)
    brightness(one, tmp_path)
    monkeypatch.setattr("unlearnbench.data.datasets.Npz.identity", lambda _: pytest.fail("identified again"))
    brightness(one, tmp_path)


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_recipe_fields_of_cells_are_used(store: Store) -> None:
    """bfloat16 gives another original, with the same shape of evidence."""
    plain, half = cell(), replace(cell(), recipe=Recipe(epochs=1, precision="bfloat16"))
    rows = [run(one, store) for one in (plain, half)]
    assert [row.status for row in rows] == ["ok", "ok"]
    assert rows[0].evidence_sha256 != rows[1].evidence_sha256


@dataclass(frozen=True)
class Looks(Toy):
    """Notes in which precision the networks of a method run."""

    needs: ClassVar[Access] = Access.TRAINING | Access.LABELS
    seen: ClassVar[list[tuple[str, torch.dtype]]] = []

    def blank(self, task: Task) -> nn.Module:
        return task.fresh_model()

    def original(self, task: Task) -> nn.Module:
        return self._look("original", task.fresh_model(), task)

    def prepare(self, task: Task) -> nn.Module:
        return self._look("prepare", task.fresh_model(), task)

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return self._look("unlearn", model, task)

    def _look(self, where: str, model: nn.Module, task: Task) -> nn.Module:
        self.seen.append((where, model.get_submodule("encoder")(task.training.images()[:2]).dtype))
        return model


@dataclass(frozen=True)
class LooksInFull(Looks):
    full_precision: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("method", "dtype"), [(Looks, torch.bfloat16), (LooksInFull, torch.float32)], ids=["as the recipe", "opted out"]
)
def test_a_method_runs_in_the_precision_of_the_recipe(
    store: Store, register: Callable[..., None], method: type[Method], dtype: torch.dtype
) -> None:
    """Or the oracle, which trains in bfloat16, is up to twice as fast for free."""
    register("methods", looks=method)
    Looks.seen.clear()
    assert run(replace(cell("looks"), recipe=Recipe(epochs=1, precision="bfloat16")), store).status == "ok"
    assert Looks.seen == [("original", dtype), ("prepare", dtype), ("unlearn", dtype)]
    assert not torch.is_autocast_enabled("cpu")
