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
from unlearnbench.judge.stats import gap_metrics, paired_gaps, refuse_mixed_devices, runs_in_words, summary_table
from unlearnbench.judge.validation import overall
from unlearnbench.plan.spec import Metric

from .statistics import equivalence

ARROWS = {"high": "↑", "low": "↓", "oracle": "≈"}
LEGEND = (
    "≈ nearest the oracle is best, ↓ lowest, ↑ highest. The best method is {best}; the oracle and the controls do not "
    "compete. ± is the standard deviation over seeds, in the gaps half the 95% t interval; without ± all seeds agree, "
    "or there is one; [ ] is an attack's own 95% interval over models. > marks a lower bound. The noise floor is what "
    "95% of pairs of honest retrains keep to; ≡ marks a gap that lies within it (two one-sided t tests, 5%). Where "
    "models of a bank are compared, the oracle's line is the null: one half of the bank against the other."
)
FLOOR = "noise floor"
NOTHING = "—"


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
    """A metric, or its signed gap to the oracle, as a column of the comparison."""

    metric: Metric
    gap: bool = False

    @property
    def name(self) -> str:
        return self.metric.name + "_gap" * self.gap


@functools.lru_cache(maxsize=1)  # every file of a report shows it
def comparison(results: Results) -> pd.DataFrame:
    """The one tidy table: dataset, scenario, method, metric, mean, std, low, high, n, note (see `summary_table`).

    Signed gaps to the oracle stand in it as metrics named ``<name>_gap``. Values that belong to a machine are empty
    where machines mix.
    """
    values = refuse_mixed_devices(results.values, results.metrics)
    return summary_table(pd.concat([values, paired_gaps(values, results.metrics)], ignore_index=True))


def sections(results: Results, *, brief: bool = False) -> Iterator[Section]:
    """One section per dataset and scenario, in the suite's order; ``brief``: the headline metrics and their gaps."""
    roles = dict(zip(results.values["method"], results.values["role"], strict=True))
    thresholds = results.floors.set_index(["dataset", "scenario", "metric"])
    verdicts = overall(results.controls).set_index(["dataset", "scenario", "metric"])
    tested = equivalence(results)[["dataset", "scenario", "method", "metric", "p"]]
    within = list(tested.itertuples(index=False, name=None))
    for (dataset, scenario), table in comparison(results).groupby(["dataset", "scenario"], sort=False):
        values = results.values.query("dataset == @dataset and scenario == @scenario")
        found = Found(Stat)
        for line in table.itertuples(index=False):
            found[str(line.method), str(line.metric)] = Stat(*line[4:])
        here = Context(
            {str(method): roles[method] for method in table["method"].unique()},
            found,
            _here(thresholds["floor"], dataset, scenario),
            _here(verdicts.apply(tuple, axis=1), dataset, scenario) if len(verdicts) else {},
            {(m, n) for d, s, m, n, p in within if (d, s) == (dataset, scenario) and p < ALPHA},
            set(values.loc[values["stands_for"] == "original", "method"]),
            _facts(results.methods.query("dataset == @dataset and scenario == @scenario")),
        )
        panels = [_panel(title, columns, here) for title, columns in _columns(results, brief).items()]
        panels[0].notes.extend(("", clean(f"All methods: {fact}.", 200)) for fact in here.common_facts)
        yield Section(_title(values, dataset, scenario), [panel for panel in panels if panel.headers or panel.notes])


def _facts(methods: pd.DataFrame) -> dict[str, list[str]]:
    """What is said of each method: where its hyperparameters come from, and whether it saw more than others."""
    lines = methods[methods["role"] == "method"][["method", "access", "settings"]]
    return {
        method: [f"hyperparameters: {settings}", *["may use validation data"] * ("validation" in access)]
        for method, access, settings in lines.itertuples(index=False, name=None)
    }


def _here(by_place: pd.Series, dataset: object, scenario: object) -> dict[str, Any]:
    """The values of one dataset and scenario by metric, of a Series indexed by all three."""
    places = zip(by_place.index.tolist(), by_place.tolist(), strict=True)
    return {str(name): value for (d, s, name), value in places if (d, s) == (dataset, scenario)}


@dataclass(frozen=True)
class Context:
    """All that is known of one dataset and scenario: roles of the methods in order, what the comparison says, noise
    floors and verdicts (with their reasons) by metric, which (method, metric) are equivalent to the oracle, which
    controls are the original, and sentences on each method."""

    roles: Mapping[str, str]
    found: Found
    floors: Mapping[str, float]
    verdicts: Mapping[str, tuple[str, str]]
    equivalent: set[tuple[str, str]]
    originals: set[str]
    facts: Mapping[str, list[str]]

    @property
    def common_facts(self) -> list[str]:
        return _common(*self.facts.values()) if self.facts else []

    def trusts(self, column: Column) -> bool:
        return self.verdicts.get(column.metric.name, ("pass", ""))[0] == "pass"


def _title(values: pd.DataFrame, dataset: object, scenario: object) -> str:
    parts = [dataset, scenario, ", ".join(values["model"].astype(str).unique()), runs_in_words(values)]
    return " · ".join(clean(part, 60) for part in parts) + " · quick" * bool(values["quick"].any())


