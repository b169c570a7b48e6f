"""Seeds to summaries: mean, spread and t interval; gaps to the oracle, paired by seed. All on `Results.values`."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from unlearnbench.plan.spec import REASONS, Empty, Metric

KEY = ["dataset", "scenario", "method", "metric"]
PAIR = ["dataset", "model", "scenario", "split_seed", "run", "metric"]
ADDED = ["run", "oracle", "oracle_note", "_merge", "gap", "gap_note"]  # what `_with_gaps` adds to the columns of values
ROLES = ["oracle", "method", "control"]  # the order of the lines of every table
SINGLE = "single seed: no intervals"
CROSSED = "no interval: runs that share splits and seeds are not independent (variance.csv)"


@dataclass(frozen=True)
class Summary:
    """Of n values: mean, sample standard deviation (ddof 1) and the ends of the 95% t interval of the mean."""

    mean: float
    std: float
    low: float
    high: float
    n: int


def summarise(values: Iterable[float]) -> Summary:
    """Summarise what is not NaN; from one value there is no spread (NaN), from none no mean either.

    The interval is mean ± t(.975, n - 1) · std / √n (Student 1908). At n = 5 a percentile bootstrap would cover 84%.
    """
    x = np.array([value for value in values if not np.isnan(value)], dtype=float)
    n = len(x)
    if n < 2:
        return Summary(float(x[0]) if n else np.nan, np.nan, np.nan, np.nan, n)
    mean, std = float(x.mean()), float(x.std(ddof=1))
    half = _t_quantile(n - 1) * std / n**0.5
    return Summary(mean, std, mean - half, mean + half, n)


def crossed(runs: Iterable[tuple[int, int]]) -> bool:
    """Whether of several (split seed, seed) pairs some share a split and some a seed. Such runs are not independent:
    what n of them say of a mean is worth less than n seeds."""
    pairs = set(runs)
    return len(pairs) > max(len({split for split, _ in pairs}), len({seed for _, seed in pairs}), 1)


def runs_in_words(values: pd.DataFrame) -> str:
    """How many runs stand behind the values: ``5 seeds``, each with a split of its own, ``10 seeds on one split``,
    ``5 splits, one seed``, ``3 splits x 3 seeds``, or that there is but one."""
    pairs = list(values[["split_seed", "seed"]].drop_duplicates().itertuples(index=False, name=None))
    splits, seeds = (len(set(numbers)) for numbers in zip(*pairs, strict=True))
    if crossed(pairs):
        return f"{splits} splits x {seeds} seeds"
    if len(pairs) == 1:
        return SINGLE
    return f"{splits} splits, one seed" if seeds == 1 else f"{seeds} seeds" + " on one split" * (splits == 1)


@functools.cache
def _t_quantile(freedom: int) -> float:
    return float(stats.t.ppf(0.975, freedom))


def summary_table(values: pd.DataFrame) -> pd.DataFrame:
    """One line per dataset, scenario, method and metric, with columns mean, std, low, high, n, note.

    Lines keep the order of first appearance in ``values``, the oracle before the methods, controls after them. Empty
    values count neither in the mean nor in n: the note says how many there were and why. Where a value is censored the
    mean is a lower bound, so the note starts with ``">"`` and there is neither spread nor interval. Where splits and
    seeds are `crossed` there is no interval either, and the note says so. Other notes stay where all seeds agree.
    Sentences of a note are separated by ``"; "``. A single value keeps its own interval, such as that of an attack over
    models.
    """
    ranks = pd.DataFrame({name: pd.factorize(values[name])[0] for name in KEY})
    ranks.insert(2, "role", values["role"].map(ROLES.index).to_numpy())
    ordered = values.iloc[ranks.sort_values(list(ranks.columns)).index].fillna({"note": ""})
    columns = [*KEY, "value", "note", "low", "high", "split_seed", "seed"]
    records = ordered.reindex(columns=columns).itertuples(index=False, name=None)
    lines = []
    for key, group in itertools.groupby(records, key=lambda record: record[:4]):
        values_of = [record[4:] for record in group]
        line = dict(zip(KEY, key, strict=True)) | _summarise_noted([(value, note) for value, note, *_ in values_of])
        if line["n"] == 1 and np.isnan(line["low"]):
            line |= next({"low": low, "high": high} for value, _, low, high, *_ in values_of if not np.isnan(value))
        if crossed((split, seed) for *_, split, seed in values_of):
            line |= {"low": np.nan, "high": np.nan, "note": "; ".join(filter(None, [line["note"], CROSSED]))}
        lines.append(line)
    return pd.DataFrame(lines, columns=[*KEY, "mean", "std", "low", "high", "n", "note"])


def _summarise_noted(noted: list[tuple[float, str]]) -> dict[str, float | str]:
    summary, total, sentences = asdict(summarise(value for value, _ in noted)), len(noted), []
    censored = [note for value, note in noted if note.startswith(">") and not np.isnan(value)]
    if censored:
        summary |= dict.fromkeys(("std", "low", "high"), np.nan)
        caps = ", ".join(dict.fromkeys(map(_sentence, censored)))
        sentences.append(f"{caps} in {len(censored)} of {total}, so the mean is a lower bound")
    for reason, count in Counter(_sentence(note) for value, note in noted if np.isnan(value)).items():
        sentences.append(reason if count == total else f"{count} of {total} without a value: {reason}")
    plain = {_sentence(note) for value, note in noted if note and not note.startswith(">") and not np.isnan(value)}
    if len(plain) == 1:  # such as the size of an attack, where all seeds agree
        sentences += plain
    return summary | {"note": "; ".join(sentences)}


def _sentence(note: str) -> str:
    """The last line of a note (of a traceback: the error itself), without the mark that separates sentences."""
    return (note.strip().splitlines() or ["no reason given"])[-1].strip().replace(";", ",")


def gap_metrics(metrics: Mapping[str, Metric]) -> list[Metric]:
    """The metrics that have a signed gap to the oracle, named ``<name>_gap`` in tables."""
    return [metric for metric in metrics.values() if metric.better == "oracle" and not metric.relative]


def paired_gaps(values: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Signed gaps, value minus the oracle's of the same dataset, model, scenario and seeds, as further values.

    What belongs to a split is paired by split: the first seed of a method may not be that of the oracle. A gap is empty
    where the value or its partner is, or where the oracle's value is censored. Of several oracles the first in
    ``values`` is the reference.
    """
    return _as_values(_with_gaps(values, gap_metrics(metrics)), "gap")


