"""Tables: the headline, the noise floor, marks of tests, what controls speak against, what is said of methods."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from report_cases import HOSTILE, changed, line_of
from scipy.stats import ttest_1samp
from unlearnbench_reports import terminal
from unlearnbench_reports.panels import BELOW, Panel, sections
from unlearnbench_reports.tables import controls, methods

from unlearnbench.judge.floor import COLUMNS
from unlearnbench.judge.results import METHOD_COLUMNS, Results
from unlearnbench.plan.spec import Tolerance


def panel(results: Results, title: str, scenario: int = 0) -> Panel:
    found = list(sections(results))[scenario]
    return next(p for p in found.panels if p.title.startswith(title))


def entries(shown: Panel, method: str) -> dict[str, str]:
    line = next(line for line in shown.lines if line.method == method)
    return dict(zip((label for label, _ in shown.headers), (entry.text for entry in line.entries), strict=True))


def best(shown: Panel) -> dict[str, list[str]]:
    at = {label: i for i, (label, _) in enumerate(shown.headers)}
    return {label: [line.method for line in shown.lines if line.entries[i].best] for label, i in at.items()}


# --- the headline ----------------------------------------------------------------------------------------------------


def test_the_headline_comes_first_in_the_suite_s_order(results: Results) -> None:
    reordered = replace(results, settings={"headline": ["ra", "no_such_metric", "fa"]})
    panels = next(sections(reordered)).panels
    assert [panel.title for panel in panels][:2] == ["Headline", "Accuracy"]
    assert [label for label, _ in panels[0].headers] == ["RA", "FA"]


def test_in_brief_there_is_the_headline_what_it_averages_and_its_gaps_alone(results: Results) -> None:
    for section in sections(results, brief=True):
        headline, parts, gaps = section.panels
        assert headline.title == "Headline"
        assert [label for label, _ in headline.headers] == [
            "FA", "RA", "TA", "MIA-LR", "Avg. gap", "Relearn steps", "Time",
        ]  # fmt: skip
        assert parts.title == "What Avg. gap averages: absolute gaps to the oracle (points)"
        assert [label for label, _ in gaps.headers] == ["FA", "RA", "TA", "MIA-LR", "Relearn steps"]


def test_without_a_headline_brief_is_everything(results: Results) -> None:
    plain = replace(results, settings={})
    assert terminal(plain, brief=True) == terminal(plain)
    assert "Headline" not in terminal(plain)


def test_a_mean_of_gaps_is_shown_with_its_parts_which_sum_up_to_it(results: Results) -> None:
    """Else nobody sees that the noisiest of them decides."""
    frame = results.values.query("scenario == 'random-10'").pivot(
        index=["method", "seed"], columns="metric", values="value"
    )
    gaps = (frame.loc["camu"] - frame.loc["retrain"]).abs().mean()
    shown = panel(results, "What Avg. gap averages")
    assert shown.headers == [("FA", "↓"), ("RA", "↓"), ("TA", "↓"), ("MIA-LR", "↓")]
    means = {label: float(text.split(" ±")[0]) for label, text in entries(shown, "camu").items()}
    for label, expected in (("FA", gaps["fa"]), ("RA", gaps["ra"]), ("MIA-LR", 100 * gaps["mia_lr_loss"])):
        assert means[label] == pytest.approx(expected, abs=0.005)
    assert not any(best(shown).values())


# --- the noise floor and the marks of tests --------------------------------------------------------------------------


def members(results: Results, metric: str, values: Mapping[int, Sequence[float]]) -> Results:
    """The results with a bank of which each run, by its seed, is dealt members with these values of a metric, and
    without the control that is an honest retrain."""
    place = results.values.query("scenario == 'random-10' and method == 'retrain'").drop_duplicates("seed")
    splits = dict(zip(place["seed"], place["split_seed"], strict=True))
    lines = [
        ["digits", "cnn", "random-10", splits[seed], seed, metric, value]
        for seed, group in values.items()
        for value in group
    ]
    alone = results.values[results.values["method"] != "retrain_other_seed"]
    return replace(results, values=alone, retrains=pd.DataFrame(lines, columns=COLUMNS))


def with_gaps(results: Results, metric: str, gaps: Sequence[float]) -> Results:
    """The results in which the oracle has 90 in random-10, and camu these gaps to it."""
    for seed, gap in enumerate(gaps):
        cell = {"metric": metric, "scenario": "random-10", "seed": seed}
        results = changed(results, {**cell, "method": "retrain"}, value=90.0)
        results = changed(results, {**cell, "method": "camu"}, value=90.0 + gap)
    return results


def test_the_noise_floor_stands_below_gaps_and_distances_alone(results: Results) -> None:
    banked = with_gaps(members(results, "fa", {0: [91.0, 89.0], 1: [92.0], 2: [93.0]}), "fa", [0.0] * 5)
    assert entries(panel(banked, "Signed"), "noise floor") == {
        "FA": "2.00 [0.00, 4.48]", "RA": "", "TA": "", "MIA-GBT": "", "MIA-LR": "",
        "Relearn steps": "", "Relearn time": "", "Relearn curve": "",
    }  # fmt: skip
    assert ("", "FA: the noise floor rests on 7 models in 3 runs.") in panel(banked, "Signed").notes
    banked = members(results, "avg_gap", {0: [1.0, 3.0]})
    assert entries(panel(banked, "Distance"), "noise floor") == {"Avg. gap": "2.00", "Relearn gap": ""}
    for title in ("Accuracy", "Attacks", "Relearning", "Cost", "What Avg. gap averages"):
        assert "noise floor" not in [line.method for line in panel(banked, title).lines]


def test_a_part_of_a_wide_panel_has_no_empty_noise_floor(results: Results) -> None:
    for line in terminal(results, width=70).splitlines():
        assert line != "noise floor"


@pytest.mark.parametrize(
    ("gaps", "marked"),
    [
        ([0.2, -0.1, 0.1, 0.0, 0.1], True),  # far inside the tolerance of a point
        ([0.7, 0.9, 0.8, 0.8, 0.75], True),
        ([0.9, 1.1, 1.0, 1.0, 1.0], False),  # on it
        ([-3.0, 3.0, -3.0, 3.0, 0.0], False),  # nearly 0 on average, but nothing shows it
        ([4.0, 4.1, 4.0, 4.1, 4.0], False),
    ],
)
def test_the_mark_of_equivalence_is_the_test_within_the_tolerance(
    results: Results, gaps: list[float], marked: bool
) -> None:
    found = with_gaps(results, "fa", gaps)
    p = ttest_1samp(gaps, -1, alternative="greater").pvalue, ttest_1samp(gaps, 1, alternative="less").pvalue
    assert bool(max(p) < 0.05) is marked
    assert ("≡" in entries(panel(found, "Signed"), "camu")["FA"]) is marked
    assert "≡" not in entries(panel(found, "Accuracy"), "camu")["FA"]
    assert "≡" not in entries(panel(found, "Signed"), "retrain")["FA"]


def test_the_spread_of_honest_retrains_is_no_tolerance(results: Results) -> None:
    """The planted bug: a bias that is well within what single retrains scatter passes for none."""
    found = with_gaps(
        members(results, "fa", {seed: [60.0, 120.0] for seed in range(5)}), "fa", [4.0, 4.2, 4.1, 4.0, 4.1]
    )
    assert "≡" not in entries(panel(found, "Signed"), "camu")["FA"]
    undeclared = {name: replace(metric, tolerance=None) for name, metric in found.metrics.items()}
    text = terminal(replace(with_gaps(found, "fa", [0.0] * 5), metrics=undeclared))
    assert "≡" not in text[: text.index("≈ nearest the oracle")]


def test_the_legend_names_the_tolerances(results: Results) -> None:
    assert "(accuracy 1 point, attacks 0.02)" in " ".join(terminal(results).split())
    steps = replace(results.metrics["relearn_steps"], tolerance=Tolerance(0.1, of_oracle=True))
    text = terminal(replace(results, metrics={**results.metrics, "relearn_steps": steps}))
    assert "relearning 10% of the oracle's)" in " ".join(text.split())


@pytest.mark.parametrize(("gap", "marked"), [(0.5, False), (2.0, False), (2.1, True), (-2.1, True)])
def test_a_method_beyond_the_noise_floor_is_marked(results: Results, gap: float, marked: bool) -> None:
    banked = with_gaps(members(results, "fa", {seed: [92.0, 88.0] for seed in range(5)}), "fa", [gap] * 5)
    assert ("†" in entries(panel(banked, "Signed"), "camu")["FA"]) is marked
    assert "†" not in entries(panel(banked, "Accuracy"), "camu")["FA"]
    assert "†" not in entries(panel(banked, "Signed"), "retrain")["FA"]


def test_the_best_has_the_smallest_mean_distance_run_by_run(results: Results) -> None:
    """The planted bug: the distance of the mean, by which scatter about the oracle wins."""
    found = with_gaps(results, "fa", [-48.0, 51.0, 48.0, -51.0, 0.0])  # nought on average
    for seed in range(5):
        where = {"metric": "fa", "scenario": "random-10", "seed": seed}
        for method, value in {"neggrad_plus": 93.0, "random_label": 96.0}.items():
            found = changed(found, {**where, "method": method}, value=value)
    for title in ("Headline", "Accuracy", "Signed"):
        assert best(panel(found, title))["FA"] == ["neggrad_plus"]


def test_below_its_null_a_method_is_flagged_and_not_the_best(results: Results) -> None:
    banks = {**results.metrics, "relearn_gap": replace(results.metrics["relearn_gap"], of_split=True, needs={})}
    one = replace(results, metrics=banks, values=results.values[results.values["seed"] == 0])
    """And nor is a worse one in its place, which may be much worse."""
    lines = {"retrain": 2.0, "camu": 1.9, "finetune": 8.5, "identity": 3.0}
    for method, value in lines.items():
        one = changed(one, {"metric": "relearn_gap", "method": method}, value=value, note="")
    others = ~one.values["method"].isin(list(lines)) & (one.values["metric"] == "relearn_gap")
    one = replace(one, values=one.values.assign(value=one.values["value"].mask(others, np.nan)))
    shown = panel(one, "Distance")
    assert best(shown)["Relearn gap"] == []
    honest = changed(one, {"metric": "relearn_gap", "method": "camu"}, value=2.5)
    honest = changed(honest, {"metric": "relearn_gap", "method": "retrain_other_seed"}, value=1.9)
    assert best(panel(honest, "Distance"))["Relearn gap"] == ["camu"]  # an honest retrain may well lie below
    letter = next(letter for letter, sentence in shown.notes if sentence == BELOW)
    marked = [line.method for line in shown.lines if any(letter in entry.marks.split(",") for entry in line.entries)]
    assert [*marked, *(line.method for line in shown.lines if letter in line.marks.split(","))] == ["camu"]


# --- what the controls speak against ---------------------------------------------------------------------------------


def as_the_oracle(results: Results, method: str, metric: str) -> Results:
    """The results with the oracle's values of a metric for a control, in random-10."""
    for seed, value in enumerate(
        results.values.query("method == 'retrain' and scenario == 'random-10' and metric == @metric")["value"]
    ):
        where = {"method": method, "scenario": "random-10", "metric": metric, "seed": seed}
        results = changed(results, where, value=value)
    return results


