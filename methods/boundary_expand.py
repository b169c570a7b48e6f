"""Boundary expand: send the forget samples to a class of their own, then cut that class off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend, weight_layers

from unlearnbench import Access, Count, Fraction, LogUniform, Method, Positive, Published, Task, make_optimizer


@dataclass(frozen=True)
class BoundaryExpand(Method):
    """Give the forget samples a shadow class of their own, which exists only during unlearning.

    Objective: the last layer gets a row for class K + 1, its weights normal with Xavier's variance and its bias 0.
    Minimise CE(f_θ(x), K + 1) over D_f by SGD on all weights; then drop that row. Labels are not used. The first step
    is made in eval mode, with the statistics that BatchNorm has from training, all others in train mode.

    Code read: https://github.com/TY-LEE-KR/Boundary-Unlearning-Code, boundary_unlearning.py, models.py, utils.py,
    main.py at 86c2f1f (a copy of the authors' archive, which has no repository of its own).

    Held against: boundary_expanding of boundary_unlearning.py at 86c2f1f, whole run of two epochs, float64, with
    BatchNorm, an equal new row: 6e-17. Patched: the sizes of the network; the rate, so that more moves; nothing is
    saved.

    Differences: none known. Its network is in eval mode from the test before, and its loop calls train() after the
    forward pass of a batch: hence the first step. The authors do not augment D_f, nor do we; D_r is not used.

    Defaults: the code's; its networks were trained at rate 0.01.

    Known failures: as the row is dropped, a sample may fall back to its old class; where the forget samples are of all
    classes the new one is a constant, which only the new row has to learn.
    """

    paper: ClassVar[str] = "Chen et al. 2023, Boundary Unlearning, CVPR 2023, 2303.11570"
    version: ClassVar[int] = 3
    needs: ClassVar[Access] = Access.FORGET
    toy: ClassVar[dict[str, Any]] = {"lr": 3e-4}
    published: ClassVar[tuple[Published, ...]] = (
        Published("cifar10", "class", {}, "main.py and boundary_unlearning.py at 86c2f1f, their All-CNN"),
    )

    lr: Annotated[Positive, LogUniform(1e-6, 1e-1)] = 1e-5
    momentum: Fraction = 0.9
    batch_size: Count = 64
    epochs: Annotated[Count, LogUniform(1, 20)] = 10

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        last = cast(Sequence[nn.Linear], weight_layers(model))[-1]
        widen(last, task.generator("shadow class"))
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum)
        model.eval()
        for _ in range(self.epochs):
            for x, *_ in task.forget.batches(self.batch_size, augment=False):
                loss = F.cross_entropy(model(x), torch.full((len(x),), task.num_classes, device=x.device))
                model.train()
                descend(optimizer, loss)
        keep(last, task.num_classes)
        return model


def widen(layer: nn.Linear, rng: torch.Generator) -> None:
    """One more output, with random weights of the variance that Xavier's rule gives the widened layer, and bias 0."""
    std = (2 / (layer.in_features + layer.out_features + 1)) ** 0.5
    row = std * torch.randn(1, layer.in_features, generator=rng, device=rng.device)
    bias = None if layer.bias is None else torch.cat([layer.bias.detach(), layer.bias.new_zeros(1)])
    replace(layer, torch.cat([layer.weight.detach(), row.to(layer.weight)]), bias)


def keep(layer: nn.Linear, outputs: int) -> None:
    """The first ``outputs`` outputs alone."""
    bias = None if layer.bias is None else layer.bias.detach()[:outputs].clone()
    replace(layer, layer.weight.detach()[:outputs].clone(), bias)


def replace(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight, layer.out_features = nn.Parameter(weight), len(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias)
