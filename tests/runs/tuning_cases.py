"""What the tests of tuning share: a method to be searched, and what became of its trials."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import optuna
import pytest
import torch
from torch import nn

from unlearnbench.plan.spec import Access, Choice, Count, Fraction, LogUniform, Method, Uniform
from unlearnbench.runs import tuning
from unlearnbench.runs.tuning import Search
from unlearnbench.store.folder import Store
from unlearnbench.training.task import Task

LABELS = np.arange(400) % 10


@dataclass(frozen=True)
class Damage(Method):
    """Makes one class less likely by as much as it is told: none at all is nearest the oracle of a random request."""

    paper: ClassVar[str] = "none"
    needs: ClassVar[Access] = Access(0)

    amount: Annotated[float, Uniform(0, 50)] = 40.0
    times: Annotated[Count, LogUniform(1, 3)] = 1
    side: Annotated[str, Choice(("low", "high"))] = "low"
    untouched: Fraction = 0.5

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        assert isinstance(self.times, int)
        if self.side == "high":
            raise FloatingPointError("too high")
        with torch.no_grad():
            model.get_parameter("head.1.bias")[0] += self.amount * self.times
        return model


def trials_of(store: Store) -> list[Any]:
    (path,) = (store.root / "tuning").iterdir()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    return optuna.load_study(storage=storage, study_name=path.stem).trials


def use(monkeypatch: pytest.MonkeyPatch, gap: Callable[[], float]) -> None:
    """``gap`` is what a request says of every trial."""

    class Request:
        without: frozenset[str] = frozenset()

        def __init__(self, *_: object) -> None: ...

        def gap(self, _params: object) -> float:
            return gap()

    monkeypatch.setattr(tuning, "Request", Request)


def run(search: Search, root: Path) -> tuple[dict[str, Any], float, list[str]]:
    _, best, value, failures, _ = tuning._search(search, root, root, ("cpu",), os.getpid())
    return best, value, failures
