"""What several test files need: a tiny problem in memory, and a suite of a few seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import numpy as np
import pytest
import torch

from unlearnbench import registry
from unlearnbench.data import Data
from unlearnbench.datasets import Arrays

TINY = """
title = "Tiny"
dataset = {{ name = "digits", limit_train = 120, limit_test = 60 }}
model = "cnn"
recipe = {{ name = "camu", epochs = 1 }}
seeds = {seeds}
[scenarios.random]
{methods}
[probe]
relearn_every = 5
relearn_points = 2
relearn_cap = 20
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Writes a suite on 120 digits: ``tiny("identity", seeds=[0, 1])``, with the oracle before the methods named."""

    def write(*methods: str, seeds: tuple[int, ...] = (0,), extra: str = "") -> Path:
        path = tmp_path / "tiny.toml"
        tables = "\n".join(f"[methods.{name}]" for name in ("retrain", *methods))
        path.write_text(TINY.format(seeds=list(seeds), methods=tables) + extra)
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
