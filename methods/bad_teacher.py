"""Bad teacher: on the forget set the student learns from an untrained network, elsewhere from the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn
from unlearnbench_methods.steps import descend, frozen, kl, mixture

from unlearnbench import Access, Count, Fraction, LogUniform, Method, Positive, Published, Task, Uniform, make_optimizer


@dataclass(frozen=True)
class BadTeacher(Method):
    """Distillation from two teachers: an incompetent one for D_f, the original for a share of D_r. It uses no labels.

    Objective: with θi random weights that were never trained, D_s a uniform sample of D_r drawn once, of size
    ``retain_share``·|D_r|, and teacher(x) = f_θi(x) on D_f and f_θo(x) on D_s: minimise the mean over D_f ∪ D_s,
    shuffled together, of KL(softmax(teacher/T) ‖ softmax(f_θ/T)) divided by the number of classes, from θo, by Adam.
    Both teachers are frozen in eval mode, the student is in train mode.

    Code read: https://github.com/vikram2000b/bad-teaching-unlearning, unlearn.py, dataset.py and
    CIFARSuper20_Rocket_Unlearn.ipynb at f1aa988.

    Held against: blindspot_unlearner of unlearn.py at f1aa988, whole run of 3 epochs, float64, with and without
    BatchNorm: 2e-16, but 1e-10 in a bias before BatchNorm, whose gradient is rounding. Patched: the order of batches,
    because both sides need the same.

    Differences: the paper writes the divergence without the division by the number of classes, which comes from the
    code's average over batch and classes (``F.kl_div`` with reduction "mean") and is followed; under Adam it only
    weighs its epsilon. No factor T² in either. The authors augment neither D_f nor D_r, nor do we.

    Defaults: the notebook's, in which the rocket of CIFAR-100 is forgotten by a network of the 20 superclasses. The
    function's own defaults (10 epochs, lr .01) are used in no experiment of that code.

    Known failures: an untrained network is near-uniform, so that forgotten samples become far less certain than those
    of an oracle, which a membership attack can see. One epoch at lr 1e-4 changes little where there are few batches:
    in digits-all, with two, it leaves nearly every prediction on D_f as it was.
    """

    paper: ClassVar[str] = "Chundawat et al. 2023, Can Bad Teaching Induce Forgetting?, 2205.08096"
    version: ClassVar[int] = 2
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN
    toy: ClassVar[dict[str, Any]] = {"lr": 1e-3, "batch_size": 32, "epochs": 5}
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            "cifar20",
            "class",
            {},
            "CIFARSuper20_Rocket_Unlearn.ipynb at f1aa988, ResNet-18, one of the five classes of a superclass",
        ),
    )

    lr: Annotated[Positive, LogUniform(1e-5, 1e-2)] = 1e-4
    temperature: Positive = 1.0
    retain_share: Annotated[Fraction, Uniform(0.1, 1)] = 0.3
    batch_size: Count = 256
    epochs: Annotated[Count, LogUniform(1, 20)] = 1

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        competent, incompetent = frozen(model), frozen(task.fresh_model("incompetent teacher"))
        samples, forgotten = mixture(task, self.retain_share)
        optimizer = make_optimizer(model.parameters(), "adam", self.lr)
        model.train()
        for _ in range(self.epochs):
            for x, bad in samples.batches(self.batch_size, augment=False, extra=(forgotten,)):
                teacher = torch.where(bad[:, None], incompetent(x), competent(x))
                descend(optimizer, kl(model(x), teacher, self.temperature) / task.num_classes)
        return model
