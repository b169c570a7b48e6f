"""MU-Mis: make the network as insensitive to the forget samples' own class as to any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from unlearnbench_methods.steps import descend, other_labels

from unlearnbench import Access, Count, Fraction, LogUniform, Method, Positive, Task, make_optimizer


@dataclass(frozen=True)
class MUMIS(Method):
    """Withdraw what a sample contributed: the excess of the input gradient of its own class over another's.

    Objective: minimise the mean over D_f of ‖∇ₓ f_y(x; θ)‖² - ‖∇ₓ f_c(x; θ)‖² by SGD, f the logits and c ≠ y a class
    drawn anew for each sample and step. It ends with the epoch in which the mean ‖∇ₓ f_c‖ is above its smallest value
    so far and has come back to ``recovery`` times that of the first epoch, at the latest after ``epochs``.

    Code read: only in a port, https://github.com/Harry24k/machine-unlearning-pytorch,
    torchunlearn/unlearn/trainers/mumis.py at d04b125, which has the loss and no rule to stop. The authors' code
    (poppopbean0903/MU-Mis) was not read; the stopping rule follows the description of the paper (ICLR 2026).

    Held against: calculate_cost of torchunlearn/unlearn/trainers/mumis.py at 405bab1, the port, whole run of 6 epochs,
    float64, a class and random samples, with and without BatchNorm, the same other classes: equal to the bit. Patched:
    the draw of other classes, to have ours. The authors' repository could not be had in November 2026, and for the
    stopping rule there is no code.

    Differences: how often the authors look whether to stop is not known; here it is once an epoch, on the gradients of
    its steps. The network is in eval mode: with the statistics of the batch a sample's gradient would be that of its
    neighbours too. Whether the authors augment D_f is not known; we do wherever the recipe does. D_r is not used.

    Defaults: ours, not the authors', whose rate, batch and threshold were not found; so nothing is declared as
    published. ``recovery`` 1 is the point where the paper sees the accuracy of the rest at its best.

    Known failures: the loss has no lower bound: past its stopping point, or with too large a rate, the gradient of the
    other classes grows without end. Where that gradient rises from the start, as on digits with a forgotten class,
    ``recovery`` 1 ends after two epochs. A random forget set is its hardest case, says the paper.
    """

    paper: ClassVar[str] = "Cheng et al. 2026, Remaining-data-free Machine Unlearning, ICLR 2026, 2402.15109"
    needs: ClassVar[Access] = Access.FORGET | Access.LABELS
    full_precision: ClassVar[bool] = True  # second derivatives
    toy: ClassVar[dict[str, Any]] = {"lr": 1e-3, "recovery": 2.0}

    lr: Annotated[Positive, LogUniform(1e-6, 1e-1)] = 1e-4
    recovery: Annotated[Positive, LogUniform(0.5, 4)] = 1.0
    momentum: Fraction = 0.9
    batch_size: Count = 128
    epochs: Annotated[Count, LogUniform(1, 50)] = 20

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum)
        rng = task.generator("other classes")
        history: list[float] = []
        model.eval()
        for _ in range(self.epochs):
            norms = []
            for x, y in task.forget.batches(self.batch_size):
                own, other = sensitivities(model, x, y, other_labels(y, task.num_classes, rng))
                descend(optimizer, (own - other).mean())
                norms.append(other.detach().sqrt())
            history.append(torch.cat(norms).mean().item())
            if history[-1] > min(history) and history[-1] >= self.recovery * history[0]:
                break
        return model


def sensitivities(model: nn.Module, x: Tensor, *classes: Tensor) -> list[Tensor]:
    """Of the logits of each of ``classes`` (int64 ``[n]``) the squared norm of the gradient by the image, ``[n]``."""
    x = x.detach().clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # of attention, only this kernel has second derivatives
        logits = model(x)
        picked = [logits.gather(1, c[:, None]).sum() for c in classes]
        gradients = [torch.autograd.grad(p, x, create_graph=True)[0] for p in picked]
    return [g.flatten(1).pow(2).sum(1) for g in gradients]
