"""Datasets as uint8 arrays with a fingerprint, so that two laboratories know that they used the same bits."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from unlearnbench.data import sources
from unlearnbench.plan.arrays import Arrays
from unlearnbench.plan.spec import Count, Dataset, UnlearnBenchError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Scale = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of each channel, of values from 0 to 1


def default_root() -> Path:
    """The folder of local copies and downloads: ``$UNLEARNBENCH_DATA``, else ``~/.cache/unlearnbench/data``."""
    return Path(os.environ.get("UNLEARNBENCH_DATA") or "~/.cache/unlearnbench/data").expanduser()


def fingerprint_of(arrays: Arrays) -> str:
    """SHA-256 (hex) of a dataset.

    Hashed are, in this order, ``x_train``, ``y_train``, ``x_test``, ``y_test``: for each the ASCII line
    ``"<name> <sizes joined by commas>\\n"``, as in ``x_train 60000,1,28,28``, then its bytes in C order: images uint8
    ``[N, C, H, W]``; labels uint8, or little-endian uint16 where the dataset has more than 256 classes.
    """
    sha = hashlib.sha256()
    for key in sources.KEYS:
        array = np.ascontiguousarray(
            getattr(arrays, key), "u1" if key[0] == "x" or arrays.num_classes <= 256 else "<u2"
        )
        sha.update(f"{key} {','.join(map(str, array.shape))}\n".encode())
        sha.update(array.data)
    return sha.hexdigest()


def load(dataset: Dataset, root: Path) -> Arrays:
    """The dataset, checked and then limited. Raises UnlearnBenchError if it cannot be had or is not what was pinned."""
    arrays = checked(dataset, dataset.load(root))
    train, test = stratified(arrays.y_train, dataset.limit_train), stratified(arrays.y_test, dataset.limit_test)
    arrays = replace(arrays, x_train=arrays.x_train[train], y_train=arrays.y_train[train])
    return replace(arrays, x_test=arrays.x_test[test], y_test=arrays.y_test[test])


def checked(dataset: Dataset, arrays: Arrays) -> Arrays:
    """``arrays`` with their fingerprint. Raises UnlearnBenchError if the dataset has another one pinned."""
    found = fingerprint_of(arrays)
    if dataset.fingerprint not in (None, found):
        what = f"its fingerprint is {found}, expected {dataset.fingerprint}; delete it or put a good copy in its place"
        raise UnlearnBenchError(f"{arrays.source} does not hold the images of {type(dataset).__name__}: {what}")
    return replace(arrays, fingerprint=found)


def stratified(labels: np.ndarray, count: int | None) -> np.ndarray | slice:
    """Sorted positions of ``count`` of the ``labels``, every class with its share; all for None or too many."""
    if count is None or count >= len(labels):
        return slice(None)
    # A fixed seed, for a subset is a dataset, whatever the seeds of a run; a generator whose stream numpy never changes
    order = np.random.RandomState(0).permutation(len(labels))
    place = np.empty(len(labels))  # of a sample within its class, from 0 to 1
    for label in np.unique(labels):
        own = order[labels[order] == label]
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(order[np.argsort(place[order], kind="stable")[:count]])


def arrays_of(raw: sources.Raw, source: str, num_classes: int | None = None, scale: Scale | None = None) -> Arrays:
    """`Arrays` of raw ones in Keras's layout: images ``[N, H, W]`` or ``[N, H, W, C]``, labels ``[N]`` or ``[N, 1]``.

    ``num_classes`` is by default that of the classes in ``y_train``; ``scale`` is (mean, std), by default 0 and 1.
    """
    parts: dict[str, Any] = {}
    for key, array in raw.items():
        if key.startswith("x"):
            part = array[:, None] if array.ndim == 3 else np.moveaxis(array, -1, 1) if array.ndim == 4 else array
        else:
            part = array[:, 0] if array.shape[1:] == (1,) else array
            part = part.astype(np.int64) if part.dtype.kind in "iu" else part
        parts[key] = np.ascontiguousarray(part)
    classes = num_classes or len(np.unique(parts["y_train"]))
    channels = parts["x_train"].shape[1] if parts["x_train"].ndim == 4 else 0
    mean, std = scale or ((0.0,) * channels, (1.0,) * channels)
    return Arrays(**parts, num_classes=classes, mean=mean, std=std, superclass=None, source=source)


@dataclass(frozen=True)
class Named(Dataset):
    """Base of the datasets that `sources` can find. Plain 0..1 scale unless ``scale`` (mean, std) is given."""

    name: ClassVar[str]
    num_classes: ClassVar[int] = 10
    scale: ClassVar[Scale | None] = None

    def identity(self) -> int | str:
        return self.fingerprint or self.version

    def load(self, root: Path) -> Arrays:
        return sources.fetch(self.name, root, self.accept)

    def accept(self, raw: sources.Raw, source: str) -> Arrays:
        """The arrays of what a source gave. Raises UnlearnBenchError if they are not the pinned ones."""
        return checked(self, arrays_of(raw, source, self.num_classes, self.scale))


@dataclass(frozen=True)
class Digits(Named):
    """scikit-learn's 1,797 handwritten 8x8 digits (0..16, as uint8 ``v * 255 // 16``): 1,297, and a stratified 500."""

    name = "digits"
    like = ("mnist", "fashion-mnist", "svhn", "cifar10", "cifar20", "cifar100")
    fingerprint = "e461e35a9d89c20b78e567ecb4b4ab496b04203c746f02dc1e2f6e00b02a557c"

    def load(self, root: Path) -> Arrays:
        from sklearn.datasets import load_digits

        values, labels = map(np.asarray, load_digits(return_X_y=True))
        images = (values.astype(np.int64) * 255 // 16).astype(np.uint8).reshape(-1, 8, 8)
        test = stratified(labels, 500)
        parts = (np.delete(images, test, axis=0), np.delete(labels, test), images[test], labels[test])
        return self.accept(dict(zip(sources.KEYS, parts, strict=True)), "scikit-learn")


@dataclass(frozen=True)
class Mnist(Named):
    """MNIST: 60,000 and 10,000 handwritten digits, 28x28 grey."""

    name = "mnist"
    like = ("fashion-mnist", "svhn", "cifar10", "cifar20", "cifar100")
    fingerprint = "1f96c57e6f531f33075bb616d832fba69e5636c895e3222c66b7f639a072dae3"


@dataclass(frozen=True)
class FashionMnist(Named):
    """Fashion-MNIST: 60,000 and 10,000 articles of clothing, 28x28 grey."""

    name = "fashion-mnist"
    like = ("mnist", "svhn", "cifar10", "cifar20", "cifar100")
    fingerprint = "a7e29be7f3648c6a32e43a15ecc8201702f5f887b32e0c00bb6e87dd7357806d"


@dataclass(frozen=True)
class Kmnist(Named):
    """Kuzushiji-MNIST: 60,000 and 10,000 cursive characters, 28x28 grey. Not pinned: no copy was at hand."""

    name = "kmnist"
    like = ("mnist", "fashion-mnist", "svhn", "cifar10", "cifar20", "cifar100")


@dataclass(frozen=True)
class Svhn(Named):
    """SVHN, cropped: 73,257 and 26,032 house-number digits, 32x32 RGB. Not pinned: no copy was at hand."""

    name = "svhn"
    like = ("cifar10", "mnist", "fashion-mnist", "cifar20", "cifar100")
    scale = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))


