"""Cards: what `unlearnbench show` says of each kind of plugin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, get_args

import pytest

from unlearnbench.plan import registry
from unlearnbench.plan.cards import SECTIONS, card, search_laws, sections
from unlearnbench.plan.spec import Choice, Configured, LogUniform, Uniform, UnlearnBenchError
from unlearnbench.plan.suites import packaged


def facts(text: str) -> dict[str, str]:
    """The two columns of a card."""
    rows = [line.split(maxsplit=1) for line in text.splitlines() if line.startswith("  ")]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def test_the_card_of_a_method() -> None:
    text = card("methods", "camu")
    shown = facts(text)
    assert text.startswith("camu (method)\n")
    assert "KL(" in text  # the formula
    assert "2401.17504" in shown["paper"]
    assert shown["from"].startswith("unlearnbench ")
    assert shown["needs"] == "forget, retain, labels"
    assert shown["scenarios"] == "all"
    assert shown["role"] == "method"
    assert shown["lr_kl"] == "number > 0; default 0.0004; searched log-uniformly from 1e-06 to 0.01"
    assert shown["batch_size"] == "integer > 0; default 32"


def test_the_card_shows_the_toy_hyperparameters() -> None:
    cls = registry.load("methods", "gradient_ascent")
    assert f"epochs = {cls.toy['epochs']}" in facts(card("methods", "gradient_ascent"))["toy"]


def test_the_card_says_in_which_precision_a_method_runs() -> None:
    assert facts(card("methods", "finetune"))["precision"] == "the recipe's"
    assert facts(card("methods", "fisher"))["precision"] == "float32, whatever the recipe's"


def test_the_card_of_a_control() -> None:
    shown = facts(card("methods", "identity"))
    assert shown["needs"] == "no data"
    assert shown["role"] == "control, leaves the parameters as they are"
    assert card("methods", "identity").endswith("parameters:\n  none")


def test_the_card_of_a_dataset() -> None:
    shown = facts(card("datasets", "digits"))
    assert shown["fingerprint"] == registry.load("datasets", "digits").fingerprint
    assert shown["validation"] == "number >= 0 and < 1; default 0.1"
    assert shown["limit_train"] == "integer > 0 or none; default none"
    assert facts(card("datasets", "npz"))["path"] == "text; required"


def test_the_cards_of_a_scenario_and_a_model() -> None:
    assert facts(card("scenarios", "class"))["classes"] == "list of integer >= 0; default [0]"
    assert facts(card("scenarios", "random"))["stratified"] == "boolean; default False"
    assert facts(card("models", "resnet9"))["width"] == "integer > 0; default 64"


def test_the_card_of_a_metric() -> None:
    text = card("metrics", "mia_gbt")
    assert registry.load("metrics", "mia_gbt").doc in text
    assert facts(text)["best"] == "closest to the oracle's"
    assert facts(card("metrics", "seconds"))["compared"] == "on one machine only"
    tolerances = {name: facts(card("metrics", name))["tolerance"] for name in ("fa", "rmia", "relearn_steps", "klom")}
    assert tolerances == {
        "fa": "1 point", "rmia": "0.02", "relearn_steps": "10% of the oracle's", "klom": "none declared",
    }  # fmt: skip
    of = {name: facts(card("metrics", name))["of"] for name in ("fa", "zrf", "iam", "ruli", "forgetting_ratio")}
    assert of == {
        "fa": "the row",
        "zrf": "the row, an untrained network",
        "iam": "the row, 1 model of the bank, its original",
        "ruli": "the row, 8 shadow runs per side",
        "forgetting_ratio": "the row, its oracle, 16 models of the bank, 8 models that the method made",
    }


@pytest.mark.parametrize("kind", registry.KINDS)
def test_everything_has_a_card(kind: str) -> None:
    for name in registry.names(kind):
        assert card(kind, name).startswith(f"{name} ({kind.removesuffix('s')})\n\n")


def test_a_suite_is_shown_as_it_is_written() -> None:
    assert 'dataset = "digits"' in card("suites", "digits")
    assert all(card("suites", name) for name in packaged())


@pytest.mark.parametrize(("kind", "name"), [("methods", "camo"), ("suites", "digit")])
def test_an_unknown_name_is_an_error(kind: str, name: str) -> None:
    with pytest.raises(UnlearnBenchError, match=rf"unknown {kind.removesuffix('s')} '{name}'"):
        card(kind, name)


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_method_has_a_whole_card(name: str) -> None:
    """Every section is there, in order and with text; what was read is named with its revision, or said not to be."""
    method = registry.load("methods", name)
    found = sections(method)
    assert tuple(found) == SECTIONS
    assert all(found.values())
    read = found["Code read"]
    assert re.search(r"https://\S+.* at [0-9a-f]{7}", read) or re.match(r"(not read|none needed|only in a port)", read)


def compared(held: str) -> bool:
    """Whether it has authors' file and revision, how much was run, the largest difference, and what was patched."""
    parts = [r"\bat [0-9a-f]{7}\b", r"whole run|step|importance", r"\de-\d+|equal to the bit", r"Patched: \S+"]
    return all(re.search(part, held) for part in parts)


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_card_says_what_the_method_was_held_against(name: str) -> None:
    held = sections(registry.load("methods", name))["Held against"]
    assert compared(held) or re.match(r"nothing: .{15}", held)


def test_most_methods_were_held_against_their_authors_code() -> None:
    methods = [registry.load("methods", name) for name in registry.names("methods")]
    held = [compared(sections(method)["Held against"]) for method in methods if method.role != "control"]
    assert len(held) == 46
    assert sum(held) >= 40


def test_sections_are_read_as_paragraphs() -> None:
    class Method:
        """What it is.

        Objective: minimise
        x.

        Defaults: ours.
        """

    assert sections(Method) == {"Objective": "minimise x.", "Defaults": "ours."}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Tuned(Configured):
    rate: Annotated[float, LogUniform(1e-3, 1)] = 0.1
    depth: Annotated[int, Choice((1, 2))] = 1
    size: int = 3


def test_search_laws_stand_beside_the_types() -> None:
    assert {name: repr(law) for name, law in search_laws(Tuned).items()} == {
        "rate": "LogUniform(low=0.001, high=1)",
        "depth": "Choice(values=(1, 2))",
    }


def test_a_law_stays_as_it_was_written() -> None:
    """typing keeps one of two annotations that compare equal, whichever was made first."""
    written = [Annotated[float, Uniform(0, 1)], Annotated[float, Uniform(0, 1.0)]]
    assert [repr(get_args(one)[1]) for one in written] == ["Uniform(low=0, high=1)", "Uniform(low=0, high=1.0)"]


def test_what_authors_published_is_shown_with_its_sources() -> None:
    shown = card("methods", "lotus")
    published = shown[shown.index("published settings:\n") :]
    assert "  cifar10, class         alpha=32.0; src/bash_scripts/class_reproduce_results.sh at 35ae25e" in published
    assert "  cifar100, random       the defaults; src/bash_scripts/reproduce_results.sh at 35ae25e" in published
    assert card("methods", "mu_mis").endswith("published settings:\n  none")
    assert "published" not in card("methods", "identity")


@pytest.mark.parametrize("name", registry.names("methods"))
def test_lines_of_a_card_are_not_too_long(name: str) -> None:
    assert max(map(len, card("methods", name).splitlines())) <= 120
