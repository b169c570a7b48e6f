"""Amnesiac relabelling: the forget set on wrong labels, mixed with the retain set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend, other_labels

from unlearnbench import Access, Count, LogUniform, Method, Positive, Published, Samples, Task, make_optimizer

GRAVES = "AmnesiacML at ae594cd"
BASELINE = "as a baseline of SSD, selective-synaptic-dampening at cdfdc0e"


@dataclass(frozen=True)
class AmnesiacRelabel(Method):
    """Fine-tuning on the whole training set, in which each forget sample has one wrong label for good.

    Objective: minimise CE(D_r ∪ {(x, ỹ) : x in D_f}; θ) from θo with Adam, both sets shuffled together. ỹ is drawn
    once, uniformly from the classes other than the true one.

    Code read: https://github.com/if-loops/selective-synaptic-dampening, src/forget_random_strategies.py,
    src/forget_full_class_strategies.py and src/unlearn.py at cdfdc0e; its source is
    https://github.com/lmgraves/AmnesiacML, "Amnesiac Unlearning - MNIST.ipynb", "Unlearning Model Inversion -
    resnet18.ipynb" and "Unlearning Tester - CIFAR100.ipynb" at ae594cd.

    Held against: amnesiac of src/forget_random_strategies.py and of src/forget_full_class_strategies.py with
    fit_one_unlearning_cycle of src/unlearn.py at cdfdc0e, whole run of 3 epochs, float64, with and without BatchNorm:
    1e-16, but 8e-11 in a bias before BatchNorm, whose gradient is rounding. Patched: the draw of labels and the order
    of batches, because both sides need the same; no evaluation between epochs.

    Differences: none to the first. The second, by the authors, goes on with the optimizer of the training, Adam with
    its moments; here Adam is new. Neither augments D_f or D_r, nor do we.

    Defaults: those of the first, the same for all its networks, datasets and scenarios.

    Known failures: samples that look alike get labels that contradict each other, so that it may leave the forget set
    at unusually low confidence, which an attack sees. Three epochs at the default rate are few steps: in digits-all,
    random-10, nearly all of D_f is known after them.
    """

    paper: ClassVar[str] = "Graves et al. 2021, Amnesiac Machine Learning, 2010.10981"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"lr": 1e-3, "batch_size": 32, "epochs": 5}
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            "mnist",
            "class",
            {"lr": 1e-3, "batch_size": 64, "epochs": 10},
            f"Unlearning Model Inversion - resnet18.ipynb of {GRAVES}, ResNet-18",
        ),
        Published(
            "cifar100",
            "class",
            {"lr": 1e-3, "batch_size": 64, "epochs": 10},
            f"Unlearning Tester - CIFAR100.ipynb of {GRAVES}, ResNet-18",
        ),
        Published("cifar10", "random", {}, f"src/cifar10_random_exps.sh, {BASELINE}, ResNet-18"),
        Published("cifar20", "class", {}, f"src/cifar20_fullclass_exps.sh, {BASELINE}, ResNet-18"),
    )

    lr: Annotated[Positive, LogUniform(1e-5, 1e-2)] = 1e-4
    batch_size: Count = 128
    epochs: Annotated[Count, LogUniform(1, 20)] = 3

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        samples = self.relabelled(task)
        optimizer = make_optimizer(model.parameters(), "adam", self.lr)
        model.train()
        for _ in range(self.epochs):
            for x, y in samples.batches(self.batch_size, augment=False):
                descend(optimizer, F.cross_entropy(model(x), y))
        return model

    def relabelled(self, task: Task) -> Samples:
        """D_f with wrong labels, then D_r."""
        wrong = other_labels(task.forget.labels, task.num_classes, task.generator("labels"))
        x = torch.cat([task.forget.images(), task.retain.images()])
        return task.retain.replace(x, torch.cat([wrong, task.retain.labels]))
