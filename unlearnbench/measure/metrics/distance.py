"""Distances to the oracle, and between the unlearned models and the oracles of a bank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from unlearnbench.measure import distances, distributions
from unlearnbench.measure.distributions import KLOM_FEWEST, QUALITY_FEWEST, margin
from unlearnbench.measure.metrics import Measure, with_oracle
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric, Need

# --- accuracies and attacks ------------------------------------------------------------------------------------------


def _gaps(names: dict[str, float], evidence: Evidence, context: Context) -> list[float] | Empty:
    """Signed gaps of metrics to the oracle as fractions, each divided by its scale; empty where a value is missing."""
    gaps = []
    for name, scale in names.items():
        pair = with_oracle(name, evidence, context)
        if isinstance(pair, Empty):
            return pair
        gaps.append((pair[0] - pair[1]) / scale)
    return gaps


AVERAGED = {"fa": 1.0, "ra": 1.0, "ta": 1.0, "mia_lr_loss": 0.01}  # what one point is of each


def average_gap(evidence: Evidence, context: Context) -> float | Empty:
    """Mean |Δ| to the oracle over fa, ra, ta and mia_lr_loss, all in percent; empty where one of the eight is."""
    gaps = _gaps(AVERAGED, evidence, context)
    return gaps if isinstance(gaps, Empty) else float(np.mean(np.abs(gaps)))


def tug_of_war(forget: str, scale: float) -> Measure:
    def measure(evidence: Evidence, context: Context) -> float | Empty:
        gaps = _gaps({forget: scale, "ra": 100, "ta": 100}, evidence, context)
        return gaps if isinstance(gaps, Empty) else distances.tow(gaps)

    return measure


def adaptive_score(evidence: Evidence, context: Context) -> float | Empty:
    assert context.original is not None
    is_class = bool(evidence.forget_classes)
    names = ("ta_r", "ta_f") if is_class else ("ta", "fa")
    test, forget = (evidence.scores.get(name, Empty("not_measured")) for name in names)
    if isinstance(test, Empty) or isinstance(forget, Empty):
        return Empty("not_measured", " or ".join(names))
    labels = evidence.labels["test"]
    counted = ~np.isin(labels, evidence.forget_classes)
    right = (context.original["test"].argmax(axis=1) == labels)[counted]
    return distances.aus(float(right.mean()), test / 100, forget / 100, is_class)


AVG_GAP = Metric(
    "avg_gap", "Avg. gap", "points", "oracle-distance", "low", average_gap, needs={"oracle": 1},
    reads=tuple(AVERAGED), parts={name: 1 / point for name, point in AVERAGED.items()},
    doc="Mean absolute difference to the oracle of the same seeds over FA, RA, TA and MIA-LR (in percent).",
)  # fmt: skip
TOW = Metric(
    "tow", "ToW", "fraction", "oracle-distance", "high", tug_of_war("fa", 100), needs={"oracle": 1},
    reads=("fa", "ra", "ta"), digits=3,
    doc="Tug of war: product of 1 - |Δ| over FA, RA and TA against the oracle (Zhao et al., NeurIPS 2024).",
)  # fmt: skip
TOW_MIA = Metric(
    "tow_mia", "ToW-MIA", "fraction", "oracle-distance", "high", tug_of_war("mia_lr_loss", 1), needs={"oracle": 1},
    reads=("mia_lr_loss", "ra", "ta"), digits=3,
    doc="Tug of war with MIA-LR in the place of FA (Zhao et al., NeurIPS 2024).",
)  # fmt: skip
AUS = Metric(
    "aus", "AUS", "fraction", "oracle-distance", "oracle", adaptive_score, needs={"original": 1},
    reads=("fa", "ta", "ta_f", "ta_r"), digits=3,
    doc="Adaptive unlearning score: test accuracy kept, over the distance of forget and test accuracy (DUCK, Cotogni "
    "et al. 2023).",
)  # fmt: skip

# --- outputs and representations of one model ------------------------------------------------------------------------


def forget_outputs(distance: Callable[[np.ndarray, np.ndarray], float | Empty]) -> Measure:
    """A distance of the logits on D_f to the oracle's."""

    def measure(evidence: Evidence, context: Context) -> float | Empty:
        assert context.oracle is not None
        return distance(evidence.logits["forget"], context.oracle.logits["forget"])

    return measure


