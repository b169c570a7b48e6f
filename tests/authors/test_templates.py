"""The plugin package that `unlearnbench new` writes. That it installs and runs is in test_plugins.py."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from unlearnbench.authors.templates import write_plugin
from unlearnbench.plan.spec import UnlearnBenchError


def test_the_package_names_its_method_and_its_entry_point(tmp_path: Path) -> None:
    folder = write_plugin("my_method", tmp_path)
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["project"]["name"] == "unlearnbench-my-method"
    assert project["project"]["entry-points"]["unlearnbench.methods"] == {
        "my_method": "unlearnbench_my_method:MyMethod"
    }
    source = (folder / "unlearnbench_my_method.py").read_text()
    compile(source, "my_method", "exec")
    assert "class MyMethod(Method):" in source
    assert (folder / "tests" / "test_my_method.py").exists()


@pytest.mark.parametrize("name", ["", "My", "1st", "a-b", "../up", "class", "a" * 41, "é"])
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnlearnBenchError, match="cannot name a method"):
        write_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_exists_is_written_over(tmp_path: Path) -> None:
    with pytest.raises(UnlearnBenchError, match="there is a method 'camu' already"):
        write_plugin("camu", tmp_path)
    write_plugin("mine", tmp_path)
    with pytest.raises(UnlearnBenchError, match="exists: choose another name"):
        write_plugin("mine", tmp_path)


@pytest.mark.parametrize("file", ["pyproject.toml", "notes.txt", None])
def test_a_folder_that_exists_is_refused_whatever_is_in_it(tmp_path: Path, file: str | None) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    if file:
        (folder / file).write_text("a week of work")
    with pytest.raises(UnlearnBenchError, match="exists: choose another name"):
        write_plugin("mine", tmp_path)
    assert {path.name: path.read_text() for path in folder.iterdir()} == ({file: "a week of work"} if file else {})


def test_the_folder_it_goes_into_is_made(tmp_path: Path) -> None:
    assert (write_plugin("mine", tmp_path / "new" / "place") / "pyproject.toml").exists()
