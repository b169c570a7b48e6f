"""The nouns of a benchmark: plugins, cells, rows of evidence, metrics. No I/O, no training, no torch.

A *cell* is (dataset, model, recipe, scenario, method, split seed, seed). Running a cell gives a *row* of evidence,
scoring a row gives numbers. Every dataset, model, scenario and method is a frozen dataclass whose fields are its
parameters, so that a cell can be completed with defaults, checked and hashed before anything trains.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Interval

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import nn

    from unlearnbench.datasets import Arrays
    from unlearnbench.evidence import Context, Evidence
    from unlearnbench.models import Classifier
    from unlearnbench.task import Task

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Count = Annotated[int, Gt(0)]
Seed = Annotated[int, Ge(0)]

TRAINING_VERSION = 1  # raise it when training.py changes the numbers of an original or an oracle
EVIDENCE_VERSION = 2  # raise it when evidence.py changes what a row holds


class Access(enum.Flag):
    """What a method needs beyond the original model. What it does not declare, its task does not hold."""

    FORGET = enum.auto()
    RETAIN = enum.auto()
    LABELS = enum.auto()
    VALIDATION = enum.auto()


class AccessDenied(Exception):
    """A method asked its task for data that its ``needs`` do not declare."""


class UnlearnBenchError(Exception):
    """An error for the user: what was wrong, what was expected, what to do."""


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Empty:
    """A value that is not there, and why. ``reason`` is a key of `REASONS`; ``detail`` completes its sentence."""

    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(f"unknown reason {self.reason!r}; one of {sorted(REASONS)}")

    def __str__(self) -> str:
        return REASONS[self.reason] + (f": {self.detail}" if self.detail else "")


REASONS = {
    "no_class": "the scenario does not forget whole classes",
    "no_oracle": "the oracle of this scenario and seed has not run",
    "small_bank": "too few models to compare with",
    "of_split": "it belongs to the split, and stands in the row of its first seed",
    "oracle_empty": "the oracle has no value for it",
    "oracle_censored": "the oracle's value is censored",
    "mixed_devices": "measured on different devices",
    "too_few": "too few samples",
    "zero_cost": "the method did no work",
    "not_measured": "it was not measured",
    "not_on_device": "it cannot be measured on this device",
    "no_partner": "the oracle already starts there",
    "constant": "the representation is constant",
    "not_supported": "the method does not support this scenario",
    "failed": "the method failed",
    "metric_error": "the metric raised an error",
}


# Which known truth a model is: the original untouched, an honest retraining (the oracle is one), or one without use.
StandsFor = Literal["", "original", "retrained", "useless"]

# --- plugins ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """A dataclass that can be read from a file: every value is checked against its annotation, and none converted."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True)
class Configured(Checked):
    """Base of everything a suite can name: a frozen dataclass whose fields are the parameters a suite may set."""

    version: ClassVar[int | str] = 1  # raise it when the same parameters give other numbers than before

    def identity(self) -> int | str:
        """What, beside name and parameters, decides the numbers: a version, or the hash of a file that is read."""
        return self.version


@dataclass(frozen=True)
class Dataset(Configured, ABC):
    """A dataset by name. ``limit_*`` keep a seeded, stratified subset; ``validation`` is a share of the test split."""

    fingerprint: ClassVar[str | None] = None  # SHA-256 of the whole dataset (datasets.fingerprint); None: not pinned

    validation: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    limit_train: Count | None = None
    limit_test: Count | None = None

    @abstractmethod
    def load(self, root: Path) -> Arrays:
        """Read the whole dataset as uint8 arrays. ``root`` is the folder where downloads and local copies live."""


@dataclass(frozen=True)
class Model(Configured, ABC):
    """An architecture by name. ``stack`` says, by type of device, how many networks a bank trains at once, where that
    was measured to be faster than one by one (benchmarks/bench_bank.py); 1 elsewhere."""

    stack: ClassVar[Mapping[str, int]] = {}

    @abstractmethod
    def build(self, input_shape: tuple[int, int, int], num_classes: int) -> Classifier:
        """Fresh weights from torch's global generator. ``input_shape`` is (channels, height, width)."""


