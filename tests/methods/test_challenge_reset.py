"""PRMQ, CT, KDE and RNI against plain loops written from their descriptions, in double precision."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from method_cases import CLASS, RANDOM, assert_same_parameters, double, network, parts, split_of, task_of
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods import rni
from unlearnbench_methods.ct import CT
from unlearnbench_methods.kde import KDE
from unlearnbench_methods.prmq import PRMQ, entropy
from unlearnbench_methods.rni import RNI
from unlearnbench_methods.steps import reset_layer

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Data
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Access, Method
from unlearnbench.training.models import Classifier


def cnn() -> Classifier:
    return build("models", "cnn", {}).build((1, 8, 8), 3).eval()


@pytest.mark.parametrize(
    "method", [PRMQ(batch_size=20), CT(batch_size=20), KDE(batch_size=20), RNI(layers=2, batch_size=20)]
)
def test_images_are_taken_as_they_are_whatever_the_recipe(data: Data, method: Method) -> None:
    """The challenge's loaders do not augment, and the port's give the images of the test."""
    data, model = double(data), network()
    data = replace(data, x_validation=data.x_validation.double())
    split, augmenting = split_of(data, RANDOM), Recipe(augment="crop_flip")
    plain = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(method.unlearn(model, task_of(method, data, split, recipe=augmenting)), plain)


# --- ct --------------------------------------------------------------------------------------------------------------


def ct_reference(model: nn.Module, data: Data, split: Split, lr: float, wrong: str = "") -> nn.Module:
    """For three epochs."""
    model = deepcopy(model).train()
    x, y = data.x_train[split.retain], data.y_train[split.retain]
    weight = next(model.parameters())
    old = weight.detach().clone()
    for a in range(3):
        for b in range(3):
            weight.data[:, :, a, b] = old[:, :, b, 2 - a] if wrong == "rotated" else old[:, :, b, a]
    sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    for factor in (1.0, 0.75, 0.25) if wrong != "constant" else (1.0, 1.0, 1.0):
        sgd.param_groups[0]["lr"] = lr * factor
        for b in parts(len(x), 20):
            sgd.zero_grad()
            F.cross_entropy(model(x[b]), y[b]).backward()
            sgd.step()
    return model


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_ct_is_its_reference(data: Data, norm: bool) -> None:
    data, model = double(data), network(norm=norm)
    split = split_of(data)
    method = CT(lr=0.05, batch_size=20)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, ct_reference(model, data, split, 0.05))
    for wrong in ("rotated", "constant"):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, ct_reference(model, data, split, 0.05, wrong))


def test_ct_transposes_every_convolution_and_nothing_else(data: Data) -> None:
    model = cnn()
    method = CT(lr=1e-30, weight_decay=0.0, epochs=1)
    result = dict(method.unlearn(deepcopy(model), task_of(method, data, split_of(data))).named_parameters())
    for name, p in model.named_parameters():
        expected = p.transpose(2, 3) if p.dim() == 4 else p
        assert torch.equal(result[name], expected), name
    assert sum(p.dim() == 4 for p in model.parameters()) == 2


def test_ct_defaults() -> None:
    m = CT()
    assert (m.lr, m.momentum, m.weight_decay, m.batch_size, m.epochs) == (1e-3, 0.9, 5e-4, 64, 3)
    assert m.needs == Access.RETAIN | Access.LABELS


# --- prmq ------------------------------------------------------------------------------------------------------------


def test_prmq_prunes_the_smallest_weights_over_all_layers(data: Data) -> None:
    data, model = double(data), network(norm=True)
    with torch.no_grad():
        model.head.bias *= 1e-3  # so that biases are among the smallest
    pruned = deepcopy(model)
    method = PRMQ(amount=0.4)
    method.prune(pruned, task_of(method, data, split_of(data)).generator("weights"))
    before = dict(model.named_parameters())
    names = [name for name in before if not name.startswith("encoder.1.")]  # all but the normalisation's
    sizes = np.concatenate([before[name].detach().abs().flatten().numpy() for name in names])
    limit = np.sort(sizes)[round(0.4 * len(sizes)) - 1]
    fan_in = {"encoder.0.weight": 9, "encoder.4.weight": 27, "head.weight": 6}
    for name, p in pruned.named_parameters():
        small = (before[name].abs() <= limit) & (name in names)
        assert torch.equal(p[~small], before[name][~small]), name
        if name.endswith("weight") and name in names:
            assert small.any()
            assert (p[small] != before[name][small]).all()
            assert p[small].abs().max() <= fan_in[name] ** -0.5
        else:
            assert (p[small] == 0).all()
    assert (pruned.head.get_parameter("bias") == 0).all()


def prmq_reference(
    model: nn.Module, pruned: nn.Module, data: Data, split: Split, steps: int, wrong: str = ""
) -> nn.Module:
    teacher, model = deepcopy(model).eval(), deepcopy(pruned).train()
    x, y = data.x_train[split.retain], data.y_train[split.retain]
    c = torch.tensor([max(1, int((y == k).sum())) ** -0.1 for k in range(3)], dtype=torch.float64)

    def spread(z: Tensor) -> Tensor:
        p = torch.softmax(z, 1)
        return -(p * torch.log(p)).sum(1)

    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    batches = parts(len(x), 16)
    for step in range(steps):
        b = batches[step % len(batches)]
        z = model(x[b])
        with torch.no_grad():
            target = spread((pruned if wrong == "pruned teacher" else teacher)(x[b]))
        ce = -torch.log(torch.softmax(z, 1)[range(len(z)), y[b]])
        ce = ce.mean() if wrong == "unweighted" else (c[y[b]] * ce).sum() / c[y[b]].sum()
        gap = spread(z) - target
        sgd.zero_grad()
        (ce + (gap.abs().mean() if wrong == "not squared" else gap.pow(2).mean())).backward()
        sgd.step()
    for p in model.parameters():
        p.data = p.data.half().double()
    return model


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_prmq_is_its_reference(data: Data, norm: bool) -> None:
    data, model = double(data), network(norm=norm)
    split = split_of(data)
    split = replace(split, retain=split.retain[[i for i in range(len(split.retain)) if i % 2 or i % 8 == 0]])  # 8 to 32
    with torch.no_grad():
        model.head.get_parameter("weight").mul_(20)  # so that the original is sure of its predictions
    method = PRMQ(lr=0.1, batch_size=16, epochs=1.7)
    pruned = deepcopy(model)
    method.prune(pruned, task_of(method, data, split).generator("weights"))
    steps = 6  # 40 samples of batches of 16 are 3: ⌊1.7 · 3⌋ + 1
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, prmq_reference(model, pruned, data, split, steps))
    for wrong in ("pruned teacher", "unweighted", "not squared"):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, prmq_reference(model, pruned, data, split, steps, wrong))
    with pytest.raises(AssertionError):
        assert_same_parameters(result, prmq_reference(model, pruned, data, split, steps - 1))


def test_prmq_ends_in_half_precision_buffers_included(data: Data) -> None:
    method = PRMQ()
    model = network(norm=True, dtype=torch.float32)
    state = method.unlearn(model, task_of(method, data, split_of(data))).state_dict()
    assert all(torch.equal(t, t.half().to(t.dtype)) for t in state.values())
    assert {t.dtype for t in state.values()} == {torch.float32, torch.int64}


def test_prmq_entropy_and_defaults() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -math.inf, -math.inf]]).clamp(min=-200)
    assert entropy(logits).tolist() == pytest.approx([math.log(4), 2 * math.log(2) - 0.75 * math.log(3)])
    m = PRMQ()
    assert (m.lr, m.momentum, m.weight_decay, m.batch_size) == (5e-4, 0.9, 5e-4, 64)
    assert (m.epochs, m.amount, m.needs) == (3.2, 0.99, Access.RETAIN | Access.LABELS)


# --- kde -------------------------------------------------------------------------------------------------------------


def kde_reference(model: nn.Module, data: Data, split: Split, m: KDE, wrong: str = "") -> nn.Module:
    """For three epochs of the second stage."""
    teacher, model = deepcopy(model).eval(), deepcopy(model)
    rng = task_of(m, data, split).generator("reset")
    for layer in (model.get_submodule("encoder.0"), model.get_submodule("head")):
        reset_layer(layer, rng)
    model.train()
    x, y = data.x_train[split.retain], data.y_train[split.retain]
    x_v = data.x_train[split.forget] if wrong == "warmed up on D_f" else data.x_validation
    t = 1.0 if wrong == "no T" else m.temperature

    def kl(z: Tensor, target: Tensor) -> Tensor:
        p, q = torch.softmax(target / t, 1), torch.softmax(z / t, 1)
        p, q = (q, p) if wrong == "KL reversed" else (p, q)
        return (p * torch.log(p / q)).sum(1).mean()

    sgd = torch.optim.SGD(model.parameters(), lr=m.warmup_lr, momentum=0.9, weight_decay=5e-4)
    for _ in range(m.warmup_epochs):
        for b in parts(len(x_v), m.batch_size):
            sgd.zero_grad()
            kl(model(x_v[b]), teacher(x_v[b]).detach()).backward()
            sgd.step()
    sgd = torch.optim.SGD(model.parameters(), lr=m.lr, momentum=0.9, weight_decay=5e-4)
    for factor in (1.0, 0.75, 0.25):
        sgd.param_groups[0]["lr"] = m.lr * factor
        for b in parts(len(x), m.batch_size):
            z, target = model(x[b]), teacher(x[b]).detach()
            soft = -(torch.softmax(target / t, 1) * torch.log(torch.softmax(z / t, 1))).sum(1).mean()
            loss = F.cross_entropy(z, y[b]) + kl(z, target) + (0 if wrong == "no soft labels" else soft)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    return model


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("scenario", [CLASS, RANDOM], ids=["class", "random"])
def test_kde_is_its_reference(data: Data, norm: bool, scenario: tuple[str, dict[str, Any]]) -> None:
    data, model = double(data), network(norm=norm)
    data = replace(data, x_validation=data.x_validation.double())
    split = split_of(data, scenario)
    method = KDE(lr=0.05, warmup_lr=0.1, batch_size=20)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, kde_reference(model, data, split, method))
    for wrong in ("warmed up on D_f", "no T", "KL reversed", "no soft labels"):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, kde_reference(model, data, split, method, wrong))


def test_kde_resets_the_first_and_the_last_layer_by_the_default_law(data: Data) -> None:
    model = cnn()
    method = KDE(lr=1e-30, warmup_lr=1e-30, weight_decay=0.0, epochs=1, warmup_epochs=1)
    result = dict(method.unlearn(deepcopy(model), task_of(method, data, split_of(data))).named_parameters())
    bounds = {"encoder.0.weight": 1 / 5, "encoder.0.bias": 1 / 5, "head.1.weight": 128**-0.5, "head.1.bias": 128**-0.5}
    for name, p in model.named_parameters():
        assert torch.equal(result[name], p) == (name not in bounds), name
    for name, bound in bounds.items():
        assert result[name].abs().max() <= bound
        if name.endswith("weight"):
            assert result[name].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_kde_defaults() -> None:
    m = KDE()
    assert (m.lr, m.warmup_lr, m.momentum, m.weight_decay, m.batch_size) == (1e-3, 9e-4, 0.9, 5e-4, 64)
    assert (m.temperature, m.warmup_epochs, m.epochs) == (5.0, 3, 3)
    assert m.needs == Access.RETAIN | Access.VALIDATION | Access.LABELS


# --- rni -------------------------------------------------------------------------------------------------------------


def record(method: RNI, model: nn.Module, data: Data, patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Of each epoch the learning rate, what is trained, and the parameters before and after it; first, the start."""
    epochs: list[dict[str, Any]] = [{"after": state(model)}]
    tune = rni.tune

    def watched(net: nn.Module, samples: Any, batch_size: int, optimizer: Any) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        trained = {name for name, p in net.named_parameters() if id(p) in held}
        epochs.append({"lr": optimizer.param_groups[0]["lr"], "trained": trained, "before": state(net)})
        tune(net, samples, batch_size, optimizer)
        epochs[-1]["after"] = state(net)

    patch.setattr(rni, "tune", watched)
    method.unlearn(model, task_of(method, data, split_of(data)))
    return epochs


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_rni_disturbs_and_trains_a_few_tensors_at_a_time(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = double(data), network(norm=True)
    model.encoder.append(nn.Linear(6, 6, dtype=torch.float64))
    method = RNI(layers=3, sigma=0.5, batch_size=20)
    epochs = record(method, model, data, monkeypatch)
    norms, names = {"encoder.1.weight", "encoder.1.bias"}, set(epochs[0]["after"])
    moved = [
        {n for n in names if not torch.equal(now["before"][n], then["after"][n])} for then, now in pairwise(epochs)
    ]
    assert [e["lr"] for e in epochs[1:]] == [2e-4] * 8 + [1e-3]
    assert moved[0] == {"head.weight", "head.bias"}  # reset, no noise yet
    seen = set(epochs[1]["trained"])
    for e, noisy in zip(epochs[2:6], moved[1:5], strict=True):
        assert len(noisy) <= 2  # ⌊.7 · 3⌋
        assert noisy <= e["trained"] - norms - seen  # never twice
        seen |= e["trained"]
    assert any(moved[1:5])
    for e in epochs[1:6]:
        assert norms < e["trained"]
        assert len(e["trained"] - norms) == 3
        for name in names:  # with weight decay and momentum, and yet
            assert torch.equal(e["before"][name], e["after"][name]) == (name not in e["trained"])
    assert all(e["trained"] == names for e in epochs[6:])
    assert not any(moved[5:])


def test_rni_adds_noise_of_the_given_size(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = record(RNI(layers=100, noise_ratio=1.0), cnn(), data, monkeypatch)
    assert epochs[1]["trained"] == set(epochs[0]["after"])  # all of fewer: so none is left that could get noise
    monkeypatch.undo()
    epochs = record(RNI(layers=1, noise_ratio=1.0, epochs=30), cnn(), data, monkeypatch)
    noise = [
        (now["before"][n] - then["after"][n]).flatten() for then, now in pairwise(epochs[1:]) for n in then["after"]
    ]
    noise = [move for move in noise if move.any()]
    assert len(noise) == 9  # each of ten tensors once, less that of the first epoch
    assert torch.cat(noise).std().item() == pytest.approx(0.04, rel=0.05)


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("wrong", ["", "one optimizer", "same rate"])
def test_rni_fine_tunes_with_a_new_optimizer_each_epoch(data: Data, wrong: str) -> None:
    data, model = double(data), network(norm=True)
    split = split_of(data)
    method = RNI(lr=0.05, last_lr=0.1, epochs=3, fine_epochs=3, batch_size=20)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    reset_layer(model.head, task_of(method, data, split).generator("layers and noise"))
    model.train()
    x, y = data.x_train[split.retain], data.y_train[split.retain]
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for lr in (0.05, 0.05, 0.1):
        if wrong != "one optimizer":
            sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        sgd.param_groups[0]["lr"] = 0.05 if wrong == "same rate" else lr
        for b in parts(len(x), 20):
            sgd.zero_grad()
            F.cross_entropy(model(x[b]), y[b]).backward()
            sgd.step()
    if wrong:
        with pytest.raises(AssertionError):
            assert_same_parameters(result, model)
    else:
        assert_same_parameters(result, model)


def test_rni_defaults() -> None:
    m = RNI()
    assert (m.lr, m.last_lr, m.momentum, m.weight_decay, m.batch_size) == (2e-4, 1e-3, 0.9, 5e-4, 64)
    assert (m.epochs, m.fine_epochs, m.layers, m.noise_ratio, m.sigma) == (9, 4, 9, 0.7, 0.04)
    assert m.needs == Access.RETAIN | Access.LABELS
