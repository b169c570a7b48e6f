"""Accuracies on the sets of a split."""

from __future__ import annotations

import numpy as np

from unlearnbench.measure.metrics import Measure
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric, Tolerance

TOLERANCE = Tolerance(1.0)  # a point


def accuracy(subset: str) -> Measure:
    """Percent of D_f (``"forget"``), D_r (``"retain"``) or the test set that is classified as labelled."""
    return lambda evidence, _: _accuracy(evidence, subset)


def class_accuracy(forgotten: bool) -> Measure:
    """Percent of the test set right on the forgotten classes alone, or on all the others."""

    def measure(evidence: Evidence, _: Context) -> float | Empty:
        if not evidence.forget_classes:
            return Empty("no_class")
        return _accuracy(evidence, "test", np.isin(evidence.labels["test"], evidence.forget_classes) == forgotten)

    return measure


def _accuracy(evidence: Evidence, subset: str, where: np.ndarray | None = None) -> float | Empty:
    right = evidence.logits[subset].argmax(axis=1) == evidence.labels[subset]
    right = right if where is None else right[where]
    return 100 * float(right.mean()) if len(right) else Empty("too_few", f"no {subset} sample of these classes")


def _record(name: str, label: str, measure: Measure, doc: str) -> Metric:
    return Metric(name, label, "%", "utility", "oracle", measure, doc, tolerance=TOLERANCE)


FA = _record("fa", "FA", accuracy("forget"), doc="Accuracy on the forget set D_f.")
RA = _record("ra", "RA", accuracy("retain"), doc="Accuracy on the retain set D_r.")
TA = _record("ta", "TA", accuracy("test"), doc="Accuracy on the test set.")
TA_R = _record(
    "ta_r", "TA-r", class_accuracy(forgotten=False),
    doc="Accuracy on the test samples of all but the forgotten classes; class scenarios only.",
)  # fmt: skip
TA_F = _record(
    "ta_f", "TA-f", class_accuracy(forgotten=True),
    doc="Accuracy on the test samples of the forgotten classes; class scenarios only.",
)  # fmt: skip
