"""Inference across seeds, blocks and suites: what a difference between methods is worth. All on `Results.values`.

A *run* is a pair of split seed and seed (of one model). A *block* is a dataset and scenario; frames of several suites
may be joined as long as their blocks differ. A *score* is what the best method has least of (`stats.with_scores`).
Distances to the oracle are taken run by run and averaged after that, so a method that scatters around the oracle does
not pass for one that meets it. Only methods compete, neither oracles nor controls.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from unlearnbench.judge.stats import KEY, crossed, with_scores
from unlearnbench.plan.spec import Metric, Tolerance

ALPHA = 0.05
RUN = ["model", "split_seed", "seed"]
EXACT_UP_TO = 16  # differences whose 2^n signs are all tried
DRAWS = 20_000  # of signs or exchanges, where there are more

Block = tuple[str, str]

# --- where the spread comes from -------------------------------------------------------------------------------------

PAIRED = "split and seed are paired: their effects cannot be told apart"
COMPONENTS = ["split_seed", "seed", "residual"]
SHARES = ["split_seed_share", "seed_share"]


def variance_components(values: pd.DataFrame) -> pd.DataFrame:
    """How much of the spread of each dataset, scenario, method and metric comes from the split, how much from the seed.

    One line each: ``split_seed``, ``seed`` and ``residual`` are standard deviations in the metric's unit,
    ``split_seed_share`` and ``seed_share`` the shares of their summed variances, ``n`` the values used. They are NaN,
    and ``note`` says why, unless several split seeds are crossed with several seeds and every run has an exact value.

    Two-way random effects without replication by the method of moments (Searle, Casella and McCulloch, Variance
    Components, 1992; not read): of a splits and b seeds, σ²_split = (MS_split - MS_residual) / b, σ²_seed =
    (MS_seed - MS_residual) / a, negative estimates set to 0. The residual holds their interaction, too. With two or
    three levels of a factor these are orders of magnitude, no more.
    """
    runs: dict[tuple[str, ...], list[tuple[tuple[int, int], float]]] = defaultdict(list)
    exact = values["value"].where(~_censored(values["note"]))
    for *key, split, seed, value in values[[*KEY, "split_seed", "seed"]].assign(value=exact).itertuples(index=False):
        runs[tuple(key)].append(((split, seed), value))
    lines = [{**dict(zip(KEY, key, strict=True)), **_components(cells)} for key, cells in runs.items()]
    return pd.DataFrame(lines, columns=[*KEY, *COMPONENTS, *SHARES, "n", "note"])


def _components(runs: list[tuple[tuple[int, int], float]]) -> dict[str, float | str]:
    known = {pair: value for pair, value in runs if not np.isnan(value)}
    result: dict[str, float | str] = dict.fromkeys([*COMPONENTS, *SHARES], np.nan)
    result |= {"n": len(known), "note": _no_design([pair for pair, _ in runs], len(known))}
    if result["note"]:
        return result
    splits, seeds = (sorted(set(levels)) for levels in zip(*known, strict=True))
    grid = np.array([[known[split, seed] for seed in seeds] for split in splits])
    variances = _two_way(grid) if np.ptp(grid) else np.zeros(3)
    result |= dict(zip(COMPONENTS, np.sqrt(variances), strict=True))
    if not variances.sum():
        return result | {"note": "all values are equal"}
    return result | dict(zip(SHARES, variances[:2] / variances.sum(), strict=True))


def _no_design(pairs: list[tuple[int, int]], known: int) -> str:
    """Why these (split seed, seed) pairs, ``known`` of them with a value, bear no crossed analysis; "" if they do."""
    splits, seeds = len({split for split, _ in pairs}), len({seed for _, seed in pairs})
    if len(set(pairs)) < len(pairs):
        return "there are several values for the same two seeds"
    if splits == seeds == 1:
        return "there is a single run"
    if len(pairs) == splits == seeds:
        return PAIRED
    if min(splits, seeds) == 1:
        return f"there is one {'split seed' if splits == 1 else 'seed'} alone: its effect cannot be seen"
    if known < splits * seeds:
        return f"the design is incomplete: {known} of {splits * seeds} runs have an exact value"
    return ""


def _two_way(grid: np.ndarray) -> np.ndarray:
    """Variances of rows, columns and residual of ``[rows, columns]``, none below 0."""
    a, b = grid.shape
    rows, columns = grid.mean(axis=1, keepdims=True), grid.mean(axis=0, keepdims=True)
    residual = np.sum((grid - rows - columns + grid.mean()) ** 2) / ((a - 1) * (b - 1))
    between = [b * rows.var(ddof=1), a * columns.var(ddof=1)]  # mean squares
    return np.maximum(0.0, [(between[0] - residual) / b, (between[1] - residual) / a, residual])


# --- what counts as no difference ------------------------------------------------------------------------------------


def equivalent(values: Iterable[float], oracle: Iterable[float], tolerance: Tolerance) -> float:
    """p of two one-sided t tests (Schuirmann 1987; not read) that the mean of ``values`` lies within ``tolerance`` of
    the mean of ``oracle``, paired by run.

    Below `ALPHA` the method is equivalent to the oracle, up to that tolerance. Tested are the differences value -
    oracle ± amount or, where the tolerance is a share of the oracle's value, value - (1 ± amount)·oracle: the larger of
    the two p counts. A pair with a NaN drops out; p is NaN for fewer than two pairs, and where the tolerance is a share
    of nothing. Differences without variance decide at once. At the tolerance a method passes in 5% of cases if its gaps
    are normal. Skewed gaps of few runs pass more often, and gaps that are 0 but for a rare failed run pass mostly,
    because few runs do not show it (benchmarks/calibration.py says how often).
    """
    pairs = np.array(list(zip(values, oracle, strict=True)), dtype=float).reshape(-1, 2)
    x, o = pairs[~np.isnan(pairs).any(axis=1)].T
    if len(x) < 2 or (tolerance.of_oracle and not o.any()):
        return np.nan
    margin = tolerance.amount * (np.abs(o) if tolerance.of_oracle else 1)
    return max(_one_sided(x - o + margin), _one_sided(o - x + margin))


def _one_sided(x: np.ndarray) -> float:
    """p of the t test that the mean of ``x`` is at most 0, against above."""
    if not np.ptp(x):
        return float(x[0] <= 0)
    return float(stats.t.sf(x.mean() / (x.std(ddof=1) / len(x) ** 0.5), len(x) - 1))


def beyond(own: Sequence[float], honest: Sequence[Sequence[float]], seed: int = 0) -> float:
    """p of a permutation test that a method lies no farther from the oracle than honest retrains do.

    ``own`` has the method's distance to the oracle in each run, ``honest`` for each run the distances of other honest
    retrains to the same oracle. Were the method's model one more honest retrain, it could change places with those of
    its run: p is the share of all such exchanges, made in each run apart, in which the mean over the runs is at least
    the method's (of `DRAWS` drawn ones, which count themselves, where there are more). That holds its level whatever
    the distribution, and however few the retrains. Methods of the same mean distance but another scatter are no honest
    retrains, and are marked in 1 to 12% of cases (benchmarks/calibration.py). A run without a retrain or with a NaN
    drops out. p is NaN where not even the largest mean of all would be below `ALPHA`.
    """
    runs = [np.array([d, *rest], dtype=float) for d, rest in zip(own, honest, strict=True)]
    runs = [run[~np.isnan(run)] for run in runs if not np.isnan(run[0])]
    runs = [run for run in runs if len(run) > 1]
    sizes = tuple(map(len, runs))
    if not runs or math.prod(sizes) * ALPHA <= 1:
        return np.nan
    chosen = _exchanges(sizes, seed)
    means = sum(run[chosen[:, i]] for i, run in enumerate(runs))
    own_sum = sum(run[0] for run in runs)
    hits = np.count_nonzero(means >= own_sum - 1e-12 * sum(np.abs(run).max() for run in runs))
    drawn = math.prod(sizes) > DRAWS
    return (hits + drawn) / (len(chosen) + drawn)


@functools.lru_cache(maxsize=64)
def _exchanges(sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """Which of its ``sizes`` distances each run takes, int ``[exchanges, runs]``: all ways, or `DRAWS` of them."""
    if math.prod(sizes) <= DRAWS:
        return np.indices(sizes).reshape(len(sizes), -1).T
    return np.random.default_rng(seed).integers(0, sizes, (DRAWS, len(sizes)))


# --- methods against each other, within a block ----------------------------------------------------------------------


def sign_flip(differences: Iterable[float], seed: int = 0) -> float:
    """Two-sided p that paired ``differences`` lie symmetrically about 0, by the absolute value of their mean.

    All 2^n signs are tried up to n = 16 (Fisher's randomisation test: the smallest p is 2/2^n), else 20,000 drawn ones
    that count themselves, p = (1 + hits) / (1 + draws), so that it is never 0 (Phipson and Smyth 2010; not read).
    """
    d = np.array(list(differences), dtype=float)
    if len(d) <= EXACT_UP_TO:
        signs, own = _all_signs(len(d)), 0
    else:
        signs, own = np.random.default_rng(seed).choice([-1.0, 1.0], (DRAWS, len(d))), 1
    at_least = abs(d.sum()) - 1e-12 * np.abs(d).sum()  # sums of the same numbers in another order are as large
    hits = np.count_nonzero(np.abs(signs @ d) >= at_least)
    return (hits + own) / (len(signs) + own)


@functools.cache
def _all_signs(n: int) -> np.ndarray:
    return 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)


def holm(p: Sequence[float], m: int) -> np.ndarray:
    """Holm's (1979; not read) step-down correction of ``p`` ``[k]``, some or all of ``m`` p values; same order.

    The j-th smallest is multiplied by m - j + 1; none is above 1, or below one that was smaller before.
    """
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[order] * (m - np.arange(len(p)))))
    return corrected


def bearable(n: int) -> int:
    """How many comparisons n pairs bear: the most that leave the smallest p of `sign_flip`, times them, below `ALPHA`.

    6 for n = 8, 25 for 10, 102 for 12; none for n = 5, whose smallest p is .0625.
    """
    smallest = 2.0 ** (1 - n) if n <= EXACT_UP_TO else 1 / (DRAWS + 1)
    return int(np.ceil(ALPHA / smallest)) - 1


def paired_tests(values: pd.DataFrame, metric: Metric, against: str | None = None, seed: int = 0) -> pd.DataFrame:
    """Each method against the best of its block: does it score worse, run by run?

    One line per dataset, scenario and method: ``best`` is the method with the lowest mean score of those with a value
    in every run of the block, ``n`` the runs that both have, ``difference`` the mean score of the method minus the
    best's, ``p`` that of `sign_flip`, ``p_holm`` the same corrected within the block. Where n runs do not bear the
    comparisons (`bearable`), or are not independent (`stats.crossed`), there is no p, and ``note`` says so.

    The best is chosen by the very values that are tested, so every pair of methods counts as a comparison, k(k - 1)/2:
    corrected for k - 1 alone, seven equal methods of ten runs show a difference in 10% of all blocks instead of 5%. A
    method named beforehand, ``against``, takes the place of the best and leaves k - 1 comparisons.
    """
    columns = ["dataset", "scenario", "metric", "best", "method", "n", "difference", "p", "p_holm", "note"]
    lines = []
    for (dataset, scenario), scores in blocks(values, metric).items():
        complete = scores.columns[scores.notna().all()]
        best = against or (str(scores[complete].mean().idxmin()) if len(complete) else "")
        shared = {"dataset": dataset, "scenario": scenario, "metric": metric.name, "best": best}
        lines += [{**shared, **line} for line in _against(scores, best, bool(against), seed)]
    return pd.DataFrame(lines, columns=columns)


def _against(scores: pd.DataFrame, best: str, planned: bool, seed: int) -> list[dict[str, float | str]]:
    k = len(scores.columns)
    m = k - 1 if planned else k * (k - 1) // 2
    lines: list[dict[str, float | str]] = []
    for method in scores.columns.drop(best, errors="ignore"):
        line: dict[str, float | str] = {"method": method, "n": 0, "note": "", "p": np.nan, "p_holm": np.nan}
        lines.append(line)
        if best not in scores:
            line["note"] = "the method to compare with has no value" if best else "no method has a value in every run"
            continue
        differences = (scores[method] - scores[best]).dropna()
        n = len(differences)
        line |= {"n": n, "difference": differences.mean()}
        if crossed((split, seed) for _, split, seed in differences.index):
            line["note"] = "no test: runs that share splits and seeds are not independent"
        elif bearable(n) < m:
            line["note"] = f"too few seeds to test: {n} allow {bearable(n)} of {m} comparisons"
        else:
            line["p"] = sign_flip(differences, seed)
    tested = [line for line in lines if not line["note"]]
    for line, p in zip(tested, holm([float(line["p"]) for line in tested], m), strict=True):
        line["p_holm"] = float(p)
    return lines


# --- blocks -----------------------------------------------------------------------------------------------------------


def blocks(values: pd.DataFrame, metric: Metric) -> dict[Block, pd.DataFrame]:
    """Scores of methods (columns) by run (rows) of each block, NaN where there is none. Order is that of ``values``.

    Runs in which no method has a value, and blocks without such runs, are not there. Raises ValueError where a method
    has several values in one run.
    """
    lines = with_scores(values, {metric.name: metric})
    lines = lines[(lines["role"] == "method") & lines["score"].notna()]
    twice = lines.duplicated(["dataset", "scenario", "method", *RUN])
    if twice.any():
        line = lines[twice].iloc[0]
        raise ValueError(f"several values of {line['method']} in one run of {line['dataset']} {line['scenario']}")
    return {
        (str(dataset), str(scenario)): rows.pivot(index=RUN, columns="method", values="score")[rows["method"].unique()]
        for (dataset, scenario), rows in lines.groupby(["dataset", "scenario"], sort=False)
    }


def _censored(notes: pd.Series) -> pd.Series:
    return notes.fillna("").astype(str).str.startswith(">")


# --- cost against gap ------------------------------------------------------------------------------------------------


def pareto(points: np.ndarray) -> np.ndarray:
    """Which of ``points`` ``[n, 2]``, (cost, gap), both low, no other beats: bool ``[n]``.

    A point is beaten by one that is nowhere higher and somewhere lower, so equal points stay together. A point with a
    NaN neither stays nor beats.
    """
    x = np.asarray(points, dtype=float).reshape(-1, 2)
    nowhere_higher = (x[:, None] <= x).all(axis=2)
    somewhere_lower = (x[:, None] < x).any(axis=2)
    return ~(nowhere_higher & somewhere_lower).any(axis=0) & ~np.isnan(x).any(axis=1)
