"""Tuning: equal trials, requests that no report shows, and a suite that says what was found."""

from __future__ import annotations

import itertools
import os
import signal
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import optuna
import pytest
import torch
from filelock import FileLock, Timeout
from torch import nn

from unlearnbench import api
from unlearnbench.data.split import make_split
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Access, Choice, Count, Fraction, LogUniform, Method, Uniform, UnlearnBenchError
from unlearnbench.plan.suites import Options, Plan, make_plan
from unlearnbench.runs import tuning
from unlearnbench.runs.engine import Pool
from unlearnbench.runs.tuning import GAPS, WORST, Search, searches, tuned_suite, tuning_split
from unlearnbench.store.folder import Store
from unlearnbench.training.task import Task

LABELS = np.arange(400) % 10


@dataclass(frozen=True)
class Damage(Method):
    """Makes one class less likely by as much as it is told: none at all is nearest the oracle of a random request."""

    paper: ClassVar[str] = "none"
    needs: ClassVar[Access] = Access(0)

    amount: Annotated[float, Uniform(0, 50)] = 40.0
    times: Annotated[Count, LogUniform(1, 3)] = 1
    side: Annotated[str, Choice(("low", "high"))] = "low"
    untouched: Fraction = 0.5

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        assert isinstance(self.times, int)
        if self.side == "high":
            raise FloatingPointError("too high")
        with torch.no_grad():
            model.get_parameter("head.1.bias")[0] += self.amount * self.times
        return model


@pytest.fixture
def plan(tiny: Callable[..., Path], register: Callable[..., None]) -> Plan:
    register("methods", damage=Damage)
    return make_plan(str(tiny("identity", "damage", seeds=(0, 1))))


# --- the requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "size"),
    [("random", {"fraction": 0.1}, 40), ("random", {"count": 7}, 7), ("class", {"classes": [8]}, 40)],
)
def test_a_tuning_request_shares_no_forget_sample_with_the_reported_ones(name: str, params: dict, size: int) -> None:
    scenario = build("scenarios", name, params)
    reported = [0, 1, 2, 3, 4]
    split = tuning_split(scenario, LABELS, 50, reported, 3_000_000)
    taken = np.concatenate([make_split(scenario, LABELS, 50, s).forget for s in reported])
    assert len(split.forget) == size
    assert not set(split.forget) & set(taken)
    assert sorted([*split.forget, *split.retain]) == list(range(400))
    assert sorted(split.test) == list(range(50))
    other = tuning_split(scenario, LABELS, 50, reported, 3_000_001)
    assert name == "class" or set(other.forget) != set(split.forget)


def test_another_class_is_forgotten_and_the_method_is_told_which() -> None:
    split = tuning_split(build("scenarios", "class", {"classes": [8]}), LABELS, 50, [0], 3_000_000)
    assert split.forget_classes == (9,)
    assert set(LABELS[split.forget]) == {9}


@pytest.mark.parametrize(
    ("own", "others"), [([9], {0}), ([0, 1], {2, 3}), ([3, 9], {0, 1}), ([1, 2, 3, 4, 5], {6, 7, 8, 9})]
)
def test_as_many_classes_as_there_are_to_be_had(own: list[int], others: set[int]) -> None:
    chosen = build("scenarios", "class", {"classes": own}).elsewhere(LABELS)
    assert set(chosen.forget_classes) == others


def test_where_the_reported_sets_take_everything_it_says_so() -> None:
    scenario = build("scenarios", "random", {"fraction": 0.5})
    with pytest.raises(UnlearnBenchError, match="cannot forget 200 of"):
        tuning_split(scenario, LABELS, 50, range(20), 3_000_000)


def test_requests_that_avoid_other_seeds_share_nothing_but_the_originals(
    tiny: Callable[..., Path], register: Callable[..., None], tmp_path: Path
) -> None:
    register("methods", damage=Damage)
    plans = [make_plan(str(tiny("damage", seeds=seeds))) for seeds in ((0, 1), (0, 1, 2))]
    one, other = (searches(plan, 1, 1)[0].cells[0] for plan in plans)
    assert one.original_key == other.original_key
    assert one.own_original_key == other.own_original_key
    for key in ("oracle_key", "prepared_key", "split_key"):
        assert getattr(one, key) != getattr(other, key)
    assert one.log_key(True) != other.log_key(True)
    store = Store(tmp_path / "results")
    for plan in plans:
        api.tune(plan, 1, 1, store, "cpu", 1)
    there = {one.original_key, one.oracle_key, other.oracle_key}
    assert {path.stem for path in (store.root / "artifacts").glob("*.safetensors")} == there


