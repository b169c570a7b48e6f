"""Boundary shrink: teach the forget samples the class on the other side of their nearest decision boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend, frozen, nearest_other, pixel_range

from unlearnbench import Access, Count, Fraction, LogUniform, Method, Positive, Published, Task, make_optimizer


@dataclass(frozen=True)
class BoundaryShrink(Method):
    """Move each forget sample over the decision boundary that is nearest to it in the original.

    Objective: minimise CE(f_θ(x), y') over D_f by SGD, with y' = argmax over k ≠ y of f_θo(x*)_k and the adversarial x*
    = x + ``bound``·sign ∇ₓ CE(f_θo(x), y), pixels from 0 to 1. The original θo that is attacked stays frozen; x* is
    found anew for each batch, and only x is trained on. With ``clamp`` x* is kept between 0 and 1.

    Code read: https://github.com/TY-LEE-KR/Boundary-Unlearning-Code, boundary_unlearning.py, adv_generator.py, main.py,
    utils.py at 86c2f1f (a copy of the authors' archive, which has no repository of its own).

    Held against: boundary_shrink of boundary_unlearning.py and FGSM of adv_generator.py at 86c2f1f, whole run of two
    epochs, float64, images of three channels where each attack succeeded: 1e-17. Patched: the rate, so that more moves;
    nothing is saved.

    Differences: that code takes the argmax over all classes, so that a sample whose attack fails is taught its own
    class again; here that class is left out. Its bound is .1, but of no pixel: its loader normalises by .5 and .5
    (utils.py), while its attack takes the images to be normalised by deviations of .2023, .1994 and .2010 and means of
    .4914, .4822 and .2265 (adv_generator.py). A step of .1 there is one of .1·.5/.2 = .247, .251 and .249 of the range
    from black to white, and its clamp to [0, 1], in the wrong units too, holds nothing back but the darkest values of
    the third channel, at -.06: of evenly spread pixels a quarter leave that range. What it does is followed: the step
    is ``bound`` .25 and is not clamped. What it seems to mean is ``bound`` .1 with ``clamp``. It rounds to 1/255 in
    those units; here nothing is rounded, and black and white are the smallest and largest value of each channel in D_f.
    Its options for curvature and for weights of samples are left out: they are off there. The authors do not augment
    D_f, nor do we; D_r is not used.

    Defaults: the code's; its networks were trained at rate 0.01.

    Known failures: the published rate of 1e-5 hardly moves a network in the few steps that a small forget set gives;
    without the retain set a larger one breaks the classes next to the forgotten one.
    """

    paper: ClassVar[str] = "Chen et al. 2023, Boundary Unlearning, CVPR 2023, 2303.11570"
    version: ClassVar[int] = 3
    needs: ClassVar[Access] = Access.FORGET | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"lr": 1e-3}
    published: ClassVar[tuple[Published, ...]] = (
        Published("cifar10", "class", {}, "main.py and boundary_unlearning.py at 86c2f1f, their All-CNN"),
    )

    bound: Annotated[Fraction, LogUniform(0.01, 0.5)] = 0.25
    clamp: bool = False
    lr: Annotated[Positive, LogUniform(1e-6, 1e-1)] = 1e-5
    momentum: Fraction = 0.9
    batch_size: Count = 64
    epochs: Annotated[Count, LogUniform(1, 20)] = 10

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        original = frozen(model)
        low, span = pixel_range(task.forget.images())
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum)
        model.train()
        for _ in range(self.epochs):
            for x, y in task.forget.batches(self.batch_size, augment=False):
                beyond = fgsm(original, x, y, self.bound * span)
                if self.clamp:
                    beyond = beyond.clamp(low, low + span)
                descend(optimizer, F.cross_entropy(model(x), nearest_other(original, beyond, y)))
        return model


def fgsm(model: nn.Module, x: Tensor, y: Tensor, step: Tensor) -> Tensor:
    """``x`` moved by ``step`` in the sign of the gradient of the cross-entropy."""
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x + step * gradient.sign()).detach()
