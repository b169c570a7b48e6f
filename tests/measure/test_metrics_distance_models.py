"""Unlearned models against a bank: golden cases, and plausible bugs that the same cases must reject.

The distances have tests of their own; here it is which models, sets, labels, halves and directions they get.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from metric_cases import Case, golden_tests

from unlearnbench.measure import distributions
from unlearnbench.measure.metrics import distance
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric

ALL = [record for record in vars(distance).values() if isinstance(record, Metric)]
RECORDS = {record.name: record for record in ALL if "bank" in record.needs}  # the others: test_metrics_distance.py
SETS = ("forget", "retain", "test")


LABELS = {"forget": np.zeros(4, int), "retain": np.array([1, 0]), "test": np.array([2, 2, 2])}
BANKS = Evidence({}, LABELS, (), np.empty((0, 2)), {}, {}, seed=0)
FAR = math.log(100_001)  # KL of two histograms without a common bin: the floor 1e-5, summed to 1 again
# of (1/2, 1/2) from (0, 1), and the reverse
SPLIT_OU, SPLIT_UO = math.log(50_000.5) / 2 + math.log(0.500005) / 2, math.log(2)


def models(
    count: int, forget: Sequence[float], retain: Sequence[float], test: Sequence[float]
) -> dict[str, np.ndarray]:
    """Of each sample, the share of models that are right, with a margin of 4; that of the others is -4."""
    made = {}
    for (name, labels), shares in zip(LABELS.items(), (forget, retain, test), strict=True):
        right = np.arange(count)[:, None] < np.array(shares) * count
        logits = np.full((count, len(labels), 3), -50.0)
        samples = np.arange(len(labels))
        logits[:, samples, labels], logits[:, samples, (labels + 1) % 3] = np.where(right, 4, -4), 0
        made[name] = logits.astype(np.float16)
    return made


def joined(*parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in SETS}


def first(count: int, of: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: logits[:count] for name, logits in of.items()}


def decoy(of: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """On D_f the label's margin stays, and the other classes change places."""
    return {**of, "forget": of["forget"][..., [0, 2, 1]]}


LOW, HIGH = ([0] * 4, [0] * 2, [0] * 3), ([1] * 4, [1] * 2, [1] * 3)
BANK = joined(models(64, *LOW), models(64, *HIGH))
# what is beyond the size of the reference does not count
UNLEARNED = joined(models(64, [0, 0, 0, 1], [0, 1], [0, 0, 1]), models(16, *HIGH))
HALF = Context(bank=joined(models(64, [0.5] * 4, [0] * 2, [0] * 3), models(64, *LOW)),
               unlearned=models(64, [1] * 4, [0] * 2, [0] * 3))  # fmt: skip


def klom(expected: float, half: float = 0.0) -> list[Case]:
    return [
        Case(BANKS, expected, Context(bank=BANK, unlearned=UNLEARNED)),
        Case(BANKS, half, HALF),
        Case(BANKS, 0.0, Context(bank=BANK, unlearned=decoy(models(64, *LOW)))),
        Case(BANKS, "small_bank", Context(bank=first(127, BANK), unlearned=UNLEARNED)),
        Case(BANKS, "small_bank", Context(bank=BANK, unlearned=first(63, UNLEARNED))),
        Case(BANKS, "small_bank", Context(bank=BANK)),
    ]


# N = 8: an ε of 0 scores 1 and an attack that is never wrong 0. The reference is right on all of D_r and test.
QUALITY_BANK = joined(models(8, [0] * 4, [1] * 2, [1] * 3), models(8, [1] * 4, [0] * 2, [0] * 3))
ALIKE = models(8, [0] * 4, [1] * 2, [1] * 3)
LESS_ACCURATE = models(8, [0] * 4, [1, 0], [1, 1, 0])
QUALITY = [
    Case(BANKS, 1.0, Context(bank=QUALITY_BANK, unlearned=decoy(ALIKE))),
    Case(BANKS, 0.5, Context(bank=QUALITY_BANK, unlearned=models(8, [0, 0, 1, 1], [1] * 2, [1] * 3))),
    Case(BANKS, 0.0, Context(bank=QUALITY_BANK, unlearned=models(8, [1] * 4, [1] * 2, [1] * 3))),
    Case(BANKS, 1 / 3, Context(bank=QUALITY_BANK, unlearned=LESS_ACCURATE)),  # 1 * 1/2 * 2/3
    Case(BANKS, 1.0, Context(bank=QUALITY_BANK, unlearned=joined(ALIKE, models(8, [1] * 4, [1] * 2, [1] * 3)))),
    Case(BANKS, "oracle_empty", Context(bank=models(16, *LOW), unlearned=ALIKE)),
    Case(BANKS, "small_bank", Context(bank=first(15, QUALITY_BANK), unlearned=ALIKE)),
    Case(BANKS, "small_bank", Context(bank=QUALITY_BANK, unlearned=first(7, ALIKE))),
]


def scored(quality: float | Empty) -> Evidence:
    return replace(BANKS, scores={"forgetting_quality": quality})


OWN, ORACLE, NO_QUALITY = scored(0.03), scored(0.12), scored(Empty("too_few"))


def with_banks(case: Case) -> Case:
    return case._replace(compared=replace(case.compared, bank=QUALITY_BANK, unlearned=ALIKE))


