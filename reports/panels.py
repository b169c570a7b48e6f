"""The comparison as panels of text: what stands in each place of a table, before any format is chosen."""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import Any, NamedTuple

import pandas as pd

from unlearnbench.judge.inference import ALPHA
from unlearnbench.judge.results import Results
from unlearnbench.judge.stats import (
    distances,
    gap_metrics,
    paired_gaps,
    runs_in_words,
    summary_table,
)
from unlearnbench.judge.validation import DOUBTED, overall
from unlearnbench.plan.spec import Metric

from .legend import FAMILIES
from .printed import clean, interval, quantity
from .statistics import gaps

ARROWS = {"high": "↑", "low": "↓", "oracle": "≈"}
FLOOR = "noise floor"
NOTHING = "—"
BELOW = "nearer the oracles than these are to each other: chance, or broken models, and no merit"


@dataclass(frozen=True)
class Entry:
    """One place of a table. ``marks`` are the letters of its footnotes."""

    text: str
    best: bool = False
    marks: str = ""


@dataclass(frozen=True)
class Line:
    method: str
    role: str
    marks: str
    entries: list[Entry]


@dataclass(frozen=True)
class Panel:
    """A table: ``headers`` are (label, unit and arrow), none if there are only notes: (letter or "", sentence)."""

    title: str
    headers: list[tuple[str, str]]
    lines: list[Line]
    notes: list[tuple[str, str]]

    def columns(self, start: int, stop: int) -> Panel:
        """The same panel with some of its columns, without its notes."""
        lines = [replace(line, entries=line.entries[start:stop]) for line in self.lines]
        lines = [line for line in lines if line.role != "floor" or any(entry.text for entry in line.entries)]
        return Panel(self.title, self.headers[start:stop], lines, [])


@dataclass(frozen=True)
class Section:
    """Everything about one dataset and scenario."""

    title: str
    panels: list[Panel]


@dataclass(frozen=True)
class Column:
    """A metric, its signed gap to the oracle, or its part in ``whole``, a mean of absolute gaps, as a column of the
    comparison."""

    metric: Metric
    gap: bool = False
    whole: Metric | None = None

    @property
    def name(self) -> str:
        return self.metric.name + ("_distance" if self.whole else "_gap" * self.gap)


@functools.lru_cache(maxsize=1)  # every file of a report shows it
def comparison(results: Results) -> pd.DataFrame:
    """The one tidy table: dataset, scenario, method, metric, mean, std, low, high, n, note (see `summary_table`).

    Signed gaps to the oracle stand in it as metrics named ``<name>_gap``, absolute ones as ``<name>_distance``. Values
    that belong to a machine are empty where machines mix.
    """
    values = results.comparable
    gaps = [paired_gaps(values, results.metrics), distances(values, results.metrics)]
    return summary_table(pd.concat([values, *gaps], ignore_index=True))


def sections(results: Results, *, brief: bool = False) -> Iterator[Section]:
    """One section per dataset and scenario, in the suite's order; ``brief``: the headline metrics and their gaps."""
    roles = dict(zip(results.values["method"], results.values["role"], strict=True))
    floors = results.floors.set_index(["dataset", "scenario", "metric"])
    verdicts = overall(results.controls).set_index(["dataset", "scenario", "metric"])
    tested = gaps(results)
    for (dataset, scenario), table in comparison(results).groupby(["dataset", "scenario"], sort=False):
        values = results.values.query("dataset == @dataset and scenario == @scenario")
        methods = results.methods.query("dataset == @dataset and scenario == @scenario and role == 'method'")
        found = Found(Stat)
        for line in table.itertuples(index=False):
            found[str(line.method), str(line.metric)] = Stat(*line[4:])
        here = Context(
            {str(method): roles[method] for method in table["method"].unique()},
            found,
            _here(
                pd.Series([Floor(*line) for line in floors.itertuples(index=False)], floors.index, dtype=object),
                dataset,
                scenario,
            ),
            _here(verdicts.apply(tuple, axis=1), dataset, scenario) if len(verdicts) else {},
            _marked(tested.query("dataset == @dataset and scenario == @scenario")),
            set(values.loc[values["stands_for"] == "original", "method"]),
            _facts(methods),
        )
        panels = [_panel(title, columns, here) for title, columns in _columns(results, brief).items()]
        panels[0].notes.extend(("", clean(f"All methods: {fact}.", 200)) for fact in here.common_facts)
        panels[0].notes.extend(("", clean(note, 2000)) for note in _settings(methods))
        yield Section(_title(values, dataset, scenario), [panel for panel in panels if panel.headers or panel.notes])


