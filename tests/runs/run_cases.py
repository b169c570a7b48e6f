"""What the tests of runs share: cells on 120 digits, methods that do nothing, a reporter that remembers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from unlearnbench.plan.cells import Cell, Plugin, Probe, Row
from unlearnbench.plan.recipes import RECIPES
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Access, Method
from unlearnbench.runs.runner import run_cell
from unlearnbench.store import roster
from unlearnbench.store.folder import Store
from unlearnbench.training.task import Task

CPU = torch.device("cpu")
DIGITS = Plugin.of("digits", build("datasets", "digits", {"limit_train": 120, "limit_test": 60}))
KINDS: tuple[roster.Kind, ...] = ("originals", "oracles", "unlearned", "shadow_originals", "shadows")
PROBE = Probe(relearn_every=5, relearn_points=2, relearn_cap=20, relearn_epochs=3)


def plugin(kind: str, name: str, **params: Any) -> Plugin:
    return Plugin.of(name, build(kind, name, params))


def cell(method: str = "identity", seed: int = 0, scenario: str = "random", model: str = "cnn", **params: Any) -> Cell:
    return Cell(
        DIGITS, plugin("models", model), replace(RECIPES["camu"], epochs=1), plugin("scenarios", scenario),
        plugin("methods", method, **params), seed, seed, PROBE,
    )  # fmt: skip


def run(one: Cell, store: Store) -> Row:
    return run_cell(one, store, store.root / "data", CPU)


RECIPE = replace(RECIPES["camu"], epochs=1)
CELL = Cell(DIGITS, plugin("models", "cnn"), RECIPE, plugin("scenarios", "random"), plugin("methods", "identity"), 0, 0)
CLASS = replace(CELL, scenario=plugin("scenarios", "class", classes=[0]))


@dataclass(frozen=True)
class Toy(Method):
    """Leaves the model as it is: the base of methods that do one thing."""

    paper: ClassVar[str] = "none"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return model


@dataclass(frozen=True)
class ClassOnly(Toy):
    scenarios: ClassVar[tuple[str, ...]] = ("class",)


class Log:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.total, self.begun, self.ended, self.said = -1, list[str](), list[tuple[str, str]](), list[str]()

    def start(self, total: int) -> None:
        self.total = total

    def say(self, message: str) -> None:
        self.said.append(message)

    def begin(self, name: str) -> None:
        self.begun.append(name)

    def end(self, name: str, status: str, seconds: float) -> None:
        self.ended.append((name, status))
