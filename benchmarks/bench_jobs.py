"""Target: two jobs are at least 1.5 times as fast as one. On the CPU, whatever else there is: a GPU takes one job."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from unlearnbench.data.datasets import default_root
from unlearnbench.plan.suites import Options, make_plan
from unlearnbench.runs import engine
from unlearnbench.runs.progress import Lines
from unlearnbench.store.folder import Store


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core only")
def bench_two(compare: Callable[..., None], tmp_path: Path) -> None:
    """Two originals and eight cells. The round that warms up starts the worker processes; they stay for the others."""
    options = Options(methods=["retrain", "finetune"], seeds=[0, 1], sets=["recipe.epochs=2", "finetune.epochs=1"])
    plan = make_plan("digits", options)

    def prepare() -> tuple[Store]:
        return (Store(Path(tempfile.mkdtemp(dir=tmp_path))),)

    def execute(workers: int, store: Store) -> None:
        engine.execute(plan, store, default_root(), ["cpu"], workers, Lines(Console(quiet=True)))

    compare(
        f"{len(plan.entries)} cells of digits: 1 job / 2 jobs, workers started before",
        partial(execute, 1),
        partial(execute, 2),
        prepare,
        target="at least 1.5",
    )
