"""What the numbers are worth, as tables: which metric ranks, what it leaves out, where gaps are equivalent to none."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from unlearnbench_reports.statistics import (
    control_table,
    equivalence,
    ranking_metric,
    ranking_values,
    statistics,
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
        tables = statistics(results)
    assert list(tables) == ["controls", "equivalence", "ranks", "tests", "variance"]
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
    tables = statistics(replace(results, settings={}))
    assert tables["ranks"].empty
    assert tables["tests"].empty
    assert len(tables["variance"])


def test_methods_are_ranked_by_the_mean_over_scenarios(results: Results) -> None:
    table = statistics(results)["ranks"].set_index("method")
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
    ranked = statistics(failing)["ranks"].set_index("method")["mean"].dropna()
    assert ranked.to_dict() == {"camu": 1.0, "finetune": 2.0, "neggrad_plus": 3.0, "gradient_ascent": 4.0}


def test_where_a_metric_is_uninformative_it_does_not_rank(results: Results) -> None:
    within = with_values(results, "avg_gap", "identity", "class-0", [0.1, 0.2, 0.1, 0.2, 0.1])
    assert set(within.controls.query("metric == 'avg_gap' and scenario == 'class-0'")["verdict"]) >= {"uninformative"}
    assert set(ranking_values(within, results.metrics["avg_gap"])["scenario"]) == {"random-10"}
    assert set(statistics(within)["tests"]["scenario"]) == {"random-10"}


def test_where_it_fails_everywhere_nothing_ranks(results: Results) -> None:
    for scenario in ("random-10", "class-0"):
        results = with_values(results, "avg_gap", "random_init", scenario, [0.1, 0.2, 0.1, 0.2, 0.1])
    assert statistics(results)["ranks"].empty


def test_equivalence_tests_paired_gaps_against_the_floor(results: Results) -> None:
    table = equivalence(results)
    assert list(table.columns) == ["dataset", "scenario", "method", "metric", "floor", "pairs", "p"]
    assert "retrain" not in set(table["method"])
    assert set(table["metric"]) <= {name for name, metric in results.metrics.items() if metric.better == "oracle"}
    frame = results.values.query("metric == 'ta' and scenario == 'random-10'").set_index(["method", "seed"])["value"]
    floor = np.quantile((frame["retrain"] - frame["retrain_other_seed"]).abs(), 0.95)  # one pair a split
    gaps = frame["camu"] - frame["retrain"]
    line = table.query("method == 'camu' and metric == 'ta' and scenario == 'random-10'").iloc[0]
    assert line["floor"] == pytest.approx(floor)
    assert line["pairs"] == 5
    upper, lower = ttest_1samp(gaps, floor, alternative="less"), ttest_1samp(gaps, -floor, alternative="greater")
    assert line["p"] == pytest.approx(max(upper.pvalue, lower.pvalue))


def test_of_a_single_seed_there_is_no_test(results: Results) -> None:
    one = replace(results, values=results.values[results.values["seed"] == 0])
    assert equivalence(one)["p"].isna().all()


def test_without_a_second_retrain_there_is_no_floor_to_test_against(results: Results) -> None:
    values = results.values[results.values["method"] != "retrain_other_seed"]
    assert equivalence(replace(results, values=values)).empty


def test_nothing_is_equivalent_where_a_gap_is_a_lower_bound_or_runs_are_not_independent(results: Results) -> None:
    """The planted bug: the seeds that lie far outside are the censored ones, and the others alone are tested."""

    def p(found: Results) -> float:
        line = equivalence(found).query("method == 'camu' and metric == 'ta' and scenario == 'random-10'")
        return float(line["p"].iloc[0])

    assert not np.isnan(p(results))
    frame = results.values.copy()
    lines = (frame["metric"] == "ta") & (frame["method"] == "camu") & (frame["scenario"] == "random-10")
    frame.loc[lines & (frame["seed"] == 4), "note"] = ">99"
    assert np.isnan(p(replace(results, values=frame)))
    again = results.values.assign(split_seed=results.values["split_seed"] + 10)
    assert np.isnan(
        p(replace(results, values=pd.concat([results.values.assign(split_seed=0), again.assign(split_seed=1)])))
    )


def test_the_control_table_has_the_headline_and_a_column_a_control(results: Results) -> None:
    table = control_table(results)
    controls = ["identity", "retrain_other_seed", "random_init"]  # in the order of the methods
    assert list(table.columns) == ["dataset", "scenario", "metric", *controls, "verdict", "reason"]
    assert table.groupby("scenario")["metric"].apply(list).to_dict() == dict.fromkeys(
        ("random-10", "class-0"), results.headline
    )
    lines = {(line["scenario"], line["metric"]): [line[c] for c in controls] for line in table.to_dict("records")}
    assert lines["random-10", "ra"] == [
        "",
        "",
        "pass",
    ]  # of identity nothing is expected, nor without a bank of retrains
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
        assert isinstance(statistics(bare)["controls"], pd.DataFrame)
