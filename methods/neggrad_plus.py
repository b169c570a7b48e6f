"""NegGrad+: descent on the retain set and ascent on the forget set, in one loss."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, ClassVar

from torch import nn
from torch.nn import functional as F

from unlearnbench.spec import Access, Count, Fraction, Method, NonNegative, Positive
from unlearnbench.task import Task
from unlearnbench.training import make_optimizer


@dataclass(frozen=True)
class NegGradPlus(Method):
    """Minimise α·CE(D_r; θ) - (1-α)·CE(D_f; θ) from θo; an epoch is a pass over D_r, D_f is cycled beside it.

    Defaults: SCRUB's public code at small scale (α .95, SGD .01, 10 epochs; .9999 and 5 at large scale).
    Reference code: meghdadk/SCRUB, not read for this file.
    """

    paper: ClassVar[str] = "Kurmanji et al. 2023, 2302.09880"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"lr": 0.005, "batch_size": 32, "epochs": 3}

    alpha: Fraction = 0.95
    lr: Positive = 0.01
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    batch_size: Count = 128
    epochs: Count = 10

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum, self.weight_decay)
        forget = chain.from_iterable(task.forget.batches(self.batch_size) for _ in repeat(None))
        model.train()
        for _ in range(self.epochs):
            for (x_r, y_r), (x_f, y_f) in zip(task.retain.batches(self.batch_size), forget, strict=False):
                retain, ascent = F.cross_entropy(model(x_r), y_r), F.cross_entropy(model(x_f), y_f)
                loss = self.alpha * retain - (1 - self.alpha) * ascent
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return model
