"""Nouns: keys that hold everything that changes a number and nothing else, and values that may not exist."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from unlearnbench.plan.cells import EVIDENCE_VERSION, TRAINING_VERSION, Cell, Plugin, Probe, Recipe, digest
from unlearnbench.plan.registry import build, configure
from unlearnbench.plan.spec import Empty, Metric, Need, UnlearnBenchError

CELL = Cell(
    dataset=Plugin("digits", {"validation": 0.1, "limit_train": None, "limit_test": None}, "e461e35a"),
    model=Plugin("cnn", {}, 1),
    recipe=Recipe(
        optimizer="adam", lr=1e-3, momentum=0.0, nesterov=False, weight_decay=1e-4, batch_size=32, epochs=20,
        schedule="constant", augment="none", image_size=None, label_smoothing=0.0, precision="float32",
        compile=False,
    ),
    scenario=Plugin("class", {"classes": (0, 3)}, 1),
    method=Plugin("camu", {"lr_kl": 4e-4, "epochs": 2}, 1),
    split_seed=3,
    seed=4,
    probe=Probe(
        relearn_every=10, relearn_points=None, relearn_lr=1e-3, relearn_frozen_norm=False, relearn_cap=1000,
        relearn_epochs=100, panel=500, augmented=False,
    ),
    quick=False,
)  # fmt: skip


def test_keys_do_not_change_by_accident() -> None:
    """Raise a version in spec.py when the numbers change; a new key without one throws everybody's results away."""
    assert CELL.key == "55fb602e8ca1ca3faf1e3d07"
    assert CELL.original_key == "be1925685590cfe1953b76f3"
    assert CELL.prepared_key == "61d58470ac75327b6d354088"
    assert CELL.split_key == "6d305646e5f6ce8eaf956671"
    assert CELL.oracle_key == "110af9ff0610764951b4a882"
    assert CELL.untrained_key == "d0949dd4ef7648d5910f3879"
    assert CELL.bank_key == "156c7682a3ad0be4b3008a47"


