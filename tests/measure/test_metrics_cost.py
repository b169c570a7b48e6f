"""Cost: golden cases, and for every metric plausible bugs that the same cases must reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from metric_cases import Case, golden_tests

from unlearnbench.measure.metrics import cost
from unlearnbench.measure.scoring import score
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric

RECORDS = {record.name: record for record in vars(cost).values() if isinstance(record, Metric)}


def spent(**costs: float | None) -> Evidence:
    return Evidence({}, {}, (), np.empty((0, 2)), {"relearn_time": 1.5}, costs, seed=0)


def scored(**scores: float | Empty) -> Evidence:
    return replace(spent(samples=400.0), scores=scores)


PLAIN = spent(seconds=2.0, peak_memory=3e6, samples=400.0, gradients=300.0, flops=5.5e9)
ON_CPU = spent(seconds=2.0, peak_memory=None, samples=0.0, gradients=0.0, flops=None)
BARE = spent()
OWN = scored(seconds=2.0, peak_memory=30.0, samples=400.0, gradients=300.0, flops=6.0)
ORACLE = scored(seconds=10.0, peak_memory=40.0, samples=1600.0, gradients=2400.0, flops=5.0)
NOTHING = scored(seconds=0.0, peak_memory=0.0, samples=0.0, gradients=0.0, flops=0.0)
LACKS = dict.fromkeys(("seconds", "peak_memory", "samples", "gradients", "flops"), Empty("not_on_device"))


def shares(expected: float) -> list[Case]:
    return [
        Case(OWN, expected, ORACLE),
        Case(OWN, 100.0, OWN),
        Case(NOTHING, 0.0, ORACLE),
        Case(OWN, "oracle_empty", NOTHING),
        Case(OWN, "oracle_empty", scored(**LACKS)),
        Case(OWN, "oracle_empty", scored()),
        Case(scored(**LACKS), "not_on_device", ORACLE),
        Case(scored(), "not_measured", ORACLE),
        Case(OWN, "no_oracle"),
    ]


GOLDEN = {
    "seconds": [Case(PLAIN, 2.0), Case(BARE, "not_measured")],
    "rte": [
        Case(OWN, 5.0, ORACLE),
        Case(OWN, 1.0, OWN),
        Case(replace(OWN, cost={"samples": 0.0}), "zero_cost", ORACLE),  # whatever its clock says
        Case(scored(seconds=0.0), "zero_cost", ORACLE),
        Case(replace(OWN, cost={"samples": 0.0, "gradients": 300.0}), 5.0, ORACLE),  # it trained on what it made itself
        Case(scored(**LACKS), "not_on_device", ORACLE),
        Case(OWN, "oracle_empty", scored(**LACKS)),
        Case(OWN, "no_oracle"),
    ],
    "peak_memory": [Case(PLAIN, 3.0), Case(ON_CPU, "not_on_device"), Case(BARE, "not_measured")],
    "samples": [Case(PLAIN, 400.0), Case(ON_CPU, 0.0), Case(BARE, "not_measured")],
    "gradients": [Case(PLAIN, 300.0), Case(ON_CPU, 0.0), Case(BARE, "not_measured")],
    "flops": [Case(PLAIN, 5.5), Case(ON_CPU, "not_on_device"), Case(BARE, "not_measured")],
    "peak_memory_share": shares(75.0),
    "samples_share": shares(25.0),
    "gradients_share": shares(12.5),
    "flops_share": shares(120.0),
}

# --- planted bugs ----------------------------------------------------------------------------------------------------


def of_both(name: str, bug: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda e, context: bug(e.scores[name], context.oracle.scores[name])


MUTANTS: list[tuple[str, str, Callable[..., Any]]] = [
    ("seconds", "relearning's", lambda e, _: e.scalars["relearn_time"]),
    ("seconds", "milliseconds", cost.spent("seconds", unit=1e-3)),
    ("seconds", "0 when not measured", lambda e, _: e.cost.get("seconds", 0.0)),
    ("rte", "inverted", of_both("seconds", lambda own, its: own / its)),
    ("rte", "share saved", of_both("seconds", lambda own, its: 1 - own / its)),
    ("rte", "difference", of_both("seconds", lambda own, its: its - own)),
    ("rte", "of an idle method", of_both("seconds", lambda own, its: its / own)),
    ("peak_memory", "MiB", cost.spent("peak_memory", unit=2**20)),
    ("peak_memory", "bytes", cost.spent("peak_memory")),
    ("peak_memory", "0 when not measured", lambda e, _: (e.cost.get("peak_memory") or 0) / 1e6),
    ("samples", "gradients", cost.GRADIENTS.fn),
    ("samples", "with gradients", lambda e, _: e.cost["samples"] + e.cost["gradients"]),
    ("samples", "0 as not measured", lambda e, _: e.cost.get("samples") or Empty("not_measured")),
    ("gradients", "samples", cost.SAMPLES.fn),
    ("gradients", "0 as not measured", lambda e, _: e.cost.get("gradients") or Empty("not_measured")),
    ("flops", "single operations", cost.spent("flops")),
    ("flops", "mega", cost.spent("flops", unit=1e6)),
    ("flops", "2 ** 30", cost.spent("flops", unit=2**30)),
    ("flops", "0 when not measured", lambda e, _: (e.cost.get("flops") or 0) / 1e9),
    *(
        (f"{name}_share", bug, fn)
        for name in ("peak_memory", "samples", "gradients", "flops")
        for bug, fn in (
            ("a fraction", of_both(name, lambda own, its: own / its)),
            ("inverted", of_both(name, lambda own, its: 100 * its / own)),
            ("saved", of_both(name, lambda own, its: 100 - 100 * own / its)),
            ("of the seconds", of_both("seconds", lambda own, its: 100 * own / its)),
            ("nothing over nothing", of_both(name, lambda own, its: 100 * own / its if its else 0.0)),
        )
    ),
]


test_golden, test_the_golden_cases_reject_a_planted_bug, test_every_metric_has_golden_cases_and_a_planted_bug = (
    golden_tests(RECORDS, GOLDEN, MUTANTS)
)


def test_an_oracle_costs_as_much_as_itself_and_what_did_nothing_costs_nothing() -> None:
    assert {
        name: own.value for name, own in score(PLAIN, Context(oracle=PLAIN), RECORDS).items() if RECORDS[name].relative
    } == {
        "rte": 1.0,
        "peak_memory_share": 100.0,
        "samples_share": 100.0,
        "gradients_share": 100.0,
        "flops_share": 100.0,
    }
    idle = spent(seconds=0.001, peak_memory=0.0, samples=0.0, gradients=0.0, flops=0.0)
    values = score(idle, Context(oracle=PLAIN), RECORDS)
    assert values["rte"].reason == "zero_cost"
    assert [values[f"{name}_share"].value for name in ("samples", "gradients", "flops")] == [0.0, 0.0, 0.0]
