"""Membership inference with models that were never trained on the forget set: OUT models, such as a bank of oracles.

Everything is plain numpy. ``[M, n]`` holds one number per (model, sample), always of the sample's true label: a
confidence (`distributions.margin`), a probability or a loss. A value is `Empty` where there are too few models or
samples. AUCs count ties half. Positives are outputs of unlearned models (or on members), negatives those of
never-trained models (or on non-members).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from unlearnbench.plan.spec import Empty

FEWEST_MODELS = 8  # per side, so that a fold has four to fit on and four to score
FPRS = (0.01, 0.001)  # the false positive rates at which true positives are counted
RESAMPLES = 1000

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Attack:
    """What an attack achieves: AUC with its 95% interval, balanced accuracy, and TPR by FPR; all are fractions."""

    auc: float
    low: float
    high: float
    accuracy: float
    tpr: dict[float, float | Empty]


# --- signals and areas ------------------------------------------------------------------------------------------------


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive score exceeds a negative one, ties counted half (Mann and Whitney 1947).

    Raises ValueError on NaN or if a side is empty.
    """
    scores = np.concatenate([positive.ravel(), negative.ravel()])
    if not positive.size or not negative.size or np.isnan(scores).any():
        raise ValueError("the AUC needs scores on both sides, none of them NaN")
    above = rankdata(scores)[: positive.size].sum() - positive.size * (positive.size + 1) / 2
    return float(above / (positive.size * negative.size))


def pairwise_auc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """The AUC of every model of ``positive`` ``[P, n]`` against every model of ``negative`` ``[Q, n]``: ``[P, Q]``.

    Its mean is the AUC of all scores pooled, since every pair compares equally many scores. Raises ValueError on NaN.
    """
    scores = np.concatenate([positive.ravel(), negative.ravel()])
    if np.isnan(scores).any():
        raise ValueError("the AUC needs scores, none of them NaN")
    distinct, ranks = np.unique(scores, return_inverse=True)
    of_positive = ranks[: positive.size].reshape(positive.shape)
    columns = []
    for model in ranks[positive.size :].reshape(negative.shape):
        count = np.bincount(model, minlength=len(distinct))
        below = np.cumsum(count) - count / 2  # how many of this model's scores are lower, ties counted half
        columns.append(below[of_positive].mean(axis=1) / len(model))
    return np.stack(columns, axis=1)


def tpr_at(positive: np.ndarray, negative: np.ndarray, fpr: float) -> float | Empty:
    """The largest true positive rate of a threshold whose false positive rate is at most ``fpr``.

    Empty below 10 / fpr negatives, where the threshold would rest on fewer than ten of them.
    """
    one_in = round(1 / fpr)
    if negative.size < 10 * one_in:
        return Empty("too_few", f"{10 * one_in} negatives needed, {negative.size} there")
    last = negative.size - 1 - negative.size // one_in
    return float(np.mean(positive > np.partition(negative.ravel(), last)[last]))


# --- likelihood ratios of banks of models -----------------------------------------------------------------------------


