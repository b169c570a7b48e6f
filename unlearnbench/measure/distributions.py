"""Many models against many: the unlearned models of N seeds against N oracles, sample by sample.

Statistics are ``[models, n]``: one number per model and sample, all of the same samples in the same order. The order of
the models changes nothing. How far apart two honest banks come out depends on N: every value belongs beside its null.
A sample for which any model has NaN comes out as NaN.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import logsumexp, rel_entr

from unlearnbench.plan.spec import Empty

KLOM_FEWEST = 64  # models per side below which the null of `equal_bins_kl` drowns what is to be seen
QUALITY_FEWEST = 8  # models per side below which `forgetting_quality` has hardly a step between its best and worst

EPSILON_CAP = 50.0  # of an attack that is always right
BIN_WIDTH = 0.5  # of ε: each further bin is worth half as much
PEAKY = 0.01  # ratio of the two ranges below which the narrower distribution gives itself away


def margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """z_y - log Σ exp(z_≠y) = log(p_y / (1 - p_y)), the logit-scaled confidence, exact at any confidence.

    ``logits`` are ``[..., n, classes]`` (leading axes are models), ``labels`` int ``[n]``; the result is float64
    ``[..., n]``. A constant added to a row changes nothing.
    """
    if logits.ndim > 2:  # one model at a time: the whole bank in float64 would not fit
        return np.stack([margin(model, labels) for model in logits])
    z = logits.astype(np.float64)
    own = np.arange(len(labels)), labels
    z_own = z[own]
    z[own] = -np.inf
    return z_own - logsumexp(z, axis=1)


# --- KL of margins ---------------------------------------------------------------------------------------------------


def klom(unlearned: np.ndarray, oracle: np.ndarray, bins: int = 8) -> np.ndarray:
    """KL divergence of margins (KLoM), the larger direction: max{KL(o ‖ u), KL(u ‖ o)} in nats, float64 ``[n]``.

    Of margins ``[N, n]`` and ``[M, n]``. Between the smallest and the largest oracle ``bins`` bins hold equally many
    oracles; two open ones take what lies outside, so that a broken model is far from all oracles wherever it is, and
    moves no other edge. Empty bins are floored as in `equal_bins_kl`.

    The bins and the larger direction are this suite's. With equal bins over the joint range one useless model widens
    all of them until the others agree: of 64 against 64 identical Gaussians, one of them at -100, the published KL(o ‖
    u) falls from .63 to .04 and KL(u ‖ o) from .64 to .13. Here it rises from .35 to .45, with four to .84, and where
    all are shifted by half a standard deviation to .66 (means over 150 samples of 120 simulated banks). Two honest
    banks are .35 apart at N = 64, not 0: read it beside its null. Where all samples of a model move together that null
    has a spread of its own (.09 where whole models lie 1.5 standard deviations apart), within which one broken model
    can hide.
    """
    u, o = (x.astype(np.float64) for x in (unlearned, oracle))
    edges = np.quantile(o, np.linspace(0, 1, bins + 1), axis=0)
    edges[-1] = np.nextafter(edges[-1], np.inf)  # the largest oracle is inside
    shares = _shares(u, edges), _shares(o, edges)
    larger = np.maximum(_floored_kl(*shares), _floored_kl(*shares[::-1]))
    return np.where(np.isnan(u).any(axis=0) | np.isnan(o).any(axis=0), np.nan, larger)


def equal_bins_kl(p: np.ndarray, q: np.ndarray, clip: float = 100, bins: int = 20, floor: float = 1e-5) -> np.ndarray:
    """KLoM as published: per sample KL(p ‖ q) in nats, float64 ``[n]``, of two histograms with equal bins.

    ``p`` and ``q`` are margins ``[N, n]`` and ``[M, n]``, clipped to ±``clip``. The ``bins`` equal bins of a sample
    span the range of both sides together. A probability of q is raised to ``floor`` where p is positive, then q is made
    to sum to 1 again. See `klom` for what these bins make of a broken model.

    Georgiev et al. 2024 (neither paper nor code read). Code read: https://github.com/RoyRin/data-unlearning-bench,
    unlearning_bench/eval.py at 330464a (its ``scipy.stats.entropy`` makes q sum to 1) and the call in
    unlearning_bench/run.py at 5df0b70, KL(oracle ‖ unlearned); and https://github.com/easydub/EasyDUB-code,
    easydub/eval.py at 5de3c4c, KL(unlearned ‖ oracle), where q is not made to sum to 1. Both leave the last bin open,
    so that the largest of all the margins is lost and that side counts one model less. Here it is closed.
    """
    p, q = (np.clip(x.astype(np.float64), -clip, clip) for x in (p, q))
    low, high = np.minimum(p.min(axis=0), q.min(axis=0)), np.maximum(p.max(axis=0), q.max(axis=0))
    edges = np.linspace(low, high, bins + 1)[1:-1]
    return np.where(np.isnan(low), np.nan, _floored_kl(_shares(p, edges), _shares(q, edges), floor))


def _shares(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Shares ``[bins + 1, n]`` of the models ``[N, n]`` below, between and above the edges ``[bins, n]``."""
    above = [(x >= edge).sum(axis=0) for edge in edges]
    ends = np.zeros(x.shape[1], dtype=int)
    return -np.diff(np.stack([ends + len(x), *above, ends]), axis=0) / len(x)


