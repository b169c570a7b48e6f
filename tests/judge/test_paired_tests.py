"""Tests between methods: sign flips, Holm, paired tests, the Pareto front; and wrong versions that must fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_cases import HIGH, LOW, NAN, ORACLE, block, kills, metric, only, spread, values
from scipy import stats

from unlearnbench.judge import inference
from unlearnbench.judge.inference import (
    bearable,
    holm,
    paired_tests,
    pareto,
    sign_flip,
)
from unlearnbench.judge.ranking import ranks

# --- sign flips, Holm ------------------------------------------------------------------------------------------------


def check_sign_flip(fn: Callable[[Sequence[float]], float]) -> None:
    assert fn([1, 2, 3, 4, 5]) == 0.0625  # 2 of 32
    assert fn([-1, -2, -3, -4, -5]) == 0.0625
    assert fn([1, 2, -3]) == 1.0  # a sum of 0
    assert fn([1, 2, 4, -1]) == 0.375  # of sums with |.| >= 6: ±8, ±6 twice; 6 of 16
    assert fn([0.1, 0.2, 0.3, -0.1]) == 0.375  # with |.| >= .5: ±.7, ±.5 twice; the same sums in another order
    assert fn([5, 6, 7, -8]) == 0.625  # with |.| >= 10: those that turn nothing or one of 5, 6, 7, 8; 10 of 16
    assert fn([3.0]) == 1.0
    assert fn([0.0, 0.0]) == 1.0


def flips(d: Sequence[float], *, two_sided: bool = True, strict: bool = False, own: int = 0) -> float:
    sums = np.array(
        [sum(s * x for s, x in zip(signs, d, strict=True)) for signs in itertools.product([1, -1], repeat=len(d))]
    )
    sums, seen = (np.abs(sums), abs(sum(d))) if two_sided else (sums, sum(d))
    return float(((sums > seen + 1e-9 if strict else sums >= seen - 1e-9).sum() + own) / (len(sums) + own))


def test_sign_flips_in_closed_form() -> None:
    check_sign_flip(sign_flip)
    check_sign_flip(flips)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d: flips(d, two_sided=False),
        lambda d: flips(d, strict=True),
        lambda d: flips(d, own=1),
        lambda d: stats.ttest_1samp(d, 0).pvalue,
        lambda d: stats.wilcoxon(d).pvalue,
    ],
    ids=["one-sided", "strictly larger", "itself twice", "t test", "Wilcoxon"],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_sign_flips(wrong: Callable[[Sequence[float]], float]) -> None:
    kills(check_sign_flip, wrong)


@pytest.mark.parametrize("n", [3, 6, 9])
def test_sign_flips_agree_with_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    for shift in (0.0, 0.5, 2.0):
        d = rng.normal(shift, size=n)
        theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert sign_flip(d) == pytest.approx(theirs.pvalue)


def test_many_differences_are_drawn_and_close_to_the_exact_test(monkeypatch: pytest.MonkeyPatch) -> None:
    d = np.random.default_rng(2).normal(0.4, size=14)
    exact = sign_flip(d)
    monkeypatch.setattr(inference, "EXACT_UP_TO", 3)
    drawn = sign_flip(d)
    assert 0.01 < exact < 0.5
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.012)
    assert drawn == sign_flip(d)
    assert drawn != sign_flip(d, seed=1)


def test_drawn_signs_never_give_0() -> None:
    assert sign_flip(np.ones(40)) == 1 / 20_001


def test_equal_methods_give_false_alarms_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(0)
    p = np.array([sign_flip(rng.standard_t(3, size=10)) for _ in range(2000)])
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=0.012)


def check_holm(fn: Callable[[Sequence[float], int], Any]) -> None:
    assert list(fn([0.01, 0.04, 0.03, 0.005], 4)) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert list(fn([0.02, 0.021], 2)) == pytest.approx([0.04, 0.04])
    assert list(fn([0.5, 0.9], 2)) == [1.0, 1.0]
    assert list(fn([0.01, 0.02], 6)) == pytest.approx([0.06, 0.1])
    assert list(fn([], 3)) == []


def stepped(p: Sequence[float], m: int, *, down: bool = True, monotone: bool = True, bonferroni: bool = False) -> Any:
    order = sorted(range(len(p)), key=lambda i: p[i])
    raw = [p[i] * (m if bonferroni else m - rank) for rank, i in enumerate(order)]
    if monotone and down:
        raw = list(itertools.accumulate(raw, max))
    elif monotone:
        raw = list(itertools.accumulate(raw[::-1], min))[::-1]
    found = dict(zip(order, raw, strict=True))
    return [min(1.0, found[i]) for i in range(len(p))]


def test_holm_in_closed_form() -> None:
    check_holm(holm)
    check_holm(stepped)


@pytest.mark.parametrize("wrong", [{"down": False}, {"monotone": False}, {"bonferroni": True}])
def test_wrong_holms(wrong: dict[str, bool]) -> None:
    kills(check_holm, lambda p, m: stepped(p, m, **wrong))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12), st.integers(0, 5))
def test_holm_lies_between_the_p_and_bonferroni_in_the_same_order(p: list[float], more: int) -> None:
    m = len(p) + more
    found = holm(p, m)
    assert all(a <= c <= min(1.0, m * a) + 1e-12 for a, c in zip(p, found, strict=True) if m)
    for (a, c), (b, d) in itertools.combinations(zip(p, found, strict=True), 2):
        assert a == b or (a < b) == (c < d) or c == d


def check_bearable(fn: Callable[[int], int]) -> None:
    assert [fn(n) for n in (0, 1, 2, 5, 6, 8, 10, 12)] == [0, 0, 0, 0, 1, 6, 25, 102]


def test_how_many_comparisons_the_seeds_bear() -> None:
    check_bearable(bearable)
    assert bearable(17) == bearable(100) == 1000


@pytest.mark.parametrize("wrong", [lambda n: int(0.05 * 2**n), lambda n: int(0.05 * 2 ** (n - 1)) + 1])
def test_wrong_counts_of_comparisons(wrong: Callable[[int], int]) -> None:
    kills(check_bearable, wrong)


# --- paired tests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "methods", "against", "tested"),
    [
        (5, 2, None, False),
        (8, 4, None, True),  # 6 pairs of methods
        (8, 5, None, False),  # 10
        (10, 7, None, True),  # 21
        (10, 8, None, False),  # 28
        (12, 14, None, True),  # 91
        (8, 7, "m0", True),  # 6 comparisons with a method named beforehand
        (8, 8, "m0", False),
        (10, 26, "m0", True),
        (10, 27, "m0", False),
    ],
)
def test_too_few_seeds_are_said_not_tested(n: int, methods: int, against: str | None, tested: bool) -> None:
    found = paired_tests(values(block(n, methods)), LOW, against)
    assert len(found) == methods - 1
    assert set(found["best"]) == {"m0"}
    assert found["p"].notna().all() == found["p_holm"].notna().all() == tested
    assert found["p"].isna().all() != tested
    assert found["note"].str.startswith("too few seeds to test: ").all() != tested
    if tested:
        assert (found["p"] == 2 / 2**n).all()
        assert (found["p_holm"] < 0.05).all()


def test_a_line_of_the_paired_tests() -> None:
    blocks = {"random": {"b": [1, 2, 3, 4, 5, 6.0], "a": [0.5, 1.5, 2.0, 3.0, 4.0, 4.0]}}
    assert only(paired_tests(values(blocks), LOW)) == {
        "dataset": "digits", "scenario": "random", "metric": "x", "best": "a", "method": "b", "n": 6,
        "difference": 1.0, "p": 0.03125, "p_holm": 0.03125, "note": "",
    }  # fmt: skip
    assert only(paired_tests(values(blocks), HIGH))["best"] == "b"
    assert only(paired_tests(values(blocks), LOW, against="b"))["difference"] == -1.0


def test_the_best_is_nearest_the_oracle_seed_by_seed() -> None:
    """zigzag hits the oracle on average, near misses it a little in each run: near is the best."""
    oracle = [10.0, 20, 30, 40, 50, 60]
    zigzag = [x + 5 * (-1) ** i for i, x in enumerate(oracle)]
    near = [x + 1 for x in oracle]
    blocks = {"random": {"retrain": oracle, "zigzag": zigzag, "near": near, "identity": oracle}}
    line = only(paired_tests(values(blocks), ORACLE))
    assert (line["best"], line["method"], line["difference"], line["p"]) == ("near", "zigzag", 4.0, 0.03125)
    # a ratio to the oracle, which has a value of its own, is no exception
    assert only(paired_tests(values(blocks), metric("x", "oracle", needs={"oracle": 1})))["best"] == "near"


def test_pairs_are_runs_with_the_same_seeds_in_any_order() -> None:
    a = [1.0, 2, 3, 4, 5, 6, 70]
    blocks = {"random": {"a": a, "b": [x + 0.5 for x in a], "c": [80.0, 1, 2, 3, 4, 5, 6]}}
    frame = values(blocks)
    first = paired_tests(frame, LOW, against="a").set_index("method")
    second = paired_tests(frame.sample(frac=1, random_state=4), LOW, against="a").set_index("method")
    columns = ["n", "difference", "p", "p_holm"]
    pd.testing.assert_frame_equal(first[columns].loc[["b", "c"]], second[columns].loc[["b", "c"]])
    assert first["p"].to_dict() == {"b": 2 / 2**7, "c": 1.0}
    split = frame.assign(split_seed=frame["split_seed"].where(frame["method"] == "a", 9))
    assert set(paired_tests(split, LOW, against="a")["n"]) == {0}  # the seed alone does not make the pair


def test_runs_that_share_splits_and_seeds_are_not_tested() -> None:
    alone = values(block(9, 3))
    assert paired_tests(alone, LOW)["p"].notna().all()
    found = paired_tests(alone.assign(split_seed=alone["seed"] // 3, seed=alone["seed"] % 3), LOW)
    assert found["p"].isna().all()
    assert set(found["note"]) == {"no test: runs that share splits and seeds are not independent"}


def test_a_missing_or_censored_run_drops_its_pair_and_bars_from_being_the_best() -> None:
    full = [10.0 + i for i in range(7)]
    blocks: Mapping[str, Mapping[str, Sequence[Any]]] = {
        "random": {"full": full, "torn": [0, 1, 2, 3, 4, 5, NAN], "cut": [0, 1, 2, 3, 4, 5, ">6"], "none": [NAN] * 7}
    }
    found = paired_tests(values(blocks), LOW).set_index("method")
    assert set(found["best"]) == {"full"}
    assert found["n"].to_dict() == {"torn": 6, "cut": 6}
    assert found["note"].to_dict() == dict.fromkeys(
        ["torn", "cut"], "too few seeds to test: 6 allow 1 of 3 comparisons"
    )


def test_where_no_method_is_complete_there_is_no_best() -> None:
    found = paired_tests(values({"random": {"a": [1, NAN, 3], "b": [NAN, 2, 3]}}), LOW)
    assert list(found["note"]) == ["no method has a value in every run"] * 2
    absent = paired_tests(values({"random": {"a": [1.0, 2], "b": [1.0, 2]}}), LOW, against="zeta")
    assert list(absent["note"]) == ["the method to compare with has no value"] * 2


def test_holm_is_applied_within_each_block() -> None:
    names = {"a": spread(0, 10, 0), "b": spread(0.5, 10, 1), "c": spread(1, 10, 2), "d": spread(5, 10, 3)}
    found = paired_tests(values({"one": names, "two": names}), LOW)
    one, two = (found[found["scenario"] == name].reset_index(drop=True) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one.drop(columns="scenario"), two.drop(columns="scenario"))
    assert list(one["p_holm"]) == pytest.approx(stepped(list(one["p"]), 6))


def test_equal_methods_show_a_difference_in_at_most_one_block_of_twenty() -> None:
    """Corrected for the k - 1 comparisons alone, the best of seven would beat its equals in every tenth block."""
    rng = np.random.default_rng(0)
    blocks = {f"s{i}": {f"m{j}": list(rng.normal(size=10)) for j in range(7)} for i in range(250)}
    found = paired_tests(values(blocks), LOW)
    assert (found.groupby("scenario")["p_holm"].min() < 0.05).mean() <= 0.05
    assert (6 * found.groupby("scenario")["p"].min() < 0.05).mean() >= 0.08


def test_no_values_no_lines() -> None:
    assert len(paired_tests(values({}), LOW)) == 0
    assert len(paired_tests(values({}), ORACLE)) == 0
    assert len(paired_tests(values({"random": {"a": [1.0]}}), LOW)) == 0


def test_two_values_of_one_run_are_an_error() -> None:
    frame = values({"random": {"a": [1.0, 2.0]}})
    with pytest.raises(ValueError, match="several values of a in one run of digits random"):
        ranks(pd.concat([frame, frame]), LOW)


# --- pareto ----------------------------------------------------------------------------------------------------------


def check_pareto(fn: Callable[[np.ndarray], Iterable[bool]]) -> None:
    points = np.array([[1, 9], [2, 4], [3, 4], [2, 5], [9, 1], [9, 1], [10, 1], [5, 5]], dtype=float)
    assert list(fn(points)) == [True, True, False, False, True, True, False, False]


def test_pareto_front() -> None:
    check_pareto(pareto)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: ~((x[:, None] < x).all(axis=2)).any(axis=0),  # beaten only where both are lower
        lambda x: ((x[:, None] <= x).all(axis=2)).sum(axis=0) == 1,  # equal points beat each other
        lambda x: pareto(-x),
        lambda x: pareto(x * [1, -1]),
        lambda x: (x == x.min(axis=0)).any(axis=1),
    ],
    ids=["weakly beaten", "twins", "high", "gap high", "least of one"],
)
def test_wrong_fronts(wrong: Callable[[np.ndarray], Iterable[bool]]) -> None:
    kills(check_pareto, wrong)


def test_empty_points_neither_stay_nor_beat() -> None:
    assert pareto(np.array([[0, NAN], [1, 1], [NAN, 0]])).tolist() == [False, True, False]
    assert pareto(np.empty((0, 2))).tolist() == []
    assert pareto(np.array([[math.inf, 0], [0, math.inf], [math.inf, 1]])).tolist() == [True, True, False]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_never_beaten_and_beats_all_others(points: list[tuple[int, int]]) -> None:
    found = pareto(np.array(points, dtype=float))

    def beats(p: tuple[int, int], q: tuple[int, int]) -> bool:
        return p != q and p[0] <= q[0] and p[1] <= q[1]

    front = [p for p, stays in zip(points, found, strict=True) if stays]
    assert not any(beats(p, q) for p in points for q in front)
    assert all(any(beats(p, q) for p in front) for q, stays in zip(points, found, strict=True) if not stays)
