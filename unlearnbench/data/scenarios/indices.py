"""Forgetting the samples of a list."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unlearnbench.data.scenarios.random import RandomForget
from unlearnbench.plan.spec import Scenario, UnlearnBenchError


@dataclass(frozen=True)
class IndicesForget(Scenario):
    """The user's own list: a text file of training-set positions, one whole number a line, counted from 0."""

    path: str = ""

    def identity(self) -> str:
        return hashlib.sha256(",".join(map(str, self._indices())).encode()).hexdigest()[:24]

    def _indices(self) -> list[int]:
        try:
            lines = Path(self.path).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UnlearnBenchError(f"scenario 'indices': cannot read path {self.path!r}: {error}") from error
        wrong = next((line for line in lines if not line.isdecimal()), None)
        if wrong is not None or not lines:
            found = f"{wrong[:40]!r}" if wrong else "an empty file"
            raise UnlearnBenchError(
                f"scenario 'indices': {self.path}: expected whole numbers, one a line, found {found}"
            )
        return sorted({int(line) for line in lines})

    def select(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        indices = np.asarray(self._indices())
        if indices[-1] >= len(labels):
            raise UnlearnBenchError(
                f"scenario 'indices': {self.path}: {indices[-1]} is not a position in {len(labels)} training samples"
            )
        if len(indices) == len(labels):
            raise UnlearnBenchError("scenario 'indices': forgetting every sample leaves nothing to retain")
        return indices

    def elsewhere(self, labels: np.ndarray) -> RandomForget:
        return RandomForget(count=len(self._indices()))