def _facts(methods: pd.DataFrame) -> dict[str, list[str]]:
    """What is said of each method: whether it saw more than others."""
    lines = methods[["method", "access"]].itertuples(index=False, name=None)
    return {method: ["may use validation data"] * ("validation" in access) for method, access in lines}


def _settings(methods: pd.DataFrame) -> Iterator[str]:
    """Where hyperparameters come from: a sentence for all methods of which the same is to be said."""
    for settings in methods["settings"].unique():
        lines = methods[methods["settings"] == settings]
        who = "all methods" if len(lines) == len(methods) else ", ".join(lines["method"])
        yield f"Hyperparameters {'by default' if settings == 'default' else settings}: {who}."


def _marked(tested: pd.DataFrame) -> dict[tuple[str, str], str]:
    """By method and metric the marks of the tests that found something."""
    lines = tested[["method", "metric", "p_equivalent", "p_beyond"]].itertuples(index=False, name=None)
    return {(m, n): " ≡" * bool(same < ALPHA) + " †" * bool(beyond < ALPHA) for m, n, same, beyond in lines}


def _here(by_place: pd.Series, dataset: object, scenario: object) -> dict[str, Any]:
    """The values of one dataset and scenario by metric, of a Series indexed by all three."""
    places = zip(by_place.index.tolist(), by_place.tolist(), strict=True)
    return {str(name): value for (d, s, name), value in places if (d, s) == (dataset, scenario)}


class Floor(NamedTuple):
    """A noise floor: its value, the ends of its interval, and the runs and models behind it."""

    value: float
    low: float
    high: float
    runs: int
    models: int


@dataclass(frozen=True)
class Context:
    """All that is known of one dataset and scenario: roles of the methods in order, what the comparison says, noise
    floors and verdicts (with their reasons) by metric, the marks of tests by method and metric, which controls are the
    original, and sentences on each method."""

    roles: Mapping[str, str]
    found: Found
    floors: Mapping[str, Floor]
    verdicts: Mapping[str, tuple[str, str]]
    marks: Mapping[tuple[str, str], str]
    originals: set[str]
    facts: Mapping[str, list[str]]

    @property
    def common_facts(self) -> list[str]:
        return _common(*self.facts.values()) if self.facts else []

    def trusts(self, column: Column) -> bool:
        return self.verdicts.get(column.metric.name, ("pass", ""))[0] not in DOUBTED


def _title(values: pd.DataFrame, dataset: object, scenario: object) -> str:
    parts = [dataset, scenario, ", ".join(values["model"].astype(str).unique()), runs_in_words(values)]
    return " · ".join(clean(part, 60) for part in parts) + " · quick" * bool(values["quick"].any())


PARTS = "What {} averages: absolute gaps to the oracle ({})"
GAPS = "Signed gaps to the oracle (paired by seed, mean and 95% t interval)"


def _columns(results: Results, brief: bool) -> dict[str, list[Column]]:
    """The headline first; then, unless ``brief``, everything by family, with the gaps of all."""
    headline = {name: results.metrics[name] for name in results.headline}
    panels = {"Headline": [Column(metric) for metric in headline.values()]} if headline else {}
    for metric in headline.values():
        if metric.parts:
            parts = [results.metrics[name] for name in metric.parts if name in results.metrics]
            panels[PARTS.format(metric.label, metric.unit)] = [Column(part, whole=metric) for part in parts]
    if headline and brief:
        return panels | {GAPS: [Column(metric, gap=True) for metric in gap_metrics(headline)]}
    for family, title in FAMILIES.items():
        panels[title] = [Column(metric) for metric in results.metrics.values() if metric.family == family]
    return panels | {GAPS: [Column(metric, gap=True) for metric in gap_metrics(results.metrics)]}


