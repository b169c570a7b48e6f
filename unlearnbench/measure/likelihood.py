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

from unlearnbench.measure.resampling import Replicates, estimate, left_out
from unlearnbench.plan.spec import Empty, Estimate

FEWEST_MODELS = 8  # per side, so that a half has four to fit on and four to score
FPRS = (0.01, 0.001)  # the false positive rates at which true positives are counted
GROUPS = 4  # of each side's models in each half, left out in turn

Score = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Attack:
    """What an attack achieves, with 95% intervals over models: AUC, balanced accuracy, and TPR by FPR; all fractions.

    ``replicates`` are those of the AUC (`resampling.left_out`), for comparison with an attack on other samples."""

    auc: Estimate
    accuracy: Estimate
    tpr: dict[float, Estimate | Empty]
    replicates: Replicates


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


def tpr_at(positive: np.ndarray, negative: np.ndarray, fpr: float) -> float:
    """The largest true positive rate of a threshold whose false positive rate is at most ``fpr``."""
    last = negative.size - 1 - negative.size // round(1 / fpr)
    return float(np.mean(positive > np.partition(negative.ravel(), last)[last]))


# --- likelihood ratios of banks of models -----------------------------------------------------------------------------


def ulira(unlearned: np.ndarray, out: np.ndarray, seed: int) -> Attack | Empty:
    """U-LiRA: per-sample Gaussians of the confidence of unlearned against never-trained models.

    ``unlearned`` ``[N, n]`` and ``out`` ``[M, n]``: confidences on the same n samples. The score of a confidence x is
    log N(x; μ_u, σ_u) - log N(x; μ_o, σ_o) with the moments of its sample over models. The moments come from one half
    of the models of each side (drawn with ``seed``) and score the other half, then the halves swap: **no model is
    scored by Gaussians that it helped to fit**, else pure noise would look like a leak. Standard deviations are at
    least a tenth of the root mean square of all in their half: four models can agree on a sample by chance.

    AUC: over all (model, sample) pairs within a half, averaged over the halves by their number of comparisons.
    Accuracy: at score 0, both sides weighted equally, a score of exactly 0 half right. TPR: `tpr_at`, over both halves;
    empty below 10 / FPR negatives, where the threshold would rest on fewer than ten of them.

    AUC .5 means that the unlearned models cannot be told from the never-trained ones. **Above .5 it says that the
    method was run, not that D_f leaks**: the negatives did not go through the method, and one that shifts the
    confidence on every sample is told from them on samples that nobody trained on as well. What D_f adds to that is
    its `excess` over such samples. A weak leak shows more with more models: compare at equal N and M.
    Empty("small_bank") below 8 models on a side.

    Intervals: `resampling.estimate`, 4 groups of each side's models in each half, Gaussians fitted anew without them.
    Simulated with N = M = 8, 16 and 64 Gaussian models of 40 samples, whole models 0, .5 or 1.5 standard deviations
    apart (400 banks each, 200 of 64), the AUC's holds its mean in 97 to 100% of cases where nothing leaks, where it is
    up to twice as wide as it need be, and in 91 to 100% at shifts of .5 and 1.5; that of the accuracy in 92 to 100%; of
    the TPR, N = 64, at 1% in 92 to 99% and at .1% (160 samples) in 86 to 100%.

    After Hayes et al., "Inexact unlearning needs more careful evaluations to avoid a false sense of privacy" (2024),
    and LiRA (Carlini et al., S&P 2022). Neither was read: the definition is a secondary source's.
    """
    lacking = _lacking(unlearned, out)
    if lacking:
        return lacking
    rng = np.random.default_rng(seed)
    u, o = (np.array_split(side.astype(np.float64)[rng.permutation(len(side))], 2) for side in (unlearned, out))
    found = left_out(_achieved, u[0], o[0], u[1], o[1], groups=GROUPS)
    area, accuracy, *tpr = (estimate([x[:, i] for x in found], 0, 1) for i in range(2 + len(FPRS)))
    rates = {fpr: _too_few_for(fpr, out) or rate for fpr, rate in zip(FPRS, tpr, strict=True)}
    return Attack(area, accuracy, rates, [x[:, 0] for x in found])