@dataclass(frozen=True)
class Cifar10(Named):
    """CIFAR-10: 50,000 and 10,000 32x32 RGB pictures of 10 classes, normalised by its own constants or ImageNet's."""

    name = "cifar10"
    like: ClassVar[tuple[str, ...]] = ("svhn", "cifar20", "cifar100", "tiny-imagenet")
    fingerprint: ClassVar[str | None] = "0e015c444b00b72b742fd2ec18c472d5348ff180e6cd60a7ecee9744fb1be47d"
    scale = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    normalisation: Literal["dataset", "imagenet"] = "dataset"

    def accept(self, raw: sources.Raw, source: str) -> Arrays:
        arrays = super().accept(raw, source)
        return replace(arrays, mean=IMAGENET[0], std=IMAGENET[1]) if self.normalisation == "imagenet" else arrays


@dataclass(frozen=True)
class Cifar100(Cifar10):
    """CIFAR-100: 50,000 and 10,000 32x32 RGB pictures of 100 classes. Not pinned: no copy was at hand."""

    name = "cifar100"
    like = ("cifar20", "tiny-imagenet", "cifar10", "svhn")
    fingerprint = None
    num_classes = 100
    scale = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

    def accept(self, raw: sources.Raw, source: str) -> Arrays:
        return replace(super().accept(raw, source), superclass=np.array(CIFAR100_SUPERCLASS))


