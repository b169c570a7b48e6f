"""Stored scores: when one is computed again, because what it rests on has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing_cases import CELL, Spy, of, plan, put, put_members, stocked

from unlearnbench.judge.comparing import Basis, score_plan, score_row
from unlearnbench.measure.metrics import distance
from unlearnbench.plan.cells import Cell, Row
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric, Need
from unlearnbench.plan.suites import Plan
from unlearnbench.store import roster
from unlearnbench.store.folder import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return stocked(tmp_path)


# --- what is out of date ---------------------------------------------------------------------------------------------

KINDS: dict[str, Mapping[Need, int]] = {
    "plain": {}, "gap": {"oracle": 1}, "attack": {"bank": 1}, "made": {"bank": 2, "unlearned": 1},
    "unlearned_alone": {"unlearned": 1},
}  # fmt: skip


def grown(store: Store, kind: roster.Kind, cell: Cell) -> Callable[[Spy], Plan]:
    def change(_: Spy) -> Plan:
        put_members(store, kind, cell, {2: 9})
        return plan(bank=3, unlearned_bank=3)

    return change


def again(store: Store, cell: Cell) -> Callable[[Spy], Plan]:
    def change(_: Spy) -> Plan:
        put(store, cell, 1.0)
        return plan(bank=3, unlearned_bank=3)

    return change


def newer(*names: str) -> Callable[[Spy], Plan]:
    def change(spy: Spy) -> Plan:
        spy.metrics |= {name: replace(spy.metrics[name], version=2) for name in names}
        return plan(bank=3, unlearned_bank=3)

    return change


CHANGES: list[tuple[str, Callable[[Store], Callable[[Spy], Plan]], list[str]]] = [
    ("nothing", lambda store: newer(), []),
    ("a version", lambda store: newer("gap"), ["gap", "gap"]),
    ("another version", lambda store: newer("plain", "made"), ["plain", "made"] * 2),
    ("the oracle's evidence", lambda store: again(store, of("retrain")), [*KINDS, "gap"]),  # all of its own row
    ("the row's evidence", lambda store: again(store, of("ours")), [*KINDS]),
    ("the bank", lambda store: grown(store, "oracles", CELL),
     ["attack", "made", "attack", "made"]),
    ("the method's models", lambda store: grown(store, "unlearned", CELL), ["made", "unlearned_alone"]),
    ("the models of another method", lambda store: grown(store, "unlearned", of("theirs")), []),
]  # fmt: skip


@pytest.mark.parametrize(("change", "redone"), [pytest.param(c, r, id=name) for name, c, r in CHANGES])
def test_a_score_is_redone_where_what_it_rests_on_has_changed(
    store: Store, change: Callable[[Store], Callable[[Spy], Plan]], redone: list[str]
) -> None:
    put_members(store, "oracles", CELL, {0: 1, 1: 2})
    put_members(store, "unlearned", CELL, {0: 3, 1: 4})
    spy = Spy(**KINDS)
    score_plan(plan(bank=3, unlearned_bank=3), store, spy.metrics)
    assert sorted(spy.asked()) == sorted([*KINDS, *KINDS])
    before = {m: store.scores(of(m).key) for m in ("retrain", "ours")}
    later = change(store)(spy)
    score_plan(later, store, spy.metrics)
    assert sorted(spy.asked()) == sorted(redone)
    for method, scores in before.items():
        after = store.scores(of(method).key)
        assert {name: after[name] for name in after if name not in redone} == {
            n: scores[n] for n in scores if n not in redone
        }
    score_plan(later, store, spy.metrics)
    assert not spy.calls


def test_the_null_is_redone_where_methods_are_to_have_other_numbers_of_models(store: Store) -> None:
    """The planted bug: the null of a plan of 4 models a method stays that of the plan before it."""
    put_members(store, "oracles", CELL, {i: i for i in range(8)})
    spy = Spy(made={"bank": 2, "unlearned": 1}, shadowed={"shadows": 1}, attack={"bank": 1})
    oracle = of("retrain")
    for numbers, redone in (
        ({"unlearned_bank": 2, "shadows": 6}, ["attack", "made", "shadowed"]),
        ({"unlearned_bank": 4, "shadows": 6}, ["made"]),
        ({"unlearned_bank": 4, "shadows": 8}, []),  # two of each role, as before
        ({"unlearned_bank": 4, "shadows": 9}, ["shadowed"]),
        ({"unlearned_bank": 7, "shadows": 40}, ["shadowed"]),  # as many as half of the bank
        ({"unlearned_bank": 64, "shadows": 60}, []),
    ):
        score_plan(plan(oracle, bank=8, **numbers), store, spy.metrics)
        assert sorted(spy.asked()) == redone, numbers


def test_an_oracle_that_comes_later_fills_what_waited_for_it(store: Store) -> None:
    spy = Spy(gap={"oracle": 1}, plain={})
    oracle = of("retrain")
    store.put(Row(oracle.key, oracle, "failed", "Traceback"))
    score_plan(plan(), store, spy.metrics)
    assert spy.asked() == ["plain"]
    assert store.scores(CELL.key)["gap"]["reason"] == "no_oracle"
    assert store.scores(oracle.key) == {}
    put(store, oracle)
    score_plan(plan(), store, spy.metrics)
    assert sorted(spy.asked()) == ["gap", "gap", "plain"]


def test_a_ratio_to_the_null_follows_both_of_its_terms(store: Store) -> None:
    rng = np.random.default_rng(0)

    def put_noise(kind: roster.Kind, members: range) -> None:
        for i in members:
            made = {
                name: rng.normal([1, 0], 1, (count, 2)).astype(np.float16)
                for name, count in (("train", 6), ("test", 4))
            }
            store.put_outputs(roster.key(kind, CELL, i), made)

    metrics = {m.name: m for m in (distance.FORGETTING_QUALITY, distance.FORGETTING_RATIO)}
    found = []
    for oracles, made in ((16, 8), (40, 8), (40, 20)):
        put_noise("oracles", range(oracles))
        put_noise("unlearned", range(made))
        score_plan(plan(bank=40, unlearned_bank=20), store, metrics)
        null, own = (store.scores(of(m).key) for m in ("retrain", "ours"))
        ratio, quality = own["forgetting_ratio"]["value"], own["forgetting_quality"]["value"]
        assert ratio == pytest.approx(quality / null["forgetting_quality"]["value"])
        assert null["forgetting_ratio"]["value"] == 1.0
        found.append(ratio)
    assert len(set(found)) == 3


def test_a_row_alone_is_scored_by_what_needs_nothing_else(store: Store) -> None:
    spy = Spy(**KINDS)
    row = store.row(CELL)
    assert row is not None
    score_row(store, row, spy.metrics)
    assert spy.asked() == ["plain"]
    assert list(store.scores(CELL.key)) == ["plain"]
    score_plan(plan(), store, spy.metrics)
    assert sorted(spy.asked()) == ["gap", "gap", "plain"]  # the plain one of the oracle's row alone
    score_row(store, row, spy.metrics)
    assert not spy.calls


def test_stored_scores_are_read_back_as_they_were(store: Store) -> None:
    def value(evidence: Evidence, _: Context) -> float | Empty:
        return Empty("too_few", "3 of 10")

    def reader(evidence: Evidence, _: Context) -> float:
        return float(evidence.scores == {"none": Empty("too_few"), "two": 2.0})

    plain = Metric("none", "", "", "utility", "high", value, "")
    metrics: dict[str, Any] = {"none": plain, "two": replace(plain, name="two", fn=lambda *_: 2.0)}
    row = store.row(CELL)
    assert row is not None
    score_row(store, row, metrics)
    score_row(store, row, {"reads": replace(plain, name="reads", fn=reader)})
    scores = store.scores(CELL.key)
    assert scores["none"]["note"] == "too few samples: 3 of 10"
    assert scores["reads"]["value"] == 1.0
    assert list(scores) == ["none", "two", "reads"]


def test_the_basis_names_only_what_a_metric_needs() -> None:
    metric = Metric("m", "", "", "utility", "high", lambda *_: 0.0, "", needs={"oracle": 1})
    row = Row(CELL.key, CELL, "ok", evidence_sha256="abc")
    assert Basis(row, ("a",), ("b",)).of(metric, {}) == "oracle abc"
    assert Basis().of(metric, {}) == "oracle none"
    assert Basis(row, ("a",)).of(replace(metric, needs={"original": 1}), {}) == ""
    banked = replace(metric, needs={"bank": 1}, of_split=True)
    assert Basis(oracles=("a", "b")).of(banked, {}) != Basis(oracles=("b", "a")).of(banked, {})  # which half it is in
    assert Basis(first=True).of(banked, {}) != Basis(first=False).of(banked, {})
    made = replace(metric, reads=("m", "gone"))
    assert Basis().of(made, {"m": replace(metric, version=3)}) == "oracle none, m version 3"


def test_what_is_made_of_a_score_is_redone_with_it(store: Store) -> None:
    """The planted bug: the mean of two scores keeps what one of them was before its new version."""
    part = Metric("part", "", "", "utility", "high", lambda *_: 1.0, "")
    made = replace(part, name="made", reads=("part",), fn=lambda evidence, _: 2 * evidence.scores["part"])
    row = store.row(CELL)
    assert row is not None
    score_row(store, row, {"part": part, "made": made})
    score_row(store, row, {"part": replace(part, version=2, fn=lambda *_: 5.0), "made": made})
    assert {name: s["value"] for name, s in store.scores(CELL.key).items()} == {"part": 5.0, "made": 10.0}
