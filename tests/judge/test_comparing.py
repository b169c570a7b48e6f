"""Stored rows against stored outputs: what each row is compared with, and when a score is computed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unlearnbench.judge.comparing import Basis, Sets, score_plan, score_row
from unlearnbench.measure.metrics import distance
from unlearnbench.plan.cells import Cell, Plugin, Recipe, Row
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric, Need
from unlearnbench.plan.suites import Entry, Plan
from unlearnbench.store import roster
from unlearnbench.store.folder import Store

CELL = Cell(Plugin("digits"), Plugin("cnn"), Recipe(), Plugin("random"), Plugin("ours"), split_seed=7, seed=3)
SPLIT = {"forget": np.array([4, 1]), "retain": np.array([0, 5, 2, 3]), "test": np.array([3, 0])}
LABELS = {f"{name}.labels": np.zeros(len(where), int) for name, where in SPLIT.items()}
TRAIN, TEST = 6, 4


def of(method: str, seed: int = 3) -> Cell:
    return replace(CELL, method=Plugin(method), seed=seed)


def outputs(value: float, dtype: type = np.float16) -> dict[str, np.ndarray]:
    """A model whose logits say who it is and of which sample they are: 10 value + position, and 0."""
    made = {}
    for name, count in (("train", TRAIN), ("test", TEST)):
        z = 10 * value + np.arange(count) + (50 if name == "test" else 0)
        made[name] = np.stack([z, 0 * z], axis=1).astype(dtype)
    return made


def put(store: Store, cell: Cell, value: float = 0.0) -> Row:
    tensors = {name: torch.full((len(where), 2), value) for name, where in SPLIT.items()}
    return store.put(Row(cell.key, cell, "ok"), {**tensors, "curve": torch.zeros(0, 2)})


def put_members(store: Store, kind: roster.Kind, cell: Cell, members: Mapping[int, float]) -> None:
    for i, value in members.items():
        store.put_outputs(roster.key(kind, cell, i), outputs(value))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.put_split(CELL, {**SPLIT, **LABELS, "forget_classes": np.zeros(0, int)})
    for method in ("retrain", "ours"):
        put(store, of(method))
    return store


def plan(*cells: Cell, **banks: int) -> Plan:
    cells = cells or (of("ours"), of("retrain"))  # the oracle last: it is scored first all the same
    entries = [Entry(cell, "random", name, "oracle" if name == "retrain" else "method") for cell in cells
               for name in [cell.method.name]]  # fmt: skip
    return Plan("suite", "Title", tuple(entries), {}, **banks)


class Spy:
    """Metrics that remember who asked for them, and what these were compared with."""

    def __init__(self, **needs: Mapping[Need, int]) -> None:
        self.calls: list[tuple[str, Context]] = []
        self.metrics = {name: self._metric(name, needs) for name, needs in needs.items()}

    def _metric(self, name: str, needs: Mapping[Need, int]) -> Metric:
        def fn(evidence: Evidence, context: Context) -> float:
            self.calls.append((name, context))
            return float(len(self.calls))

        several = bool({"unlearned", "shadows"} & needs.keys())
        return Metric(name, name, "", "utility", "high", fn, "A spy.", needs=needs, of_split=several)

    def asked(self) -> list[str]:
        names = [name for name, _ in self.calls]
        self.calls.clear()
        return names


def identities(models: np.ndarray) -> list[float]:
    """Which models these are, ``[N, n, 2]``, by the first of their samples."""
    return [float(z) // 10 for z in models[:, 0, 0]]


# --- sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_sets_are_picked_by_the_split_of_one_model_and_of_many(dtype: type) -> None:
    one, other = outputs(1, dtype), outputs(2, dtype)
    alone = Sets(one, SPLIT)
    assert alone["forget"][:, 0].tolist() == [14, 11]
    assert alone["retain"][:, 0].tolist() == [10, 15, 12, 13]
    assert alone["test"][:, 0].tolist() == [63, 60]
    assert alone["test"].shape == (2, 2)
    both = Sets({name: np.stack([one[name], other[name]]) for name in one}, SPLIT)
    assert both["forget"][..., 0].tolist() == [[14, 11], [24, 21]]
    assert both["test"][..., 0].tolist() == [[63, 60], [73, 70]]
    assert both["retain"].shape == (2, 4, 2)
    assert both["forget"].dtype == dtype
    assert (list(both), len(both)) == (["forget", "retain", "test"], 3)


# --- what a row is compared with -------------------------------------------------------------------------------------


def test_a_method_is_compared_with_its_oracle_original_banks_and_an_untrained_network(store: Store) -> None:
    put(store, of("retrain"), 5.0)
    put_members(store, "oracles", CELL, {i: i + 1 for i in range(4)})
    put_members(store, "unlearned", CELL, {i: i - 4 for i in range(2)})
    store.put_outputs(CELL.original_key, outputs(8, np.float32))
    store.put_outputs(CELL.untrained_key, outputs(9, np.float32))
    spy = Spy(all={"oracle": 1, "original": 1, "untrained": 1, "bank": 4, "unlearned": 2})
    score_plan(plan(bank=4, unlearned_bank=2), store, spy.metrics)
    (_, null), (_, context) = spy.calls
    assert context.oracle is not None
    assert context.oracle.logits["forget"].tolist() == [[5, 5], [5, 5]]
    assert context.original is not None
    assert context.original["forget"][:, 0].tolist() == [84, 81]
    assert context.untrained is not None
    assert context.untrained["test"][:, 0].tolist() == [143, 140]
    assert context.bank is not None
    assert identities(context.bank["retain"]) == [1, 2, 3, 4]
    assert context.unlearned is not None
    assert identities(context.unlearned["retain"]) == [-4, -3]
    for one in (context, null):
        assert identities(one.reference("retain")) == [1, 2]
    assert null.unlearned is not None
    assert identities(null.unlearned["retain"]) == [3, 4]  # in the oracle's row stands the null


def test_the_oracle_is_compared_with_itself_and_scored_before_the_others(store: Store) -> None:
    def own(evidence: Evidence, _: Context) -> float:
        return float(evidence.logits["forget"][0, 0])

    def above(evidence: Evidence, context: Context) -> float:
        assert context.oracle is not None
        assert (context.oracle is evidence) == (evidence.logits["forget"][0, 0] == 5)
        return evidence.scores["own"] - context.oracle.scores["own"]  # type: ignore[operator]

    put(store, of("retrain"), 5.0)
    put(store, of("ours"), 7.0)
    plain = Metric("own", "", "", "utility", "high", own, "")
    metrics = {"above": replace(plain, name="above", fn=above, needs={"oracle": 1}), "own": plain}
    score_plan(plan(), store, metrics)
    assert {m: store.scores(of(m).key)["above"]["value"] for m in ("retrain", "ours")} == {"retrain": 0.0, "ours": 2.0}


def test_members_that_are_not_there_are_left_out(store: Store) -> None:
    put_members(store, "oracles", CELL, {0: 1, 2: 3, 3: 4, 4: 5, 6: 7})
    put_members(store, "unlearned", CELL, {1: 2})
    spy = Spy(some={"bank": 4, "unlearned": 1}, more={"bank": 5})
    score_plan(plan(of("ours"), bank=6, unlearned_bank=2), store, spy.metrics)
    [(name, context)] = spy.calls
    assert name == "some"
    assert context.bank is not None
    assert context.unlearned is not None
    assert identities(context.bank["retain"]) == [1, 3, 4, 5]
    assert identities(context.unlearned["retain"]) == [2]
    assert identities(context.reference("retain")) == [1, 3]
    found = store.scores(CELL.key)["more"]
    assert found["reason"] == "small_bank"
    assert found["note"].endswith("5 oracles needed, 4 there")


def test_shadows_are_sorted_by_what_a_sample_was_to_them_up_to_the_first_that_is_missing(store: Store) -> None:
    for i in (0, 1, 2, 3, 4, 5, 7, 8, 9):
        store.put_outputs(roster.key("shadows", CELL, i), {"forget": np.array([[i, 0], [10 + i, 0]], np.float16)})
    spy = Spy(shadowed={"shadows": 2}, many={"shadows": 3})
    score_plan(plan(shadows=10), store, spy.metrics)
    [(_, context)] = spy.calls
    roles = np.stack([roster.shadow_roles(2, i) for i in range(6)])
    assert context.shadows is not None
    for side, role in (("unlearned", roster.UNLEARNED), ("out", roster.OUT)):
        for sample in (0, 1):
            runs = np.flatnonzero(roles[:, sample] == role)
            assert len(runs) == 2
            assert sorted(context.shadows[side][:, sample, 0]) == [10 * sample + run for run in runs]
    assert store.scores(CELL.key)["many"]["note"].endswith("3 shadow runs per side needed, 2 there")
    assert store.scores(of("retrain").key)["shadowed"]["reason"] == "small_bank"


def test_the_null_of_the_shadows_is_half_of_the_bank_against_the_other(store: Store) -> None:
    put_members(store, "oracles", CELL, {i: i for i in range(4)})
    spy = Spy(shadowed={"shadows": 2})
    score_plan(plan(of("retrain"), bank=4), store, spy.metrics)
    [(_, context)] = spy.calls
    assert context.shadows is not None
    assert {side: identities(models) for side, models in context.shadows.items()} == {
        "unlearned": [2, 3],
        "out": [0, 1],
    }
    assert context.shadows["out"][:, :, 0].tolist() == [[4, 1], [14, 11]]  # of D_f


def test_without_an_oracle_and_outputs_the_reason_is_said(store: Store) -> None:
    spy = Spy(gap={"oracle": 1}, aus={"original": 1}, zrf={"untrained": 1}, attack={"bank": 1}, many={"unlearned": 1})
    score_plan(plan(of("ours")), store, spy.metrics)
    assert not spy.calls
    assert {name: d["reason"] for name, d in store.scores(CELL.key).items()} == {
        "gap": "no_oracle", "aus": "not_measured", "zrf": "not_measured", "attack": "small_bank", "many": "small_bank",
    }  # fmt: skip


# --- the seed that speaks for a split --------------------------------------------------------------------------------


def test_the_first_seed_speaks_for_its_split(store: Store) -> None:
    cells = [of("ours", 5), of("retrain", 5), of("ours"), of("retrain"), of("theirs", 5)]
    for cell in cells:
        put(store, cell)
    put_members(store, "oracles", CELL, {0: 1, 1: 2})
    for method in ("ours", "theirs"):
        put_members(store, "unlearned", of(method), {0: 3})
    assert roster.key("unlearned", of("ours"), 0) == roster.key("unlearned", of("ours", 5), 0)  # all seeds share a bank
    spy = Spy(made={"bank": 2, "unlearned": 1}, attack={"bank": 2})
    score_plan(plan(*cells, bank=2, unlearned_bank=1), store, spy.metrics)
    assert sorted(spy.asked()) == ["attack"] * 5 + ["made"] * 3
    reasons = {(cell.method.name, cell.seed): store.scores(cell.key)["made"]["reason"] for cell in cells}
    assert reasons == {
        ("ours", 3): "", ("retrain", 3): "", ("ours", 5): "of_split", ("retrain", 5): "of_split",
        ("theirs", 5): "",  # the first that it has a row of
    }  # fmt: skip


def test_an_earlier_seed_takes_over_and_another_split_has_its_own(store: Store) -> None:
    early, elsewhere = of("ours", 1), replace(CELL, split_seed=8)
    store.put_split(elsewhere, {**SPLIT, **LABELS, "forget_classes": np.zeros(0, int)})
    for cell in (CELL, early, elsewhere):
        put(store, cell)
        put_members(store, "unlearned", cell, {0: 3})
    spy = Spy(made={"unlearned": 1})
    score_plan(plan(CELL, elsewhere, unlearned_bank=1), store, spy.metrics)
    assert spy.asked() == ["made", "made"]
    score_plan(plan(CELL, early, elsewhere, unlearned_bank=1), store, spy.metrics)
    assert spy.asked() == ["made"]
    assert [store.scores(c.key)["made"]["reason"] for c in (early, CELL, elsewhere)] == ["", "of_split", ""]


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
     ["attack", "made", "unlearned_alone", "attack", "made"]),  # the oracle's row has its null from it
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
    for size in (16, 24, 40):
        put_noise("oracles", range(16 if size < 40 else 40))
        put_noise("unlearned", range(size // 2))
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
