"""Boundary shrink, boundary expand and UNSIR against plain lines written from their papers, in float64."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from method_cases import RANDOM, assert_same_parameters, double, knowing, network, plain_step, split_of, task_of
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.boundary_expand import BoundaryExpand
from unlearnbench_methods.boundary_shrink import BoundaryShrink
from unlearnbench_methods.steps import pixel_range
from unlearnbench_methods.unsir import UNSIR

from unlearnbench.data.tensors import Data, Samples
from unlearnbench.plan.spec import Access
from unlearnbench.training.models import CNN, Classifier, build_model

# --- boundary shrink -------------------------------------------------------------------------------------------------


def shrink_reference(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    sign: float = 1,
    true_too: bool = False,
    moving: bool = False,
    clamped: bool = False,
    step: float = 0.3,
) -> Classifier:
    """Two epochs in batches of 10, rate 0.05. The options are mistakes."""
    model = deepcopy(model)
    original = model if moving else deepcopy(model)
    low, high = x.min(), x.max()  # one channel
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for start in range(0, len(x), 10):
            part, label = x[start : start + 10].clone().requires_grad_(), y[start : start + 10]
            original.eval()
            F.cross_entropy(original(part), label).backward()
            assert part.grad is not None
            beyond = (part + sign * step * (high - low) * part.grad.sign()).detach()
            if clamped:
                beyond = beyond.clamp(low, high)
            logits = original(beyond).detach()
            if not true_too:
                logits[torch.arange(len(label)), label] = -1e9
            model.train()
            plain_step(sgd, F.cross_entropy(model(part.detach()), logits.argmax(1)))
    return model


@pytest.mark.usefixtures("in_order")
def test_boundary_shrink_is_its_reference_parameter_by_parameter(data: Data) -> None:
    data = double(data)
    model, split = knowing(data, norm=True), split_of(data, RANDOM)
    x, y = data.x_train[split.forget], data.y_train[split.forget]
    method = BoundaryShrink(bound=0.3, lr=0.05, batch_size=10, epochs=2)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, shrink_reference(model, x, y))
    for mistake in ({"sign": -1}, {"true_too": True}, {"moving": True}):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, shrink_reference(model, x, y, **mistake))  # type: ignore[arg-type]
    for clamped in (False, True):
        method = replace(method, bound=0.4, clamp=clamped)
        result = method.unlearn(deepcopy(model), task_of(method, data, split))
        assert_same_parameters(result, shrink_reference(model, x, y, step=0.4, clamped=clamped))
        with pytest.raises(AssertionError):
            assert_same_parameters(result, shrink_reference(model, x, y, step=0.4, clamped=not clamped))


def test_the_step_of_boundary_shrink_is_what_two_normalisations_make_of_a_tenth() -> None:
    """utils.py normalises pixels by .5 and .5; adv_generator.py moves x·std + mean by .1 and clamps that to [0, 1]."""
    pixels = torch.linspace(0, 1, 256, dtype=torch.float64)
    for std, mean, floor in ((0.2023, 0.4914, -0.25), (0.1994, 0.4822, -0.25), (0.2010, 0.2265, -0.0634)):
        x = (pixels - 0.5) / 0.5
        for sign in (-1, 1):
            beyond = ((x * std + mean + sign * 0.1).clamp(0, 1) - mean) / std * 0.5 + 0.5
            expected = (pixels + sign * BoundaryShrink().bound).clamp(min=floor)
            torch.testing.assert_close(beyond, expected, rtol=0, atol=0.004)


def test_the_range_of_pixels_is_found_by_channel() -> None:
    x = torch.tensor([[[[-1.0, 3.0]], [[0.0, 0.0]]], [[[0.0, 2.0]], [[5.0, 1.0]]]])
    low, span = pixel_range(x)
    assert (low.flatten().tolist(), span.flatten().tolist()) == ([-1, 0], [4, 5])


# --- boundary expand -------------------------------------------------------------------------------------------------


def expand_reference(model: Classifier, x: Tensor, row: Tensor, target: int, trained: bool = False) -> Classifier:
    """Only the first step is in eval mode; ``trained`` is a mistake."""
    model = deepcopy(model)
    wide, head = nn.Linear(6, 4).double(), model.head
    assert isinstance(head, nn.Linear)
    wide.weight.data = torch.cat([head.weight.data, row])
    wide.bias.data = torch.cat([head.bias.data, torch.zeros(1)])
    model.head = wide
    model.train(trained)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for start in range(0, len(x), 10):
            part = x[start : start + 10]
            plain_step(sgd, F.cross_entropy(model(part), torch.full((len(part),), target)))
            model.train()
    head.weight.data, head.bias.data = wide.weight.data[:3], wide.bias.data[:3]
    model.head = head
    return model


@pytest.mark.usefixtures("in_order")
def test_boundary_expand_trains_a_fourth_class_and_drops_it(data: Data) -> None:
    data, model = double(data), network(norm=True)
    split = split_of(data)
    x = data.x_train[split.forget]
    method = BoundaryExpand(lr=0.05, batch_size=10, epochs=2)
    task = task_of(method, data, split)
    row = (0.2**0.5 * torch.randn(1, 6, generator=task.generator("shadow class"))).double()  # Xavier: 2 / (6 + 4)
    result = method.unlearn(deepcopy(model), task)
    assert_same_parameters(result, expand_reference(model, x, row, 3))
    assert result.get_parameter("head.weight").shape == (3, 6)
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in result.parameters())
    for wrong_row, target, trained in ((row, 2, False), (0 * row, 3, False), (row, 3, True)):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, expand_reference(model, x, wrong_row, target, trained))


def test_boundary_expand_needs_no_labels_and_no_bias(data: Data) -> None:
    assert BoundaryExpand.needs == Access.FORGET
    model = network(dtype=torch.float32)
    model.head = nn.Linear(6, 3, bias=False)
    method = BoundaryExpand(epochs=1)
    result = method.unlearn(model, task_of(method, data, split_of(data)))
    assert result(data.x_train).shape == (96, 3)


def test_boundary_defaults_are_the_authors() -> None:
    shrink, expand = BoundaryShrink(), BoundaryExpand()
    assert (shrink.bound, shrink.clamp) == (0.25, False)
    for method in (shrink, expand):
        assert (method.lr, method.momentum, method.batch_size, method.epochs) == (1e-5, 0.9, 64, 10)


# --- unsir -----------------------------------------------------------------------------------------------------------


def unsir_reference(
    model: Classifier,
    start: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    sign: float = -1,
    labels: tuple[int, int] = (0, 1),
    whole: bool = False,
) -> Classifier:
    """Classes 0 and 1 of three are forgotten; ``x`` are the 32 images of class 2, of which half is used: beside these
    16 there are .25·16 = 4 images of noise of each forgotten class, the first three and the first again."""
    model = deepcopy(model).train()
    noises = []
    for c in (0, 1):
        noise = start[c].clone().requires_grad_()
        adam = torch.optim.Adam([noise], lr=0.1)
        for _ in range(5):
            loss = sign * F.cross_entropy(model(noise), torch.full((12,), c)) + 0.1 * (noise**2).sum() / 12
            adam.zero_grad()
            loss.backward()
            adam.step()
        noises.append(noise.detach())
    sample, own = x[:16], y[:16]
    first = range(12) if whole else (0, 1, 2, 0)
    images = torch.cat([noise[i][None] for noise in noises for i in first] + [sample])
    targets = torch.cat([torch.full((len(first),), label) for label in labels] + [own])
    for lr, xs, ys in ((0.02, images, targets), (0.01, sample, own)):
        adam = torch.optim.Adam(model.parameters(), lr=lr)
        for b in range(0, len(xs), 12):
            plain_step(adam, F.cross_entropy(model(xs[b : b + 12]), ys[b : b + 12]))
    return model


@pytest.mark.usefixtures("in_order", "float64")
def test_unsir_is_its_reference_parameter_by_parameter(data: Data) -> None:
    data, model = double(data), network(norm=True)
    split = split_of(data, ("class", {"classes": [0, 1]}))
    x, y = data.x_train[split.retain], data.y_train[split.retain]
    method = UNSIR(noise_steps=5, share=0.5, batch_size=12, noise_share=0.25)
    task = task_of(method, data, split)
    rng = task.generator("noise")
    start = torch.stack([torch.randn(12, 1, 8, 8, generator=rng) for _ in range(2)])
    result = method.unlearn(deepcopy(model), task)
    assert_same_parameters(result, unsir_reference(model, start, x, y))
    for mistake in ({"sign": 1}, {"labels": (0, 0)}, {"whole": True}):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, unsir_reference(model, start, x, y, **mistake))  # type: ignore[arg-type]


def test_unsir_has_as_much_noise_beside_the_retained_images_as_the_notebook(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cell 26: 20 times, for i in range(batch[0].size(0)), which is 3: 60 images beside 1,000 of a class."""
    seen: list[Samples] = []
    monkeypatch.setattr(UNSIR, "fit", lambda _self, _model, samples, _lr: seen.append(samples))
    for dataset_size in (3000, 1500):  # of three classes, a fifth of each of the two retained ones is sampled
        y = torch.arange(dataset_size) % 3
        many = replace(data, x_train=torch.rand(dataset_size, 1, 8, 8), y_train=y)
        method = UNSIR(noise_steps=1, batch_size=4)
        method.unlearn(network(dtype=torch.float32), task_of(method, many, split_of(many)))
        impair, repair = seen
        noise = impair.images()[impair.labels == 0]
        assert len(noise) / (len(repair) / 2) == pytest.approx(60 / 1000)
        assert len(noise.flatten(1).unique(dim=0)) == 3
        seen.clear()


