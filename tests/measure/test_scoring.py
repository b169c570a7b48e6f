"""Scoring: the order of metrics, what reaches them, and what becomes of a metric that misbehaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from unlearnbench.measure.metrics import cost, distance, leakage, relearning, utility
from unlearnbench.measure.scoring import Score, score
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Estimate, Metric, Need

ALONE = Context()

GOOD = Metric("good", "Good", "x", "utility", "high", lambda evidence, _: 4.0, "Always 4.", version=3)


@pytest.fixture
def evidence() -> Evidence:
    logits = {name: np.eye(2, dtype=np.float32)[[0] * 30 + [1] * 10] for name in ("forget", "retain", "test")}
    labels = {name: np.zeros(40, dtype=int) for name in logits}
    curve = np.array([[1, 2.0], [101, 4.0]])
    scalars = {"relearn_steps": 1000.0, "relearn_time": 3.0, "relearn_steps_censored": 1.0}
    cost = {"seconds": 2.0, "peak_memory": None, "samples": 10.0, "gradients": 10.0}
    return Evidence(logits, labels, (0,), curve, scalars, cost, seed=0)


def metric(name: str, fn: Callable[..., Any], **options: Any) -> Metric:
    return replace(GOOD, name=name, fn=fn, **options)


def by_name(*records: Metric) -> dict[str, Metric]:
    return {record.name: record for record in records}


def ours() -> dict[str, Metric]:
    modules = (utility, leakage, distance, relearning, cost)
    return by_name(*(value for module in modules for value in vars(module).values() if isinstance(value, Metric)))


def several(count: int, seed: int = 0, labels: int = 40) -> dict[str, np.ndarray]:
    """Logits of two classes by that many models."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(count, labels, 2)).astype(np.float16) for name in ("forget", "retain", "test")}


def test_value_note_and_version(evidence: Evidence) -> None:
    noted = metric("noted", lambda evidence, _: 1, note=lambda evidence: f"seed {evidence.seed}")
    scores = score(evidence, ALONE, by_name(GOOD, noted))
    assert scores == {"good": Score(4.0, version=3), "noted": Score(1.0, "seed 0", version=3)}
    assert evidence.scores == {"good": 4.0, "noted": 1.0}


def test_an_empty_value_has_its_sentence_and_its_reason(evidence: Evidence) -> None:
    empty = metric("empty", lambda evidence, _: Empty("too_few", "3 of 10"), note=lambda evidence: "n = 3")
    assert score(evidence, ALONE, by_name(empty))["empty"] == Score(
        None, str(Empty("too_few", "3 of 10")), "too_few", version=3
    )
    assert evidence.scores["empty"] == Empty("too_few", "3 of 10")


def test_an_estimate_is_stored_with_its_ends(evidence: Evidence) -> None:
    between = metric("auc", lambda *_: Estimate(np.float32(0.5), 0, 1), note=lambda evidence: "n = 3")
    scores = score(evidence, ALONE, by_name(between))
    assert scores == {"auc": Score(0.5, "n = 3", version=3, low=0.0, high=1.0)}
    assert all(type(number) is float for number in (scores["auc"].value, scores["auc"].low, scores["auc"].high))
    assert evidence.scores == {"auc": 0.5}


def test_relative_metrics_come_last_and_see_absolute_scores_of_both(evidence: Evidence) -> None:
    oracle = replace(evidence, scores={"good": 1.0})

    def difference(own: Evidence, context: Context) -> float:
        assert context.oracle is not None
        return own.scores["good"] - context.oracle.scores["good"]  # type: ignore[operator]

    gap = metric("gap", difference, needs={"oracle": 1})
    scores = score(evidence, Context(oracle), by_name(gap, GOOD))
    assert scores["gap"].value == 3.0
    assert list(scores) == ["gap", "good"]


LACKED: list[tuple[Need, str]] = [
    ("oracle", "the oracle of this scenario and seed has not run"),
    ("original", "it was not measured"),
    ("untrained", "it was not measured"),
    ("bank", "too few models to compare with: 8 oracles needed, 0 there"),
    ("unlearned", "too few models to compare with: 8 models that the method made needed, 0 there"),
    ("shadows", "too few models to compare with: 8 shadow runs per side needed, 0 there"),
]


@pytest.mark.parametrize(("need", "sentence"), LACKED)
def test_what_lacks_its_needs_is_empty_and_not_called(evidence: Evidence, need: Need, sentence: str) -> None:
    reason = {"oracle": "no_oracle", "original": "not_measured", "untrained": "not_measured"}.get(need, "small_bank")
    needy = metric("needy", lambda *_: pytest.fail("called"), needs={need: 8}, note=lambda _: pytest.fail("called"))
    assert score(evidence, ALONE, by_name(needy))["needy"] == Score(None, sentence, reason, version=3)
    assert isinstance(evidence.scores["needy"], Empty)


@pytest.mark.parametrize("need", ["bank", "unlearned"])
def test_one_model_too_few_is_too_few(evidence: Evidence, need: Need) -> None:
    needy = metric("needy", lambda *_: 2.0, needs={need: 8})
    seven, eight = (score(evidence, Context(**{need: several(n)}), by_name(needy))["needy"] for n in (7, 8))  # type: ignore[arg-type]
    assert seven.reason == "small_bank"
    assert seven.note.endswith("needed, 7 there")
    assert eight.value == 2.0


def test_shadow_runs_are_counted_by_side(evidence: Evidence) -> None:
    needy = metric("needy", lambda *_: 2.0, needs={"shadows": 8})
    sides = {"unlearned": several(8)["forget"], "out": several(8)["forget"]}
    assert score(evidence, Context(shadows=sides), by_name(needy))["needy"].value == 2.0


