"""Plugins by name, through entry points: lazy, suggesting the nearest name, and never brought down by a broken one.

Nothing here imports a plugin until it is asked for by name. What `list` shows of a plugin is read from its source text.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from unlearnbench.plan import spec
from unlearnbench.plan.spec import UnlearnBenchError

KINDS = ("methods", "datasets", "models", "scenarios", "metrics", "figures")
T = TypeVar("T")


class RegistryError(UnlearnBenchError):
    """A plugin that is unknown, ambiguous, broken or wrongly configured."""


@dataclass(frozen=True)
class Listing:
    """A line of `unlearnbench list`. ``error`` says why the plugin cannot be used, "" if it can as far as is known."""

    kind: str
    name: str
    package: str
    summary: str = ""
    paper: str = ""
    needs: tuple[str, ...] = ()
    error: str = ""


@functools.cache
def entries(kind: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Entry points of a kind by name, in the order of registration; more than one under a name is a duplicate."""
    found: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for point in entry_points(group=f"unlearnbench.{kind}"):
        found.setdefault(point.name, {})[_package(point), point.value] = point
    return {name: tuple(points.values()) for name, points in found.items()}


def names(kind: str) -> list[str]:
    return list(entries(kind))


def load(kind: str, name: str) -> Any:
    """Import the plugin ``name``. Raises RegistryError when it is unknown, registered twice or broken."""
    point = _entry(kind, name)
    try:
        plugin = point.load()
    except (Exception, SystemExit) as error:
        raise RegistryError(
            f"{_singular(kind)} '{name}' of package '{_package(point)}' is broken: {_say(error)}"
        ) from error
    _verify(kind, name, plugin)
    return plugin


def build(kind: str, name: str, params: Mapping[str, Any]) -> Any:
    """An instance of the plugin with checked parameters, completed with defaults.

    Raises RegistryError naming the parameter and what was expected. Values may come from TOML: arrays become tuples and
    whole numbers floats where the field says so; nothing else is converted.
    """
    return configure(load(kind, name), params, f"{_singular(kind)} '{name}'")


def configure(cls: type[T], params: Mapping[str, Any], what: str) -> T:
    """``cls(**params)`` with every value checked against its annotation; ``what`` names it in the error."""
    from pydantic import ValidationError

    try:
        return _adapter(cast(Any, cls)).validate_json(json.dumps(params, default=str))
    except ValidationError as error:
        raise RegistryError("; ".join(_explain(e, cls, what) for e in error.errors(include_url=False))) from None


@functools.cache
def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def listing(kind: str, *, check: bool = False) -> list[Listing]:
    """What is registered under ``kind``. With ``check`` each plugin is imported; broken ones say why."""
    return [_list(kind, name, points, check) for name, points in entries(kind).items()]


