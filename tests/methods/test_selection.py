"""Methods that choose weights: SalUn, SSD, LFSSD and Fisher forgetting against plain lines, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from method_cases import CLASS, RANDOM, assert_same_parameters, double, gradients, network, split_of, task_of
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.fisher import Fisher
from unlearnbench_methods.lfssd import LFSSD
from unlearnbench_methods.salun import SalUn, salient
from unlearnbench_methods.ssd import SSD

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Data
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.spec import Access, AccessDenied
from unlearnbench.training.models import Classifier

SCENARIOS = pytest.mark.parametrize("scenario", [CLASS, RANDOM], ids=["class", "random"])
Gradients = dict[str, Tensor]


def assert_other_parameters(one: nn.Module, other: nn.Module) -> None:
    with pytest.raises(AssertionError):
        assert_same_parameters(one, other)


def test_defaults_are_the_published_ones() -> None:
    salun, ssd, lfssd, fisher = SalUn(), SSD(), LFSSD(), Fisher()
    assert (salun.share, salun.lr, salun.momentum, salun.weight_decay) == (0.5, 0.013, 0.9, 5e-4)
    assert (salun.batch_size, salun.epochs, salun.exclude_true) == (256, 10, True)
    assert (ssd.alpha, ssd.lam, ssd.batch_size) == (lfssd.alpha, lfssd.lam, lfssd.batch_size) == (10, 1, 64)
    assert (fisher.alpha, fisher.samples) == (1e-6, 250)


# --- ssd and lfssd ---------------------------------------------------------------------------------------------------


def mean_over_batches(
    model: Classifier, x: Tensor, y: Tensor, size: int, loss: Callable[[Tensor, Tensor], Tensor], power: int
) -> Gradients:
    parts = [gradients(model, loss(model(a), b)) for a, b in zip(x.split(size), y.split(size), strict=True)]
    return {name: torch.stack([part[name].abs() ** power for part in parts]).mean(0) for name in parts[0]}


def dampened(model: Classifier, forget: Gradients, everything: Gradients, alpha: float, lam: float) -> Classifier:
    """Weight by weight, as the formula reads."""
    model = deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            flat, f, d = parameter.view(-1), forget[name].reshape(-1), everything[name].reshape(-1)
            for i in range(len(flat)):
                if f[i] > alpha * d[i]:
                    flat[i] *= min(lam * d[i].item() / f[i].item(), 1.0)
    return model


def plain(
    model: Classifier, data: Data, split: Split, method: SSD | LFSSD, loss: Callable[[Tensor, Tensor], Tensor],
    power: int, *, batch: int = 10, by_class: bool = False, retain_only: bool = False,
) -> Classifier:  # fmt: skip
    x_f, y_f = data.x_train[split.forget], data.y_train[split.forget]
    x_r, y_r = data.x_train[split.retain], data.y_train[split.retain]
    if by_class:
        x_r, y_r = torch.cat([x_r[y_r == c] for c in range(3)]), torch.cat([y_r[y_r == c] for c in range(3)])
    x, y = (x_r, y_r) if retain_only else (torch.cat([x_r, x_f]), torch.cat([y_r, y_f]))
    forget = mean_over_batches(model, x_f, y_f, batch, loss, power)
    return dampened(model, forget, mean_over_batches(model, x, y, batch, loss, power), method.alpha, method.lam)


def size_of_output(logits: Tensor, _: Tensor) -> Tensor:
    return (logits**2).sum(1).mean()


@SCENARIOS
def test_ssd_is_its_formula_parameter_by_parameter(data: Data, scenario: tuple[str, dict[str, Any]]) -> None:
    data, model = double(data), network(norm=True)
    split, method, by_class = split_of(data, scenario), SSD(alpha=1.2, lam=0.7, batch_size=10), scenario is CLASS
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    ce = F.cross_entropy
    assert_same_parameters(result, plain(model, data, split, method, ce, 2, by_class=by_class))
    assert_other_parameters(result, plain(model, data, split, method, ce, 1, by_class=by_class))  # no square
    assert_other_parameters(result, plain(model, data, split, method, ce, 2, by_class=by_class, batch=1))  # Fisher
    assert_other_parameters(result, plain(model, data, split, method, ce, 2, by_class=not by_class))
    assert_other_parameters(result, plain(model, data, split, method, ce, 2, by_class=by_class, retain_only=True))
    for name, parameter in result.named_parameters():
        assert (parameter.abs() <= model.get_parameter(name).abs()).all()


@SCENARIOS
def test_lfssd_is_its_formula_parameter_by_parameter(data: Data, scenario: tuple[str, dict[str, Any]]) -> None:
    data, model = double(data), network(norm=True)
    split, method = split_of(data, scenario), LFSSD(alpha=1.05, lam=0.7, batch_size=10)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, plain(model, data, split, method, size_of_output, 1))
    assert_other_parameters(result, plain(model, data, split, method, size_of_output, 2))  # SSD's square
    assert_other_parameters(result, plain(model, data, split, method, lambda z, _: z.norm(dim=1).mean(), 1))
    assert_other_parameters(result, plain(model, data, split, method, size_of_output, 1, retain_only=True))


def test_lfssd_does_without_labels(data: Data) -> None:
    method = LFSSD()
    assert Access.LABELS not in method.needs
    task = task_of(method, data, split_of(data))
    with pytest.raises(AccessDenied):
        _ = task.forget.labels


@pytest.mark.parametrize("cls", [SSD, LFSSD])
def test_dampening_never_makes_a_weight_larger_and_leaves_statistics(data: Data, cls: type[SSD] | type[LFSSD]) -> None:
    model = network(norm=True, dtype=torch.float32)
    before = deepcopy(model.state_dict())
    for method, same in ((cls(alpha=1.01, lam=1e6), True), (cls(alpha=1e6), True), (cls(alpha=1.01, lam=0.1), False)):
        state = method.unlearn(deepcopy(model), task_of(method, data, split_of(data))).state_dict()
        assert all(torch.equal(state[name], before[name]) for name in state) is same
        assert torch.equal(state["encoder.1.running_var"], before["encoder.1.running_var"])


def test_ssd_cannot_find_a_weight_more_specific_than_the_share_of_the_forget_set(data: Data) -> None:
    """A third of the data is forgotten, in whole batches: I(D) is at least I(D_f)/3."""
    model, split = network(), split_of(data)
    for alpha, same in ((3.001, True), (1.5, False)):
        method = SSD(alpha=alpha, batch_size=32)
        result = method.unlearn(deepcopy(model), task_of(method, double(data), split))
        assert all(torch.equal(p, q) for p, q in zip(result.parameters(), model.parameters(), strict=True)) is same


# --- salun -----------------------------------------------------------------------------------------------------------


def largest_half(model: Classifier, data: Data, split: Split) -> dict[str, Tensor]:
    x, y = data.x_train[split.forget], data.y_train[split.forget]
    found = {name: g.abs() for name, g in gradients(model, F.cross_entropy(model(x), y)).items()}
    limit = torch.cat([g.flatten() for g in found.values()]).median()  # of an odd number the middle one
    return {name: g > limit for name, g in found.items()}


def plain_salun(
    model: Classifier, mask: dict[str, Tensor], x: list[Tensor], y: list[Tensor], *, gradient_only: bool = False
) -> Classifier:
    """SGD with momentum .9 and weight decay .1 in which only the update of masked-in weights is applied; or, as the
    public code did at first, in which only their gradient is let through."""
    model = deepcopy(model).train()
    velocity = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for images, labels in zip(x, y, strict=True):
        found = gradients(model, F.cross_entropy(model(images), labels))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                through = mask[name] if gradient_only else torch.ones_like(mask[name])
                velocity[name].mul_(0.9).add_(found[name] * through + 0.1 * parameter)
                parameter.sub_(0.05 * velocity[name] * (1 if gradient_only else mask[name]))
    return model


@pytest.mark.usefixtures("in_order")
def test_salun_is_random_labels_on_the_most_salient_half(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = double(data), network(norm=True)
    split, method = split_of(data), SalUn(lr=0.05, weight_decay=0.1, batch_size=16, epochs=2)
    assert sum(p.numel() for p in model.parameters()) == 225  # of which the 112 most salient are to move
    labels: list[Tensor] = []
    cross_entropy = F.cross_entropy

    def watch(logits: Tensor, y: Tensor) -> Tensor:
        labels.append(y)
        return cross_entropy(logits, y)

    with monkeypatch.context() as patch:
        patch.setattr(F, "cross_entropy", watch)
        result = method.unlearn(deepcopy(model), task_of(method, data, split))
    del labels[:2]  # of the gradient of the mask
    assert [len(y) for y in labels] == [16] * 12  # in each epoch 32 to forget, of class 0, then 64 to retain
    assert all(set(y.tolist()) == {1, 2} for y in labels)
    assert not torch.equal(torch.cat(labels[:2]), torch.cat(labels[6:8]))  # drawn anew
    images = [*data.x_train[split.forget].split(16), *data.x_train[split.retain].split(16)] * 2
    mask = largest_half(model, data, split)
    assert sum(int(m.sum()) for m in mask.values()) == 112
    assert_same_parameters(result, plain_salun(model, mask, images, labels))
    for name, parameter in result.named_parameters():
        moved = parameter != model.get_parameter(name)
        assert torch.equal(moved, mask[name])  # the rest is bit-equal
    everything, rest = ({name: f(m) for name, m in mask.items()} for f in (torch.ones_like, torch.logical_not))
    assert_other_parameters(result, plain_salun(model, everything, images, labels))
    assert_other_parameters(result, plain_salun(model, rest, images, labels))
    assert_other_parameters(result, plain_salun(model, mask, images, labels, gradient_only=True))


def test_salun_chooses_by_the_sum_over_the_batches_that_the_recipe_augments(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As generate_mask.py does: the small last batch, of 12, counts as much as the first, of 20."""
    data, model, chosen = double(data), network(norm=True), []

    def watch(gradients: Gradients, share: float) -> dict[str, Tensor]:
        chosen.append(gradients)
        return salient(gradients, share)

    monkeypatch.setattr("unlearnbench_methods.salun.salient", watch)
    method = SalUn(batch_size=20, epochs=1)
    task, twin = (task_of(method, data, split_of(data), recipe=Recipe(augment="crop_flip")) for _ in range(2))
    method.unlearn(deepcopy(model), task)
    first, last = (gradients(model, F.cross_entropy(model(x), y)) for x, y in twin.forget.batches(20))
    plain = gradients(model, F.cross_entropy(model(twin.forget.images()), twin.forget.labels))
    for name, found in chosen[0].items():
        torch.testing.assert_close(found, first[name] + last[name])
        assert not torch.allclose(found, 2 * plain[name])
        assert not torch.allclose(found, (20 * first[name] + 12 * last[name]) / 16)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 22), (0.9, 202), (1.0, 225)])
