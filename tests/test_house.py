"""The order of the wings: a module imports from its own wing and from those before it, never from a later one."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import unlearnbench

ROOT = Path(__file__).parents[1]
WINGS = ["plan", "store", "data", "training", "measure", "judge", "runs", "authors"]
DOORS = ["api", "cli", "outside"]
ORDER = {name: i for i, name in enumerate([*WINGS, *DOORS])}
# The contract names what a method is handed and what a model builds, as annotations alone.
ANNOTATIONS = {("plan/spec.py", "training.models"), ("plan/spec.py", "training.task")}
SEEN_BY = {"methods": {""}, "reports": {"plan", "judge"}}


def imported(source: str) -> Iterator[str]:
    """Every module of ours that a source text imports, anywhere in it, without ``unlearnbench.``; "" is the door."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
            if (ROOT / node.module.replace(".", "/")).is_dir():  # a module, or something that the package exposes
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if is_module(name) else node.module for name in inner]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "unlearnbench":
                yield rest


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def upward(place: str, source: str) -> list[str]:
    """What the module at ``place``, such as ``"data/split.py"``, imports from a later wing or from a door."""
    own = ORDER[place.partition("/")[0]]
    return [
        f"{place} imports {name or 'unlearnbench'}"
        for name in imported(source)
        if ORDER.get(name.partition(".")[0], len(ORDER)) > own and (place, name) not in ANNOTATIONS
    ]


def sources(folder: str) -> dict[str, str]:
    paths = sorted((ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT / folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_the_house_has_these_wings_and_doors() -> None:
    places = {place.partition("/")[0].removesuffix(".py") for place in sources("unlearnbench")}
    assert places == {*WINGS, *DOORS, "__init__"}


@pytest.mark.parametrize("wing", WINGS)
def test_no_import_runs_upwards(wing: str) -> None:
    assert [
        u for place, text in sources("unlearnbench").items() if place.startswith(wing) for u in upward(place, text)
    ] == []


@pytest.mark.parametrize(
    "line",
    [
        "from unlearnbench.judge import stats",
        "from unlearnbench.judge.stats import summarise",
        "import unlearnbench.runs.engine",
        "def late():\n    from unlearnbench.runs.runner import run_cell",
        "from unlearnbench import api",
        "from unlearnbench import Method",
    ],
)
def test_an_import_that_runs_upwards_is_found(line: str) -> None:
    assert len(upward("measure/attacks.py", line)) == 1
    assert upward("measure/attacks.py", "from unlearnbench.plan import spec\nimport numpy as np") == []


@pytest.mark.parametrize(("folder", "wings"), SEEN_BY.items())
def test_methods_see_the_door_alone_and_reports_the_results(folder: str, wings: set[str]) -> None:
    seen = {name.partition(".")[0] for text in sources(folder).values() for name in imported(text)}
    assert seen == wings


def test_the_door_leads_where_the_annotations_say() -> None:
    """Type checkers read the imports, Python the table: both must name the same things."""
    tree = ast.parse((ROOT / "unlearnbench/__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    said = {node.names[0].name: node.module for node in block.body if isinstance(node, ast.ImportFrom)}
    assert said == {name: f"unlearnbench.{home}" for name, home in unlearnbench._HOMES.items()}
    for name, module in said.items():
        assert getattr(unlearnbench, name) is getattr(import_module(str(module)), name)
    assert set(said) <= set(dir(unlearnbench))


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("unlearnbench/**/__init__.py")
    }
    assert found == {name for name in listed if name.partition(".")[0] == "unlearnbench"}


@pytest.mark.parametrize("folder", ["tests", "unlearnbench", "methods", "reports"])
def test_no_file_is_too_long_to_be_read(folder: str) -> None:
    assert {place: n for place, text in sources(folder).items() if (n := len(text.splitlines())) > 400} == {}
