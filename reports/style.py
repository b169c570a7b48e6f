"""How all figures look: one colour and marker per method, canvases with room for a legend, titles that say the seeds.

Figures are built without pyplot, so nothing global changes: no backend, no open figures, no settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.figure import Figure

from unlearnbench.judge.results import Results
from unlearnbench.judge.stats import SINGLE, runs_in_words
from unlearnbench.judge.validation import overall
from unlearnbench.plan.spec import Metric

from .printed import clean

# seaborn's "colorblind" palette by contrast, without its grey (the oracle and the controls are grey) and without its
# pale pink and yellow (too weak for a line on white).
COLORS = ["#0173b2", "#d55e00", "#029e73", "#cc78bc", "#de8f05", "#56b4e9", "#ca9161"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p"]
DASHES: list[Any] = ["-", (0, (6, 2)), (0, (1, 1.5))]
CONTROLS: list[tuple[str, str, Any]] = [  # grey, marker, dashes
    ("0.55", "d", (0, (1, 1.2))), ("0.40", "H", (0, (5, 1.5, 1, 1.5))),
    ("0.62", "<", (0, (3, 1.5))), ("0.48", ">", (0, (8, 3))),
]  # fmt: skip


@dataclass(frozen=True)
class Style:
    role: str
    color: str
    marker: str = ""
    dashes: Any = "-"
    width: float = 1.8
    order: int = 3


def roles(results: Results) -> dict[str, str]:
    """Method to role, in the order of the tables."""
    found = dict(zip(results.values["method"], results.values["role"], strict=True))
    return dict(sorted(found.items(), key=lambda item: ["oracle", "method", "control"].index(item[1])))


def styles(results: Results) -> dict[str, Style]:
    """The look of each method, the same in every figure: oracle black, controls grey."""
    looks: dict[str, Style] = {}
    for name, role in roles(results).items():
        i = sum(look.role == role for look in looks.values())
        if role == "oracle":
            looks[name] = Style(role, "black", "*", (0, (4, 1.5)), 2.0, 5)
        elif role == "control":
            color, marker, dashes = CONTROLS[i % len(CONTROLS)]
            looks[name] = Style(role, color, marker, dashes, 1.8, 2)
        else:
            dashes = DASHES[i // len(COLORS) % len(DASHES)]
            looks[name] = Style(role, COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], dashes)
    return looks


def canvas(title: str, rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its ``[rows, columns]`` axes, each ``size`` inches; ``options`` go to ``Figure.subplots``."""
    house: dict[Any, Any] = {"axes.grid": True, "grid.color": "0.92", "axes.titlesize": 10.5}
    with rc_context(sns.axes_style("ticks") | sns.plotting_context("paper", font_scale=1.15) | house):
        figure = Figure(figsize=(columns * size[0] + 1.7, rows * size[1] + 0.8), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
        figure.suptitle(title, fontsize=11)
    for ax in axes.flat:
        sns.despine(ax=ax)
    return figure, axes


def legend(figure: Figure, handles: dict[str, Any]) -> None:
    """The legend outside, right of the panels and below the title, of the handles that are not None."""
    handles = {name: handle for name, handle in handles.items() if handle is not None}
    columns = ceil(len(handles) / int((figure.get_figheight() - 1.2) / 0.2))
    figure.set_figwidth(figure.get_figwidth() + 1.7 * (columns - 1))
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, ncols=columns)


def headline(results: Results, subject: str, spread: str) -> str:
    """Three lines: of which suite, what is shown, and what mean and spread are."""
    quick = " (quick)" * bool(results.values["quick"].any())
    runs = runs_in_words(results.values)
    measured = runs if runs == SINGLE else f"mean of {runs}, {spread}"
    return f"{label(results.title, 60)}{quick}\n{subject}\n{measured}"


def panels_of(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The frame by dataset and scenario, each with the title of its panel."""
    several = frame["dataset"].nunique() > 1
    groups = frame.groupby(["dataset", "scenario"], sort=False)
    return [(label(f"{d}, {s}" if several else s), rows) for (d, s), rows in groups]


def doubt(results: Results, rows: pd.DataFrame, metric: str) -> str:
    """What the controls have against a metric in the dataset and scenario of ``rows``, for a title; mostly nothing."""
    verdicts = overall(results.controls).set_index(["dataset", "scenario", "metric"])["verdict"]
    verdict = verdicts.get((rows["dataset"].iloc[0], rows["scenario"].iloc[0], metric), "pass")
    return {"fail": " (unreliable here)", "uninformative": " (uninformative here)"}.get(verdict, "")


def label(text: object, limit: int = 30) -> str:
    """A name as matplotlib text: no formula between dollars, and not hidden from legends by a leading underscore."""
    name = clean(text, limit).replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def axis_label(metric: Metric) -> str:
    return label(metric.label) + (f" ({label(metric.unit)})" if metric.unit else "")
