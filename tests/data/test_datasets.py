"""Datasets: what is accepted, what is refused and how."""

import hashlib
import json
import struct
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dataset_cases import Toy, toy, write_npz
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from unlearnbench.data import sources
from unlearnbench.data.datasets import (
    CIFAR100_SUPERCLASS,
    Cifar10,
    Cifar100,
    Digits,
    ImageFolder,
    Kmnist,
    Mnist,
    Npz,
    arrays_of,
    default_root,
    fingerprint_of,
    load,
    stratified,
)
from unlearnbench.plan.cells import Plugin
from unlearnbench.plan.spec import UnlearnBenchError

# --- the embedded default --------------------------------------------------------------------------------------------


def test_digits_are_pinned(tmp_path: Path) -> None:
    arrays = load(Digits(), tmp_path)
    assert arrays.fingerprint == "e461e35a9d89c20b78e567ecb4b4ab496b04203c746f02dc1e2f6e00b02a557c"
    assert Digits().identity() == arrays.fingerprint
    assert (arrays.x_train.shape, arrays.x_test.shape) == ((1297, 1, 8, 8), (500, 1, 8, 8))
    assert np.bincount(arrays.y_train).tolist() == [128, 131, 128, 132, 131, 131, 131, 129, 126, 130]
    assert np.bincount(arrays.y_test).tolist() == [50, 51, 49, 51, 50, 51, 50, 50, 48, 50]
    assert (arrays.num_classes, arrays.mean, arrays.std, arrays.source) == (10, (0.0,), (1.0,), "scikit-learn")
    assert arrays.x_train.max() == 255
    assert list(tmp_path.iterdir()) == []


def test_limits_keep_shares_and_never_change(tmp_path: Path) -> None:
    whole, part = load(Digits(), tmp_path), load(Digits(limit_train=130, limit_test=50), tmp_path)
    assert np.bincount(part.y_train).tolist() == [13] * 10
    assert np.abs(np.bincount(part.y_test) - 5).max() <= 1
    assert part.fingerprint == whole.fingerprint
    again = load(Digits(limit_train=130, limit_test=50), tmp_path)
    assert np.array_equal(part.x_train, again.x_train)
    assert np.array_equal(part.y_test, again.y_test)
    assert len(load(Digits(limit_train=5000), tmp_path).y_train) == 1297


def test_stratified_positions() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    positions = stratified(labels, 20)
    assert isinstance(positions, np.ndarray)
    assert np.bincount(labels[positions]).tolist() == [12, 6, 2]
    assert np.all(np.diff(positions) > 0)
    assert positions.tolist() != list(range(12)) + list(range(60, 66)) + [90, 91]  # drawn, not the first of each


# --- arrays and fingerprints -----------------------------------------------------------------------------------------


def test_fingerprint_is_what_its_docstring_says() -> None:
    arrays = arrays_of(toy(2, 1), "here")
    expected = (
        b"x_train 2,1,2,2\n" + bytes(range(8)) + b"y_train 2\n\x00\x01"
        b"x_test 1,1,2,2\n" + bytes(range(8, 12)) + b"y_test 1\n\x00"
    )
    assert fingerprint_of(arrays) == hashlib.sha256(expected).hexdigest()


def test_fingerprint_of_many_classes_has_two_byte_labels() -> None:
    labels = np.arange(300)
    images = np.zeros((300, 1, 1), np.uint8)
    arrays = arrays_of({"x_train": images, "y_train": labels, "x_test": images[:1], "y_test": labels[299:]}, "here")
    body = b"".join(struct.pack("<H", label) for label in range(300))
    expected = b"x_train 300,1,1,1\n" + bytes(300) + b"y_train 300\n" + body + b"x_test 1,1,1,1\n\0y_test 1\n\x2b\x01"
    assert fingerprint_of(arrays) == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((6, 1, 2, 2), np.float32)}, "x_train is float32"),
        ({"x_train": np.zeros((6, 2, 2), np.uint8)}, r"x_train is uint8 \[6, 2, 2\]"),
        ({"x_test": np.zeros((2, 1, 3, 2), np.uint8)}, "in x_train but"),
        ({"x_test": np.zeros((0, 1, 2, 2), np.uint8)}, "x_test is uint8"),
        ({"y_train": np.zeros(5, np.int64)}, "one for each of 6 images"),
        ({"y_train": np.full(6, 2)}, "labels 2 to 2, expected 0 to 1"),
        ({"y_test": np.array([-1, 0])}, "labels -1 to 0"),
        ({"mean": (0.0, 0.0)}, "for each channel"),
        ({"std": (0.0,)}, "std above 0"),
        ({"superclass": np.zeros(3, np.int64)}, r"superclass is \[3\], expected \[2\]"),
    ],
)
def test_arrays_refuse(change: dict, message: str) -> None:
    with pytest.raises(UnlearnBenchError, match=message) as caught:
        replace(arrays_of(toy(), "toy.npz"), **change)
    assert "toy.npz" in str(caught.value)


