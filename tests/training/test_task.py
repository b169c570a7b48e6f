"""What a method is handed: what it declared, drawn from its own seed, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Counter, Data, Samples
from unlearnbench.plan.cells import Cell, Plugin, Recipe
from unlearnbench.plan.spec import Access, AccessDenied, UnlearnBenchError
from unlearnbench.training.loop import train
from unlearnbench.training.models import Classifier
from unlearnbench.training.task import Task

FORGET, RETAIN = np.array([9, 4, 7]), np.setdiff1d(np.arange(96), [9, 4, 7])[::-1].copy()
SPLIT = Split(FORGET, RETAIN, np.arange(24), (1, 2))
EVERYTHING = Access.FORGET | Access.RETAIN | Access.LABELS | Access.VALIDATION
SETS = {"forget": Access.FORGET, "retain": Access.RETAIN, "validation": Access.VALIDATION}


def cell(seed: int = 0, **recipe: Any) -> Cell:
    plugins = Plugin("toy"), Plugin("cnn"), Recipe(epochs=1, **recipe), Plugin("random"), Plugin("toy")
    return Cell(*plugins, split_seed=0, seed=seed)


def task(data: Data, needs: Access = EVERYTHING, **options: Any) -> Task:
    return Task.of(cell(**options), data, SPLIT, needs, Counter())


def state(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_the_sets_are_those_of_the_split_in_its_order(data: Data) -> None:
    made = task(data)
    assert torch.equal(made.forget.images(), data.x_train[[9, 4, 7]])
    assert torch.equal(made.forget.labels, data.y_train[[9, 4, 7]])
    assert torch.equal(made.retain.images()[0], data.x_train[95])
    assert len(made.retain) == 93
    assert torch.equal(made.validation.images(), data.x_validation)
    assert (made.num_classes, made.forget_classes, made.device) == (3, (1, 2), torch.device("cpu"))
    assert made.prepared is None


def test_a_validation_share_that_is_empty_is_an_error_not_a_set(data: Data) -> None:
    none = replace(data, x_validation=data.x_validation[:0], y_validation=data.y_validation[:0])
    with pytest.raises(UnlearnBenchError, match="set the dataset's validation above 0"):
        task(none).validation  # noqa: B018
    assert len(task(none).retain) == 93


@pytest.mark.parametrize("name", SETS)
def test_what_was_not_declared_is_denied_and_the_need_is_named(data: Data, name: str) -> None:
    made = task(data, EVERYTHING & ~SETS[name])
    with pytest.raises(AccessDenied, match=rf"task\.{name} .* add Access\.{name.upper()} to its needs"):
        getattr(made, name)
    for other in set(SETS) - {name}:
        assert len(getattr(made, other)) > 0


@pytest.mark.parametrize("name", SETS)
def test_without_labels_no_set_has_any(data: Data, name: str) -> None:
    made = task(data, EVERYTHING & ~Access.LABELS)
    with pytest.raises(AccessDenied, match=r"Access\.LABELS"):
        _ = getattr(made, name).labels
    assert len(next(getattr(made, name).batches(2))) == 1


def tensors_in(thing: Any, seen: set[int]) -> list[Tensor]:
    """Every tensor that can be reached through attributes, containers and closures."""
    if id(thing) in seen or isinstance(thing, (str, bytes, type, int, float)) or thing is None:
        return []
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return [thing]
    inner = list(thing.values()) if isinstance(thing, dict) else list(thing) if isinstance(thing, (list, tuple)) else []
    inner += list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    inner += [c.cell_contents for c in getattr(thing, "__closure__", None) or ()]
    return reduce(lambda found, each: found + tensors_in(each, seen), inner, [])


@pytest.mark.parametrize("needs", [Access(0), Access.FORGET, Access.RETAIN | Access.LABELS, EVERYTHING])
def test_nothing_undeclared_can_be_reached(data: Data, needs: Access) -> None:
    """No tensor in the task holds an undeclared image or shares memory with the dataset; the test set is in none."""
    found = [t for t in tensors_in(task(data, needs), set()) if t.ndim == 4 or t.dtype == torch.int64]
    declared = {name: need for name, need in SETS.items() if need in needs}
    assert len(found) == len(declared) * (1 + (Access.LABELS in needs))
    sizes = {"forget": 3, "retain": 93, "validation": 6}
    assert sorted(len(t) for t in found if t.ndim == 4) == sorted(sizes[name] for name in declared)
    whole = {t.untyped_storage().data_ptr() for t in (data.x_train, data.y_train, data.x_test, data.y_test)}
    assert not whole & {t.untyped_storage().data_ptr() for t in found}


def test_there_is_no_test_set_by_any_name(data: Data) -> None:
    made = task(data)
    assert not [name for name in dir(made) if "test" in name or "oracle" in name]


def test_all_sets_count_on_one_counter(data: Data) -> None:
    made = task(data)
    made.forget.images()
    list(made.retain.batches(32))
    made.validation.images()
    assert made.counter.samples == 3 + 93 + 6


def test_sets_augment_as_the_recipe_says(data: Data) -> None:
    assert not task(data).retain.augmented
    assert task(data, augment="crop_flip").retain.augmented


def test_order_depends_on_the_seed_and_differs_between_sets(data: Data) -> None:
    first, again, other = (next(task(data, seed=s).retain.batches(93))[1] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_generators_depend_on_seed_and_purpose(data: Data) -> None:
    draws = [
        torch.rand(2, generator=task(data, seed=seed).generator(purpose)).tolist()
        for seed, purpose in ((0, "noise"), (0, "noise"), (0, "labels"), (1, "noise"))
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0] != draws[3]


def test_fresh_models_differ_by_purpose_and_seed_and_never_by_chance(data: Data) -> None:
    torch.manual_seed(0)
    first = state(task(data).fresh_model("a"))
    torch.manual_seed(1)
    assert torch.equal(state(task(data).fresh_model("a")), first)
    assert not torch.equal(state(task(data).fresh_model("b")), first)
    assert not torch.equal(state(task(data, seed=1).fresh_model("a")), first)
    model = task(data).fresh_model()
    assert isinstance(model, Classifier)
    assert model.num_classes == 3


def test_gradients_of_a_fresh_model_are_counted(data: Data) -> None:
    made = task(data)
    made.train(made.fresh_model(), made.forget)
    assert (made.counter.samples, made.counter.gradients) == (3, 3)


def test_train_is_the_originals_recipe(data: Data) -> None:
    made = task(data, lr=0.01)
    x = (data.x_train[FORGET.tolist()], data.y_train[FORGET.tolist()])
    order = Samples(*x, made.forget._seed, None, Counter())
    expected = train(made.fresh_model(), order, Recipe(lr=0.01, epochs=1))
    assert torch.equal(state(made.train(made.fresh_model(), made.forget)), state(expected))


def test_what_is_written_into_a_set_stays_in_it(data: Data) -> None:
    before, needs = data.checksums(), EVERYTHING | Access.TRAINING
    made = task(data, needs)
    for samples in (made.forget, made.retain, made.validation, made.training):
        samples.images().zero_()
        samples.labels.zero_()
    assert all(map(torch.equal, before, data.checksums()))
    again = task(data, needs)
    assert all(s.images().any() for s in (again.forget, again.retain, again.validation, again.training))
