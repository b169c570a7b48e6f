"""Suites: grids are expanded as written, and every mistake is refused before anything trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearnbench.plan.cells import Probe, Recipe
from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.plan.suites import Options, Plan, make_plan, packaged, parse_seeds

SUITE = """
title = "Good"
dataset = { name = "digits", limit_train = 500 }
model = "cnn"
recipe = { name = "camu", epochs = 3 }
seeds = [0, 1]

[scenarios.random-10]
scenario = "random"

[scenarios.class]
classes = [0]

[methods.retrain]

[methods.camu]
epochs = 5
in.class = { lr_ce = 1, epochs = 4 }

[methods.silent]
method = "camu"
noise = 0

[probe]
relearn_every = 50
"""

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    path = tmp_path / "good.toml"

    def write(text: str) -> str:
        path.write_text(text)
        return str(path)

    return write


def plan(write: Write, text: str = SUITE, **options: Any) -> Plan:
    return make_plan(write(text), Options(**options))


def labels(made: Plan) -> list[str]:
    return list(dict.fromkeys(entry.method for entry in made.entries))


def params(made: Plan, method: str, scenario: str = "random-10") -> dict[str, Any]:
    found = [e for e in made.entries if (e.method, e.scenario) == (method, scenario)]
    return dict(found[0].cell.method.params)


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


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = [
    # unknown keys
    ('title = "Good"', 'titel = "Good"', r"suite has no parameter 'titel'; did you mean 'title'\?"),
    ('title = "Good"', "", "suite: title Field required"),
    ("limit_train = 500", "limit = 500", r"dataset 'digits' has no parameter 'limit'"),
    ("epochs = 3", "epoch = 3", r"recipe has no parameter 'epoch'; did you mean 'epochs'\?"),
    ("classes = [0]", "class = [0]", r"scenario 'class' has no parameter 'class'; did you mean 'classes'\?"),
    ("epochs = 5", "lr_cee = 5", r"method 'camu' has no parameter 'lr_cee'; did you mean 'lr_ce'\?"),
    ("relearn_every = 50", "every = 50", r"probe has no parameter 'every'"),
    ("[probe]", "[quick]\nmodle = 'cnn'\n[probe]", r"quick has no parameter 'modle'; did you mean 'model'\?"),
    # unknown names
    ('"digits"', '"digit"', r"unknown dataset 'digit'; did you mean 'digits'\?"),
    ('"cnn"', '"ccn"', r"unknown model 'ccn'; did you mean 'cnn'\?"),
    ('name = "camu"', 'name = "camus"', r"unknown recipe 'camus': expected one of camu, standard, fast"),
    ('scenario = "random"', 'scenario = "randon"', r"unknown scenario 'randon'; did you mean 'random'\?"),
    ('method = "camu"', 'method = "cammu"', r"unknown method 'cammu'; did you mean 'camu'\?"),
    ("in.class", "in.klass", r"camu.*'klass'.*it has random-10, class"),
    # wrong types
    ("limit_train = 500", "limit_train = 500.0", r"limit_train should be a valid integer, not 500\.0"),
    ("limit_train = 500", "limit_train = true", "limit_train should be a valid integer, not True"),
    ("epochs = 3", 'epochs = "3"', r"recipe: epochs should be a valid integer, not '3'"),
    ("noise = 0", 'noise = "0"', r"noise should be a valid number, not '0'"),
    ("noise = 0", "noise = nan", r"noise should be a finite number, not nan"),
    ("noise = 0", "noise = inf", r"noise should be a finite number, not inf"),
    ('model = "cnn"', "model = 5", "suite: model"),
    ('model = "cnn"', "model = { width = 5 }", "needs a name"),
    ("seeds = [0, 1]", "seeds = 5", r"seeds should be a valid array, not 5"),
    ("seeds = [0, 1]", 'seeds = ["0"]', r"seeds\.0 should be a valid integer, not '0'"),
    ("[methods.retrain]", "[methods]\nretrain = 1", r"methods\.retrain should be an object, not 1"),
    ("in.class = { lr_ce = 1, epochs = 4 }", "in = 3", r"methods\.camu\.in: expected a table"),
    # impossible values
    ("limit_train = 500", "limit_train = 0", "limit_train should be greater than 0, not 0"),
    ("limit_train = 500", "validation = 1.0", r"validation should be less than 1, not 1\.0"),
    ("epochs = 3", "lr = -1", "lr should be greater than 0, not -1"),
    ("epochs = 3", "precision = 'float64'", r"precision should be 'float32' or 'bfloat16', not 'float64'"),
    ("classes = [0]", "classes = []", "classes .*at least 1 item"),
    ("classes = [0]", "classes = [-1]", "classes.0 should be greater than or equal to 0, not -1"),
    ('scenario = "random"', 'scenario = "random"\nfraction = 1.0', r"fraction should be less than 1, not 1\.0"),
    ("noise = 0", "noise = -0.1", r"noise should be greater than or equal to 0, not -0\.1"),
    ("relearn_every = 50", "relearn_every = 0", "relearn_every should be greater than 0, not 0"),
    ("seeds = [0, 1]", "seeds = []", "seeds .*at least 1 item"),
    ("seeds = [0, 1]", "seeds = [-1]", "seeds.0 should be greater than or equal to 0, not -1"),
    ("seeds = [0, 1]", "seeds = [0]\nsplit_seeds = 'pared'", "split_seeds.* should be 'paired', not 'pared'"),
    ("[methods.retrain]", "", r"no oracle among them.*add \[methods\.retrain\]"),
    ("seeds = [0, 1]", "seeds = [0]\nbank = -1", "bank should be greater than or equal to 0, not -1"),
    ("seeds = [0, 1]", "seeds = [0]\nbank = 2.5", "bank should be a valid integer, not 2.5"),
    ("seeds =", "unlearned_banks = 3\nseeds =", "no parameter 'unlearned_banks'; did you mean 'unlearned_bank'"),
    ("[probe]", "[report]\nheadline = ['avg_gab']\n[probe]", r"unknown metric 'avg_gab'; did you mean 'avg_gap'\?"),
    ("title =", "title", "not valid TOML"),
]  # fmt: skip


@pytest.mark.parametrize(("good", "bad", "expectation"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_refused_with_the_file_the_key_and_what_was_expected(
    write: Write, good: str, bad: str, expectation: str
) -> None:
    assert good in SUITE
    with pytest.raises(UnlearnBenchError, match=rf"good\.toml: (.|\n)*{expectation}"):
        plan(write, SUITE.replace(good, bad, 1))


REFUSED_LATE = [
    pytest.param({"text": SUITE.replace("[0, 1]", "[0, 0]")}, id="a seed twice: its rows would count twice"),
    pytest.param({"seeds": [-1]}, id="a negative seed through the API"),
    pytest.param({"seeds": [0, 0]}, id="a seed twice through the API"),
    pytest.param({"sets": ["recipe.nesterov=true", "recipe.optimizer=sgd"]}, id="Nesterov without momentum"),
    pytest.param({"text": SUITE + "[report]\nauthor_curves = {}"}, id="an unknown key of [report]"),
    pytest.param({"text": SUITE + '[quick]\nmodel = "cnm"'}, id="an unknown model of [quick]"),
    pytest.param({"text": SUITE.replace("epochs = 5", 'epochs = "5"'), "quick": True}, id="a word for epochs, quick"),
]


@pytest.mark.parametrize("mistake", REFUSED_LATE)
def test_a_mistake_that_would_only_show_later(write: Write, mistake: dict[str, Any]) -> None:
    with pytest.raises(UnlearnBenchError):
        plan(write, **mistake)


@pytest.mark.parametrize(
    ("options", "expectation"),
    [
        ({"methods": ["kamu"]}, r"unknown method 'kamu'; did you mean 'camu'\?"),
        ({"scenarios": ["klass"]}, "no scenario 'klass' in this suite; it has random-10, class"),
        ({"sets": ["camu.lr_cee=1"]}, r"method 'camu' has no parameter 'lr_cee'; did you mean 'lr_ce'\?"),
        ({"sets": ["camu.lr_ce=fast"]}, "lr_ce should be a valid number, not 'fast'"),
        ({"sets": ["camu.lr_ce=0"]}, "lr_ce should be greater than 0, not 0"),
        ({"sets": ["camu.lr_ce"]}, r"--set camu\.lr_ce: expected TARGET\.PARAMETER=VALUE"),
        ({"sets": ["lr_ce=1"]}, r"TARGET one of dataset, model, recipe, probe, retrain, camu, silent"),
        ({"sets": ["finetune.lr=1"]}, r"--set finetune\.lr=1: expected"),
        ({"sets": ["all.lr=5"], "methods": ["all"]}, r"--set all\.lr=5: expected"),
        ({"sets": ["silent.noise=1"], "methods": ["camu"]}, r"TARGET one of .*, probe, retrain, camu$"),
        ({"sets": ["recipe.=1"]}, r"recipe has no parameter ''"),
    ],
)
def test_an_option_that_is_wrong_is_refused(write: Write, options: dict[str, Any], expectation: str) -> None:
    with pytest.raises(UnlearnBenchError, match=expectation):
        plan(write, **options)


def test_an_unknown_suite_lists_those_there_are() -> None:
    with pytest.raises(
        UnlearnBenchError, match=r"unknown suite 'digit': expected one of .*digits.* or the path of a .toml"
    ):
        make_plan("digit")


def test_a_suite_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnlearnBenchError, match=r"cannot read the suite file .*none\.toml"):
        make_plan(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UnlearnBenchError, match=r"bytes\.toml"):
        make_plan(str(tmp_path / "bytes.toml"))


def test_quick_mode_of_every_packaged_suite_gives_small_images_to_its_small_model() -> None:
    for suite in packaged():
        for entry in make_plan(suite, Options(quick=True)).entries:
            assert (entry.cell.model.name, entry.cell.recipe.image_size) == ("cnn", None)
            assert entry.cell.recipe.epochs == 2