@dataclass(frozen=True)
class Scenario(Configured, ABC):
    """A rule that chooses the forget set."""

    forget_classes: ClassVar[tuple[int, ...]] = ()  # the classes it removes entirely, if it is a class scenario

    @abstractmethod
    def select(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Positions of the forget samples in ``labels`` (int64 ``[N]``, the training labels)."""


@dataclass(frozen=True)
class Method(Configured, ABC):
    """An unlearning method: fields are its hyperparameters, class attributes declare what it is and needs.

    ``role`` is ``"method"``, ``"oracle"`` (the reference of every gap) or ``"control"``: it stands in every table to
    show where metrics put a model that forgot nothing, was honestly retrained, or is useless (``stands_for``). ``toy``
    are the hyperparameters conformance uses on its toy problem.
    """

    paper: ClassVar[str]
    needs: ClassVar[Access]
    scenarios: ClassVar[tuple[str, ...] | None] = None  # names it supports; None: all
    changes: ClassVar[bool] = True  # False: returns the original's parameters untouched
    role: ClassVar[Literal["method", "oracle", "control"]] = "method"
    stands_for: ClassVar[StandsFor] = ""
    toy: ClassVar[Mapping[str, Any]] = {}

    def prepare(self, task: Task) -> nn.Module | None:
        """Train what the method needs beside the original (cached and costed apart). None: nothing."""
        return None

    @abstractmethod
    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the unlearned model. ``model`` is a copy of the original, yours to change."""


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
    """How originals and oracles are trained. Data, not code: `training.RECIPES` names the ready ones."""

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
    channels_last: bool = False
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

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Cell:
        plugins = {name: Plugin(**d[name]) for name in ("dataset", "model", "scenario", "method")}
        return cls(**{**d, **plugins, "recipe": Recipe(**d["recipe"]), "probe": Probe(**d["probe"])})

    def _digest(self, *names: str) -> str:
        d = self.as_dict()
        return digest([TRAINING_VERSION, *(d[name] for name in names)])

    @property
    def key(self) -> str:
        """Names the row: everything that changes a number in it."""
        return digest([TRAINING_VERSION, EVIDENCE_VERSION, self.as_dict()])

    @property
    def original_key(self) -> str:
        return self._digest("dataset", "model", "recipe", "seed")

    @property
    def untrained_key(self) -> str:
        """Names a network of the cell's architecture with random weights."""
        return self._digest("dataset", "model", "seed")

    @property
    def oracle_key(self) -> str:
        """Names a model of the oracle bank: retrained on the retain set of this split."""
        return self._digest("dataset", "model", "recipe", "seed", "scenario", "split_seed")

    @property
    def bank_key(self) -> str:
        """Cells of one bank share everything that an oracle depends on but its seed."""
        return self._digest("dataset", "model", "recipe", "scenario", "split_seed")

    @property
    def prepared_key(self) -> str:
        """Names what the method prepared; for the oracle that is the retrained model itself."""
        return self._digest("dataset", "model", "recipe", "seed", "scenario", "split_seed", "method")

    @property
    def split_key(self) -> str:
        """Names the stored split: the same samples for every method."""
        return self._digest("dataset", "scenario", "split_seed")

    @property
    def group(self) -> str:
        """Rows of one group share dataset, scenario, seeds and all settings: they differ in the method alone."""
        d = self.as_dict()
        del d["method"]
        return digest(d)

    @property
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


# --- metrics ---------------------------------------------------------------------------------------------------------

Better = Literal["high", "low", "oracle"]
Family = Literal["utility", "leakage", "oracle-distance", "relearning", "cost"]


Need = Literal["oracle", "original", "untrained", "bank", "unlearned", "shadows"]


@dataclass(frozen=True)
class Metric:
    """One number: its formula and all that tables, arrows, ranks and plots must agree on.

    ``fn(evidence, context)`` gets the row's evidence and what it is compared with. ``needs`` says what must be in that
    `evidence.Context`, and how many models at least where it is several; where there is less the value is empty and
    ``fn`` is not called. If it needs the oracle, the oracle's own scores are in ``context.oracle.scores``.
    ``better="oracle"``: closest to the oracle wins. ``of_split``: a statement about all models of a split, so that it
    stands in the row of the first seed alone. ``per_machine``: tables refuse to mix devices.
    """

    name: str
    label: str
    unit: str
    family: Family
    better: Better
    fn: Callable[[Evidence, Context], float | Estimate | Empty]
    doc: str  # the definition in a sentence, with its source
    version: int = 1
    needs: Mapping[Need, int] = field(default_factory=dict, hash=False)
    of_split: bool = False
    per_machine: bool = False
    digits: int = 2
    note: Callable[[Evidence], str] | None = None  # text beside the value, such as the size of an attack; "" for none

    @property
    def relative(self) -> bool:
        """Whether it is already a comparison with the oracle, so that it has no gap to the oracle of its own."""
        return "oracle" in self.needs
