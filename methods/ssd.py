"""SSD: dampen the weights that matter far more for the forget set than for all data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench import Access, Choice, Count, LogUniform, Method, Positive, Published, Samples, Task

SOURCE = "of selective-synaptic-dampening at cdfdc0e, ResNet-18"


@dataclass(frozen=True)
class SSD(Method):
    """Selective synaptic dampening: no training, one look at the gradients of all data and of the forget set.

    Objective: none is minimised. I(D) is the mean over batches of (∇ CE(batch; θo))², element by element, of the mean
    loss of the batch; where I(D_f) > α·I(D_r ∪ D_f) a weight is multiplied by min(λ·I(D_r ∪ D_f) / I(D_f), 1).

    Code read: https://github.com/if-loops/selective-synaptic-dampening, src/ssd.py, src/forget_full_class_main.py,
    src/forget_full_class_strategies.py, src/forget_random_main.py and src/forget_random_strategies.py at cdfdc0e.

    Held against: ssd_tuning of src/forget_full_class_strategies.py (with its order of classes) and of
    src/forget_random_strategies.py, both with ParameterPerturber of src/ssd.py at cdfdc0e, whole run, float64, with and
    without BatchNorm, samples within a class in the same order: equal to the bit. Patched: a name in the second, which
    assigns to ``ssd`` and so hides the module it calls; no evaluation afterwards.

    Differences: the paper speaks of the Fisher information, which is the mean of squares; the code squares the mean of
    a batch, and is followed: ``batch_size`` is a hyperparameter. Where classes are forgotten the code goes through D_r
    class by class, so that its batches are as pure as those of D_f; so do we. The authors augment neither D_f nor D_r,
    nor do we.

    Defaults: theirs for ResNet-18 and one class of CIFAR-100. For ViT α is 5 where a class is forgotten, 25 where a
    part of a superclass is.

    Known failures: D_f is part of D. Were I a mean over samples, I(D_f)/I(D) could not be above |D|/|D_f|, and α 10
    would change nothing where a tenth of the data or more is forgotten. Of batches that does not hold: each counts the
    same, a small last one of D_f as much as a full one, and in D the samples of D_f share batches with others. In
    digits-all every model kept class-8, and in random-10 one of five lost much of all it knew. α and λ must be tuned
    for each problem, and the range between nothing and ruin is narrow. Of samples forgotten at random hardly a weight
    is specific.
    """

    paper: ClassVar[str] = (
        "Foster et al. 2024, Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening, "
        "2308.07707"
    )
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    full_precision: ClassVar[bool] = True  # squares of gradients, in a quotient
    toy: ClassVar[dict[str, Any]] = {"alpha": 3.0, "lam": 0.5, "batch_size": 32}
    published: ClassVar[tuple[Published, ...]] = (
        Published("cifar100", "class", {}, f"src/cifar100_fullclass_exps.sh {SOURCE}"),
        Published("cifar20", "class", {}, f"src/cifar20_fullclass_exps.sh {SOURCE}"),
        Published(
            "cifar10", "random", {"batch_size": 128}, f"src/cifar10_random_exps.sh, forget_random_main.py {SOURCE}"
        ),
        Published(
            "pins-faces", "class", {"alpha": 50.0, "lam": 0.1}, f"comment in src/forget_full_class_main.py {SOURCE}"
        ),
    )

    alpha: Annotated[Positive, LogUniform(1, 100)] = 10.0
    lam: Annotated[Positive, LogUniform(0.1, 5)] = 1.0
    batch_size: Annotated[Count, Choice((16, 32, 64, 128, 256))] = 64

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        def squares(samples: Samples) -> dict[str, Tensor]:
            batches = samples.batches(self.batch_size, shuffle=False, augment=False)
            return importance(model, (F.cross_entropy(model(x), y) for x, y in batches), torch.square)

        model.eval()
        forget, everything = squares(task.forget), squares(whole(task))
        return dampen(model, forget, everything, self.alpha, self.lam)


def whole(task: Task) -> Samples:
    """D_r, class by class where classes are forgotten, then D_f."""
    x, y = task.retain.images(), task.retain.labels
    if task.forget_classes:
        order = y.argsort(stable=True)
        x, y = x[order], y[order]
    return task.retain.replace(torch.cat([x, task.forget.images()]), torch.cat([y, task.forget.labels]))


def importance(model: nn.Module, losses: Iterable[Tensor], measure: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Of each parameter, by name, the mean over ``losses`` of ``measure`` of its gradient, element by element."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    totals, count = [torch.zeros_like(parameter) for parameter in parameters], 0
    for loss in losses:
        count += 1
        for total, gradient in zip(totals, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True):
            total.add_(measure(gradient))
    return {name: total / count for name, total in zip(names, totals, strict=True)}


@torch.no_grad()
def dampen(
    model: nn.Module, forget: dict[str, Tensor], everything: dict[str, Tensor], alpha: float, lam: float
) -> nn.Module:
    """Where ``forget`` > ``alpha``·``everything``, multiply a weight by min(``lam``·``everything``/``forget``, 1)."""
    for name, parameter in model.named_parameters():
        ours, all_of_it = forget[name], everything[name]
        factor = (lam * all_of_it / ours).clamp(max=1)
        parameter.copy_(torch.where(ours > alpha * all_of_it, parameter * factor, parameter))
    return model
