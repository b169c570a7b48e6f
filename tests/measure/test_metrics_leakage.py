"""Membership inference on one model: golden cases, and for every metric plausible bugs that the same cases must reject.

The attacks have tests of their own; here it is which sets, labels and directions they get.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from metric_cases import Case, found, golden_tests
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.preprocessing import scale
from sklearn.tree import DecisionTreeClassifier

from unlearnbench.measure import attacks
from unlearnbench.measure.attacks import cross_entropy
from unlearnbench.measure.metrics import leakage
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric

ALL = [record for record in vars(leakage).values() if isinstance(record, Metric)]
RECORDS = {record.name: record for record in ALL if not record.needs}  # the others: test_metrics_leakage_models.py
SETS = ("forget", "retain", "test")


def evidence(forget: Any, retain: Any, test: Any, test_labels: Any = 0) -> Evidence:
    """Two classes; the logits are (given, 0), the labels 0 unless given."""
    sets = dict(zip(SETS, map(np.array, (forget, retain, test)), strict=True))
    logits = {name: np.stack([z, 0 * z], axis=1).astype(np.float32) for name, z in sets.items()}
    labels = {name: np.zeros(len(z), dtype=int) for name, z in sets.items()}
    labels["test"] = labels["test"] + np.array(test_labels)
    return Evidence(logits, labels, (), np.empty((0, 2)), {}, {}, seed=0)


def rows(*runs: tuple[float, int]) -> np.ndarray:
    return np.concatenate([np.full(n, value) for value, n in runs])


# --- boosted trees and the loss --------------------------------------------------------------------------------------

# members have logit 3, unseen samples 1; D_s, the head of retain, differs from its tail
D_S = rows((3, 40), (1, 60))
LIKE_MEMBERS = evidence(rows((3, 40)), D_S, rows((1, 60)))
LONG_TEST = evidence(rows((3, 40)), D_S, rows((1, 80), (3, 120)))
SAME_LOSS = evidence(rows((2, 40)), D_S, rows((2, 20)))
OTHER_CLASS_LOSSY = evidence(rows((3, 20)), D_S, rows((2, 30), (3, 20)), np.repeat([1, 0], [30, 20]))
FEW_OF_CLASS = evidence(rows((3, 20)), D_S, rows((2, 30), (3, 9)), np.repeat([1, 0], [30, 9]))
GBT = [
    Case(LIKE_MEMBERS, 1.0),
    Case(evidence(rows((0.5, 40)), D_S, rows((1, 60))), 36 / 76),  # D_f looks unseen
    Case(evidence(rows((3, 40)), D_S, rows((1, 24), (3, 36))), 40 / 76),  # the rest of test looks like members
    Case(LONG_TEST, 1.0),
    Case(evidence(rows((-3, 40)), D_S, rows((1, 60))), 1.0),  # confident of the other class
    Case(evidence(rows((3, 9)), D_S, rows((1, 60))), "too_few"),
    Case(evidence(rows((3, 40)), D_S, rows((1, 24))), "too_few"),  # 40% of it: 9
]
LR_LOSS = [
    Case(evidence(rows((3, 20)), D_S, rows((0, 20))), 1.0),
    Case(SAME_LOSS, 0.5),
    Case(OTHER_CLASS_LOSSY, 0.5),
    Case(evidence(rows((14, 20)), D_S, rows((13, 20))), 1.0),  # losses of 1e-6
    Case(evidence(rows((3, 20)), D_S, rows((-3, 20))), 1.0),  # confidently wrong
    Case(FEW_OF_CLASS, "too_few"),
]

# --- retain against test, asked of D_f -------------------------------------------------------------------------------

Row = tuple[float, ...]


def alike(retain: Row, test: Row, *forget: tuple[Row, int], n: int = 20) -> Evidence:
    """Probabilities of three classes; all of a set alike but D_f, labels 0. The tail of retain must not be seen."""
    runs = {"forget": forget, "retain": ((retain, n), (test, 3 * n)), "test": ((test, n),)}
    logits = {
        name: np.log(np.concatenate([np.tile(p, (k, 1)) for p, k in parts])).astype(np.float32)
        for name, parts in runs.items()
    }
    return replace(LIKE_MEMBERS, logits=logits, labels={name: np.zeros(len(z), int) for name, z in logits.items()})


SURE, WRONG = (0.9, 0.05, 0.05), (0.05, 0.9, 0.05)
RIGHT_UNSURE = alike(SURE, WRONG, ((0.45, 0.3, 0.25), 4))  # p_y below the midpoint .475, the rest nearer to SURE
WRONG_UNSURE = alike(SURE, WRONG, ((0.4, 0.15, 0.45), 4))
THREE_OF_FOUR = alike(SURE, WRONG, (SURE, 3), (WRONG, 1))
FLATTER = alike(SURE, (0.4, 0.3, 0.3), (SURE, 3), ((0.4, 0.3, 0.3), 1))
ENTROPY_OF_MEMBERS = alike((0.7, 0.15, 0.15), (0.4, 0.3, 0.3), ((0.15, 0.7, 0.15), 4))  # yet wrong
OTHER_SOFTMAX = alike((0.69, 0.155, 0.155), (0.6, 0.39, 0.01), ((0.69, 0.3, 0.01), 4))  # p_y of members
OTHER_M_ENTROPY = alike((0.69, 0.155, 0.155), (0.66, 0.17, 0.17), ((0.69, 0.3, 0.01), 4))  # .22; .17 and .20 there
NINE = Case(alike(SURE, WRONG, (SURE, 4), n=9), "too_few")


def class_gone(known: bool, test: tuple[int, int] = (60, 20)) -> Evidence:
    """Class 1 is forgotten, and on three of four of D_f the model is as sure as of what it retains: of class 1 where it
    is ``known``, else of class 0. So it is on the test samples of class 1, which come first, and of no other."""
    sure, flat = (WRONG if known else SURE), (0.3, 0.4, 0.3)
    rows = {
        "forget": [sure] * 3 + [(0.4, 0.3, 0.3) if known else flat],
        "retain": [SURE] * 20 + [flat] * 5 + [SURE] * 35,
        "test": [sure] * test[0] + [flat] * test[1],
    }
    labels = {"forget": np.ones(4, int), "retain": np.zeros(60, int), "test": np.repeat([1, 0], test)}
    logits = {name: np.log(p).astype(np.float32) for name, p in rows.items()}
    return replace(LIKE_MEMBERS, logits=logits, labels=labels, forget_classes=(1,))


KNOWN, MISTAKEN = Case(class_gone(True), 0.25), Case(class_gone(False), 0.25)
NINE_LEFT = Case(class_gone(True, (60, 9)), "too_few")
SVC = {
    "correctness": [Case(RIGHT_UNSURE, 0.0), Case(WRONG_UNSURE, 1.0), Case(THREE_OF_FOUR, 0.25), KNOWN, NINE],
    "confidence": [
        Case(RIGHT_UNSURE, 1.0), Case(WRONG_UNSURE, 1.0), Case(THREE_OF_FOUR, 0.25), Case(FLATTER, 0.25),
        Case(ENTROPY_OF_MEMBERS, 1.0), Case(OTHER_SOFTMAX, 0.0), Case(OTHER_M_ENTROPY, 0.0), KNOWN, NINE, NINE_LEFT,
    ],
    "entropy": [Case(FLATTER, 0.25), Case(ENTROPY_OF_MEMBERS, 0.0), Case(OTHER_M_ENTROPY, 0.0), MISTAKEN, NINE],
    "m_entropy": [
        Case(RIGHT_UNSURE, 0.0), Case(WRONG_UNSURE, 0.0), Case(FLATTER, 0.25), Case(ENTROPY_OF_MEMBERS, 1.0),
        Case(OTHER_SOFTMAX, 0.0), Case(OTHER_M_ENTROPY, 1.0), KNOWN, NINE,
    ],
    "prob": [
        Case(RIGHT_UNSURE, 0.0), Case(WRONG_UNSURE, 0.0), Case(FLATTER, 0.25), Case(ENTROPY_OF_MEMBERS, 1.0),
        Case(OTHER_SOFTMAX, 1.0), MISTAKEN, NINE,
    ],
}  # fmt: skip
FORGOTTEN_LOOK_UNSEEN = replace(
    class_gone(False, (10, 30)), labels={**class_gone(False).labels, "test": np.repeat([0, 1], [10, 30])}
)  # of the rest 10 test samples look like members
ENTROPY_LR = [
    Case(FLATTER, 0.75),
    Case(ENTROPY_OF_MEMBERS, 1.0),
    Case(FORGOTTEN_LOOK_UNSEEN, 0.75),
    NINE,
]  # the share called member

# class 0 is forgotten; on unseen samples of it class 1 is likelier than class 2; retain has 20 of each of these
NEIGHBOURS = {"forget": [(0.05, 0.9, 0.05)] * 3 + [(0.2, 0.1, 0.7)], "test": [(0.1, 0.6, 0.3)] * 5}
NEAR_ONE = replace(
    LIKE_MEMBERS,
    logits={name: np.log(np.array(p)).astype(np.float32) for name, p in NEIGHBOURS.items()}
    | {"retain": np.log(np.repeat([(0.1, 0.85, 0.05), (0.1, 0.05, 0.85)], 20, axis=0)).astype(np.float32)},
    labels={"forget": np.zeros(4, int), "retain": np.repeat([1, 2], 20), "test": np.zeros(5, int)},
    forget_classes=(0,),
)
NO_UNSEEN = replace(NEAR_ONE, labels={**NEAR_ONE.labels, "test": np.ones(5, int)})
NEIGHBOUR = [
    Case(NEAR_ONE, 0.75),
    Case(replace(NEAR_ONE, forget_classes=()), "no_class"),
    Case(NO_UNSEEN, "too_few"),
]

GOLDEN = {
    "mia_gbt": GBT,
    "mia_lr_loss": LR_LOSS,
    **{f"mia_svc_{feature}": cases for feature, cases in SVC.items()},
    "mia_entropy_lr": ENTROPY_LR,
    "mia_neighbour": NEIGHBOUR,
}

# --- planted bugs ----------------------------------------------------------------------------------------------------


def trees(
    e: Evidence, bug: str = "", features: Callable[[np.ndarray], np.ndarray] = attacks.sorted_softmax
) -> float | Empty:
    """`attacks.gbt` with one tree and room for bugs."""
    forget, retain, test = (features(e.logits[name]) for name in SETS)
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
    y = e.labels
    same = np.full(len(y["test"]), True) if bug == "all classes" else np.isin(y["test"], y["forget"])
    labels = {name: e.logits[name].argmax(1) if bug == "no label" else y[name] for name in ("forget", "test")}
    inside = cross_entropy(e.logits["forget"], labels["forget"])
    outside = cross_entropy(e.logits["test"], labels["test"])[same]
    n = min(len(inside), len(outside))
    if n < (0 if bug == "no minimum" else 10):
        return Empty("too_few")
    if bug != "unbalanced":
        inside, outside = inside[:n], outside[:n]
    x, is_member = np.concatenate([inside, outside])[:, None], np.repeat([1, 0], [len(inside), len(outside)])
    folds = StratifiedShuffleSplit(10, random_state=0)
    found = cross_val_score(LogisticRegression(), x if bug == "raw loss" else scale(x), is_member, cv=folds)
    value = float(found.mean())
    return {"advantage": abs(value - 0.5), "error": 1 - value}.get(bug, value)


def opposite(metric: Metric) -> Callable[..., Any]:
    def mutant(e: Evidence, context: Context) -> Any:
        value = metric.fn(e, context)
        return value if isinstance(value, Empty) else 1 - getattr(value, "value", value)

    return mutant


def without_class(e: Evidence) -> float | Empty:
    rest = ~np.isin(e.labels["test"], e.forget_classes)
    gone = {name: {**sets, "test": sets["test"][rest]} for name, sets in (("logits", e.logits), ("labels", e.labels))}
    return attacks.entropy_lr(replace(e, **gone))  # type: ignore[arg-type]


MUTANTS: list[tuple[str, str, Callable[..., Any]]] = [
    ("mia_gbt", "unsorted", lambda e, _: trees(e, features=lambda z: softmax(z, axis=1))),
    *(
        ("mia_gbt", bug, lambda e, _, bug=bug: trees(e, bug))
        for bug in ("no 40%", "on D_f", "tail of retain", "no limit", "seen test", "only D_f")
    ),
    *(
        ("mia_lr_loss", bug, lambda e, _, bug=bug: regression(e, bug))
        for bug in ("all classes", "no label", "no minimum", "unbalanced", "raw loss", "advantage", "error")
    ),
    *(
        (f"mia_svc_{feature}", f"by {other}", lambda e, _, other=other: attacks.svc(e, other))
        for feature in SVC for other in SVC if other != feature
    ),
    *((f"mia_svc_{feature}", "share of members", opposite(RECORDS[f"mia_svc_{feature}"])) for feature in SVC),
    *(
        (f"mia_svc_{feature}", "the class in the test set",
         lambda e, _, feature=feature: attacks.svc(replace(e, forget_classes=()), feature))
        for feature in SVC
    ),
    ("mia_entropy_lr", "without the class", lambda e, _: without_class(e)),
    ("mia_entropy_lr", "share of non-members", opposite(leakage.MIA_ENTROPY_LR)),
    ("mia_entropy_lr", "vectors", lambda e, _: attacks.svc(e, "entropy")),
    ("mia_neighbour", "share that does not pass", opposite(leakage.MIA_NEIGHBOUR)),
    ("mia_neighbour", "any scenario", lambda e, _: attacks.neighbour(replace(e, forget_classes=(0,)))),
    ("mia_neighbour", "farthest class", lambda e, _: float(attacks._passes_for(e, 2, np.full(4, True), None).mean())),
]  # fmt: skip


test_golden, test_the_golden_cases_reject_a_planted_bug, test_every_metric_has_golden_cases_and_a_planted_bug = (
    golden_tests(RECORDS, GOLDEN, MUTANTS, 1e-9)
)


def test_the_attacks_with_room_for_bugs_pass_without_one() -> None:
    for name, mutant in (("mia_gbt", lambda e, _: trees(e)), ("mia_lr_loss", lambda e, _: regression(e))):
        assert [found(replace(RECORDS[name], fn=mutant), case) for case in GOLDEN[name]] == pytest.approx(
            [case.expected for case in GOLDEN[name]]
        )


@pytest.mark.parametrize(
    ("name", "case", "note"),
    [
        ("mia_gbt", LIKE_MEMBERS, "n = 24 per side (CaMU: 4000)"),
        ("mia_gbt", LONG_TEST, "n = 40 per side (CaMU: 4000)"),
        ("mia_gbt", evidence(rows((3, 5000)), rows((3, 5000)), rows((1, 10_000))), "n = 4000 per side"),
        ("mia_lr_loss", SAME_LOSS, "n = 20 per side"),
        *((f"mia_svc_{feature}", FLATTER, "n = 20 per side") for feature in SVC),
        ("mia_svc_prob", class_gone(True), "n = 20 per side"),
        ("mia_entropy_lr", class_gone(True), "n = 60 per side"),
        ("mia_svc_prob", evidence([3.0], rows((3, 2500)), rows((1, 2400))), "n = 2000 per side"),
        ("mia_entropy_lr", evidence([3.0], rows((3, 2500)), rows((1, 2400))), "n = 2400 per side"),
    ],
)
def test_an_attack_says_on_how_many_samples_it_rests(name: str, case: Evidence, note: str) -> None:
    describe = RECORDS[name].note
    assert describe is not None
    assert describe(case) == note


def test_the_trees_do_not_see_the_order_of_the_forget_set_nor_retain_samples_outside_the_prefix() -> None:
    rng = np.random.default_rng(0)
    noisy = evidence(rng.normal(2, 1, 60), rng.normal(2, 1, 200), rng.normal(1, 1, 150))
    forget, retain = noisy.logits["forget"], noisy.logits["retain"].copy()
    retain[60:] = 0
    other = replace(noisy, logits={**noisy.logits, "forget": forget[::-1], "retain": retain})
    assert found(RECORDS["mia_gbt"], Case(other, 0)) == found(RECORDS["mia_gbt"], Case(noisy, 0))


def test_a_constant_added_to_the_logits_of_a_row_changes_no_attack_on_one_model() -> None:
    rng = np.random.default_rng(1)
    draws = [np.round(2**13 * rng.normal(2, 1, n)) / 2**13 for n in (60, 200, 150)]  # float32 then adds exactly
    plain = replace(evidence(*draws), forget_classes=())
    moved = replace(plain, logits={
        name: z + rng.integers(-500, 500, size=(len(z), 1)).astype(np.float32) for name, z in plain.logits.items()
    })  # fmt: skip
    for name, metric in RECORDS.items():
        if not metric.needs:
            assert found(metric, Case(moved, 0)) == found(metric, Case(plain, 0)), name
