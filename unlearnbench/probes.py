"""What must be measured while a model is in hand: its outputs, and how it relearns. Always on copies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from itertools import count, islice
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data import Counter, Data, Samples, augmentation, derive_seed
from unlearnbench.scenarios import Split
from unlearnbench.spec import Cell, Probe
from unlearnbench.training import make_optimizer, predict


def collect(
    cell: Cell, original: nn.Module, unlearned: nn.Module, data: Data, split: Split
) -> tuple[dict[str, Tensor], dict[str, float | None]]:
    """Evidence of ``unlearned``: tensors (outputs on forget, retain and test, the relearning curve) and scalars.

    Raises FloatingPointError when an output is NaN or infinite.
    """
    augment = augmentation(cell.recipe) if cell.probe.augmented else None
    sets = {}
    for name in ("forget", "retain"):
        positions = torch.from_numpy(getattr(split, name)).to(data.x_train.device)
        x, y = data.x_train[positions], data.y_train[positions]
        sets[name] = Samples(x, y, derive_seed(cell.seed, f"probe {name}"), augment, Counter())
    test = data.x_test[torch.from_numpy(split.test).to(data.x_test.device)]
    tensors = {
        "forget": outputs(unlearned, sets["forget"]).float(),
        "retain": outputs(unlearned, sets["retain"]).float(),
        "test": predict(unlearned, test).float(),
    }
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise FloatingPointError("the unlearned model's outputs are not finite")
    target = F.cross_entropy(outputs(original, sets["forget"]), sets["forget"].labels).item()
    steps, seconds = relearn_steps(unlearned, sets["forget"], 1.05 * target, cell.probe.relearn_cap)
    tensors["curve"] = relearn_curve(unlearned, sets["retain"], sets["forget"], cell.probe)
    scalars: dict[str, float | None] = {
        "relearn_steps": float(cell.probe.relearn_cap if steps is None else steps),
        "relearn_censored": float(steps is None),
        "relearn_time": seconds,
        "original_forget_loss": target,
    }
    return {name: tensor.cpu() for name, tensor in tensors.items()}, scalars


def outputs(model: nn.Module, samples: Samples) -> Tensor:
    """Logits in the order of the set, eval mode; on augmented images where the set augments, always the same draw."""
    return predict(model, samples.replace(samples.images()).images(augment=True))


def relearn_steps(model: nn.Module, forget: Samples, target: float, cap: int) -> tuple[int | None, float]:
    """Minibatch steps of plain training on the forget set (Adam 1e-3, batch 32) until its loss is at most ``target``.

    None if ``cap`` steps did not do. Also the seconds of the steps, the looks at the loss not counted. The loss is
    looked at after each of the first 40 steps and then every 5% of the steps done: a large count is exact to 5%.
    """
    model = _trainable_copy(model)
    optimizer = make_optimizer(model.parameters(), "adam", 1e-3)
    step, seconds, look = 0, 0.0, 0
    batches = _endless(forget, 32)
    while True:
        if step == look:
            if F.cross_entropy(outputs(model, forget), forget.labels).item() <= target:
                return step, seconds
            if step >= cap:
                return None, seconds
            look = min(cap, step + max(1, step // 20))
        start = time.perf_counter()
        while step < look:
            _update(model, optimizer, *next(batches))
            step += 1
        if forget.device.type == "cuda":
            torch.cuda.synchronize(forget.device)
        seconds += time.perf_counter() - start


def relearn_curve(model: nn.Module, retain: Samples, forget: Samples, probe: Probe) -> Tensor:
    """CaMU's relearning curve, float64 ``[points, 2]``: updates done on the retain set, and A(D_r) - A(D_f) in points.

    Adam, weight decay 1e-4, batch 32. The points lie after 1, 1 + every, 1 + 2·every, … updates; one epoch of them, but
    at least 12, unless ``probe.relearn_points`` says how many.
    """
    model = _trainable_copy(model)
    optimizer = make_optimizer(model.parameters(), "adam", probe.relearn_lr, weight_decay=1e-4)
    points = probe.relearn_points or max(12, ceil(ceil(len(retain) / 32) / probe.relearn_every))
    curve: list[tuple[int, float]] = []
    model.train()
    updates = 1 + (points - 1) * probe.relearn_every
    for done, batch in zip(count(1), islice(_endless(retain, 32), updates), strict=False):
        _update(model, optimizer, *batch)
        if (done - 1) % probe.relearn_every == 0:
            curve.append((done, _accuracy(model, retain) - _accuracy(model, forget)))
            if probe.relearn_frozen_norm:
                model.eval()
    return torch.from_numpy(np.array(curve, dtype=np.float64))


def _trainable_copy(model: nn.Module) -> nn.Module:
    """What a method froze must not seem to resist relearning."""
    return deepcopy(model).requires_grad_(True)


def _accuracy(model: nn.Module, samples: Samples) -> float:
    return 100 * (outputs(model, samples).argmax(1) == samples.labels).float().mean().item()


def _endless(samples: Samples, size: int) -> Iterator[tuple[Tensor, ...]]:
    while True:
        yield from samples.batches(size)


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def warm_up(model: nn.Module, data: Data, batch_size: int) -> None:
    """One throw-away training step on a copy, so that no method pays for first-call set-up."""
    x, y = data.x_train[:batch_size], data.y_train[:batch_size]
    copy = deepcopy(model).train()
    _update(copy, make_optimizer(copy.parameters(), "sgd", 0.0), x, y)
