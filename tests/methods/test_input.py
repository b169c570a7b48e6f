"""MU-Mis and JiT, which look at gradients and at images beside the forget samples, against plain lines in float64."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from method_cases import RANDOM, assert_same_parameters, network, plain_step, split_of, task_of
from torch import Tensor, nn
from unlearnbench_methods import mu_mis
from unlearnbench_methods.jit import JiT
from unlearnbench_methods.mu_mis import MUMIS, sensitivities
from unlearnbench_methods.steps import other_labels

from unlearnbench.data.tensors import Data
from unlearnbench.plan.spec import Access
from unlearnbench.training.models import Classifier, ViTTiny

# --- mu-mis ----------------------------------------------------------------------------------------------------------


def input_gradient(model: nn.Module, image: Tensor, c: int) -> Tensor:
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(image[None])[0, c], image, create_graph=True)
    return gradient


def mu_mis_reference(
    model: Classifier, x: Tensor, y: Tensor, rng: torch.Generator, *, sign: float = -1, power: int = 2
) -> Classifier:
    """Two epochs in batches of 6."""
    model = deepcopy(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for start in range(0, len(x), 6):
            part, own = x[start : start + 6], y[start : start + 6]
            loss = torch.zeros(())
            for image, c, other in zip(part, own, other_labels(own, 3, rng), strict=True):
                ours = input_gradient(model, image, int(c)).norm() ** power
                loss = loss + (ours + sign * input_gradient(model, image, int(other)).norm() ** power) / len(part)
            plain_step(sgd, loss)
    return model


@pytest.mark.usefixtures("in_order")
def test_mu_mis_is_its_reference_parameter_by_parameter(exact: Data, model: Classifier) -> None:
    split = split_of(exact, RANDOM)
    x, y = exact.x_train[split.forget], exact.y_train[split.forget]
    method = MUMIS(lr=0.05, recovery=1e9, batch_size=6, epochs=2)
    task = task_of(method, exact, split)
    result = method.unlearn(deepcopy(model), task)
    assert_same_parameters(result, mu_mis_reference(model, x, y, task.generator("other classes")))
    for mistake in ({"sign": 1}, {"sign": 0}, {"power": 1}):
        with pytest.raises(AssertionError):
            assert_same_parameters(
                result,
                mu_mis_reference(model, x, y, task.generator("other classes"), **mistake),  # type: ignore[arg-type]
            )


@pytest.mark.parametrize(
    ("norms", "recovery", "epochs"),
    [
        ([4, 3, 2, 3, 4, 5], 1.0, 5),  # back at the first epoch's
        ([4, 3, 2, 3, 4, 5], 0.75, 4),
        ([4, 5, 6, 7, 8, 9], 1.5, 3),
        ([6, 5, 4, 3, 2, 1], 0.1, 6),  # on its way down it goes on
        ([4, 3, 3, 3, 3, 3], 2.0, 6),  # never there
    ],
)
def test_mu_mis_stops_when_other_classes_have_recovered(
    data: Data, norms: list[int], recovery: float, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def given(_model: nn.Module, x: Tensor, *_classes: Tensor) -> list[Tensor]:
        seen.append(norms[len(seen)])
        return [torch.zeros(len(x)), torch.full((len(x),), float(seen[-1] ** 2))]

    monkeypatch.setattr(mu_mis, "sensitivities", given)
    monkeypatch.setattr(mu_mis, "descend", lambda *_: None)
    method = MUMIS(recovery=recovery, batch_size=1000, epochs=6)
    method.unlearn(network(dtype=torch.float32), task_of(method, data, split_of(data)))
    assert len(seen) == epochs


def test_mu_mis_works_through_attention() -> None:
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    vit = ViTTiny().build((1, 8, 8), 3).eval()
    own, _ = sensitivities(vit, x, torch.tensor([0, 1]), torch.tensor([1, 2]))
    own.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in vit.parameters())


# --- jit -------------------------------------------------------------------------------------------------------------


def jit_reference(
    model: Classifier,
    x: Tensor,
    rng: torch.Generator,
    *,
    stopped: bool = True,
    mean: bool = False,
    clamped: bool = True,
    summed: bool = True,
) -> Classifier:
    """One pass in batches of 10 with three neighbours and noise 0.5; gradients are added up over the batches."""
    model = deepcopy(model).train()
    so_far = [torch.zeros_like(p) for p in model.parameters()]
    for start in range(0, len(x), 10):
        part = x[start : start + 10]
        rates: list[Tensor] = []
        clean = model(part)
        for _ in range(3):
            near = part + 0.5 * torch.randn(part.shape, generator=rng).double()
            near = near.clamp(part.min(), part.max()) if clamped else near
            noisy = model(near)
            noisy = noisy.detach() if stopped else noisy
            rates += [(clean[i] - noisy[i]).norm() / (part[i] - near[i]).norm() for i in range(len(part))]
        loss = torch.stack(rates).sum() / 3 / (len(part) if mean else 1)
        names = list(model.parameters())
        new = torch.autograd.grad(loss, names)
        so_far = [old + g for old, g in zip(so_far, new, strict=True)] if summed else list(new)
        for p, g in zip(names, so_far, strict=True):
            p.data -= 0.01 * g
    return model


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_jit_is_its_reference_parameter_by_parameter(exact: Data, norm: bool) -> None:
    model, split = network(norm=norm), split_of(exact)
    x = exact.x_train[split.forget]
    method = JiT(lr=0.01, neighbours=3, batch_size=10)
    task = task_of(method, exact, split)
    result = method.unlearn(deepcopy(model), task)
    assert_same_parameters(result, jit_reference(model, x, task.generator("neighbours")))
    for mistake in ({"stopped": False}, {"mean": True}, {"clamped": False}, {"summed": False}):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, jit_reference(model, x, task.generator("neighbours"), **mistake))
    alone = replace(method, accumulate=False).unlearn(deepcopy(model), task_of(method, exact, split))
    assert_same_parameters(alone, jit_reference(model, x, task.generator("neighbours"), summed=False))


def test_jit_goes_through_the_forget_set_in_its_order_and_adds_gradients_as_published(exact: Data) -> None:
    method, split = JiT(lr=0.01, neighbours=3, batch_size=10), split_of(exact)
    task, model = task_of(method, exact, split), network()
    result = method.unlearn(deepcopy(model), task)
    assert_same_parameters(result, jit_reference(model, task.forget.images(), task.generator("neighbours")))
    assert method.accumulate


def test_jit_and_mu_mis_see_forget_samples_alone() -> None:
    assert JiT.needs == Access.FORGET
    assert MUMIS.needs == Access.FORGET | Access.LABELS
    jit = JiT()
    assert (jit.lr, jit.noise, jit.neighbours, jit.batch_size) == (3e-4, 0.5, 25, 128)
