"""Weights in the store: made once, whoever asks first, and by locks that die with their process."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.store.folder import Store


def test_an_artifact_is_made_once_and_comes_back_with_its_cost(store: Store) -> None:
    state = {"w": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last), "n": torch.tensor(3)}
    assert not store.has_artifact("abc")
    first, cost = store.artifact("abc", lambda: (state, {"seconds": 2.0, "peak_memory": None}))
    again, same = store.artifact("abc", lambda: pytest.fail("made twice"))
    for made in (first, again):
        assert torch.equal(made["w"], state["w"])
        assert torch.equal(made["n"], state["n"])
    assert cost == same == {"seconds": 2.0, "peak_memory": None}
    assert store.has_artifact("abc")


def test_an_artifact_that_could_not_be_made_is_tried_again(store: Store) -> None:
    with pytest.raises(RuntimeError, match="diverged"):
        store.artifact("abc", lambda: (_ for _ in ()).throw(RuntimeError("diverged")))
    assert not store.has_artifact("abc")
    assert store.artifact("abc", lambda: ({"w": torch.ones(1)}, {}))[0]["w"].item() == 1


def test_a_damaged_artifact_is_refused_by_name(store: Store) -> None:
    store.artifact("abc", lambda: ({"w": torch.ones(3)}, {"seconds": 1.0}))
    weights = store.root / "artifacts" / "abc.safetensors"
    content = weights.read_bytes()
    for bad in (b"", content[:20], content[:-1], b"\x80\x04N."):  # the last is a pickle
        weights.write_bytes(bad)
        with pytest.raises(UnlearnBenchError, match=r"abc\.safetensors is damaged.*delete it and run again"):
            store.artifact("abc", lambda: pytest.fail("must not be made again"))


def make_slowly(root: Path, log: Path) -> None:
    def make() -> tuple[dict[str, torch.Tensor], dict[str, float | None]]:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return {"w": torch.full((2,), 7.0)}, {}

    state, _ = Store(root).artifact("abc", make)
    if state["w"].tolist() != [7, 7]:
        raise SystemExit(3)


def test_processes_that_need_an_artifact_at_once_make_it_once(store: Store, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    workers = [context.Process(target=make_slowly, args=(store.root, log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def hold(root: Path, held: Any) -> None:
    with Store(root).lock("abc"):
        held.set()
        time.sleep(60)


def test_a_killed_process_gives_its_lock_back(store: Store) -> None:
    context = multiprocessing.get_context("fork")
    held, free = context.Event(), threading.Event()
    worker = context.Process(target=hold, args=(store.root, held))
    worker.start()

    def wait() -> None:
        with store.lock("abc"):
            free.set()

    assert held.wait(30)
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert not free.wait(0.3)
    worker.kill()
    assert free.wait(30)
    worker.join()


def test_the_device_is_kept_beside_the_cost_and_unknown_of_older_artifacts(store: Store) -> None:
    store.artifact("abc", lambda: ({"w": torch.ones(3)}, {"seconds": 1.0}), "GPU A")
    assert store.artifact("abc", lambda: pytest.fail("made twice"), "GPU B")[1] == {"seconds": 1.0}
    assert store.made_on("abc") == "GPU A"
    old = safetensors.torch.save({"w": torch.ones(3)}, {"cost": '{"seconds": 2.0}'})
    (store.root / "artifacts" / "old.safetensors").write_bytes(old)
    assert store.weights("old")[1] == {"seconds": 2.0}
    assert store.made_on("old") == ""
