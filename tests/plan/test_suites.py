"""Suites: grids are expanded as written."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from suite_cases import SUITE, Write, labels, params, plan

from unlearnbench.plan.cells import Probe, Recipe
from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.plan.suites import Options, Plan, make_plan, packaged, parse_seeds

# --- what a good suite gives -----------------------------------------------------------------------------------------


def test_a_suite_is_the_grid_of_its_scenarios_methods_and_seeds(write: Write) -> None:
    made = plan(write)
    assert (made.suite, made.title) == ("good", "Good")
    assert [(e.scenario, e.method, e.cell.seed) for e in made.entries] == [
        (scenario, method, seed)
        for scenario in ("random-10", "class")
        for method in ("retrain", "camu", "silent")
        for seed in (0, 1)
    ]
    assert len({e.cell.key for e in made.entries}) == 12
    assert {e.method: e.role for e in made.entries} == {"retrain": "oracle", "camu": "method", "silent": "method"}
    assert made.entries[0].name == "digits random-10 retrain seed 0"


def test_a_cell_is_complete(write: Write) -> None:
    cell = plan(write).entries[-1].cell
    assert (cell.dataset.name, cell.dataset.params["limit_train"]) == ("digits", 500)
    assert (cell.model.name, dict(cell.model.params)) == ("cnn", {})
    assert cell.recipe == Recipe(optimizer="adam", lr=1e-3, weight_decay=1e-4, batch_size=32, epochs=3)
    assert (cell.scenario.name, dict(cell.scenario.params)) == ("class", {"classes": (0,)})
    assert cell.method.name == "camu"
    assert cell.method.params["kl_retain"] == 0.5  # a default
    assert cell.probe == Probe(relearn_every=50)
    assert not cell.quick


def test_a_method_may_have_parameters_for_one_scenario_and_another_label(write: Write) -> None:
    made = plan(write)
    assert params(made, "camu")["epochs"] == 5
    assert params(made, "camu", "class")["epochs"] == 4
    assert params(made, "camu", "class")["lr_ce"] == 1.0
    assert params(made, "silent")["noise"] == 0.0
    assert params(made, "silent")["epochs"] == 10


def test_a_whole_number_is_the_float_of_its_value(write: Write) -> None:
    written = plan(write, SUITE.replace("noise = 0", "noise = 0.0"))
    assert [e.cell.key for e in plan(write).entries] == [e.cell.key for e in written.entries]


def test_split_seeds_are_paired_with_the_seeds_or_crossed(write: Write) -> None:
    def pairs(made: Plan) -> list[tuple[int, int]]:
        return [(e.cell.split_seed, e.cell.seed) for e in made.entries if e.method == "camu" and e.scenario == "class"]

    assert pairs(plan(write)) == [(0, 0), (1, 1)]
    assert pairs(plan(write, SUITE.replace("seeds =", "split_seeds = [7, 8]\nseeds ="))) == [
        (7, 0), (7, 1), (8, 0), (8, 1),
    ]  # fmt: skip


def test_a_plan_survives_json(write: Write) -> None:
    report = "[report]\nauthors_curves = { class = 'x' }\nheadline = ['fa', 'ulira']"
    made = plan(write, "bank = 4\nunlearned_bank = 3\nshadows = 6\n" + SUITE + report)
    back = Plan.from_dict(json.loads(json.dumps(made.as_dict())))
    assert [e.cell.key for e in back.entries] == [e.cell.key for e in made.entries]
    assert [(e.name, e.role, e.stands_for) for e in back.entries] == [
        (e.name, e.role, e.stands_for) for e in made.entries
    ]
    assert (back.suite, back.title) == ("good", "Good")
    assert (back.bank, back.unlearned_bank, back.shadows) == (4, 3, 6)
    assert back.report["authors_curves"] == {"class": "x"}
    assert list(back.report["headline"]) == ["fa", "ulira"]


OTHER_PLANS = {
    "a key less": lambda d: d.pop("entries"),
    "a key more": lambda d: d.update(horizon=3),
    "an entry with a key more": lambda d: d["entries"][0].update(horizon=3),
    "an entry without its cell": lambda d: d["entries"][0].pop("cell"),
    "a recipe with a key more": lambda d: d["entries"][0]["cell"]["recipe"].update(horizon=3),
    "a plugin of another shape": lambda d: d["entries"][0]["cell"].update(model="cnn"),
    "a bank of another type": lambda d: d.update(bank={"size": 4}),
    "entries of another type": lambda d: d.update(entries=3),
}


@pytest.mark.parametrize("change", OTHER_PLANS.values(), ids=OTHER_PLANS.keys())
def test_a_plan_of_another_version_is_refused(write: Write, change: Callable[[dict[str, Any]], Any]) -> None:
    d = json.loads(json.dumps(plan(write).as_dict()))
    change(d)
    with pytest.raises(UnlearnBenchError):
        Plan.from_dict(d)


@pytest.mark.parametrize("name", packaged())
@pytest.mark.parametrize("quick", [False, True])
def test_every_packaged_suite_is_good(name: str, quick: bool) -> None:
    made = make_plan(name, Options(quick=quick))
    assert made.suite == name
    roles = {e.role for e in made.entries}
    assert roles > {"oracle"}
    assert {e.method for e in made.entries} >= ({"retrain", "camu"} if "method" in roles else {"retrain"})


def test_the_suites_that_the_project_promises_are_there() -> None:
    assert set(packaged()) >= {
        "digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "camu-mnist", "camu-cifar10",
    }  # fmt: skip


def test_the_digits_suite_is_two_scenarios_ten_methods_five_seeds_and_four_oracles_more() -> None:
    made = make_plan("digits")
    assert len(made.entries) == 2 * 10 * 5
    assert {e.cell.seed for e in made.entries} == {0, 1, 2, 3, 4}
    assert (made.bank, made.unlearned_bank, made.shadows) == (4, 0, 0)


def test_the_digits_suite_has_a_control_for_each_known_truth() -> None:
    known = {e.method: (e.role, e.stands_for) for e in make_plan("digits").entries if e.stands_for}
    assert known == {
        "retrain": ("oracle", "retrained"),
        "retrain_other_seed": ("control", "retrained"),
        "identity": ("control", "original"),
        "random_init": ("control", "useless"),
        "collapse": ("control", "useless"),
    }


def test_a_suite_without_banks_has_none_and_quick_mode_makes_none(write: Write) -> None:
    text = "bank = 4\nunlearned_bank = 3\nshadows = 6\n" + SUITE
    sizes = [(made.bank, made.unlearned_bank, made.shadows) for made in (plan(write), plan(write, text, quick=True))]
    assert sizes == [(0, 0, 0), (0, 0, 0)]
    keys = [[e.cell.key for e in made.entries] for made in (plan(write), plan(write, text))]
    assert keys[0] == keys[1]  # a bank changes no row


def test_headlines_have_a_default_and_are_the_suites_to_choose(write: Write) -> None:
    assert "avg_gap" in plan(write).report["headline"]
    assert tuple(plan(write, SUITE + "[report]\nheadline = ['ta']").report["headline"]) == ("ta",)


# --- what a run changes ----------------------------------------------------------------------------------------------


def test_chosen_methods_come_with_the_oracle_and_in_the_suites_order(write: Write) -> None:
    assert labels(plan(write, methods=["camu"])) == ["retrain", "camu"]
    assert labels(plan(write, methods=["identity", "silent"])) == ["retrain", "silent", "identity"]
    assert labels(plan(write, methods=["retrain"])) == ["retrain"]


def test_a_method_from_outside_the_suite_has_its_defaults(write: Write) -> None:
    assert params(plan(write, methods=["finetune"]), "finetune")["epochs"] == 10


def test_all_is_every_registered_method_and_the_suites_parameters_stay(write: Write) -> None:
    made = plan(write, methods=["all"])
    assert set(labels(made)) >= {"retrain", "camu", "finetune", "gradient_ascent", "neggrad_plus", "identity"}
    assert params(made, "camu")["epochs"] == 5


def test_chosen_scenarios_and_seeds(write: Write) -> None:
    made = plan(write, scenarios=["class"], seeds=[5, 3])
    assert {e.scenario for e in made.entries} == {"class"}
    assert {(e.cell.split_seed, e.cell.seed) for e in made.entries} == {(5, 5), (3, 3)}


def test_set_overrides_everything_of_its_target(write: Write) -> None:
    sets = ["camu.epochs=7", "recipe.epochs=9", "probe.relearn_cap=11", "dataset.validation=0", "recipe.optimizer=sgd"]
    made = plan(write, sets=[*sets, "silent.noise=0.5"])
    assert params(made, "camu", "class")["epochs"] == 7
    assert params(made, "silent")["noise"] == 0.5
    assert params(made, "silent")["epochs"] == 10
    cell = made.entries[0].cell
    assert (cell.recipe.epochs, cell.recipe.optimizer, cell.probe.relearn_cap) == (9, "sgd", 11)
    assert cell.dataset.params["validation"] == 0.0


def test_set_reaches_a_method_that_was_chosen_beside_the_suites(write: Write) -> None:
    assert params(plan(write, methods=["finetune"], sets=["finetune.lr=1"]), "finetune")["lr"] == 1.0


def test_set_reaches_every_method_that_was_chosen_by_all(write: Write) -> None:
    made = plan(write, methods=["all"], sets=["scrub.lr=1e-3"])
    assert params(made, "scrub")["lr"] == 1e-3


def test_quick_limits_everything_that_takes_time(write: Write) -> None:
    made = plan(write, quick=True, methods=["finetune", "camu"])
    cell = made.entries[-1].cell
    assert cell.quick
    assert (cell.dataset.params["limit_train"], cell.dataset.params["limit_test"]) == (500, 1000)
    assert cell.recipe.epochs == 2
    assert {e.cell.seed for e in made.entries} == {0}
    assert {params(made, m, s)["epochs"] for m in ("camu", "finetune") for s in ("class", "random-10")} == {2}
    assert cell.key not in {e.cell.key for e in plan(write).entries}


def test_quick_keeps_the_epochs_that_were_searched(write: Write) -> None:
    tuned = SUITE + "[methods.finetune.in.class]\nepochs = 7\ntuned = 5\n"
    made = plan(write, tuned, quick=True, methods=["finetune"])
    assert [params(made, "finetune", s)["epochs"] for s in ("class", "random-10")] == [7, 2]
    rate_alone = plan(write, tuned.replace("epochs = 7", "lr = 0.1"), quick=True, methods=["finetune"])
    assert params(rate_alone, "finetune", "class")["epochs"] == 2  # as its trials had


def test_quick_puts_a_small_model_in_the_place_of_the_suites(write: Write) -> None:
    suite = SUITE.replace('model = "cnn"', 'model = "resnet18"')
    assert plan(write, suite, quick=True).entries[0].cell.model.name == "cnn"
    chosen = plan(write, suite + '[quick]\nmodel = "resnet9"', quick=True).entries[0].cell.model
    assert chosen.name == "resnet9"


def test_quick_never_lengthens(write: Write) -> None:
    short = SUITE.replace("epochs = 3", "epochs = 1").replace("epochs = 5", "epochs = 1").replace("[0, 1]", "[3]")
    made = plan(write, short.replace("relearn_every = 50", "relearn_every = 5"), quick=True)
    assert made.entries[0].cell.recipe.epochs == 1
    assert params(made, "camu")["epochs"] == 1
    assert made.entries[0].cell.probe.relearn_every == 5
    assert {e.cell.seed for e in made.entries} == {3}


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-4", [0, 1, 2, 3, 4]), ("0,2,5-7", [0, 2, 5, 6, 7]), (" 3 , 1 - 2 ", [3, 1, 2]), ("4-4,4", [4])],
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "4-1", "1,,2", "1.5", "0-", "0-99999999"])
def test_other_seeds_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(UnlearnBenchError, match="expected whole numbers and ranges such as 0-4 or 0,2,5-7"):
        parse_seeds(text)
