"""Intervals over models: how far a number would move with other models of the same kinds, by a jackknife over groups.

Samples of one model share its training, so models are what is left out, never samples. Of each side 4 or 8 groups of
models are left out in turn. That keeps the numbers of models nearly as they are: of binned or best-attack statistics,
which fall or rise with them, a bootstrap that repeats models would centre its interval on another value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import t

from unlearnbench.plan.spec import Estimate

Replicates = list[np.ndarray]


def left_out(statistic: Callable[..., np.ndarray], *sides: np.ndarray, groups: int = 8) -> Replicates:
    """The statistic of whole ``sides``, ``[1, ...]``, then for each side ``[groups, ...]``: one of its groups left out.

    A side is ``[models, ...]``. Every ``groups``-th of its models is one group; fewer models are groups of their own.
    """
    found = [np.stack([statistic(*sides)])]
    for i, side in enumerate(sides):
        count = min(groups, len(side))
        kept = (np.arange(len(side)) % count != group for group in range(count))
        found.append(np.stack([statistic(*sides[:i], side[rest], *sides[i + 1 :]) for rest in kept]))
    return found


def estimate(replicates: Sequence[np.ndarray], low: float = -math.inf, high: float = math.inf) -> Estimate:
    """Value and 95% interval of `left_out` replicates of one number; the ends are cut to ``low`` and ``high``.

    The variance is Σ (G - 1) / G Σ (θ_g - θ̄)² over the sides, each with its G groups, t with Σ (G - 1) degrees of
    freedom. What the interval covers in simulation stands with each metric that has it.
    """
    value, *sides = replicates
    variance = sum((len(x) - 1) * float(np.var(x)) for x in sides)
    half = float(t.ppf(0.975, sum(len(x) - 1 for x in sides))) * math.sqrt(variance)
    centre = float(value[0])
    return Estimate(centre, max(low, centre - half), min(high, centre + half))
