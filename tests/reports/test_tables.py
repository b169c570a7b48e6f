"""Tables: stored rows to exact text, and what must hold of any text: width, marks, escapes, reasons."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from unlearnbench_reports import comparison, latex, markdown, terminal
from unlearnbench_reports.panels import Panel, sections
from unlearnbench_reports.tables import controls, methods

from unlearnbench.judge.results import METHOD_COLUMNS, Results

GOLDEN = Path(__file__).parents[1] / "golden"


def changed(results: Results, where: Mapping[str, object], **changes: Any) -> Results:
    """The results with ``changes`` in the lines that match ``where``."""
    values = results.values.copy()
    lines = (values[list(where)] == pd.Series(where)).all(axis=1)
    assert lines.any()
    for name, value in changes.items():
        values.loc[lines, name] = value
    return replace(results, values=values)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("comparison.txt", terminal),
        ("comparison.md", markdown),
        ("comparison.tex", latex),
        ("controls.md", controls),
        ("brief.txt", lambda results: terminal(results, brief=True)),
    ],
)
def test_stored_rows_give_the_stored_text(results: Results, name: str, text: Callable[[Results], str]) -> None:
    assert text(results) == (GOLDEN / name).read_text("utf-8")


def test_comparison_is_tidy(results: Results) -> None:
    table = comparison(results)
    assert list(table.columns) == ["dataset", "scenario", "method", "metric", "mean", "std", "low", "high", "n", "note"]
    assert not table.duplicated(["dataset", "scenario", "method", "metric"]).any()
    assert len(table) == 2 * 9 * (17 + 10)  # scenarios, methods, metrics and the gaps of those that aim at the oracle
    assert table["method"].iloc[0] == "retrain"
    oracle = table[(table["method"] == "retrain") & table["metric"].str.endswith("_gap") & (table["n"] > 0)]
    assert (oracle["mean"] == 0).all()


def line_of(text: str, start: str, panel: str = "Headline", scenario: str = "random-10") -> str:
    section = text[text.index(f"· {scenario} ·") :]
    return next(line for line in section[section.index(panel) :].splitlines() if line.startswith(start))


def test_bold_goes_to_the_method_nearest_the_oracle_never_to_a_control(results: Results) -> None:
    same = changed(results, {"method": "identity", "metric": "fa", "scenario": "random-10"}, value=96.5)
    same = changed(same, {"method": "retrain", "metric": "fa", "scenario": "random-10"}, value=96.5)
    same = changed(same, {"method": "neggrad_plus", "metric": "fa", "scenario": "random-10"}, value=96.0)
    same = changed(same, {"method": "camu", "metric": "fa", "scenario": "random-10"}, value=97.1)
    text = terminal(same)
    assert line_of(text, "neggrad_plus").split()[1] == "*96.00"
    assert line_of(text, "camu").split()[1] == "97.10"
    assert line_of(text, "identity").split()[2] == "96.50"
    assert "| neggrad_plus | **96.00** |" in markdown(same)
    assert r"neggrad\_plus & \textbf{96.00} &" in latex(same)


def test_a_method_that_failed_on_a_seed_is_compared_on_the_others(results: Results) -> None:
    """The planted bug: its mean over four seeds against the oracle's over five."""
    lines = results.values.query("metric == 'fa' and scenario == 'random-10'")
    oracle = lines[lines["method"] == "retrain"].set_index("seed")["value"]
    frame = results.values.copy()
    for seed, value in oracle.items():
        here = (frame["metric"] == "fa") & (frame["scenario"] == "random-10") & (frame["seed"] == seed)
        frame.loc[here & (frame["method"] == "retrain"), "value"] = value + 30 * (seed == 4)
        frame.loc[here & (frame["method"] == "camu"), "value"] = value if seed < 4 else float("nan")
    assert line_of(terminal(replace(results, values=frame)), "camu").split()[1].startswith("*")


def test_methods_that_print_the_same_number_are_equally_best(results: Results) -> None:
    for method, value in (("camu", 96.001), ("neggrad_plus", 96.002)):
        results = changed(results, {"method": method, "metric": "fa"}, value=value)
    results = changed(results, {"method": "retrain", "metric": "fa"}, value=96.0)
    text = terminal(results)
    assert line_of(text, "camu").split()[1] == line_of(text, "neggrad_plus").split()[1] == "*96.00"


