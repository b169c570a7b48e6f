"""Distributions of models: closed forms, slow versions by definition whose planted bugs must fail, and the nulls."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from bank_cases import Compare, check_nan, column, statistics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from unlearnbench.measure import distributions
from unlearnbench.plan.spec import Empty


def value(result: float | Empty) -> float:
    assert not isinstance(result, Empty)
    return result


# --- margins ---------------------------------------------------------------------------------------------------------

Margin = Callable[[np.ndarray, np.ndarray], np.ndarray]


def check_margin(margin: Margin) -> None:
    logits = np.log(np.array([[5, 1, 2], [1, 1, 1], [1, 1, 6]], dtype=np.float64))
    logits[1] += 7  # a constant added to a row changes nothing
    expected = [0.5108256237659907, -0.6931471805599453, -1.9459101490553132]  # log 5/3, log 1/2, log 1/7
    np.testing.assert_allclose(margin(logits, np.array([0, 2, 1])), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda z, y: log_softmax(z, axis=1)[np.arange(len(y)), y],
        lambda z, y: z[np.arange(len(y)), y] - np.sort(z, axis=1)[:, -2],
        lambda z, y: distributions.margin(z, (y + 1) % z.shape[1]),
    ],
    ids=["over all classes", "to the second largest", "of another class"],
)
def test_margin_in_closed_form(mutant: Margin) -> None:
    check_margin(distributions.margin)
    with pytest.raises(AssertionError):
        check_margin(mutant)


def test_margin_of_confident_models_keeps_its_digits() -> None:
    logits = np.array([[3e38, -3e38], [60, 0], [-60, 0]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert distributions.margin(logits, np.zeros(3, dtype=int)) == pytest.approx([6e38, 60, -60])


def test_margins_of_a_bank_are_those_of_its_models_and_leave_it_as_it_was() -> None:
    rng = np.random.default_rng(0)
    bank, labels = rng.normal(size=(2, 3, 5, 4)), rng.integers(4, size=5)
    before = bank.copy()
    margins = distributions.margin(bank, labels)
    assert margins.shape == (2, 3, 5)
    assert np.array_equal(margins[1, 2], distributions.margin(bank[1, 2], labels))
    assert np.array_equal(bank, before)


def test_margins_of_half_precision_are_float64() -> None:
    logits = np.array([[1, 2, 4]], dtype=np.float16)
    margins = distributions.margin(logits, np.array([2]))
    assert margins.dtype == np.float64
    assert margins == pytest.approx([4 - math.log(math.e + math.e**2)], rel=1e-12)


# --- epsilons of the best attack -------------------------------------------------------------------------------------


def slow_epsilons(
    unlearned: np.ndarray, oracle: np.ndarray, delta: float = 1e-5, double: bool = True, drop: bool = True,
    peaky: bool = True, cap: float = 50, both: bool = True, ties: bool = True,
) -> np.ndarray:  # fmt: skip
    """Every attack on every sample, one after the other; the switches plant bugs."""
    found = []
    for u, o in zip(unlearned.T, oracle.T, strict=True):
        narrow, wide = sorted((u, o), key=np.ptp)
        insides = [(narrow, wide), (wide, narrow)] if ties and np.ptp(u) == np.ptp(o) else [(narrow, wide)]
        low, high = (u, o) if np.median(o) > np.median(u) else (o, u)
        values = np.unique(np.concatenate([u, o]))
        rates = [(np.mean(high < t), np.mean(low >= t)) for t in values]
        if double:
            for left, right in itertools.combinations_with_replacement(values, 2):
                for inner, outer in insides:
                    inside, outside = ((left <= x) & (x <= right) for x in (inner, outer))
                    rates.append((1 - np.mean(inside), np.mean(outside)))
        found.append(max([0.0, *(_slow_epsilon(fnr, fpr, delta, drop, cap, both) for fnr, fpr in rates)]))
        if peaky and np.ptp(narrow) < 0.01 * np.ptp(wide):
            found[-1] = cap
    return np.array(found)


def _slow_epsilon(fnr: float, fpr: float, delta: float, drop: bool, cap: float, both: bool) -> float:
    fnr, fpr = round(fnr, 12), round(fpr, 12)  # 1 - ⅓ - ⅔ is not 0
    if fnr == fpr == 0:
        return cap
    if fnr == 0 or fpr == 0:
        return 0.0 if drop else cap
    terms = [math.log(x) - math.log(y) if (x := 1 - delta - a) > 0 else 0.0 for a, y in ((fpr, fnr), (fnr, fpr))]
    return max(terms) if both else terms[0]


# ε where one model in four of either side is taken for the other: log(¾ - 1e-5) - log ¼
ONE_IN_FOUR = 1.0985989553461112

EPSILONS = {
    "side by side": (column(0, 1, 2, 3), column(1.5, 2.5, 3.5, 4.5), ONE_IN_FOUR),
    # sorted: o o u u o u o u; between -1 and 1 three u and one o, a single threshold gets no further than log 2
    "in between": (column(-1, -0.9, 1, 5.5), column(-6, -5, 0.5, 5), ONE_IN_FOUR),
    # above 2.25 one u and no o is wrong: dropped, whereas above 3 it is one of each
    "one rate is zero": (column(0, 1, 2, 3), column(2.5, 3.5, 4.5, 5.5), ONE_IN_FOUR),
    # up to 2.1 two u and one o, so two u and one o are wrong: log(½ - 1e-5) - log ¼
    "unequal rates": (column(2, 2.1, 4, 4.1), column(1, 3, 3.1, 3.2), 0.6931271803599451),
    # ranges of 1: from .5 to 1.5 are two u and one o, and outside of it two o and one u: log 3 (2/3 - 1e-5)
    "ranges tie": (column(0, 1, 1), column(1, 2, 2), 0.6931321804474453),
    "apart": (column(0, 1, 2), column(3, 4, 5), 50.0),
    "one around the other": (column(-1, 0, 0.5, 1), column(-9, -8, 8, 9), 50.0),
    # ranges of .9 and 100: without the rule the best attack is wrong on one model in four
    "peaky": (column(40, 40.3, 40.6, 40.9), column(0, 40.5, 60, 100), 50.0),
    "not quite peaky": (column(40, 40.3, 40.6, 41.1), column(0, 40.5, 60, 100), ONE_IN_FOUR),
    "one value against many": (column(1, 1, 1, 1), column(0, 1, 1, 2), 50.0),
    "the same": (column(0, 1, 5, 9), column(9, 0, 1, 5), 0.0),
    "one and the same value": (column(2, 2, 2), column(2, 2), 0.0),
    "two values": (column(2, 2, 2), column(3, 3), 50.0),
}


def check_epsilons(epsilons: Compare) -> None:
    for name, (u, o, expected) in EPSILONS.items():
        for sides in ((u, o), (o, u), (-u, -o)):
            np.testing.assert_allclose(epsilons(*sides), [expected], rtol=1e-9, atol=1e-12, err_msg=name)


def test_epsilons_in_closed_form() -> None:
    check_epsilons(distributions.epsilons)
    check_epsilons(slow_epsilons)


@pytest.mark.parametrize(
    "bug",
    [
        {"double": False}, {"delta": 0}, {"delta": 1e-6}, {"drop": False}, {"peaky": False},
        {"cap": math.inf}, {"both": False}, {"ties": False},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_epsilons_are_caught(bug: dict[str, float]) -> None:
    with pytest.raises(AssertionError):
        check_epsilons(partial(slow_epsilons, **bug))  # type: ignore[arg-type]


@settings(deadline=None)
@given(statistics, statistics)
def test_epsilons_are_those_of_all_attacks_one_by_one(u: np.ndarray, o: np.ndarray) -> None:
    np.testing.assert_allclose(distributions.epsilons(u, o), slow_epsilons(u, o), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(distributions.epsilons(o, u), distributions.epsilons(u, o), rtol=1e-9, atol=1e-12)


def test_epsilons_of_continuous_statistics_are_those_of_all_attacks_one_by_one() -> None:
    rng = np.random.default_rng(0)
    u, o = rng.normal(size=(12, 20)) * rng.uniform(0.1, 3, 20) + rng.normal(size=20), rng.normal(size=(9, 20))
    np.testing.assert_allclose(distributions.epsilons(u, o), slow_epsilons(u, o), rtol=1e-9)


@settings(deadline=None)
@given(statistics, statistics, st.integers(0, 2**32 - 1))
def test_the_order_of_models_and_the_scale_change_no_epsilon(u: np.ndarray, o: np.ndarray, seed: int) -> None:
    found, rng = distributions.epsilons(u, o), np.random.default_rng(seed)
    assert np.array_equal(found, distributions.epsilons(rng.permutation(u), rng.permutation(o)))
    assert np.array_equal(found, distributions.epsilons(2 * u + 1, 2 * o + 1))
    assert ((found >= 0) & (found <= 50)).all()
    assert distributions.epsilons(u, rng.permutation(u)).tolist() == [0, 0, 0]  # no attack tells a bank from itself


def test_one_diverged_model_spoils_its_samples_and_no_other() -> None:
    check_nan(distributions.epsilons)


# --- forgetting quality ----------------------------------------------------------------------------------------------


def scored(*names: str) -> tuple[np.ndarray, np.ndarray]:
    """Cases of four models a side, as the samples of one bank."""
    return np.hstack([EPSILONS[name][0] for name in names]), np.hstack([EPSILONS[name][1] for name in names])


def check_quality(quality: Callable[[np.ndarray, np.ndarray], float | Empty]) -> None:
    assert quality(*scored("the same")) == 1
    assert quality(*scored("unequal rates")) == 0.5  # ε .693
    assert quality(*scored("side by side")) == 0.25  # ε 1.099
    assert quality(*scored("peaky")) == 0  # ε 50
    assert quality(*scored("the same", "unequal rates", "side by side", "peaky")) == 0.4375


def points(width: float = 0.5, base: float = 0.5, start: int = 0) -> Callable[[np.ndarray, np.ndarray], float]:
    def quality(u: np.ndarray, o: np.ndarray) -> float:
        found = slow_epsilons(u, o)
        return float(np.mean(base ** (np.floor(found / width) + start) * (found < math.ceil(math.log(len(u) - 1)))))

    return quality


def test_forgetting_quality_in_closed_form() -> None:
    check_quality(distributions.forgetting_quality)
    check_quality(points())


@pytest.mark.parametrize(
    "mutant",
    [
        points(width=1),
        points(base=0.75),
        points(start=1),
        lambda u, o: float(np.exp(-slow_epsilons(u, o)).mean()),
        lambda u, o: points()(np.median(u, axis=1, keepdims=True), np.median(o, axis=1, keepdims=True)),
    ],
    ids=["bins of 1", "three quarters", "first bin ½", "no bins", "of the median sample"],
)
def test_a_wrong_forgetting_quality_is_caught(mutant: Callable[[np.ndarray, np.ndarray], float]) -> None:
    with pytest.raises(AssertionError):
        check_quality(mutant)


def test_the_best_of_n_models_has_a_score_and_what_they_cannot_resolve_has_none() -> None:
    u, o = column(*range(21)), column(*np.arange(21) + 19.5)  # one in 21 is wrong on either side: ε = log 20, below 3
    assert distributions.epsilons(u, o) == pytest.approx([2.9957322735539909], abs=2e-5)
    assert distributions.forgetting_quality(u, o) == 0.5**5
    few, many = column(0, 1, 2, 3), column(*np.linspace(2.5, 9, 100))  # one of 4 and one of 100 wrong: ε = log(¾ / .01)
    assert distributions.epsilons(few, many) == pytest.approx([4.317474780151407], abs=1e-4)
    assert distributions.forgetting_quality(few, many) == distributions.forgetting_quality(many, few) == 0


@pytest.mark.parametrize(("models", "null"), [(8, 0.184), (16, 0.131), (32, 0.104), (64, 0.083)])
def test_the_null_of_forgetting_quality_is_far_below_one(models: int, null: float) -> None:
    u, o = np.random.default_rng(1).normal(size=(2, models, 1000))
    assert value(distributions.forgetting_quality(u, o)) == pytest.approx(null, rel=0.1)


def test_forgetting_quality_falls_with_a_shift_and_with_a_wrong_spread() -> None:
    u, o = np.random.default_rng(0).normal(size=(2, 32, 300))
    for changed in ([u + shift for shift in (0, 0.5, 1, 2, 4)], [u * scale for scale in (1, 0.5, 0.1, 0.001)]):
        found = [value(distributions.forgetting_quality(bank, o)) for bank in changed]
        assert found == sorted(found, reverse=True)
        assert found[0] > found[-1] + 0.05


def test_too_few_models_or_samples_have_no_forgetting_quality() -> None:
    one, two = np.zeros((1, 3)), np.zeros((2, 3))
    empty = Empty("small_bank", "1 unlearned models and 2 oracles, 2 of each needed")
    assert distributions.forgetting_quality(one, two) == empty
    assert distributions.forgetting_quality(np.empty((4, 0)), np.empty((4, 0))) == Empty("too_few", "no sample")
    assert (distributions.KLOM_FEWEST, distributions.QUALITY_FEWEST) == (64, 8)
