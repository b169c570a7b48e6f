"""The suite testing itself: does each metric put the controls where its family says they belong?

What is expected is written here, by family (``stands_for`` says which truth a control is). How near is near enough was
settled while the suites on digits were first run, so their verdicts are no independent test of these rules:

- *leakage*: the original lies beyond the noise floor. Of an attack on banks of models an honest retrain is within .05
  of the null (.5, or 0 of a difference), and what the attack finds in the original lies above.
- *oracle-distance*: models without use lie farther from the oracle than the other controls; the original lies beyond
  the noise floor. Between banks of models a retrain lies within 1.25 times the null, the original above it.
- *utility*: some control that is no honest retrain lies beyond the noise floor.
- *relearning*: the original relearns before the oracle.
- *cost*: the original costs nothing, an honest retrain what the oracle costs.

"Beyond the noise floor" is a test (`inference.beyond`, 5%): the control does not pass for one more honest retrain. An
honest retrain passes where a test shows it equivalent to the oracle, within the metric's tolerance; it fails where it
does not pass for one of the others, those of the banks; else it is *not contradicted*, which proves nothing. Of banks
of models the intervals are compared: what they leave open is not contradicted. Where the original was not told from the
oracle the metric is *uninformative* in that scenario, whatever it ranks first. Where too few runs or retrains are there
for a test to find anything, as with a single seed, that is *not tested*. A test raises a false alarm in at most one of
twenty cases, and with few runs it misses much (benchmarks/calibration.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from unlearnbench.judge.floor import PLACE, Runs, by_run, has_floor
from unlearnbench.judge.inference import ALPHA, beyond, equivalent
from unlearnbench.judge.stats import crossed, summarise, with_scores
from unlearnbench.plan.spec import Metric

Verdict = Literal["pass", "not contradicted", "not tested", "uninformative", "fail"]
COLUMNS = [*PLACE, "control", "verdict", "reason"]
ORDER = {"fail": 0, "uninformative": 1, "not tested": 2, "not contradicted": 3, "pass": 4}
DOUBTED = ("fail", "uninformative")  # of a metric with such a verdict nothing can be concluded
NULLS = {"AUC": 0.5, "accuracy": 0.5, "AUC difference": 0.0}  # what attacks on banks of models find in honest ones
NEAR = 0.05  # how far from it an honest retrain may be
SLACK = 1.25  # the factor within which a distance between banks is that of two honest ones
TIE = 1.01  # a distance that is larger by less is the same: some have a largest value, which several controls reach


@dataclass(frozen=True)
class Place:
    """Where a metric puts a control: its gap to the oracle's value, mean and ends of the 95% interval over seeds; its
    mean value; the lowest and highest end of the values' own intervals (the value itself, if they have none); the p
    values that it lies no farther from the oracle than honest retrains, and not within the tolerance, NaN where there
    is no such test. ``crossed``: its runs share splits and seeds, so that nothing is tested."""

    distance: float
    low: float
    high: float
    value: float
    ends: tuple[float, float]
    p_beyond: float = np.nan
    p_same: float = np.nan
    crossed: bool = False

    @property
    def outside(self) -> bool:
        """Whether the interval of the mean gap leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def untested(self) -> tuple[Verdict, str]:
        return "not tested", SHARED if self.crossed else TOO_FEW


