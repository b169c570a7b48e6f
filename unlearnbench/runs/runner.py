"""One cell: original, method, evidence, row."""

from __future__ import annotations

import dataclasses
import functools
import json
import platform
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlearnbench.data import datasets
from unlearnbench.data.split import Split, make_split
from unlearnbench.data.tensors import Counter, Data, Samples, augmentation, derive_seed, forked
from unlearnbench.measure.probes import collect, warm_up, whole_outputs
from unlearnbench.plan.cells import Cell, Plugin, Row
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Access, Method, UnlearnBenchError
from unlearnbench.store.folder import State, Store
from unlearnbench.training.cost import count_work, measure, price
from unlearnbench.training.loop import precision_for, train
from unlearnbench.training.models import Classifier, build_model, check_outputs, check_same_architecture
from unlearnbench.training.originals import Log, fresh_network, keep, trainee
from unlearnbench.training.task import Task


def run_cell(cell: Cell, store: Store, data_root: Path, device: torch.device) -> Row:
    """Run a cell that is not done and store its row. A method that raises gives a ``failed`` row with its traceback."""
    with store.lock(f"cell-{cell.key}"), forked(device):
        if store.done(cell):  # another process was faster
            return store.row(cell)  # type: ignore[return-value]
        data = load_data(cell.dataset, data_root, device)
        split = make_cell_split(cell, data)
        store.put_split(cell, split_arrays(split, data))
        facts: dict[str, Any] = {"split_sha256": split.sha256, "environment": environment(data, device)}
        method: Method = build("methods", cell.method.name, cell.method.params)
        if method.scenarios is not None and cell.scenario.name not in method.scenarios:
            return store.put(Row(cell.key, cell, "n/a", f"supports {', '.join(method.scenarios)} only", **facts))
        store.put(Row(cell.key, cell, "started", **facts))
        try:
            original = load_original(cell, store, data)
            put_references(cell, store, data, original)
            original = original_of(method, original, cell, store, data, split)
            unlearned, cost = unlearn(method, original, cell, store, data, split)
            if prepares(method):
                facts["environment"]["prepared_device"] = store.made_on(cell.prepared_key)
            tensors, scalars = collect(cell, original, unlearned, data, split)
            return store.put(Row(cell.key, cell, "ok", cost=cost, scalars=scalars, **facts), tensors)
        except (Exception, SystemExit):
            return store.put(Row(cell.key, cell, "failed", traceback.format_exc(), **facts))


def load_original(cell: Cell, store: Store, data: Data) -> Classifier:
    """The original model of a cell, trained on first need; its weights depend on `Cell.original_key` alone."""

    def make() -> tuple[State, dict[str, float | None]]:
        counter = new_counter(cell, data)
        model, samples = trainee(cell, data, None, counter)
        count_work(model, counter)
        torch.manual_seed(derive_seed(cell.seed, "original dropout"))
        with measure(data.x_train.device, counter) as cost:
            train(model, samples, cell.recipe)
        return model.state_dict(), cost

    state, _ = store.artifact(cell.original_key, make, device_name(data.x_train.device))
    return restored(cell, data, state)


def original_of(method: Method, original: Classifier, cell: Cell, store: Store, data: Data, split: Split) -> Any:
    """What a method starts from: ``original``, or the one it brings itself, which is trained on first need and, of a
    seed, the same for every forget set."""
    if Access.TRAINING not in method.needs:
        return original

    unknown = dataclasses.replace(
        split, forget=split.forget[:0], forget_classes=()
    )  # nobody has asked for anything yet

    def task(counter: Counter) -> Task:
        return Task.of(cell, data, unknown, Access.TRAINING | Access.LABELS, counter)

    def make() -> tuple[State, dict[str, float | None]]:
        training = task(new_counter(cell, data))
        precision = precision_for(method, cell.recipe, training.device)
        torch.manual_seed(derive_seed(cell.seed, "own original"))
        with untouched(data, method), measure(training.device, training.counter) as cost, precision:
            model = method.original(training)
        check_same_architecture(model, blank, f"{type(method).__name__}.original")
        return model.state_dict(), cost

    blank = method.blank(task(Counter()))
    state, _ = store.artifact(cell.own_original_key, make, device_name(data.x_train.device))
    blank.load_state_dict(state)
    return blank.eval()


