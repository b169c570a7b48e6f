"""The figures of a report: each takes `Results` and returns a Figure, or None where it does not apply.

``camu_curves.json`` holds the relearning curves of CaMU's authors (Shen et al., SDM 2024), digitised from the figures
in their public code, not taken from a table: accuracy on the retain set minus accuracy on the forget set in points,
point k after 100k + 1 updates, one list per method and figure ("CIFAR10random", "CIFAR10class", "CIFAR100random",
"CIFAR100class"). The error is about ±0.02 points in the random and ±0.2 in the class scenarios. "Causal" is CaMU, "TS"
the incompetent teacher.
"""

from __future__ import annotations

import itertools
import json
from importlib import resources
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, ScalarFormatter, SymmetricalLogLocator

from unlearnbench.judge.inference import pareto
from unlearnbench.judge.results import Results
from unlearnbench.plan.spec import UnlearnBenchError

from .panels import comparison
from .style import Style, axis_label, canvas, doubt, headline, label, legend, panels_of, roles, styles

SD = "one standard deviation"
BANDS = 12  # methods from which on bands would hide each other


# --- relearning ------------------------------------------------------------------------------------------------------


def relearning(results: Results) -> Figure | None:
    """CaMU's relearning curves: accuracy on retain minus accuracy on forget while only the retain set is trained on."""
    panels = panels_of(results.curves)
    if not panels:
        return None
    columns, looks = min(len(panels), 2), styles(results)
    spread = f"band: {SD}" if len(looks) < BANDS else "without bands: they would hide each other"
    title = headline(results, "relearning on the retain set", spread)
    figure, axes = canvas(title, ceil(len(panels) / columns), columns, (4.2, 3.5))
    handles: dict[str, Any] = dict.fromkeys(map(label, looks))
    for ax, (name, curves) in zip(axes.flat, panels, strict=False):
        handles |= _curves(ax, curves, looks)
        ax.set(title=name, xlabel="Batches", ylabel="Accuracy difference (points)")
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    legend(figure, handles)
    return figure


def _curves(ax: Axes, curves: pd.DataFrame, looks: dict[str, Style]) -> dict[str, Any]:
    handles = {}
    for method, style in looks.items():
        curve = curves[curves["method"] == method]
        if len(curve):
            band = "sd" if len(looks) < BANDS and style.role != "control" else None  # theirs would hide the others
            sns.lineplot(
                curve, x="updates", y="difference", ax=ax, errorbar=band, color=style.color, linewidth=style.width,
                linestyle=style.dashes, zorder=style.order, err_kws={"alpha": 0.18, "linewidth": 0},
            )  # fmt: skip
            handles[label(method)] = ax.lines[-1]
    return handles


AUTHORS = {
    "Retrain": "#999999", "TS": "#984ea3", "Boundary": "#4daf4a", "Unrolling": "#ff7f00", "NegGrad": "#f781bf",
    "Causal": "#377eb8",
}  # fmt: skip
SAME = {"camu": "Causal", "gradient_ascent": "NegGrad"}  # ours that the authors drew too
OTHERS = ["#e41a1c", "#a65628", "#1b1b1b", "#66c2a5"]


