"""Suites: TOML grids of cells, checked whole before anything trains."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len

from unlearnbench.plan.cells import Cell, Plugin, Probe, Recipe
from unlearnbench.plan.recipes import RECIPES
from unlearnbench.plan.registry import build, configure, load, names
from unlearnbench.plan.spec import Checked, Configured, Kind, Method, Published, Seed, UnlearnBenchError

Label = Annotated[str, Len(1, 60)]


@dataclass(frozen=True)
class QuickMode(Configured):
    """What ``--quick`` puts in the place of the suite's model."""

    model: str = "cnn"


@dataclass(frozen=True)
class ReportSettings(Configured):
    """``[report]``: ``headline`` are the metrics that the suite is read by, fixed before it runs: they lead the tables
    and must put the controls where they belong (`unlearnbench validate`). ``authors_curves`` gives for each of the
    suite's scenarios the key of the curves of CaMU's authors to show beside ours."""

    headline: tuple[Label, ...] = ("fa", "ra", "ta", "mia_lr_loss", "avg_gap", "relearn_steps", "seconds")
    authors_curves: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite(Configured):
    """A suite file, key by key. ``split_seeds = "paired"`` gives each seed the split of the same number. ``bank`` is
    the number of oracles beside those of the rows, for each scenario and split seed; ``unlearned_bank`` that of the
    models that each method makes, from as many originals; ``shadows`` that of its shadow runs."""

    title: str
    dataset: str | dict[str, Any]
    model: str | dict[str, Any]
    recipe: str | dict[str, Any]
    scenarios: Annotated[dict[Label, dict[str, Any]], Len(1)]
    methods: Annotated[dict[Label, dict[str, Any]], Len(1)]
    seeds: Annotated[tuple[Seed, ...], Len(1)] = (0, 1, 2, 3, 4)
    split_seeds: Literal["paired"] | tuple[Seed, ...] = "paired"
    bank: Annotated[int, Ge(0)] = 0
    unlearned_bank: Annotated[int, Ge(0)] = 0
    shadows: Annotated[int, Ge(0)] = 0
    probe: dict[str, Any] = field(default_factory=dict)
    quick: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What a run changes of its suite. ``sets`` are ``target.parameter=value`` with ``target`` the label of a method
    that runs, ``dataset``, ``model``, ``recipe`` or ``probe``."""

    methods: Sequence[str] = ()
    scenarios: Sequence[str] = ()
    seeds: Sequence[int] = ()
    sets: Sequence[str] = ()
    quick: bool = False


@dataclass(frozen=True)
class Entry(Checked):
    """A cell and the names under which its suite shows it."""

    cell: Cell
    scenario: str
    method: str
    role: str
    stands_for: str = ""
    settings: str = "default"  # where its hyperparameters come from

    @property
    def name(self) -> str:
        return f"{self.cell.dataset.name} {self.scenario} {self.method} seed {self.cell.seed}"


@dataclass(frozen=True)
class Plan(Checked):
    """All cells of a run."""

    suite: str
    title: str
    entries: tuple[Entry, ...]
    report: Mapping[str, Any]
    bank: int = 0
    unlearned_bank: int = 0
    shadows: int = 0

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Plan:
        """Raises UnlearnBenchError if ``d`` is not what `as_dict` gives."""
        return configure(cls, d, "plan")


def packaged() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(
        p.name.removesuffix(".toml") for p in files("unlearnbench_benchmarks").iterdir() if p.name.endswith(".toml")
    )


def make_plan(suite: str, options: Options = Options()) -> Plan:
    """The cells of a packaged suite or of a suite file.

    Raises UnlearnBenchError naming the file, the key and what was expected.
    """
    path, text = find(suite)
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UnlearnBenchError(f"{path}: not valid TOML: {error}") from None
    try:
        return _expand(path.stem, configure(Suite, content, "suite"), options)
    except UnlearnBenchError as error:
        raise UnlearnBenchError(f"{path}: {error}") from None


def nearest(method: type[Method], dataset: str, kind: Kind) -> Published | None:
    """What a method's authors published nearest to a dataset and a kind of scenario; None if nothing.

    An entry of this kind goes before one of the other. Then comes one for the dataset itself, then for those it is
    ``like``, in their order, then any other. Of several the method's first is taken.
    """
    order = [dataset, *load("datasets", dataset).like]

    def distance(entry: Published) -> tuple[bool, int]:
        return entry.scenario != kind, order.index(entry.dataset) if entry.dataset in order else len(order)

    return min(method.published, key=distance, default=None)


def parse_seeds(text: str) -> list[int]:
    """``"0-4"`` or ``"0,2,5-7"`` as a list. Raises UnlearnBenchError on anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high or high - low > 10_000:
            raise UnlearnBenchError(f"seeds {text!r}: expected whole numbers and ranges such as 0-4 or 0,2,5-7")
        seeds += range(low, high + 1)
    return list(dict.fromkeys(seeds))