def test_what_the_controls_speak_against_has_no_best_and_says_why(results: Results) -> None:
    bad = as_the_oracle(as_the_oracle(results, "identity", "mia_lr_loss"), "random_init", "ra")
    bad = as_the_oracle(bad, "identity", "ra")
    for title in ("Headline", "Signed"):
        shown = panel(bad, title)
        assert best(shown)["MIA-LR"] == best(shown)["RA"] == []
        assert best(shown)["FA"] == ["camu"]
    notes = [sentence for _, sentence in panel(bad, "Headline").notes]
    assert "Uninformative here: MIA-LR: it does not tell the original from the oracle." in notes
    assert "Unreliable here: RA: it tells no control from the oracle." in notes
    assert not any("here: " in sentence for _, sentence in panel(bad, "Headline", 1).notes)
    assert not any("here: " in sentence for _, sentence in panel(bad, "Signed").notes)
    assert "Unreliable here: RA: it tells no control from the oracle." in terminal(bad)


def test_hostile_names_stay_harmless_in_the_controls(results: Results) -> None:
    metrics = {**results.metrics, HOSTILE: replace(results.metrics["fa"], name=HOSTILE)}
    hostile = changed(results, {"metric": "fa"}, metric=HOSTILE)
    hostile = changed(hostile, {"method": "identity"}, method=HOSTILE)
    hostile = changed(hostile, {"scenario": "class-0"}, scenario=HOSTILE)
    hostile = replace(hostile, metrics=metrics, settings={"headline": [HOSTILE, "avg_gap"]}, title=HOSTILE)
    text = controls(hostile)
    assert "<script>" not in text
    assert "\x1b" not in text
    tables = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 2 * (2 + 2)  # scenarios; head, rule and two metrics
    assert set(tables) == {7}
    assert text.splitlines()[0].startswith("# a\\|b&lt;script&gt;")


