"""What must be measured while a model is in hand: outputs, representations, how it relearns. Always on copies."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Counter, Data, Samples, augmentation, derive_seed
from unlearnbench.measure.relearning import (
    anamnesis_steps,
    golatkar_epochs,
    outputs,
    relearn_curve,
    relearn_steps,
    update,
)
from unlearnbench.plan.cells import Cell
from unlearnbench.training.loop import chunks, make_optimizer, predict

HALF = torch.finfo(torch.float16).max


def collect(
    cell: Cell, original: nn.Module, unlearned: nn.Module, data: Data, split: Split
) -> tuple[dict[str, Tensor], dict[str, float | None]]:
    """Evidence of ``unlearned``: tensors (outputs on forget, retain and test, the relearning curve, representations of
    the first samples of forget and retain) and scalars.

    Raises FloatingPointError when an output is NaN or infinite.
    """
    augment = augmentation(cell.recipe) if cell.probe.augmented else None
    sets = {}
    for name in ("forget", "retain"):
        positions = torch.from_numpy(getattr(split, name)).to(data.x_train.device)
        x, y = data.x_train[positions], data.y_train[positions]
        sets[name] = Samples(x, y, derive_seed(cell.seed, f"probe {name}"), augment, Counter())
    test = data.x_test[torch.from_numpy(split.test).to(data.x_test.device)]
    tensors = {
        "forget": outputs(unlearned, sets["forget"]).float(),
        "retain": outputs(unlearned, sets["retain"]).float(),
        "test": predict(unlearned, test).float(),
    }
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise FloatingPointError("the unlearned model's outputs are not finite")
    tensors["curve"] = relearn_curve(unlearned, sets["retain"], sets["forget"], cell.probe)
    for name, samples in sets.items():
        if (features := representations(unlearned, samples.take(cell.probe.panel).images())) is not None:
            tensors[f"panel.{name}"] = features
    scalars = _relearning(cell, original, unlearned, data, sets["forget"])
    scalars["weight_distance"] = weight_distance(original, unlearned)
    return {name: tensor.cpu() for name, tensor in tensors.items()}, scalars


def _relearning(
    cell: Cell, original: nn.Module, unlearned: nn.Module, data: Data, forget: Samples
) -> dict[str, float | None]:
    """The three relearning counts. A censored one holds its cap, and says so."""
    probe = cell.probe
    target = F.cross_entropy(outputs(original, forget), forget.labels).item()
    steps, seconds = relearn_steps(unlearned, forget, 1.05 * target, probe.relearn_cap)
    train = Samples(data.x_train, data.y_train, derive_seed(cell.seed, "probe train"), None, Counter())
    held = torch.isin(data.y_test, forget.labels.unique())  # unseen samples of the forgotten classes
    x, y = data.x_test[held], data.y_test[held]
    goal = 0.95 * (predict(original, x).argmax(1) == y).float().mean().item() if len(x) else 0.0
    again = anamnesis_steps(unlearned, train, x, y, goal, probe.relearn_cap) if len(x) else None
    epochs = golatkar_epochs(unlearned, train, forget, probe.relearn_epochs)
    counts = {
        "relearn_steps": (steps, probe.relearn_cap),
        "ain_steps": (again, probe.relearn_cap),
        "golatkar_epochs": (epochs, probe.relearn_epochs),
    }
    scalars: dict[str, float | None] = {"relearn_time": seconds, "original_forget_loss": target}
    for name, (value, cap) in counts.items():
        scalars[name] = float(cap if value is None else value)
        scalars[f"{name}_censored"] = float(value is None)
    return scalars


@torch.no_grad()
def representations(model: nn.Module, x: Tensor) -> Tensor | None:
    """The inputs of the head, float16 ``[n, features]``, in eval mode; None for a model without ``encode``.

    Half precision keeps three digits, of features that are compared by angles and neighbours.
    """
    encode, mode = getattr(model, "encode", None), model.training
    if encode is None:
        return None
    model.eval()
    try:
        return torch.cat([encode(part) for part in chunks(x)]).flatten(1).clamp(-HALF, HALF).half()
    finally:
        model.train(mode)


def half_outputs(model: nn.Module, data: Data) -> dict[str, Tensor]:
    """Logits on the training and the test set in the order of the dataset, float16: 11 bits, so that margins of logits
    between -16 and 16 are known to within .01. Losses, margins and attacks of a bank are read from these.

    Raises FloatingPointError when an output is NaN or infinite.
    """
    return {name: half(x) for name, x in whole_outputs(model, data).items()}


def half(logits: Tensor) -> Tensor:
    """Logits as float16. Raises FloatingPointError when one is NaN or infinite."""
    if not torch.isfinite(logits).all():
        raise FloatingPointError("the model's outputs are not finite")
    return logits.float().clamp(-HALF, HALF).half()


def whole_outputs(model: nn.Module, data: Data) -> dict[str, Tensor]:
    """Logits on the training and the test set in the order of the dataset, float32, in eval mode."""
    return {"train": predict(model, data.x_train).float().cpu(), "test": predict(model, data.x_test).float().cpu()}


def weight_distance(original: nn.Module, unlearned: nn.Module) -> float | None:
    """‖θu - θo‖₂ / ‖θo‖₂ over all parameters; None where the two have different parameters."""
    before, after = dict(original.named_parameters()), dict(unlearned.named_parameters())
    if {n: p.shape for n, p in before.items()} != {n: p.shape for n, p in after.items()}:
        return None
    moved = sum((after[name] - p).double().square().sum().item() for name, p in before.items())
    size = sum(p.double().square().sum().item() for p in before.values())
    return (moved / size) ** 0.5 if size else None


def warm_up(model: nn.Module, data: Data, batch_size: int) -> None:
    """One throw-away training step on a copy, so that no method pays for first-call set-up."""
    x, y = data.x_train[:batch_size], data.y_train[:batch_size]
    copy = deepcopy(model).train()
    update(copy, make_optimizer(copy.parameters(), "sgd", 0.0), x, y)
