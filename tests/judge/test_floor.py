"""The noise floor: literal pairs of honest retrains, and when the members of a bank are scored again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unlearnbench.judge.floor import COLUMNS, MEMBERS, floors, retrains, score_banks
from unlearnbench.plan.cells import Cell, Plugin, Recipe
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


def line(role: str, split: int, value: float, *, seed: int = 0, name: str = "fa", note: str | None = "") -> dict:
    stands_for = {"oracle": "retrained", "other": "retrained", "identity": "original", "camu": ""}[role]
    return {
        "dataset": "digits", "scenario": "random", "split_seed": split, "seed": seed, "metric": name, "value": value,
        "note": note, "stands_for": stands_for, "role": "oracle" if role == "oracle" else "control", "method": role,
    }  # fmt: skip


def members(name: str, split: int, *values: float) -> pd.DataFrame:
    lines = [["digits", "random", split, name, value] for value in values]
    return pd.DataFrame(lines, columns=COLUMNS)


NO_BANK = members("fa", 0)


def found(lines: list[dict], banks: pd.DataFrame = NO_BANK) -> dict[str, Any]:
    table = floors(pd.DataFrame(lines), banks, METRICS)
    assert list(table.columns) == ["dataset", "scenario", "metric", "floor", "pairs", "apart"]
    return {str(row.metric): (row.floor, row.pairs) for row in table.itertuples()}


def test_of_a_metric_with_a_gap_pairs_lie_within_a_split() -> None:
    lines = [line("oracle", 0, 10.0), line("other", 0, 13.0), line("oracle", 1, 50.0), line("other", 1, 51.0)]
    # |10 - 13| and |50 - 51|: the 95th percentile of 1 and 3 is 2.9
    assert found(lines) == {"fa": (pytest.approx(2.9), 2)}
    values = np.array([entry["value"] for entry in lines])  # the planted bug: pairs of models of different splits
    assert np.quantile(np.abs(values[:, None] - values)[np.triu_indices(4, 1)], 0.95) > 40


def test_seeds_of_one_split_are_pairs() -> None:
    lines = [line("oracle", 0, value, seed=seed) for seed, value in enumerate([1.0, 2.0, 4.0])]
    assert found(lines) == {"fa": (pytest.approx(2.9), 3)}  # of 1, 2 and 3


def test_the_bank_s_members_join_the_pairs_of_their_split() -> None:
    lines = [line("oracle", 0, 10.0), line("oracle", 1, 50.0)]
    banks = pd.concat([members("fa", 0, 11.0, 12.0), members("fa", 1, 50.0)])
    # split 0: 1, 2, 1; split 1: 0
    assert found(lines, banks) == {"fa": (pytest.approx(np.quantile([0, 1, 1, 2], 0.95)), 4)}


def test_only_honest_retrains_count() -> None:
    lines = [line("oracle", 0, 10.0), line("identity", 0, 90.0), line("camu", 0, 20.0), line("other", 0, 11.0)]
    assert found(lines) == {"fa": (1.0, 1)}


@pytest.mark.parametrize("note", [">100", ">3.14 s"])
def test_a_censored_value_does_not_count(note: str) -> None:
    lines = [line("oracle", 0, 10.0), line("other", 0, 11.0), line("other", 0, 100.0, seed=1, note=note)]
    assert found(lines) == {"fa": (1.0, 1)}


def test_an_empty_value_does_not_count_and_a_missing_note_is_none() -> None:
    lines = [line("oracle", 0, 10.0, note=None), line("other", 0, 11.5, note=None), line("other", 0, np.nan, seed=1)]
    assert found(lines) == {"fa": (1.5, 1)}


def test_a_single_retrain_has_no_floor() -> None:
    assert found([line("oracle", 0, 10.0), line("identity", 0, 90.0), line("oracle", 1, 11.0)]) == {}


def test_nothing_run_has_no_floor() -> None:
    assert floors(pd.DataFrame([line("oracle", 0, 1.0)]).iloc[:0], NO_BANK, METRICS).empty


def test_of_a_distance_it_is_what_95_percent_of_the_bank_s_pairs_keep_to() -> None:
    lines = [line("oracle", 0, 0.0, name="gap"), line("other", 0, 7.0, name="gap")]
    assert found(lines, members("gap", 0, 1.0, 2.0, 3.0)) == {"gap": (pytest.approx(2.9), 3)}
    both = pd.concat([members("gap", 0, 1.0, 2.0), members("gap", 1, 3.0)])  # distances of several splits are alike
    assert found(lines, both) == {"gap": (pytest.approx(2.9), 3)}


def test_where_high_is_near_the_floor_is_the_5th_percentile() -> None:
    lines = [line("oracle", 0, 1.0, name="tow"), line("other", 0, 0.5, name="tow")]
    assert found(lines, members("tow", 0, 0.7, 0.8, 0.9)) == {"tow": (pytest.approx(0.71), 3)}


def test_without_a_bank_a_distance_has_the_honest_retrains_alone() -> None:
    lines = [line("oracle", split, 0.0, name="gap") for split in (0, 1)]  # to itself: no distance of two models
    lines += [line("other", 0, 2.0, name="gap"), line("other", 1, 4.0, name="gap")]
    assert found(lines) == {"gap": (pytest.approx(3.9), 2)}
    assert found(lines[:2]) == {}


def test_controls_are_judged_by_a_floor_without_them() -> None:
    """The planted bug: a control that lies far off would lift the floor to where it lies."""
    lines = [line("oracle", 0, 10.0), line("other", 0, 90.0), line("oracle", 0, 0.0, name="gap")]
    lines.append(line("other", 0, 80.0, name="gap"))
    banks = pd.concat([members("fa", 0, 11.0, 12.0), members("gap", 0, 1.0, 2.0)])
    table = floors(pd.DataFrame(lines), banks, METRICS).set_index("metric")
    assert table.loc["fa", "floor"] > 70
    assert table.loc["fa", "apart"] == pytest.approx(1.9)  # 10, 11 and 12: the 95th percentile of 1, 1 and 2
    assert table.loc["gap", "apart"] == pytest.approx(1.95)
    alone = floors(pd.DataFrame(lines), NO_BANK, METRICS).set_index("metric")
    assert alone["floor"].tolist() == [80.0, 80.0]
    assert alone["apart"].isna().all()


@pytest.mark.parametrize("name", ["ain", "share", "seconds", "klom", "ulira"])
def test_what_is_neither_gap_nor_distance_has_no_floor(name: str) -> None:
    """A share of the oracle's cost or relearning steps is no distance; what compares banks has a null of its own."""
    lines = [line("oracle", 0, 1.0, name=name), line("other", 0, 0.8, name=name)]
    assert found(lines, members(name, 0, 1.0, 2.0)) == {}