def _floored_kl(p: np.ndarray, q: np.ndarray, floor: float = 1e-5) -> np.ndarray:
    """KL(p ‖ q) of shares ``[bins, n]``: q raised to ``floor`` where p is positive, then made to sum to 1 again."""
    q = np.where(p > 0, np.maximum(q, floor), q)
    return rel_entr(p, q / q.sum(axis=0)).sum(axis=0)


# --- the metric of the NeurIPS 2023 challenge ------------------------------------------------------------------------


def forgetting_quality(unlearned: np.ndarray, oracle: np.ndarray, delta: float = 1e-5) -> float | Empty:
    """F of the NeurIPS 2023 unlearning challenge: the mean score of the samples of D_f, in [0, 1]; high is good.

    ``unlearned`` and ``oracle`` are `margin` of N models each, ``[N, n]``. The score of a sample is 1 for an ε (see
    `epsilons`) below .5, ½ below 1, ¼ below 1.5 and so on, and 0 from ⌈ln(N - 1)⌉ on, N the smaller of the two sides.
    The best of many attacks wins by chance too, so compare with honest oracles, which are far from 1. On two identical
    Gaussians F is .18 at N = 8, .13 at 16, .10 at 32, .08 at 64, .07 at 128.

    **Not on the challenge's scale.** Read: "Evaluation for the NeurIPS Machine Unlearning Competition" (August 2023;
    https://github.com/unlearning-challenge/unlearning-challenge.github.io at f943bbf,
    assets/data/Machine_Unlearning_Metric.pdf) and https://github.com/google-deepmind/unlearning_evaluation, metric.py
    at ffae0ff. That code tries a grid of 100 thresholds per unit, and of pairs only those whose distance is within 2
    units of the smaller range. Here every place between the values is tried, so that ε does not depend on the unit and
    is larger: at N = 64 F is .08 where its grid gives .18, on the same Gaussians of standard deviation 1 or 3. Where
    ranges tie its two sides take turns by their medians, here the better attack counts.
    """
    models, n = min(len(unlearned), len(oracle)), unlearned.shape[1]
    if models < 2:
        return Empty("small_bank", f"{len(unlearned)} unlearned models and {len(oracle)} oracles, 2 of each needed")
    if not n:
        return Empty("too_few", "no sample")
    found = epsilons(unlearned, oracle, delta)
    points = 0.5 ** np.floor(found / BIN_WIDTH) * (found < math.ceil(math.log(models - 1)))
    return float(points.mean())