# --- the user's own --------------------------------------------------------------------------------------------------


def test_npz_round_trip(tmp_path: Path) -> None:
    rgb = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 2, 2, 3)
    path = write_npz(tmp_path / "own.npz", x_train=rgb, x_test=rgb[:2], y_train=np.array([[0], [1]] * 3, np.uint8))
    dataset = Npz(path=str(path))
    arrays = load(dataset, tmp_path)
    assert arrays.x_train.shape == (6, 3, 2, 2)
    assert arrays.x_train[1, 2, 0, 1] == rgb[1, 0, 1, 2]
    assert arrays.y_train.tolist() == [0, 1, 0, 1, 0, 1]
    assert (arrays.num_classes, arrays.mean, arrays.std) == (2, (0.0,) * 3, (1.0,) * 3)
    assert dataset.identity() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load(Npz(path=str(write_npz(tmp_path / "grey.npz"))), tmp_path).x_train.shape == (6, 1, 2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((6, 2, 2), np.float64)}, "x_train is float64"),
        ({"x_train": np.zeros((6, 4), np.uint8)}, "x_train is uint8"),
        ({"x_train": np.zeros((6, 2, 2, 4), np.uint8)}, "1 or 3 channels"),
        ({"y_train": np.zeros((6, 2), np.int64)}, r"y_train is int64 \[6, 2\]"),
        ({"y_train": np.zeros(6)}, "y_train is float64"),
        ({"y_train": np.array(["a"] * 6)}, "y_train is <U1"),
        ({"y_train": np.array([1, 2] * 3)}, "labels 1 to 2, expected 0 to 1"),
        ({"y_test": np.array([0, 5])}, "labels 0 to 5, expected 0 to 1"),
        ({"y_train": np.array([{"a": 1}] * 6)}, "not plain arrays"),
    ],
)
def test_npz_refuses(tmp_path: Path, changes: dict, message: str) -> None:
    path = write_npz(tmp_path / "own.npz", **changes)
    with pytest.raises(UnlearnBenchError, match=message) as caught:
        load(Npz(path=str(path)), tmp_path)
    assert "own.npz" in str(caught.value)


def test_npz_lacking_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x_train=np.zeros(1), y=np.zeros(1))
    with pytest.raises(UnlearnBenchError, match=r"own\.npz lacks y_train, x_test, y_test; it has x_train, y"):
        load(Npz(path=str(tmp_path / "own.npz")), tmp_path)


