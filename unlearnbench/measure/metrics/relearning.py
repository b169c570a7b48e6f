"""Relearning: how fast what was forgotten comes back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unlearnbench.measure.metrics import Measure
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric, Tolerance

TOLERANCE = Tolerance(0.1, of_oracle=True)  # of steps and epochs, which are counted


def counted(name: str) -> Measure:
    """A number that was taken while the model was in hand."""

    def measure(evidence: Evidence, _: Context) -> float | Empty:
        value = evidence.scalars.get(name)
        return Empty("not_measured") if value is None else value

    return measure


def censored(name: str, by: str = "", digits: int = 0, unit: str = "") -> Callable[[Evidence], str]:
    """``">value"`` where relearning was cut off at its cap, so that the value is a lower bound."""
    flag = f"{by or name}_censored"
    return lambda evidence: f">{evidence.scalars[name]:.{digits}f}{unit}" if evidence.scalars.get(flag) else ""


def curve_mean(evidence: Evidence, _: Context) -> float | Empty:
    return float(evidence.curve[:, 1].mean()) if len(evidence.curve) else Empty("not_measured")


def curve_gap(evidence: Evidence, context: Context) -> float | Empty:
    """Mean |Δ| between the curves of the row and of its oracle over the numbers of updates that both have."""
    assert context.oracle is not None
    if not len(evidence.curve):
        return Empty("not_measured")
    _, own, its = np.intersect1d(evidence.curve[:, 0], context.oracle.curve[:, 0], return_indices=True)
    if not len(own):
        return Empty("oracle_empty", "the curves have no point in common")
    return float(np.abs(evidence.curve[own, 1] - context.oracle.curve[its, 1]).mean())


def anamnesis(evidence: Evidence, context: Context) -> float | Empty:
    """Steps of the model over steps of the oracle; empty where the oracle needs none, or never arrives."""
    assert context.oracle is not None
    own, its = evidence.scalars.get("ain_steps"), context.oracle.scalars.get("ain_steps")
    if own is None or its is None:
        return Empty("not_measured")
    if context.oracle.scalars.get("ain_steps_censored"):
        return Empty("oracle_censored")
    return own / its if its else Empty("no_partner")


RELEARN_STEPS = Metric(
    "relearn_steps", "Relearn steps", "steps", "relearning", "oracle", counted("relearn_steps"), digits=0,
    tolerance=TOLERANCE, note=censored("relearn_steps"),
    doc="Minibatches of plain training on D_f (Adam 1e-3, batch 32) until the loss on D_f is at most 1.05 times the "
    "original model's; \">cap\" where the cap came first.",
)  # fmt: skip
RELEARN_TIME = Metric(
    "relearn_time", "Relearn time", "s", "relearning", "oracle", counted("relearn_time"), per_machine=True,
    note=censored("relearn_time", by="relearn_steps", digits=2), doc="The seconds that the relearn steps took.",
)  # fmt: skip
RELEARN_GOLATKAR = Metric(
    "relearn_golatkar", "Relearn epochs", "epochs", "relearning", "oracle", counted("golatkar_epochs"), digits=0,
    tolerance=TOLERANCE, note=censored("golatkar_epochs"),
    doc="Epochs of 500 draws from the whole training set (SGD .01) until the loss on D_f is at most .1; \">cap\" where "
    "the cap came first (after Golatkar et al. 2020).",
)  # fmt: skip
AIN = Metric(
    "ain", "AIN", "ratio", "relearning", "oracle", anamnesis, needs={"oracle": 1},
    note=censored("ain_steps", unit=" steps"),
    doc="Anamnesis index: steps of training on the whole training set (Adam 1e-3, batch 256) until the accuracy on "
    "test samples of the classes in D_f is 95% of the original's, over the oracle's (Chundawat et al. 2023). Looked at "
    "before the first step, so that a model which is there needs 0; their code takes a step first, so that none has 0.",
)  # fmt: skip
RELEARN_CURVE = Metric(
    "relearn_curve", "Relearn curve", "points", "relearning", "oracle", curve_mean,
    doc="Accuracy on D_r minus accuracy on D_f while the unlearned model trains on D_r alone, averaged over the points "
    "of the curve (the relearning figure of CaMU, Shen et al., SDM 2024).",
)  # fmt: skip
RELEARN_GAP = Metric(
    "relearn_gap", "Relearn gap", "points", "oracle-distance", "low", curve_gap, needs={"oracle": 1},
    doc="Mean absolute difference between the relearning curves of the model and of the oracle of the same seeds.",
)  # fmt: skip
