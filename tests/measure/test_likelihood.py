"""Attacks with never-trained models: closed forms, libraries, pure noise, and the bugs they must reject."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import KernelDensity

from unlearnbench.measure import likelihood
from unlearnbench.measure.likelihood import Attack
from unlearnbench.plan.spec import Empty


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def value(result: float | Empty) -> float:
    assert isinstance(result, float)
    return result


def attack(unlearned: np.ndarray, out: np.ndarray, seed: int = 0) -> Attack:
    result = likelihood.ulira(unlearned, out, seed)
    assert isinstance(result, Attack)
    return result


def library_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    labels = np.repeat([1, 0], [positive.size, negative.size])
    return float(roc_auc_score(labels, np.concatenate([positive.ravel(), negative.ravel()])))


# --- areas ------------------------------------------------------------------------------------------------------------

few_values = arrays(np.float64, st.tuples(st.integers(1, 4), st.just(3)), elements=st.integers(0, 3).map(float))


@settings(max_examples=50, deadline=None)
@given(few_values, few_values)
def test_areas_are_scikit_learns_with_ties_half(positive: np.ndarray, negative: np.ndarray) -> None:
    assert likelihood.auc(positive, negative) == pytest.approx(library_auc(positive, negative))
    pairs = likelihood.pairwise_auc(positive, negative)
    expected = [[library_auc(p, n) for n in negative] for p in positive]
    np.testing.assert_allclose(pairs, expected)
    assert pairs.mean() == pytest.approx(library_auc(positive, negative))


def test_ties_are_neither_wins_nor_losses() -> None:
    positive, negative = np.array([1.0, 2.0]), np.array([1.0, 1.0, 2.0, 0.0])
    assert likelihood.auc(positive, negative) == 5.5 / 8
    assert np.mean(positive[:, None] > negative) == 4 / 8
    assert np.mean(positive[:, None] >= negative) == 7 / 8


def test_areas_refuse_nan_and_empty_sides() -> None:
    with pytest.raises(ValueError, match="NaN"):
        likelihood.auc(np.array([np.nan]), np.array([0.0]))
    with pytest.raises(ValueError, match="both sides"):
        likelihood.auc(np.array([]), np.array([0.0]))
    with pytest.raises(ValueError, match="NaN"):
        likelihood.pairwise_auc(np.array([[np.nan]]), np.array([[0.0]]))


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(("fpr", "n"), [(0.01, 1000), (0.01, 2900), (0.001, 10_000)])
def test_true_positive_rate_is_the_highest_of_the_roc_curve_within_the_bound(fpr: float, n: int, rounded: bool) -> None:
    positive, negative = 1 + normal(0, 500), normal(1, n)
    if rounded:
        positive, negative = positive.round(1), negative.round(1)
    labels = np.repeat([1, 0], [500, n])
    false, true, _ = roc_curve(labels, np.concatenate([positive, negative]), drop_intermediate=False)
    assert likelihood.tpr_at(positive, negative, fpr) == true[false <= fpr + 1e-12].max()


def test_a_false_positive_rate_beyond_the_bound_does_not_count_though_it_is_the_closest() -> None:
    positive, negative = np.repeat([2.0, 1.0, 0.0], [25, 50, 25]), np.repeat([1.0, 0.0], [15, 985])
    assert likelihood.tpr_at(positive, negative, 0.01) == 0.25  # threshold above 1: FPR 0; at 1 it would be .015
    false, true, _ = roc_curve(np.repeat([1, 0], [100, 1000]), np.concatenate([positive, negative]))
    assert true[np.abs(false - 0.01).argmin()] == 0.75


def test_true_positive_rates_need_ten_negatives_beyond_the_threshold() -> None:
    assert likelihood.tpr_at(np.ones(5), np.zeros(999), 0.01) == Empty("too_few", "1000 negatives needed, 999 there")
    assert likelihood.tpr_at(np.ones(5), np.zeros(1000), 0.01) == 1
    assert likelihood.tpr_at(np.zeros(5), np.zeros(1000), 0.01) == 0


# --- ulira ------------------------------------------------------------------------------------------------------------


def test_gaussian_ratio_is_scipys() -> None:
    x, unlearned, out = normal(0, 3, 20), 1 + 2 * normal(1, 5, 20), normal(2, 6, 20)
    expected = stats.norm.logpdf(x, unlearned.mean(axis=0), unlearned.std(axis=0, ddof=1))
    expected -= stats.norm.logpdf(x, out.mean(axis=0), out.std(axis=0, ddof=1))
    np.testing.assert_allclose(likelihood.gaussian_ratio(x, unlearned, out), expected)


def test_a_sample_on_which_models_agree_by_chance_is_floored() -> None:
    unlearned, out = np.tile([[0.0], [2.0]], (4, 3)), np.tile([[1.0], [3.0]], (4, 3))
    unlearned[:, 0] = 1.0  # variance 0; all other five variances are 8/7, so the floor is .01 * 5/6 * 8/7
    x = np.full((1, 3), 1.5)
    floor = 0.01 * 5 / 6 * 8 / 7
    expected = stats.norm.logpdf(1.5, 1, math.sqrt(floor)) - stats.norm.logpdf(1.5, 2, math.sqrt(8 / 7))
    assert likelihood.gaussian_ratio(x, unlearned, out)[0] == pytest.approx([expected, 0, 0], abs=1e-12)


def test_known_gaussians_give_the_known_area_though_the_sign_of_the_shift_varies() -> None:
    sign = np.where(np.arange(100) % 2, 1.0, -1.0)
    unlearned, out = normal(0, 200, 100) + sign, normal(1, 200, 100)
    assert attack(unlearned, out).auc == pytest.approx(0.7602, abs=0.01)  # Φ(1 / √2)
    assert library_auc(unlearned, out) == pytest.approx(0.5, abs=0.01)  # without a model per sample


def test_a_difference_of_spread_alone_is_a_leak() -> None:
    found = attack(3 * normal(0, 100, 80), normal(1, 400, 80))
    assert found.auc == pytest.approx(0.7952, abs=0.015)  # 2/π · atan 3
    assert found.accuracy == pytest.approx(0.7421, abs=0.015)  # threshold at |x| = 1.572; unweighted it would be .827


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_pure_noise_is_at_chance_and_the_interval_covers_it(offset: float) -> None:
    """``offset``: how far whole models lie apart, so that their samples are not independent."""
    found = []
    for seed in range(150):
        sides = normal(seed, 2, 8, 20) + offset * normal(1000 + seed, 2, 8, 1)
        found.append(attack(sides[0], sides[1], seed))
    auc, low, high = (np.array([getattr(a, name) for a in found]) for name in ("auc", "low", "high"))
    assert auc.mean() == pytest.approx(0.5, abs=0.015)
    assert np.mean([a.accuracy for a in found]) == pytest.approx(0.5, abs=0.015)
    assert np.mean((low <= 0.5) & (high >= 0.5)) > 0.9
    narrow = math.sqrt(2)  # the halves drawn as if they were independent
    assert np.mean((auc - (auc - low) / narrow <= 0.5) & (auc + (high - auc) / narrow >= 0.5)) < 0.9


def same_models(unlearned: np.ndarray, out: np.ndarray) -> float:
    """The planted bug: every model is scored by Gaussians that it helped to fit."""
    scores = [likelihood.gaussian_ratio(side, unlearned, out) for side in (unlearned, out)]
    return library_auc(*scores)


def test_scoring_the_models_of_the_fit_finds_leaks_in_pure_noise() -> None:
    noise = [(normal(seed, 16, 100), normal(100 + seed, 16, 100)) for seed in range(12)]
    assert min(same_models(u, o) for u, o in noise) > 0.6
    assert np.mean([attack(u, o).auc for u, o in noise]) == pytest.approx(0.5, abs=0.01)
    assert np.mean([value(likelihood.ruli(u, o, 0)) for u, o in noise]) == pytest.approx(0.5, abs=0.01)


def test_the_area_grows_with_the_leak_and_the_interval_holds_it() -> None:
    found = [attack(normal(0, 16, 50) + shift, normal(1, 16, 50)) for shift in (0.0, 0.5, 1.0, 2.0, 8.0)]
    assert [a.auc for a in found] == sorted(a.auc for a in found)
    assert all(a.low <= a.auc <= a.high for a in found)
    assert found[-1].auc > 0.99


def test_perfect_separation_and_no_variance() -> None:
    nothing = attack(np.zeros((8, 5)), np.zeros((9, 5)))
    assert (nothing.auc, nothing.low, nothing.high, nothing.accuracy) == (0.5, 0.5, 0.5, 0.5)
    apart = attack(np.ones((8, 200)), np.zeros((8, 200)))
    assert (apart.auc, apart.low, apart.high, apart.accuracy, apart.tpr[0.01]) == (1, 1, 1, 1, 1)
    half = attack(np.tile([1.0, 0.0], (8, 1)), np.zeros((30, 2)))
    assert (half.auc, half.accuracy) == (0.875, 0.75)  # one sample is known, the other a guess: three pairs and a tie
    assert likelihood.ruli(np.zeros((8, 5)), np.zeros((9, 5)), 0) == 0.5
    assert likelihood.ruli(np.ones((8, 5)), np.zeros((9, 5)), 0) == 1


@pytest.mark.parametrize("name", ["ulira", "ruli"])
def test_order_of_samples_does_not_matter_the_seed_does(name: str) -> None:
    run = {"ulira": lambda u, o, seed: attack(u, o, seed).auc, "ruli": likelihood.ruli}[name]
    unlearned, out, order = normal(0, 9, 30) + 0.5, normal(1, 11, 30), np.random.default_rng(2).permutation(30)
    assert run(unlearned[:, order], out[:, order], 0) == pytest.approx(run(unlearned, out, 0))
    assert run(unlearned, out, 0) == run(unlearned, out, 0)
    assert run(unlearned, out, 0) != run(unlearned, out, 1)


def test_ulira_ignores_the_scale_and_origin_of_each_sample() -> None:
    unlearned, out = normal(0, 20, 30) + 0.5, normal(1, 20, 30)
    assert attack(3 * unlearned - 7, 3 * out - 7).auc == pytest.approx(attack(unlearned, out).auc)


def test_banks_in_half_precision_are_not_computed_in_it() -> None:
    unlearned, out = ((300 + normal(seed, 8, 40) * 2).astype(np.float16) for seed in (0, 1))  # 300² overflows float16
    assert attack(unlearned, out) == attack(unlearned.astype(np.float64), out.astype(np.float64))
    assert likelihood.ruli(unlearned, out, 0) == likelihood.ruli(unlearned.astype(float), out.astype(float), 0)


def test_true_positive_rates_are_reported_where_negatives_suffice() -> None:
    found = attack(normal(0, 8, 125) + 9, normal(1, 8, 125)).tpr
    assert isinstance(found[0.01], float)
    assert found[0.001] == Empty("too_few", "10000 negatives needed, 1000 there")


@pytest.mark.parametrize("run", [likelihood.ulira, likelihood.ruli])
def test_few_models_no_samples_and_nan(run: Callable[..., Attack | float | Empty]) -> None:
    assert run(np.zeros((7, 3)), np.zeros((9, 3)), 0) == Empty(
        "small_bank", "8 of each needed, 7 unlearned and 9 never-trained models there"
    )
    assert isinstance(run(np.zeros((9, 3)), np.zeros((7, 3)), 0), Empty)
    assert run(np.zeros((8, 0)), np.zeros((8, 0)), 0) == Empty("too_few", "no forget sample")
    assert not isinstance(run(normal(0, 8, 1), normal(1, 8, 1), 0), Empty)
    with pytest.raises(ValueError, match="NaN"):
        run(np.full((8, 3), np.nan), np.zeros((8, 3)), 0)


# --- ruli -------------------------------------------------------------------------------------------------------------


def densities(x: np.ndarray, side: np.ndarray, bandwidth: float) -> np.ndarray:
    columns = [
        KernelDensity(bandwidth=bandwidth).fit(c[:, None]).score_samples(x[:, [j]]) for j, c in enumerate(side.T)
    ]
    return np.stack(columns, axis=1)


def test_kernel_ratio_is_scikit_learns_with_bandwidth_one() -> None:
    x, unlearned, out = 3 * normal(0, 4, 3), 1 + 2 * normal(1, 5, 3), normal(2, 7, 3)
    found = likelihood.kernel_ratio(x, unlearned, out)
    for bandwidth in (1.0, 0.5):
        u, o = (densities(x, side, bandwidth) for side in (unlearned, out))
        assert np.allclose(found, u - o) == (bandwidth == 1)
    p = np.exp(u) / (np.exp(u) + np.exp(o))  # the ratio as published ranks the same
    assert stats.spearmanr(p.ravel(), (u - o).ravel()).statistic == pytest.approx(1)


def test_ruli_sees_two_modes_where_one_gaussian_lies_between() -> None:
    modes = np.where(np.arange(40)[:, None] % 2, 6.0, -6.0)
    unlearned, out = 3 * normal(0, 40, 30), normal(1, 40, 30) + modes
    assert value(likelihood.ruli(unlearned, out, 0)) > 0.9


# --- rmia -------------------------------------------------------------------------------------------------------------


def rmia_by_hand(
    x: np.ndarray, z: np.ndarray, out_x: np.ndarray, out_z: np.ndarray, a: float = 0.3, gamma: float = 1.0
) -> list[float]:
    def mean(column: np.ndarray) -> float:
        return ((1 + a) * float(np.mean(column)) + (1 - a)) / 2

    wins = [
        [(x[i] / mean(out_x[:, i])) / (z[j] / mean(out_z[:, j])) > gamma for j in range(len(z))] for i in range(len(x))
    ]
    return [float(np.mean(row)) for row in wins]


def test_rmia_scores_are_shares_of_the_population() -> None:
    # p̄ = .35 + .65 p_out: .48 for x, and .61, .74 for z; ratios 1.875 and .3125 against .984 and 1.216
    x, z = np.array([0.9, 0.15]), np.array([0.6, 0.9])
    out_x, out_z = np.array([[0.1, 0.3], [0.3, 0.1]]), np.array([[0.4, 0.6], [0.4, 0.6]])
    assert likelihood.rmia_scores(x, z, out_x, out_z).tolist() == [1, 0]
    assert likelihood.rmia_scores(x, z, out_x, out_z, gamma=1.6).tolist() == [
        0.5,
        0,
    ]  # beats 1.6 · .984, not 1.6 · 1.216


@pytest.mark.parametrize(("a", "gamma"), [(0.3, 1.0), (0.0, 2.0), (1.0, 1.0), (0.6, 0.5)])
def test_rmia_scores_are_those_of_the_double_loop(a: float, gamma: float) -> None:
    rng = np.random.default_rng(0)
    x, z, out_x, out_z = (rng.uniform(0.01, 1, size) for size in (40, 30, (3, 40), (3, 30)))
    found = likelihood.rmia_scores(x, z, out_x, out_z, a, gamma)
    assert found == pytest.approx(rmia_by_hand(x, z, out_x, out_z, a, gamma))
    assert found != pytest.approx(rmia_by_hand(x, z, out_x, out_z, a=0.9 - a, gamma=gamma))
    assert found != pytest.approx(rmia_by_hand(x, z, out_x, out_z, a, gamma=1.2 * gamma))


def test_rmia_compares_strictly_and_survives_probabilities_of_zero() -> None:
    out = np.full((1, 2), 0.5)
    scores = likelihood.rmia_scores(np.array([0.5, 0.0]), np.array([0.5, 0.0]), out, out)
    assert scores.tolist() == [0.5, 0.0]  # with >= it would be 1 and .5


def test_rmia_finds_what_is_better_known_than_never_trained_models_know_it() -> None:
    rng = np.random.default_rng(0)
    easy = rng.uniform(0.05, 0.6, 300)  # how well anyone knows each sample
    member, rest = np.minimum(1, easy[:100] + 0.3), easy[100:]
    out = np.clip(easy + 0.02 * rng.normal(size=(4, 300)), 0.01, 1)
    parts = (rest[:100], rest[100:], out[:, :100], out[:, 100:200], out[:, 200:])
    assert value(likelihood.rmia(member, *parts)) > 0.95
    assert value(likelihood.rmia(easy[:100], *parts)) == pytest.approx(0.5, abs=0.1)
    assert value(likelihood.rmia(easy[:100] / 2, *parts)) < 0.3


# --- emia -------------------------------------------------------------------------------------------------------------


def test_emia_positions_are_interpolated_between_order_statistics() -> None:
    loss = np.array([0, 0.5, 1, 2, 3, 501.5, 1000, 2000.0])
    positions = likelihood.emia_positions(loss, np.array([[3.0], [1.0]]).repeat(8, axis=1))  # at 0, 1, 3, 1000: 0 to 1
    assert positions == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1, 1])
    steps = (np.array([1.0, 3.0]) <= loss[:, None]).mean(axis=1)
    assert positions != pytest.approx(steps)  # the empirical distribution without interpolation


def test_emia_positions_belong_to_each_sample() -> None:
    assert likelihood.emia_positions(np.array([1.0, 1.0]), np.array([[1.0, 2.0]])) == pytest.approx([0.5, 0.25])


def test_emia_is_high_where_members_have_lower_losses_than_never_trained_models() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.1, 5, 200)
    out = hard * rng.uniform(0.8, 1.2, (8, 200))
    member, other, out_member, out_other = hard[:100] * 0.5, hard[100:], out[:, :100], out[:, 100:]
    assert value(likelihood.emia(member, other, out_member, out_other)) > 0.95
    assert value(likelihood.emia(hard[:100], other, out_member, out_other)) == pytest.approx(0.5, abs=0.1)
    assert library_auc(-member, -other) < 0.85  # the losses alone, without their distributions


# --- iam --------------------------------------------------------------------------------------------------------------


def iam_by_steps(
    original: np.ndarray, out: np.ndarray, unlearned: np.ndarray,
    ahead: int = 1, last: int = 99, pooled: bool = True, euler: float = np.euler_gamma,
) -> np.ndarray:  # fmt: skip
    """Step by step with SciPy's Gumbel distribution; the options are plausible mistakes."""
    s_r, s_o, s_u = (-np.log(1e-2 - np.log(p + 1e-5)) for p in (original, out, unlearned))
    total, weights = np.zeros(len(original)), 0.0
    for k in range(last):
        path = s_o + k / 99 * (s_r - s_o)
        beta = math.sqrt(6) / math.pi * (path.std() if pooled else path.std(axis=0))
        with np.errstate(over="ignore"):
            below = stats.gumbel_r.cdf(s_u, path.mean(axis=0) - euler * beta, beta)
        total, weights = total + (k + ahead) / 99 * below, weights + (k + ahead) / 99
    return 1 - total / weights


