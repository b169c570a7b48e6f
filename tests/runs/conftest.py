"""What several files of this wing need: an empty store, a plan to tune."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from tuning_cases import Damage, use

from unlearnbench.plan.suites import Plan, make_plan
from unlearnbench.store.folder import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def plan(tiny: Callable[..., Path], register: Callable[..., None]) -> Plan:
    """Of two seeds, with one method to search."""
    register("methods", damage=Damage)
    return make_plan(str(tiny("identity", "damage", seeds=(0, 1))))


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial is better than the one before: 9 points, 8, 7, …"""
    gaps = itertools.count(9, -1)
    use(monkeypatch, lambda: float(next(gaps)))
