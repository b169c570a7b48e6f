"""Methods that steer by gradients, curvature and differences of weights, against plain lines in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import islice
from typing import Any

import pytest
import torch
from method_cases import CLASS, RANDOM, assert_same_parameters, double, network, split_of, task_of
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.influence import Influence
from unlearnbench_methods.negmerge import NegMerge, consensus
from unlearnbench_methods.sfron import SFRon
from unlearnbench_methods.uam import UAM
from unlearnbench_methods.unrolling_sgd import UnrollingSGD

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Data
from unlearnbench.plan.cells import Recipe
from unlearnbench.training.models import Classifier

Pair = tuple[Tensor, Tensor]


def parts(data: Data, split: Split) -> tuple[Pair, Pair]:
    """Images and labels to forget, and to retain, in order."""
    return tuple((data.x_train[index], data.y_train[index]) for index in (split.forget, split.retain))  # type: ignore[return-value]


def slices(part: Pair, size: int) -> list[Pair]:
    return list(zip(part[0].split(size), part[1].split(size), strict=True))


def forever(part: Pair, size: int) -> Iterator[Pair]:
    while True:
        yield from slices(part, size)


def flat_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    gradients = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    return torch.cat([g.flatten() for g in gradients])


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def shifted(model: Classifier, step: Tensor) -> Classifier:
    result = deepcopy(model)
    nn.utils.vector_to_parameters(flat(model) + step, result.parameters())
    return result


# --- influence -------------------------------------------------------------------------------------------------------


def newton(v: Tensor, single: list[Tensor], n: int) -> Tensor:
    """The same recursion in numbers: o = s·g_1 and k = v - c·g_1 at every step."""
    first, s, c = single[0], 1.0, 0.0
    for g in single[1:]:
        b, a = float(first @ g), float(v @ g)
        factor = s / (n + s * b)
        c, s = c + (a - c * b) * factor, s - s * b * factor
    return v - c * first


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_influence_is_alpha_times_the_woodfisher_product(data: Data, norm: bool) -> None:
    data, model, split = double(data), network(norm=norm), split_of(data)
    method = Influence(alpha=3.0, samples=20, batch_size=7)
    (x_f, y_f), (x_r, y_r) = parts(data, split)
    g_f, g_r = flat_gradient(model, x_f, y_f), flat_gradient(model, x_r, y_r)
    single = [flat_gradient(model, x_r[i : i + 1], y_r[i : i + 1]) for i in range(20)]
    expected = 3 * newton((g_f - g_r) * 32 / 96, single, 20)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, shifted(model, expected))
    assert all(torch.equal(a, b) for a, b in zip(result.buffers(), model.buffers(), strict=True))
    wrong = {
        "no retain gradient": 3 * newton(g_f * 32 / 96, single, 20),
        "no share": 3 * newton(g_f - g_r, single, 20),
        "wrong sign": -expected,
        "N of all samples": 3 * newton((g_f - g_r) * 32 / 96, single, 64),
        "no curvature": 3 * (g_f - g_r) * 32 / 96,
    }
    for step in wrong.values():
        with pytest.raises(AssertionError):
            assert_same_parameters(result, shifted(model, step))


def test_influence_reads_so_many_single_samples(data: Data) -> None:
    method = Influence(samples=20)
    task = task_of(method, data, split_of(data))
    method.unlearn(network(dtype=torch.float32), task)
    assert task.counter.samples == 32 + 64 + 20


def test_influence_turns_one_direction_only(data: Data) -> None:
    """What the curvature changes lies along the gradient of the first retain sample, as in the authors' recursion."""
    data, model, split = double(data), network(), split_of(data)
    method = Influence(alpha=1.0, samples=10)
    (x_f, y_f), (x_r, y_r) = parts(data, split)
    v = (flat_gradient(model, x_f, y_f) - flat_gradient(model, x_r, y_r)) / 3
    rest = flat(method.unlearn(deepcopy(model), task_of(method, data, split))) - flat(model) - v
    assert abs(F.cosine_similarity(rest, flat_gradient(model, x_r[:1], y_r[:1]), dim=0)) > 1 - 1e-9


