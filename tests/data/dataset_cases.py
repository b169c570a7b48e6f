"""What the tests of datasets share: a dataset of a few grey images, and files as datasets come in."""

import io
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unlearnbench.data.datasets import (
    Named,
)


@dataclass(frozen=True)
class Toy(Named):
    name = "toy"
    num_classes = 2


@dataclass(frozen=True)
class PinnedToy(Toy):
    fingerprint = "0" * 64


def toy(train: int = 6, test: int = 2) -> dict[str, np.ndarray]:
    """Grey 2x2 images in Keras's layout, classes 0 and 1 in turn."""
    images = np.arange((train + test) * 4, dtype=np.uint8).reshape(-1, 2, 2)
    labels = np.arange(train + test) % 2
    return {"x_train": images[:train], "y_train": labels[:train], "x_test": images[train:], "y_test": labels[train:]}


def write_npz(path: Path, **changes: np.ndarray) -> Path:
    np.savez(path, allow_pickle=True, **(toy() | changes))
    return path


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()