def js_oracle(unlearned: np.ndarray, oracle: np.ndarray) -> float | Empty:
    divergence = distances.js_divergence(unlearned, oracle)
    return float(divergence.mean()) if len(divergence) else Empty("too_few", "no sample")


def zero_retrain(evidence: Evidence, context: Context) -> float | Empty:
    assert context.untrained is not None
    return distances.zrf(evidence.logits["forget"], context.untrained["forget"])


def cka(evidence: Evidence, context: Context) -> float | Empty:
    assert context.oracle is not None
    own, its = evidence.representations, context.oracle.representations
    if not own or not its:
        return Empty("not_measured", "one of the models has no representation")
    sets = ("forget", "retain")
    return distances.linear_cka(*(np.concatenate([model[name] for name in sets]) for model in (own, its)))


def separability(evidence: Evidence, _: Context) -> float | Empty:
    if not evidence.forget_classes:
        return Empty("no_class")
    panel = evidence.representations
    if not panel:
        return Empty("not_measured", "the model has no representation")
    return distances.separability(panel["forget"], panel["retain"], evidence.seed)


def weight_distance(evidence: Evidence, _: Context) -> float | Empty:
    value = evidence.scalars.get("weight_distance")
    return Empty("not_measured", "its parameters are not the original's") if value is None else value


JS_ORACLE = Metric(
    "js_oracle", "JS", "bits", "oracle-distance", "low", forget_outputs(js_oracle), needs={"oracle": 1}, digits=3,
    doc="Mean Jensen-Shannon divergence to the oracle's softmax on D_f.",
)  # fmt: skip
ACTIVATION_DISTANCE = Metric(
    "activation_distance", "Activation dist.", "", "oracle-distance", "low",
    forget_outputs(distances.activation_distance), needs={"oracle": 1}, digits=3,
    doc="Mean Euclidean distance to the oracle's softmax on D_f (Golatkar et al. 2021).",
)  # fmt: skip
LOGIT_KL = Metric(
    "logit_kl", "KL", "nats", "oracle-distance", "low", forget_outputs(distances.logit_kl), needs={"oracle": 1},
    digits=3, doc="Mean KL divergence of the model's softmax from the oracle's on D_f.",
)  # fmt: skip
ZRF = Metric(
    "zrf", "ZRF", "fraction", "oracle-distance", "oracle", zero_retrain, needs={"untrained": 1}, digits=3,
    doc="Zero retrain forgetting: 1 - mean Jensen-Shannon divergence, in bits, to an untrained network on D_f "
    "(Chundawat et al., AAAI 2023).",
)  # fmt: skip
CKA = Metric(
    "cka", "CKA", "fraction", "oracle-distance", "high", cka, needs={"oracle": 1}, digits=3,
    doc="Linear centred kernel alignment with the oracle's representations of a panel of forget and retain samples "
    "(Kornblith et al., ICML 2019).",
)  # fmt: skip
SEPARABILITY = Metric(
    "separability", "k-NN probe", "fraction", "oracle-distance", "oracle", separability, digits=3,
    doc="Accuracy of 5 nearest neighbours that tell the forgotten class from the retained ones by representations, "
    "cross-validated on the panel; class scenarios only.",
)  # fmt: skip
WEIGHT_DISTANCE = Metric(
    "weight_distance", "Weight dist.", "", "oracle-distance", "oracle", weight_distance, digits=3,
    doc="Distance of the weights from the original's, over the norm of the original's.",
)  # fmt: skip

# --- distributions of models -----------------------------------------------------------------------------------------

FEWEST: dict[Need, int] = {"bank": 2 * KLOM_FEWEST, "unlearned": KLOM_FEWEST}


def _klom(subset: str, reverse: bool, evidence: Evidence, context: Context) -> np.ndarray:
    """KL of each sample of a set, computed once for the metrics that read it."""
    assert context.unlearned is not None
    key = f"klom {subset} {reverse}"
    if subset not in context.shared:
        labels, reference = evidence.labels[subset], context.reference(subset)
        sides = reference, context.unlearned[subset][: len(reference)]  # the null has as many
        context.shared[subset] = [margin(side, labels) for side in sides]
    if key not in context.shared:
        oracle, unlearned = context.shared[subset]
        context.shared[key] = distributions.klom(*((unlearned, oracle) if reverse else (oracle, unlearned)))
    return context.shared[key]


