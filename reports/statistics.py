"""What the numbers are worth: controls, noise floor, ranks, tests and variance components, as tables."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from unlearnbench.judge.inference import equivalent, paired_tests, variance_components
from unlearnbench.judge.ranking import rank_stability, ranks
from unlearnbench.judge.results import Results
from unlearnbench.judge.stats import crossed, paired_gaps
from unlearnbench.judge.validation import COLUMNS, ORDER, overall
from unlearnbench.plan.spec import Metric

MARKS = {"pass": "pass", "fail": "FAIL", "uninformative": "uninformative"}


def statistics(results: Results) -> dict[str, pd.DataFrame]:
    """Tidy tables by name: ``controls`` (metric x control), ``equivalence`` (the noise floors and the test of each
    method), ``ranks``, ``tests`` and ``variance``."""
    metric = ranking_metric(results)
    return {
        "controls": results.controls,
        "equivalence": equivalence(results),
        "ranks": pd.DataFrame() if metric is None else _ranks(ranking_values(results, metric), metric),
        "tests": pd.DataFrame() if metric is None else paired_tests(ranking_values(results, metric), metric),
        "variance": variance_components(results.values),
    }


@functools.lru_cache(maxsize=1)  # every file of a report marks it
def equivalence(results: Results) -> pd.DataFrame:
    """Of each method and metric with a gap: the noise ``floor``, the ``pairs`` of retrains behind it, and the p value
    of the claim that the mean gap lies within it; none where a gap is a lower bound, or runs are not independent."""
    gaps = paired_gaps(results.values, results.metrics)
    gaps["censored"] = gaps["note"].fillna("").str.startswith(">")
    known = {line[:3]: line[3:5] for line in results.floors.itertuples(index=False, name=None)}
    columns = ["dataset", "scenario", "method", "metric", "floor", "pairs", "p"]
    lines = []
    for (dataset, scenario, method, name), rows in gaps.groupby(columns[:4], sort=False):
        place = (dataset, scenario, str(name).removesuffix("_gap"))
        if place in known and rows["role"].iloc[0] != "oracle":
            floor, pairs = known[place]
            unknown = rows["censored"].any() or crossed(zip(rows["split_seed"], rows["seed"], strict=True))
            p = np.nan if unknown else equivalent(rows["value"], floor)
            lines.append([dataset, scenario, method, place[2], floor, int(pairs), p])
    return pd.DataFrame(lines, columns=columns)


def ranking_metric(results: Results) -> Metric | None:
    """The metric that methods are ranked by: the first of the headline that is a distance to the oracle."""
    headline = (results.metrics[name] for name in results.headline)
    return next((m for m in headline if m.family == "oracle-distance"), None)


def ranking_values(results: Results, metric: Metric) -> pd.DataFrame:
    """The values without those scenarios in which the metric does not pass its controls."""
    verdicts = overall(results.controls)
    failed = verdicts[(verdicts["verdict"] != "pass") & (verdicts["metric"] == metric.name)]
    keys = set(zip(failed["dataset"], failed["scenario"], strict=True))
    kept = [pair not in keys for pair in zip(results.values["dataset"], results.values["scenario"], strict=True)]
    return results.values[np.array(kept, dtype=bool)]


def _ranks(values: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    left_out = ranks(values, metric).left_out
    table = rank_stability(values, metric).rename_axis("method").reset_index().assign(metric=metric.name, note="")
    absent = pd.DataFrame({"method": list(left_out), "metric": metric.name, "note": list(left_out.values())})
    return pd.concat([table, absent], ignore_index=True)


def control_table(results: Results) -> pd.DataFrame:
    """Metric x control of the headline: one line per dataset, scenario and metric, a column per control, and why."""
    verdicts = results.controls
    verdicts = verdicts[verdicts["metric"].isin(results.headline)]
    if verdicts.empty:
        return pd.DataFrame(columns=["dataset", "scenario", "metric", "verdict", "reason"])
    wide = verdicts.pivot_table(
        index=["dataset", "scenario", "metric"], columns="control", sort=False,
        values="verdict", aggfunc=lambda found: MARKS[min(found, key=ORDER.__getitem__)],
    )  # fmt: skip
    wide = wide[[name for name in results.values["method"].unique() if name in wide.columns]]
    wide = wide.rename(columns=lambda name: f"{name} (control)" if name in COLUMNS else name)  # names are anybody's
    joined = overall(verdicts).set_index(["dataset", "scenario", "metric"]).join(wide).replace(np.nan, "")
    return joined[[*wide.columns, "verdict", "reason"]].reset_index()
