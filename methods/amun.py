"""AMUN: fine-tune on all data and, beside each forget sample, on its nearest adversarial image with its wrong label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend, frozen, pixel_range, unit_gradient, within

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
    chunks,
    make_optimizer,
    predict,
)


@dataclass(frozen=True)
class AMUN(Method):
    """Lower the confidence of the forget samples by teaching, right beside each, the class found there.

    Objective: minimise CE over D_r ∪ D_f ∪ D_a by SGD, shuffled together, the rate divided by ten every ``step``
    epochs. D_f keeps its true labels. D_a has for each x of D_f the image x* that L2 projected gradient ascent on
    CE(f_θo, y) finds in the smallest ball around it, with the class that θo gives it: ``attack_steps`` steps of a tenth
    of the radius, then twice the radius from where it stands, until the class changes. One that θo has wrong is its own
    x*.

    Code read: https://github.com/Ali-E/AMUN, AMUN_all_in_one.py at 6dc29ab, pgdl2_modified.py, build_advdataset.py and
    hyperparam_tune.py at 7282329, helper.py and adversarial_unlearn.py at 9e341a9.

    Held against: train of adversarial_unlearn.py at 9e341a9, whole run of 6 epochs on equal batches of D_r, D_f and
    D_a, with and without BatchNorm, float64: 1e-17. Patched: its loader gives our batches; float() is double(). PGDL2
    of pgdl2_modified.py at 9e341a9, whole attack, float64: 6e-15 of a pixel from 0 to 1. Patched: the 1e-10 that it
    adds to the length of the gradient is left out (4e-9 with it).

    Differences: pixels there are from 0 to 1; here the ends of that range are taken from the smallest and largest value
    of each channel in D_f. A radius past the diagonal of all images ends the search, and the likeliest other class is
    taken. The authors crop and flip D_r and D_f, but not D_a; so do we where the recipe augments. Their forms without
    D_f, without D_r and with SalUn's mask are left out.

    Defaults: those of hyperparam_tune.py. The script that does all in one go has lr .05, and starts from a radius of
    0.01 for 50 samples, for the others from the median of what these needed.

    Known failures: it cannot forget a class, whose samples stay in the training set with their labels (on digits its
    accuracy stayed at 100%): it is for single samples. The rate decides between no effect and a loss everywhere.
    """

    paper: ClassVar[str] = "Ebrahimpour-Boroojeny et al. 2025, AMUN, ICML 2025, 2503.00917"
    version: ClassVar[int] = 2
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    scenarios: ClassVar[tuple[str, ...] | None] = ("random", "indices")
    toy: ClassVar[dict[str, Any]] = {"lr": 0.005, "batch_size": 32, "step": 9, "epochs": 9}
    published: ClassVar[tuple[Published, ...]] = (
        Published("cifar10", "random", {}, "README.md and hyperparam_tune.py at 9e341a9, 10% and ResNet-18"),
        Published(
            "tiny-imagenet",
            "random",
            {"batch_size": 256},
            "README.md, hyperparam_tune.py and adversarial_unlearn.py at 9e341a9, 10% and ResNet-18",
        ),
    )

    lr: Annotated[Positive, LogUniform(1e-4, 1e-1)] = 0.01
    step: Annotated[Count, LogUniform(1, 10)] = 1
    radius: Positive = 0.04
    attack_steps: Count = 50
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    batch_size: Count = 128
    epochs: Annotated[Count, LogUniform(1, 20)] = 10

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        x, y = task.forget.images(), task.forget.labels
        found, wrong = self.nearest_adversaries(frozen(model), x, y)
        images = torch.cat([task.retain.images(), x, found])
        samples = task.retain.replace(images, torch.cat([task.retain.labels, y, wrong]))
        attacked = torch.arange(len(images), device=x.device) >= len(images) - len(found)
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum, self.weight_decay)
        model.train()
        for epoch in range(self.epochs):
            optimizer.param_groups[0]["lr"] = self.lr * 0.1 ** (epoch // self.step)
            for x, y, clean, stays in samples.batches(self.batch_size, extra=(images, attacked)):
                mixed = torch.where(stays[:, None, None, None], _resized(clean, x), x) if samples.augmented else x
                descend(optimizer, F.cross_entropy(model(mixed), y))
        return model

    def nearest_adversaries(self, original: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The image that the attack finds for each of ``x``, and its class there."""
        low, span = pixel_range(x)
        parts = chunks(x)
        found = torch.cat([
            low + span * self.attack(original, part, own, low, span)
            for part, own in zip(parts, y.split(len(parts[0])), strict=True)
        ])  # fmt: skip
        classes = predict(original, found).scatter(1, y[:, None], -torch.inf).argmax(1)
        return found, classes

    def attack(self, original: nn.Module, x: Tensor, y: Tensor, low: Tensor, span: Tensor) -> Tensor:
        """The images found, in pixels from 0 to 1."""
        clean = (x - low) / span
        found, left, radius = clean.clone(), torch.arange(len(x), device=x.device), self.radius
        while len(left) and radius <= x[0].numel() ** 0.5:
            for _ in range(self.attack_steps):
                upwards, logits = unit_gradient(original, low + span * found[left], y[left], span)
                right = logits.argmax(1) == y[left]
                left = left[right]
                found[left] = within(found[left] + radius / 10 * upwards[right], clean[left], radius)
            radius *= 2
        return found


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """``x`` as large as ``like``: some augmentations change the size."""
    return x if x.shape == like.shape else F.interpolate(x, like.shape[2:], mode="bilinear")