def test_a_digest_is_that_of_canonical_json() -> None:
    assert (
        digest({"b": [1, 2.5], "a": None}) == "e57f5d37865437a82e1108ba"
    )  # printf '{"a":null,"b":[1,2.5]}' | sha256sum
    assert digest({"b": [1, 2.5], "a": None}) == digest({"a": None, "b": (1, 2.5)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_has_no_key(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest({"lr": value})


CHANGES: dict[str, Any] = {
    "dataset name": {"dataset": replace(CELL.dataset, name="mnist")},
    "subset": {"dataset": replace(CELL.dataset, params={**CELL.dataset.params, "limit_train": 100})},
    "dataset version": {"dataset": replace(CELL.dataset, version="other")},
    "model": {"model": Plugin("resnet9", {"width": 8}, 1)},
    "model version": {"model": Plugin("cnn", {}, 2)},
    "recipe": {"recipe": replace(CELL.recipe, precision="bfloat16")},
    "scenario": {"scenario": replace(CELL.scenario, params={"classes": (0, 4)})},
    "method parameter": {"method": replace(CELL.method, params={**CELL.method.params, "epochs": 3})},
    "method version": {"method": replace(CELL.method, version=2)},
    "split seed": {"split_seed": 4},
    "seed": {"seed": 3},
    "probe": {"probe": replace(CELL.probe, relearn_cap=999)},
    "epochs of the probe": {"probe": replace(CELL.probe, relearn_epochs=99)},
    "panel": {"probe": replace(CELL.probe, panel=499)},
    "quick": {"quick": True},
}


def test_every_field_is_in_the_key() -> None:
    keys = {what: replace(CELL, **change).key for what, change in CHANGES.items()}
    assert len({CELL.key, *keys.values()}) == len(CHANGES) + 1


def test_rows_from_when_methods_ran_in_float32_all_the_same_are_no_longer_asked_for() -> None:
    """Those of recipes in float32 are what they were, and so are originals and oracles."""
    half = replace(CELL, recipe=replace(CELL.recipe, precision="bfloat16"))
    for cell, same in ((CELL, True), (half, False)):
        assert (cell.key == digest([TRAINING_VERSION, EVIDENCE_VERSION, cell.as_dict()])) == same


TRAINED = {"dataset name", "subset", "dataset version", "model", "model version", "recipe", "seed"}


@pytest.mark.parametrize("what", CHANGES)
def test_what_shares_an_original_an_oracle_and_a_split(what: str) -> None:
    other = replace(CELL, **CHANGES[what])
    method = {"method parameter", "method version"}
    split = {"scenario", "split seed"}
    assert (other.original_key != CELL.original_key) == (what in TRAINED)
    assert (other.prepared_key != CELL.prepared_key) == (what in TRAINED | method | split)
    assert (other.split_key != CELL.split_key) == (what in {"dataset name", "subset", "dataset version", *split})
    assert (other.group == CELL.group) == (what in method)
    assert (other.split_group == CELL.split_group) == (what in method | {"seed"})
    assert (other.oracle_key != CELL.oracle_key) == (what in TRAINED | split)
    assert (other.bank_key != CELL.bank_key) == (what in TRAINED - {"seed"} | split)
    assert (other.untrained_key != CELL.untrained_key) == (what in TRAINED - {"recipe"})


def test_the_order_of_parameters_does_not_matter() -> None:
    reverse = replace(CELL.method, params=dict(reversed([*CELL.method.params.items()])))
    assert list(reverse.params) == ["epochs", "lr_kl"]
    assert replace(CELL, method=reverse).key == CELL.key


def test_a_whole_number_and_a_float_of_the_same_value_have_one_key() -> None:
    whole, real = (Plugin.of("camu", build("methods", "camu", {"lr_kl": lr})) for lr in (1, 1.0))
    assert digest([whole.params]) == digest([real.params])
    assert isinstance(whole.params["lr_kl"], float)


def test_classes_are_a_set() -> None:
    repeated, sorted_ = (Plugin.of("class", build("scenarios", "class", {"classes": c})) for c in ([2, 1, 1], [1, 2]))
    assert repeated == sorted_
    assert repeated.params == {"classes": (1, 2)}


def test_defaults_are_in_the_key_before_it_is_taken() -> None:
    assert Plugin.of("random", build("scenarios", "random", {})) == Plugin.of(
        "random", build("scenarios", "random", {"fraction": 0.1, "count": None, "stratified": False})
    )


def test_a_cell_survives_json() -> None:
    back = configure(Cell, json.loads(json.dumps(CELL.as_dict())), "cell")
    assert back.key == CELL.key
    assert (back.recipe, back.probe, back.split_seed, back.seed) == (CELL.recipe, CELL.probe, 3, 4)


@pytest.mark.parametrize("change", [{"extra": 1}, {"recipe": {"lrr": 1.0}}, {"method": {"nom": "camu"}}])
def test_a_cell_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UnlearnBenchError):
        configure(Cell, {**CELL.as_dict(), **change}, "cell")


def test_an_empty_value_says_why() -> None:
    assert str(Empty("no_class")) == "the scenario does not forget whole classes"
    assert str(Empty("too_few", "3 of 10")) == "too few samples: 3 of 10"


def test_an_empty_value_needs_a_known_reason() -> None:
    with pytest.raises(ValueError, match=r"unknown reason 'bored'.*'too_few'"):
        Empty("bored")


@pytest.mark.parametrize(
    ("needs", "relative"), [({}, False), ({"oracle": 1}, True), ({"bank": 8}, False), ({"bank": 8, "oracle": 1}, True)]
)
def test_a_metric_that_needs_the_oracle_already_is_a_comparison(needs: dict[Need, int], relative: bool) -> None:
    metric = Metric("m", "M", "", "leakage", "low", lambda evidence, context: 0.0, "", needs=needs)
    assert metric.relative == relative
    assert hash(metric) == hash(replace(metric))
