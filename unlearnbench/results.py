"""Scored rows as tables: what `reports/` turns into files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from unlearnbench.spec import REASONS, Metric
from unlearnbench.store import Store
from unlearnbench.suites import Plan

VALUE_COLUMNS = [
    "suite", "dataset", "model", "scenario", "method", "role", "split_seed", "seed",
    "quick", "device", "status", "metric", "value", "note", "key",
]  # fmt: skip
CURVE_COLUMNS = ["suite", "dataset", "scenario", "method", "role", "split_seed", "seed", "updates", "difference", "key"]


@dataclass(frozen=True)
class Results:
    """Everything a report shows of one suite.

    ``values`` has one line per row and metric (`VALUE_COLUMNS`): ``method`` and ``scenario`` are the suite's labels in
    the suite's order, ``role`` is ``oracle``, ``control`` or ``method``; ``value`` is NaN where the value is empty or
    the row failed, ``note`` then says why; a censored value has a ``note`` that starts with ``">"``. ``curves`` has one
    line per point of a relearning curve (`CURVE_COLUMNS`). ``metrics`` maps names to records, in the order of the
    tables. ``settings`` is the suite's ``[report]`` table.
    """

    suite: str
    title: str
    values: pd.DataFrame
    curves: pd.DataFrame
    metrics: Mapping[str, Metric]
    settings: Mapping[str, Any] = field(default_factory=dict)


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
            "scenario": entry.scenario, "method": entry.method, "role": entry.role,
            "split_seed": cell.split_seed, "seed": cell.seed, "quick": cell.quick,
            "device": row.environment.get("device", ""), "status": row.status, "key": row.key,
        }  # fmt: skip
        scores = store.scores(row.key) if row.status == "ok" else {}
        reason = {"ok": "not scored yet: unlearnbench score", "failed": REASONS["failed"], "n/a": row.reason}[
            row.status
        ]
        for name in metrics:
            score = scores.get(name, {"value": None, "note": reason})
            values.append({**shared, "metric": name, "value": score["value"], "note": score["note"]})
        if row.status == "ok":
            for updates, difference in store.evidence(row).curve:
                curves.append({**shared, "updates": int(updates), "difference": float(difference)})
    frame = pd.DataFrame(values, columns=VALUE_COLUMNS).astype({"value": float})
    return Results(plan.suite, plan.title, frame, pd.DataFrame(curves, columns=CURVE_COLUMNS), metrics, plan.report)
