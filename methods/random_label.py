"""Random labels: fine-tune the forget set on wrong labels, then the retain set on right ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn
from torch.nn import functional as F
from unlearnbench_methods.steps import any_labels, descend, other_labels

from unlearnbench import Access, Count, Fraction, LogUniform, Method, NonNegative, Positive, Task, make_optimizer


@dataclass(frozen=True)
class RandomLabel(Method):
    """Teach the forget set wrong labels, and the retain set its own again.

    Objective: each epoch minimises CE over all of D_f with labels drawn anew for each batch, then CE(D_r; θ) over D_r,
    by one SGD.

    Code read: https://github.com/OPTML-Group/Unlearn-Saliency, Classification/unlearn/RL.py at 3152cfe, its branch for
    CIFAR-10 and SVHN, and dataset.py at a6e89fd; its branch for CIFAR-100 and Tiny-ImageNet mixes the two sets.

    Held against: RL in iterative_unlearn, Classification/unlearn/RL.py and impl.py at a6e89fd without mask,
    ``exclude_true`` off, whole run of four epochs in float64, with and without BatchNorm, the same labels: 7e-17.
    Patched: devices, because they ask for a GPU; the draw of labels, to have ours.

    Differences: that code draws labels from all classes, so that one in K stays true; ``exclude_true`` (on) draws from
    the others. The authors augment D_f and D_r (crop and flip on CIFAR, nothing on SVHN), so do we wherever the recipe
    does.

    Defaults: Unlearn-Sparse's (2304.04934) batch, momentum, weight decay, rate and epochs, for ResNet-18 on CIFAR-10.
    The README of the code read has values for SalUn alone.

    Known failures: forget samples end below the confidence of unseen ones, which an attack can see.
    """

    paper: ClassVar[str] = "Golatkar et al. 2020, 1911.04933 (as a baseline); Fan et al. 2024, 2310.12508"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"batch_size": 32, "epochs": 5}

    lr: Annotated[Positive, LogUniform(1e-4, 1e-1)] = 0.01
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    batch_size: Count = 256
    epochs: Annotated[Count, LogUniform(1, 20)] = 10
    exclude_true: bool = True

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum, self.weight_decay)
        rng, draw = task.generator("labels"), other_labels if self.exclude_true else any_labels
        model.train()
        for _ in range(self.epochs):
            for samples in (task.forget, task.retain):
                for x, y in samples.batches(self.batch_size):
                    targets = y if samples is task.retain else draw(y, task.num_classes, rng)
                    descend(optimizer, F.cross_entropy(model(x), targets))
        return model
