"""The Python way in: what the command line does, as functions."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from unlearnbench.data.datasets import default_root
from unlearnbench.judge.results import Results, gather
from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.plan.suites import Options, Plan, make_plan
from unlearnbench.runs import engine
from unlearnbench.runs.progress import Lines
from unlearnbench.store.folder import Store


def run(
    suite: str,
    *,
    methods: Sequence[str] = (),
    scenarios: Sequence[str] = (),
    seeds: Sequence[int] = (),
    sets: Sequence[str] = (),
    quick: bool = False,
    device: str = "auto",
    jobs: int | None = None,
    results: str | Path = "results",
    data: str | Path | None = None,
    reporter: engine.Reporter | None = None,
) -> Results:
    """Run what is not done yet of a suite (a packaged name or a path) and return its scored rows.

    The arguments are those of ``unlearnbench run``. A method that fails gives rows with status ``"failed"``, not an
    exception. Raises UnlearnBenchError when the suite or an argument is wrong, before anything trains.
    """
    plan = make_plan(suite, Options(methods, scenarios, seeds, sets, quick))
    return execute(plan, Store(Path(results)), device, jobs, data, reporter)


def execute(
    plan: Plan, store: Store, device: str, jobs: int | None, data: str | Path | None, reporter: engine.Reporter | None
) -> Results:
    if not any(engine.jobs_of(plan, store)):
        store.put_plan(plan.suite, plan.as_dict())
        engine.bring_up_to_date(plan, store, jobs or 1)
    else:
        devices, workers, root = _resources(device, jobs, data)
        engine.execute(plan, store, root, devices, workers, reporter or _lines())
    return gather(store, plan, engine.all_metrics())


def tune(
    plan: Plan, trials: int, requests: int, store: Store, device: str = "auto", jobs: int | None = None,
    data: str | Path | None = None, reporter: engine.Reporter | None = None,
) -> dict[tuple[str, str], dict[str, Any]]:  # fmt: skip
    """The best hyperparameters of each (scenario, method) of a plan, searched as ``unlearnbench tune`` does."""
    from unlearnbench.runs import tuning

    devices, workers, root = _resources(device, jobs, data)
    return tuning.tune(plan, trials, requests, store, root, devices, workers, reporter or _lines())


def _resources(device: str, jobs: int | None, data: str | Path | None) -> tuple[list[str], int, Path]:
    """Devices, worker processes, and the folder of datasets."""
    devices = engine.choose_devices(device)
    if jobs is not None and jobs < 1:
        raise UnlearnBenchError(f"--jobs {jobs}: expected at least 1")
    workers = len(devices) if devices != ["cpu"] else jobs or os.cpu_count() or 1
    return devices, workers, Path(data).expanduser() if data else default_root()


def _lines() -> Lines:
    from rich.console import Console

    return Lines(Console(stderr=True))


def stored(suite: str, results: str | Path = "results") -> Results:
    """The scored rows of the last run of a suite. Raises UnlearnBenchError if it has not run into ``results``."""
    store = Store(Path(results))
    plan = stored_plan(suite, store)
    engine.bring_up_to_date(plan, store)  # rows that suites share may have been compared with a larger bank since
    return gather(store, plan, engine.all_metrics())


def stored_plan(suite: str, store: Store) -> Plan:
    """The plan of the last run of a suite. Raises UnlearnBenchError if there is none that can be read."""
    plan = store.plan(suite)
    if plan is None:
        known = ", ".join(store.plans()) or "none yet"
        raise UnlearnBenchError(
            f"no run of suite '{suite}' in {store.root}; it holds: {known} (unlearnbench run {suite})"
        )
    try:
        return Plan.from_dict(plan)
    except UnlearnBenchError:
        raise UnlearnBenchError(
            f"the stored plan of suite '{suite}' was written by another version: run the suite again, or delete "
            f"{store.root / 'plans' / suite}.json"
        ) from None


def stored_suites(store: Store, warn: Callable[[str], object]) -> list[str]:
    """The suites that were run into a folder, but for those whose plans cannot be read: ``warn`` is told why."""
    found = []
    for suite in store.plans():
        try:
            stored_plan(suite, store)
            found.append(suite)
        except UnlearnBenchError as error:
            warn(str(error))
    return found


def frame(results: str | Path = "results") -> pd.DataFrame:
    """Every scored row of a results folder: one line for each row and metric (`results.VALUE_COLUMNS`).

    Leaves out, with a warning, a suite whose stored plan cannot be read.
    """
    suites = stored_suites(Store(Path(results)), functools.partial(warnings.warn, stacklevel=3))
    frames = [stored(suite, results).values for suite in suites]
    if not frames:
        raise UnlearnBenchError(f"no results in {results} (unlearnbench run digits)")
    return pd.concat(frames, ignore_index=True)
