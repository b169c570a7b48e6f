"""Splits: the samples that are asked for, the same for every method, in an order whose prefixes are fair samples."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlearnbench.data.scenarios.classes import ClassForget
from unlearnbench.data.scenarios.indices import IndicesForget
from unlearnbench.data.scenarios.random import RandomForget
from unlearnbench.data.split import Split, make_split
from unlearnbench.plan.spec import Scenario, UnlearnBenchError

LABELS = np.repeat(np.arange(5), [10, 20, 30, 40, 100])  # 200 samples
SCENARIOS = [RandomForget(fraction=0.25), RandomForget(count=7, stratified=True), ClassForget(classes=(1, 3))]


def split(scenario: Scenario, split_seed: int = 0) -> Split:
    return make_split(scenario, LABELS, 50, split_seed)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_forget_and_retain_are_disjoint_and_complete(scenario: Scenario) -> None:
    made = split(scenario)
    assert sorted([*made.forget, *made.retain]) == list(range(200))
    assert sorted(made.test) == list(range(50))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_split_depends_on_its_seed_alone(scenario: Scenario) -> None:
    first, again, other = split(scenario), split(scenario), split(scenario, 1)
    for name in ("forget", "retain", "test"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))


def test_a_split_never_changes() -> None:
    """Two laboratories forgot the same samples: numpy keeps the stream of ``default_rng``'s bit generator."""
    made = split(RandomForget(fraction=0.02), 7)
    assert sorted(made.forget) == [59, 72, 113, 149]
    assert made.sha256 == "67247a259789aae0283794635109c7c837c87e53f2079711f933fd5f14957b0a"
    assert made.retain[:4].tolist() == [184, 69, 177, 41]


def test_the_hash_is_that_of_the_sorted_forget_set() -> None:
    made = split(ClassForget(classes=(0,)))
    assert made.sha256 == hashlib.sha256(b"".join(i.to_bytes(8, "little") for i in range(10))).hexdigest()


def test_random_takes_a_fraction_or_a_count() -> None:
    assert len(split(RandomForget()).forget) == 20
    assert len(split(RandomForget(fraction=0.5, count=3)).forget) == 3


def test_stratified_gives_each_class_its_share() -> None:
    made = split(RandomForget(fraction=0.1, stratified=True))
    assert np.bincount(LABELS[made.forget]).tolist() == [1, 2, 3, 4, 10]


def test_stratified_gives_what_rounding_leaves_to_the_largest_remainders() -> None:
    made = split(RandomForget(count=7, stratified=True))  # shares .35 .7 1.05 1.4 3.5
    assert np.bincount(LABELS[made.forget]).tolist() == [0, 1, 1, 1, 4]


def test_class_takes_every_sample_of_its_classes() -> None:
    made = split(ClassForget(classes=(3, 1, 3)))
    assert sorted(made.forget) == [*range(10, 30), *range(60, 100)]
    assert made.forget_classes == (1, 3)


def test_only_class_scenarios_name_classes() -> None:
    assert split(RandomForget()).forget_classes == ()


def test_any_prefix_of_the_retain_set_is_a_uniform_sample() -> None:
    """CaMU's D_s is a prefix: over 400 split seeds each of 8 positions comes first about as often as any other."""
    labels = np.repeat([0, 1], [2, 8])
    first = [make_split(ClassForget(classes=(0,)), labels, 5, seed).retain[0] for seed in range(400)]
    counts = np.bincount(first, minlength=10)
    assert counts[:2].tolist() == [0, 0]
    assert counts[2:].min() >= 25  # of 50 expected: 3.8 standard deviations
    assert counts[2:].max() <= 75


@pytest.mark.parametrize("scenario", [RandomForget(fraction=0.001), RandomForget(count=200), RandomForget(count=201)])
def test_random_refuses_to_forget_nothing_or_everything(scenario: Scenario) -> None:
    with pytest.raises(UnlearnBenchError, match=r"'random': cannot forget (0|200|201) of 200"):
        split(scenario)


