"""Many networks of one architecture trained at once: stacked parameters, one optimizer, one backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from unlearnbench.data.tensors import Samples
from unlearnbench.plan.cells import Recipe
from unlearnbench.training.loop import Diverged, make_optimizer, precision, schedule


def train_stacked(models: Sequence[nn.Module], samples: Sequence[Samples], recipe: Recipe) -> None:
    """Train each model on its own samples, in place, as `loop.train` would one by one: the same orders, augmented
    images and updates up to rounding. All sets have the same size; layers that draw, such as dropout, draw anew for
    each model.

    Raises Diverged at the end of the epoch in which the loss of a model stopped being finite.
    """
    device = samples[0].device
    parameters, buffers = stack_module_state(list(models))
    skeleton = deepcopy(models[0]).to("meta").train()
    optimizer = make_optimizer(
        parameters.values(), recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay, nesterov=recipe.nesterov
    )

    def loss_of(own: dict[str, Tensor], state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(skeleton, (own, state), (x,))
        return F.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)

    losses_of = vmap(loss_of, randomness="different")
    steps, step = recipe.epochs * math.ceil(len(samples[0]) / recipe.batch_size), 0
    for epoch in range(recipe.epochs):
        total = torch.zeros(len(models), device=device)
        for batches in zip(*(s.batches(recipe.batch_size) for s in samples), strict=True):
            x, y = (torch.stack(column) for column in zip(*batches, strict=True))
            if recipe.schedule != "constant":
                optimizer.param_groups[0]["lr"] = recipe.lr * schedule(recipe.schedule, step / steps)
            with precision(recipe, device):
                losses = losses_of(parameters, buffers, x, y)
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            total += losses.detach()
            step += 1
        if not torch.isfinite(total).all():  # once an epoch: reading it makes a GPU wait
            raise Diverged(f"a loss became infinite in epoch {epoch + 1} of {recipe.epochs}: lower lr={recipe.lr}")
    with torch.no_grad():
        for i, model in enumerate(models):
            model.load_state_dict({name: tensor[i] for name, tensor in (parameters | buffers).items()})
