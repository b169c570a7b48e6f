"""Banks in a run: what is left to make, in which pieces, and what it means when some of it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from run_cases import ClassOnly, Log
from torch import nn

from unlearnbench import api
from unlearnbench.plan.cells import Plugin, Recipe
from unlearnbench.plan.registry import load
from unlearnbench.plan.spec import Access, Method, UnlearnBenchError
from unlearnbench.plan.suites import Plan, make_plan
from unlearnbench.runs import bank, engine, runner
from unlearnbench.runs.engine import Job, jobs_of
from unlearnbench.store import roster
from unlearnbench.store.folder import Store
from unlearnbench.training.loop import Diverged
from unlearnbench.training.task import Task

Tiny = Callable[..., Path]
BANKS = "bank = 3\nunlearned_bank = 2"


@dataclass(frozen=True)
class FailsOnMembers(Method):
    """Does what it should for the cells, and fails for the members of banks."""

    paper: ClassVar[str] = "none"
    needs: ClassVar[Access] = Access(0)

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        if task._seed >= roster.FIRST_SEED:
            self.fail()
        return model

    def fail(self) -> None:
        raise ValueError("on purpose")


@dataclass(frozen=True)
class ExitsOnMembers(FailsOnMembers):
    def fail(self) -> None:
        raise SystemExit(0)


def run(suite: Path) -> tuple[api.Results, Log]:
    log = Log()
    results = suite.parent / "results"
    return api.run(str(suite), reporter=log, results=results, data=suite.parent, device="cpu", jobs=1), log


def stored(suite: Path) -> dict[str, int]:
    folder = suite.parent / "results"
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}


def members(jobs: list[Job]) -> dict[str, list[int]]:
    """Whose members are made, over all jobs, in the order of the jobs."""
    found: dict[str, list[int]] = {}
    for job in jobs:
        if job.members:
            what = f"{job.kind} {job.entry.scenario} {job.entry.cell.split_seed} {job.entry.method}"
            found.setdefault(what, []).extend(job.members)
    return found


# --- what is left to do ----------------------------------------------------------------------------------------------


def test_oracles_are_for_each_split_originals_for_each_seed_and_unlearned_for_each_method(
    tiny: Tiny, tmp_path: Path
) -> None:
    suite = tiny("identity", "finetune", seeds=(0, 1), top=BANKS, extra="[scenarios.class]\nclasses = [0]\n")
    trainings, cells = jobs_of(make_plan(str(suite)), Store(tmp_path))
    assert members(trainings) == {
        "originals random 0 retrain": [0, 1],
        "originals random 1 retrain": [0, 1],
        "oracles random 0 retrain": [0, 1, 2],
        "oracles random 1 retrain": [0, 1, 2],
        "oracles class 0 retrain": [0, 1, 2],
        "oracles class 1 retrain": [0, 1, 2],
    }
    assert members(cells) == {
        f"unlearned {scenario} {split} {method}": [0, 1]
        for scenario in ("random", "class")
        for method in ("identity", "finetune")  # the oracle's own are the bank
        for split in (0, 1)
    }
    assert [bool(job.members) for job in cells] == [False] * 12 + [True] * 8


def test_splits_that_are_crossed_with_seeds_share_their_banks(tiny: Tiny, tmp_path: Path) -> None:
    suite = tiny("identity", seeds=(0, 1, 2), top=BANKS + "\nsplit_seeds = [7]")
    trainings, cells = jobs_of(make_plan(str(suite)), Store(tmp_path))
    assert members(trainings) == {"originals random 7 retrain": [0, 1], "oracles random 7 retrain": [0, 1, 2]}
    assert members(cells) == {"unlearned random 7 identity": [0, 1]}


def test_a_suite_without_banks_has_no_such_jobs(tiny: Tiny, tmp_path: Path) -> None:
    trainings, cells = jobs_of(make_plan(str(tiny("identity"))), Store(tmp_path))
    assert members(trainings + cells) == {}


def test_a_method_has_no_bank_of_a_scenario_that_it_does_not_support(
    tiny: Tiny, tmp_path: Path, register: Callable[..., None]
) -> None:
    register("methods", toy=ClassOnly)
    suite = tiny("toy", top=BANKS, extra="[scenarios.class]\nclasses = [0]\n")
    _, cells = jobs_of(make_plan(str(suite)), Store(tmp_path))
    assert members(cells) == {"unlearned class 0 toy": [0, 1]}


def test_jobs_on_banks_have_names(tiny: Tiny, tmp_path: Path) -> None:
    trainings, cells = jobs_of(make_plan(str(tiny("identity", top=BANKS))), Store(tmp_path))
    assert [job.name for job in trainings + cells if job.members] == [
        "digits bank: originals 0-1",
        "digits random split 0 bank: oracles 0-2",
        "digits random split 0 bank: identity 0-1",
    ]


# --- pieces ----------------------------------------------------------------------------------------------------------


def pieces(plan: Plan, kind: roster.Kind, count: int, **changes: Any) -> list[tuple[int, ...]]:
    entry = plan.entries[0]
    entry = replace(entry, cell=replace(entry.cell, **changes))
    return [piece.members for piece in engine._cut(Job(kind, entry, tuple(range(count))), "cpu")]


def test_trainings_are_cut_into_stacks_and_unlearning_into_eights(tiny: Tiny) -> None:
    plan = make_plan(str(tiny()))
    assert pieces(plan, "oracles", 70) == [tuple(range(32)), tuple(range(32, 64)), tuple(range(64, 70))]
    assert pieces(plan, "originals", 32) == [tuple(range(32))]
    assert pieces(plan, "unlearned", 17) == [tuple(range(8)), tuple(range(8, 16)), (16,)]


@pytest.mark.parametrize("changes", [{"model": Plugin("resnet9", {"width": 2})}, {"recipe": Recipe(compile=True)}])
def test_what_is_not_stacked_is_trained_one_by_one(tiny: Tiny, changes: dict[str, Any]) -> None:
    assert pieces(make_plan(str(tiny())), "oracles", 3, **changes) == [(0,), (1,), (2,)]


def test_a_job_on_a_single_model_stays_whole(tiny: Tiny) -> None:
    job = Job("original", make_plan(str(tiny())).entries[0])
    assert list(engine._cut(job, "cpu")) == [job]


def test_pieces_do_not_depend_on_the_number_of_workers(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in a stack decides the last bits of its members."""
    suite = tiny("identity", top="bank = 40\nunlearned_bank = 9")
    asked: list[list[tuple[str, tuple[int, ...]]]] = []

    def note(self: engine.Pool, jobs: list[Job]) -> list[tuple[Job, str]]:
        asked[-1].extend((job.name, job.members) for job in jobs)
        return []

    monkeypatch.setattr(engine.Pool, "run", note)
    monkeypatch.setattr(engine.Pool, "look_ahead", lambda *_: 0.0)
    monkeypatch.setattr(engine, "bring_up_to_date", lambda *_: None)
    for workers in (1, 2, 7):
        asked.append([])
        plan, store = make_plan(str(suite)), Store(suite.parent / f"results-{workers}")
        engine.execute(plan, store, suite.parent, ["cpu"], workers, Log())
    assert asked[0] == asked[1] == asked[2]
    assert [held for _, held in asked[0] if held] == [
        tuple(range(9)), tuple(range(32)), tuple(range(32, 40)), tuple(range(8)), (8,),
    ]  # fmt: skip


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_fills_its_banks_once_and_they_may_grow(tiny: Tiny) -> None:
    suite = tiny("identity", top=BANKS)
    results, log = run(suite)
    assert {status for _, status in log.ended} == {"ok"}
    assert sorted(name for name, _ in log.ended if "bank" in name) == [
        "digits bank: originals 0-1",
        "digits random split 0 bank: identity 0-1",
        "digits random split 0 bank: oracles 0-2",
    ]
    assert log.total == len(log.ended) == 4 + 3
    store, cell = Store(suite.parent / "results"), make_plan(str(suite)).entries[-1].cell
    assert len(roster.stored("oracles", cell, 9, store)) == 3
    assert len(roster.stored("unlearned", cell, 9, store)) == 2
    before = stored(suite)

    again, silent = run(suite)
    assert silent.begun == []
    assert stored(suite) == before
    assert again.values.equals(results.values)

    _, more = run(tiny("identity", top="bank = 5\nunlearned_bank = 3"))
    assert sorted(more.begun) == [
        "digits bank: originals 2-2",
        "digits random split 0 bank: identity 2-2",
        "digits random split 0 bank: oracles 3-4",
    ]
    after = stored(suite)
    assert before.items() < after.items()
    assert len(after) == len(before) + 2 + 1 + 1  # oracles, an original, what identity made of it
    _, less = run(suite)
    assert less.begun == []