class Stat(NamedTuple):
    """What the comparison says of one method and metric; without values, what it says of nothing."""

    mean: float = math.nan
    std: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    note: str = ""


Found = defaultdict[tuple[str, str], Stat]  # by method and metric


def _panel(title: str, columns: list[Column], here: Context) -> Panel:
    roles, found = here.roles, here.found
    columns = [c for c in columns if any((method, c.name) in found for method in roles)]
    kept = [c for c in columns if any(found[method, c.name].n for method in roles)]
    kept = kept or [c for c in columns if not c.gap]  # where nothing worked, that is what the table shows
    best, below = {c: _best(c, here) for c in kept}, {c: _below_null(c, here) for c in kept}
    common = {c: _common(*(_sentences(found[m, c.name]) for m in roles if found[m, c.name].n)) for c in kept}
    letters: dict[str, str] = {}
    lines = []
    for method, role in roles.items():
        cells = {c: found[method, c.name] for c in kept}
        own = {c: [s for s in _sentences(cell) if s not in common[c]] for c, cell in cells.items()}
        for c in (c for c in kept if method in below[c]):
            own[c].append(BELOW)
        shared = _common(*own.values())
        entries = [
            Entry(
                _text(c, cell) + here.marks.get((method, c.metric.name), "") * _is_gap(c),
                method in best[c],
                _mark(letters, [s for s in own[c] if s not in shared]),
            )
            for c, cell in cells.items()
        ]
        facts = [sentence for sentence in here.facts.get(method, []) if sentence not in here.common_facts]
        lines.append(Line(clean(method, 60), role, _mark(letters, [*facts, *shared]), entries))
    bounds = [_bound(c, here.floors) for c in kept]
    if any(bounds):
        lines.append(Line(FLOOR, "floor", "", [Entry(bound) for bound in bounds]))
    notes = [(letter, clean(sentence, 200)) for sentence, letter in letters.items()]
    notes += [("", clean(sentence, 300)) for sentence in _grouped({c: "; ".join(common[c]) for c in kept})]
    notes += [("", clean(sentence, 300)) for sentence in _grouped(_behind(kept, here.floors))]
    notes += [("", clean(f"Without {sentence}", 300)) for sentence in _grouped(_dropped(columns, kept, roles, found))]
    notes += [("", clean(sentence, 300)) for sentence in _controls(kept, here)]
    notes += [("", clean(sentence, 400)) for sentence in _untrusted(kept, here)]
    return Panel(title, [(clean(c.metric.label, 40), _unit(c)) for c in kept], lines, notes)


def _is_gap(column: Column) -> bool:
    """Whether it shows a distance to the oracle, as the noise floor and the marks of tests are about."""
    return column.gap or (column.metric.relative and not column.whole)


def _bound(column: Column, floors: Mapping[str, Floor]) -> str:
    """The noise floor of a gap, or of a metric that is itself a distance to the oracle."""
    floor = floors.get(column.metric.name)
    return interval(floor.value, floor.low, floor.high, column.metric) if floor and _is_gap(column) else ""


def _behind(kept: list[Column], floors: Mapping[str, Floor]) -> dict[Column, str]:
    found = {c: floors[c.metric.name] for c in kept if c.metric.name in floors and _is_gap(c)}
    return {c: f"the noise floor rests on {floor.models} models in {floor.runs} runs" for c, floor in found.items()}


def _untrusted(kept: list[Column], here: Context) -> Iterator[str]:
    """Which metrics the controls speak against in this scenario, and why."""
    for verdict, word in (("fail", "Unreliable"), ("uninformative", "Uninformative")):
        reasons = defaultdict(list)
        for column in kept:
            found, reason = here.verdicts.get(column.metric.name, ("pass", ""))
            if found == verdict and not column.gap:
                reasons[reason].append(column.metric.label)
        for reason, labels in reasons.items():
            yield f"{word} here: {', '.join(labels)}: {reason}."


def _sentences(cell: Stat) -> list[str]:
    return cell.note.split("; ") if cell.note else []


