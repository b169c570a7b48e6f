"""Each method's arithmetic against a few plain lines written from its paper, in double precision."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from method_cases import RANDOM, assert_same_parameters, double, gradients, network, split_of, task_of
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.camu import CaMU
from unlearnbench_methods.finetune import FineTune
from unlearnbench_methods.gradient_ascent import GradientAscent
from unlearnbench_methods.neggrad_plus import NegGradPlus
from unlearnbench_methods.random_label import RandomLabel
from unlearnbench_methods.steps import frozen, other_labels

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Data, Samples
from unlearnbench.plan.cells import Recipe
from unlearnbench.training.models import Classifier
from unlearnbench.training.task import Task

# --- camu ------------------------------------------------------------------------------------------------------------


def camu_reference(
    model: Classifier, data: Data, split: Split, batch: int, epochs: int, w: dict[str, float]
) -> Classifier:
    """The two alternating steps without noise, for a forgotten class: counterfactual labels are the partners'."""
    x_f, n = data.x_train[split.forget], len(split.forget)
    x_r, y_r = data.x_train[split.retain[:n]], data.y_train[split.retain[:n]]
    x_cf, y_cf = x_r, y_r
    original, model = deepcopy(model), deepcopy(model)
    adam_kl = torch.optim.Adam(model.parameters(), lr=4e-4, weight_decay=1e-4)
    adam_ce = torch.optim.Adam(model.parameters(), lr=5e-4, weight_decay=1e-4)
    original.eval()
    model.train()

    def kl(target: Tensor, output: Tensor) -> Tensor:
        p, q = torch.softmax(target, 1), torch.softmax(output, 1)
        return (p * (p / q).log()).sum()

    for _ in range(epochs):
        for start in range(0, n, batch):
            b = slice(start, start + batch)
            with torch.no_grad():
                target_r, target_cf = original.encode(x_r[b]), original.encode(x_cf[b])
            loss = w["kl_retain"] * kl(target_r, model.encode(x_r[b])) + w["kl_forget"] * kl(
                target_cf, model.encode(x_f[b])
            )
            adam_kl.zero_grad()
            loss.backward()
            adam_kl.step()
            loss = w["ce_retain"] * F.cross_entropy(model(x_r[b]), y_r[b])
            loss = loss + w["ce_forget"] * F.cross_entropy(model(x_f[b]), y_cf[b])
            adam_ce.zero_grad()
            loss.backward()
            adam_ce.step()
    return model


WEIGHTS = {"kl_retain": 0.5, "kl_forget": 0.5, "ce_retain": 0.9, "ce_forget": 0.01}


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("changed", [{}, *({name: 0.0} for name in WEIGHTS), {"ce_forget": 0.5}], ids=str)
def test_camu_is_its_reference_parameter_by_parameter(data: Data, norm: bool, changed: dict[str, Any]) -> None:
    data, model = double(data), network(norm=norm)
    split = split_of(data)
    camu = replace(CaMU(noise=0, batch_size=10, epochs=2), **changed)
    expected = camu_reference(model, data, split, 10, 2, WEIGHTS | changed)
    result = camu.unlearn(deepcopy(model), task_of(camu, data, split))
    assert_same_parameters(result, expected)
    with pytest.raises(AssertionError):
        assert_same_parameters(result, model)


def test_camu_defaults_are_those_of_the_authors_for_mnist_random() -> None:
    method = CaMU()
    assert (method.lr_kl, method.lr_ce, method.weight_decay, method.batch_size, method.epochs) == (
        4e-4,
        5e-4,
        1e-4,
        32,
        10,
    )
    assert {name: getattr(method, name) for name in WEIGHTS} == WEIGHTS
    assert (method.noise, method.repeat) == (1, 1)


def test_camu_keeps_pairs_together_when_it_shuffles(data: Data) -> None:
    """In one batch the sums do not depend on the order, unless images, labels and targets are shuffled apart."""
    data, model = double(data), network()
    split = split_of(data)
    camu = CaMU(noise=0, batch_size=1000, epochs=2)
    result = camu.unlearn(deepcopy(model), task_of(camu, data, split))
    assert_same_parameters(result, camu_reference(model, data, split, 1000, 2, WEIGHTS))


