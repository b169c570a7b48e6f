"""Figures: drawn where they apply, in consistent colours, nothing cut off; written whole, whatever one raises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from unlearnbench_reports import figures, is_current, render
from unlearnbench_reports.style import styles

from unlearnbench.judge.floor import COLUMNS
from unlearnbench.judge.results import Results
from unlearnbench.plan.spec import UnlearnBenchError

DRAW = [figures.relearning, figures.forget_retain, figures.cost_gap, figures.attack_oracle]
METHODS = [
    "retrain", "camu", "finetune", "gradient_ascent", "neggrad_plus", "random_label",
    "identity", "retrain_other_seed", "random_init",
]  # fmt: skip
TABLES = [
    "comparison.csv", "comparison.md", "comparison.tex", "comparison.txt",
    "controls.md", "methods.md", "methods.csv",
    "controls.csv", "gaps.csv", "ranks.csv", "tests.csv", "variance.csv",
]  # fmt: skip


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def drawn(results: Results, draw: Callable[[Results], Figure | None]) -> Figure:
    figure = draw(results)
    assert figure is not None
    return figure


def shown(figure: Figure) -> list[Axes]:
    return [ax for ax in figure.axes if ax.axison]


@pytest.mark.parametrize("draw", DRAW)
def test_every_text_lies_inside_the_figure(results: Results, draw: Callable[[Results], Figure | None]) -> None:
    figure = drawn(results, draw)
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    axes_texts = [text for ax in shown(figure) for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)]
    legend_texts = [text for legend in figure.legends for text in legend.get_texts()]
    for text in filter(Text.get_text, [*figure.texts, *axes_texts, *legend_texts]):
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width + 1, text
        assert box.y1 <= height + 1, text


@pytest.mark.parametrize("draw", [figures.relearning, figures.forget_retain])
def test_the_legend_names_every_method_outside_the_panels(
    results: Results, draw: Callable[[Results], Figure | None]
) -> None:
    figure = drawn(results, draw)
    assert legend_of(figure) == METHODS
    figure.draw_without_rendering()
    left = figure.legends[0].get_window_extent().x0
    assert all(ax.get_window_extent().x1 <= left for ax in shown(figure))


def test_relearning_draws_the_mean_of_the_seeds(results: Results) -> None:
    figure = drawn(results, figures.relearning)
    assert [ax.get_title() for ax in figure.axes] == ["random-10", "class-0"]
    assert figure.axes[0].get_xlabel() == "Batches"
    assert "band: one standard deviation" in figure.get_suptitle()
    camu = results.curves.query("method == 'camu' and scenario == 'random-10' and updates == 25")["difference"]
    line = figure.axes[0].lines[1]
    assert line.get_color() == styles(results)["camu"].color
    assert list(line.get_xdata())[1] == 25  # type: ignore[arg-type]
    assert list(line.get_ydata())[1] == pytest.approx(sum(camu) / 5)  # type: ignore[arg-type]


def test_without_curves_there_is_no_relearning_figure(results: Results) -> None:
    none = replace(results, curves=results.curves.iloc[:0], settings={"authors_curves": {"class-0": "CIFAR10class"}})
    assert figures.relearning(none) is None
    assert figures.relearning_authors(none) is None


def test_the_authors_curves_stand_beside_ours_on_the_same_axes(results: Results) -> None:
    assert figures.relearning_authors(results) is None
    figure = drawn(
        replace(results, settings={"authors_curves": {"class-0": "CIFAR10class"}}), figures.relearning_authors
    )
    theirs, ours = figure.axes
    assert theirs.get_ylim() == ours.get_ylim()
    assert theirs.get_xlim() == ours.get_xlim()
    causal = theirs.lines[5]
    assert list(causal.get_xdata())[:3] == [1, 101, 201]  # type: ignore[arg-type]
    assert list(causal.get_ydata())[:2] == [86.9, 83.611]  # type: ignore[arg-type]
    assert causal.get_color() == ours.lines[1].get_color() == "#377eb8"
    assert len(legend_of(figure)) == 6 + len(METHODS)


def test_an_unknown_figure_of_the_authors_is_an_error(results: Results) -> None:
    with pytest.raises(UnlearnBenchError, match="no figure 'MNIST'; expected one of CIFAR10random"):
        figures.relearning_authors(replace(results, settings={"authors_curves": {"class-0": "MNIST"}}))


def test_the_oracle_lies_in_the_enlarged_panel(results: Results) -> None:
    figure = drawn(results, figures.forget_retain)
    for right in figure.axes[1::2]:
        oracle = right.containers[0]
        (x,), (y,) = oracle[0].get_data()
        assert right.get_xlim()[0] < x < right.get_xlim()[1]
        assert right.get_ylim()[0] < y < right.get_ylim()[1]


def front_names(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize(
    ("seconds", "front"),
    [(9.0, ["neggrad_plus", "camu", "random_label"]), (30.0, ["neggrad_plus", "camu"])],  # slower than the oracle
)
def test_the_front_names_the_methods_that_none_beats(results: Results, seconds: float, front: list[str]) -> None:
    costs = {"camu": (2.0, 1.0), "finetune": (3.0, 1.0), "gradient_ascent": (1.0, 9.0), "neggrad_plus": (1.0, 4.0)}
    costs |= {"random_label": (seconds, 0.5), "retrain": (20.0, 0.0), "identity": (1e-5, 0.2)}
    values = results.values.copy()
    for method, pair in costs.items():
        for metric, value in zip(("seconds", "avg_gap"), pair, strict=True):
            values.loc[(values["method"] == method) & (values["metric"] == metric), "value"] = value
    assert front_names(drawn(replace(results, values=values), figures.cost_gap)) == front


def test_where_machines_mix_the_cost_is_gradient_evaluations(results: Results) -> None:
    plain = drawn(results, figures.cost_gap)
    mixed = results.values.assign(device=["cpu", "cuda"] * (len(results.values) // 2))
    figure = drawn(replace(results, values=mixed), figures.cost_gap)
    assert [ax.get_xlabel() for ax in plain.axes] == ["Time (s)"] * 2
    assert [ax.get_xlabel() for ax in figure.axes] == ["Gradients (samples)"] * 2


def test_a_control_that_costs_is_a_point_and_the_others_are_lines(results: Results) -> None:
    figure = drawn(results, figures.cost_gap)
    assert legend_of(figure) == [*METHODS[:6], "retrain_other_seed", "identity (no cost)", "random_init (no cost)"]
    across = [line for line in figure.axes[0].lines if np.array_equal(line.get_xdata(), [0, 1])]
    identity, random_init = across
    assert identity.get_linestyle() == random_init.get_linestyle() == "--"
    assert identity.get_ydata()[0] == pytest.approx(2.72, abs=0.005)  # type: ignore[index]


def test_points_at_the_same_place_are_all_seen(results: Results) -> None:
    values = results.values.copy()
    for method in ("camu", "finetune", "neggrad_plus"):
        for metric in ("fa", "ra"):
            values.loc[(values["method"] == method) & (values["metric"] == metric), "value"] = 90.0
    figure = drawn(replace(results, values=values), figures.forget_retain)
    there = [bar[0] for bar in figure.axes[0].containers if bar[0].get_xdata()[0] == bar[0].get_ydata()[0] == 90.0]
    looks = styles(results)
    assert [line.get_color() for line in there] == [looks[m].color for m in ("camu", "finetune", "neggrad_plus")]
    assert [line.get_markersize() for line in there] == [15, 11, 7]  # the last is on top
    handles = figure.legends[0].legend_handles
    assert {line.get_markersize() for line in handles[1:]} == {7}  # type: ignore[union-attr]


def test_the_headline_s_attacks_are_drawn_else_those_with_a_value(results: Results) -> None:
    def names(results: Results) -> list[str]:
        return [ax.get_xlabel().partition(" ")[0] for ax in shown(drawn(results, figures.attack_oracle))]

    assert names(results) == ["MIA-LR"] * 2
    plain = replace(results, settings={})
    assert names(plain) == ["MIA-GBT", "MIA-LR"] * 2
    values = results.values.copy()
    values.loc[values["metric"] == "mia_gbt", "value"] = float("nan")
    assert names(replace(plain, values=values)) == ["MIA-LR"] * 2


def test_many_attacks_stand_four_side_by_side(results: Results) -> None:
    attack = results.metrics["mia_lr_loss"]
    more = {f"attack{i}": replace(attack, name=f"attack{i}", label=f"attack{i}") for i in range(6)}
    values = [results.values[results.values["metric"] == "mia_lr_loss"].assign(metric=name) for name in more]
    figure = drawn(replace(results, metrics=more, values=pd.concat(values)), figures.attack_oracle)
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (4, 4)  # type: ignore[union-attr]
    assert [ax.get_xlabel() for ax in shown(figure)] == [f"attack{i} (accuracy)" for i in range(6)] * 2


def test_attacks_show_methods_without_a_value_as_such(results: Results) -> None:
    values = results.values.copy()
    values.loc[values["method"] == "camu", "value"] = float("nan")
    figure = drawn(replace(results, values=values, settings={}), figures.attack_oracle)
    assert len(figure.axes) == 2 * 2
    assert [text.get_text() for text in figure.axes[0].texts] == ["no value"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == METHODS


@pytest.mark.parametrize("draw", DRAW)
def test_figures_without_their_metrics_do_not_apply(results: Results, draw: Callable[[Results], Figure | None]) -> None:
    none = replace(results, metrics={}, values=results.values.iloc[:0], curves=results.curves.iloc[:0])
    assert draw(none) is None


def test_methods_keep_their_colours_when_another_is_left_out_at_the_end(results: Results) -> None:
    fewer = replace(results, values=results.values[results.values["method"] != "random_label"])
    assert styles(fewer).items() <= styles(results).items()
    assert styles(results)["retrain"].color == "black"
    assert len({style.color for style in styles(results).values()}) == 9


def test_four_controls_can_be_told_apart(results: Results) -> None:
    again = results.values[results.values["method"] == "random_init"].assign(method="collapse")
    looks = styles(replace(results, values=pd.concat([results.values, again])))
    controls = [look for look in looks.values() if look.role == "control"]
    assert len({look.marker for look in controls}) == len({look.dashes for look in controls}) == 4
    assert all(0.3 < float(look.color) < 0.7 for look in controls)  # shades of grey


def test_render_writes_everything_and_changes_nothing_else(results: Results, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    written = render(results, tmp_path / "out", {"attack": figures.attack_oracle})
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    names = [*TABLES, "attack.png", "attack.pdf"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert (tmp_path / "out/attack.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out/attack.pdf").read_bytes().startswith(b"%PDF")
    header = (tmp_path / "out/comparison.csv").read_text().splitlines()[0]
    assert header == "dataset,scenario,method,metric,mean,std,low,high,n,note"


def test_the_same_results_give_the_same_bytes(small: Results, tmp_path: Path) -> None:
    once, again = (render(small, tmp_path / n, {"attack": figures.attack_oracle}) for n in ("a", "b"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_a_figure_that_raises_costs_only_itself_and_leaves_nothing_stale(results: Results, tmp_path: Path) -> None:
    def broken(_: Results) -> Figure:
        raise ValueError("no such axis")

    for name in ("mine.png", "mine.csv", "notes.txt"):  # not of any figure
        (tmp_path / name).write_bytes(b"kept")
    (tmp_path / "broken.png").write_bytes(b"old")
    (tmp_path / "absent.pdf").write_bytes(b"old")
    with pytest.warns(RuntimeWarning, match="figure 'broken' failed: ValueError: no such axis"):
        written = render(results, tmp_path, {"broken": broken, "absent": lambda _: None, "empty": lambda _: Figure()})
    assert [path.name for path in written] == [*TABLES, "empty.png", "empty.pdf"]
    assert {path.name for path in tmp_path.iterdir()} == {*TABLES, "empty.png", "empty.pdf", "mine.png", "mine.csv",
                                                          "notes.txt"}  # fmt: skip
    assert not (tmp_path / "broken.png").exists()
    assert not (tmp_path / "absent.pdf").exists()


def test_hostile_names_are_drawn_as_they_are(results: Results, tmp_path: Path) -> None:
    hostile = r"_$\frac{1$"
    values = results.values.assign(method=results.values["method"].replace("camu", hostile))
    curves = results.curves.assign(method=results.curves["method"].replace("camu", hostile))
    renamed = replace(results, values=values, curves=curves, title="50$ of $x_{$")
    assert len(render(renamed, tmp_path, {"relearning": figures.relearning})) == len(TABLES) + 2


def test_the_digitised_curves_are_complete() -> None:
    path = Path(figures.__file__).with_name("camu_curves.json")
    curves = json.loads(path.read_text("utf-8"))
    assert list(curves) == ["CIFAR10random", "CIFAR100random", "CIFAR10class", "CIFAR100class"]
    assert all(list(figure) == list(figures.AUTHORS) for figure in curves.values())
    assert {len(curve) for figure in curves.values() for curve in figure.values()} == {15, 16}


@pytest.fixture
def small(results: Results) -> Results:
    """One scenario of two methods and two controls."""
    kept = ["retrain", "camu", "finetune", "identity", "retrain_other_seed"]
    values, curves = (
        f[f["method"].isin(kept) & f["scenario"].eq("random-10")] for f in (results.values, results.curves)
    )
    return replace(results, values=values, curves=curves)


def test_a_report_is_current_until_a_number_changes(small: Results, tmp_path: Path) -> None:
    assert not is_current(small, tmp_path)
    render(small, tmp_path, {"relearning": figures.relearning})
    assert is_current(small, tmp_path)
    assert not is_current(replace(small, values=small.values.assign(value=small.values.value + 1)), tmp_path)
    bank = pd.DataFrame([["digits", "cnn", "random-10", 0, 0, "ra", x] for x in (1.0, 9.0)], columns=COLUMNS)
    assert not is_current(replace(small, retrains=bank), tmp_path)  # another noise floor


@pytest.mark.parametrize("gone", ["comparison.csv", "controls.md", "relearning.png"])
def test_a_report_without_one_of_its_files_is_not_current(small: Results, tmp_path: Path, gone: str) -> None:
    render(small, tmp_path, {"relearning": figures.relearning})
    (tmp_path / gone).unlink()
    assert not is_current(small, tmp_path)
