"""What the README shows is what there is: its method passes, its table was measured, its commands exist."""

from __future__ import annotations

import re
import sys
import tomllib
import types
from pathlib import Path

import pytest

from unlearnbench.conformance import check_method
from unlearnbench.registry import names

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


def test_every_metric_is_explained() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert explained == set(names("metrics"))


def test_the_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)) | set(re.findall(r"`make ([a-z]+)", README))
    assert targets >= {"bench", "test", "report", "help", "speed"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
