"""The plugin package that `unlearnbench new` writes: a method that fine-tunes, to be changed into one's own."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from unlearnbench.plan import registry
from unlearnbench.plan.spec import UnlearnBenchError

PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "unlearnbench-{dashed}"
version = "0.1.0"
dependencies = ["unlearnbench"]

[project.entry-points."unlearnbench.methods"]
{name} = "unlearnbench_{name}:{cls}"

[tool.setuptools]
py-modules = ["unlearnbench_{name}"]
"""
METHOD = '''\
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn

from unlearnbench import Access, Count, LogUniform, Method, Positive, Recipe, Task, train


@dataclass(frozen=True)
class {cls}(Method):
    """What it does, in a line.

    Objective: minimise CE(D_r; θ) from θo.

    Code read: none needed.

    Held against: none; it is ours.

    Differences: none.

    Defaults: ours.

    Known failures: a whole class stays recognised.
    """

    paper: ClassVar[str] = "yours"
    needs: ClassVar[Access] = Access.RETAIN | Access.LABELS  # what it does not declare it does not get
    toy: ClassVar[dict[str, Any]] = {{"lr": 0.003, "epochs": 5, "weight_decay": 0.3}}  # for the conformance checks

    lr: Annotated[Positive, LogUniform(1e-5, 1e-2)] = 1e-3
    weight_decay: Annotated[Positive, LogUniform(1e-5, 1)] = 0.1
    epochs: Annotated[Count, LogUniform(1, 20)] = 5

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return train(model, task.retain, Recipe(lr=self.lr, weight_decay=self.weight_decay, epochs=self.epochs))
'''
TEST = """\
from unlearnbench import check_method


def test_conforms() -> None:
    assert [result for result in check_method("{name}") if not result.passed] == []
"""


def write_plugin(name: str, into: Path) -> Path:
    """Write the package of a method called ``name`` into a new folder of that name; returns the folder.

    Raises UnlearnBenchError when the name cannot be one, is taken, or the folder exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or keyword.iskeyword(name):
        raise UnlearnBenchError(
            f"{name!r} cannot name a method: expected lower-case letters, digits and _, as in my_method"
        )
    if name in registry.names("methods"):
        raise UnlearnBenchError(f"there is a method '{name}' already (unlearnbench list methods)")
    folder = into / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UnlearnBenchError(f"{folder} exists: choose another name, or another folder with --into") from None
    (folder / "tests").mkdir()
    words = {"name": name, "dashed": name.replace("_", "-"), "cls": name.title().replace("_", "")}
    for path, text in (
        ("pyproject.toml", PROJECT),
        (f"unlearnbench_{name}.py", METHOD),
        (f"tests/test_{name}.py", TEST),
    ):
        (folder / path).write_text(text.format(**words), encoding="utf-8")
    return folder
