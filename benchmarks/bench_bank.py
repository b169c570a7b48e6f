"""Target: a stack trains models no slower than one by one on the CPU, and 10 times as fast at 64 on a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from torch import Tensor

from unlearnbench.data.datasets import default_root
from unlearnbench.data.tensors import Counter, Samples, augmentation
from unlearnbench.plan.cells import Plugin, Recipe
from unlearnbench.plan.recipes import RECIPES
from unlearnbench.plan.registry import build
from unlearnbench.runs.runner import load_data
from unlearnbench.training.loop import train
from unlearnbench.training.models import Classifier, build_model
from unlearnbench.training.stacking import train_stacked

TARGET = "at least 10" if torch.cuda.is_available() else "at least 1"
Stack = tuple[list[Classifier], list[Samples], Recipe]


def one_by_one(models: list[Classifier], samples: list[Samples], recipe: Recipe) -> None:
    for model, some in zip(models, samples, strict=True):
        train(model, some, recipe)


def stack(model: str, count: int, x: Tensor, y: Tensor, recipe: Recipe) -> Stack:
    """``count`` networks with an order of its own for each, on the same images."""
    shape = (x.shape[1], x.shape[2], x.shape[3])
    first = build_model(build("models", model, {}), shape, 10, 0).to(x.device)
    models = [deepcopy(first) for _ in range(count)]
    return models, [Samples(x, y, seed, augmentation(recipe), Counter()) for seed in range(count)], recipe


# One epoch of the recipe's twenty: all are the same work.
RECIPE = replace(RECIPES["camu"], epochs=1)


@pytest.mark.parametrize("count", [8, 32, 64])
def bench_stack(compare: Callable[..., None], device: torch.device, count: int) -> None:
    if count > 32 and device.type == "cpu":
        pytest.skip("on the CPU 32 go into a stack: 64 are two processes' work, below")
    data = load_data(Plugin("digits"), default_root(), device)
    compare(
        f"{count} CNNs, an epoch of digits: one by one / stacked",
        one_by_one,
        train_stacked,
        lambda: stack("cnn", count, data.x_train, data.y_train, RECIPE),
        target=TARGET if count == 64 or device.type == "cpu" else "no target",
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="ResNet-9 at full width takes a GPU")
@pytest.mark.parametrize("count", [8, 32, 64])
def bench_resnet9(compare: Callable[..., None], device: torch.device, count: int) -> None:
    """Noise of CIFAR-10's size: what is in an image does not change how long a step takes."""
    x, y = torch.randn(2560, 3, 32, 32, device=device), torch.randint(10, (2560,), device=device)
    compare(
        f"{count} ResNet-9 of recipe fast, 5 steps: one by one / stacked",
        one_by_one,
        train_stacked,
        lambda: stack("resnet9", count, x, y, replace(RECIPES["fast"], epochs=1)),
        target=TARGET if count == 64 else "no target",
    )


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core only")
def bench_two_processes(compare: Callable[..., None]) -> None:
    """As banks are made on the CPU. The round that warms up starts the processes; they stay for the others."""
    data = load_data(Plugin("digits"), default_root(), torch.device("cpu"))

    def singly(models: list[Classifier], samples: list[Samples], recipe: Recipe) -> None:
        spread([delayed(train)(model, some, recipe) for model, some in zip(models, samples, strict=True)])

    def stacked(models: list[Classifier], samples: list[Samples], recipe: Recipe) -> None:
        spread([delayed(train_stacked)(models[i::2], samples[i::2], recipe) for i in range(2)])

    compare(
        "64 CNNs, an epoch of digits, in two processes: one by one / stacks of 32",
        singly,
        stacked,
        lambda: stack("cnn", 64, data.x_train, data.y_train, RECIPE),
        target="at least 1",
    )


def spread(tasks: list[Any]) -> None:
    """Over two processes; each is sent its half at once."""
    with parallel_config("loky", inner_max_num_threads=1):
        Parallel(2, batch_size=len(tasks) // 2, pre_dispatch="all")(tasks)
