"""Forgetting whole classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Len

from unlearnbench.plan.spec import Scenario, Seed, UnlearnBenchError


@dataclass(frozen=True)
class ClassForget(Scenario):
    """All training samples of the given classes."""

    classes: Annotated[tuple[Seed, ...], Len(1)] = (0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(sorted(set(self.classes))))

    @property
    def forget_classes(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.classes

    def select(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        absent = sorted(set(self.classes) - set(labels.tolist()))
        if absent:
            found = sorted(set(labels.tolist()))
            raise UnlearnBenchError(f"scenario 'class': no training sample of class {absent[0]}; there are {found}")
        if set(labels.tolist()) == set(self.classes):
            raise UnlearnBenchError("scenario 'class': forgetting every class leaves nothing to retain")
        return np.flatnonzero(np.isin(labels, self.classes))

    def elsewhere(self, labels: np.ndarray) -> ClassForget:
        """As many other classes: those that follow, from the first again after the last."""
        others = [c for c in np.unique(labels).tolist() if c not in self.classes]
        after = sorted(others, key=lambda c: (c < max(self.classes), c))
        return ClassForget(tuple(after[: min(len(self.classes), len(others) - 1)]))
