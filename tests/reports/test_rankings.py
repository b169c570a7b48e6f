"""The critical-difference diagram: bars, ruler and intervals at the right ranks, all that it says, nothing cut off."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from unlearnbench_reports import rankings
from unlearnbench_reports.rankings import critical_difference

from unlearnbench.judge.ranking import rank_stability
from unlearnbench.judge.results import CURVE_COLUMNS, VALUE_COLUMNS, Results
from unlearnbench.plan.spec import Metric

AVG_GAP = Metric(
    "avg_gap", "Avg. gap", "points", "oracle-distance", "low", lambda e, c: 0.0, "", needs={"oracle": 1}
)  # fmt: skip
FA = Metric("fa", "FA", "%", "utility", "oracle", lambda e, c: 0.0, "")
SECONDS = Metric("seconds", "Time", "s", "cost", "low", lambda e, c: 0.0, "", per_machine=True)


def made(blocks: int, seeds: int, scores: Callable[[int, int], dict[str, float]], **changes: Any) -> Results:
    """Results whose avg_gap in a block and seed is ``scores(block, seed)``, by method."""
    rows = [
        {"suite": "s", "dataset": "digits", "model": "cnn", "scenario": f"class-{block}", "method": method}
        | {"role": "oracle" if method == "retrain" else "method", "split_seed": seed, "seed": seed, "quick": False}
        | {"device": "cpu", "status": "ok", "metric": "avg_gap", "value": value, "note": "", "key": ""} | changes
        for block in range(blocks) for seed in range(seeds) for method, value in scores(block, seed).items()
    ]  # fmt: skip
    metrics = {metric.name: metric for metric in (AVG_GAP, FA, SECONDS)}
    return Results(
        "s", "Digits", pd.DataFrame(rows, columns=VALUE_COLUMNS), pd.DataFrame(columns=CURVE_COLUMNS), metrics
    )


def noisy(methods: int, step: float, name: str = "method_{}") -> Callable[[int, int], dict[str, float]]:
    """Normal scores around 0, ``step``, 2 ``step`` ..., the same at every call."""

    def scores(block: int, seed: int) -> dict[str, float]:
        rng = np.random.default_rng([block, seed])
        return {name.format(i): i * step + x for i, x in enumerate(rng.normal(size=methods))}

    return scores


def in_order(names: str) -> Callable[[int, int], dict[str, float]]:
    """The methods always in this order."""
    return lambda block, seed: {name: float(i) for i, name in enumerate(names)}


def drawn(results: Results, metric: str = "avg_gap") -> Figure:
    figure = critical_difference(results, metric)
    assert figure is not None
    return figure


def axes(figure: Figure) -> Axes:
    (ax,) = figure.axes
    return ax


def lines(figure: Figure, gid: str) -> list[tuple[float, float]]:
    """First and last x of the lines of a kind."""
    found = [line for line in axes(figure).lines if line.get_gid() == gid]
    return [(float(x[0]), float(x[-1])) for x in (np.asarray(line.get_xdata()) for line in found)]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in axes(figure).texts]


def caption(figure: Figure) -> str:
    return figure.get_supxlabel()


# --- bars ------------------------------------------------------------------------------------------------------------


def check_bars(fn: Callable[[Sequence[float], float], list[tuple[int, int]]]) -> None:
    assert fn([1, 2, 3.5, 6], 2) == [(0, 1), (1, 2)]
    assert fn([1, 2, 3, 4], 2.5) == [(0, 2), (1, 3)]  # not also (2, 3), which lies within
    assert fn([1, 3, 5], 2) == []  # the critical difference itself tells apart
    assert fn([1, 2, 3], 9) == [(0, 2)]
    assert fn([2, 2, 2], 1) == [(0, 2)]
    assert fn([1, 1.5, 4, 4.5], 1) == [(0, 1), (2, 3)]


def joined(
    means: Sequence[float], cd: float, *, longest: bool = True, closed: bool = False, chained: bool = False
) -> Any:
    k = len(means)

    def near(i: int, j: int) -> bool:
        if chained:
            return all(near_pair(a, b) for a, b in itertools.pairwise(range(i, j + 1)))
        return near_pair(i, j)

    def near_pair(i: int, j: int) -> bool:
        return means[j] - means[i] < cd or (closed and means[j] - means[i] == cd)

    runs = [(i, j) for i, j in itertools.combinations(range(k), 2) if near(i, j)]
    inside = [(i, j) for i, j in runs if any(a <= i and j <= b and (a, b) != (i, j) for a, b in runs)]
    return [run for run in runs if run not in inside or not longest]


def test_bars_join_the_longest_runs_within_the_critical_difference() -> None:
    check_bars(rankings._bars)
    check_bars(joined)


@pytest.mark.parametrize("wrong", [{"longest": False}, {"closed": True}, {"chained": True}])
def test_wrong_bars(wrong: dict[str, bool]) -> None:
    with pytest.raises(AssertionError):
        check_bars(lambda means, cd: joined(means, cd, **wrong))


def test_bars_and_ruler_are_drawn_to_scale() -> None:
    """Five methods in the same order in all of 20 blocks: CD = 2.728 · √(30 / 120) = 1.364 joins neighbours alone."""
    figure = drawn(made(20, 2, in_order("abcde")))
    (ruler,) = lines(figure, "ruler")
    assert ruler == pytest.approx((1, 2.364), abs=0.001)
    assert "CD = 1.36 ranks, 20 blocks, 5 methods" in texts(figure)
    expected = [(i, i + 1) for i in (1, 2, 3, 4)]
    for bar, ends in zip(lines(figure, "bar"), expected, strict=True):
        assert bar == pytest.approx(ends, abs=0.05)  # a bar is a little longer than from mark to mark
    assert axes(figure).get_xlim() == (1, 5)
    assert caption(figure).startswith("Friedman p < .001: not all rank alike.")


def test_a_ruler_wider_than_the_axis_is_cut_off_and_says_so() -> None:
    figure = drawn(made(2, 2, in_order("abcde")))
    assert lines(figure, "ruler") == [(1, 5)]
    assert "CD = 4.31 ranks, 2 blocks, 5 methods\nwider than the axis: no two can be told apart" in texts(figure)
    (bar,) = lines(figure, "bar")
    assert bar == pytest.approx((1, 5), abs=0.05)
    # the statistic is 2 · 4 with 4 degrees of freedom: 5 e^-4
    assert caption(figure).startswith("Friedman p = .092: no difference shown.")


def test_one_bar_joins_all_where_friedman_cannot_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    results = made(20, 2, noisy(5, 0.0))
    monkeypatch.setattr(rankings, "nemenyi_cd", lambda k, blocks: 0.01)
    figure = drawn(results)
    assert "no difference shown" in caption(figure)
    ((left, right),) = lines(figure, "bar")
    means = rank_stability(results.values, AVG_GAP)["mean"]
    assert (left, right) == pytest.approx((means.min(), means.max()), abs=0.05)


def test_two_methods_have_no_friedman_test() -> None:
    figure = drawn(made(6, 1, in_order("ab")))
    assert caption(figure).startswith("No Friedman test (2 methods in 6 blocks, 3 in 2 needed).")
    assert lines(figure, "bar") == []  # CD = 1.96 / √6 = .80


# --- methods ---------------------------------------------------------------------------------------------------------


def marks(figure: Figure) -> list[float]:
    """Mean ranks of the methods' markers, ascending."""
    found = [line for line in axes(figure).lines if line.get_marker() == "o"]
    return sorted(float(np.asarray(line.get_xdata())[0]) for line in found)


