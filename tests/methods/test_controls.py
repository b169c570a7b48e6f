"""The oracle and the controls: models whose truth is known, which every metric must put where they belong."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unlearnbench_methods.collapse import Collapse
from unlearnbench_methods.identity import Identity
from unlearnbench_methods.random_init import RandomInit
from unlearnbench_methods.retrain import Retrain
from unlearnbench_methods.retrain_other_seed import RetrainOtherSeed

from unlearnbench.authors.toy import attempt
from unlearnbench.data.split import Split, make_split
from unlearnbench.data.tensors import Counter, Data
from unlearnbench.plan.cells import Cell, Plugin, Recipe
from unlearnbench.plan.registry import build, load, names
from unlearnbench.plan.spec import Access, Method
from unlearnbench.training.loop import predict
from unlearnbench.training.models import build_model
from unlearnbench.training.task import Task


def split_of(data: Data, *classes: int) -> Split:
    return make_split(build("scenarios", "class", {"classes": classes or (0,)}), data.y_train.numpy(), 24, 0)


def task_of(method: Method, data: Data, split: Split, seed: int = 0, recipe: Recipe = Recipe()) -> Task:
    model = Plugin("resnet9", {"width": 2})
    cell = Cell(Plugin("toy"), model, recipe, Plugin("toy"), Plugin("toy"), 0, seed)
    return Task.of(cell, data, split, method.needs, Counter())


# --- what they stand for ---------------------------------------------------------------------------------------------


def test_every_registered_truth_is_that_of_an_oracle_or_a_control() -> None:
    known = {name: (load("methods", name).role, load("methods", name).stands_for) for name in names("methods")}
    assert {name: truth for name, truth in known.items() if truth[1]} == {
        "retrain": ("oracle", "retrained"),
        "retrain_other_seed": ("control", "retrained"),
        "identity": ("control", "original"),
        "random_init": ("control", "useless"),
        "collapse": ("control", "useless"),
    }
    assert all(stands_for for role, stands_for in known.values() if role != "method")


def test_a_method_stands_for_nothing_unless_it_says_so() -> None:
    assert Method.stands_for == ""


# --- retraining ------------------------------------------------------------------------------------------------------


def retrain(
    data: Data, split: Split, *, original: int = 7, seed: int = 0, method: Method = Retrain()
) -> tuple[dict[str, Tensor], Task]:
    task = task_of(method, data, split, seed=seed, recipe=Recipe(epochs=2))
    task.prepared = method.prepare(task)
    model = build_model(build("models", "resnet9", {"width": 2}), data.input_shape, 3, original)
    return dict(method.unlearn(model, task).state_dict()), task


def test_every_parameter_and_buffer_of_the_oracle_is_new(data: Data) -> None:
    network = build_model(build("models", "resnet9", {"width": 2}), data.input_shape, 3, 7)
    split = split_of(data)
    network.train()
    with torch.no_grad():
        for x in data.x_train.split(32):
            network(x)  # BatchNorm's buffers are those of a trained network, its weights still one and zero
    oracle, _ = retrain(data, split)
    for name, tensor in network.state_dict().items():
        assert not torch.equal(tensor, oracle[name]), name


def test_the_oracle_is_of_the_retain_set_and_the_seed_alone(data: Data) -> None:
    split = split_of(data)
    oracle, task = retrain(data, split)
    assert task.counter.samples == 2 * len(split.retain)
    elsewhere = replace(data, x_train=data.x_train.clone())
    elsewhere.x_train[split.forget] += 1
    for same, _ in (retrain(data, split, original=8), retrain(elsewhere, split)):
        assert all(torch.equal(same[name], tensor) for name, tensor in oracle.items())
    other, _ = retrain(data, split, seed=1)
    assert not torch.equal(other["head.weight"], oracle["head.weight"])


def test_the_other_retrain_differs_in_weights_and_order_and_in_nothing_else(data: Data) -> None:
    split = split_of(data)
    (oracle, its), (other, own) = (retrain(data, split, method=m) for m in (Retrain(), RetrainOtherSeed()))
    assert all(not torch.equal(other[n], x) for n, x in oracle.items() if not n.endswith("num_batches_tracked"))
    assert {name: x.shape for name, x in other.items()} == {name: x.shape for name, x in oracle.items()}
    counts = [(t.counter.samples, t.counter.gradients) for t in (its, own)]
    assert counts == [(2 * 64, 2 * 64)] * 2
    again, _ = retrain(data, split, method=RetrainOtherSeed(), original=8)
    assert all(torch.equal(again[name], x) for name, x in other.items())


def test_the_other_retrain_never_sees_what_is_forgotten(data: Data) -> None:
    split = split_of(data)
    elsewhere = replace(data, x_train=data.x_train.clone())
    elsewhere.x_train[split.forget] += 1
    first, second = (retrain(d, split, method=RetrainOtherSeed())[0] for d in (data, elsewhere))
    assert all(torch.equal(first[name], x) for name, x in second.items())
    assert RetrainOtherSeed.needs == Retrain.needs == Access.RETAIN | Access.LABELS


def test_the_other_retrain_has_an_order_of_its_own(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Tensor]] = []

    def watch(self: Task, model: nn.Module, samples: Any) -> nn.Module:
        seen.append([x for x, _ in samples.batches(16)])
        return model

    monkeypatch.setattr(Task, "train", watch)
    split = split_of(data)
    for method in (Retrain(), RetrainOtherSeed()):
        method.prepare(task_of(method, data, split))
    assert not torch.equal(seen[0][0], seen[1][0])
    sums = [torch.cat(batches).sum(dim=(1, 2, 3)).sort().values for batches in seen]
    torch.testing.assert_close(*sums, rtol=1e-6, atol=0)  # the same images all the same


# --- the original ----------------------------------------------------------------------------------------------------


def test_identity_returns_the_model_it_was_given(data: Data) -> None:
    model = nn.Linear(2, 3)
    state = deepcopy(model.state_dict())
    assert Identity().unlearn(model, task_of(Identity(), data, split_of(data))) is model
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


# --- models without use ----------------------------------------------------------------------------------------------


def test_random_weights_are_untrained_and_of_the_seed_alone(data: Data) -> None:
    """All classes are about as likely, whatever the original was."""
    trial = attempt(RandomInit())
    logits = predict(trial.unlearned, trial.toy.data.x_test)
    assert logits.abs().max() < 0.5 < predict(trial.original, trial.toy.data.x_test).abs().max()
    method, split = RandomInit(), split_of(data)
    states = [method.unlearn(nn.Linear(2, 3), task_of(method, data, split, seed)).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


def test_random_weights_are_not_those_that_the_retrains_start_from(data: Data) -> None:
    task = task_of(RandomInit(), data, split_of(data))
    models = [task.fresh_model(name) for name in ("initial weights", "other initial weights", "random weights")]
    assert len({model.get_parameter("head.weight").sum().item() for model in models}) == 3


def test_random_weights_cost_nothing(data: Data) -> None:
    task = task_of(RandomInit(), data, split_of(data))
    RandomInit().unlearn(nn.Linear(2, 3), task)
    assert (task.counter.samples, task.counter.gradients, task.counter.flops) == (0, 0, 0)


@pytest.mark.parametrize(("forgotten", "answer"), [((0,), 1), ((1,), 0), ((0, 1), 2), ((2,), 0)])
def test_collapse_gives_one_retained_class_to_everything(data: Data, forgotten: tuple[int, ...], answer: int) -> None:
    method = Collapse()
    model = build_model(build("models", "cnn", {}), data.input_shape, 3, 0)
    encoder = deepcopy(model.encoder.state_dict())
    task = task_of(method, data, split_of(data, *forgotten))
    unlearned = method.unlearn(model, task)
    expected = [10.0 * (c == answer) for c in range(3)]
    assert predict(unlearned, data.x_test).tolist() == [expected] * len(data.x_test)
    assert all(torch.equal(x, encoder[name]) for name, x in unlearned.get_submodule("encoder").state_dict().items())
    assert task.counter.samples == 0


def test_collapse_reaches_the_head_of_every_network() -> None:
    for name, shape in (("cnn", (1, 8, 8)), ("resnet9", (1, 8, 8)), ("resnet18", (3, 8, 8))):
        model = build_model(build("models", name, {}), shape, 4, 0)
        unlearned = attempt(Collapse()).method.unlearn(model, attempt(Collapse()).task)
        assert predict(unlearned, torch.randn(5, *shape)).tolist() == [[0, 10, 0, 0]] * 5  # the toy forgets class 0
