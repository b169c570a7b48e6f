"""One model against another: how far apart their outputs, representations and accuracies are.

Logits are ``[n, classes]`` of the same samples in the same order. They are compared in float64 and as softmaxes, so a
constant added to a row changes nothing. Without a sample there is no mean, but `Empty`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from scipy.special import log_softmax, rel_entr, softmax
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unlearnbench.plan.spec import Empty

FEWEST = 10  # samples per side below which no probe is fitted

# --- outputs ---------------------------------------------------------------------------------------------------------


def js_divergence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of the two softmaxes of each sample, in bits, float64 ``[n]`` in [0, 1] (Lin 1991).

    JS₂(p, q) = ½ KL₂(p ‖ m) + ½ KL₂(q ‖ m) with m = ½ (p + q): 0 where the models agree, 1 where they share no class.
    """
    p, q = _probabilities(a), _probabilities(b)
    # with 2p against p + q no half underflows: m would be 0 beside the smallest float, and 0.log 0 infinite
    nats = (rel_entr(2 * p, p + q) + rel_entr(2 * q, p + q)).sum(axis=1) / 4
    return np.clip(nats / math.log(2), 0, 1)  # rounding alone can leave the interval


def zrf(unlearned: np.ndarray, random_init: np.ndarray) -> float | Empty:
    """Zero retrain forgetting: 1 - mean `js_divergence` to a model that has never learned anything, in [0, 1].

    Of logits on D_f. Chundawat et al., AAAI 2023 (not read). Public code that reverses the KL to the mixture, stays in
    nats or divides by the number of classes gives other numbers.
    """
    return _mean(1 - js_divergence(unlearned, random_init))


def activation_distance(a: np.ndarray, b: np.ndarray) -> float | Empty:
    """Mean Euclidean distance of the two softmaxes of each sample, in [0, √2] (Golatkar et al. 2021; not read)."""
    return _mean(np.linalg.norm(_probabilities(a) - _probabilities(b), axis=1))


def logit_kl(unlearned: np.ndarray, oracle: np.ndarray) -> float | Empty:
    """Mean KL(softmax of the oracle ‖ softmax of the unlearned model), in nats, at least 0 and without a bound."""
    p, q = (log_softmax(logits.astype(np.float64), axis=1) for logits in (oracle, unlearned))
    return _mean(np.sum(np.exp(p) * (p - q), axis=1))


def _probabilities(logits: np.ndarray) -> np.ndarray:
    return softmax(logits.astype(np.float64), axis=1)


def _mean(values: np.ndarray) -> float | Empty:
    return float(values.mean()) if len(values) else Empty("too_few", "no sample")


# --- representations -------------------------------------------------------------------------------------------------


def linear_cka(a: np.ndarray, b: np.ndarray) -> float | Empty:
    """Linear centred kernel alignment of representations ``[n, d1]`` and ``[n, d2]`` of the same samples, in [0, 1].

    ‖BᵀA‖² / (‖AᵀA‖ ‖BᵀB‖) of centred features, Frobenius norms (Kornblith et al., ICML 2019; not read). Rotating,
    scaling or shifting either side changes nothing. Two sides that have nothing to do with each other are not at 0: of
    n samples of d independent features each it is about d / (n + d). Empty where a side is the same for all samples.
    """
    if (a == a[:1]).all() or (b == b[:1]).all():  # holds for no sample and for one
        return Empty("constant")
    a, b = (x.astype(np.float64) - x.mean(axis=0, dtype=np.float64) for x in (a, b))
    if len(a) < max(a.shape[1], b.shape[1]):  # the same number from n by n matrices
        a, b = a @ a.T, b @ b.T
        return float(np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b)))
    return float(np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)))


def separability(forget: np.ndarray, retain: np.ndarray, seed: int) -> float | Empty:
    """How well 5 nearest neighbours tell forget from retain samples by their representations ``[n, d]``.

    Mean accuracy over 5 stratified folds, shuffled by ``seed``; features are standardised within each. The first n of
    both sides are taken, n the smaller of the two, so that .5 is chance.
    """
    n = min(len(forget), len(retain))
    if n < FEWEST:
        return Empty("too_few", f"{n} samples of each side, {FEWEST} needed")
    x = np.concatenate([forget[:n], retain[:n]]).astype(np.float64)
    probe = make_pipeline(StandardScaler(), KNeighborsClassifier(5))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return float(cross_val_score(probe, x, np.repeat([1, 0], n), cv=folds, error_score="raise").mean())


# --- accuracies ------------------------------------------------------------------------------------------------------


def tow(gaps: Iterable[float]) -> float:
    """Tug of war: Π (1 - |Δ|) over gaps to the oracle as fractions, usually on D_f, D_r and test; 1 is the oracle.

    Zhao et al., NeurIPS 2024 (not read). Of the authors' code, kairanzhao/RUM, main_forget.py and evaluation/SVC_MIA.py
    were (f593c9d): its attack is that of `attacks.svc`. That ToW-MIA takes its value by confidence is a secondary
    source's; ToW is not in that code.
    """
    return math.prod(1 - abs(gap) for gap in gaps)


def aus(original_test: float, test: float, forget: float, class_scenario: bool) -> float:
    """Adaptive unlearning score of accuracies as fractions: (1 - (A_o - A_t)) / (1 + |A_f - A_t|).

    A_o is the original's accuracy where A_t is the unlearned model's. In a class scenario that is the test set without
    the class, A_f is the accuracy on the class in the test set, and the denominator is 1 + |A_f|. Elsewhere it is the
    whole test set, and A_f the accuracy on D_f. Cotogni et al. 2023 (DUCK; not read).
    """
    return (1 - (original_test - test)) / (1 + abs(forget if class_scenario else forget - test))