FAMILIES = {
    "utility": "Accuracy",
    "leakage": "Attacks",
    "oracle-distance": "Distance to the oracle",
    "relearning": "Relearning",
    "cost": "Cost",
}
GAPS = "Signed gaps to the oracle (paired by seed, mean and 95% t interval)"


def _columns(results: Results, brief: bool) -> dict[str, list[Column]]:
    """The headline first; then, unless ``brief``, everything by family, with the gaps of all."""
    headline = {name: results.metrics[name] for name in results.headline}
    panels = {"Headline": [Column(metric) for metric in headline.values()]} if headline else {}
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
    best: dict[Column, set[str]] = {c: _best(c, roles, found) if here.trusts(c) else set() for c in kept}
    common = {c: _common(*(_sentences(found[m, c.name]) for m in roles if found[m, c.name].n)) for c in kept}
    letters: dict[str, str] = {}
    lines = []
    for method, role in roles.items():
        cells = {c: found[method, c.name] for c in kept}
        own = {c: [s for s in _sentences(cell) if s not in common[c]] for c, cell in cells.items()}
        shared = _common(*own.values())
        entries = [
            Entry(
                _text(c, cell) + " ≡" * (c.gap and (method, c.metric.name) in here.equivalent),
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
    notes += [("", clean(f"Without {sentence}", 300)) for sentence in _grouped(_dropped(columns, kept, roles, found))]
    notes += [("", clean(sentence, 300)) for sentence in _controls(kept, here)]
    notes += [("", clean(sentence, 400)) for sentence in _untrusted(kept, here)]
    return Panel(title, [(clean(c.metric.label, 40), _unit(c)) for c in kept], lines, notes)


def _bound(column: Column, floors: Mapping[str, float]) -> str:
    """The noise floor of a gap, or of a metric that is itself a distance to the oracle."""
    floor = floors.get(column.metric.name)
    if floor is None or not (column.gap or column.metric.relative):
        return ""
    return "±" * column.gap + quantity(floor, math.nan, column.metric)


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
            scores = {method: _score(column, method, here.roles, here.found) for method in rivals}
            scores = {method: score for method, score in scores.items() if not math.isnan(score)}
            first = min(scores, key=scores.__getitem__, default="")
            if first in here.originals:
                yield (
                    f"{column.metric.label} ranks {first} first, a control that forgets nothing: "
                    "here it cannot tell forgetting from leaving the model alone."
                )


def _score(column: Column, method: str, roles: Mapping[str, str], found: Found) -> float:
    """What the best method has least of; NaN without a value, and where one is a lower bound. Of a metric that should
    be near the oracle's the gap of the runs that both have, where there is one."""
    own = found[method, column.name]
    if column.gap or column.metric.better != "oracle":
        score = abs(own.mean) if column.gap else -own.mean if column.metric.better == "high" else own.mean
        return math.nan if own.note.startswith(">") else score
    oracle = found[next((name for name, role in roles.items() if role == "oracle"), ""), column.name]
    if own.note.startswith(">") or oracle.note.startswith(">"):
        return math.nan
    gap = (method, f"{column.name}_gap")
    return abs(found[gap].mean if gap in found else own.mean - oracle.mean)


def _best(column: Column, roles: Mapping[str, str], found: Found) -> set[str]:
    """The best methods; those that print the same number are equally good."""
    scores = {method: _score(column, method, roles, found) for method, role in roles.items() if role == "method"}
    scores = {method: score for method, score in scores.items() if not math.isnan(score)}
    first = quantity(min(scores.values(), default=0.0), math.nan, column.metric)
    return {method for method, score in scores.items() if quantity(score, math.nan, column.metric) == first}


def _text(column: Column, cell: Stat) -> str:
    if not cell.n:
        return NOTHING
    spread = (cell.high - cell.low) / 2 if column.gap else cell.std
    if cell.n == 1 and not column.gap and not math.isnan(cell.low):
        mean, low, high = (quantity(x, math.nan, column.metric) for x in (cell.mean, cell.low, cell.high))
        return f"{mean} [{low}, {high}]"
    return ">" * cell.note.startswith(">") + quantity(cell.mean, spread, column.metric, sign="+" * column.gap)


def quantity(mean: float, spread: float, metric: Metric, sign: str = "") -> str:
    """``mean ± spread`` as printed: seconds and large numbers with 3 significant digits, others as the metric says."""
    scales = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))
    _, scale, suffix = next(entry for entry in scales if abs(mean) >= entry[0])
    mean, spread = mean / scale, spread / scale
    if metric.unit == "s" and 0 < abs(mean) < 5e-4 and not sign:
        return "<0.001"
    places = metric.digits
    if suffix or metric.unit == "s":
        places = min(3, max(0, 2 - math.floor(math.log10(abs(mean))))) if mean else 0
    mean = round(mean, places) + 0.0  # no minus sign before a zero
    text = f"{mean:{sign if mean else ''},.{places}f}{suffix}"
    return text if math.isnan(spread) or spread == 0 else f"{text} ± {spread:,.{places}f}{suffix}"


def _unit(column: Column) -> str:
    unit = f"({clean(column.metric.unit, 12)}) " if column.metric.unit else ""
    return unit + ARROWS["oracle" if column.gap else column.metric.better]


def clean(text: object, limit: int) -> str:
    """One printable line of at most ``limit`` characters. Names and error messages are other people's text."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