def _achieved(u: np.ndarray, o: np.ndarray, other_u: np.ndarray, other_o: np.ndarray) -> np.ndarray:
    """AUC, accuracy and the TPR at each of `FPRS` of `ulira` for the halves u and o, and the others of both sides."""
    halves = _cross_fit(u, o, other_u, other_o, gaussian_ratio)
    positive, negative = (np.concatenate([half[side].ravel() for half in halves]) for side in (0, 1))
    accuracy = 0.5 + (np.sign(positive).mean() - np.sign(negative).mean()) / 4
    return np.array([_mean_auc(halves), accuracy, *(tpr_at(positive, negative, fpr) for fpr in FPRS)])


def _too_few_for(fpr: float, out: np.ndarray) -> Empty | None:
    needed = 10 * round(1 / fpr)
    return None if out.size >= needed else Empty("too_few", f"{needed} negatives needed, {out.size} there")


def excess(forget: Attack, elsewhere: Attack) -> Estimate:
    """AUC on D_f minus AUC ``elsewhere``, on samples that nobody trained on; both by `ulira` with one seed, of the same
    models in the same order. This, and not the AUC, speaks of D_f: a method that shifts the confidence of all samples
    alike has 0.

    The interval leaves the same models out on both sides, so that what they share cancels. In simulations as those of
    `ulira`, with shifts of everything by 0, 1.5 and 4, it holds 0 in 93 to 100% of cases, and the mean of a true excess
    in 93 to 99% (benchmarks/calibration.py prints such cases).

    It presumes that to an oracle D_f looks like those samples: where D_f was not drawn at random from its classes (hard
    samples, wrong labels), one and the same shift can be easier to see on one of the two.
    """
    return estimate([a - b for a, b in zip(forget.replicates, elsewhere.replicates, strict=True)])


def ruli(unlearned: np.ndarray, out: np.ndarray, seed: int) -> Estimate | Empty:
    """RULI: AUC of p_u / (p_u + p_o), densities of the confidence by Gaussian kernels of bandwidth 1.

    ``unlearned`` and ``out`` are ``[K, n]``. Row i need not be one model: in shadow runs, where every sample is in turn
    unlearned and out, row i holds for each sample the run of the i-th three in which it was, and both sides come from
    the same runs. **The non-members went through the method too**, so that a mere shift of everything does not show.
    Halves and pooling are those of `ulira`, but rows of both sides go together, into halves and out of the interval
    (`resampling.estimate`, 4 groups of rows in each half): in simulations as those of `ulira`, K = 8, 16 and 32, it
    holds the mean AUC in 96 to 99% of cases where nothing leaks and in 91 to 98% elsewhere.

    After "Rectifying Privacy and Efficacy Measurements in Machine Unlearning" (USENIX Security 2025). The paper was not
    read; of the authors' code, datasec-lab/Ruli core/attack/unlearn_attack.py (cb3967ed) was: scikit-learn's
    KernelDensity at its default bandwidth and the same ratio, of which the logarithm ranks alike without saturating.
    There the densities come from shadow models and one target model is scored. Its confidences are clipped at 1e-6.

    Raises ValueError where the sides differ in shape.
    """
    lacking = _lacking(unlearned, out)
    if lacking:
        return lacking
    rows = np.stack([unlearned, out], axis=1).astype(np.float64)
    first, second = np.array_split(rows[np.random.default_rng(seed).permutation(len(rows))], 2)

    def area(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        halves = _cross_fit(first[:, 0], first[:, 1], second[:, 0], second[:, 1], kernel_ratio)
        return np.array(_mean_auc(halves))

    return estimate(left_out(area, first, second, groups=GROUPS), 0, 1)


def _lacking(unlearned: np.ndarray, out: np.ndarray) -> Empty | None:
    if min(len(unlearned), len(out)) < FEWEST_MODELS:
        there = f"{len(unlearned)} unlearned and {len(out)} never-trained models there"
        return Empty("small_bank", f"{FEWEST_MODELS} of each needed, {there}")
    return None if unlearned.size and out.size else Empty("too_few", "no sample")


def _cross_fit(
    u: np.ndarray, o: np.ndarray, other_u: np.ndarray, other_o: np.ndarray, score: Score
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores of the unlearned and of the out models of each half, ``[models, n]``, fitted on the other half."""
    own, other = (u, o), (other_u, other_o)
    return [(score(a[0], *b), score(a[1], *b)) for a, b in ((own, other), (other, own))]


def _mean_auc(halves: list[tuple[np.ndarray, np.ndarray]]) -> float:
    comparisons = [len(positive) * len(negative) for positive, negative in halves]
    return float(np.average([auc(*half) for half in halves], weights=comparisons))


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
