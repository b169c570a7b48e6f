"""What a row knows of a model: outputs, labels, relearning curve, cost. Plain numpy, so that scoring needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unlearnbench.plan.spec import Empty, Need


@dataclass(frozen=True)
class Evidence:
    """Evidence of one row, with the labels of its split.

    ``logits`` maps ``"forget"``, ``"retain"``, ``"test"`` to float32 ``[n, num_classes]`` in the order of the split,
    which is a uniform random permutation: any prefix of a set is a uniform sample of it. The first ``|forget|`` rows of
    ``retain`` are CaMU's ``D_s``. ``labels`` has int64 ``[n]`` under the same names. ``forget_classes`` is empty unless
    the scenario removes whole classes. ``curve`` is float64 ``[points, 2]``: updates done, accuracy on retain minus
    accuracy on forget in points. ``representations`` has float16 ``[n, features]`` of the first samples of ``"forget"``
    and ``"retain"``, if the model has a representation. ``seed`` is for the draws of an attack. ``scores`` fills while
    a row is scored.
    """

    logits: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    forget_classes: tuple[int, ...]
    curve: np.ndarray
    scalars: Mapping[str, float | None]
    cost: Mapping[str, float | None]
    seed: int
    representations: Mapping[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, float | Empty] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return int(self.logits["test"].shape[1])


@dataclass(frozen=True)
class Context:
    """What a row is compared with; all in the order of the row's own sets.

    ``oracle`` is the evidence of the oracle with the same seeds. ``original`` and ``untrained`` are logits, float32
    ``[n, num_classes]`` by set, of the original and of a network with random weights. ``bank`` are those of N honest
    retrainings that no row shows, float16 ``[N, n, num_classes]``; ``unlearned`` those of models that the row's method
    made from originals of other seeds. ``shadows`` are logits on D_f, float16 ``[K, n, num_classes]``, of shadow runs
    of the method: K that have ``"unlearned"`` a sample and K for which it was ``"out"``; a row of them mixes runs.

    Where the row is the oracle's own, oracles stand in for the models of a method: what is in its line is **the null,
    of the same size**. ``unlearned`` are then as many of the second half of the bank as a method is to make models,
    and ``shadows`` as many of each half as it has shadow runs per side, as far as the halves reach. ``shared`` keeps
    what several metrics compute alike.
    """

    oracle: Evidence | None = None
    original: Mapping[str, np.ndarray] | None = None
    untrained: Mapping[str, np.ndarray] | None = None
    bank: Mapping[str, np.ndarray] | None = None
    unlearned: Mapping[str, np.ndarray] | None = None
    shadows: Mapping[str, np.ndarray] | None = None
    shared: dict[str, Any] = field(default_factory=dict)

    def size(self, need: Need) -> int:
        """How many models of a kind there are."""
        models = getattr(self, need)
        if models is None:
            return 0
        several = {"bank": "test", "unlearned": "test", "shadows": "out"}
        return len(models[several[need]]) if need in several else 1

    def sides(self, subset: str) -> tuple[np.ndarray, np.ndarray]:
        """The unlearned models and the first half of the bank, which all rows of a split are compared with: ``[M, n,
        num_classes]`` and ``[N // 2, n, num_classes]``, M at most N // 2, since the null cannot have more."""
        assert self.bank is not None
        assert self.unlearned is not None
        oracles = self.bank[subset]
        half = len(oracles) // 2
        return self.unlearned[subset][:half], oracles[:half]
