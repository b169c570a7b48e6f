"""CF-k: catastrophic forgetting of the last k layers, by fine-tuning these on the retain set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend, weight_layers

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
class CFk(Method):
    """Fine-tune the last k convolutions and linear layers on the retain set; the layers before them are frozen.

    Objective: minimise CE(D_r; θ_k) from θo by SGD with warm restarts, θ_k the weights of the last ``k`` convolutions
    and linear layers and of the BatchNorms after the first of these. In epoch e of a cycle of n = 1, 2, 4, 8, ...
    epochs the rate is lr_min + (lr - lr_min)·(1 + cos(π·e/n))/2. Gradients are clipped to norm ``clip``.

    Code read: https://github.com/shash42/Evaluating-Inexact-Unlearning, src/methods.py, src/learn.py, src/unlearn.py,
    src/load_datasets.py and scripts at a45fe02.

    Held against: cat_forget_finetune of src/methods.py, with train_loop of src/learn.py, at a45fe02, whole run of 12
    epochs, float64, k 1 to 3, a class and random samples, with and without BatchNorm: 4e-16. Patched: .cuda()
    and saving do nothing, because it runs on a CPU.

    Differences: none known. Layers are counted from the last one registered. As in the code BatchNorms of frozen layers
    go on updating their statistics, though not their weights; whatever is no convolution, linear layer or BatchNorm
    (a transformer's LayerNorm, its position embedding) is frozen. The authors augment D_r (crop and flip on CIFAR), and
    so do we wherever the recipe does; D_f is not used.

    Defaults: theirs for CIFAR-10, but for k. Their scripts try k from 1 to 50 in networks of 20 and 110 layers, their
    program from 1 to 3 unless told otherwise; a k says little about another network, so that ours stays 3 wherever
    the rest is taken from a script. Later comparisons use 1, for 10 epochs.

    Known failures: what the frozen layers know of D_f stays. On digits most of a forgotten class is still recognised
    after the default schedule: nothing in D_r drives it out once the loss is near 0.
    """

    paper: ClassVar[str] = (
        "Goel et al. 2022, Towards Adversarial Evaluations for Inexact Machine Unlearning, 2201.06640"
    )
    needs: ClassVar[Access] = Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"weight_decay": 0.02, "epochs": 15}
    published: ClassVar[tuple[Published, ...]] = (
        Published("cifar10", "random", {}, "scripts/cifar10-CRT.sh at a45fe02, ResNet-110, its k (50) left out"),
        Published(
            "cifar100",
            "random",
            {"epochs": 62},
            "scripts/cifar100-CRT.sh at a45fe02, ResNet-110, its k (10 and 50) left out",
        ),
    )

    k: Annotated[Count, LogUniform(1, 10)] = 3
    lr: Annotated[Positive, LogUniform(1e-3, 0.3)] = 0.1
    lr_min: NonNegative = 0.005
    momentum: Fraction = 0.9
    weight_decay: Annotated[NonNegative, LogUniform(1e-5, 1e-1)] = 5e-5
    batch_size: Count = 64
    epochs: Annotated[Count, LogUniform(2, 62)] = 30
    clip: Positive = 10.0

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        model.requires_grad_(False)
        for layer in last_layers(model, self.k):
            layer.requires_grad_(True)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = make_optimizer(trained, "sgd", self.lr, self.momentum, self.weight_decay)
        model.train()
        for epoch in range(self.epochs):
            optimizer.param_groups[0]["lr"] = self.lr_min + (self.lr - self.lr_min) * restarts(epoch)
            for x, y in task.retain.batches(self.batch_size):
                descend(optimizer, F.cross_entropy(model(x), y), self.clip)
        return model.requires_grad_(True)


def last_layers(model: nn.Module, k: int) -> Sequence[nn.Module]:
    """From the last ``k``-th convolution or linear layer on: these, and the BatchNorms registered among them."""
    first = weight_layers(model)[-k:][0]
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    return layers[next(i for i, layer in enumerate(layers) if layer is first) :]


def restarts(epoch: int) -> float:
    """A cosine from 1 towards 0 over cycles of 1, 2, 4, 8, ... epochs."""
    length = 2 ** int(math.log2(epoch + 1))
    return 0.5 * (1 + math.cos(math.pi * (epoch + 1 - length) / length))
