"""Equal tuning: the same number of trials for every method, on forget sets and seeds that no report shows.

A trial applies a method with some hyperparameters to requests that are disjoint from the suite's: other forget sets
(`tuning_split`), originals and oracles of other seeds, and the validation share in the place of the test set. What is
minimised is the average gap to the oracle over `GAPS`, as the tables have it; the attack is left out where the
validation share has too few samples for it. Every trial is kept in a journal as soon as it is finished: the same
command goes on where it was.
"""

from __future__ import annotations

import dataclasses
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

from unlearnbench.data.split import Split, make_split
from unlearnbench.measure.metrics.leakage import MIA_LR_LOSS
from unlearnbench.measure.metrics.utility import FA, RA, TA
from unlearnbench.measure.scoring import score
from unlearnbench.plan.cards import search_laws
from unlearnbench.plan.cells import TRAINING_VERSION, Cell, Plugin, Probe, digest
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.registry import build, load
from unlearnbench.plan.spec import Choice, Law, LogUniform, Metric, Scenario, UnlearnBenchError
from unlearnbench.plan.suites import Entry, Plan
from unlearnbench.runs.engine import Pool, Reporter, check_device, claim, end_with
from unlearnbench.store.folder import State, Store

if TYPE_CHECKING:
    import optuna
    import torch
    from torch import nn


FIRST_SEED = 3_000_000  # of the tuning requests: far from those of rows and of banks
WORST = 100.0  # points: what a trial counts that fails
GAPS: Mapping[Metric, float] = {FA: 1, RA: 1, TA: 1, MIA_LR_LOSS: 100}  # and what makes points of each


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


def tuning_cell(cell: Cell, reported: Sequence[int], seed: int) -> Cell:
    """The request of a trial: the scenario's name says that its forget set is another, its parameters which it avoids.
    Both are for the keys, of oracles and logs too: what is built is the scenario of the suite."""
    params = {**cell.scenario.params, "reported": list(reported)}
    scenario = Plugin(f"tuning {cell.scenario.name}", params, cell.scenario.version)
    return dataclasses.replace(cell, scenario=scenario, split_seed=seed, seed=seed, probe=Probe())


def tuning_split(scenario: Scenario, labels: np.ndarray, size: int, reported: Sequence[int], seed: int) -> Split:
    """A request of the same kind and size whose forget set shares no sample with those of the split seeds ``reported``.

    ``size`` is the number of samples that stand for the test set. Raises UnlearnBenchError where too few are left.
    """
    taken = np.unique(np.concatenate([make_split(scenario, labels, size, s).forget for s in reported]))
    free = np.setdiff1d(np.arange(len(labels)), taken)
    elsewhere = scenario.elsewhere(labels)
    rng = np.random.default_rng([seed, 0x7E57])
    forget = rng.permutation(free[elsewhere.select(labels[free], rng)])
    retain = rng.permutation(np.setdiff1d(np.arange(len(labels)), forget))
    return Split(forget, retain, rng.permutation(size), tuple(elsewhere.forget_classes))


def tune(
    plan: Plan, trials: int, requests: int, store: Store, data_root: Path, devices: Sequence[str], workers: int,
    reporter: Reporter,
) -> dict[tuple[str, str], dict[str, Any]]:  # fmt: skip
    """The best hyperparameters found, by scenario and method as the suite calls them.

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
    """Run what is missing of a study: its best hyperparameters, their average gap in points, why trials failed, and the
    seconds."""
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
        end_with(parent)
    start = time.perf_counter()
    store = Store(root)
    with store.lock(f"tuning-{search.name}"):  # two processes would spend the trials of one twice
        trials = _trials(search, store, data_root, claim(root, devices))
    best = min(trials, key=operator.attrgetter("value"))
    assert best.value is not None  # complete trials have one
    params = {name: _readable(found) for name, found in best.params.items()}
    failures = [trial.user_attrs["failure"] for trial in trials if "failure" in trial.user_attrs]
    return search, params, best.value, failures, time.perf_counter() - start


def _trials(search: Search, store: Store, data_root: Path, device: torch.device) -> list[optuna.trial.FrozenTrial]:
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
    requests = [Request(cell, search, store, data_root, device) for cell in search.cells]
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
        by_scenario.setdefault(scenario, tomlkit.inline_table()).update({**params, "tuned": trials})
    head = f"""\