GOLDEN = {
    "klom_ou": klom(13 / 36 * FAR, SPLIT_OU / 3),  # of the three sets below
    "klom_uo": klom(13 / 36 * FAR, SPLIT_UO / 3),
    "klom_ou_forget": klom(FAR / 4, SPLIT_OU),
    "klom_ou_forget_p95": klom(0.85 * FAR, SPLIT_OU),
    "klom_ou_retain": klom(FAR / 2),
    "klom_ou_retain_p95": klom(0.95 * FAR),
    "klom_ou_test": klom(FAR / 3),
    "klom_ou_test_p95": klom(0.9 * FAR),
    "forgetting_quality": QUALITY,
    "forgetting_ratio": [
        *map(with_banks, [
            Case(OWN, 0.25, Context(ORACLE)),
            Case(ORACLE, 4.0, Context(OWN)),
            Case(OWN, 1.0, Context(OWN)),
            Case(scored(0.0), 0.0, Context(ORACLE)),
            Case(OWN, "oracle_empty", Context(scored(0.0))),
            Case(OWN, "oracle_empty", Context(NO_QUALITY)),
            Case(NO_QUALITY, "too_few", Context(ORACLE)),
            Case(OWN, "no_oracle"),
        ]),
        Case(OWN, "small_bank", Context(ORACLE)),
    ],
}  # fmt: skip

# --- planted bugs ----------------------------------------------------------------------------------------------------


def given_banks(metric: Metric, change: Callable[[Context], dict[str, Any]]) -> Callable[..., Any]:
    return lambda e, context: metric.fn(e, replace(context, **change(context), shared={}))


def unwrapped(models: Any) -> dict[str, np.ndarray]:
    return {name: models[name] for name in SETS}


BANK_BUGS: dict[str, Callable[[Context], dict[str, Any]]] = {
    "the whole bank": lambda c: {"bank": joined(unwrapped(c.bank), unwrapped(c.bank))},
    "the other half": lambda c: {"bank": {name: c.bank[name][::-1] for name in SETS}},  # type: ignore[index]
    "the null": lambda c: {"unlearned": {name: c.bank[name][len(c.bank[name]) // 2 :] for name in SETS}},  # type: ignore[index]
}


def relabelled(metric: Metric) -> Callable[..., Any]:
    """Of the class after the label."""
    return lambda e, context: metric.fn(
        replace(e, labels={name: (y + 1) % 3 for name, y in e.labels.items()}), replace(context, shared={})
    )


def uncut(e: Evidence, context: Context) -> float:
    sides = [
        distributions.margin(x, e.labels["forget"]) for x in (context.reference("forget"), context.unlearned["forget"])
    ]  # type: ignore[index]
    return float(distributions.klom(*sides).mean())


def without_accuracy(factor: str) -> Callable[..., Any]:
    """The reference in the place of the unlearned models on D_r, on test or on both."""
    return given_banks(distance.FORGETTING_QUALITY, lambda c: {
        "unlearned": {**unwrapped(c.unlearned), **{name: c.reference(name) for name in factor.split()}}
    })  # fmt: skip


def ratio(bug: Callable[[float, float], float]) -> Callable[..., Any]:
    return lambda e, context: bug(*(row.scores["forgetting_quality"] for row in (e, context.oracle)))


KLOMS = [name for name in RECORDS if name.startswith("klom")]
ON_SETS = [name for name in KLOMS if name not in ("klom_ou", "klom_uo")]  # mean and p95, set by set
MUTANTS: list[tuple[str, str, Callable[..., Any]]] = [
    *((name, bug, given_banks(RECORDS[name], change)) for name in KLOMS for bug, change in BANK_BUGS.items()),
    *((name, "other set", RECORDS[ON_SETS[i - 2]].fn) for i, name in enumerate(ON_SETS)),
    *((name, "mean or p95", RECORDS[ON_SETS[i ^ 1]].fn) for i, name in enumerate(ON_SETS)),
    ("klom_ou", "one set alone", distance.KLOM_OU_RETAIN.fn),
    ("klom_uo", "one set alone", distance.KLOM_OU_TEST.fn),
    ("klom_ou", "reversed", distance.KLOM_UO.fn),
    ("klom_uo", "not reversed", distance.KLOM_OU.fn),
    ("klom_ou", "other labels", relabelled(distance.KLOM_OU)),
    ("klom_ou", "more models than the null", uncut),
    *(("forgetting_quality", n, given_banks(distance.FORGETTING_QUALITY, bug)) for n, bug in BANK_BUGS.items()),
    *(("forgetting_quality", f"blind to {sets}", without_accuracy(sets)) for sets in ("retain", "test", "retain test")),
    ("forgetting_quality", "other labels", relabelled(distance.FORGETTING_QUALITY)),
    ("forgetting_ratio", "inverted", ratio(lambda own, its: its / own)),
    ("forgetting_ratio", "difference", ratio(lambda own, its: own - its)),
    ("forgetting_ratio", "own alone", ratio(lambda own, its: own)),
    ("forgetting_ratio", "0 for nothing", ratio(lambda own, its: own / its if its else 0.0)),
]  # fmt: skip


test_golden, test_the_golden_cases_reject_a_planted_bug, test_every_metric_has_golden_cases_and_a_planted_bug = (
    golden_tests(RECORDS, GOLDEN, MUTANTS, 1e-7)
)
