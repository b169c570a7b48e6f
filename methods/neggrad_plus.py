"""NegGrad+: descent on the retain set and ascent on the forget set, in one loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend, frozen

from unlearnbench import (
    Access,
    Count,
    Fraction,
    LogUniform,
    Method,
    NonNegative,
    Positive,
    Samples,
    Task,
    Uniform,
    make_optimizer,
)


@dataclass(frozen=True)
class NegGradPlus(Method):
    """Descent on the retain set and ascent on the forget set in the same step.

    Objective: minimise α·(CE(D_r; θ) + ``weight_decay``/2·‖θ - θo‖²) - (1-α)·CE(D_f; θ) from θo by plain SGD; an epoch
    is a pass over D_r, beside which D_f is cycled: it is shuffled once an epoch, and when its batches are used up the
    same ones come again in the same order. The network stays in eval mode: BatchNorm keeps its statistics.

    Code read: https://github.com/meghdadk/SCRUB, small_scale_unlearning.ipynb, MIA_experiments.ipynb, datasets.py and
    thirdparty/repdistiller/helper/loops.py (train_negrad) at 98ffb11.

    Held against: run_neggrad_epoch of small_scale_unlearning.ipynb, whole run in float64, with and without BatchNorm,
    D_f cycled by itertools.cycle: equal to the bit. Nothing patched.

    Differences: none known. The order of D_f is what itertools.cycle makes of a loader that shuffles. A second variant
    of the authors, in MIA_experiments.ipynb, is train_negrad: train mode, and no pull towards θo (``weight_decay`` 0
    here; its mode is not offered). The authors augment neither D_f nor D_r, nor do we.

    Defaults: that notebook's, for an all-convolutional network on Lacuna-6: α .95, lr .01, 10 epochs, weight decay .1,
    batches of 128 and 64. MIA_experiments.ipynb has α .9999, lr .01, 5 epochs, batches of 32 and 16, for ResNet on
    CIFAR-10.

    Known failures: the ascent has no bound below; how far it goes hangs on α, the rate and the number of steps. In
    digits-all, class-8, some models lost the class and others kept it, and some retain accuracy was lost.
    """

    paper: ClassVar[str] = "Kurmanji et al. 2023, Towards Unbounded Machine Unlearning, 2302.09880"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    version: ClassVar[int] = 3
    toy: ClassVar[dict[str, Any]] = {"batch_size": 32, "epochs": 8}

    alpha: Annotated[Fraction, Uniform(0.5, 1)] = 0.95
    lr: Annotated[Positive, LogUniform(1e-4, 1e-1)] = 0.01
    weight_decay: NonNegative = 0.1
    batch_size: Count = 128
    forget_batch_size: Count = 64
    epochs: Annotated[Count, LogUniform(1, 20)] = 10

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        original = list(frozen(model).parameters())
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr)
        x_all, y_all, rng = task.forget.images(), task.forget.labels, task.generator("order")
        model.eval()
        for _ in range(self.epochs):
            order = torch.randperm(len(x_all), generator=rng, device=rng.device)
            forget = cycled(task.forget.replace(x_all[order], y_all[order]), self.forget_batch_size)
            retain_batches = task.retain.batches(self.batch_size, augment=False)
            for (x_r, y_r), (x_f, y_f) in zip(retain_batches, forget, strict=False):
                retain, ascent = F.cross_entropy(model(x_r), y_r), F.cross_entropy(model(x_f), y_f)
                moved = sum((p - p_o).square().sum() for p, p_o in zip(model.parameters(), original, strict=True))
                descend(optimizer, self.alpha * (retain + self.weight_decay / 2 * moved) - (1 - self.alpha) * ascent)
        return model


def cycled(samples: Samples, size: int) -> Iterator[tuple[Tensor, ...]]:
    """The same batches again and again."""
    while True:
        yield from samples.batches(size, shuffle=False, augment=False)
