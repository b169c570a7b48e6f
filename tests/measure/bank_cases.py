"""Statistics of many models, sample by sample: what the tests of their distributions share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]

# few distinct values: ties, empty bins and constant samples come up by themselves
statistics = hnp.arrays(np.float64, st.tuples(st.integers(2, 7), st.just(3)), elements=st.integers(-4, 4))


def column(*values: float) -> np.ndarray:
    """The statistic of one sample under as many models, ``[models, 1]``."""
    return np.array(values, dtype=np.float64)[:, None]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def library_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    labels = np.repeat([1, 0], [positive.size, negative.size])
    return float(roc_auc_score(labels, np.concatenate([positive.ravel(), negative.ravel()])))


def noise(seed: int, models: int, samples: int, apart: float = 0.0) -> np.ndarray:
    """Two banks alike, ``[2, models, samples]``; ``apart``: how far whole models lie apart."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, models, samples)) + apart * rng.normal(size=(2, models, 1))


def check_nan(compare: Compare) -> None:
    """One diverged model spoils its samples and no other."""
    p, q = np.random.default_rng(0).normal(size=(2, 9, 3))
    whole = compare(p, q)
    q[4, 1] = np.nan
    spoiled = compare(p, q)
    assert np.isnan(spoiled).tolist() == [False, True, False]
    assert np.array_equal(spoiled[[0, 2]], whole[[0, 2]])
    assert np.isnan(compare(q, p)).tolist() == [False, True, False]
