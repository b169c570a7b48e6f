"""The store: what is written is whole, what is damaged is refused by name, and no name leads out of the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearnbench.plan.cells import Cell, Plugin, Recipe, Row
from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.store.folder import Store

CELL = Cell(Plugin("digits"), Plugin("cnn"), Recipe(), Plugin("class"), Plugin("camu", {"classes": (1, 2)}), 0, 5)
ROW = Row(CELL.key, CELL, "ok", cost={"seconds": 1.5, "peak_memory": None}, scalars={"relearn_steps": 3.0})
TENSORS = {
    "forget": torch.arange(4.0).view(2, 2).t(),  # not contiguous
    "retain": torch.ones(3, 2),
    "test": torch.zeros(1, 2),
    "curve": torch.tensor([[1.0, -2.5], [11.0, 3.25]]),
}
SPLIT = {
    "forget.labels": np.array([0, 1]),
    "retain.labels": np.array([1, 1, 0]),
    "test.labels": np.array([1]),
    "forget_classes": np.array([1]),
}


@pytest.fixture
def filled(store: Store) -> Store:
    store.put_split(CELL, SPLIT)
    store.put(ROW, TENSORS)
    return store


def files(store: Store) -> list[str]:
    return sorted(str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file())


def path(store: Store, kind: str) -> Path:
    [found] = [p for p in (store.root / kind).iterdir() if not p.name.startswith(".")]
    return found


# --- what comes back -------------------------------------------------------------------------------------------------


def test_a_row_comes_back(filled: Store) -> None:
    row = filled.row(CELL)
    assert row is not None
    assert (row.key, row.cell.key, row.status) == (CELL.key, CELL.key, "ok")
    assert (row.cost, row.scalars) == ({"seconds": 1.5, "peak_memory": None}, {"relearn_steps": 3.0})
    assert filled.row_of(CELL.key) == row
    assert filled.row(replace(CELL, seed=6)) is None


def test_evidence_comes_back_with_the_labels_of_its_split(filled: Store) -> None:
    row = filled.row(CELL)
    assert row is not None
    evidence = filled.evidence(row)
    assert evidence.logits["forget"].tolist() == [[0, 2], [1, 3]]
    assert evidence.labels["retain"].tolist() == [1, 1, 0]
    assert evidence.curve.tolist() == [[1, -2.5], [11, 3.25]]
    assert evidence.curve.dtype == np.float64
    assert (evidence.forget_classes, evidence.seed, evidence.num_classes) == ((1,), 5, 2)
    assert evidence.cost["seconds"] == 1.5


def test_representations_come_back_where_there_are_any(filled: Store) -> None:
    row = filled.row(CELL)
    assert row is not None
    assert filled.evidence(row).representations == {}
    panel = {"panel.forget": torch.ones(2, 3).half(), "panel.retain": torch.zeros(2, 3).half()}
    again = filled.evidence(filled.put(ROW, TENSORS | panel))
    assert list(again.representations) == ["forget", "retain"]
    assert again.representations["forget"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert again.representations["forget"].dtype == np.float16


def test_a_split_comes_back_and_is_that_of_its_seed_and_scenario(filled: Store) -> None:
    split = filled.split(replace(CELL, seed=77, method=Plugin("other")))
    assert {name: x.tolist() for name, x in split.items()} == {name: x.tolist() for name, x in SPLIT.items()}
    with pytest.raises(UnlearnBenchError):
        filled.split(replace(CELL, split_seed=1))


def test_outputs_come_back_as_they_were(store: Store) -> None:
    outputs = {"train": np.arange(6, dtype=np.float16).reshape(3, 2).T, "test": np.full((1, 3), 0.1, np.float32)}
    assert not store.has_outputs("abc")
    store.put_outputs("abc", outputs)
    assert store.has_outputs("abc")
    assert not store.has_outputs("abd")
    again = store.outputs("abc")
    assert {name: x.dtype for name, x in again.items()} == {"train": np.float16, "test": np.float32}
    assert all((again[name] == outputs[name]).all() for name in outputs)


def test_outputs_that_are_there_stay(store: Store) -> None:
    store.put_outputs("abc", {"train": np.zeros(2)})
    store.put_outputs("abc", {"train": np.ones(2)})
    assert store.outputs("abc")["train"].tolist() == [0, 0]


def test_scores_of_a_bank_come_back(store: Store) -> None:
    found = {"basis": "abc", "values": {"fa": [1.5, 2.0]}}
    store.put_bank_scores("xyz", found)
    assert store.scores("xyz") == found


@pytest.mark.parametrize(("status", "done"), [("ok", True), ("n/a", True), ("failed", False), ("started", False)])
def test_only_a_row_with_a_result_is_done(store: Store, status: Any, done: bool) -> None:
    assert not store.done(CELL)
    store.put(replace(ROW, status=status))
    assert store.done(CELL) == done


def test_a_row_is_replaced_by_a_later_one(filled: Store) -> None:
    filled.put(replace(ROW, status="failed", reason="Traceback"))
    row = filled.row(CELL)
    assert row is not None
    assert (row.status, row.reason) == ("failed", "Traceback")


def test_plans_and_scores_come_back(store: Store) -> None:
    assert (store.plan("digits"), store.plans(), store.scores("abc")) == (None, [], {})
    store.put_plan("digits", {"title": "x"})
    store.put_plan("a-1.b", {})
    assert store.plan("digits") == {"title": "x"}
    assert store.plans() == ["a-1.b", "digits"]


# --- interruption ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rows", "evidence", "splits", "outputs", "plans"])
def test_an_interrupted_write_leaves_the_old_file_and_no_other(
    filled: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.put_plan("digits", {"title": "old"})
    before = {name: (filled.root / name).read_bytes() for name in files(filled)}

    def die(source: Any, target: Any) -> None:
        if Path(target).parent.name == kind:
            raise KeyboardInterrupt
        Path(source).rename(target)

    monkeypatch.setattr("os.replace", die)
    other = replace(CELL, split_seed=9)
    for write in (
        lambda: filled.put(replace(ROW, scalars={}), {**TENSORS, "test": torch.ones(1, 2)}),
        lambda: filled.put_split(other, SPLIT),
        lambda: filled.put_outputs("abc", {"train": np.zeros(2)}),
        lambda: filled.put_plan("digits", {"title": "new"}),
    ):
        try:
            write()
        except KeyboardInterrupt:
            continue
    after = {name: (filled.root / name).read_bytes() for name in files(filled)}
    assert {n: c for n, c in after.items() if n.startswith(kind)} == {
        n: c for n, c in before.items() if n.startswith(kind)
    }


def test_what_a_killed_writer_left_is_never_read(filled: Store) -> None:
    for kind in ("rows", "plans", "evidence", "artifacts", "splits", "scores", "outputs"):
        (filled.root / kind).mkdir(exist_ok=True)
        (filled.root / kind / f".{CELL.key}.json.0123.tmp").write_text("{")
    assert filled.plans() == []
    assert filled.done(CELL)
    assert filled.scores(CELL.key) == {}
    assert not filled.has_outputs(CELL.key)


def test_evidence_is_there_before_its_row(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    rename = os.replace

    def replace_(source: str, target: str) -> None:
        order.append(Path(target).parent.name)
        rename(source, target)

    monkeypatch.setattr("os.replace", replace_)
    store.put(ROW, TENSORS)
    assert order == ["evidence", "rows"]


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_cut_row_is_refused_by_name(filled: Store) -> None:
    row = path(filled, "rows")
    for size in (0, 1, 100, len(row.read_bytes()) - 1):
        row.write_bytes(row.read_bytes()[:size])
        with pytest.raises(UnlearnBenchError, match=rf"{CELL.key}\.json is damaged.*delete it and run again"):
            filled.row(CELL)


def edited(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {**content, **changes}


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: [content],
        edited(unknown=1),
        edited(cell={}),
        edited(cell=3),
        edited(key="0" * 24),
        edited(schema=99),
        lambda content: {**content, "cell": {**content["cell"], "seed": 6}},
        lambda content: {name: value for name, value in content.items() if name != "cell"},
    ],
)
def test_a_row_that_is_not_its_cells_is_refused_by_name(filled: Store, edit: Callable[[Any], Any]) -> None:
    row = path(filled, "rows")
    row.write_text(json.dumps(edit(json.loads(row.read_text()))))
    with pytest.raises(UnlearnBenchError, match=rf"{CELL.key}\.json .*delete it and run again"):
        filled.row(CELL)


@pytest.mark.parametrize(
    "edit",
    [
        edited(status="splendid"),
        edited(cost=[1]),
        lambda content: {**content, "cell": {**content["cell"], "seed": float("nan")}},
    ],
)
def test_a_row_with_impossible_values_is_refused_by_name(filled: Store, edit: Callable[[Any], Any]) -> None:
    row = path(filled, "rows")
    row.write_text(json.dumps(edit(json.loads(row.read_text()))))
    with pytest.raises(UnlearnBenchError, match=rf"{CELL.key}\.json"):
        filled.row(CELL)


def test_evidence_that_is_not_what_the_row_recorded_is_refused_by_name(filled: Store) -> None:
    row, evidence = filled.row(CELL), path(filled, "evidence")
    assert row is not None
    content = bytearray(evidence.read_bytes())
    content[-1] ^= 1
    for bad in (bytes(content), bytes(content[:-1]), b""):
        evidence.write_bytes(bad)
        with pytest.raises(
            UnlearnBenchError, match=rf"{CELL.key}\.safetensors is not what its row recorded: delete it"
        ):
            filled.evidence(row)
    evidence.unlink()
    with pytest.raises(UnlearnBenchError, match=rf"{CELL.key}\.safetensors cannot be read"):
        filled.evidence(row)


@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_split_is_refused_by_name(filled: Store, damage: str) -> None:
    row, split = filled.row(CELL), path(filled, "splits")
    assert row is not None
    content = split.read_bytes()
    if damage == "gone":
        split.unlink()
    else:
        split.write_bytes(content[:-5] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UnlearnBenchError, match=rf"{CELL.split_key}\.safetensors"):
        filled.evidence(row)


@pytest.mark.parametrize("damage", ["cut", "gone", "changed", "empty"])
def test_damaged_outputs_are_refused_by_name(store: Store, damage: str) -> None:
    store.put_outputs("abc", {"train": np.ones((2, 3)), "test": np.zeros((1, 3))})
    outputs = path(store, "outputs")
    content = outputs.read_bytes()
    if damage == "gone":
        outputs.unlink()
    else:
        changed = content[:-1] + bytes([content[-1] ^ 1])
        outputs.write_bytes({"cut": content[:-5], "changed": changed, "empty": b""}[damage])
    with pytest.raises(UnlearnBenchError, match=r"abc\.safetensors"):
        store.outputs("abc")


@pytest.mark.parametrize("kind", ["scores", "plans"])
def test_damaged_json_is_refused_by_name(store: Store, kind: str) -> None:
    (store.root / kind).mkdir(parents=True)
    (store.root / kind / "abc.json").write_text("[")
    with pytest.raises(UnlearnBenchError, match=r"abc\.json is damaged"):
        store.scores("abc") if kind == "scores" else store.plan("abc")


@pytest.mark.parametrize("key", ["../x", "a/b", "/etc/passwd", "..", ".hidden", "", "a\nb", "a b", "a\0"])
def test_no_key_leads_out_of_the_folder(store: Store, key: str) -> None:
    for use in (
        lambda: store.put(replace(ROW, key=key)),
        lambda: store.row_of(key),
        lambda: store.plan(key),
        lambda: store.scores(key),
        lambda: store.has_artifact(key),
        lambda: store.has_outputs(key),
        lambda: store.outputs(key),
        lambda: store.put_outputs(key, {}),
        lambda: store.artifact(key, lambda: pytest.fail("must not be made")),
        lambda: store.lock(key).__enter__(),
    ):
        with pytest.raises(UnlearnBenchError, match="cannot name a file"):
            use()
    assert not store.root.exists()


def test_no_value_is_written_that_json_does_not_have(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON"):
        store.put(replace(ROW, cost={"seconds": float("nan")}))
    assert store.row(CELL) is None


def test_nothing_on_disk_is_a_pickle(filled: Store) -> None:
    filled.artifact("abc", lambda: ({"w": torch.ones(3)}, {}))
    filled.put_plan("digits", {})
    filled.put_outputs("abc", {"train": np.zeros(2)})
    stored = [name for name in files(filled) if not name.endswith(".lock")]
    assert len(stored) == 6
    for name in stored:
        content = (filled.root / name).read_bytes()
        assert content.startswith(b"{") or content[8:9] == b"{"  # JSON, or safetensors: a length, then JSON
