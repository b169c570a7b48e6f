"""Banks: which members there are, that each is made once, and that it is what it would have been alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from run_cases import CELL, CLASS, CPU, DIGITS, KINDS, RECIPE, plugin
from torch import nn

from unlearnbench.data.tensors import Counter, Data, derive_seed
from unlearnbench.plan.cells import Cell, Plugin, Recipe
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Access, Method, Model
from unlearnbench.runs import bank
from unlearnbench.runs.runner import load_data, load_original, make_cell_split, trainee
from unlearnbench.store import roster
from unlearnbench.store.folder import Store
from unlearnbench.training.loop import Diverged, predict, train
from unlearnbench.training.models import build_model
from unlearnbench.training.task import Task


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load_data(DIGITS, tmp_path_factory.mktemp("data"), CPU)


def make(kind: roster.Kind, cell: Cell, members: list[int], store: Store) -> None:
    bank.make(kind, cell, members, store, store.root, CPU)


def stamps(store: Store) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in store.root.rglob("*.safetensors")}


# --- what is there ---------------------------------------------------------------------------------------------------

CELL_KEYS = [replace(CELL, seed=1_000_000 + i).oracle_key for i in range(4)]


def test_a_bank_that_grows_keeps_what_it_has(store: Store) -> None:
    assert roster.missing("oracles", CELL, 2, store) == [0, 1]
    assert roster.stored("oracles", CELL, 2, store) == ()
    make("oracles", CELL, [0, 1], store)
    before = stamps(store)
    assert len(before) == 2
    assert roster.missing("oracles", CELL, 2, store) == []
    assert roster.missing("oracles", CELL, 4, store) == [2, 3]
    make("oracles", CELL, [2, 3], store)
    after = stamps(store)
    assert len(after) == 4
    assert before.items() <= after.items()
    assert roster.stored("oracles", CELL, 3, store) == tuple(CELL_KEYS[:3])
    assert roster.stored("oracles", CELL, 9, store) == tuple(CELL_KEYS)
    assert roster.missing("oracles", replace(CELL, split_seed=1), 1, store) == [0]


def test_a_gap_is_known(store: Store) -> None:
    for i in (0, 2):
        store.put_outputs(CELL_KEYS[i], {"train": np.zeros((1, 2), np.float16)})
    assert roster.missing("oracles", CELL, 3, store) == [1]
    assert roster.stored("oracles", CELL, 3, store) == (CELL_KEYS[0], CELL_KEYS[2])
    assert roster.missing("oracles", CELL, 0, store) == []


def test_originals_are_weights_and_the_others_outputs(store: Store) -> None:
    make("originals", CELL, [0, 1], store)
    assert sorted(p.stem for p in (store.root / "artifacts").glob("*.safetensors")) == sorted(
        replace(CELL, seed=1_000_000 + i).original_key for i in (0, 1)
    )
    assert roster.missing("originals", CELL, 3, store) == [2]
    assert roster.missing("oracles", CELL, 1, store) == roster.missing("unlearned", CELL, 1, store) == [0]
    make("unlearned", CELL, [0], store)
    assert roster.missing("unlearned", CELL, 2, store) == [1]


def test_outputs_are_half_precision_on_the_whole_dataset(store: Store) -> None:
    make("oracles", CELL, [0], store)
    make("unlearned", CELL, [0], store)
    for kind in ("oracles", "unlearned"):
        outputs = store.outputs(roster.key(kind, CELL, 0))  # type: ignore[arg-type]
        assert {name: (x.shape, x.dtype) for name, x in outputs.items()} == {
            "train": ((120, 10), np.float16), "test": ((50, 10), np.float16),  # one of each class is held out
        }  # fmt: skip


# --- what a member is ------------------------------------------------------------------------------------------------


def alone(cell: Cell, i: int, data: Data, positions: np.ndarray | None) -> nn.Module:
    model, samples = trainee(roster.member("originals", cell, i), data, positions, Counter())
    return train(model, samples, cell.recipe).eval()


def assert_outputs(found: dict[str, np.ndarray], model: nn.Module, data: Data, atol: float = 2e-3) -> None:
    for name, x in (("train", data.x_train), ("test", data.x_test)):
        np.testing.assert_allclose(found[name], predict(model, x).numpy(), rtol=2**-10, atol=atol)


@pytest.mark.parametrize("cell", [CELL, CLASS], ids=["random", "class"])
def test_oracles_are_those_trained_one_by_one_on_the_retain_set(store: Store, digits: Data, cell: Cell) -> None:
    make("oracles", cell, [0, 1, 2], store)
    split = make_cell_split(cell, digits)
    for i in range(3):
        assert_outputs(store.outputs(roster.key("oracles", cell, i)), alone(cell, i, digits, split.retain), digits)
    for other in (alone(cell, 0, digits, None), alone(cell, 1, digits, split.retain)):  # an original; a neighbour
        with pytest.raises(AssertionError):
            assert_outputs(store.outputs(roster.key("oracles", cell, 0)), other, digits)


def test_an_oracle_never_saw_what_is_forgotten(store: Store, digits: Data) -> None:
    make("oracles", CLASS, [0, 1], store)
    for i in range(2):
        outputs = store.outputs(roster.key("oracles", CLASS, i))
        assert (outputs["train"][digits.y_train.numpy() == 0].argmax(1) == 0).sum() == 0


def test_originals_are_those_that_a_cell_of_the_seed_would_train(store: Store, digits: Data, tmp_path: Path) -> None:
    """So that an unlearned member whose original is missing gets the same one."""
    make("originals", CELL, [0, 1], store)
    x = digits.x_test
    for i in range(2):
        own = roster.member("originals", CELL, i)
        stacked = load_original(own, store, digits)
        torch.testing.assert_close(predict(stacked, x), predict(alone(CELL, i, digits, None), x), rtol=0, atol=2e-4)
        single = load_original(own, Store(tmp_path / "single"), digits)
        torch.testing.assert_close(predict(stacked, x), predict(single, x), rtol=0, atol=2e-4)


def test_an_unlearned_member_is_made_of_the_banks_original(store: Store, digits: Data) -> None:
    """Identity hands it back, which shows whose it was."""
    make("originals", CELL, [0, 1], store)
    make("unlearned", CELL, [0, 1], store)
    originals = [load_original(roster.member("originals", CELL, i), store, digits) for i in range(2)]
    for i in range(2):
        assert_outputs(store.outputs(roster.key("unlearned", CELL, i)), originals[i], digits)
    with pytest.raises(AssertionError):
        assert_outputs(store.outputs(roster.key("unlearned", CELL, 0)), originals[1], digits)
    assert not store.has_artifact(CELL.original_key)  # the cell's own


def test_an_unlearned_member_trains_an_original_that_is_missing(store: Store) -> None:
    make("unlearned", CELL, [1], store)
    assert store.has_artifact(roster.key("originals", CELL, 1))
    assert not store.has_artifact(roster.key("originals", CELL, 0))


def test_an_unlearned_member_is_what_the_method_makes_under_its_seed(store: Store, digits: Data) -> None:
    cell = replace(CELL, method=plugin("methods", "random_label", epochs=1))
    make("unlearned", cell, [0, 1], store)
    method = build("methods", "random_label", {"epochs": 1})
    for i in range(2):
        own, split = roster.member("originals", cell, i), make_cell_split(cell, digits)
        model = load_original(own, store, digits)
        unlearned = method.unlearn(model, Task.of(own, digits, split, method.needs, Counter()))
        assert_outputs(store.outputs(roster.key("unlearned", cell, i)), unlearned, digits)


# --- stacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "device", "size"),
    [
        ({}, "cpu", 32),
        ({}, "cuda", 1),
        ({"recipe": replace(RECIPE, compile=True)}, "cpu", 1),
        ({"model": Plugin("resnet18")}, "cpu", 1),
    ],
)
def test_a_stack_is_as_large_as_the_network_declares(changes: dict[str, Any], device: str, size: int) -> None:
    assert bank.stack_size(replace(CELL, **changes), torch.device(device)) == size


@dataclass(frozen=True)
class Small(Model):
    stack: ClassVar[dict[str, int]] = {"cpu": 5, "cuda": 7}

    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> Any:
        return build_model(build("models", "cnn", {}), input_shape, num_classes, 0)


def test_a_networks_own_word_counts(register: Callable[..., None]) -> None:
    register("models", small=Small)
    cell = replace(CELL, model=Plugin("small"))
    assert [bank.stack_size(cell, torch.device(d)) for d in ("cpu", "cuda", "cuda:1", "mps")] == [5, 7, 7, 1]


@pytest.mark.parametrize(("members", "used"), [([4], "train"), ([4, 5], "train_stacked")])
def test_one_alone_is_trained_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, members: list[int], used: str
) -> None:
    for name in {"train", "train_stacked"} - {used}:
        monkeypatch.setattr(bank, name, lambda *_, name=name: pytest.fail(name))
    make("oracles", CELL, members, store)
    assert len(roster.stored("oracles", CELL, 6, store)) == len(members)


def test_the_same_members_give_the_same_outputs_and_leave_the_generator_alone(store: Store, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    make("oracles", CELL, [0, 1], store)
    assert torch.equal(torch.rand(2), expected)
    again = Store(tmp_path / "again")
    make("oracles", CELL, [0, 1], again)
    for i in range(2):
        key = roster.key("oracles", CELL, i)
        np.testing.assert_array_equal(store.outputs(key)["test"], again.outputs(key)["test"])


# --- beside another process ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_another_process_made_while_this_one_waited_is_not_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, kind: roster.Kind
) -> None:
    if kind == "shadows":
        make("shadow_originals", CELL, [0, 1], store)
    lock = Store.lock

    def waited(own: Store, key: str) -> AbstractContextManager[None]:
        monkeypatch.setattr(Store, "lock", lock)
        make(kind, CELL, [0, 1], store)  # the other process
        for name in ("train", "train_stacked", "unlearn"):
            monkeypatch.setattr(bank, name, lambda *_: pytest.fail("made again"))
        return lock(own, key)

    monkeypatch.setattr(Store, "lock", waited)
    make(kind, CELL, [0, 1], store)
    assert roster.missing(kind, CELL, 2, store) == []


def test_of_a_stack_what_lacks_is_stored_as_it_would_have_been(store: Store) -> None:
    make("originals", CELL, [0, 1, 2], store)
    path = store.root / "artifacts" / f"{roster.key('originals', CELL, 1)}.safetensors"
    expected, before = path.read_bytes(), stamps(store)
    path.unlink()
    make("originals", CELL, [0, 1, 2], store)
    assert path.read_bytes() == expected
    after = stamps(store)
    assert {name for name in before if before[name] != after[name]} == {path.name}


def test_of_unlearned_members_those_that_lack_are_made(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make("unlearned", CELL, [1], store)
    unlearn, asked = bank.unlearn, []

    def watched(*given: Any) -> Any:
        asked.append(given[2].seed)
        return unlearn(*given)

    monkeypatch.setattr(bank, "unlearn", watched)
    make("unlearned", CELL, [0, 1, 2], store)
    assert asked == [1_000_000, 1_000_002]


# --- shadows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [12, 13, 1])
def test_in_three_shadows_every_forget_sample_has_every_role_once(n: int) -> None:
    for first in (0, 3, 30):
        roles = np.stack([roster.shadow_roles(n, first + i) for i in range(3)])
        assert (np.sort(roles, axis=0) == [[roster.OUT], [roster.UNLEARNED], [roster.KEPT]]).all()
    assert (roster.shadow_roles(99, 0) != roster.shadow_roles(99, 3)).any()
    assert np.bincount(roster.shadow_roles(99, 5)).tolist() == [33, 33, 33]


def test_a_shadow_asks_to_forget_a_third_and_keeps_another(digits: Data) -> None:
    split = make_cell_split(CELL, digits)
    for i in range(4):
        roles, request = roster.shadow_roles(12, i), bank.shadow_split(split, i)
        assert request.forget.tolist() == split.forget[roles == roster.UNLEARNED].tolist()
        kept = set(split.forget[roles == roster.KEPT])
        assert sorted(request.retain) == sorted(kept | set(split.retain))
        assert not {int(p) for p in split.forget[roles == roster.OUT]} & {*request.forget, *request.retain}
        assert kept - set(request.retain[-4:])  # not all at the end: any prefix is a uniform sample


def test_a_shadow_is_made_of_an_original_that_saw_two_thirds(store: Store, digits: Data) -> None:
    make("shadow_originals", CELL, [0, 1, 2], store)
    make("shadows", CELL, [0, 1, 2], store)
    split = make_cell_split(CELL, digits)
    for i in range(3):
        own = roster.member("shadows", CELL, i)
        request = bank.shadow_split(split, i)
        model, samples = trainee(own, digits, np.concatenate([request.forget, request.retain]), Counter())
        assert len(samples) == 108 + 8
        expected = predict(train(model, samples, RECIPE), digits.x_train[torch.from_numpy(split.forget)])
        found = store.outputs(roster.key("shadows", CELL, i))
        assert list(found) == ["forget"]
        assert found["forget"].dtype == np.float16
        np.testing.assert_allclose(found["forget"], expected.numpy(), rtol=2**-10, atol=2e-3)
    assert roster.missing("shadows", CELL, 4, store) == roster.missing("shadow_originals", CELL, 4, store) == [3]


# --- failure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [[0], [0, 1]])
def test_a_training_that_diverges_stores_nothing(store: Store, members: list[int]) -> None:
    cell = replace(CELL, recipe=Recipe(lr=1e30, epochs=2))
    with pytest.raises(Diverged):
        make("oracles", cell, members, store)
    assert not stamps(store)


@dataclass(frozen=True)
class SecondRaises(Method):
    paper: ClassVar[str] = "none"
    needs: ClassVar[Access] = Access(0)

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        if task.generator("x").initial_seed() == derive_seed(1_000_001, "method x"):
            raise ValueError("on purpose")
        return model


def test_what_a_method_raises_is_passed_on_and_members_before_it_are_kept(
    store: Store, register: Callable[..., None]
) -> None:
    register("methods", raises=SecondRaises)
    cell = replace(CELL, method=Plugin("raises"))
    with pytest.raises(ValueError, match="on purpose"):
        make("unlearned", cell, [0, 1, 2], store)
    assert roster.stored("unlearned", cell, 3, store) == (roster.key("unlearned", cell, 0),)
