"""KL of margins: closed forms, slow versions by definition whose planted bugs must fail, the nulls, broken models."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
from bank_cases import Compare, check_nan, column, noise, statistics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from unlearnbench.measure.distributions import equal_bins_kl, klom

# --- as published ----------------------------------------------------------------------------------------------------


def slow_klom(
    p: np.ndarray, q: np.ndarray, clip: float = 100, joint: bool = True, closed: bool = True, base: float = math.e,
    both: bool = False, floor: float = 1e-5, bins: int = 20,
) -> np.ndarray:  # fmt: skip
    """Sample by sample with numpy's histogram and scipy's entropy; the switches plant bugs."""
    found = []
    for a, b in zip(np.clip(p, -clip, clip).T, np.clip(q, -clip, clip).T, strict=True):
        shared = np.concatenate([a, b])
        counts = []
        for x in (a, b):
            span = shared if joint else x
            edges = np.linspace(span.min(), span.max() if span.max() > span.min() else span.min() + 1, bins + 1)
            counts.append(np.histogram(x if closed else x[x < edges[-1]], edges)[0])
        own, its = (count / max(count.sum(), 1) for count in counts)
        its = np.where(own > 0, np.maximum(its, floor), its)
        found.append(entropy(np.maximum(own, floor) if both else own, its, base=base) if own.any() else 0.0)
    return np.array(found)


def check_klom(klom: Compare) -> None:
    cases = {
        # (¾, ¼) and (½, ½) in the first and last bins: ¾ log 3/2 + ¼ log ½, and the reverse
        0.13081203594113697: (column(0, 0, 0, 1), column(0, 0, 1, 1)),
        0.14384103622589046: (column(0, 0, 1, 1), column(0, 0, 0, 1)),
        # disjoint: log(1 / q), q = 1e-5 before and 1 / 100001 after q sums to 1 again
        11.512935464920228: (column(0, 0), column(1, 1)),
        # another place, same shape: ¾ log ¾ + ¼ log ¼ + log 1e5 + log 1.00002
        10.950610356: (column(0, 0, 0, 1), column(10, 10, 10, 11)),
        # an outlier: cut to 100 it leaves bins of 5, whole it would hide all else in one of 500
        2.835766612: (column(0, 0, 0, 90), column(0, 0, 10, 1e4)),
    }
    for expected, (p, q) in cases.items():
        np.testing.assert_allclose(klom(p, q), [expected], rtol=1e-8)
    np.testing.assert_allclose(klom(column(-150, -300), column(-200, -100)), [0], atol=1e-12)  # all cut to -100


KLOM_MUTANTS: dict[str, Compare] = {
    "reversed": lambda p, q: equal_bins_kl(q, p),
    "separate ranges": partial(slow_klom, joint=False),
    "last bin open": partial(slow_klom, closed=False),
    "not clipped": partial(slow_klom, clip=np.inf),
    "in bits": partial(slow_klom, base=2),
    "both floored": partial(slow_klom, both=True),
    "smaller floor": partial(slow_klom, floor=1e-10),
    "two bins": lambda p, q: equal_bins_kl(p, q, bins=2),
    "q above 1": lambda p, q: equal_bins_kl(p, q) - 1e-5,
}


def test_klom_in_closed_form() -> None:
    check_klom(equal_bins_kl)
    check_klom(slow_klom)


@pytest.mark.parametrize("name", KLOM_MUTANTS)
def test_a_wrong_klom_is_caught(name: str) -> None:
    with pytest.raises(AssertionError):
        check_klom(KLOM_MUTANTS[name])


@pytest.mark.parametrize(("n_p", "n_q"), [(64, 64), (100, 17), (2, 300)])
def test_klom_is_that_of_numpys_histogram(n_p: int, n_q: int) -> None:
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(n_p, 50)) * 30, rng.normal(size=(n_q, 50)) * 40 + 20
    np.testing.assert_allclose(equal_bins_kl(p, q), slow_klom(p, q), rtol=1e-9)


@pytest.mark.parametrize(("models", "null"), [(16, 3.8), (32, 1.6), (64, 0.6), (100, 0.34)])
def test_the_null_of_klom_is_far_from_zero_with_few_models(models: int, null: float) -> None:
    p, q = np.random.default_rng(models).normal(size=(2, models, 4000))
    assert equal_bins_kl(p, q).mean() == pytest.approx(null, rel=0.1)


def test_klom_grows_with_the_shift() -> None:
    p, q = np.random.default_rng(0).normal(size=(2, 64, 500))
    found = [equal_bins_kl(p, q + shift).mean() for shift in (0, 0.5, 1, 2, 4)]
    assert found == sorted(found)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_klom_of_margins_that_are_all_equal_is_zero(value: float) -> None:
    same = np.full((5, 3), value)
    assert equal_bins_kl(same, same[:2]).tolist() == [0, 0, 0]


@settings(deadline=None)
@given(statistics, statistics, st.integers(0, 2**32 - 1))
def test_klom_is_at_least_zero_and_ignores_the_order_of_models(p: np.ndarray, q: np.ndarray, seed: int) -> None:
    found = equal_bins_kl(p, q)
    assert (found >= -1e-12).all()
    rng = np.random.default_rng(seed)
    assert np.array_equal(found, equal_bins_kl(rng.permutation(p), rng.permutation(q)))
    order = rng.permutation(3)
    np.testing.assert_allclose(equal_bins_kl(p[:, order], q[:, order]), found[order], rtol=1e-12)
    assert equal_bins_kl(p, p) == pytest.approx([0, 0, 0], abs=1e-12)


# --- the headline ----------------------------------------------------------------------------------------------------


def slow_larger(
    unlearned: np.ndarray, oracle: np.ndarray, outside: bool = True, larger: bool = True, of: int = 1,
    floor: float = 1e-5,
) -> np.ndarray:  # fmt: skip
    """Sample by sample, one bin after the other, with scipy's entropy; the switches plant bugs."""
    found = []
    for sides in zip(unlearned.T, oracle.T, strict=True):
        inner = np.quantile(sides[of], np.linspace(0, 1, 9))
        inner[-1] = np.nextafter(inner[-1], np.inf)
        edges = [-np.inf, *(inner if outside else inner[1:-1]), np.inf]
        u, o = (np.array([((low <= x) & (x < high)).mean() for low, high in itertools.pairwise(edges)]) for x in sides)
        both = [entropy(p, np.where(p > 0, np.maximum(q, floor), q)) for p, q in ((u, o), (o, u))]
        found.append(max(both) if larger else both[0])
    return np.array(found)


