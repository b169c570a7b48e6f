"""Fisher forgetting: noise on the weights, the more the less the retain set depends on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.steps import weight_layers

from unlearnbench import Access, Count, LogUniform, Method, Positive, Published, Samples, Task


@dataclass(frozen=True)
class Fisher(Method):
    """Fisher forgetting: Gaussian noise on each weight, with a variance inverse to its Fisher information on D_r.

    Objective: none is minimised. F = mean over x in D_r of Σ_y p(y | x; θo)·(∇ -log p(y | x; θo))², element by element;
    θ = θo + N(0, v), v = α·min(1 / (F + 1e-8), 1e3), averaged over the inputs of a unit (dimension 1 of the tensor). In
    the last layer the limit is 1e2; there, and in biases and BatchNorm, v is multiplied by 10. Of a forgotten class the
    last layer's weights and bias become N(0, 1e-3).

    Code read: https://github.com/AdityaGolatkar/SelectiveForgetting, Forgetting.ipynb at 4c02825, and the copy of it in
    https://github.com/if-loops/selective-synaptic-dampening, src/forget_full_class_strategies.py at cdfdc0e.

    Held against: hessian and get_mean_var of Forgetting.ipynb (cells 73, 75, 78) at 4c02825, whole run, float64, 60
    samples, with and without BatchNorm, samples at random and a class: 4e-16. Patched: the noise drawn is ours.

    Differences: the code takes every tensor whose first dimension is the number of classes for the last layer; ours is
    the last linear layer. It averages over all of D_r, 475 samples there; ours are the first ``samples``, because each
    takes as many backward passes as there are classes. Nothing is augmented, there or here.

    Defaults: α of the notebook; its function says 3e-6 and its scan goes from 1e-8 to 1e-5. ``samples`` is ours.

    Known failures: noise hits D_r as much as a D_f drawn at random: forgetting is paid for with utility. A forgotten
    class goes by its erased row, whatever the noise. Above some α the network is destroyed at once.
    """

    paper: ClassVar[str] = "Golatkar et al. 2020, Eternal Sunshine of the Spotless Net, 1911.04933"
    needs: ClassVar[Access] = Access.RETAIN
    full_precision: ClassVar[bool] = True  # squares of single samples' gradients, and one over them
    toy: ClassVar[dict[str, Any]] = {}
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            "small-cifar5",
            "random",
            {"samples": 475},
            "Forgetting.ipynb at 4c02825, cells 9-10 and 78: 25 of the 100 images of a class, ResNet of width .4",
        ),
    )

    alpha: Annotated[Positive, LogUniform(1e-9, 1e-4)] = 1e-6
    samples: Count = 250

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        last = list(weight_layers(model)[-1].parameters())
        forgotten = list(task.forget_classes)
        rng = task.generator("noise")
        information = fisher(model.eval(), task.retain.take(self.samples))
        with torch.no_grad():
            for parameter, known in zip(model.parameters(), information, strict=True):
                head = any(parameter is p for p in last)
                variance = self.alpha * (1 / (known + 1e-8)).clamp(max=1e2 if head else 1e3)
                if parameter.ndim > 1:
                    variance = variance.mean(1, keepdim=True).expand_as(parameter).clone()
                if head:
                    parameter[forgotten], variance[forgotten] = 0.0, 1e-4  # times 10 below: 1e-3
                if head or parameter.ndim == 1:
                    variance *= 10
                noise = torch.randn(parameter.shape, generator=rng, device=rng.device, dtype=parameter.dtype)
                parameter.add_(variance.sqrt() * noise)
        return model


def fisher(model: nn.Module, samples: Samples) -> list[Tensor]:
    """Diagonal of the Fisher information of each parameter, the labels drawn from the model's own predictions."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for x, *_ in samples.batches(1, shuffle=False, augment=False):
        log_p = F.log_softmax(model(x), dim=1)[0]
        for y, weight in enumerate(log_p.detach().exp().sqrt()):
            gradients = torch.autograd.grad(weight * log_p[y], parameters, retain_graph=True, materialize_grads=True)
            for sum_, gradient in zip(total, gradients, strict=True):
                sum_.addcmul_(gradient, gradient)
    return [sum_ / len(samples) for sum_ in total]
