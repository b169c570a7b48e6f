"""What the numbers are worth, as tables: which metric ranks, what it leaves out, and what tests say of gaps."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from unlearnbench_reports.statistics import (
    GAP_COLUMNS,
    control_table,
    gaps,
    inference_tables,
    ranking_metric,
    ranking_values,
)

from unlearnbench.judge.results import Results


def with_values(results: Results, metric: str, method: str, scenario: str, values: list[float]) -> Results:
    frame = results.values.copy()
    lines = (frame["metric"] == metric) & (frame["method"] == method) & (frame["scenario"] == scenario)
    frame.loc[lines, "value"] = values
    return replace(results, values=frame)


def test_the_tables_have_these_names_and_no_warnings(results: Results) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables = inference_tables(results)
    assert list(tables) == ["controls", "gaps", "ranks", "tests", "variance"]
    assert list(tables["controls"].columns) == ["dataset", "scenario", "metric", "control", "verdict", "reason"]
    assert set(tables["tests"]["metric"]) == {"avg_gap"}


def test_the_first_distance_of_the_headline_ranks(results: Results) -> None:
    def ranks_by(*headline: str) -> str | None:
        metric = ranking_metric(replace(results, settings={"headline": headline}))
        return metric.name if metric else None

    assert ranks_by("fa", "relearn_gap", "avg_gap") == "relearn_gap"
    assert ranks_by("fa", "seconds") is None
    assert ranks_by() is None


def test_without_one_ranks_and_tests_are_empty(results: Results) -> None:
    tables = inference_tables(replace(results, settings={}))
    assert tables["ranks"].empty
    assert tables["tests"].empty
    assert len(tables["variance"])


def test_methods_are_ranked_by_the_mean_over_scenarios(results: Results) -> None:
    table = inference_tables(results)["ranks"].set_index("method")
    ranked = table[table["mean"].notna()]
    assert ranked.index.to_list() == ["camu", "neggrad_plus", "finetune", "gradient_ascent"]
    assert ranked["mean"].to_list() == [1.0, 2.5, 3.0, 3.5]
    assert table.loc["random_label", "note"] == "without a value in digits random-10 (1 of 5 runs)"
    assert "identity" not in table.index


def test_a_scenario_in_which_the_metric_fails_its_controls_does_not_rank(results: Results) -> None:
    metric = results.metrics["avg_gap"]
    assert len(ranking_values(results, metric)) == len(results.values)
    failing = with_values(results, "avg_gap", "random_init", "class-0", [0.1, 0.2, 0.1, 0.2, 0.1])
    assert set(ranking_values(failing, metric)["scenario"]) == {"random-10"}
    ranked = inference_tables(failing)["ranks"].set_index("method")["mean"].dropna()
    assert ranked.to_dict() == {"camu": 1.0, "finetune": 2.0, "neggrad_plus": 3.0, "gradient_ascent": 4.0}


def test_where_a_metric_is_uninformative_it_does_not_rank(results: Results) -> None:
    within = with_values(results, "avg_gap", "identity", "class-0", [0.1, 0.2, 0.1, 0.2, 0.1])
    assert set(within.controls.query("metric == 'avg_gap' and scenario == 'class-0'")["verdict"]) >= {"uninformative"}
    assert set(ranking_values(within, results.metrics["avg_gap"])["scenario"]) == {"random-10"}
    assert set(inference_tables(within)["tests"]["scenario"]) == {"random-10"}


def test_where_it_fails_everywhere_nothing_ranks(results: Results) -> None:
    for scenario in ("random-10", "class-0"):
        results = with_values(results, "avg_gap", "random_init", scenario, [0.1, 0.2, 0.1, 0.2, 0.1])
    assert inference_tables(results)["ranks"].empty


def line_of(results: Results, method: str, metric: str, scenario: str = "random-10") -> pd.Series:
    found = gaps(results).query("method == @method and metric == @metric and scenario == @scenario")
    assert len(found) == 1
    return found.iloc[0]


def values_of(results: Results, metric: str) -> pd.Series:
    lines = results.values.query("metric == @metric and scenario == 'random-10'")
    return lines.set_index(["method", "seed"])["value"]


def test_the_table_of_gaps_holds_both_tests_and_what_they_rest_on(results: Results) -> None:
    assert list(gaps(results).columns) == GAP_COLUMNS
    assert "retrain" not in set(gaps(results)["method"])
    ta = values_of(results, "ta")
    gap, apart = ta["camu"] - ta["retrain"], (ta["retrain_other_seed"] - ta["retrain"]).abs()
    line = line_of(results, "camu", "ta")
    assert line["n"] == 5
    assert line["gap"] == pytest.approx(gap.mean())
    assert line["distance"] == pytest.approx(gap.abs().mean())
    assert line["tolerance"] == "1 point"
    upper, lower = ttest_1samp(gap, 1, alternative="less"), ttest_1samp(gap, -1, alternative="greater")
    assert line["p_equivalent"] == pytest.approx(max(upper.pvalue, lower.pvalue))
    assert line["floor"] == pytest.approx(apart.mean())
    assert line["models"] == 10
    swaps = [sum(pair[i] for pair, i in zip(zip(gap.abs(), apart, strict=True), signs, strict=True))
             for signs in itertools.product((0, 1), repeat=5)]  # fmt: skip
    assert line["p_beyond"] == np.mean(np.array(swaps) >= gap.abs().sum() - 1e-9)


def test_a_distance_has_no_signed_gap_and_no_tolerance(results: Results) -> None:
    line = line_of(results, "camu", "avg_gap")
    assert line["distance"] == pytest.approx(values_of(results, "avg_gap")["camu"].mean())
    assert line["floor"] == pytest.approx(values_of(results, "avg_gap")["retrain_other_seed"].mean())
    assert line[["gap", "tolerance", "p_equivalent"]].isna().all()
    assert line["p_beyond"] > 0.05
    assert line_of(results, "gradient_ascent", "avg_gap")["p_beyond"] == 1 / 32


def test_a_retrain_is_not_held_against_itself(results: Results) -> None:
    assert np.isnan(line_of(results, "retrain_other_seed", "avg_gap")["p_beyond"])
    assert line_of(results, "identity", "avg_gap")["p_beyond"] == 1 / 32


def test_of_a_single_seed_there_is_no_test(results: Results) -> None:
    one = replace(results, values=results.values[results.values["seed"] == 0])
    assert gaps(one)[["p_equivalent", "p_beyond"]].isna().all(axis=None)


def test_without_a_second_retrain_there_is_no_floor_to_test_against(results: Results) -> None:
    values = results.values[results.values["method"] != "retrain_other_seed"]
    alone = gaps(replace(results, values=values))
    assert alone[["floor", "p_beyond"]].isna().all(axis=None)
    assert alone["p_equivalent"].notna().any()  # the tolerance was declared beforehand


def test_nothing_is_tested_where_a_gap_is_a_lower_bound_or_runs_are_not_independent(results: Results) -> None:
    """The planted bug: the seeds that lie far outside are the censored ones, and the others alone are tested."""

    def tested(found: Results) -> list[bool]:
        return line_of(found, "camu", "ta")[["p_equivalent", "p_beyond"]].notna().to_list()

    assert tested(results) == [True, True]
    frame = results.values.copy()
    lines = (frame["metric"] == "ta") & (frame["method"] == "camu") & (frame["scenario"] == "random-10")
    frame.loc[lines & (frame["seed"] == 4), "note"] = ">99"
    censored = replace(results, values=frame)
    assert tested(censored) == [False, False]
    assert np.isnan(line_of(censored, "camu", "ta")["gap"])
    oracle = results.values.assign(note=results.values["note"].mask(results.values["role"] == "oracle", ">99"))
    assert tested(replace(results, values=oracle)) == [False, False]
    crossed = pd.concat([results.values.assign(split_seed=split) for split in (0, 1)])
    assert tested(replace(results, values=crossed)) == [False, False]


def test_times_of_several_devices_are_neither_tested_nor_taken_apart(results: Results) -> None:
    mixed = results.values.assign(device=np.where(results.values["seed"] == 1, "cuda", "cpu"))
    found = replace(results, values=mixed)
    assert line_of(results, "finetune", "relearn_time")["n"] == 5
    assert line_of(found, "finetune", "relearn_time")["n"] == 0
    assert line_of(found, "finetune", "ta")["n"] == 5
    seconds = inference_tables(found)["variance"].query("metric == 'seconds'")
    assert (seconds["n"] == 0).all()


def test_the_control_table_has_the_headline_and_a_column_a_control(results: Results) -> None:
    table = control_table(results)
    controls = ["identity", "retrain_other_seed", "random_init"]  # in the order of the methods
    assert list(table.columns) == ["dataset", "scenario", "metric", *controls, "verdict", "reason"]
    assert table.groupby("scenario")["metric"].apply(list).to_dict() == dict.fromkeys(
        ("random-10", "class-0"), results.headline
    )
    lines = {(line["scenario"], line["metric"]): [line[c] for c in controls] for line in table.to_dict("records")}
    assert lines["random-10", "ra"] == ["pass", "pass", "pass"]
    assert lines["random-10", "avg_gap"] == ["pass", "not tested", "pass"]  # there is no bank of other retrains
    assert lines["class-0", "seconds"] == ["pass", "pass", ""]


def test_a_failing_control_stands_out_with_its_reason(results: Results) -> None:
    failing = with_values(results, "avg_gap", "random_init", "class-0", [0.1, 0.2, 0.1, 0.2, 0.1])
    line = control_table(failing).query("scenario == 'class-0' and metric == 'avg_gap'").iloc[0]
    assert line["random_init"] == "FAIL"
    assert line["verdict"] == "fail"
    assert line["reason"] == "it ranks random_init, a useless model, before identity and retrain_other_seed"


def test_without_controls_or_a_headline_the_control_table_is_empty(results: Results) -> None:
    no_controls = replace(results, values=results.values[results.values["role"] != "control"])
    for bare in (no_controls, replace(results, settings={})):
        assert control_table(bare).empty
        assert list(control_table(bare).columns) == ["dataset", "scenario", "metric", "verdict", "reason"]
        assert isinstance(inference_tables(bare)["controls"], pd.DataFrame)