@pytest.mark.usefixtures("in_order")
def test_camu_asks_the_original_anew_where_images_are_augmented(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an augmentation that changes nothing, what is asked in every epoch is what was asked once."""
    monkeypatch.setattr("unlearnbench.data.tensors.crop_flip", lambda x, rng, padding: x)
    data, model = double(data), network(norm=True)
    split = split_of(data)
    camu = CaMU(noise=0, batch_size=10, epochs=2)
    task = task_of(camu, data, split, recipe=Recipe(augment="crop_flip"))
    assert task.retain.augmented
    result = camu.unlearn(deepcopy(model), task)
    assert_same_parameters(result, camu_reference(model, data, split, 10, 2, WEIGHTS))


def test_camu_without_terms_does_nothing(data: Data) -> None:
    model = network(dtype=torch.float32)
    camu = CaMU(kl_retain=0, kl_forget=0, ce_retain=0, ce_forget=0)
    result = camu.unlearn(deepcopy(model), task_of(camu, data, split_of(data)))
    assert all(torch.equal(p, q) for p, q in zip(result.parameters(), model.parameters(), strict=True))


def test_camu_kl_step_leaves_the_head_alone_and_its_weight_decay_too(data: Data) -> None:
    model = network(dtype=torch.float32)
    camu = CaMU(ce_retain=0, ce_forget=0, weight_decay=0.5, epochs=1)
    result = camu.unlearn(deepcopy(model), task_of(camu, data, split_of(data)))
    assert torch.equal(result.get_parameter("head.weight"), model.get_parameter("head.weight"))
    assert not torch.equal(result.get_parameter("encoder.3.weight"), model.get_parameter("encoder.3.weight"))


class Watched(nn.Module):
    """An encoder that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.flatten(1)


def counterfactuals(data: Data, camu: CaMU) -> tuple[Task, Split, Tensor, Samples]:
    """The task, its split, the counterfactual images as the frozen network saw them, and the pairs (x_f, y_cf)."""
    encoder, split = Watched(), split_of(data, RANDOM)
    task = task_of(camu, data, split)
    pairs, _, _ = camu.counterfactuals(Classifier(encoder, nn.Linear(64, 3), 3), task)
    return task, split, torch.cat(encoder.seen), pairs


def test_counterfactual_images_are_the_partners_with_uniform_noise(data: Data) -> None:
    _, split, x_cf, pairs = counterfactuals(data, CaMU())
    n = len(split.forget)
    assert torch.equal(pairs.images(), data.x_train[split.forget])
    noise = (x_cf - data.x_train[split.retain[:n]]).flatten().numpy()
    assert noise.min() >= -1e-6
    assert noise.max() < 1 + 1e-6
    assert stats.kstest(noise, "uniform").pvalue > 0.01
    assert x_cf.max() > data.x_train.max()  # not clipped


def test_counterfactual_noise_can_be_switched_off(data: Data) -> None:
    _, split, x_cf, _ = counterfactuals(data, CaMU(noise=0))
    assert torch.equal(x_cf, data.x_train[split.retain[: len(split.forget)]])


def test_counterfactual_label_is_the_partners_unless_it_is_the_true_one(data: Data) -> None:
    _, split, _, pairs = counterfactuals(data, CaMU())
    true, partner = data.y_train[split.forget], data.y_train[split.retain[: len(split.forget)]]
    differ = partner != true
    assert torch.equal(pairs.labels[differ], partner[differ])
    redrawn = pairs.labels[~differ]
    assert (redrawn != true[~differ]).all()
    assert len(redrawn) >= 5  # and both of the other classes are drawn
    assert set(((redrawn - true[~differ]) % 3).tolist()) == {1, 2}


def test_a_forgotten_class_never_is_a_counterfactual_label(data: Data) -> None:
    camu = CaMU()
    pairs, _, sample = camu.counterfactuals(network(dtype=torch.float32), task_of(camu, data, split_of(data)))
    assert 0 not in pairs.labels
    assert torch.equal(pairs.labels, sample.labels)


def test_camu_repeats_the_forget_set(data: Data) -> None:
    _, split, x_cf, pairs = counterfactuals(data, CaMU(repeat=2, noise=0))
    assert len(pairs) == 2 * len(split.forget) == len(x_cf)
    assert torch.equal(pairs.images(), data.x_train[np.tile(split.forget, 2)])


def test_camu_forgets_more_than_it_retains(data: Data) -> None:
    split = split_of(data, ("class", {"classes": [0, 1]}))
    camu = CaMU(epochs=1)
    pairs, target, sample = camu.counterfactuals(network(dtype=torch.float32), task_of(camu, data, split))
    assert len(pairs) == len(target) == len(sample) == len(split.retain) < len(split.forget)
    camu.unlearn(network(dtype=torch.float32), task_of(camu, data, split))


# --- labels ----------------------------------------------------------------------------------------------------------


def test_other_labels_are_never_true_and_uniform_over_the_rest() -> None:
    y = torch.arange(5).repeat(2000)
    drawn = other_labels(y, 5, torch.Generator().manual_seed(0))
    assert (drawn != y).all()
    for c in range(5):
        counts = torch.bincount(drawn[y == c], minlength=5)
        assert counts[c] == 0
        assert stats.chisquare(counts[torch.arange(5) != c].numpy()).pvalue > 0.001


def test_two_classes_swap() -> None:
    assert other_labels(torch.tensor([0, 1, 1]), 2, torch.Generator()).tolist() == [1, 0, 0]


def test_a_frozen_copy_is_apart_and_cannot_learn() -> None:
    model = network().train()
    teacher = frozen(model)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    mine = {parameter.data_ptr() for parameter in model.parameters()}
    assert not mine & {parameter.data_ptr() for parameter in teacher.parameters()}


def targets_of(method: RandomLabel, data: Data, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The labels of every step of the method, in turn."""
    seen: list[Tensor] = []
    cross_entropy = F.cross_entropy

    def watch(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return cross_entropy(logits, labels)

    monkeypatch.setattr(F, "cross_entropy", watch)
    method.unlearn(network(dtype=torch.float32), task_of(method, data, split_of(data)))
    return seen


def test_random_label_alternates_passes_and_redraws_wrong_labels(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = targets_of(RandomLabel(batch_size=16, epochs=3), data, monkeypatch)
    assert [len(y) for y in seen] == [16, 16, 16, 16, 16, 16] * 3  # 32 to forget, all of class 0, then 64 to retain
    forget = [torch.cat(seen[start : start + 2]) for start in (0, 6, 12)]
    retain = [torch.cat(seen[start + 2 : start + 6]) for start in (0, 6, 12)]
    assert all(set(y.tolist()) == {1, 2} for y in forget)
    assert all(torch.bincount(y).tolist() == [0, 32, 32] for y in retain)
    assert not torch.equal(forget[0], forget[1])
    assert not torch.equal(forget[1], forget[2])


def test_random_label_may_draw_the_true_label_as_the_authors_do(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = targets_of(RandomLabel(batch_size=16, epochs=1, exclude_true=False), data, monkeypatch)
    assert set(torch.cat(seen[:2]).tolist()) == {0, 1, 2}


# --- gradient steps --------------------------------------------------------------------------------------------------


def one_step(model: Classifier, loss: Tensor, lr: float, weight_decay: float) -> Classifier:
    """θ - lr·(∇loss + weight_decay·θ)."""
    gradient, result = gradients(model, loss), deepcopy(model)
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            parameter.sub_(lr * (gradient[name] + weight_decay * parameter))
    return result


def test_gradient_ascent_climbs_the_loss_of_the_forget_set(data: Data) -> None:
    data, model = double(data), network()
    split = split_of(data)
    method = GradientAscent(lr=0.1, weight_decay=0.01, batch_size=1000, epochs=1)
    x, y = data.x_train[split.forget], data.y_train[split.forget]
    before = F.cross_entropy(model(x), y)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, one_step(model, -before, 0.1, 0.01))
    assert F.cross_entropy(result(x), y) > before


def test_neggrad_plus_descends_on_retain_and_climbs_on_forget(data: Data) -> None:
    data, model = double(data), network()
    split = split_of(data)
    method = NegGradPlus(alpha=0.8, lr=0.1, batch_size=1000, forget_batch_size=1000, epochs=1)
    retain = F.cross_entropy(model(data.x_train[split.retain]), data.y_train[split.retain])
    forget = F.cross_entropy(model(data.x_train[split.forget]), data.y_train[split.forget])
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, one_step(model, 0.8 * retain - 0.2 * forget, 0.1, 0.0))


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_neggrad_plus_is_held_back_to_the_original_and_leaves_batch_statistics(data: Data, norm: bool) -> None:
    data, model = double(data), network(norm=norm)
    split = split_of(data)
    method = NegGradPlus(alpha=0.8, lr=0.1, weight_decay=0.5, batch_size=64, forget_batch_size=32, epochs=3)
    x_r, y_r = data.x_train[split.retain], data.y_train[split.retain]
    x_f, y_f = data.x_train[split.forget], data.y_train[split.forget]
    expected, original = deepcopy(model).eval(), list(deepcopy(model).parameters())
    for _ in range(3):
        loss = 0.8 * F.cross_entropy(expected(x_r), y_r) - 0.2 * F.cross_entropy(expected(x_f), y_f)
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for p, g, p_o in zip(expected.parameters(), gradients, original, strict=True):
                p.sub_(0.1 * (g + 0.8 * 0.5 * (p - p_o)))
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, expected)
    assert all(torch.equal(b, c) for b, c in zip(result.buffers(), model.buffers(), strict=True))
    unbound = replace(method, weight_decay=0.0).unlearn(deepcopy(model), task_of(method, data, split))
    with pytest.raises(AssertionError):
        assert_same_parameters(unbound, expected)


def neggrad_plus_reference(model: Classifier, task: Task, wrong: str, *, train: bool = False) -> Classifier:
    """Two epochs: 64 to retain in batches of 20, 20, 20, 4; 32 to forget in 12, 12, 8 and the first 12 again."""
    start, model = [p.detach().clone() for p in model.parameters()], deepcopy(model).train(train)
    passes = [list(task.forget.batches(12, augment=False)) for _ in range(2)]
    if wrong == "one order for all epochs":
        passes[1] = passes[0]
    for epoch, (a, b, c) in enumerate(passes):
        steps = [a, b, c, a]
        if wrong == "a new epoch goes on in D_f":
            steps = [b, c, a, b] if epoch else steps
        if wrong == "a new order within the epoch":
            steps = [a, b, c, next(task.forget.batches(12, augment=False))]
        for (x_r, y_r), (x_f, y_f) in zip(task.retain.batches(20, augment=False), steps, strict=True):
            pull = sum(((p - s) ** 2).sum() for p, s in zip(model.parameters(), start, strict=True))
            retain = F.cross_entropy(model(x_r), y_r) + 0.5 / 2 * pull
            loss = 0.8 * retain - 0.2 * F.cross_entropy(model(x_f), y_f)
            for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
                p.data -= 0.1 * g
    return model


@pytest.mark.parametrize("train", [False, True], ids=["eval", "batch statistics"])
def test_neggrad_plus_cycles_the_forget_set_beside_the_retain_set(data: Data, train: bool) -> None:
    """As itertools.cycle does with a loader that shuffles: the batches of its first pass again, anew in each epoch. And
    on images as they are, whatever the recipe."""
    data, model = double(data), network(norm=True)
    split = split_of(data)
    method = NegGradPlus(
        alpha=0.8, lr=0.1, weight_decay=0.5, batch_size=20, forget_batch_size=12, epochs=2, batch_statistics=train
    )

    def fresh() -> Task:
        return task_of(method, data, split, recipe=Recipe(augment="crop_flip"))

    task = fresh()
    result = method.unlearn(deepcopy(model), task)
    assert task.counter.samples == 2 * (64 + 32 + 12)  # what went through the network and no more
    expected = neggrad_plus_reference(model, fresh(), "", train=train)
    assert_same_parameters(result, expected)
    assert_same_buffers(result, expected)
    wrongs = ("one order for all epochs", "a new epoch goes on in D_f", "a new order within the epoch")
    for wrong in wrongs:
        with pytest.raises(AssertionError):
            assert_same_parameters(result, neggrad_plus_reference(model, fresh(), wrong, train=train))
    with pytest.raises(AssertionError):
        assert_same_parameters(result, neggrad_plus_reference(model, fresh(), "", train=not train))


def assert_same_buffers(one: nn.Module, other: nn.Module) -> None:
    for found, expected in zip(one.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("in_order")
def test_finetune_is_a_plain_loop_over_the_retain_set(data: Data) -> None:
    data, model = double(data), network(norm=True)
    split = split_of(data)
    method = FineTune(lr=0.05, momentum=0.8, weight_decay=0.01, batch_size=10, epochs=3)
    expected = deepcopy(model).train()
    sgd = torch.optim.SGD(expected.parameters(), lr=0.05, momentum=0.8, weight_decay=0.01)
    x, y = data.x_train[split.retain], data.y_train[split.retain]
    for _ in range(3):
        for start in range(0, len(x), 10):
            sgd.zero_grad()
            F.cross_entropy(expected(x[start : start + 10]), y[start : start + 10]).backward()
            sgd.step()
    assert_same_parameters(method.unlearn(deepcopy(model), task_of(method, data, split)), expected)