def find(suite: str) -> tuple[Path, str]:
    """Path and text of a packaged suite or of a suite file. Raises UnlearnBenchError if there is none."""
    path = Path(suite)
    if path.suffix == ".toml":
        try:
            return path, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UnlearnBenchError(f"cannot read the suite file {suite}: {error}") from None
    known = packaged()
    if suite not in known:
        raise UnlearnBenchError(
            f"unknown suite '{suite}': expected one of {', '.join(known)} or the path of a .toml file"
        )
    return Path(f"{suite}.toml"), files("unlearnbench_benchmarks").joinpath(f"{suite}.toml").read_text(encoding="utf-8")


def _expand(name: str, suite: Suite, options: Options) -> Plan:
    methods = _chosen_methods(suite, options.methods)
    sets = _parse_sets(options.sets, ("dataset", "model", "recipe", "probe", *methods))
    scenarios = _choose(suite.scenarios, options.scenarios, "scenario")
    dataset = _plugin("datasets", _named(suite.dataset), sets.get("dataset", {}))
    model = _plugin("models", _named(suite.model), sets.get("model", {}))
    recipe = _recipe(suite.recipe, sets.get("recipe", {}))
    probe = configure(Probe, {**suite.probe, **sets.get("probe", {})}, "probe")
    seeds = tuple(options.seeds) or suite.seeds
    split_seeds = seeds if suite.split_seeds == "paired" else suite.split_seeds
    for numbers in (seeds, split_seeds):
        if len(set(numbers)) < len(numbers) or min(numbers) < 0:
            raise UnlearnBenchError(f"seeds {', '.join(map(str, numbers))}: expected different numbers from 0 up")
    report = configure(ReportSettings, suite.report, "report")
    for metric in report.headline:
        load("metrics", metric)  # there is one of that name, and it works
    _choose(suite.scenarios, list(report.authors_curves), "scenario of report.authors_curves")
    quick_model = _plugin("models", (configure(QuickMode, suite.quick, "quick").model, {}), {})
    if options.quick:
        limits = {"limit_train": 2000, "limit_test": 1000}
        smaller = {k: min(v, dataset.params[k] or v) for k, v in limits.items()}
        dataset = _plugin("datasets", (dataset.name, dict(dataset.params)), smaller)
        recipe = replace(recipe, epochs=min(2, recipe.epochs), image_size=None)  # the small model takes small images
        model, seeds = quick_model, seeds[:1]
        probe = replace(
            probe,
            relearn_every=min(10, probe.relearn_every),
            relearn_cap=min(200, probe.relearn_cap),
            relearn_epochs=min(10, probe.relearn_epochs),
        )
    paired = suite.split_seeds == "paired"
    pairs = [(s, s) for s in seeds] if paired else [(p, s) for p in split_seeds for s in seeds]
    entries = []
    for scenario_label, table in scenarios.items():
        named = _named({"name": table.get("scenario", scenario_label), **_without(table, "scenario")})
        rule = build("scenarios", *named)
        scenario = Plugin.of(named[0], rule)
        for label, method_table in methods.items():
            kind = _method_class(label, method_table)
            published = nearest(kind, dataset.name, rule.kind)
            base = published.params if published else {}
            method = _method(label, method_table, scenario_label, suite, base, sets.get(label, {}), options.quick)
            settings = _settings(method, method_table, scenario_label, published, sets.get(label, {}))
            for split_seed, seed in pairs:
                cell = Cell(dataset, model, recipe, scenario, method, split_seed, seed, probe, options.quick)
                entries.append(Entry(cell, scenario_label, label, kind.role, kind.stands_for, settings))
    if not any(entry.role == "oracle" for entry in entries):
        raise UnlearnBenchError(
            "methods: no oracle among them; every gap is measured against it: add [methods.retrain]"
        )
    banks = (0, 0, 0) if options.quick else (suite.bank, suite.unlearned_bank, suite.shadows)
    return Plan(name, suite.title, tuple(entries), dataclasses.asdict(report), *banks)