def test_metrics_say_how_many_models_they_lack(tiny: Tiny) -> None:
    results, _ = run(tiny("identity", top=BANKS))
    needed = load("metrics", "klom_ou").needs["unlearned"]
    assert needed > 2
    notes = results.values.set_index(["method", "metric"]).note
    assert notes["identity", "klom_ou"].startswith("too few models to compare with: ")
    assert results.values.set_index(["method", "metric"]).value.isna()["identity", "klom_ou"]


# --- failure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "reason"), [(FailsOnMembers, "ValueError: on purpose"), (ExitsOnMembers, "SystemExit: 0")]
)
def test_a_method_that_fails_on_members_leaves_what_needs_them_empty_and_the_run_goes_on(
    tiny: Tiny, register: Callable[..., None], method: type[Method], reason: str
) -> None:
    register("methods", toy=method)
    suite = tiny("toy", "identity", top=BANKS)
    results, log = run(suite)
    ended = dict(log.ended)
    assert ended.pop("digits random split 0 bank: toy 0-1") == "failed"
    assert log.said == [f"digits random split 0 bank: toy 0-1: {reason}"]
    assert set(ended.values()) == {"ok"}
    assert ended["digits random split 0 bank: identity 0-1"] == "ok"
    assert results.values.groupby("method").status.first().to_dict() == {
        "retrain": "ok", "toy": "ok", "identity": "ok",
    }  # fmt: skip
    store = Store(suite.parent / "results")
    cell = {e.method: e.cell for e in make_plan(str(suite)).entries}["toy"]
    assert roster.stored("unlearned", cell, 2, store) == ()
    reasons = {name: score["reason"] for name, score in store.scores(cell.key).items()}
    assert reasons["klom_ou"] == reasons["forgetting_quality"] == "small_bank"
    _, again = run(suite)
    assert again.begun == ["digits random split 0 bank: toy 0-1"]


