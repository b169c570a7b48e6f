"""Ranks: closed forms, scipy where it has the test, false alarms by simulation, wrong versions that must fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from inference_cases import HIGH, LOW, NAN, ORACLE, block, kills, spread, values
from scipy import stats

from unlearnbench.judge.ranking import Friedman, friedman, nemenyi_cd, rank_stability, ranks
from unlearnbench.plan.spec import Empty, Metric

# --- ranks -----------------------------------------------------------------------------------------------------------

TWO_BLOCKS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "one": {"a": [1, 1, 10], "b": [2, 2, 2], "c": [3, 3, 3], "identity": [0, 0, 0]},
    "two": {"a": [1, 1, 1], "b": [1, 0, 2], "c": [0, 0, 0], "identity": [0, 0, 0]},
}


def check_ranks(fn: Callable[[pd.DataFrame, Metric], pd.DataFrame]) -> None:
    """Blocks of means 4, 2, 3 and 1, 1, 0."""
    frame = values(TWO_BLOCKS)
    assert fn(frame, LOW).to_numpy().tolist() == [[3, 1, 2], [2.5, 2.5, 1]]
    assert fn(frame, HIGH).to_numpy().tolist() == [[1, 3, 2], [1.5, 1.5, 3]]
    oracle = {"retrain": [4.0, 6.0], "over": [7.0, 9.0], "under": [3.0, 5.0], "zigzag": [2.0, 8.0]}
    assert fn(values({"one": oracle}), ORACLE).to_numpy().tolist() == [[3, 1, 2]]


def ranked(
    frame: pd.DataFrame, metric: Metric, *, seeds_first: bool = True, mean_gap: bool = False, ties: str = "average",
    controls: bool = False,
) -> pd.DataFrame:  # fmt: skip
    frame = frame.copy()
    if metric.better == "oracle":
        oracle = frame[frame["role"] == "oracle"].set_index("seed")["value"]
        frame["value"] -= frame["seed"].map(oracle)
        frame["value"] = frame["value"] if mean_gap else frame["value"].abs()
    frame["value"] *= -1 if metric.better == "high" else 1
    frame = frame[frame["role"].isin(["method", "control"] if controls else ["method"])]
    order, by = frame["method"].unique(), ["scenario", "method"]
    if seeds_first:
        means = frame.groupby(by)["value"].mean().abs() if mean_gap else frame.groupby(by)["value"].mean()
        return means.unstack()[order].rank(axis=1, method=ties)  # type: ignore[arg-type]
    per_seed = frame.pivot(index=["scenario", "seed"], columns="method", values="value")[order].rank(axis=1)
    return per_seed.groupby("scenario").mean()


def test_ranks_in_closed_form() -> None:
    check_ranks(lambda frame, metric: ranks(frame, metric).table)
    check_ranks(ranked)
    table = ranks(values(TWO_BLOCKS), LOW).table
    assert list(table.index) == [("digits", "one"), ("digits", "two")]
    assert list(table.columns) == ["a", "b", "c"]


def test_ranks_do_not_depend_on_the_order_of_lines() -> None:
    blocks = {f"s{i}": {m: spread(0.2 * j, 3, 10 * i + j) for j, m in enumerate("abcde")} for i in range(6)}
    frame = values(blocks)
    once = ranks(frame, LOW).table
    for seed in range(5):
        again = ranks(frame.sample(frac=1, random_state=seed), LOW).table
        pd.testing.assert_frame_equal(once, again.loc[once.index, once.columns])


@pytest.mark.parametrize(
    "wrong", [{"seeds_first": False}, {"mean_gap": True}, {"ties": "min"}, {"ties": "first"}, {"controls": True}]
)
def test_wrong_ranks(wrong: dict[str, Any]) -> None:
    kills(check_ranks, lambda frame, metric: ranked(frame, metric, **wrong))


def test_only_methods_with_a_value_in_every_run_are_ranked_and_the_others_are_named() -> None:
    blocks: Mapping[str, Mapping[str, Sequence[Any]]] = {
        "one": {"a": [1, 1], "torn": [0, NAN], "cut": [0, 0], "b": [2, 2], "none": [NAN, NAN]},
        "two": {"a": [1, 1], "torn": [0, 0], "cut": [0, ">9"], "b": [2, 2]},
        "empty": {"a": [NAN, NAN], "b": [NAN, NAN]},
    }
    found = ranks(values(blocks), LOW)
    assert found.table.to_numpy().tolist() == [[1, 2], [1, 2]]
    assert found.left_out == {
        "torn": "without a value in digits one (1 of 2 runs)",
        "cut": "without a value in digits two (1 of 2 runs)",
        "none": "without a value in digits one (2 of 2 runs), digits two (2 of 2 runs)",
    }


def test_nothing_to_rank() -> None:
    for frame in (values({}), values({"one": {"a": [NAN]}}), values({"one": {"a": [1, NAN], "b": [NAN, 1]}})):
        found = ranks(frame, LOW)
        assert found.table.shape[1] == 0
        assert set(found.left_out) == set(frame["method"])
        assert len(rank_stability(frame, LOW)) == 0
        assert isinstance(friedman(found.table), Empty)


def test_scores_that_differ_by_rounding_are_equal() -> None:
    blocks = {"one": {"a": [0.1, 0.2, 0.3], "b": [0.3, 0.2, 0.1], "c": [0.3, 0.1, 0.2]}}
    assert ranks(values(blocks), LOW).table.to_numpy().tolist() == [[2, 2, 2]]


def table(rows: Any) -> pd.DataFrame:
    return pd.DataFrame(stats.rankdata(rows, axis=1))


def check_friedman(fn: Callable[[pd.DataFrame], Any]) -> None:
    # 12 / (4·3·4) · (4² + 8² + 12²) - 3·4·4 = 8, with 2 degrees of freedom: exp(-4)
    statistic, p = fn(table([[1, 2, 3]] * 4))
    assert statistic == pytest.approx(8)
    assert p == pytest.approx(0.01831564)
    statistic, p = fn(table([[1, 2, 3], [3, 2, 1]]))
    assert statistic == pytest.approx(0, abs=1e-9)
    assert p == pytest.approx(1)


def test_friedman_in_closed_form() -> None:
    check_friedman(friedman)


@pytest.mark.parametrize(
    "wrong",
    [lambda t: stats.friedmanchisquare(*t.to_numpy()), lambda t: stats.kruskal(*t.to_numpy().T)],
    ids=["transposed", "unblocked"],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_friedmans(wrong: Callable[[pd.DataFrame], Any]) -> None:
    def check(fn: Callable[[pd.DataFrame], Any]) -> None:
        try:
            check_friedman(fn)
        except ValueError as error:
            raise AssertionError from error

    kills(check, wrong)


def test_friedman_is_scipys_on_the_scores_themselves() -> None:
    scores = np.random.default_rng(0).integers(0, 4, size=(9, 5))
    theirs = stats.friedmanchisquare(*scores.T)
    assert friedman(table(scores)) == pytest.approx((theirs.statistic, theirs.pvalue))


@pytest.mark.parametrize("shape", [(5, 2), (1, 5), (0, 0)])
def test_friedman_needs_three_methods_and_two_blocks(shape: tuple[int, int]) -> None:
    found = friedman(pd.DataFrame(np.ones(shape)))
    assert isinstance(found, Empty)
    assert found.reason == "too_few"


def test_methods_that_tie_everywhere_do_not_differ() -> None:
    assert friedman(table(np.ones((3, 4)))) == Friedman(0.0, 1.0)


def check_cd(fn: Callable[[int, int], float]) -> None:
    # table 5(a) of the article: q of 1.960, 2.343, 2.728 and 3.164; there the CD of 4 methods, 14 blocks is 1.25
    for k, q in ((2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)):
        assert fn(k, 1) == pytest.approx(q * math.sqrt(k * (k + 1) / 6), rel=4e-4)
    assert fn(4, 14) == pytest.approx(1.25, abs=0.005)
    assert fn(38, 10) == pytest.approx(19.2, abs=0.05)
    assert fn(5, 2) == pytest.approx(4.31, abs=0.005)


def test_nemenyis_critical_difference() -> None:
    check_cd(nemenyi_cd)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda k, n: nemenyi_cd(k, n) * 2**0.5,
        lambda k, n: nemenyi_cd(k, n) / 2**0.5,
        lambda k, n: nemenyi_cd(k, 1) / n,
        lambda k, n: nemenyi_cd(k, n, alpha=0.1),
        lambda k, n: stats.norm.ppf(0.975) * math.sqrt(k * (k + 1) / (6 * n)),
        lambda k, n: stats.norm.ppf(1 - 0.025 / (k - 1)) * math.sqrt(k * (k + 1) / (6 * n)),  # Bonferroni-Dunn
        lambda k, n: (
            stats.studentized_range.ppf(0.95, k, max(1, k * (n - 1))) / 2**0.5 * math.sqrt(k * (k + 1) / 6 / n)
        ),
    ],
)
def test_wrong_critical_differences(wrong: Callable[[int, int], float]) -> None:
    kills(check_cd, wrong)


@pytest.mark.parametrize(("methods", "blocks"), [(1, 5), (0, 0), (3, 0)])
def test_there_is_no_critical_difference_of_one_method_or_no_block(methods: int, blocks: int) -> None:
    with pytest.raises(ValueError, match="expected at least 2 in 1"):
        nemenyi_cd(methods, blocks)


def test_friedman_and_nemenyi_raise_false_alarms_at_their_rates() -> None:
    scores = np.random.default_rng(0).normal(size=(1000, 20, 5))
    drawn = stats.rankdata(scores, axis=2)
    means = drawn.mean(axis=1)
    assert np.mean(np.ptp(means, axis=1) >= nemenyi_cd(5, 20)) == pytest.approx(0.05, abs=0.02)
    found = [friedman(pd.DataFrame(one)) for one in drawn]
    assert np.mean([test.p < 0.05 for test in found if isinstance(test, Friedman)]) == pytest.approx(0.045, abs=0.02)


# --- stability -------------------------------------------------------------------------------------------------------


def test_a_clear_order_is_stable_and_a_draw_is_not() -> None:
    clear = rank_stability(values(block(5, 3)), LOW, draws=200)
    assert list(clear.index) == ["m0", "m1", "m2"]
    assert clear.to_numpy().tolist() == [[1, 1, 1, 1], [2, 2, 2, 0], [3, 3, 3, 0]]
    even = rank_stability(values({"one": {"b": [0, 1, 0, 1], "a": [1, 0, 1, 0], "c": [5, 5, 5, 5]}}), LOW)
    assert list(even.index) == ["b", "a", "c"]
    assert even["mean"].tolist() == [1.5, 1.5, 3]
    assert even[["low", "high"]].to_numpy().tolist() == [[1, 2], [1, 2], [3, 3]]
    assert even["first"].tolist() == pytest.approx([0.5, 0.5, 0], abs=0.05)
    assert even["first"].sum() == pytest.approx(1)


def test_the_interval_of_two_runs_has_the_probabilities_of_their_resamples() -> None:
    """Of (0, 3) against (1, 1): resamples 0, 1.5 and 3 with .25, .5, .25, so the first is first in a quarter."""
    found = rank_stability(values({"one": {"a": [0, 3], "b": [1, 1]}}), LOW, draws=4000)
    assert found["first"].to_dict() == pytest.approx({"b": 0.75, "a": 0.25}, abs=0.03)
    # (5, 5, 5) alone makes a the second, 1 resample of 27: more than 2.5% and less than 5%
    rare = rank_stability(values({"one": {"a": [5, 0, 0], "b": [4, 4, 4]}}), LOW, draws=4000)
    assert rare.to_numpy() == pytest.approx(np.array([[1, 1, 2, 26 / 27], [2, 1, 2, 1 / 27]]), abs=0.01)


def test_runs_of_a_block_are_resampled_together() -> None:
    """a beats b by the same margin in every run, though runs differ far more than the methods."""
    runs = [0.0, 100, 200, 300, 400]
    found = rank_stability(values({"one": {"a": runs, "b": [x + 1 for x in runs]}}), LOW, draws=200)
    assert found["first"].to_dict() == {"a": 1, "b": 0}


def test_blocks_are_resampled_apart_and_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    blocks = {f"s{i}": {m: list(rng.normal(size=5)) for m in "abcd"} for i in range(30)}
    one, many = (rank_stability(values(dict(itertools.islice(blocks.items(), n))), LOW) for n in (1, 30))
    assert (many["high"] - many["low"]).max() < (one["high"] - one["low"]).min()
    assert (many["low"] < many["high"]).all()


def test_draws_follow_from_the_seed_and_not_from_the_order_of_lines() -> None:
    frame = values({"one": {m: spread(0.3 * i, 5, i) for i, m in enumerate("abc")}})
    first = rank_stability(frame, LOW)
    pd.testing.assert_frame_equal(first, rank_stability(frame, LOW))
    shuffled = rank_stability(frame.sample(frac=1, random_state=0), LOW)
    pd.testing.assert_frame_equal(first, shuffled.loc[first.index])
    assert not first.equals(rank_stability(frame, LOW, seed=1))


def test_runs_that_share_splits_and_seeds_have_no_interval() -> None:
    alone = values(block(9, 3))
    assert rank_stability(alone, LOW)["low"].notna().all()
    found = rank_stability(alone.assign(split_seed=alone["seed"] // 3, seed=alone["seed"] % 3), LOW)
    assert found["low"].isna().all()
    assert found["mean"].tolist() == [1.0, 2.0, 3.0]


def test_one_run_has_no_interval() -> None:
    found = rank_stability(values({"one": {"a": [1.0], "b": [2.0]}, "two": {"a": [1.0, 1], "b": [2.0, 2]}}), LOW)
    assert found["mean"].tolist() == [1, 2]
    assert found[["low", "high", "first"]].isna().all(axis=None)
