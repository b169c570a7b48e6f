"""What a method is handed: the data it declared, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Counter, Data, Samples, augmentation, derive_seed, generator
from unlearnbench.plan.cells import Cell, Recipe
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Access, AccessDenied, UnlearnBenchError
from unlearnbench.training.cost import count_work
from unlearnbench.training.loop import train
from unlearnbench.training.models import Classifier, build_model

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Task:
    """One unlearning request as a method sees it.

    ``forget``, ``retain`` and ``validation`` are `Samples`; what the method's ``needs`` do not declare is not in the
    object at all, and asking for it raises AccessDenied. Without ``Access.LABELS`` samples carry no labels. There is no
    test set. ``training`` (`Samples`, in the order of the dataset) and ``forgotten`` (bool ``[N]``, which of it are to
    be forgotten) are there for ``Access.TRAINING``. ``prepared`` is what the method's ``prepare`` returned.
    ``input_shape`` is (channels, height, width) of an image. ``counter`` counts what is handed out.
    """

    def __init__(
        self, sets: dict[str, Any], fresh: Callable[[int], Classifier], recipe: Recipe, *, seed: int,
        num_classes: int, input_shape: tuple[int, int, int], forget_classes: tuple[int, ...], device: torch.device,
        counter: Counter,
    ) -> None:  # fmt: skip
        self._sets, self._fresh, self._seed = sets, fresh, seed
        self.recipe, self.num_classes, self.forget_classes = recipe, num_classes, forget_classes
        self.input_shape, self.device, self.counter = input_shape, device, counter
        self.prepared: nn.Module | None = None

    @staticmethod
    def of(
        cell: Cell, data: Data, split: Split, needs: Access, counter: Counter, records: Mapping[str, Any] = NOTHING
    ) -> Task:
        """The task of a cell. Sets are copies of what was declared: no view leads back to the whole dataset, and what a
        method writes into them no other cell sees.

        ``records`` are those of `originals.keep`, for the methods that declare them.
        """
        augment = augmentation(cell.recipe)

        def samples(name: str, x: Tensor, y: Tensor) -> Samples:
            return Samples(x, y if Access.LABELS in needs else None, derive_seed(cell.seed, name), augment, counter)

        def part(name: str, positions: Tensor) -> Samples:
            return samples(name, data.x_train[positions], data.y_train[positions])

        sets: dict[str, Any] = dict(records)
        if Access.FORGET in needs:
            sets["forget"] = part("forget", torch.from_numpy(split.forget).to(data.x_train.device))
        if Access.RETAIN in needs:
            sets["retain"] = part("retain", torch.from_numpy(split.retain).to(data.x_train.device))
        if Access.VALIDATION in needs:
            sets["validation"] = samples("validation", data.x_validation.clone(), data.y_validation.clone())
        if Access.TRAINING in needs:
            sets["training"] = samples("training", data.x_train.clone(), data.y_train.clone())
            sets["forgotten"] = torch.zeros(len(data.x_train), dtype=torch.bool, device=data.x_train.device)
            sets["forgotten"][torch.from_numpy(split.forget)] = True
        model = build("models", cell.model.name, cell.model.params)
        shape, num_classes, device = data.input_shape, data.num_classes, data.x_train.device

        def fresh(seed: int) -> Classifier:
            return build_model(model, shape, num_classes, seed).to(device)

        return Task(
            sets, fresh, cell.recipe, seed=cell.seed, num_classes=num_classes, input_shape=shape,
            forget_classes=split.forget_classes, device=device, counter=counter,
        )  # fmt: skip

    @property
    def forget(self) -> Samples:
        return self._granted("forget")

    @property
    def retain(self) -> Samples:
        return self._granted("retain")

    @property
    def validation(self) -> Samples:
        """Raises UnlearnBenchError where the dataset keeps none."""
        held: Samples = self._granted("validation")
        if not len(held):
            raise UnlearnBenchError("the method needs a validation share: set the dataset's validation above 0")
        return held

    @property
    def training(self) -> Samples:
        return self._granted("training")

    @property
    def forgotten(self) -> Tensor:
        return self._granted("forgotten", Access.TRAINING)

    @property
    def log(self) -> dict[str, Tensor]:
        """Of each parameter and buffer, by name, the sum of what the original's training steps on batches that held a
        forget sample added to it."""
        return self._granted("log")

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Means ``[classes, features]`` and covariances ``[classes, features, features]`` of the original's
        representations of the training images of each class."""
        return self._granted("statistics")

    def surrogate(self, name: str, count: int) -> Samples:
        """``count`` images without labels, of the shape of the dataset's: of another registered dataset, or ``"noise"``
        (see `originals.surrogates`)."""
        return self._granted("surrogate")(name, count)

    def initial_model(self) -> Classifier:
        """The original as it was before its training."""
        model = self._fresh(self._granted("initial_seed", Access.INIT))
        count_work(model, self.counter)
        return model

    def request(self, forget: Samples, retain: Samples) -> Task:
        """A part of this request: other sets to forget and to retain, all else as here."""
        part = copy(self)
        part._sets = {**self._sets, "forget": forget, "retain": retain}
        return part

    def _granted(self, name: str, need: Access | None = None) -> Any:
        if name not in self._sets:
            wanted = (need or Access[name.upper()]).name
            raise AccessDenied(f"the method used task.{name} but does not declare it: add Access.{wanted} to its needs")
        return self._sets[name]

    def generator(self, purpose: str) -> torch.Generator:
        """A generator on the task's device, derived from the seed and ``purpose`` alone."""
        return generator(self._seed, f"method {purpose}", self.device)

    def fresh_model(self, purpose: str = "fresh model") -> Classifier:
        """The cell's architecture with new weights that depend on the seed and ``purpose``; its gradients count."""
        model = self._fresh(derive_seed(self._seed, purpose))
        count_work(model, self.counter)
        return model

    def train(self, model: nn.Module, samples: Samples) -> nn.Module:
        """Train ``model`` in place with the original's recipe. Raises training.Diverged."""
        return train(model, samples, self.recipe)
