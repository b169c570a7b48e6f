"""Scored rows as tables: what `reports/` turns into files."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from unlearnbench.judge import floor
from unlearnbench.judge.stats import refuse_mixed_devices, several_devices
from unlearnbench.judge.validation import validate
from unlearnbench.measure.scoring import Score
from unlearnbench.plan.registry import load
from unlearnbench.plan.spec import REASONS, Metric, UnlearnBenchError
from unlearnbench.plan.suites import Plan
from unlearnbench.store.folder import Store

VALUE_COLUMNS = [
    "suite", "dataset", "model", "scenario", "method", "role", "stands_for", "split_seed", "seed",
    "quick", "device", "status", "metric", "value", "low", "high", "note", "key",
]  # fmt: skip
METHOD_COLUMNS = ["dataset", "scenario", "method", "plugin", "role", "access", "settings", "parameters"]
CURVE_COLUMNS = ["suite", "dataset", "scenario", "method", "role", "split_seed", "seed", "updates", "difference", "key"]


@dataclass(frozen=True, eq=False)
class Results:
    """Everything a report shows of one suite.

    ``values`` has one line per row and metric (`VALUE_COLUMNS`): ``method`` and ``scenario`` are the suite's labels in
    the suite's order, ``role`` is ``oracle``, ``control`` or ``method``, ``stands_for`` is the method's; ``value`` is
    NaN where the value is empty or the row failed, ``note`` then says why; a censored value has a ``note`` that starts
    with ``">"``; ``device`` names all that the row's costs come from; ``low`` and ``high`` are the ends of the value's
    own interval, if it has one. What belongs to a split has no line but that of its first seed. ``curves`` has one line
    per point of a relearning curve (`CURVE_COLUMNS`), ``retrains`` one per metric and member of the banks
    (`floor.COLUMNS`), ``methods`` one per scenario and method, with what it may see and where its hyperparameters come
    from (`METHOD_COLUMNS`). ``metrics`` maps names to records, in the order of the tables. ``settings`` is the suite's
    ``[report]`` table.
    """

    suite: str
    title: str
    values: pd.DataFrame
    curves: pd.DataFrame
    metrics: Mapping[str, Metric]
    settings: Mapping[str, Any] = field(default_factory=dict)
    retrains: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=floor.COLUMNS))
    methods: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=METHOD_COLUMNS))

    @functools.cached_property
    def comparable(self) -> pd.DataFrame:
        """``values`` without those that belong to a machine where several were used (`stats.refuse_mixed_devices`):
        what tables, tests and ranks are made of."""
        return refuse_mixed_devices(self.values, self.metrics)

    @functools.cached_property
    def honest(self) -> pd.DataFrame:
        """How far other honest retrains lie from the oracle of each run (`floor.honest`)."""
        return floor.honest(self.comparable, self.retrains, self.metrics)

    @functools.cached_property
    def floors(self) -> pd.DataFrame:
        """The noise floor of each dataset, scenario and metric (`floor.floors`)."""
        return floor.floors(self.honest, self.metrics)

    @functools.cached_property
    def controls(self) -> pd.DataFrame:
        """Where metrics put the controls: one verdict for each (`validation.validate`)."""
        return validate(self.comparable, self.honest, self.metrics)

    @property
    def headline(self) -> list[str]:
        """The metrics that the suite is read by."""
        return [name for name in self.settings.get("headline", ()) if name in self.metrics]


def gather(store: Store, plan: Plan, metrics: Mapping[str, Metric]) -> Results:
    """The stored rows and scores of a plan. Cells that have not run are left out."""
    values: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for entry in plan.entries:
        row = store.row(entry.cell)
        if row is None or row.status == "started":
            continue
        cell = entry.cell
        shared = {
            "suite": plan.suite, "dataset": cell.dataset.name, "model": cell.model.name,
            "scenario": entry.scenario, "method": entry.method, "role": entry.role, "stands_for": entry.stands_for,
            "split_seed": cell.split_seed, "seed": cell.seed, "quick": cell.quick,
            "device": several_devices(*(row.environment.get(name, "") for name in ("device", "prepared_device"))),
            "status": row.status, "key": row.key,
        }  # fmt: skip
        scores = store.scores(row.key) if row.status == "ok" else {}
        reason = {"ok": "not scored yet: unlearnbench score", "failed": REASONS["failed"], "n/a": row.reason}[
            row.status
        ]
        for name in metrics:
            score = scores.get(name) or dataclasses.asdict(Score(None, reason))
            if score["reason"] != "of_split":
                numbers = {column: score[column] for column in ("value", "low", "high", "note")}
                values.append({**shared, "metric": name, **numbers})
        if row.status == "ok":
            for updates, difference in store.evidence(row).curve:
                curves.append({**shared, "updates": int(updates), "difference": float(difference)})
    frame = pd.DataFrame(values, columns=VALUE_COLUMNS).astype(dict.fromkeys(("value", "low", "high"), float))
    lines = pd.DataFrame(curves, columns=CURVE_COLUMNS)
    retrains = floor.retrains(plan, store)
    return Results(plan.suite, plan.title, frame, lines, metrics, plan.report, retrains, _methods(plan))


def _methods(plan: Plan) -> pd.DataFrame:
    lines = {}
    for entry in plan.entries:
        plugin = entry.cell.method
        access = ", ".join(name.lower() for name in _access(plugin.name))
        parameters = json.dumps(dict(plugin.params))
        where = entry.cell.dataset.name, entry.scenario, entry.method
        lines[where] = [*where, plugin.name, entry.role, access, entry.settings, parameters]
    return pd.DataFrame(lines.values(), columns=METHOD_COLUMNS)


def _access(method: str) -> list[str]:
    """What a registered method may see; nothing is known of one that is gone."""
    try:
        needs = load("methods", method).needs
    except UnlearnBenchError:
        return []
    return [need.name for need in needs if need.name]