def relearning_authors(results: Results) -> Figure | None:
    """The curves of CaMU's authors (left) beside ours (right), in their colours, where the suite names their figures.

    ``settings["authors_curves"]`` maps scenarios to names in ``camu_curves.json``; others raise UnlearnBenchError.
    """
    names = results.settings.get("authors_curves", {})
    panels = panels_of(results.curves[results.curves["scenario"].isin(list(names))])
    if not panels:
        return None
    published = json.loads((resources.files(__package__) / "camu_curves.json").read_text("utf-8"))
    title = headline(results, "relearning, the authors' curves (digitised) and ours", f"band: {SD}")
    figure, axes = canvas(title, len(panels), 2, (4.2, 3.7), sharex="row", sharey="row")
    looks = _authors_styles(results)
    handles: dict[str, Any] = dict.fromkeys([*(f"{method} (authors)" for method in AUTHORS), *map(label, looks)])
    for (left, right), (name, curves) in zip(axes, panels, strict=True):
        key = names[curves["scenario"].iloc[0]]
        if key not in published:
            raise UnlearnBenchError(f"authors_curves: no figure {key!r}; expected one of {', '.join(published)}")
        theirs = pd.DataFrame(published[key]).melt(var_name="method", value_name="difference", ignore_index=False)
        theirs["updates"] = 100 * theirs.index + 1
        drawn = _curves(left, theirs, {method: Style("", color, width=3.5) for method, color in AUTHORS.items()})
        handles |= {f"{method} (authors)": line for method, line in drawn.items()}
        handles |= _curves(right, curves, looks)
        left.set(title=f"authors: {key}", xlabel="Batches", ylabel="Accuracy difference (points)")
        right.set(title=f"ours: {name}", xlabel="Batches")
    legend(figure, handles)
    return figure


def _authors_styles(results: Results) -> dict[str, Style]:
    looks, others = {}, itertools.cycle(OTHERS)
    for method, role in roles(results).items():
        twin = "Retrain" if role == "oracle" else SAME.get(method)
        dashes = (0, (1, 1)) if role == "control" else "-"
        looks[method] = Style(role, AUTHORS[twin] if twin else next(others), dashes=dashes, width=3.5)
    return looks


# --- accuracy, cost, attacks -----------------------------------------------------------------------------------------


