"""The suite testing itself: does each metric put the controls where its family says they belong?

What is expected is written here, by family (``stands_for`` says which truth a control is). How near is near enough was
settled while the suites on digits were first run, so their verdicts are no independent test of these rules:

- *leakage*: the original differs from the oracle, and by more than an honest retrain does; that lies within the noise
  floor. Of an attack on banks of models AUC and accuracy of an honest retrain are within .05 of .5, and what it finds
  in the original lies above.
- *oracle-distance*: models without use lie farther from the oracle than the other controls; an honest retrain lies
  within the null; the original lies outside.
- *utility*: an honest retrain lies within the noise floor, some other control outside.
- *relearning*: the original relearns before the oracle.
- *cost*: the original costs nothing, an honest retrain what the oracle costs.

"Within" means that the 95% t interval of the mean gap over seeds reaches into ± the noise floor (`floor.floors`), or
that the gap does where there is one seed, or runs share splits and seeds. An honest retrain is judged by the floor
without the controls, and not at all where no bank says how far other retrains lie apart. Where the original cannot be
told from the oracle the metric is *uninformative* in that scenario: it says nothing there, whatever it ranks first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from unlearnbench.judge.stats import crossed, summarise
from unlearnbench.plan.spec import Metric

Verdict = Literal["pass", "fail", "uninformative"]
COLUMNS = ["dataset", "scenario", "metric", "control", "verdict", "reason"]
ORDER = {"fail": 0, "uninformative": 1, "pass": 2}
NOTHING = (np.nan, np.nan)  # floors where none is known
NULL = 0.05  # how far from .5 the AUC or the accuracy of a null may be
SLACK = 1.25  # the factor within which a distance between banks is that of two honest ones
TIE = 1.01  # a distance that is larger by less is the same: some have a largest value, which several controls reach


@dataclass(frozen=True)
class Place:
    """Where a metric puts a control: its distance from the oracle's value, mean and ends of the 95% interval over
    seeds; its mean value; and the lowest and highest end of the values' own intervals, if they have any."""

    distance: float
    low: float
    high: float
    value: float
    ends: tuple[float, float] | None = None

    def beyond(self, floor: float) -> bool:
        """Whether the whole interval lies farther from the oracle than ``floor``, on either side; unknown, it is 0."""
        floor = 0.0 if np.isnan(floor) else floor
        low, high = (self.distance, self.distance) if np.isnan(self.low) else (self.low, self.high)
        return low > floor or high < -floor

    def differs(self, floor: float) -> bool:
        """Whether the mean gap over seeds is not 0, by its interval; of one seed, whether it is above the floor."""
        return self.beyond(floor if np.isnan(self.low) else 0.0)


