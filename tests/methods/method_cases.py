"""What the tests of methods share: a network and a task small enough for a few plain lines to be held against them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data.split import Split, make_split
from unlearnbench.data.tensors import Counter, Data
from unlearnbench.plan.cells import Cell, Plugin, Recipe
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Method
from unlearnbench.training.models import Classifier
from unlearnbench.training.originals import keep
from unlearnbench.training.task import Task

CLASS = ("class", {"classes": [0]})
RANDOM = ("random", {"fraction": 0.25})


def double(data: Data) -> Data:
    return replace(data, x_train=data.x_train.double(), x_test=data.x_test.double())


def split_of(data: Data, scenario: tuple[str, dict[str, Any]] = CLASS) -> Split:
    return make_split(build("scenarios", *scenario), data.y_train.numpy(), len(data.y_test), 0)


def task_of(
    method: Method, data: Data, split: Split, *, seed: int = 0, model: Plugin = Plugin("cnn"), recipe: Recipe = Recipe()
) -> Task:
    """The task of a method on ``data``. Statistics of representations, if it declares them, are those of `network`."""
    cell = Cell(Plugin("toy"), model, recipe, Plugin("toy"), Plugin("toy"), 0, seed)
    records = keep(method.needs, cell, data, split, network(), None, lambda make: make())
    return Task.of(cell, data, split, method.needs, Counter(), records)


def network(*, norm: bool = False, dtype: torch.dtype = torch.float64) -> Classifier:
    """A small classifier of 8x8 images with a representation of six features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Conv2d(1, 3, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(27, 6)]
        if norm:
            layers.insert(1, nn.BatchNorm2d(3))
        return Classifier(nn.Sequential(*layers), nn.Linear(6, 3), 3).to(dtype).eval()


def knowing(data: Data, *, norm: bool = False) -> Classifier:
    """`network`, trained until it knows most of the data."""
    model = network(norm=norm)
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(15):
        plain_step(adam, F.cross_entropy(model(data.x_train), data.y_train))
    return model


def plain_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def parts(count: int, size: int, most: int = 1000) -> list[slice]:
    """Batches of ``size`` in order, of ``count`` samples; the first ``most`` of them."""
    return [slice(start, start + size) for start in range(0, count, size)][:most]


def assert_same_parameters(one: nn.Module, other: nn.Module) -> None:
    expected = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-7, atol=1e-9, msg=name)


def sets_of(data: Data, split: Split) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to forget, then those to retain, in order."""
    f, r = split.forget, split.retain
    return data.x_train[f], data.y_train[f], data.x_train[r], data.y_train[r]


def gradients(model: Classifier, loss: Tensor) -> dict[str, Tensor]:
    """Of each parameter by name."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
