"""Architectures by name, all as `Classifier(encoder, head)`; networks from elsewhere through `Classifier.wrap`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.plan.spec import Count, Model, UnlearnBenchError


class Classifier(nn.Module):
    """A network in two parts: ``encode(x)`` is the representation ``[batch, features]``, the input of ``head``.

    Both are given out in float32 where they were computed in bfloat16: losses and attacks compare numbers that are
    closer to each other than its three digits.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.head, self.num_classes = encoder, head, num_classes

    def encode(self, x: Tensor) -> Tensor:
        return _single(self.encoder(x))

    def forward(self, x: Tensor) -> Tensor:
        return _single(self.head(self.encode(x)))

    @staticmethod
    def wrap(network: nn.Module, head: str, num_classes: int) -> Classifier:
        """Wrap any network that maps a batch to logits, naming its last layer: ``Classifier.wrap(net, "fc", 10)``.

        Raises AttributeError when the network has no layer of that name.
        """
        network.get_submodule(head)
        return _Wrapped(network, head, num_classes)


class _Wrapped(Classifier):
    """The network keeps all its weights under ``encoder``; the input of the named layer is caught by a pre-hook."""

    def __init__(self, network: nn.Module, head: str, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.encoder, self.head_name, self.num_classes = network, head, num_classes

    @property
    def head(self) -> nn.Module:  # type: ignore[override]
        return self.encoder.get_submodule(self.head_name)

    def encode(self, x: Tensor) -> Tensor:
        caught: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
        try:
            self.encoder(x)
        finally:
            handle.remove()
        return _single(caught[0])

    def forward(self, x: Tensor) -> Tensor:
        return _single(self.encoder(x))


def _single(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


@dataclass(frozen=True)
class CNN(Model):
    """CaMU's network for 28x28 images, sized to the input: the representation is 256-d, before any non-linearity.

    Theirs has each ReLU before its max-pool. The two commute, bit for bit; this order has a quarter of the ReLU's work.
    """

    stack: ClassVar[Mapping[str, int]] = {"cpu": 32}

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
        channels, height, width = input_shape
        encoder = nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), 256),
        )
        return Classifier(encoder, nn.Sequential(nn.Linear(256, 128), nn.Linear(128, num_classes)), num_classes)


def _torchvision() -> Any:
    """Imported on first need: it takes a second or two, and the CNN does without."""
    from torchvision import models

    return models


@dataclass(frozen=True)
class ResNet18(Model):
    """ResNet-18 (1512.03385) with the stem for small images: 3x3 convolution of stride 1, no max-pool."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
        network = _torchvision().resnet18()
        network.conv1 = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool, network.fc = nn.Identity(), nn.Identity()
        return Classifier(network, nn.Linear(512, num_classes), num_classes)


class _Resize(nn.Module):
    """Bilinear resize to ``size``; images that already have it (augmented ones) pass."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == self.size:
            return x
        return F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=x.shape[-1] > self.size)


@dataclass(frozen=True)
class ResNet18At224(Model):
    """torchvision's ResNet-18 from scratch on images resized to 224: CaMU's protocol for CIFAR."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
        network = _torchvision().resnet18()
        if input_shape[0] != 3:
            network.conv1 = nn.Conv2d(input_shape[0], 64, 7, stride=2, padding=3, bias=False)
        network.fc = nn.Identity()
        return Classifier(nn.Sequential(_Resize(224), network), nn.Linear(512, num_classes), num_classes)


def _conv(inputs: int, outputs: int, *, pool: bool = False) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class _Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


@dataclass(frozen=True)
class ResNet9(Model):
    """The nine-layer residual network of the DAWNBench entries (myrtle.ai, "How to train your ResNet")."""

    width: Count = 64

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
        w = self.width
        encoder = nn.Sequential(
            _conv(input_shape[0], w),
            _conv(w, 2 * w, pool=True),
            _Residual(_conv(2 * w, 2 * w), _conv(2 * w, 2 * w)),
            _conv(2 * w, 4 * w, pool=True),
            _conv(4 * w, 8 * w, pool=True),
            _Residual(_conv(8 * w, 8 * w), _conv(8 * w, 8 * w)),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        return Classifier(encoder, nn.Linear(8 * w, num_classes), num_classes)


@dataclass(frozen=True)
class VGG16BN(Model):
    """VGG-16 with BatchNorm (1409.1556), its fully connected layers replaced by average pooling: the form for CIFAR."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
        if min(input_shape[1:]) < 32:
            raise UnlearnBenchError(
                f"model 'vgg16_bn' halves the image five times and needs 32x32, not {input_shape[1:]}"
            )
        features = _torchvision().vgg16_bn().features
        if input_shape[0] != 3:
            features[0] = nn.Conv2d(input_shape[0], 64, 3, padding=1)
        encoder = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return Classifier(encoder, nn.Linear(512, num_classes), num_classes)