@pytest.fixture
def first_original_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    train = runner.train

    def sometimes(model: nn.Module, samples: Any, recipe: Any) -> nn.Module:
        if samples._seed == runner.derive_seed(0, "original"):
            raise Diverged("the loss became nan in epoch 1 of 1")
        return train(model, samples, recipe)

    monkeypatch.setattr(runner, "train", sometimes)


@pytest.mark.usefixtures("first_original_diverges")
def test_an_original_that_diverges_costs_no_bank(tiny: Tiny) -> None:
    """The bank's job stands in the name of the first seed, but has originals of its own."""
    suite = tiny("identity", top=BANKS + "\nsplit_seeds = [0]", seeds=(0, 1))
    results, log = run(suite)
    assert dict(log.ended)["digits random split 0 bank: identity 0-1"] == "ok"
    status = results.values.groupby(["method", "seed"]).status.first().to_dict()
    assert (status["identity", 0], status["identity", 1]) == ("failed", "ok")


def test_a_bank_that_diverges_costs_no_cell(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object) -> None:
        raise Diverged("a loss became infinite in epoch 1 of 1")

    monkeypatch.setattr(bank, "train_stacked", diverge)
    suite = tiny("identity", top="bank = 3")
    results, log = run(suite)
    assert dict(log.ended)["digits random split 0 bank: oracles 0-2"] == "failed"
    assert log.said == ["digits random split 0 bank: oracles 0-2: a loss became infinite in epoch 1 of 1"]
    assert set(results.values.status) == {"ok"}
    assert Store(suite.parent / "results").scores(make_plan(str(suite)).entries[0].cell.key)["fa"]["value"] is not None


def test_shadows_of_a_forget_set_without_thirds_are_refused_before_anything_trains(tiny: Tiny) -> None:
    """Each forgets a third of it: of one sample, none."""
    suite = tiny("identity", top="shadows = 3")
    suite.write_text(suite.read_text().replace("[scenarios.random]", "[scenarios.random]\ncount = 2"))
    with pytest.raises(UnlearnBenchError, match="a third of the forget set, which takes 3 samples, and it has 2"):
        run(suite)
    assert not list(suite.parent.rglob("*.safetensors"))
    suite.write_text(suite.read_text().replace("count = 2", "count = 3"))
    run(suite)
