"""Distances of representations: closed forms, definitions, and wrong versions that must fail."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from unlearnbench.measure import distances
from unlearnbench.plan.spec import Empty

Distance = Callable[[np.ndarray, np.ndarray], float | Empty]


def value(result: float | Empty) -> float:
    assert not isinstance(result, Empty)
    return result


# --- CKA -------------------------------------------------------------------------------------------------------------

SQUARE = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]], dtype=np.float64)  # two uncorrelated features


def check_cka(cka: Distance) -> None:
    x, y = np.array([[0.0], [1], [2]]), np.array([[0.0], [0], [1]])
    assert cka(x, y) == pytest.approx(0.75, rel=1e-12)  # one feature each: the squared correlation
    assert cka(x, np.hstack([y, np.full((3, 9), 7.0)])) == pytest.approx(0.75, rel=1e-12)  # more features than samples
    assert cka(SQUARE[:, :1], SQUARE[:, 1:]) == pytest.approx(0, abs=1e-12)
    # BᵀA = diag(4, 8), AᵀA = diag(4, 16), BᵀB = diag(4, 4): 80 / √(272 · 32); correlations alone would say 1
    assert cka(SQUARE * [1, 2] + 5, SQUARE) == pytest.approx(0.8574929257125442, rel=1e-12)


def cka_of_kernels(a: np.ndarray, b: np.ndarray, centred: bool = True, power: float = 1) -> float:
    """By the definition with kernels: HSIC(K, L) / √(HSIC(K, K) HSIC(L, L))."""
    n = len(a)
    h = np.eye(n) - centred / n
    k, ell = h @ a @ a.T @ h, h @ b @ b.T @ h
    return float(np.trace(k @ ell) / np.sqrt(np.trace(k @ k) * np.trace(ell @ ell))) ** power


def test_cka_in_closed_form() -> None:
    check_cka(distances.linear_cka)
    check_cka(cka_of_kernels)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda a, b: cka_of_kernels(a, b, centred=False),
        lambda a, b: cka_of_kernels(a, b, power=0.5),
        lambda a, b: float(np.mean(np.corrcoef(a.T, b.T)[: a.shape[1], a.shape[1] :] ** 2)),
    ],
    ids=["not centred", "square root", "mean squared correlation"],
)
def test_a_wrong_cka_is_caught(mutant: Distance) -> None:
    with pytest.raises(AssertionError), np.errstate(all="ignore"):
        check_cka(mutant)


@pytest.mark.parametrize("widths", [(3, 4), (30, 3), (3, 30), (30, 40), (20, 20)])
def test_cka_of_any_width_is_that_of_kernels_and_ignores_rotation_scale_and_order(widths: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, widths[0])), rng.normal(size=(20, widths[1]))
    found = distances.linear_cka(a, b)
    assert found == pytest.approx(cka_of_kernels(a, b), rel=1e-9)
    assert distances.linear_cka(b, a) == pytest.approx(found, rel=1e-9)
    turn, _ = np.linalg.qr(rng.normal(size=(widths[0], widths[0])))
    order = rng.permutation(20)
    assert distances.linear_cka(-7 * (a @ turn)[order] + 3, b[order]) == pytest.approx(found, rel=1e-9)
    assert distances.linear_cka(a, 2 * a + 1) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("n", [0, 1, 3, 1000])
def test_a_constant_representation_has_no_cka(n: int) -> None:
    flat, varied = np.full((n, 4), 0.1), np.random.default_rng(0).normal(size=(n, 2))
    assert distances.linear_cka(flat, varied) == Empty("constant")
    assert distances.linear_cka(varied, flat) == Empty("constant")


@pytest.mark.parametrize(("n", "width"), [(200, 50), (100, 100), (50, 200)])
def test_cka_of_sides_that_have_nothing_to_do_with_each_other_is_not_zero(n: int, width: int) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, n, width))
    assert distances.linear_cka(a, b) == pytest.approx(width / (n + width), abs=0.03)


def test_half_precision_does_not_overflow() -> None:
    a = np.array([[6e4], [-6e4], [3e4], [6e4]], dtype=np.float16)
    assert distances.linear_cka(a, a) == pytest.approx(1, rel=1e-9)


# --- separability ----------------------------------------------------------------------------------------------------


def cloud(seed: int, n: int, shift: float = 0.0) -> np.ndarray:
    """Two features that ``shift`` moves, and a third of pure noise a thousand times as wide."""
    x = np.random.default_rng(seed).normal(size=(n, 3)) * [1, 1, 1000]
    x[:, :2] += shift
    return x


Probe = Callable[[np.ndarray, np.ndarray, int], float | Empty]


def check_separability(probe: Probe) -> None:
    assert probe(cloud(0, 200), cloud(1, 200), 0) == pytest.approx(0.5, abs=0.07)
    assert probe(cloud(0, 60), cloud(1, 600), 0) == pytest.approx(0.5, abs=0.12)
    assert value(probe(cloud(0, 200), cloud(1, 200, 4), 0)) > 0.97


def fitted_and_scored_on_the_same(forget: np.ndarray, retain: np.ndarray, seed: int) -> float:
    n = min(len(forget), len(retain))
    x, y = np.concatenate([forget[:n], retain[:n]]) / [1, 1, 1000], np.repeat([1, 0], n)
    return float(KNeighborsClassifier(5).fit(x, y).score(x, y))


def unbalanced(forget: np.ndarray, retain: np.ndarray, seed: int) -> float:
    x, y = np.concatenate([forget, retain]) / [1, 1, 1000], np.repeat([1, 0], [len(forget), len(retain)])
    return float(cross_val_score(KNeighborsClassifier(5), x, y).mean())


def not_standardised(forget: np.ndarray, retain: np.ndarray, seed: int) -> float:
    n = min(len(forget), len(retain))
    x, y = np.concatenate([forget[:n], retain[:n]]), np.repeat([1, 0], n)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return float(cross_val_score(KNeighborsClassifier(5), x, y, cv=folds).mean())


def test_separability_is_chance_where_nothing_differs_and_grows_with_the_distance() -> None:
    check_separability(distances.separability)
    found = [value(distances.separability(cloud(0, 200), cloud(1, 200, d), 0)) for d in (0, 1, 2, 4)]
    assert found == sorted(found)


@pytest.mark.parametrize("mutant", [fitted_and_scored_on_the_same, unbalanced, not_standardised])
def test_a_wrong_probe_is_caught(mutant: Probe) -> None:
    with pytest.raises(AssertionError):
        check_separability(mutant)


def test_separability_takes_prefixes_and_its_folds_from_the_seed() -> None:
    forget, retain = cloud(0, 30), cloud(1, 90, 1)
    found = distances.separability(forget, retain, 3)
    assert found == distances.separability(forget, retain[:30], 3)
    assert len({distances.separability(forget, retain, seed) for seed in range(5)}) > 1


def test_representations_that_are_all_the_same_are_at_chance_and_far_apart_ones_certain() -> None:
    ones = np.ones((40, 2), dtype=np.float16)
    assert distances.separability(ones, ones, 0) == 0.5
    assert distances.separability(ones, 2 * ones, 0) == 1.0


def test_separability_needs_ten_of_each_side() -> None:
    few = Empty("too_few", "9 samples of each side, 10 needed")
    assert distances.separability(cloud(0, 9), cloud(1, 50), 0) == few
    assert distances.separability(cloud(0, 50), cloud(1, 9), 0) == few
    assert isinstance(distances.separability(cloud(0, 10), cloud(1, 10), 0), float)