def test_salun_moves_exactly_its_share_of_the_weights(data: Data, share: float, count: int) -> None:
    model, method = network(norm=True), SalUn(share=share, batch_size=16, epochs=1)
    result = method.unlearn(deepcopy(model), task_of(method, double(data), split_of(data)))
    pairs = zip(result.parameters(), model.parameters(), strict=True)
    assert sum(int((p != q).sum()) for p, q in pairs) == count


def test_salun_may_draw_the_true_label_as_the_authors_do(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen, cross_entropy = SalUn(batch_size=1000, epochs=1, exclude_true=False), [], F.cross_entropy

    def watch(logits: Tensor, y: Tensor, **options: Any) -> Tensor:
        seen.append(y)
        return cross_entropy(logits, y, **options)

    monkeypatch.setattr(F, "cross_entropy", watch)
    method.unlearn(network(dtype=torch.float32), task_of(method, data, split_of(data)))
    assert set(seen[1].tolist()) == {0, 1, 2}  # after the gradient of the mask


# --- fisher ----------------------------------------------------------------------------------------------------------


def plain_fisher(
    model: Classifier, x: Tensor, alpha: float, forgotten: list[int], noise: list[Tensor], drop: str = ""
) -> Classifier:
    """θ + √v·noise, from single samples and single labels; ``drop`` leaves one of its rules out."""
    parameters = dict(model.named_parameters())
    known = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for image in x:
        z = model(image[None])
        p = torch.softmax(z, 1)[0].tolist()
        for label in range(3):
            target = torch.tensor([label])
            found = gradients(model, F.cross_entropy(model(image[None]), target))
            for name in known:
                known[name] += (1 if drop == "probability" else p[label]) * found[name] ** 2 / len(x)
    model = deepcopy(model)
    for (name, parameter), draw in zip(model.named_parameters(), noise, strict=True):
        head = name.startswith("head")
        v = 1 / (known[name] + 1e-8)
        if drop != "limit":
            v = v.clamp(max=100.0 if head else 1000.0)
        v = alpha * v
        if v.ndim > 1 and drop != "average":
            v = v.mean(dim=1, keepdim=True) * torch.ones_like(v)
        mean = parameter.detach().clone()
        for c in forgotten if head and drop != "row" else []:
            mean[c], v[c] = 0, 1e-4
        if (head or v.ndim == 1) and drop != "ten":
            v = v * 10
        parameter.data = mean + v.sqrt() * draw
    return model


@SCENARIOS
def test_fisher_is_noise_where_the_retain_set_does_not_care(data: Data, scenario: tuple[str, dict[str, Any]]) -> None:
    data, model = double(data), network(norm=True)
    split, method = split_of(data, scenario), Fisher(alpha=1e-4, samples=20)
    task = task_of(method, data, split)
    result = method.unlearn(deepcopy(model), task)
    assert task.counter.samples == 20
    rng = task.generator("noise")
    noise = [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in model.parameters()]
    x, forgotten = data.x_train[split.retain[:20]], [0] if scenario is CLASS else []
    assert_same_parameters(result, plain_fisher(model, x, 1e-4, forgotten, noise))
    for rule in ("probability", "limit", "average", "ten", *(["row"] if forgotten else [])):
        assert_other_parameters(result, plain_fisher(model, x, 1e-4, forgotten, noise, rule))
    assert_other_parameters(result, plain_fisher(model, data.x_train[split.forget[:20]], 1e-4, forgotten, noise))


def test_fisher_noise_is_normal_and_a_forgotten_class_is_erased(data: Data) -> None:
    """Where the gradient is 0 the variance is at its limit: 1e3·α in a layer, 1e2·10·α in the last."""
    model = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.Threshold(9.0, 0.0)), nn.Linear(200, 3), 3)
    method = Fisher(alpha=1e-6, samples=5)
    result = method.unlearn(deepcopy(model), task_of(method, data, split_of(data)))
    for name, scale, rows in (("encoder.1.weight", 1e-3**0.5, slice(None)), ("head.weight", 1e-3**0.5, slice(1, 3))):
        noise = (result.get_parameter(name) - model.get_parameter(name)).detach()[rows].flatten() / scale
        assert stats.kstest(noise.numpy(), "norm").pvalue > 0.01
    erased = result.get_parameter("head.weight").detach()[0]
    assert stats.kstest(erased.numpy() / 1e-3**0.5, "norm").pvalue > 0.01


def test_fisher_knows_neither_labels_nor_the_forget_set() -> None:
    assert Fisher.needs == Access.RETAIN
