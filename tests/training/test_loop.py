"""The one training loop: it is the loop everybody writes, bit for bit, with what the recipe asks for."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unlearnbench.data.tensors import Counter, Data, Samples
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.recipes import RECIPES
from unlearnbench.plan.registry import build
from unlearnbench.training.loop import Diverged, make_optimizer, precision, predict, schedule, train
from unlearnbench.training.models import Classifier, build_model


@pytest.fixture
def model() -> Classifier:
    return build_model(build("models", "cnn", {}), (1, 8, 8), 3, seed=0)


def samples(data: Data, augment: Any = None) -> Samples:
    return Samples(data.x_train, data.y_train, 0, augment, Counter())


def loss(model: nn.Module, data: Data) -> float:
    return F.cross_entropy(predict(model, data.x_train), data.y_train).item()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def bare(model: nn.Module, data: Data, optimizer: torch.optim.Optimizer, epochs: int, **options: Any) -> None:
    """What everybody writes."""
    order = samples(data)
    model.train()
    for _ in range(epochs):
        for x, y in order.batches(40):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y, **options).backward()
            optimizer.step()


def test_adam_is_the_bare_loop_bit_for_bit(model: Classifier, data: Data) -> None:
    other = deepcopy(model)
    train(model, samples(data), Recipe(lr=2e-3, weight_decay=0.1, batch_size=40, epochs=2))
    bare(other, data, torch.optim.Adam(other.parameters(), 2e-3, weight_decay=0.1, fused=True), 2)
    assert same(model, other)


def test_sgd_takes_momentum_nesterov_decay_and_label_smoothing(model: Classifier, data: Data) -> None:
    settings: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    recipe = Recipe(optimizer="sgd", lr=0.05, batch_size=40, epochs=2, label_smoothing=0.2, **settings)
    other = deepcopy(model)
    train(model, samples(data), recipe)
    optimizer = torch.optim.SGD(other.parameters(), 0.05, fused=True, **settings)
    bare(other, data, optimizer, 2, label_smoothing=0.2)
    assert same(model, other)


def test_a_step_in_closed_form() -> None:
    """One linear layer from zero, one sample: the gradient of the bias is softmax - onehot = (-2/3, 1/3, 1/3)."""
    layer = nn.Linear(1, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    one = Samples(torch.full((1, 1, 1, 1), 3.0), torch.tensor([0]), 0, None, Counter())
    train(nn.Sequential(nn.Flatten(), layer), one, Recipe(optimizer="sgd", lr=0.3, weight_decay=0, epochs=1))
    assert layer.bias.tolist() == pytest.approx([0.2, -0.1, -0.1])
    assert layer.weight.flatten().tolist() == pytest.approx([0.6, -0.3, -0.3])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_learns_the_toy(model: Classifier, data: Data, precision: Any) -> None:
    before = loss(model, data)
    assert train(model, samples(data), Recipe(epochs=5, precision=precision)) is model
    assert before > 1.0
    assert loss(model, data) < 0.1
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_half_precision_is_really_used(model: Classifier, data: Data) -> None:
    seen = []
    model.get_submodule("encoder.0").register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    train(model, samples(data), Recipe(epochs=1, batch_size=96, precision="bfloat16"))
    train(model, samples(data), Recipe(epochs=1, batch_size=96))
    assert seen == [torch.bfloat16, torch.float32]


def test_many_steps_within_one_context_are_those_of_one_context_a_step(model: Classifier, data: Data) -> None:
    """A method takes all its steps in one: a cast of the weights that is kept would be that of the first step."""
    recipe, other = Recipe(epochs=2, precision="bfloat16"), deepcopy(model)
    train(model, samples(data), recipe)
    with precision(recipe, torch.device("cpu")):
        train(other, samples(data), replace(recipe, precision="float32"))  # a method's own recipe, in its cell's
    assert same(model, other)


def test_outputs_in_half_precision_are_handed_out_in_single(model: Classifier, data: Data) -> None:
    """Or a loss of 0.01 has two digits, and numpy takes none of them."""
    wrapped = Classifier.wrap(deepcopy(model), "head.1", 3)
    with precision(Recipe(precision="bfloat16"), torch.device("cpu")):
        for network in (model, wrapped):
            assert network(data.x_train).dtype == network.encode(data.x_train).dtype == torch.float32
        assert model.encoder(data.x_train).dtype == torch.bfloat16
    assert (
        build_model(build("models", "cnn", {}), (1, 8, 8), 3, 0).double()(data.x_train.double()).dtype == torch.double
    )


def test_every_sample_is_drawn_once_an_epoch(model: Classifier, data: Data) -> None:
    counter = Counter()
    train(model, Samples(data.x_train, data.y_train, 0, None, counter), Recipe(epochs=3))
    assert counter.samples == 3 * 96


def test_the_recipes_augmentation_reaches_the_model(model: Classifier, data: Data) -> None:
    seen = []
    model.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    train(model, samples(data, lambda x, _rng: torch.zeros_like(x)), Recipe(epochs=1))
    assert not torch.cat(seen).any()


def test_a_loss_that_is_no_number_stops_the_training_in_its_epoch(model: Classifier, data: Data) -> None:
    counter = Counter()
    x = data.x_train.clone()
    x[7] = float("nan")
    with pytest.raises(Diverged, match=r"loss became nan in epoch 1 of 9.*lower lr=0\.001"):
        train(model, Samples(x, data.y_train, 0, None, counter), Recipe(epochs=9))
    assert counter.samples == 96


# --- schedules -------------------------------------------------------------------------------------------------------


def test_schedules_in_closed_form() -> None:
    assert [schedule("cosine", p) for p in (0, 1 / 3, 0.5, 1)] == pytest.approx([1, 0.75, 0.5, 0])
    assert [schedule("one_cycle", p) for p in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert [schedule("constant", p) for p in (0, 0.5, 1)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("constant", [0.8] * 6),
        ("cosine", [0.4 * (1 + math.cos(math.pi * i / 6)) for i in range(6)]),
        ("one_cycle", [0.0, 0.8 * 5 / 6, 0.8 * 5 / 6, 0.8 * 5 / 8, 0.8 * 5 / 12, 0.8 * 5 / 24]),
    ],
)
def test_the_rate_follows_the_schedule_by_steps(
    model: Classifier, data: Data, kind: Any, rates: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    step = torch.optim.SGD.step

    def watch(self: torch.optim.SGD) -> Any:
        used.append(self.param_groups[0]["lr"])
        return step(self)

    monkeypatch.setattr(torch.optim.SGD, "step", watch)
    train(model, samples(data), Recipe(optimizer="sgd", lr=0.8, schedule=kind, batch_size=40, epochs=2))
    assert used == pytest.approx(rates)


# --- the rest --------------------------------------------------------------------------------------------------------


def test_recipes_are_those_of_their_sources() -> None:
    assert RECIPES["camu"] == Recipe(optimizer="adam", lr=1e-3, weight_decay=1e-4, batch_size=32, epochs=20)
    standard = RECIPES["standard"]
    assert (standard.optimizer, standard.lr, standard.momentum, standard.weight_decay) == ("sgd", 0.1, 0.9, 5e-4)
    assert (standard.schedule, standard.augment) == ("cosine", "crop_flip")


def test_optimizers_are_what_they_are_called() -> None:
    weights = [nn.Parameter(torch.zeros(1))]
    adam = make_optimizer(weights, "adam", 0.1, weight_decay=0.2)
    sgd = make_optimizer(weights, "sgd", 0.1, 0.9, 0.2, nesterov=True)
    assert (type(adam), adam.defaults["lr"], adam.defaults["weight_decay"]) == (torch.optim.Adam, 0.1, 0.2)
    assert type(sgd) is torch.optim.SGD
    assert [sgd.defaults[k] for k in ("lr", "momentum", "weight_decay", "nesterov")] == [0.1, 0.9, 0.2, True]


@pytest.mark.parametrize("mode", [True, False])
def test_predict_looks_in_eval_mode_and_restores_the_mode(mode: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2), nn.Dropout(0.5)).train(mode)
    x = torch.tensor([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]).view(3, 2, 1, 1)
    logits = predict(model, x)
    assert torch.allclose(logits, x.flatten(1), rtol=1e-4)  # running mean 0 and variance 1: untouched
    assert not logits.requires_grad
    assert model.training == mode
    assert model[1].num_batches_tracked == 0


def test_predict_restores_the_mode_when_the_model_fails() -> None:
    model = nn.Linear(2, 2).train()
    with pytest.raises(RuntimeError):
        predict(model, torch.zeros(1, 3))
    assert model.training