def load_weights(key: str, cell: Cell, store: Store, data: Data) -> Classifier:
    """A network of the cell's architecture with the weights stored under ``key``."""
    state, _ = store.weights(key)
    return restored(cell, data, state)


def put_references(cell: Cell, store: Store, data: Data, original: nn.Module) -> None:
    """Outputs that metrics compare with: of the original, and of a network with random weights."""
    if not store.has_outputs(cell.original_key):
        store.put_outputs(cell.original_key, as_arrays(whole_outputs(original, data)))
    if not store.has_outputs(cell.untrained_key):
        untrained = fresh_network(cell, data, derive_seed(cell.seed, "untrained"))
        store.put_outputs(cell.untrained_key, as_arrays(whole_outputs(untrained, data)))


def as_arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def new_counter(cell: Cell, data: Data) -> Counter:
    return Counter(_prices(cell.model.name, json.dumps(dict(cell.model.params)), data.input_shape, data.num_classes))


@functools.lru_cache(maxsize=8)
def _prices(name: str, params: str, shape: tuple[int, int, int], classes: int) -> dict[str, tuple[int, int]]:
    model = build("models", name, json.loads(params))
    return price(build_model(model, shape, classes, 0), torch.zeros(1, *shape))


def time_training(cell: Cell, data: Data, steps: int = 3) -> float:
    """Seconds that the training of an original will take, judged by ``steps`` of its steps."""
    model, size = fresh_network(cell, data, 0), cell.recipe.batch_size
    recipe = dataclasses.replace(cell.recipe, epochs=1)
    few = Samples(data.x_train[: steps * size], data.y_train[: steps * size], 0, augmentation(cell.recipe), Counter())
    train(model, few.take(size), recipe)  # the first step sets up
    with measure(data.x_train.device, Counter()) as cost:
        train(model, few, recipe)
    assert cost["seconds"] is not None
    return cost["seconds"] * cell.recipe.epochs * len(data.x_train) / len(few)


def unlearn(
    method: Method, original: nn.Module, cell: Cell, store: Store, data: Data, split: Split,
    seen: np.ndarray | None = None,
) -> tuple[nn.Module, dict[str, float | None]]:  # fmt: skip
    """Apply a method to a copy of the original. The cost is that of what it prepared and of the call itself.

    ``seen`` are the positions the original was trained on, where that was not the whole training set.
    """
    counter = new_counter(cell, data)
    device = data.x_train.device
    prepared, prepared_cost = load_prepared(method, cell, store, data, split)

    def cached(make: Callable[[], Log]) -> Log:
        log, _ = store.artifact(cell.log_key(seen is None), lambda: (make(), {}))
        return {name: tensor.to(device) for name, tensor in log.items()}

    records = keep(method.needs, cell, data, split, original, seen, cached)
    # A new task: what was prepared may come from an earlier run.
    task = Task.of(cell, data, split, method.needs, counter, records)
    task.prepared = prepared
    model = deepcopy(original)
    with precision_for(method, cell.recipe, device):
        warm_up(model, data, getattr(method, "batch_size", cell.recipe.batch_size))
    handles = count_work(model, counter)
    torch.manual_seed(derive_seed(cell.seed, "unlearn"))
    try:
        with untouched(data, method), measure(device, counter) as cost, precision_for(method, cell.recipe, device):
            unlearned = method.unlearn(model, task)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(unlearned, nn.Module):
        raise TypeError(
            f"{type(method).__name__}.unlearn must return the unlearned model, not {type(unlearned).__name__}"
        )
    check_outputs(unlearned, data.input_shape, data.num_classes, device, f"{type(method).__name__}.unlearn")
    return unlearned.eval(), add_costs(cost, prepared_cost)


def load_prepared(
    method: Method, cell: Cell, store: Store, data: Data, split: Split
) -> tuple[nn.Module | None, dict[str, float | None]]:
    """What the method prepares (the oracle: its retrained model), made on first need, and what that cost."""
    if not prepares(method):
        return None, {}

    def make() -> tuple[State, dict[str, float | None]]:
        task = Task.of(cell, data, split, method.needs, new_counter(cell, data))
        network, precision = fresh_network(cell, data, 0), precision_for(method, cell.recipe, task.device)
        with precision:
            warm_up(network, data, cell.recipe.batch_size)
        torch.manual_seed(derive_seed(cell.seed, "prepare"))
        with untouched(data, method), measure(task.device, task.counter) as cost, precision:
            module = method.prepare(task)
        if module is None:
            raise TypeError(f"{type(method).__name__}.prepare must return the module it prepared")
        check_same_architecture(module, network, f"{type(method).__name__}.prepare")
        return module.state_dict(), cost

    state, cost = store.artifact(cell.prepared_key, make, device_name(data.x_train.device))
    return restored(cell, data, state), cost


