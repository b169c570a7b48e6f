"""What the tests of inference share: values of a metric without a run, and wrong versions that must fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unlearnbench.judge.results import VALUE_COLUMNS
from unlearnbench.plan.spec import Metric

NAN = math.nan
SHARED = {"suite": "s", "dataset": "digits", "model": "cnn", "quick": False, "device": "cpu", "status": "ok", "key": ""}


def metric(name: str, better: Any, **changes: Any) -> Metric:
    return Metric(name, name.upper(), "%", "utility", better, lambda e, c: 0.0, "", **changes)


LOW, HIGH, ORACLE = metric("x", "low"), metric("x", "high"), metric("x", "oracle")


def values(blocks: Mapping[str, Mapping[str, Sequence[Any]]], **changes: Any) -> pd.DataFrame:
    """`Results.values` of a metric x: scenario to method to one value per seed; text is a censored value.

    The method called retrain is the oracle, identity a control. Each seed has its own split.
    """
    rows = []
    for scenario, methods in blocks.items():
        for method, row in methods.items():
            for seed, value in enumerate(row):
                note = value if isinstance(value, str) else ""
                rows.append(
                    SHARED
                    | {"scenario": scenario, "method": method, "split_seed": seed, "seed": seed, "metric": "x"}
                    | {"role": {"retrain": "oracle", "identity": "control"}.get(method, "method"), "note": note}
                    | {"value": float(note[1:]) if note else value}
                    | changes
                )
    return pd.DataFrame(rows, columns=VALUE_COLUMNS)


def kills(check: Callable[[Any], None], mutant: Any) -> None:
    """The wrong version must fail the very check that the right one passes."""
    with pytest.raises(AssertionError):
        check(mutant)


def spread(center: float, n: int, seed: int) -> list[float]:
    return list(center + np.random.default_rng(seed).normal(size=n))


def block(n: int, methods: int, step: float = 10.0) -> Mapping[str, Mapping[str, Sequence[Any]]]:
    return {"class-0": {f"m{i}": spread(step * i, n, i) for i in range(methods)}}


def only(frame: pd.DataFrame) -> dict[str, Any]:
    (line,) = frame.to_dict("records")
    return {str(name): value for name, value in line.items()}
