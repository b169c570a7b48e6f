"""How long all absolute metrics of a cell take, as a share of running the cell: CaMU on digits, class 0."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from unlearnbench.datasets import default_root
from unlearnbench.engine import all_metrics
from unlearnbench.runner import load_data, load_original, run_cell
from unlearnbench.scoring import score_row
from unlearnbench.store import Store
from unlearnbench.suites import Options, make_plan


def bench_share(compare: Callable[..., None], device: torch.device, tmp_path: Path) -> None:
    plan = make_plan("digits", Options(methods=["camu"], scenarios=["class-0"], seeds=[0]))
    cell = next(entry.cell for entry in plan.entries if entry.role == "method")
    metrics = {name: metric for name, metric in all_metrics().items() if not metric.relative}
    scored, root = Store(tmp_path / "scored"), default_root()
    original = load_original(cell, scored, load_data(cell.dataset, root, device))
    row = run_cell(cell, scored, root, device)

    def prepare() -> tuple[Store]:
        """Take the scores away, and open a store in which the original is ready and the cell has not run."""
        scored.put_scores(row.key, {})
        store = Store(Path(tempfile.mkdtemp(dir=tmp_path)))
        store.artifact(cell.original_key, lambda: (original.state_dict(), {}))
        return (store,)

    def score(_: Store) -> None:
        score_row(scored, row, None, metrics)

    def run(store: Store) -> None:
        run_cell(cell, store, root, device)

    compare("a cell of digits: scoring / running, its original trained before", score, run, prepare)