PROBABILITIES = np.random.default_rng(0).uniform(0.02, 0.99, (8, 25))
ORIGINAL, OUT, UNLEARNED = PROBABILITIES[0], PROBABILITIES[1:7] * 0.6, PROBABILITIES[7]


def test_iam_is_the_weighted_mean_of_gumbel_distributions() -> None:
    found = likelihood.iam_completeness(ORIGINAL, OUT, UNLEARNED)
    assert found == pytest.approx(iam_by_steps(ORIGINAL, OUT, UNLEARNED), rel=1e-9)
    assert found == pytest.approx(iam_by_steps(ORIGINAL, OUT, UNLEARNED, euler=0.5772), abs=1e-4)  # as in the code
    assert not isinstance(found, Empty)
    assert likelihood.iam(ORIGINAL, OUT, UNLEARNED) == pytest.approx(found.mean())
    one = likelihood.iam_completeness(ORIGINAL, OUT[:1], UNLEARNED)
    assert one == pytest.approx(iam_by_steps(ORIGINAL, OUT[:1], UNLEARNED), rel=1e-9)


@pytest.mark.parametrize("mistake", [{"ahead": 0}, {"last": 100}, {"pooled": False}, {"euler": 0.0}])
def test_wrong_weights_steps_and_moments_are_rejected(mistake: dict[str, float]) -> None:
    right = likelihood.iam_completeness(ORIGINAL, OUT, UNLEARNED)
    wrong = iam_by_steps(ORIGINAL, OUT, UNLEARNED, **mistake)  # type: ignore[arg-type]
    assert right != pytest.approx(wrong, abs=1e-4)