def ulira(unlearned: np.ndarray, out: np.ndarray, seed: int) -> Attack | Empty:
    """U-LiRA: per-sample Gaussians of the confidence of unlearned against never-trained models.

    ``unlearned`` ``[N, n]`` and ``out`` ``[M, n]``: confidences on the same n forget samples. The score of a confidence
    x is log N(x; μ_u, σ_u) - log N(x; μ_o, σ_o) with the moments of its sample over models. The moments come from one
    half of the models of each side (drawn with ``seed``) and score the other half, then the halves swap: **no model is
    scored by Gaussians that it helped to fit**, else pure noise would look like a leak. Standard deviations are at
    least a tenth of the root mean square of all in their half: four models can agree on a sample by chance.

    AUC: over all (model, sample) pairs within a half, averaged over the halves by their number of comparisons.
    Accuracy: at score 0, both sides weighted equally, a score of exactly 0 half right. TPR: `tpr_at`, over both halves.
    Interval: a bootstrap over models, since samples of one model share its training. Per half, the 2.5% and 97.5%
    quantiles over 1,000 draws, with replacement, of k - 1 of its k models (k would be too narrow by √(1 - 1/k)) on each
    side, the Gaussians kept; then the halves' ends are averaged. That treats their errors as moving together, as they
    do: what misleads the fit on one half misleads the other's scores. On simulated noise, N = 8 to 64, it holds
    .5 in 93 to 97% of cases; with k models drawn and independent halves it would in 78 to 87%. Where the AUC is far
    from .5 and models are few it covers less than it says (84 to 91% at N = 8).

    AUC .5 means that the unlearned models cannot be told from the never-trained ones. A weak leak shows more with more
    models: compare at equal N and M. Empty("small_bank") below 8 models on a side.

    After Hayes et al., "Inexact unlearning needs more careful evaluations to avoid a false sense of privacy" (2024),
    and LiRA (Carlini et al., S&P 2022). Neither was read: the definition is a secondary source's.
    """
    lacking = _lacking(unlearned, out)
    if lacking:
        return lacking
    rng = np.random.default_rng(seed)
    halves = _cross_fit(unlearned, out, gaussian_ratio, rng)
    pairs = [pairwise_auc(positive, negative) for positive, negative in halves]
    weights = [matrix.size for matrix in pairs]
    ends = [np.quantile(_resampled_means(matrix, rng), [0.025, 0.975]) for matrix in pairs]
    low, high = np.average(ends, axis=0, weights=weights)
    positive, negative = (np.concatenate([half[side].ravel() for half in halves]) for side in (0, 1))
    return Attack(
        auc=float(np.average([matrix.mean() for matrix in pairs], weights=weights)),
        low=float(low),
        high=float(high),
        accuracy=float(0.5 + (np.sign(positive).mean() - np.sign(negative).mean()) / 4),
        tpr={fpr: tpr_at(positive, negative, fpr) for fpr in FPRS},
    )


def ruli(unlearned: np.ndarray, out: np.ndarray, seed: int) -> float | Empty:
    """RULI: AUC of p_u / (p_u + p_o), densities of the confidence by Gaussian kernels of bandwidth 1.

    Arguments, halves and pooling are those of `ulira`; p_u and p_o are estimated per sample over the models of the
    other half. Row i of a side need not be one model: in shadow runs, where every sample is in turn unlearned and out,
    column j holds the runs in which sample j was.

    After "Rectifying Privacy and Efficacy Measurements in Machine Unlearning" (USENIX Security 2025). The paper was not
    read; of the authors' code, datasec-lab/Ruli core/attack/unlearn_attack.py (cb3967ed) was: scikit-learn's
    KernelDensity at its default bandwidth and the same ratio, of which the logarithm ranks alike without saturating.
    There the densities come from shadow models and one target model is scored. Its confidences are clipped at 1e-6.
    """
    lacking = _lacking(unlearned, out)
    if lacking:
        return lacking
    halves = _cross_fit(unlearned, out, kernel_ratio, np.random.default_rng(seed))
    areas = [auc(positive, negative) for positive, negative in halves]
    comparisons = [len(positive) * len(negative) for positive, negative in halves]
    return float(np.average(areas, weights=comparisons))


def _lacking(unlearned: np.ndarray, out: np.ndarray) -> Empty | None:
    if min(len(unlearned), len(out)) < FEWEST_MODELS:
        there = f"{len(unlearned)} unlearned and {len(out)} never-trained models there"
        return Empty("small_bank", f"{FEWEST_MODELS} of each needed, {there}")
    return None if unlearned.size and out.size else Empty("too_few", "no forget sample")


