"""The jackknife over groups of models: closed forms, coverage, and the bugs it must reject."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from bank_cases import noise
from scipy import stats

from unlearnbench.measure.distributions import klom
from unlearnbench.measure.resampling import Replicates, estimate, left_out
from unlearnbench.plan.spec import Estimate


def mean(*sides: np.ndarray) -> np.ndarray:
    return np.array(sum(side.mean() for side in sides))


def test_each_group_of_each_side_is_left_out_once() -> None:
    def seen(*sides: np.ndarray) -> np.ndarray:
        return np.concatenate([[len(side), side.sum()] for side in sides])

    whole, first, second = left_out(seen, np.arange(6), np.arange(10, 13), groups=4)
    assert whole.tolist() == [[6, 15, 3, 33]]
    assert first.tolist() == [[4, 15 - 4, 3, 33], [4, 15 - 6, 3, 33], [5, 15 - 2, 3, 33], [5, 15 - 3, 3, 33]]
    assert second.tolist() == [[6, 15, 2, 23], [6, 15, 2, 22], [6, 15, 2, 21]]  # fewer models than groups


def check_interval(interval: Callable[[Replicates], Estimate]) -> None:
    """Of a mean the jackknife is the textbook's standard error of the groups' means, with t for its freedom."""
    side = np.arange(16.0) ** 2
    found = interval(left_out(mean, side, groups=8))
    groups = side.reshape(2, 8).mean(axis=0)
    half = stats.t.ppf(0.975, 7) * groups.std(ddof=1) / math.sqrt(8)
    assert (found.value, found.low, found.high) == pytest.approx((77.5, 77.5 - half, 77.5 + half))
    other = np.arange(8.0)
    both = interval(left_out(mean, side, other, groups=8))
    spread = math.sqrt(groups.var(ddof=1) / 8 + other.var(ddof=1) / 8)
    assert both.high - both.value == pytest.approx(stats.t.ppf(0.975, 14) * spread)


def wrong(factor: Callable[[int], float] = lambda g: g - 1, freedom: int | None = None) -> Callable[..., Estimate]:
    def interval(replicates: Replicates) -> Estimate:
        value, *sides = replicates
        df = freedom or sum(len(x) - 1 for x in sides)
        half = stats.t.ppf(0.975, df) * math.sqrt(sum(factor(len(x)) * np.var(x) for x in sides))
        return Estimate(float(value[0]), float(value[0] - half), float(value[0] + half))

    return interval


def test_the_interval_in_closed_form() -> None:
    check_interval(estimate)
    check_interval(wrong())


@pytest.mark.parametrize(
    "mutant",
    [wrong(lambda g: 1 / g), wrong(lambda g: g), wrong(freedom=10**9), lambda r: wrong()([r[0], *r[1:2]])],
    ids=["a bootstrap's", "n for n - 1", "normal", "one side alone"],
)
def test_a_wrong_interval_is_caught(mutant: Callable[[Replicates], Estimate]) -> None:
    with pytest.raises(AssertionError):
        check_interval(mutant)


def test_ends_are_cut_to_what_is_possible() -> None:
    replicates = left_out(mean, np.array([0.0, 1, 1, 1]))
    assert estimate(replicates).high > 1
    assert estimate(replicates, 0, 1) == Estimate(0.75, max(0, estimate(replicates).low), 1)


def test_a_statistic_that_depends_on_the_number_of_models_keeps_its_place() -> None:
    """The planted bug is a bootstrap: with a third of the models repeated two honest banks lie farther apart."""

    def apart(u: np.ndarray, o: np.ndarray) -> np.ndarray:
        return np.array(klom(u, o).mean())

    for seed in range(10):
        rng, sides = np.random.default_rng(seed), noise(seed, 64, 60)
        found = estimate(left_out(apart, *sides))
        assert found.low < 0.35 < found.high  # the mean of such banks
        drawn = [apart(*(side[rng.integers(64, size=64)] for side in sides)) for _ in range(40)]
        assert np.quantile(drawn, 0.025) > found.value
