"""The noise floor: what metrics make of the honest retrainings of a bank, alone and one against another.

A gap to the oracle means nothing below the distance between two oracles, so that distance stands beside every gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from unlearnbench.judge.comparing import Sets
from unlearnbench.judge.inference import noise_floor
from unlearnbench.measure.scoring import score
from unlearnbench.plan.cells import Cell, digest
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric
from unlearnbench.plan.suites import Plan
from unlearnbench.store import roster
from unlearnbench.store.folder import Store

MEMBERS = 16  # of a bank: 120 pairs, beyond which the floor hardly moves
COLUMNS = ["dataset", "scenario", "split_seed", "metric", "value"]


def score_banks(plan: Plan, store: Store, metrics: Mapping[str, Metric], workers: int = 1) -> None:
    """Score the first members of every bank of oracles by the metrics that outputs alone bear."""
    cells = {e.cell.bank_key: e.cell for e in plan.entries if plan.bank}
    Parallel(workers)(
        delayed(_score_bank)(store, cell, roster.stored("oracles", cell, min(plan.bank, MEMBERS), store), metrics)
        for cell in cells.values()
    )


def _score_bank(store: Store, cell: Cell, keys: tuple[str, ...], metrics: Mapping[str, Metric]) -> None:
    wanted = {n: m for n, m in metrics.items() if not m.of_split and set(m.needs) <= {"oracle"}}
    basis = digest([keys, {name: metric.version for name, metric in wanted.items()}])
    if len(keys) < 2 or store.scores(cell.bank_key).get("basis") == basis:
        return
    split = store.split(cell)
    models = [Evidence(Sets(store.outputs(key), split), _labels(split), _classes(split), np.empty((0, 2)), {}, {}, i)
              for i, key in enumerate(keys)]  # fmt: skip
    own = [score(model, Context(), {n: m for n, m in wanted.items() if not m.relative}) for model in models]
    pairs = [
        score(model, Context(oracle=models[i - 1]), {n: m for n, m in wanted.items() if m.relative})
        for i, model in enumerate(models)
    ]
    found = {name: [s[name].value for s in (pairs if metric.relative else own)] for name, metric in wanted.items()}
    values = {name: [x for x in numbers if x is not None] for name, numbers in found.items()}
    store.put_bank_scores(cell.bank_key, {"basis": basis, "values": values})


def _labels(split: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: split[f"{name}.labels"] for name in ("forget", "retain", "test")}


def _classes(split: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    return tuple(int(c) for c in split["forget_classes"])


def retrains(plan: Plan, store: Store) -> pd.DataFrame:
    """One line for each metric of each member of the banks; of a relative metric, for each member against another."""
    entries = {(e.scenario, e.cell.bank_key): e for e in plan.entries if plan.bank}
    lines: list[dict[str, Any]] = []
    for (scenario, key), entry in entries.items():
        shared = {"dataset": entry.cell.dataset.name, "scenario": scenario, "split_seed": entry.cell.split_seed}
        for metric, values in store.scores(key).get("values", {}).items():
            lines += [{**shared, "metric": metric, "value": value} for value in values]
    return pd.DataFrame(lines, columns=COLUMNS)


def floors(values: pd.DataFrame, banks: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """By dataset, scenario and metric the ``floor`` that a gap to the oracle must pass, and the ``pairs`` behind it.

    For a metric with a gap the 95th percentile of |a - b| over pairs of models retrained on one split: the bank's
    members (``banks``), the oracles and the honest retrains among the controls (``values``). For a metric that is
    itself a distance to the oracle, what 95% of the bank's pairs keep to; without a bank, of the honest retrains.
    ``apart`` is the same without the controls, by which these are judged; NaN where no pair is left.
    """
    rows = values[values["stands_for"].eq("retrained") & values["value"].notna()]
    exact = ~rows["note"].fillna("").astype(str).str.startswith(">")
    of_banks = dict(list(banks.groupby(["dataset", "scenario", "metric"])))
    lines = []
    for (dataset, scenario, name), own in rows[exact].groupby(["dataset", "scenario", "metric"], sort=False):
        members = of_banks.get((dataset, scenario, name), banks[:0])
        floor, pairs = _floor(metrics[str(name)], own, members)
        apart, _ = _floor(metrics[str(name)], own[own["role"] != "control"], members)
        if pairs:
            lines.append([dataset, scenario, name, floor, pairs, apart])
    return pd.DataFrame(lines, columns=["dataset", "scenario", "metric", "floor", "pairs", "apart"])


def _floor(metric: Metric, own: pd.DataFrame, members: pd.DataFrame) -> tuple[float, int]:
    """The floor and the number of pairs behind it; without one, NaN and 0."""
    if metric.relative and metric.family == "oracle-distance" and metric.better != "oracle":
        found = members["value"] if len(members) else own.loc[own["role"] != "oracle", "value"]
        return float(found.quantile(0.05 if metric.better == "high" else 0.95)), len(found)
    if metric.better == "oracle" and not metric.relative and not metric.of_split:
        groups = [group["value"].to_list() for _, group in pd.concat([own, members]).groupby("split_seed")]
        floor = noise_floor(groups)
        return (np.nan, 0) if isinstance(floor, Empty) else (floor, _pairs(groups))
    return np.nan, 0


def _pairs(groups: Iterable[list[float]]) -> int:
    return sum(len(group) * (len(group) - 1) // 2 for group in groups)
