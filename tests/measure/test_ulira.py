"""Attacks with banks of models: closed forms, libraries, pure noise, and the bugs they must reject."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from bank_cases import library_auc, noise, normal
from scipy import stats
from sklearn.neighbors import KernelDensity

from unlearnbench.measure import likelihood
from unlearnbench.measure.likelihood import Attack
from unlearnbench.measure.resampling import estimate, left_out
from unlearnbench.plan.spec import Empty, Estimate


def attack(unlearned: np.ndarray, out: np.ndarray, seed: int = 0) -> Attack:
    result = likelihood.ulira(unlearned, out, seed)
    assert isinstance(result, Attack)
    return result


def ruli(unlearned: np.ndarray, out: np.ndarray, seed: int = 0) -> Estimate:
    result = likelihood.ruli(unlearned, out, seed)
    assert isinstance(result, Estimate)
    return result


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
    assert attack(unlearned, out).auc.value == pytest.approx(0.7602, abs=0.01)  # Φ(1 / √2)
    assert library_auc(unlearned, out) == pytest.approx(0.5, abs=0.01)  # without a model per sample


def test_a_difference_of_spread_alone_is_a_leak() -> None:
    found = attack(3 * normal(0, 100, 80), normal(1, 400, 80))
    assert found.auc.value == pytest.approx(0.7952, abs=0.015)  # 2/π · atan 3
    assert found.accuracy.value == pytest.approx(0.7421, abs=0.015)  # at |x| = 1.572; unweighted .827


def covered(found: list[Estimate], expected: float) -> float:
    return float(np.mean([estimate.low <= expected <= estimate.high for estimate in found]))


@pytest.mark.parametrize("models", [8, 16])
@pytest.mark.parametrize("apart", [0.0, 0.5])
def test_pure_noise_is_at_chance_and_the_interval_covers_it(models: int, apart: float) -> None:
    found = [attack(*noise(seed, models, 20, apart), seed) for seed in range(100)]
    for estimates in ([a.auc for a in found], [a.accuracy for a in found]):
        assert np.mean([e.value for e in estimates]) == pytest.approx(0.5, abs=0.015)
        assert covered(estimates, 0.5) >= 0.95


def kept_gaussians(unlearned: np.ndarray, out: np.ndarray, seed: int) -> Estimate:
    """The planted bug: the Gaussians are not fitted anew, so that the interval knows nothing of their error."""
    halves = [side[np.random.default_rng(seed).permutation(len(side))] for side in (unlearned, out)]
    u, o = (np.array_split(side, 2) for side in halves)
    scores = [likelihood.gaussian_ratio(side[k], u[1 - k], o[1 - k]) for k in (0, 1) for side in (u, o)]

    def area(u0: np.ndarray, o0: np.ndarray, u1: np.ndarray, o1: np.ndarray) -> np.ndarray:
        return np.array((likelihood.auc(u0, o0) + likelihood.auc(u1, o1)) / 2)

    return estimate(left_out(area, *scores, groups=4))


def test_the_interval_covers_where_there_is_a_leak_because_the_fit_varies_with_the_models() -> None:
    banks = [noise(seed, 8, 20, 0.5) + np.array([0.5, 0])[:, None, None] for seed in range(150)]
    found = [attack(*bank, seed).auc for seed, bank in enumerate(banks)]
    mean = float(np.mean([e.value for e in found]))
    assert covered(found, mean) > 0.92
    kept = [kept_gaussians(*bank, seed) for seed, bank in enumerate(banks)]
    assert covered(kept, mean) < covered(found, mean)
    assert np.mean([e.high - e.low for e in kept]) < 0.8 * np.mean([e.high - e.low for e in found])


def same_models(unlearned: np.ndarray, out: np.ndarray) -> float:
    """The planted bug: every model is scored by Gaussians that it helped to fit."""
    scores = [likelihood.gaussian_ratio(side, unlearned, out) for side in (unlearned, out)]
    return library_auc(*scores)


def test_scoring_the_models_of_the_fit_finds_leaks_in_pure_noise() -> None:
    pairs = [(normal(seed, 16, 100), normal(100 + seed, 16, 100)) for seed in range(12)]
    assert min(same_models(u, o) for u, o in pairs) > 0.6
    assert np.mean([attack(u, o).auc.value for u, o in pairs]) == pytest.approx(0.5, abs=0.01)
    assert np.mean([ruli(u, o).value for u, o in pairs]) == pytest.approx(0.5, abs=0.01)


def test_the_area_grows_with_the_leak_and_the_interval_holds_it() -> None:
    found = [attack(normal(0, 16, 50) + shift, normal(1, 16, 50)).auc for shift in (0.0, 0.5, 1.0, 2.0, 8.0)]
    assert [e.value for e in found] == sorted(e.value for e in found)
    assert all(0 <= e.low <= e.value <= e.high <= 1 for e in found)
    assert found[-1].value > 0.99


def test_perfect_separation_and_no_variance() -> None:
    nothing, chance, sure = attack(np.zeros((8, 5)), np.zeros((9, 5))), Estimate(0.5, 0.5, 0.5), Estimate(1, 1, 1)
    assert (nothing.auc, nothing.accuracy) == (chance, chance)
    apart = attack(np.ones((8, 200)), np.zeros((8, 200)))
    assert (apart.auc, apart.accuracy, apart.tpr[0.01]) == (sure, sure, sure)
    half = attack(np.tile([1.0, 0.0], (8, 1)), np.zeros((30, 2)))
    assert (half.auc.value, half.accuracy.value) == (0.875, 0.75)  # one known, one a guess: three pairs and a tie
    assert ruli(np.zeros((8, 5)), np.zeros((8, 5))) == chance
    assert ruli(np.ones((8, 5)), np.zeros((8, 5))).value == 1


@pytest.mark.parametrize("name", ["ulira", "ruli"])
def test_order_of_samples_does_not_matter_the_seed_does(name: str) -> None:
    run = {"ulira": lambda *given: attack(*given).auc.value, "ruli": lambda *given: ruli(*given).value}[name]
    unlearned, out, order = normal(0, 9, 30) + 0.5, normal(1, 9, 30), np.random.default_rng(2).permutation(30)
    assert run(unlearned[:, order], out[:, order], 0) == pytest.approx(run(unlearned, out, 0))
    assert run(unlearned, out, 0) == run(unlearned, out, 0)
    assert run(unlearned, out, 0) != run(unlearned, out, 1)


def test_ulira_ignores_the_scale_and_origin_of_each_sample() -> None:
    unlearned, out = normal(0, 20, 30) + 0.5, normal(1, 20, 30)
    assert attack(3 * unlearned - 7, 3 * out - 7).auc.value == pytest.approx(attack(unlearned, out).auc.value)


def test_banks_in_half_precision_are_not_computed_in_it() -> None:
    unlearned, out = ((300 + normal(seed, 8, 40) * 2).astype(np.float16) for seed in (0, 1))  # 300² overflows float16
    assert attack(unlearned, out).auc == attack(unlearned.astype(float), out.astype(float)).auc
    assert ruli(unlearned, out) == ruli(unlearned.astype(float), out.astype(float))


def test_true_positive_rates_are_reported_where_negatives_suffice() -> None:
    found = attack(normal(0, 8, 125) + 9, normal(1, 8, 125)).tpr
    assert isinstance(found[0.01], Estimate)
    assert found[0.001] == Empty("too_few", "10000 negatives needed, 1000 there")


@pytest.mark.parametrize("run", [likelihood.ulira, likelihood.ruli])
def test_few_models_no_samples_and_nan(run: Callable[..., Attack | Estimate | Empty]) -> None:
    assert run(np.zeros((7, 3)), np.zeros((9, 3)), 0) == Empty(
        "small_bank", "8 of each needed, 7 unlearned and 9 never-trained models there"
    )
    assert isinstance(run(np.zeros((9, 3)), np.zeros((7, 3)), 0), Empty)
    assert run(np.zeros((8, 0)), np.zeros((8, 0)), 0) == Empty("too_few", "no sample")
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
    assert ruli(unlearned, out).value > 0.9


def test_ruli_does_not_see_a_mere_shift_and_pairs_its_rows() -> None:
    """The shift is in both sides, since the non-members went through the method too."""
    unlearned, out = noise(0, 8, 40) + 7
    assert ruli(unlearned, out).value == pytest.approx(ruli(unlearned - 7, out - 7).value)
    with pytest.raises(ValueError, match="same shape"):
        likelihood.ruli(unlearned, normal(1, 9, 40), 0)


def unpaired(unlearned: np.ndarray, out: np.ndarray, seed: int) -> Estimate:
    """The planted bug: the rows of both sides are left out one by one, though they come from the same runs."""
    rows = np.stack([unlearned, out], axis=1)[np.random.default_rng(seed).permutation(len(out))]
    (u, v), (o, p) = (np.array_split(rows[:, side], 2) for side in (0, 1))

    def area(u: np.ndarray, o: np.ndarray, v: np.ndarray, p: np.ndarray) -> np.ndarray:
        halves = likelihood._cross_fit(u, o, v, p, likelihood.kernel_ratio)
        return np.array(likelihood._mean_auc(halves))

    return estimate(left_out(area, u, o, v, p, groups=4), 0, 1)


def test_the_interval_of_ruli_covers_and_knows_what_both_sides_share() -> None:
    banks = []
    for seed in range(100):
        unlearned, out = noise(seed, 8, 20) + normal(500 + seed, 8, 1)  # of each row: how its runs differ from others
        banks.append((unlearned + 1, out))
    found, wrong = ([run(*bank, seed) for seed, bank in enumerate(banks)] for run in (ruli, unpaired))
    mean = float(np.mean([e.value for e in found]))
    assert [e.value for e in found] == pytest.approx([e.value for e in wrong])
    assert covered(found, mean) >= 0.92
    assert np.mean([e.high - e.low for e in found]) < 0.8 * np.mean([e.high - e.low for e in wrong])


# --- the excess over samples that nobody trained on ------------------------------------------------------------------


def excess(unlearned: np.ndarray, out: np.ndarray, seed: int) -> Estimate:
    """Of banks whose first 30 samples are D_f."""
    return likelihood.excess(*(attack(unlearned[:, at], out[:, at], seed) for at in (slice(30), slice(30, None))))


@pytest.mark.parametrize("shift", [0.0, 1.5, 4.0])
def test_a_method_that_shifts_everything_has_no_excess_though_its_area_is_far_from_chance(shift: float) -> None:
    found = []
    for seed in range(60):
        unlearned, out = noise(seed, 16, 60, 0.5)
        found.append(excess(unlearned + shift, out, seed))
        assert not shift or attack((unlearned + shift)[:, :30], out[:, :30], seed).auc.value > 0.55
    assert abs(np.mean([e.value for e in found])) < 0.01
    assert covered(found, 0.0) >= 0.95


def test_what_is_left_of_the_forget_set_shows_in_the_excess() -> None:
    unlearned, out = noise(0, 64, 60, 0.5)
    unlearned[:, :30] += 0.5
    found = excess(unlearned + 1.5, out, 0)
    assert 0.03 < found.low < found.value < found.high < 0.12


def test_the_excess_leaves_the_same_models_out_on_both_sides() -> None:
    """The planted bug: two intervals side by side. Samples of a model that move together move both areas."""
    unlearned, out = noise(3, 16, 60, 1.5)
    found = excess(unlearned + 1.5, out, 0)
    forget, test = (attack((unlearned + 1.5)[:, at], out[:, at], 0).auc for at in (slice(30), slice(30, None)))
    assert found.value == pytest.approx(forget.value - test.value)
    apart = np.hypot(forget.high - forget.low, test.high - test.low)
    assert found.high - found.low < apart / 2
