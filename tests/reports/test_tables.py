"""Tables: stored rows to exact text, and what must hold of any text: width, marks, escapes, reasons."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from report_cases import HOSTILE, changed, line_of
from unlearnbench_reports import comparison, latex, markdown, terminal
from unlearnbench_reports.tables import controls

from unlearnbench.judge.results import Results

GOLDEN = Path(__file__).parents[1] / "golden"


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
    assert len(table) == 2 * 9 * (17 + 2 * 10)  # scenarios, methods, metrics; gaps and distances where near is best
    assert table["method"].iloc[0] == "retrain"
    oracle = table[(table["method"] == "retrain") & table["metric"].str.endswith("_gap") & (table["n"] > 0)]
    assert (oracle["mean"] == 0).all()


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
        assert "Avg. gap: the smallest mean is that of identity, a control that forgets nothing" in text
        assert "Relearn gap: the smallest mean" not in text
    assert "the smallest mean is that of" not in terminal(results)


def test_of_other_controls_it_is_not_said(results: Results) -> None:
    for method in ("retrain_other_seed", "random_init"):
        first = changed(results, {"method": method, "metric": "avg_gap", "scenario": "random-10"}, value=0.001)
        assert "the smallest mean is that of" not in terminal(first)


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
