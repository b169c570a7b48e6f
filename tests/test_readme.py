"""What the README shows is what there is: its method passes, its table was measured, its commands exist."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from unlearnbench.authors.conformance import check_method
from unlearnbench.plan.registry import names
from unlearnbench.plan.suites import Options, make_plan, packaged

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, holding: str) -> str:
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in b]
    assert len(found) == 1, f"expected one {language} block with {holding!r}, found {len(found)}"
    return found[0]


def test_the_method_of_the_readme_passes_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_unlearning")
    monkeypatch.setitem(sys.modules, "my_unlearning", module)
    exec(compile(block("python", "class Forgetful"), "my_unlearning.py", "exec"), module.__dict__)
    failed = [result for result in check_method(module.Forgetful) if not result.passed]
    assert failed == []


def test_the_evaluation_of_the_readme_runs_from_anywhere(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(block("python", "import evaluate"))
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, check=True, timeout=300,
    )  # fmt: skip
    printed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if " " in line)
    assert float(printed["relearn_steps"]) == 0  # the original was handed in as the unlearned model
    assert float(printed["rmia"]) > 0.5
    assert printed["ulira"].startswith("too few models")


def test_the_registration_of_the_readme_takes_four_lines() -> None:
    text = block("toml", "entry-points")
    assert tomllib.loads(text)["project"]["entry-points"]["unlearnbench.methods"] == {
        "forgetful": "my_unlearning:Forgetful"
    }
    assert len([line for line in text.splitlines() if line and not line.startswith("#")]) == 4


def test_the_table_of_the_readme_was_measured() -> None:
    table = [line for line in block("text", "retrain (oracle)").splitlines() if line.strip()]
    measured = (ROOT / "benchmarks/results/digits/comparison.txt").read_text(encoding="utf-8").splitlines()
    start = measured.index(table[0])
    assert [line for line in measured[start:] if line.strip()][: len(table)] == table


def test_the_suite_of_the_readme_is_one(tmp_path: Path) -> None:
    text = block("toml", 'title = "My images"')
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('{ name = "npz", path = "/data/mine.npz" }', '"digits"'), encoding="utf-8")
    plan = make_plan(str(path), Options())
    assert {entry.scenario for entry in plan.entries} == {"random-10", "class-3"}
    assert {entry.method for entry in plan.entries} == {"retrain", "identity", "finetune", "camu without noise"}


def test_every_packaged_suite_is_in_the_readme() -> None:
    lines = README[README.index("| suite | network |") :].split("\n\n")[0].splitlines()[2:]
    rows = [line.split("|")[1] for line in lines]
    named = {name for row in rows for name in re.findall(r"[a-z][\w-]+", re.sub(r"\(.*?\)", "", row))}
    assert named == set(packaged())


def test_every_metric_is_explained() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    explained = {name for row in rows for name in re.findall(r"`([\w*]+)`", row.split("|")[1])}
    matched = {pattern: fnmatch.filter(names("metrics"), pattern) for pattern in explained}
    assert all(matched.values()), "the README explains a metric that is not there"
    assert set().union(*matched.values()) == set(names("metrics"))


def test_the_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)) | set(re.findall(r"`make ([a-z]+)", README))
    assert targets >= {"bench", "test", "report", "help", "speed"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