@pytest.mark.parametrize("wrong", ["", "D_f as it is", "single samples as they are"])
def test_influence_augments_both_sets_in_all_three_passes(data: Data, wrong: str) -> None:
    data, model, split = double(data), network(norm=True), split_of(data)
    method = Influence(alpha=3.0, samples=20, batch_size=64)
    recipe = Recipe(augment="crop_flip")
    task, again = (task_of(method, data, split, recipe=recipe) for _ in range(2))
    result = method.unlearn(deepcopy(model), task)
    ((x_f, y_f),) = again.forget.batches(64, shuffle=False, augment=not wrong.startswith("D_f"))
    ((x_r, y_r),) = again.retain.batches(64, shuffle=False)
    few = again.retain.take(20).batches(1, shuffle=False, augment=not wrong.startswith("single"))
    v = (flat_gradient(model, x_f, y_f) - flat_gradient(model, x_r, y_r)) / 3
    expected = shifted(model, 3 * newton(v, [flat_gradient(model, x, y) for x, y in few], 20))
    if not wrong:
        return assert_same_parameters(result, expected)
    with pytest.raises(AssertionError):
        assert_same_parameters(result, expected)


# --- unrolling_sgd ---------------------------------------------------------------------------------------------------


def test_unrolling_sgd_adds_the_gradients_at_the_initial_weights(data: Data) -> None:
    split, method = split_of(data), UnrollingSGD(lr=0.2, batch_size=10, epochs=3)
    task = task_of(method, data, split)
    initial = task.initial_model()
    original = shifted(initial, torch.linspace(-0.05, 0.05, len(flat(initial))))
    forget, _ = parts(data, split)

    def summed(model: Classifier) -> Tensor:
        return torch.stack([flat_gradient(model, x, y) for x, y in slices(forget, 10)]).sum(0)

    def close(step: Tensor) -> None:
        torch.testing.assert_close(flat(result), flat(original) + step, rtol=1e-5, atol=1e-6)

    result = method.unlearn(deepcopy(original), task)
    close(0.2 * 3 * summed(initial))
    whole = flat_gradient(initial, *forget)
    for step in (-0.6 * summed(initial), 0.2 * summed(initial), 0.6 * summed(original), 0.6 * whole):
        with pytest.raises(AssertionError):
            close(step)


# --- sfron -----------------------------------------------------------------------------------------------------------


def sfron_reference(model: Classifier, data: Data, split: Split, m: SFRon, bug: str = "") -> Classifier:
    original, model = deepcopy(model).eval(), deepcopy(model).train()
    forget, retain = parts(data, split)

    def fisher(part: Pair) -> Tensor:
        single = torch.stack([flat_gradient(original, x, y) for x, y in slices(part, m.batch_size)])
        return single.mean(0) ** 2 if bug == "square of the mean" else (single**2).mean(0)

    mask = (fisher(forget) + 1e-15) / (fisher(retain) + 1e-15) >= m.threshold
    mask = torch.ones_like(mask) if bug == "no mask" else mask
    masks = mask.split([p.numel() for p in model.parameters()])
    sgd = torch.optim.SGD(model.parameters(), m.lr, m.momentum, weight_decay=m.weight_decay)
    steps, from_f = m.epochs * math.ceil(len(retain[0]) / m.batch_size), forever(forget, m.batch_size)
    for t, (x, y) in enumerate(islice(forever(retain, m.batch_size), steps)):
        cosine = 1.0 if bug == "constant" else (1 + math.cos(math.pi * t / steps)) / 2
        sgd.param_groups[0]["lr"] = m.lr * cosine
        if t % m.every == 0:
            x_f, y_f = next(from_f)
            losses = F.cross_entropy(model(x_f), y_f, reduction="none")
            w = losses.detach() ** (m.power if bug == "large losses count more" else -m.power)
            sgd.zero_grad()
            ((1 if bug == "descent" else -1) * m.alpha * cosine * (w * losses).sum() / w.sum()).backward()
            for p, keep in zip(model.parameters(), masks, strict=True):
                assert p.grad is not None
                p.grad *= keep.view_as(p)
            norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
            for p in model.parameters():
                assert p.grad is not None
                p.grad *= min(1.0, m.max_norm / float(norm + 1e-6))
            sgd.step()
        sgd.zero_grad()
        F.cross_entropy(model(x), y).backward()
        sgd.step()
    return model


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_sfron_is_its_reference_parameter_by_parameter(data: Data, norm: bool, max_norm: float) -> None:
    data, model, split = double(data), network(norm=norm), split_of(data, RANDOM)
    method = SFRon(alpha=2, every=2, max_norm=max_norm, power=0.7, batch_size=16, epochs=2)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, sfron_reference(model, data, split, method))
    for bug in ("no mask", "square of the mean", "constant", "large losses count more", "descent"):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, sfron_reference(model, data, split, method, bug))


