"""The split that a scenario and a split seed give."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from unlearnbench.plan.spec import Scenario


@dataclass(frozen=True)
class Split:
    """Positions (int64) in the training and the test set. The order of each is a uniform random permutation, so that
    any prefix is a uniform sample: the first ``|forget|`` of ``retain`` are CaMU's ``D_s``."""

    forget: np.ndarray
    retain: np.ndarray
    test: np.ndarray
    forget_classes: tuple[int, ...]

    @property
    def sha256(self) -> str:
        """Hash of the forget set as sorted little-endian int64: two laboratories forgot the same samples."""
        return hashlib.sha256(np.sort(self.forget).astype("<i8").tobytes()).hexdigest()


def make_split(scenario: Scenario, labels: np.ndarray, test_size: int, split_seed: int) -> Split:
    """The split depends on the labels, the scenario and ``split_seed`` alone: it is the same for every method."""
    rng = np.random.default_rng([split_seed, 0x5EED])
    forget = rng.permutation(scenario.select(labels, rng))
    retain = rng.permutation(np.setdiff1d(np.arange(len(labels)), forget))
    return Split(forget, retain, rng.permutation(test_size), tuple(scenario.forget_classes))