def _stats(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """mean, std, low, high of a metric by method, where there is a value."""
    return rows[(rows["metric"] == metric) & (rows["n"] > 0)].set_index("method")[["mean", "std", "low", "high"]]


def _joined(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """x, x_std, y, y_std by method, where both metrics have a value; no spread is 0."""
    both = pd.concat([_stats(rows, metric)[["mean", "std"]] for metric in (x, y)], axis="columns", join="inner")
    return both.fillna(0.0).set_axis(["x", "x_std", "y", "y_std"], axis="columns")


def _points(ax: Axes, points: pd.DataFrame, looks: dict[str, Style]) -> dict[str, Any]:
    """Draw them with their spread; of several at the same place the hidden ones are larger, so that each is seen."""
    handles = {}
    drawn = points.loc[sorted(points.index, key=lambda method: looks[method].order)]
    above = drawn[["x", "y"]].round(2).groupby(["x", "y"]).cumcount(ascending=False)
    for method, (x, x_std, y, y_std) in zip(drawn.index, drawn.to_numpy(), strict=True):
        style = looks[method]
        look: dict[str, Any] = {
            "color": style.color, "linestyle": "none", "marker": style.marker, "markeredgecolor": "white",
            "markeredgewidth": 0.6, "markersize": 13 if style.role == "oracle" else 7,
        }  # fmt: skip
        handles[label(method)] = Line2D([], [], **look)
        look["markersize"] += 4 * above[method]
        ax.errorbar(x, y, xerr=x_std, yerr=y_std, elinewidth=1.1, zorder=style.order, **look)
    return handles


def forget_retain(results: Results) -> Figure | None:
    """Forget against retain accuracy: all methods on the left, the oracle's neighbourhood enlarged on the right."""
    panels = [(name, _joined(rows, "ra", "fa")) for name, rows in panels_of(comparison(results))]
    panels = [(name, points) for name, points in panels if len(points)]
    if not panels:
        return None
    title = headline(results, "forget against retain accuracy", f"bars: {SD}")
    figure, axes = canvas(title, len(panels), 2, (3.7, 3.3))
    looks = styles(results)
    handles: dict[str, Any] = dict.fromkeys(map(label, looks))
    for (left, right), (name, points) in zip(axes, panels, strict=True):
        handles |= _points(left, points, looks)
        center = next((method for method in points.index if looks[method].role == "oracle"), points.index[0])
        _points(right, _enlarge(left, right, points, center), looks)
        for ax, part in ((left, "all methods"), (right, f"nearest {label(center)}")):
            ax.set(title=f"{name}, {part}", xlabel="Retain accuracy (%)", ylabel="Forget accuracy (%)")
    legend(figure, handles)
    return figure


def _enlarge(left: Axes, right: Axes, points: pd.DataFrame, center: str) -> pd.DataFrame:
    """Limit ``right`` to ``center`` and the means near it, frame it in ``left``, return the points inside.

    Near is twice as far as the second nearest, but at least 5 points.
    """
    distance = np.hypot(points["x"] - points["x"][center], points["y"] - points["y"][center])
    near = points[distance <= max(5.0, 2 * distance.nsmallest(3).max())][["x", "y"]]
    margin = (0.3 * (near.max() - near.min())).clip(lower=0.5)
    low, high = near.min() - margin, near.max() + margin
    for axis, limit in (("x", left.set_xlim), ("y", left.set_ylim)):  # all of the frame, nothing far from 0 to 100
        outer = left.dataLim.intervalx if axis == "x" else left.dataLim.intervaly
        ends = min(outer[0], low[axis]), max(outer[1], high[axis])
        room = max(0.3, 0.04 * (ends[1] - ends[0]))  # for half a marker
        limit(*np.clip([ends[0] - room, ends[1] + room], -4, 104))
    right.set(xlim=(low["x"], high["x"]), ylim=(low["y"], high["y"]))
    frame = Rectangle((low["x"], low["y"]), high["x"] - low["x"], high["y"] - low["y"], fill=False, edgecolor="0.4")
    left.add_patch(frame)
    return points[points["x"].between(low["x"], high["x"]) & points["y"].between(low["y"], high["y"])]


def cost_gap(results: Results) -> Figure | None:
    """Cost of each method against its average gap to the oracle, with the Pareto front of the methods.

    The cost is wall time or, where machines mix, gradient evaluations. Controls that cost nothing are level lines.
    """
    retrained = set(results.values.loc[results.values["stands_for"] == "retrained", "method"])
    panels = []
    for name, rows in panels_of(comparison(results)):
        cost = "seconds" if len(_stats(rows, "seconds")) else "gradients"
        gaps = _stats(rows, "avg_gap")["mean"]
        points = _joined(rows, cost, "avg_gap")
        points = points[points["x"] > 0]
        if len(points):
            panels.append((name + doubt(results, rows, "avg_gap"), cost, points, gaps))
    if not panels:
        return None
    title = headline(results, "cost against average gap, with the Pareto front of the methods", f"bars: {SD}")
    figure, axes = canvas(title, ceil(len(panels) / 2), min(len(panels), 2), (4.2, 3.6))
    looks = styles(results)
    handles: dict[str, Any] = dict.fromkeys(map(label, looks))
    for ax, (name, cost, points, gaps) in zip(axes.flat, panels, strict=False):
        free = [m for m in gaps.index if looks[m].role == "control" and m not in retrained]
        handles |= _points(ax, points[~points.index.isin(free)], looks)
        for control in free:
            line = ax.axhline(gaps[control], color=looks[control].color, linestyle=looks[control].dashes, zorder=1)
            handles[f"{label(control)} (no cost)"] = line
        ax.set_xscale("log")
        ax.set_yscale("symlog", linthresh=1.0, linscale=0.5, subs=[2, 3, 4, 5, 6, 7, 8, 9])
        ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1.0, subs=[1, 2, 5]))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.set_ylim(-0.5, 1.4 * max(1.0, ax.dataLim.y1))  # room for the names below
        _front(ax, points, looks)
        ax.set(title=name, xlabel=axis_label(results.metrics[cost]), ylabel=axis_label(results.metrics["avg_gap"]))
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    legend(figure, handles)
    return figure


