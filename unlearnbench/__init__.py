"""A benchmark suite for machine unlearning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearnbench.api import frame as frame
    from unlearnbench.api import run as run
    from unlearnbench.outside import evaluate as evaluate

__version__ = "0.1.0"
__all__ = ["evaluate", "frame", "run"]

_HOMES = {"evaluate": "outside", "frame": "api", "run": "api"}


def __getattr__(name: str) -> Any:
    """Lazy: importing a method does not import the runner, and printing a list does not import torch."""
    if name in _HOMES:
        return getattr(import_module(f"unlearnbench.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'unlearnbench' has no attribute {name!r}")
