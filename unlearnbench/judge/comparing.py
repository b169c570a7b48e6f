"""Stored rows to stored scores: what each row is compared with, loaded once, and what is out of date."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from unlearnbench.measure.scoring import Score, score
from unlearnbench.plan.cells import Row, digest
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Empty, Metric
from unlearnbench.plan.suites import Plan
from unlearnbench.store import roster
from unlearnbench.store.folder import Store


class Sets(Mapping[str, np.ndarray]):
    """Outputs of one or many models by set, picked on demand: ``[..., n, num_classes]`` in the order of the split."""

    def __init__(self, outputs: Mapping[str, np.ndarray], split: Mapping[str, np.ndarray]) -> None:
        self._outputs, self._split = outputs, split

    def __getitem__(self, name: str) -> np.ndarray:
        return self._outputs["test" if name == "test" else "train"][..., self._split[name], :]

    def __iter__(self) -> Iterator[str]:
        return iter(("forget", "retain", "test"))

    def __len__(self) -> int:
        return 3


@dataclass(frozen=True)
class Basis:
    """What a row is compared with: the oracle's row of the same seeds, and models by key: the bank of oracles, those
    that the method made and its shadows. In the oracle's own row the last two are oracles: the null.

    ``first``: the row speaks for its split. ``is_oracle``: it is itself the oracle's.
    """

    oracle: Row | None = None
    oracles: tuple[str, ...] = ()
    unlearned: tuple[str, ...] = ()
    shadows: tuple[str, ...] = ()
    first: bool = True
    is_oracle: bool = False

    @classmethod
    def of_null(cls, oracle: Row | None, oracles: tuple[str, ...], plan: Plan, first: bool) -> Basis:
        """Of the oracle's row: as many oracles as methods have models, and as they have shadows per side."""
        half = len(oracles) // 2
        per_side = min(plan.shadows // 3, half)
        shadows = oracles[half : half + per_side] + oracles[:per_side]
        return cls(oracle, oracles, oracles[half : 2 * half][: plan.unlearned_bank], shadows, first, is_oracle=True)

    def of(self, metric: Metric, metrics: Mapping[str, Metric]) -> str:
        """What a score of ``metric`` rests on, as text: where it differs from the stored one the score is stale."""
        named = [f"{need} {self._named[need]}" for need in metric.needs if need in self._named]
        named += [f"{name} version {metrics[name].version}" for name in metric.reads if name in metrics]
        return ", ".join([*named, *([f"first {self.first}"] if metric.of_split else [])])

    @functools.cached_property
    def _named(self) -> dict[str, str]:
        return {
            "oracle": self.oracle.evidence_sha256 if self.oracle else "none",
            "bank": digest(self.oracles),
            "unlearned": digest(self.unlearned),
            "shadows": digest(self.shadows),
        }


def score_plan(plan: Plan, store: Store, metrics: Mapping[str, Metric], workers: int = 1) -> None:
    """Bring the scores of every finished row up to date, the oracles' first."""
    rows = {e.cell.key: row for e in plan.entries if (row := store.row(e.cell)) is not None and row.status == "ok"}
    oracles = {e.cell.group: rows.get(e.cell.key) for e in reversed(plan.entries) if e.role == "oracle"}  # the first
    first_seed: dict[tuple[str, str], int] = {}  # of each split and method, the lowest that has a row
    members: dict[str, tuple[str, ...]] = {}  # of each bank of oracles, which many rows share
    for entry in plan.entries:
        cell = entry.cell
        if cell.key in rows:
            own = cell.split_group, entry.method
            first_seed[own] = min(first_seed.get(own, cell.seed), cell.seed)
        if cell.bank_key not in members:
            members[cell.bank_key] = roster.stored("oracles", cell, plan.bank, store)
    for is_oracle in (True, False):
        batch = []
        for entry in plan.entries:
            cell = entry.cell
            if (entry.role == "oracle") != is_oracle or cell.key not in rows:
                continue
            first = cell.seed == first_seed[cell.split_group, entry.method]
            oracle, bank = oracles.get(cell.group), members[cell.bank_key]
            if is_oracle:
                basis = Basis.of_null(oracle, bank, plan, first)
            else:
                made = roster.stored("unlearned", cell, plan.unlearned_bank, store) if first else ()
                keys = (roster.key("shadows", cell, i) for i in range(plan.shadows if first else 0))
                shadows = tuple(takewhile(store.has_outputs, keys))  # roles go by place, so a hole would shift them
                basis = Basis(oracle, bank, made, shadows, first)
            batch.append((rows[cell.key], basis))
        Parallel(workers)(delayed(score_row)(store, row, metrics, basis) for row, basis in batch)


def score_row(store: Store, row: Row, metrics: Mapping[str, Metric], basis: Basis | None = None) -> None:
    """Bring the stored scores of an ``ok`` row up to date: what is missing, of an older version, or compared with
    something else is computed. Without a ``basis`` only metrics that need none."""
    stored = {name: Score(**d) for name, d in store.scores(row.key).items()}
    wanted = {n: m for n, m in metrics.items() if basis is not None or not (m.needs or m.of_split)}
    basis = basis or Basis()
    bases = {n: basis.of(m, metrics) for n, m in wanted.items()}
    stale = {n: m for n, m in wanted.items() if _is_stale(stored.get(n), m, bases[n])}
    if not stale:
        return
    evidence = restored(store, row)
    scores = score(evidence, _context(store, row, evidence, basis, stale), stale, first=basis.first)
    named = {n: dataclasses.replace(s, basis=bases[n]) for n, s in scores.items()}
    store.put_scores(row.key, {**stored, **named})


def _is_stale(score: Score | None, metric: Metric, basis: str) -> bool:
    return score is None or score.version != metric.version or score.basis != basis


def restored(store: Store, row: Row) -> Evidence:
    """The evidence of a row with its stored scores."""
    evidence = store.evidence(row)
    for name, d in store.scores(row.key).items():
        evidence.scores[name] = Empty(d["reason"]) if d["value"] is None else d["value"]
    return evidence


def _context(store: Store, row: Row, evidence: Evidence, basis: Basis, metrics: Mapping[str, Metric]) -> Context:
    needs = {need for metric in metrics.values() for need in metric.needs}
    cell, oracle = row.cell, None
    if basis.oracle is not None and "oracle" in needs:
        # the oracle compares with itself, whose scores may only now be computed: the very same object
        oracle = evidence if basis.is_oracle else restored(store, basis.oracle)
    split = store.split(cell)
    single = {
        name: Sets(store.outputs(key), split)
        for name, key in (("original", cell.original_key), ("untrained", cell.untrained_key))
        if name in needs and store.has_outputs(key)
    }
    oracles = unlearned = shadows = None
    if basis.oracles and needs & {"bank", "unlearned", "shadows"}:
        outputs = _stacked(store.root, basis.oracles)
        oracles = Sets(outputs, split)
        if basis.is_oracle:  # the keys of `Basis.of_null`, by their places
            half, made, per_side = len(basis.oracles) // 2, len(basis.unlearned), len(basis.shadows) // 2
            if made:
                unlearned = Sets({name: x[half : half + made] for name, x in outputs.items()}, split)
            shadows = {"unlearned": oracles["forget"][half : half + per_side], "out": oracles["forget"][:per_side]}
    if not basis.is_oracle:
        if basis.unlearned and "unlearned" in needs:
            unlearned = Sets(_stacked(store.root, basis.unlearned), split)
        if len(basis.shadows) >= 3 and "shadows" in needs:
            shadows = _by_role([store.outputs(key)["forget"] for key in basis.shadows])
    return Context(oracle, single.get("original"), single.get("untrained"), oracles, unlearned, shadows)


def _by_role(runs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Logits ``[n, num_classes]`` of shadows, sorted by what each sample was to them: ``[len(runs) // 3, n, …]``."""
    whole = np.stack(runs[: len(runs) // 3 * 3])
    roles = np.stack([roster.shadow_roles(whole.shape[1], i) for i in range(len(whole))])

    def rows(role: int) -> np.ndarray:
        samples, models = np.nonzero((roles == role).T)  # by sample, and as many for each
        return whole[models.reshape(whole.shape[1], -1).T, samples.reshape(whole.shape[1], -1).T]

    return {"unlearned": rows(roster.UNLEARNED), "out": rows(roster.OUT)}


@functools.lru_cache(maxsize=2)  # rows of a split, and those of a method, follow one another
def _stacked(root: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    models = [Store(root).outputs(key) for key in keys]
    return {name: np.stack([m[name] for m in models]) for name in ("train", "test")}
