"""NegMerge: subtract what several fine-tunings on the forget set agree on."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from unlearnbench import (
    Access,
    Count,
    Fraction,
    LogUniform,
    Method,
    NonNegative,
    Positive,
    Recipe,
    Task,
    Uniform,
    predict,
    train,
)

RATES = (0.1, 0.5, 1.0)  # of ``lr``: the fine-tunings differ in rate, and in the order of batches


@dataclass(frozen=True)
class NegMerge(Method):
    """Negated task vectors of D_f, merged where all of them have the same sign.

    Objective: for j = 1 ... n minimise CE(D_f; θ_j) from θo by SGD, with a rate and an order of batches of its own; τ_j
    = θ_j - θo. τ is the mean of the τ_j where all n have the same sign, which is not 0, and 0 elsewhere. θ_u = θo - λτ,
    with the λ of ``points`` + 1 equally spaced ones from 0 to ``scale`` that gives the lowest accuracy on D_f among
    those that leave an accuracy on retained samples of at least ``keep`` of θo's; the smallest of equals. Parameters
    only: buffers stay θo's.

    Code read: https://github.com/naver-ai/negmerge at a176fa4 has a README only; its released code for CLIP was read in
    a public copy, https://github.com/mgradyn/negmerge, CLIP_MU/src/negmerge.py and utils.py at 8a77649. A port to
    classifiers: https://github.com/Harry24k/machine-unlearning-pytorch, torchunlearn/unlearn/nontrainers/negmerge.py at
    405bab1.

    Held against: the loops of CLIP_MU/src/negmerge.py that sum, mask and average, and find_optimal_coef of
    CLIP_MU/src/utils.py, at f42853b of the copy, from equal fine-tunings to θ_u, λ chosen included, float64: 6e-17.
    Patched: checkpoints stay in memory; accuracies are those of our data, because CLIP's are not at hand. Also
    _forget_finetune and _negate_merge of the port's negmerge.py at 405bab1, whole run for λ = 1, fine-tunings included,
    float64: 1e-17. Patched: models of all rates are merged, because ours are.

    Differences: for CLIP the models differ in their augmentation (30 settings of RandAugment) and λ is chosen on
    validation data of the task and of ImageNet; code for trained classifiers is not public. Here they differ in rate
    and order, and λ is chosen on D_f and as many samples of D_r. The port merges the models of one rate, fixes λ = 1
    and picks the rate by accuracy on D_r less that on D_f. The authors augment D_f in fine-tuning, the port only if
    asked; we do wherever the recipe does. Accuracies are of images that are not augmented.

    Defaults: rates 1e-4, 5e-4 and 1e-3, three models each, momentum .9, 1 epoch, batch 128: the port's; 95% and 20
    steps to λ = 1 the authors' for CLIP. Their settings for CLIP forget a dataset whole, neither samples nor a class of
    it, and those for classifiers were not read: none stand as published.

    Known failures: an original that fits D_f is hardly moved by fine-tuning on it, so that τ is next to nothing and λ =
    1 changes no answer; ``scale`` must then be large. The lowest accuracy on D_f is not what retraining would give.
    """

    paper: ClassVar[str] = "Kim et al. 2025, NegMerge: Sign-Consensual Weight Merging for Unlearning, 2410.05583"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"lr": 0.03, "batch_size": 32}

    lr: Annotated[Positive, LogUniform(1e-5, 1e-1)] = 1e-3
    epochs: Annotated[Count, LogUniform(1, 20)] = 1
    scale: Annotated[Positive, LogUniform(0.1, 1000)] = 1.0
    keep: Annotated[Fraction, Uniform(0.9, 1)] = 0.95
    repeats: Count = 3
    points: Count = 20
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 0.0
    batch_size: Count = 128

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        vectors = [self.task_vector(model, task, self.lr * rate) for rate in RATES for _ in range(self.repeats)]
        merged = [consensus(torch.stack(parts)) for parts in zip(*vectors, strict=True)]
        original = [parameter.detach().clone() for parameter in model.parameters()]
        subtract(model, original, merged, self.coefficient(model, original, merged, task))
        return model

    def task_vector(self, model: nn.Module, task: Task, lr: float) -> list[Tensor]:
        recipe = Recipe(
            optimizer="sgd", lr=lr, momentum=self.momentum, weight_decay=self.weight_decay,
            batch_size=self.batch_size, epochs=self.epochs,
        )  # fmt: skip
        tuned = train(deepcopy(model), task.forget, recipe)
        return [(new - old).detach() for new, old in zip(tuned.parameters(), model.parameters(), strict=True)]

    def coefficient(self, model: nn.Module, original: list[Tensor], merged: list[Tensor], task: Task) -> float:
        parts = [(part.images(), part.labels) for part in (task.forget, task.retain.take(len(task.forget)))]

        def accuracies() -> list[float]:
            return [(predict(model, x).argmax(1) == y).double().mean().item() for x, y in parts]

        best, (lowest, before) = 0.0, accuracies()
        for i in range(1, self.points + 1):
            subtract(model, original, merged, self.scale * i / self.points)
            forget, retain = accuracies()
            if retain >= self.keep * before and forget < lowest:
                best, lowest = self.scale * i / self.points, forget
        return best


def consensus(vectors: Tensor) -> Tensor:
    """Mean over the first axis where all signs agree, 0 elsewhere."""
    agree = vectors.sign().sum(0).abs() == len(vectors)
    return torch.where(agree, vectors.mean(0), 0.0)


@torch.no_grad()
def subtract(model: nn.Module, original: list[Tensor], vector: list[Tensor], coefficient: float) -> None:
    for parameter, start, direction in zip(model.parameters(), original, vector, strict=True):
        parameter.copy_(start - coefficient * direction)
