"""Architectures: shapes, determinism, and the promise that ``encode`` gives the input of the head."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Model, UnlearnBenchError
from unlearnbench.training.models import Classifier, build_model, has_batch_statistics

# name, parameters, input shape, features of the representation
ARCHITECTURES: list[tuple[str, dict[str, Any], tuple[int, int, int], int]] = [
    ("cnn", {}, (1, 8, 8), 256),
    ("cnn", {}, (1, 28, 28), 256),
    ("cnn", {}, (3, 32, 32), 256),
    ("resnet18", {}, (3, 32, 32), 512),
    ("resnet18", {}, (1, 8, 8), 512),
    ("resnet18-224", {}, (3, 32, 32), 512),
    ("resnet18-224", {}, (1, 28, 28), 512),
    ("resnet9", {"width": 4}, (3, 32, 32), 32),
    ("resnet9", {"width": 4}, (1, 8, 8), 32),
    ("vgg16_bn", {}, (3, 32, 32), 512),
    ("vgg16_bn", {}, (1, 32, 32), 512),
    ("vit_tiny", {}, (3, 32, 32), 192),
    ("vit_tiny", {}, (1, 28, 28), 192),
    ("vit_tiny", {}, (1, 8, 8), 192),
]


@pytest.mark.parametrize(("name", "params", "shape", "features"), ARCHITECTURES)
def test_a_registered_model_is_an_encoder_and_a_head(
    name: str, params: dict[str, Any], shape: tuple[int, int, int], features: int
) -> None:
    model = build_model(build("models", name, params), shape, 7, seed=0).eval()
    x = torch.rand(2, *shape)
    with torch.no_grad():
        h, logits = model.encode(x), model(x)
    assert h.shape == (2, features)
    assert logits.shape == (2, 7)
    assert torch.equal(model.head(h), logits)
    assert logits.isfinite().all()
    assert model.num_classes == 7
    assert not torch.equal(h[0], h[1])


def count(name: str, shape: tuple[int, int, int], num_classes: int) -> int:
    return sum(p.numel() for p in build_model(build("models", name, {}), shape, num_classes, 0).parameters())


def test_sizes_are_those_of_the_papers() -> None:
    # 5x5 convolutions 1 -> 16 -> 32, 1568 -> 256 -> 128 -> 10, weights and biases
    assert count("cnn", (1, 28, 28), 10) == 416 + 12_832 + 401_664 + 32_896 + 1_290
    assert count("resnet18", (3, 32, 32), 10) == 11_173_962
    assert count("resnet18-224", (3, 32, 32), 10) == 11_181_642
    assert count("vgg16_bn", (3, 32, 32), 10) == 14_728_266


def test_images_that_do_not_fit_are_refused_with_what_does() -> None:
    with pytest.raises(UnlearnBenchError, match=r"'vgg16_bn'.*needs 32x32, not (28x28|\(28, 28\))"):
        build_model(build("models", "vgg16_bn", {}), (1, 28, 28), 10, 0)
    with pytest.raises(UnlearnBenchError, match=r"'vit_tiny' takes square images, not 32x16"):
        build_model(build("models", "vit_tiny", {}), (3, 32, 16), 10, 0)


def test_weights_depend_on_the_seed_alone() -> None:
    cnn = build("models", "cnn", {})
    states = []
    for seed, disturb in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(disturb)
        states.append(torch.cat([p.flatten() for p in build_model(cnn, (1, 8, 8), 3, seed).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_building_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model(build("models", "cnn", {}), (1, 8, 8), 3, seed=0)
    assert torch.equal(torch.rand(3), expected)


# --- networks from elsewhere -----------------------------------------------------------------------------------------


class Outside(nn.Module):
    """Laid out as torchvision's networks are: everything in one module, the last layer under a name."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.classifier = nn.Sequential(nn.Linear(16, 6), nn.Dropout(dropout), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


@pytest.mark.parametrize(("head", "features"), [("classifier", 16), ("classifier.2", 6)])
def test_a_wrapped_network_has_the_input_of_the_named_layer_as_its_representation(head: str, features: int) -> None:
    network, x = Outside(), torch.rand(5, 1, 8, 8)
    wrapped = Classifier.wrap(network, head, 3)
    assert wrapped.encode(x).shape == (5, features)
    assert torch.equal(wrapped(x), network(x))
    assert torch.equal(wrapped.head(wrapped.encode(x)), network(x))
    assert wrapped.num_classes == 3


def test_wrapping_adds_no_weights_and_leaves_no_hooks() -> None:
    network = Outside()
    wrapped = Classifier.wrap(network, "classifier", 3)
    wrapped.encode(torch.rand(1, 1, 8, 8))
    assert {id(p) for p in wrapped.parameters()} == {id(p) for p in network.parameters()}
    assert len(list(wrapped.parameters())) == 6
    assert not any(module._forward_pre_hooks for module in wrapped.modules())


def test_the_hook_goes_even_when_the_network_fails() -> None:
    wrapped = Classifier.wrap(Outside(), "classifier", 3)
    with pytest.raises(RuntimeError):
        wrapped.encode(torch.rand(1, 9, 8, 8))
    assert not any(module._forward_pre_hooks for module in wrapped.modules())


def test_a_copy_of_a_wrapped_network_is_independent() -> None:
    wrapped, x = Classifier.wrap(Outside(), "classifier", 3), torch.rand(2, 1, 8, 8)
    copy, before = deepcopy(wrapped), wrapped.encode(x)
    with torch.no_grad():
        for p in copy.parameters():
            p.zero_()
    assert torch.equal(wrapped.encode(x), before)
    assert copy.encode(x).abs().sum() == 0


def test_a_gradient_flows_through_the_representation() -> None:
    wrapped = Classifier.wrap(Outside(), "classifier", 3)
    wrapped.encode(torch.rand(2, 1, 8, 8)).sum().backward()
    weight = wrapped.get_parameter("encoder.features.0.weight")
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    assert wrapped.get_parameter("encoder.classifier.0.weight").grad is None


def test_a_layer_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(AttributeError, match="fc"):
        Classifier.wrap(Outside(), "fc", 3)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Outside(), False),
        (Outside(dropout=0.5), True),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), True),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), False),
    ],
)
def test_batch_statistics_are_batchnorm_and_dropout(model: nn.Module, expected: bool) -> None:
    assert has_batch_statistics(model) == expected


@dataclass(frozen=True)
class Odd(Model):
    """A network of other logits than there are classes, or whose first layer works in place."""

    more: int = 0
    in_place: bool = False

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
        first = nn.ReLU(inplace=True) if self.in_place else nn.Identity()
        return Classifier(nn.Sequential(first, nn.Flatten()), nn.Linear(64, num_classes + self.more), num_classes)


def test_a_network_with_more_logits_than_classes_is_refused_by_name() -> None:
    build_model(Odd(), (1, 8, 8), 10, 0)
    with pytest.raises(UnlearnBenchError, match=r"model Odd: .* shape \(2, 12\), expected logits \[2, 10\]"):
        build_model(Odd(more=2), (1, 8, 8), 10, 0)


def test_a_network_that_writes_into_its_images_is_refused_by_name() -> None:
    with pytest.raises(UnlearnBenchError, match="model Odd: its network writes into the images that it is given"):
        build_model(Odd(in_place=True), (1, 8, 8), 10, 0)
