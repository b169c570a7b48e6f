"""LAF+R: LAF, and then the head trained on labelled retain samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

from torch import nn
from torch.nn import functional as F
from unlearnbench_methods.laf import LAF
from unlearnbench_methods.steps import descend

from unlearnbench import Access, Classifier, Count, LogUniform, Positive, Task, make_optimizer


@dataclass(frozen=True)
class LAFR(LAF):
    """LAF with supervised repair: afterwards the head alone learns the labels of D_r.

    Objective: that of `laf`; then minimise CE(D_r; θ) over the parameters of the head, by Adam at ``lr_repair``, with
    as many batches of D_r an epoch as D_f has. The network stays in eval mode.

    Code read: https://github.com/ShaofeiShen768/LAF, VUnlearning.py (classifier_unlearning) at bda3694, and what `laf`
    cites.

    Held against: classifier_unlearning of VUnlearning.py at bda3694, whole run of 5 epochs after the whole run of
    `laf`, float64, with and without BatchNorm, samples at random and a class: 5e-12. Patched: as for `laf`.

    Differences: none known. D_r is augmented in the repair too, there as here. No notebook of that code calls the
    function.

    Defaults: those of `laf`, which stand in ``published`` too. Rate and epochs of the repair are ours everywhere:
    neither code nor hyperparameter.md gives them, and the paper's text was not read.

    Known failures: as `laf`. What the encoder still separates, the head finds again only if D_r holds its class.
    """

    paper: ClassVar[str] = "Shen et al. 2024, Label-Agnostic Forgetting, 2404.00506 (LAF+R)"
    version: ClassVar[int] = 2
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {}

    lr_repair: Annotated[Positive, LogUniform(1e-5, 1e-2)] = 1e-4
    repair_epochs: Count = 5

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        model = super().unlearn(model, task)
        optimizer = make_optimizer(cast(Classifier, model).head.parameters(), "adam", self.lr_repair)
        steps = range(0, len(task.forget), self.batch_size)
        for _ in range(self.repair_epochs):
            for _step, (x, y) in zip(steps, task.retain.batches(self.batch_size), strict=False):
                descend(optimizer, F.cross_entropy(model(x), y))
        return model