def _chosen_methods(suite: Suite, chosen: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The suite's methods, or the chosen ones; the oracle always, and ``all`` for every registered one."""
    if not chosen:
        return suite.methods
    oracles = [label for label, table in suite.methods.items() if _method_class(label, table).role == "oracle"]
    everything = [name for name in names("methods") if _works(name)] if "all" in chosen else []
    wanted = dict.fromkeys([*oracles, *everything, *(name for name in chosen if name != "all")])
    registered: dict[str, dict[str, Any]] = {label: {} for label in wanted if label not in suite.methods}
    for label in registered:
        load("methods", label)  # not one of the suite's labels: it must be a registered method
    order = [*suite.methods, *registered]
    return {label: suite.methods.get(label, {}) for label in order if label in wanted}


def _works(method: str) -> bool:
    """Whether a method is to be had: "all" leaves the broken ones to `list --check`."""
    try:
        load("methods", method)
    except UnlearnBenchError:
        return False
    return True


def _choose(table: Mapping[str, Any], chosen: Sequence[str], what: str) -> dict[str, Any]:
    unknown = [name for name in chosen if name not in table]
    if unknown:
        raise UnlearnBenchError(f"no {what} '{unknown[0]}' in this suite; it has {', '.join(table)}")
    return {name: value for name, value in table.items() if not chosen or name in chosen}


def _method_class(label: str, table: Mapping[str, Any]) -> Any:
    return load("methods", str(table.get("method", label)))


def _method(
    label: str, table: Mapping[str, Any], scenario: str, suite: Suite, base: Mapping[str, Any], sets: Mapping[str, Any],
    quick: bool,
) -> Plugin:  # fmt: skip
    """``[methods.LABEL]`` changes parameters of ``base``, the published ones, ``[methods.LABEL.in.SCENARIO]`` those of
    one scenario; there ``tuned`` says in how many trials they were found (`tuning`), ``tuned_without`` which metrics
    could not be used for it."""
    by_scenario = table.get("in", {})
    if not isinstance(by_scenario, dict) or not all(isinstance(v, dict) for v in by_scenario.values()):
        raise UnlearnBenchError(f"methods.{label}.in: expected a table of parameters for each scenario")
    _choose(suite.scenarios, list(by_scenario), f"scenario of methods.{label}.in")
    own = by_scenario.get(scenario, {})
    params = {**base, **_without(table, "method", "in"), **_without(own, "tuned", "tuned_without"), **sets}
    name = str(table.get("method", label))
    plugin = _plugin("methods", (name, params), {})
    if quick and "epochs" in plugin.params and not {"tuned", "epochs"} <= own.keys():  # a searched number stays
        plugin = _plugin("methods", (name, params), {"epochs": min(2, plugin.params["epochs"])})
    return plugin


def _settings(
    method: Plugin, table: Mapping[str, Any], scenario: str, published: Published | None, sets: Mapping[str, Any]
) -> str:
    """Where the hyperparameters of a method come from, in words."""
    own = table.get("in", {}).get(scenario, {})
    trials, without = own.get("tuned"), own.get("tuned_without", [])
    if trials is not None and (type(trials) is not int or trials < 1):
        raise UnlearnBenchError(
            f"methods.{method.name}.in.{scenario}.tuned: expected a number of trials, not {trials!r}"
        )
    if not isinstance(without, list) or (without and trials is None):
        raise UnlearnBenchError(
            f"methods.{method.name}.in.{scenario}.tuned_without: expected, beside tuned, a list of metrics, "
            f"not {without!r}"
        )
    if trials and not sets:
        labels = " and ".join(load("metrics", str(metric)).label for metric in without)
        return f"tuned ({trials} trials{', without ' * bool(labels)}{labels})"
    given = {*_without(table, "method", "in"), *own, *sets}
    if given:
        return "set by hand" if sets else "set by the suite"
    return f"published for {published}" if published else "default"


def _plugin(kind: str, named: tuple[str, dict[str, Any]], sets: Mapping[str, Any]) -> Plugin:
    name, params = named
    return Plugin.of(name, build(kind, name, {**params, **sets}))


def _named(value: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """``"digits"`` or ``{name = "digits", parameter = …}``."""
    if isinstance(value, str):
        return value, {}
    if not isinstance(value.get("name"), str):
        raise UnlearnBenchError('a dataset, model or recipe table needs a name, as in { name = "digits" }')
    return value["name"], _without(value, "name")


def _recipe(value: str | Mapping[str, Any], sets: Mapping[str, Any]) -> Recipe:
    name, changes = _named(value)
    if name not in RECIPES:
        raise UnlearnBenchError(f"unknown recipe '{name}': expected one of {', '.join(RECIPES)}")
    return configure(Recipe, {**dataclasses.asdict(RECIPES[name]), **changes, **sets}, "recipe")


def _parse_sets(sets: Sequence[str], targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    parsed: dict[str, dict[str, Any]] = {}
    for item in sets:
        path, _, text = item.partition("=")
        target, _, parameter = path.rpartition(".")
        if target not in targets or not text:
            raise UnlearnBenchError(
                f"--set {item}: expected TARGET.PARAMETER=VALUE with TARGET one of {', '.join(targets)}"
            )
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        parsed.setdefault(target, {})[parameter] = value
    return parsed


def _without(table: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in keys}