def test_a_missing_npz_is_named(tmp_path: Path) -> None:
    dataset = Npz(path=str(tmp_path / "none.npz"))
    for use in (dataset.identity, partial(dataset.load, tmp_path)):
        with pytest.raises(UnlearnBenchError, match=r"none\.npz"):
            use()


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "pickle"])
def test_a_broken_local_copy_is_refused_by_name(tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCES", {"toy": []})
    path = write_npz(tmp_path / "toy.npz")
    body = bytearray(path.read_bytes())
    if damage == "flipped":
        body[body.index(bytes(range(24)))] ^= 1
    damaged = {"empty": b"", "half": bytes(body[: len(body) // 2]), "pickle": b"\x80\x04N.", "flipped": bytes(body)}
    path.write_bytes(damaged[damage])
    before = path.read_bytes()
    with pytest.raises(UnlearnBenchError, match=r"toy\.npz is missing, broken, truncated .* delete it"):
        load(Toy(), tmp_path)
    assert path.read_bytes() == before


def test_image_folder(tmp_path: Path) -> None:
    for split, shade in (("train", 40), ("test", 80)):
        for label in ("cat", "ant"):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "notes.txt").write_text("no picture")
            for number, suffix in enumerate(("png", "BMP")):
                colour = (shade + number, 0, 100 if label == "ant" else 200)
                Image.new("RGB", (7, 5), colour).save(tmp_path / split / label / f"{number}.{suffix}")
    dataset = ImageFolder(path=str(tmp_path), size=4)
    arrays = load(dataset, tmp_path)
    assert arrays.x_train.shape == (4, 3, 4, 4)
    assert arrays.y_train.tolist() == [0, 0, 1, 1]
    assert arrays.x_train[:, 0, 0, 0].tolist() == [40, 41, 40, 41]
    assert arrays.x_test[:, 2, 3, 3].tolist() == [100, 100, 200, 200]

    identity = dataset.identity()
    (tmp_path / "train" / "ant" / "0.png").rename(tmp_path / "train" / "ant" / "2.png")
    assert dataset.identity() != identity
    broken = tmp_path / "test" / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(UnlearnBenchError, match=r"cat/0\.png is broken"):
        load(dataset, tmp_path)
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "dog")
    with pytest.raises(UnlearnBenchError, match="classes that train lacks: dog"):
        load(dataset, tmp_path)
    with pytest.raises(UnlearnBenchError, match="no pictures train"):
        load(ImageFolder(path=str(tmp_path / "train")), tmp_path)


# --- plugins ---------------------------------------------------------------------------------------------------------


def test_cifar100_superclasses() -> None:
    counts = np.bincount(CIFAR100_SUPERCLASS)
    assert counts.tolist() == [5] * 20
    # apple: fruit and vegetables; aquarium fish: fish; baby: people; worm: non-insect invertebrates
    assert [CIFAR100_SUPERCLASS[i] for i in (0, 1, 2, 99)] == [4, 1, 14, 13]
    # maple, oak, palm, pine and willow are the trees
    assert [i for i, superclass in enumerate(CIFAR100_SUPERCLASS) if superclass == 17] == [47, 52, 56, 59, 96]


def test_cifar100_carries_its_superclasses_and_scale(tmp_path: Path) -> None:
    images = np.zeros((100, 32, 32, 3), np.uint8)
    labels = np.arange(100)
    write_npz(tmp_path / "cifar100.npz", x_train=images, y_train=labels, x_test=images[:1], y_test=labels[:1])
    arrays = load(Cifar100(), tmp_path)
    assert arrays.superclass is not None
    assert arrays.superclass.tolist() == list(CIFAR100_SUPERCLASS)
    assert (arrays.mean, arrays.std) == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    assert load(Cifar100(normalisation="imagenet"), tmp_path).mean == (0.485, 0.456, 0.406)


def test_identity_is_the_pinned_fingerprint() -> None:
    assert Mnist().identity() == "1f96c57e6f531f33075bb616d832fba69e5636c895e3222c66b7f639a072dae3"
    assert Kmnist().identity() == 1
    assert Plugin.of("cifar10", Cifar10()).params == {
        "validation": 0.1,
        "limit_train": None,
        "limit_test": None,
        "normalisation": "dataset",
    }


def test_parameters_are_validated() -> None:
    assert TypeAdapter(Npz).validate_json('{"path": "x.npz", "validation": 0.0}') == Npz(path="x.npz", validation=0.0)
    for plugin, params in ((Npz, {}), (Cifar10, {"normalisation": "none"}), (ImageFolder, {"path": "x", "size": 0})):
        with pytest.raises(ValidationError):
            TypeAdapter(plugin).validate_json(json.dumps(params))


def test_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARNBENCH_DATA", "/somewhere")
    assert default_root() == Path("/somewhere")
    monkeypatch.delenv("UNLEARNBENCH_DATA")
    assert default_root() == Path.home() / ".cache/unlearnbench/data"


def test_importing_datasets_is_light() -> None:
    heavy = ["torch", "torchvision", "PIL", "sklearn", "scipy"]
    code = f"import sys, unlearnbench.data.datasets; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout == "[]\n"
