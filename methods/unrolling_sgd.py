"""Unrolling SGD: add back, in one step, the gradients of the forget set at the weights before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from unlearnbench import Access, Count, LogUniform, Method, Positive, Published, Task

SOURCE = "Unlearning/correlation_verification.py at 49e001f (its parser), ResNet-18, one batch"


@dataclass(frozen=True)
class UnrollingSGD(Method):
    """Single-gradient unlearning: undo each step on D_f as if it had been taken from the initial weights θ_0.

    Objective: none is minimised. θ_u = θo + lr·epochs·Σ_B ∇CE(B; θ_0) over the batches B of one pass over D_f, with θ_0
    the weights before training, in train mode: the first-order unrolling of SGD, whose training had the rate lr and
    showed D_f ``epochs`` times.

    Code read: https://github.com/cleverhans-lab/unrolling-sgd, Unlearning/correlation_verification.py and
    Correlation_unlearning.py at 49e001f.

    Held against: the lines of Unlearning/correlation_verification.py at 49e001f from the copy of M to that of the
    parameters, whole run of 1 and 3 epochs, float64, a class and random samples, with and without BatchNorm: 6e-17 for
    one batch, 1e-16 for 3 to 5. Patched: nothing for one batch; for several their gradients are added up, because only
    the last is kept there (unpatched .8). With several batches also the gradients and the sum over grad_list of
    Unlearning/Correlation_unlearning.py at 49e001f: 1e-15. Patched: gradients at θ_0, because there they are of the
    weights after a step, and the rate.

    Differences: that code unlearns one batch of a fine-tuning that began at pre-trained weights; θ_0 here are the
    weights before the whole training. With several batches the first file keeps the last gradient only (it never has
    more than one) and the second sums one for each epoch, at the weights after its first step and at rate .01; here all
    are at θ_0. Its training is plain SGD with momentum .9 in the first file, none in the second; the original here may
    come from any optimizer. The first file augments D_f and D_r (crop, flip) once, before the training, which sees the
    very images of the gradient; the second does not. Here D_f is augmented once wherever the recipe does: the images of
    the training are not kept. D_r is not used.

    Defaults: those of the first file's parser, which are for one epoch of fine-tuning. ``lr`` and ``epochs`` are what
    they call the training's own.

    Known failures: at random initial weights the gradients say little but which class a batch is of, so that a random
    forget set hardly is forgotten; far from θ_0 (a long training, Adam) the expansion does not hold. Too large a rate
    destroys the model: nothing bounds the step.
    """

    paper: ClassVar[str] = "Thudi et al. 2022, Unrolling SGD: Understanding Factors Influencing Unlearning, 2109.13398"
    needs: ClassVar[Access] = Access.FORGET | Access.LABELS | Access.INIT
    toy: ClassVar[dict[str, Any]] = {"lr": 0.2}
    published: ClassVar[tuple[Published, ...]] = (
        Published("cifar10", "random", {}, SOURCE),
        Published("cifar100", "random", {}, SOURCE),
    )

    lr: Annotated[Positive, LogUniform(1e-3, 1.0)] = 0.1
    batch_size: Count = 32
    epochs: Count = 1

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        initial = task.initial_model().train()
        for x, y in task.forget.batches(self.batch_size, shuffle=False):
            F.cross_entropy(initial(x), y).backward()  # the gradients of the batches add up
        with torch.no_grad():
            for parameter, before in zip(model.parameters(), initial.parameters(), strict=True):
                if before.grad is not None:
                    parameter.add_(before.grad, alpha=self.lr * self.epochs)
        return model
