"""Evidence to scores: every metric of a row, absolute ones first, then those that compare with the oracle."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

from unlearnbench.evidence import Evidence
from unlearnbench.spec import Empty, Metric, Row
from unlearnbench.store import Store


@dataclass(frozen=True)
class Score:
    """One metric of one row as it is stored: ``dataclasses.asdict`` is JSON, ``Score(**d)`` reads it back.

    ``value`` is None where there is none; ``reason`` is then a key of `spec.REASONS` and ``note`` its sentence.
    Elsewhere ``note`` is the metric's own, such as the size of an attack. ``version`` is that of the metric.
    """

    value: float | None
    note: str = ""
    reason: str = ""
    version: int = 1


def score(evidence: Evidence, oracle: Evidence | None, metrics: Mapping[str, Metric]) -> dict[str, Score]:
    """Score a row by every metric, in the order of ``metrics``, and fill ``evidence.scores``.

    ``oracle`` is the evidence of the oracle with the same seeds, scored before (or the row itself, if it is the
    oracle's); None if it has not run. A metric that raises or returns no finite number is empty with the reason
    ``metric_error``; the others go on.
    """
    scores = {}
    for name, metric in sorted(metrics.items(), key=lambda item: item[1].relative):
        value, note = _evaluate(metric, evidence, oracle)
        evidence.scores[name] = value
        if isinstance(value, Empty):
            scores[name] = Score(None, str(value), value.reason, metric.version)
        else:
            scores[name] = Score(value, note, version=metric.version)
    return {name: scores[name] for name in metrics}


def _evaluate(metric: Metric, evidence: Evidence, oracle: Evidence | None) -> tuple[float | Empty, str]:
    if metric.relative and oracle is None:
        return Empty("no_oracle"), ""
    try:
        value = metric.fn(evidence, oracle if metric.relative else None)
        note = metric.note(evidence) if metric.note else ""
    except Exception as error:  # a plugin's metric may raise anything
        return Empty("metric_error", f"{type(error).__name__}: {error}"), ""
    if isinstance(value, Empty):
        return value, ""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return Empty("metric_error", f"it returned {reprlib.repr(value)}, expected a finite number or Empty"), ""
    return float(value), note


def score_row(store: Store, row: Row, oracle: Row | None, metrics: Mapping[str, Metric]) -> None:
    """Bring the stored scores of an ``ok`` row up to date: what is missing or of an older version is computed.

    ``oracle`` is the oracle's row of the same seeds, whose own scores are up to date; None if it has not run, or if
    ``metrics`` has no relative one.
    """
    stored = {name: Score(**d) for name, d in store.scores(row.key).items()}
    stale = {name: m for name, m in metrics.items() if _is_stale(stored.get(name), m, oracle)}
    if not stale:
        return
    evidence, reference = _restored(store, row), None
    if oracle is not None and any(m.relative for m in stale.values()):
        # the oracle compares with itself, whose scores may only now be computed: the very same object
        reference = evidence if oracle.key == row.key else _restored(store, oracle)
    scores = score(evidence, reference, stale)
    store.put_scores(row.key, {**stored, **scores})


def _is_stale(score: Score | None, metric: Metric, oracle: Row | None) -> bool:
    return score is None or score.version != metric.version or (score.reason == "no_oracle" and oracle is not None)


def _restored(store: Store, row: Row) -> Evidence:
    evidence = store.evidence(row)
    for name, d in store.scores(row.key).items():
        evidence.scores[name] = Empty(d["reason"]) if d["value"] is None else d["value"]
    return evidence
