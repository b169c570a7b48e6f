"""Scoring: the order of metrics, what reaches them, and what becomes of a metric that misbehaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from unlearnbench import metrics
from unlearnbench.evidence import Evidence
from unlearnbench.scoring import Score, score
from unlearnbench.spec import Empty, Metric

GOOD = Metric("good", "Good", "x", "utility", "high", lambda evidence, _: 4.0, "Always 4.", version=3)


@pytest.fixture
def evidence() -> Evidence:
    logits = {name: np.eye(2, dtype=np.float32)[[0] * 30 + [1] * 10] for name in ("forget", "retain", "test")}
    labels = {name: np.zeros(40, dtype=int) for name in logits}
    curve = np.array([[1, 2.0], [101, 4.0]])
    scalars = {"relearn_steps": 1000.0, "relearn_time": 3.0, "relearn_censored": 1.0}
    cost = {"seconds": 2.0, "peak_memory": None, "samples": 10.0, "gradients": 10.0}
    return Evidence(logits, labels, (0,), curve, scalars, cost, seed=0)


def metric(name: str, fn: Callable[..., Any], **options: Any) -> Metric:
    return replace(GOOD, name=name, fn=fn, **options)


def by_name(*records: Metric) -> dict[str, Metric]:
    return {record.name: record for record in records}


def ours() -> dict[str, Metric]:
    return by_name(*(value for value in vars(metrics).values() if isinstance(value, Metric)))


def test_value_note_and_version(evidence: Evidence) -> None:
    noted = metric("noted", lambda evidence, _: 1, note=lambda evidence: f"seed {evidence.seed}")
    scores = score(evidence, None, by_name(GOOD, noted))
    assert scores == {"good": Score(4.0, version=3), "noted": Score(1.0, "seed 0", version=3)}
    assert evidence.scores == {"good": 4.0, "noted": 1.0}


def test_an_empty_value_has_its_sentence_and_its_reason(evidence: Evidence) -> None:
    empty = metric("empty", lambda evidence, _: Empty("too_few", "3 of 10"), note=lambda evidence: "n = 3")
    assert score(evidence, None, by_name(empty))["empty"] == Score(
        None, str(Empty("too_few", "3 of 10")), "too_few", version=3
    )
    assert evidence.scores["empty"] == Empty("too_few", "3 of 10")


def test_relative_metrics_come_last_and_see_absolute_scores_of_both(evidence: Evidence) -> None:
    oracle = replace(evidence, scores={"good": 1.0})
    gap = metric("gap", lambda own, oracle: own.scores["good"] - oracle.scores["good"], relative=True)
    scores = score(evidence, oracle, by_name(gap, GOOD))
    assert scores["gap"].value == 3.0
    assert list(scores) == ["gap", "good"]


def test_an_absolute_metric_never_sees_the_oracle(evidence: Evidence) -> None:
    nosy = metric("nosy", lambda evidence, oracle: float(oracle is None))
    assert score(evidence, evidence, by_name(nosy))["nosy"].value == 1.0


def test_without_an_oracle_relative_metrics_are_empty_and_not_called(evidence: Evidence) -> None:
    called = []
    gap = metric("gap", lambda *_: called.append(1), relative=True)
    assert score(evidence, None, by_name(gap))["gap"].reason == "no_oracle"
    assert not called


def broken(*_: Any) -> float:
    raise ValueError("no such head")


@pytest.mark.parametrize(
    ("fn", "detail"),
    [
        (broken, "ValueError: no such head"),
        (lambda *_: float("nan"), "it returned nan, expected a finite number or Empty"),
        (lambda *_: float("-inf"), "it returned -inf, expected a finite number or Empty"),
        (lambda *_: "4", "it returned '4', expected a finite number or Empty"),
        (lambda *_: None, "it returned None, expected a finite number or Empty"),
        (lambda *_: True, "it returned True, expected a finite number or Empty"),
        (lambda *_: 4j, "it returned 4j, expected a finite number or Empty"),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_a_metric_that_misbehaves_is_empty_and_the_others_go_on(
    evidence: Evidence, fn: Callable[..., Any], detail: str, relative: bool
) -> None:
    scores = score(evidence, evidence, by_name(metric("bad", fn, relative=relative), GOOD))
    assert scores["bad"] == Score(None, str(Empty("metric_error", detail)), "metric_error", version=3)
    assert evidence.scores["bad"] == Empty("metric_error", detail)
    assert scores["good"].value == 4.0


def test_a_note_that_raises_empties_its_metric(evidence: Evidence) -> None:
    assert score(evidence, None, by_name(metric("bad", lambda *_: 1.0, note=broken)))["bad"].reason == "metric_error"


def test_an_interrupt_is_not_an_error_of_the_metric(evidence: Evidence) -> None:
    def interrupted(*_: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(evidence, None, by_name(metric("bad", interrupted)))


@pytest.mark.parametrize("number", [4, np.float32(4), np.float64(4), np.int64(4)])
def test_numbers_of_any_kind_become_floats(evidence: Evidence, number: Any) -> None:
    value = score(evidence, None, by_name(metric("number", lambda *_: number)))["number"].value
    assert type(value) is float
    assert value == 4.0


def test_scores_survive_json(evidence: Evidence) -> None:
    scores = score(evidence, None, ours())
    text = json.dumps({name: asdict(value) for name, value in scores.items()}, allow_nan=False)
    assert {name: Score(**fields) for name, fields in json.loads(text).items()} == scores


def test_the_oracle_against_itself(evidence: Evidence) -> None:
    scores = score(evidence, evidence, ours())
    assert {name: scores[name].value for name in ("avg_gap", "relearn_gap", "rte")} == {
        "avg_gap": 0.0,
        "relearn_gap": 0.0,
        "rte": 1.0,
    }


def test_our_metrics_on_one_row(evidence: Evidence) -> None:
    scores = score(evidence, None, ours())
    assert list(scores) == list(ours())
    assert scores["fa"] == Score(75.0)
    assert scores["ta_r"].reason == "too_few"
    assert scores["relearn_steps"] == Score(1000.0, ">1000")
    assert scores["peak_memory"].reason == "not_measured"
    assert scores["avg_gap"].reason == "no_oracle"
    assert scores["mia_gbt"].note == "n = 16 per side"
