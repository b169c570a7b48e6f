"""What a search found, as a suite."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tuning_cases import Damage

from unlearnbench.plan.cards import search_laws
from unlearnbench.plan.registry import load
from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.plan.suites import Options, make_plan
from unlearnbench.runs.tuning import tuned_suite

LABELS = np.arange(400) % 10


# --- what was found --------------------------------------------------------------------------------------------------


def test_what_was_found_is_a_suite_that_says_so(
    tiny: Callable[..., Path], register: Callable[..., None], tmp_path: Path
) -> None:
    register("methods", damage=Damage)
    source = tiny("identity", extra="# a comment that stays\n")
    best = {("random", "damage"): {"amount": 1.5, "times": 2}, ("random", "finetune"): {"lr": 0.003}}
    text = tuned_suite(source.read_text(), best, 20, "unlearnbench tune tiny --trials 20")
    assert "# a comment that stays" in text
    assert "unlearnbench tune tiny --trials 20" in text.splitlines()[0]
    assert tomllib.loads(text)["methods"]["finetune"]["in"]["random"] == {"lr": 0.003, "tuned": 20}
    assert tomllib.loads(text)["title"] == "Tiny, tuned"
    assert tomllib.loads(tuned_suite(text, {}, 20, "", quick=True))["title"] == "Tiny, tuned, tuned in quick mode"
    path = tmp_path / "tuned.toml"
    path.write_text(text)
    found = {e.method: (e.settings, e.cell.method.params) for e in make_plan(str(path)).entries}
    assert found["damage"][0] == "tuned (20 trials)"
    assert (found["damage"][1]["amount"], found["damage"][1]["times"]) == (1.5, 2)
    assert found["identity"][0] == "default"


@pytest.mark.parametrize(
    "table",
    [
        "[methods.damage]\nin.random = { untouched = 0.25, amount = 3.0, tuned = 4 }\n",
        "[methods.damage.in.random]\nuntouched = 0.25\namount = 3.0\n",
        "[methods.damage.in]\nrandom.untouched = 0.25\n",
    ],
)
def test_what_a_suite_says_of_a_scenario_and_is_not_searched_stays(
    tiny: Callable[..., Path], register: Callable[..., None], table: str
) -> None:
    register("methods", damage=Damage)
    text = tuned_suite(tiny(extra=table).read_text(), {("random", "damage"): {"amount": 1.5}}, 20, "tune")
    own = tomllib.loads(text)["methods"]["damage"]["in"]
    assert own == {"random": {"untouched": 0.25, "amount": 1.5, "tuned": 20}}


def test_tables_are_told_where_hyperparameters_come_from(tiny: Callable[..., Path]) -> None:
    suite = str(
        tiny("finetune", extra="[methods.camu]\nlr_kl = 1e-3\n[methods.random_label.in.random]\ntuned = 3\nlr = 0.1\n")
    )
    given = {e.method: e.settings for e in make_plan(suite, Options(sets=["finetune.lr=0.5"])).entries}
    assert given == {
        "retrain": "default", "finetune": "set by hand", "camu": "set by the suite", "random_label": "tuned (3 trials)",
    }  # fmt: skip


@pytest.mark.parametrize("trials", ["0", "true", '"many"'])
def test_a_wrong_number_of_trials_is_named(tiny: Callable[..., Path], trials: str) -> None:
    suite = tiny("identity", extra=f"[methods.finetune.in.random]\ntuned = {trials}\n")
    with pytest.raises(UnlearnBenchError, match=r"methods\.finetune\.in\.random\.tuned"):
        make_plan(str(suite))


def test_tables_are_told_what_a_search_could_not_use(tiny: Callable[..., Path], tmp_path: Path) -> None:
    table = '[methods.finetune.in.random]\nlr = 0.1\ntuned = 3\ntuned_without = ["mia_lr_loss"]\n'
    text = tiny(extra=table).read_text()
    (tmp_path / "tuned.toml").write_text(text)
    settings = {e.method: e.settings for e in make_plan(str(tmp_path / "tuned.toml")).entries}
    assert settings["finetune"] == "tuned (3 trials, without MIA-LR)"
    again = tomllib.loads(tuned_suite(text, {("random", "finetune"): {"lr": 0.2}}, 9, "tune"))
    assert again["methods"]["finetune"]["in"]["random"] == {"lr": 0.2, "tuned": 9}  # a new search, which could


@pytest.mark.parametrize("value", ['tuned_without = "fa"\ntuned = 3', 'tuned_without = ["fa"]'])
def test_what_a_search_could_not_use_is_a_list_beside_its_trials(tiny: Callable[..., Path], value: str) -> None:
    suite = tiny("identity", extra=f"[methods.finetune.in.random]\n{value}\n")
    with pytest.raises(UnlearnBenchError, match=r"tuned_without: expected, beside tuned, a list of metrics"):
        make_plan(str(suite))


def test_the_committed_searches_could_use_every_gap() -> None:
    """Everything that a search may change was searched, in each scenario that the method supports."""
    for suite, trials in (("digits-tuned", 12), ("mnist-quick-tuned", 5)):
        for entry in make_plan(suite).entries:
            method = load("methods", entry.cell.method.name)
            supported = method.scenarios is None or entry.cell.scenario.name in method.scenarios
            if entry.role == "method" and supported and search_laws(method):
                assert entry.settings == f"tuned ({trials} trials)", entry.name
