"""Cost: the clock covers what is inside, and every gradient is counted once."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnbench.cost import count_gradients, measure
from unlearnbench.data import Counter
from unlearnbench.models import Classifier

CPU = torch.device("cpu")


def network() -> Classifier:
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2), 2)


def wrapped() -> Classifier:
    layers = {"body": nn.Linear(4, 3), "relu": nn.ReLU(), "fc": nn.Linear(3, 2)}
    return Classifier.wrap(nn.Sequential(nn.Flatten(), nn.ModuleDict(layers)["body"], nn.ReLU(), layers["fc"]), "3", 2)


MAKERS = [
    network,
    pytest.param(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), id="no parts"),
    wrapped,
]


def x(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 2, 2)


def loss(model: nn.Module, n: int) -> torch.Tensor:
    return F.cross_entropy(model(x(n)), torch.zeros(n, dtype=torch.int64))


def test_a_measurement_covers_what_is_inside() -> None:
    counter = Counter()
    counter.samples, counter.gradients = 100, 200
    time.sleep(0.05)
    with measure(CPU, counter) as cost:
        counter.samples += 7
        counter.gradients += 3
        assert not cost
        time.sleep(0.02)
    time.sleep(0.05)
    counter.samples += 1
    assert (cost.pop("seconds") or 0) >= 0.02
    assert cost == {"samples": 7.0, "gradients": 3.0, "peak_memory": None}


def test_time_before_and_after_is_not_counted() -> None:
    time.sleep(0.3)
    with measure(CPU, Counter()) as cost:
        pass
    time.sleep(0.3)
    assert 0 <= (cost["seconds"] or 0) < 0.3


@pytest.mark.parametrize("make", MAKERS)
def test_a_plain_loop_counts_every_sample_of_every_step(make: object) -> None:
    model, counter = make(), Counter()  # type: ignore[operator]
    count_gradients(model, counter)
    for size in (5, 5, 3):
        loss(model, size).backward()
    assert counter.gradients == 13


@pytest.mark.parametrize("make", MAKERS)
def test_what_has_no_gradient_is_not_counted(make: object) -> None:
    model, counter = make(), Counter()  # type: ignore[operator]
    count_gradients(model, counter)
    with torch.no_grad():
        loss(model, 5)
    loss(model, 5)  # never goes backward
    model.requires_grad_(False)
    (loss(model, 5) + torch.zeros((), requires_grad=True)).backward()
    assert counter.gradients == 0


@pytest.mark.parametrize(
    "make",
    [
        network,
        wrapped,
    ],
)
def test_with_a_frozen_encoder_the_head_counts(make: object) -> None:
    model, counter = make(), Counter()  # type: ignore[operator]
    count_gradients(model, counter)
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    loss(model, 5).backward()
    assert counter.gradients == 5


@pytest.mark.parametrize(
    "make",
    [
        network,
        wrapped,
    ],
)
def test_the_representation_alone_counts(make: object) -> None:
    model, counter = make(), Counter()  # type: ignore[operator]
    count_gradients(model, counter)
    model.encode(x(4)).sum().backward()
    assert counter.gradients == 4


def test_two_forward_passes_under_one_loss_count_each_and_joint_ones_the_same() -> None:
    """As in CaMU's steps: on retained and on forgotten samples, apart or as one batch."""
    apart, joint = Counter(), Counter()
    model = network()
    handles = count_gradients(model, apart)
    (loss(model, 6) + 0.1 * loss(model, 2)).backward()
    (model.encode(x(6)).sum() - model.encode(x(2)).sum()).backward()
    for handle in handles:
        handle.remove()
    count_gradients(model, joint)
    loss(model, 8).backward()
    model.encode(x(8)).sum().backward()
    assert (apart.gradients, joint.gradients) == (16, 16)


def test_handles_end_the_count_and_leave_no_hook() -> None:
    model, counter = network(), Counter()
    for handle in count_gradients(model, counter):
        handle.remove()
    loss(model, 5).backward()
    assert counter.gradients == 0
    assert not any(module._forward_hooks for module in model.modules())
