"""The store: what is written is whole, what is damaged is refused by name, and no name leads out of the folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearnbench.spec import Cell, Plugin, Recipe, Row, UnlearnBenchError
from unlearnbench.store import Store

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
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


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


@pytest.mark.parametrize("kind", ["rows", "evidence", "splits", "plans"])
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
    for kind in ("rows", "plans", "evidence", "artifacts", "splits", "scores"):
        (filled.root / kind).mkdir(exist_ok=True)
        (filled.root / kind / f".{CELL.key}.json.0123.tmp").write_text("{")
    assert filled.plans() == []
    assert filled.done(CELL)
    assert filled.scores(CELL.key) == {}


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


def test_a_damaged_artifact_is_refused_by_name(store: Store) -> None:
    store.artifact("abc", lambda: ({"w": torch.ones(3)}, {"seconds": 1.0}))
    weights = path(store, "artifacts")
    content = weights.read_bytes()
    for bad in (b"", content[:20], content[:-1], b"\x80\x04N."):  # the last is a pickle
        weights.write_bytes(bad)
        with pytest.raises(UnlearnBenchError, match=r"abc\.safetensors is damaged.*delete it and run again"):
            store.artifact("abc", lambda: pytest.fail("must not be made again"))


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


# --- weights ---------------------------------------------------------------------------------------------------------


def test_an_artifact_is_made_once_and_comes_back_with_its_cost(store: Store) -> None:
    state = {"w": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last), "n": torch.tensor(3)}
    assert not store.has_artifact("abc")
    first, cost = store.artifact("abc", lambda: (state, {"seconds": 2.0, "peak_memory": None}))
    again, same = store.artifact("abc", lambda: pytest.fail("made twice"))
    for made in (first, again):
        assert torch.equal(made["w"], state["w"])
        assert torch.equal(made["n"], state["n"])
    assert cost == same == {"seconds": 2.0, "peak_memory": None}
    assert store.has_artifact("abc")


def test_an_artifact_that_could_not_be_made_is_tried_again(store: Store) -> None:
    with pytest.raises(RuntimeError, match="diverged"):
        store.artifact("abc", lambda: (_ for _ in ()).throw(RuntimeError("diverged")))
    assert not store.has_artifact("abc")
    assert store.artifact("abc", lambda: ({"w": torch.ones(1)}, {}))[0]["w"].item() == 1


def make_slowly(root: Path, log: Path) -> None:
    def make() -> tuple[dict[str, torch.Tensor], dict[str, float | None]]:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return {"w": torch.full((2,), 7.0)}, {}

    state, _ = Store(root).artifact("abc", make)
    if state["w"].tolist() != [7, 7]:
        raise SystemExit(3)


def test_processes_that_need_an_artifact_at_once_make_it_once(store: Store, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    workers = [context.Process(target=make_slowly, args=(store.root, log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def hold(root: Path, held: Any) -> None:
    with Store(root).lock("abc"):
        held.set()
        time.sleep(60)


def test_a_killed_process_gives_its_lock_back(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    held, free = context.Event(), threading.Event()
    worker = context.Process(target=hold, args=(store.root, held))
    worker.start()

    def wait() -> None:
        with store.lock("abc"):
            free.set()

    assert held.wait(30)
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert not free.wait(0.3)
    worker.kill()
    assert free.wait(30)
    worker.join()


def test_nothing_on_disk_is_a_pickle(filled: Store) -> None:
    filled.artifact("abc", lambda: ({"w": torch.ones(3)}, {}))
    filled.put_plan("digits", {})
    stored = [name for name in files(filled) if not name.endswith(".lock")]
    assert len(stored) == 5
    for name in stored:
        content = (filled.root / name).read_bytes()
        assert content.startswith(b"{") or content[8:9] == b"{"  # JSON, or safetensors: a length, then JSON
