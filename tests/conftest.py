"""What several test files need: a tiny problem in memory, a suite of a few seconds, and the results of a stored one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import pandas as pd
import pytest
import torch

from unlearnbench.data.tensors import Data, Samples
from unlearnbench.judge.results import CURVE_COLUMNS, VALUE_COLUMNS, Results
from unlearnbench.plan import registry
from unlearnbench.plan.arrays import Arrays
from unlearnbench.plan.spec import Metric, Tolerance

GOLDEN = Path(__file__).parent / "golden"
ROW = [*VALUE_COLUMNS[1:11], "status"]  # the columns that rows.csv shares with VALUE_COLUMNS
PARTS = {"fa": 1.0, "ra": 1.0, "ta": 1.0, "mia_lr_loss": 100.0}
HEADLINE = ["fa", "ra", "ta", "mia_lr_loss", "avg_gap", "relearn_steps", "seconds"]

TINY = """
title = "Tiny"
dataset = {{ name = "digits", limit_train = 120, limit_test = 60 }}
model = "cnn"
recipe = {{ name = "camu", epochs = 1 }}
seeds = {seeds}
{top}
[scenarios.random]
{methods}
[probe]
relearn_every = 5
relearn_points = 2
relearn_cap = 20
relearn_epochs = 3
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Writes a suite on 120 digits: ``tiny("identity", seeds=[0, 1])``, with the oracle before the methods named.

    ``top`` are further keys of the suite itself, ``extra`` further tables.
    """

    def write(*methods: str, seeds: tuple[int, ...] = (0,), top: str = "", extra: str = "") -> Path:
        path = tmp_path / "tiny.toml"
        tables = "\n".join(f"[methods.{name}]" for name in ("retrain", *methods))
        path.write_text(TINY.format(seeds=list(seeds), top=top, methods=tables) + extra)
        return path

    return write


@pytest.fixture(scope="session")
def data() -> Data:
    """Three classes of 8x8 images that are easy to tell apart: 96 for training, 30 for testing, 6 of these held out."""

    def images(labels: np.ndarray, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).integers(0, 100, (len(labels), 1, 8, 8))
        for image, label in zip(noise, labels, strict=True):
            image[:, 2 * label : 2 * label + 2] += 150
        return noise.astype(np.uint8)

    y_train, y_test = np.arange(96) % 3, np.arange(30) % 3
    arrays = Arrays(images(y_train, 0), y_train, images(y_test, 1), y_test, 3, (0.5,), (0.25,), None, "memory", "toy")
    return Data.of(arrays, 0.2, torch.device("cpu"))


@pytest.fixture
def float64() -> Iterator[None]:
    """What is drawn or built without saying otherwise is in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches come in the order of the set, so that a plain loop over slices sees the same ones."""
    shuffled = Samples.batches

    def batches(self: Samples, size: int, **options: Any) -> Any:
        return shuffled(self, size, **{**options, "shuffle": False})

    monkeypatch.setattr(Samples, "batches", batches)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Registers plugins for one test, as if a package had been installed: ``register("methods", mine=Mine)``."""
    entries = registry.entries

    def add(kind: str, **plugins: type) -> None:
        points = {
            name: (EntryPoint(name, f"{plugin.__module__}:{plugin.__name__}", f"unlearnbench.{kind}"),)
            for name, plugin in plugins.items()
        }
        monkeypatch.setattr(registry, "entries", lambda k: {**entries(k), **(points if k == kind else {})})

    return add


@pytest.fixture
def results() -> Results:
    """The stored rows and curves: 6 methods, 3 controls, 2 scenarios, 5 seeds; cells of metrics are ``value|note``."""
    metrics = {}
    for record in pd.read_csv(GOLDEN / "records.csv").to_dict("records"):
        more: dict[str, Any] = {"needs": {"oracle": 1} if record.pop("relative") else {}}
        more["tolerance"] = {"utility": Tolerance(1.0), "leakage": Tolerance(0.02)}.get(record["family"])
        more["parts"] = PARTS if record["name"] == "avg_gap" else {}
        metrics[str(record["name"])] = Metric(**record, **more, fn=lambda *_: 0.0, doc="")  # type: ignore[arg-type]
    values = pd.read_csv(GOLDEN / "rows.csv", keep_default_na=False)
    values = values.melt(ROW, var_name="metric", value_name="cell")
    values[["value", "note"]] = values["cell"].str.split("|", expand=True)
    values = values.assign(suite="digits", key="", value=pd.to_numeric(values["value"]), low=np.nan, high=np.nan)
    curves = pd.read_csv(GOLDEN / "curves.csv").melt(CURVE_COLUMNS[1:7], var_name="updates", value_name="difference")
    curves = curves.assign(suite="digits", key="", updates=curves["updates"].astype(int))[CURVE_COLUMNS]
    return Results("digits", "Digits", values[VALUE_COLUMNS], curves, metrics, {"headline": HEADLINE})
