"""Retraining once more: an honest retrain that is not the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from unlearnbench import Access, Method, Task


@dataclass(frozen=True)
class RetrainOtherSeed(Method):
    """As the oracle, with other initial weights and another order: how far one honest retrain is from another.

    Objective: minimise CE(D_r; θ). A control: no metric may tell it from the oracle.

    Code read: none needed.

    Held against: nothing: a control, without a code of authors to compare with.

    Differences: none. D_r is augmented as in the original's training.

    Defaults: no hyperparameters.

    Known failures: none: where a metric finds one, the metric is at fault.
    """

    paper: ClassVar[str] = "none: a control"
    needs: ClassVar[Access] = Access.RETAIN | Access.LABELS
    role: ClassVar[Literal["control"]] = "control"
    stands_for: ClassVar[Literal["retrained"]] = "retrained"

    def prepare(self, task: Task) -> nn.Module:
        other_order = task.retain.take(len(task.retain))
        return task.train(task.fresh_model("other initial weights"), other_order)

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        assert task.prepared is not None
        return task.prepared
