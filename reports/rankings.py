"""The critical-difference diagram: how far the order of the methods can be trusted."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import ceil

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from unlearnbench.judge.inference import ALPHA
from unlearnbench.judge.ranking import Friedman, Ranks, friedman, nemenyi_cd, rank_stability, ranks
from unlearnbench.judge.results import Results
from unlearnbench.plan.spec import Empty, Metric

from .statistics import ranking_values
from .style import Style, canvas, headline, label, styles

ROW = 0.23  # inches between two names of one side
BAR = 0.4  # rows between two bars
ABOVE = 4.6  # rows above the axis: its numbers and label, the ruler and what is written on it
FAINT = "0.8"


def critical_difference(results: Results, metric: str = "avg_gap") -> Figure | None:
    """The critical-difference diagram of Demšar (JMLR 2006; the article was not read) over the blocks of the suite.

    Methods stand at their mean ranks, 1 is best. A bar joins neighbours whose mean ranks differ by less than Nemenyi's
    critical difference, whose width is drawn to scale and printed; one bar joins all where Friedman's test cannot
    reject that all methods rank alike, because no pair may be told apart then. The coloured line of a method is the 95%
    interval of its mean rank over resampled seeds. None where fewer than 2 methods have a value in every block.
    """
    if metric not in results.metrics:
        return None
    record = results.metrics[metric]
    values = ranking_values(results, record)
    ranked = ranks(values, record)
    blocks, k = ranked.table.shape
    if k < 2:
        return None
    cd, test = nemenyi_cd(k, blocks), friedman(ranked.table)
    stability = rank_stability(values, record)
    means = stability["mean"].to_numpy()
    rejected = isinstance(test, Empty) or test.p < ALPHA
    bars = _bars(means, cd) if rejected else [(0, k - 1)]
    first = 1.3 + BAR * len(bars)  # the row of the first name, below axis and bars
    last = first + ceil(k / 2)
    silent = [name for name in results.values["scenario"].unique() if name not in set(values["scenario"])]
    caption = _caption(_verdict(test), ranked, silent)
    size = (7.6, ROW * (ABOVE + last + 0.5) + 0.17 * len(caption))
    figure, axes = canvas(_title(results, record, stability), 1, 1, size)
    ax = axes[0, 0]
    _axis(ax, k, last)
    _ruler(ax, cd, k, blocks)
    for i, (left, right) in enumerate(bars):
        y = 0.8 + BAR * i
        ax.plot(means[[left, right]] + [-0.006 * k, 0.006 * k], [y, y], color="0.25", linewidth=3.2, gid="bar")
    _names(ax, stability, styles(results), first)
    figure.supxlabel("\n".join(caption), fontsize=9, color="0.25")
    return figure


def _verdict(test: Friedman | Empty) -> str:
    if isinstance(test, Empty):
        return f"No Friedman test ({test.detail})"
    p = "p < .001" if test.p < 0.001 else f"p = {test.p:.3f}".replace("0.", ".")
    return f"Friedman {p}" + (": no difference shown" if test.p >= ALPHA else ": not all rank alike")


def _bars(means: Sequence[float] | np.ndarray, cd: float) -> list[tuple[int, int]]:
    """First and last of each longest run of at least 2 ascending ``means`` that lie less than ``cd`` apart."""
    ends = [int(np.searchsorted(means, mean + cd, side="left")) - 1 for mean in means]
    longest = [(i, end) for i, end in enumerate(ends) if i == 0 or end > ends[i - 1]]
    return [(start, end) for start, end in longest if end > start]


def _title(results: Results, metric: Metric, stability: pd.DataFrame) -> str:
    name = "distance to the oracle, " * (metric.better == "oracle") + label(metric.label)
    thin = "coloured lines: 95% of resamplings of the seeds"
    return headline(results, f"mean ranks by {name}", thin if stability["low"].notna().all() else "no intervals")


def _axis(ax: Axes, k: int, last: float) -> None:
    """The ranks 1 to k along the top, room for the ruler above and for names until row ``last`` below."""
    ax.set(xlim=(1, k), ylim=(last, -ABOVE), yticks=[])
    ax.grid(visible=False)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "top")
    ax.spines["top"].set_position(("data", 0))
    ax.xaxis.set_ticks_position("top")
    ax.xaxis.set_label_position("top")
    inner = range(2, k) if k <= 15 else range(5, k - 2, 5 * ceil(k / 50))  # none on top of the last
    ax.xaxis.set_major_locator(FixedLocator([1, *inner, k]))
    ax.set_xlabel("Mean rank (1 is best)", fontsize=9)


def _ruler(ax: Axes, cd: float, k: int, blocks: int) -> None:
    """The critical difference from rank 1 on, above the axis; cut off at the axis' end where it is wider."""
    y, wider = -2.9, cd > k - 1
    text = f"CD = {cd:.2f} ranks, {blocks} block{'s' * (blocks > 1)}, {k} methods"
    ax.plot([1, min(1 + cd, k)], [y, y], color="black", linewidth=1.4, gid="ruler")
    ax.plot([1], [y], color="black", marker="|", markersize=9, clip_on=False)
    ax.plot([min(1 + cd, k)], [y], color="black", marker=">" if wider else "|", markersize=9, clip_on=False)
    note = "\nwider than the axis: no two can be told apart" * wider
    ax.text(1, y - 0.35, text + note, ha="left", va="bottom", fontsize=9)


def _names(ax: Axes, stability: pd.DataFrame, looks: dict[str, Style], first: float) -> None:
    """The better half left from the top down, the other half right from the bottom up, half a row lower."""
    k = len(stability)
    for i, (method, mean, low, high) in enumerate(stability[["mean", "low", "high"]].itertuples(name=None)):
        left = i < ceil(k / 2)
        y = first + (i if left else k - 1 - i + 0.5)
        look, edge = looks[method], 1 if left else k
        ax.plot([edge, mean, mean], [y, y, 0], color=FAINT, linewidth=0.9, zorder=1)
        ax.plot([low, high], [y, y], color=look.color, linewidth=1.3, zorder=2, gid="interval")
        ax.plot([mean], [y], color=look.color, marker="o", markersize=4.5, zorder=3, clip_on=False)
        ax.annotate(
            f"{label(method)}  {mean:.1f}" if left else f"{mean:.1f}  {label(method)}", (edge, y),
            (-5 if left else 5, 0), textcoords="offset points", ha="right" if left else "left", va="center", fontsize=9,
        )  # fmt: skip


def _caption(verdict: str, ranked: Ranks, silent: Sequence[str]) -> list[str]:
    sentences = [f"{verdict}. Bars join methods that cannot be told apart (Nemenyi, {ALPHA:.0%})."]
    if silent:
        sentences.append(f"Without {', '.join(map(label, silent))}: the controls speak against the metric there.")
    if ranked.left_out:
        names = [label(name) for name in ranked.left_out]
        more = f" and {len(names) - 8} more" * (len(names) > 8)
        sentences.append(f"Not ranked, a value is missing: {', '.join(names[:8])}{more}")
    return [line for sentence in sentences for line in textwrap.wrap(sentence, 105)]
