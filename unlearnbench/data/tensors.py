"""Data resident on the device as tensors: normalised once, batched and augmented there, without loader workers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unlearnbench.plan.arrays import Arrays
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.spec import AccessDenied

Augment = Callable[[Tensor, torch.Generator], Tensor]


def derive_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose: draws for one never shift those for another."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


def forked(device: torch.device) -> AbstractContextManager[None]:
    """torch's global generators, of the CPU and of ``device``, as they were afterwards. Those of other GPUs are not
    looked at, which would set these up."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose))


@dataclass(frozen=True)
class Data:
    """A dataset on a device. Images float32 ``[N, C, H, W]``, normalised; labels int64 ``[N]``; validation apart."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    x_validation: Tensor
    y_validation: Tensor
    num_classes: int
    fingerprint: str
    source: str
    root: Path | None = None  # the folder of datasets, where surrogate images are looked for

    def checksums(self) -> list[Tensor]:
        """The labels, and a weighted sum of each image's values: they differ once anything wrote into the tensors."""
        images, labels = (self.x_train, self.x_test, self.x_validation), (self.y_train, self.y_test, self.y_validation)
        weights = torch.linspace(1, 2, math.prod(self.input_shape)).to(self.x_train)
        return [*(x.reshape(len(x), len(weights)) @ weights for x in images), *(y.clone() for y in labels)]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.x_train.shape
        return channels, height, width

    @staticmethod
    def of(arrays: Arrays, validation: float, device: torch.device, root: Path | None = None) -> Data:
        """``validation`` is the stratified share of the test split that is set aside, the same for every seed."""
        held = _stratified_share(arrays.y_test, validation)
        mean = torch.tensor(arrays.mean, device=device).view(1, -1, 1, 1)
        std = torch.tensor(arrays.std, device=device).view(1, -1, 1, 1)

        def images(x: np.ndarray) -> Tensor:
            return torch.tensor(x, device=device).float().div_(255).sub_(mean).div_(std)

        def labels(y: np.ndarray) -> Tensor:
            return torch.tensor(y, device=device)

        return Data(
            x_train=images(arrays.x_train),
            y_train=labels(arrays.y_train),
            x_test=images(arrays.x_test[~held]),
            y_test=labels(arrays.y_test[~held]),
            x_validation=images(arrays.x_test[held]),
            y_validation=labels(arrays.y_test[held]),
            num_classes=arrays.num_classes,
            fingerprint=arrays.fingerprint,
            source=arrays.source,
            root=root,
        )


def _stratified_share(labels: np.ndarray, share: float) -> np.ndarray:
    """Mask of ``share`` of the samples of each class, rounded, at a fixed seed."""
    mask = np.zeros(len(labels), bool)
    rng = np.random.default_rng(0)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        mask[rng.choice(members, round(share * len(members)), replace=False)] = True
    return mask


class Counter:
    """What a method used: samples handed out, per-sample gradients and floating-point operations (`cost.count_work`).

    ``prices`` are the operations of a forward and of a backward pass of one sample through each part of the model.
    """

    def __init__(self, prices: Mapping[str, tuple[int, int]] | None = None) -> None:
        self.prices = prices or {}
        self.samples = 0
        self.gradients = 0
        self.flops = 0


