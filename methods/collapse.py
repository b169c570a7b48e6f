"""The same answer to everything: what is left where unlearning destroys a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import nn

from unlearnbench import Access, Classifier, Method, Task


@dataclass(frozen=True)
class Collapse(Method):
    """A control: a model without use must not pass for an unlearned one.

    Objective: none; θo with a head that gives logit 10 to one retained class and 0 to the others, whatever the
    image.

    Code read: none needed.

    Held against: nothing: a control, without a code of authors to compare with.

    Differences: others bring it about by gradient ascent until chance; set by hand it is the same for every network.

    Defaults: no hyperparameters.

    Known failures: it is of no use, and shall not be.
    """

    paper: ClassVar[str] = "none: a control"
    needs: ClassVar[Access] = Access(0)
    role: ClassVar[Literal["control"]] = "control"
    stands_for: ClassVar[Literal["useless"]] = "useless"

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        last = [m for m in cast(Classifier, model).head.modules() if isinstance(m, nn.Linear)][-1]
        answer = next(c for c in range(task.num_classes) if c not in task.forget_classes)
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()
            last.bias[answer] = 10.0
        return model
