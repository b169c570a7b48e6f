"""Stored rows and banks whose logits say who they are, and metrics that remember what they were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from unlearnbench.plan.cells import Cell, Plugin, Recipe, Row
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Metric, Need
from unlearnbench.plan.suites import Entry, Plan
from unlearnbench.store import roster
from unlearnbench.store.folder import Store

CELL = Cell(Plugin("digits"), Plugin("cnn"), Recipe(), Plugin("random"), Plugin("ours"), split_seed=7, seed=3)
SPLIT = {"forget": np.array([4, 1]), "retain": np.array([0, 5, 2, 3]), "test": np.array([3, 0])}
LABELS = {f"{name}.labels": np.zeros(len(where), int) for name, where in SPLIT.items()}
TRAIN, TEST = 6, 4


def of(method: str, seed: int = 3) -> Cell:
    return replace(CELL, method=Plugin(method), seed=seed)


def outputs(value: float, dtype: type = np.float16) -> dict[str, np.ndarray]:
    """A model whose logits say who it is and of which sample they are: 10 value + position, and 0."""
    made = {}
    for name, count in (("train", TRAIN), ("test", TEST)):
        z = 10 * value + np.arange(count) + (50 if name == "test" else 0)
        made[name] = np.stack([z, 0 * z], axis=1).astype(dtype)
    return made


def put(store: Store, cell: Cell, value: float = 0.0) -> Row:
    tensors = {name: torch.full((len(where), 2), value) for name, where in SPLIT.items()}
    return store.put(Row(cell.key, cell, "ok"), {**tensors, "curve": torch.zeros(0, 2)})


def put_members(store: Store, kind: roster.Kind, cell: Cell, members: Mapping[int, float]) -> None:
    for i, value in members.items():
        store.put_outputs(roster.key(kind, cell, i), outputs(value))


def stocked(root: Path) -> Store:
    """A store with a row of the oracle and of a method."""
    store = Store(root)
    store.put_split(CELL, {**SPLIT, **LABELS, "forget_classes": np.zeros(0, int)})
    for method in ("retrain", "ours"):
        put(store, of(method))
    return store


def plan(*cells: Cell, **banks: int) -> Plan:
    cells = cells or (of("ours"), of("retrain"))  # the oracle last: it is scored first all the same
    entries = [Entry(cell, "random", name, "oracle" if name == "retrain" else "method") for cell in cells
               for name in [cell.method.name]]  # fmt: skip
    return Plan("suite", "Title", tuple(entries), {}, **banks)


class Spy:
    """Metrics that remember who asked for them, and what these were compared with."""

    def __init__(self, **needs: Mapping[Need, int]) -> None:
        self.calls: list[tuple[str, Context]] = []
        self.metrics = {name: self._metric(name, needs) for name, needs in needs.items()}

    def _metric(self, name: str, needs: Mapping[Need, int]) -> Metric:
        def fn(evidence: Evidence, context: Context) -> float:
            self.calls.append((name, context))
            return float(len(self.calls))

        several = bool({"unlearned", "shadows"} & needs.keys())
        return Metric(name, name, "", "utility", "high", fn, "A spy.", needs=needs, of_split=several)

    def asked(self) -> list[str]:
        names = [name for name, _ in self.calls]
        self.calls.clear()
        return names


def identities(models: np.ndarray) -> list[float]:
    """Which models these are, ``[N, n, 2]``, by the first of their samples."""
    return [float(z) // 10 for z in models[:, 0, 0]]