def test_colour_marks_the_best_by_escape_codes(results: Results) -> None:
    text = terminal(results, color=True)
    assert "\x1b[1m" in text
    assert "*" not in text


@pytest.mark.parametrize("width", [80, 100, 140])
def test_every_line_fits(results: Results, width: int) -> None:
    results = changed(results, {"method": "camu"}, method="a_method_with_quite_a_long_name_from_elsewhere")
    lines = terminal(results, width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines if "a_method" not in line)


HOSTILE = "a|b<script>`x` [l](x) & 50%_$^{\\input{/etc/passwd}}~#\"'--\x1b\n± ☃ é"


def test_hostile_names_are_escaped_in_markdown(results: Results) -> None:
    text = markdown(changed(results, {"method": "camu"}, method=HOSTILE))
    (line, *_) = (line for line in text.splitlines() if line.startswith("| a"))
    header = next(line for line in text.splitlines() if line.startswith("| Method"))
    assert line.replace("\\|", "").count("|") == header.count("|")
    assert r"a\|b&lt;script&gt;\`x\` \[l\](x) &amp; 50%" in line
    assert "<script>" not in text
    assert "\x1b" not in text


def test_hostile_names_are_escaped_in_latex(results: Results) -> None:
    hostile = replace(changed(results, {"method": "camu"}, method=HOSTILE), title=HOSTILE)
    text = latex(hostile)
    assert r"a\textbar{}b\textless{}script\textgreater{}{`}x{`} [l](x) \& 50\%\_\$\textasciicircum{}\{" in text
    assert r"\textbackslash{}input\{/etc/passwd\}\}\textasciitilde{}\#''" in text
    assert r"\input" not in text
    assert "é" not in text


def test_hostile_names_stay_text_in_the_terminal(results: Results) -> None:
    text = terminal(changed(results, {"method": "camu"}, method=f"[bold]{HOSTILE}"))
    assert "[bold]a|b<script>" in text
    assert "\x1b" not in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_as_it_stands(results: Results, tmp_path: Path) -> None:
    hostile = replace(changed(results, {"method": "camu"}, method=HOSTILE), title=HOSTILE)
    (tmp_path / "comparison.tex").write_text(latex(hostile), "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "comparison.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "comparison.pdf").stat().st_size > 0


def test_times_of_different_devices_are_replaced_by_a_footnote(results: Results) -> None:
    text = terminal(changed(results, {"scenario": "random-10", "seed": 1}, device="cuda"))
    mixed, plain = text[: text.index("· class-0 ·")], text[text.index("· class-0 ·") :]
    assert "Without Time: measured on different devices: cpu, cuda." in mixed
    assert "Without Relearn time: measured on different devices: cpu, cuda." in mixed
    assert "Without Time, RTE: measured on different devices: cpu, cuda." in mixed
    assert "(s) ↓" not in mixed
    assert "(samples) ↓" in mixed
    assert "(s) ↓" in plain


def test_a_method_that_failed_stays_in_the_table_without_numbers(results: Results) -> None:
    failed = changed(results, {"method": "camu"}, value=float("nan"), note="the method failed", status="failed")
    assert line_of(terminal(failed), "camu").split() == ["camu", "[a]", "—", "—", "—", "—"]
    assert "[a] the method failed" in terminal(failed)
    assert "| camu<sup>a</sup> | — | — |" in markdown(failed)
    assert r"camu\textsuperscript{a} & --- & --- &" in latex(failed)


def test_the_original_ranking_first_is_said(results: Results) -> None:
    first = changed(results, {"method": "identity", "metric": "avg_gap", "scenario": "random-10"}, value=0.01)
    for text in (terminal(first), markdown(first)):
        assert "Avg. gap ranks identity first, a control that forgets nothing" in text
        assert "Relearn gap ranks" not in text
    assert "Avg. gap ranks" not in terminal(results)


def test_of_other_controls_it_is_not_said(results: Results) -> None:
    for method in ("retrain_other_seed", "random_init"):
        first = changed(results, {"method": method, "metric": "avg_gap", "scenario": "random-10"}, value=0.001)
        assert "Avg. gap ranks" not in terminal(first)


# --- the headline, the noise floor, what is untrusted ----------------------------------------------------------------


