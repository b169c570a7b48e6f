"""Inference: variance components, equivalence, the test against honest retrains, and wrong versions that must fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from inference_cases import NAN, SHARED, kills, only, values
from scipy import stats

from unlearnbench.judge.inference import PAIRED, beyond, equivalent, variance_components
from unlearnbench.judge.results import VALUE_COLUMNS
from unlearnbench.plan.spec import Tolerance

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


# --- equivalence -----------------------------------------------------------------------------------------------------

GAPS = [0.2, -0.1, 0.4, 0.1, 0.3]


def within(gaps: Sequence[float], margin: float) -> float:
    return equivalent(gaps, [0.0] * len(gaps), Tolerance(margin))


def check_equivalent(fn: Callable[[Sequence[float], float], float]) -> None:
    for gaps in (GAPS, [-g for g in GAPS], [1.0, 1.2, 0.9]):
        for margin in (0.0, 0.3, 1.0):
            above = stats.ttest_1samp(gaps, -margin, alternative="greater").pvalue
            below = stats.ttest_1samp(gaps, margin, alternative="less").pvalue
            assert fn(gaps, margin) == pytest.approx(max(above, below), rel=1e-9)
    assert fn([0.0, 10.0], 1.0) > 0.05  # far from significant, and far from equivalent


def test_equivalence_is_two_one_sided_t_tests() -> None:
    check_equivalent(within)
    # mean .18, standard error .0860233, t = .32 / .0860233 = 3.719925 with 4 degrees of freedom
    assert within(GAPS, 0.5) == pytest.approx(0.0102379, abs=1e-7)


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
    found = [within(GAPS, margin) for margin in (0.0, 0.1, 0.2, 0.5, 2.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] >= 0.5
    assert found[-1] < 0.001
    assert within(GAPS, 0.5) == pytest.approx(within([-gap for gap in GAPS], 0.5))


def test_it_is_of_pairs() -> None:
    """The planted bug: a test of two independent samples, whose spread is that of the runs."""
    oracle = [10.0, 50.0, 90.0, 30.0, 70.0]
    values = [o + gap for o, gap in zip(oracle, GAPS, strict=True)]
    assert equivalent(values, oracle, Tolerance(0.5)) == pytest.approx(within(GAPS, 0.5))


def test_a_share_of_the_oracle_s_value_is_a_margin_of_its_own_in_every_run() -> None:
    oracle, values = [10.0, 20.0, 30.0, 40.0], [10.5, 20.1, 29.0, 41.0]
    above = stats.ttest_rel(values, [0.9 * o for o in oracle], alternative="greater").pvalue
    below = stats.ttest_rel(values, [1.1 * o for o in oracle], alternative="less").pvalue
    assert equivalent(values, oracle, Tolerance(0.1, of_oracle=True)) == pytest.approx(max(above, below))
    assert equivalent(values, oracle, Tolerance(0.1)) > 0.3  # .1 of a step is another matter
    assert math.isnan(equivalent([0.0] * 5, [0.0] * 5, Tolerance(0.1, of_oracle=True)))  # a tenth of nothing


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
    assert within(gaps, margin) == p


@pytest.mark.parametrize("gaps", [[], [0.0], [0.0, NAN]])
def test_one_gap_shows_nothing(gaps: list[float]) -> None:
    assert math.isnan(within(gaps, 1.0))


def test_at_the_margin_one_in_twenty_passes_for_equivalent() -> None:
    """The planted bug: the spread of single runs as the margin of a mean lets a bias of 1.5 of them pass."""
    rng = np.random.default_rng(0)
    passed = [within(rng.normal(1.0, 0.2, size=8), 1.0) < 0.05 for _ in range(2000)]
    assert np.mean(passed) == pytest.approx(0.05, abs=0.012)
    wide = [within(rng.normal(1.5, 1.0, size=10), 1.96 * 2**0.5) < 0.05 for _ in range(500)]
    assert np.mean(wide) > 0.75


# --- beyond the noise floor ------------------------------------------------------------------------------------------


def test_beyond_counts_the_exchanges_with_honest_retrains() -> None:
    own, honest = [3.0, 5.0, 4.0], [[1.0, 2.0], [1.0, 6.0], [0.0, 1.0]]
    sums = [a + b + c for a in (3, 1, 2) for b in (5, 1, 6) for c in (4, 0, 1)]
    assert beyond(own, honest) == sum(s >= 12 for s in sums) / 27
    assert beyond([9.0, 9.0, 9.0], honest) == 1 / 27
    assert beyond([0.0, 0.0, -1.0], honest) == 1.0


def test_beyond_is_one_sided_and_by_run() -> None:
    honest = [[1.0, 1.1, 0.9, 0.8], [100.0, 101.0, 99.0, 98.0]]
    assert beyond([1.2, 101.5], honest) == 1 / 25  # the planted bug: pooled, 1.2 would be near
    assert beyond([0.1, 0.1], honest) == 1.0


def test_ties_count_as_exchanges_that_are_as_large() -> None:
    assert beyond([0.1, 0.2, 0.3], [[0.1] * 2, [0.2] * 2, [0.3] * 2]) == 1.0


@pytest.mark.parametrize(
    ("own", "honest"),
    [
        ([], []),
        ([9.0], [[1.0] * 19]),  # 20 exchanges: the smallest p is .05
        ([9.0, 9.0, 9.0, 9.0], [[1.0]] * 4),  # 16
        ([9.0, NAN, 9.0], [[1.0, 2.0, 3.0]] * 3),  # 16 without the run that has no value
        ([9.0] * 9, [[]] * 9),
        ([9.0] * 9, [[NAN]] * 9),
    ],
)
def test_where_nothing_could_be_found_there_is_no_test(own: list[float], honest: list[list[float]]) -> None:
    assert math.isnan(beyond(own, honest))


def test_of_many_exchanges_some_are_drawn_and_p_is_never_0() -> None:
    own, honest = [9.0] * 10, [[1.0, 2.0, 3.0]] * 10
    assert beyond(own, honest) == 1 / 20_001
    rng = np.random.default_rng(1)
    own, honest = list(rng.exponential(size=10)), rng.exponential(size=(10, 3)).tolist()
    assert beyond(own, honest) == pytest.approx(beyond(own, honest, seed=7), abs=0.02)


@pytest.mark.parametrize("retrains", [1, 5])
@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_another_honest_retrain_is_told_from_others_in_one_of_twenty(draw: str, retrains: int) -> None:
    """However skewed, and with a floor that one retrain a run estimates; the distances of a run share its oracle."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        oracle, own, others = (getattr(rng, draw)(size=n) for n in ((8, 1), (8, 1), (8, retrains)))
        found.append(beyond(np.abs(own - oracle)[:, 0].tolist(), np.abs(others - oracle).tolist()) < 0.05)
    assert np.mean(found) < 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5
    assert np.mean(found) > 0.015