def test_class_refuses_an_absent_class_and_names_those_there_are() -> None:
    with pytest.raises(UnlearnBenchError, match=r"no training sample of class 7; there are \[0, 1, 2, 3, 4\]"):
        split(ClassForget(classes=(0, 7)))


def test_class_refuses_to_forget_all() -> None:
    with pytest.raises(UnlearnBenchError, match="nothing to retain"):
        split(ClassForget(classes=(0, 1, 2, 3, 4)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "forget.txt"


def test_indices_are_read_from_a_file(file: Path) -> None:
    file.write_text("5\n199\n\n 0 \n5\n")
    assert sorted(split(IndicesForget(path=str(file))).forget) == [0, 5, 199]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "an empty file"),
        ("3\n-1\n", "'-1'"),
        ("3\n1.5\n", "'1.5'"),
        ("index\n3\n", "'index'"),
        ("3\n200\n", "200 is not a position in 200 training samples"),
        ("\n".join(map(str, range(200))), "nothing to retain"),
    ],
)
def test_indices_refuses_what_is_not_a_position(file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    with pytest.raises(UnlearnBenchError, match=f"'indices': .*{problem}"):
        split(IndicesForget(path=str(file)))


def test_indices_refuses_a_file_that_is_not_there_or_is_no_text(file: Path) -> None:
    with pytest.raises(UnlearnBenchError, match=r"cannot read path '.*forget\.txt'"):
        split(IndicesForget(path=str(file)))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UnlearnBenchError, match="cannot read path"):
        split(IndicesForget(path=str(file)))


def test_indices_are_identified_by_what_the_file_holds(file: Path) -> None:
    """The key of a cell changes with the indices, and not with how they are written down."""
    scenario = IndicesForget(path=str(file))
    file.write_text("1\n2\n")
    before = scenario.identity()
    file.write_text("2\n1\n1\n")
    assert scenario.identity() == before
    file.write_text("1\n3\n")
    assert scenario.identity() != before


# --- what is no forget set -------------------------------------------------------------------------------------------


class Gives(Scenario):
    """A scenario that chooses what it was made with."""

    def __init__(self, chosen: Any, classes: tuple[int, ...] = ()) -> None:
        object.__setattr__(self, "chosen", chosen)
        object.__setattr__(self, "forget_classes", classes)

    def select(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.chosen  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("chosen", "classes", "says"),
    [
        (np.array([-1, 3]), (), r"the position \[-1\]"),  # sample 199 would be forgotten, and retained as well
        (np.array([0, 200]), (), r"the position \[200\]"),
        (np.array([3, 4, 3]), (), "positions that occur twice"),
        (LABELS == 2, (), r"a mask \(np\.flatnonzero makes positions of it\)"),
        (np.array([1.0, 2.0]), (), r"an array of float64 \[2\]"),
        (np.array([[1, 2]]), (), r"an array of int64 \[1, 2\]"),
        (np.array(3), (), r"an array of int64 \[\]"),
        (np.array([], int), (), r"an array of int64 \[0\]"),
        (np.arange(200), (), "every position"),
        (np.flatnonzero(LABELS == 2)[1:], (2,), r"other samples than all of its forget_classes \[2\]"),
        (np.flatnonzero(LABELS <= 2), (2,), r"other samples than all of its forget_classes \[2\]"),
    ],
)
def test_what_is_no_forget_set_is_refused_by_name(chosen: Any, classes: tuple[int, ...], says: str) -> None:
    with pytest.raises(UnlearnBenchError, match=f"scenario Gives.select returned {says}: expected different positions"):
        split(Gives(chosen, classes))


def test_whole_numbers_of_any_kind_are_positions() -> None:
    for chosen in ([5, 7], np.array([7, 5], np.uint8)):
        assert sorted(split(Gives(chosen)).forget) == [5, 7]
        assert split(Gives(chosen)).forget.dtype == np.int64


def test_a_scenario_is_handed_labels_of_its_own() -> None:
    """On a CPU the array of the labels is the memory of the dataset's tensor."""

    class Writes(Gives):
        def select(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            labels[:] = 0
            return np.array([1])

    labels = LABELS.copy()
    make_split(Writes(None), labels, 50, 0)
    assert np.array_equal(labels, LABELS)
