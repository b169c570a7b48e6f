"""L2UL: climb the loss of the forget samples, held back by adversarial images and by weights that matter elsewhere."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend, endless, frozen, other_labels, pixel_range, unit_gradient, within

from unlearnbench import (
    Access,
    Count,
    Fraction,
    LogUniform,
    Method,
    NonNegative,
    Positive,
    Samples,
    Task,
    make_optimizer,
    predict,
)


@dataclass(frozen=True)
class L2UL(Method):
    """Instance-wise unlearning without the retain set: adversarial images of other classes stand in for it.

    Objective: minimise -a·CE(D_f; θ) + (1 - a)·CE(D_a; θ) + ``importance``/2·Σ_i w_i·(θ_i - θo_i)² by SGD, a the share
    of forget samples in the two batches, until every sample of D_f is misclassified, which is looked at after each
    step. D_a holds ``adversaries`` images for each of D_f: from a random start, ``attack_steps`` L2 steps of length
    ``attack_step`` down CE(f_θo, c) within ``radius``, with c ≠ y drawn at random as their label. w = 1 - m, with m the
    mean over D_f of |∂‖f_θo(x)‖₂ / ∂θ_i|, the gradient taken of batches, scaled in each tensor to [0, 1].

    Code read: https://github.com/csm9493/L2UL, main_unlearn_cifar10_mixed_label_resnet18.py at b8b335b, utils.py and
    run_unlearn_cifar_imagenet.sh at 18bda91.

    Held against: importance and loop of "Baseline 3" of main_unlearn_cifar10_mixed_label_resnet18.py and utils.py at
    5fb777b, whole run of up to 15 epochs on equal adversarial images, with and without BatchNorm, float64: 6e-17.
    Patched: where D_f has several batches, gradients are zeroed before each batch of the importance, see below (3e-3
    without). perturb_iterative from rand_init_delta of advertorch 0.2.3, their attack, whole run of 40 steps, float64:
    1e-15. Patched: nothing.

    Differences: where that code draws the true class, it takes the middle one instead, which may be the true one; here
    c is uniform over the others. It zeroes the gradients of another model than the one it takes w from, so that w of a
    second batch is of the sum of the gradients so far; for a single batch (its 16 samples; the paper goes to 256) it is
    the same. Here each batch has its own. Pixels there are from 0 to 1; here the ends of that range are taken from the
    smallest and largest value of each channel in D_f. Batches of D_a are of equal size here: a small last one would
    leave the ascent alone. It does not shuffle; here both sets are. The authors do not augment D_f, nor do we; D_r is
    not used.

    Defaults: the script's (its program alone has radius 2, regularisation 10 and lr .01), but for two adversarial
    images of each sample in 40 steps and 50 epochs. Theirs (20 images in 100 steps and 1000 epochs on CIFAR-10, 200 and
    100 epochs on CIFAR-100) are for 16 forgotten samples; with hundreds they take longer than a retraining, and the
    ascent has no bound below, so that they are not declared as published, which every suite would follow.

    Known failures: to misclassify every sample is more than retraining does where D_f is drawn at random. The ascent
    tips over: in digits-all, random-10, four models of five kept D_f and one lost more than half of all it knew;
    with 100 epochs one in five of 8x8 digits ended without a finite output.
    """

    paper: ClassVar[str] = "Cha et al. 2024, Learning to Unlearn, AAAI 2024, 2301.11578"
    version: ClassVar[int] = 2
    needs: ClassVar[Access] = Access.FORGET | Access.LABELS
    full_precision: ClassVar[bool] = True  # gradients of the length of the outputs, stretched to 0..1
    toy: ClassVar[dict[str, Any]] = {"lr": 1e-2}

    lr: Annotated[Positive, LogUniform(1e-4, 1e-1)] = 1e-3
    importance: Annotated[NonNegative, LogUniform(1e-2, 1e2)] = 1.0
    radius: Annotated[Positive, LogUniform(0.2, 8)] = 4.0
    attack_step: Positive = 0.1
    attack_steps: Count = 40
    adversaries: Count = 2
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 1e-4
    batch_size: Count = 256
    forget_batch: Count = 32
    epochs: Count = 50

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        origin = {name: p.detach().clone() for name, p in model.named_parameters()}
        weights = unimportance(model, task.forget, self.forget_batch)
        adversarial, forget = self.attack(frozen(model), task), endless(task.forget, self.forget_batch, augment=False)
        size = math.ceil(len(adversarial) / math.ceil(len(adversarial) / self.batch_size))
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum, self.weight_decay)
        for _ in range(self.epochs):
            for (x_a, y_a), (x_f, y_f) in zip(adversarial.batches(size, augment=False), forget, strict=False):
                model.train()
                share = len(x_f) / (len(x_f) + len(x_a))
                loss = (1 - share) * F.cross_entropy(model(x_a), y_a) - share * F.cross_entropy(model(x_f), y_f)
                moved = [(weights[n] * (p - origin[n]).pow(2)).sum() for n, p in model.named_parameters()]
                descend(optimizer, loss + self.importance / 2 * torch.stack(moved).sum())
                if (predict(model, task.forget.images()).argmax(1) != task.forget.labels).all():
                    return model
        return model

    def attack(self, original: nn.Module, task: Task) -> Samples:
        """The adversarial images of all forget samples, with the classes that they were made for."""
        rng, sets = task.generator("adversaries"), []
        low, span = pixel_range(task.forget.images())
        for x, y in task.forget.batches(self.batch_size, shuffle=False, augment=False):
            clean = (x - low) / span
            for _ in range(self.adversaries):
                target = other_labels(y, task.num_classes, rng)
                u = within(torch.rand(x.shape, generator=rng, device=rng.device).to(x), clean, self.radius)
                for _ in range(self.attack_steps):
                    upwards, _ = unit_gradient(original, low + span * u, target, span)
                    u = within((u - self.attack_step * upwards).clamp(0, 1), clean, self.radius)
                sets.append((low + span * u, target))
        images, labels = zip(*sets, strict=True)
        return task.forget.replace(torch.cat(images), torch.cat(labels))


def unimportance(model: nn.Module, samples: Samples, batch_size: int) -> dict[str, Tensor]:
    """How little each weight matters for the length of the logits, from 0 to 1 in each tensor."""
    model = deepcopy(model).train()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, *_ in samples.batches(batch_size, augment=False):
        gradients = torch.autograd.grad(model(x).norm(dim=1).mean(), list(model.parameters()), allow_unused=True)
        for name, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.abs() * len(x)
    return {n: 1 - (t - t.min()) / (t.max() - t.min()).clamp(min=torch.finfo(t.dtype).tiny) for n, t in total.items()}
