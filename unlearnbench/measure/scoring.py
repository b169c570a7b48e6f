"""Evidence to scores: every metric of a row, absolute ones first, then those that compare with the oracle."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np

from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Estimate, Metric, Need

LACKING: dict[Need, str] = {
    "oracle": "no_oracle",
    "original": "not_measured",
    "untrained": "not_measured",
    "bank": "small_bank",
    "unlearned": "small_bank",
    "shadows": "small_bank",
}
WHAT: dict[Need, str] = {
    "bank": "oracles",
    "unlearned": "models that the method made",
    "shadows": "shadow runs per side",
}


@dataclass(frozen=True)
class Score:
    """One metric of one row as it is stored: ``dataclasses.asdict`` is JSON, ``Score(**d)`` reads it back.

    ``value`` is None where there is none; ``reason`` is then a key of `spec.REASONS` and ``note`` its sentence.
    Elsewhere ``note`` is the metric's own, such as the size of an attack, and ``low`` and ``high`` are the ends of its
    interval, if it has one. ``version`` is that of the metric, ``basis`` says what it was compared with.
    """

    value: float | None
    note: str = ""
    reason: str = ""
    version: int = 1
    low: float | None = None
    high: float | None = None
    basis: str = ""


def score(
    evidence: Evidence, context: Context, metrics: Mapping[str, Metric], *, first: bool = True
) -> dict[str, Score]:
    """Score a row by every metric, in the order of ``metrics``, and fill ``evidence.scores``.

    ``context.oracle`` is scored before (or the row itself, if it is the oracle's). ``first``: the row is the one that
    speaks for its split. A metric that raises or returns no finite number is empty with the reason ``metric_error``;
    the others go on. Arrays become read-only: what one metric wrote into them, all later ones would read.
    """
    for array in _arrays(evidence, context):
        array.setflags(write=False)
    scores = {}
    for name, metric in sorted(metrics.items(), key=lambda item: item[1].relative):
        value, note = _evaluate(metric, evidence, context, first)
        if isinstance(value, Empty):
            evidence.scores[name] = value
            scores[name] = Score(None, str(value), value.reason, metric.version)
        elif isinstance(value, Estimate):
            evidence.scores[name] = value.value
            scores[name] = Score(value.value, note, "", metric.version, value.low, value.high)
        else:
            evidence.scores[name] = value
            scores[name] = Score(value, note, version=metric.version)
    return {name: scores[name] for name in metrics}


def _arrays(evidence: Evidence, context: Context) -> Iterator[np.ndarray]:
    """The arrays that metrics share. A mapping that is no dict makes new ones each time that it is asked."""
    rows = [row for row in (evidence, context.oracle) if row is not None]
    yield from (row.curve for row in rows)
    groups = [group for row in rows for group in (row.logits, row.labels, row.representations)]
    groups += [getattr(context, need) for need in LACKING if need != "oracle"]
    for group in groups:
        if isinstance(group, dict):
            yield from group.values()


def _evaluate(
    metric: Metric, evidence: Evidence, context: Context, first: bool
) -> tuple[float | Estimate | Empty, str]:
    if (lacking := _lacking(metric, context, first)) is not None:
        return lacking, ""
    try:
        value = metric.fn(evidence, context)
        note = metric.note(evidence) if metric.note else ""
    except Exception as error:  # a plugin's metric may raise anything
        return Empty("metric_error", f"{type(error).__name__}: {error}"), ""
    if isinstance(value, Empty):
        return value, ""
    numbers = [value.value, value.low, value.high] if isinstance(value, Estimate) else [value]
    if not all(isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x) for x in numbers):
        return Empty("metric_error", f"it returned {reprlib.repr(value)}, expected a finite number or Empty"), ""
    if isinstance(value, Estimate):
        return Estimate(*(float(x) for x in numbers)), note
    return float(numbers[0]), note


def _lacking(metric: Metric, context: Context, first: bool) -> Empty | None:
    if metric.of_split and not first:
        return Empty("of_split")
    for need, count in metric.needs.items():
        if (there := context.size(need)) < count:
            return Empty(LACKING[need], f"{count} {WHAT[need]} needed, {there} there" if need in WHAT else "")
    return None