@pytest.mark.parametrize("name", ["dataset", "scenario", "metric", "verdict", "reason"])
def test_a_method_may_have_the_name_of_a_column(results: Results, name: str) -> None:
    lines = controls(changed(results, {"method": "identity"}, method=name)).splitlines()
    head = next(line for line in lines if line.startswith("| metric"))
    assert head == f"| metric | {name} (control) | retrain_other_seed | random_init | verdict | reason |"


# --- what is said of each method -------------------------------------------------------------------------------------


def with_methods(results: Results, **settings: str) -> Results:
    """Every method has default hyperparameters, unless ``settings`` says otherwise; camu saw validation data."""
    lines = [
        ["digits", scenario, method, "camu", role, "forget, validation" if method == "camu" else "forget",
         settings.get(method, "default"), "{}"]
        for scenario in ("random-10", "class-0")
        for method, role in results.values[["method", "role"]].drop_duplicates().itertuples(index=False, name=None)
    ]  # fmt: skip
    return replace(results, methods=pd.DataFrame(lines, columns=METHOD_COLUMNS))


def test_a_table_says_of_each_method_how_it_was_set_and_what_more_it_saw(results: Results) -> None:
    text = terminal(with_methods(results, finetune="tuned (20 trials)"))
    panel = text[text.index("Headline") : text.index("Accuracy")]
    letters = {sentence: letter for letter, sentence in re.findall(r"^\[(\w+)\] (.*)$", panel, re.MULTILINE)}
    assert re.match(rf"camu \[{letters['may use validation data']}\] ", line_of(text, "camu"))
    assert re.match(r"finetune  +", line_of(text, "finetune"))
    notes = " ".join(panel.split())  # lines are wrapped
    assert "Hyperparameters tuned (20 trials): finetune." in notes
    by_default = re.search(r"Hyperparameters by default: ([^.]*)\.", notes)
    assert by_default
    assert "camu" in by_default[1]
    assert "finetune" not in by_default[1]
    assert "identity" not in by_default[1]  # controls have no settings


def test_where_hyperparameters_come_from_is_said_in_the_first_panel_alone(results: Results) -> None:
    text = terminal(with_methods(results, camu="published for mnist, class"))
    assert text.count("Hyperparameters published for mnist, class: camu.") == 2  # scenarios


def test_what_holds_of_every_method_is_said_once(results: Results) -> None:
    text = terminal(with_methods(results))
    assert text.count("Hyperparameters by default: all methods.") == 2  # scenarios
    assert re.match(r"finetune  +", line_of(text, "finetune"))


def test_the_cards_of_the_methods_are_text_whatever_is_in_them(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = methods(with_methods(results))
    assert text.count("camu (method)") == 1
    assert "Objective: " in text
    monkeypatch.setattr("unlearnbench_reports.tables.card", lambda *_: "```\n# <script>\x1b[31m")
    assert methods(with_methods(results)).splitlines()[-2:] == ["    ```", "    # <script> [31m"]
    gone = with_methods(results).methods.assign(plugin="no_such_method")
    monkeypatch.undo()
    assert "unknown method 'no_such_method'" in methods(replace(results, methods=gone))
