"""Probes: what they report, on copies, whatever the model that comes in."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench.data.scenarios.classes import ClassForget
from unlearnbench.data.split import Split, make_split
from unlearnbench.data.tensors import Counter, Data, Samples
from unlearnbench.measure.probes import (
    collect,
    half,
    half_outputs,
    representations,
    warm_up,
    weight_distance,
    whole_outputs,
)
from unlearnbench.plan.cells import Cell, Plugin, Probe, Recipe
from unlearnbench.plan.registry import build
from unlearnbench.training.loop import predict, train
from unlearnbench.training.models import Classifier, build_model

PROBE = Probe(relearn_every=3, relearn_points=4, relearn_cap=30, relearn_epochs=3, panel=20)
CELL = Cell(Plugin("toy"), Plugin("cnn"), Recipe(), Plugin("class"), Plugin("toy"), 0, 0, PROBE)


@pytest.fixture
def untrained() -> Classifier:
    return build_model(build("models", "cnn", {}), (1, 8, 8), 3, seed=0)


@pytest.fixture
def trained(data: Data) -> Classifier:
    model = build_model(build("models", "cnn", {}), (1, 8, 8), 3, seed=0)
    train(model, Samples(data.x_train, data.y_train, 0, None, Counter()), Recipe(epochs=5))
    return model.eval()


@pytest.fixture
def split(data: Data) -> Split:
    return make_split(ClassForget(classes=(0,)), data.y_train.numpy(), len(data.x_test), 0)


def state(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


class Constant(nn.Module):
    """The same logits for every image, and nothing to learn."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.scale, self.logits = nn.Parameter(torch.tensor(1.0)), logits

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor(self.logits).expand(len(x), -1) + 0 * self.scale


# --- representations -------------------------------------------------------------------------------------------------


class Doubling(nn.Module):
    """A representation that is known: twice the image in eval mode; in train mode its negative."""

    def forward(self, x: Tensor) -> Tensor:
        return (-2 if self.training else 2) * x


def doubling() -> Classifier:
    return Classifier(Doubling(), nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 3)


def wrapped() -> Classifier:
    return Classifier.wrap(nn.Sequential(Doubling(), nn.Flatten(), nn.Linear(4, 3)), "2", 3)


IMAGES = torch.arange(8.0).view(2, 1, 2, 2)


@pytest.mark.parametrize("make", [doubling, wrapped])
@pytest.mark.parametrize("training", [False, True])
def test_representations_are_the_inputs_of_the_head_in_eval_mode(make: object, training: bool) -> None:
    model = make().train(training)  # type: ignore[operator]
    found = representations(model, IMAGES)
    assert found is not None
    assert found.dtype == torch.float16
    assert found.tolist() == [[0, 2, 4, 6], [8, 10, 12, 14]]
    assert not found.requires_grad
    assert all(module.training == training for module in model.modules())


def test_representations_beyond_half_precision_are_cut_and_others_kept_to_three_digits() -> None:
    found = representations(doubling(), torch.tensor([[[[1e6, -1e6], [0.3333333, 100.07]]]]))
    assert found is not None
    assert found[0, :2].tolist() == [65504, -65504]
    assert found[0, 2:].tolist() == pytest.approx([0.6666666, 200.14], rel=2**-11)


def test_a_long_set_is_in_its_order() -> None:
    x = torch.arange(300.0).view(300, 1, 1, 1).expand(300, 1, 2, 2)
    found = representations(doubling(), x)
    assert found is not None
    assert found[:, 0].tolist() == [2.0 * i for i in range(300)]


def test_a_network_without_a_representation_has_none() -> None:
    assert representations(nn.Flatten(), IMAGES) is None


def test_representations_leave_batch_statistics_alone(data: Data) -> None:
    model = build_model(build("models", "resnet9", {"width": 2}), (1, 8, 8), 3, 0)
    before = state(model)
    representations(model, data.x_test)
    assert torch.equal(state(model), before)


# --- outputs of a bank -----------------------------------------------------------------------------------------------


