"""A toy problem, and one application of a method to it: the ground on which conformance is checked."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from unlearnbench.data.split import Split, make_split
from unlearnbench.data.tensors import Counter, Data
from unlearnbench.plan import registry
from unlearnbench.plan.cells import Cell, Plugin, Recipe
from unlearnbench.plan.spec import Access, Method
from unlearnbench.training.loop import precision_for, predict, train
from unlearnbench.training.models import Classifier, check_same_architecture
from unlearnbench.training.originals import fresh_network, keep, trainee
from unlearnbench.training.task import Task

TRAINING = Access.TRAINING | Access.LABELS  # what a method sees that trains an original of its own


@dataclass(frozen=True)
class Toy:
    """A small problem: its data, a trained original, and the oracle's accuracy on the forget set, in percent."""

    cell: Cell
    data: Data
    split: Split
    original: Classifier
    oracle_forget: float

    @property
    def in_half(self) -> Toy:
        """The same, with a recipe in bfloat16."""
        return replace(self, cell=replace(self.cell, recipe=replace(self.cell.recipe, precision="bfloat16")))

    @property
    def sets(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Images and labels of every set of samples by name, the test set included."""
        data, split = self.data, self.split
        return {
            "forget": (data.x_train[split.forget], data.y_train[split.forget]),
            "retain": (data.x_train[split.retain], data.y_train[split.retain]),
            "validation": (data.x_validation.clone(), data.y_validation),
            "test": (data.x_test.clone(), data.y_test),
        }

    def accuracy(self, model: nn.Module, part: str) -> float:
        """Percent of ``"forget"``, ``"retain"`` or another of `sets` that ``model`` has right."""
        x, y = self.sets[part]
        return 100 * (predict(model, x).argmax(1) == y).double().mean().item()


@dataclass(frozen=True)
class Trial:
    """One application of a method: what went in (``before`` is its state then), what came out, and what else was
    changed by it on the way."""

    method: Method
    toy: Toy
    original: nn.Module
    before: dict[str, Tensor]
    task: Task
    unlearned: nn.Module
    disturbed: tuple[str, ...]
    data: Data  # what all of it lay in, a copy of the toy's


@functools.cache
def make_toy(scenario: str) -> Toy:
    """Noisy 8x8 images of four classes. One quadrant is bright; none is in class 0, which so lies among the others.

    Where class 0 is forgotten the classes are separable. Elsewhere they overlap, because original and oracle differ
    only on samples that have to be learnt by heart.
    """
    separable = scenario == "class"
    brightness, epochs = (1.2, 3) if separable else (0.3, 15)
    quadrants = torch.zeros(4, 1, 8, 8)
    for c in range(1, 4):
        quadrants[c, :, 4 * (c // 2) :, 4 * (c % 2) :][:, :4, :4] = brightness
    rng = torch.Generator().manual_seed(0)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        y = torch.randperm(n, generator=rng) % 4
        return quadrants[y] + torch.randn(n, 1, 8, 8, generator=rng), y

    data = Data(*draw(400), *draw(100), *draw(100), num_classes=4, fingerprint="toy", source="toy")
    rule = registry.build("scenarios", scenario, {"classes": [0]} if separable else {})
    split = make_split(rule, data.y_train.numpy(), len(data.y_test), split_seed=0)
    recipe = Recipe(epochs=epochs)
    network = registry.build("models", "cnn", {})
    cell = Cell(Plugin("toy"), Plugin.of("cnn", network), recipe, Plugin.of(scenario, rule), Plugin("toy"), 0, 0)

    def trained(seen: np.ndarray | None) -> Classifier:
        model, samples = trainee(cell, data, seen, Counter())
        train(model, samples, recipe)
        return model.eval()

    toy = Toy(cell, data, split, trained(None), 0.0)
    return replace(toy, oracle_forget=toy.accuracy(trained(split.retain), "forget"))


def attempt(method: Method, toy: Toy | None = None) -> Trial:
    """Apply a method as the harness does. Whatever it disturbs is put right afterwards, and reported.

    Raises UnlearnBenchError where it prepares, or brings, a network of another architecture than it should.
    """
    toy = toy or make_toy("class" if method.scenarios is None or "class" in method.scenarios else method.scenarios[0])
    data, original, name = deepcopy(toy.data), cast(nn.Module, deepcopy(toy.original)), type(method).__name__
    precision = precision_for(method, toy.cell.recipe, data.x_train.device)
    with undisturbed() as disturbed:
        if Access.TRAINING in method.needs:
            unknown = replace(toy.split, forget=toy.split.forget[:0], forget_classes=())
            training = Task.of(toy.cell, data, unknown, TRAINING, Counter())
            with precision:
                own = method.original(training)
            original = loaded(own, method.blank(training), f"{name}.original")
        records = keep(method.needs, toy.cell, data, toy.split, original, None, lambda make: make())
        task = Task.of(toy.cell, data, toy.split, method.needs, Counter(), records)
        before = deepcopy(original.state_dict())
        with precision:
            prepared = method.prepare(task)
        if prepared is not None:
            task.prepared = loaded(prepared, fresh_network(toy.cell, data, 0), f"{name}.prepare")
        with precision:
            unlearned = method.unlearn(deepcopy(original), task)
    return Trial(method, toy, original, before, task, unlearned, tuple(disturbed), data)


def loaded(network: nn.Module, blank: nn.Module, whose: str) -> nn.Module:
    """``blank`` with the weights of ``network``, as if these had come from storage."""
    check_same_architecture(network, blank, whose)
    blank.load_state_dict(network.state_dict())
    return blank.eval()


STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's global generator": (torch.get_rng_state, torch.set_rng_state),
    "numpy's global generator": (np.random.get_state, np.random.set_state),
    "random's global generator": (random.getstate, random.setstate),
    "gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    **{
        f"torch.backends.cudnn.{flag}": (
            functools.partial(getattr, torch.backends.cudnn, flag),
            functools.partial(setattr, torch.backends.cudnn, flag),
        )
        for flag in ("enabled", "benchmark", "deterministic")
    },
}


@contextmanager
def undisturbed() -> Iterator[list[str]]:
    """Gives a list that afterwards names what was changed of `STATE`; all of it is restored."""
    before = {name: get() for name, (get, _) in STATE.items()}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for name, (get, put) in STATE.items():
            if not _same(get(), before[name]):
                changed.append(name)
                put(before[name])


def _same(a: Any, b: Any) -> bool:
    return all(map(_same, a, b)) if isinstance(a, tuple) else bool(np.array_equal(a, b))