def test_sfron_weighs_a_sample_by_the_inverse_power_of_its_loss() -> None:
    losses = torch.tensor([0.25, 1.0], dtype=torch.float64)
    margins = -torch.log(torch.expm1(losses))  # of the true class over the only other
    logits = torch.stack([margins, torch.zeros(2, dtype=torch.float64)], 1)
    weighted = SFRon(power=0.5).weighted(logits, torch.tensor([0, 0]))
    assert weighted.item() == pytest.approx((2 * 0.25 + 1 * 1.0) / 3)


def test_sfron_climbs_at_every_fifth_step(data: Data) -> None:
    method = SFRon(batch_size=16, epochs=3)
    task = task_of(method, data, split_of(data))  # 12 steps over 64 retained samples: ascents at 0, 5 and 10
    method.unlearn(network(dtype=torch.float32), task)
    assert task.counter.samples == (32 + 64) + 3 * 64 + 3 * 16


# --- uam -------------------------------------------------------------------------------------------------------------


def uam_reference(model: Classifier, data: Data, split: Split, m: UAM, bug: str = "") -> Classifier:
    model = deepcopy(model).train()
    forget, retain = parts(data, split)
    sgd = torch.optim.SGD(model.parameters(), m.lr, m.momentum, weight_decay=m.weight_decay)
    steps = m.epochs * math.ceil(max(len(forget[0]), len(retain[0])) / m.batch_size)
    pairs = zip(forever(forget, m.batch_size), forever(retain, m.batch_size), strict=True)
    for t, ((x_f, y_f), (x_r, y_r)) in enumerate(islice(pairs, steps)):
        rho = m.rho * (1.0 if bug == "constant" else (1 + math.cos(math.pi * t / steps)) / 2)
        logits = model(x_f) if bug == "forget batch alone" else model(torch.cat([x_f, x_r]))[: len(x_f)]
        gradient = torch.autograd.grad(F.cross_entropy(logits, y_f), list(model.parameters()))
        norm = torch.sqrt(sum(((g**2).sum() for g in gradient), torch.tensor(0.0)))
        factor = {"squared norm": rho / norm**2, "descent": -rho / norm}.get(bug, rho / norm)
        at = deepcopy(model)
        with torch.no_grad():
            for p, g in zip(at.parameters(), gradient, strict=True):
                p.add_(factor * (g / g.norm() * norm if bug == "norm of each" else g))
        there = torch.autograd.grad(F.cross_entropy(at(x_r), y_r), list(at.parameters()))
        if bug == "stays there":
            model.load_state_dict(at.state_dict())
        for p, g in zip(model.parameters(), there, strict=True):
            p.grad = g
        sgd.step()
    return model


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("scenario", [RANDOM, ("class", {"classes": [0, 1]})], ids=["small", "large"])
def test_uam_is_its_reference_parameter_by_parameter(data: Data, norm: bool, scenario: tuple[str, Any]) -> None:
    data, model, split = double(data), network(norm=norm), split_of(data, scenario)
    method = UAM(rho=0.3, lr=0.05, batch_size=20, epochs=2)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, uam_reference(model, data, split, method))
    bugs = ["squared norm", "descent", "norm of each", "stays there", "constant"]
    for bug in bugs + ["forget batch alone"] * norm:
        with pytest.raises(AssertionError):
            assert_same_parameters(result, uam_reference(model, data, split, method, bug))


@pytest.mark.parametrize(("scenario", "augments"), [(CLASS, True), (RANDOM, False)], ids=["class", "random"])
def test_uam_augments_for_a_class_alone(data: Data, scenario: tuple[str, Any], augments: bool) -> None:
    method, model, seen = UAM(batch_size=32, epochs=1), network(dtype=torch.float32), list[Tensor]()
    model.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    method.unlearn(model, task_of(method, data, split_of(data, scenario), recipe=Recipe(augment="crop_flip")))
    known = [any(torch.equal(image, x) for x in data.x_train) for image in seen]
    assert (sum(known) < len(known) / 2) if augments else all(known)


# --- negmerge --------------------------------------------------------------------------------------------------------


