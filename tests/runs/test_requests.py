"""What a trial is judged on: forget sets, models and unseen samples that are not those of any report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from run_cases import CPU
from torch import nn
from tuning_cases import Damage

from unlearnbench import api
from unlearnbench.data.split import make_split
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.plan.suites import Plan, make_plan
from unlearnbench.runs import requests, runner
from unlearnbench.runs.requests import held_out, tuning_split
from unlearnbench.runs.tuning import searches
from unlearnbench.store.folder import Store
from unlearnbench.training.task import Task

LABELS = np.arange(400) % 10


@pytest.mark.parametrize(
    ("name", "params", "size"),
    [("random", {"fraction": 0.1}, 40), ("random", {"count": 7}, 7), ("class", {"classes": [8]}, 30)],
)
def test_a_tuning_request_shares_no_forget_sample_with_the_reported_ones(name: str, params: dict, size: int) -> None:
    scenario = build("scenarios", name, params)
    reported = [0, 1, 2, 3, 4]
    split = tuning_split(scenario, LABELS, reported, 3_000_000)
    left = np.flatnonzero(~held_out(LABELS))
    taken = np.concatenate([make_split(scenario, LABELS, 50, s).forget for s in reported])
    assert len(split.forget) == size
    assert not set(left[split.forget]) & set(taken)
    assert sorted([*split.forget, *split.retain]) == list(range(300))
    assert sorted(split.test) == list(range(100))
    other = tuning_split(scenario, LABELS, reported, 3_000_001)
    assert name == "class" or set(other.forget) != set(split.forget)


def test_another_class_is_forgotten_and_the_method_is_told_which() -> None:
    split = tuning_split(build("scenarios", "class", {"classes": [8]}), LABELS, [0], 3_000_000)
    assert split.forget_classes == (9,)
    assert set(LABELS[~held_out(LABELS)][split.forget]) == {9}


def test_a_tenth_of_each_class_is_held_out_or_as_many_as_an_attack_takes_or_half_of_it() -> None:
    labels = np.repeat([0, 1, 2, 3], [400, 60, 15, 1])
    held = held_out(labels)
    assert np.bincount(labels[held], minlength=4).tolist() == [40, 10, 7, 0]
    assert np.array_equal(held, held_out(labels.copy()))


def test_what_is_held_out_stands_for_the_test_set_and_no_model_of_a_request_is_trained_on_it(
    plan: Plan, store: Store
) -> None:
    (search,) = searches(plan, 1, 1)
    whole = runner.load_data(plan.entries[0].cell.dataset, store.root, CPU)
    request = requests.Request(search.cells[0], plan.entries[0].cell, search.reported, store, store.root, CPU)
    held = torch.from_numpy(held_out(whole.y_train.numpy()))
    assert torch.equal(request.data.x_test, whole.x_train[held])
    assert torch.equal(request.data.x_train, whole.x_train[~held])
    assert torch.equal(request.data.y_train, whole.y_train[~held])
    assert torch.equal(request.data.x_validation, whole.x_validation)  # what methods see of it
    assert sorted([*request.split.forget, *request.split.retain]) == list(range(int((~held).sum())))


def test_artifacts_of_a_search_are_not_those_of_another_share(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    (search,) = searches(plan, 1, 1)
    cell, own = search.cells[0], plan.entries[0].cell
    assert cell.original_key != replace(cell, dataset=own.dataset).original_key
    monkeypatch.setattr(requests, "HELD_OUT", 0.2)
    assert searches(plan, 1, 1)[0].cells[0].original_key != cell.original_key


def test_what_a_trial_writes_into_the_data_the_next_one_does_not_see(
    plan: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (search,) = searches(plan, 1, 1)
    request = requests.Request(search.cells[0], plan.entries[0].cell, search.reported, store, store.root, CPU)
    settings = {"amount": 0.0, "times": 1, "side": "low"}
    expected, whole = request.gap(settings), Damage.unlearn

    def write(method: Damage, model: nn.Module, task: Task) -> nn.Module:
        request.data.y_test.zero_()
        return whole(method, model, task)

    monkeypatch.setattr(Damage, "unlearn", write)
    with pytest.raises(UnlearnBenchError, match="method Damage wrote into the dataset"):
        request.gap(settings)
    monkeypatch.setattr(Damage, "unlearn", whole)
    assert request.gap(settings) == expected


@pytest.mark.parametrize(
    ("own", "others"), [([9], {0}), ([0, 1], {2, 3}), ([3, 9], {0, 1}), ([1, 2, 3, 4, 5], {6, 7, 8, 9})]
)
def test_as_many_classes_as_there_are_to_be_had(own: list[int], others: set[int]) -> None:
    chosen = build("scenarios", "class", {"classes": own}).elsewhere(LABELS)
    assert set(chosen.forget_classes) == others


def test_where_the_reported_sets_take_everything_it_says_so() -> None:
    scenario = build("scenarios", "random", {"fraction": 0.5})
    with pytest.raises(UnlearnBenchError, match="cannot forget 200 of"):
        tuning_split(scenario, LABELS, range(20), 3_000_000)


def test_requests_that_avoid_other_seeds_share_nothing_but_the_originals(
    tiny: Callable[..., Path], register: Callable[..., None], tmp_path: Path
) -> None:
    register("methods", damage=Damage)
    plans = [make_plan(str(tiny("damage", seeds=seeds))) for seeds in ((0, 1), (0, 1, 2))]
    one, other = (searches(plan, 1, 1)[0].cells[0] for plan in plans)
    assert one.original_key == other.original_key
    assert one.own_original_key == other.own_original_key
    for key in ("oracle_key", "prepared_key", "split_key"):
        assert getattr(one, key) != getattr(other, key)
    assert one.log_key(True) != other.log_key(True)
    store = Store(tmp_path / "results")
    for plan in plans:
        api.tune(plan, 1, 1, store, "cpu", 1)
    there = {one.original_key, one.oracle_key, other.oracle_key}
    assert {path.stem for path in (store.root / "artifacts").glob("*.safetensors")} == there


def test_the_scenario_of_a_request_is_named_with_what_it_avoids(plan: Plan) -> None:
    (search,) = searches(plan, 1, 1)
    own = search.entry.cell.scenario.params
    assert search.cells[0].scenario.name == "tuning random"
    assert search.cells[0].scenario.params == {**own, "reported": [0, 1]}
    assert "reported" not in own
