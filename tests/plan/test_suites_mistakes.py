"""Suites: every mistake is refused before anything trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from suite_cases import SUITE, Write, plan

from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.plan.suites import Options, make_plan, packaged

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
