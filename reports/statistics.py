"""What the numbers are worth: controls, noise floor, ranks, tests and variance components, as tables."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from unlearnbench.judge.floor import by_run, has_floor
from unlearnbench.judge.inference import beyond, equivalent, paired_tests, variance_components
from unlearnbench.judge.ranking import rank_stability, ranks
from unlearnbench.judge.results import Results
from unlearnbench.judge.stats import crossed, with_scores
from unlearnbench.judge.validation import COLUMNS, DOUBTED, ORDER, overall
from unlearnbench.plan.cards import tolerance_in_words
from unlearnbench.plan.spec import Metric

MARKS = {"fail": "FAIL"}  # what stands out


def inference_tables(results: Results) -> dict[str, pd.DataFrame]:
    """Tidy tables by name: ``controls`` (metric x control), ``gaps`` (tolerances, noise floors and the tests of each
    method), ``ranks``, ``tests`` and ``variance``."""
    metric = ranking_metric(results)
    return {
        "controls": results.controls,
        "gaps": gaps(results),
        "ranks": pd.DataFrame() if metric is None else _ranks(ranking_values(results, metric), metric),
        "tests": pd.DataFrame() if metric is None else paired_tests(ranking_values(results, metric), metric),
        "variance": variance_components(results.comparable),
    }


GAP_COLUMNS = [
    "dataset", "scenario", "method", "metric", "n", "gap", "tolerance", "p_equivalent",
    "distance", "floor", "floor_low", "floor_high", "models", "p_beyond",
]  # fmt: skip


@functools.lru_cache(maxsize=1)  # every file of a report marks it
def gaps(results: Results) -> pd.DataFrame:
    """What is known of each method's distance to the oracle, by metric (`GAP_COLUMNS`), over ``n`` runs.

    ``gap`` is the mean signed gap, ``p_equivalent`` the p value of the claim that it lies within the ``tolerance``
    (`inference.equivalent`). ``distance`` is the mean absolute gap, or the mean of a metric that is a distance itself;
    ``floor`` is the same of honest retrains (`floor.floors`), and ``p_beyond`` the p value of the claim that the method
    lies farther away than they do (`inference.beyond`). There is no p where a value is a lower bound, or runs are not
    independent.
    """
    metrics = {name: metric for name, metric in results.metrics.items() if has_floor(metric)}
    scored = with_scores(results.comparable, metrics)
    known = {(d, s, m): rest for d, s, m, *rest in results.floors.itertuples(index=False, name=None)}
    retrains = by_run(results.honest, controls=True)
    lines = []
    for (dataset, scenario, method, name), rows in scored[scored["role"] != "oracle"].groupby(
        GAP_COLUMNS[:4], sort=False
    ):
        place, metric = (str(dataset), str(scenario), str(name)), metrics[str(name)]
        runs = list(zip(rows["split_seed"], rows["seed"], strict=True))
        sign = -1 if metric.better == "high" else 1
        floor, low, high, _, models = known.get(place, NO_FLOOR)
        line = dict.fromkeys(GAP_COLUMNS, np.nan) | dict(zip(GAP_COLUMNS, (*place[:2], method, name), strict=False))
        line |= {"n": int(rows["score"].notna().sum()), "distance": sign * rows["score"].mean(), "models": models}
        line |= {"floor": floor, "floor_low": low, "floor_high": high}
        exact = not rows["note"].str.startswith(">").any()
        testable = exact and not crossed(runs)
        if not metric.relative:
            line["gap"] = rows["gap"].mean() if exact else np.nan
            if metric.tolerance:
                line["tolerance"] = tolerance_in_words(metric)
                if testable:
                    line["p_equivalent"] = equivalent(rows["value"], rows["oracle"], metric.tolerance)
        if testable and rows["stands_for"].iloc[0] != "retrained":  # these are the ones that it is held against
            others = retrains.get(place, {})
            line["p_beyond"] = beyond(rows["score"].to_list(), [others.get(run, []) for run in runs])
        lines.append(line)
    return pd.DataFrame(lines, columns=GAP_COLUMNS)


NO_FLOOR = (np.nan, np.nan, np.nan, 0, 0)


def ranking_metric(results: Results) -> Metric | None:
    """The metric that methods are ranked by: the first of the headline that is a distance to the oracle."""
    headline = (results.metrics[name] for name in results.headline)
    return next((m for m in headline if m.family == "oracle-distance"), None)


def ranking_values(results: Results, metric: Metric) -> pd.DataFrame:
    """The values without those scenarios in which the controls speak against the metric."""
    verdicts = overall(results.controls)
    failed = verdicts[verdicts["verdict"].isin(DOUBTED) & (verdicts["metric"] == metric.name)]
    keys = set(zip(failed["dataset"], failed["scenario"], strict=True))
    values = results.comparable
    kept = [pair not in keys for pair in zip(values["dataset"], values["scenario"], strict=True)]
    return values[np.array(kept, dtype=bool)]


def _ranks(values: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    left_out = ranks(values, metric).left_out
    table = rank_stability(values, metric).rename_axis("method").reset_index().assign(metric=metric.name, note="")
    absent = pd.DataFrame({"method": list(left_out), "metric": metric.name, "note": list(left_out.values())})
    return pd.concat([table, absent], ignore_index=True)


def _worst(verdicts: pd.Series) -> str:
    worst = min(verdicts, key=ORDER.__getitem__)
    return MARKS.get(worst, worst)


def control_table(results: Results) -> pd.DataFrame:
    """Metric x control of the headline: one line per dataset, scenario and metric, a column per control, and why."""
    verdicts = results.controls
    verdicts = verdicts[verdicts["metric"].isin(results.headline)]
    if verdicts.empty:
        return pd.DataFrame(columns=["dataset", "scenario", "metric", "verdict", "reason"])
    wide = verdicts.pivot_table(
        index=["dataset", "scenario", "metric"], columns="control", sort=False,
        values="verdict", aggfunc=_worst,
    )  # fmt: skip
    wide = wide[[name for name in results.values["method"].unique() if name in wide.columns]]
    wide = wide.rename(columns=lambda name: f"{name} (control)" if name in COLUMNS else name)  # names are anybody's
    joined = overall(verdicts).set_index(["dataset", "scenario", "metric"]).join(wide).replace(np.nan, "")
    return joined[[*wide.columns, "verdict", "reason"]].reset_index()
