"""Relabelling, amnesiac unlearning, the last k layers and L1: each against plain lines, in double precision."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from method_cases import CLASS, RANDOM, assert_same_parameters, double, network, split_of, task_of
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.amnesiac import Amnesiac
from unlearnbench_methods.amnesiac_relabel import AmnesiacRelabel
from unlearnbench_methods.cf_k import CFk, last_layers
from unlearnbench_methods.eu_k import EUk
from unlearnbench_methods.l1_sparse import L1Sparse

from unlearnbench.data.tensors import Data
from unlearnbench.plan.cells import Recipe
from unlearnbench.training.models import Classifier
from unlearnbench.training.task import Task


def adam(model: Classifier, x: Tensor, y: Tensor, lr: float, batch: int, epochs: int) -> Classifier:
    """A plain loop over slices."""
    model = deepcopy(model).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        for start in range(0, len(x), batch):
            optimizer.zero_grad()
            F.cross_entropy(model(x[start : start + batch]), y[start : start + batch]).backward()
            optimizer.step()
    return model


def untouched(model: nn.Module, original: nn.Module) -> set[str]:
    before = dict(original.named_parameters())
    return {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}


def test_defaults_are_the_published_ones() -> None:
    relabel, amnesiac, l1 = AmnesiacRelabel(), Amnesiac(), L1Sparse()
    assert (relabel.lr, relabel.batch_size, relabel.epochs) == (1e-4, 128, 3)
    assert (amnesiac.lr, amnesiac.batch_size, amnesiac.epochs) == (1e-3, 64, 10)
    assert (l1.lr, l1.momentum, l1.weight_decay, l1.batch_size, l1.epochs) == (0.01, 0.9, 5e-4, 256, 10)
    for last in (CFk(), EUk()):
        assert (last.lr, last.lr_min, last.momentum, last.weight_decay) == (0.1, 0.005, 0.9, 5e-5)
        assert (last.k, last.batch_size, last.epochs, last.clip) == (3, 64, 30, 10)


# --- amnesiac_relabel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", [CLASS, RANDOM], ids=["class", "random"])
def test_relabelled_forget_samples_have_wrong_labels_and_retain_samples_theirs(
    data: Data, scenario: tuple[str, dict[str, Any]]
) -> None:
    split, method = split_of(data, scenario), AmnesiacRelabel()
    samples = method.relabelled(task_of(method, data, split))
    n, true = len(split.forget), data.y_train[split.forget]
    assert torch.equal(samples.images(), torch.cat([data.x_train[split.forget], data.x_train[split.retain]]))
    assert (samples.labels[:n] != true).all()
    assert set(((samples.labels[:n] - true) % 3).tolist()) == {1, 2}
    assert torch.equal(samples.labels[n:], data.y_train[split.retain])


@pytest.mark.usefixtures("in_order")
def test_relabelling_is_adam_over_both_sets_with_labels_drawn_once(data: Data) -> None:
    data, model = double(data), network(norm=True)
    method = AmnesiacRelabel(lr=0.01, batch_size=20, epochs=3)
    split = split_of(data)
    samples = method.relabelled(task_of(method, data, split))  # the same draw: it depends on the seed alone
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, adam(model, samples.images(), samples.labels, 0.01, 20, 3))
    x, y = data.x_train, data.y_train
    true = torch.cat([y[split.forget], y[split.retain]])
    with pytest.raises(AssertionError):  # true labels
        assert_same_parameters(result, adam(model, samples.images(), true, 0.01, 20, 3))
    with pytest.raises(AssertionError):  # no retain set
        assert_same_parameters(result, adam(model, x[split.forget], samples.labels[:32], 0.01, 20, 3))


def test_relabelling_shuffles_both_sets_together(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    method = AmnesiacRelabel(batch_size=32, epochs=1)
    seen: list[Tensor] = []
    cross_entropy = F.cross_entropy

    def watch(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return cross_entropy(logits, labels)

    task = task_of(method, data, split_of(data))
    first = method.relabelled(task).labels[:32]
    monkeypatch.setattr(F, "cross_entropy", watch)
    method.unlearn(network(dtype=torch.float32), task_of(method, data, split_of(data)))
    assert [len(y) for y in seen] == [32, 32, 32]
    assert not torch.equal(seen[0], first)


# --- amnesiac --------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Random numbers for the log of every task, in the shape of `network`'s parameters and buffers."""
    rng, state = torch.Generator().manual_seed(1), network(norm=True).state_dict()
    log = {name: torch.randn(t.shape, generator=rng, dtype=torch.float64) for name, t in state.items()}
    monkeypatch.setattr("unlearnbench.training.originals.training_log", lambda *_: log)
    return log