def test_the_headline_comes_first_in_the_suite_s_order(results: Results) -> None:
    reordered = replace(results, settings={"headline": ["avg_gap", "no_such_metric", "fa"]})
    panels = next(sections(reordered)).panels
    assert [panel.title for panel in panels][:2] == ["Headline", "Accuracy"]
    assert [label for label, _ in panels[0].headers] == ["Avg. gap", "FA"]


def test_in_brief_there_is_the_headline_and_its_gaps_alone(results: Results) -> None:
    for section in sections(results, brief=True):
        headline, gaps = section.panels
        assert headline.title == "Headline"
        assert [label for label, _ in headline.headers] == [
            "FA", "RA", "TA", "MIA-LR", "Avg. gap", "Relearn steps", "Time",
        ]  # fmt: skip
        assert [label for label, _ in gaps.headers] == ["FA", "RA", "TA", "MIA-LR", "Relearn steps"]


def test_without_a_headline_brief_is_everything(results: Results) -> None:
    plain = replace(results, settings={})
    assert terminal(plain, brief=True) == terminal(plain)
    assert "Headline" not in terminal(plain)


def panel(results: Results, title: str, scenario: int = 0) -> Panel:
    found = list(sections(results))[scenario]
    return next(p for p in found.panels if p.title.startswith(title))


def entries(shown: Panel, method: str) -> dict[str, str]:
    line = next(line for line in shown.lines if line.method == method)
    return dict(zip((label for label, _ in shown.headers), (entry.text for entry in line.entries), strict=True))


def members(results: Results, metric: str, values: Mapping[int, Sequence[float]]) -> Results:
    """The results with a bank whose members have these values of a metric, by split seed."""
    lines = [
        {"dataset": "digits", "scenario": "random-10", "split_seed": split, "metric": metric, "value": value}
        for split, group in values.items()
        for value in group
    ]
    alone = results.values[results.values["method"] != "retrain_other_seed"]
    return replace(results, values=alone, retrains=pd.DataFrame(lines))


def test_the_noise_floor_stands_below_gaps_and_distances_alone(results: Results) -> None:
    banked = members(members(results, "fa", {}), "fa", {9: [90.0, 91.5]})  # a split of its own: one pair, 1.5 apart
    assert entries(panel(banked, "Signed"), "noise floor") == {
        "FA": "±1.50", "RA": "", "TA": "", "MIA-GBT": "", "MIA-LR": "",
        "Relearn steps": "", "Relearn time": "", "Relearn curve": "",
    }  # fmt: skip
    banked = members(results, "avg_gap", {9: [1.0, 2.0, 3.0]})  # 95% of the pairs of a bank keep to 2.9
    assert entries(panel(banked, "Distance"), "noise floor") == {"Avg. gap": "2.90", "Relearn gap": ""}
    for title in ("Accuracy", "Attacks", "Relearning", "Cost"):
        assert "noise floor" not in [line.method for line in panel(results, title).lines]


def test_a_part_of_a_wide_panel_has_no_empty_noise_floor(results: Results) -> None:
    for line in terminal(results, width=70).splitlines():
        assert line != "noise floor"


@pytest.mark.parametrize(
    ("gaps", "marked"),
    [
        ([0.2, -0.1, 0.1, 0.0, 0.1], True),  # far inside the floor of 1.5
        ([1.2, 1.4, 1.3, 1.3, 1.25], True),
        ([1.4, 1.6, 1.5, 1.5, 1.5], False),  # on the floor
        ([-3.0, 3.0, -3.0, 3.0, 0.0], False),  # nearly 0 on average, but nothing shows it
        ([4.0, 4.1, 4.0, 4.1, 4.0], False),
    ],
)
def test_the_mark_of_equivalence_follows_the_test(results: Results, gaps: list[float], marked: bool) -> None:
    banked = members(results, "fa", {9: [90.0, 91.5]})
    for seed, gap in enumerate(gaps):
        cell = {"metric": "fa", "scenario": "random-10", "seed": seed}
        banked = changed(banked, {**cell, "method": "retrain"}, value=90.0)
        banked = changed(banked, {**cell, "method": "camu"}, value=90.0 + gap)
    p = ttest_1samp(gaps, -1.5, alternative="greater").pvalue, ttest_1samp(gaps, 1.5, alternative="less").pvalue
    assert bool(max(p) < 0.05) is marked
    assert entries(panel(banked, "Signed"), "camu")["FA"].endswith(" ≡") is marked
    assert not entries(panel(banked, "Accuracy"), "camu")["FA"].endswith("≡")
    assert not entries(panel(banked, "Signed"), "retrain")["FA"].endswith("≡")
    assert not any(text.endswith("≡") for text in entries(panel(banked, "Signed", 1), "camu").values())


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
        at = {label: i for i, (label, _) in enumerate(shown.headers)}
        best = {label: [line.method for line in shown.lines if line.entries[i].best] for label, i in at.items()}
        assert best["MIA-LR"] == best["RA"] == []
        assert best["FA"] == ["camu"]
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
    assert set(tables) == {6}
    assert text.splitlines()[0].startswith("# a\\|b&lt;script&gt;")