def prepares(method: Method) -> bool:
    return type(method).prepare is not Method.prepare


@contextmanager
def untouched(data: Data, method: Method) -> Iterator[None]:
    """Raise UnlearnBenchError if the data, which other cells of this process see as well, are changed within. The next
    of them loads them anew."""
    before = data.checksums()
    try:
        yield
    finally:
        if not all(map(torch.equal, before, data.checksums())):
            _load_data.cache_clear()
            raise UnlearnBenchError(
                f"method {type(method).__name__} wrote into the dataset, which all cells of this process share: it may "
                "change what its task hands it, and nothing else"
            )


def prepare_cell(cell: Cell, store: Store, data_root: Path, device: torch.device) -> None:
    """The long part of a cell whose method prepares something, ahead of the cell and of its original."""
    data = load_data(cell.dataset, data_root, device)
    method = build("methods", cell.method.name, cell.method.params)
    with forked(device):
        load_prepared(method, cell, store, data, make_cell_split(cell, data))


def add_costs(cost: dict[str, float | None], prepared: dict[str, float | None]) -> dict[str, float | None]:
    """Sums, except for the peak of memory: the larger one."""
    total: dict[str, float | None] = {}
    for name, value in cost.items():
        pair = [v for v in (value, prepared.get(name)) if v is not None]
        total[name] = None if not pair else max(pair) if name == "peak_memory" else sum(pair)
    return total


def restored(cell: Cell, data: Data, state: State) -> Classifier:
    """A network of the cell's architecture with these weights."""
    model = fresh_network(cell, data, 0)
    model.load_state_dict(state)
    return model.eval()


@functools.lru_cache(maxsize=1)  # a worker runs many cells of one suite
def _load_data(name: str, params: str, version: int | str, data_root: Path, device: str) -> Data:
    dataset = build("datasets", name, json.loads(params))
    data = Data.of(datasets.load(dataset, data_root), dataset.validation, torch.device(device), data_root)
    # A plugin made by hand has the version of the class alone, which says nothing of the files that are read.
    if version not in (dataset.version, dataset.identity()):
        raise UnlearnBenchError(f"the dataset '{name}' changed during this run: run the same command again")
    return data


def load_data(plugin: Plugin, data_root: Path, device: torch.device) -> Data:
    """The dataset on the device. Raises UnlearnBenchError if its content is no longer that of the plugin's version."""
    return _load_data(plugin.name, json.dumps(dict(plugin.params)), plugin.version, data_root, str(device))


def make_cell_split(cell: Cell, data: Data) -> Split:
    scenario = build("scenarios", cell.scenario.name, cell.scenario.params)
    return make_split(scenario, data.y_train.cpu().numpy(), len(data.y_test), cell.split_seed)


def split_arrays(split: Split, data: Data) -> dict[str, np.ndarray]:
    """Positions and labels of a split, as the store keeps them."""
    train, test = data.y_train.cpu().numpy(), data.y_test.cpu().numpy()
    return {
        "forget": split.forget,
        "retain": split.retain,
        "test": split.test,
        "forget.labels": train[split.forget],
        "retain.labels": train[split.retain],
        "test.labels": test[split.test],
        "forget_classes": np.asarray(split.forget_classes, dtype=np.int64),
    }


def environment(data: Data, device: torch.device) -> dict[str, Any]:
    """What a number may depend on beside its key: these are columns of the row, not part of it."""
    cuda = device.type == "cuda"
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "tf32": cuda and torch.backends.cudnn.allow_tf32,  # convolutions of float32 with 10 bits of mantissa
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "git": _revision(),
        "fingerprint": data.fingerprint,
        "source": data.source,
    }


def device_name(device: torch.device) -> str:
    """What costs are measured on, as rows and artifacts note it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()


@functools.cache
def _revision() -> str:
    """The revision of the source tree, "" outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