def test_unsir_makes_noise_of_colours_too() -> None:
    """Gradients of colour images come back channels-last, which the images are not."""
    model = build_model(CNN(), (3, 8, 8), 3, 0)
    method = UNSIR(noise_steps=3, batch_size=4, noise_lr=0.1, penalty=0.1)
    rng = torch.Generator().manual_seed(1)
    expected = torch.randn(4, 3, 8, 8, generator=rng.clone_state()).requires_grad_()
    adam = torch.optim.Adam([expected], lr=0.1, fused=False)
    for _ in range(3):
        loss = 0.1 * (expected**2).sum() / 4 - F.cross_entropy(model(expected), torch.full((4,), 2))
        (gradient,) = torch.autograd.grad(loss, expected)
        expected.grad = gradient.contiguous()
        adam.step()
    torch.testing.assert_close(method.noise(model, 2, torch.Size((3, 8, 8)), rng), expected.detach(), rtol=0, atol=1e-4)
    assert all(p.grad is None for p in model.parameters())


def test_unsir_defaults_are_the_notebooks_and_it_sees_no_forget_sample() -> None:
    method = UNSIR()
    assert (method.noise_lr, method.noise_steps, method.penalty) == (0.1, 40, 0.1)
    assert (method.impair_lr, method.repair_lr, method.batch_size, method.share, method.epochs) == (
        0.02,
        0.01,
        256,
        0.2,
        1,
    )
    assert (method.noise_share, method.distinct) == (60 / 1000, 3)
    assert Access.FORGET not in UNSIR.needs
    assert UNSIR.scenarios == ("class",)
