"""An unlearning method in a package of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from unlearnbench import Access, Count, Method, Positive, Task


@dataclass(frozen=True)
class ToyMethod(Method):
    """Minimise CE(u; f(D_f)) + CE(D_r; θ), with u the uniform distribution, by Adam."""

    paper: ClassVar[str] = "none: an example"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"epochs": 10}

    lr: Positive = 1e-3
    batch_size: Count = 32
    epochs: Count = 1

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        optimizer = torch.optim.Adam(model.parameters(), self.lr)
        model.train()
        for _ in range(self.epochs):
            for (x_f, _), (x_r, y_r) in zip(
                task.forget.batches(self.batch_size), task.retain.batches(self.batch_size), strict=False
            ):
                loss = F.cross_entropy(model(x_r), y_r) - F.log_softmax(model(x_f), dim=1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return model
