"""Gradient ascent on the forget set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend

from unlearnbench import (
    Access,
    Count,
    Fraction,
    LogUniform,
    Method,
    NonNegative,
    Positive,
    Published,
    Task,
    make_optimizer,
)


@dataclass(frozen=True)
class GradientAscent(Method):
    """Train on the forget set with the sign of the loss turned round; no retain data.

    Objective: minimise -CE(D_f; θ) from θo by SGD.

    Code read: https://github.com/OPTML-Group/Unlearn-Sparse, unlearn/GA.py at 16a2dbc, unlearn/impl.py at 0742c24,
    README.MD, dataset.py, arg_parser.py and main_forget.py at 80ba55d.

    Held against: GA in iterative_unlearn, unlearn/GA.py and impl.py at 80ba55d, whole run of four epochs in float64,
    with and without BatchNorm: 3e-17. Patched: devices, because they ask for a GPU; no shuffling, to have our batches.

    Differences: none in arithmetic. Their schedule drops the rate first at epoch 91, so that it is constant here.
    The authors augment D_f (crop and flip on CIFAR, nothing on SVHN), and so do we wherever the recipe does; D_r is not
    used.

    Defaults: those of their README, in a command that forgets a class: ``class_to_replace`` is 0 where it is not given,
    and 4,500 samples are the whole of it. The README of Unlearn-Saliency, where it is -1, had the same for random ones;
    an author there calls that rate too small for these and names 5e-4 or 1e-3 (issue 8). The batch is their parser's;
    Table A1 of their paper is said to have 128, and an author answers that the default was used (Unlearn-Sparse, issue
    4).

    Known failures: the loss has no bound below: a little too long and the retain set is lost as well, a little too
    short and nothing happens. The window between depends on the model and on |D_f|.
    """

    paper: ClassVar[str] = "Graves et al. 2021, 2010.10981; Thudi et al. 2022, 2109.13398"
    needs: ClassVar[Access] = Access.FORGET | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"lr": 1e-3, "momentum": 0.0, "batch_size": 32, "epochs": 9}
    published: ClassVar[tuple[Published, ...]] = (
        Published("cifar10", "class", {}, "Unlearn-Sparse, README.MD at 80ba55d, ResNet-18"),
        Published("cifar10", "random", {}, "Unlearn-Saliency, Classification/README.md at 3f0a030, ResNet-18"),
    )

    lr: Annotated[Positive, LogUniform(1e-6, 1e-2)] = 1e-4
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    batch_size: Count = 256
    epochs: Annotated[Count, LogUniform(1, 20)] = 5

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum, self.weight_decay)
        model.train()
        for _ in range(self.epochs):
            for x, y in task.forget.batches(self.batch_size):
                descend(optimizer, -F.cross_entropy(model(x), y))
        return model
