"""How long scoring takes: as a share of running a cell, and every metric of a small and of a large cell in seconds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from unlearnbench.data.datasets import default_root
from unlearnbench.judge.comparing import score_row
from unlearnbench.measure.scoring import score
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.suites import Options, make_plan
from unlearnbench.runs.engine import all_metrics
from unlearnbench.runs.runner import load_data, load_original, run_cell
from unlearnbench.store.folder import Store


def bench_share(compare: Callable[..., None], device: torch.device, tmp_path: Path) -> None:
    plan = make_plan("digits", Options(methods=["camu"], scenarios=["class-8"], seeds=[0]))
    cell = next(entry.cell for entry in plan.entries if entry.role == "method")
    metrics = {name: metric for name, metric in all_metrics().items() if not metric.needs}
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
        score_row(scored, row, metrics)

    def run(store: Store) -> None:
        run_cell(cell, store, root, device)

    compare("a cell of digits: scoring / running, its original trained before", score, run, prepare)


SIZES = {"digits": (144, 1293, 324), "CIFAR-10": (5000, 45000, 9000)}  # D_f, D_r and the test set


def cell_of(sizes: tuple[int, int, int], models: int = 64, classes: int = 10) -> tuple[Evidence, Context]:
    """A cell with made-up outputs: every metric on outputs has something to do. 128 oracles, so that halves have 64."""
    rng = np.random.default_rng(0)
    sets = dict(zip(("forget", "retain", "test"), sizes, strict=True))
    labels = {name: rng.integers(classes, size=n) for name, n in sets.items()}

    def outputs(count: int, margin: float) -> dict[str, np.ndarray]:
        """Of each model noisy logits, the label's on top by ``margin`` on the average."""
        return {
            name: np.stack([
                (rng.normal(size=(n, classes)) + margin * np.eye(classes)[labels[name]]).astype(np.float16)
                for _ in range(count)
            ])
            for name, n in sets.items()
        }  # fmt: skip

    def evidence(margin: float) -> Evidence:
        logits = {name: x[0].astype(np.float32) for name, x in outputs(1, margin).items()}
        panel = {name: rng.normal(size=(500, 256)).astype(np.float16) for name in ("forget", "retain")}
        return Evidence(logits, labels, (), np.array([[1, 0.0], [11, 1.0]]), {}, {}, 0, panel)

    oracle = evidence(3)
    absolute = {name: metric for name, metric in all_metrics().items() if not metric.needs}
    score(oracle, Context(), absolute)
    single = ({name: x[0].astype(np.float32) for name, x in outputs(1, margin).items()} for margin in (4, 0))
    original, untrained = single
    return evidence(3.5), Context(oracle, original, untrained, outputs(2 * models, 3), outputs(models, 3.5))


def bench_digits(clock: Callable[..., None]) -> None:
    _every_metric(clock, "digits", "at most 2 s")


def bench_cifar10(clock: Callable[..., None]) -> None:
    _every_metric(clock, "CIFAR-10", "at most 20 s")


def _every_metric(clock: Callable[..., None], name: str, target: str) -> None:
    evidence, context = cell_of(SIZES[name])
    metrics = all_metrics()

    def everything() -> None:
        context.shared.clear()
        score(evidence, context, metrics)

    clock(f"every metric of a cell of the size of {name}, 128 oracles and 64 unlearned models", everything, target)
