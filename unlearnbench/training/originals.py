"""Originals: what they are trained from, what is kept of that training, and handed to the methods that declare it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data import datasets
from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Counter, Data, Samples, augmentation, derive_seed, forked, generator
from unlearnbench.plan.cells import Cell
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Access, UnlearnBenchError
from unlearnbench.training.loop import chunks, train
from unlearnbench.training.models import Classifier, build_model

Log = dict[str, Tensor]


def fresh_network(cell: Cell, data: Data, seed: int) -> Classifier:
    """A network of the cell's architecture, on the data's device, with new weights that depend on ``seed``."""
    model = build("models", cell.model.name, cell.model.params)
    return build_model(model, data.input_shape, data.num_classes, seed).to(data.x_train.device)


def initial_seed(cell: Cell, seen: np.ndarray | None = None) -> int:
    """The seed of the weights of an original or, trained on the positions ``seen`` alone, of a model of a bank."""
    return derive_seed(cell.seed, "original" if seen is None else "oracle")


def trainee(cell: Cell, data: Data, seen: np.ndarray | None, counter: Counter) -> tuple[Classifier, Samples]:
    """A fresh network and the samples that make it an original or, with the positions ``seen`` alone, an oracle or a
    shadow of the bank."""
    seed = initial_seed(cell, seen)
    x, y = data.x_train, data.y_train
    if seen is not None:
        index = torch.from_numpy(seen).to(x.device)
        x, y = x[index], y[index]
    return fresh_network(cell, data, seed), Samples(x, y, seed, augmentation(cell.recipe), counter)


# --- what is kept of a training --------------------------------------------------------------------------------------


def keep(
    needs: Access, cell: Cell, data: Data, split: Split, original: Any, seen: np.ndarray | None,
    cached: Callable[[Callable[[], Log]], Log],
) -> dict[str, Any]:  # fmt: skip
    """What the task holds for ``needs`` beside the sets of the request. ``cached`` gives a log that was made before."""
    records: dict[str, Any] = {}
    if Access.INIT in needs:
        records["initial_seed"] = initial_seed(cell, seen)
    if Access.LOG in needs:
        records["log"] = cached(lambda: training_log(cell, data, split, seen))
    if Access.STATISTICS in needs:
        records["statistics"] = class_statistics(original, data, seen)
    if Access.SURROGATE in needs:
        records["surrogate"] = surrogates(cell, data)
    return records


class _Watched:
    """Samples whose batches are watched: what the steps on those that hold a marked sample add to the model. Of steps
    that follow one another the sum is what lies between the first and the last."""

    def __init__(self, samples: Samples, marked: Tensor, model: nn.Module) -> None:
        self._samples, self._marked, self._model = samples, marked, model
        self.device = samples.device
        self.log = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}

    def __len__(self) -> int:
        return len(self._samples)

    def batches(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        before: Log = {}
        for x, y, marked in self._samples.batches(size, extra=(self._marked,)):
            watched = bool(marked.any())
            if watched and not before:
                before = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
            elif before and not watched:
                self._note(before)
                before = {}
            yield x, y  # the training comes back here when it has made its step
        self._note(before)

    def _note(self, before: Log) -> None:
        after = self._model.state_dict()
        for name, tensor in before.items():
            self.log[name] += after[name] - tensor


def training_log(cell: Cell, data: Data, split: Split, seen: np.ndarray | None = None) -> Log:
    """Of each parameter and buffer the sum of what the training steps on batches with a forget sample added to it.

    Whoever keeps such a record writes it while the original trains (Graves et al. 2021, 2010.10981); here that training
    is run once more, step by step the same.
    """
    model, samples = trainee(cell, data, seen, Counter())
    positions = np.arange(len(data.x_train)) if seen is None else seen
    watched = _Watched(samples, torch.from_numpy(np.isin(positions, split.forget)).to(samples.device), model)
    with forked(samples.device):
        torch.manual_seed(derive_seed(cell.seed, "original dropout"))
        train(model, watched, cell.recipe)  # type: ignore[arg-type]
    return watched.log


@torch.no_grad()
def class_statistics(original: Classifier, data: Data, seen: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Means ``[classes, features]`` and unbiased covariances ``[classes, features, features]``, by class, of the
    representations of the images the original was trained on; a class with one image has covariance 0."""
    index = torch.arange(len(data.x_train)) if seen is None else torch.from_numpy(seen)
    x, y = data.x_train[index], data.y_train[index]
    features = torch.cat([original.encode(part).flatten(1) for part in chunks(x)])
    means, covariances = [], []
    for c in range(data.num_classes):
        own = features[y == c]
        centred = own - own.mean(0)
        means.append(own.mean(0))
        covariances.append(centred.T @ centred / max(1, len(own) - 1))
    return torch.stack(means), torch.stack(covariances)


def surrogates(cell: Cell, data: Data) -> Callable[[str, int], Samples]:
    """Gives, by name, images ``[count, C, H, W]`` without labels: standard normal ``"noise"``, or training images of
    another registered dataset, its own mean and deviation taken out, resized bilinearly, grey where channels differ.

    What it gives raises UnlearnBenchError for the cell's own dataset.
    """
    shape, device, own, root, seed = data.input_shape, data.x_train.device, cell.dataset.name, data.root, cell.seed

    def give(name: str, count: int) -> Samples:
        if name == "noise":
            x = torch.randn(count, *shape, generator=generator(seed, "surrogate", device), device=device)
        elif name == own or root is None:
            raise UnlearnBenchError(f"surrogate images from '{name}': expected 'noise' or a dataset other than '{own}'")
        else:
            arrays = datasets.load(build("datasets", name, {"limit_train": count}), root)
            x = F.interpolate(Data.of(arrays, 0.0, device).x_train, shape[1:], mode="bilinear", align_corners=False)
            x = x if x.shape[1] == shape[0] else x.mean(1, keepdim=True).repeat(1, shape[0], 1, 1)
        return Samples(x, None, derive_seed(seed, "surrogate"), None, Counter())

    return give
