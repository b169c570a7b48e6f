"""A benchmark suite for machine unlearning.

What people who write plugins need comes from here, as in ``from unlearnbench import Access, Method, Task``: the modules
behind it may move.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearnbench.api import frame as frame
    from unlearnbench.api import run as run
    from unlearnbench.authors.conformance import check_method as check_method
    from unlearnbench.data.tensors import Samples as Samples
    from unlearnbench.judge.results import Results as Results
    from unlearnbench.outside import evaluate as evaluate
    from unlearnbench.plan.arrays import Arrays as Arrays
    from unlearnbench.plan.cells import Probe as Probe
    from unlearnbench.plan.cells import Recipe as Recipe
    from unlearnbench.plan.evidence import Context as Context
    from unlearnbench.plan.evidence import Evidence as Evidence
    from unlearnbench.plan.recipes import RECIPES as RECIPES
    from unlearnbench.plan.registry import build as build
    from unlearnbench.plan.spec import Access as Access
    from unlearnbench.plan.spec import AccessDenied as AccessDenied
    from unlearnbench.plan.spec import Choice as Choice
    from unlearnbench.plan.spec import Count as Count
    from unlearnbench.plan.spec import Dataset as Dataset
    from unlearnbench.plan.spec import Empty as Empty
    from unlearnbench.plan.spec import Estimate as Estimate
    from unlearnbench.plan.spec import Fraction as Fraction
    from unlearnbench.plan.spec import LogUniform as LogUniform
    from unlearnbench.plan.spec import Method as Method
    from unlearnbench.plan.spec import Metric as Metric
    from unlearnbench.plan.spec import Model as Model
    from unlearnbench.plan.spec import NonNegative as NonNegative
    from unlearnbench.plan.spec import Positive as Positive
    from unlearnbench.plan.spec import Published as Published
    from unlearnbench.plan.spec import Scenario as Scenario
    from unlearnbench.plan.spec import Seed as Seed
    from unlearnbench.plan.spec import Tolerance as Tolerance
    from unlearnbench.plan.spec import Uniform as Uniform
    from unlearnbench.plan.spec import UnlearnBenchError as UnlearnBenchError
    from unlearnbench.training.loop import Diverged as Diverged
    from unlearnbench.training.loop import chunks as chunks
    from unlearnbench.training.loop import make_optimizer as make_optimizer
    from unlearnbench.training.loop import predict as predict
    from unlearnbench.training.loop import schedule as schedule
    from unlearnbench.training.loop import train as train
    from unlearnbench.training.models import Classifier as Classifier
    from unlearnbench.training.models import has_batch_statistics as has_batch_statistics
    from unlearnbench.training.task import Task as Task

__version__ = "0.1.0"

_ROOMS = {
    "api": "frame run",
    "outside": "evaluate",
    "plan.spec": "Access AccessDenied Choice Count Dataset Empty Estimate Fraction LogUniform Method Metric Model "
    "NonNegative Positive Published Scenario Seed Tolerance Uniform UnlearnBenchError",
    "plan.arrays": "Arrays",
    "plan.cells": "Probe Recipe",
    "plan.evidence": "Context Evidence",
    "plan.recipes": "RECIPES",
    "plan.registry": "build",
    "data.tensors": "Samples",
    "training.loop": "Diverged chunks make_optimizer predict schedule train",
    "training.models": "Classifier has_batch_statistics",
    "training.task": "Task",
    "judge.results": "Results",
    "authors.conformance": "check_method",
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Lazy: importing a method does not import the runner, and printing a list does not import torch."""
    if name in _HOMES:
        return getattr(import_module(f"unlearnbench.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'unlearnbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_HOMES)
