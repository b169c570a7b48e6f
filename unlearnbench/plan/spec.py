"""What a plugin is: datasets, models, scenarios, methods and metrics. No I/O, no training, no torch.

Every dataset, model, scenario and method is a frozen dataclass whose fields are its parameters, so that a cell can be
completed with defaults, checked and hashed before anything trains.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Interval, Len

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import nn

    from unlearnbench.plan.arrays import Arrays
    from unlearnbench.plan.evidence import Context, Evidence
    from unlearnbench.training.models import Classifier
    from unlearnbench.training.task import Task

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Count = Annotated[int, Gt(0)]
Seed = Annotated[int, Ge(0)]
Kind = Literal["random", "class"]  # of a scenario: samples of all classes, or classes whole


# Laws are compared by identity: typing keeps one of two equal ones, so that Uniform(0, 1) could become Uniform(0, 1.0).
@dataclass(frozen=True, eq=False)
class LogUniform:
    """Search law of a hyperparameter, beside its type: ``Annotated[Positive, LogUniform(1e-5, 1e-1)]``. Whole numbers
    where the type is int."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Uniform:
    """Search law: uniform from ``low`` to ``high``. Whole numbers where the type is int."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Choice:
    """Search law: one of ``values``."""

    values: tuple[Any, ...]


Law = LogUniform | Uniform | Choice


class Access(enum.Flag):
    """What a method needs beyond the original model. What it does not declare, its task does not hold.

    The first four are data of the request. ``INIT`` are the original's weights before its training, ``LOG`` the record
    of that training, ``STATISTICS`` means and covariances of the representations of each class of the training set,
    ``SURROGATE`` images that have nothing to do with the training set, ``TRAINING`` the whole training set from the
    start, for a method that brings an original of its own (`Method.original`).
    """

    FORGET = enum.auto()
    RETAIN = enum.auto()
    LABELS = enum.auto()
    VALIDATION = enum.auto()
    INIT = enum.auto()
    LOG = enum.auto()
    STATISTICS = enum.auto()
    SURROGATE = enum.auto()
    TRAINING = enum.auto()


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
    "whole_class": "the scenario forgets whole classes, of which unseen samples are to be forgotten, too",
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
    like: ClassVar[tuple[str, ...]] = ()  # others whose published hyperparameters serve it, nearest first

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

    @property
    def kind(self) -> Kind:
        """Which published hyperparameters serve it: those for whole classes, or those for samples at random."""
        return "class" if self.forget_classes else "random"

    @abstractmethod
    def select(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Positions of the forget samples in ``labels`` (int64 ``[N]``, the training labels)."""

    def elsewhere(self, labels: np.ndarray) -> Scenario:
        """A scenario of the same kind and size that can be asked of the samples this one leaves: what methods are tuned
        on. ``labels`` are those of the whole training set."""
        return self


@dataclass(frozen=True)
class Published:
    """The hyperparameters that a method's authors published for a dataset and a kind of scenario: ``params`` are those
    that differ from the defaults, ``source`` the place (file and revision, table of the paper) and the network."""

    dataset: Annotated[str, Len(1, 60)]
    scenario: Kind
    params: Mapping[str, Any]
    source: Annotated[str, Len(1, 300)]

    def __str__(self) -> str:
        return f"{self.dataset}, {self.scenario}"


@dataclass(frozen=True)
class Method(Configured, ABC):
    """An unlearning method: fields are its hyperparameters, class attributes declare what it is and needs.

    A field says beside its type how it is searched when methods are tuned (`LogUniform`, `Uniform`, `Choice`); one
    without such a law stays as it is. The docstring is the method's card (`cards.SECTIONS`).

    ``role`` is ``"method"``, ``"oracle"`` (the reference of every gap) or ``"control"``: it stands in every table to
    show where metrics put a model that forgot nothing, was honestly retrained, or is useless (``stands_for``). ``toy``
    are the hyperparameters conformance uses on its toy problem. ``published`` is what its authors used, where: suites
    take the nearest entry (`suites.nearest`) and tables name it.

    A method runs in the precision of the recipe: where originals and oracles train in bfloat16, so does it.
    ``full_precision`` leaves it in float32, for what takes curvature, importances or small differences.
    """

    paper: ClassVar[str]
    needs: ClassVar[Access]
    scenarios: ClassVar[tuple[str, ...] | None] = None  # names it supports; None: all
    changes: ClassVar[bool] = True  # False: returns the original's parameters untouched
    full_precision: ClassVar[bool] = False  # True: float32 whatever the recipe
    role: ClassVar[Literal["method", "oracle", "control"]] = "method"
    stands_for: ClassVar[StandsFor] = ""
    toy: ClassVar[Mapping[str, Any]] = {}
    published: ClassVar[tuple[Published, ...]] = ()

    def prepare(self, task: Task) -> nn.Module | None:
        """Train what the method needs beside the original (cached and costed apart). None: nothing."""
        return None

    def original(self, task: Task) -> nn.Module:
        """With ``Access.TRAINING``: the method's own original, trained on ``task.training`` (cached). It is what
        `unlearn` is given in the place of the suite's."""
        raise NotImplementedError(f"{type(self).__name__} needs Access.TRAINING: it must define original(task)")

    def blank(self, task: Task) -> nn.Module:
        """A network of the shape of `original`'s, whose weights do not matter: the stored ones are loaded into it."""
        raise NotImplementedError(f"{type(self).__name__} needs Access.TRAINING: it must define blank(task)")

    @abstractmethod
    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        """Return the unlearned model. ``model`` is a copy of the original, yours to change."""


# --- metrics ---------------------------------------------------------------------------------------------------------

Better = Literal["high", "low", "oracle"]
Family = Literal["utility", "leakage", "oracle-distance", "relearning", "cost"]


@dataclass(frozen=True)
class Tolerance:
    """How far from the oracle's value still counts as the same in practice, declared before anything is measured:
    ``amount`` in the metric's unit or, ``of_oracle``, as a share of the oracle's value."""

    amount: float
    of_oracle: bool = False


Need = Literal["oracle", "original", "untrained", "bank", "unlearned", "shadows"]


@dataclass(frozen=True)
class Metric:
    """One number: its formula and all that tables, arrows, ranks and plots must agree on.

    ``fn(evidence, context)`` gets the row's evidence and what it is compared with. ``needs`` says what must be in that
    `evidence.Context`, and how many models at least where it is several; where there is less the value is empty and
    ``fn`` is not called. If it needs the oracle, the oracle's own scores are in ``context.oracle.scores``.
    ``reads`` names the metrics whose scores it is made of: where one of these has a new version it is redone.
    ``better="oracle"``: closest to the oracle wins. ``of_split``: a statement about all models of a split, so that it
    stands in the row of the first seed alone. ``per_machine``: tables refuse to mix devices. ``tolerance``: the margin
    of the test that a method is equivalent to the oracle; without one none is claimed. ``controlled=False``: it stands
    beside another metric to read that by, and nothing is expected of the controls. ``parts``: of a mean of absolute
    gaps, the metrics whose gaps they are, and what one unit of each counts.
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
    reads: tuple[str, ...] = ()
    of_split: bool = False
    per_machine: bool = False
    tolerance: Tolerance | None = None
    controlled: bool = True
    parts: Mapping[str, float] = field(default_factory=dict, hash=False)
    digits: int = 2
    note: Callable[[Evidence], str] | None = None  # text beside the value, such as the size of an attack; "" for none

    @property
    def relative(self) -> bool:
        """Whether it is already a comparison with the oracle, so that it has no gap to the oracle of its own."""
        return "oracle" in self.needs