def test_amnesiac_subtracts_the_log_from_parameters_and_leaves_statistics(data: Data, log: dict[str, Tensor]) -> None:
    model, method = network(norm=True), Amnesiac(epochs=0)
    task = task_of(method, double(data), split_of(data))
    before = deepcopy(model.state_dict())
    result = method.unlearn(model, task)
    assert task.counter.samples == 0  # without repair no data is used
    parameters = {name for name, _ in result.named_parameters()}
    for name, tensor in result.state_dict().items():
        torch.testing.assert_close(tensor, before[name] - log[name] if name in parameters else before[name])
    with pytest.raises(AssertionError):  # the other sign
        torch.testing.assert_close(result.state_dict()["head.weight"], before["head.weight"] + log["head.weight"])


@pytest.mark.usefixtures("in_order")
def test_amnesiac_repairs_on_the_retain_set_without_augmentation(data: Data, log: dict[str, Tensor]) -> None:
    """The authors' notebooks: their loaders have no transform but the normalisation."""
    data, model, augmenting = double(data), network(norm=True), Recipe(augment="crop_flip")
    split, method = split_of(data), Amnesiac(lr=0.01, batch_size=20, epochs=2)
    expected = deepcopy(model)
    with torch.no_grad():
        for name, parameter in expected.named_parameters():
            parameter.sub_(log[name])
    x, y = data.x_train[split.retain], data.y_train[split.retain]
    result = method.unlearn(deepcopy(model), task_of(method, data, split, recipe=augmenting))
    assert_same_parameters(result, adam(expected, x, y, 0.01, 20, 2))
    with pytest.raises(AssertionError):
        assert_same_parameters(result, adam(model, x, y, 0.01, 20, 2))


def test_where_every_batch_held_a_forget_sample_the_initial_weights_are_back(data: Data) -> None:
    """The log of a real training, whose one batch an epoch is the whole set: all its steps are undone."""
    method, recipe = Amnesiac(epochs=0), Recipe(batch_size=1000, epochs=3)
    split = split_of(data)
    task = task_of(method, data, split, recipe=recipe)
    total = {name: tensor.clone() for name, tensor in task.log.items()}
    original = task.fresh_model()
    start = deepcopy(original)
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            parameter.add_(total[name])  # as if it had been trained from there
    result = method.unlearn(original, task)
    for name, parameter in result.named_parameters():
        torch.testing.assert_close(parameter, start.get_parameter(name), rtol=1e-5, atol=1e-6)
    assert any(tensor.abs().max() > 1e-3 for tensor in total.values())


# --- the last k layers -----------------------------------------------------------------------------------------------


def sgd_with_restarts(
    model: Classifier, names: list[str], data: tuple[Tensor, Tensor], rates: list[float], batch: int, **sgd: float
) -> Classifier:
    """Heavy-ball SGD on the named parameters alone, at the rate of each epoch, gradients clipped together."""
    model, (x, y) = deepcopy(model).train(), data
    parameters = [model.get_parameter(name) for name in names]
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    for rate in rates:
        for start in range(0, len(x), batch):
            loss = F.cross_entropy(model(x[start : start + batch]), y[start : start + batch])
            gradients = torch.autograd.grad(loss, parameters)
            norm = torch.sqrt(sum((g**2).sum() for g in gradients) + torch.zeros(()))
            scale = min(1.0, sgd["clip"] / (norm.item() + 1e-6))
            with torch.no_grad():
                for parameter, v, g in zip(parameters, velocity, gradients, strict=True):
                    v.mul_(0.9).add_(scale * g + sgd["weight_decay"] * parameter)
                    parameter.sub_(rate * v)
    return model