@dataclass(frozen=True)
class Npz(Dataset):
    """Your own arrays: a Keras-style ``.npz`` with x_train, y_train, x_test, y_test, scaled to 0..1.

    Images are uint8 ``[N, H, W]`` or ``[N, H, W, C]`` with 1 or 3 channels; labels are integers ``[N]`` from 0, every
    class present in training. ``path`` is relative to the working directory. Identity: SHA-256 of the file.
    """

    path: str = field(kw_only=True)

    def identity(self) -> str:
        try:
            return hashlib.sha256(Path(self.path).expanduser().read_bytes()).hexdigest()
        except OSError as error:
            raise UnlearnBenchError(f"cannot read the dataset {self.path}: {error}") from error

    def load(self, root: Path) -> Arrays:
        return arrays_of(sources.read_npz(Path(self.path).expanduser())[0], self.path)


@dataclass(frozen=True)
class ImageFolder(Dataset):
    """Your own pictures, ``path/train/<class>/*`` and ``path/test/<class>/*`` (png, jpg, bmp, webp), scaled to 0..1.

    Each becomes RGB ``size`` x ``size`` (bilinear), in sorted order. Identity: SHA-256 over names, lengths and bytes.
    """

    path: str = field(kw_only=True)
    size: Count = 32

    def identity(self) -> str:
        sha = hashlib.sha256()
        for file in (*self._files("train"), *self._files("test")):
            body = file.read_bytes()
            sha.update(f"{'/'.join(file.parts[-3:])}\n{len(body)}\n".encode() + body)
        return sha.hexdigest()

    def load(self, root: Path) -> Arrays:
        classes = sorted({file.parent.name for file in self._files("train")})
        raw = {}
        for split in ("train", "test"):
            files = self._files(split)
            if unknown := sorted({file.parent.name for file in files} - set(classes)):
                raise UnlearnBenchError(f"{self.path}/test has classes that train lacks: {', '.join(unknown)}")
            raw[f"x_{split}"] = np.stack([self._picture(file) for file in files])
            raw[f"y_{split}"] = np.array([classes.index(file.parent.name) for file in files])
        return arrays_of(raw, self.path)

    def _files(self, split: str) -> list[Path]:
        found = sorted((Path(self.path).expanduser() / split).glob("*/*"))
        if files := [file for file in found if file.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".webp")]:
            return files
        raise UnlearnBenchError(f"{self.path} has no pictures {split}/<class>/*.png (or jpg, jpeg, bmp, webp)")

    def _picture(self, file: Path) -> np.ndarray:
        from PIL import Image

        try:
            with Image.open(file) as picture:
                return np.asarray(picture.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnlearnBenchError(f"{file} is broken, truncated or no picture ({error}); replace it") from error


# The superclass (0..19, alphabetical) of each class (0..99, alphabetical)
CIFAR100_SUPERCLASS = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip
