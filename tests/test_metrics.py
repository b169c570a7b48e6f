"""Golden cases for every metric, and for every metric plausible bugs that the same cases must reject."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.preprocessing import scale
from sklearn.tree import DecisionTreeClassifier

from unlearnbench import attacks, metrics, scoring
from unlearnbench.attacks import cross_entropy
from unlearnbench.evidence import Evidence
from unlearnbench.spec import Empty, Metric

RECORDS = {record.name: record for record in vars(metrics).values() if isinstance(record, Metric)}


class Case(NamedTuple):
    evidence: Evidence
    expected: float | str  # a value, or the reason why there is none
    oracle: Evidence | None = None


def check(fn: Callable[[Evidence, Evidence | None], float | Empty], cases: list[Case]) -> None:
    for case in cases:
        actual = fn(case.evidence, case.oracle)
        if isinstance(case.expected, str):
            assert isinstance(actual, Empty)
            assert actual.reason == case.expected
        else:
            assert not isinstance(actual, Empty)
            assert actual == pytest.approx(case.expected, rel=1e-12, abs=1e-12)


# --- evidence --------------------------------------------------------------------------------------------------------


def outputs(predicted: list[int], classes: int = 3) -> np.ndarray:
    return 4 * np.eye(classes, dtype=np.float32)[predicted]


# right: forget 1/4, retain 9/10 (of its first four 3), test 5/8 (class 0 1/3, class 1 3/4, class 2 1/1)
PREDICTED = {"forget": [0, 1, 1, 1], "retain": [1, 2, 2, 1, 2, 2, 2, 2, 2, 2], "test": [0, 1, 1, 1, 1, 1, 0, 2]}
LABELS = {"forget": [0, 0, 0, 0], "retain": [1, 1, 2, 1, 2, 2, 2, 2, 2, 2], "test": [0, 0, 0, 1, 1, 1, 1, 2]}
PLAIN = Evidence(
    logits={name: outputs(rows) for name, rows in PREDICTED.items()},
    labels={name: np.array(rows) for name, rows in LABELS.items()},
    forget_classes=(),
    curve=np.array([[1, -5.0], [101, 3.0], [201, 9.0]]),
    scalars={"relearn_steps": 37, "relearn_time": 1.5, "relearn_censored": 0.0},
    cost={"seconds": 2.0, "peak_memory": 3e6, "samples": 400, "gradients": 300},
    seed=0,
)
ABSENT = replace(PLAIN, curve=np.empty((0, 2)), scalars=dict.fromkeys(PLAIN.scalars), cost=dict.fromkeys(PLAIN.cost))
CAPPED = replace(PLAIN, scalars={"relearn_steps": 1000, "relearn_time": 12.345, "relearn_censored": 1.0})


def classes(*forgotten: int) -> Evidence:
    return replace(PLAIN, forget_classes=forgotten)


def scored(**scores: float | Empty) -> Evidence:
    return replace(PLAIN, scores=scores)


def evidence(forget: Any, retain: Any, test: Any, test_labels: Any = 0) -> Evidence:
    """Two classes; the logits are (given, 0), the labels 0 unless given."""
    sets = {"forget": np.array(forget), "retain": np.array(retain), "test": np.array(test)}
    logits = {name: np.stack([z, 0 * z], axis=1).astype(np.float32) for name, z in sets.items()}
    labels = {name: np.zeros(len(z), dtype=int) for name, z in sets.items()}
    labels["test"] = labels["test"] + np.array(test_labels)
    return replace(PLAIN, logits=logits, labels=labels)


def rows(*runs: tuple[float, int]) -> np.ndarray:
    return np.concatenate([np.full(n, value) for value, n in runs])


# boosted trees: members have logit 3, unseen samples 1; D_s, the head of retain, differs from its tail
D_S = rows((3, 40), (1, 60))
LIKE_MEMBERS = evidence(rows((3, 40)), D_S, rows((1, 60)))
LIKE_UNSEEN = evidence(rows((0.5, 40)), D_S, rows((1, 60)))
REST_LIKE_MEMBERS = evidence(rows((3, 40)), D_S, rows((1, 24), (3, 36)))
LONG_TEST = evidence(rows((3, 40)), D_S, rows((1, 80), (3, 120)))
OTHER_ORDER = evidence(rows((-3, 40)), D_S, rows((1, 60)))  # as LIKE_MEMBERS, confident of the other class
TINY_SETS = evidence(rows((3, 9)), D_S, rows((1, 60)))
TINY_TEST = evidence(rows((3, 40)), D_S, rows((1, 24)))  # 40% of it: 9

# logistic regression on the loss
SEPARATE = evidence(rows((3, 20)), D_S, rows((0, 20)))
SAME_LOSS = evidence(rows((2, 40)), D_S, rows((2, 20)))
OTHER_CLASS_LOSSY = evidence(rows((3, 20)), D_S, rows((2, 30), (3, 20)), np.repeat([1, 0], [30, 20]))
TINY_LOSS = evidence(rows((14, 20)), D_S, rows((13, 20)))
CONFIDENTLY_WRONG = evidence(rows((3, 20)), D_S, rows((-3, 20)))
FEW_OF_CLASS = evidence(rows((3, 20)), D_S, rows((2, 30), (3, 9)), np.repeat([1, 0], [30, 9]))

OWN = scored(fa=25.0, ra=90.0, ta=62.5, mia_lr_loss=0.55, mia_gbt=0.4, seconds=2.0)
ORACLE = scored(fa=35.0, ra=88.0, ta=60.5, mia_lr_loss=0.5, mia_gbt=0.5, seconds=10.0)
NO_MIA = scored(fa=1.0, ra=1.0, ta=1.0, mia_lr_loss=Empty("too_few"), seconds=Empty("not_measured"))
ORACLE_CURVE = replace(PLAIN, curve=np.array([[1, 6.0], [101, 6.0], [301, 0.0]]))
SHIFTED_CURVE = replace(PLAIN, curve=np.array([[2, 6.0]]))

GOLDEN = {
    "fa": [Case(PLAIN, 25.0)],
    "ra": [Case(PLAIN, 90.0)],
    "ta": [Case(PLAIN, 62.5), Case(classes(0), 62.5)],
    "ta_r": [
        Case(PLAIN, "no_class"),
        Case(classes(0), 80.0),
        Case(classes(0, 2), 75.0),
        Case(classes(0, 1, 2), "too_few"),
    ],
    "ta_f": [
        Case(PLAIN, "no_class"),
        Case(classes(0), 100 / 3),
        Case(classes(0, 2), 50.0),
        Case(classes(5), "too_few"),
    ],
    "mia_gbt": [
        Case(LIKE_MEMBERS, 1.0),
        Case(LIKE_UNSEEN, 36 / 76),
        Case(REST_LIKE_MEMBERS, 40 / 76),
        Case(LONG_TEST, 1.0),
        Case(OTHER_ORDER, 1.0),
        Case(TINY_SETS, "too_few"),
        Case(TINY_TEST, "too_few"),
    ],
    "mia_lr_loss": [
        Case(SEPARATE, 1.0),
        Case(SAME_LOSS, 0.5),
        Case(OTHER_CLASS_LOSSY, 0.5),
        Case(TINY_LOSS, 1.0),
        Case(CONFIDENTLY_WRONG, 1.0),
        Case(FEW_OF_CLASS, "too_few"),
    ],
    "avg_gap": [
        Case(OWN, 4.75, ORACLE),
        Case(ORACLE, 4.75, OWN),
        Case(OWN, 0.0, OWN),
        Case(OWN, "oracle_empty", NO_MIA),
        Case(OWN, "oracle_empty", PLAIN),
        Case(NO_MIA, "too_few", OWN),
        Case(OWN, "no_oracle"),
    ],
    "relearn_steps": [Case(PLAIN, 37.0), Case(CAPPED, 1000.0), Case(ABSENT, "not_measured")],
    "relearn_time": [Case(PLAIN, 1.5), Case(CAPPED, 12.345), Case(ABSENT, "not_measured")],
    "relearn_curve": [Case(PLAIN, 7 / 3), Case(ABSENT, "not_measured")],
    "relearn_gap": [
        Case(PLAIN, 7.0, ORACLE_CURVE),
        Case(PLAIN, 0.0, PLAIN),
        Case(ABSENT, "not_measured", PLAIN),
        Case(PLAIN, "oracle_empty", ABSENT),
        Case(PLAIN, "oracle_empty", SHIFTED_CURVE),
        Case(PLAIN, "no_oracle"),
    ],
    "seconds": [Case(PLAIN, 2.0), Case(ABSENT, "not_measured")],
    "rte": [
        Case(OWN, 5.0, ORACLE),
        Case(scored(seconds=0.0), "zero_cost", ORACLE),
        Case(NO_MIA, "not_measured", ORACLE),
        Case(OWN, "oracle_empty", NO_MIA),
        Case(OWN, "no_oracle"),
    ],
    "peak_memory": [Case(PLAIN, 3.0), Case(replace(PLAIN, cost={"peak_memory": None}), "not_measured")],
    "samples": [Case(PLAIN, 400.0)],
    "gradients": [Case(PLAIN, 300.0)],
}

# --- planted bugs ----------------------------------------------------------------------------------------------------


def percent_right(e: Evidence, name: str, where: Any = slice(None)) -> float:
    return 100 * float((e.logits[name].argmax(1) == e.labels[name])[where].mean())


def trees(
    e: Evidence, bug: str = "", features: Callable[[np.ndarray], np.ndarray] = attacks.sorted_softmax
) -> float | Empty:
    """`attacks.gbt` with one tree and room for bugs."""
    forget, retain, test = (features(e.logits[name]) for name in ("forget", "retain", "test"))
    n = min(len(forget), len(retain), len(test) * (100 if bug == "no 40%" else 40) // 100)
    if n < 10:
        return Empty("too_few")
    members = {"on D_f": forget, "tail of retain": retain[::-1]}.get(bug, retain)[:n]
    tree = DecisionTreeClassifier().fit(np.concatenate([members, test[:n]]), np.repeat([1, 0], n))
    end = None if bug == "no limit" else n + len(forget)
    inside, outside = tree.predict(forget) == 1, tree.predict(test[0 if bug == "seen test" else n : end]) == 0
    return float(inside.mean() if bug == "only D_f" else np.concatenate([inside, outside]).mean())


def regression(e: Evidence, bug: str = "") -> float | Empty:
    """`attacks.lr_loss` with room for bugs."""
    same = (
        np.full(len(e.labels["test"]), True) if bug == "all classes" else np.isin(e.labels["test"], e.labels["forget"])
    )
    labels = {name: e.logits[name].argmax(1) if bug == "no label" else e.labels[name] for name in ("forget", "test")}
    inside = cross_entropy(e.logits["forget"], labels["forget"])
    outside = cross_entropy(e.logits["test"], labels["test"])[same]
    n = min(len(inside), len(outside))
    if n < (0 if bug == "no minimum" else 10):
        return Empty("too_few")
    if bug != "unbalanced":
        inside, outside = inside[:n], outside[:n]
    x, y = np.concatenate([inside, outside])[:, None], np.repeat([1, 0], [len(inside), len(outside)])
    folds = StratifiedShuffleSplit(10, random_state=0)
    value = float(cross_val_score(LogisticRegression(), x if bug == "raw loss" else scale(x), y, cv=folds).mean())
    return {"advantage": abs(value - 0.5), "error": 1 - value}.get(bug, value)


def gaps(bug: Callable[[list[float]], float], names: str = "fa ra ta mia_lr_loss", percent: float = 100) -> Any:
    def measure(own: Evidence, oracle: Evidence | None) -> float | Empty:
        if oracle is None:
            return Empty("no_oracle")
        pairs = [(n, own.scores.get(n, Empty("oracle_empty")), oracle.scores.get(n)) for n in names.split()]
        for _, a, b in pairs:
            if not isinstance(a, float) or not isinstance(b, float):
                return a if isinstance(a, Empty) else Empty("oracle_empty")
        return bug([(percent if n.startswith("mia") else 1) * (a - b) for n, a, b in pairs])  # type: ignore[operator]

    return measure


def curves(bug: Callable[[np.ndarray, np.ndarray], float]) -> Any:
    return lambda own, oracle: bug(own.curve, oracle.curve)


def mean_abs(values: Any) -> float:
    return float(np.abs(values).mean())


MUTANTS: list[tuple[str, str, Callable[..., Any]]] = [
    ("fa", "on retain", lambda e, _: percent_right(e, "retain")),
    ("fa", "unlearning accuracy, 1 - FA", lambda e, _: 100 - percent_right(e, "forget")),
    ("fa", "a fraction", lambda e, _: percent_right(e, "forget") / 100),
    ("ra", "on D_s", lambda e, _: percent_right(e, "retain", slice(4))),
    (
        "ra",
        "on all training data",
        lambda e, _: (4 * percent_right(e, "forget") + 10 * percent_right(e, "retain")) / 14,
    ),
    ("ta", "without the class", lambda e, _: percent_right(e, "test", ~np.isin(e.labels["test"], e.forget_classes))),
    (
        "ta",
        "mean over classes",
        lambda e, _: np.mean([percent_right(e, "test", e.labels["test"] == k) for k in range(3)]),
    ),
    ("ta_r", "with the class", lambda e, _: percent_right(e, "test")),
    ("ta_r", "class 0 only", lambda e, _: metrics.TA_R.fn(replace(e, forget_classes=e.forget_classes[:1]), None)),
    ("ta_r", "for all scenarios", lambda e, _: percent_right(e, "test", ~np.isin(e.labels["test"], e.forget_classes))),
    ("ta_f", "on the forget set", lambda e, _: percent_right(e, "forget") if e.forget_classes else Empty("no_class")),
    ("ta_f", "complement", lambda e, _: metrics.TA_R.fn(e, None)),
    ("ta_f", "class 0 only", lambda e, _: metrics.TA_F.fn(replace(e, forget_classes=e.forget_classes[:1]), None)),
    ("mia_gbt", "unsorted", lambda e, _: trees(e, features=lambda z: softmax(z, axis=1))),
    *(
        ("mia_gbt", bug, lambda e, _, bug=bug: trees(e, bug))
        for bug in ("no 40%", "on D_f", "tail of retain", "no limit", "seen test", "only D_f")
    ),
    *(
        ("mia_lr_loss", bug, lambda e, _, bug=bug: regression(e, bug))
        for bug in ("all classes", "no label", "no minimum", "unbalanced", "raw loss", "advantage", "error")
    ),
    ("avg_gap", "signed", gaps(lambda gaps: float(np.mean(gaps)))),
    ("avg_gap", "wrong sign", gaps(lambda gaps: -mean_abs(gaps))),
    ("avg_gap", "sum", gaps(lambda gaps: 4 * mean_abs(gaps))),
    ("avg_gap", "attack as a fraction", gaps(mean_abs, percent=1)),
    ("avg_gap", "another attack", gaps(mean_abs, names="fa ra ta mia_gbt")),
    ("avg_gap", "no attack", gaps(mean_abs, names="fa ra ta")),
    ("relearn_steps", "seconds", lambda e, _: metrics.RELEARN_TIME.fn(e, None)),
    (
        "relearn_steps",
        "0 when censored",
        lambda e, _: 0.0 if e.scalars["relearn_censored"] else e.scalars["relearn_steps"],
    ),
    ("relearn_steps", "0 when not measured", lambda e, _: e.scalars["relearn_steps"] or 0.0),
    ("relearn_time", "steps", lambda e, _: metrics.RELEARN_STEPS.fn(e, None)),
    ("relearn_time", "method's time", lambda e, _: metrics.SECONDS.fn(e, None)),
    ("relearn_curve", "last point", lambda e, _: e.curve[-1, 1]),
    ("relearn_curve", "absolute", lambda e, _: mean_abs(e.curve[:, 1])),
    ("relearn_curve", "mean of all", lambda e, _: e.curve.mean()),
    ("relearn_curve", "area", lambda e, _: np.trapezoid(e.curve[:, 1], e.curve[:, 0]) / 200),
    ("relearn_gap", "no absolute value", curves(lambda a, b: (a[:2, 1] - b[:2, 1]).mean())),
    ("relearn_gap", "of the means", curves(lambda a, b: abs(a[:, 1].mean() - b[:, 1].mean()))),
    ("relearn_gap", "by position", curves(lambda a, b: mean_abs(a[:, 1] - b[:, 1]))),
    ("relearn_gap", "root mean square", curves(lambda a, b: float(np.square(a[:2, 1] - b[:2, 1]).mean() ** 0.5))),
    ("relearn_gap", "own curve alone", lambda e, _: mean_abs(e.curve[:, 1])),
    ("seconds", "relearning's", lambda e, _: metrics.RELEARN_TIME.fn(e, None)),
    ("seconds", "milliseconds", lambda e, _: metrics.reported("cost", "seconds", unit=1e-3)(e, None)),
    ("seconds", "0 when not measured", lambda e, _: e.cost["seconds"] or 0.0),
    ("rte", "inverted", lambda e, oracle: e.scores["seconds"] / oracle.scores["seconds"]),
    ("rte", "share saved", lambda e, oracle: 1 - e.scores["seconds"] / oracle.scores["seconds"]),
    ("rte", "difference", lambda e, oracle: oracle.scores["seconds"] - e.scores["seconds"]),
    ("peak_memory", "MiB", lambda e, _: metrics.reported("cost", "peak_memory", unit=2**20)(e, None)),
    ("peak_memory", "bytes", lambda e, _: metrics.reported("cost", "peak_memory")(e, None)),
    ("peak_memory", "0 when not measured", lambda e, _: (e.cost["peak_memory"] or 0) / 1e6),
    ("samples", "gradients", lambda e, _: metrics.GRADIENTS.fn(e, None)),
    ("samples", "with gradients", lambda e, _: e.cost["samples"] + e.cost["gradients"]),
    ("gradients", "samples", lambda e, _: metrics.SAMPLES.fn(e, None)),
]


@pytest.mark.parametrize("name", RECORDS)
def test_golden(name: str) -> None:
    check(RECORDS[name].fn, GOLDEN[name])


@pytest.mark.parametrize(("name", "mutant"), [pytest.param(n, fn, id=f"{n}: {bug}") for n, bug, fn in MUTANTS])
def test_the_golden_cases_reject_a_planted_bug(name: str, mutant: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError):
        check(mutant, GOLDEN[name])


def test_the_attacks_with_room_for_bugs_pass_without_one() -> None:
    check(lambda e, _: trees(e), GOLDEN["mia_gbt"])
    check(lambda e, _: regression(e), GOLDEN["mia_lr_loss"])
    check(gaps(mean_abs), GOLDEN["avg_gap"])


def test_every_metric_has_golden_cases_and_a_planted_bug() -> None:
    assert list(GOLDEN) == list(RECORDS)
    assert {name for name, _, _ in MUTANTS} == set(RECORDS)


# --- records ---------------------------------------------------------------------------------------------------------


def test_records() -> None:
    table = [(m.name, m.unit, m.family, m.better, m.relative, m.per_machine) for m in RECORDS.values()]
    assert table == [
        ("fa", "%", "utility", "oracle", False, False),
        ("ra", "%", "utility", "oracle", False, False),
        ("ta", "%", "utility", "oracle", False, False),
        ("ta_r", "%", "utility", "oracle", False, False),
        ("ta_f", "%", "utility", "oracle", False, False),
        ("mia_gbt", "fraction", "leakage", "oracle", False, False),
        ("mia_lr_loss", "fraction", "leakage", "oracle", False, False),
        ("avg_gap", "points", "oracle-distance", "low", True, False),
        ("relearn_steps", "steps", "relearning", "oracle", False, False),
        ("relearn_time", "s", "relearning", "oracle", False, True),
        ("relearn_curve", "points", "relearning", "oracle", False, False),
        ("relearn_gap", "points", "oracle-distance", "low", True, False),
        ("seconds", "s", "cost", "low", False, True),
        ("rte", "x", "cost", "high", True, True),
        ("peak_memory", "MB", "cost", "low", False, True),
        ("samples", "samples", "cost", "low", False, False),
        ("gradients", "samples", "cost", "low", False, False),
    ]


def test_records_are_named_by_their_constants() -> None:
    assert [name.lower() for name, value in vars(metrics).items() if isinstance(value, Metric)] == list(RECORDS)


@pytest.mark.parametrize(
    ("name", "case", "note"),
    [
        ("mia_gbt", LIKE_MEMBERS, "n = 24 per side"),
        ("mia_gbt", LONG_TEST, "n = 40 per side"),
        ("mia_lr_loss", SAME_LOSS, "n = 20 per side"),
        ("relearn_steps", PLAIN, ""),
        ("relearn_steps", CAPPED, ">1000"),
        ("relearn_steps", ABSENT, ""),
        ("relearn_time", PLAIN, ""),
        ("relearn_time", CAPPED, ">12.35"),
    ],
)
def test_notes(name: str, case: Evidence, note: str) -> None:
    describe = RECORDS[name].note
    assert describe is not None
    assert describe(case) == note


def test_reasons_for_an_empty_value() -> None:
    sources = "".join(inspect.getsource(module) for module in (attacks, metrics, scoring))
    assert set(re.findall(r"Empty\(\s*\"(\w+)\"", sources)) == {
        "no_class", "no_oracle", "oracle_empty", "too_few", "zero_cost", "not_measured", "metric_error",
    }  # fmt: skip


# --- invariances -----------------------------------------------------------------------------------------------------

OF_OUTPUTS = ["fa", "ra", "ta", "ta_r", "ta_f", "mia_gbt", "mia_lr_loss"]


@pytest.fixture
def noisy() -> Evidence:
    """Random outputs that are multiples of 2^-13, so that float32 adds integers under 2^10 without rounding."""
    rng = np.random.default_rng(0)
    labels = {name: rng.integers(3, size=n) for name, n in (("forget", 60), ("retain", 200), ("test", 150))}
    logits = {
        name: (np.round(2**13 * (rng.normal(size=(len(y), 3)) + 2 * np.eye(3)[y])) / 2**13).astype(np.float32)
        for name, y in labels.items()
    }
    return replace(PLAIN, logits=logits, labels=labels, forget_classes=(1,))


def values(case: Evidence) -> dict[str, float | Empty]:
    return {name: RECORDS[name].fn(case, None) for name in OF_OUTPUTS}


def test_a_constant_added_to_the_logits_of_a_row_changes_nothing(noisy: Evidence) -> None:
    rng = np.random.default_rng(1)
    shifted = {
        name: z + rng.integers(-500, 500, size=(len(z), 1)).astype(np.float32) for name, z in noisy.logits.items()
    }
    assert values(replace(noisy, logits=shifted)) == values(noisy)


def test_another_order_of_the_classes_changes_nothing(noisy: Evidence) -> None:
    renamed = replace(
        noisy,
        logits={name: z[:, [2, 0, 1]] for name, z in noisy.logits.items()},
        labels={name: (y + 1) % 3 for name, y in noisy.labels.items()},
        forget_classes=(2,),
    )
    before, after = values(noisy), values(renamed)
    assert after == pytest.approx(before, abs=1e-12)


def test_the_order_of_the_samples_does_not_matter_where_no_prefix_is_taken(noisy: Evidence) -> None:
    rng = np.random.default_rng(2)
    order = {name: rng.permutation(len(y)) for name, y in noisy.labels.items()}
    mixed = replace(
        noisy,
        logits={name: z[order[name]] for name, z in noisy.logits.items()},
        labels={name: y[order[name]] for name, y in noisy.labels.items()},
    )
    for name in ("fa", "ra", "ta", "ta_r", "ta_f"):
        assert RECORDS[name].fn(mixed, None) == pytest.approx(RECORDS[name].fn(noisy, None))


def test_the_trees_do_not_see_the_order_of_the_forget_set_nor_retain_samples_outside_the_prefix(
    noisy: Evidence,
) -> None:
    forget, retain = noisy.logits["forget"], noisy.logits["retain"].copy()
    retain[60:] = 0
    other = replace(noisy, logits={**noisy.logits, "forget": forget[::-1], "retain": retain})
    assert RECORDS["mia_gbt"].fn(other, None) == RECORDS["mia_gbt"].fn(noisy, None)
