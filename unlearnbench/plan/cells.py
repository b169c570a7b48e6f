"""What is run and what is stored: plugins with their parameters, recipe, probe, cells and rows, and how each is hashed.

A *cell* is (dataset, model, recipe, scenario, method, split seed, seed). Running it gives a *row* of evidence.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from unlearnbench.plan.spec import Checked, Configured, Count, Fraction, NonNegative, Positive

TRAINING_VERSION = 1  # raise it when training/ changes the numbers of an original or an oracle
EVIDENCE_VERSION = 2  # raise it when measure/probes.py changes what a row holds


@dataclass(frozen=True)
class Plugin(Checked):
    """A plugin by name with its complete parameters: what is hashed and stored, and enough to build it again."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    version: int | str = 1

    @classmethod
    def of(cls, name: str, instance: Configured) -> Plugin:
        return cls(name, dataclasses.asdict(instance), instance.identity())


@dataclass(frozen=True)
class Recipe(Configured):
    """How originals and oracles are trained. Data, not code: `recipes.RECIPES` names the ready ones."""

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: Positive = 1e-3
    momentum: Fraction = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 1e-4
    batch_size: Count = 32
    epochs: Count = 20
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    augment: Literal["none", "crop_flip", "resized_crop_flip"] = "none"
    image_size: Count | None = None  # what resized_crop_flip resizes to; None: the dataset's own size
    label_smoothing: Fraction = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")


@dataclass(frozen=True)
class Probe(Configured):
    """How a model in hand is examined: everything that changes a number in the evidence."""

    relearn_every: Count = 100  # updates between two points of the relearning curve
    relearn_points: Count | None = None  # points of the curve; None: one epoch over the retain set, at least 12
    relearn_lr: Positive = 1e-3  # Adam, weight decay 1e-4, batch 32, of the curve
    relearn_frozen_norm: bool = False  # CaMU's code: eval mode, so frozen BatchNorm, after the curve's first point
    relearn_cap: Count = 1000  # updates after which `relearn_steps` and `ain` are censored
    relearn_epochs: Count = 100  # epochs of 500 draws after which `relearn_golatkar` is censored
    panel: Count = 500  # samples of D_f, and as many of D_r, whose representations are kept
    augmented: bool = False  # CaMU's code: measure train-side sets on augmented images


# --- cells and rows --------------------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """24 hex digits of the SHA-256 of ``value`` as canonical JSON. Raises ValueError on NaN and infinities."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Cell(Checked):
    """One measurement. ``split_seed`` chooses the forget set; ``seed`` initialisation, order and the method's draws."""

    dataset: Plugin
    model: Plugin
    recipe: Recipe
    scenario: Plugin
    method: Plugin
    split_seed: int
    seed: int
    probe: Probe = Probe()
    quick: bool = False

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def _digest(self, *names: str) -> str:
        d = self.as_dict()
        return digest([TRAINING_VERSION, *(d[name] for name in names)])

    @functools.cached_property
    def key(self) -> str:
        """Names the row: everything that changes a number in it."""
        half = ["methods too"] if self.recipe.precision == "bfloat16" else []  # once they ran in float32 all the same
        return digest([TRAINING_VERSION, EVIDENCE_VERSION, self.as_dict(), *half])

    @functools.cached_property
    def original_key(self) -> str:
        return self._digest("dataset", "model", "recipe", "seed")

    @functools.cached_property
    def untrained_key(self) -> str:
        """Names a network of the cell's architecture with random weights."""
        return self._digest("dataset", "model", "seed")

    @functools.cached_property
    def oracle_key(self) -> str:
        """Names a model of the oracle bank: retrained on the retain set of this split."""
        return self._digest("dataset", "model", "recipe", "seed", "scenario", "split_seed")

    @functools.cached_property
    def bank_key(self) -> str:
        """Cells of one bank share everything that an oracle depends on but its seed."""
        return self._digest("dataset", "model", "recipe", "scenario", "split_seed")

    @functools.cached_property
    def prepared_key(self) -> str:
        """Names what the method prepared; for the oracle that is the retrained model itself."""
        return self._digest("dataset", "model", "recipe", "seed", "scenario", "split_seed", "method")

    @functools.cached_property
    def own_original_key(self) -> str:
        """Names the original that the method brought itself: the same for every forget set."""
        return self._digest("dataset", "model", "recipe", "seed", "method")

    def log_key(self, whole: bool) -> str:
        """Names what was recorded of a training: of the original, or of a shadow's, which did not see all of D."""
        return digest([self.original_key, self.split_key, "log by runs" if whole else "log by runs of a shadow"])

    @functools.cached_property
    def split_key(self) -> str:
        """Names the stored split: the same samples for every method."""
        return self._digest("dataset", "scenario", "split_seed")

    @functools.cached_property
    def group(self) -> str:
        """Rows of one group share dataset, scenario, seeds and all settings: they differ in the method alone."""
        d = self.as_dict()
        del d["method"]
        return digest(d)

    @functools.cached_property
    def split_group(self) -> str:
        """Rows of one split group differ in method and seed alone."""
        d = self.as_dict()
        del d["method"], d["seed"]
        return digest(d)


Status = Literal["started", "ok", "failed", "n/a"]


@dataclass(frozen=True)
class Row(Checked):
    """What is stored of a cell. ``cost`` and ``scalars`` map names to numbers or None; the rest is in the evidence."""

    key: str
    cell: Cell
    status: Status
    reason: str = ""  # why it is n/a, or the traceback of a failure
    cost: Mapping[str, float | None] = field(default_factory=dict)
    scalars: Mapping[str, float | None] = field(default_factory=dict)
    split_sha256: str = ""
    evidence_sha256: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    schema: int = 1