@pytest.mark.parametrize("methods", [2, 5, 12, 38])
def test_every_method_stands_at_its_mean_rank_with_its_interval(methods: int) -> None:
    results = made(3, 4, noisy(methods, 0.5))
    figure = drawn(results)
    expected = rank_stability(results.values, AVG_GAP)
    assert marks(figure) == pytest.approx(list(expected["mean"]))
    assert sorted(lines(figure, "interval")) == sorted(zip(expected["low"], expected["high"], strict=True))
    better = [f"{method}  {mean:.1f}" for method, mean in expected["mean"].iloc[: (methods + 1) // 2].items()]
    worse = [f"{mean:.1f}  {method}" for method, mean in expected["mean"].iloc[(methods + 1) // 2 :].items()]
    left = [text.get_text() for text in axes(figure).texts if text.get_horizontalalignment() == "right"]
    assert left == better
    assert texts(figure)[1 + len(left) :] == worse


def test_a_single_seed_has_no_intervals() -> None:
    figure = drawn(made(4, 1, in_order("abc")))
    assert np.isnan(lines(figure, "interval")).all()
    assert figure.get_suptitle().endswith("single seed: no intervals")
    assert drawn(made(4, 3, in_order("abc"))).get_suptitle().endswith("coloured lines: 95% of resamplings of the seeds")


def test_the_oracle_does_not_compete() -> None:
    def scores(block: int, seed: int) -> dict[str, float]:
        return {"retrain": 0.0, "a": 1.0 + seed, "b": -3.0 - seed}

    figure = drawn(made(2, 3, scores, metric="fa"), "fa")
    assert "mean ranks by distance to the oracle, FA" in figure.get_suptitle()
    assert marks(figure) == [1, 2]
    assert texts(figure)[1:] == ["a  1.0", "2.0  b"]


def test_methods_without_a_value_somewhere_are_named_below() -> None:
    results = made(2, 2, in_order("abcd"))
    torn = results.values["method"].eq("b") & results.values["scenario"].eq("class-1") & results.values["seed"].eq(0)
    figure = drawn(replace(results, values=results.values.assign(value=results.values["value"].mask(torn))))
    assert caption(figure).endswith("Not ranked, a value is missing: b")
    assert "3 methods" in texts(figure)[0]
    some = results.values["method"].isin(["a", "d"])
    many = made(2, 2, noisy(30, 1.0))
    joint = pd.concat([results.values[some], many.values.assign(value=np.nan)])
    assert caption(drawn(replace(results, values=joint))).endswith("and 22 more")


def test_a_scenario_in_which_the_metric_says_nothing_is_named_below(monkeypatch: pytest.MonkeyPatch) -> None:
    results = made(2, 2, in_order("abcd"))
    kept = results.values[results.values["scenario"] != "class-1"]
    monkeypatch.setattr("unlearnbench_reports.rankings.ranking_values", lambda *_: kept)
    assert caption(drawn(results)).endswith("Without class-1: the controls speak against the metric there.")


def test_without_two_methods_or_the_metric_there_is_no_diagram() -> None:
    assert critical_difference(made(2, 2, in_order("a"))) is None
    assert critical_difference(made(0, 0, in_order("ab"))) is None
    assert critical_difference(made(2, 2, lambda block, seed: {"a": 1.0, "b": np.nan})) is None
    assert critical_difference(made(2, 2, in_order("abc"), metric="fa"), "fa") is None  # without an oracle
    assert critical_difference(made(2, 2, in_order("abc")), "other") is None
    assert critical_difference(replace(made(2, 2, in_order("abc")), metrics={})) is None


def test_times_of_different_machines_are_not_ranked() -> None:
    results = made(2, 2, in_order("abc"), metric="seconds")
    assert critical_difference(results, "seconds") is not None
    mixed = results.values.assign(device=results.values["method"])
    assert critical_difference(replace(results, values=mixed), "seconds") is None


def test_the_same_results_give_the_same_diagram() -> None:
    results = made(2, 5, noisy(6, 0.3))
    shuffled = replace(results, values=results.values.sample(frac=1, random_state=0))
    assert lines(drawn(results), "interval") == lines(drawn(results), "interval")
    assert marks(drawn(results)) == marks(drawn(shuffled))


# --- nothing cut off -------------------------------------------------------------------------------------------------


def extents(figure: Figure) -> list[tuple[Text, Any]]:
    figure.draw_without_rendering()
    ax = axes(figure)
    found = [*figure.texts, ax.xaxis.label, *ax.texts, *ax.get_xticklabels()]
    return [(text, text.get_window_extent()) for text in found if text.get_text()]


LONG = "a_rather_long_name_of_a_method_that_goes_on_{}"


@pytest.mark.parametrize(
    ("methods", "blocks", "name"),
    [(2, 20, LONG), (2, 1, "m{}"), (5, 1, LONG), (5, 2, "m{}"), (12, 3, LONG), (38, 2, LONG), (38, 12, "m{}")],
)
def test_every_text_lies_inside_the_figure_and_none_on_another(methods: int, blocks: int, name: str) -> None:
    results = made(blocks, 2, noisy(methods, 0.5, name))
    broken = made(blocks, 2, noisy(30, 0.5, "broken" + LONG))
    values = pd.concat([results.values, broken.values.assign(value=np.nan)])
    figure = drawn(replace(results, values=values))
    found = extents(figure)
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in found:
        assert min(box.x0, box.y0) >= -1, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text
    for (one, a), (two, b) in itertools.combinations(found, 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1.5 or b.y1 <= a.y0 + 1.5
        assert apart, (one, two)


def test_other_peoples_names_are_only_text() -> None:
    names = [r"$\frac{1}{0", "_hidden", "line\nbreak", "\x00\x1b[31m", "ünïcödé"]
    figure = drawn(made(2, 2, lambda block, seed: {name: float(i) for i, name in enumerate(names)}))
    figure.draw_without_rendering()
    assert len(texts(figure)) == 1 + len(names)
    assert "line break  3.0" in texts(figure)


def test_the_diagram_has_room_between_axis_bars_and_names() -> None:
    """Top to bottom: ruler, axis, bars, names."""
    figure = drawn(made(10, 3, noisy(12, 0.6)))
    figure.draw_without_rendering()
    bars = [line for line in axes(figure).lines if line.get_gid() == "bar"]
    (ruler,) = (line for line in axes(figure).lines if line.get_gid() == "ruler")
    assert len(bars) > 1

    def height(line: Line2D) -> float:
        return float(np.asarray(line.get_ydata())[0])

    names = [text.xy[1] for text in axes(figure).texts if hasattr(text, "xy")]
    assert height(ruler) < 0 < min(map(height, bars))
    assert max(map(height, bars)) < min(names)
    assert len(set(names)) == 12  # left and right, too: their lines overlap in the middle
    pixels = sorted(bar.get_window_extent().y0 for bar in bars)
    thickness = bars[0].get_linewidth() * figure.dpi / 72
    assert min(b - a for a, b in itertools.pairwise(pixels)) > 1.5 * thickness
