"""Membership inference on outputs alone: how well the forget set can be told from data that was never trained on.

An attack takes an `Evidence` and returns a fraction, an accuracy (.5 is chance where both sides are equally many) or a
share of D_f, or `Empty("too_few")`. Its ``*_size`` companion says on how many samples of each side it is fitted.
Prefixes of a set are uniform samples of it (see `Evidence`), so balancing takes prefixes. Every draw comes from
``evidence.seed``. Attacks that need further models, never trained on D_f, are in `likelihood`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from unlearnbench.plan.evidence import Evidence
from unlearnbench.plan.spec import Empty

FEWEST = 10  # samples per side below which no attack is fitted


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Losses, float64 ``[n]``, of ``logits`` ``[n, classes]``: log Σ exp(z - z_y), exact at any confidence."""
    z = logits.astype(np.float64)
    return logsumexp(z - np.take_along_axis(z, labels[:, None], axis=1), axis=1)


def sorted_softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of each row in ascending order, float32 ``[n, classes]``: CaMU's features."""
    return np.sort(softmax(logits.astype(np.float64), axis=1).astype(np.float32), axis=1)


def gbt_size(evidence: Evidence) -> int:
    """Members, and as many non-members, that `gbt` is fitted on: at most 4,000, 40% of the test set, and |D_s|.

    The authors' code has no such balance: fewer than 4,000 members would stand against 4,000 non-members all the same.
    In none of their experiments does it come to that: |D_s| is 5,000 and more, of one class of CIFAR-100 by repeats.
    """
    logits = evidence.logits
    return min(4000, 2 * len(logits["test"]) // 5, len(logits["forget"]), len(logits["retain"]))


def gbt(evidence: Evidence) -> float | Empty:
    """CaMU's attack (Shen et al., SDM 2024): boosted trees. Code read: ShaofeiShen768/CaMU CaMU/train.py, functions
    ``train_attack_model`` and ``attack``, and their calls in CaMU/main.py (44380c6f).

    Members are the first n of D_s, non-members the first n test samples (n: `gbt_size`); features: `sorted_softmax`;
    fitted on a random 99% of these 2n. The value is the accuracy on all of D_f (labelled member) together with the
    remaining test samples (labelled non-member), as many as |D_f| at most: below .5 where D_f passes for unseen. The
    test set is whole, with a class that is forgotten, as theirs is.

    Trees have XGBoost's defaults: 100 rounds, rate .3, depth 6, L2 penalty 1 on the leaf values (the same formula in
    both libraries). One default has no counterpart here: ``min_child_weight`` 1, the least sum of p (1 - p) in a leaf,
    which takes 4 samples at first and more as the trees grow sure; here a leaf may hold one. On simulated outputs for
    10 classes the mean accuracy is within .008 of XGBoost's (3.2.0) for n = 130, 500 and 4,000, and within .026 for
    n = 40; of a single model the two differ by a standard deviation of .02 at n = 130 and .01 at 500.
    """
    n = gbt_size(evidence)
    if n < FEWEST:
        return _too_few(n)
    forget, retain, test = (sorted_softmax(evidence.logits[name]) for name in ("forget", "retain", "test"))
    x, y = np.concatenate([retain[:n], test[:n]]), np.repeat([1, 0], n)
    x_fit, _, y_fit, _ = train_test_split(x, y, test_size=0.01, random_state=evidence.seed)
    trees = HistGradientBoostingClassifier(
        learning_rate=0.3,
        max_iter=100,
        max_depth=6,
        max_leaf_nodes=None,
        min_samples_leaf=1,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=evidence.seed,
    ).fit(x_fit, y_fit)
    outsiders = test[n : n + len(forget)]
    called_member = trees.predict(np.concatenate([forget, outsiders]))
    is_member = np.repeat([1, 0], [len(forget), len(outsiders)])
    return float(np.mean(called_member == is_member))


def lr_loss_size(evidence: Evidence) -> int:
    """Samples per side of `lr_loss`: the smaller of D_f and the test samples of its classes."""
    return min(len(evidence.labels["forget"]), int(_of_forgotten_classes(evidence).sum()))


def lr_loss(evidence: Evidence) -> float | Empty:
    """Logistic regression on the loss, D_f against as many test samples of the classes that occur in D_f.

    Mean accuracy over 10 stratified shuffled splits of 90 to 10 (scikit-learn's default share), as in the starting kit
    of the NeurIPS 2023 unlearning challenge; the restriction to the same classes is SCRUB's (Kurmanji et al., NeurIPS
    2023; the authors' MIA_experiments.ipynb). Unlike theirs the loss is standardised within each split: without it the
    regression stays at .5 on losses below about 1e-4, however well they separate, and SCRUB clips the large ones.
    """
    n = lr_loss_size(evidence)
    if n < FEWEST:
        return _too_few(n)
    losses = {name: cross_entropy(evidence.logits[name], evidence.labels[name]) for name in ("forget", "test")}
    x = np.concatenate([losses["forget"][:n], losses["test"][_of_forgotten_classes(evidence)][:n]])
    folds = StratifiedShuffleSplit(n_splits=10, test_size=0.1, random_state=evidence.seed)
    attack = make_pipeline(StandardScaler(), LogisticRegression())
    accuracies = cross_val_score(attack, x[:, None], np.repeat([1, 0], n), cv=folds, error_score="raise")
    return float(accuracies.mean())


def _of_forgotten_classes(evidence: Evidence) -> np.ndarray:
    """Which test samples, bool ``[n]``, have a class that occurs in the forget set."""
    return np.isin(evidence.labels["test"], evidence.labels["forget"])


def _too_few(n: int) -> Empty:
    return Empty("too_few", f"{n} members and {n} non-members, {FEWEST} of each needed")


# --- retain against test, asked of the forget set ---------------------------------------------------------------------


def log_probabilities(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p and log(1 - p) of the softmax of ``logits`` ``[n, classes]``: float64, same shape.

    Both keep their relative precision however close p is to 0 or 1: the likeliest class is taken from the others
    (log p = -log1p(Σ exp(z_i - z_top))), never from 1 minus something.
    """
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    top = np.arange(z.shape[1]) == z.argmax(axis=1)[:, None]
    rest = logsumexp(np.where(top, -np.inf, z), axis=1, keepdims=True)
    log_p = z - np.logaddexp(0, rest)
    return log_p, np.where(top, rest - np.logaddexp(0, rest), np.log1p(-np.exp(np.where(top, -np.inf, log_p))))


def correctness(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 where the likeliest class is the label, else 0; float64 ``[n]``."""
    return (logits.argmax(axis=1) == labels).astype(np.float64)


def true_probability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p_y, float64 ``[n]``."""
    return np.exp(-cross_entropy(logits, labels))


def entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-Σ p_i log p_i in nats, float64 ``[n]``; the labels do not matter."""
    log_p, _ = log_probabilities(logits)
    return -np.sum(np.exp(log_p) * log_p, axis=1)


def modified_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-(1 - p_y) log p_y - Σ_{i≠y} p_i log(1 - p_i) in nats, float64 ``[n]`` (Song and Mittal, USENIX Security 2021).

    The paper was not read; the formula is a secondary source's. The ``m_entropy`` in `svc`'s reference code differs
    in both terms: log p_i stands where log(1 - p_i) belongs, and 1 - p replaces p in the column of every label that
    occurs in the batch, not in the sample's own.
    """
    log_p, log_not_p = log_probabilities(logits)
    own = np.arange(logits.shape[1]) == labels[:, None]
    return -np.sum(np.where(own, np.exp(log_not_p) * log_p, np.exp(log_p) * log_not_p), axis=1)


def probabilities(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The whole softmax, float64 ``[n, classes]``; the labels do not matter."""
    return np.exp(log_probabilities(logits)[0])


Feature = Callable[[np.ndarray, np.ndarray], np.ndarray]
FEATURES: Mapping[str, Feature] = {
    "correctness": correctness,
    "confidence": true_probability,
    "entropy": entropy,
    "m_entropy": modified_entropy,
    "prob": probabilities,
}


def svc_size(evidence: Evidence, cap: int | None = 2000) -> int:
    """Retain samples, and as many test samples of retained classes, that `svc` is fitted on; ``cap=None``: all that
    balance allows."""
    n = min(len(evidence.logits["retain"]), len(_of_retained_classes(evidence)))
    return n if cap is None else min(cap, n)


def svc(evidence: Evidence, feature: str, cap: int | None = 2000) -> float | Empty:
    """Support vector machine on one of `FEATURES`: the share of D_f called NON-member, high where D_f looks unseen.

    Members are the first n retain samples, non-members the first n test samples (n: `svc_size`); SVC(C=3, rbf,
    gamma="auto"), features unscaled. **Where whole classes are forgotten the test set is without them**, so that no
    class alone makes a sample look like a non-member.

    This is the forget efficacy of Jia et al. (NeurIPS 2023) and SalUn (Fan et al., ICLR 2024). Read:
    OPTML-Group/Unlearn-Saliency Classification/main_forget.py and dataset.py (ac880a22) and evaluation/SVC_MIA.py
    (95766237), the same as OPTML-Group/Unlearn-Sparse dataset.py and evaluation/SVC_MIA.py (16a2dbc8): retain is
    shadow_train, cut to |test|; test is shadow_test, whole; forget is target_test. Where all of a class is forgotten
    dataset.py takes it out of the test set (of CIFAR-10: lines 607-609). Theirs has no cap (the fit is quadratic in n),
    and its ``m_entropy`` is another function (`modified_entropy`).

    Raises KeyError for an unknown feature.
    """
    attack, unseen = SVC(C=3, kernel="rbf", gamma="auto", random_state=0), _of_retained_classes(evidence)
    members = _share_of_members(attack, evidence, FEATURES[feature], unseen[: svc_size(evidence, cap)])
    return members if isinstance(members, Empty) else 1 - members


def _of_retained_classes(evidence: Evidence) -> np.ndarray:
    """Positions of the test samples whose class is not forgotten as a whole, int64 ``[n]``."""
    return np.flatnonzero(~np.isin(evidence.labels["test"], evidence.forget_classes))


def entropy_lr_size(evidence: Evidence) -> int:
    """Retain samples, and as many test samples, that `entropy_lr` is fitted on: all that balance allows."""
    return min(len(evidence.logits["retain"]), len(evidence.logits["test"]))


def entropy_lr(evidence: Evidence) -> float | Empty:
    """Logistic regression on the entropy, retain against test: the share of D_f called member.

    The attack of Chundawat et al. (AAAI 2023), `get_membership_attack_prob` of vikram2000b/bad-teaching-unlearning,
    metrics.py (8086ca36): there an SVC is active and this regression, with balanced class weights, is commented out; a
    later copy of that file runs the regression. Here both sides are equally many (`entropy_lr_size`) instead of
    weighted, and the entropy is standardised, for the reason given at `lr_loss`. Nothing in that repository calls it;
    a later copy gives it the whole validation set, with the forgotten class, where a class is forgotten
    (if-loops/selective-synaptic-dampening forget_full_class_strategies.py, 77161cca). So does this, unlike `svc`.
    """
    attack = make_pipeline(StandardScaler(), LogisticRegression())
    return _share_of_members(attack, evidence, entropy, np.arange(entropy_lr_size(evidence)))


def _share_of_members(attack: BaseEstimator, evidence: Evidence, feature: Feature, unseen: np.ndarray) -> float | Empty:
    """Fit on the test samples at ``unseen`` and as many of retain (members); the share of D_f then called member."""
    if (n := len(unseen)) < FEWEST:
        return _too_few(n)
    if not len(evidence.logits["forget"]):
        return Empty("too_few", "the forget set is empty")
    parts = (("retain", np.arange(n)), ("test", unseen))
    retain, test = (feature(evidence.logits[name][rows], evidence.labels[name][rows]) for name, rows in parts)
    attack.fit(np.concatenate([retain, test]).reshape(2 * n, -1), np.repeat([1, 0], n))
    forget = feature(evidence.logits["forget"], evidence.labels["forget"])
    return float(attack.predict(forget.reshape(len(forget), -1)).mean())


# --- classes near the forgotten one -----------------------------------------------------------------------------------


def nearest_class(evidence: Evidence, forgotten: int) -> int | Empty:
    """The remaining class that the model finds likeliest, on average, for test samples of the ``forgotten`` class."""
    rows = evidence.logits["test"][evidence.labels["test"] == forgotten]
    remaining = _remaining(evidence)
    if not len(rows) or not len(remaining):
        return Empty("too_few", f"class {forgotten} has {len(rows)} test samples and {len(remaining)} classes remain")
    return int(remaining[softmax(rows.astype(np.float64), axis=1)[:, remaining].mean(axis=0).argmax()])


def neighbour(evidence: Evidence, cap: int | None = 2000) -> float | Empty:
    """Share of D_f that passes for the class nearest the forgotten one; class scenarios only, else Empty("no_class").

    For each forgotten class a discriminator, SVC(C=3, rbf, gamma="auto"), learns to tell retain samples of its
    `nearest_class` from as many of the other remaining classes, at most ``cap`` per side, by the probability given to
    that nearest class. It is then asked about the class's samples in D_f, which neither chose the neighbour nor fitted
    the discriminator. A retrained model has a characteristic value, and the distance to it is what counts: an original
    that still knows the class gives about 0, because little is left for the neighbour, as does a model driven to
    uniform outputs; one that relabels the class to its runner-up gives about 1. The probability is not renormalised
    without the forgotten class: that would hide from the attack what the model still gives to it.

    After MIA-NN (Ebrahimpour-Boroojeny, Wang and Sundaram, "On the Necessity of Output Distribution Reweighting for
    Effective Class Unlearning", arXiv 2506.20893). Its abstract and public reviews were read (the latter describe
    support vector machines per class, evaluated on samples of the forgotten class and compared with the retrained
    model); the body of the paper and its code were not. There the neighbour is found on retrained models, here on the
    model itself.
    """
    if not evidence.forget_classes:
        return Empty("no_class")
    called = []
    for forgotten in evidence.forget_classes:
        near = nearest_class(evidence, forgotten)
        if isinstance(near, Empty):
            return near
        answer = _passes_for(evidence, near, evidence.labels["forget"] == forgotten, cap)
        if isinstance(answer, Empty):
            return answer
        called.append(answer)
    return float(np.concatenate(called).mean())


def _passes_for(evidence: Evidence, near: int, chosen: np.ndarray, cap: int | None) -> np.ndarray | Empty:
    """Which of the ``chosen`` samples of D_f (bool ``[n]``) the discriminator of class ``near`` calls its own."""
    retain, forget = (
        probabilities(evidence.logits[name], evidence.labels[name])[:, near, None] for name in ("retain", "forget")
    )
    is_near = evidence.labels["retain"] == near
    n = min(int(is_near.sum()), int((~is_near).sum()))
    n = n if cap is None else min(cap, n)
    if n < FEWEST:
        return _too_few(n)
    if not chosen.any():
        return Empty("too_few", "the forget set lacks a forgotten class")
    x, y = np.concatenate([retain[is_near][:n], retain[~is_near][:n]]), np.repeat([1, 0], n)
    return SVC(C=3, kernel="rbf", gamma="auto", random_state=0).fit(x, y).predict(forget[chosen])


def _remaining(evidence: Evidence) -> np.ndarray:
    """The classes that are not forgotten, int64, ascending."""
    return np.setdiff1d(np.arange(evidence.num_classes), evidence.forget_classes)
