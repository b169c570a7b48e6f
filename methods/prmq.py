"""PRMQ: prune and re-initialise most weights, fine-tune towards the original's entropy, round to half precision."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend, endless, frozen, reset_layer, weight_layers

from unlearnbench import (
    Access,
    Count,
    Fraction,
    LogUniform,
    Method,
    NonNegative,
    Positive,
    Task,
    Uniform,
    make_optimizer,
)


@dataclass(frozen=True)
class PRMQ(Method):
    """Re-initialise the smallest weights, fine-tune with a term that keeps the entropy of predictions, and round.

    Objective: of all weights and biases of convolutions and linear layers together, the ``amount`` that are smallest in
    absolute value go: weights get PyTorch's default initialisation, U(-1/√fan_in, 1/√fan_in), biases 0. Then SGD with
    momentum on D_r, at a constant learning rate, minimises

        CE_c(D_r; θ) + mean over x of (H(σ z_θ(x)) - H(σ z_θo(x)))²

    with H the entropy of the prediction and CE_c the cross-entropy weighted by class, c_y = n_y^-0.1 (n_y counts class
    y in D_r; the mean is weighted too), in ⌊``epochs`` · batches⌋ + 1 steps. At the end all parameters and buffers are
    rounded to 16 bit.

    Code read: only in a port: https://github.com/xcadet/deepunlearn, munl/unlearning/kgltop4.py at 6830ff6. The
    author's write-up (kaggle.com/c/neurips-2023-machine-unlearning/discussion/459148) was read; the notebook was not.

    Held against: KGLTop4.unlearn of the port at 6830ff6, whole run of 3.2 epochs, float64, a network with BatchNorm, a
    class and random samples forgotten: equal to the bit, after the rounding. Patched: the draws of new weights, because
    they are random; weights of classes in double precision, because theirs are in single; the weight 1 for a class that
    D_r lacks, because theirs fails.

    Differences: weights of classes that D_r lacks are 1 instead of absent, which no sample sees. The challenge's
    template and the port hand out images as they are: nothing is augmented there, nor here. None else known.

    Defaults: the author's as the port gives them, for ResNet-18 and the challenge's faces (10 age groups), where random
    people were forgotten; tuned on its public scores.

    Known failures: with 99% of the weights drawn anew it is close to retraining for 3.2 epochs from a random network;
    at the published learning rate a small data set has too few steps: in digits-all it stays at chance.
    """

    paper: ClassVar[str] = (
        "NeurIPS 2023 Machine Unlearning Challenge, 4th of 7 winners (Sebastian Oleszko); "
        "PRMQ in Cadet et al. 2024, Deep Unlearn, 2410.01276"
    )
    version: ClassVar[int] = 2
    needs: ClassVar[Access] = Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"lr": 0.02, "batch_size": 16, "epochs": 6.0}

    lr: Annotated[Positive, LogUniform(1e-4, 1e-1)] = 5e-4
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    batch_size: Count = 64
    epochs: Annotated[Positive, LogUniform(1.0, 20.0)] = 3.2
    amount: Annotated[Fraction, Uniform(0.5, 1.0)] = 0.99

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        teacher = frozen(model)
        self.prune(model, task.generator("weights"))
        weights = task.retain.labels.bincount(minlength=task.num_classes).clamp(min=1) ** -0.1
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum, self.weight_decay)
        steps = int(math.ceil(len(task.retain) / self.batch_size) * self.epochs) + 1
        model.train()
        for x, y in islice(endless(task.retain, self.batch_size, augment=False), steps):
            z = model(x)
            ce = F.cross_entropy(z, y, weight=weights.to(z.dtype))
            descend(optimizer, ce + F.mse_loss(entropy(z), entropy(teacher(x))))
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(tensor.half())
        return model

    @torch.no_grad()
    def prune(self, model: nn.Module, rng: torch.Generator) -> None:
        """Re-initialise the smallest weights over all layers; biases among them become 0."""
        layers = weight_layers(model)
        parameters = [p for layer in layers for p in layer.parameters(recurse=False)]
        sizes = torch.cat([p.abs().flatten() for p in parameters])
        pruned = torch.zeros_like(sizes, dtype=torch.bool)
        pruned[sizes.topk(round(self.amount * len(sizes)), largest=False).indices] = True
        masks = iter(pruned.split([p.numel() for p in parameters]))
        for layer in layers:
            fresh = deepcopy(layer)
            reset_layer(fresh, rng)
            for name, p in layer.named_parameters(recurse=False):
                new = fresh.get_parameter(name) if name == "weight" else torch.zeros_like(p)
                p.copy_(torch.where(next(masks).view_as(p), new, p))


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax, ``[n]``."""
    log_p = F.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(1)
