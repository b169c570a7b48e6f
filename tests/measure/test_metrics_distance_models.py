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
from unlearnbench.plan.spec import Empty, Estimate, Metric

ALL = [record for record in vars(distance).values() if isinstance(record, Metric)]
RECORDS = {record.name: record for record in ALL if "bank" in record.needs}  # the others: test_metrics_distance.py
SETS = ("forget", "retain", "test")


LABELS = {"forget": np.zeros(4, int), "retain": np.array([1, 0]), "test": np.array([2, 2, 2])}
BANKS = Evidence({}, LABELS, (), np.empty((0, 2)), {}, {}, seed=0)
FAR = math.log(100_001)  # KL of two histograms without a common bin: the floor 1e-5, summed to 1 again
# of (1/2, 1/2) from (0, 1), and the reverse
SPLIT_OU, SPLIT_UO = math.log(50_000.5) / 2 + math.log(0.500005) / 2, math.log(2)
# one of 64 models below all oracles, whose halves are in two bins, or in the one that the broken model has widened
LOST = math.log(64e-5 / 1.00001)
BROKEN = -LOST / 64 + 31 / 64 * math.log(31 / 32 * 1.00001) + math.log(1.00001) / 2
BROKEN_OU, BROKEN_UO = math.log(64 / 63), -LOST / 64 + 63 / 64 * math.log(63 / 64 * 1.00001)


def models(
    count: int, forget: Sequence[float], retain: Sequence[float], test: Sequence[float], size: float = 4
) -> dict[str, np.ndarray]:
    """Of each sample, the share of models that are right, with a margin of 4; that of the others is -4."""
    made = {}
    for (name, labels), shares in zip(LABELS.items(), (forget, retain, test), strict=True):
        right = np.arange(count)[:, None] < np.array(shares) * count
        logits = np.full((count, len(labels), 3), -500.0)
        samples = np.arange(len(labels))
        logits[:, samples, labels], logits[:, samples, (labels + 1) % 3] = np.where(right, size, -size), 0
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
MIDDLE = ([0.5] * 4, [0.5] * 2, [0.5] * 3)
ONE_BROKEN = Context(
    bank=joined(models(64, *MIDDLE, size=1), models(64, *LOW)),
    unlearned=joined(models(32, *HIGH, size=1), models(31, *LOW, size=1), models(1, *LOW, size=100)),
)
HALF = Context(bank=joined(models(64, [0.5] * 4, [0] * 2, [0] * 3), models(64, *LOW)),
               unlearned=models(64, [1] * 4, [0] * 2, [0] * 3))  # fmt: skip


def klom(expected: float, half: float, broken: float) -> list[Case]:
    return [
        Case(BANKS, expected, Context(bank=BANK, unlearned=UNLEARNED)),
        Case(BANKS, half, HALF),
        Case(BANKS, broken, ONE_BROKEN),
        Case(BANKS, 0.0, Context(bank=BANK, unlearned=decoy(models(64, *LOW)))),
        Case(BANKS, "small_bank", Context(bank=first(127, BANK), unlearned=UNLEARNED)),
        Case(BANKS, "small_bank", Context(bank=BANK, unlearned=first(63, UNLEARNED))),
        Case(BANKS, "small_bank", Context(bank=BANK)),
    ]


# N = 8: an ε of 0 scores 1 and an attack that is never wrong 0. The reference is right on all of D_r and test, or half.
QUALITY_BANK = joined(models(8, [0] * 4, [1] * 2, [1] * 3), models(8, [1] * 4, [0] * 2, [0] * 3))
NO_FORGET = replace(BANKS, labels={**LABELS, "forget": np.empty(0, int)})


def without_forget(of: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**of, "forget": of["forget"][:, :0]}


ALIKE = models(8, [0] * 4, [1] * 2, [1] * 3)
LESS_ACCURATE = models(8, [0] * 4, [1, 0], [1, 1, 0])
QUALITY = [
    Case(BANKS, 1.0, Context(bank=QUALITY_BANK, unlearned=decoy(ALIKE))),
    Case(BANKS, 0.5, Context(bank=QUALITY_BANK, unlearned=models(8, [0, 0, 1, 1], [1] * 2, [1] * 3))),
    Case(BANKS, 0.0, Context(bank=QUALITY_BANK, unlearned=models(8, [1] * 4, [1] * 2, [1] * 3))),
    Case(BANKS, 1 / 3, Context(bank=QUALITY_BANK, unlearned=LESS_ACCURATE)),  # 1 * 1/2 * 2/3
    Case(BANKS, 1.0, Context(bank=QUALITY_BANK, unlearned=joined(ALIKE, models(8, [1] * 4, [1] * 2, [1] * 3)))),
    Case(BANKS, 8.0, Context(bank=models(16, [0] * 4, [0.25] * 2, [0.125] * 3), unlearned=ALIKE)),  # 1 * 1 / ½ * 1 / ¼
    Case(BANKS, "oracle_empty", Context(bank=models(16, *LOW), unlearned=ALIKE)),
    Case(NO_FORGET, "too_few", Context(bank=without_forget(QUALITY_BANK), unlearned=without_forget(ALIKE))),
    Case(BANKS, "small_bank", Context(bank=first(15, QUALITY_BANK), unlearned=ALIKE)),
    Case(BANKS, "small_bank", Context(bank=QUALITY_BANK, unlearned=first(7, ALIKE))),
]


