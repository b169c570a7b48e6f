"""Target: a training step through the harness takes at most 3% longer than in a bare loop on the same tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data.datasets import default_root
from unlearnbench.data.tensors import Counter, Samples
from unlearnbench.plan.cells import Plugin, Recipe
from unlearnbench.plan.recipes import RECIPES
from unlearnbench.runs.runner import load_data
from unlearnbench.training.cost import count_work
from unlearnbench.training.loop import train
from unlearnbench.training.models import CNN, build_model


def bare(model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    model.train()
    for _ in range(recipe.epochs):
        for index in torch.randperm(len(x)).to(x.device).split(recipe.batch_size):
            loss = F.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def harness(model: nn.Module, x: Tensor, y: Tensor, recipe: Recipe) -> None:
    """As `runner.load_original` does it, counting gradients."""
    counter = Counter()
    count_work(model, counter)
    train(model, Samples(x, y, 0, None, counter), recipe)


@pytest.mark.parametrize("size", ["digits", "mnist"])
def bench_step(compare: Callable[..., None], device: torch.device, size: str) -> None:
    x, y, epochs = digits(device) if size == "digits" else of_mnist_size(device)
    recipe = dataclasses.replace(RECIPES["camu"], epochs=epochs)

    def prepare() -> tuple[nn.Module, Tensor, Tensor, Recipe]:
        channels, height, width = x.shape[1:]
        return build_model(CNN(), (channels, height, width), 10, seed=0).to(device), x, y, recipe

    compare(f"training step, {size}: harness / bare loop", harness, bare, prepare, target="at most 1.03")


def digits(device: torch.device) -> tuple[Tensor, Tensor, int]:
    data = load_data(Plugin("digits"), default_root(), device)
    return data.x_train, data.y_train, 6


def of_mnist_size(device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Noise: what is in an image does not change how long a step takes."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(3200, 1, 28, 28, generator=rng), torch.randint(10, (3200,), generator=rng)
    return x.to(device), y.to(device), 1
