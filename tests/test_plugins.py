"""Methods from packages of other people, really installed: they list, conform, run and stand in the table."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unlearnbench.authors.templates import write_plugin

PLUGINS = Path(__file__).parent / "plugins"
MAIN = "from unlearnbench.cli import main; main()"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a sound and a broken plugin are installed."""
    sources, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("site")
    shutil.copytree(PLUGINS, sources, dirs_exist_ok=True)  # a build leaves files beside its sources
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--target"]
    command = [sys.executable, "-m", "pip", "install", *options, *map(str, [target, *sorted(sources.iterdir())])]
    subprocess.run(command, check=True)
    return target


def unlearnbench(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command with the plugins installed."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", MAIN, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_four_lines_of_toml_list_a_method(site: Path) -> None:
    done = unlearnbench(site, "list", "methods")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if "toy_method" in line)
    assert "[toy-plugin]" in line
    assert "needs forget, retain, labels; none: an example" in line
    assert "camu" in done.stdout


def test_a_package_that_new_wrote_installs_and_passes_and_runs(tmp_path: Path) -> None:
    folder, site = write_plugin("demo", tmp_path), tmp_path / "site"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--target"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(site), str(folder)], check=True)
    checked = unlearnbench(site, "check", "demo")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    quick = ["--methods", "demo", "--scenarios", "class-8", "--quick", "--jobs", "1", "--results", tmp_path / "results"]
    done = unlearnbench(site, "run", "digits", *quick, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(line.startswith("demo ") for line in done.stdout.splitlines())


def test_it_passes_the_checks(site: Path) -> None:
    done = unlearnbench(site, "check", "toy_method")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "toy_method: pass  retains" in done.stdout
    assert "FAIL" not in done.stdout


def test_a_broken_one_is_listed_as_broken_and_harms_nothing(site: Path) -> None:
    assert "BROKEN" not in unlearnbench(site, "list", "methods").stdout
    done = unlearnbench(site, "list", "methods", "--check")
    assert done.returncode == 1
    broken = [line for line in done.stdout.splitlines() if "BROKEN" in line]
    assert len(broken) == 1
    assert "broken_method" in broken[0]
    assert "[broken-plugin]" in broken[0]
    assert "this plugin was made for another version" in broken[0]
    assert "Traceback" not in done.stderr


def test_a_broken_one_that_is_asked_for_is_an_error_of_one_line(site: Path) -> None:
    done = unlearnbench(site, "show", "methods", "broken_method")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "unlearnbench: method 'broken_method' of package 'broken-plugin' is broken: RuntimeError:"
    )
    assert len(done.stderr.splitlines()) == 1


def test_it_stands_in_the_table(site: Path, tiny: Callable[..., Path], tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    done = unlearnbench(site, "run", tiny("toy_method"), "--jobs", "1", "--results", results, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "toy_method" in done.stdout
    table = (out / "tiny" / "comparison.csv").read_text()
    assert ",toy_method,fa," in table
    assert ",retrain,fa," in table
