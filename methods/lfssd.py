"""LFSSD: SSD without loss and labels, by the sensitivity of the size of the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from unlearnbench_methods.ssd import dampen, importance

from unlearnbench import Access, Choice, Count, LogUniform, Method, Positive, Samples, Task


@dataclass(frozen=True)
class LFSSD(Method):
    """Loss-free selective synaptic dampening: `SSD` with an importance that needs no labels.

    Objective: none is minimised. Ω(D) is the mean over batches of |∇ mean_x ‖f(x; θo)‖₂²|, element by element, f the
    logits; where Ω(D_f) > α·Ω(D_r ∪ D_f) a weight is multiplied by min(λ·Ω(D_r ∪ D_f) / Ω(D_f), 1).

    Code read: only in a port: https://github.com/abdulmuizz0903/UnAct, SSD/lfssd.py at 70a4439, beside the authors' SSD
    (`SSD`).

    Differences: none known to the port. Without labels D_r is taken as it comes, also where a class is forgotten: in
    the authors' scripts for SSD it comes class by class.

    Defaults: those of `SSD`; of the paper only the abstract was read.

    Known failures: as of `SSD`: Ω(D_f)/Ω(D) is at most |D|/|D_f| for means over samples, though not of batches, so that
    α 10 selects next to nothing where a tenth of the data or more is forgotten; in digits-all every accuracy stayed
    that of the original. Without the square ratios tend to be smaller, so that the same α selects less than there.
    """

    paper: ClassVar[str] = "Foster et al. 2024, Loss-Free Machine Unlearning, 2402.19308"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN
    full_precision: ClassVar[bool] = True  # gradients of the length of the outputs, in a quotient
    toy: ClassVar[dict[str, Any]] = {"alpha": 1.25, "lam": 0.3}

    alpha: Annotated[Positive, LogUniform(1, 100)] = 10.0
    lam: Annotated[Positive, LogUniform(0.1, 5)] = 1.0
    batch_size: Annotated[Count, Choice((16, 32, 64, 128, 256))] = 64

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        def sensitivity(samples: Samples) -> dict[str, Tensor]:
            batches = samples.batches(self.batch_size, shuffle=False, augment=False)
            return importance(model, (model(x).square().sum(1).mean() for (x,) in batches), torch.abs)

        model.eval()
        everything = task.retain.replace(torch.cat([task.retain.images(), task.forget.images()]))
        return dampen(model, sensitivity(task.forget), sensitivity(everything), self.alpha, self.lam)