@pytest.mark.parametrize("name", ["dataset", "scenario", "metric", "verdict", "reason"])
def test_a_method_may_have_the_name_of_a_column(results: Results, name: str) -> None:
    lines = controls(changed(results, {"method": "identity"}, method=name)).splitlines()
    head = next(line for line in lines if line.startswith("| metric"))
    assert head == f"| metric | {name} (control) | retrain_other_seed | random_init | verdict | reason |"


def test_one_quick_seed_says_so_and_shows_no_spread(results: Results) -> None:
    single = replace(results, values=results.values[results.values["seed"] == 0].assign(quick=True))
    text = terminal(single)
    assert "digits · random-10 · cnn · single seed: no intervals · quick" in text
    assert " ± " not in text[: text.index("≈ nearest the oracle")]


def test_without_an_oracle_nothing_is_nearest_it(results: Results) -> None:
    alone = replace(results, values=results.values[results.values["role"] != "oracle"])
    text = terminal(alone)
    assert "*" not in line_of(text, "camu", "Accuracy")
    gaps = text[text.index("Signed gaps") : text.index("· class-0 ·")]
    assert "the oracle of this scenario and seed has not run." in " ".join(gaps.split())
    assert "Method" not in gaps


def test_where_nothing_worked_the_methods_are_still_listed(results: Results) -> None:
    failed = changed(results, {"dataset": "digits"}, value=float("nan"), note="the method failed", status="failed")
    for text in (terminal(failed), markdown(failed), latex(failed)):
        assert "gradient" in text
        assert "the method failed" in text
        assert " ± 0" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00002, "<0.001"),
        (0.01234, "0.012"),
        (0.1234, "0.123"),
        (9.876, "9.88"),
        (1234.5, "1,234"),
        (98765.0, "98.8k"),
    ],
)
def test_seconds_have_three_significant_digits(results: Results, seconds: float, text: str) -> None:
    one = changed(results, {"metric": "seconds", "method": "camu", "scenario": "random-10"}, value=seconds)
    one = replace(one, metrics={"seconds": one.metrics["seconds"]})
    one = replace(one, values=one.values[one.values["metric"] == "seconds"])
    assert line_of(terminal(one), "camu", "Cost").split()[1].lstrip("*") == text


def test_no_results_is_not_an_error(results: Results) -> None:
    empty = replace(results, values=results.values.iloc[:0])
    assert terminal(empty) == "No results yet.\n"
    assert comparison(empty).empty
    assert "No results yet." in markdown(empty)
    assert "No results yet." in latex(empty)


def test_an_attack_shows_its_interval_over_models(results: Results) -> None:
    one = results.values[(results.values["seed"] == 0) & (results.values["split_seed"] == 0)]
    own = one["metric"] == "fa"
    shown = terminal(replace(results, values=one.assign(value=one["value"].mask(own, 50.0), low=40.0, high=62.5)))
    assert "50.00 [40.00, 62.50]" in shown


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
    default, tuned = letters["hyperparameters: default"], letters["hyperparameters: tuned (20 trials)"]
    assert default != tuned
    assert re.match(rf"finetune \[{tuned}(,\w+)*\] ", line_of(text, "finetune"))
    assert set(re.match(r"camu \[([\w,]+)\]", line_of(text, "camu"))[1].split(",")) == {  # type: ignore[index]
        default, letters["may use validation data"],
    }  # fmt: skip
    assert "[" not in line_of(text, "identity").split("(control)")[0]  # controls have no settings


def test_what_holds_of_every_method_is_said_once(results: Results) -> None:
    text = terminal(with_methods(results))
    assert text.count("All methods: hyperparameters: default.") == 2  # scenarios
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
