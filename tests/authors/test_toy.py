"""The toy problem: what a method disturbs is caught and put right, and there is something to forget in it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from unlearnbench_methods.identity import Identity
from unlearnbench_methods.retrain import Retrain

from unlearnbench.authors import conformance
from unlearnbench.authors.conformance import check_method
from unlearnbench.authors.toy import STATE, attempt, make_toy, undisturbed
from unlearnbench.training.models import Classifier
from unlearnbench.training.task import Task

# --- global state ----------------------------------------------------------------------------------------------------

DISTURB: dict[str, Callable[[], Any]] = {
    "torch's global generator": lambda: torch.rand(1),
    "numpy's global generator": np.random.rand,
    "random's global generator": random.random,
    "gradient mode": lambda: torch.set_grad_enabled(False),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.backends.cudnn.enabled": lambda: setattr(torch.backends.cudnn, "enabled", False),
    "torch.backends.cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch.backends.cudnn.deterministic": lambda: setattr(torch.backends.cudnn, "deterministic", True),
}


@dataclass(frozen=True)
class Disturbs(Identity):
    """Leaves one thing of the global state changed."""

    what: str = ""

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        DISTURB[self.what]()
        return model


def test_all_of_the_state_is_tried() -> None:
    assert DISTURB.keys() == STATE.keys()


@pytest.mark.parametrize("what", DISTURB)
def test_disturbed_state_is_caught_and_put_right(what: str) -> None:
    with undisturbed() as left:
        trial = attempt(Disturbs(what))
    assert trial.disturbed == (what,)
    assert what in conformance.state_restored(trial)
    assert left == []


# --- scenarios -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomOnly(Retrain):
    scenarios: ClassVar[tuple[str, ...]] = ("random",)


@dataclass(frozen=True)
class RandomOnlyIdentity(Identity):
    scenarios: ClassVar[tuple[str, ...]] = ("random",)


def test_a_method_is_tried_on_a_scenario_that_it_supports() -> None:
    assert attempt(RandomOnlyIdentity()).toy.cell.scenario.name == "random"
    assert attempt(Identity()).toy.cell.scenario.name == "class"


def test_there_is_something_to_forget_in_the_random_scenario_too() -> None:
    assert [r for r in check_method(RandomOnly) if not r.passed] == []
    assert conformance.forgets(attempt(RandomOnlyIdentity()))


def test_the_original_is_a_classifier_in_evaluation_mode_that_learnt_its_task() -> None:
    original = make_toy("class").original
    assert isinstance(original, Classifier)
    assert not any(module.training for module in original.modules())
    toy = make_toy("class")
    assert min(toy.accuracy(original, part) for part in ("forget", "retain", "test")) > 90
    assert toy.oracle_forget < 5