def test_scenarios_and_datasets_are_apart() -> None:
    lines = [line("oracle", 0, 10.0), line("other", 0, 11.0)]
    lines += [{**entry, "scenario": "class", "value": 2 * entry["value"]} for entry in lines]
    table = floors(pd.DataFrame(lines), members("fa", 0, 13.0), METRICS).set_index("scenario")
    assert table.loc["class", "floor"] == 2.0
    assert table.loc["random", "pairs"] == 3


# --- the bank's scores -----------------------------------------------------------------------------------------------

CELL = Cell(Plugin("digits"), Plugin("cnn"), Recipe(), Plugin("random"), Plugin("retrain"), 3, 4)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A split of 4 training samples, the first two forgotten, and 2 test samples; all of class 0, of 2 classes."""
    store = Store(tmp_path)
    labels = {"forget.labels": np.zeros(2, int), "retain.labels": np.zeros(2, int), "test.labels": np.zeros(2, int)}
    positions = {"forget": np.array([0, 1]), "retain": np.array([2, 3]), "test": np.array([0, 1])}
    store.put_split(CELL, {**labels, **positions, "forget_classes": np.zeros(0, int)})
    return store


def train(store: Store, i: int, right: int) -> None:
    """A member of the bank that is right on the first ``right`` training samples."""
    logits = np.tile(np.array([-1, 1], np.float16), (4, 1))
    logits[:right] *= -1
    store.put_outputs(roster.key("oracles", CELL, i), {"train": logits, "test": logits[:2]})


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


def plan(count: int) -> Plan:
    return Plan("s", "T", (Entry(CELL, "random", "retrain", "oracle", "retrained"),), {}, bank=count)


def test_members_are_scored_alone_and_each_against_another(store: Store) -> None:
    for i, right in enumerate([2, 1, 0]):
        train(store, i, right)
    score_banks(plan(3), store, OF_OUTPUTS)
    stored = store.scores(CELL.bank_key)["values"]
    assert stored == {"fa": [100.0, 50.0, 0.0], "gap": [100.0, 50.0, 50.0], "steps": []}  # the first against the last
    table = retrains(plan(3), store)
    assert table[table["metric"] == "fa"]["value"].to_list() == [100.0, 50.0, 0.0]
    assert set(table["split_seed"]) == {3}


def test_they_are_scored_again_when_members_or_versions_change_and_not_else(store: Store) -> None:
    for i in range(2):
        train(store, i, i)
    score_banks(plan(2), store, OF_OUTPUTS)
    once = store.scores(CELL.bank_key)
    store.put_bank_scores(CELL.bank_key, {**once, "values": {"fa": [7.0]}})
    score_banks(plan(2), store, OF_OUTPUTS)
    assert store.scores(CELL.bank_key)["values"] == {"fa": [7.0]}  # left alone
    score_banks(plan(2), store, {**OF_OUTPUTS, "klom": replace(OF_OUTPUTS["klom"], version=2)})
    assert store.scores(CELL.bank_key)["values"] == {"fa": [7.0]}  # not one of those that outputs bear
    newer = {**OF_OUTPUTS, "fa": replace(OF_OUTPUTS["fa"], version=2)}
    score_banks(plan(2), store, newer)
    assert store.scores(CELL.bank_key)["values"]["fa"] == [0.0, 50.0]
    train(store, 2, 2)
    score_banks(plan(3), store, newer)
    assert store.scores(CELL.bank_key)["values"]["fa"] == [0.0, 50.0, 100.0]


def test_one_model_is_no_bank(store: Store) -> None:
    train(store, 0, 0)
    score_banks(plan(3), store, OF_OUTPUTS)
    assert store.scores(CELL.bank_key) == {}
    assert retrains(plan(3), store).empty


def test_a_suite_without_a_bank_scores_none(store: Store) -> None:
    for i in range(2):
        train(store, i, i)
    score_banks(plan(0), store, OF_OUTPUTS)
    assert store.scores(CELL.bank_key) == {}


def test_of_a_large_bank_the_first_members_do(store: Store) -> None:
    for i in range(MEMBERS + 2):
        train(store, i, 2 * (i >= MEMBERS))
    score_banks(plan(MEMBERS + 2), store, OF_OUTPUTS)
    assert store.scores(CELL.bank_key)["values"]["fa"] == [0.0] * MEMBERS