@dataclass(frozen=True)
class ViTTiny(Model):
    """A vision transformer (2010.11929) of width 192, 12 layers and 3 heads, with 8 to 14 patches a side."""

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
        channels, height, width = input_shape
        if height != width:
            raise UnlearnBenchError(f"model 'vit_tiny' takes square images, not {height}x{width}")
        patch = next(p for p in range(max(1, height // 8), 0, -1) if height % p == 0)
        network = _torchvision().VisionTransformer(height, patch, 12, 3, 192, 768, num_classes=num_classes)
        if channels != 3:
            network.conv_proj = nn.Conv2d(channels, 192, patch, stride=patch)
        network.heads = nn.Identity()
        return Classifier(network, nn.Linear(192, num_classes), num_classes)


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether a sample's output in train mode depends on the rest of its batch or on chance (BatchNorm, dropout)."""
    dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in model.modules())
    return dropout or any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def build_model(model: Model, input_shape: tuple[int, int, int], num_classes: int, seed: int) -> Classifier:
    """Fresh weights that depend on ``seed`` alone; torch's global generators stay as they are.

    Their memory format is channels-last, in which a forward pass of the CNN takes half the time on a CPU. A weight is
    then flattened by ``reshape(-1)``; ``view(-1)`` raises.

    Raises UnlearnBenchError where the network has another number of logits than there are classes, or writes into its
    input.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = model.build(input_shape, num_classes).to(memory_format=torch.channels_last)
        kind = type(model), repr(model), input_shape, num_classes
        if kind not in _looked_at:  # once, and not in the time of a method that makes a network
            check_outputs(network, input_shape, num_classes, torch.device("cpu"), f"model {type(model).__name__}")
            _looked_at.add(kind)
        return network


def check_same_architecture(network: nn.Module, expected: nn.Module, whose: str) -> None:
    """Raise UnlearnBenchError unless the state of ``network`` can be loaded into ``expected``."""
    found, wanted = ({n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (network, expected))
    if found != wanted:
        name = next(n for n in {**wanted, **found} if found.get(n) != wanted.get(n))
        raise UnlearnBenchError(
            f"{whose} returned a network of another architecture than {type(expected).__name__} of this cell, into "
            f"which its weights are loaded: {name} is {found.get(name, 'not there')}, expected "
            f"{wanted.get(name, 'none of that name')}"
        )


_looked_at: set[tuple[type, str, tuple[int, int, int], int]] = set()


@torch.no_grad()
def check_outputs(
    network: nn.Module, input_shape: tuple[int, int, int], num_classes: int, device: torch.device, whose: str
) -> None:
    """Raise UnlearnBenchError unless ``network`` maps images to logits ``[n, num_classes]`` and leaves them as they
    are: other networks are shown the same ones."""
    images = torch.linspace(-1, 1, 2 * math.prod(input_shape), device=device).view(2, *input_shape)
    given = images.clone()
    logits = deepcopy(network).eval()(given)
    if logits.shape != (len(images), num_classes):
        raise UnlearnBenchError(
            f"{whose}: its network maps {len(images)} images to a tensor of shape {tuple(logits.shape)}, expected "
            f"logits [{len(images)}, {num_classes}], one for each class"
        )
    if not torch.equal(given, images):
        raise UnlearnBenchError(
            f"{whose}: its network writes into the images that it is given; its first layer must not work in place"
        )
