"""The one training loop. Recipes are data; originals, oracles and methods that fine-tune all come through here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data.tensors import Samples
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.spec import Method, UnlearnBenchError


class Diverged(UnlearnBenchError):
    """A training whose loss became infinite or NaN."""


def precision(recipe: Recipe, device: torch.device) -> AbstractContextManager[None]:
    """What the networks of a recipe run in: a context of autocast to bfloat16 where it says so; elsewhere whatever
    holds outside, so that a method that fine-tunes with a recipe of its own does so in the precision of its cell.

    Weights are cast anew in each forward pass. A cast that is kept would be that of the first of many steps.
    """
    if recipe.precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return nullcontext()


def precision_for(method: Method, recipe: Recipe, device: torch.device) -> AbstractContextManager[None]:
    """What a method runs in: the precision of the recipe, as originals and oracles do, unless it declares otherwise."""
    return nullcontext() if method.full_precision else precision(recipe, device)


def train(model: nn.Module, samples: Samples, recipe: Recipe) -> nn.Module:
    """Minimise the cross-entropy of ``model`` on ``samples``, in place; returns ``model`` in train mode.

    Raises Diverged at the end of the epoch in which the loss stopped being finite.
    """
    device = samples.device
    optimizer = make_optimizer(
        model.parameters(), recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay, nesterov=recipe.nesterov
    )
    forward = torch.compile(model) if recipe.compile else model
    single = torch.autocast(device.type, enabled=False)
    steps, step = recipe.epochs * math.ceil(len(samples) / recipe.batch_size), 0
    model.train()
    for epoch in range(recipe.epochs):
        losses = []
        for images, labels in samples.batches(recipe.batch_size):
            if recipe.schedule != "constant":
                optimizer.param_groups[0]["lr"] = recipe.lr * schedule(recipe.schedule, step / steps)
            with precision(recipe, device):
                loss = F.cross_entropy(forward(images), labels, label_smoothing=recipe.label_smoothing)
            with single:  # a method may call this from within such a context; gradients keep each to its own precision
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses.append(loss.detach())
            step += 1
        total = torch.stack(losses).sum().item()  # once an epoch: reading it makes a GPU wait
        if not math.isfinite(total):
            raise Diverged(f"the loss became {total} in epoch {epoch + 1} of {recipe.epochs}: lower lr={recipe.lr}")
    return model


def make_optimizer(
    params: Iterable[Tensor], kind: str, lr: float, momentum: float = 0.0, weight_decay: float = 0.0,
    *, nesterov: bool = False
) -> torch.optim.Optimizer:  # fmt: skip
    """``"adam"``, ``"adamw"`` or ``"sgd"``, fused: one kernel for all parameters instead of several for each."""
    if kind in ("adam", "adamw"):
        adam = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
        return adam(params, lr=lr, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True)


def schedule(kind: str, progress: float) -> float:
    """Factor on the learning rate at ``progress`` in [0, 1) of the training."""
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if kind == "one_cycle":  # linear up over the first fifth, linear down to zero
        return progress / 0.2 if progress < 0.2 else (1 - progress) / 0.8
    return 1.0


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Logits ``[n, num_classes]`` of ``x`` ``[n, C, H, W]`` in eval mode; the model's mode is restored."""
    mode = model.training
    model.eval()
    try:
        return torch.cat([model(part) for part in chunks(x)])
    finally:
        model.train(mode)


def chunks(x: Tensor) -> Sequence[Tensor]:
    """``x`` in parts of a size at which a forward pass is fast: what fits a processor's cache, or fills a GPU."""
    most, values = (1000, 10_000_000) if x.device.type == "cuda" else (2000, 100_000)
    return x.split(min(most, max(128, values // math.prod(x.shape[1:]))))
