"""From stored rows to the table a report reads: a line for each row and metric, and why a value is not there."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from unlearnbench.judge import floor
from unlearnbench.judge.results import CURVE_COLUMNS, VALUE_COLUMNS, Results, gather
from unlearnbench.measure.scoring import Score
from unlearnbench.plan.cells import Cell, Plugin, Recipe, Row, Status
from unlearnbench.plan.spec import Empty, Metric, UnlearnBenchError
from unlearnbench.plan.suites import Entry, Plan
from unlearnbench.store import roster
from unlearnbench.store.folder import Store

CELL = Cell(Plugin("digits"), Plugin("cnn"), Recipe(), Plugin("random"), Plugin("retrain"), 3, 4)
METHODS = {"oracle": "ok", "ours": "ok", "bad": "failed", "other": "n/a", "busy": "started", "later": None}
METRICS = {
    name: Metric(name, name.upper(), "%", "utility", "high", lambda *_: 0.0, "A metric.")
    for name in ("fa", "steps", "new", "split")
}


def cell(method: str) -> Cell:
    return replace(CELL, method=Plugin(method))


def put(store: Store, method: str, status: Status, reason: str) -> None:
    one = cell(method)
    tensors = {name: torch.zeros(2, 2) for name in ("forget", "retain", "test")}
    tensors["curve"] = torch.tensor([[1.0, 2.5], [11.0, -3.0]])
    row = Row(one.key, one, status, reason, environment={"device": "Toy CPU"})
    store.put(row, tensors if status == "ok" else None)
    if status == "ok":
        empty = Empty("no_class")
        scores = {"fa": Score(50.0, "n = 2", low=40.0, high=60.0), "steps": Score(None, str(empty), empty.reason)}
        if method != "oracle":
            scores["split"] = Score(None, "it belongs to the split", "of_split")
        store.put_scores(one.key, scores)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    store = Store(tmp_path)
    labels = {name: np.zeros(2, int) for name in ("forget.labels", "retain.labels", "test.labels")}
    store.put_split(CELL, {**labels, "forget_classes": np.zeros(0, int)})
    entries = []
    for method, status in METHODS.items():
        reason = {"failed": "Traceback\nValueError: <b>secret</b>", "n/a": "supports class only"}.get(status or "", "")
        if status is not None:
            put(store, method, status, reason)  # type: ignore[arg-type]
        role, stands_for = ("oracle", "retrained") if method == "oracle" else ("method", "")
        entries.append(Entry(cell(method), "random-10", method, role, stands_for))
    return gather(store, Plan("suite", "Title", tuple(entries), {"key": 1}), METRICS)


def value(results: Results, method: str, metric: str) -> pd.Series:
    found = results.values[(results.values.method == method) & (results.values.metric == metric)]
    assert len(found) == 1
    return found.iloc[0]


def test_there_is_a_line_for_every_finished_row_and_metric(results: Results) -> None:
    assert list(results.values.columns) == VALUE_COLUMNS
    assert results.values.groupby("method", sort=False).metric.apply(list).to_dict() == {
        "oracle": ["fa", "steps", "new", "split"],
        "ours": ["fa", "steps", "new"],  # what belongs to the split stands in the row of another seed
        "bad": ["fa", "steps", "new", "split"],
        "other": ["fa", "steps", "new", "split"],
    }
    assert [results.values[name].dtype for name in ("value", "low", "high")] == [float] * 3


def test_a_line_says_what_was_run_where(results: Results) -> None:
    line = value(results, "oracle", "fa")
    assert line.to_dict() == {
        "suite": "suite", "dataset": "digits", "model": "cnn", "scenario": "random-10", "method": "oracle",
        "role": "oracle", "stands_for": "retrained", "split_seed": 3, "seed": 4, "quick": False,
        "device": "Toy CPU", "status": "ok",
        "metric": "fa", "value": 50.0, "low": 40.0, "high": 60.0, "note": "n = 2", "key": cell("oracle").key,
    }  # fmt: skip


def test_a_value_that_is_not_there_says_why(results: Results) -> None:
    expected = {
        ("ours", "steps"): "the scenario does not forget whole classes",
        ("ours", "new"): "not scored yet: unlearnbench score",
        ("bad", "fa"): "the method failed",
        ("other", "fa"): "supports class only",
    }
    for (method, metric), note in expected.items():
        line = value(results, method, metric)
        assert math.isnan(line.value)
        assert math.isnan(line.low)
        assert line.note == note


def test_curves_have_a_line_for_every_point(results: Results) -> None:
    assert list(results.curves.columns) == CURVE_COLUMNS
    ours = results.curves[results.curves.method == "ours"]
    assert ours[["updates", "difference"]].to_numpy().tolist() == [[1, 2.5], [11, -3.0]]
    assert set(results.curves.method) == {"oracle", "ours"}


def test_names_metrics_and_settings_go_along(results: Results) -> None:
    assert (results.suite, results.title, results.settings) == ("suite", "Title", {"key": 1})
    assert list(results.metrics) == ["fa", "steps", "new", "split"]


def test_nothing_run_gives_empty_frames_with_their_columns(tmp_path: Path) -> None:
    made = gather(Store(tmp_path), Plan("s", "T", (Entry(CELL, "r", "m", "method"),), {}), METRICS)
    assert (len(made.values), len(made.curves)) == (0, 0)
    assert list(made.values.columns) == VALUE_COLUMNS


def test_damaged_evidence_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "ours", "ok", "")
    (tmp_path / "evidence" / f"{cell('ours').key}.safetensors").write_bytes(b"")
    with pytest.raises(UnlearnBenchError, match=cell("ours").key):
        gather(store, Plan("s", "T", (Entry(cell("ours"), "r", "ours", "method"),), {}), METRICS)


def test_the_headline_is_the_suite_s_without_what_is_not_registered(results: Results) -> None:
    assert results.headline == []
    assert replace(results, settings={"headline": ["new", "absent", "fa"]}).headline == ["new", "fa"]


def test_the_members_of_a_bank_go_along_by_scenario_and_run(results: Results, tmp_path: Path) -> None:
    store, oracle = Store(tmp_path), cell("oracle")
    for i in range(2):
        store.put_outputs(roster.key("oracles", oracle, i), {"train": np.zeros((4, 2)), "test": np.zeros((2, 2))})
    entries = tuple(Entry(oracle, label, "oracle", "oracle", "retrained") for label in ("random-10", "the same"))
    plan = Plan("s", "T", entries, {}, bank=2)
    (run,) = floor.members_by_run(plan, store)
    store.put_bank_scores(run.key, {"basis": "b", "values": {"fa": [1.0, 2.5]}})
    place = {"dataset": "digits", "model": "cnn", "split_seed": 3, "seed": 4, "metric": "fa"}
    assert gather(store, plan, METRICS).retrains.to_dict("records") == [
        {**place, "scenario": label, "value": value} for label in ("random-10", "the same") for value in (1.0, 2.5)
    ]
    assert gather(store, replace(plan, bank=0), METRICS).retrains.empty  # a suite without a bank


def test_retrains_floors_and_controls_are_computed_once(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []

    def judged(*args: object) -> pd.DataFrame:
        calls.append(args)
        return pd.DataFrame()

    monkeypatch.setattr("unlearnbench.judge.results.validate", judged)
    assert results.honest is results.honest
    assert results.floors is results.floors
    assert results.controls is results.controls
    assert len(calls) == 1
    assert calls[0][1] is results.honest
