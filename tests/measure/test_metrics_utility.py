"""Accuracies: golden cases, and for every metric plausible bugs that the same cases must reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from metric_cases import Case, golden_tests

from unlearnbench.measure.metrics import utility
from unlearnbench.measure.scoring import score
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric

RECORDS = {record.name: record for record in vars(utility).values() if isinstance(record, Metric)}


def outputs(predicted: list[int]) -> np.ndarray:
    return 4 * np.eye(3, dtype=np.float32)[predicted]


# right: forget 1/4, retain 9/10 (of its first four 3), test 5/8 (class 0 1/3, class 1 3/4, class 2 1/1)
PREDICTED = {"forget": [0, 1, 1, 1], "retain": [1, 2, 2, 1, 2, 2, 2, 2, 2, 2], "test": [0, 1, 1, 1, 1, 1, 0, 2]}
LABELS = {"forget": [0, 0, 0, 0], "retain": [1, 1, 2, 1, 2, 2, 2, 2, 2, 2], "test": [0, 0, 0, 1, 1, 1, 1, 2]}
PLAIN = Evidence(
    logits={name: outputs(rows) for name, rows in PREDICTED.items()},
    labels={name: np.array(rows) for name, rows in LABELS.items()},
    forget_classes=(),
    curve=np.empty((0, 2)),
    scalars={},
    cost={},
    seed=0,
)


def classes(*forgotten: int) -> Evidence:
    return replace(PLAIN, forget_classes=forgotten)


def without(name: str) -> Evidence:
    return replace(
        PLAIN,
        logits={**PLAIN.logits, name: np.empty((0, 3), np.float32)},
        labels={**PLAIN.labels, name: np.empty(0, int)},
    )


GOLDEN = {
    "fa": [Case(PLAIN, 25.0), Case(without("forget"), "too_few")],
    "ra": [Case(PLAIN, 90.0), Case(without("retain"), "too_few")],
    "ta": [Case(PLAIN, 62.5), Case(classes(0), 62.5), Case(without("test"), "too_few")],
    "ta_r": [
        Case(PLAIN, "no_class"),
        Case(classes(0), 80.0),
        Case(classes(0, 2), 75.0),
        Case(classes(0, 1, 2), "too_few"),
    ],
    "ta_f": [
        Case(PLAIN, "no_class"),
        Case(classes(0), 100 / 3),
        Case(classes(0, 2), 50.0),
        Case(classes(5), "too_few"),
    ],
}

# --- planted bugs ----------------------------------------------------------------------------------------------------


def percent_right(e: Evidence, name: str, where: Any = slice(None)) -> float:
    return 100 * float((e.logits[name].argmax(1) == e.labels[name])[where].mean())


def kept(e: Evidence) -> np.ndarray:
    return ~np.isin(e.labels["test"], e.forget_classes)


def of_first_class(metric: Metric) -> Callable[..., Any]:
    return lambda e, context: metric.fn(replace(e, forget_classes=e.forget_classes[:1]), context)


MUTANTS: list[tuple[str, str, Callable[..., Any]]] = [
    ("fa", "on retain", lambda e, _: percent_right(e, "retain")),
    ("fa", "unlearning accuracy, 1 - FA", lambda e, _: 100 - percent_right(e, "forget")),
    ("fa", "a fraction", lambda e, _: percent_right(e, "forget") / 100),
    ("ra", "on D_s", lambda e, _: percent_right(e, "retain", slice(4))),
    (
        "ra",
        "of all training data",
        lambda e, _: (4 * percent_right(e, "forget") + 10 * percent_right(e, "retain")) / 14,
    ),
    ("ra", "a fraction", lambda e, _: percent_right(e, "retain") / 100),
    ("ta", "without the class", lambda e, _: percent_right(e, "test", kept(e))),
    ("ta", "class by class", lambda e, _: np.mean([percent_right(e, "test", e.labels["test"] == k) for k in range(3)])),
    ("ta_r", "with the class", lambda e, _: percent_right(e, "test")),
    ("ta_r", "class 0 only", of_first_class(utility.TA_R)),
    ("ta_r", "for all scenarios", lambda e, _: percent_right(e, "test", kept(e))),
    ("ta_f", "on the forget set", lambda e, _: percent_right(e, "forget") if e.forget_classes else Empty("no_class")),
    ("ta_f", "complement", utility.TA_R.fn),
    ("ta_f", "class 0 only", of_first_class(utility.TA_F)),
]


test_golden, test_the_golden_cases_reject_a_planted_bug, test_every_metric_has_golden_cases_and_a_planted_bug = (
    golden_tests(RECORDS, GOLDEN, MUTANTS)
)


# --- invariances -----------------------------------------------------------------------------------------------------


@pytest.fixture
def noisy() -> Evidence:
    """Random outputs that are multiples of 2^-13, so that float32 adds integers under 2^10 without rounding."""
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(3, size=n) for name, n in (("forget", 60), ("retain", 200), ("test", 150))}
    logits = {
        name: (np.round(2**13 * (rng.normal(size=(len(y), 3)) + 2 * np.eye(3)[y])) / 2**13).astype(np.float32)
        for name, y in labels.items()
    }
    return replace(PLAIN, logits=logits, labels=labels, forget_classes=(1,))


def values(evidence: Evidence) -> dict[str, float | None]:
    return {name: own.value for name, own in score(replace(evidence, scores={}), Context(), RECORDS).items()}


def test_a_constant_added_to_the_logits_of_a_row_changes_nothing(noisy: Evidence) -> None:
    rng = np.random.default_rng(1)
    shifted = {
        name: z + rng.integers(-500, 500, size=(len(z), 1)).astype(np.float32) for name, z in noisy.logits.items()
    }
    assert values(replace(noisy, logits=shifted)) == values(noisy)


def test_another_order_of_the_classes_changes_nothing(noisy: Evidence) -> None:
    renamed = replace(
        noisy,
        logits={name: z[:, [2, 0, 1]] for name, z in noisy.logits.items()},
        labels={name: (y + 1) % 3 for name, y in noisy.labels.items()},
        forget_classes=(2,),
    )
    assert values(renamed) == pytest.approx(values(noisy), abs=1e-12)


def test_the_order_of_the_samples_changes_nothing(noisy: Evidence) -> None:
    rng = np.random.default_rng(2)
    order = {name: rng.permutation(len(y)) for name, y in noisy.labels.items()}
    mixed = replace(
        noisy,
        logits={name: z[order[name]] for name, z in noisy.logits.items()},
        labels={name: y[order[name]] for name, y in noisy.labels.items()},
    )
    assert values(mixed) == pytest.approx(values(noisy))
