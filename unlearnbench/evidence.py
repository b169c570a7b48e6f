"""What a row knows of a model: outputs, labels, relearning curve, cost. Plain numpy, so that scoring needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from unlearnbench.spec import Empty


@dataclass(frozen=True)
class Evidence:
    """Evidence of one row, with the labels of its split.

    ``logits`` maps ``"forget"``, ``"retain"``, ``"test"`` to float32 ``[n, num_classes]`` in the order of the split,
    which is a uniform random permutation: any prefix of a set is a uniform sample of it. The first ``|forget|`` rows of
    ``retain`` are CaMU's ``D_s``. ``labels`` has int64 ``[n]`` under the same names. ``forget_classes`` is empty unless
    the scenario removes whole classes. ``curve`` is float64 ``[points, 2]``: updates done, accuracy on retain minus
    accuracy on forget in points. ``seed`` is for the draws of an attack. ``scores`` fills while a row is scored.
    """

    logits: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    forget_classes: tuple[int, ...]
    curve: np.ndarray
    scalars: Mapping[str, float | None]
    cost: Mapping[str, float | None]
    seed: int
    scores: dict[str, float | Empty] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return int(self.logits["test"].shape[1])