LAST_TWO = ["encoder.4.weight", "encoder.4.bias", "head.weight", "head.bias"]
# From .1 to .005 by (1 + cos)/2 of 0; of 0, π/2; of 0, π/4, π/2, ...
RATES = [0.1, 0.1, 0.0525, 0.1, 0.08608757210636101, 0.0525]


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("clip", [10.0, 0.05])
def test_cf_k_fine_tunes_the_last_layers_with_warm_restarts(data: Data, clip: float) -> None:
    data, model = double(data), network(norm=True)
    split, method = split_of(data), CFk(k=2, batch_size=20, epochs=6, weight_decay=0.01, clip=clip)
    retain = data.x_train[split.retain], data.y_train[split.retain]

    def plain(rates: list[float], names: list[str] = LAST_TWO, decay: float = 0.01) -> Classifier:
        return sgd_with_restarts(model, names, retain, rates, 20, clip=clip, weight_decay=decay)

    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, plain(RATES))
    wrong = [plain([0.1] * 6), plain(RATES, LAST_TWO[2:]), plain(RATES, decay=0.0)]
    for mutant in wrong:
        with pytest.raises(AssertionError):
            assert_same_parameters(result, mutant)


@pytest.mark.parametrize("method", [CFk(k=2, epochs=2), EUk(k=2, epochs=2)], ids=["cf_k", "eu_k"])
def test_frozen_layers_stay_bit_equal_and_learn_again_afterwards(data: Data, method: CFk | EUk) -> None:
    model = network(norm=True, dtype=torch.float32)
    result = method.unlearn(deepcopy(model), task_of(method, data, split_of(data)))
    assert untouched(result, model) == {"encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias"}
    assert all(parameter.requires_grad for parameter in result.parameters())


def test_layers_are_counted_over_convolutions_and_linear_layers_with_the_norms_between() -> None:
    model = network(norm=True)
    names = {module: name for name, module in model.named_modules()}
    found = {k: [names[layer] for layer in last_layers(model, k)] for k in (1, 2, 3, 9)}
    assert found == {
        1: ["head"],
        2: ["encoder.4", "head"],
        3: ["encoder.0", "encoder.1", "encoder.4", "head"],
        9: ["encoder.0", "encoder.1", "encoder.4", "head"],
    }


def test_eu_k_is_cf_k_from_new_weights(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    model, method = network(), EUk(k=2, epochs=1)
    given: list[Classifier] = []

    def watch(self: CFk, model: Classifier, task: Task) -> Classifier:
        assert (self.k, self.epochs, self.lr) == (2, 1, 0.1)
        given.append(deepcopy(model))
        return model

    monkeypatch.setattr(CFk, "unlearn", watch)
    method.unlearn(deepcopy(model), task_of(method, double(data), split_of(data)))
    new = given[0]
    assert untouched(new, model) == {"encoder.0.weight", "encoder.0.bias"}
    assert not new.get_parameter("encoder.3.bias").any()
    assert not new.get_parameter("head.bias").any()


def test_eu_k_draws_weights_with_variance_two_over_fan_in(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CFk, "unlearn", lambda self, model, task: model)
    method = EUk(k=1)
    model = Classifier(nn.Flatten(), nn.Linear(64, 500), 500)
    weight = method.unlearn(model, task_of(method, data, split_of(data))).get_parameter("head.weight").detach()
    assert weight.mean().abs() < 0.005
    assert weight.var() == pytest.approx(2 / 64, rel=0.03)


# --- l1_sparse -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_order")
def test_l1_sparse_is_a_plain_loop_with_a_fading_penalty(data: Data) -> None:
    data, model = double(data), network(norm=True)
    split = split_of(data)
    method = L1Sparse(alpha=0.01, lr=0.05, weight_decay=0.01, batch_size=20, epochs=4)
    x, y = data.x_train[split.retain], data.y_train[split.retain]

    def plain(alphas: list[float], power: int = 1) -> Classifier:
        expected = deepcopy(model).train()
        sgd = torch.optim.SGD(expected.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        for alpha in alphas:
            for start in range(0, len(x), 20):
                penalty = sum((p.abs() ** power).sum() for p in expected.parameters())
                sgd.zero_grad()
                (F.cross_entropy(expected(x[start : start + 20]), y[start : start + 20]) + alpha * penalty).backward()
                sgd.step()
        return expected

    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, plain([0.01, 0.0075, 0.005, 0.0025]))
    for mutant in (plain([0.01] * 4), plain([0.0025, 0.005, 0.0075, 0.01]), plain([0.0] * 4), plain([0.01] * 4, 2)):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, mutant)


def test_l1_sparse_shrinks_weights(data: Data) -> None:
    def norm(alpha: float) -> float:
        method = L1Sparse(alpha=alpha, lr=0.03, batch_size=20, epochs=10)
        result = method.unlearn(network(dtype=torch.float32), task_of(method, data, split_of(data)))
        return sum(parameter.abs().sum().item() for parameter in result.parameters())

    assert norm(0.1) < norm(0.01) < norm(0.0)
