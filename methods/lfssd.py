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

    Code read: https://github.com/if-loops/selective-synaptic-dampening, README.md, which says what to change in its
    SSD, and src/datasets.py at cdfdc0e; that change is made in https://github.com/jwf40/Information-Theoretic-Unlearning,
    src/lipschitz.py (calc_importance) at f207655, by the same authors.

    Held against: ssd_tuning of src/forget_full_class_strategies.py and of src/forget_random_strategies.py with
    ParameterPerturber of src/ssd.py at cdfdc0e, its calc_importance from lipschitz.py at f207655, whole run, float64,
    with and without BatchNorm: 1e-16. Patched: D_r in our order, because theirs is sorted by labels where a class is
    forgotten; a name in the second that hides a module; no evaluation afterwards.

    Differences: without labels D_r is taken as it comes, also where a class is forgotten; in the authors' scripts for
    SSD it comes class by class, which makes Ω(D_r ∪ D_f) larger on the whole, so that fewer weights are selected. The
    authors augment neither D_f nor D_r, nor do we.

    Defaults: those of `SSD`: the README names no others, and of the paper only the abstract was read.

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
