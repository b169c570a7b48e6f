"""What authors published: which entry a suite takes, what the tables call it, and what a wrong one is told."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from typing import Any

import pytest
from suite_cases import Write, params, plan

from unlearnbench import Access, Method, Published, build
from unlearnbench.plan import registry
from unlearnbench.plan.registry import RegistryError
from unlearnbench.plan.suites import find, make_plan, nearest, packaged


def entry(dataset: str, scenario: Any, **values: Any) -> Published:
    return Published(dataset, scenario, values, "Table 1, ResNet-18")


def method(*entries: Published) -> type[Method]:
    return dataclasses.dataclass(frozen=True)(
        type("Mine", (Method,), {
            "__annotations__": {"rate": float}, "rate": 0.1, "__module__": __name__, "unlearn": lambda self, m, t: m,
            "paper": "Nobody 2024", "needs": Access.FORGET, "published": entries,
        })
    )  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "dataset", "kind", "expected"),
    [
        ([("cifar10", "random"), ("mnist", "class")], "mnist", "random", "cifar10, random"),  # the kind goes first
        ([("cifar10", "random"), ("mnist", "random")], "mnist", "random", "mnist, random"),  # then the dataset itself
        (
            [("cifar100", "random"), ("mnist", "random")],
            "digits",
            "random",
            "mnist, random",
        ),  # then one that is like it
        ([("faces", "class"), ("cifar100", "class")], "digits", "class", "cifar100, class"),
        ([("faces", "class"), ("news", "class")], "digits", "class", "faces, class"),  # none is: the method's first
        ([("cifar10", "class")], "digits", "random", "cifar10, class"),  # rather the other kind than none
        ([], "digits", "class", "None"),
    ],
)
def test_the_nearest_entry(entries: list[tuple[str, Any]], dataset: str, kind: Any, expected: str) -> None:
    assert str(nearest(method(*(entry(*e) for e in entries)), dataset, kind)) == expected


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_datasets_are_like_others(name: str) -> None:
    like = registry.load("datasets", name).like
    assert name not in like
    assert len(set(like)) == len(like)


@pytest.mark.parametrize(("scenario", "kind"), [("random", "random"), ("indices", "random"), ("class", "class")])
def test_the_kind_of_a_scenario(scenario: str, kind: str) -> None:
    assert build("scenarios", scenario, {}).kind == kind


def test_a_suite_takes_what_was_published_and_says_so() -> None:
    made = make_plan("digits")
    camu = {e.scenario: e for e in made.entries if e.method == "camu"}
    assert [camu[s].settings for s in ("random-10", "class-8")] == [
        "published for mnist, random",
        "published for mnist, class",
    ]
    assert (params(made, "camu")["epochs"], params(made, "camu")["lr_ce"]) == (10, 5e-4)
    assert (params(made, "camu", "class-8")["epochs"], params(made, "camu", "class-8")["lr_ce"]) == (2, 1e-3)
    assert params(made, "camu", "class-8")["lr_kl"] == 4e-4  # what the entry does not name is the default
    assert {e.settings for e in made.entries if e.method in ("identity", "retrain")} == {"default"}


def test_the_suite_and_the_caller_go_over_what_was_published(write: Write) -> None:
    made = plan(write)
    assert params(made, "camu", "class") | {"lr_ce": 1.0, "epochs": 4} == params(made, "camu", "class")
    assert params(made, "silent", "class")["epochs"] == 2  # published for mnist, class: the suite sets the noise alone
    assert {e.settings for e in made.entries if e.method in ("camu", "silent")} == {"set by the suite"}
    by_hand = plan(write, sets=["camu.noise=2"])
    assert {e.settings for e in by_hand.entries if e.method == "camu"} == {"set by hand"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (entry("mnist", "class", rat=1.0), "published for mnist, class has no parameter 'rat'; did you mean 'rate'?"),
        (entry("mnist", "class", rate="fast"), "published for mnist, class: rate should be a valid number"),
        (entry("mnist", "klass"), "published for mnist, klass: scenario should be 'random' or 'class'"),
        (entry("", "class"), "published for , class: dataset"),
        (Published("mnist", "class", {}, ""), "published for mnist, class: source"),
        ({"dataset": "mnist"}, "expected unlearnbench.Published entries"),
    ],
)
def test_a_wrong_entry_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry._verify("methods", "mine", method(wrong))


def test_two_entries_for_one_place_are_refused() -> None:
    with pytest.raises(RegistryError, match="published for mnist, class: there are two such entries"):
        registry._verify("methods", "mine", method(entry("mnist", "class"), entry("mnist", "class", rate=1.0)))


@pytest.mark.parametrize("suite", packaged())
def test_no_suite_favours_a_method(suite: str) -> None:
    """Hyperparameters stand with the methods, for all alike: what a suite sets was searched, or is in its title."""
    content = tomllib.loads(find(suite)[1])
    for label, table in content["methods"].items():
        given = {key for key in table if key not in ("method", "in")}
        given |= {label for where in table.get("in", {}).values() if "tuned" not in where}
        named = table.get("method", label).lower() in content["title"].lower()
        assert not given or named, f"{suite} sets {label}: {given}"
