"""Tuning: equal trials, requests that no report shows, and a suite that says what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from run_cases import Log
from torch import nn
from tuning_cases import Damage, trials_of

from unlearnbench import api
from unlearnbench.plan.spec import Uniform
from unlearnbench.plan.suites import Plan, make_plan
from unlearnbench.runs import tuning
from unlearnbench.runs.engine import Pool
from unlearnbench.runs.tuning import GAPS, WORST, searches
from unlearnbench.store.folder import Store

LABELS = np.arange(400) % 10


# --- the search ------------------------------------------------------------------------------------------------------


def test_only_methods_with_search_laws_are_searched_in_scenarios_that_they_support(plan: Plan) -> None:
    (search,) = searches(plan, 5, 2)
    assert search.entry.method == "damage"
    assert search.reported == (0, 1)
    assert [cell.seed for cell in search.cells] == [3_000_000, 3_000_001]
    assert not {cell.seed for cell in search.cells} & {entry.cell.seed for entry in plan.entries}


def test_the_search_goes_on_where_it_stopped_and_its_trials_do_not_hang_on_where(plan: Plan, tmp_path: Path) -> None:
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    expected = api.tune(plan, 6, 1, whole, "cpu", 1)
    for trials in (1, 4):
        api.tune(plan, trials, 1, parts, "cpu", 1)
    assert api.tune(plan, 6, 1, parts, "cpu", 1) == expected
    trials = trials_of(whole)
    assert [t.params for t in trials] == [t.params for t in trials_of(parts)]
    assert len(trials) == 6
    assert trials[0].params == {"amount": 40.0, "times": 1, "side": "low"}  # the suite's own values come first
    assert all(t.value == WORST for t in trials if t.params["side"] == "high")
    best = min(trials, key=lambda t: t.value)
    assert expected["random", "damage"]["times"] == best.params["times"]
    assert expected["random", "damage"]["amount"] == pytest.approx(best.params["amount"], rel=5e-3)


def test_interrupted_in_its_first_trial_it_still_tries_the_suites_own_values(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> nn.Module:
        raise KeyboardInterrupt

    store = Store(tmp_path)
    whole = Damage.unlearn
    monkeypatch.setattr(Damage, "unlearn", interrupt)
    with pytest.raises(KeyboardInterrupt):
        api.tune(plan, 2, 1, store, "cpu", 1)
    monkeypatch.setattr(Damage, "unlearn", whole)
    api.tune(plan, 2, 1, store, "cpu", 1)
    complete = [t for t in trials_of(store) if t.state == optuna.trial.TrialState.COMPLETE]
    assert complete[0].params == {"amount": 40.0, "times": 1, "side": "low"}
    assert len(complete) == 2


def test_what_was_found_stands_in_the_order_of_the_suite(
    tiny: Callable[..., Path], register: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("methods", damage=Damage)
    in_turn = Pool.map
    monkeypatch.setattr(Pool, "map", lambda pool, tasks: reversed(list(in_turn(pool, tasks))))
    found = api.tune(make_plan(str(tiny("finetune", "damage"))), 1, 1, Store(tmp_path), "cpu", 1)
    assert list(found) == [("random", "finetune"), ("random", "damage")]


def test_why_trials_fail_is_said(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> nn.Module:
        raise ValueError("out of tune")

    listener = Log()
    api.tune(plan, 1, 1, Store(tmp_path), "cpu", 1, reporter=listener)
    assert not listener.said
    monkeypatch.setattr(Damage, "unlearn", fail)
    api.tune(plan, 3, 1, Store(tmp_path), "cpu", 1, reporter=listener)
    assert listener.said == ["random damage: 2 of 3 trials failed, the last: ValueError: out of tune"]
    assert [t.value == WORST for t in trials_of(Store(tmp_path))] == [False, True, True]


def test_a_changed_law_is_another_search(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    (search,) = searches(plan, 5, 1)
    name = search.name
    assert replace(search, trials=9).name == name  # more trials go on with the same study
    monkeypatch.setattr("unlearnbench.runs.tuning.search_laws", lambda _method: {"amount": Uniform(0, 90)})
    assert search.name != name


def test_another_version_of_training_or_of_a_metric_is_another_search(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    (search,) = searches(plan, 5, 1)
    names = {search.name}
    with monkeypatch.context() as changed:
        changed.setattr(tuning, "TRAINING_VERSION", tuning.TRAINING_VERSION + 1)
        names.add(search.name)
    monkeypatch.setattr(tuning, "GAPS", {replace(m, version=m.version + 1): scale for m, scale in GAPS.items()})
    names.add(search.name)
    assert len(names) == 3


# --- what could not be used -----------------------------------------------------------------------------------------


def test_a_suite_says_which_gap_a_search_could_not_use(
    tiny: Callable[..., Path], register: Callable[..., None], tmp_path: Path
) -> None:
    """Of 12 digits of a class 6 are held out: too few for the attack where a class is forgotten."""
    register("methods", damage=Damage)
    plan = make_plan(str(tiny("damage", extra="[scenarios.class]\n")))
    best = api.tune(plan, 1, 1, Store(tmp_path / "results"), "cpu", 1)
    assert "tuned_without" not in best["random", "damage"]
    assert best["class", "damage"]["tuned_without"] == ["mia_lr_loss"]
