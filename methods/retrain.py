"""Retraining from scratch: the oracle that every other method is measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from unlearnbench import Access, Method, Task


@dataclass(frozen=True)
class Retrain(Method):
    """Fresh weights, the original's recipe, the retain set only. Every parameter and buffer is new.

    Objective: minimise CE(D_r; θ) from new weights; its cost is that of the training.

    Code read: none needed.

    Held against: nothing: the oracle is the original's own training, and no authors' code stands for it.

    Differences: none. D_r is augmented as in the original's training.

    Defaults: no hyperparameters.

    Known failures: none but the cost: it is the reference.
    """

    paper: ClassVar[str] = "definition of exact unlearning (Bourtoule et al. 2021, 1912.03817)"
    needs: ClassVar[Access] = Access.RETAIN | Access.LABELS
    role: ClassVar[Literal["oracle"]] = "oracle"
    stands_for: ClassVar[Literal["retrained"]] = "retrained"

    def prepare(self, task: Task) -> nn.Module:
        return task.train(task.fresh_model("initial weights"), task.retain)

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        assert task.prepared is not None
        return task.prepared