class Samples:
    """A set of samples on the device. ``x`` is float32 ``[n, C, H, W]``; ``y`` int64 ``[n]``, or None without labels.

    The first k samples are a uniform sample of size k. Every sample handed out is counted.
    """

    def __init__(self, x: Tensor, y: Tensor | None, seed: int, augment: Augment | None, counter: Counter) -> None:
        self._x, self._y, self._seed, self._augment, self._counter = x, y, seed, augment, counter
        self._draws = 0  # every pass over the data has an order of its own

    def __len__(self) -> int:
        return len(self._x)

    @property
    def device(self) -> torch.device:
        return self._x.device

    @property
    def labels(self) -> Tensor:
        """Labels in the order of the set, int64 ``[n]``. Raises AccessDenied where there are none."""
        if self._y is None:
            raise AccessDenied("these samples carry no labels: add Access.LABELS to the method's needs")
        return self._y

    def images(self, *, augment: bool = False) -> Tensor:
        """The whole set at once, in its order; with a new draw of the recipe's augmentation if asked."""
        if augment and self._augment is not None:
            return torch.cat(list(self.augmented_images()))
        self._counter.samples += len(self)
        return self._x

    def augmented_images(self) -> Iterator[Tensor]:
        """The whole set in its order with a new draw of the recipe's augmentation, some at a time: augmented images may
        be much larger."""
        self._counter.samples += len(self)
        if self._augment is None:
            yield self._x
            return
        rng = self._generator("images")
        self._draws += 1
        for x in self._x.split(256):
            yield self._augment(x, rng)

    @property
    def augmented(self) -> bool:
        """Whether the recipe augments: two passes over the set then see different images."""
        return self._augment is not None

    def take(self, n: int) -> Samples:
        """A uniform sample of ``n``, the same for every method of a split seed."""
        return self.replace(self._x[:n], self._y if self._y is None else self._y[:n])

    def replace(self, x: Tensor, y: Tensor | None = None) -> Samples:
        """Other images and labels, counted and augmented as this set's are."""
        return Samples(x, y, derive_seed(self._seed, f"replace {len(x)}"), self._augment, self._counter)

    def batches(
        self, size: int, *, shuffle: bool = True, augment: bool = True, extra: tuple[Tensor, ...] = ()
    ) -> Iterator[tuple[Tensor, ...]]:
        """One pass in batches ``(x, y, *extra)``, without ``y`` where there are no labels; the last may be smaller.

        ``augment`` applies the recipe's augmentation, if it has one; ``extra`` are tensors ``[n, ...]`` that go along.
        """
        order_rng, augment_rng = self._generator("order", "cpu"), self._generator("augment")
        self._draws += 1
        columns = (self._x, *(() if self._y is None else (self._y,)), *extra)
        order = torch.randperm(len(self), generator=order_rng).to(self._x.device) if shuffle else None
        for start in range(0, len(self), size):
            index = slice(start, start + size) if order is None else order[start : start + size]
            x, *rest = (column[index] for column in columns)
            self._counter.samples += len(x)
            if augment and self._augment is not None:
                x = self._augment(x, augment_rng)
            yield (x, *rest)

    def _generator(self, purpose: str, device: str | None = None) -> torch.Generator:
        return generator(self._seed, f"{purpose} {self._draws}", device or self._x.device)


# --- augmentation: batched tensor code on the device -----------------------------------------------------------------


def augmentation(recipe: Recipe) -> Augment | None:
    if recipe.augment == "crop_flip":
        return partial(crop_flip, padding=4)
    if recipe.augment == "resized_crop_flip":
        return partial(resized_crop_flip, size=recipe.image_size)
    return None


def _uniform(n: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng, device=rng.device) * (high - low) + low


def crop_flip(x: Tensor, rng: torch.Generator, padding: int) -> Tensor:
    """Zero-pad by ``padding``, crop back at a random place, flip with probability one half; each image its own draw."""
    n, _, height, width = x.shape
    offsets = torch.randint(2 * padding + 1, (n, 2), generator=rng, device=rng.device)
    flip = torch.rand(n, generator=rng, device=rng.device) < 0.5
    padded = F.pad(x, (padding,) * 4)
    rows = offsets[:, :1] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).repeat(n, 1)
    columns = offsets[:, 1:] + torch.where(flip[:, None], columns.flip(1), columns)
    batch = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def resized_crop_flip(x: Tensor, rng: torch.Generator, size: int | None) -> Tensor:
    """A random crop of 8 to 100% of the area and aspect 3/4 to 4/3, resized to ``size`` (None: as it was), and a flip.

    Crop and resize are one bilinear interpolation. The law is that of torchvision's RandomResizedCrop, except that a
    crop that would leave the image is cut to it instead of being drawn again.
    """
    n, channels, height, width = x.shape
    area = _uniform(n, 0.08, 1.0, rng) * height * width
    aspect = _uniform(n, math.log(3 / 4), math.log(4 / 3), rng).exp()
    h = ((area / aspect).sqrt() / height).clamp(max=1)
    w = ((area * aspect).sqrt() / width).clamp(max=1)
    centre_y, centre_x = _uniform(n, -1, 1, rng) * (1 - h), _uniform(n, -1, 1, rng) * (1 - w)
    flip = torch.where(torch.rand(n, generator=rng, device=rng.device) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(h)
    rows = torch.stack([w * flip, zero, centre_x, zero, h, centre_y], 1).view(n, 2, 3)
    target = [n, channels, size or height, size or width]
    return F.grid_sample(
        x, F.affine_grid(rows, target, align_corners=False), padding_mode="border", align_corners=False
    )