def test_every_need_must_be_there_and_the_first_that_is_not_is_named(evidence: Evidence) -> None:
    needy = metric("needy", lambda *_: 2.0, needs={"oracle": 1, "bank": 4, "unlearned": 2})
    contexts = [ALONE, Context(evidence), Context(evidence, bank=several(4)), Context(bank=several(4))]
    reasons = [score(evidence, context, by_name(needy))["needy"].note for context in contexts]
    assert [reason.split(": ")[-1] for reason in reasons] == [
        "the oracle of this scenario and seed has not run",
        "4 oracles needed, 0 there",
        "2 models that the method made needed, 0 there",
        "the oracle of this scenario and seed has not run",
    ]


def test_what_is_of_the_split_stands_in_its_first_row_alone(evidence: Evidence) -> None:
    calls: list[Evidence] = []
    shared = metric("shared", lambda own, _: calls.append(own) or 2.0, of_split=True, needs={"bank": 2})
    context = Context(bank=several(2))
    later = score(evidence, context, by_name(shared, GOOD), first=False)
    assert later["shared"] == Score(None, str(Empty("of_split")), "of_split", version=3)
    assert later["good"].value == 4.0
    assert not calls
    assert score(evidence, context, by_name(shared), first=True)["shared"].value == 2.0
    assert score(evidence, ALONE, by_name(shared), first=False)["shared"].reason == "of_split"


def test_what_several_metrics_share_is_computed_once(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(module: Any, name: str) -> None:
        fn = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: calls.append(name) or fn(*args))

    counted(leakage.likelihood, "ulira")
    counted(distance, "margin")
    context = Context(bank=several(128), unlearned=several(64, seed=1))
    names = ("ulira", "ulira_accuracy", "ulira_tpr_1", "ulira_tpr_01")
    first = score(evidence, context, {name: ours()[name] for name in names})
    assert calls == ["ulira"]
    assert {name: s.reason for name, s in first.items()} == dict.fromkeys(names[:3], "") | {"ulira_tpr_01": "too_few"}
    second = score(evidence, context, {name: m for name, m in ours().items() if name.startswith("klom")})
    assert calls[1:] == ["margin"] * 6  # two sides of three sets, for eight metrics
    assert all(s.value is not None for s in second.values())
    again = score(evidence, Context(bank=context.bank, unlearned=several(64, seed=2)), {"ulira": leakage.ULIRA})
    assert calls.count("ulira") == 2  # of another context nothing is kept
    assert again["ulira"].value != first["ulira"].value


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
        (
            lambda *_: Estimate(1, 0, float("inf")),
            "it returned Estimate(valu...w=0, high=inf), expected a finite number or Empty",
        ),
        (
            lambda *_: Estimate(float("nan"), 0, 1),
            "it returned Estimate(valu...low=0, high=1), expected a finite number or Empty",
        ),
    ],
)
@pytest.mark.parametrize("needs", [{}, {"oracle": 1}])
def test_a_metric_that_misbehaves_is_empty_and_the_others_go_on(
    evidence: Evidence, fn: Callable[..., Any], detail: str, needs: dict[Need, int]
) -> None:
    scores = score(evidence, Context(evidence), by_name(metric("bad", fn, needs=needs), GOOD))
    assert scores["bad"] == Score(None, str(Empty("metric_error", detail)), "metric_error", version=3)
    assert evidence.scores["bad"] == Empty("metric_error", detail)
    assert scores["good"].value == 4.0


def test_a_note_that_raises_empties_its_metric(evidence: Evidence) -> None:
    assert score(evidence, ALONE, by_name(metric("bad", lambda *_: 1.0, note=broken)))["bad"].reason == "metric_error"


def test_an_interrupt_is_not_an_error_of_the_metric(evidence: Evidence) -> None:
    def interrupted(*_: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(evidence, ALONE, by_name(metric("bad", interrupted)))


@pytest.mark.parametrize("number", [4, np.float32(4), np.float64(4), np.int64(4)])
def test_numbers_of_any_kind_become_floats(evidence: Evidence, number: Any) -> None:
    value = score(evidence, ALONE, by_name(metric("number", lambda *_: number)))["number"].value
    assert type(value) is float
    assert value == 4.0


def test_scores_survive_json(evidence: Evidence) -> None:
    scores = score(evidence, ALONE, ours())
    text = json.dumps({name: asdict(value) for name, value in scores.items()}, allow_nan=False)
    assert {name: Score(**fields) for name, fields in json.loads(text).items()} == scores


def test_the_oracle_against_itself(evidence: Evidence) -> None:
    scores = score(evidence, Context(evidence), ours())
    expected = {
        "avg_gap": 0.0, "tow": 1.0, "js_oracle": 0.0, "activation_distance": 0.0, "logit_kl": 0.0,
        "relearn_gap": 0.0, "rte": 1.0, "samples_share": 100.0, "gradients_share": 100.0,
    }  # fmt: skip
    assert {name: scores[name].value for name in expected} == pytest.approx(expected, abs=1e-12)


def test_our_metrics_on_one_row(evidence: Evidence) -> None:
    scores = score(evidence, ALONE, ours())
    assert list(scores) == list(ours())
    assert scores["fa"] == Score(75.0)
    assert scores["relearn_steps"] == Score(1000.0, ">1000")
    assert scores["mia_gbt"].note == "n = 16 per side (CaMU: 4000)"
    reasons = {
        "ta_r": "too_few", "peak_memory": "not_on_device", "avg_gap": "no_oracle", "aus": "not_measured",
        "zrf": "not_measured", "rmia": "small_bank", "klom": "small_bank", "ruli": "small_bank",
    }  # fmt: skip
    assert {name: scores[name].reason for name in reasons} == reasons
    assert "metric_error" not in {s.reason for s in scores.values()}
