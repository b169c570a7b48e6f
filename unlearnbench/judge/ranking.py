"""Ranks of methods across blocks: Friedman's test, Nemenyi's critical difference, and what other seeds would change.

Blocks and scores are those of `inference`: a dataset and scenario is one block, its seeds are averaged first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from unlearnbench.judge.inference import ALPHA, Block, blocks
from unlearnbench.judge.stats import crossed
from unlearnbench.plan.spec import Empty, Metric


@dataclass(frozen=True)
class Ranks:
    """``table``: ranks by block (rows) and method (columns), 1 is best. ``left_out``: why others are not ranked."""

    table: pd.DataFrame
    left_out: dict[str, str]


class Friedman(NamedTuple):
    statistic: float
    p: float


def ranks(values: pd.DataFrame, metric: Metric) -> Ranks:
    """Rank the methods within each block by their scores, averaged over its runs; equal ones share the mean rank.

    A method is ranked if it has a value in every run of every block in which any method has one: others would be judged
    on other seeds than their rivals, or without the runs on which they failed. Scores that agree to seven digits are
    equal.
    """
    found, left_out = complete(values, metric)
    rows = [_ranked(scores.to_numpy().mean(axis=0)) for scores in found.values()]
    index = pd.MultiIndex.from_tuples(list(found), names=["dataset", "scenario"]) if found else None
    methods = next(iter(found.values())).columns if found else pd.Index([], name="method")
    return Ranks(pd.DataFrame(rows, index, methods, dtype=float), left_out)


def friedman(table: pd.DataFrame) -> Friedman | Empty:
    """Friedman's test that all methods rank alike, of a `Ranks` table; ``Empty("too_few")`` below 3 methods, 2 blocks.

    The p value is that of the χ² approximation, which is cautious where blocks are few: two blocks that agree about
    five methods in every place give .09. Blocks of one dataset share its originals, which the test does not know.
    """
    blocks, methods = table.shape
    if methods < 3 or blocks < 2:
        return Empty("too_few", f"{methods} methods in {blocks} block{'s' * (blocks != 1)}, 3 in 2 needed")
    if not np.ptp(table.to_numpy(), axis=1).any():  # all equal everywhere: the statistic would be 0/0
        return Friedman(0.0, 1.0)
    result = stats.friedmanchisquare(*table.to_numpy().T)
    return Friedman(float(result.statistic), float(result.pvalue))


def nemenyi_cd(methods: int, blocks: int, alpha: float = ALPHA) -> float:
    """The difference of mean ranks from which on two methods differ: q_α √(k(k + 1) / 6N) for k methods, N blocks.

    q_α is a quantile of the studentized range of k with infinitely many degrees of freedom, divided by √2 (Demšar,
    JMLR 2006; its table was checked against, the article not read). Raises ValueError for k < 2 or N < 1.
    """
    if methods < 2 or blocks < 1:
        raise ValueError(f"{methods} methods in {blocks} blocks, expected at least 2 in 1")
    q = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / 2**0.5
    return float(q * (methods * (methods + 1) / (6 * blocks)) ** 0.5)


def rank_stability(values: pd.DataFrame, metric: Metric, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """What other seeds would do to the mean ranks: runs are resampled with replacement within each block.

    By method, best first: ``mean`` rank as found, ``low`` and ``high`` ends of the 95% percentile interval over
    ``draws``, ``first`` the share of draws in which its mean rank is the lowest (methods that tie share the draw). All
    methods of a block are resampled together. A block with a single run hides its spread, and runs that share splits
    and seeds (`stats.crossed`) are not independent: all but ``mean`` is NaN then; and five runs make the interval too
    narrow. It tells of seeds alone: other datasets are what `nemenyi_cd` is about.
    """
    found, _ = complete(values, metric)
    table = pd.DataFrame({"mean": ranks(values, metric).table.mean()})
    rng = np.random.default_rng(seed)
    shared = any(crossed((split, seed) for _, split, seed in scores.index) for scores in found.values())
    if len(table) and not shared and min(map(len, found.values())) > 1:
        drawn = np.mean([_resampled(scores.to_numpy(), draws, rng) for scores in found.values()], axis=0)
        first = np.isclose(drawn, drawn.min(axis=1, keepdims=True))
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
        table = table.assign(low=low, high=high, first=(first / first.sum(axis=1, keepdims=True)).mean(axis=0))
    else:
        table = table.assign(low=np.nan, high=np.nan, first=np.nan)
    return table.sort_values("mean", kind="stable")


def _resampled(scores: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Ranks ``[draws, methods]`` of the means of resampled rows of ``scores`` ``[runs, methods]``."""
    counts = rng.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), size=draws)
    return _ranked(counts @ scores / len(scores))


def _ranked(scores: np.ndarray) -> np.ndarray:
    """Ranks along the last axis; float32, because the order of summation must not decide between equal scores."""
    return stats.rankdata(scores.astype(np.float32), axis=-1)


def complete(values: pd.DataFrame, metric: Metric) -> tuple[dict[Block, pd.DataFrame], dict[str, str]]:
    """The scores of each block, of the methods that have one in every run of every block; the others, and why not."""
    found = blocks(values, metric)
    methods = values.loc[values["role"] == "method", "method"].unique()
    left_out = {}
    for method in methods:
        missing = {
            block: int(scores[method].isna().sum()) if method in scores else len(scores)
            for block, scores in found.items()
        }
        gaps = [f"{' '.join(block)} ({n} of {len(found[block])} runs)" for block, n in missing.items() if n]
        if gaps or not found:
            left_out[str(method)] = f"without a value in {', '.join(gaps)}" if gaps else "without a value"
    kept = [method for method in methods if method not in left_out]  # in the same order in every block
    return {block: scores[kept] for block, scores in found.items()}, left_out