def validate(values: pd.DataFrame, honest: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """One line for each dataset, scenario, metric and control with ``verdict`` and ``reason`` (`COLUMNS`); metrics that
    have no value for the oracle or for any control have none. ``honest`` are the retrains of `floor.honest`."""
    everyone, banks = by_run(honest, controls=True), by_run(honest, controls=False)
    there = values[values["value"].notna() & (values["role"] != "method")]
    lines = []
    for (dataset, scenario, name), rows in with_scores(there, metrics).groupby(PLACE, sort=False):
        key, metric = (str(dataset), str(scenario), str(name)), metrics[str(name)]
        if not metric.controlled:
            continue
        places = _places(metric, rows, everyone.get(key, {}), banks.get(key, {}))
        check = CHECKS[metric.family]
        for control, verdict, reason in check(metric, places) if "oracle" in places else ():
            lines.append([*key, control, verdict, reason])
    return pd.DataFrame(lines, columns=COLUMNS)


def overall(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The worst verdict of each dataset, scenario and metric, with the reasons for it."""
    lines = []
    for key, rows in verdicts.groupby(PLACE, sort=False):
        worst = min(rows["verdict"], key=ORDER.__getitem__)
        of_worst = rows[rows["verdict"] == worst]
        reason = "" if worst == "pass" else "; ".join(dict.fromkeys(of_worst["reason"]))
        lines.append([*key, worst, reason])
    return pd.DataFrame(lines, columns=[*PLACE, "verdict", "reason"])


# --- where the controls are ------------------------------------------------------------------------------------------


def _places(metric: Metric, rows: pd.DataFrame, everyone: Runs, banks: Runs) -> dict[str, Place]:
    """The oracle as "oracle", and each control as what it stands for and its name, "original:identity"; those that no
    run compares with the oracle are left out. ``banks`` are the honest retrains that are no controls."""
    rows = rows.assign(seed=0) if metric.of_split else rows  # it has one run for each split
    found = {}
    for (role, stands_for, method), own in rows.groupby(["role", "stands_for", "method"], sort=False):
        name = "oracle" if role == "oracle" else f"{stands_for}:{method}"
        gaps, low, high = summarise(own["gap"]), own["low"].fillna(own["value"]), own["high"].fillna(own["value"])
        if not gaps.n:
            continue
        ends = float(low.min()), float(high.max())
        place = Place(gaps.mean, gaps.low, gaps.high, float(own["value"].mean()), ends)
        runs = list(zip(own["split_seed"], own["seed"], strict=True))
        if crossed(runs):
            place = replace(place, low=np.nan, high=np.nan, crossed=True)
        elif role != "oracle":
            others = banks if stands_for == "retrained" else everyone
            if has_floor(metric):
                place = replace(place, p_beyond=beyond(own["score"].to_list(), [others.get(run, []) for run in runs]))
            if metric.tolerance:
                place = replace(place, p_same=equivalent(own["value"], own["oracle"], metric.tolerance))
        found[name] = place
    return found


def _standing(places: Mapping[str, Place], what: str) -> Iterator[tuple[str, Place]]:
    """Name and place of each control that stands for something."""
    return ((name.partition(":")[2], place) for name, place in places.items() if name.partition(":")[0] == what)


Found = Iterator[tuple[str, Verdict, str]]
UNTOLD = "it does not tell the original from the oracle"
TOO_FEW = "too few runs or retrains for a test"
SHARED = "runs that share splits and seeds bear no test"


def _passes(right: bool, otherwise: Verdict, reason: str) -> tuple[Verdict, str]:
    return ("pass", "") if right else (otherwise, reason)


def _retrained(places: Mapping[str, Place]) -> Found:
    for name, place in _standing(places, "retrained"):
        p = place.p_beyond
        if place.p_same < ALPHA:
            yield name, "pass", ""
        elif np.isnan(p):
            yield name, *place.untested
        elif p < ALPHA:
            yield name, "fail", f"it puts an honest retrain farther from the oracle than others lie (p = {p:.3f})"
        else:
            yield name, "not contradicted", f"no test tells an honest retrain from others (p = {p:.2f})"


def _originals(places: Mapping[str, Place]) -> Found:
    for name, place in _standing(places, "original"):
        told = place.untested if np.isnan(place.p_beyond) else _passes(place.p_beyond < ALPHA, "uninformative", UNTOLD)
        yield name, *told


def _within(place: Place, low: float, high: float, reason: str) -> tuple[Verdict, str]:
    """Whether a control's interval lies within bounds, outside, or across."""
    if place.ends[1] < low or place.ends[0] > high:
        return "fail", reason
    return _passes(low <= place.ends[0] and place.ends[1] <= high, "not contradicted", "its interval leaves that open")


# --- what each family expects ----------------------------------------------------------------------------------------


def _leakage(metric: Metric, places: Mapping[str, Place]) -> Found:
    if not metric.of_split:
        yield from _retrained(places)
        yield from _originals(places)
        return
    honest = dict(_standing(places, "retrained"))
    for name, place in honest.items() if metric.unit in NULLS else ():
        null = NULLS[metric.unit]
        yield name, *_within(place, null - NEAR, null + NEAR, f"its null is {null:g}, not {place.value:.3f}")
    for name, place in _standing(places, "original"):
        above = all(place.ends[0] > other.ends[1] for other in [places["oracle"], *honest.values()])
        yield name, *_passes(above, "uninformative", "it does not find more in the original than in a retrain")


def _oracle_distance(metric: Metric, places: Mapping[str, Place]) -> Found:
    """A relative metric is a distance already; of the others it is the gap to the oracle's value."""
    if metric.of_split:
        yield from _of_banks(metric, places)
    else:
        yield from _retrained(places)
        yield from _originals(places)
    others = [*_standing(places, "original"), *_standing(places, "retrained")]
    for name, place in _standing(places, "useless"):
        nearer = [other for other, at in others if abs(at.distance) > TIE * abs(place.distance)]
        yield name, *_passes(not nearer, "fail", f"it ranks {name}, a useless model, before {' and '.join(nearer)}")


def _of_banks(metric: Metric, places: Mapping[str, Place]) -> Found:
    """The oracle's line is the null: within `SLACK` of it lies what two honest banks are apart."""
    null = places["oracle"]
    low, high = -np.inf, np.inf  # what lies beyond is farther from the oracles than these are apart
    if metric.better != "low":
        low = null.value / SLACK if metric.better == "high" else null.value * (2 - SLACK)
    if metric.better != "high":
        high = null.value * SLACK
    reason = f"it puts an honest retrain more than {SLACK} times as far from the oracles as these are apart"
    for name, place in _standing(places, "retrained"):
        yield name, *_within(place, low, high, reason)
    for name, place in _standing(places, "original"):
        farther = {
            "low": place.ends[0] > max(null.ends[1], high),
            "high": place.ends[1] < min(null.ends[0], low),
            "oracle": place.ends[1] < low or place.ends[0] > high,
        }
        yield name, *_passes(farther[metric.better], "uninformative", UNTOLD)


def _utility(metric: Metric, places: Mapping[str, Place]) -> Found:
    yield from _retrained(places)
    useless = list(_standing(places, "useless"))
    known = [*_standing(places, "original"), *useless]
    told = [name for name, place in known if place.p_beyond < ALPHA]
    if useless and all(np.isnan(place.p_beyond) for _, place in known):
        yield useless[0][0], *useless[0][1].untested
    elif useless and not told:
        yield useless[0][0], "fail", "it tells no control from the oracle"
    for name in told:
        yield name, "pass", ""


def _relearning(metric: Metric, places: Mapping[str, Place]) -> Found:
    for name, place in _standing(places, "original"):
        if np.isnan(place.low):
            yield name, *place.untested
        elif not place.outside:
            yield name, "uninformative", "the original does not relearn before the oracle"
        else:
            yield name, *_passes(place.distance < 0, "fail", "the original relearns after the oracle")


def _cost(metric: Metric, places: Mapping[str, Place]) -> Found:
    oracle = places["oracle"].value
    if metric.better != "low" or not oracle:
        return
    for name, place in _standing(places, "original"):
        free = place.value <= 0.01 * oracle
        yield name, *_passes(free, "fail", f"leaving the model alone costs {place.value / oracle:.0%}")
    for name, place in _standing(places, "retrained"):
        same = 0.5 <= place.value / oracle <= 2
        yield name, *_passes(same, "fail", f"another retrain costs {place.value / oracle:.0%}")


CHECKS: Mapping[str, Callable[[Metric, Mapping[str, Place]], Found]] = {
    "utility": _utility,
    "leakage": _leakage,
    "oracle-distance": _oracle_distance,
    "relearning": _relearning,
    "cost": _cost,
}