def _cross_fit(
    unlearned: np.ndarray, out: np.ndarray, score: Score, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores of the unlearned and of the out models of each half, ``[models, n]``, fitted on the other half."""
    u, o = (np.array_split(side.astype(np.float64)[rng.permutation(len(side))], 2) for side in (unlearned, out))
    return [(score(u[k], u[1 - k], o[1 - k]), score(o[k], u[1 - k], o[1 - k])) for k in (0, 1)]


def gaussian_ratio(x: np.ndarray, unlearned: np.ndarray, out: np.ndarray) -> np.ndarray:
    """log N(x; unlearned) - log N(x; out) of `ulira`, for ``x`` ``[m, n]``: moments of each column over its rows."""
    variances = np.stack([unlearned.var(axis=0, ddof=1), out.var(axis=0, ddof=1)])
    var_u, var_o = np.maximum(variances, max(0.01 * variances.mean(), 1e-12))
    squares = (x - out.mean(axis=0)) ** 2 / var_o - (x - unlearned.mean(axis=0)) ** 2 / var_u
    return (squares + np.log(var_o) - np.log(var_u)) / 2


def kernel_ratio(x: np.ndarray, unlearned: np.ndarray, out: np.ndarray) -> np.ndarray:
    """log p_u(x) - log p_o(x) of `ruli`, for ``x`` ``[m, n]``: densities of each column from its rows."""
    return np.stack([_log_density(row, unlearned) - _log_density(row, out) for row in x])


def _log_density(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Up to a constant, for ``x`` ``[n]`` and ``centres`` ``[models, n]``."""
    exponents = -((x - centres) ** 2) / 2
    top = exponents.max(axis=0)
    return top + np.log(np.exp(exponents - top).mean(axis=0))


def _resampled_means(matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of ``matrix`` over k - 1 of its k rows, and likewise columns, with replacement: ``[RESAMPLES]``."""
    rows, columns = (rng.multinomial(k - 1, np.full(k, 1 / k), size=RESAMPLES) / (k - 1) for k in matrix.shape)
    return np.einsum("bp,pq,bq->b", rows, matrix, columns, optimize=True)


# --- attacks on one model ---------------------------------------------------------------------------------------------


def rmia_scores(
    target: np.ndarray,
    population: np.ndarray,
    out_target: np.ndarray,
    out_population: np.ndarray,
    a: float = 0.3,
    gamma: float = 1.0,
) -> np.ndarray:
    """Share of z in the population with [p(x) / p̄(x)] / [p(z) / p̄(z)] > γ for each target x: float64 ``[n]``.

    ``target`` ``[n]`` and ``population`` ``[k]`` are the attacked model's probabilities of the true label,
    ``out_target`` ``[M, n]`` and ``out_population`` ``[M, k]`` those of never-trained models, whose mean p_out gives
    the offline p̄ = ((1 + a) p_out + 1 - a) / 2. O((n + k) log k).
    """
    ratio_x, ratio_z = (
        p / (((1 + a) * p_out.mean(axis=0) + 1 - a) / 2)
        for p, p_out in (
            (target.astype(np.float64), out_target.astype(np.float64)),
            (population.astype(np.float64), out_population.astype(np.float64)),
        )
    )
    return np.searchsorted(np.sort(gamma * ratio_z), ratio_x, side="left") / len(ratio_z)


def rmia(
    member: np.ndarray,
    nonmember: np.ndarray,
    population: np.ndarray,
    out_member: np.ndarray,
    out_nonmember: np.ndarray,
    out_population: np.ndarray,
    a: float = 0.3,
    gamma: float = 1.0,
) -> float | Empty:
    """AUC of `rmia_scores`, members against non-members; population and non-members must be disjoint samples.

    After "Low-Cost High-Power Membership Inference Attacks" (Zarifzadeh, Liu and Shokri, ICML 2024), of which the
    abstract was read; the formula is a secondary source's. The copy in IAM's repository was read
    (Happy2Git/Unlearning_Inference_IAM unlearning_lib/metrics/rmia.py, 038880c2): the same p̄ and comparison, but a
    Taylor softmax and a trimmed mean in place of the softmax and the mean.
    """
    empty = _no_samples(member=member, nonmember=nonmember, population=population) or _no_models(out_member)
    if empty:
        return empty
    members = rmia_scores(member, population, out_member, out_population, a, gamma)
    return auc(members, rmia_scores(nonmember, population, out_nonmember, out_population, a, gamma))


def emia_positions(loss: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Where ``loss`` ``[n]`` lies in the distribution of ``out`` ``[M, n]``: 0 to 1, float64 ``[n]``, low for members.

    Per sample, the order statistics of the OUT losses between 0 and 1000, M + 2 points, have the positions k / (M + 1);
    between them it is linear.
    """
    ends = np.array([[0.0], [1000.0]]).repeat(len(loss), axis=1)
    points = np.sort(np.concatenate([out.astype(np.float64), ends]), axis=0)
    positions = np.linspace(0, 1, len(points))
    return np.array([np.interp(x, ordered, positions) for x, ordered in zip(loss, points.T, strict=True)])


def emia(
    member_loss: np.ndarray, nonmember_loss: np.ndarray, out_member: np.ndarray, out_nonmember: np.ndarray
) -> float | Empty:
    """AUC of low `emia_positions`, members ``[n]`` against non-members ``[m]``; losses in nats.

    After "Enhanced Membership Inference Attacks against Machine Learning Models" (Ye et al., CCS 2022), not read. Of
    the code of others, Happy2Git/Unlearning_Inference_IAM unlearning_lib/metrics/enhanced_mia.py (038880c2) was: the
    end points 0 and 1000 and the interpolation are its.
    """
    empty = _no_samples(member=member_loss, nonmember=nonmember_loss) or _no_models(out_member)
    if empty:
        return empty
    return auc(-emia_positions(member_loss, out_member), -emia_positions(nonmember_loss, out_nonmember))


def iam_completeness(original: np.ndarray, out: np.ndarray, unlearned: np.ndarray) -> np.ndarray | Empty:
    """How completely each sample was unlearned: 0 to 1, float64 ``[n]``, 1 where it looks never learned.

    ``original`` ``[n]``, ``out`` ``[M, n]``, ``unlearned`` ``[n]``: probabilities of the true label by the original, by
    M >= 1 never-trained models and by the unlearned one. With s(p) = -log(ε₁ - log(p + ε₂)), ε₁ = 1e-2, ε₂ = 1e-5, the
    scores of the OUT models move to the original's in 100 steps, s_α = (1 - α) s_out + α s_original. Each step has a
    Gumbel distribution by moments: per sample the mean over OUT models, and one standard deviation for all, that of
    s_α over models and samples together, which one OUT model suffices for. Completeness is 1 minus the mean of their
    distribution functions at s_u over the steps α_0 … α_98, where step k has the weight α_(k+1).

    After "Towards Lifecycle Unlearning Commitment Management: Measuring Sample-level Unlearning Completeness" (USENIX
    Security 2025), not read; this follows the authors' code, Happy2Git/Unlearning_Inference_IAM
    unlearning_lib/metrics/iam_score.py and new_test_scores.py (038880c2) with its defaults (``gumbel``,
    ``fix_variance``): the weights one step ahead are its. It rescales s to [0, 1], which changes nothing here.
    """
    empty = _no_samples(forget=unlearned) or _no_models(out)
    if empty:
        return empty
    s_original, s_out, s_u = (-np.log(1e-2 - np.log(p.astype(np.float64) + 1e-5)) for p in (original, out, unlearned))
    alphas = np.linspace(0, 1, 100)[:, None]
    mean = (1 - alphas[:-1]) * s_out.mean(axis=0) + alphas[:-1] * s_original
    spread = np.array([np.std((1 - alpha) * s_out + alpha * s_original) for alpha in alphas[:-1, 0]])[:, None]
    scale = np.maximum(np.sqrt(6) / np.pi * spread, 1e-12)  # without spread: a step at the mean
    below = np.exp(-np.exp(np.minimum(-(s_u - mean) / scale - np.euler_gamma, 700)))
    return 1 - np.average(below, axis=0, weights=alphas[1:, 0])


def iam(original: np.ndarray, out: np.ndarray, unlearned: np.ndarray) -> float | Empty:
    """Mean of `iam_completeness`. Raises ValueError on NaN."""
    completeness = iam_completeness(original, out, unlearned)
    if isinstance(completeness, Empty):
        return completeness
    if np.isnan(completeness).any():
        raise ValueError("the probabilities must not be NaN")
    return float(completeness.mean())


def _no_samples(**sides: np.ndarray) -> Empty | None:
    missing = [name for name, values in sides.items() if not values.size]
    return Empty("too_few", f"no {' and no '.join(missing)} sample") if missing else None


def _no_models(out: np.ndarray) -> Empty | None:
    return None if len(out) else Empty("small_bank", "1 never-trained model needed, 0 there")
