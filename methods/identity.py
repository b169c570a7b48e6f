"""The original, untouched: the floor of forgetting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from unlearnbench import Access, Method, Task


@dataclass(frozen=True)
class Identity(Method):
    """A control: what every metric shows of a model that has forgotten nothing.

    Objective: none; θu = θo.

    Code read: none needed.

    Held against: nothing: a control, without a code of authors to compare with.

    Differences: none.

    Defaults: no hyperparameters.

    Known failures: it forgets nothing, and shall not.
    """

    paper: ClassVar[str] = "none: a control"
    needs: ClassVar[Access] = Access(0)
    changes: ClassVar[bool] = False
    role: ClassVar[Literal["control"]] = "control"
    stands_for: ClassVar[Literal["original"]] = "original"

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return model
