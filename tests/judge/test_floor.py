"""The noise floor: literal distances of honest retrains, and when the members of a bank are scored again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from unlearnbench.judge.comparing import score_row
from unlearnbench.judge.floor import (
    ALONE,
    COLUMNS,
    FLOORS,
    PER_RUN,
    by_run,
    floors,
    honest,
    members_by_run,
    retrains,
    score_banks,
)
from unlearnbench.judge.inference import beyond
from unlearnbench.judge.stats import summarise
from unlearnbench.plan.cells import Cell, Plugin, Recipe, Row
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric
from unlearnbench.plan.suites import Entry, Plan
from unlearnbench.store import roster
from unlearnbench.store.folder import Store


def metric(name: str, **changes: Any) -> Metric:
    given: dict[str, Any] = {"family": "utility", "better": "oracle", "fn": lambda *_: 0.0, **changes}
    return Metric(name, name.upper(), "%", doc="", **given)


METRICS = {
    "fa": metric("fa"),
    "gap": metric("gap", family="oracle-distance", better="low", needs={"oracle": 1}),
    "tow": metric("tow", family="oracle-distance", better="high", needs={"oracle": 1}),
    "ain": metric("ain", family="relearning", needs={"oracle": 1}),
    "share": metric("share", family="cost", better="low", needs={"oracle": 1}),
    "seconds": metric("seconds", family="cost", better="low"),
    "klom": metric("klom", family="oracle-distance", better="low", of_split=True),
    "ulira": metric("ulira", family="leakage", of_split=True),
}


def line(
    role: str, run: int, value: float, *, name: str = "fa", note: str | None = "", split: int | None = None
) -> dict:
    """Of the run with that seed; its split has the same number unless ``split`` says otherwise."""
    stands_for = {"oracle": "retrained", "other": "retrained", "identity": "original", "camu": ""}[role]
    return {
        "dataset": "digits", "model": "cnn", "scenario": "random", "split_seed": run if split is None else split,
        "seed": run, "metric": name, "value": value, "note": note, "low": np.nan, "high": np.nan,
        "stands_for": stands_for, "role": "oracle" if role == "oracle" else "control", "method": role,
    }  # fmt: skip


def members(name: str, run: int, *values: float, split: int | None = None) -> pd.DataFrame:
    place = ["digits", "cnn", "random", run if split is None else split, run]
    return pd.DataFrame([[*place, name, value] for value in values], columns=COLUMNS)


NO_BANK = members("fa", 0)


def found(lines: list[dict], banks: pd.DataFrame = NO_BANK) -> dict[str, Any]:
    table = floors(honest(pd.DataFrame(lines), banks, METRICS), METRICS)
    assert list(table.columns) == FLOORS
    return {str(row.metric): (row.floor, row.runs, row.models) for row in table.itertuples()}


def test_it_is_the_mean_distance_to_the_oracle_of_the_same_run() -> None:
    lines = [line("oracle", 0, 10.0), line("other", 0, 13.0), line("oracle", 1, 50.0), line("other", 1, 49.0)]
    assert found(lines) == {"fa": (2.0, 2, 4)}  # |13 - 10| and |49 - 50|, of four models


def test_every_run_counts_the_same_however_many_models_it_has() -> None:
    lines = [line("oracle", 0, 10.0), line("oracle", 1, 50.0)]
    banks = pd.concat([members("fa", 0, 11.0, 12.0, 9.0, 8.0), members("fa", 1, 54.0)])
    assert found(lines, banks) == {"fa": ((1.5 + 4) / 2, 2, 7)}


def test_its_interval_is_the_t_interval_over_runs_and_none_of_a_single_run() -> None:
    lines = [line("oracle", run, 10.0) for run in range(3)]
    banks = pd.concat([members("fa", run, *values) for run, values in enumerate([(11, 13), (14, 14), (9, 15)])])
    row = floors(honest(pd.DataFrame(lines), banks, METRICS), METRICS).iloc[0]
    expected = summarise([2.0, 4.0, 3.0])
    assert (row["floor"], row["low"], row["high"]) == pytest.approx((3.0, expected.low, expected.high))
    single = floors(honest(pd.DataFrame(lines[:1]), banks, METRICS), METRICS).iloc[0]
    assert single["floor"] == 2.0
    assert np.isnan(single["low"])
    assert np.isnan(single["high"])


def test_no_distance_is_below_0() -> None:
    lines = [line("oracle", run, 10.0) for run in range(3)]
    banks = pd.concat([members("fa", run, value) for run, value in enumerate([10, 10, 13])])
    row = floors(honest(pd.DataFrame(lines), banks, METRICS), METRICS).iloc[0]
    assert row["low"] == 0  # 1 ± 4.3
    assert row["high"] == pytest.approx(1 + 4.302653, abs=1e-5)


def test_runs_that_share_splits_and_seeds_have_no_interval() -> None:
    lines = [line("oracle", seed, 10.0, split=split) for split in (0, 1) for seed in (0, 1)]
    banks = pd.concat([members("fa", seed, 11.0 + seed, split=split) for split in (0, 1) for seed in (0, 1)])
    row = floors(honest(pd.DataFrame(lines), banks, METRICS), METRICS).iloc[0]
    assert row["floor"] == 1.5
    assert np.isnan(row["low"])


def test_only_honest_retrains_count() -> None:
    lines = [line("oracle", 0, 10.0), line("identity", 0, 90.0), line("camu", 0, 20.0), line("other", 0, 11.0)]
    assert found(lines) == {"fa": (1.0, 1, 2)}


@pytest.mark.parametrize("note", [">100", ">3.14 s"])
def test_a_censored_value_does_not_count(note: str) -> None:
    lines = [
        line("oracle", 0, 10.0),
        line("other", 0, 11.0),
        line("oracle", 1, 10.0),
        line("other", 1, 99.0, note=note),
    ]
    assert found(lines) == {"fa": (1.0, 1, 2)}


def test_an_empty_value_does_not_count_and_a_missing_note_is_none() -> None:
    lines = [line("oracle", 0, 10.0, note=None), line("other", 0, 11.5, note=None), line("oracle", 1, 10.0)]
    assert found([*lines, line("other", 1, np.nan)]) == {"fa": (1.5, 1, 2)}


def test_a_single_retrain_has_no_floor() -> None:
    assert found([line("oracle", 0, 10.0), line("identity", 0, 90.0), line("oracle", 1, 11.0)]) == {}


def test_nothing_run_has_no_floor() -> None:
    assert floors(honest(pd.DataFrame([line("oracle", 0, 1.0)]).iloc[:0], NO_BANK, METRICS), METRICS).empty


def test_of_a_distance_it_is_the_mean_distance() -> None:
    lines = [line("oracle", 0, 0.0, name="gap"), line("other", 0, 7.0, name="gap")]
    assert found(lines, members("gap", 0, 1.0, 2.0, 4.0)) == {"gap": (3.5, 1, 5)}


def test_of_a_likeness_it_is_the_mean_likeness() -> None:
    lines = [line("oracle", run, 1.0, name="tow") for run in (0, 1)]
    banks = pd.concat([members("tow", 0, 0.7, 0.9), members("tow", 1, 0.6)])
    row = floors(honest(pd.DataFrame(lines), banks, METRICS), METRICS).iloc[0]
    assert row["floor"] == pytest.approx(0.7)
    assert row["low"] < 0.7 < row["high"]


def test_controls_are_judged_by_the_banks_alone() -> None:
    """The planted bug: a control that lies far off would vouch for itself."""
    lines = [line("oracle", 0, 10.0), line("other", 0, 90.0)]
    retrained = honest(pd.DataFrame(lines), members("fa", 0, 11.0, 12.0), METRICS)
    place = ("digits", "random", "fa")
    assert by_run(retrained, controls=True) == {place: {(0, 0): [80.0, 1.0, 2.0]}}
    assert by_run(retrained, controls=False) == {place: {(0, 0): [1.0, 2.0]}}


@pytest.mark.parametrize("name", ["ain", "share", "seconds", "klom", "ulira"])
def test_what_is_neither_gap_nor_distance_has_no_floor(name: str) -> None:
    """A share of the oracle's cost or relearning steps is no distance; what compares banks has a null of its own."""
    lines = [line("oracle", 0, 1.0, name=name), line("other", 0, 0.8, name=name)]
    assert found(lines, members(name, 0, 1.0, 2.0)) == {}


