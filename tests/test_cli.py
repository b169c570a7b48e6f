"""The command line: what it prints and how it exits."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from torch import nn

from unlearnbench import api, cli
from unlearnbench.plan.spec import Access, Method
from unlearnbench.plan.suites import make_plan
from unlearnbench.store.folder import Store
from unlearnbench.training.task import Task

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")

Tiny = Callable[..., Path]
Main = Callable[..., int]


@dataclass(frozen=True)
class Raises(Method):
    paper: ClassVar[str] = "none"
    needs: ClassVar[Access] = Access(0)

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        raise ValueError("on [bold]purpose[/]")


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Main:
    """Calls the program and returns its exit status. Files go to ``results`` and ``out`` below ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["unlearnbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        code = exit_.value.code
        return code if isinstance(code, int) else 0

    return call


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_report", lambda scored, out, **_: print(f"report of {scored.suite} in {out}"))


def test_a_run_ends_with_its_table_and_files_and_a_report_draws_them_again(
    tiny: Tiny, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("run", tiny("identity"), "--jobs", 1, "--device", "cpu", "--out", "out") == 0
    first = capsys.readouterr()
    assert "retrain (oracle)" in first.out
    assert max(map(len, first.out.splitlines())) <= 100
    assert "[4/4]" in first.err
    out = tmp_path / "out" / "tiny"
    assert {p.name for p in out.iterdir()} >= {"comparison.csv", "comparison.md", "comparison.tex", "relearning.png"}
    table = (out / "comparison.csv").read_bytes()
    (out / "comparison.csv").unlink()
    assert main("report", "tiny", "--out", "out") == 0
    assert "retrain (oracle)" in capsys.readouterr().out
    assert (out / "comparison.csv").read_bytes() == table


def test_a_dry_run_prints_the_cells_and_writes_nothing(
    tiny: Tiny, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tiny("identity")
    assert main("run", suite, "--dry-run", "--seeds", "3-4") == 0
    keys = [entry.cell.key for entry in make_plan(str(suite), api.Options(seeds=(3, 4))).entries]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in lines] == keys
    assert lines[0].endswith("digits random retrain seed 3: to do")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.toml"]


@pytest.mark.usefixtures("no_report")
def test_a_failed_cell_gives_status_1_and_the_way_to_its_traceback(
    tiny: Tiny, main: Main, register: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    register("methods", toy=Raises)
    run = ("run", tiny("toy", "identity"), "--jobs", 1, "--device", "cpu")
    assert main(*run) == 1
    shown = capsys.readouterr()
    assert "failed: digits random toy seed 0: ValueError: on [bold]purpose[/]" in shown.err
    assert "digits random identity seed 0: ok" in shown.err
    assert "report of tiny in" in shown.out
    [command] = [line.partition("unlearnbench ")[2] for line in shown.err.splitlines() if "show rows" in line]
    assert main(*command.split()) == 0
    assert 'raise ValueError("on [bold]purpose[/]")' in capsys.readouterr().out
    assert main(*run) == 1
    assert "[1/1] digits random toy seed 0: failed" in capsys.readouterr().err
    assert main(*run, "--dry-run") == 0
    assert capsys.readouterr().out.count(": ok\n") == 2


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "--jobs 0: expected at least 1"),
        (["--device", "cuda:99"], "no device 'cuda:99' here: expected auto, cpu"),
        (["--seeds", "4-1"], "seeds '4-1': expected whole numbers and ranges such as 0-4 or 0,2,5-7"),
        (["--methods", "idenity"], "unknown method 'idenity'; did you mean 'identity'?"),
        (["--scenarios", "class"], "no scenario 'class' in this suite; it has random"),
        (["--set", "recipe.epochs=0"], "recipe: epochs should be greater than 0, not 0"),
        (["--set", "recipe"], "expected TARGET.PARAMETER=VALUE"),
        (["--sedes", "1"], "--sedes"),
        (["--jobs", "many"], "many"),
    ],
)
def test_what_is_wrong_gives_status_2_and_one_line(
    tiny: Tiny, main: Main, capsys: pytest.CaptureFixture[str], options: Sequence[str], message: str
) -> None:
    assert main("run", tiny("identity"), *options) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not Path("results").exists()


