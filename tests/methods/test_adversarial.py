"""AMUN and L2UL, which teach adversarial images, against plain lines written from their papers, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Literal

import pytest
import torch
from method_cases import RANDOM, assert_same_parameters, network, plain_step, split_of, task_of
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.amun import AMUN
from unlearnbench_methods.l2ul import L2UL, unimportance
from unlearnbench_methods.steps import frozen, other_labels, within

from unlearnbench.data.tensors import Counter, Data, Samples
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.spec import Access
from unlearnbench.training.models import Classifier

# --- amun ------------------------------------------------------------------------------------------------------------


def nearest_adversary(model: nn.Module, image: Tensor, label: int, low: Tensor, high: Tensor) -> tuple[Tensor, int]:
    """One image at a time: radius 0.1 at first, five steps, then twice the radius, until the class changes."""
    clean = (image - low) / (high - low)
    u, radius = clean.clone(), 0.1
    while True:
        for _ in range(5):
            u = u.detach().requires_grad_()
            logits = model((low + (high - low) * u)[None])
            if logits.argmax() != label:
                return (low + (high - low) * u).detach(), int(logits.argmax())
            F.cross_entropy(logits, torch.tensor([label])).backward()
            assert u.grad is not None
            away = u.detach() + radius / 10 * u.grad / u.grad.norm() - clean
            u = (clean + away * min(1.0, radius / away.norm().item())).clamp(0, 1)
        radius *= 2


def amun_attack() -> AMUN:
    return AMUN(radius=0.1, attack_steps=5, lr=0.05, step=1, batch_size=20, epochs=2)


def test_amun_finds_the_nearest_adversary_of_each_sample(exact: Data, model: Classifier) -> None:
    split = split_of(exact, RANDOM)
    x, y = exact.x_train[split.forget], exact.y_train[split.forget]
    images, labels = amun_attack().nearest_adversaries(frozen(model), x, y)
    expected = [nearest_adversary(frozen(model), i, int(c), x.min(), x.max()) for i, c in zip(x, y, strict=True)]
    assert labels.tolist() == [label for _, label in expected]
    torch.testing.assert_close(images, torch.stack([image for image, _ in expected]), rtol=1e-7, atol=1e-9)
    assert (labels != y).all()
    wrong_before = model(x).argmax(1) != y
    torch.testing.assert_close(images[wrong_before], x[wrong_before])
    assert (images[~wrong_before] != x[~wrong_before]).flatten(1).any(1).all()


def test_amun_gives_up_past_the_diagonal_and_takes_the_runner_up() -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([9.0, 1.0, 2.0]) + 0 * x.sum((1, 2, 3))[:, None]

    x = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    _, labels = amun_attack().nearest_adversaries(Stubborn(), x, torch.tensor([0, 0]))
    assert labels.tolist() == [2, 2]


def amun_reference(
    model: Classifier, sets: list[tuple[Tensor, Tensor]], *, decay: float = 0.1, without: int | None = None
) -> Classifier:
    x = torch.cat([images for i, (images, _) in enumerate(sets) if i != without])
    y = torch.cat([labels for i, (_, labels) in enumerate(sets) if i != without])
    model = deepcopy(model).train()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(2):
        for start in range(0, len(x), 20):
            plain_step(sgd, F.cross_entropy(model(x[start : start + 20]), y[start : start + 20]))
        sgd.param_groups[0]["lr"] *= decay
    return model


@pytest.mark.usefixtures("in_order")
def test_amun_trains_on_retain_forget_and_adversaries_with_a_falling_rate(exact: Data, model: Classifier) -> None:
    split = split_of(exact, RANDOM)
    x, y = exact.x_train[split.forget], exact.y_train[split.forget]
    found = [nearest_adversary(frozen(model), i, int(c), x.min(), x.max()) for i, c in zip(x, y, strict=True)]
    adversaries = torch.stack([i for i, _ in found]), torch.tensor([c for _, c in found])
    sets = [(exact.x_train[split.retain], exact.y_train[split.retain]), (x, y), adversaries]
    method = amun_attack()
    result = method.unlearn(deepcopy(model), task_of(method, exact, split))
    assert_same_parameters(result, amun_reference(model, sets))
    for mistake in ({"decay": 1.0}, {"without": 1}, {"without": 2}):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, amun_reference(model, sets, **mistake))  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", ["crop_flip", "resized_crop_flip"])
def test_amun_augments_what_it_was_given_but_not_the_adversaries(
    data: Data, recipe: Literal["crop_flip", "resized_crop_flip"]
) -> None:
    size = 8 if recipe == "crop_flip" else 12  # resized_crop_flip gives larger images
    seen: list[Tensor] = []

    class Watch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network(dtype=torch.float32)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.extend(x)
            return self.inner(F.interpolate(x, (8, 8), mode="bilinear"))

    split, method = split_of(data, RANDOM), amun_attack()
    x, y = data.x_train[split.forget], data.y_train[split.forget]
    found, _ = method.nearest_adversaries(frozen(Watch()), x, y)
    given = F.interpolate(torch.cat([data.x_train[split.retain], x]), (size, size), mode="bilinear")
    found = F.interpolate(found, (size, size), mode="bilinear")
    method.unlearn(Watch(), task_of(method, data, split, recipe=Recipe(augment=recipe, image_size=size)))

    def as_they_were(images: Tensor) -> int:
        return sum(any(torch.allclose(image, other, atol=1e-5) for other in seen) for image in images)

    assert as_they_were(found) == len(found)
    assert as_they_were(given) < len(given) / 2


def test_what_leaves_the_ball_comes_back_to_its_surface() -> None:
    centre = torch.zeros(2, 1, 1, 2)
    moved = within(torch.tensor([[[[3.0, 4.0]]], [[[0.1, -0.2]]]]), centre, 0.5)
    torch.testing.assert_close(moved, torch.tensor([[[[0.3, 0.4]]], [[[0.1, 0.0]]]]))


def test_amun_defaults_are_the_authors_and_it_forgets_no_class() -> None:
    method = AMUN()
    assert (method.lr, method.step, method.epochs, method.batch_size) == (0.01, 1, 10, 128)
    assert (method.radius, method.attack_steps, method.momentum, method.weight_decay) == (0.04, 50, 0.9, 5e-4)
    assert AMUN.scenarios == ("random", "indices")


# --- l2ul ------------------------------------------------------------------------------------------------------------


def test_unimportance_is_one_minus_the_scaled_gradient_of_the_length_of_the_logits(model: Classifier) -> None:
    x = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    found = unimportance(model, Samples(x, None, 0, None, Counter()), 1000)
    names = [name for name, _ in model.named_parameters()]
    lengths = torch.stack([(logits**2).sum().sqrt() for logits in model(x)])
    for name, gradient in zip(names, torch.autograd.grad(lengths.mean(), list(model.parameters())), strict=True):
        size = gradient.abs()
        torch.testing.assert_close(found[name], 1 - (size - size.min()) / (size.max() - size.min()))


def l2ul_reference(
    model: Classifier,
    adversarial: Samples,
    x: Tensor,
    y: Tensor,
    *,
    sign: float = -1,
    shares: bool = True,
    pull: float = 3,
) -> Classifier:
    """Two epochs: adversarial batches of 16 beside forget batches of 5, importance 3."""
    model, origin = deepcopy(model), deepcopy(model)
    weights = unimportance(model, adversarial.replace(x, y), 5)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images, labels = adversarial.images(), adversarial.labels
    place = 0
    for _ in range(2):
        for start in range(0, len(images), 16):
            a, c = images[start : start + 16], labels[start : start + 16]
            f, own = x[place : place + 5], y[place : place + 5]
            place = place + 5 if place + 5 < len(x) else 0
            part = len(f) / (len(f) + len(a)) if shares else 0.5
            loss = (1 - part) * F.cross_entropy(model(a), c) + sign * part * F.cross_entropy(model(f), own)
            for (name, p), p0 in zip(model.named_parameters(), origin.parameters(), strict=True):
                loss = loss + pull / 2 * (weights[name] * (p - p0.detach()) ** 2).sum()
            plain_step(sgd, loss)
    return model


@pytest.mark.usefixtures("in_order")
def test_l2ul_is_its_reference_parameter_by_parameter(exact: Data, model: Classifier) -> None:
    split = split_of(exact, RANDOM)
    x, y = exact.x_train[split.forget], exact.y_train[split.forget]
    method = L2UL(lr=0.01, importance=3, radius=1, attack_steps=3, batch_size=16, forget_batch=5, epochs=2)
    task = task_of(method, exact, split)
    adversarial = method.attack(frozen(model), task)
    result = method.unlearn(deepcopy(model), task)
    assert_same_parameters(result, l2ul_reference(model, adversarial, x, y))
    for mistake in ({"sign": 1}, {"shares": False}, {"pull": 0}):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, l2ul_reference(model, adversarial, x, y, **mistake))  # type: ignore[arg-type]


@pytest.mark.usefixtures("float64")
def test_l2ul_steps_towards_a_wrong_class_within_the_radius(exact: Data, model: Classifier) -> None:
    split = split_of(exact, RANDOM)
    x, y = exact.x_train[split.forget], exact.y_train[split.forget]
    low, span = x.min(), x.max() - x.min()
    clean = (x - low) / span
    method = L2UL(radius=0.9, attack_step=0.05, attack_steps=2, adversaries=1)
    task = task_of(method, exact, split)
    rng = task.generator("adversaries")
    target = other_labels(y, 3, rng)
    u = torch.rand(x.shape, generator=rng)
    expected = []
    for start, centre, c in zip(u, clean, target, strict=True):
        v = centre + (start - centre) * 0.9 / max(0.9, (start - centre).norm().item())
        for _ in range(2):
            v = v.detach().requires_grad_()
            F.cross_entropy(model((low + span * v)[None]), c[None]).backward()
            assert v.grad is not None
            v = (v.detach() - 0.05 * v.grad / v.grad.norm()).clamp(0, 1)
            v = centre + (v - centre) * 0.9 / max(0.9, (v - centre).norm().item())
        expected.append(low + span * v)
    found = method.attack(frozen(model), task)
    torch.testing.assert_close(found.images(), torch.stack(expected), rtol=1e-7, atol=1e-9)
    assert torch.equal(found.labels, target)
    assert (found.labels != y).all()


def test_l2ul_stops_with_the_step_that_makes_all_wrong(data: Data) -> None:
    method = L2UL(attack_steps=1, adversaries=1)
    task = task_of(method, data, split_of(data))
    model = network(dtype=torch.float32)
    model.head.bias.data[0] = -100.0  # type: ignore[union-attr]
    method.unlearn(model, task)
    n = len(task.forget)
    # importance, attack (its range, its batches), one step's two batches, one look
    assert task.counter.samples == n + 2 * n + (n + n) + n


def test_l2ul_weights_are_the_authors() -> None:
    method = L2UL()
    assert L2UL.needs == Access.FORGET | Access.LABELS
    assert (method.lr, method.importance, method.radius, method.attack_step) == (1e-3, 1.0, 4.0, 0.1)
    assert (method.momentum, method.weight_decay, method.batch_size, method.forget_batch) == (0.9, 1e-4, 256, 32)


def test_l2ul_cuts_the_adversarial_images_into_equal_batches(
    exact: Data, model: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 to forget, 48 adversarial images: two batches of 24, not 40 and 8, in which the ascent would weigh more."""
    method = L2UL(lr=1e-6, attack_steps=1, adversaries=2, batch_size=40, forget_batch=5, epochs=1)
    sizes: list[int] = []
    batches = Samples.batches

    def watched(self: Samples, size: int, **options: bool) -> Iterator[tuple[Tensor, ...]]:
        sizes.extend([size] * (len(self) == 48))
        return batches(self, size, **options)

    monkeypatch.setattr(Samples, "batches", watched)
    method.unlearn(deepcopy(model), task_of(method, exact, split_of(exact, RANDOM)))
    assert sizes == [24]