def test_consensus_is_the_mean_where_all_signs_agree() -> None:
    vectors = torch.tensor([[1.0, -2.0, 3.0, 0.0, 0.0], [3.0, -4.0, -1.0, 5.0, 0.0]])
    assert consensus(vectors).tolist() == [2.0, -3.0, 0.0, 0.0, 0.0]


def trained(data: Data, norm: bool = False) -> Classifier:
    model = network(norm=norm).train()
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(6):
        adam.zero_grad()
        F.cross_entropy(model(data.x_train), data.y_train).backward()
        adam.step()
    return model.eval()


def tuned(model: Classifier, forget: Pair, lr: float, batch: int, epochs: int) -> Classifier:
    model = deepcopy(model).train()
    sgd = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    for x, y in slices(forget, batch) * epochs:
        sgd.zero_grad()
        F.cross_entropy(model(x), y).backward()
        sgd.step()
    return model.eval()


@pytest.mark.usefixtures("in_order")
def test_negmerge_subtracts_the_consensus_at_the_best_scale_that_retains(data: Data) -> None:
    data, split = double(data), split_of(data, RANDOM)
    model, n = trained(data), len(split.forget)
    method = NegMerge(lr=0.05, epochs=2, scale=0.5, points=8, keep=0.75, repeats=1, batch_size=5)
    forget, retain = parts(data, split)
    vectors = torch.stack([flat(tuned(model, forget, lr, 5, 2)) - flat(model) for lr in (0.005, 0.025, 0.05)])
    agree = (vectors > 0).all(0) | (vectors < 0).all(0)
    merged = vectors.mean(0) * agree
    assert (vectors.mean(0) * ~agree).abs().max() > 1e-3

    def right(model: Classifier, part: Pair) -> float:
        return (model(part[0]).argmax(1) == part[1]).double().mean().item()

    kept = retain[0][:n], retain[1][:n]
    scores = [(right(m, forget), right(m, kept)) for m in (shifted(model, -i / 16 * merged) for i in range(9))]
    allowed = [i for i in range(9) if scores[i][1] >= 0.75 * scores[0][1]]
    best = min(allowed, key=lambda i: scores[i][0])
    assert len(allowed) < 9
    assert best == 3  # of several that change something
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, shifted(model, -best / 16 * merged))
    for step in (best / 16 * merged, -best / 16 * vectors.mean(0), -best / 16 * vectors.sum(0) * agree):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, shifted(model, step))


def test_negmerge_changes_nothing_where_no_scale_retains(data: Data) -> None:
    data, split = double(data), split_of(data)
    model = trained(data, norm=True)
    method = NegMerge(lr=0.05, scale=1e6, points=1, keep=1.0, repeats=1)
    result = method.unlearn(deepcopy(model), task_of(method, data, split)).state_dict()
    assert all(torch.equal(result[name], tensor) for name, tensor in model.state_dict().items())


def test_negmerge_learns_from_the_forget_set_alone(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, float]] = []

    def watch(model: nn.Module, samples: Any, recipe: Recipe) -> nn.Module:
        seen.append((len(samples), recipe.lr))
        return model

    monkeypatch.setattr("unlearnbench_methods.negmerge.train", watch)
    method = NegMerge(lr=0.1, repeats=2)
    method.unlearn(network(dtype=torch.float32), task_of(method, data, split_of(data)))
    assert seen == [(32, pytest.approx(lr)) for lr in (0.01, 0.01, 0.05, 0.05, 0.1, 0.1)]


# --- defaults --------------------------------------------------------------------------------------------------------

DEFAULTS: dict[Callable[[], Any], dict[str, Any]] = {
    Influence: {"alpha": 1, "samples": 1000, "batch_size": 256},
    UnrollingSGD: {"lr": 0.1, "batch_size": 32, "epochs": 1},
    SFRon: {"lr": 0.01, "alpha": 25, "power": 0.5, "threshold": 1, "every": 5, "max_norm": 7, "momentum": 0.9,
            "weight_decay": 5e-4, "batch_size": 128, "epochs": 4},
    UAM: {"rho": 0.2, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 128, "epochs": 5},
    NegMerge: {"lr": 1e-3, "epochs": 1, "scale": 1, "keep": 0.95, "repeats": 3, "points": 20, "momentum": 0.9,
               "weight_decay": 0, "batch_size": 128},
}  # fmt: skip


@pytest.mark.parametrize("cls", DEFAULTS)
def test_defaults(cls: Callable[[], Any]) -> None:
    assert vars(cls()) == DEFAULTS[cls]
