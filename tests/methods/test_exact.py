"""Methods that give back what was never learnt: ensembles on shards, and one method after another."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from method_cases import RANDOM, network, split_of, task_of
from torch import Tensor, nn
from unlearnbench_methods.finetune import FineTune
from unlearnbench_methods.random_label import RandomLabel
from unlearnbench_methods.rum import RUM, memorisation
from unlearnbench_methods.salun import SalUn
from unlearnbench_methods.scrub import SCRUB
from unlearnbench_methods.sisa import SISA, Ensemble

from unlearnbench.data.split import Split, make_split
from unlearnbench.data.tensors import Data
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.registry import RegistryError, build
from unlearnbench.plan.spec import Access, Method, UnlearnBenchError
from unlearnbench.training.loop import train
from unlearnbench.training.task import Task

# --- sisa ------------------------------------------------------------------------------------------------------------

RECIPE = Recipe(epochs=4, batch_size=8)
METHOD = SISA(shards=3, slices=3)


def task_for(data: Data, forget: list[int], method: SISA = METHOD, seed: int = 0) -> Task:
    """The task to forget the samples at these positions."""
    rest = np.setdiff1d(np.arange(96), forget)
    split = replace(split_of(data), forget=np.array(forget), retain=rest)
    return task_of(method, data, split, seed=seed, recipe=RECIPE)


def member(model: nn.Module, shard: int) -> nn.Module:
    return model.get_submodule(f"members.{shard}")


def states(model: nn.Module, shard: int) -> dict[str, Tensor]:
    """The member of a shard and its checkpoints."""
    prefixes = (f"members.{shard}.", f"checkpoints {shard} ")
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(prefixes)}


def assert_bit_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def from_scratch(data: Data, slices: list[list[int]], gone: set[int], shard: int, epochs: list[int]) -> nn.Module:
    """A member trained on growing unions of slices, without the samples that are gone."""
    task = task_for(data, [0])
    model, seen = task.fresh_model(f"shard {shard}"), []
    for part, count in zip(slices, epochs, strict=True):
        seen += [i for i in part if i not in gone]
        samples = task.training.replace(data.x_train[seen], data.y_train[seen])
        train(model, samples, replace(RECIPE, epochs=count))
    return model


@pytest.fixture(scope="module")
def original(data: Data) -> nn.Module:
    return METHOD.original(task_for(data, [0]))


def positions(data: Data) -> list[list[list[int]]]:
    return [[part.tolist() for part in shard] for shard in METHOD.partition(task_for(data, [0]))]


def test_ensemble_gives_the_log_of_the_mean_probabilities() -> None:
    def constant(*logits: float) -> nn.Module:
        layer = nn.Linear(1, len(logits))
        layer.weight.data.zero_()
        layer.bias.data = torch.tensor(logits)
        return layer

    model = Ensemble([constant(0.0, 0.0), constant(0.0, float(np.log(3)))], 1)
    assert model(torch.zeros(2, 1)).exp().tolist() == [pytest.approx([0.375, 0.625])] * 2


def test_shards_and_slices_are_a_random_partition_of_the_seed_alone(data: Data) -> None:
    shards = positions(data)
    assert [[len(part) for part in shard] for shard in shards] == [[11, 11, 10]] * 3
    assert sorted(i for shard in shards for part in shard for i in part) == list(range(96))
    assert shards[0][0] != sorted(shards[0][0])
    other = METHOD.partition(task_for(data, [5, 6, 7]))
    assert [[part.tolist() for part in shard] for shard in other] == shards
    assert [part.tolist() for part in METHOD.partition(task_for(data, [0], seed=1))[0]] != shards[0]


@pytest.mark.parametrize(
    ("slices", "epochs"), [(1, [20]), (3, [10, 10, 10]), (5, [6, 7, 7, 6, 7]), (50, [0, 1, 1, 1, 0])]
)
def test_epochs_grow_so_that_a_shard_is_seen_as_often_as_without_slices(
    data: Data, slices: int, epochs: list[int]
) -> None:
    method = SISA(slices=slices)
    task = task_of(method, data, split_of(data), recipe=Recipe(epochs=20))
    until = [method.epochs(i, task) for i in range(slices + 1)]
    assert np.diff(until).tolist()[: len(epochs)] == epochs


def test_original_is_trained_slice_by_slice_and_does_not_know_what_will_be_forgotten(
    data: Data, original: nn.Module
) -> None:
    for shard, slices in enumerate(positions(data)):
        expected = from_scratch(data, slices, set(), shard, [2, 2, 2])
        assert_bit_equal(member(original, shard).state_dict(), expected.state_dict())
    assert_bit_equal(METHOD.original(task_for(data, [3, 4, 5])).state_dict(), original.state_dict())


@pytest.mark.parametrize("first", [0, 1, 2])
def test_unlearning_is_training_without_the_samples_from_their_first_slice_on(
    data: Data, original: nn.Module, first: int
) -> None:
    slices = positions(data)[1]
    gone = {slices[first][0], slices[2][-1]}
    task = task_for(data, sorted(gone))
    result = METHOD.unlearn(deepcopy(original), task)
    assert_bit_equal(states(result, 0), states(original, 0))
    assert_bit_equal(states(result, 2), states(original, 2))
    for name, tensor in states(result, 1).items():
        if name.startswith("checkpoints"):
            assert torch.equal(tensor[:first], original.state_dict()[name][:first])
    expected = from_scratch(data, slices, gone, 1, [2, 2, 2]).state_dict()
    assert_bit_equal(member(result, 1).state_dict(), expected)
    sizes = [len([i for part in slices[: s + 1] for i in part if i not in gone]) for s in range(3)]
    assert task.counter.samples == 96 + 2 * sum(sizes[first:])
    late = member(deepcopy(original), 1)  # going on from the end instead of going back
    rest = [i for part in slices for i in part if i not in gone]
    train(late, task.training.replace(data.x_train[rest], data.y_train[rest]), replace(RECIPE, epochs=2))
    with pytest.raises(AssertionError):
        assert_bit_equal(late.state_dict(), expected)


def test_a_stored_original_unlearns_as_the_one_it_was(data: Data, original: nn.Module) -> None:
    task = task_for(data, [positions(data)[0][2][0]])
    stored = METHOD.blank(task)
    stored.load_state_dict(original.state_dict())
    one, other = METHOD.unlearn(stored, task_for(data, [7])), METHOD.unlearn(deepcopy(original), task_for(data, [7]))
    assert_bit_equal(one.state_dict(), other.state_dict())


def test_checkpoints_are_buffers_of_all_slices_but_the_last(original: nn.Module) -> None:
    buffers = dict(original.named_buffers())
    assert buffers["checkpoints 0 head/0/weight"].shape == (2, 128, 256)
    assert not any("checkpoint" in name for name, _ in original.named_parameters())


def test_a_shard_may_lose_all_its_samples(data: Data, original: nn.Module) -> None:
    everything = [i for part in positions(data)[0] for i in part]
    result = METHOD.unlearn(deepcopy(original), task_for(data, everything))
    fresh = task_for(data, [0]).fresh_model("shard 0")
    assert_bit_equal(member(result, 0).state_dict(), fresh.state_dict())


def test_sisa_defaults() -> None:
    assert (SISA().shards, SISA().slices) == (5, 5)


# --- rum -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorder(Method):
    """Notes what it was asked to forget and to retain, and marks the model."""

    paper: ClassVar[str] = "none"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS
    seen: ClassVar[list[tuple[str, Tensor, Tensor, Tensor, Tensor]]] = []

    name: str = ""

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        f, r = task.forget, task.retain
        self.seen.append((self.name, f.images(), f.labels, r.images(), r.labels))
        return nn.Sequential(model)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr("unlearnbench_methods.rum.build", lambda kind, name, params: Recorder(name))
    Recorder.seen.clear()
    return Recorder.seen


def of_size(data: Data, count: int) -> Split:
    return make_split(build("scenarios", "random", {"fraction": count / 96}), data.y_train.numpy(), len(data.y_test), 0)


def confidence(model: nn.Module, data: Data, index: np.ndarray) -> np.ndarray:
    probabilities = torch.softmax(model(data.x_train[index]), 1)
    return probabilities[torch.arange(len(index)), data.y_train[index]].detach().numpy()


def test_rum_unlearns_thirds_from_the_most_to_the_least_confident(data: Data, recorded: list[Any]) -> None:
    model, split = network(dtype=torch.float32), split_of(data, RANDOM)
    method = RUM(low="a", medium="b", high="c")
    result = method.unlearn(model, task_of(method, data, split))
    assert isinstance(result, nn.Sequential)
    assert result[0][0][0] is model  # each took what the one before gave
    assert [name for name, *_ in recorded] == ["a", "b", "c"]
    order = split.forget[np.argsort(-confidence(model, data, split.forget))]
    thirds = np.split(order, [len(order) // 3, 2 * len(order) // 3])
    for i, (_, x_f, y_f, x_r, y_r) in enumerate(recorded):
        part, later = np.sort(thirds[i]), thirds[i + 1 :]
        assert_same_set(data, (x_f, y_f), part)
        assert_same_set(data, (x_r, y_r), np.concatenate([split.retain, *later]))
    with pytest.raises(AssertionError):
        assert_same_set(data, recorded[0][1:3], thirds[2])  # the most memorised first
    with pytest.raises(AssertionError):
        assert_same_set(data, recorded[0][3:], split.retain)  # what is still to come left out


def assert_same_set(data: Data, found: tuple[Tensor, Tensor], index: np.ndarray) -> None:
    def rows(x: Tensor, y: Tensor) -> list[list[float]]:
        return sorted(torch.cat([x.flatten(1), y[:, None].float()], 1).tolist())

    assert rows(*found) == rows(data.x_train[index], data.y_train[index])


def test_memorisation_is_minus_the_log_of_the_confidence(data: Data) -> None:
    model, split = network(dtype=torch.float32), split_of(data, RANDOM)
    found = memorisation(model, task_of(RUM(), data, split).forget)
    np.testing.assert_allclose(found, -np.log(confidence(model, data, split.forget)), rtol=1e-5)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [1, 1]), (7, [3, 2, 2])])
def test_rum_leaves_out_empty_parts(data: Data, recorded: list[Any], count: int, sizes: list[int]) -> None:
    split = of_size(data, count)
    RUM().unlearn(network(dtype=torch.float32), task_of(RUM(), data, split))
    assert [len(y) for _, _, y, _, _ in recorded] == sizes


def test_rum_runs_registered_methods(data: Data) -> None:
    method = RUM(low="identity", medium="finetune", high="random_label")
    model = network(dtype=torch.float32)
    result = method.unlearn(deepcopy(model), task_of(method, data, split_of(data, RANDOM)))
    assert not torch.equal(result.get_parameter("head.weight"), model.get_parameter("head.weight"))


@pytest.mark.parametrize("name", ["retrain", "sisa_like", "unsir"])
def test_rum_refuses_methods_that_need_more(data: Data, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "sisa_like":
        monkeypatch.setattr("unlearnbench_methods.rum.build", lambda *_: SISA())
    with pytest.raises(UnlearnBenchError, match=f"rum cannot run '{name}'"):
        RUM(low=name).unlearn(network(dtype=torch.float32), task_of(RUM(), data, split_of(data)))


def test_rum_defaults_are_the_authors_best() -> None:
    assert (RUM().low, RUM().medium, RUM().high) == ("identity", "finetune", "salun")


def test_rum_reads_the_settings_behind_a_name() -> None:
    assert RUM().method("finetune lr=0.1 epochs=3") == FineTune(lr=0.1, epochs=3)
    assert RUM().method("random_label exclude_true=false") == RandomLabel(exclude_true=False)
    assert RUM().method("finetune") == FineTune()
    assert RUM().method("scrub optimizer=sgd") == SCRUB(optimizer="sgd")
    for published in RUM.published:
        assert RUM().method(published.params["medium"]) == FineTune(lr=0.1, epochs=10)
        assert RUM().method(published.params["high"]) == SalUn(lr=0.1, epochs=5)


@pytest.mark.parametrize("text", ["", "nothing_of_this_name", "finetune lr", "finetune speed=1", "finetune epochs=0"])
def test_rum_refuses_what_no_method_takes(text: str) -> None:
    with pytest.raises(RegistryError):
        RUM().method(text)


def test_rum_runs_in_half_precision_what_may_and_in_full_what_must_not(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Looks(Method):
        paper: ClassVar[str] = "none"
        needs: ClassVar[Access] = Access.FORGET
        full: ClassVar[list[bool]] = []

        def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
            self.full.append(not torch.is_autocast_enabled("cpu"))
            return model

    @dataclass(frozen=True)
    class MustNot(Looks):
        full_precision: ClassVar[bool] = True

    methods = {"looks": Looks, "must_not": MustNot}
    monkeypatch.setattr("unlearnbench_methods.rum.build", lambda _kind, name, _params: methods[name]())
    rum = RUM(low="looks", medium="must_not", high="looks")
    with torch.autocast("cpu", torch.bfloat16):
        rum.unlearn(network(dtype=torch.float32), task_of(rum, data, split_of(data)))
    assert Looks.full == [False, True, False]