def epsilons(unlearned: np.ndarray, oracle: np.ndarray, delta: float = 1e-5) -> np.ndarray:
    """ε of each sample under the best attack that tells unlearned models from oracles, float64 ``[n]`` in [0, 50].

    Of statistics ``[N, n]`` and ``[M, n]``: ε = max{log(1-δ-FPR) - log FNR, log(1-δ-FNR) - log FPR}; for the source see
    `forgetting_quality`. An attack calls what is between two thresholds the side with the smaller range, either side
    where they are equal, and every pair of places between two values is tried; where one of them is at the end it is an
    attack with a single threshold. An attack with exactly one rate of 0 does not count, one that is never wrong has ε
    50, and so has a sample where one range is below 1% of the other. Two sides that are one and the same value cannot
    be told apart: ε is 0.
    """
    u, o = unlearned.astype(np.float64), oracle.astype(np.float64)
    range_u, range_o = np.ptp(u, axis=0), np.ptp(o, axis=0)
    best = _best_attack(u, o, range_u < range_o, delta)
    if (tied := range_u == range_o).any():
        inside_u = np.ones(tied.sum(), dtype=bool)
        best[tied] = np.maximum(best[tied], _best_attack(u[:, tied], o[:, tied], inside_u, delta))
    peaky = np.minimum(range_u, range_o) < PEAKY * np.maximum(range_u, range_o)
    return np.where(np.isnan(range_u + range_o), np.nan, np.where(peaky, EPSILON_CAP, best))


def _best_attack(u: np.ndarray, o: np.ndarray, inside_is_u: np.ndarray, delta: float) -> np.ndarray:
    """The largest ε ``[n]`` of attacks that call what is between two thresholds unlearned, where ``inside_is_u``
    ``[n]``, and elsewhere an oracle."""
    below_u, below_o = _counts_below(u, o)
    by_errors = _epsilon_by_errors(len(u), len(o), delta)
    best = np.zeros(u.shape[1])
    for left in range(len(below_u) - 1):  # one threshold after the other: all pairs at once would not fit
        inside_u, inside_o = below_u[left + 1 :] - below_u[left], below_o[left + 1 :] - below_o[left]
        errors_u = np.where(inside_is_u, len(u) - inside_u, inside_u)
        errors_o = np.where(inside_is_u, inside_o, len(o) - inside_o)
        best = np.maximum(best, by_errors[errors_u, errors_o].max(axis=0))
    return best


def _epsilon_by_errors(models_u: int, models_o: int, delta: float) -> np.ndarray:
    """ε of an attack that is wrong on i unlearned models and j oracles, ``[models_u + 1, models_o + 1]``.

    It is 0 for an attack that does not count: none is below 0, since guessing without looking has that.
    """
    table = np.zeros((models_u + 1, models_o + 1))
    table[0, 0] = EPSILON_CAP
    a, b = np.arange(1, models_u + 1)[:, None] / models_u, np.arange(1, models_o + 1) / models_o
    with np.errstate(divide="ignore", invalid="ignore"):  # rates above 1 - δ have no logarithm and are passed over
        table[1:, 1:] = np.fmax(0, np.fmax(np.log(1 - delta - b) - np.log(a), np.log(1 - delta - a) - np.log(b)))
    return table


def _counts_below(u: np.ndarray, o: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of ``u`` and of ``o`` lie below each threshold, int ``[thresholds, n]`` from none to all.

    A threshold is a place between two neighbours of the N + M sorted values. None parts equal values: in its place
    stands the one before the first of them.
    """
    pooled = np.concatenate([u, o])
    order = np.argsort(pooled, axis=0)
    ranked = np.take_along_axis(pooled, order, axis=0)
    parts = np.ones((len(pooled) + 1, pooled.shape[1]), dtype=bool)
    parts[1:-1] = ranked[1:] > ranked[:-1]
    places = np.maximum.accumulate(np.arange(len(parts))[:, None] * parts, axis=0)  # also the values below each
    counts = np.zeros(parts.shape, dtype=int)
    np.cumsum(order < len(u), axis=0, out=counts[1:])
    below_u = np.take_along_axis(counts, places, axis=0)
    return below_u, places - below_u
