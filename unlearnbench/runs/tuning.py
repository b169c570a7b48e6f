"""Equal tuning: the same number of trials for every method, on forget sets and seeds that no report shows.

A trial applies a method with some hyperparameters to requests that are disjoint from the suite's: other forget sets
(`requests.tuning_split`), originals and oracles of other seeds, and a share of the training set, which these do not see
(`requests.held_out`), in the place of the test set. What is minimised is the average gap to the oracle over `GAPS`, as
the tables have it; where too few samples are held out for the attack it is left out, and the suite says so. Every trial
is kept in a journal as soon as it is finished: the same command goes on where it was.
"""

from __future__ import annotations

import hashlib
import math
import operator
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import delayed

from unlearnbench.plan.cards import search_laws
from unlearnbench.plan.cells import TRAINING_VERSION, Cell, digest
from unlearnbench.plan.registry import load
from unlearnbench.plan.spec import Choice, Law, LogUniform, UnlearnBenchError
from unlearnbench.plan.suites import Entry, Plan
from unlearnbench.runs.engine import Pool, Reporter, check_device, claim, end_with
from unlearnbench.runs.requests import GAPS, Request, tuning_cell
from unlearnbench.store.folder import Store

if TYPE_CHECKING:
    import optuna
    import torch

FIRST_SEED = 3_000_000  # of the tuning requests: far from those of rows and of banks
WORST = 100.0  # points: what a trial counts that fails


@dataclass(frozen=True)
class Search:
    """The search of one method in one scenario: its entry in the suite, the requests, and how many trials in all."""

    entry: Entry
    cells: tuple[Cell, ...]
    reported: tuple[int, ...]  # split seeds of the suite, whose forget sets are left alone
    trials: int

    @property
    def name(self) -> str:
        """Names the study: everything that its trials depend on beside the hyperparameters that are searched."""
        cls = load("methods", self.entry.cell.method.name)
        laws = {name: repr(law) for name, law in search_laws(cls).items()}
        metrics = {metric.name: metric.version for metric in GAPS}
        return digest([TRAINING_VERSION, metrics, [cell.as_dict() for cell in self.cells], laws])


def searches(plan: Plan, trials: int, requests: int) -> list[Search]:
    """One for each method and scenario of the plan that has something to search."""
    found: dict[tuple[str, str], Search] = {}
    for entry in plan.entries:
        cls = load("methods", entry.cell.method.name)
        refused = cls.scenarios is not None and entry.cell.scenario.name not in cls.scenarios
        if entry.role != "method" or refused or not search_laws(cls):
            continue
        reported = tuple(sorted({e.cell.split_seed for e in plan.entries if e.scenario == entry.scenario}))
        cells = tuple(tuning_cell(entry.cell, reported, FIRST_SEED + i) for i in range(requests))
        found.setdefault((entry.scenario, entry.method), Search(entry, cells, reported, trials))
    return list(found.values())


