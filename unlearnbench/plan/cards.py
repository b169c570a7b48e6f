"""What `unlearnbench show` prints of a plugin: everything that it declares."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from unlearnbench.plan import registry
from unlearnbench.plan.spec import Choice, Configured, Dataset, Law, LogUniform, Method, Metric, Need, UnlearnBenchError
from unlearnbench.plan.suites import packaged

# Of a method's docstring, in order.
SECTIONS = ("Objective", "Code read", "Held against", "Differences", "Defaults", "Known failures")
WIDTH = 120  # of a line
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


def card(kind: str, name: str) -> str:
    """The card of a plugin, or the text of a packaged suite. Raises UnlearnBenchError if there is none of that name."""
    if kind == "suites":
        if name not in packaged():
            raise UnlearnBenchError(f"unknown suite '{name}': expected one of {', '.join(packaged())}")
        return files("unlearnbench_benchmarks").joinpath(f"{name}.toml").read_text(encoding="utf-8").rstrip()
    plugin = registry.load(kind, name)
    point = registry.entries(kind)[name][0]
    package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown package"
    facts = {"from": f"{package}, {point.value}"}
    text = plugin.doc if isinstance(plugin, Metric) else inspect.getdoc(plugin) or ""
    parts = [f"{name} ({kind.removesuffix('s')})", "", text, "", *_table(facts | _facts(plugin))]
    if isinstance(plugin, type) and issubclass(plugin, Configured):
        parts += ["", "parameters:", *(_table(_parameters(plugin)) or ["  none"])]
    if isinstance(plugin, type) and issubclass(plugin, Method) and plugin.role == "method":
        parts += ["", "published settings:", *(_table(_published(plugin)) or ["  none"])]
    return "\n".join(parts)


def _facts(plugin: Any) -> dict[str, str]:
    """What a plugin declares beside its parameters."""
    if isinstance(plugin, Metric):
        return {
            "label": f"{plugin.label} [{plugin.unit}]",
            "family": plugin.family,
            "best": {"high": "high", "low": "low", "oracle": "closest to the oracle's"}[plugin.better],
            "of": ", ".join(["the row", *(_need(*need) for need in plugin.needs.items())]),
            "tolerance": tolerance_in_words(plugin) or "none declared",
            "compared": "on one machine only" if plugin.per_machine else "across machines",
            "version": str(plugin.version),
        }
    if not (isinstance(plugin, type) and issubclass(plugin, Configured)):
        return {}
    facts: dict[str, str] = {}
    if issubclass(plugin, Method):
        facts = {
            "paper": plugin.paper,
            "needs": ", ".join(need.name.lower() for need in plugin.needs if need.name) or "no data",
            "scenarios": ", ".join(plugin.scenarios) if plugin.scenarios else "all",
            "role": plugin.role + ("" if plugin.changes else ", leaves the parameters as they are"),
            "precision": "float32, whatever the recipe's" if plugin.full_precision else "the recipe's",
            "toy": ", ".join(f"{key} = {value}" for key, value in plugin.toy.items()) or "the defaults",
        }
    if issubclass(plugin, Dataset):
        facts = {"fingerprint": plugin.fingerprint or "not pinned"}
    return facts | {"version": str(plugin.version)}


def _need(need: Need, count: int) -> str:
    """A need of a metric in words."""
    models = f"{count} model{'s' * (count > 1)}"
    return {
        "oracle": "its oracle",
        "original": "its original",
        "untrained": "an untrained network",
        "bank": f"{models} of the bank",
        "unlearned": f"{models} that the method made",
        "shadows": f"{count} shadow runs per side",
    }[need]


def tolerance_in_words(metric: Metric) -> str:
    """``"1 point"``, ``"0.02"`` or ``"10% of the oracle's"``; "" where none is declared."""
    tolerance = metric.tolerance
    if tolerance is None:
        return ""
    if tolerance.of_oracle:
        return f"{tolerance.amount:.0%} of the oracle's"
    return f"{tolerance.amount:g}" + f" point{'s' * (tolerance.amount != 1)}" * (metric.unit == "%")


def sections(method: type[Method]) -> dict[str, str]:
    """The parts of a method's card by name (`SECTIONS`), each as one paragraph; those that it has."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}): *", inspect.getdoc(method) or "", flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def search_laws(cls: type[Configured]) -> dict[str, Law]:
    """How each parameter is searched when methods are tuned; those that are."""
    found = {name: getattr(hint, "__metadata__", ()) for name, hint in get_type_hints(cls, include_extras=True).items()}
    return {name: law for name, metadata in found.items() for law in metadata if isinstance(law, Law)}


def _parameters(cls: type[Configured]) -> dict[str, str]:
    schema, searched = TypeAdapter(cls).json_schema(), search_laws(cls)
    lines = {}
    for name, law in schema.get("properties", {}).items():
        default = f"default {'none' if law['default'] is None else law['default']}" if "default" in law else "required"
        how = f"; searched {_search(searched[name])}" if name in searched else ""
        lines[name] = f"{_law(law)}; {default}{how}"
    return lines


def _published(method: type[Method]) -> dict[str, str]:
    """By dataset and kind of scenario what the authors used, and where they say so."""
    return {
        str(entry): f"{', '.join(f'{k}={v}' for k, v in entry.params.items()) or 'the defaults'}; {entry.source}"
        for entry in method.published
    }


def _search(law: Law) -> str:
    if isinstance(law, Choice):
        return "among " + ", ".join(map(str, law.values))
    kind = "log-uniformly " if isinstance(law, LogUniform) else ""
    return f"{kind}from {law.low:g} to {law.high:g}"


def _law(schema: Mapping[str, Any]) -> str:
    """Which values a parameter takes, in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_law(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(repr(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_law(schema.get('items', {}))}"
    kind = {"null": "none", "string": "text"}.get(schema["type"], schema["type"])
    bounds = " and ".join(f"{sign} {schema[key]}" for key, sign in BOUNDS.items() if key in schema)
    return f"{kind} {bounds}".strip()


def _table(facts: Mapping[str, str]) -> list[str]:
    width = max(map(len, facts), default=0) + 4
    lines = {f"  {key}".ljust(width): textwrap.wrap(value, WIDTH - width) or [""] for key, value in facts.items()}
    return [start + f"\n{' ' * width}".join(parts) for start, parts in lines.items()]
