"""Forgetting samples at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from annotated_types import Interval

from unlearnbench.plan.spec import Count, Scenario, UnlearnBenchError


@dataclass(frozen=True)
class RandomForget(Scenario):
    """A uniform sample of the training set: ``count`` samples, or else ``fraction`` of it; ``stratified`` by class."""

    fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.1
    count: Count | None = None
    stratified: bool = False

    def select(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        count = self.count or round(self.fraction * len(labels))
        if not 0 < count < len(labels):
            raise UnlearnBenchError(f"scenario 'random': cannot forget {count} of {len(labels)} training samples")
        if not self.stratified:
            return rng.choice(len(labels), count, replace=False)
        return _stratified(labels, count, rng)

    def elsewhere(self, labels: np.ndarray) -> RandomForget:
        return replace(self, count=self.count or round(self.fraction * len(labels)))


def _stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` positions with each class in its share; the largest remainders get what rounding leaves over."""
    classes, sizes = np.unique(labels, return_counts=True)
    exact = count * sizes / len(labels)
    quota = np.floor(exact).astype(int)
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    picks = [rng.choice(np.flatnonzero(labels == c), q, replace=False) for c, q in zip(classes, quota, strict=True)]
    return np.concatenate(picks)
