"""Conformance: data that a method did not declare is found wherever it hides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import pytest
import torch
from torch import nn
from unlearnbench_methods.finetune import FineTune
from unlearnbench_methods.gradient_ascent import GradientAscent
from unlearnbench_methods.identity import Identity

from unlearnbench.authors import conformance
from unlearnbench.authors.toy import Trial, attempt, make_toy
from unlearnbench.plan.spec import Access, Method
from unlearnbench.training.task import Task


class Holder:
    def __init__(self, value: object) -> None:
        self.value = value

    def method(self) -> object:
        return self.value


def closure(value: object) -> Callable[[], object]:
    return lambda: value


def default(value: object) -> Callable[[], object]:
    def function(held: object = value) -> object:
        return held

    return function


def module(value: torch.Tensor) -> nn.Module:
    network = nn.Module()
    network.register_buffer("held", value)
    return network


HIDE: dict[str, Callable[[torch.Tensor], object]] = {
    "itself": lambda x: x,
    "a list in a dict": lambda x: {"a": [x]},
    "an attribute": Holder,
    "a bound method": lambda x: Holder(x).method,
    "a closure": closure,
    "a default value": default,
    "a partial": lambda x: partial(max, x),
    "a view of it": lambda x: x[:0],
    "an array": lambda x: x.numpy(),
    "a view of an array": lambda x: x.numpy()[:0],
    "a module's buffer": module,
    "a generator": lambda x: (row for row in [x]),
}


def leaky(method: Method, secret: object) -> Trial:
    trial = attempt(method)
    trial.task._secret = secret  # type: ignore[attr-defined]
    return trial


@pytest.mark.parametrize("how", HIDE)
@pytest.mark.parametrize("name", ["retain", "validation", "test"])
def test_undeclared_samples_are_found_wherever_they_hide(how: str, name: str) -> None:
    x, _ = make_toy("class").sets[name]
    trial = leaky(GradientAscent(epochs=1), HIDE[how](x[-1:].clone()))  # one single image
    assert conformance.only_declared_data(trial) == f"samples of the {name} set can be reached from the task"


@pytest.mark.parametrize("how", HIDE)
def test_undeclared_labels_are_found_wherever_they_hide(how: str) -> None:
    _, y = make_toy("class").sets["retain"]
    trial = leaky(Identity(), HIDE[how](y[20:60].clone()))
    assert conformance.only_declared_data(trial) == "labels of the retain set can be reached from the task"


def test_labels_of_declared_samples_are_found() -> None:
    @dataclass(frozen=True)
    class NoLabels(Identity):
        needs: ClassVar[Access] = Access.FORGET | Access.RETAIN

    trial = attempt(NoLabels())
    assert conformance.only_declared_data(trial) == ""
    trial.task.retain._y = make_toy("class").sets["retain"][1]
    assert conformance.only_declared_data(trial) == "labels of the retain set can be reached from the task"


def test_declared_data_may_be_held_anywhere() -> None:
    x, y = make_toy("class").sets["retain"]
    assert conformance.only_declared_data(leaky(FineTune(epochs=1), [x, y])) == ""


def test_a_task_that_gives_what_was_not_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Access.FORGET | Access.RETAIN | Access.LABELS
    trial = attempt(FineTune(epochs=1))
    task = Task.of(trial.toy.cell, trial.toy.data, trial.toy.split, everything, trial.task.counter)
    assert conformance.only_declared_data(replace(trial, task=task)).startswith("task.forget was given")


def test_a_set_that_is_a_view_of_the_whole_dataset() -> None:
    trial = attempt(GradientAscent(epochs=1))
    everything = trial.toy.data.x_train.clone()
    trial.task._sets["forget"]._x = everything[:5]
    assert conformance.only_declared_data(trial) == "samples of the retain set can be reached from the task"