def klom(reverse: bool) -> Measure:
    """The mean over the means of D_f, D_r and the test set: a model without use is near the oracles on none of them."""
    sets = ("forget", "retain", "test")
    return lambda evidence, context: float(np.mean([_klom(s, reverse, evidence, context).mean() for s in sets]))


def _klom_on(subset: str, label: str) -> tuple[Metric, Metric]:
    """Mean and 95th percentile over one set."""

    def record(statistic: Callable[[np.ndarray], float], suffix: str, what: str) -> Metric:
        return Metric(
            f"klom_ou_{subset}" + suffix.replace(" ", "_"), f"KLoM {label}{suffix}", "nats", "oracle-distance", "low",
            lambda evidence, context: float(statistic(_klom(subset, False, evidence, context))), needs=FEWEST,
            of_split=True, doc=f"KLoM on {label} alone: {what}.",
        )  # fmt: skip

    return record(np.mean, "", "mean"), record(lambda x: float(np.percentile(x, 95)), " p95", "95th percentile")


KLOM_OU = Metric(
    "klom_ou", "KLoM", "nats", "oracle-distance", "low", klom(reverse=False), needs=FEWEST, of_split=True,
    doc="KL divergence, oracles ‖ unlearned models, of per-sample histograms of margins: mean over D_f, D_r and the "
    "test set, each counting the same (KLoM, Georgiev et al. 2024).",
)  # fmt: skip
KLOM_UO = Metric(
    "klom_uo", "KLoM reversed", "nats", "oracle-distance", "low", klom(reverse=True), needs=FEWEST, of_split=True,
    doc="KLoM in the other direction, unlearned models ‖ oracles.",
)  # fmt: skip
KLOM_OU_FORGET, KLOM_OU_FORGET_P95 = _klom_on("forget", "D_f")
KLOM_OU_RETAIN, KLOM_OU_RETAIN_P95 = _klom_on("retain", "D_r")
KLOM_OU_TEST, KLOM_OU_TEST_P95 = _klom_on("test", "test")


def challenge_score(evidence: Evidence, context: Context) -> float | Empty:
    assert context.unlearned is not None
    labels = evidence.labels["forget"]
    reference = context.reference("forget")
    unlearned = context.unlearned["forget"][: len(reference)]
    quality = distributions.forgetting_quality(margin(unlearned, labels), margin(reference, labels))
    if isinstance(quality, Empty):
        return quality
    accuracies = [
        float((models[subset].argmax(axis=-1) == evidence.labels[subset]).mean())
        for subset in ("retain", "test")
        for models in (context.unlearned, {subset: context.reference(subset)})
    ]
    return distributions.final_score(quality, *accuracies)


def ratio_to_null(evidence: Evidence, context: Context) -> float | Empty:
    pair = with_oracle("forgetting_quality", evidence, context)
    if isinstance(pair, Empty):
        return pair
    return pair[0] / pair[1] if pair[1] else Empty("oracle_empty", "its own is 0")


FORGETTING_QUALITY = Metric(
    "forgetting_quality", "Forgetting quality", "", "oracle-distance", "high", challenge_score,
    needs={"bank": 2 * QUALITY_FEWEST, "unlearned": QUALITY_FEWEST}, of_split=True, digits=3,
    doc="Score of the NeurIPS 2023 unlearning challenge: how hard the best attack per sample finds it to tell the "
    "unlearned models from oracles, times the accuracy kept. The oracle's line is the null; it is far below 1.",
)  # fmt: skip
FORGETTING_RATIO = Metric(
    "forgetting_ratio", "Forgetting / null", "ratio", "oracle-distance", "oracle", ratio_to_null, of_split=True,
    needs={"oracle": 1, "bank": 2 * QUALITY_FEWEST, "unlearned": QUALITY_FEWEST}, reads=("forgetting_quality",),
    digits=2,  # of its two terms
    doc="Forgetting quality over that of one half of the oracle bank against the other.",
)  # fmt: skip
