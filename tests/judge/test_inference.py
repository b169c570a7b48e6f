"""Inference: closed forms of variance components, noise floor and equivalence, and wrong versions that must fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from inference_cases import NAN, SHARED, kills, only, values
from scipy import stats

from unlearnbench.judge.inference import (
    PAIRED,
    equivalent,
    noise_floor,
    variance_components,
)
from unlearnbench.judge.results import VALUE_COLUMNS
from unlearnbench.plan.spec import Empty

# --- variance components ---------------------------------------------------------------------------------------------


def crossed(grid: Sequence[Sequence[float]] | np.ndarray, note: str = "") -> pd.DataFrame:
    """Values of one method whose rows are split seeds and whose columns are seeds."""
    cells = [(i, j, value) for i, row in enumerate(grid) for j, value in enumerate(row)]
    shared = SHARED | {"scenario": "random", "method": "camu", "role": "method", "metric": "x", "note": note}
    return pd.DataFrame([shared | {"split_seed": i, "seed": j, "value": v} for i, j, v in cells], columns=VALUE_COLUMNS)


def components(grid: Sequence[Sequence[float]] | np.ndarray) -> list[float]:
    """Variances of split seed, seed and residual."""
    line = only(variance_components(crossed(grid)))
    return [line[name] ** 2 for name in ("split_seed", "seed", "residual")]


def check_components(fn: Callable[[Any], Sequence[float]]) -> None:
    # means of rows 1.5, 4.5, of columns 2, 4; mean squares 9, 4 and 1: (9 - 1) / 2, (4 - 1) / 2, 1
    assert fn([[1, 2], [3, 6]]) == pytest.approx([4, 1.5, 1])
    # three splits, two seeds: mean squares 6, 0 and 4.5: (6 - 4.5) / 2, below 0, 4.5
    assert fn([[1, 4], [7, 4], [5.5, 5.5]]) == pytest.approx([0.75, 0, 4.5])
    assert fn([[0, 1], [1, 0]]) == pytest.approx([0, 0, 1])  # rows and columns agree: both estimates are negative
    assert fn([[0, 1, 2], [10, 11, 12]]) == pytest.approx([50, 1, 0], abs=1e-9)  # additive: no residual


def two_way(grid: Any, *, divide: bool = True, subtract: bool = True, floor: bool = True) -> list[float]:
    x = np.array(grid, dtype=float)
    a, b = x.shape
    rows, columns = x.mean(1), x.mean(0)
    residual = ((x - rows[:, None] - columns + x.mean()) ** 2).sum() / ((a - 1) * (b - 1))
    found = []
    for means, other in ((rows, b), (columns, a)):
        square = other * means.var(ddof=1) - subtract * residual
        square = square / (other if divide else 1)
        found.append(max(0.0, square) if floor else square)
    return [*found, residual]


def test_components_in_closed_form() -> None:
    check_components(components)


@pytest.mark.parametrize("wrong", [{"divide": False}, {"subtract": False}, {"floor": False}])
def test_wrong_components(wrong: dict[str, bool]) -> None:
    kills(check_components, lambda grid: two_way(grid, **wrong))


def test_swapped_components() -> None:
    kills(check_components, lambda grid: components(np.transpose(grid)))


def test_components_of_many_levels_find_what_was_put_in() -> None:
    rng = np.random.default_rng(0)
    grid = 3 * rng.normal(size=(60, 1)) + 1 * rng.normal(size=(1, 60)) + 2 * rng.normal(size=(60, 60))
    line = only(variance_components(crossed(grid)))
    assert line["split_seed"] == pytest.approx(3, rel=0.15)
    assert line["seed"] == pytest.approx(1, rel=0.2)
    assert line["residual"] == pytest.approx(2, rel=0.03)
    assert line["n"] == 3600


def test_shares_are_of_variances() -> None:
    line = only(variance_components(crossed([[1, 2], [3, 6]])))
    assert (line["split_seed_share"], line["seed_share"]) == pytest.approx((4 / 6.5, 1.5 / 6.5))
    assert (line["n"], line["note"]) == (4, "")
    shifted = only(variance_components(crossed([[-199, -198], [-197, -194]])))
    assert shifted["split_seed_share"] == pytest.approx(4 / 6.5)


def test_equal_values_have_no_shares() -> None:
    line = only(variance_components(crossed([[0.1] * 3] * 3)))
    assert [line[name] for name in ("split_seed", "seed", "residual")] == [0, 0, 0]
    assert math.isnan(line["seed_share"])
    assert line["note"] == "all values are equal"


GRID = crossed([[1, 2], [3, 6]])


@pytest.mark.parametrize(
    ("frame", "n", "note"),
    [
        (values({"random": {"camu": [1, 2, 3]}}), 3, PAIRED),
        (values({"random": {"camu": [1, NAN, 3]}}), 2, PAIRED),
        (values({"random": {"camu": [1]}}), 1, "there is a single run"),
        (crossed([[1, 2, 3]]), 3, "there is one split seed alone: its effect cannot be seen"),
        (crossed([[1], [2]]), 2, "there is one seed alone: its effect cannot be seen"),
        (GRID.iloc[:3], 3, "the design is incomplete: 3 of 4 runs have an exact value"),
        (crossed([[1, 2], [3, NAN]]), 3, "the design is incomplete: 3 of 4 runs have an exact value"),
        (crossed([[1, 2], [3, 4]], note=">4"), 0, "the design is incomplete: 0 of 4 runs have an exact value"),
        (pd.concat([GRID, GRID.assign(model="vgg")]), 4, "there are several values for the same two seeds"),
        (GRID.assign(seed=[0, 1, 2, 3]), 4, "the design is incomplete: 4 of 8 runs have an exact value"),  # nested
    ],
)
def test_designs_that_tell_nothing_say_why(frame: pd.DataFrame, n: int, note: str) -> None:
    line = only(variance_components(frame))
    assert (line["n"], line["note"]) == (n, note)
    assert all(math.isnan(line[name]) for name in ("split_seed", "seed", "residual", "split_seed_share", "seed_share"))


def test_components_of_each_method_and_metric_in_order() -> None:
    frames = [GRID.assign(method=m, metric=name) for m in ("zeta", "alpha") for name in ("x", "y")]
    found = variance_components(pd.concat(frames))
    assert list(zip(found["method"], found["metric"], strict=True)) == [
        ("zeta", "x"), ("zeta", "y"), ("alpha", "x"), ("alpha", "y"),
    ]  # fmt: skip
    assert len(variance_components(GRID.iloc[:0])) == 0
    assert only(variance_components(GRID.sample(frac=1, random_state=1)))["split_seed"] == pytest.approx(2)


# --- noise floor -----------------------------------------------------------------------------------------------------


def check_floor(fn: Callable[[list[list[float]]], float | Empty]) -> None:
    assert fn([[0, 1]]) == 1
    assert fn([[5, 2]]) == 3
    assert fn([[0, 1], [100, 101]]) == 1  # pairs stay within their group
    # distances 1, 3, 2: the 95th percentile lies .9 of the way from 2 to 3
    assert fn([[0, 1, 3]]) == pytest.approx(2.9)
    assert fn([[0.5, 0.5, 0.5]]) == 0


def floor(
    groups: list[list[float]], share: float = 0.95, across: bool = False, signed: bool = False, selves: bool = False
) -> float:
    groups = [list(itertools.chain.from_iterable(groups))] if across else groups
    pairs = itertools.combinations_with_replacement if selves else itertools.combinations
    found = [b - a if signed else abs(a - b) for group in groups for a, b in pairs(group, 2)]
    return float(np.quantile(found, share))


def test_noise_floor_in_closed_form() -> None:
    check_floor(noise_floor)


@pytest.mark.parametrize("wrong", [{"share": 1.0}, {"across": True}, {"signed": True}, {"selves": True}])
def test_wrong_noise_floors(wrong: dict[str, Any]) -> None:
    kills(check_floor, lambda groups: floor(groups, **wrong))


def test_noise_floor_of_many_normal_retrainings_is_that_of_their_differences() -> None:
    x = np.random.default_rng(0).normal(size=400)
    assert noise_floor([x]) == pytest.approx(1.959964 * 2**0.5, rel=0.05)
    assert noise_floor([x + 9]) == pytest.approx(noise_floor([x[::-1]]))


@pytest.mark.parametrize("groups", [[], [[]], [[1.0]], [[1.0], [2.0]], [[1.0, NAN]]])
def test_without_a_pair_there_is_no_noise_floor(groups: list[list[float]]) -> None:
    assert noise_floor(groups) == Empty("small_bank", "no two retrained on the same split")


def test_empty_values_drop_out_of_the_noise_floor() -> None:
    assert noise_floor([[0, NAN, 4]]) == 4


# --- equivalence -----------------------------------------------------------------------------------------------------

GAPS = [0.2, -0.1, 0.4, 0.1, 0.3]


def check_equivalent(fn: Callable[[Sequence[float], float], float]) -> None:
    for gaps in (GAPS, [-g for g in GAPS], [1.0, 1.2, 0.9]):
        for margin in (0.0, 0.3, 1.0):
            above = stats.ttest_1samp(gaps, -margin, alternative="greater").pvalue
            below = stats.ttest_1samp(gaps, margin, alternative="less").pvalue
            assert fn(gaps, margin) == pytest.approx(max(above, below), rel=1e-9)
    assert fn([0.0, 10.0], 1.0) > 0.05  # far from significant, and far from equivalent


def test_equivalence_is_two_one_sided_t_tests() -> None:
    check_equivalent(equivalent)
    # mean .18, standard error .0860233, t = .32 / .0860233 = 3.719925 with 4 degrees of freedom
    assert equivalent(GAPS, 0.5) == pytest.approx(0.0102379, abs=1e-7)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda gaps, margin: min(
            stats.ttest_1samp(gaps, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(gaps, margin, alternative="less").pvalue,
        ),
        lambda gaps, margin: max(stats.ttest_1samp(gaps, -margin).pvalue, stats.ttest_1samp(gaps, margin).pvalue),
        lambda gaps, margin: 1 - stats.ttest_1samp(gaps, 0).pvalue,  # "no significant difference"
        lambda gaps, margin: float(stats.norm.sf((margin - abs(np.mean(gaps))) / stats.sem(gaps))),
        lambda gaps, margin: float(stats.t.sf((margin - abs(np.mean(gaps))) / np.std(gaps, ddof=1), len(gaps) - 1)),
    ],
    ids=["min", "two-sided", "not significant", "normal", "no root n"],
)
def test_wrong_equivalences(wrong: Callable[[Sequence[float], float], float]) -> None:
    kills(check_equivalent, wrong)


def test_equivalence_falls_with_the_margin_and_ignores_the_sign() -> None:
    found = [equivalent(GAPS, margin) for margin in (0.0, 0.1, 0.2, 0.5, 2.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] >= 0.5
    assert found[-1] < 0.001
    assert equivalent(GAPS, 0.5) == pytest.approx(equivalent([-gap for gap in GAPS], 0.5))


@pytest.mark.parametrize(
    ("gaps", "margin", "p"),
    [
        ([0.1] * 5, 0.2, 0.0),
        ([-0.1] * 5, 0.2, 0.0),
        ([0.2] * 5, 0.2, 1.0),
        ([-0.3] * 5, 0.2, 1.0),
        ([0.0] * 5, 0.0, 1.0),
        ([0.0, NAN, 0.0], 0.1, 0.0),
    ],
)
def test_gaps_without_variance_decide_at_once(gaps: list[float], margin: float, p: float) -> None:
    assert equivalent(gaps, margin) == p


@pytest.mark.parametrize("gaps", [[], [0.0], [0.0, NAN]])
def test_one_gap_shows_nothing(gaps: list[float]) -> None:
    assert math.isnan(equivalent(gaps, 1.0))


@pytest.mark.parametrize("margin", [-1.0, NAN])
def test_a_margin_is_a_number_from_0_on(margin: float) -> None:
    with pytest.raises(ValueError, match="the margin is"):
        equivalent(GAPS, margin)


def test_at_the_margin_one_in_twenty_passes_for_equivalent() -> None:
    rng = np.random.default_rng(0)
    passed = [equivalent(rng.normal(1.0, 0.2, size=8), 1.0) < 0.05 for _ in range(2000)]
    assert np.mean(passed) == pytest.approx(0.05, abs=0.012)
