"""Conformance: what the class of a method must declare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from conformance_cases import Breaks, failed
from torch import nn
from unlearnbench_methods.finetune import FineTune
from unlearnbench_methods.identity import Identity

from unlearnbench.authors import conformance
from unlearnbench.plan.spec import Access, Method
from unlearnbench.training.task import Task

# --- the class -------------------------------------------------------------------------------------------------------


class Undecorated(FineTune):
    rate: float = 0.5


@dataclass(frozen=True)
class NotANumber(Identity):
    rate: float = float("nan")


@dataclass(frozen=True)
class NoDefault(Method):
    paper: ClassVar[str] = "none"
    needs: ClassVar[Access] = Access(0)

    rate: float

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return model


@dataclass(frozen=True)
class ComesBackDifferent(Identity):
    rate: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", 2 * self.rate)


@dataclass(frozen=True)
class WrongToy(Identity):
    toy: ClassVar[dict[str, Any]] = {"speed": 3}


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (Undecorated, "@dataclass(frozen=True)"),
        (NotANumber, "JSON"),
        (NoDefault, "rate"),
        (ComesBackDifferent, "'rate': 2.0"),
        (WrongToy, "no parameter 'speed'"),
    ],
)
def test_a_class_that_cannot_be_configured(broken: type[Method], says: str) -> None:
    assert says in conformance.configurable(broken)
    assert failed(broken) == {"configurable"}


@dataclass(frozen=True)
class NoPaper(Method):
    needs: ClassVar[Access] = Access(0)

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return model


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("paper", ""), ("needs", "retain"), ("scenarios", "class"), ("scenarios", ()), ("role", "baseline")],
)
def test_wrong_declarations(attribute: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Breaks, attribute, value)
    assert conformance.declared(Breaks).startswith(f"it must declare {attribute},")
    assert failed(Breaks) == {"declared"}


def test_a_missing_declaration() -> None:
    assert conformance.declared(NoPaper) == "it must declare paper, a text"
