"""Relearning: golden cases, and for every metric plausible bugs that the same cases must reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from metric_cases import Case, golden_tests

from unlearnbench.measure.metrics import relearning
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric

RECORDS = {record.name: record for record in vars(relearning).values() if isinstance(record, Metric)}


SCALARS = {
    "relearn_steps": 37.0, "relearn_steps_censored": 0.0, "relearn_time": 1.5, "golatkar_epochs": 12.0,
    "golatkar_epochs_censored": 0.0, "ain_steps": 6.0, "ain_steps_censored": 0.0,
}  # fmt: skip
PLAIN = Evidence(
    logits={}, labels={}, forget_classes=(), curve=np.array([[1, -5.0], [101, 3.0], [201, 9.0]]), scalars=SCALARS,
    cost={"seconds": 2.0}, seed=0,
)  # fmt: skip
ABSENT = replace(PLAIN, curve=np.empty((0, 2)), scalars=dict.fromkeys(PLAIN.scalars))
BARE = replace(ABSENT, scalars={})


def measured(curve: list[list[float]] | None = None, **scalars: float) -> Evidence:
    return replace(PLAIN, scalars=SCALARS | scalars, curve=PLAIN.curve if curve is None else np.array(curve))


STEPS_CAPPED = measured(relearn_steps=1000.0, relearn_time=12.345, relearn_steps_censored=1.0)
EPOCHS_CAPPED = measured(golatkar_epochs=100.0, golatkar_epochs_censored=1.0)
AIN_CAPPED = measured(ain_steps=1000.0, ain_steps_censored=1.0)
SLOW = measured(ain_steps=24.0, relearn_steps=50.0)
READY = measured(ain_steps=0.0)
ORACLE_CURVE = measured([[1, 6.0], [101, 6.0], [301, 0.0]])
SHIFTED_CURVE = measured([[2, 6.0]])

GOLDEN = {
    "relearn_steps": [
        Case(PLAIN, 37.0),
        Case(measured(relearn_steps=0.0), 0.0),
        Case(STEPS_CAPPED, 1000.0),
        Case(ABSENT, "not_measured"),
        Case(BARE, "not_measured"),
    ],
    "relearn_time": [Case(PLAIN, 1.5), Case(STEPS_CAPPED, 12.345), Case(ABSENT, "not_measured")],
    "relearn_golatkar": [Case(PLAIN, 12.0), Case(EPOCHS_CAPPED, 100.0), Case(BARE, "not_measured")],
    "ain": [
        Case(PLAIN, 0.25, SLOW),
        Case(SLOW, 4.0, PLAIN),
        Case(READY, 0.0, PLAIN),
        Case(PLAIN, "no_partner", READY),
        Case(READY, "no_partner", READY),
        Case(AIN_CAPPED, 1000 / 24, SLOW),  # a lower bound, and its note says so
        Case(PLAIN, "oracle_censored", AIN_CAPPED),
        Case(ABSENT, "not_measured", PLAIN),
        Case(PLAIN, "not_measured", BARE),
        Case(PLAIN, "no_oracle"),
    ],
    "relearn_curve": [Case(PLAIN, 7 / 3), Case(ABSENT, "not_measured")],
    "relearn_gap": [
        Case(PLAIN, 7.0, ORACLE_CURVE),
        Case(PLAIN, 0.0, PLAIN),
        Case(ABSENT, "not_measured", PLAIN),
        Case(PLAIN, "oracle_empty", ABSENT),
        Case(PLAIN, "oracle_empty", SHIFTED_CURVE),
        Case(PLAIN, "no_oracle"),
    ],
}

# --- planted bugs ----------------------------------------------------------------------------------------------------


def curves(bug: Callable[[np.ndarray, np.ndarray], float]) -> Callable[..., Any]:
    return lambda own, context: bug(own.curve, context.oracle.curve)


def steps(bug: Callable[[float, float], float], name: str = "ain_steps") -> Callable[..., Any]:
    """`relearning.anamnesis` with another quotient, or of other counts."""

    def measure(own: Evidence, context: Context) -> float | Empty:
        assert context.oracle is not None
        value = relearning.anamnesis(own, context)
        return value if isinstance(value, Empty) else bug(own.scalars[name], context.oracle.scalars[name])

    return measure


def without_censoring(own: Evidence, context: Context) -> float | Empty:
    assert context.oracle is not None
    return relearning.anamnesis(
        own, Context(replace(context.oracle, scalars={**context.oracle.scalars, "ain_steps_censored": 0.0}))
    )


def mean_abs(values: Any) -> float:
    return float(np.abs(values).mean())


MUTANTS: list[tuple[str, str, Callable[..., Any]]] = [
    ("relearn_steps", "seconds", relearning.RELEARN_TIME.fn),
    (
        "relearn_steps",
        "0 when censored",
        lambda e, _: e.scalars["relearn_steps"] * (1 - e.scalars["relearn_steps_censored"]),
    ),
    ("relearn_steps", "0 when not measured", lambda e, _: e.scalars.get("relearn_steps") or 0.0),
    ("relearn_steps", "0 as not measured", lambda e, _: e.scalars.get("relearn_steps") or Empty("not_measured")),
    ("relearn_time", "steps", relearning.RELEARN_STEPS.fn),
    ("relearn_time", "the method's", lambda e, _: e.cost["seconds"]),
    ("relearn_golatkar", "steps", relearning.RELEARN_STEPS.fn),
    ("relearn_golatkar", "draws", lambda e, _: 500 * e.scalars["golatkar_epochs"]),
    ("relearn_golatkar", "0 when not measured", lambda e, _: e.scalars.get("golatkar_epochs", 0.0)),
    ("ain", "inverted", steps(lambda own, its: its / own if own else 0.0)),
    ("ain", "difference", steps(lambda own, its: own - its)),
    ("ain", "percent", steps(lambda own, its: 100 * own / its)),
    ("ain", "one step more", steps(lambda own, its: (own + 1) / (its + 1))),
    ("ain", "of the relearn steps", steps(lambda own, its: own / its, "relearn_steps")),
    ("ain", "a censored oracle counts", without_censoring),
    (
        "ain",
        "an oracle that is ready counts",
        lambda e, c: e.scalars["ain_steps"] / max(1, c.oracle.scalars["ain_steps"]),
    ),
    ("relearn_curve", "last point", lambda e, _: e.curve[-1, 1]),
    ("relearn_curve", "absolute", lambda e, _: mean_abs(e.curve[:, 1])),
    ("relearn_curve", "mean of all", lambda e, _: e.curve.mean()),
    ("relearn_curve", "area", lambda e, _: np.trapezoid(e.curve[:, 1], e.curve[:, 0]) / 200),
    ("relearn_gap", "no absolute value", curves(lambda a, b: (a[:2, 1] - b[:2, 1]).mean())),
    ("relearn_gap", "of the means", curves(lambda a, b: abs(a[:, 1].mean() - b[:, 1].mean()))),
    ("relearn_gap", "by position", curves(lambda a, b: mean_abs(a[:, 1] - b[:, 1]))),
    ("relearn_gap", "root mean square", curves(lambda a, b: float(np.square(a[:2, 1] - b[:2, 1]).mean() ** 0.5))),
    ("relearn_gap", "own curve alone", lambda e, _: mean_abs(e.curve[:, 1])),
]


test_golden, test_the_golden_cases_reject_a_planted_bug, test_every_metric_has_golden_cases_and_a_planted_bug = (
    golden_tests(RECORDS, GOLDEN, MUTANTS)
)


@pytest.mark.parametrize(
    ("name", "evidence", "note"),
    [
        ("relearn_steps", PLAIN, ""),
        ("relearn_steps", STEPS_CAPPED, ">1000"),
        ("relearn_steps", EPOCHS_CAPPED, ""),
        ("relearn_steps", ABSENT, ""),
        ("relearn_time", PLAIN, ""),
        ("relearn_time", STEPS_CAPPED, ">12.35"),
        ("relearn_golatkar", STEPS_CAPPED, ""),
        ("relearn_golatkar", EPOCHS_CAPPED, ">100"),
        ("ain", PLAIN, ""),
        ("ain", STEPS_CAPPED, ""),
        ("ain", AIN_CAPPED, ">1000 steps"),  # of the steps, since the value is a ratio
        ("ain", BARE, ""),
    ],
)
def test_a_censored_value_says_so_in_its_note(name: str, evidence: Evidence, note: str) -> None:
    describe = RECORDS[name].note
    assert describe is not None
    assert describe(evidence) == note
