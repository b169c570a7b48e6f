"""Distances of two models: closed forms, a library's answer where there is one, and wrong versions that must fail."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from unlearnbench.measure import distances
from unlearnbench.plan.spec import Empty

Distance = Callable[[np.ndarray, np.ndarray], float | Empty]

# Rows: (½, ½) against (1, 0); the same on both sides; all on one class against all on the other.
ONE = np.array([[0, 0], [3, 1], [2000, 0]], dtype=np.float32)
OTHER = np.array([[0, -2000], [4, 2], [0, 2000]], dtype=np.float32)
HALF = 0.31127812445913283  # of the first row: ½ (½ log2 ⅔ + ½ log2 2) + ½ log2 4/3

logits = hnp.arrays(np.float64, (7, 4), elements=st.floats(-50, 50))


def value(result: float | Empty) -> float:
    assert not isinstance(result, Empty)
    return result


def random_pair(seed: int = 0, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(40, classes)) * 3, rng.normal(size=(40, classes)) * 3


# --- Jensen-Shannon --------------------------------------------------------------------------------------------------


def check_js(js: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a wrong version may divide by zero on its way to a wrong number
        np.testing.assert_allclose(js(ONE, OTHER), [HALF, 0, 1], rtol=1e-12, atol=1e-12)
        a, b = random_pair()
        expected = jensenshannon(softmax(a, axis=1), softmax(b, axis=1), axis=1, base=2) ** 2
        np.testing.assert_allclose(js(a, b), expected, rtol=1e-9)


def mixture(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p, q = softmax(a.astype(np.float64), axis=1), softmax(b.astype(np.float64), axis=1)
    return p, q, (p + q) / 2


def js_reversed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    p, q, m = mixture(a, b)
    return (entropy(m, p, base=2, axis=1) + entropy(m, q, base=2, axis=1)) / 2


def js_with_a_naive_zero(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    p, q, m = mixture(a, b)
    return np.asarray(np.sum(p * np.log2(p / m) + q * np.log2(q / m), axis=1) / 2)


JS_MUTANTS = {
    "reversed": js_reversed,
    "0 log 0 is NaN": js_with_a_naive_zero,
    "in nats": lambda a, b: distances.js_divergence(a, b) * math.log(2),
    "divided by classes": lambda a, b: distances.js_divergence(a, b) / a.shape[1],
    "its square root": lambda a, b: np.sqrt(distances.js_divergence(a, b)),
    "one-sided": lambda a, b: entropy(mixture(a, b)[0], mixture(a, b)[2], base=2, axis=1),
    "of logits": lambda a, b: distances.js_divergence(softmax(a, axis=1), softmax(b, axis=1)),
}


def test_js_divergence_in_closed_form_and_as_in_scipy() -> None:
    check_js(distances.js_divergence)


@pytest.mark.parametrize("name", JS_MUTANTS)
def test_a_wrong_js_divergence_is_caught(name: str) -> None:
    with pytest.raises(AssertionError):
        check_js(JS_MUTANTS[name])


def test_js_divergence_of_the_largest_logits_is_exact_and_silent() -> None:
    a, b = np.array([[3e38, -3e38, -3e38]], dtype=np.float32), np.array([[-3e38, 3e38, -3e38]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert distances.js_divergence(a, b).tolist() == [1]
        assert distances.js_divergence(a, a).tolist() == [0]


def test_js_divergence_beside_the_smallest_probability_is_finite() -> None:
    tiny = np.array([[0, -744.6]])  # exp(-744.6) is the smallest float there is
    assert softmax(tiny)[0, 1] == 5e-324
    assert distances.js_divergence(tiny, np.array([[0.0, -2000.0]])).tolist() == [0]


@settings(deadline=None)
@given(logits, logits)
def test_js_divergence_is_symmetric_and_a_share_of_a_bit(a: np.ndarray, b: np.ndarray) -> None:
    found = distances.js_divergence(a, b)
    assert ((found >= 0) & (found <= 1)).all()
    assert np.array_equal(found, distances.js_divergence(b, a))


# --- means over samples ----------------------------------------------------------------------------------------------


def check_zrf(zrf: Distance) -> None:
    assert zrf(ONE, OTHER) == pytest.approx(1 - (HALF + 0 + 1) / 3, rel=1e-12)
    assert zrf(ONE, ONE) == 1


def test_zrf_in_closed_form() -> None:
    check_zrf(distances.zrf)


@pytest.mark.parametrize("name", ["reversed", "in nats", "divided by classes"])
def test_zrf_as_public_code_has_it_is_caught(name: str) -> None:
    with pytest.raises(AssertionError):
        check_zrf(lambda a, b: float(1 - JS_MUTANTS[name](a, b).mean()))


def check_activation_distance(distance: Distance) -> None:
    # ‖(½, ½) - (1, 0)‖ = √½, 0 and √2
    assert distance(ONE, OTHER) == pytest.approx((0.7071067811865476 + 0 + 1.4142135623730951) / 3, rel=1e-12)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda p, q: np.mean(np.sum((p - q) ** 2, axis=1)),
        lambda p, q: np.mean(np.sum(np.abs(p - q), axis=1)),
        lambda p, q: np.linalg.norm(p - q),
        lambda p, q: np.mean(np.abs(p - q)),
    ],
    ids=["squared", "absolute", "of the whole matrix", "per class"],
)
def test_activation_distance_in_closed_form(mutant: Callable[[np.ndarray, np.ndarray], float]) -> None:
    check_activation_distance(distances.activation_distance)
    with pytest.raises(AssertionError):
        check_activation_distance(lambda a, b: float(mutant(softmax(a, axis=1), softmax(b, axis=1))))


def check_logit_kl(kl: Distance) -> None:
    """Called as kl(unlearned, oracle)."""
    even, tilted = np.log([[0.5, 0.5]]), np.log([[0.8, 0.2]])
    assert kl(tilted, even) == pytest.approx(0.22314355131420976, rel=1e-9)  # ½ log(½ / .8) + ½ log(½ / .2)
    assert kl(even, tilted) == pytest.approx(0.19274475702175753, rel=1e-9)  # .8 log 1.6 + .2 log .4
    assert kl(np.array([[0.0, -2000.0]]), np.array([[0.0, 0.0]])) == pytest.approx(1000 - math.log(2), rel=1e-12)
    assert kl(np.array([[0.0, 0.0]]), np.array([[0.0, -2000.0]])) == pytest.approx(math.log(2), rel=1e-12)
    a, b = random_pair()
    assert kl(a, b) == pytest.approx(entropy(softmax(b, axis=1), softmax(a, axis=1), axis=1).mean(), rel=1e-9)


def clipped_kl(unlearned: np.ndarray, oracle: np.ndarray) -> float:
    p, q = (np.clip(softmax(z, axis=1), 1e-12, None) for z in (oracle, unlearned))
    return float(entropy(p, q, axis=1).mean())


@pytest.mark.parametrize(
    "mutant",
    [
        lambda a, b: distances.logit_kl(b, a),
        lambda a, b: value(distances.logit_kl(a, b)) / math.log(2),
        lambda a, b: value(distances.logit_kl(a, b)) / a.shape[1],
        lambda a, b: float(np.mean(softmax(b, axis=1) * (log_softmax(b, axis=1) - log_softmax(a, axis=1)))),
        clipped_kl,
    ],
    ids=["reversed", "in bits", "divided by classes", "mean over classes", "clipped"],
)
def test_logit_kl_in_closed_form(mutant: Distance) -> None:
    check_logit_kl(distances.logit_kl)
    with pytest.raises(AssertionError):
        check_logit_kl(mutant)


MEANS = [distances.zrf, distances.activation_distance, distances.logit_kl]


@pytest.mark.parametrize("distance", MEANS)
def test_a_constant_on_a_row_and_the_order_of_samples_change_nothing(distance: Distance) -> None:
    a, b = random_pair()
    order = np.random.default_rng(1).permutation(len(a))
    shift = np.arange(len(a))[:, None]
    assert distance(a + shift, b - 3 * shift) == pytest.approx(distance(a, b), rel=1e-9)
    assert distance(a[order], b[order]) == pytest.approx(distance(a, b), rel=1e-12)


@pytest.mark.parametrize("distance", MEANS)
def test_float32_logits_are_compared_in_float64(distance: Distance) -> None:
    a, b = (x.astype(np.float32) for x in random_pair())
    assert distance(a, b) == distance(a.astype(np.float64), b.astype(np.float64))


def test_distances_grow_with_the_noise_between_two_models() -> None:
    a, noise = random_pair()
    noisy = [a + scale * noise for scale in (0, 0.1, 1, 10)]
    for distance, sign in ((distances.zrf, -1), (distances.activation_distance, 1), (distances.logit_kl, 1)):
        found = [sign * value(distance(b, a)) for b in noisy]
        assert found == sorted(found)
        assert len(set(found)) == 4


@pytest.mark.parametrize("distance", MEANS)
def test_no_sample_has_no_mean(distance: Distance) -> None:
    assert distance(np.empty((0, 3)), np.empty((0, 3))) == Empty("too_few", "no sample")


# --- accuracies ------------------------------------------------------------------------------------------------------


def check_tow(tow: Callable[[list[float]], float]) -> None:
    assert tow([0.1, -0.2, 0.5]) == pytest.approx(0.36, rel=1e-12)  # .9 · .8 · .5
    assert tow([0, 0, 0]) == 1
    assert tow([0.3, 1.0]) == 0


@pytest.mark.parametrize(
    "mutant",
    [
        lambda gaps: math.prod(1 - gap for gap in gaps),
        lambda gaps: 1 - sum(map(abs, gaps)) / len(gaps),
        lambda gaps: math.prod(map(abs, gaps)),
    ],
    ids=["signed", "mean", "without 1 -"],
)
def test_tow_in_closed_form(mutant: Callable[[list[float]], float]) -> None:
    check_tow(distances.tow)
    with pytest.raises(AssertionError):
        check_tow(mutant)


def check_aus(aus: Callable[[float, float, float, bool], float]) -> None:
    assert aus(0.9, 0.8, 0.5, False) == pytest.approx(0.6923076923076923, rel=1e-12)  # .9 / 1.3
    assert aus(0.9, 0.8, 0.95, False) == pytest.approx(0.782608695652174, rel=1e-12)  # .9 / 1.15
    assert aus(0.9, 0.8, 0.5, True) == pytest.approx(0.6, rel=1e-12)  # .9 / 1.5
    assert aus(0.8, 0.9, 0.0, True) == pytest.approx(1.1, rel=1e-12)  # better than the original is above 1


@pytest.mark.parametrize(
    "mutant",
    [
        lambda o, t, f, c: (1 - (o - t)) / (1 + abs(f - t)),
        lambda o, t, f, c: (1 - (o - t)) / (1 + abs(f)),
        lambda o, t, f, c: (1 - abs(o - t)) / (1 + abs(f if c else f - t)),
        lambda o, t, f, c: (1 - (o - t)) / (1 + (f if c else f - t)),
    ],
    ids=["no class scenario", "always a class", "absolute loss", "signed denominator"],
)
def test_aus_in_closed_form(mutant: Callable[[float, float, float, bool], float]) -> None:
    check_aus(distances.aus)
    with pytest.raises(AssertionError):
        check_aus(mutant)
