"""Evidence to numbers: one record per metric, each registered by an entry point of its own.

Sets: D_f forget, D_r retain. "points" are differences of percentages. Accuracies, losses and attacks are of the model
in evaluation mode. A metric whose ``better`` is ``"oracle"`` is best where it is closest to the retrained model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from unlearnbench import attacks
from unlearnbench.evidence import Evidence
from unlearnbench.spec import Empty, Metric

Measure = Callable[[Evidence, Evidence | None], float | Empty]

# --- utility: accuracies ---------------------------------------------------------------------------------------------


def accuracy(subset: str) -> Measure:
    """Percent of D_f (``"forget"``), D_r (``"retain"``) or the test set that is classified as labelled."""
    return lambda evidence, _: _accuracy(evidence, subset)


def class_accuracy(forgotten: bool) -> Measure:
    """Percent of the test set right on the forgotten classes alone, or on all the others."""

    def measure(evidence: Evidence, _: Evidence | None) -> float | Empty:
        if not evidence.forget_classes:
            return Empty("no_class")
        return _accuracy(evidence, "test", np.isin(evidence.labels["test"], evidence.forget_classes) == forgotten)

    return measure


def _accuracy(evidence: Evidence, subset: str, where: np.ndarray | None = None) -> float | Empty:
    right = evidence.logits[subset].argmax(axis=1) == evidence.labels[subset]
    right = right if where is None else right[where]
    return 100 * float(right.mean()) if len(right) else Empty("too_few", f"no {subset} sample of these classes")


FA = Metric("fa", "FA", "%", "utility", "oracle", accuracy("forget"), doc="Accuracy on the forget set D_f.")
RA = Metric("ra", "RA", "%", "utility", "oracle", accuracy("retain"), doc="Accuracy on the retain set D_r.")
TA = Metric("ta", "TA", "%", "utility", "oracle", accuracy("test"), doc="Accuracy on the test set.")
TA_R = Metric(
    "ta_r", "TA-r", "%", "utility", "oracle", class_accuracy(forgotten=False),
    doc="Accuracy on the test samples of all but the forgotten classes; class scenarios only.",
)  # fmt: skip
TA_F = Metric(
    "ta_f", "TA-f", "%", "utility", "oracle", class_accuracy(forgotten=True),
    doc="Accuracy on the test samples of the forgotten classes; class scenarios only.",
)  # fmt: skip

# --- leakage: membership inference -----------------------------------------------------------------------------------

MIA_GBT = Metric(
    "mia_gbt", "MIA-GBT", "fraction", "leakage", "oracle", lambda evidence, _: attacks.gbt(evidence), digits=3,
    note=lambda evidence: f"n = {attacks.gbt_size(evidence)} per side",
    doc="Accuracy, on D_f and unused test samples, of boosted trees that tell retain from test samples by their sorted "
    "softmax (the attack of CaMU, Shen et al., SDM 2024).",
)  # fmt: skip
MIA_LR_LOSS = Metric(
    "mia_lr_loss", "MIA-LR", "fraction", "leakage", "oracle", lambda evidence, _: attacks.lr_loss(evidence), digits=3,
    note=lambda evidence: f"n = {attacks.lr_loss_size(evidence)} per side",
    doc="Accuracy of logistic regression that tells D_f from test samples of the same classes by their loss, over 10 "
    "stratified splits (NeurIPS 2023 unlearning challenge, starting kit; Kurmanji et al., NeurIPS 2023).",
)  # fmt: skip

# --- distance to the oracle ------------------------------------------------------------------------------------------


def average_gap(evidence: Evidence, oracle: Evidence | None) -> float | Empty:
    """Mean |Δ| to the oracle over fa, ra, ta and mia_lr_loss, all in percent; empty where one of the eight is."""
    gaps = []
    for name, to_percent in {"fa": 1, "ra": 1, "ta": 1, "mia_lr_loss": 100}.items():
        pair = _scores(name, evidence, oracle)
        if isinstance(pair, Empty):
            return pair
        gaps.append(to_percent * abs(pair[0] - pair[1]))
    return float(np.mean(gaps))


def _scores(name: str, evidence: Evidence, oracle: Evidence | None) -> tuple[float, float] | Empty:
    """An absolute metric of the row and of its oracle, or why one of them has none."""
    if oracle is None:
        return Empty("no_oracle")
    own, its = evidence.scores[name], oracle.scores.get(name, Empty("oracle_empty"))
    if isinstance(own, Empty):
        return own
    return Empty("oracle_empty", name) if isinstance(its, Empty) else (own, its)


AVG_GAP = Metric(
    "avg_gap", "Avg. gap", "points", "oracle-distance", "low", average_gap, relative=True,
    doc="Mean absolute difference to the oracle of the same seeds over FA, RA, TA and MIA-LR (in percent).",
)  # fmt: skip

# --- relearning ------------------------------------------------------------------------------------------------------


def reported(field: Literal["scalars", "cost"], name: str, unit: float = 1) -> Measure:
    """A number that was taken at run time, divided by ``unit``."""

    def measure(evidence: Evidence, _: Evidence | None) -> float | Empty:
        value = getattr(evidence, field).get(name)
        return Empty("not_measured") if value is None else value / unit

    return measure


def censored(name: str, digits: int) -> Callable[[Evidence], str]:
    """``">value"`` where relearning was cut off at its cap, so that the value is a lower bound."""
    return lambda evidence: f">{evidence.scalars[name]:.{digits}f}" if evidence.scalars.get("relearn_censored") else ""


def curve_mean(evidence: Evidence, _: Evidence | None) -> float | Empty:
    return float(evidence.curve[:, 1].mean()) if len(evidence.curve) else Empty("not_measured")


def curve_gap(evidence: Evidence, oracle: Evidence | None) -> float | Empty:
    """Mean |Δ| between the curves of the row and of its oracle over the numbers of updates that both have."""
    if oracle is None:
        return Empty("no_oracle")
    if not len(evidence.curve):
        return Empty("not_measured")
    _, own, its = np.intersect1d(evidence.curve[:, 0], oracle.curve[:, 0], return_indices=True)
    if not len(own):
        return Empty("oracle_empty", "the curves have no point in common")
    return float(np.abs(evidence.curve[own, 1] - oracle.curve[its, 1]).mean())


RELEARN_STEPS = Metric(
    "relearn_steps", "Relearn steps", "steps", "relearning", "oracle", reported("scalars", "relearn_steps"), digits=0,
    note=censored("relearn_steps", digits=0),
    doc="Minibatches of plain training on D_f (Adam 1e-3, batch 32) until the loss on D_f is at most 1.05 times the "
    "original model's; \">cap\" where the cap came first.",
)  # fmt: skip
RELEARN_TIME = Metric(
    "relearn_time", "Relearn time", "s", "relearning", "oracle", reported("scalars", "relearn_time"), per_machine=True,
    note=censored("relearn_time", digits=2), doc="The seconds that the relearn steps took.",
)  # fmt: skip
RELEARN_CURVE = Metric(
    "relearn_curve", "Relearn curve", "points", "relearning", "oracle", curve_mean,
    doc="Accuracy on D_r minus accuracy on D_f while the unlearned model trains on D_r alone, averaged over the points "
    "of the curve (the relearning figure of CaMU, Shen et al., SDM 2024).",
)  # fmt: skip
RELEARN_GAP = Metric(
    "relearn_gap", "Relearn gap", "points", "oracle-distance", "low", curve_gap, relative=True,
    doc="Mean absolute difference between the relearning curves of the model and of the oracle of the same seeds.",
)  # fmt: skip

# --- cost ------------------------------------------------------------------------------------------------------------


def relative_time_efficiency(evidence: Evidence, oracle: Evidence | None) -> float | Empty:
    """Seconds of the oracle's training over seconds of the method; empty for a method that used no data at all."""
    if not evidence.cost.get("samples"):
        return Empty("zero_cost")
    pair = _scores("seconds", evidence, oracle)
    if isinstance(pair, Empty):
        return pair
    return pair[1] / pair[0] if pair[0] else Empty("zero_cost")


SECONDS = Metric(
    "seconds", "Time", "s", "cost", "low", reported("cost", "seconds"), per_machine=True,
    doc="Wall time of the method alone, device synchronised, no evaluation inside.",
)  # fmt: skip
RTE = Metric(
    "rte", "RTE", "x", "cost", "high", relative_time_efficiency, relative=True, per_machine=True, digits=1,
    doc="Relative time efficiency: the oracle's training time divided by the method's time.",
)  # fmt: skip
PEAK_MEMORY = Metric(
    "peak_memory", "Peak memory", "MB", "cost", "low", reported("cost", "peak_memory", unit=1e6), per_machine=True,
    digits=1, doc="Most memory held during the method above what was held before it, in megabytes of 10^6 bytes.",
)  # fmt: skip
SAMPLES = Metric(
    "samples", "Samples", "samples", "cost", "low", reported("cost", "samples"), digits=0,
    doc="Samples that the method drew from its data, repetitions counted.",
)  # fmt: skip
GRADIENTS = Metric(
    "gradients", "Gradients", "samples", "cost", "low", reported("cost", "gradients"), digits=0,
    doc="Per-sample gradient evaluations of the method: samples in its backward passes.",
)  # fmt: skip
