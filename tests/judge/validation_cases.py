"""What the tests of validation share: values of controls, members of a bank, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from unlearnbench.judge.floor import honest
from unlearnbench.judge.results import VALUE_COLUMNS
from unlearnbench.judge.validation import COLUMNS, validate
from unlearnbench.plan.spec import Metric

STANDS_FOR = {
    "oracle": "retrained", "identity": "original", "other": "retrained", "third": "retrained",
    "collapse": "useless", "random": "useless", "camu": "",
}  # fmt: skip
NAN = float("nan")


def metric(family: Any, better: Any = "oracle", unit: str = "fraction", **changes: Any) -> Metric:
    return Metric("m", "M", unit, family, better, lambda *_: 0.0, "", **changes)


ATTACK = metric("leakage")
AUC = metric("leakage", unit="AUC", of_split=True)
DISTANCE = metric("oracle-distance", "low", needs={"oracle": 1})
LIKENESS = metric("oracle-distance", "high", needs={"oracle": 1})
GAP = metric("oracle-distance")
KLOM = metric("oracle-distance", "low", of_split=True)
QUALITY = metric("oracle-distance", "high", of_split=True)
RATIO = metric("oracle-distance", of_split=True, needs={"oracle": 1})
ACCURACY = metric("utility")
STEPS = metric("relearning")
TIME = metric("cost", "low")

Value = float | tuple[float, float, float]  # with the ends of its own interval
RUNS = 5


def frame(**controls: Value | Sequence[Value]) -> pd.DataFrame:
    """Values by control: one for all of `RUNS` seeds, or one for each; every seed has a split of its own."""
    lines = []
    for method, values in controls.items():
        role = {"oracle": "oracle", "camu": "method"}.get(method, "control")
        for seed, value in enumerate(values if isinstance(values, list) else [values] * RUNS):
            number, low, high = value if isinstance(value, tuple) else (value, NAN, NAN)
            lines.append(
                ["suite", "digits", "cnn", "random", method, role, STANDS_FOR[method], seed, seed, False, "cpu", "ok",
                 "m", number, low, high, "", ""]
            )  # fmt: skip
    return pd.DataFrame(lines, columns=VALUE_COLUMNS)


def retrains(values: pd.DataFrame, record: Metric, spread: float | None) -> pd.DataFrame:
    """Two members of a bank for each run, ``spread`` away from its oracle on either side; None: no bank."""
    oracle = values[(values["role"] == "oracle") & values["value"].notna()]
    place = oracle[[*COLUMNS[:2], "model", "split_seed", "seed"]].assign(metric="m")
    if spread is None:
        return place.iloc[:0].assign(value=0.0)
    near = {"low": (0, spread), "high": (1, -spread)}.get(record.better) if record.relative else None
    sides = [near[0] + near[1]] * 2 if near else [oracle["value"] - spread, oracle["value"] + spread]
    return pd.concat([place.assign(value=side) for side in sides])


def judged(record: Metric, values: pd.DataFrame, spread: float | None) -> pd.DataFrame:
    metrics = {"m": record}
    table = validate(values, honest(values, retrains(values, record, spread), metrics), metrics)
    assert list(table.columns) == COLUMNS
    assert table["reason"].ne("").eq(table["verdict"] != "pass").all()  # a reason, unless it passes
    return table


def verdicts(record: Metric, spread: float | None, **controls: Any) -> dict[str, str]:
    return as_dict(judged(record, frame(**controls), spread))


def as_dict(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["control"], table["verdict"], strict=True))


P, F, U, N, T = "pass", "fail", "uninformative", "not contradicted", "not tested"
