"""Membership inference with many models: golden cases, and plausible bugs that the same cases must reject.

The attacks have tests of their own; here it is which models, sets, labels, halves and directions they get.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from metric_cases import Case, golden_tests
from scipy.special import expit, logit

from unlearnbench.measure import likelihood
from unlearnbench.measure.distributions import margin
from unlearnbench.measure.metrics import leakage
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Estimate, Metric

ALL = [record for record in vars(leakage).values() if isinstance(record, Metric)]
RECORDS = {record.name: record for record in ALL if record.needs}  # the others: test_metrics_leakage.py
SETS = ("forget", "retain", "test")


def evidence(forget: Any, retain: Any, test: Any, test_labels: Any = 0) -> Evidence:
    """Two classes; the logits are (given, 0), the labels 0 unless given."""
    sets = dict(zip(SETS, map(np.array, (forget, retain, test)), strict=True))
    logits = {name: np.stack([z, 0 * z], axis=1).astype(np.float32) for name, z in sets.items()}
    labels = {name: np.zeros(len(z), dtype=int) for name, z in sets.items()}
    labels["test"] = labels["test"] + np.array(test_labels)
    return Evidence(logits, labels, (), np.empty((0, 2)), {}, {}, seed=0)


# --- one model against oracles ---------------------------------------------------------------------------------------

MEMBERS, OTHERS, POPULATION = [3.0, 3, -2, 0.5], [0.0, 1], [-3.0, 0.25, 1.5]
UNSEEN = np.array(OTHERS + POPULATION)  # of the forgotten class, between samples of the other class
OTHER_CLASS = np.array([True, False, True, False, False, True, False, False])


def with_others(unseen: np.ndarray) -> np.ndarray:
    z = np.full(8, 9.0)
    z[~OTHER_CLASS] = unseen
    return z


def two(z: Any) -> np.ndarray:
    """Logits (z, 0) of two classes, as a bank keeps them."""
    return np.stack([np.asarray(z), 0 * np.asarray(z)], axis=-1).astype(np.float16)


def bank(*models: Evidence) -> dict[str, np.ndarray]:
    return {name: np.stack([model.logits[name] for model in models]).astype(np.float16) for name in SETS}


def shifted(sign: float, by: float = 0.0) -> Evidence:
    return evidence(sign * np.array(MEMBERS) + by, np.full(4, 5.0), with_others(sign * UNSEEN + by), OTHER_CLASS)


ROW, FLAT, AGAINST = shifted(1), shifted(0), shifted(-1)
NO_SUCH_CLASS = replace(ROW, labels={**ROW.labels, "test": np.ones(8, int)})
SPREAD = [-1.0, 0, 1, 2]
# Where the oracles know nothing a member's score rises with its own confidence, and where the model knows nothing it
# falls with theirs: the same order. RMIA: of the population lie below 1, 1, 1/3, 2/3; of the others 1/3, 2/3.
RMIA = [
    Case(ROW, 0.75, Context(bank=bank(FLAT, FLAT))),
    Case(ROW, 0.75, Context(bank=bank(FLAT))),
    Case(FLAT, 0.75, Context(bank=bank(AGAINST))),
    Case(AGAINST, 0.25, Context(bank=bank(FLAT))),
    Case(FLAT, 0.5, Context(bank=bank(FLAT))),
    Case(NO_SUCH_CLASS, "too_few", Context(bank=bank(FLAT))),
    Case(ROW, "small_bank", Context(unlearned=bank(FLAT))),
]
# EMIA: against all 5 unseen: 5, 5, 1, 3 of 5
EMIA = [
    Case(ROW, 0.7, Context(bank=bank(*(shifted(0, by) for by in SPREAD)))),
    Case(FLAT, 0.7, Context(bank=bank(*(shifted(-1, by) for by in SPREAD)))),
    Case(AGAINST, 0.3, Context(bank=bank(*(shifted(0, by) for by in SPREAD)))),
    Case(NO_SUCH_CLASS, "too_few", Context(bank=bank(*[FLAT] * 4))),
    Case(ROW, "small_bank", Context(bank=bank(*[FLAT] * 3))),
]


def halfway(low: float, high: float) -> float:
    """The logit whose probability has a score s = -log(.01 - log(p + 1e-5)) half-way between those of two others."""
    s = [-np.log(0.01 - np.log(expit(z) + 1e-5)) for z in (low, high)]
    return float(logit(np.exp(0.01 - np.exp(-np.mean(s))) - 1e-5))


# IAM: OUT models at 0 and the original at 4, without spread: the steps k/99 beyond the model's place, with weights
# (k + 1) / 4950. Half-way are the steps 50 to 98: (51 + ... + 99) / 4950 = 3675 / 4950.
PLACES = evidence([-1.0, 5.0, halfway(0, 4), halfway(0, 4)], np.full(4, 9.0), np.zeros(6))
AT_ZERO = bank(*[evidence(np.zeros(4), np.full(4, 9.0), np.zeros(6))] * 2)
ORIGINAL = evidence(np.full(4, 4.0), np.full(4, -9.0), np.zeros(6)).logits
NOTHING = evidence(np.empty(0), np.full(4, 9.0), np.zeros(6))
IAM = [
    Case(PLACES, (1 + 0 + 2 * 3675 / 4950) / 4, Context(bank=AT_ZERO, original=ORIGINAL)),
    Case(NOTHING, "too_few", Context(bank=bank(NOTHING), original=NOTHING.logits)),
    Case(PLACES, "small_bank", Context(original=ORIGINAL)),
    Case(PLACES, "not_measured", Context(bank=AT_ZERO)),
]

# --- many against many -----------------------------------------------------------------------------------------------


def models(n: int, count: int, forget: float, second: float | None = None, test: float = -7) -> dict[str, np.ndarray]:
    """Models all alike: on the second half of D_f other than on the first. Retain would mislead, and so would the last
    test sample, of a class that is not in D_f."""
    z = np.repeat([forget, forget if second is None else second], [n // 2, n - n // 2])
    sets = {"forget": z, "retain": 0 * z - 7, "test": np.append(0 * z + test, 50)}
    return {name: two(np.tile(values, (count, 1))) for name, values in sets.items()}


def halves(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([first[name], second[name]]) for name in SETS}


def against(n: int, unlearned: dict[str, np.ndarray], count: int = 16) -> tuple[Evidence, Context]:
    """The reference, the first half of the bank, has all at 0; the second half would hide a leak."""
    members = halves(models(n, count // 2, 0), models(n, count - count // 2, 4))
    row = evidence(np.zeros(n), np.zeros(n), np.zeros(n + 1), np.arange(n + 1) == n)
    return row, Context(bank=members, unlearned=unlearned)


def ulira(same: float | str, leak: float | str, half: float | str, n: int = 130) -> list[Case]:
    """U-LiRA of models like the reference, of models that all differ from it, and on half of the samples."""

    def case(expected: float | str, unlearned: dict[str, np.ndarray], count: int = 16) -> Case:
        row, context = against(n, unlearned, count)
        return Case(row, expected, context)

    return [
        case(same, models(n, 8, 0)),
        case(leak, models(n, 8, 4)),
        case(leak, halves(models(n, 8, 4), models(n, 30, 0))),  # the null has no more than the first half of the bank
        case(half, models(n, 8, 0, 4)),
        case("small_bank", models(n, 7, 4)),
        case("small_bank", models(n, 8, 4), count=15),
    ]


# a method that moves everything, one that moves D_f alone, one that moves the test set alone
EVERYWHERE, FORGET_ALONE, TEST_ALONE = (
    against(40, models(40, 8, forget, test=test)) for forget, test in ((4, -3), (4, -7), (0, -3))
)
# of the classes of D_f half of the test samples are moved
HALF_OF_CLASS = against(40, models(40, 8, 4))
HALF_OF_CLASS[1].unlearned["test"][:, :20, 0] = -3  # type: ignore[index]
NO_CLASS_SHARED = against(40, models(40, 8, 4))
NO_CLASS_SHARED[0].labels["test"][:] = 1
NO_SHARED_CLASS = [
    Case(NO_CLASS_SHARED[0], "too_few", NO_CLASS_SHARED[1]),
    Case(FORGET_ALONE[0], "small_bank", against(40, models(40, 7, 4))[1]),
]
FEW_NEGATIVES = ulira("too_few", "too_few", "too_few", n=120)  # 960 of 1,000 needed
SHADOWS = [
    (Context(shadows={"unlearned": two(np.tile([0.0, 4], (8, 1))), "out": two(np.zeros((8, 2)))}), 0.875),
    (Context(shadows={"unlearned": two(np.full((8, 2), 4.0)), "out": two(np.zeros((8, 2)))}), 1.0),
    (Context(shadows={"unlearned": two(np.zeros((8, 2))), "out": two(np.zeros((8, 2)))}), 0.5),
]
TWO = evidence(np.zeros(2), np.zeros(2), np.zeros(2))
TOO_FEW_RUNS = Context(shadows={"unlearned": two(np.zeros((7, 2))), "out": two(np.zeros((7, 2)))})

GOLDEN = {
    "rmia": RMIA,
    "emia": EMIA,
    "iam": IAM,
    "ulira": ulira(0.5, 1.0, 0.875),  # half: 1/2 + 1/2 (1/2 + 1/4)
    "ulira_test": [
        Case(EVERYWHERE[0], 1.0, EVERYWHERE[1]),
        Case(FORGET_ALONE[0], 0.5, FORGET_ALONE[1]),
        Case(HALF_OF_CLASS[0], 0.875, HALF_OF_CLASS[1]),
        *NO_SHARED_CLASS,
    ],
    "ulira_excess": [
        Case(EVERYWHERE[0], 0.0, EVERYWHERE[1]),
        Case(FORGET_ALONE[0], 0.5, FORGET_ALONE[1]),
        Case(TEST_ALONE[0], -0.5, TEST_ALONE[1]),
        Case(HALF_OF_CLASS[0], 0.125, HALF_OF_CLASS[1]),
        Case(replace(FORGET_ALONE[0], forget_classes=(0,)), "whole_class", FORGET_ALONE[1]),
        *NO_SHARED_CLASS,
    ],
    "ulira_accuracy": ulira(0.5, 1.0, 0.75),
    "ulira_tpr_1": [*ulira(0.0, 1.0, 0.5), *FEW_NEGATIVES],
    "ulira_tpr_01": [*ulira(0.0, 1.0, 0.5, n=1250), *ulira("too_few", "too_few", "too_few")],
    "ruli": [
        *(Case(TWO, expected, context) for context, expected in SHADOWS),
        Case(TWO, "small_bank", TOO_FEW_RUNS),
        Case(TWO, "small_bank", Context(bank=AT_ZERO, unlearned=AT_ZERO)),
    ],
}

# --- planted bugs ----------------------------------------------------------------------------------------------------


def opposite(metric: Metric) -> Callable[..., Any]:
    def mutant(e: Evidence, context: Context) -> Any:
        value = metric.fn(e, context)
        return value if isinstance(value, Empty) else 1 - getattr(value, "value", value)

    return mutant


def given(metric: Metric, change: Callable[[Evidence, Context], tuple[Evidence, Context]]) -> Callable[..., Any]:
    """A metric that is handed something else."""
    return lambda e, context: metric.fn(*change(e, context))


def relabelled(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    return replace(e, labels={**e.labels, "forget": 1 - e.labels["forget"]}), context


def all_of_test(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    return replace(e, labels={**e.labels, "test": np.zeros(len(e.labels["test"]), int)}), context


def backwards(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    """Non-members and population change places."""
    assert context.bank is not None
    members = {**context.bank, "test": context.bank["test"][:, ::-1]}
    y = {**e.labels, "test": e.labels["test"][::-1]}
    return replace(e, logits={**e.logits, "test": e.logits["test"][::-1]}, labels=y), replace(context, bank=members)


def row_for_bank(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    return e, replace(context, bank=bank(*[e] * 4))


def emia_of_half(e: Evidence, context: Context) -> float | Empty:
    (member, other, _), (out_member, out_other, _) = leakage._losses(e, context)
    return likelihood.emia(member, other, out_member, out_other)


def ends_swapped(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    assert context.bank is not None
    assert context.original is not None
    members = {name: z[None] for name, z in context.original.items()}
    return e, replace(context, original={name: z[0] for name, z in context.bank.items()}, bank=members)


def as_original(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    return e, replace(context, original=e.logits)


def whole_bank(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    assert context.bank is not None
    return e, replace(context, bank={name: np.concatenate([z, z]) for name, z in context.bank.items()})


def other_half(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    assert context.bank is not None
    return e, replace(context, bank={name: z[::-1] for name, z in context.bank.items()})


def null(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    assert context.bank is not None
    return e, replace(context, unlearned={name: z[len(z) // 2 :] for name, z in context.bank.items()})


def on_retain(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    return e, replace(context, **{
        side: dict.fromkeys(SETS, models["retain"])
        for side, models in (("bank", context.bank), ("unlearned", context.unlearned)) if models
    })  # fmt: skip


def forget_of_all_classes(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    return replace(e, labels={**e.labels, "test": 0 * e.labels["test"]}), context


def minus(value: Any) -> Any:
    return value if isinstance(value, Empty) else -value.value


def without_runs(e: Evidence, context: Context) -> tuple[Evidence, Context]:
    assert context.shadows is not None
    return e, replace(context, shadows={**context.shadows, "unlearned": context.shadows["out"]})


def roles_swapped_in_score(e: Evidence, context: Context) -> float | Empty:
    assert context.shadows is not None
    sides = [margin(context.shadows[role], e.labels["forget"]) for role in ("unlearned", "out")]
    return likelihood.auc(sides[1], sides[0])


MUTANTS: list[tuple[str, str, Callable[..., Any]]] = [
    ("rmia", "members low", opposite(leakage.RMIA)),
    ("rmia", "other labels", given(leakage.RMIA, relabelled)),
    ("rmia", "all of test", given(leakage.RMIA, all_of_test)),
    ("rmia", "population as non-members", given(leakage.RMIA, backwards)),
    ("rmia", "against itself", given(leakage.RMIA, row_for_bank)),
    ("emia", "members high", opposite(leakage.EMIA)),
    ("emia", "other labels", given(leakage.EMIA, relabelled)),
    ("emia", "all of test", given(leakage.EMIA, all_of_test)),
    ("emia", "half of the non-members", emia_of_half),
    ("emia", "against itself", given(leakage.EMIA, row_for_bank)),
    ("iam", "incompleteness", opposite(leakage.IAM)),
    ("iam", "ends swapped", given(leakage.IAM, ends_swapped)),
    ("iam", "itself as the original", given(leakage.IAM, as_original)),
    ("iam", "other labels", given(leakage.IAM, relabelled)),
    *(
        (name, bug, given(RECORDS[name], change))
        for name in ("ulira", "ulira_accuracy", "ulira_tpr_1", "ulira_tpr_01")
        for bug, change in (
            ("the whole bank", whole_bank), ("the other half", other_half),
            ("the null", null), ("on retain", on_retain),
        )
    ),
    ("ulira", "accuracy", leakage.ULIRA_ACCURACY.fn),
    ("ulira", "on test", leakage.ULIRA_TEST.fn),
    ("ulira", "excess", leakage.ULIRA_EXCESS.fn),
    ("ulira_test", "on D_f", leakage.ULIRA.fn),
    ("ulira_test", "all of test", given(leakage.ULIRA_TEST, forget_of_all_classes)),
    ("ulira_excess", "on D_f", leakage.ULIRA.fn),
    ("ulira_excess", "all of test", given(leakage.ULIRA_EXCESS, forget_of_all_classes)),
    ("ulira_excess", "the other way round", lambda *given: minus(leakage.ULIRA_EXCESS.fn(*given))),
    ("ulira_accuracy", "TPR", leakage.ULIRA_TPR_1.fn),
    ("ulira_tpr_1", "at .1%", leakage.ULIRA_TPR_01.fn),
    ("ulira_tpr_01", "at 1%", leakage.ULIRA_TPR_1.fn),
    ("ruli", "out twice", given(leakage.RULI, without_runs)),
    ("ruli", "raw confidence, out high", roles_swapped_in_score),
]  # fmt: skip


test_golden, test_the_golden_cases_reject_a_planted_bug, test_every_metric_has_golden_cases_and_a_planted_bug = (
    golden_tests(RECORDS, GOLDEN, MUTANTS, 1e-9)
)


def test_values_of_models_have_the_intervals_of_the_attacks() -> None:
    rng = np.random.default_rng(0)
    labels = {"forget": np.zeros(40, int), "retain": np.zeros(0, int), "test": np.arange(60) % 2}
    row = replace(evidence([], [], []), labels=labels, seed=3)

    def drawn(count: int, shift: float) -> dict[str, np.ndarray]:
        return {name: two(rng.normal(shift, 1, (count, len(y)))) for name, y in labels.items()}

    context = Context(
        bank=drawn(16, 0), unlearned=drawn(8, 1),
        shadows={"unlearned": drawn(8, 1)["forget"], "out": drawn(8, 0)["forget"]},
    )  # fmt: skip

    def margins(models: np.ndarray) -> np.ndarray:
        return models[..., 0].astype(float)  # of two classes: the differences of their logits

    forget = likelihood.ulira(*(margins(side) for side in context.sides("forget")), seed=3)
    test = likelihood.ulira(*(margins(side)[:, ::2] for side in context.sides("test")), seed=3)
    assert isinstance(forget, likelihood.Attack)
    assert isinstance(test, likelihood.Attack)
    assert context.shadows is not None
    expected = {
        leakage.ULIRA: forget.auc, leakage.ULIRA_TEST: test.auc, leakage.ULIRA_ACCURACY: forget.accuracy,
        leakage.ULIRA_EXCESS: likelihood.excess(forget, test),
        leakage.RULI: likelihood.ruli(*(margins(context.shadows[side]) for side in ("unlearned", "out")), seed=3),
    }  # fmt: skip
    for metric, interval in expected.items():
        found = metric.fn(row, context)
        assert isinstance(found, Estimate)
        assert found.low < found.value < found.high, metric.name
        assert interval == Estimate(*(pytest.approx(x) for x in (found.value, found.low, found.high)))