def distances(values: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Distances to the oracle's value, run by run, of every metric that is best near it, as further values named
    ``<name>_distance``: absolute `paired_gaps`, and those of metrics that are ratios to the oracle's value."""
    pairs = _with_gaps(values, [metric for metric in metrics.values() if metric.better == "oracle"])
    return _as_values(pairs.assign(gap=pairs["gap"].abs()), "distance")


def with_scores(values: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """The lines of ``metrics`` with a ``score``, what the best method has least of, and the ``oracle``'s value.

    A score is the distance to the oracle's value of the same run where a metric's ``better`` is ``"oracle"``, the value
    where it is ``"low"``, its negative where it is ``"high"``. It is NaN where there is none and where a value is
    censored: a lower bound can be neither averaged nor ranked. ``gap`` is the signed gap to the oracle's value.
    """
    pairs = _with_gaps(values, list(metrics.values()))
    better = pairs["metric"].map({name: metric.better for name, metric in metrics.items()})
    score = pairs["gap"].abs().where(better == "oracle", pairs["value"].where(better == "low", -pairs["value"]))
    return pairs.assign(score=score.mask(pairs["note"].str.startswith(">")))


def _with_gaps(values: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """The lines of ``metrics`` with ``oracle``, the oracle's value of the same run unless it is censored, the ``gap``
    to it, and the ``gap_note`` that says why there is none."""
    lines = values[values["metric"].isin([metric.name for metric in metrics])].fillna({"note": ""})
    of_split = [metric.name for metric in metrics if metric.of_split]
    lines["run"] = lines["seed"].mask(lines["metric"].isin(of_split), -1)
    oracle = lines.loc[lines["role"] == "oracle", [*PAIR, "value", "note"]].drop_duplicates(PAIR)
    oracle = oracle.rename(columns={"value": "oracle", "note": "oracle_note"})
    pairs = lines.merge(oracle, how="left", on=PAIR, indicator=True)
    there, censored = pairs["value"].notna(), pairs["oracle_note"].fillna("").str.startswith(">")
    note = pairs["note"].where(~there | pairs["note"].str.startswith(">"), "")  # not an attack's size
    note = note.mask(there & pairs["oracle"].isna(), REASONS["oracle_empty"])
    note = note.mask(there & censored, str(Empty("oracle_censored")))
    note = note.mask(there & (pairs["_merge"] == "left_only"), str(Empty("no_oracle")))
    exact = pairs["oracle"].mask(censored)
    return pairs.assign(oracle=exact, gap=pairs["value"] - exact, gap_note=note)


def _as_values(pairs: pd.DataFrame, suffix: str) -> pd.DataFrame:
    columns = [name for name in pairs.columns if name not in ADDED]
    name = pairs["metric"] + f"_{suffix}"
    return pairs.assign(metric=name, value=pairs["gap"], note=pairs["gap_note"], low=np.nan, high=np.nan)[columns]


BESIDE = " + "  # between the names of devices


def several_devices(*names: str) -> str:
    """The devices that a row owes its costs to, as the column ``device`` has them; "" is one that is not known."""
    return BESIDE.join(dict.fromkeys(filter(None, names)))


def refuse_mixed_devices(values: pd.DataFrame, metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Empty what belongs to a machine wherever the rows of one dataset and scenario come from several.

    A row may come from several itself (`several_devices`): its method ran on one what it had prepared on another.
    """
    values = values.reset_index(drop=True)
    measured = values[values["metric"].isin([m.name for m in metrics.values() if m.per_machine])]
    measured = measured[measured["value"].notna()]
    for _, lines in measured.groupby(["dataset", "scenario"], sort=False):
        devices = sorted({name for text in lines["device"].unique() for name in str(text).split(BESIDE)})
        if len(devices) > 1:
            values.loc[lines.index, "value"] = np.nan
            values.loc[lines.index, "note"] = str(Empty("mixed_devices", ", ".join(devices)))
    return values
