"""Judging models that were made elsewhere: `unlearnbench.evaluate`, for people with training code of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Data, forked
from unlearnbench.measure.probes import collect, half_outputs, whole_outputs
from unlearnbench.measure.scoring import score
from unlearnbench.plan.cells import Cell, Plugin, Probe, Recipe
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.runs.engine import all_metrics
from unlearnbench.training.models import Classifier

Labelled = tuple[Tensor, Tensor | np.ndarray]


def evaluate(
    unlearned: nn.Module | Sequence[nn.Module],
    *,
    original: nn.Module,
    oracle: nn.Module | None = None,
    bank: Sequence[nn.Module] = (),
    train: Labelled,
    forget: Sequence[int] | np.ndarray | Tensor,
    test: Labelled,
    head: str | None = None,
    probe: Probe = Probe(),
    seed: int = 0,
) -> pd.Series:
    """Every metric of an unlearned model: a Series by name of numbers, or of `spec.Empty` where there is none, whose
    text says why.

    The models map a batch of images to logits ``[n, classes]``, as they are: what they want normalised or on a GPU
    ``train`` and ``test`` already are. These are (images ``[n, ...]``, labels int ``[n]``); ``forget`` are positions in
    ``train``. ``oracle`` and ``bank`` are models retrained without them, by the same recipe and other seeds: without an
    oracle the first of the bank is it. Several ``unlearned`` models, made from originals of other seeds, are compared
    with the bank as distributions; all that is said of one model is said of the first. ``head`` names the last layer
    (``"fc"``), for metrics on representations. ``seed`` is for the draws of attacks and of relearning.

    What is known of the method's cost was not seen here, and stays empty. The models are left as they were. Raises
    UnlearnBenchError where the arguments do not fit together.
    """
    models = [unlearned] if isinstance(unlearned, nn.Module) else list(unlearned)
    members = list(bank)
    if not models:
        raise UnlearnBenchError("evaluate: no unlearned model given")
    if oracle is None and not members:
        raise UnlearnBenchError(
            "evaluate: expected oracle=MODEL, bank=[MODELS] or both, retrained without the forget set"
        )
    oracle = members.pop(0) if oracle is None else oracle
    data = _data(train, test, [original, oracle, *models, *members])
    split = _split(data, forget, seed)
    cell = Cell(*(Plugin("outside"),) * 2, Recipe(), *(Plugin("outside"),) * 2, split_seed=seed, seed=seed, probe=probe)
    metrics = all_metrics()

    def look(model: nn.Module) -> Evidence:
        own, before = (_with_head(deepcopy(m), head, data.num_classes) for m in (model, original))
        tensors, scalars = collect(cell, before, own, data, split)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return Evidence(
            logits={name: arrays[name] for name in ("forget", "retain", "test")},
            labels={"forget": y_train[split.forget], "retain": y_train[split.retain], "test": y_test[split.test]},
            forget_classes=split.forget_classes,
            curve=arrays["curve"],
            scalars=scalars,
            cost={},
            seed=seed,
            representations={n: arrays[f"panel.{n}"] for n in ("forget", "retain") if f"panel.{n}" in arrays},
        )

    def outputs(model: nn.Module) -> dict[str, np.ndarray]:
        return _by_set({name: x.numpy() for name, x in whole_outputs(deepcopy(model), data).items()}, split)

    def stacked(several: Sequence[nn.Module]) -> dict[str, np.ndarray] | None:
        each = (half_outputs(deepcopy(model), data) for model in several)
        found = [_by_set({name: x.numpy() for name, x in one.items()}, split) for one in each]
        return {name: np.stack([one[name] for one in found]) for name in found[0]} if found else None

    y_train, y_test = data.y_train.cpu().numpy(), data.y_test.cpu().numpy()
    with _generators(seed, data.x_train.device):
        reference = look(oracle)
        score(reference, Context(oracle=reference), metrics)
        untrained = _untrained(original, seed)
        context = Context(
            oracle=reference,
            original=outputs(original),
            untrained=None if untrained is None else outputs(untrained),
            bank=stacked(members),
            unlearned=stacked(models),
        )
        own = look(models[0])
        score(own, context, metrics)
    return pd.Series(own.scores, dtype=object, name="unlearned")[list(metrics)]


@contextmanager
def _generators(seed: int, device: torch.device) -> Iterator[None]:
    """The global generators, from which dropout (torch) and scikit-learn (numpy) draw, as they were afterwards."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with forked(device):
            torch.manual_seed(seed)
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _data(train: Labelled, test: Labelled, models: Sequence[nn.Module]) -> Data:
    (x_train, y_train), (x_test, y_test) = ((x, torch.as_tensor(y, device=x.device)) for x, y in (train, test))
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(x) != len(y) or not len(x):
            raise UnlearnBenchError(f"evaluate: {name} has {len(x)} images and {len(y)} labels")
    given = x_test[:100].clone()
    with torch.no_grad():
        logits = [deepcopy(model).eval()(given) for model in models]
    if not torch.equal(given, x_test[:100]):
        raise UnlearnBenchError(
            "evaluate: a model writes into the images that it is given, which are those of the next model as well: its "
            "first layer must not work in place"
        )
    expected = (len(given), *logits[0].shape[-1:])
    for one in logits:
        if one.shape != expected or expected[1] <= max(int(y_train.max()), int(y_test.max())):
            raise UnlearnBenchError(
                f"evaluate: a model maps {expected[0]} images to a tensor of shape {tuple(one.shape)}, expected logits "
                f"[{expected[0]}, classes] with a class for every label, and from every model as many as the original's"
            )
    nothing = x_test[:0], y_test[:0]
    return Data(x_train, y_train.long(), x_test, y_test.long(), *nothing, expected[1], "", "outside")


