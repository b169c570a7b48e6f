"""Making the members of a bank: training oracles and originals, many at once, and letting methods unlearn from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Counter, Data, derive_seed, forked
from unlearnbench.measure.probes import half, half_outputs
from unlearnbench.plan.cells import Cell
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.runs.runner import (
    as_arrays,
    device_name,
    load_data,
    load_original,
    load_weights,
    make_cell_split,
    original_of,
    unlearn,
)
from unlearnbench.store.folder import Store
from unlearnbench.store.roster import KEPT, UNLEARNED, Kind, key, member, missing, shadow_roles
from unlearnbench.training.loop import predict, train
from unlearnbench.training.originals import trainee
from unlearnbench.training.stacking import train_stacked


def stack_size(cell: Cell, device: torch.device) -> int:
    """How many networks of the cell's architecture train at once on ``device``: 1 where that is faster, or unknown."""
    if cell.recipe.compile:
        return 1
    return build("models", cell.model.name, cell.model.params).stack.get(device.type, 1)


def shadow_split(split: Split, i: int) -> Split:
    """The request that shadow i makes of a method: to forget a third of D_f, with another third among the retained.

    Raises UnlearnBenchError where D_f has no thirds.
    """
    if len(split.forget) < 3:
        raise UnlearnBenchError(
            f"shadows: each forgets a third of the forget set, which takes 3 samples, and it has {len(split.forget)}: "
            "let the scenario forget more, or set shadows = 0"
        )
    roles = shadow_roles(len(split.forget), i)
    rng = np.random.default_rng([i, 0x5AD1])
    retain = rng.permutation(np.concatenate([split.retain, split.forget[roles == KEPT]]))
    return dataclasses.replace(split, forget=split.forget[roles == UNLEARNED], retain=retain)


def make(kind: Kind, cell: Cell, members: Sequence[int], store: Store, data_root: Path, device: torch.device) -> None:
    """Train or unlearn those members of a bank that are not stored, and store them. Members that train together do so
    even where some are stored: what is in a stack decides the last bits of all.

    Raises training.Diverged, or what a method raises.
    """
    data = load_data(cell.dataset, data_root, device)
    split = make_cell_split(cell, data)
    with store.lock(f"bank-{key(kind, cell, members[0])}"), forked(device):
        absent = set(members) & set(missing(kind, cell, max(members) + 1, store))  # another process may have made them
        if not absent:
            return
        if kind in ("unlearned", "shadows"):
            for i in sorted(absent):
                _unlearn(kind, cell, i, store, data, split)
        else:
            _train(kind, cell, members, store, data, split)


def _train(kind: Kind, cell: Cell, members: Sequence[int], store: Store, data: Data, split: Split) -> None:
    trainees = {}
    for i in members:
        positions = split.retain if kind == "oracles" else None if kind == "originals" else _seen_by_shadow(split, i)
        trainees[i] = trainee(member(kind, cell, i), data, positions, Counter())
    torch.manual_seed(derive_seed(member(kind, cell, members[0]).seed, "bank dropout"))
    for _, alike in groupby(sorted(trainees, key=lambda i: len(trainees[i][1])), lambda i: len(trainees[i][1])):
        models, samples = zip(*(trainees[i] for i in alike), strict=True)
        if len(models) > 1:
            train_stacked(models, samples, cell.recipe)
        else:
            train(models[0], samples[0], cell.recipe)
    for i, (model, _) in trainees.items():
        if kind == "oracles":
            store.put_outputs(key(kind, cell, i), as_arrays(half_outputs(model, data)))
        else:
            made = model.state_dict(), dict[str, float | None]()
            store.artifact(key(kind, cell, i), lambda made=made: made, device_name(data.x_train.device))  # type: ignore[misc]


def _seen_by_shadow(split: Split, i: int) -> np.ndarray:
    request = shadow_split(split, i)
    return np.concatenate([request.forget, request.retain])


def _unlearn(kind: Kind, cell: Cell, i: int, store: Store, data: Data, split: Split) -> None:
    """Let the cell's method unlearn from the i-th original; of a shadow the outputs on D_f are kept alone."""
    own = member(kind, cell, i)
    method = build("methods", cell.method.name, cell.method.params)
    if kind == "unlearned":
        model = original_of(method, load_original(own, store, data), own, store, data, split)
        unlearned, _ = unlearn(method, model, own, store, data, split)
        store.put_outputs(own.key, as_arrays(half_outputs(unlearned, data)))
        return
    original = load_weights(key("shadow_originals", cell, i), own, store, data)
    request, seen = shadow_split(split, i), _seen_by_shadow(split, i)
    unlearned, _ = unlearn(method, original, own, store, data, request, seen)
    index = torch.from_numpy(split.forget).to(data.x_train.device)
    store.put_outputs(own.key, as_arrays({"forget": half(predict(unlearned, data.x_train[index]))}))
