"""Membership inference on outputs alone: how well the forget set can be told from data that was never trained on.

An attack takes an `Evidence` and returns an accuracy as a fraction (.5 is chance where both sides are equally many), or
`Empty("too_few")`. Its ``*_size`` companion says on how many samples of each side it is fitted. Prefixes of a set are
uniform samples of it (see `Evidence`), so balancing takes prefixes. Every draw comes from ``evidence.seed``.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from unlearnbench.evidence import Evidence
from unlearnbench.spec import Empty

FEWEST = 10  # samples per side below which no attack is fitted


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Losses, float64 ``[n]``, of ``logits`` ``[n, classes]``: log Σ exp(z - z_y), exact at any confidence."""
    z = logits.astype(np.float64)
    return logsumexp(z - np.take_along_axis(z, labels[:, None], axis=1), axis=1)


def sorted_softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of each row in ascending order, float32 ``[n, classes]``: CaMU's features."""
    return np.sort(softmax(logits.astype(np.float64), axis=1).astype(np.float32), axis=1)


def gbt_size(evidence: Evidence) -> int:
    """Members, and as many non-members, that `gbt` is fitted on: at most 4,000, 40% of the test set, and |D_s|."""
    logits = evidence.logits
    return min(4000, 2 * len(logits["test"]) // 5, len(logits["forget"]), len(logits["retain"]))


def gbt(evidence: Evidence) -> float | Empty:
    """CaMU's attack (Shen et al., SDM 2024; function ``train_attack_model`` of the authors' code): boosted trees.

    Members are the first n of D_s, non-members the first n test samples (n: `gbt_size`); features: `sorted_softmax`;
    fitted on a random 99% of these 2n. The value is the accuracy on all of D_f (labelled member) together with the
    remaining test samples (labelled non-member), as many as |D_f| at most: below .5 where D_f passes for unseen.

    Trees have XGBoost's defaults: 100 rounds, rate .3, depth 6, L2 penalty 1 on the leaf values (the same formula in
    both libraries). On outputs for MNIST the mean accuracy is within .003 of XGBoost's, class and random forgetting.
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
