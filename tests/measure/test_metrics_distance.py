"""Distances to the oracle: golden cases, and for every metric plausible bugs that the same cases must reject.

The distances have tests of their own; here it is which sets, labels, units and directions they get.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from metric_cases import Case, golden_tests

from unlearnbench.measure import distances
from unlearnbench.measure.metrics import distance
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric

ALL = [record for record in vars(distance).values() if isinstance(record, Metric)]
RECORDS = {record.name: record for record in ALL if "bank" not in record.needs}  # and test_metrics_distance_models.py
SETS = ("forget", "retain", "test")


def outputs(predicted: Sequence[int]) -> np.ndarray:
    return 4 * np.eye(3, dtype=np.float32)[list(predicted)]


LABELS = {"forget": [0, 0], "retain": [1, 1, 2], "test": [0, 0, 0, 1, 1, 1, 1, 2]}
PLAIN = Evidence(
    logits={name: outputs(rows) for name, rows in LABELS.items()},
    labels={name: np.array(rows) for name, rows in LABELS.items()},
    forget_classes=(),
    curve=np.empty((0, 2)),
    scalars={"weight_distance": 0.25, "relearn_steps": 3.0},
    cost={},
    seed=0,
)

# --- accuracies and attacks ------------------------------------------------------------------------------------------


def scored(forget_classes: tuple[int, ...] = (), **scores: float | Empty) -> Evidence:
    return replace(PLAIN, scores=scores, forget_classes=forget_classes)


OWN = scored(fa=25.0, ra=90.0, ta=62.5, mia_lr_loss=0.55, mia_gbt=0.4, mia_svc_confidence=0.2)
ORACLE = scored(fa=35.0, ra=88.0, ta=60.5, mia_lr_loss=0.5, mia_gbt=0.5, mia_svc_confidence=0.9)
EMPTY = dict.fromkeys(("fa", "ra", "ta", "mia_lr_loss", "mia_svc_confidence"), Empty("too_few"))
UNTOUCHED = scored(ra=90.0, ta=62.5, mia_lr_loss=0.55, mia_svc_confidence=0.0)
ALL_UNSEEN = scored(ra=90.0, ta=62.5, mia_lr_loss=0.5, mia_svc_confidence=1.0)


def compared(own_then_oracle: float, swapped: float, itself: float) -> list[Case]:
    return [
        Case(OWN, own_then_oracle, Context(ORACLE)),
        Case(ORACLE, swapped, Context(OWN)),
        Case(OWN, itself, Context(OWN)),
        Case(OWN, "oracle_empty", Context(scored(**EMPTY))),
        Case(OWN, "oracle_empty", Context(PLAIN)),
        Case(scored(**EMPTY), "too_few", Context(OWN)),
        Case(PLAIN, "not_measured", Context(OWN)),
        Case(OWN, "no_oracle"),
    ]


# the original is right on 7/8 of test: on 2/3 of class 0 and on all of the others
ORIGINAL = {"test": outputs([0, 0, 1, 1, 1, 1, 1, 2]), "forget": outputs([0, 0]), "retain": outputs([0, 0, 0])}
RANDOM = scored(fa=25.0, ra=90.0, ta=62.5, ta_r=50.0, ta_f=40.0)  # of which the last two do not count
CLASS = scored((0,), fa=25.0, ra=90.0, ta=62.5, ta_r=80.0, ta_f=100 / 3)
AUS = [
    Case(RANDOM, 0.75 / 1.375, Context(original=ORIGINAL)),  # (1 - (.875 - .625)) / (1 + |.25 - .625|)
    Case(CLASS, 0.6, Context(original=ORIGINAL)),  # (1 - (1 - .8)) / (1 + 1/3)
    Case(scored(ta=62.5), "not_measured", Context(original=ORIGINAL)),
    Case(scored((0,), fa=25.0, ta=62.5), "not_measured", Context(original=ORIGINAL)),
    Case(RANDOM, "not_measured", Context(oracle=ORACLE)),
]

# --- outputs and representations -------------------------------------------------------------------------------------


def given(forget: Sequence[Sequence[float]]) -> Evidence:
    """Probabilities of two classes on D_f; other sets say the opposite."""
    p = np.array(forget, dtype=float).reshape(-1, 2)
    logits = np.log(p).astype(np.float32)
    return replace(PLAIN, logits={"forget": logits, "retain": logits[:, ::-1], "test": logits[:, ::-1]})


EVEN, SURE = given([(0.5, 0.5)]), given([(0.75, 0.25)])
BOTH, EVENS, NONE = given([(0.5, 0.5), (0.75, 0.25)]), given([(0.5, 0.5), (0.5, 0.5)]), given([])
JS = 0.048794940695398505  # of (1/2, 1/2) and (3/4, 1/4) in bits: scipy.spatial.distance.jensenshannon(p, q, 2) ** 2


def on_forget(even_sure: float, sure_even: float) -> list[Case]:
    return [
        Case(EVEN, even_sure, Context(SURE)),
        Case(SURE, sure_even, Context(EVEN)),
        Case(BOTH, sure_even / 2, Context(EVENS)),
        Case(BOTH, 0.0, Context(BOTH)),
        Case(NONE, "too_few", Context(NONE)),
        Case(EVEN, "no_oracle", Context(original=SURE.logits, untrained=SURE.logits)),
    ]


def panel(forget: Any, retain: Any, forget_classes: tuple[int, ...] = (0,)) -> Evidence:
    sets = {"forget": forget, "retain": retain}
    features = {name: np.asarray(x, dtype=np.float16).reshape(-1, 1) for name, x in sets.items()}
    return replace(PLAIN, representations=features, forget_classes=forget_classes)


RISING, MIXED = panel([0, 1], [2, 3]), panel([0, 1], [3, 2])  # correlation .8; 1 on D_f alone, -1 on D_r alone
LINE = np.arange(40) / 10
# 40 retained in a row; of 40 forgotten 30 lie far off, 10 apart from each other among the retained
APART = panel(np.concatenate([LINE[:30] + 50, LINE[2::4] + 0.05]), LINE)
NO_PANEL = replace(PLAIN, forget_classes=(0,))

GOLDEN = {
    "avg_gap": compared(4.75, 4.75, 0.0),
    "tow": compared(0.9 * 0.98 * 0.98, 0.9 * 0.98 * 0.98, 1.0),
    # the share called non-member, .2 and .9; and an original to which none of D_f is unseen where to its oracle all is
    "tow_mia": [*compared(0.3 * 0.98 * 0.98, 0.3 * 0.98 * 0.98, 1.0), Case(UNTOUCHED, 0.0, Context(ALL_UNSEEN))],
    "aus": AUS,
    "js_oracle": on_forget(JS, JS),
    "activation_distance": on_forget(0.3535533905932738, 0.3535533905932738),  # √2 / 4
    "logit_kl": on_forget(0.13081203594113694, 0.14384103622589045),  # 3/4 ln 3/2 + 1/4 ln 1/2; 1/2 ln 2/3 + 1/2 ln 2
    "zrf": [
        Case(EVEN, 1 - JS, Context(untrained=SURE.logits)),
        Case(BOTH, 1 - JS / 2, Context(oracle=BOTH, original=BOTH.logits, untrained=EVENS.logits)),
        Case(BOTH, 1.0, Context(untrained=BOTH.logits)),
        Case(NONE, "too_few", Context(untrained=NONE.logits)),
        Case(EVEN, "not_measured", Context(oracle=SURE, original=SURE.logits)),
    ],
    "cka": [
        Case(RISING, 0.64, Context(MIXED)),
        Case(RISING, 1.0, Context(RISING)),
        Case(RISING, "constant", Context(panel([1, 1], [1, 1]))),
        Case(RISING, "not_measured", Context(NO_PANEL)),
        Case(NO_PANEL, "not_measured", Context(RISING)),
        Case(RISING, "no_oracle"),
    ],
    "separability": [
        Case(APART, 0.875, Context(panel(LINE, LINE + 50))),  # 40 and 30 of 80
        Case(panel(LINE, LINE + 50), 1.0),
        Case(replace(APART, forget_classes=()), "no_class"),
        Case(panel(LINE[:9], LINE), "too_few"),
        Case(NO_PANEL, "not_measured"),
    ],
    "weight_distance": [
        Case(PLAIN, 0.25),
        Case(replace(PLAIN, scalars={"weight_distance": 0.0}), 0.0),
        Case(replace(PLAIN, scalars={"weight_distance": None}), "not_measured"),
        Case(replace(PLAIN, scalars={}), "not_measured"),
    ],
}

# --- planted bugs ----------------------------------------------------------------------------------------------------


def gaps(names: str, bug: Callable[[list[float]], float], mia: float = 0.01, percent: float = 1) -> Callable[..., Any]:
    """A metric of signed gaps, attacks divided by ``mia`` and accuracies by ``percent``."""

    def measure(own: Evidence, context: Context) -> float | Empty:
        scales = {name: mia if name.startswith("mia") else percent for name in names.split()}
        found = distance._gaps(scales, own, context)
        return found if isinstance(found, Empty) else bug(found)

    return measure


def mean_abs(values: Any) -> float:
    return float(np.abs(values).mean())


def as_of_class(is_class: bool, e: Evidence, context: Context, whole: bool = False) -> float:
    """`distance.adaptive_score` that mistakes the scenario, or counts the original's accuracy on all of test."""
    assert context.original is not None
    forget = e.scores["ta_f" if is_class else "fa"]
    test = e.scores["ta_r" if e.forget_classes else "ta"]
    assert isinstance(test, float)
    assert isinstance(forget, float)
    y = e.labels["test"]
    counted = np.full(len(y), True) if whole else ~np.isin(y, e.forget_classes)
    right = (context.original["test"].argmax(1) == y)[counted].mean()
    return distances.aus(float(right), test / 100, forget / 100, is_class)