def _common(*lists: list[str]) -> list[str]:
    """What stands in each of several lists of sentences, so that it need not be said of each."""
    return [sentence for sentence in lists[0] if all(sentence in other for other in lists)] if len(lists) > 1 else []


def _mark(letters: dict[str, str], sentences: list[str]) -> str:
    for sentence in sentences:
        tens, ones = divmod(len(letters), 26)
        letters.setdefault(sentence, (ascii_lowercase[tens - 1] if tens else "") + ascii_lowercase[ones])
    return ",".join(sorted(letters[sentence] for sentence in sentences))


def _dropped(columns: list[Column], kept: list[Column], roles: Mapping[str, str], found: Found) -> dict[Column, str]:
    """Why the columns without any value are empty: the reason that most methods have."""
    notes = {c: Counter(found[method, c.name].note for method in roles) for c in columns if c not in kept}
    return {c: counts.most_common(1)[0][0] for c, counts in notes.items()}


def _grouped(reasons: Mapping[Column, str]) -> list[str]:
    labels = defaultdict(list)
    for column, reason in reasons.items():
        labels[reason].append(column.metric.label)
    return [f"{', '.join(names)}: {reason}." for reason, names in labels.items() if reason]


def _controls(kept: list[Column], here: Context) -> Iterator[str]:
    for column in kept:
        if column.metric.family == "oracle-distance" and not column.gap and column.metric.better != "oracle":
            rivals = [name for name, role in here.roles.items() if role == "method" or name in here.originals]
            scores = {method: _score(column, method, here.found) for method in rivals}
            scores = {method: score for method, score in scores.items() if not math.isnan(score)}
            first = min(scores, key=scores.__getitem__, default="")
            if first in here.originals:
                yield (f"{column.metric.label}: the smallest mean is that of {first}, a control that forgets nothing.")


def _score(column: Column, method: str, found: Found) -> float:
    """What the best method has least of, on average over the runs; NaN without a value, and where one is a lower bound.
    Of a metric that should be near the oracle's it is the mean distance."""
    name = column.metric.name
    own = found[method, f"{name}_distance" if column.metric.better == "oracle" else name]
    return math.nan if own.note.startswith(">") else -own.mean if column.metric.better == "high" else own.mean


def _below_null(column: Column, here: Context) -> set[str]:
    """Of a distance between banks of models, the methods that come out nearer the oracles than these are apart."""
    metric = column.metric
    if not metric.of_split or metric.family != "oracle-distance" or metric.better == "oracle":
        return set()
    scores = {method: _score(column, method, here.found) for method in here.roles}
    null = next((scores[method] for method, role in here.roles.items() if role == "oracle"), math.nan)
    return {method for method, role in here.roles.items() if role != "oracle" and scores[method] < null}


def _best(column: Column, here: Context) -> set[str]:
    """The best methods; those that print the same number are equally good. None where the controls speak against the
    metric, and none where some are nearer than the null, about which nobody knows whether that is good."""
    rivals = [name for name, role in here.roles.items() if role == "method"]
    if not here.trusts(column) or column.whole or _below_null(column, here) & set(rivals):
        return set()
    scores = {method: _score(column, method, here.found) for method in rivals}
    scores = {method: score for method, score in scores.items() if not math.isnan(score)}
    first = quantity(min(scores.values(), default=0.0), math.nan, column.metric)
    return {method for method, score in scores.items() if quantity(score, math.nan, column.metric) == first}


def _text(column: Column, cell: Stat) -> str:
    if not cell.n:
        return NOTHING
    if column.whole:
        share = column.whole.parts[column.metric.name]
        return quantity(share * cell.mean, share * cell.std, column.whole)
    spread = (cell.high - cell.low) / 2 if column.gap else cell.std
    if cell.n == 1 and not column.gap and not math.isnan(cell.low):
        return interval(cell.mean, cell.low, cell.high, column.metric)
    return ">" * cell.note.startswith(">") + quantity(cell.mean, spread, column.metric, sign="+" * column.gap)


def _unit(column: Column) -> str:
    if column.whole:
        return ARROWS["low"]
    unit = f"({clean(column.metric.unit, 12)}) " if column.metric.unit else ""
    return unit + ARROWS["oracle" if column.gap else column.metric.better]
