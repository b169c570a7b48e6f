"""Amnesiac relabelling: the forget set on wrong labels, mixed with the retain set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from unlearnbench_methods.steps import descend, other_labels

from unlearnbench import Access, Count, LogUniform, Method, Positive, Samples, Task, make_optimizer


@dataclass(frozen=True)
class AmnesiacRelabel(Method):
    """Fine-tuning on the whole training set, in which each forget sample has one wrong label for good.

    Objective: minimise CE(D_r ∪ {(x, ỹ) : x in D_f}; θ) from θo with Adam, both sets shuffled together. ỹ is drawn
    once, uniformly from the classes other than the true one.

    Code read: https://github.com/if-loops/selective-synaptic-dampening, src/forget_random_strategies.py,
    src/forget_full_class_strategies.py and src/unlearn.py at cdfdc0e; its source is
    https://github.com/lmgraves/AmnesiacML, "Amnesiac Unlearning - MNIST.ipynb" at ae594cd.

    Differences: none known to the first. The second, by the authors, goes on with the optimizer of the training (Adam,
    1e-3, batch 64) for 10 epochs. As in the first, images are not augmented.

    Defaults: those of the first, for ResNet-18 and ViT on CIFAR-10, CIFAR-20 and CIFAR-100: 3 epochs, 1e-4, batch 128.

    Known failures: samples that look alike get labels that contradict each other, so that it may leave the forget set
    at unusually low confidence, which an attack sees. Three epochs at this rate are few steps: on digits they unlearn a
    class in part, random samples not.
    """

    paper: ClassVar[str] = "Graves et al. 2021, Amnesiac Machine Learning, 2010.10981"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"lr": 1e-3, "batch_size": 32, "epochs": 5}

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
