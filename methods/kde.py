"""KDE: first and last layer reset, then distillation of the original on unseen and on retained images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend, frozen, kl, reset_layer, weight_layers

from unlearnbench import (
    Access,
    Count,
    Fraction,
    LogUniform,
    Method,
    NonNegative,
    Positive,
    Task,
    make_optimizer,
    schedule,
)


@dataclass(frozen=True)
class KDE(Method):
    """Reset both ends of the network and win them back from the original by distillation.

    Objective: with z the logits of θ and t those of θo, divided by the temperature T where it is written as z/T,

        1. the first and the last layer of θ get PyTorch's default initialisation, U(-1/√fan_in, 1/√fan_in);
        2. on the validation set (no part of D) minimise KL(σ(t/T) ‖ σ(z/T)); SGD at ``warmup_lr``;
        3. on D_r minimise H(σ(t/T), σ(z/T)) + CE(D_r; θ) + KL(σ(t/T) ‖ σ(z/T)), H the cross-entropy with soft labels;
           a new SGD at ``lr``, a cosine that falls once an epoch.

    All are means over the batch, without the factor T². As H and KL differ by a constant, step 3 descends on CE + 2·KL.

    Code read: only in a port: https://github.com/xcadet/deepunlearn, munl/unlearning/kgltop6.py at 6830ff6. The
    authors' write-up (kaggle.com/c/neurips-2023-machine-unlearning/discussion/458740) was read in a digest by others;
    the notebook was not.

    Held against: KGLTop6.unlearn of the port at 6830ff6, whole run of 3 and 3 epochs, float64, a network with
    BatchNorm, a class and random samples forgotten: 2e-16, BatchNorm's statistics 2e-16. Patched: the new first and
    last layer, because they are random.

    Differences: the code takes the soft cross-entropy of what is a log-softmax already, which changes nothing. It
    resets modules named "conv1" and "fc" or "head"; ours are the first and the last layer with a weight matrix. By the
    digest a second submission warmed up on images of the forget set's classes alone and scored better; the port has the
    first, and so have we. The challenge's template and the port hand out images as they are: nothing is augmented
    there, nor here. None else known.

    Defaults: the authors' as the port gives them, for ResNet-18 and the challenge's faces (10 age groups), where random
    people were forgotten; batch 64 is the challenge's.

    Known failures: the teacher knows the forget set, and is followed on images like it. A validation set of a few
    images a class is a single step of warm-up an epoch. At the published learning rates a small data set has too few
    steps to win the two layers back: in digits-all about a third of the retain set was right.
    """

    paper: ClassVar[str] = (
        "NeurIPS 2023 Machine Unlearning Challenge, 6th of 7 winners (stathiskaripidis, Euclid team); "
        "KDE in Cadet et al. 2024, Deep Unlearn, 2410.01276"
    )
    version: ClassVar[int] = 2
    needs: ClassVar[Access] = Access.RETAIN | Access.VALIDATION | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"lr": 0.01, "warmup_lr": 0.01, "batch_size": 16}

    lr: Annotated[Positive, LogUniform(1e-4, 1e-1)] = 1e-3
    warmup_lr: Annotated[Positive, LogUniform(1e-4, 1e-1)] = 9e-4
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    temperature: Annotated[Positive, LogUniform(0.5, 10.0)] = 5.0
    batch_size: Count = 64
    warmup_epochs: Count = 3
    epochs: Annotated[Count, LogUniform(1, 20)] = 3

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        teacher, temperature = frozen(model), self.temperature
        layers, rng = weight_layers(model), task.generator("reset")
        reset_layer(layers[0], rng)
        reset_layer(layers[-1], rng)
        model.train()
        optimizer = make_optimizer(model.parameters(), "sgd", self.warmup_lr, self.momentum, self.weight_decay)
        for _ in range(self.warmup_epochs):
            for x, _y in task.validation.batches(self.batch_size, augment=False):
                descend(optimizer, kl(model(x), teacher(x), temperature))
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum, self.weight_decay)
        for epoch in range(self.epochs):
            optimizer.param_groups[0]["lr"] = self.lr * schedule("cosine", epoch / self.epochs)
            for x, y in task.retain.batches(self.batch_size, augment=False):
                z, t = model(x), teacher(x)
                soft = F.cross_entropy(z / temperature, F.softmax(t / temperature, dim=1))
                descend(optimizer, soft + F.cross_entropy(z, y) + kl(z, t, temperature))
        return model
