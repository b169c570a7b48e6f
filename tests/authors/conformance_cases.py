"""What the tests of conformance share: which checks a method fails, and a method that is to break one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from unlearnbench_methods.finetune import FineTune

from unlearnbench.authors.conformance import check_method
from unlearnbench.plan.spec import Method
from unlearnbench.training.task import Task


def failed(method: str | type[Method]) -> set[str]:
    return {result.name for result in check_method(method) if not result.passed}


@dataclass(frozen=True)
class Breaks(FineTune):
    """Fine-tuning that does one thing more, which subclasses define."""

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return self.spoil(super().unlearn(model, task), task)

    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        return model