def test_scenarios_and_datasets_are_apart() -> None:
    lines = [line("oracle", 0, 10.0), line("other", 0, 11.0)]
    lines += [{**entry, "scenario": "class", "value": 2 * entry["value"]} for entry in lines]
    table = floors(honest(pd.DataFrame(lines), members("fa", 0, 13.0), METRICS), METRICS).set_index("scenario")
    assert table.loc["class", "floor"] == 2.0
    assert table.loc["random", ["floor", "models"]].to_list() == [2.0, 3]


# --- the bank's scores -----------------------------------------------------------------------------------------------

CELLS = [
    Cell(Plugin("digits"), Plugin("cnn"), Recipe(), Plugin("random"), Plugin("retrain"), 3, seed) for seed in (4, 5)
]
SIGN = np.array([[-1.0, 1.0]], np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A split of 4 training samples, the first two forgotten, and 2 test samples; all of class 0, of 2 classes; of it
    the oracle's rows of two seeds, right on everything, and on nothing."""
    store = Store(tmp_path)
    labels = {"forget.labels": np.zeros(2, int), "retain.labels": np.zeros(2, int), "test.labels": np.zeros(2, int)}
    positions = {"forget": np.array([0, 1]), "retain": np.array([2, 3]), "test": np.array([0, 1])}
    store.put_split(CELLS[0], {**labels, **positions, "forget_classes": np.zeros(0, int)})
    for cell, sign in zip(CELLS, (-1, 1), strict=True):
        logits = torch.from_numpy(sign * SIGN.repeat(2, 0))
        tensors = dict.fromkeys(("forget", "retain", "test"), logits)
        row = store.put(
            Row(cell.key, cell, "ok"), {n: x.clone() for n, x in tensors.items()} | {"curve": torch.zeros(0, 2)}
        )
        score_row(store, row, {"fa": OF_OUTPUTS["fa"]})
    return store


def train(store: Store, i: int, right: int) -> None:
    """A member of the bank that is right on the first ``right`` training samples."""
    logits = SIGN.repeat(4, 0).astype(np.float16)
    logits[:right] *= -1
    store.put_outputs(roster.key("oracles", CELLS[0], i), {"train": logits, "test": logits[:2]})


def accuracy(evidence: Evidence, _: Context) -> float | Empty:
    return 100 * float((evidence.logits["forget"].argmax(1) == evidence.labels["forget"]).mean())


def gap(evidence: Evidence, context: Context) -> float | Empty:
    own, its = evidence.scores["fa"], context.oracle.scores["fa"]  # type: ignore[union-attr]
    return abs(own - its) if isinstance(own, float) and isinstance(its, float) else Empty("no_oracle")


OF_OUTPUTS = {
    "fa": replace(METRICS["fa"], fn=accuracy),
    "gap": replace(METRICS["gap"], fn=gap),
    "steps": metric("steps", fn=lambda *_: Empty("not_measured")),
    "klom": METRICS["klom"],
    "aus": metric("aus", needs={"original": 1}),
    "rmia": metric("rmia", family="leakage", needs={"bank": 1}),
}


def plan(count: int, *cells: Cell) -> Plan:
    entries = tuple(Entry(cell, "random", "retrain", "oracle", "retrained") for cell in cells or CELLS)
    return Plan("s", "T", entries, {}, bank=count)


def values(store: Store, given: Plan) -> dict[str, list[tuple[int, float]]]:
    table = retrains(given, store)
    return {str(name): list(zip(rows["seed"], rows["value"], strict=True)) for name, rows in table.groupby("metric")}


def test_members_are_dealt_to_the_runs_of_their_split_and_held_against_that_oracle(store: Store) -> None:
    for i, right in enumerate([2, 1, 0]):
        train(store, i, right)
    score_banks(plan(3), store, OF_OUTPUTS)
    assert [run.members for run in members_by_run(plan(3), store)] == [
        (roster.key("oracles", CELLS[0], 0), roster.key("oracles", CELLS[0], 2)),
        (roster.key("oracles", CELLS[0], 1),),
    ]
    assert values(store, plan(3)) == {
        "fa": [(4, 100.0), (4, 0.0), (5, 50.0)],  # their own accuracy
        "gap": [(4, 0.0), (4, 100.0), (5, 50.0)],  # to an oracle with 100, and to one with 0
    }
    assert set(retrains(plan(3), store)["split_seed"]) == {3}


def test_no_member_stands_in_two_runs() -> None:
    """Else runs would not be independent, and few models would look like many."""
    keys = [
        roster.member("oracles", replace(CELLS[0], split_seed=split), i).seed for split in (0, 1, 2) for i in range(9)
    ]
    assert len(set(keys)) == 27


def test_they_are_scored_again_when_members_oracles_or_versions_change_and_not_else(store: Store) -> None:
    train(store, 0, 0)
    one = plan(1, CELLS[0])
    score_banks(one, store, OF_OUTPUTS)
    key = members_by_run(one, store)[0].key
    store.put_bank_scores(key, {**store.scores(key), "values": {"fa": [7.0]}})
    score_banks(one, store, OF_OUTPUTS)
    assert values(store, one) == {"fa": [(4, 7.0)]}  # left alone
    score_banks(one, store, {**OF_OUTPUTS, "klom": replace(OF_OUTPUTS["klom"], version=2)})
    assert values(store, one) == {"fa": [(4, 7.0)]}  # not one of those that outputs bear
    newer = {**OF_OUTPUTS, "fa": replace(OF_OUTPUTS["fa"], version=2)}
    score_banks(one, store, newer)
    assert values(store, one)["fa"] == [(4, 0.0)]
    train(store, 1, 2)
    score_banks(plan(2, CELLS[0]), store, newer)
    assert values(store, plan(2, CELLS[0]))["fa"] == [(4, 0.0), (4, 100.0)]


def test_without_an_oracle_or_a_bank_nothing_is_dealt(store: Store) -> None:
    train(store, 0, 0)
    assert members_by_run(plan(0), store) == []
    assert members_by_run(plan(1, replace(CELLS[0], seed=9)), store) == []
    assert retrains(plan(0), store).empty


def test_of_a_large_bank_so_many_of_the_first_are_dealt_to_each_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many that a single run can be tested: 20 exchanges are too few."""
    for i in range(ALONE + 5):
        train(store, i, 2)
    (alone,) = members_by_run(plan(ALONE + 5, CELLS[0]), store)
    assert len(alone.members) == ALONE
    assert beyond([9.0], [[1.0] * ALONE]) < 0.05
    dealt = [run.members for run in members_by_run(plan(ALONE + 5), store)]
    assert [len(members) for members in dealt] == [ALONE // 2] * 2
    many = [replace(CELLS[0], seed=seed) for seed in range(10)]
    monkeypatch.setattr(Store, "row", lambda self, cell: Row(cell.key, cell, "ok"))
    monkeypatch.setattr(roster, "stored", lambda kind, cell, count, store: tuple(map(str, range(count))))
    dealt = [run.members for run in members_by_run(plan(128, *many), store)]
    assert [len(members) for members in dealt] == [PER_RUN] * 10
    assert len({key for members in dealt for key in members}) == 10 * PER_RUN
