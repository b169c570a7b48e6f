"""Gradient ascent on the forget set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.nn import functional as F

from unlearnbench.spec import Access, Count, Fraction, Method, NonNegative, Positive
from unlearnbench.task import Task
from unlearnbench.training import make_optimizer


@dataclass(frozen=True)
class GradientAscent(Method):
    """Minimise -CE(D_f; θ) from θo.

    Reference code read: https://github.com/OPTML-Group/Unlearn-Sparse, unlearn/GA.py at 16a2dbc and impl.py at 0742c24
    (whose schedule has its first drop at epoch 91, so that the rate is constant here). Defaults: theirs; they call lr
    1e-4, 5 epochs tuned for class-wise CIFAR-10 only. No retain data.
    """

    paper: ClassVar[str] = "Graves et al. 2021, 2010.10981; Thudi et al. 2022, 2109.13398"
    needs: ClassVar[Access] = Access.FORGET | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"lr": 1e-3, "momentum": 0.0, "batch_size": 32, "epochs": 11}

    lr: Positive = 1e-4
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    batch_size: Count = 256
    epochs: Count = 5

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum, self.weight_decay)
        model.train()
        for _ in range(self.epochs):
            for x, y in task.forget.batches(self.batch_size):
                loss = -F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return model