# Written by `{command}`:
# the best of {trials} trials for each method, on forget sets and seeds that no table shows, with the validation share
# in the place of the test set.
"""
    return head + suite.as_string()


class Request:
    """One tuning request: data, split, original and oracle, and how far a method lands from the oracle."""

    def __init__(self, cell: Cell, search: Search, store: Store, data_root: Path, device: torch.device) -> None:
        from unlearnbench.runs import runner

        self.cell, self.store = cell, store
        self.data = runner.load_data(cell.dataset, data_root, device)
        if not len(self.data.y_validation):
            raise UnlearnBenchError(
                f"{cell.dataset.name} has no validation share, so nothing stands for the test set: set its validation"
            )
        scenario = build("scenarios", search.entry.cell.scenario.name, search.entry.cell.scenario.params)
        labels = self.data.y_train.cpu().numpy()
        size = len(self.data.y_validation)
        self.split = tuning_split(scenario, labels, size, search.reported, cell.split_seed)
        self.original = runner.load_original(cell, store, self.data)
        oracle = runner.restored(cell, self.data, store.artifact(cell.oracle_key, self._train_oracle)[0])
        self.oracle = self._values(oracle)

    def _train_oracle(self) -> tuple[State, dict[str, float | None]]:
        from unlearnbench.data.tensors import Counter
        from unlearnbench.training.loop import train
        from unlearnbench.training.originals import trainee

        model, samples = trainee(self.cell, self.data, self.split.retain, Counter())
        return train(model, samples, self.cell.recipe).state_dict(), {}

    def gap(self, params: Mapping[str, Any]) -> float:
        """Average gap to the oracle, in points, with these hyperparameters. Raises what the method raises."""
        from unlearnbench.data.tensors import forked
        from unlearnbench.runs import runner

        method = build("methods", self.cell.method.name, dict(params))
        cell = dataclasses.replace(self.cell, method=Plugin.of(self.cell.method.name, method))
        with forked(self.data.x_train.device):
            original = runner.original_of(method, self.original, cell, self.store, self.data, self.split)
            model, _ = runner.unlearn(method, original, cell, self.store, self.data, self.split)
        values = self._values(model)
        return float(np.mean([abs(values[name] - self.oracle[name]) for name in self.oracle]))

    def _values(self, model: nn.Module) -> dict[str, float]:
        """The metrics of `GAPS` in points, those that there are, with the validation share for the test set."""
        import torch

        from unlearnbench.training.loop import predict

        data, split = self.data, self.split
        sets = {
            "forget": (data.x_train, data.y_train, split.forget),
            "retain": (data.x_train, data.y_train, split.retain),
            "test": (data.x_validation, data.y_validation, split.test),
        }
        logits = {name: predict(model.eval(), x[torch.from_numpy(i)]).float() for name, (x, _, i) in sets.items()}
        if not all(torch.isfinite(part).all() for part in logits.values()):
            raise FloatingPointError("the unlearned model's outputs are not finite")
        evidence = Evidence(
            logits={name: part.cpu().numpy() for name, part in logits.items()},
            labels={name: y[torch.from_numpy(i)].cpu().numpy() for name, (_, y, i) in sets.items()},
            forget_classes=split.forget_classes, curve=np.empty((0, 2)), scalars={}, cost={}, seed=self.cell.seed,
        )  # fmt: skip
        scores = score(evidence, Context(), {metric.name: metric for metric in GAPS})
        found = {metric.name: (scores[metric.name].value, scale) for metric, scale in GAPS.items()}
        return {name: value * scale for name, (value, scale) in found.items() if value is not None}
