"""The suite testing itself: hand-made values of controls with the verdicts they must get, family by family."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pandas as pd
import pytest
from validation_cases import (
    ACCURACY,
    ATTACK,
    AUC,
    DISTANCE,
    GAP,
    KLOM,
    LIKENESS,
    QUALITY,
    RATIO,
    STEPS,
    TIME,
    F,
    N,
    P,
    T,
    U,
    Value,
    as_dict,
    frame,
    judged,
    retrains,
    verdicts,
)  # fmt: skip

from unlearnbench.judge.floor import honest
from unlearnbench.judge.validation import validate
from unlearnbench.plan.spec import Metric, Tolerance

# --- an honest retrain -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [ATTACK, GAP, ACCURACY], ids=lambda record: record.family)
def test_an_honest_retrain_among_the_others_is_not_contradicted_which_is_no_pass(record: Metric) -> None:
    assert verdicts(record, 0.05, oracle=0.5, other=0.51)["other"] == N
    assert verdicts(record, 0.05, oracle=0.5, other=0.45)["other"] == N
    assert verdicts(record, 0.05, oracle=0.5, other=0.56)["other"] == F
    assert verdicts(record, 0.05, oracle=0.5, other=0.44)["other"] == F


def test_it_passes_where_it_is_shown_to_be_within_the_tolerance() -> None:
    declared = replace(ATTACK, tolerance=Tolerance(0.02))
    assert verdicts(declared, 0.05, oracle=0.5, other=0.51) == {"other": P}
    assert verdicts(declared, None, oracle=0.5, other=0.51) == {"other": P}  # whatever is known of others
    assert verdicts(declared, 0.001, oracle=0.5, other=0.51) == {"other": P}  # and however near they lie
    scattered = [0.45, 0.55, 0.49, 0.52, 0.5]
    assert verdicts(declared, 0.05, oracle=0.5, other=scattered) == {"other": N}


def test_without_a_bank_it_is_not_tested() -> None:
    """The planted bug: a retrain that is held against itself."""
    assert verdicts(ATTACK, None, oracle=0.5, other=0.9, third=0.5) == {"other": T, "third": T}


def test_runs_that_share_splits_and_seeds_bear_no_test() -> None:
    parts = [frame(oracle=0.5, other=0.6, identity=0.9).assign(split_seed=split) for split in (0, 1)]
    table = judged(ATTACK, pd.concat(parts), 0.05)
    assert set(table["verdict"]) == {T}
    assert set(table["reason"]) == {"runs that share splits and seeds bear no test"}


def test_two_retrains_among_the_controls_do_not_vouch_for_each_other() -> None:
    assert verdicts(ATTACK, 0.05, oracle=0.5, other=0.9, third=0.9) == {"other": F, "third": F}


# --- leakage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spread", "identity", "other", "expected"),
    [
        (0.05, 0.60, 0.51, {"other": N, "identity": P}),
        (0.05, 0.40, 0.49, {"other": N, "identity": P}),  # either side of the oracle
        (0.05, 0.60, 0.58, {"other": F, "identity": P}),  # it tells an honest retrain from the oracle
        (0.05, 0.53, 0.51, {"other": N, "identity": U}),  # no farther than honest retrains, though in every run
        (None, 0.60, 0.51, {"other": T, "identity": P}),  # of the retrain itself nobody knows more
        (None, 0.50, 0.51, {"other": T, "identity": U}),
    ],
)
def test_an_attack(spread: float | None, identity: float, other: float, expected: dict[str, str]) -> None:
    assert verdicts(ATTACK, spread, oracle=0.50, identity=identity, other=other) == expected


def test_distances_count_run_by_run() -> None:
    """The planted bug: the mean of signed gaps, which is nothing here, and by which an attack would tell nothing."""
    oracle = [0.5, 0.5, 0.5, 0.5, 0.5]
    assert verdicts(ATTACK, 0.05, oracle=oracle, identity=[0.7, 0.3, 0.7, 0.3, 0.5]) == {"identity": P}


def test_gaps_are_paired_by_seed() -> None:
    """The planted bug: the difference of means, which the order of the seeds does not change."""
    oracle, identity = [0.1, 0.3, 0.5, 0.7, 0.9], [0.12, 0.32, 0.52, 0.72, 0.92]
    assert verdicts(ATTACK, 0.05, oracle=oracle, identity=identity) == {"identity": U}
    assert verdicts(ATTACK, 0.05, oracle=oracle, identity=identity[::-1]) == {"identity": P}


@pytest.mark.parametrize("record", [ATTACK, GAP, DISTANCE, ACCURACY, STEPS], ids=lambda r: f"{r.family} {r.better}")
def test_of_a_single_run_nothing_is_tested(record: Metric) -> None:
    found = verdicts(record, 0.05, oracle=[0.0], identity=[0.9], collapse=[0.95])
    assert {verdict for verdict in found.values() if verdict != P} == {T}


@pytest.mark.parametrize(("other", "verdict"), [(0.54, P), (0.46, P), (0.56, F), (0.44, F)])
@pytest.mark.parametrize("unit", ["AUC", "accuracy"])
def test_the_null_of_an_attack_on_banks_is_one_half(unit: str, other: float, verdict: str) -> None:
    assert verdicts(replace(AUC, unit=unit), None, oracle=0.5, other=other)["other"] == verdict


@pytest.mark.parametrize(("other", "verdict"), [(0.04, P), (-0.04, P), (0.06, F), (0.5, F)])
def test_the_null_of_a_difference_of_areas_is_0(other: float, verdict: str) -> None:
    assert verdicts(replace(AUC, unit="AUC difference"), None, oracle=0.0, other=other)["other"] == verdict


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ((0.50, 0.46, 0.54), P),
        ((0.50, 0.39, 0.61), N),  # near .5, but nothing shows it
        ((0.58, 0.50, 0.66), N),  # .58 by chance
        ((0.66, 0.57, 0.75), F),
    ],
)
def test_of_a_null_the_interval_counts(other: Value, verdict: str) -> None:
    assert verdicts(AUC, None, oracle=0.5, other=other)["other"] == verdict


def test_what_stands_beside_another_metric_is_judged_by_no_control() -> None:
    assert verdicts(replace(AUC, controlled=False), None, oracle=0.5, other=0.9, identity=0.5) == {}


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
    assert found["identity"] == verdict


def test_of_several_splits_the_widest_ends_count() -> None:
    identity = [(0.70, 0.60, 0.80), (0.70, 0.62, 0.80)]
    other = [(0.52, 0.45, 0.55), (0.50, 0.45, 0.61)]
    assert verdicts(AUC, None, oracle=[0.5, 0.5], identity=identity, other=other)["identity"] == U
    assert verdicts(AUC, None, oracle=[0.5, 0.5], identity=identity[1:] * 2, other=other)["identity"] == P


def test_a_control_that_speaks_for_its_split_by_another_seed_is_judged() -> None:
    table = frame(oracle=[0.5], other=[0.6]).assign(split_seed=0)
    table["seed"] = [0, 1]
    assert judged(AUC, table, None)["verdict"].tolist() == [F]


def test_without_another_retrain_the_oracle_is_the_null() -> None:
    assert verdicts(AUC, None, oracle=(0.5, 0.45, 0.55), identity=(0.5, 0.4, 0.6)) == {"identity": U}
    assert verdicts(AUC, None, oracle=(0.5, 0.45, 0.55), identity=(0.7, 0.6, 0.8)) == {"identity": P}
    assert verdicts(AUC, None, oracle=0.5, identity=0.6, other=0.52) == {"other": P, "identity": P}  # no intervals


# --- distance to the oracle ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"identity": 0.9}, {"identity": U}),  # not beyond the floor: it ranks first, and says nothing
        ({"other": 1.1}, {"other": F}),
        ({"collapse": 0.4}, {"collapse": F}),  # before an honest retrain
        ({"collapse": 1.3}, {"collapse": F}),  # before the original alone
        ({"collapse": 1.39}, {}),  # a tie
        ({"identity": 66.0, "collapse": 66.0, "random": 66.0}, {}),  # the largest value there is
    ],
)
def test_a_distance_that_is_low_near_the_oracle(changes: dict[str, float], expected: dict[str, str]) -> None:
    controls = {"oracle": 0.0, "identity": 1.4, "other": 0.5, "collapse": 66.0, "random": 65.0} | changes
    everything = {"identity": P, "other": N, "collapse": P, "random": P}
    assert verdicts(DISTANCE, 1.0, **controls) == everything | expected


def test_means_are_compared_with_means() -> None:
    """The planted bug: what 95% of single retrains keep to hides an original that lies farther away in every run."""
    values = frame(oracle=0.0, identity=[1.2, 1.4, 1.1, 1.3, 1.2])
    metrics = {"m": DISTANCE}
    banks = pd.concat([retrains(values, DISTANCE, spread) for spread in (0.2, 0.3, 0.4, 1.5)])
    table = validate(values, honest(values, banks, metrics), metrics)
    assert banks["value"].quantile(0.95) > 1.2
    assert as_dict(table) == {"identity": P}


def test_the_reason_names_whom_it_puts_the_useless_before() -> None:
    table = judged(DISTANCE, frame(oracle=0.0, identity=1.4, other=0.5, collapse=0.4), 1.0)
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
    assert verdicts(LIKENESS, 0.05, **controls) == {"identity": P, "other": N, "collapse": P} | expected


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
    assert verdicts(GAP, 0.02, **controls) == {"identity": P, "other": N, "collapse": P} | expected


def test_without_other_retrains_nothing_is_tested() -> None:
    for record in (DISTANCE, LIKENESS, GAP):
        assert verdicts(record, None, oracle=0.0, identity=0.1) == {"identity": T}
    assert verdicts(DISTANCE, None, oracle=0.0, identity=0.4, other=0.1)["identity"] == P  # five runs, one in each
    assert verdicts(GAP, None, oracle=0.5, identity=0.1, other=0.45)["identity"] == P


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


def test_of_banks_the_intervals_are_compared() -> None:
    null = (1.6, 1.4, 1.8)  # up to 2.0 is the null's
    others = {(1.7, 1.5, 1.9): P, (2.1, 1.8, 2.4): N, (2.5, 2.2, 2.8): F}
    originals = {(2.6, 2.2, 3.0): P, (2.1, 1.9, 2.3): U}
    for (other, first), (identity, second) in itertools.product(others.items(), originals.items()):
        found = verdicts(KLOM, None, oracle=null, other=other, identity=identity)
        assert found == {"other": first, "identity": second}


# --- utility, relearning, cost ---------------------------------------------------------------------------------------


def test_utility_tells_some_control_from_the_oracle() -> None:
    assert verdicts(ACCURACY, 0.5, oracle=96.0, identity=96.2, other=96.3, random=10.0) == {"other": N, "random": P}
    assert verdicts(ACCURACY, 0.5, oracle=0.0, identity=99.0, other=0.0, random=0.0) == {"other": N, "identity": P}
    assert verdicts(ACCURACY, 0.5, oracle=96.0, identity=96.2, other=96.3, random=95.9) == {"other": N, "random": F}
    assert verdicts(ACCURACY, 0.5, oracle=96.0, identity=96.2, other=97.0, random=10.0) == {"other": F, "random": P}
    assert verdicts(ACCURACY, 0.5, oracle=96.0, identity=96.2, other=96.3) == {"other": N}  # where nothing is expected


def test_a_metric_that_is_always_the_same_tells_nothing() -> None:
    assert verdicts(ACCURACY, None, oracle=50.0, identity=50.0, random=50.0) == {"random": T}
    assert verdicts(ACCURACY, 0.0, oracle=50.0, other=50.0, random=50.0) == {"other": N, "random": F}


def test_the_original_relearns_first() -> None:
    assert verdicts(STEPS, 5.0, oracle=50.0, identity=0.0, other=70.0, random=600.0) == {"identity": P}
    assert verdicts(STEPS, 5.0, oracle=50.0, identity=50.0) == {"identity": U}
    assert verdicts(STEPS, 5.0, oracle=50.0, identity=80.0) == {"identity": F}
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
