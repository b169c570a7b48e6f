"""LoTUS: the original's own predictions, smoothed by Gumbel noise at a temperature that follows the forgetting."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.steps import accuracy, descend, frozen, mixture

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
    Uniform,
    make_optimizer,
)

SOURCE = "src/bash_scripts/reproduce_results.sh at 35ae25e"
SOURCE_CLASS = "src/bash_scripts/class_reproduce_results.sh at 35ae25e"


@dataclass(frozen=True)
class LoTUS(Method):
    """Logits tempering: D_f learns smoothed samples of the original's predictions, D_r hard samples of them.

    Objective: with g fresh Gumbel(0, 1) noise for every logit and step, and D_s a uniform sample of D_r of size
    ``retain_share``·|D_r| drawn once, the target of x is softmax((f_θo(x) + g)/τ) on D_f and the one-hot arg max of
    f_θo(x) + g on D_s. Minimise the mean over D_f ∪ D_s, shuffled together, of the cross-entropy with the target, by
    AdamW. Before each epoch, in eval mode, δ = A(D_f; θ) - A(V; θo), A the accuracy and V the validation set; where
    classes are forgotten A(V; θo) counts as 0. If δ ≤ -0.01 it ends, else τ = exp(α·δ).

    Code read: https://github.com/cspartalis/LoTUS, src/unlearning_methods/lotus_class.py, src/helpers/config.py,
    eval.py and data_utils.py, src/bash_scripts/*.sh at 35ae25e.

    Held against: LoTUS.unlearn of src/unlearning_methods/lotus_class.py at 35ae25e, whole run of 3 epochs, float64, a
    class and random samples, equal noise: 1e-17, with BatchNorm 2e-12. Patched: one draw of noise for both targets, as
    each sample uses one; both were told the same accuracies, because it rounds its own; its loader gives our batches.

    Differences: the code rounds accuracies to two decimals, here they are exact. It draws one noise for the hard and
    one for the soft target, of which each sample uses one; here one is drawn. The authors augment D_f and D_r (ResNet:
    crop on CIFAR, crop and flip on Tiny-ImageNet; ViT: nothing on CIFAR), and so do we wherever the recipe does. Their
    A(D_f; θ) is of augmented images too, as D_f keeps the training's transform; here it is of images as they are.

    Defaults: the authors' for ResNet-18; for α, 1 where nothing is given, that of most of their scripts. For a ViT they
    have 3 epochs, lr 1e-6 and batches of 32.

    Known failures: where classes are forgotten δ cannot fall below 0, so that it never stops early, and at τ near 1 the
    original's confident predictions of the forgotten class are the targets: a large α is needed, and as the accuracy
    falls τ falls to 1 and the class comes back. In digits-all, class-8, about a tenth of it is known at α 32.
    """

    paper: ClassVar[str] = "Spartalis et al. 2025, LoTUS: Large-Scale Machine Unlearning, 2503.18314"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS | Access.VALIDATION
    toy: ClassVar[dict[str, Any]] = {"lr": 3e-3, "alpha": 32.0, "batch_size": 32}
    published: ClassVar[tuple[Published, ...]] = (
        Published("cifar100", "random", {}, f"{SOURCE}, ResNet-18"),
        Published("cifar10", "random", {"alpha": 8.0}, f"{SOURCE}, ResNet-18"),
        Published("tiny-imagenet", "random", {}, f"{SOURCE}, ResNet-18"),
        Published("mufac", "random", {}, f"{SOURCE}, ResNet-18"),
        Published("cifar100", "class", {"alpha": 32.0}, f"{SOURCE_CLASS}, ResNet-18"),
        Published("cifar10", "class", {"alpha": 32.0}, f"{SOURCE_CLASS}, ResNet-18"),
        Published("tiny-imagenet", "class", {"alpha": 32.0}, f"{SOURCE_CLASS}, ResNet-18"),
    )

    lr: Annotated[Positive, LogUniform(1e-6, 1e-2)] = 1e-4
    weight_decay: NonNegative = 5e-4
    alpha: Annotated[Positive, LogUniform(1, 32)] = 2.0
    retain_share: Annotated[Fraction, Uniform(0.1, 1)] = 0.3
    batch_size: Count = 128
    epochs: Annotated[Count, LogUniform(3, 20)] = 10

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        teacher = frozen(model)
        samples, forgotten = mixture(task, self.retain_share)
        unseen = 0.0 if task.forget_classes else accuracy(teacher, task.validation)
        optimizer = make_optimizer(model.parameters(), "adamw", self.lr, weight_decay=self.weight_decay)
        rng = task.generator("gumbel")
        model.train()
        for _ in range(self.epochs):
            difference = accuracy(model, task.forget) - unseen
            if difference <= -0.01:
                break
            for x, soft in samples.batches(self.batch_size, extra=(forgotten,)):
                target = targets(teacher(x), soft, math.exp(self.alpha * difference), rng)
                descend(optimizer, F.cross_entropy(model(x), target))
        return model


def targets(logits: Tensor, soft: Tensor, temperature: float, rng: torch.Generator) -> Tensor:
    """A draw of Gumbel-softmax where ``soft`` (bool ``[n]``), elsewhere a class drawn from the softmax, as one-hot."""
    noisy = logits - torch.empty_like(logits).exponential_(generator=rng).log()
    hard = F.one_hot(noisy.argmax(1), logits.shape[1]).to(logits)
    return torch.where(soft[:, None], F.softmax(noisy / temperature, dim=1), hard)
