"""What cards say of digits-all stands in its committed table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from unlearnbench.plan import registry

TABLE = pd.read_csv(Path(__file__).parents[1] / "benchmarks/results/digits-all/comparison.csv")


def shown(method: str, scenario: str, metric: str, column: str = "mean") -> float:
    found = TABLE.query("method == @method and scenario == @scenario and metric == @metric")
    return float(found[column].item())


def close_to_original(method: str, scenario: str, within: float = 2.0) -> bool:
    metrics = ("fa", "ra", "ta")
    return all(abs(shown(method, scenario, m) - shown("identity", scenario, m)) < within for m in metrics)


def one_of_five_fell(method: str, below: float) -> bool:
    """Four of five know all of D_r and the fifth less than ``below`` percent, by mean and standard deviation."""
    mean, std = (shown(method, "random-10", "ra", column) for column in ("mean", "std"))
    fifth = 5 * mean - 400
    return fifth < below and abs((100 - fifth) / 5**0.5 - std) < 3


FOUND: dict[str, tuple[str, Callable[[], bool]]] = {
    "amnesiac_relabel": (
        "random-10, nearly all of D_f is known",
        lambda: shown("amnesiac_relabel", "random-10", "fa") > 98,
    ),
    "bad_teacher": (
        "leaves nearly every prediction on D_f as it was",
        lambda: close_to_original("bad_teacher", "class-8"),
    ),
    "delete": ("random-10, both lost much of their accuracy", lambda: shown("delete", "random-10", "ra") < 75),
    "duck": ("random-10, nearly all of them are known again", lambda: shown("duck", "random-10", "fa") > 98),
    "eu_k": (
        "take longer than the retraining",
        lambda: shown("eu_k", "class-8", "seconds") > shown("retrain", "class-8", "seconds"),
    ),
    "finetune": ("class-8, the class stays recognised", lambda: shown("finetune", "class-8", "fa") > 99),
    "influence": ("alpha 1 left every model about as it was", lambda: close_to_original("influence", "class-8")),
    "jit": (
        "most of D_r was lost in class-8, and everything in random-10",
        lambda: shown("jit", "class-8", "ra") < 50 and shown("jit", "random-10", "ra") < 15,
    ),
    "kde": ("about a third of the retain set was right", lambda: 28 < shown("kde", "class-8", "ra") < 38),
    "l2ul": ("four models of five kept D_f and one lost more than half", lambda: one_of_five_fell("l2ul", 50)),
    "lfssd": ("every accuracy stayed that of the original", lambda: close_to_original("lfssd", "random-10", 0.05)),
    "lotus": ("class-8, about a tenth of it is known", lambda: 7 < shown("lotus", "class-8", "fa") < 13),
    "msg": ("still knew most of the forgotten class", lambda: shown("msg", "class-8", "fa") > 60),
    "neggrad_plus": ("(.9999), every model kept the class", lambda: shown("neggrad_plus", "class-8", "fa") > 99),
    "prmq": ("it stays at chance", lambda: max(shown("prmq", s, "ra") for s in ("class-8", "random-10")) < 15),
    "salun": (
        "costs several points of test accuracy in class-8",
        lambda: 2 < shown("retrain", "class-8", "ta") - shown("salun", "class-8", "ta") < 9,
    ),
    "ssd": (
        "every model kept class-8, and in random-10 one of five lost much",
        lambda: shown("ssd", "class-8", "fa") > 99 and one_of_five_fell("ssd", 70),
    ),
    "unsir": ("class-8, a fifth of the retain set was right", lambda: 15 < shown("unsir", "class-8", "ra") < 25),
}


def card(method: str) -> str:
    return " ".join((inspect.getdoc(registry.load("methods", method)) or "").split())


@pytest.mark.parametrize("method", FOUND)
def test_what_a_card_says_of_digits_was_measured(method: str) -> None:
    said, holds = FOUND[method]
    assert said in card(method)
    assert holds()


def test_no_card_says_anything_of_digits_that_is_not_looked_up() -> None:
    assert {name for name in registry.names("methods") if "digits-all" in card(name)} == set(FOUND)