def _front(ax: Axes, points: pd.DataFrame, looks: dict[str, Style]) -> None:
    """The methods that neither another nor the oracle beats in cost and gap, as a step line up to the oracle's cost;
    nothing lies below it but their names."""
    rivals = points[[looks[method].role != "control" for method in points.index]]
    front = rivals[pareto(rivals[["x", "y"]].to_numpy())].sort_values("x")
    front = front[[looks[method].role == "method" for method in front.index]]
    if front.empty:
        return
    left, right = ax.get_xlim()
    share = min(0.6, 0.04 + 0.021 * len(label(front.index[0])))  # of the width, for the first name
    ax.set_xlim(left * (left / right) ** (share / (1 - share)), right)
    end = min([right, *points["x"][[looks[method].role == "oracle" for method in points.index]]])
    xs, ys = [*front["x"], end], [*front["y"], front["y"].iloc[-1]]
    ax.step(xs, ys, where="post", color="0.35", linewidth=1.0, zorder=1)
    places = (ax.transScale + ax.transLimits).transform(front[["x", "y"]].to_numpy())
    apart = min(0.06, max(0.03, (places[0][1] - 0.05) / len(front)))  # so that the last name is still above the axis
    height = 1.0
    for member, (x, y) in zip(front.index, places, strict=True):
        height = min(y - 0.02, height - apart)  # names close to each other are stacked
        name = label(member)
        ax.text(
            x - 0.02,
            height,
            name,
            ha="right",
            va="top",
            color=looks[member].color,
            fontsize=8.5,
            transform=ax.transAxes,
        )


def attack_oracle(results: Results) -> Figure | None:
    """Each attack's value per method against the oracle's, with 95% intervals; of the headline's attacks, if any."""
    attacks = [metric for metric in results.metrics.values() if metric.family == "leakage"]
    attacks = [attack for attack in attacks if attack.name in results.headline] or attacks
    panels = panels_of(comparison(results))
    kept = [attack for attack in attacks if any(len(_stats(rows, attack.name)) for _, rows in panels)]
    lines = [
        [
            (attack, name + doubt(results, rows, attack.name), stats)
            for attack in part
            if len(stats := _stats(rows, attack.name))
        ]
        for name, rows in panels
        for part in (kept[start : start + 4] for start in range(0, len(kept), 4))
    ]
    lines = [line for line in lines if line]
    if not lines:
        return None
    looks = styles(results)
    methods = list(looks)
    title = headline(results, "attacks, against the oracle", "bars and band: 95% interval")
    figure, axes = canvas(title, len(lines), min(4, len(kept)), (3.9, 0.8 + 0.27 * len(methods)), sharey=True)
    for row, line in zip(axes, lines, strict=True):
        for ax in row[len(line) :]:
            ax.set_axis_off()
        for ax, (attack, name, stat) in zip(row, line, strict=False):
            for method in stat.index:
                _dot(ax, methods.index(method), stat.loc[method], looks[method])
            for method in set(methods) - set(stat.index):
                y = methods.index(method)
                ax.text(0.02, y, "no value", color="0.5", va="center", fontsize=8.5, transform=ax.get_yaxis_transform())
            ax.set(title=name, xlabel=axis_label(attack))
            ax.xaxis.set_major_locator(MaxNLocator(5))
            ax.set_yticks(range(len(methods)), [label(method) for method in methods])
            ax.set_ylim(len(methods) - 0.5, -0.5)
    return figure


def _dot(ax: Axes, y: int, stat: pd.Series, style: Style) -> None:
    low, high = stat["low"], stat["high"]
    if style.role == "oracle":
        ax.axvline(stat["mean"], color="black", linestyle=style.dashes, linewidth=1.2, zorder=1)
        ax.axvspan(*np.nan_to_num([low, high], nan=stat["mean"]), color="0.85", linewidth=0, zorder=0)
    ax.plot([low, high], [y, y], color=style.color, linewidth=1.6, zorder=style.order)
    size = 12 if style.role == "oracle" else 7
    ax.plot(stat["mean"], y, color=style.color, marker=style.marker, markersize=size, zorder=style.order)