def scored(quality: float | Empty) -> Evidence:
    return replace(BANKS, scores={"forgetting_quality": quality})


NO_QUALITY = scored(Empty("too_few"))


def of_half(expected: float | str, oracle: Evidence | None, own: Evidence = scored(0.5)) -> Case:
    """Banks whose quality is .5, and what is stored of it."""
    compared = Context(oracle, bank=QUALITY_BANK, unlearned=models(8, [0, 0, 1, 1], [1] * 2, [1] * 3))
    return Case(own, expected, compared)


GOLDEN = {
    "klom": klom(13 / 36 * FAR, SPLIT_OU / 3, BROKEN),  # of the three sets below
    "klom_ou": klom(13 / 36 * FAR, SPLIT_OU / 3, BROKEN_OU),
    "klom_uo": klom(13 / 36 * FAR, SPLIT_UO / 3, BROKEN_UO),
    "klom_forget": klom(FAR / 4, SPLIT_OU, BROKEN),
    "klom_retain": klom(FAR / 2, 0, BROKEN),
    "klom_test": klom(FAR / 3, 0, BROKEN),
    "klom_ou_forget_p95": klom(0.85 * FAR, SPLIT_OU, BROKEN_OU),  # of 0, 0, 0 and FAR
    "klom_ou_retain_p95": klom(0.95 * FAR, 0, BROKEN_OU),
    "klom_ou_test_p95": klom(0.9 * FAR, 0, BROKEN_OU),
    "forgetting_quality": QUALITY,
    "forgetting_ratio": [
        of_half(4.0, scored(0.125)),
        of_half(0.5, scored(1.0)),
        of_half(1.0, scored(0.5)),
        of_half("oracle_empty", scored(0.0)),
        of_half("oracle_empty", NO_QUALITY),
        of_half("too_few", scored(0.5), own=NO_QUALITY),
        of_half("no_oracle", None),
        Case(scored(0.5), "small_bank", Context(scored(0.5))),
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
    sides = (context.unlearned["forget"], context.sides("forget")[1])  # type: ignore[index]
    return float(distributions.klom(*(distributions.margin(x, e.labels["forget"]) for x in sides)).mean())


def equal_bins(e: Evidence, context: Context) -> float:
    """The larger direction with the published bins."""
    return max(distance.KLOM_OU.fn(e, context).value, distance.KLOM_UO.fn(e, context).value)  # type: ignore[union-attr]


def without_accuracy(factor: str) -> Callable[..., Any]:
    """The reference in the place of the unlearned models on D_r, on test or on both."""
    return given_banks(distance.FORGETTING_QUALITY, lambda c: {
        "unlearned": {**unwrapped(c.unlearned), **{name: c.sides(name)[1] for name in factor.split()}}
    })  # fmt: skip


def ratio(bug: Callable[[float, float], float]) -> Callable[..., Any]:
    return lambda e, context: bug(*(row.scores["forgetting_quality"] for row in (e, context.oracle)))


KLOMS = [name for name in RECORDS if name.startswith("klom")]
ON_SETS, P95 = KLOMS[3:6], KLOMS[6:]
MUTANTS: list[tuple[str, str, Callable[..., Any]]] = [
    *((name, bug, given_banks(RECORDS[name], change)) for name in KLOMS for bug, change in BANK_BUGS.items()),
    *((name, "other set", RECORDS[of[i - 1]].fn) for of in (ON_SETS, P95) for i, name in enumerate(of)),
    *((name, "the mean", RECORDS[mean].fn) for name, mean in zip(P95, ON_SETS, strict=True)),
    *((name, "one set alone", distance.KLOM_RETAIN.fn) for name in ("klom", "klom_ou", "klom_uo")),
    *((name, f"as {other}", RECORDS[other].fn) for name in KLOMS[:3] for other in KLOMS[:3] if other != name),
    ("klom", "equal bins", equal_bins),
    ("klom", "other labels", relabelled(distance.KLOM)),
    ("klom_ou", "other labels", relabelled(distance.KLOM_OU)),
    ("klom_forget", "more models than the null", uncut),
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


def test_values_of_models_have_their_intervals() -> None:
    rng = np.random.default_rng(0)

    def drawn(count: int, shift: float) -> dict[str, np.ndarray]:
        return {name: rng.normal(shift, 1, (count, len(y), 3)).astype(np.float16) for name, y in LABELS.items()}

    row, context = scored(0.5), Context(scored(0.1), bank=drawn(128, 0), unlearned=drawn(64, 0))
    for metric in RECORDS.values():
        found = metric.fn(row, context)
        assert isinstance(found, Estimate)
        assert 0 <= found.low < found.value < found.high, metric.name
    quality, ratio = (metric.fn(row, context) for metric in (distance.FORGETTING_QUALITY, distance.FORGETTING_RATIO))
    assert isinstance(quality, Estimate)
    assert ratio == Estimate(quality.value / 0.1, quality.low / 0.1, quality.high / 0.1)
