"""Equal budgets, and what ends a search."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from filelock import FileLock, Timeout
from tuning_cases import run, trials_of, use

from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.plan.suites import Plan
from unlearnbench.runs import tuning
from unlearnbench.runs.tuning import WORST, searches
from unlearnbench.store.folder import Store

LABELS = np.arange(400) % 10


# --- equal budgets, and what ends a search ---------------------------------------------------------------------------


@pytest.mark.usefixtures("falling")
def test_what_a_larger_search_found_is_not_a_smaller_ones(plan: Plan, tmp_path: Path) -> None:
    (search,) = searches(plan, 6, 1)
    assert run(search, tmp_path)[1] == 4
    assert run(replace(search, trials=1), tmp_path) == ({"amount": 40.0, "times": 1, "side": "low"}, 9, [])
    assert run(replace(search, trials=3), tmp_path)[1] == 7
    assert len(trials_of(Store(tmp_path))) == 6


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
    assert len(trials_of(Store(tmp_path))) == 3


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
    assert [t.state for t in trials_of(Store(tmp_path))] == [optuna.trial.TrialState.RUNNING]


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
    assert [t.value for t in trials_of(Store(tmp_path))] == ([None] if lost else [WORST, WORST])
