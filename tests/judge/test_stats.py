"""Means, intervals and paired gaps: closed forms against tables of the t distribution, and what empty values do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from unlearnbench.judge.results import VALUE_COLUMNS
from unlearnbench.judge.stats import (
    CROSSED,
    SINGLE,
    crossed,
    distances,
    gap_metrics,
    paired_gaps,
    refuse_mixed_devices,
    runs_in_words,
    several_devices,
    summarise,
    summary_table,
    with_scores,
)
from unlearnbench.plan.spec import REASONS, Empty, Metric


def metric(name: str, **changes: Any) -> Metric:
    fields: dict[str, Any] = {"unit": "%", "family": "utility", "better": "oracle", "fn": lambda e, o: 0.0, "doc": ""}
    return Metric(name, name.upper(), **(fields | changes))


METRICS = {
    "fa": metric("fa"),
    "seconds": metric("seconds", better="low", per_machine=True),
    "far": metric("far", needs={"oracle": 1}),
}


def values(*lines: tuple[str, str, int, float, str], **changes: Any) -> pd.DataFrame:
    """Lines of (method, role, seed, value, note) of one metric, as `Results.values`."""
    shared = {"suite": "s", "dataset": "digits", "model": "cnn", "scenario": "class-0", "quick": False, "device": "cpu"}
    rows = [
        shared | {"method": m, "role": r, "split_seed": s, "seed": s, "status": "ok", "metric": "fa", "value": v}
        | {"note": note, "key": ""} | changes
        for m, r, s, v, note in lines
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=VALUE_COLUMNS)


def test_interval_of_five_values_is_students() -> None:
    summary = summarise([1.0, 2.0, 3.0, 4.0, 5.0])
    # t(.975, 4) = 2.776445; std = 1.581139; half = 2.776445 * 1.581139 / sqrt(5) = 1.963243
    assert (summary.mean, summary.n) == (3.0, 5)
    assert summary.std == pytest.approx(1.581139, abs=1e-6)
    assert summary.low == pytest.approx(1.036757, abs=1e-6)
    assert summary.high == pytest.approx(4.963243, abs=1e-6)


def test_interval_of_two_values_is_twelve_half_ranges_wide() -> None:
    summary = summarise([-1.0, 1.0])  # t(.975, 1) = 12.7062, std / sqrt(2) = 1
    assert summary.high == pytest.approx(12.7062, abs=1e-4)
    assert summary.low == pytest.approx(-12.7062, abs=1e-4)


def test_equal_values_have_an_interval_of_no_width() -> None:
    summary = summarise([7.0, 7.0, 7.0])
    assert (summary.std, summary.low, summary.high) == (0.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("runs", "expected", "words"),
    [
        ([(0, 0), (1, 1), (2, 2)], False, "3 seeds"),
        ([(0, 0), (0, 1), (0, 2)], False, "3 seeds on one split"),  # what is said is said of it
        ([(0, 0), (1, 0)], False, "2 splits, one seed"),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], True, "2 splits x 2 seeds"),
        ([(0, 0), (0, 1), (1, 1)], True, "2 splits x 2 seeds"),
        ([(0, 0)], False, SINGLE),
    ],
)
def test_runs_that_share_splits_and_seeds_are_crossed(runs: list[tuple[int, int]], expected: bool, words: str) -> None:
    assert crossed(runs) is expected
    assert runs_in_words(pd.DataFrame(runs * 2, columns=["split_seed", "seed"])) == words


def test_what_belongs_to_a_split_is_paired_by_split() -> None:
    """A method that failed on the first seed of a split speaks for it in the second."""
    lines = values(("retrain", "oracle", 0, 5.0, ""), ("camu", "method", 1, 7.0, "")).assign(split_seed=0)
    of_split = {"fa": metric("fa", of_split=True)}
    assert paired_gaps(lines, of_split).set_index("method")["value"].to_dict() == {"retrain": 0.0, "camu": 2.0}
    assert paired_gaps(lines, METRICS).set_index("method")["value"].isna()["camu"]


def test_crossed_runs_have_a_mean_and_no_interval() -> None:
    """Of three seeds on three splits the seed may decide everything: then nine values are worth three."""
    lines = values(*(("camu", "method", seed, float(seed), "") for seed in (0, 1, 2)))
    table = summary_table(pd.concat([lines.assign(split_seed=split) for split in (0, 1, 2)])).iloc[0]
    assert (table["mean"], table["n"], table["note"]) == (1.0, 9, CROSSED)
    assert math.isnan(table["low"])
    assert math.isnan(table["high"])
    assert not math.isnan(summary_table(lines).iloc[0]["low"])


def test_one_value_has_no_spread_and_none_has_no_mean() -> None:
    one = summarise([4.0, math.nan])
    assert (one.mean, one.n) == (4.0, 1)
    assert all(math.isnan(x) for x in (one.std, one.low, one.high))
    none = summarise([math.nan])
    assert none.n == 0
    assert math.isnan(none.mean)


def test_empty_values_drop_out_and_the_note_says_why() -> None:
    table = summary_table(
        values(
            ("camu", "method", 0, 1.0, ""),
            ("camu", "method", 1, math.nan, "Traceback:\n  x\nRuntimeError: a; b"),
            ("camu", "method", 2, 3.0, ""),
        )
    )
    (line,) = table.to_dict("records")
    assert (line["mean"], line["n"]) == (2.0, 2)
    assert line["note"] == "1 of 3 without a value: RuntimeError: a, b"


def test_a_single_value_keeps_its_own_interval_and_its_gap_has_none() -> None:
    alone = values(("retrain", "oracle", 0, 0.5, ""), ("camu", "method", 0, 0.6, "")).assign(low=0.4, high=0.7)
    for _, line in summary_table(alone).iterrows():
        assert (line["low"], line["high"], line["n"]) == (0.4, 0.7, 1)
    gap = summary_table(paired_gaps(alone, METRICS)).set_index("method").loc["camu"]
    assert gap["mean"] == pytest.approx(0.1)
    assert math.isnan(gap["low"])
    two = pd.concat([alone, alone.assign(seed=1, split_seed=1)])
    assert summary_table(two)["low"].tolist() == [0.5, 0.6]  # of two equal values, the t interval


def test_a_censored_value_keeps_its_number_and_marks_the_summary() -> None:
    table = summary_table(values(("camu", "method", 0, 400.0, ""), ("camu", "method", 1, 1000.0, ">1000")))
    (line,) = table.to_dict("records")
    assert (line["mean"], line["n"]) == (700.0, 2)
    assert line["note"] == ">1000 in 1 of 2, so the mean is a lower bound"
    assert all(math.isnan(line[name]) for name in ("std", "low", "high"))


def test_a_note_beside_values_stays_where_all_seeds_agree() -> None:
    table = summary_table(
        values(
            ("same", "method", 0, 1.0, "n = 9 per side"),
            ("same", "method", 1, 2.0, "n = 9 per side"),
            ("other", "method", 0, 1.0, "n = 9 per side"),
            ("other", "method", 1, 2.0, "n = 8 per side"),
        )
    )
    assert list(table["note"]) == ["n = 9 per side", ""]
    assert list(table["std"].notna()) == [True, True]


def test_order_is_the_suites_with_the_oracle_first_and_controls_last() -> None:
    lines = [("identity", "control"), ("zeta", "method"), ("retrain", "oracle"), ("alpha", "method")]
    table = summary_table(values(*((m, r, seed, 1.0, "") for seed in (0, 1) for m, r in lines)))
    assert list(table["method"]) == ["retrain", "zeta", "alpha", "identity"]
    assert list(table.columns) == ["dataset", "scenario", "method", "metric", "mean", "std", "low", "high", "n", "note"]


PAIRS = values(
    *(("retrain", "oracle", seed, value, "") for seed, value in enumerate([10.0, 20.0, 40.0])),
    *(("camu", "method", seed, value, "") for seed, value in enumerate([11.0, 18.0, 45.0])),
)


def gaps_by_seed(frame: pd.DataFrame, method: str = "camu") -> dict[int, float]:
    gaps = paired_gaps(frame, METRICS)
    return dict(
        gaps[gaps["method"] == method].sort_values("seed")[["seed", "value"]].itertuples(index=False, name=None)
    )


def test_gaps_are_signed_and_paired_by_seed() -> None:
    assert gaps_by_seed(PAIRS) == {0: 1.0, 1: -2.0, 2: 5.0}
    assert gaps_by_seed(PAIRS, "retrain") == {0: 0.0, 1: 0.0, 2: 0.0}
    assert set(paired_gaps(PAIRS, METRICS)["metric"]) == {"fa_gap"}


def test_a_shuffled_frame_gives_the_same_gaps() -> None:
    assert gaps_by_seed(PAIRS.sample(frac=1, random_state=3)) == {0: 1.0, 1: -2.0, 2: 5.0}


def test_both_seeds_make_the_pair() -> None:
    swapped = PAIRS.assign(split_seed=PAIRS["split_seed"].where(PAIRS["role"] == "oracle", 2 - PAIRS["split_seed"]))
    gaps = gaps_by_seed(swapped)
    assert gaps[1] == -2.0
    assert math.isnan(gaps[0])


def test_a_missing_oracle_seed_drops_only_its_pair() -> None:
    gaps = paired_gaps(PAIRS.drop(index=1), METRICS)
    (line,) = summary_table(gaps[gaps["method"] == "camu"]).to_dict("records")
    assert (line["mean"], line["n"]) == (3.0, 2)
    assert line["note"] == f"1 of 3 without a value: {REASONS['no_oracle']}"


@pytest.mark.parametrize(
    ("oracle", "reason"),
    [((math.nan, "the method failed"), REASONS["oracle_empty"]), ((1000.0, ">1000"), "the oracle's value is censored")],
)
def test_an_oracle_without_a_plain_value_gives_no_gap(oracle: tuple[float, str], reason: str) -> None:
    frame = values(("retrain", "oracle", 0, *oracle), ("camu", "method", 0, 7.0, ""))
    gaps = paired_gaps(frame, METRICS).set_index("method")
    assert math.isnan(gaps["value"]["camu"])
    assert gaps["note"]["camu"] == reason
    scored = with_scores(frame, METRICS).set_index("method")
    assert math.isnan(scored["oracle"]["camu"])  # a lower bound is no value to be equivalent to
    assert math.isnan(scored["score"]["camu"])


def test_a_failed_method_keeps_its_own_reason_and_an_attack_its_size() -> None:
    frame = values(
        ("retrain", "oracle", 0, 5.0, "n = 9 per side"),
        ("camu", "method", 0, math.nan, "the method failed"),
        ("slow", "method", 0, 9.0, ">9"),
    )
    gaps = paired_gaps(frame, METRICS).set_index("method")
    assert dict(gaps["note"]) == {"retrain": "", "camu": "the method failed", "slow": ">9"}


def test_only_absolute_metrics_that_aim_at_the_oracle_have_gaps() -> None:
    assert [m.name for m in gap_metrics(METRICS)] == ["fa"]


def test_distances_are_absolute_run_by_run() -> None:
    """The planted bug: the absolute mean gap, 1.33 here, by which scatter about the oracle wins."""
    lines = distances(PAIRS, METRICS)
    assert lines[lines["method"] == "camu"].sort_values("seed")["value"].to_list() == [1.0, 2.0, 5.0]
    assert set(lines["metric"]) == {"fa_distance"}
    ratio = distances(PAIRS.assign(metric="far"), METRICS)  # a ratio to the oracle's value has a distance, and no gap
    assert set(ratio["metric"]) == {"far_distance"}
    assert list(lines.columns) == list(PAIRS.columns)


def test_scores_are_what_the_best_has_least_of() -> None:
    def scores(better: str, frame: pd.DataFrame = PAIRS) -> list[float]:
        lines = with_scores(frame, {"fa": replace(METRICS["fa"], better=better)})  # type: ignore[arg-type]
        return lines[lines["method"] == "camu"].sort_values("seed")["score"].to_list()

    values_of_camu = PAIRS[PAIRS["method"] == "camu"].sort_values("seed")["value"].to_list()
    assert scores("oracle") == [1.0, 2.0, 5.0]
    assert scores("low") == values_of_camu
    assert scores("high") == [-value for value in values_of_camu]
    bounds = PAIRS.assign(note=PAIRS["note"].mask((PAIRS["method"] == "camu") & (PAIRS["seed"] == 1), ">9"))
    assert [math.isnan(score) for score in scores("oracle", bounds)] == [False, True, False]
    assert [math.isnan(score) for score in scores("low", bounds)] == [False, True, False]


def test_times_of_different_devices_are_refused_and_the_rest_is_kept() -> None:
    lines = [("camu", "method", seed, 1.0, "") for seed in (0, 1)]
    seconds = values(*lines, metric="seconds").assign(device=["cpu", "cuda"])
    frame = pd.concat([seconds, values(*lines).assign(device=["cpu", "cuda"])])
    refused = refuse_mixed_devices(frame, METRICS)
    assert list(refused["value"].isna()) == [True, True, False, False]
    assert refused["note"][0] == "measured on different devices: cpu, cuda"
    assert refuse_mixed_devices(seconds.assign(device="cpu"), METRICS)["value"].tolist() == [1.0, 1.0]


def test_an_oracle_that_was_trained_elsewhere_has_no_honest_seconds_nor_has_what_is_compared_with_them() -> None:
    """A run that went on on another machine: its oracle's time is of both, and every RTE rests on it."""
    metrics = METRICS | {"rte": metric("rte", better="high", needs={"oracle": 1}, per_machine=True)}
    oracle = values(("retrain", "oracle", 0, 9.0, ""), metric="seconds", device=several_devices("B", "A"))
    rte = values(("camu", "method", 0, 3.0, ""), metric="rte", device=several_devices("B", ""))
    assert (oracle["device"][0], rte["device"][0], several_devices("A", "A")) == ("B + A", "B", "A")
    for frame in (pd.concat([oracle, rte]), oracle):
        refused = refuse_mixed_devices(frame, metrics)
        assert refused["value"].isna().all()
        assert set(refused["note"]) == {str(Empty("mixed_devices", "A, B"))}
    assert refuse_mixed_devices(rte, metrics)["value"].tolist() == [3.0]
