"""The noise floor: how far other honest retrains lie from the oracles of a suite's runs.

A gap to the oracle means nothing below the distance between two oracles, so that distance stands beside every gap. It
is measured as the methods' is: in every run, to that run's oracle. The members of a bank are dealt to the runs of their
split, so that no model stands in two runs, and runs are independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from unlearnbench.judge.comparing import Sets, restored
from unlearnbench.judge.stats import crossed, summarise, with_scores
from unlearnbench.measure.scoring import score
from unlearnbench.plan.cells import Cell, Row, digest
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Metric
from unlearnbench.plan.suites import Plan
from unlearnbench.store import roster
from unlearnbench.store.folder import Store

PER_RUN = 4  # members of a bank that are dealt to a run at most, where there are several runs
ALONE = 20  # and to a single one: fewer could tell nothing at 5%
COLUMNS = ["dataset", "model", "scenario", "split_seed", "seed", "metric", "value"]
PLACE = ["dataset", "scenario", "metric"]
Runs = dict[tuple[int, int], list[float]]  # scores by split seed and seed
FLOORS = [*PLACE, "floor", "low", "high", "runs", "models"]

# --- the members of the banks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunMembers:
    """Members of a bank, by the keys of their outputs, and the oracle's row of the run that they are dealt to."""

    oracle: Row
    members: tuple[str, ...]

    @property
    def key(self) -> str:
        """Names the scores of the members."""
        return digest(["dealt", self.oracle.key, self.members])


def members_by_run(plan: Plan, store: Store) -> list[RunMembers]:
    """What the banks of a plan deal to each run: every n-th member to each of a split's n runs that have an oracle."""
    runs: dict[str, dict[str, Cell]] = {}  # by bank the cells of its oracles: one each, under whatever label
    for entry in plan.entries if plan.bank else ():
        if entry.role == "oracle":
            runs.setdefault(entry.cell.bank_key, {}).setdefault(entry.cell.group, entry.cell)
    found = []
    for cells in runs.values():
        rows = [row for cell in cells.values() if (row := store.row(cell)) is not None and row.status == "ok"]
        if rows:
            members = roster.stored("oracles", rows[0].cell, min(plan.bank, max(ALONE, PER_RUN * len(rows))), store)
            found += [RunMembers(row, own) for i, row in enumerate(rows) if (own := members[i :: len(rows)])]
    return found


def score_banks(plan: Plan, store: Store, metrics: Mapping[str, Metric], workers: int = 1) -> None:
    """Score the members of every bank that a run is dealt, by the metrics that outputs alone bear."""
    Parallel(workers)(delayed(_score_members)(store, run, metrics) for run in members_by_run(plan, store))


def _score_members(store: Store, run: RunMembers, metrics: Mapping[str, Metric]) -> None:
    wanted = {n: m for n, m in metrics.items() if not m.of_split and set(m.needs) <= {"oracle"}}
    basis = digest([run.oracle.evidence_sha256, {name: metric.version for name, metric in wanted.items()}])
    if store.scores(run.key).get("basis") == basis:
        return
    split, oracle = store.split(run.oracle.cell), restored(store, run.oracle)
    values: dict[str, list[float]] = {name: [] for name in wanted}
    for i, key in enumerate(run.members):
        outputs = Sets(store.outputs(key), split)
        member = Evidence(outputs, oracle.labels, oracle.forget_classes, np.empty((0, 2)), {}, {}, i)
        for name, found in score(member, Context(oracle=oracle), wanted).items():
            if found.value is not None:
                values[name].append(found.value)
    store.put_bank_scores(run.key, {"basis": basis, "values": values})


def retrains(plan: Plan, store: Store) -> pd.DataFrame:
    """One line for each metric of each member of the banks, in the run that it is dealt to (`COLUMNS`)."""
    labels: dict[str, set[str]] = {}  # of each oracle: two scenarios of a suite may be the same
    for entry in plan.entries:
        if entry.role == "oracle":
            labels.setdefault(entry.cell.key, set()).add(entry.scenario)
    lines: list[list[Any]] = []
    for run in members_by_run(plan, store):
        cell, values = run.oracle.cell, store.scores(run.key).get("values", {})
        for scenario in sorted(labels[run.oracle.key]):
            place = [cell.dataset.name, cell.model.name, scenario, cell.split_seed, cell.seed]
            lines += [[*place, metric, value] for metric, found in values.items() for value in found]
    return pd.DataFrame(lines, columns=COLUMNS)


# --- how far they lie from the oracles -------------------------------------------------------------------------------


def honest(values: pd.DataFrame, banks: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """The `stats.with_scores` of the honest retrains beside the oracles, those of the ``banks`` (`retrains`) and those
    among the controls: one line each, with the run they are compared in; ``control`` says which are controls.

    Metrics that have a gap to the oracle or are a distance to it; what compares banks has a null of its own.
    """
    wanted = {name: metric for name, metric in metrics.items() if has_floor(metric)}
    known = values[values["stands_for"] == "retrained"]
    others = banks.assign(role="bank", note="", method="", low=np.nan, high=np.nan)
    lines = with_scores(pd.concat([known, others], ignore_index=True), wanted)
    lines = lines[(lines["role"] != "oracle") & lines["score"].notna()]
    return lines.assign(control=lines["role"] == "control")


def has_floor(metric: Metric) -> bool:
    """Whether it has a gap to the oracle, or is a distance to it."""
    if metric.of_split:
        return False
    return metric.family == "oracle-distance" if metric.relative else metric.better == "oracle"


def floors(retrained: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """By dataset, scenario and metric the noise floor (`FLOORS`): the mean over the runs of the mean distance of the
    run's honest retrains (`honest`) to its oracle, ``low`` and ``high`` ends of its 95% t interval over ``runs``, and
    ``models``, the independent models behind it, the oracles among them. Of a likeness that is high near the oracle it
    is the mean likeness. Where runs share splits and seeds there is no interval. Censored retrains are left out,
    so that their floor is too low.
    """
    lines = []
    for place, own in retrained.groupby(PLACE, sort=False):
        sign = -1 if metrics[str(place[-1])].better == "high" else 1
        runs = own.groupby(["model", "split_seed", "seed"], sort=False)["score"].mean()
        mean = summarise(sign * runs)
        low, high = float(np.maximum(0, mean.low)), mean.high  # no distance, and no likeness, is below 0
        if crossed((split, seed) for _, split, seed in runs.index):
            low = high = np.nan
        lines.append([*place, mean.mean, low, high, mean.n, len(own) + len(runs)])
    return pd.DataFrame(lines, columns=FLOORS)


def by_run(retrained: pd.DataFrame, *, controls: bool) -> dict[tuple[str, str, str], Runs]:
    """The scores of `honest`, with or without the controls, by place and then by run."""
    kept = retrained if controls else retrained[~retrained["control"]]
    found: dict[tuple[str, str, str], Runs] = {}
    columns = [*PLACE, "split_seed", "seed", "score"]
    for dataset, scenario, metric, split, seed, value in kept[columns].itertuples(index=False):
        found.setdefault((dataset, scenario, metric), {}).setdefault((split, seed), []).append(value)
    return found