def validate(values: pd.DataFrame, floors: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """One line for each dataset, scenario, metric and control with ``verdict`` and ``reason`` (`COLUMNS`); metrics that
    have no value for the oracle or for any control have none. ``floors`` are those of `floor.floors`."""
    known = floors.set_index(["dataset", "scenario", "metric"])[["floor", "apart"]].apply(tuple, axis=1).to_dict()
    there = values[values["value"].notna() & (values["role"] != "method")]
    lines = []
    for key, rows in there.groupby(["dataset", "scenario", "metric"], sort=False):
        metric = metrics[str(key[2])]
        places = dict(_places(rows.assign(seed=0) if metric.of_split else rows))  # it has one run for each split
        check = CHECKS[metric.family]
        for control, verdict, reason in check(metric, places, *known.get(key, NOTHING)) if places else ():
            lines.append([*key, control, verdict, reason])
    return pd.DataFrame(lines, columns=COLUMNS)


def overall(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The worst verdict of each dataset, scenario and metric, with the reasons for it."""
    lines = []
    for key, rows in verdicts.groupby(["dataset", "scenario", "metric"], sort=False):
        worst = min(rows["verdict"], key=ORDER.__getitem__)
        of_worst = rows[rows["verdict"] == worst]
        reason = "" if worst == "pass" else "; ".join(dict.fromkeys(of_worst["reason"]))
        lines.append([*key, worst, reason])
    return pd.DataFrame(lines, columns=["dataset", "scenario", "metric", "verdict", "reason"])


# --- where the controls are ------------------------------------------------------------------------------------------


def _places(rows: pd.DataFrame) -> Iterator[tuple[str, Place]]:
    """The oracle as "oracle", and each control as what it stands for and its name, "original:identity"."""
    lines = rows[["role", "stands_for", "method", "model", "split_seed", "seed", "value", "low", "high"]]
    runs: dict[str, dict[tuple[str, int, int], tuple[float, float, float]]] = {}
    for role, stands_for, method, *run, value, low, high in lines.itertuples(index=False, name=None):
        name = "oracle" if role == "oracle" else f"{stands_for}:{method}"
        runs.setdefault(name, {})[tuple(run)] = (value, low, high)
    oracle = runs.get("oracle", {})
    for name, found in runs.items():
        gaps = summarise(value - oracle[run][0] for run, (value, *_) in found.items() if run in oracle)
        if crossed((split, seed) for _, split, seed in found):
            gaps = replace(gaps, low=np.nan, high=np.nan)
        values, lows, highs = (np.array(column) for column in zip(*found.values(), strict=True))
        ends = None if np.isnan(lows).any() else (float(lows.min()), float(highs.max()))
        if gaps.n:
            yield name, Place(gaps.mean, gaps.low, gaps.high, float(values.mean()), ends)


def _standing(places: Mapping[str, Place], what: str) -> Iterator[tuple[str, Place]]:
    """Name and place of each control that stands for something."""
    return ((name.partition(":")[2], place) for name, place in places.items() if name.partition(":")[0] == what)


Found = Iterator[tuple[str, Verdict, str]]


def _passes(right: bool, otherwise: Verdict, reason: str) -> tuple[Verdict, str]:
    return ("pass", "") if right else (otherwise, reason)


def _retrained(places: Mapping[str, Place], apart: float) -> Found:
    for name, place in _standing(places, "retrained"):
        if not np.isnan(apart):
            reason = f"it tells an honest retrain from the oracle: gap {place.distance:.3g}, floor {apart:.3g}"
            yield name, *_passes(not place.beyond(apart), "fail", reason)


# --- what each family expects ----------------------------------------------------------------------------------------


def _leakage(metric: Metric, places: Mapping[str, Place], floor: float, apart: float) -> Found:
    originals, honest = list(_standing(places, "original")), list(_standing(places, "retrained"))
    if metric.of_split:
        for name, place in honest if metric.unit in ("AUC", "accuracy") else ():
            off = abs(place.value - 0.5)
            yield name, *_passes(off <= NULL, "fail", f"its null is .5, not {place.value:.3f}")
        for name, place in originals:
            above = all(_above(place, other) for other in [places["oracle"], *dict(honest).values()])
            yield name, *_passes(above, "uninformative", "the original leaks no more than a retrain")
        return
    yield from _retrained(places, apart)
    for name, place in originals:
        if not place.differs(floor):
            yield name, "uninformative", "it does not tell the original from the oracle"
        elif any(abs(other.distance) >= abs(place.distance) for _, other in honest):
            yield name, "fail", "an honest retrain lies as far from the oracle as the original"
        else:
            yield name, "pass", ""


def _above(place: Place, other: Place) -> bool:
    """Whether an interval lies above another; of values without intervals, the values."""
    low, high = place.ends[0] if place.ends else place.value, other.ends[1] if other.ends else other.value
    return low > high


def _oracle_distance(metric: Metric, places: Mapping[str, Place], floor: float, apart: float) -> Found:
    """A relative metric is a distance already; of the others it is the gap to the oracle's value."""
    if metric.of_split:
        floor, places = _of_bank(metric, places)
        apart = floor
    elif metric.relative:
        if metric.better != "low":
            floor, apart = (abs(level - places["oracle"].value) for level in (floor, apart))
        places = {name: _from_best(metric, place, places["oracle"]) for name, place in places.items()}
    yield from _retrained(places, apart)
    others = [*_standing(places, "original"), *_standing(places, "retrained")]
    for name, place in _standing(places, "original"):
        outside = place.beyond(floor)
        yield name, *_passes(outside, "uninformative", "it does not tell the original from the oracle")
    for name, place in _standing(places, "useless"):
        nearer = [other for other, at in others if abs(at.distance) > TIE * abs(place.distance)]
        yield name, *_passes(not nearer, "fail", f"it ranks {name}, a useless model, before {' and '.join(nearer)}")


def _from_best(metric: Metric, place: Place, oracle: Place) -> Place:
    """A distance to the oracle as a gap: from the oracle's own value, upwards where it is worse."""
    sign = -1 if metric.better == "high" else 1
    ends = sorted((sign * place.low, sign * place.high))
    return Place(sign * place.distance, ends[0], ends[1], place.value)


def _of_bank(metric: Metric, places: Mapping[str, Place]) -> tuple[float, dict[str, Place]]:
    """The oracle's line is the null of the bank: distances count from it, and up to `SLACK` times it are the null's."""
    null = places["oracle"].value
    floor = abs(null) * (SLACK - 1 if metric.better != "high" else 1 - 1 / SLACK)
    sign = -1 if metric.better == "high" else 1
    return floor, {
        name: Place(sign * p.distance if metric.better != "oracle" else p.distance, np.nan, np.nan, p.value)
        for name, p in places.items()
    }


def _utility(metric: Metric, places: Mapping[str, Place], floor: float, apart: float) -> Found:
    yield from _retrained(places, apart)
    useless = list(_standing(places, "useless"))
    told = [name for name, at in [*_standing(places, "original"), *useless] if at.beyond(floor)]
    if useless and not told:
        yield useless[0][0], "fail", "it tells no control from the oracle"
    for name in told:
        yield name, "pass", ""


def _relearning(metric: Metric, places: Mapping[str, Place], floor: float, apart: float) -> Found:
    for name, place in _standing(places, "original"):
        if not place.differs(floor):
            yield name, "uninformative", "the original does not relearn before the oracle"
        else:
            yield name, *_passes(place.distance < 0, "fail", "the original relearns after the oracle")


def _cost(metric: Metric, places: Mapping[str, Place], floor: float, apart: float) -> Found:
    oracle = places["oracle"].value
    if metric.better != "low" or not oracle:
        return
    for name, place in _standing(places, "original"):
        free = place.value <= 0.01 * oracle
        yield name, *_passes(free, "fail", f"leaving the model alone costs {place.value / oracle:.0%}")
    for name, place in _standing(places, "retrained"):
        same = 0.5 <= place.value / oracle <= 2
        yield name, *_passes(same, "fail", f"another retrain costs {place.value / oracle:.0%}")


CHECKS: Mapping[str, Callable[[Metric, Mapping[str, Place], float, float], Found]] = {
    "utility": _utility,
    "leakage": _leakage,
    "oracle-distance": _oracle_distance,
    "relearning": _relearning,
    "cost": _cost,
}
