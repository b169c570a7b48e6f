"""How fast a model relearns what it forgot: training runs on copies, under the probe's fixed settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import count, islice
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data.tensors import Samples
from unlearnbench.plan.cells import Probe
from unlearnbench.training.loop import make_optimizer, predict

GOLATKAR_DRAWS, GOLATKAR_LOSS = 500, 0.1  # draws an epoch, and the loss on D_f that ends it


def outputs(model: nn.Module, samples: Samples) -> Tensor:
    """Logits in the order of the set, eval mode; on augmented images where the set augments, always the same draw."""
    return torch.cat([predict(model, x) for x in samples.replace(samples.images()).augmented_images()])


def relearn_steps(model: nn.Module, forget: Samples, target: float, cap: int) -> tuple[int | None, float]:
    """Minibatch steps of plain training on the forget set (Adam 1e-3, batch 32) until its loss is at most ``target``.

    None if ``cap`` steps did not do. Also the seconds of the steps, the looks at the loss not counted. The loss is
    looked at after each of the first 40 steps and then every 5% of the steps done: of a loss that only falls, a large
    count is at most 5% too high.
    """

    def reached(model: nn.Module) -> bool:
        return _loss(model, forget) <= target

    model = _trainable_copy(model)
    return _train_until(model, make_optimizer(model.parameters(), "adam", 1e-3), forget, 32, reached, cap)


def anamnesis_steps(model: nn.Module, train: Samples, x: Tensor, y: Tensor, target: float, cap: int) -> int | None:
    """Steps of training on the whole training set (Adam 1e-3, batch 256) until the accuracy on ``x``, ``y`` (held-out
    samples of the forgotten classes) is at least ``target``, a fraction; None if ``cap`` steps did not do.

    The counts behind the anamnesis index (AIN: Chundawat et al., 2201.05629); the looks are those of `relearn_steps`,
    of which the first comes before any step. The authors' code takes a step before each look, so that 1 is its least
    count, 10 epochs its most and no ratio is 0 or without a value (read: ayushkumartarun/zero-shot-unlearning
    metrics.py, 89f4ce68; it looks at a ``valid_dl`` of the notebook in place of its argument).
    """

    def reached(model: nn.Module) -> bool:
        return (predict(model, x).argmax(1) == y).float().mean().item() >= target

    model = _trainable_copy(model)
    return _train_until(model, make_optimizer(model.parameters(), "adam", 1e-3), train, 256, reached, cap)[0]


def golatkar_epochs(model: nn.Module, train: Samples, forget: Samples, cap: int) -> int | None:
    """Epochs of 500 draws from the whole training set (SGD .01, batch 125; a few less where a pass over it ends) until
    the loss on D_f is at most .1; None if ``cap`` epochs did not do.

    The relearn time of Golatkar et al. (1911.04933), at the settings of later suites.
    """
    model = _trainable_copy(model)
    optimizer = make_optimizer(model.parameters(), "sgd", 0.01)
    batches = _endless(train, 125)
    model.train()
    for epoch in range(cap + 1):
        if _loss(model, forget) <= GOLATKAR_LOSS:
            return epoch
        if epoch < cap:
            for batch in islice(batches, GOLATKAR_DRAWS // 125):
                update(model, optimizer, *batch)
    return None


def _train_until(
    model: nn.Module, optimizer: torch.optim.Optimizer, samples: Samples, size: int,
    reached: Callable[[nn.Module], bool], cap: int,
) -> tuple[int | None, float]:  # fmt: skip
    """Steps until ``reached``, None if ``cap`` did not do, and their seconds; looked at after each of the first 40
    steps and then every 5% of the steps done."""
    step, seconds, look = 0, 0.0, 0
    batches = _endless(samples, size)
    model.train()
    while True:
        if step == look:
            if reached(model):
                return step, seconds
            if step >= cap:
                return None, seconds
            look = min(cap, step + max(1, step // 20))
        start = time.perf_counter()
        while step < look:
            update(model, optimizer, *next(batches))
            step += 1
        if samples.device.type == "cuda":
            torch.cuda.synchronize(samples.device)
        seconds += time.perf_counter() - start


def _loss(model: nn.Module, samples: Samples) -> float:
    return F.cross_entropy(outputs(model, samples), samples.labels).item()


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
        update(model, optimizer, *batch)
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


def update(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