def test_iam_without_spread_is_the_weight_of_the_steps_above() -> None:
    s = [-math.log(1e-2 - math.log(p + 1e-5)) for p in (1.0, 0.5)]
    middle = math.exp(1e-2 - math.exp(-(s[0] + s[1]) / 2)) - 1e-5
    found = likelihood.iam_completeness(np.array([1.0]), np.array([[0.5]]), np.array([middle]))
    assert found == pytest.approx([1 - 1275 / 4950])  # steps 0 to 49 lie below, with the weights 1/99 to 50/99
    assert likelihood.iam_completeness(np.array([1.0]), np.array([[0.5]]), np.array([1.0])) == pytest.approx([0])


def test_completeness_falls_as_the_unlearned_model_knows_more() -> None:
    original, out = np.full(20, 0.999), np.random.default_rng(0).uniform(0.3, 0.7, (3, 20))
    found = [value(likelihood.iam(original, out, np.full(20, p))) for p in (0.01, 0.3, 0.7, 0.9, 0.99, 0.999)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.95
    assert found[-1] < 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert likelihood.iam(np.ones(2), np.zeros((1, 2)), np.zeros(2)) == pytest.approx(1, abs=1e-3)


# --- nothing to attack ------------------------------------------------------------------------------------------------


def test_single_model_attacks_say_what_is_missing() -> None:
    some, none, bank, no_bank = np.full(3, 0.5), np.empty(0), np.full((1, 3), 0.5), np.empty((0, 3))
    no_model = Empty("small_bank", "1 never-trained model needed, 0 there")
    assert likelihood.rmia(some, some, some, no_bank, no_bank, no_bank) == no_model
    assert likelihood.emia(some, some, no_bank, no_bank) == no_model
    assert likelihood.iam(some, no_bank, some) == no_model
    assert likelihood.rmia(some, none, none, bank, bank, bank) == Empty(
        "too_few", "no nonmember and no population sample"
    )
    assert likelihood.emia(none, some, bank, bank) == Empty("too_few", "no member sample")
    assert likelihood.iam(none, bank[:, :0], none) == Empty("too_few", "no forget sample")
    with pytest.raises(ValueError, match="NaN"):
        likelihood.iam(some, bank, np.full(3, np.nan))
