"""Scoring: what one metric writes, no other reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unlearnbench.measure.scoring import score
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Metric

SUM = Metric("sum", "Sum", "x", "utility", "high", lambda *_: 0.0, "Of what it is given.")
NAMES = ("forget", "retain", "test")


def logits() -> dict[str, np.ndarray]:
    return {name: np.ones((4, 2), np.float32) for name in NAMES}


def evidence() -> Evidence:
    labels = {name: np.ones(4, int) for name in NAMES}
    return Evidence(logits(), labels, (), np.ones((3, 2)), {}, {}, seed=0, representations=logits())


PLACES: dict[str, Callable[[Evidence, Context], Any]] = {
    "logits": lambda e, c: e.logits["test"],
    "labels": lambda e, c: e.labels["forget"],
    "representations": lambda e, c: e.representations["retain"],
    "curve": lambda e, c: e.curve,
    "the oracle's logits": lambda e, c: c.oracle.logits["test"] if c.oracle else None,
    "the original's": lambda e, c: c.original["test"] if c.original else None,
    "a bank": lambda e, c: c.bank["test"] if c.bank else None,
    "shadows": lambda e, c: c.shadows["out"] if c.shadows else None,
}


@pytest.mark.parametrize("where", PLACES)
def test_a_metric_that_writes_into_what_it_is_given_fails_and_the_next_is_unharmed(where: str) -> None:
    def write(own: Evidence, context: Context) -> float:
        PLACES[where](own, context)[:] = 0
        return 1.0

    def read(own: Evidence, context: Context) -> float:
        return float(np.sum(PLACES[where](own, context)))

    bank, shadows = {name: np.ones((2, 4, 2)) for name in NAMES}, {"unlearned": np.ones((3, 4)), "out": np.ones((3, 4))}
    context = Context(evidence(), logits(), logits(), bank, bank, shadows)
    alone = score(evidence(), context, {"sum": replace(SUM, fn=read)})["sum"]
    metrics = {"writes": replace(SUM, name="writes", fn=write), "sum": replace(SUM, fn=read)}
    found = score(evidence(), context, metrics)
    assert (found["writes"].reason, found["sum"]) == ("metric_error", alone)
    assert "read-only" in found["writes"].note
