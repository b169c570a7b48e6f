"""The split that a scenario and a split seed give."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from unlearnbench.plan.spec import Scenario, UnlearnBenchError


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
    """The split depends on the labels, the scenario and ``split_seed`` alone: it is the same for every method.

    Raises UnlearnBenchError where the scenario gives what is no forget set of these labels.
    """
    rng = np.random.default_rng([split_seed, 0x5EED])
    forget = rng.permutation(chosen(scenario, labels, rng))
    retain = rng.permutation(np.setdiff1d(np.arange(len(labels)), forget))
    return Split(forget, retain, rng.permutation(test_size), tuple(scenario.forget_classes))


def chosen(scenario: Scenario, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The positions that a scenario chooses, int64. It is handed a copy of ``labels``.

    Raises UnlearnBenchError unless they are different positions of some, but not all, of the samples and, where it
    forgets classes, of all their samples and no others.
    """
    found = np.asarray(scenario.select(labels.copy(), rng))
    if (problem := _problem(found, scenario.forget_classes, labels)) is not None:
        raise UnlearnBenchError(
            f"scenario {type(scenario).__name__}.select returned {problem}: expected different positions (whole "
            f"numbers) of some, but not all, of the {len(labels)} training samples"
        )
    return found.astype(np.int64)


def _problem(found: np.ndarray, classes: tuple[int, ...], labels: np.ndarray) -> str | None:
    """What is wrong with positions to forget, in words."""
    if found.dtype == bool:
        return "a mask (np.flatnonzero makes positions of it)"
    if found.ndim != 1 or found.dtype.kind not in "iu" or len(found) == 0:
        return f"an array of {found.dtype} {list(found.shape)}"
    outside = found[(found < 0) | (found >= len(labels))]
    of_classes = np.flatnonzero(np.isin(labels, classes))
    problems = {
        f"the position {outside[:1]}": len(outside) > 0,
        "positions that occur twice": len(np.unique(found)) < len(found),
        "every position": len(found) == len(labels),
        f"other samples than all of its forget_classes {list(classes)}": (
            len(classes) > 0 and not np.array_equal(np.sort(found), of_classes)
        ),
    }
    return next((problem for problem, there in problems.items() if there), None)