def test_the_scenario_of_a_request_is_named_with_what_it_avoids(plan: Plan) -> None:
    (search,) = searches(plan, 1, 1)
    own = search.entry.cell.scenario.params
    assert search.cells[0].scenario.name == "tuning random"
    assert search.cells[0].scenario.params == {**own, "reported": [0, 1]}
    assert "reported" not in own


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
    trials = _trials(whole)
    assert [t.params for t in trials] == [t.params for t in _trials(parts)]
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
    complete = [t for t in _trials(store) if t.state == optuna.trial.TrialState.COMPLETE]
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


class Listener:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, total: int) -> None: ...
    def begin(self, name: str) -> None: ...
    def end(self, name: str, status: str, seconds: float) -> None: ...
    def say(self, message: str) -> None:
        self.said.append(message)


def test_why_trials_fail_is_said(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> nn.Module:
        raise ValueError("out of tune")

    listener = Listener()
    api.tune(plan, 1, 1, Store(tmp_path), "cpu", 1, reporter=listener)
    assert not listener.said
    monkeypatch.setattr(Damage, "unlearn", fail)
    api.tune(plan, 3, 1, Store(tmp_path), "cpu", 1, reporter=listener)
    assert listener.said == ["random damage: 2 of 3 trials failed, the last: ValueError: out of tune"]
    assert [t.value == WORST for t in _trials(Store(tmp_path))] == [False, True, True]


def _trials(store: Store) -> list[Any]:
    (path,) = (store.root / "tuning").iterdir()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.load_study(storage=storage, study_name=path.stem).trials


def test_the_validation_share_is_needed(
    tiny: Callable[..., Path], register: Callable[..., None], tmp_path: Path
) -> None:
    register("methods", damage=Damage)
    plan = make_plan(str(tiny("damage")), Options(sets=["dataset.validation=0.0"]))
    with pytest.raises(UnlearnBenchError, match="no validation share"):
        api.tune(plan, 1, 1, Store(tmp_path), "cpu", 1)


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


# --- equal budgets, and what ends a search ---------------------------------------------------------------------------


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial is better than the one before: 9 points, 8, 7, …"""
    gaps = itertools.count(9, -1)
    use(monkeypatch, lambda: float(next(gaps)))


def use(monkeypatch: pytest.MonkeyPatch, gap: Callable[[], float]) -> None:
    """``gap`` is what a request says of every trial."""

    class Request:
        def __init__(self, *_: object) -> None: ...

        def gap(self, _params: object) -> float:
            return gap()

    monkeypatch.setattr(tuning, "Request", Request)


def run(search: Search, root: Path) -> tuple[dict[str, Any], float, list[str]]:
    _, best, value, failures, _ = tuning._search(search, root, root, ("cpu",), os.getpid())
    return best, value, failures


@pytest.mark.usefixtures("falling")
def test_what_a_larger_search_found_is_not_a_smaller_ones(plan: Plan, tmp_path: Path) -> None:
    (search,) = searches(plan, 6, 1)
    assert run(search, tmp_path)[1] == 4
    assert run(replace(search, trials=1), tmp_path) == ({"amount": 40.0, "times": 1, "side": "low"}, 9, [])
    assert run(replace(search, trials=3), tmp_path)[1] == 7
    assert len(_trials(Store(tmp_path))) == 6


def test_failures_are_those_of_the_search(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = iter([1.0])
    use(monkeypatch, lambda: next(gaps, None) or int("out of tune"))
    (search,) = searches(plan, 3, 1)
    assert len(run(search, tmp_path)[2]) == 2
    assert run(replace(search, trials=1), tmp_path)[2] == []


def test_a_study_is_locked_while_it_is_searched(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (search,) = searches(plan, 1, 1)
    lock = FileLock(tmp_path / "locks" / f"tuning-{search.name}.lock", timeout=0)

    def gap() -> float:
        with pytest.raises(Timeout):
            lock.acquire()
        return 1.0

    use(monkeypatch, gap)
    assert run(search, tmp_path)[2] == []  # it was asked, and the lock was held
    with lock:
        pass


@pytest.mark.usefixtures("falling")
def test_trials_that_another_process_made_meanwhile_are_not_made_again(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (search,) = searches(plan, 3, 1)
    lock = Store.lock

    def waited(store: Store, key: str) -> AbstractContextManager[None]:
        monkeypatch.setattr(Store, "lock", lock)
        run(search, tmp_path)  # the other process
        return lock(store, key)

    monkeypatch.setattr(Store, "lock", waited)
    assert run(search, tmp_path)[1] == 7
    assert Store.lock is lock  # it waited
    assert len(_trials(Store(tmp_path))) == 3


@pytest.mark.usefixtures("falling")
def test_a_worker_leaves_interrupts_to_its_parent_and_ends_with_it(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(tuning, "end_with", ended.append)
    monkeypatch.setattr(signal, "signal", lambda *given: ended.extend(given))
    (search,) = searches(plan, 1, 1)
    run(search, tmp_path)
    assert not ended  # one worker is this very process
    tuning._search(search, tmp_path, tmp_path, ("cpu",), os.getppid())
    assert ended == [signal.SIGINT, signal.SIG_IGN, os.getppid()]


@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_what_the_machine_lacks_is_no_trial(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def gap() -> float:
        raise error("no space left")

    use(monkeypatch, gap)
    (search,) = searches(plan, 2, 1)
    with pytest.raises(error, match="no space left"):
        run(search, tmp_path)
    assert [t.state for t in _trials(Store(tmp_path))] == [optuna.trial.TrialState.RUNNING]


@pytest.mark.parametrize("lost", [True, False])
def test_a_trial_that_cost_the_gpu_is_not_told_and_ends_the_search(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    use(monkeypatch, fail)
    monkeypatch.setattr(tuning, "claim", lambda *_: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "synchronize", fail if lost else lambda _device: None)
    (search,) = searches(plan, 2, 1)
    if lost:
        with pytest.raises(UnlearnBenchError, match="cuda:0 is of no use after random damage"):
            run(search, tmp_path)
    else:
        assert run(search, tmp_path)[1] == WORST
    assert [t.value for t in _trials(Store(tmp_path))] == ([None] if lost else [WORST, WORST])


# --- what was found --------------------------------------------------------------------------------------------------


def test_what_was_found_is_a_suite_that_says_so(
    tiny: Callable[..., Path], register: Callable[..., None], tmp_path: Path
) -> None:
    register("methods", damage=Damage)
    source = tiny("identity", extra="# a comment that stays\n")
    best = {("random", "damage"): {"amount": 1.5, "times": 2}, ("random", "finetune"): {"lr": 0.003}}
    text = tuned_suite(source.read_text(), best, 20, "unlearnbench tune tiny --trials 20")
    assert "# a comment that stays" in text
    assert "unlearnbench tune tiny --trials 20" in text.splitlines()[0]
    assert tomllib.loads(text)["methods"]["finetune"]["in"]["random"] == {"lr": 0.003, "tuned": 20}
    assert tomllib.loads(text)["title"] == "Tiny, tuned"
    assert tomllib.loads(tuned_suite(text, {}, 20, "", quick=True))["title"] == "Tiny, tuned, tuned in quick mode"
    path = tmp_path / "tuned.toml"
    path.write_text(text)
    found = {e.method: (e.settings, e.cell.method.params) for e in make_plan(str(path)).entries}
    assert found["damage"][0] == "tuned (20 trials)"
    assert (found["damage"][1]["amount"], found["damage"][1]["times"]) == (1.5, 2)
    assert found["identity"][0] == "default"


@pytest.mark.parametrize(
    "table",
    [
        "[methods.damage]\nin.random = { untouched = 0.25, amount = 3.0, tuned = 4 }\n",
        "[methods.damage.in.random]\nuntouched = 0.25\namount = 3.0\n",
        "[methods.damage.in]\nrandom.untouched = 0.25\n",
    ],
)
def test_what_a_suite_says_of_a_scenario_and_is_not_searched_stays(
    tiny: Callable[..., Path], register: Callable[..., None], table: str
) -> None:
    register("methods", damage=Damage)
    text = tuned_suite(tiny(extra=table).read_text(), {("random", "damage"): {"amount": 1.5}}, 20, "tune")
    own = tomllib.loads(text)["methods"]["damage"]["in"]
    assert own == {"random": {"untouched": 0.25, "amount": 1.5, "tuned": 20}}


def test_tables_are_told_where_hyperparameters_come_from(tiny: Callable[..., Path]) -> None:
    suite = str(
        tiny("finetune", extra="[methods.camu]\nlr_kl = 1e-3\n[methods.random_label.in.random]\ntuned = 3\nlr = 0.1\n")
    )
    given = {e.method: e.settings for e in make_plan(suite, Options(sets=["finetune.lr=0.5"])).entries}
    assert given == {
        "retrain": "default", "finetune": "set by hand", "camu": "set by the suite", "random_label": "tuned (3 trials)",
    }  # fmt: skip


@pytest.mark.parametrize("trials", ["0", "true", '"many"'])
def test_a_wrong_number_of_trials_is_named(tiny: Callable[..., Path], trials: str) -> None:
    suite = tiny("identity", extra=f"[methods.finetune.in.random]\ntuned = {trials}\n")
    with pytest.raises(UnlearnBenchError, match=r"methods\.finetune\.in\.random\.tuned"):
        make_plan(str(suite))
