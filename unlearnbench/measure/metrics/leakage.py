"""Membership inference: how well an attack tells D_f from data that was never trained on.

Most of these compare samples under one model, or models that all went through the method. Where the negatives did not,
the attack also finds that the method was run: the ``doc`` of such a metric says so, and what to read beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unlearnbench.measure import attacks, likelihood
from unlearnbench.measure.attacks import cross_entropy, true_probability
from unlearnbench.measure.distributions import margin
from unlearnbench.measure.likelihood import Attack
from unlearnbench.measure.metrics import Measure
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Estimate, Metric, Need, Tolerance

TOLERANCE = Tolerance(0.02)  # of an attack, in its unit

# --- on one model alone ----------------------------------------------------------------------------------------------


def _gbt_note(evidence: Evidence) -> str:
    n = attacks.gbt_size(evidence)
    return f"n = {n} per side" + (" (CaMU: 4000)" if n < 4000 else "")


MIA_GBT = Metric(
    "mia_gbt", "MIA-GBT", "accuracy", "leakage", "oracle", lambda evidence, _: attacks.gbt(evidence), digits=3,
    note=_gbt_note, tolerance=TOLERANCE,
    doc="Accuracy, on D_f and unused test samples, of boosted trees that tell retain from test samples by their sorted "
    "softmax (the attack of CaMU, Shen et al., SDM 2024). As many of one side as of the other, where CaMU's code sets "
    "fewer than 4,000 members against 4,000; trees without XGBoost's least weight of a leaf.",
)  # fmt: skip
MIA_LR_LOSS = Metric(
    "mia_lr_loss", "MIA-LR", "accuracy", "leakage", "oracle", lambda evidence, _: attacks.lr_loss(evidence), digits=3,
    tolerance=TOLERANCE, note=lambda evidence: f"n = {attacks.lr_loss_size(evidence)} per side",
    doc="Accuracy of logistic regression that tells D_f from test samples of the same classes by their loss, over 10 "
    "stratified splits (NeurIPS 2023 unlearning challenge, starting kit; Kurmanji et al., NeurIPS 2023).",
)  # fmt: skip


def _svc(feature: str, label: str, doc: str) -> Metric:
    return Metric(
        f"mia_svc_{feature}", f"SVC-{label}", "non-member", "leakage", "oracle",
        lambda evidence, _: attacks.svc(evidence, feature), digits=3, version=2, tolerance=TOLERANCE,
        note=lambda evidence: f"n = {attacks.svc_size(evidence)} per side",
        doc=f"Share of D_f called non-member by a support vector machine on {doc}, fitted on retain against test "
        "samples, without the forgotten classes (Jia et al., NeurIPS 2023; Fan et al., ICLR 2024).",
    )  # fmt: skip


MIA_SVC_CORRECTNESS = _svc("correctness", "corr.", "whether the prediction is right")
MIA_SVC_CONFIDENCE = _svc("confidence", "conf.", "the probability of the label")
MIA_SVC_ENTROPY = _svc("entropy", "entropy", "the entropy")
MIA_SVC_M_ENTROPY = _svc("m_entropy", "m-entr.", "the modified entropy")
MIA_SVC_PROB = _svc("prob", "prob.", "the whole softmax")
MIA_ENTROPY_LR = Metric(
    "mia_entropy_lr", "MIA-entropy", "member", "leakage", "oracle",
    lambda evidence, _: attacks.entropy_lr(evidence), digits=3, tolerance=TOLERANCE,
    note=lambda evidence: f"n = {attacks.entropy_lr_size(evidence)} per side",
    doc="Share of D_f called member by logistic regression on the entropy, fitted on retain against test samples "
    "(Chundawat et al., AAAI 2023).",
)  # fmt: skip
MIA_NEIGHBOUR = Metric(
    "mia_neighbour", "MIA-NN", "fraction", "leakage", "oracle", lambda evidence, _: attacks.neighbour(evidence),
    digits=3, tolerance=TOLERANCE,
    doc="Share of D_f that passes for the class nearest the forgotten one, by the probabilities of the "
    "remaining classes; class scenarios only (after Ebrahimpour-Boroojeny et al., 2506.20893).",
)  # fmt: skip

# --- one model against oracles ---------------------------------------------------------------------------------------


Sides = tuple[list[np.ndarray], list[np.ndarray]]


def _losses(evidence: Evidence, context: Context) -> Sides:
    """Losses of the row ``[n]`` and of the bank ``[N, n]``: on D_f, on unseen samples of its classes, and on others of
    these that are kept apart as a population. Computed once for the metrics that read them."""
    if "losses" not in context.shared:
        assert context.bank is not None
        unseen = np.flatnonzero(np.isin(evidence.labels["test"], evidence.labels["forget"]))
        whole = np.arange(len(evidence.labels["forget"]))
        parts = [("forget", whole), ("test", unseen[: len(unseen) // 2]), ("test", unseen[len(unseen) // 2 :])]
        own = [cross_entropy(evidence.logits[name][where], evidence.labels[name][where]) for name, where in parts]
        bank = [
            np.stack([cross_entropy(z[where], evidence.labels[name][where]) for z in context.bank[name]])
            for name, where in parts
        ]
        context.shared["losses"] = own, bank
    return context.shared["losses"]


def _confidences(evidence: Evidence, context: Context) -> Sides:
    own, bank = _losses(evidence, context)
    return [np.exp(-x) for x in own], [np.exp(-x) for x in bank]


def rmia(evidence: Evidence, context: Context) -> float | Empty:
    (member, other, population), (out_member, out_other, out_population) = _confidences(evidence, context)
    return likelihood.rmia(member, other, population, out_member, out_other, out_population)


def emia(evidence: Evidence, context: Context) -> float | Empty:
    (member, *others), (out_member, *out_others) = _losses(evidence, context)
    return likelihood.emia(member, np.concatenate(others), out_member, np.concatenate(out_others, axis=1))


def iam(evidence: Evidence, context: Context) -> float | Empty:
    assert context.original is not None
    (member, *_), (out, *_) = _confidences(evidence, context)
    original = true_probability(context.original["forget"], evidence.labels["forget"])
    return likelihood.iam(original, out, member)


RMIA = Metric(
    "rmia", "RMIA", "AUC", "leakage", "oracle", rmia, needs={"bank": 1}, digits=3, tolerance=TOLERANCE,
    doc="AUC, D_f against unseen samples of its classes under the same model, of the offline robust membership attack, "
    "a = .3, gamma = 1, with the oracle bank as never-trained models (Zarifzadeh et al., ICML 2024).",
)  # fmt: skip
EMIA = Metric(
    "emia", "EMIA", "AUC", "leakage", "oracle", emia, needs={"bank": 4}, digits=3, tolerance=TOLERANCE,
    doc="AUC, D_f against unseen samples of its classes under the same model, of the position of a sample's loss in "
    "the interpolated distribution of its losses under the oracle bank.",
)  # fmt: skip
IAM = Metric(
    "iam", "IAM", "fraction", "leakage", "oracle", iam, needs={"bank": 1, "original": 1}, digits=3, tolerance=TOLERANCE,
    doc="Completeness of forgetting on D_f: where the confidence lies on the way from never-trained models to the "
    "original, by interpolated approximate measurement. The never-trained models did not go through the method: one "
    "that is less confident of everything looks complete, so read it beside TA.",
)  # fmt: skip

# --- many unlearned models against many oracles ----------------------------------------------------------------------

FEWEST: dict[Need, int] = {"bank": 2 * likelihood.FEWEST_MODELS, "unlearned": likelihood.FEWEST_MODELS}


def _ulira(evidence: Evidence, context: Context, subset: str) -> Attack | Empty:
    """On D_f, or on the unseen samples of its classes; computed once for the metrics that read it."""
    key = f"ulira {subset}"
    if key not in context.shared:
        where = np.isin(evidence.labels[subset], evidence.labels["forget"])  # all of D_f
        labels = evidence.labels[subset][where]
        unlearned, out = (margin(models[:, where], labels) for models in context.sides(subset))
        context.shared[key] = likelihood.ulira(unlearned, out, evidence.seed)
    return context.shared[key]


def of_ulira(value: Callable[[Attack], Estimate | Empty], subset: str = "forget") -> Measure:
    def measure(evidence: Evidence, context: Context) -> Estimate | Empty:
        attack = _ulira(evidence, context, subset)
        return attack if isinstance(attack, Empty) else value(attack)

    return measure


def ulira_excess(evidence: Evidence, context: Context) -> Estimate | Empty:
    """Empty where whole classes are forgotten: a model that still knows them has them on both sides."""
    if evidence.forget_classes:
        return Empty("whole_class")
    forget, test = (_ulira(evidence, context, subset) for subset in ("forget", "test"))
    if isinstance(forget, Empty):
        return forget
    return test if isinstance(test, Empty) else likelihood.excess(forget, test)


def ruli(evidence: Evidence, context: Context) -> Estimate | Empty:
    assert context.shadows is not None
    unlearned, out = (margin(context.shadows[role], evidence.labels["forget"]) for role in ("unlearned", "out"))
    return likelihood.ruli(unlearned, out, evidence.seed)


def _of_banks(
    name: str, label: str, unit: str, fn: Measure, doc: str, version: int, *, controlled: bool = True
) -> Metric:
    return Metric(
        name, label, unit, "leakage", "oracle", fn, needs=FEWEST, of_split=True, digits=3, tolerance=TOLERANCE,
        version=version, controlled=controlled, doc=doc,
    )  # fmt: skip


ULIRA = _of_banks(
    "ulira", "U-LiRA", "AUC", of_ulira(lambda attack: attack.auc), version=2,
    doc="AUC of per-sample Gaussians of the logit-scaled confidence on D_f, unlearned against never-trained models, "
    "fitted and evaluated on disjoint models; 95% interval by jackknife over models (Hayes et al. 2024; LiRA). It "
    "tells whether the method was run, since the never-trained models did not go through it: of D_f speaks the excess.",
)  # fmt: skip
ULIRA_TEST = _of_banks(
    "ulira_test", "U-LiRA test", "AUC", of_ulira(lambda attack: attack.auc, "test"), version=1, controlled=False,
    doc="The U-LiRA attack on test samples of the classes that occur in D_f, which no model was trained on: what it "
    "finds here is the method itself, not D_f.",
)  # fmt: skip
ULIRA_EXCESS = _of_banks(
    "ulira_excess", "U-LiRA excess", "AUC difference", ulira_excess, version=2,
    doc="U-LiRA on D_f minus U-LiRA on test samples of its classes: what the attack finds in D_f beyond what the "
    "method does to samples that nobody trained on; 95% interval by jackknife over models, the same for both. 0 where "
    "D_f is like them; it presumes that D_f was drawn at random from its classes, and is empty where it is all of one.",
)  # fmt: skip
ULIRA_ACCURACY = _of_banks(
    "ulira_accuracy", "U-LiRA acc.", "accuracy", of_ulira(lambda attack: attack.accuracy), version=2,
    doc="Balanced accuracy of the U-LiRA attack on D_f at equal likelihoods. Like its AUC it tells whether the method "
    "was run.",
)  # fmt: skip
ULIRA_TPR_1 = _of_banks(
    "ulira_tpr_1", "U-LiRA TPR@1%", "TPR", of_ulira(lambda attack: attack.tpr[0.01]), version=2,
    doc="True positive rate of the U-LiRA attack on D_f at 1% false positives; from 1,000 negatives on. Like its AUC "
    "it tells whether the method was run.",
)  # fmt: skip
ULIRA_TPR_01 = _of_banks(
    "ulira_tpr_01", "U-LiRA TPR@.1%", "TPR", of_ulira(lambda attack: attack.tpr[0.001]), version=2,
    doc="True positive rate of the U-LiRA attack on D_f at .1% false positives; from 10,000 negatives on. Like its AUC "
    "it tells whether the method was run.",
)  # fmt: skip
RULI = Metric(
    "ruli", "RULI", "AUC", "leakage", "oracle", ruli, needs={"shadows": likelihood.FEWEST_MODELS}, of_split=True,
    digits=3, version=2, tolerance=TOLERANCE,
    doc="AUC, on D_f, of kernel densities of the logit-scaled confidence: shadow runs of the method that unlearned a "
    "sample against those that had never seen it, so that all went through the method; 95% interval by jackknife over "
    "runs (Naderloui et al., USENIX Security 2025).",
)  # fmt: skip
