"""What a dataset gives: images and labels as checked numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlearnbench.plan.spec import UnlearnBenchError


@dataclass(frozen=True, eq=False)
class Arrays:
    """A dataset in memory: images uint8 ``[N, C, H, W]``, labels int64 ``[N]`` in ``0 … num_classes - 1``.

    ``mean``, ``std``: of each channel, on the 0..1 scale. ``superclass``: int64 ``[num_classes]``, CIFAR-100 only.
    ``source``: where it was found. ``fingerprint``: of the whole dataset, whatever the limits; `datasets.load` fills it
    in.
    Raises UnlearnBenchError if anything is not so.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    superclass: np.ndarray | None
    source: str
    fingerprint: str = ""

    def __post_init__(self) -> None:
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            if x.dtype != np.uint8 or x.ndim != 4 or x.size == 0 or x.shape[1] not in (1, 3):
                self._refuse(f"x_{split} is {x.dtype} {list(x.shape)}, expected uint8 images with 1 or 3 channels")
            if x.shape[1:] != self.x_train.shape[1:]:
                self._refuse(f"images are {list(self.x_train.shape[1:])} in x_train but {list(x.shape[1:])} in x_test")
            if y.dtype != np.int64 or y.shape != x.shape[:1]:
                self._refuse(
                    f"y_{split} is {y.dtype} {list(y.shape)}, expected integers, one for each of {len(x)} images"
                )
            if y.min() < 0 or y.max() >= min(self.num_classes, 65536):
                self._refuse(
                    f"y_{split} has labels {y.min()} to {y.max()}, expected 0 to {self.num_classes - 1}, no gaps"
                )
        if not len(self.mean) == len(self.std) == self.x_train.shape[1] or min(self.std) <= 0:
            self._refuse(f"mean {self.mean} and std {self.std} must have a number for each channel, std above 0")
        if self.superclass is not None and self.superclass.shape != (self.num_classes,):
            self._refuse(f"superclass is {list(self.superclass.shape)}, expected [{self.num_classes}]")

    def _refuse(self, problem: str) -> None:
        raise UnlearnBenchError(f"{self.source} is not a usable dataset: {problem}")
