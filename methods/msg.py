"""MSG: re-initialise the convolution weights on which forget and retain gradients agree, then fine-tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.steps import mean_gradient

from unlearnbench import (
    Access,
    Count,
    Fraction,
    LogUniform,
    Method,
    NonNegative,
    Positive,
    Task,
    Uniform,
    make_optimizer,
)


@dataclass(frozen=True)
class MSG(Method):
    """Masked Small Gradients: weights that would relearn the forget set while the retain set is trained are drawn anew.

    Objective: of each convolution's weights the ``share`` with the smallest |∇CE(R; θo) - ∇CE(D_f; θo)| get He
    initialisation (normal, fan out, ReLU); R is a uniform sample of D_r as large as D_f. Then SGD with momentum
    minimises CE(D_r; θ), where the gradient of the convolution weights that were not drawn anew is multiplied by
    ``scale`` (weight decay and all other parameters are not). In epoch e = 1 ... E the learning rate is lr · e/W up to
    W = ⌊(E + 1)/2⌋ and lr · (E + 1 - e)/(E + 1 - W) after it.

    Code read: only in a port: https://github.com/xcadet/deepunlearn, munl/unlearning/kgltop2.py at 6830ff6. The
    authors' write-up (kaggle.com/c/neurips-2023-machine-unlearning/discussion/459200) was read; the notebook was not.

    Held against: KGLTop2.unlearn of the port at 6830ff6, whole run of 5 epochs, float64, a network with BatchNorm, a
    class and random samples forgotten, the gradients in eval and in train mode, in one batch and in several of equal
    size: 2e-16, BatchNorm's statistics 4e-16. Patched: the draws of R and of new weights, because they are random; the
    mask, because it is in single precision. The convolutions have no biases; for train mode ours was switched to it.

    Differences: the write-up calls the choice global; the code takes the share of each layer: followed. Gradients are
    means over the sets, not sums of the means of batches, which differ by the last, smaller batch (and in the port by
    the batch size of D_f). They are taken in eval mode: the challenge's template hands one network to 512 runs and the
    code leaves it in eval mode, so that there all but the first would be, too; the port's runs are in train mode, where
    BatchNorm has the statistics of the batch. Its new layers also lose the biases of convolutions, of which ResNet has
    none: kept here. The challenge's template and the port hand out images as they are: nothing is augmented there, nor
    here.

    Defaults: the authors' as the port gives them, for ResNet-18 and the challenge's faces (10 age groups), where random
    people were forgotten; ``share`` and ``scale`` also stand in the write-up. Batch 64 is the challenge's.

    Known failures: changes nothing beyond fine-tuning in a network without convolutions, and little where most weights
    are in linear layers: in digits-all, class-8, the small CNN still knew most of the forgotten class.
    """

    paper: ClassVar[str] = (
        "NeurIPS 2023 Machine Unlearning Challenge, 2nd of 7 winners (Kookmin: Lee, Bae, Kim); "
        "MSG in Cadet et al. 2024, Deep Unlearn, 2410.01276"
    )
    version: ClassVar[int] = 2
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"lr": 0.01, "batch_size": 16}

    lr: Annotated[Positive, LogUniform(1e-4, 1e-1)] = 1e-3
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-4
    batch_size: Count = 64
    epochs: Annotated[Count, LogUniform(1, 20)] = 5
    share: Annotated[Fraction, Uniform(0.0, 1.0)] = 0.3
    scale: Annotated[Fraction, LogUniform(0.01, 1.0)] = 0.1

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        scales = self.redraw(model.eval(), task)
        optimizer = make_optimizer(model.parameters(), "sgd", self.lr, self.momentum, self.weight_decay)
        model.train()
        for epoch in range(self.epochs):
            optimizer.param_groups[0]["lr"] = self.lr * warm_up_and_decay(epoch + 1, self.epochs)
            for x, y in task.retain.batches(self.batch_size, augment=False):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                for weight, scale in scales:
                    if weight.grad is not None:
                        weight.grad *= scale
                optimizer.step()
        return model

    def redraw(self, model: nn.Module, task: Task) -> list[tuple[Tensor, Tensor]]:
        """Draw the chosen weights anew. The weight of each convolution, and what to multiply its gradient by."""
        x, y = next(task.retain.batches(len(task.forget), augment=False))
        g_r = mean_gradient(model, task.retain.replace(x, y), self.batch_size)
        g_f = mean_gradient(model, task.forget, self.batch_size)
        rng, scales = task.generator("weights"), []
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d):
                size = (g_r[f"{name}.weight"] - g_f[f"{name}.weight"]).abs()
                smallest = size.flatten().topk(round(self.share * size.numel()), largest=False).indices
                chosen = torch.zeros(size.numel(), dtype=torch.bool, device=size.device)
                chosen[smallest] = True
                chosen = chosen.view(size.shape)
                new = nn.init.kaiming_normal_(torch.empty_like(size), 0, "fan_out", "relu", rng)
                with torch.no_grad():
                    layer.weight.copy_(torch.where(chosen, new, layer.weight))
                scales.append((layer.weight, torch.full_like(size, self.scale).masked_fill(chosen, 1.0)))
        return scales


def warm_up_and_decay(epoch: int, epochs: int) -> float:
    """Factor on the learning rate in epoch 1 ... ``epochs``."""
    warm = (epochs + 1) // 2
    return epoch / warm if epoch <= warm else (epochs + 1 - epoch) / (epochs + 1 - warm)