def tune(
    plan: Plan, trials: int, requests: int, store: Store, data_root: Path, devices: Sequence[str], workers: int,
    reporter: Reporter,
) -> dict[tuple[str, str], dict[str, Any]]:  # fmt: skip
    """The best hyperparameters found, by scenario and method as the suite calls them, and under ``tuned_without`` the
    metrics of `GAPS`, if any, that could not be used.

    Raises UnlearnBenchError if Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UnlearnBenchError("tuning needs Optuna and tomlkit: pip install 'unlearnbench[tune]'") from None
    todo = searches(plan, trials, requests)
    pool = Pool(store.root, data_root, tuple(devices), workers, reporter)
    reporter.start(len(todo))

    def feed() -> Iterator[Any]:
        for search in todo:
            reporter.begin(f"{search.entry.scenario} {search.entry.method}")
            yield delayed(_search)(search, store.root, data_root, tuple(devices), os.getpid())

    best: dict[tuple[str, str], dict[str, Any]] = {(s.entry.scenario, s.entry.method): {} for s in todo}  # in order
    for search, params, value, failures, seconds in pool.map(feed()):
        where = search.entry.scenario, search.entry.method
        best[where] = params
        reporter.end(" ".join(where), f"{value:.2f} points", seconds)
        if failures:
            reporter.say(f"{' '.join(where)}: {len(failures)} of {trials} trials failed, the last: {failures[-1]}")
    return best


def _search(
    search: Search, root: Path, data_root: Path, devices: tuple[str, ...], parent: int
) -> tuple[Search, dict[str, Any], float, list[str], float]:
    """Run what is missing of a study: what the suite is to say of it, the best average gap in points, why trials
    failed, and the seconds."""
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
        end_with(parent)
    start = time.perf_counter()
    store = Store(root)
    device = claim(root, devices)
    with store.lock(f"tuning-{search.name}"):  # two processes would spend the trials of one twice
        suite, reported = search.entry.cell, search.reported
        requests = [Request(cell, suite, reported, store, data_root, device) for cell in search.cells]
        trials = _trials(search, requests, store, device)
    best = min(trials, key=operator.attrgetter("value"))
    assert best.value is not None  # complete trials have one
    params = {name: _readable(found) for name, found in best.params.items()}
    if without := [metric.name for metric in GAPS if any(metric.name in request.without for request in requests)]:
        params["tuned_without"] = without
    failures = [trial.user_attrs["failure"] for trial in trials if "failure" in trial.user_attrs]
    return search, params, best.value, failures, time.perf_counter() - start


def _trials(
    search: Search, requests: Sequence[Request], store: Store, device: torch.device
) -> list[optuna.trial.FrozenTrial]:
    """The complete trials of a study, the first ``search.trials`` of them, after those that were missing."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = store.root / "tuning" / f"{search.name}.log"  # one for each study: no worker waits for another
    journal.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name=search.name, load_if_exists=True)
    plugin = search.entry.cell.method
    laws = search_laws(load("methods", plugin.name))
    states = [trial.state for trial in study.trials]
    done = states.count(optuna.trial.TrialState.COMPLETE)
    if not done and optuna.trial.TrialState.WAITING not in states:  # nor after an interruption of the very first trial
        study.enqueue_trial({name: plugin.params[name] for name in laws if _within(laws[name], plugin.params[name])})
    for number in range(done, search.trials):
        # A sampler of its own for each trial: what is drawn does not hang on where a run was interrupted.
        seed = int.from_bytes(hashlib.sha256(f"{search.name}/{number}".encode()).digest()[:4], "big")
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = study.ask()
        params = {name: _suggest(trial, name, law, plugin.params[name]) for name, law in laws.items()}
        gaps = []
        for request in requests:
            try:
                gaps.append(request.gap({**plugin.params, **params}))
            except (OSError, MemoryError):  # the machine's fault, not that of the hyperparameters
                raise
            except Exception as error:  # whatever a method raises at the edge of its range
                if device.type == "cuda":
                    check_device(device, f"{search.entry.scenario} {search.entry.method}")
                trial.set_user_attr("failure", f"{type(error).__name__}: {error}")
                gaps.append(WORST)
        study.tell(trial, float(np.mean(gaps)))
    return study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))[: search.trials]


def _within(law: Law, value: Any) -> bool:
    return value in law.values if isinstance(law, Choice) else law.low <= value <= law.high


def _suggest(trial: optuna.Trial, name: str, law: Law, default: Any) -> Any:
    """A draw from a law: whole numbers where the default is one, others of three digits."""
    if isinstance(law, Choice):
        return trial.suggest_categorical(name, law.values)
    log = isinstance(law, LogUniform)
    if isinstance(default, int):
        return trial.suggest_int(name, math.ceil(law.low), math.floor(law.high), log=log)
    return _readable(trial.suggest_float(name, law.low, law.high, log=log))


def _readable(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def tuned_suite(
    text: str, best: Mapping[tuple[str, str], Mapping[str, Any]], trials: int, command: str, quick: bool = False
) -> str:
    """The suite ``text`` (TOML) with the hyperparameters found in the place of its own, comments and all else kept."""
    import tomlkit

    suite = tomlkit.parse(text)
    suite["title"] = f"{suite['title']}, tuned" + " in quick mode" * quick
    methods: Any = suite["methods"]
    for (scenario, label), params in best.items():
        if label not in methods:
            methods.add(label, tomlkit.table())
        table = methods[label]
        by_scenario = table.setdefault("in", tomlkit.table())
        found = by_scenario.setdefault(scenario, tomlkit.inline_table())
        found.pop("tuned_without", None)
        found.update({**params, "tuned": trials})
    head = f"""\
# Written by `{command}`:
# the best of {trials} trials for each method, on forget sets and seeds that no table shows, with a share of the
# training set, which the models of the search did not see, in the place of the test set.
"""
    return head + suite.as_string()
