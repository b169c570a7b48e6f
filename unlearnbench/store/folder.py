"""Rows and artifacts on disk: content-addressed, atomic, safe to interrupt at any moment and to share.

``rows/KEY.json`` beside ``evidence/KEY.safetensors``; ``scores/KEY.json``; ``splits/KEY.safetensors`` with the
positions and labels of a split; ``artifacts/KEY.safetensors`` with the weights of originals and oracles;
``outputs/KEY.safetensors`` with the logits of a model on the whole training and test set; ``plans/SUITE.json`` says
which cells the last run of a suite asked for. Everything is written under a temporary name
and moved into place.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
from filelock import FileLock

from unlearnbench.plan.cells import Cell, Row
from unlearnbench.plan.evidence import Evidence
from unlearnbench.plan.registry import configure
from unlearnbench.plan.spec import UnlearnBenchError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
State = dict[str, "Tensor"]


@dataclass(frozen=True)
class Store:
    """A results folder. Its methods raise UnlearnBenchError naming the file when one is damaged."""

    root: Path

    def _path(self, kind: str, key: str, suffix: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", key) or key.startswith("."):
            raise UnlearnBenchError(f"{key!r} cannot name a file in {self.root}")
        return self.root / kind / f"{key}{suffix}"

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Held by the one process that works on ``key``; the system releases it when that process dies."""
        path = self._path("locks", key, ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield

    # rows ------------------------------------------------------------------------------------------------------------

    def put(self, row: Row, tensors: Mapping[str, Tensor] | None = None) -> Row:
        """Store a row, its evidence first: a row that can be read is complete."""
        if tensors is not None:
            from safetensors.torch import save

            content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
            _write(self._path("evidence", row.key, ".safetensors"), content)
            row = dataclasses.replace(row, evidence_sha256=hashlib.sha256(content).hexdigest())
        self._path("scores", row.key, ".json").unlink(missing_ok=True)  # they were of an earlier row
        _write_json(self._path("rows", row.key, ".json"), dataclasses.asdict(row))
        return row

    def row(self, cell: Cell) -> Row | None:
        return self.row_of(cell.key)

    def row_of(self, key: str) -> Row | None:
        path = self._path("rows", key, ".json")
        content = _read_json(path)
        if content is None:
            return None
        try:
            row = configure(Row, content, "row")
        except UnlearnBenchError as error:
            raise UnlearnBenchError(f"{path} is not a row ({error}): delete it and run again") from None
        if row.schema != SCHEMA or row.key != key or row.cell.key != key:
            raise UnlearnBenchError(f"{path} does not belong to the cell of its name: delete it and run again")
        return row

    def done(self, cell: Cell) -> bool:
        row = self.row(cell)
        return row is not None and row.status in ("ok", "n/a")

    def evidence(self, row: Row) -> Evidence:
        """The evidence of an ``ok`` row. Raises UnlearnBenchError when the file is not the one the row speaks of."""
        path = self._path("evidence", row.key, ".safetensors")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UnlearnBenchError(f"{path} cannot be read ({error}): delete {row.key}.json and run again") from error
        if hashlib.sha256(content).hexdigest() != row.evidence_sha256:
            raise UnlearnBenchError(f"{path} is not what its row recorded: delete it and {row.key}.json and run again")
        tensors, split = safetensors.numpy.load(content), self.split(row.cell)
        names = ("forget", "retain", "test")
        return Evidence(
            logits={name: tensors[name] for name in names},
            labels={name: split[f"{name}.labels"] for name in names},
            forget_classes=tuple(int(c) for c in split["forget_classes"]),
            curve=tensors["curve"].astype(np.float64),
            scalars=row.scalars,
            cost=row.cost,
            seed=row.cell.seed,
            representations={n: tensors[f"panel.{n}"] for n in names if f"panel.{n}" in tensors},
        )

    # splits and outputs ----------------------------------------------------------------------------------------------

    def put_split(self, cell: Cell, arrays: Mapping[str, np.ndarray]) -> None:
        """Positions and labels of a cell's split, the same for every method."""
        self._put_arrays("splits", cell.split_key, arrays)

    def split(self, cell: Cell) -> dict[str, np.ndarray]:
        """Raises UnlearnBenchError when the split of a stored row is missing or damaged."""
        return self._arrays("splits", cell.split_key, f"; delete {cell.key}.json in rows too")

    def has_outputs(self, key: str) -> bool:
        return self._path("outputs", key, ".safetensors").exists()

    def put_outputs(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Logits ``[n, num_classes]`` of a model on ``"train"`` and ``"test"``, in the order of the dataset."""
        self._put_arrays("outputs", key, arrays)

    def outputs(self, key: str) -> dict[str, np.ndarray]:
        return self._arrays("outputs", key)

    def _put_arrays(self, kind: str, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        path = self._path(kind, key, ".safetensors")
        if not path.exists():
            whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            _write(path, safetensors.numpy.save(whole, {"sha256": _checksum(whole)}))

    def _arrays(self, kind: str, key: str, more: str = "") -> dict[str, np.ndarray]:
        path = self._path(kind, key, ".safetensors")
        try:
            with safetensors.safe_open(path, "numpy") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                intact = (file.metadata() or {}).get("sha256") == _checksum(arrays)
        except (OSError, safetensors.SafetensorError) as error:
            raise UnlearnBenchError(f"{path} cannot be read ({error}): delete it and run again{more}") from error
        if not intact:
            raise UnlearnBenchError(f"{path} is damaged: delete it and run again{more}")
        return arrays

    # scores and plans ------------------------------------------------------------------------------------------------

    def put_scores(self, key: str, scores: Mapping[str, Any]) -> None:
        _write_json(self._path("scores", key, ".json"), {n: dataclasses.asdict(s) for n, s in scores.items()})

    def put_bank_scores(self, key: str, found: Mapping[str, Any]) -> None:
        """What metrics make of the members of a bank: ``values`` by metric, and the ``basis`` they rest on."""
        _write_json(self._path("scores", key, ".json"), found)

    def scores(self, key: str) -> dict[str, Any]:
        return _read_json(self._path("scores", key, ".json")) or {}

    def put_plan(self, suite: str, plan: Mapping[str, Any]) -> None:
        _write_json(self._path("plans", suite, ".json"), plan)

    def plan(self, suite: str) -> dict[str, Any] | None:
        return _read_json(self._path("plans", suite, ".json"))

    def plans(self) -> list[str]:
        return sorted(path.stem for path in (self.root / "plans").glob("*.json"))

    # weights ---------------------------------------------------------------------------------------------------------

    def has_artifact(self, key: str) -> bool:
        return self._path("artifacts", key, ".safetensors").exists()

    def artifact(
        self, key: str, make: Callable[[], tuple[State, dict[str, float | None]]], device: str = ""
    ) -> tuple[State, dict]:
        """Weights by key with what they cost, made once: one process makes them, the others wait and read. ``device``
        is the one that makes them, if they are made now (`made_on`)."""
        path = self._path("artifacts", key, ".safetensors")
        with self.lock(key):
            if not path.exists():
                from safetensors.torch import save

                state, cost = make()
                facts = {"cost": json.dumps({**cost, "device": device})}  # one entry: several would have no fixed order
                _write(path, save({n: t.detach().cpu().contiguous() for n, t in state.items()}, facts))
        return self.weights(key)

    def made_on(self, key: str) -> str:
        """The device on which an artifact that is there cost what it did; "" where that was not noted."""
        with safetensors.safe_open(self._path("artifacts", key, ".safetensors"), "numpy") as file:
            return json.loads(file.metadata()["cost"]).get("device", "")

    def weights(self, key: str) -> tuple[State, dict]:
        """An artifact that is there. Raises UnlearnBenchError when it is not, or damaged."""
        path = self._path("artifacts", key, ".safetensors")
        try:
            with safetensors.safe_open(path, "pt") as file:
                cost = json.loads((file.metadata() or {})["cost"])
                cost.pop("device", None)
                return {name: file.get_tensor(name) for name in file.keys()}, cost  # noqa: SIM118
        except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
            raise UnlearnBenchError(f"{path} is damaged ({error}): delete it and run again") from error


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode() + arrays[name].tobytes())
    return sha.hexdigest()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value, indent=1, allow_nan=False).encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UnlearnBenchError(f"{path} is damaged ({error}): delete it and run again") from error
    if not isinstance(content, dict):
        raise UnlearnBenchError(f"{path} is damaged (not an object): delete it and run again")
    return content