FAR = math.log(100_001)  # no bin in common: the floor 1e-5, summed to 1 again


def check_larger(compare: Compare) -> None:
    oracle = column(*range(9))  # the quantiles are these: eight bins, of which the last holds two
    cases = {
        "the same": (oracle, 0.0),
        "below all": (oracle - 9, FAR),
        "above all": (oracle + 9, FAR),
        # in the last bin, of which 2 of 9 oracles are: log 9/2, and 7/9 log(1/9 / 1e-5) + 2/9 log 2/9 the other way
        "all in one bin": (column(7, 7.5, 8), 7 / 9 * math.log(1e5 / 9) + 2 / 9 * math.log(2 / 9) + math.log(1.00007)),
        # one of nine below: 1/9 log(1/9 / 1e-5), + log 1.00001 for the other bins, of which one has lost a half
        "one broken": (column(-100, *range(1, 9)), 1 / 9 * math.log(1e5 / 9) + math.log(1.00001)),
    }
    for name, (unlearned, expected) in cases.items():
        np.testing.assert_allclose(compare(unlearned, oracle), [expected], rtol=1e-8, atol=1e-12, err_msg=name)


def test_the_larger_direction_in_closed_form() -> None:
    check_larger(klom)
    check_larger(slow_larger)


@pytest.mark.parametrize(
    "bug", [{"outside": False}, {"larger": False}, {"of": 0}, {"floor": 1e-4}], ids=str
)  # fmt: skip
def test_a_wrong_larger_direction_is_caught(bug: dict[str, float]) -> None:
    with pytest.raises(AssertionError):
        check_larger(partial(slow_larger, **bug))  # type: ignore[arg-type]


@settings(deadline=None)
@given(statistics, statistics, st.integers(0, 2**32 - 1))
def test_it_is_the_slow_one_at_least_zero_and_blind_to_the_order_of_models(
    u: np.ndarray, o: np.ndarray, seed: int
) -> None:
    found, rng = klom(u, o), np.random.default_rng(seed)
    np.testing.assert_allclose(found, slow_larger(u, o), rtol=1e-9, atol=1e-12)
    assert (found >= -1e-12).all()
    assert np.array_equal(found, klom(rng.permutation(u), rng.permutation(o)))
    assert klom(o, o) == pytest.approx([0, 0, 0], abs=1e-12)


def test_the_null_of_64_models_is_not_zero() -> None:
    assert klom(*noise(0, 64, 4000)).mean() == pytest.approx(0.35, abs=0.02)


def broken(bank: np.ndarray, count: int, at: float) -> np.ndarray:
    bank = bank.copy()
    bank[:count] = at
    return bank


@pytest.mark.parametrize("at", [-100.0, 100.0, -8.0])
def test_broken_models_score_above_the_honest_null_where_equal_bins_reward_them(at: float) -> None:
    """The planted bug is the published binning: one useless model of 64, and the others agree."""
    for seed in range(12):
        unlearned, oracle = noise(seed, 64, 300)
        honest = klom(*noise(100 + seed, 64, 300)).mean()
        one, four = (klom(broken(unlearned, count, at), oracle).mean() for count in (1, 4))
        assert honest + 0.03 < one < four
        null = equal_bins_kl(oracle, unlearned).mean()
        assert max(equal_bins_kl(oracle, broken(unlearned, count, -100.0)).mean() for count in (1, 4)) < null / 4


def test_a_shift_of_all_models_scores_above_the_honest_null() -> None:
    for seed in range(12):
        unlearned, oracle = noise(seed, 64, 300)
        honest = klom(*noise(100 + seed, 64, 300)).mean()
        found = [klom(unlearned + shift, oracle).mean() for shift in (0.25, 0.5, 1, 2)]
        assert honest < found[0]
        assert found == sorted(found)


@pytest.mark.parametrize("compare", [klom, equal_bins_kl])
def test_one_diverged_model_spoils_its_samples_and_no_other(compare: Compare) -> None:
    check_nan(compare)
