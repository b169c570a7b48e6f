"""Influence unlearning: one Newton step away from the forget set, the inverse Hessian by WoodFisher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench import Access, Count, LogUniform, Method, Positive, Samples, Task


@dataclass(frozen=True)
class Influence(Method):
    """IU: what the loss of D_f pulled on the weights, seen through the curvature on D_r, is given back.

    Objective: none is minimised. θ_u = θo + alpha·H⁻¹v with v = (n_f/n)·(∇CE(D_f; θo) - ∇CE(D_r; θo)), n = n_f + n_r.
    The product H⁻¹v comes from the WoodFisher recursion over single retain samples with gradients g_1, g_2, ...: k = v
    and o = g_1 (``product`` and ``direction`` below); then for each further g_i with N = ``samples``:
    k -= (k·g_i)/(N + o·g_i)·o, o -= (o·g_i)/(N + o·g_i)·o. In eval mode.

    Code read: https://github.com/OPTML-Group/Unlearn-Sparse, unlearn/Wfisher.py at 16a2dbc; the same rule stands in
    optim/unlearn/Wfisher.py of 16ddaf3, a revision that its history no longer holds.

    Held against: Wfisher of unlearn/Wfisher.py at 16a2dbc, whole run, float64, with and without BatchNorm, samples at
    random and a class, images augmented and not, fewer than N retain samples: 4e-16. Patched: nothing.

    Differences: in the recursion of the code, followed here, o is rescaled and never turned, so that k - v always
    points along g_1 alone: H⁻¹ is the identity but for one direction. WoodFisher proper (Singh and Alistarh 2020) would
    keep H_i⁻¹g_i in the place of o. The code reads N + 2 samples, ours N. D_f and D_r are augmented in all three passes
    where the recipe augments, as the authors do (random crop and flip on CIFAR); before version 2 they were not.

    Defaults: the authors' N = 1000 and batch 256, whatever the dataset. They tune alpha for each case and publish no
    value (their README leaves it open, their parser's .2 is shared with Fisher forgetting); 1 is the formula as
    derived.

    Known failures: an original that fits D_f has gradients near 0, so that alpha must be large before anything changes,
    and nothing says how large; one step too long ruins the retain set. In digits-all alpha 1 left every model about
    as it was.
    """

    paper: ClassVar[str] = "Jia et al. 2023, Model Sparsity Can Simplify Machine Unlearning, 2304.04934"
    version: ClassVar[int] = 2
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    full_precision: ClassVar[bool] = True  # a product with an inverse Hessian
    toy: ClassVar[dict[str, Any]] = {"alpha": 0.7}

    alpha: Annotated[Positive, LogUniform(0.1, 1000)] = 1.0
    samples: Count = 1000
    batch_size: Count = 256

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        model.eval()
        forget, retain = (self.mean_gradient(model, part) for part in (task.forget, task.retain))
        share = len(task.forget) / (len(task.forget) + len(task.retain))
        step = self.alpha * self.newton(model, share * (forget - retain), task.retain.take(self.samples))
        parameters = list(model.parameters())
        with torch.no_grad():
            for parameter, part in zip(parameters, step.split([p.numel() for p in parameters]), strict=True):
                parameter.add_(part.view_as(parameter))
        return model

    def mean_gradient(self, model: nn.Module, samples: Samples) -> Tensor:
        """Of the mean loss on ``samples``, all parameters in one vector."""
        passes = samples.batches(self.batch_size, shuffle=False)
        return sum((gradient(model, x, y) for x, y in passes), torch.tensor(0.0)) / len(samples)

    def newton(self, model: nn.Module, vector: Tensor, samples: Samples) -> Tensor:
        """H⁻¹ · vector by the recursion over ``samples``, one by one."""
        product, direction = vector.clone(), None
        for x, y in samples.batches(1, shuffle=False):
            single = gradient(model, x, y)
            if direction is None:
                direction = single
                continue
            overlap = direction @ single
            scale = 1 / (self.samples + overlap)
            product -= scale * (product @ single) * direction
            direction -= scale * overlap * direction
        return product


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the summed loss of a batch, all parameters in one vector."""
    loss = F.cross_entropy(model(x), y, reduction="sum")
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
