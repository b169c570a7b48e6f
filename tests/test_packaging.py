"""What is installed: four packages, entry points that lead somewhere, and nobody's site-packages gets a `methods`."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, metadata, version
from importlib.resources import files
from pathlib import Path

import pytest

import unlearnbench

ROOT = Path(__file__).parent.parent
PACKAGES = ("unlearnbench", "unlearnbench_methods", "unlearnbench_benchmarks", "unlearnbench_reports")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
POINTS = [
    (group, name, value)
    for group, points in PYPROJECT["project"]["entry-points"].items()
    for name, value in points.items()
]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("folder", ["methods", "benchmarks", "reports"])
def test_folders_are_no_packages_of_their_own(folder: str) -> None:
    """Else every plugin would exist twice, and `isinstance` would depend on who imported it."""
    done = python(f"import {folder}")
    assert done.returncode == 1
    assert f"No module named '{folder}'" in done.stderr


def test_what_only_describes_imports_neither_torch_nor_the_runner() -> None:
    code = f"""
import sys
import {", ".join(PACKAGES)}
from unlearnbench.judge import results
from unlearnbench.measure import metrics, scoring
from unlearnbench.plan import cards, evidence, registry, spec, suites
from unlearnbench.store import folder
from unlearnbench_methods import __doc__
print(*(name for name in ("torch", "torchvision", "unlearnbench.runs.runner") if name in sys.modules))
"""
    done = python(code)
    assert done.stderr == ""
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()


def test_suites_come_with_the_package() -> None:
    assert "dataset" in tomllib.loads(files("unlearnbench_benchmarks").joinpath("digits.toml").read_text())


@pytest.mark.parametrize(("group", "name", "value"), POINTS)
def test_every_entry_point_is_installed_and_leads_somewhere(group: str, name: str, value: str) -> None:
    installed = [
        p for p in entry_points(group=group, name=name) if p.dist is not None and p.dist.name == "unlearnbench"
    ]
    assert {p.value for p in installed} == {value}, "entry points freeze at install: run make setup"
    assert installed[0].load() is not None


def test_there_is_one_version() -> None:
    assert unlearnbench.__version__ == version("unlearnbench") == PYPROJECT["project"]["version"]


def test_what_the_project_promises_of_itself() -> None:
    facts = metadata("unlearnbench")
    assert facts["License-Expression"] == "MIT"
    assert "3.11" in facts["Requires-Python"]


def test_a_name_that_is_not_there_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = unlearnbench.no_such_name
    assert {"run", "frame", "Method"} <= set(dir(unlearnbench))
