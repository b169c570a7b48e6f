"""Fresh random weights: everything is forgotten, and nothing is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from unlearnbench import Access, Method, Task


@dataclass(frozen=True)
class RandomInit(Method):
    """A control: a model without use must not pass for an unlearned one.

    Objective: none; θu is untrained.

    Code read: none needed.

    Held against: nothing: a control, without a code of authors to compare with.

    Differences: none.

    Defaults: no hyperparameters.

    Known failures: it is of no use, and shall not be.
    """

    paper: ClassVar[str] = "none: a control"
    needs: ClassVar[Access] = Access(0)
    role: ClassVar[Literal["control"]] = "control"
    stands_for: ClassVar[Literal["useless"]] = "useless"

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return task.fresh_model("random weights")
