"""Cells in order: what is left to do, what happens when something fails, and that nothing is done twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from joblib import Parallel, delayed
from run_cases import Log
from torch import nn

from unlearnbench import api
from unlearnbench.plan.registry import names
from unlearnbench.plan.spec import Access, Method, UnlearnBenchError
from unlearnbench.plan.suites import make_plan
from unlearnbench.runs import engine
from unlearnbench.runs.engine import choose_devices, jobs_of
from unlearnbench.store.folder import Store
from unlearnbench.training.task import Task

Tiny = Callable[..., Path]


@dataclass(frozen=True)
class Raises(Method):
    paper: ClassVar[str] = "none"
    needs: ClassVar[Access] = Access(0)

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        raise ValueError("on purpose")


def run(suite: Path, **options: Any) -> tuple[api.Results, Log]:
    log = Log()
    where: dict[str, Any] = {"results": suite.parent / "results", "data": suite.parent, "device": "cpu", "jobs": 1}
    return api.run(str(suite), reporter=log, **(where | options)), log


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("device", "expected"),
    [("auto", ["cuda:0", "cuda:1"]), ("cuda", ["cuda:0", "cuda:1"]), ("cuda:1", ["cuda:1"]), ("cpu", ["cpu"])],
)
def test_devices_are_all_of_a_kind_or_the_one_named(device: str, expected: list[str]) -> None:
    assert choose_devices(device) == expected


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("device", ["cuda:2", "gpu", "", "CPU"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device: str) -> None:
    with pytest.raises(UnlearnBenchError, match=f"no device '{device}' here: expected auto, cpu, cuda:0, cuda:1"):
        choose_devices(device)


def test_without_a_gpu_there_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_devices("auto") == ["cpu"]
    with pytest.raises(UnlearnBenchError, match="no device 'cuda' here: expected auto, cpu"):
        choose_devices("cuda")


# --- what is left to do ----------------------------------------------------------------------------------------------


def test_trainings_come_first_and_once_for_all_methods(tiny: Tiny, tmp_path: Path) -> None:
    plan = make_plan(str(tiny("identity", "camu", seeds=(0, 1))))
    trainings, cells = jobs_of(plan, Store(tmp_path))
    assert [job.name for job in trainings] == [
        "digits original seed 0",
        "digits original seed 1",
        "digits random retrain seed 0, training",
        "digits random retrain seed 1, training",
    ]
    assert [job.name for job in cells] == [
        f"digits random {method} seed {seed}" for method in ("retrain", "identity", "camu") for seed in (0, 1)
    ]


def test_every_job_is_told_of_and_nothing_is_done_twice(tiny: Tiny) -> None:
    suite = tiny("identity")
    results, log = run(suite)
    assert log.total == 4
    assert log.begun == [name for name, _ in log.ended]
    assert {status for _, status in log.ended} == {"ok"}
    assert len(log.ended) == 4
    before = stamps(suite.parent / "results")
    again, silent = run(suite)
    assert silent.begun == []
    assert {name: stamp for name, stamp in stamps(suite.parent / "results").items() if name != "tiny.json"} == {
        name: stamp for name, stamp in before.items() if name != "tiny.json"  # the plan of the last run
    }  # fmt: skip
    assert again.values.equals(results.values)


def test_another_seed_runs_alone(tiny: Tiny) -> None:
    run(tiny("identity"))
    _, log = run(tiny("identity", seeds=(0, 1)))
    assert sorted(log.begun) == [
        "digits original seed 1",
        "digits random identity seed 1",
        "digits random retrain seed 1",
        "digits random retrain seed 1, training",
    ]


def test_every_metric_is_scored_and_the_oracles_gap_is_nothing(tiny: Tiny) -> None:
    results, _ = run(tiny("identity"))
    assert set(results.values.metric) == set(names("metrics"))
    assert not results.values.note.str.contains("not scored|raised", regex=True).any()
    values = results.values.set_index(["method", "metric"]).value
    assert values["retrain", "avg_gap"] == 0
    assert values["identity", "relearn_steps"] == 0
    assert values["retrain", "gradients"] == 108


# --- failure ---------------------------------------------------------------------------------------------------------


def test_a_method_that_fails_harms_nothing_else_and_is_tried_again(tiny: Tiny, register: Callable[..., None]) -> None:
    register("methods", raises=Raises)
    suite = tiny("raises", "identity")
    results, log = run(suite)
    assert dict(log.ended)["digits random raises seed 0"] == "failed"
    assert [status for _, status in log.ended].count("ok") == 4
    status = results.values.groupby("method").status.first().to_dict()
    assert status == {"retrain": "ok", "raises": "failed", "identity": "ok"}
    failed = results.values[results.values.method == "raises"]
    assert failed.value.isna().all()
    assert set(failed.note) == {"the method failed"}
    _, again = run(suite)
    assert again.begun == ["digits random raises seed 0"]


def test_an_original_that_diverges_costs_its_own_seed_only(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from unlearnbench.runs import runner
    from unlearnbench.training.loop import Diverged, train

    seeds = []

    def sometimes(model: nn.Module, samples: Any, recipe: Any) -> nn.Module:
        seeds.append(samples._seed)
        if samples._seed == runner.derive_seed(0, "original"):
            raise Diverged("the loss became nan in epoch 1 of 1")
        return train(model, samples, recipe)

    monkeypatch.setattr(runner, "train", sometimes)
    results, _ = run(tiny("identity", seeds=(0, 1)))
    assert runner.derive_seed(0, "original") in seeds
    status = results.values.groupby(["method", "seed"]).status.first().to_dict()
    assert status["identity", 0] == "failed"
    assert status["identity", 1] == "ok"


def test_a_class_that_is_not_there_is_an_error_of_the_suite(tiny: Tiny) -> None:
    suite = tiny("identity", extra="[scenarios.class]\nclasses = [77]")
    with pytest.raises(UnlearnBenchError, match="no training sample of class 77"):
        run(suite)


def test_a_class_that_is_not_there_is_found_before_anything_trains(tiny: Tiny) -> None:
    suite = tiny("identity", extra="[scenarios.class]\nclasses = [77]")
    with pytest.raises(UnlearnBenchError, match="no training sample of class 77"):
        run(suite)
    assert not list((suite.parent / "results").rglob("*.safetensors"))


@pytest.mark.parametrize("options", [{"device": "tpu"}, {"jobs": 0}, {"jobs": -1}, {"methods": ["kamu"]}])
def test_a_wrong_argument_is_refused_before_anything_is_written(tiny: Tiny, options: dict[str, Any]) -> None:
    suite = tiny("identity")
    with pytest.raises(UnlearnBenchError):
        run(suite, **options)
    assert not (suite.parent / "results").exists()


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "said"), [(1.0, []), (7200.0, ["about 4 h on cpu"])])
def test_a_suite_of_hours_says_so_and_points_to_quick(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, seconds: float, said: list[str]
) -> None:
    """Two trainings, original and oracle, of two hours each on one worker."""
    monkeypatch.setattr("unlearnbench.runs.runner.time_training", lambda *_: seconds)
    _, log = run(tiny())
    assert len(log.said) == len(said)
    for message, part in zip(log.said, said, strict=True):
        assert part in message
        assert "--quick" in message


def test_workers_stay_the_same_from_job_to_job(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a worker takes seconds, for it imports torch: the estimate must not cost the pool its workers."""
    monkeypatch.setattr(engine, "_time_training", lambda *_: os.getpid())
    pool = engine.Pool(tiny().parent, tiny().parent, ("cpu",), 2, Log())
    job = engine.Job("original", make_plan(str(tiny())).entries[0])
    workers = {pool.look_ahead([job], []) for _ in range(4)}
    assert len(workers) <= 2
    assert os.getpid() not in workers


def test_workers_work_in_the_caller_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an earlier call, as in a notebook, were started elsewhere, and would look there for ``results``."""
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        with engine.workers_of_one_thread(2):
            assert Parallel(2)(delayed(os.getcwd)() for _ in range(2)) == [str(folder)] * 2
