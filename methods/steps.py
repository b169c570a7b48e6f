"""Steps that several methods share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench import Samples, Task, predict


def frozen(model: nn.Module) -> nn.Module:
    """A copy in eval mode that cannot change: a teacher."""
    return deepcopy(model).eval().requires_grad_(False)


def other_labels(y: Tensor, num_classes: int, rng: torch.Generator) -> Tensor:
    """Labels drawn uniformly from the classes other than ``y`` (int64 ``[n]``)."""
    shift = torch.randint(1, num_classes, y.shape, generator=rng, device=y.device)
    return (y + shift) % num_classes


def any_labels(y: Tensor, num_classes: int, rng: torch.Generator) -> Tensor:
    """Labels drawn uniformly from all classes, the true one among them (int64 ``[n]``)."""
    return torch.randint(num_classes, y.shape, generator=rng, device=y.device)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, clip: float | None = None) -> None:
    """One step down ``loss``; ``clip`` is the largest norm of the gradient of all parameters together.

    Each gradient is computed in the precision of what it is the gradient of, as in `train`.
    """
    with torch.autocast(loss.device.type, enabled=False):
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
        optimizer.step()


def endless(samples: Samples, size: int, *, augment: bool = True) -> Iterator[tuple[Tensor, ...]]:
    """Batches of one pass after another."""
    while True:
        yield from samples.batches(size, augment=augment)


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) of the softmax of logits ``[n, classes]`` divided by ``temperature``, mean over the batch,
    without the factor T²."""
    log_p, log_q = F.log_softmax(teacher / temperature, dim=1), F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in the precision of the two: in bfloat16 a scalar product of unit vectors has three digits."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


def weight_layers(model: nn.Module) -> Sequence[nn.Module]:
    """Convolutions and linear layers, from the input to the output as the modules are registered."""
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def mean_gradient(model: nn.Module, samples: Samples, batch_size: int) -> dict[str, Tensor]:
    """Gradient of the mean cross-entropy on ``samples`` (with labels) for each parameter, in the model's own mode."""
    model.zero_grad()
    for x, y in samples.batches(batch_size, shuffle=False, augment=False):
        (F.cross_entropy(model(x), y, reduction="sum") / len(samples)).backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    return found


@torch.no_grad()
def reset_layer(layer: nn.Module, rng: torch.Generator) -> None:
    """PyTorch's default initialisation of a convolution or linear layer: U(-b, b) with b = 1/√fan_in, bias included."""
    bound = next(layer.parameters())[0].numel() ** -0.5
    for parameter in layer.parameters(recurse=False):
        parameter.uniform_(-bound, bound, generator=rng)


@torch.no_grad()
def add_noise(parameter: Tensor, sigma: float, rng: torch.Generator) -> None:
    """Add independent normal noise of standard deviation ``sigma`` in place."""
    parameter += sigma * torch.randn(parameter.shape, generator=rng, device=parameter.device, dtype=parameter.dtype)


def mixture(task: Task, retain_share: float) -> tuple[Samples, Tensor]:
    """D_f and a uniform sample of D_r as one set without labels, and which of it is D_f (bool ``[n]``)."""
    retain = task.retain.take(int(retain_share * len(task.retain)))
    x = torch.cat([task.forget.images(), retain.images()])
    return task.forget.replace(x), torch.arange(len(x), device=x.device) < len(task.forget)


def accuracy(model: nn.Module, samples: Samples) -> float:
    """Share of ``samples`` that ``model`` has right, in eval mode."""
    return (predict(model, samples.images()).argmax(1) == samples.labels).double().mean().item()


# --- steps on images --------------------------------------------------------------------------------------------------


def pixel_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """What pixels of value 0 and 1 became by normalisation: the smallest value of each channel of ``x``, and how far
    the largest is from it, each ``[1, C, 1, 1]``."""
    low = x.amin((0, 2, 3), keepdim=True)
    return low, (x.amax((0, 2, 3), keepdim=True) - low).clamp(min=1e-6)


@torch.no_grad()
def nearest_other(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The most likely class of each of ``x`` other than ``y``."""
    return model(x).scatter(1, y[:, None], -torch.inf).argmax(1)


def unit_gradient(model: nn.Module, x: Tensor, y: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of each sample's cross-entropy by its pixels from 0 to 1, of length 1; and the logits."""
    x = x.detach().clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    gradient = gradient * span
    length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
    return gradient / length[:, None, None, None], logits.detach()


def within(x: Tensor, centre: Tensor, radius: float) -> Tensor:
    """Pixels from 0 to 1 in the L2 ball around ``centre``: what is outside comes back to its surface."""
    away = x - centre
    length = away.flatten(1).norm(dim=1)[:, None, None, None]
    return (centre + away * (radius / length.clamp(min=radius))).clamp(0, 1)