def test_whole_outputs_are_those_on_the_dataset_in_its_order(trained: Classifier, data: Data) -> None:
    found = whole_outputs(trained.train(), data)
    assert {name: (tuple(x.shape), x.dtype) for name, x in found.items()} == {
        "train": ((96, 3), torch.float32), "test": ((24, 3), torch.float32),
    }  # fmt: skip
    assert torch.equal(found["train"], predict(trained, data.x_train))
    assert torch.equal(found["test"], predict(trained, data.x_test))
    assert trained.training


def test_half_outputs_are_the_same_to_eleven_bits(trained: Classifier, data: Data) -> None:
    whole, found = whole_outputs(trained, data), half_outputs(trained, data)
    assert {x.dtype for x in found.values()} == {torch.float16}
    for name, x in whole.items():
        assert torch.allclose(found[name].float(), x, rtol=2**-11, atol=1e-7)


def test_margins_of_logits_up_to_sixteen_are_known_to_a_hundredth() -> None:
    logits = 32 * torch.rand((5000, 2), generator=torch.Generator().manual_seed(0)) - 16

    def error(logits: Tensor) -> float:
        return (half(logits).float() - logits).diff(dim=1).abs().max().item()

    assert 0.005 < error(logits) < 0.01
    assert error(4 * logits) > 0.02  # of larger ones less well


def test_large_logits_are_cut_not_infinite(data: Data) -> None:
    found = half_outputs(Constant(1e6, -1e6, 1.0), data)
    assert found["test"][0].tolist() == [65504, -65504, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_outputs_that_are_no_numbers_are_refused(data: Data, value: float) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        half_outputs(Constant(0.0, value, 0.0), data)


# --- weight_distance -------------------------------------------------------------------------------------------------


def weights(*values: float, norm: float = 0.0) -> nn.Module:
    """A network whose parameters are the values, in two layers, and whose buffer is ``norm``."""
    model = nn.Module()
    first, rest = torch.tensor(values).float().split([1, len(values) - 1])
    model.first, model.rest = nn.Parameter(first), nn.Parameter(rest)
    model.register_buffer("norm", torch.tensor([norm]))
    return model


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (weights(3, 4), weights(3, 4), 0),
        (weights(3, 4), weights(9, 12), 2),  # ‖(6, 8)‖ / ‖(3, 4)‖
        (weights(3, 4), weights(9, 4), 1.2),
        (weights(3, 4), weights(0, 0), 1),
        (weights(3, 4), weights(-3, -4), 2),
        (weights(300, 400), weights(900, 1200), 2),
        (weights(3, 4, norm=1), weights(3, 4, norm=9), 0),  # buffers are no weights
        (weights(1, 2, 2, 4), weights(1, 2, 2, 9), 1),
    ],
)
def test_weight_distance_is_the_length_of_the_move_over_that_of_the_original(
    before: nn.Module, after: nn.Module, expected: float
) -> None:
    assert weight_distance(before, after) == pytest.approx(expected)


def squared(before: nn.Module, after: nn.Module) -> float:
    return (weight_distance(before, after) or 0) ** 2


def by_layer(before: nn.Module, after: nn.Module) -> float:
    moves = [(q - p).norm() / p.norm() for p, q in zip(before.parameters(), after.parameters(), strict=True)]
    return torch.stack(moves).mean().item()


def over_the_unlearned(before: nn.Module, after: nn.Module) -> float:
    return weight_distance(after, before) or 0


@pytest.mark.parametrize("wrong", [squared, by_layer, over_the_unlearned])
def test_wrong_distances_are_told_apart(wrong: object) -> None:
    assert wrong(weights(3, 4), weights(9, 4)) != pytest.approx(1.2, rel=1e-2)  # type: ignore[operator]


def test_networks_of_other_parameters_have_no_distance(untrained: Classifier) -> None:
    assert weight_distance(untrained, nn.Sequential(untrained)) is None
    assert weight_distance(weights(3, 4), weights(3, 4, 5)) is None
    assert weight_distance(weights(0, 0), weights(1, 1)) is None
    assert weight_distance(nn.Flatten(), nn.Flatten()) is None


# --- evidence --------------------------------------------------------------------------------------------------------