def _entry(kind: str, name: str) -> EntryPoint:
    points = entries(kind).get(name, ())
    if not points:
        near = difflib.get_close_matches(name, names(kind), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise RegistryError(f"unknown {_singular(kind)} '{name}'{hint} (unlearnbench list {kind})")
    if len(points) > 1:
        raise RegistryError(_duplicate(kind, name, points))
    return points[0]


def _duplicate(kind: str, name: str, points: tuple[EntryPoint, ...]) -> str:
    packages = " and ".join(f"'{_package(p)}'" for p in points)
    return f"{_singular(kind)} '{name}' is registered by {packages}: rename one of them or uninstall its package"


def _verify(kind: str, name: str, plugin: Any) -> None:
    base = {"methods": spec.Method, "datasets": spec.Dataset, "models": spec.Model, "scenarios": spec.Scenario}.get(
        kind
    )
    if base is not None and not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise RegistryError(
            f"{_singular(kind)} '{name}' must be a class derived from unlearnbench.plan.spec.{base.__name__}"
        )
    if base is not None and getattr(plugin, "__abstractmethods__", None):
        missing = ", ".join(sorted(plugin.__abstractmethods__))
        raise RegistryError(f"{_singular(kind)} '{name}' does not define {missing}")
    if kind == "metrics":
        _verify_metric(name, plugin)
    if kind == "methods" and not all(hasattr(plugin, attribute) for attribute in ("paper", "needs")):
        raise RegistryError(f"method '{name}' must declare the class attributes paper and needs")
    if kind == "methods":
        _verify_published(name, plugin)


def _verify_published(name: str, method: type[spec.Method]) -> None:
    seen: set[str] = set()
    for entry in method.published:
        if not isinstance(entry, spec.Published):
            raise RegistryError(f"method '{name}': published holds {entry!r}: expected unlearnbench.Published entries")
        what = f"method '{name}', published for {entry}"
        configure(spec.Published, dataclasses.asdict(entry), what)
        configure(method, entry.params, what)
        if str(entry) in seen:
            raise RegistryError(f"{what}: there are two such entries; keep one")
        seen.add(str(entry))


def _verify_metric(name: str, metric: Any) -> None:
    if not isinstance(metric, spec.Metric):
        raise RegistryError(f"metric '{name}' must be an unlearnbench.Metric, not {type(metric).__name__}")
    if metric.name != name:
        raise RegistryError(f"metric '{name}' has the name '{metric.name}': expected that of its entry point")
    families, needs, best = get_args(spec.Family), get_args(spec.Need), get_args(spec.Better)
    if metric.family not in families:
        raise RegistryError(f"metric '{name}' has the family {metric.family!r}: expected one of {', '.join(families)}")
    if metric.better not in best:
        raise RegistryError(f"metric '{name}' is better {metric.better!r}: expected one of {', '.join(best)}")
    if not isinstance(metric.needs, Mapping) or not metric.needs.keys() <= set(needs):
        raise RegistryError(f"metric '{name}' has needs {metric.needs!r}: expected numbers of {', '.join(needs)}")


def _list(kind: str, name: str, points: tuple[EntryPoint, ...], check: bool) -> Listing:
    package = ", ".join(_package(p) for p in points)
    if len(points) > 1:
        return Listing(kind, name, package, error=_duplicate(kind, name, points))
    error = ""
    if check:
        try:
            load(kind, name)
        except RegistryError as reason:
            error = str(reason)
    return Listing(kind, name, package, *_declared(points[0]), error=error)


def _declared(point: EntryPoint) -> tuple[str, str, tuple[str, ...]]:
    """Summary, paper and needs of a plugin, read from the source text without importing anything."""
    try:
        tree = _source_tree(point.module)
    except (OSError, SyntaxError, UnicodeDecodeError, ImportError, ValueError):
        return "", "", ()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == point.attr:
            doc = ast.get_docstring(node) or ""
            statements = [a for a in node.body if isinstance(a, ast.Assign | ast.AnnAssign)]
            assigned = {t.id: a.value for a in statements for t in _targets(a) if a.value is not None}
            paper = assigned.get("paper")
            text = paper.value if isinstance(paper, ast.Constant) and isinstance(paper.value, str) else ""
            needs = ast.unparse(assigned["needs"]) if "needs" in assigned else ""
            return doc.partition("\n")[0], text, tuple(re.findall(r"Access\.(\w+)", needs))
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == point.attr for t in node.targets):
            keywords = {k.arg: k.value for k in getattr(node.value, "keywords", ())}
            doc_node = keywords.get("doc")
            return (str(doc_node.value) if isinstance(doc_node, ast.Constant) else ""), "", ()
    return "", "", ()


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.Name]:
    if isinstance(node, ast.Assign):
        return [t for t in node.targets if isinstance(t, ast.Name)]
    return [node.target] if isinstance(node.target, ast.Name) else []


@functools.cache
def _source_tree(module: str) -> ast.Module:
    package, _, _ = module.partition(".")
    found = importlib.util.find_spec(package)  # the top-level name alone: looking deeper would import its parents
    if found is None:
        raise ImportError(module)
    inner = module.split(".")[1:]
    if found.submodule_search_locations:
        folder = Path(next(iter(found.submodule_search_locations)), *inner)
        path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    else:
        path = Path(found.origin or "")
    return ast.parse(path.read_text(encoding="utf-8"))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown package"


def _singular(kind: str) -> str:
    return kind.removesuffix("s")


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _explain(error: Mapping[str, Any], cls: type, what: str) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        known = [f.name for f in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(known) or 'none'}"
        return f"{what} has no parameter '{key}'; {hint}"
    message = re.sub(r"^(Value error, |Input )", "", error["msg"])
    return f"{what}: {key + ' ' if key else ''}{message}" + (f", not {error['input']!r}" if key else "")