def test_a_results_folder_that_is_a_file_is_refused_in_one_line(tiny: Tiny, main: Main) -> None:
    assert main("run", tiny("identity"), "--results", "tiny.toml") == 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["run", "digitz"], "unknown suite 'digitz': expected one of"),
        (["run", "none.toml"], "cannot read the suite file none.toml"),
        (["report"], "no results in results (unlearnbench run digits)"),
        (["report", "digits"], "no run of suite 'digits'"),
        (["report", "../../etc"], "cannot name a file"),
        (["score"], "no results in results (unlearnbench run digits)"),
        (["score", "digits"], "no run of suite 'digits'"),
        (["show", "rows", "0" * 24], "no row 000000000000000000000000"),
        (["show", "rows", "../x"], "cannot name a file"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_other_commands_fail_in_one_line_too(
    main: Main, capsys: pytest.CaptureFixture[str], command: Sequence[str], message: str
) -> None:
    assert main(*command) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_tune_writes_a_suite_that_runs_as_it_stands(
    tiny: Tiny, main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trials", 1, "--requests", 1, "--methods", "finetune", "--jobs", 1, "--to", "mine.toml"]
    assert main("tune", tiny("identity"), *options) == 0
    shown = capsys.readouterr()
    assert "[1/1] random finetune: " in shown.err
    assert "Tuned 1 method-scenario pairs, 1 trials each. Written: mine.toml (unlearnbench run mine.toml)" in shown.out
    assert "--trials 1 --requests 1 --methods finetune" in (tmp_path / "mine.toml").read_text()
    settings = {e.method: e.settings for e in make_plan(str(tmp_path / "mine.toml")).entries}
    assert settings == {"retrain": "default", "identity": "default", "finetune": "tuned (1 trials)"}
    assert main("tune", tiny("identity"), "--trials", 0) == 2
    assert "expected at least 1 of each" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("packaged", "options", "name"),
    [
        (["digits"], [], "digits-tuned.toml"),
        (["digits", "digits-tuned"], [], "digits-tuned-3.toml"),
        (["digits", "digits-tuned"], ["--to", "digits-tuned.toml"], "digits-tuned.toml"),
    ],
)
def test_a_tuned_suite_is_not_written_under_the_name_of_a_packaged_one(
    main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    packaged: list[str], options: list[str], name: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("unlearnbench.plan.suites.packaged", lambda: packaged)
    monkeypatch.setattr(api, "tune", lambda *_: {})
    assert main("tune", "digits", "--trials", 3, *options) == 0
    assert f"Written: {name} (unlearnbench run {name})" in capsys.readouterr().out
    assert [path.name for path in Path().glob("*.toml")] == [name]


def test_tune_refuses_before_it_searches_where_every_name_is_packaged(
    main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("unlearnbench.plan.suites.packaged", lambda: ["digits", "digits-tuned", "digits-tuned-3"])
    monkeypatch.setattr(api, "tune", lambda *_: pytest.fail("searched"))
    assert main("tune", "digits", "--trials", 3) == 2
    said = capsys.readouterr().err
    assert "digits-tuned and digits-tuned-3 are packaged suites: name the file to write, --to FILE.toml" in said


@pytest.mark.parametrize("into", [".", "sub", "{}/a b"])
def test_new_prints_a_path_that_pip_takes(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str], into: str
) -> None:
    assert main("new", "demo", "--into", into.format(tmp_path)) == 0
    path = shlex.split(capsys.readouterr().out.partition(": pip install ")[2])[0]
    assert (Path(path) / "pyproject.toml").is_file()
    assert path.startswith(("./", "/"))
    assert "//" not in path


def test_the_version(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--version") == 0
    assert capsys.readouterr().out == "0.1.0\n"


def test_score_fills_in_what_is_missing(tiny: Tiny, main: Main, tmp_path: Path) -> None:
    api.run(str(tiny("identity")), device="cpu", jobs=1, results=tmp_path / "results")
    scores = sorted((tmp_path / "results" / "scores").glob("*.json"))
    before = [json.loads(path.read_text()) for path in scores]
    assert len(before) == 2
    for path in scores:
        path.unlink()
    assert main("score", "--jobs", 1) == 0
    assert [json.loads(path.read_text()) for path in scores] == before


# --- what others left ------------------------------------------------------------------------------------------------


def test_a_plan_of_another_version_is_an_error_of_one_line_and_spares_the_other_suites(
    tiny: Tiny, main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("run", tiny("identity"), "--jobs", 1, "--device", "cpu", "--out", "out") == 0
    Store(Path("results")).put_plan("old", {"suite": "old", "cells": []})
    line = (
        "the stored plan of suite 'old' was written by another version: run the suite again, or delete "
        "results/plans/old.json"
    )
    capsys.readouterr()
    for command in (["report", "old"], ["score", "old"], ["validate", "results", "old"]):
        assert main(*command) == 2
        assert capsys.readouterr().err == f"unlearnbench: {line}\n"
    for command, said in (
        (["report", "--out", "out"], "retrain (oracle)"), (["score"], "tiny: scored"), (["validate"], "tiny: digits"),
    ):  # fmt: skip
        main(*command)
        shown = capsys.readouterr()
        assert said in shown.out
        assert shown.err == f"unlearnbench: {line}\n"
    with pytest.warns(UserWarning, match="the stored plan of suite 'old'") as warned:
        frame = api.frame("results")
    assert set(frame.suite) == {"tiny"}
    assert [Path(warning.filename).name for warning in warned] == ["test_cli.py"]


def test_a_figure_that_cannot_be_imported_costs_itself_alone(
    tiny: Tiny, main: Main, register: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    register("figures", theirs=SimpleNamespace(__module__="a_module_that_is_not_there", __name__="theirs"))
    assert main("run", tiny("identity"), "--jobs", 1, "--device", "cpu", "--out", "out") == 0
    shown = capsys.readouterr()
    assert "retrain (oracle)" in shown.out
    assert "figure 'theirs'" in shown.err
    assert "No module named 'a_module_that_is_not_there'; its figure is left out" in shown.err
    assert Path("out/tiny/relearning.png").exists()
