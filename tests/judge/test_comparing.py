"""Stored rows against stored outputs: what each row is compared with. When it is scored again: test_comparing_again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from comparing_cases import CELL, LABELS, SPLIT, Spy, identities, of, outputs, plan, put, put_members, stocked

from unlearnbench.judge.comparing import Sets, score_plan
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Metric
from unlearnbench.store import roster
from unlearnbench.store.folder import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return stocked(tmp_path)


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
    assert [identities(side) for side in context.sides("retain")] == [[-4, -3], [1, 2]]
    assert [identities(side) for side in null.sides("retain")] == [[3, 4], [1, 2]]  # in the oracle's row: the null


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
    assert identities(context.sides("retain")[1]) == [1, 3]
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


@pytest.mark.parametrize(
    ("bank", "unlearned", "shadows", "made", "per_side"),
    [(8, 4, 12, 4, 4), (8, 2, 6, 2, 2), (8, 7, 40, 4, 4), (7, 3, 9, 3, 3), (8, 1, 5, 1, 1)],
)
def test_the_null_is_as_large_as_what_the_methods_have(
    store: Store, bank: int, unlearned: int, shadows: int, made: int, per_side: int
) -> None:
    """As far as the halves of the bank reach: of a method no more models are looked at, either."""
    put_members(store, "oracles", CELL, {i: i for i in range(bank)})
    put_members(store, "unlearned", CELL, {i: i - 10 for i in range(unlearned)})
    spy = Spy(made={"bank": 2, "unlearned": 1}, shadowed={"shadows": 1})
    score_plan(plan(bank=bank, unlearned_bank=unlearned, shadows=shadows), store, spy.metrics)
    (_, null), _, (_, method) = spy.calls
    half = bank // 2
    for context, first in ((null, half), (method, -10)):
        models, reference = context.sides("retain")
        assert identities(models) == [first + i for i in range(made)]
        assert identities(reference) == list(range(half))
        assert len(context.sides("test")[0]) == made
    assert null.shadows is not None
    assert {side: identities(models) for side, models in null.shadows.items()} == {
        "unlearned": [half + i for i in range(per_side)],
        "out": list(range(per_side)),
    }
    assert null.shadows["out"][0, :, 0].tolist() == [4, 1]  # of D_f


def test_where_no_method_makes_models_there_is_no_null(store: Store) -> None:
    put_members(store, "oracles", CELL, {i: i for i in range(4)})
    spy = Spy(made={"bank": 2, "unlearned": 1}, shadowed={"shadows": 1})
    score_plan(plan(of("retrain"), bank=4), store, spy.metrics)
    assert not spy.calls
    assert {d["reason"] for d in store.scores(of("retrain").key).values()} == {"small_bank"}


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
