"""Banks: many models that differ in the seed alone, which attacks and distributions compare a model with.

Of a dataset, model, recipe, scenario and split seed: N oracles, N originals, and for each method the N models that it
makes of these originals; and shadows, of which each has never seen one third of D_f, forgets another and keeps the
rest. Members have seeds of their own, apart from those of any cell, so that no attack meets the model it judges. Each
member's outputs are stored once and shared by all methods; a bank that grows keeps what it has.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from unlearnbench.plan.cells import Cell
from unlearnbench.store.folder import Store

Kind = Literal["originals", "oracles", "unlearned", "shadow_originals", "shadows"]
FIRST_SEED = 1_000_000  # of the members
FIRST_SHADOW_SEED = 2_000_000
SEEDS_A_SPLIT = 1_000
OUT, UNLEARNED, KEPT = range(3)  # what a forget sample is to a shadow


def member(kind: Kind, cell: Cell, i: int) -> Cell:
    """The cell of the i-th member of a bank. Those of different splits have different seeds: what is found on several
    splits is then independent."""
    first = FIRST_SHADOW_SEED if kind in ("shadow_originals", "shadows") else FIRST_SEED
    return dataclasses.replace(cell, seed=first + SEEDS_A_SPLIT * cell.split_seed + i)


def key(kind: Kind, cell: Cell, i: int) -> str:
    """Names what is stored of a member: weights of an original, outputs of the others."""
    own = member(kind, cell, i)
    if kind == "originals":
        return own.original_key
    return own.oracle_key if kind in ("oracles", "shadow_originals") else own.key


def missing(kind: Kind, cell: Cell, count: int, store: Store) -> list[int]:
    """The members of the first ``count`` that are not stored yet."""
    there = store.has_artifact if kind in ("originals", "shadow_originals") else store.has_outputs
    return [i for i in range(count) if not there(key(kind, cell, i))]


def stored(kind: Kind, cell: Cell, count: int, store: Store) -> tuple[str, ...]:
    """Keys of the outputs of those of the first ``count`` members that are there."""
    return tuple(k for i in range(count) if store.has_outputs(k := key(kind, cell, i)))


def shadow_roles(n: int, i: int) -> np.ndarray:
    """What each of n forget samples is to shadow i, int ``[n]``: one third each is never seen by it (`OUT`), trained on
    and then unlearned, and trained on and kept. In each three shadows from 3k on every sample is all of these once."""
    order = np.random.default_rng([i // 3, 0x5AD0]).permutation(n)
    return (order + i) % 3
