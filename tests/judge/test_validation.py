"""The suite testing itself: hand-made values of controls with the verdicts they must get, family by family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearnbench import api
from unlearnbench.cli import validate as validate_results
from unlearnbench.judge.results import VALUE_COLUMNS
from unlearnbench.judge.validation import COLUMNS, overall, validate
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Metric

STANDS_FOR = {
    "oracle": "retrained", "identity": "original", "other": "retrained", "third": "retrained",
    "collapse": "useless", "random": "useless", "camu": "",
}  # fmt: skip
NAN = float("nan")


def metric(family: Any, better: Any = "oracle", unit: str = "fraction", **changes: Any) -> Metric:
    return Metric("m", "M", unit, family, better, lambda *_: 0.0, "", **changes)


ATTACK = metric("leakage")
AUC = metric("leakage", unit="AUC", of_split=True)
DISTANCE = metric("oracle-distance", "low", needs={"oracle": 1})
LIKENESS = metric("oracle-distance", "high", needs={"oracle": 1})
GAP = metric("oracle-distance")
KLOM = metric("oracle-distance", "low", of_split=True)
QUALITY = metric("oracle-distance", "high", of_split=True)
RATIO = metric("oracle-distance", of_split=True, needs={"oracle": 1})
ACCURACY = metric("utility")
STEPS = metric("relearning")
TIME = metric("cost", "low")

Value = float | tuple[float, float, float]  # with the ends of its own interval


def frame(**controls: Value | Sequence[Value]) -> pd.DataFrame:
    """Values by control: one, or one for each seed, whose split is its own."""
    lines = []
    for method, values in controls.items():
        role = {"oracle": "oracle", "camu": "method"}.get(method, "control")
        for seed, value in enumerate(values if isinstance(values, list) else [values]):
            number, low, high = value if isinstance(value, tuple) else (value, NAN, NAN)
            lines.append(
                ["suite", "digits", "cnn", "random", method, role, STANDS_FOR[method], seed, seed, False, "cpu", "ok",
                 "m", number, low, high, "", ""]
            )  # fmt: skip
    return pd.DataFrame(lines, columns=VALUE_COLUMNS)


def floor_of(value: float | None) -> pd.DataFrame:
    lines = [] if value is None else [["digits", "random", "m", value, 1, value]]
    return pd.DataFrame(lines, columns=["dataset", "scenario", "metric", "floor", "pairs", "apart"])


def verdicts(record: Metric, floor: float | None, **controls: Any) -> dict[str, str]:
    table = validate(frame(**controls), floor_of(floor), {"m": record})
    assert list(table.columns) == COLUMNS
    assert table["reason"].ne("").eq(table["verdict"] != "pass").all()  # a reason, unless it passes
    return dict(zip(table["control"], table["verdict"], strict=True))


P, F, U = "pass", "fail", "uninformative"

# --- leakage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("floor", "oracle", "identity", "other", "expected"),
    [
        (0.05, 0.50, 0.60, 0.51, {"other": P, "identity": P}),
        (0.05, 0.50, 0.40, 0.49, {"other": P, "identity": P}),  # either side of the oracle
        (0.05, 0.50, 0.60, 0.58, {"other": F, "identity": P}),  # it tells an honest retrain from the oracle
        (0.05, 0.50, 0.42, 0.59, {"other": F, "identity": F}),  # as far as the original
        (0.20, 0.50, 0.70, 0.70, {"other": P, "identity": U}),
        (0.05, 0.50, 0.53, 0.51, {"other": P, "identity": U}),  # inside the floor
        (None, 0.50, 0.60, 0.51, {"identity": P}),  # nothing is known of honest retrains
        (None, 0.50, 0.50, 0.51, {"identity": U}),
    ],
)
def test_an_attack_by_a_single_seed(
    floor: float | None, oracle: float, identity: float, other: float, expected: dict[str, str]
) -> None:
    assert verdicts(ATTACK, floor, oracle=oracle, identity=identity, other=other) == expected


def test_over_seeds_the_interval_of_the_gaps_decides() -> None:
    oracle = [0.50, 0.55, 0.60]  # gaps .02, .03, .04: 95% of means lie within .03 ± .025, below the floor, but not 0
    assert verdicts(ATTACK, 0.05, oracle=oracle, identity=[0.52, 0.58, 0.64]) == {"identity": P}
    assert verdicts(ATTACK, 0.05, oracle=oracle, identity=[0.49, 0.58, 0.67]) == {"identity": U}  # .03 ± .099
    assert verdicts(ATTACK, 0.05, oracle=oracle, other=[0.54, 0.61, 0.68]) == {"other": P}  # .06 ± .050
    assert verdicts(ATTACK, 0.05, oracle=oracle, other=[0.57, 0.63, 0.69]) == {"other": F}  # .08 ± .025
    assert verdicts(ATTACK, 0.05, oracle=oracle, other=[0.43, 0.47, 0.51]) == {"other": F}  # -.08 ± .025


def test_gaps_are_paired_by_seed() -> None:
    """The planted bug: the difference of means has another spread than the paired gaps, here .4 instead of 0."""
    oracle, identity = [0.1, 0.5, 0.9], [0.2, 0.6, 1.0]
    assert verdicts(ATTACK, 0.05, oracle=oracle, identity=identity, other=oracle) == {"other": P, "identity": P}
    assert verdicts(ATTACK, 0.05, oracle=oracle, identity=identity[::-1], other=oracle) == {"other": P, "identity": U}


@pytest.mark.parametrize(("other", "verdict"), [(0.54, P), (0.46, P), (0.56, F), (0.44, F)])
@pytest.mark.parametrize("unit", ["AUC", "accuracy"])
def test_the_null_of_an_attack_on_banks_is_one_half(unit: str, other: float, verdict: str) -> None:
    assert verdicts(replace(AUC, unit=unit), None, oracle=0.5, other=other)["other"] == verdict


def test_a_true_positive_rate_has_no_null_of_one_half() -> None:
    rate = replace(AUC, unit="TPR")
    assert verdicts(rate, None, oracle=0.01, other=0.02, identity=0.3) == {"identity": P}
    assert verdicts(rate, None, oracle=0.01, other=0.02, identity=0.02) == {"identity": U}


@pytest.mark.parametrize(
    ("identity", "other", "verdict"),
    [
        ((0.70, 0.60, 0.80), (0.52, 0.45, 0.59), P),
        ((0.70, 0.58, 0.80), (0.52, 0.45, 0.59), U),  # the intervals overlap
        ((0.45, 0.40, 0.50), (0.52, 0.45, 0.59), U),  # below
    ],
)
def test_of_an_auc_on_banks_the_intervals_are_compared(identity: Value, other: Value, verdict: str) -> None:
    found = verdicts(AUC, None, oracle=(0.5, 0.45, 0.55), identity=identity, other=other)
    assert found == {"other": P, "identity": verdict}


def test_of_several_splits_the_widest_ends_count() -> None:
    identity = [(0.70, 0.60, 0.80), (0.70, 0.62, 0.80)]
    other = [(0.52, 0.45, 0.55), (0.50, 0.45, 0.61)]
    assert verdicts(AUC, None, oracle=[0.5, 0.5], identity=identity, other=other) == {"other": P, "identity": U}
    assert verdicts(AUC, None, oracle=[0.5, 0.5], identity=identity[1:] * 2, other=other)["identity"] == P


def test_a_control_that_speaks_for_its_split_by_another_seed_is_judged() -> None:
    table = frame(oracle=0.5, other=0.6).assign(split_seed=0)
    table["seed"] = [0, 1]
    assert validate(table, floor_of(None), {"m": AUC})["verdict"].tolist() == [F]


def test_without_another_retrain_the_oracle_is_the_null() -> None:
    assert verdicts(AUC, None, oracle=(0.5, 0.45, 0.55), identity=(0.5, 0.4, 0.6)) == {"identity": U}
    assert verdicts(AUC, None, oracle=(0.5, 0.45, 0.55), identity=(0.7, 0.6, 0.8)) == {"identity": P}
    assert verdicts(AUC, None, oracle=0.5, identity=0.6, other=0.52) == {"other": P, "identity": P}  # no intervals


# --- distance to the oracle ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"identity": 0.9}, {"identity": U}),  # inside the floor: it ranks first, and says nothing
        ({"other": 1.1}, {"other": F}),
        ({"collapse": 0.4}, {"collapse": F}),  # before an honest retrain
        ({"collapse": 1.3}, {"collapse": F}),  # before the original alone
        ({"collapse": 1.39}, {}),  # a tie
        ({"identity": 66.0, "collapse": 66.0, "random": 66.0}, {}),  # the largest value there is
    ],
)
def test_a_distance_that_is_low_near_the_oracle(changes: dict[str, float], expected: dict[str, str]) -> None:
    controls = {"oracle": 0.0, "identity": 1.4, "other": 0.5, "collapse": 66.0, "random": 65.0} | changes
    everything = {"identity": P, "other": P, "collapse": P, "random": P}
    assert verdicts(DISTANCE, 1.0, **controls) == everything | expected


def test_the_reason_names_whom_it_puts_the_useless_before() -> None:
    table = validate(frame(oracle=0.0, identity=1.4, other=0.5, collapse=0.4), floor_of(1.0), {"m": DISTANCE})
    reasons = dict(zip(table["control"], table["reason"], strict=True))
    assert reasons["collapse"] == "it ranks collapse, a useless model, before identity and other"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"identity": 0.96}, {"identity": U}),
        ({"other": 0.94}, {"other": F}),
        ({"collapse": 0.985}, {"collapse": F}),
        ({"collapse": 0.91}, {"collapse": F}),
    ],
)
def test_a_likeness_that_is_high_near_the_oracle(changes: dict[str, float], expected: dict[str, str]) -> None:
    controls = {"oracle": 1.0, "identity": 0.9, "other": 0.98, "collapse": 0.002} | changes
    assert verdicts(LIKENESS, 0.95, **controls) == {"identity": P, "other": P, "collapse": P} | expected


def test_of_a_likeness_over_seeds_the_interval_counts_downwards() -> None:
    oracle, collapse = [1.0, 1.0, 1.0], [0.0, 0.0, 0.1]
    near = {"oracle": oracle, "collapse": collapse, "identity": [0.97, 0.95, 0.93]}  # 1 - .95 ± .05 reaches .95
    assert verdicts(LIKENESS, 0.95, **near) == {"identity": U, "collapse": P}
    far = {**near, "identity": [0.80, 0.81, 0.82]}
    assert verdicts(LIKENESS, 0.95, **far) == {"identity": P, "collapse": P}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"identity": 0.99}, {"identity": U}),
        ({"other": 0.95}, {"other": F}),
        ({"collapse": 1.0}, {"collapse": F}),  # beyond the oracle, nearer than the original
        ({"collapse": 0.97}, {"collapse": F}),
    ],
)
def test_a_value_whose_gap_is_the_distance(changes: dict[str, float], expected: dict[str, str]) -> None:
    controls = {"oracle": 0.98, "identity": 0.90, "other": 0.975, "collapse": 0.1} | changes
    assert verdicts(GAP, 0.02, **controls) == {"identity": P, "other": P, "collapse": P} | expected


def test_without_a_floor_any_distance_from_the_oracle_tells_the_original() -> None:
    assert verdicts(DISTANCE, None, oracle=0.0, identity=0.1, other=0.05) == {"identity": P}
    assert verdicts(DISTANCE, None, oracle=0.0, identity=0.0) == {"identity": U}
    assert verdicts(LIKENESS, None, oracle=1.0, identity=0.9) == {"identity": P}
    assert verdicts(LIKENESS, None, oracle=1.0, identity=1.0) == {"identity": U}


@pytest.mark.parametrize(
    ("record", "oracle", "other", "identity", "useless", "expected"),
    [
        (KLOM, 1.6, 1.7, 3.0, 9.0, (P, P, P)),
        (KLOM, 1.6, 2.1, 3.0, 9.0, (F, P, P)),  # more than 1.25 times the null
        (KLOM, 1.6, 1.7, 1.9, 9.0, (P, U, P)),
        (KLOM, 1.6, 1.7, 3.0, 2.0, (P, P, F)),
        (QUALITY, 0.5, 0.42, 0.2, 0.0, (P, P, P)),
        (QUALITY, 0.5, 0.39, 0.2, 0.0, (F, P, P)),  # less than the null over 1.25
        (QUALITY, 0.5, 0.42, 0.45, 0.0, (P, U, P)),
        (QUALITY, 0.5, 0.42, 0.2, 0.3, (P, P, F)),
        (RATIO, 1.0, 1.2, 0.4, 0.0, (P, P, P)),
        (RATIO, 1.0, 1.3, 0.4, 0.0, (F, P, P)),
        (RATIO, 1.0, 0.9, 0.8, 0.0, (P, U, P)),
    ],
)
def test_of_models_of_a_bank_the_oracle_s_line_is_the_null(
    record: Metric, oracle: float, other: float, identity: float, useless: float, expected: tuple[str, str, str]
) -> None:
    found = verdicts(record, None, oracle=oracle, other=other, identity=identity, collapse=useless)
    assert found == dict(zip(("other", "identity", "collapse"), expected, strict=True))


# --- utility, relearning, cost ---------------------------------------------------------------------------------------


def test_utility_tells_some_control_from_the_oracle() -> None:
    assert verdicts(ACCURACY, 0.5, oracle=96.0, identity=96.2, other=96.3, random=10.0) == {"other": P, "random": P}
    assert verdicts(ACCURACY, 0.5, oracle=0.0, identity=99.0, other=0.0, random=0.0) == {"other": P, "identity": P}
    assert verdicts(ACCURACY, 0.5, oracle=96.0, identity=96.2, other=96.3, random=95.9) == {"other": P, "random": F}
    assert verdicts(ACCURACY, 0.5, oracle=96.0, identity=96.2, other=97.0, random=10.0) == {"other": F, "random": P}
    assert verdicts(ACCURACY, 0.5, oracle=96.0, identity=96.2, other=96.3) == {"other": P}  # where nothing is expected


def test_a_metric_that_is_always_the_same_tells_nothing_even_without_a_floor() -> None:
    assert verdicts(ACCURACY, None, oracle=50.0, identity=50.0, random=50.0) == {"random": F}
    assert verdicts(ACCURACY, 0.0, oracle=50.0, other=50.0, random=50.0) == {"other": P, "random": F}


def test_the_original_relearns_first() -> None:
    assert verdicts(STEPS, 5.0, oracle=50.0, identity=0.0, other=70.0, random=600.0) == {"identity": P}
    assert verdicts(STEPS, 5.0, oracle=50.0, identity=47.0) == {"identity": U}
    assert verdicts(STEPS, 5.0, oracle=50.0, identity=80.0) == {"identity": F}
    assert verdicts(STEPS, None, oracle=1.0, identity=0.0) == {"identity": P}
    several = {"oracle": [40.0, 60.0, 50.0], "identity": [0.0, 0.0, 0.0]}  # the mean over seeds is not 0: that counts
    assert verdicts(STEPS, 60.0, **several) == {"identity": P}
    assert verdicts(STEPS, 0.0, **(several | {"oracle": [1.0, -1.0, 3.0]})) == {"identity": U}


def test_the_original_costs_nothing_and_a_retrain_what_the_oracle_costs() -> None:
    expected = {"identity": P, "other": P}
    assert verdicts(TIME, None, oracle=100.0, identity=0.5, other=90.0, random=3.0) == expected
    assert verdicts(TIME, None, oracle=100.0, identity=2.0, other=199.0) == {"identity": F, "other": P}
    assert verdicts(TIME, None, oracle=100.0, identity=0.0, other=40.0) == {"identity": P, "other": F}
    assert verdicts(TIME, None, oracle=100.0, identity=0.0, other=210.0) == {"identity": P, "other": F}
    assert verdicts(TIME, None, oracle=0.0, identity=0.0, other=0.0) == {}
    assert verdicts(replace(TIME, better="high"), None, oracle=1.0, identity=50.0) == {}


# --- what there is no verdict on -------------------------------------------------------------------------------------

FAMILIES = [ATTACK, AUC, DISTANCE, LIKENESS, GAP, KLOM, QUALITY, ACCURACY, STEPS, TIME]


@pytest.mark.parametrize("record", FAMILIES)
def test_without_controls_or_without_the_oracle_there_is_no_verdict(record: Metric) -> None:
    assert verdicts(record, 0.1, oracle=0.5, camu=0.7) == {}
    assert verdicts(record, 0.1, identity=0.5, other=0.6, collapse=0.1) == {}
    assert verdicts(record, 0.1, oracle=NAN, identity=0.5, other=0.6, collapse=0.1) == {}
    assert verdicts(record, 0.1, oracle=0.5, identity=NAN, other=NAN) == {}


def test_an_oracle_of_another_seed_is_no_partner() -> None:
    values = frame(oracle=[0.5, NAN], identity=[NAN, 0.9])
    assert validate(values, floor_of(0.1), {"m": ATTACK}).empty


@pytest.mark.parametrize("record", FAMILIES)
def test_methods_have_no_say(record: Metric) -> None:
    controls = {"oracle": 0.5, "identity": 0.9, "other": 0.52, "collapse": 3.0}
    values = frame(**controls, camu=0.5)
    posing = values.assign(stands_for=values["stands_for"].replace("", "useless"))  # whatever they stand for
    once, again = (validate(v, floor_of(0.1), {"m": record}) for v in (frame(**controls), posing))
    assert as_dict(once) == as_dict(again)


def test_nothing_run_gives_an_empty_table() -> None:
    table = validate(frame(), floor_of(None), {"m": ATTACK})
    assert list(table.columns) == COLUMNS
    assert table.empty
    assert overall(table).empty


def test_datasets_scenarios_and_metrics_are_judged_apart() -> None:
    easy = frame(oracle=0.5, identity=0.52)
    hard = frame(oracle=0.5, identity=0.9).assign(scenario="class")
    steps = frame(oracle=50.0, identity=80.0).assign(metric="n")
    table = validate(pd.concat([easy, hard, steps]), floor_of(0.1), {"m": ATTACK, "n": STEPS})
    found = [tuple(line) for line in table[["scenario", "metric", "verdict"]].to_numpy()]
    assert found == [("random", "m", U), ("class", "m", P), ("random", "n", F)]  # and floors are the random one's alone


# --- invariances -----------------------------------------------------------------------------------------------------

HUNDREDTHS = st.integers(-100, 100).map(lambda n: n / 64)  # exact in binary, so that shifts are


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[HUNDREDTHS] * 4), min_size=1, max_size=3),
    st.integers(0, 64).map(lambda n: n / 64),
    st.sampled_from([ATTACK, GAP, ACCURACY, STEPS]),
    st.integers(-8, 8),
    st.randoms(use_true_random=False),
)
def test_neither_a_constant_nor_the_order_of_rows_matters(
    runs: list[tuple[float, ...]], floor: float, record: Metric, constant: int, random: Any
) -> None:
    columns = [list(column) for column in zip(*runs, strict=True)]
    values = frame(**dict(zip(("oracle", "identity", "other", "collapse"), columns, strict=True)))
    order = list(range(len(values)))
    random.shuffle(order)
    once = validate(values, floor_of(floor), {"m": record})
    again = validate(values.assign(value=values["value"] + constant).iloc[order], floor_of(floor), {"m": record})
    assert as_dict(once) == as_dict(again)


def as_dict(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["control"], table["verdict"], strict=True))


# --- the worst of several --------------------------------------------------------------------------------------------


def test_overall_is_the_worst_with_its_reasons() -> None:
    lines = [
        ["digits", "random", "m", "identity", U, "inside"], ["digits", "random", "m", "a", F, "one"],
        ["digits", "random", "m", "b", F, "two"], ["digits", "random", "m", "c", F, "one"],
        ["digits", "random", "n", "identity", U, "inside"], ["digits", "random", "n", "a", P, ""],
        ["digits", "class", "n", "a", P, ""],
    ]  # fmt: skip
    table = overall(pd.DataFrame(lines, columns=COLUMNS))
    assert table.to_numpy().tolist() == [
        ["digits", "random", "m", F, "one; two"], ["digits", "random", "n", U, "inside"],
        ["digits", "class", "n", P, ""],
    ]  # fmt: skip


# --- a real run ------------------------------------------------------------------------------------------------------


def accuracy_on_random_labels(evidence: Evidence, _: Context) -> float:
    """The planted bug: labels that have nothing to do with the samples."""
    labels = np.random.default_rng(evidence.seed).integers(0, 10, len(evidence.labels["retain"]))
    return 100 * float((evidence.logits["retain"].argmax(axis=1) == labels).mean())


RANDOM_LABELS = Metric("random_labels", "RL", "%", "utility", "oracle", accuracy_on_random_labels, "A planted bug.")


def test_a_run_has_its_verdicts_and_a_planted_bug_is_found(
    tiny: Callable[..., Path], register: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register("metrics", random_labels=SimpleNamespace(__module__=__name__, __name__="RANDOM_LABELS"))
    headline = '[report]\nheadline = ["fa", "ra", "random_labels"]\n'
    controls = ("identity", "retrain_other_seed", "random_init", "collapse")
    suite = tiny(*controls, seeds=(0, 1), top="bank = 2", extra=headline)
    options: dict[str, Any] = {"sets": ["recipe.epochs=15"], "device": "cpu", "jobs": 1}
    results = api.run(str(suite), **options, results=tmp_path / "results")
    found: dict[str, Mapping[str, str]] = {
        str(name): as_dict(rows) for name, rows in results.controls.groupby("metric", sort=False)
    }
    assert found["ra"] == {"retrain_other_seed": P, "random_init": P, "collapse": P}
    assert found["fa"]["retrain_other_seed"] == P
    assert F not in found["fa"].values()
    assert F in found["random_labels"].values()
    assert P not in [found["random_labels"].get(name) for name in ("random_init", "collapse")]
    assert validate_results(tmp_path / "results") == 1
    shown = capsys.readouterr().out
    assert "tiny: digits random" in shown
    line = next(line for line in shown.splitlines() if line.strip().startswith("random_labels"))
    assert "FAIL" in line
    assert "random_labels: fail: it tells no control from the oracle" in shown
    plain = tiny(*controls, seeds=(0, 1), top="bank = 2", extra=headline.replace(', "random_labels"', ""))
    api.run(str(plain), **options, results=tmp_path / "results")
    assert validate_results(tmp_path / "results") == 0