def swapped(metric: Metric, field: str = "oracle") -> Callable[..., Any]:
    """The row in the place of what it is compared with, and the reverse."""

    def measure(e: Evidence, context: Context) -> Any:
        if field == "oracle":
            return metric.fn(context.oracle, Context(e))  # type: ignore[arg-type]
        return metric.fn(e, replace(context, **{field: e.logits}))

    return measure


def js(bug: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
    return distance.forget_outputs(lambda a, b: float(bug(distances.js_divergence(a, b))))


TERMS = ("fa ra ta", "mia_svc_confidence ra ta")
MUTANTS: list[tuple[str, str, Callable[..., Any]]] = [
    ("avg_gap", "signed", gaps("fa ra ta mia_lr_loss", lambda g: float(np.mean(g)))),
    ("avg_gap", "wrong sign", gaps("fa ra ta mia_lr_loss", lambda g: -mean_abs(g))),
    ("avg_gap", "sum", gaps("fa ra ta mia_lr_loss", lambda g: 4 * mean_abs(g))),
    ("avg_gap", "attack as a fraction", gaps("fa ra ta mia_lr_loss", mean_abs, mia=1)),
    ("avg_gap", "another attack", gaps("fa ra ta mia_gbt", mean_abs)),
    ("avg_gap", "no attack", gaps("fa ra ta", mean_abs)),
    *(
        (name, bug, mutant)
        for name, terms in zip(("tow", "tow_mia"), TERMS, strict=True)
        for bug, mutant in (
            ("in points", gaps(terms, distances.tow)),
            ("signed", gaps(terms, lambda g: math.prod(1 - x for x in g), mia=1, percent=100)),
            ("of the gaps", gaps(terms, lambda g: math.prod(map(abs, g)), mia=1, percent=100)),
            ("a mean", gaps(terms, lambda g: 1 - mean_abs(g), mia=1, percent=100)),
            ("without test", gaps(terms[:-3], distances.tow, mia=1, percent=100)),
        )
    ),
    ("tow", "with the attack", distance.TOW_MIA.fn),
    ("tow_mia", "with FA", distance.TOW.fn),
    ("tow_mia", "with the regression on the loss", gaps("mia_lr_loss ra ta", distances.tow, mia=1, percent=100)),
    ("tow_mia", "attack in percent", gaps(TERMS[1], distances.tow, mia=100, percent=100)),
    ("aus", "never of a class", lambda e, c: as_of_class(False, e, c)),
    ("aus", "always of a class", lambda e, c: as_of_class(True, e, c)),
    ("aus", "the original on all of test", lambda e, c: as_of_class(bool(e.forget_classes), e, c, whole=True)),
    ("aus", "itself as the original", swapped(distance.AUS, "original")),
    ("js_oracle", "in nats", js(lambda divergence: divergence.mean() * math.log(2))),
    ("js_oracle", "distance", js(lambda divergence: np.sqrt(divergence).mean())),
    ("js_oracle", "similarity", js(lambda divergence: 1 - divergence.mean())),
    ("js_oracle", "sum", js(np.sum)),
    ("activation_distance", "squared", distance.forget_outputs(lambda a, b: float(np.sum((a - b) ** 2)))),
    ("activation_distance", "of logits", distance.forget_outputs(lambda a, b: np.linalg.norm(a - b, axis=1).mean())),
    ("logit_kl", "the other direction", swapped(distance.LOGIT_KL)),
    ("zrf", "divergence", lambda e, c: 1 - distance.zero_retrain(e, c)),  # type: ignore[operator]
    ("zrf", "on retain", lambda e, c: distances.zrf(e.logits["retain"], c.untrained["forget"])),
    ("zrf", "itself as the untrained", swapped(distance.ZRF, "untrained")),
    ("cka", "on D_f", lambda e, c: distances.linear_cka(*(x.representations["forget"] for x in (e, c.oracle)))),
    ("cka", "on D_r", lambda e, c: distances.linear_cka(*(x.representations["retain"] for x in (e, c.oracle)))),
    ("cka", "D_r before D_f", lambda e, c: distances.linear_cka(
        np.concatenate([e.representations[n] for n in ("forget", "retain")]),
        np.concatenate([c.oracle.representations[n] for n in ("retain", "forget")]))),
    ("cka", "a distance", lambda e, c: 1 - distance.cka(e, c)),  # type: ignore[operator]
    ("separability", "error", lambda e, c: 1 - distance.separability(e, c)),  # type: ignore[operator]
    ("separability", "the oracle's", lambda e, c: distance.separability(c.oracle or e, c)),
    ("separability", "any scenario", lambda e, c: distance.separability(replace(e, forget_classes=(0,)), c)),
    ("weight_distance", "0 when not measured", lambda e, _: e.scalars.get("weight_distance") or 0.0),
    ("weight_distance", "0 as not measured", lambda e, _: e.scalars.get("weight_distance") or Empty("not_measured")),
]  # fmt: skip


test_golden, test_the_golden_cases_reject_a_planted_bug, test_every_metric_has_golden_cases_and_a_planted_bug = (
    golden_tests(RECORDS, GOLDEN, MUTANTS, 1e-7)
)