def test_evidence_is_in_the_order_of_the_split(trained: Classifier, data: Data, split: Split) -> None:
    tensors, scalars = collect(CELL, trained, trained, data, split)
    for name, x in (("forget", data.x_train), ("retain", data.x_train), ("test", data.x_test)):
        positions = getattr(split, name)
        assert tensors[name].shape == (len(positions), 3)
        assert torch.allclose(tensors[name], predict(trained, x[positions]), atol=1e-5)
    assert np.array_equal(tensors["curve"][:, 0], [1, 4, 7, 10])
    forget = data.x_train[split.forget], data.y_train[split.forget]
    assert scalars["original_forget_loss"] == pytest.approx(
        F.cross_entropy(predict(trained, forget[0]), forget[1]).item()
    )


def test_the_panel_is_the_first_of_forget_and_retain(trained: Classifier, data: Data, split: Split) -> None:
    tensors, _ = collect(CELL, trained, trained, data, split)
    for name in ("forget", "retain"):
        first = data.x_train[getattr(split, name)[:20]]
        assert tensors[f"panel.{name}"].shape == (20, 256)
        assert torch.equal(tensors[f"panel.{name}"], trained.encode(first).half())
    assert not [name for name in collect(CELL, trained, Constant(0, 1, 2), data, split)[0] if "panel" in name]


def test_the_original_itself_has_nothing_to_relearn(trained: Classifier, data: Data, split: Split) -> None:
    _, scalars = collect(CELL, trained, trained, data, split)
    for name in ("relearn_steps", "ain_steps"):
        assert (scalars[name], scalars[f"{name}_censored"]) == (0, 0)
    assert (scalars["relearn_time"], scalars["weight_distance"]) == (0, 0)


def test_a_model_that_does_not_relearn_in_time_is_censored(trained: Classifier, data: Data, split: Split) -> None:
    _, scalars = collect(CELL, trained, Constant(-9.0, 0.0, 0.0), data, split)
    caps = {"relearn_steps": 30, "ain_steps": 30, "golatkar_epochs": 3}
    assert {name: scalars[name] for name in caps} == caps
    assert [scalars[f"{name}_censored"] for name in caps] == [1, 1, 1]
    assert scalars["weight_distance"] is None


def test_anamnesis_is_of_unseen_samples_of_the_forgotten_classes(trained: Classifier, data: Data, split: Split) -> None:
    """A model that knows class 0 alone has nothing to learn again where class 0 was forgotten, and class 1 to learn
    where that was; without unseen samples of the class it can never arrive."""
    only_zero = Constant(9.0, 0.0, 0.0)
    one = make_split(ClassForget(classes=(1,)), data.y_train.numpy(), len(data.x_test), 0)
    assert collect(CELL, trained, only_zero, data, split)[1]["ain_steps"] == 0
    assert collect(CELL, trained, only_zero, data, one)[1]["ain_steps_censored"] == 1
    unseen = data.y_test != 0
    without = replace(data, x_test=data.x_test[unseen], y_test=data.y_test[unseen])
    rest = make_split(ClassForget(classes=(0,)), data.y_train.numpy(), int(unseen.sum()), 0)
    assert collect(CELL, trained, only_zero, without, rest)[1]["ain_steps_censored"] == 1


def test_outputs_that_are_not_finite_are_no_evidence(trained: Classifier, data: Data, split: Split) -> None:
    with pytest.raises(FloatingPointError, match="the unlearned model's outputs are not finite"):
        collect(CELL, trained, Constant(0.0, float("nan"), 0.0), data, split)


def test_evidence_leaves_both_models_alone(
    trained: Classifier, untrained: Classifier, data: Data, split: Split
) -> None:
    before = state(trained), state(untrained)
    collect(CELL, trained, untrained, data, split)
    assert torch.equal(state(trained), before[0])
    assert torch.equal(state(untrained), before[1])


def test_warming_up_leaves_no_trace(trained: Classifier, data: Data) -> None:
    before, drawn = deepcopy(state(trained)), torch.random.get_rng_state()
    warm_up(trained, data, 32)
    assert torch.equal(state(trained), before)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert not trained.training
