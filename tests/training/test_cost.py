"""Cost: the clock covers what is inside, and every gradient is counted once."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnbench.data.tensors import Counter
from unlearnbench.training.cost import count_work, measure, price
from unlearnbench.training.models import Classifier

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
    assert cost == {"samples": 7.0, "gradients": 3.0, "peak_memory": None, "flops": None}


def test_time_before_and_after_is_not_counted() -> None:
    time.sleep(0.3)
    with measure(CPU, Counter()) as cost:
        pass
    time.sleep(0.3)
    assert 0 <= (cost["seconds"] or 0) < 0.3


@pytest.mark.parametrize("make", MAKERS)
def test_a_plain_loop_counts_every_sample_of_every_step(make: object) -> None:
    model, counter = make(), Counter()  # type: ignore[operator]
    count_work(model, counter)
    for size in (5, 5, 3):
        loss(model, size).backward()
    assert counter.gradients == 13


@pytest.mark.parametrize("make", MAKERS)
def test_what_has_no_gradient_is_not_counted(make: object) -> None:
    model, counter = make(), Counter()  # type: ignore[operator]
    count_work(model, counter)
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
    count_work(model, counter)
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
    count_work(model, counter)
    model.encode(x(4)).sum().backward()
    assert counter.gradients == 4


def test_two_forward_passes_under_one_loss_count_each_and_joint_ones_the_same() -> None:
    """As in CaMU's steps: on retained and on forgotten samples, apart or as one batch."""
    apart, joint = Counter(), Counter()
    model = network()
    handles = count_work(model, apart)
    (loss(model, 6) + 0.1 * loss(model, 2)).backward()
    (model.encode(x(6)).sum() - model.encode(x(2)).sum()).backward()
    for handle in handles:
        handle.remove()
    count_work(model, joint)
    loss(model, 8).backward()
    model.encode(x(8)).sum().backward()
    assert (apart.gradients, joint.gradients) == (16, 16)


def test_handles_end_the_count_and_leave_no_hook() -> None:
    model, counter = network(), Counter()
    for handle in count_work(model, counter):
        handle.remove()
    loss(model, 5).backward()
    assert counter.gradients == 0
    assert not any(module._forward_hooks for module in model.modules())


# --- floating-point operations: 2 for each multiply-add --------------------------------------------------------------


def priced(model: nn.Module) -> Counter:
    counter = Counter(price(model, x(1)))
    count_work(model, counter)
    return counter


def test_a_linear_layer_costs_twice_its_weights_and_backward_as_much_again_for_each_gradient() -> None:
    """4·3 and 3·2 weights. The first layer's input takes no gradient, the second's does."""
    assert price(network(), x(1)) == {"encoder": (24, 24), "head": (12, 24)}


def test_a_convolution_costs_twice_its_kernel_for_each_output() -> None:
    """3x3 of 1 channel on 7x7: 2·25 outputs of 9 products; 5x5 of 2 channels with stride 2: 4·9 outputs of 50."""
    encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 4, 5, stride=2, padding=2), nn.Flatten())
    model = Classifier(encoder, nn.Linear(36, 3), 3)
    first, second, head = 2 * 50 * 9, 2 * 36 * 50, 2 * 36 * 3
    assert price(model, torch.zeros(1, 1, 7, 7)) == {
        "encoder": (first + second, first + 2 * second), "head": (head, 2 * head),
    }  # fmt: skip


def test_a_head_of_several_layers_is_priced_whole_and_an_encoder_without_weights_is_free() -> None:
    model = Classifier(nn.Flatten(), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), 2)
    prices = price(model, x(1))
    assert prices["encoder"] == (0, 0)
    assert prices["head"] == (2 * (32 + 16), 4 * (32 + 16))


@pytest.mark.parametrize(("make", "expected"), [(MAKERS[1].values[0], (16, 16)), (wrapped, (36, 48))])  # type: ignore[attr-defined]
def test_a_network_that_cannot_be_parted_is_priced_as_one(
    make: Callable[[], nn.Module], expected: tuple[int, int]
) -> None:
    assert price(make(), x(1)) == {"head": expected}


def test_pricing_leaves_the_network_alone_and_does_not_ask_whether_it_is_frozen() -> None:
    model = network().train()
    state = deepcopy(model.state_dict())
    model.requires_grad_(False)
    assert price(model, x(1)) == price(network(), x(1))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


def test_attention_is_priced_too() -> None:
    """Four products of 8x8 weights for each of 5 tokens, and two of 5x5 by 8."""

    class Attention(nn.MultiheadAttention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x, x, x, need_weights=False)[0]

    forward, _ = price(Attention(8, 2, batch_first=True), torch.randn(1, 5, 8))["head"]
    assert forward == 2 * (4 * 5 * 64 + 2 * 25 * 8)


FORWARD, BACKWARD = 24 + 12, 24 + 24  # of one sample through network()


def test_forward_and_backward_passes_are_counted() -> None:
    model = network()
    counter = priced(model)
    with torch.no_grad():
        loss(model, 5)
    assert counter.flops == 5 * FORWARD
    loss(model, 3).backward()
    assert counter.flops == 8 * FORWARD + 3 * BACKWARD


def test_the_representation_alone_costs_the_encoder_alone() -> None:
    model = network()
    counter = priced(model)
    model.encode(x(4)).sum().backward()
    assert counter.flops == 4 * (24 + 24)


def test_a_frozen_encoder_costs_its_forward_pass() -> None:
    model = network()
    counter = priced(model)
    model.encoder.requires_grad_(False)
    loss(model, 5).backward()
    assert counter.flops == 5 * (FORWARD + 24)


@pytest.mark.parametrize("make", [MAKERS[1].values[0], wrapped])  # type: ignore[attr-defined]
def test_a_network_that_cannot_be_parted_costs_its_price(make: Callable[[], nn.Module]) -> None:
    model = make()
    counter = priced(model)
    forward, backward = counter.prices["head"]
    loss(model, 5).backward()
    assert counter.flops == 5 * (forward + backward)


def test_a_wrapped_networks_representation_costs_all_of_it() -> None:
    """The network has to run to its end for the hook to catch the input of its head."""
    model = wrapped()
    counter = priced(model)
    model.encode(x(4)).sum().backward()
    assert counter.flops == 4 * (36 + 48)


@pytest.mark.parametrize("make", MAKERS)
def test_copies_are_counted_with_the_model(make: Callable[[], nn.Module]) -> None:
    model = make()
    counter = priced(model)
    loss(model, 3).backward()
    one = counter.flops
    copies = [deepcopy(model), deepcopy(deepcopy(model))]
    for copy in copies:
        loss(copy, 3).backward()
    assert counter.flops == 3 * one > 0
    assert counter.gradients == 9


def test_a_graph_that_is_walked_twice_costs_two_backward_passes() -> None:
    model = network()
    counter = priced(model)
    output = loss(model, 5)
    output.backward(retain_graph=True)
    output.backward()
    assert counter.flops == 5 * (FORWARD + 2 * BACKWARD)


def test_a_measurement_holds_the_operations_inside_it() -> None:
    model = network()
    counter = priced(model)
    loss(model, 5)
    with measure(CPU, counter) as cost:
        loss(model, 2).backward()
    assert cost["flops"] == 2 * (FORWARD + BACKWARD)


def test_without_prices_there_are_no_operations() -> None:
    model, counter = network(), Counter()
    count_work(model, counter)
    loss(model, 5).backward()
    assert counter.flops == 0