def _split(data: Data, forget: Sequence[int] | np.ndarray | Tensor, seed: int) -> Split:
    chosen = np.unique(np.asarray(forget.cpu() if isinstance(forget, Tensor) else forget))
    n = len(data.x_train)
    if chosen.dtype.kind not in "iu" or not 0 < len(chosen) < n or chosen[0] < 0 or chosen[-1] >= n:  # a mask is none
        raise UnlearnBenchError(f"evaluate: forget must hold positions in the {n} training samples, some but not all")
    chosen, rng = chosen.astype(np.int64), np.random.default_rng(seed)
    rest = np.setdiff1d(np.arange(n), chosen)
    labels = data.y_train.cpu().numpy()
    gone = np.setdiff1d(labels[chosen], labels[rest])  # classes that nothing is retained of
    classes = tuple(int(c) for c in gone) if set(labels[chosen]) == set(gone) else ()
    return Split(rng.permutation(chosen), rng.permutation(rest), rng.permutation(len(data.x_test)), classes)


def _by_set(outputs: dict[str, np.ndarray], split: Split) -> dict[str, np.ndarray]:
    return {
        "forget": outputs["train"][split.forget],
        "retain": outputs["train"][split.retain],
        "test": outputs["test"][split.test],
    }


def _with_head(model: nn.Module, head: str | None, num_classes: int) -> nn.Module:
    if head is None or hasattr(model, "encode"):
        return model
    try:
        return Classifier.wrap(model, head, num_classes)
    except AttributeError as error:
        raise UnlearnBenchError(f"evaluate: head={head!r}: {error}") from None


def _untrained(model: nn.Module, seed: int) -> nn.Module | None:
    """The same network with new random weights, where all its layers know how to draw them; else None."""
    fresh = deepcopy(model)
    with forked(next(fresh.parameters(), torch.empty(0)).device):
        torch.manual_seed(seed)
        for layer in fresh.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(layer.parameters(recurse=False), None) is not None:
                return None
    return fresh
