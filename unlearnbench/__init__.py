"""A benchmark suite for machine unlearning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearnbench.api import frame as frame
    from unlearnbench.api import run as run

__version__ = "0.1.0"
__all__ = ["frame", "run"]


def __getattr__(name: str) -> Any:
    """Lazy: importing a method does not import the runner, and printing a list does not import torch."""
    if name in __all__:
        from unlearnbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'unlearnbench' has no attribute {name!r}")
