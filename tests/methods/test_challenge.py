"""FCS, MSG and CFW against plain loops written from their descriptions, in double precision."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from method_cases import CLASS, RANDOM, assert_same_parameters, double, network, parts, split_of, task_of
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.cfw import CFW, balanced
from unlearnbench_methods.fcs import FCS
from unlearnbench_methods.msg import MSG, warm_up_and_decay

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Data
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Access, Method
from unlearnbench.training.models import Classifier


def sets(data: Data, split: Split) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (data.x_train[split.forget], data.y_train[split.forget], data.x_train[split.retain],
            data.y_train[split.retain])  # fmt: skip


@pytest.mark.parametrize("method", [FCS(batch_size=20, forget_batch_size=10), MSG(batch_size=20), CFW(batch_size=20)])
def test_images_are_taken_as_they_are_whatever_the_recipe(data: Data, method: Method) -> None:
    """The challenge's loaders do not augment, and the port's give the images of the test."""
    data, model = double(data), network()
    split, augmenting = split_of(data, RANDOM), Recipe(augment="crop_flip")
    plain = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(method.unlearn(model, task_of(method, data, split, recipe=augmenting)), plain)


# --- fcs -------------------------------------------------------------------------------------------------------------


def fcs_reference(model: nn.Module, data: Data, split: Split, m: FCS, wrong: str = "") -> nn.Module:
    model = deepcopy(model).train()
    x_f, _, x_r, y_r = sets(data, split)
    first = torch.optim.SGD(model.parameters(), lr=m.warmup_lr, momentum=0.9)
    contrast = torch.optim.SGD(model.parameters(), lr=m.forget_lr, momentum=0.9)
    tune = torch.optim.SGD(model.parameters(), lr=m.lr, momentum=0.9, weight_decay=m.weight_decay)
    forget, retain = parts(len(x_f), m.forget_batch_size), parts(len(x_r), m.batch_size)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(contrast, len(forget) * m.epochs, eta_min=1e-6)
    for b in forget:
        p = torch.softmax(model(x_f[b]), 1)
        kl = (1 / 3 * torch.log(1 / 3 / p)).sum(1) if wrong != "KL reversed" else (p * torch.log(p * 3)).sum(1)
        first.zero_grad()
        kl.mean().backward()
        first.step()
    for _ in range(m.epochs):
        for b, c in zip(forget, retain, strict=False):
            z_f = model(x_f[b])  # as in the port: the retain batch passes second
            z_r = model(x_r[c]) if wrong == "not held fixed" else model(x_r[c]).detach()
            dots = torch.stack([(z_r * z).sum(1) for z in z_f]) / (1 if wrong == "no T" else m.temperature)
            loss = -(dots.exp() / dots.exp().sum(1, keepdim=True)).log().mean()
            contrast.zero_grad()
            loss.backward()
            contrast.step()
            if wrong != "no cosine":
                cosine.step()
        for c in retain:
            tune.zero_grad()
            F.cross_entropy(model(x_r[c]), y_r[c]).backward()
            tune.step()
    return model


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("scenario", [CLASS, RANDOM], ids=["class", "random"])
def test_fcs_is_its_reference(data: Data, norm: bool, scenario: tuple[str, dict[str, Any]]) -> None:
    data, model = double(data), network(norm=norm)
    split = split_of(data, scenario)
    method = FCS(forget_lr=0.02, batch_size=30, forget_batch_size=10, epochs=2)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    expected = fcs_reference(model, data, split, method)
    assert_same_parameters(result, expected)
    for (name, buffer), other in zip(result.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-10, atol=1e-10, msg=name)  # statistics move in this order
    for wrong in ("KL reversed", "not held fixed", "no T", "no cosine"):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, fcs_reference(model, data, split, method, wrong))


@pytest.mark.usefixtures("in_order")
def test_fcs_contrasts_as_many_batches_as_the_smaller_set_has(data: Data) -> None:
    data, model = double(data), network()
    split = split_of(data)
    method = FCS(forget_lr=0.02, batch_size=64, forget_batch_size=4, epochs=1)  # 8 forget batches, 1 retain batch
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, fcs_reference(model, data, split, method))


def test_fcs_defaults() -> None:
    m = FCS()
    assert (m.warmup_lr, m.forget_lr, m.lr, m.momentum, m.weight_decay) == (0.005, 3e-4, 0.004, 0.9, 0.01)
    assert (m.temperature, m.batch_size, m.forget_batch_size, m.epochs) == (1.15, 256, 64, 8)


# --- msg -------------------------------------------------------------------------------------------------------------


def expected_choice(model: nn.Module, data: Data, split: Split, share: float, wrong: str = "") -> Tensor:
    """Which weights of the first layer are drawn anew, where batches come in order."""
    x_f, y_f, x_r, y_r = sets(data, split)
    weight = next(model.parameters())
    (g_f,) = torch.autograd.grad(F.cross_entropy(model(x_f), y_f), weight)
    n = len(x_r) if wrong == "all of D_r" else len(x_f)
    (g_r,) = torch.autograd.grad(F.cross_entropy(model(x_r[:n]), y_r[:n]), weight)
    size = (g_r + g_f if wrong == "sum" else g_r - g_f).abs().flatten().numpy()
    order = np.argsort(-size if wrong == "largest" else size)
    chosen = np.zeros(len(size), bool)
    chosen[order[: round(share * len(size))]] = True
    return torch.from_numpy(chosen).view(weight.shape)


def changed(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    then = dict(before.named_parameters())
    return {name: p != then[name] for name, p in after.named_parameters()}


@pytest.mark.usefixtures("in_order")
def test_msg_draws_those_weights_anew_whose_gradients_agree_and_no_others(data: Data) -> None:
    data, model = double(data), network()
    split = split_of(data)
    method = MSG(batch_size=10)
    task = task_of(method, data, split)
    redrawn = deepcopy(model)
    ((weight, scale),) = method.redraw(redrawn, task)
    moved = changed(model, redrawn)
    first, *others = moved.values()
    assert first.sum() == 8  # 30% of 27
    assert not any(other.any() for other in others)
    assert weight is next(redrawn.parameters())
    assert torch.equal(first, expected_choice(model, data, split, 0.3))
    assert torch.equal(scale == 1, first)
    assert set(scale[~first].tolist()) == {0.1}
    assert task.counter.samples == 2 * len(split.forget) + len(split.forget)  # drawn, then a gradient of each set
    for wrong in ("all of D_r", "sum", "largest"):
        assert not torch.equal(first, expected_choice(model, data, split, 0.3, wrong))


def test_msg_draws_from_the_initialisation_of_he_and_anew_for_each_seed(data: Data) -> None:
    split = split_of(data)
    method = MSG(share=1.0)
    drawn = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Classifier(
                nn.Sequential(nn.Conv2d(1, 64, 5, 2), nn.ReLU(), nn.Flatten()), nn.Linear(256, 3), 3
            ).eval()
        method.redraw(model, task_of(method, data, split, seed=seed))
        drawn.append(next(model.parameters()).detach())
    std = math.sqrt(2 / (64 * 5 * 5))  # fan out
    assert drawn[0].std().item() == pytest.approx(std, rel=0.05)
    assert abs(drawn[0].mean().item()) < 4 * std / math.sqrt(1600)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def msg_reference(model: nn.Module, chosen: Tensor, data: Data, split: Split, wrong: str = "") -> nn.Module:
    """Fine-tuning for three epochs from redrawn weights."""
    model = deepcopy(model).train()
    _, _, x_r, y_r = sets(data, split)
    weight = next(model.parameters())
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for factor in (0.5, 1.0, 0.5) if wrong != "constant" else (1.0, 1.0, 1.0):
        sgd.param_groups[0]["lr"] = 0.1 * factor
        for b in parts(len(x_r), 20):
            sgd.zero_grad()
            F.cross_entropy(model(x_r[b]), y_r[b]).backward()
            for p in [weight, *([] if wrong != "head too" else [dict(model.named_parameters())["head.weight"]])]:
                assert p.grad is not None
                tenth = torch.where(chosen, 1.0, 0.1) if p is weight else 0.1
                p.grad *= 1.0 if wrong == "mask ignored" else tenth
            sgd.step()
    return model


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_msg_tunes_with_a_tenth_of_the_gradient_of_weights_that_were_kept(data: Data, norm: bool) -> None:
    data, model = double(data), network(norm=norm)
    split = split_of(data, RANDOM)
    method = MSG(lr=0.1, weight_decay=0.01, batch_size=20, epochs=3)
    redrawn = deepcopy(model)
    method.redraw(redrawn, task_of(method, data, split))
    chosen = expected_choice(model, data, split, 0.3)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, msg_reference(redrawn, chosen, data, split))
    for wrong in ("constant", "mask ignored", "head too"):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, msg_reference(redrawn, chosen, data, split, wrong))


def test_msg_schedule_warms_up_and_decays_by_epochs() -> None:
    assert [warm_up_and_decay(e, 5) for e in range(1, 6)] == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    assert [warm_up_and_decay(e, 2) for e in (1, 2)] == pytest.approx([1, 1 / 2])
    assert warm_up_and_decay(1, 1) == 1


def test_msg_defaults() -> None:
    m = MSG()
    assert (m.lr, m.momentum, m.weight_decay, m.batch_size, m.epochs) == (1e-3, 0.9, 5e-4, 64, 5)
    assert (m.share, m.scale) == (0.3, 0.1)


# --- cfw -------------------------------------------------------------------------------------------------------------


def uneven(split: Split) -> Split:
    """Without class 0, and with half of class 1: the classes that are left are 1, 1, 2, 2 ... by turns in order."""
    return replace(split, retain=split.retain[[i for i in range(len(split.retain)) if i % 4]])


def cfw_reference(model: nn.Module, data: Data, split: Split, m: CFW, wrong: str = "") -> nn.Module:
    """For three epochs."""
    model = deepcopy(model).train()
    _, _, x_r, y_r = sets(data, split)
    weight = next(model.parameters())
    rng = task_of(m, data, split).generator("noise")

    def disturb(sigma: float) -> None:
        weight.data += sigma * torch.randn(weight.shape, generator=rng, dtype=weight.dtype)

    counts = [(y_r == c).sum().item() for c in range(3)]
    c = torch.tensor([0.0, len(y_r) / 2 / counts[1], len(y_r) / 2 / counts[2]], dtype=torch.float64)
    sgd = torch.optim.SGD(model.parameters(), lr=m.lr, momentum=0.9, weight_decay=m.weight_decay)
    disturb(m.start_sigma)
    for epoch, factor in enumerate((1.0, 0.75, 0.25)):
        sgd.param_groups[0]["lr"] = m.lr * factor
        if epoch == 2 and wrong != "no last noise":
            disturb(m.final_sigma)
        for b in parts(len(x_r), m.batch_size):
            loss = F.cross_entropy(model(x_r[b]), y_r[b]) * c[y_r[b]].mean()
            if wrong == "by sample":
                loss = (F.cross_entropy(model(x_r[b]), y_r[b], reduction="none") * c[y_r[b]]).mean()
            if wrong == "unweighted":
                loss = F.cross_entropy(model(x_r[b]), y_r[b])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
    return model


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_cfw_is_its_reference(data: Data, norm: bool) -> None:
    data, model = double(data), network(norm=norm)
    split = uneven(split_of(data))
    method = CFW(lr=0.05, batch_size=10, epochs=3)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_close(result, cfw_reference(model, data, split, method))
    for wrong in ("no last noise", "by sample", "unweighted"):
        with pytest.raises(AssertionError):
            assert_close(result, cfw_reference(model, data, split, method, wrong))


def assert_close(one: nn.Module, other: nn.Module) -> None:
    """As `assert_same_parameters`, for what was weighted in single precision."""
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_cfw_disturbs_the_weight_of_the_first_layer_alone(data: Data) -> None:
    model = build("models", "cnn", {}).build((1, 8, 8), 3).eval()
    method = CFW(lr=1e-12, weight_decay=0.0, final_sigma=0.0)
    result = method.unlearn(deepcopy(model), task_of(method, data, split_of(data)))
    before = dict(model.named_parameters())
    moves = {name: (p - before[name]).detach() for name, p in result.named_parameters()}
    assert {name for name, move in moves.items() if move.abs().max() > 1e-6} == {"encoder.0.weight"}
    assert moves["encoder.0.weight"].std().item() == pytest.approx(0.6, rel=0.15)  # 400 draws


def test_cfw_weights_of_classes_are_balanced_over_those_that_are_there() -> None:
    assert balanced(torch.tensor([1, 1, 1, 2]), 3).tolist() == pytest.approx([0, 2 / 3, 2])
    assert balanced(torch.tensor([0, 1, 2, 0, 1, 2]), 3).tolist() == [1, 1, 1]


def test_cfw_defaults() -> None:
    m = CFW()
    assert (m.lr, m.momentum, m.weight_decay, m.batch_size, m.epochs) == (7e-4, 0.9, 5e-4, 64, 4)
    assert (m.start_sigma, m.final_sigma) == (0.6, 0.005)
    assert m.needs == Access.RETAIN | Access.LABELS  # the forget set is not looked at
