"""GKT and SCAR, which never see a retain sample, against plain lines written from their papers, in float64."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from method_cases import CLASS, RANDOM, assert_same_parameters, double, knowing, network, plain_step, split_of, task_of
from torch import Tensor, nn
from unlearnbench_methods import gkt, scar
from unlearnbench_methods.gkt import GKT, build_generator
from unlearnbench_methods.scar import SCAR

from unlearnbench.data.tensors import Counter, Data, Samples
from unlearnbench.plan.spec import Access
from unlearnbench.training.loop import Diverged
from unlearnbench.training.models import Classifier
from unlearnbench.training.task import Task

# --- gkt -------------------------------------------------------------------------------------------------------------


def gkt_reference(teacher: Classifier, task: Task, *, gate: float = 1, attention: float = 250, k: int = 3) -> nn.Module:
    """Three rounds with a batch of 12 and two steps of the student each."""
    student = task.fresh_model("student").eval()
    generator = build_generator(16, (1, 8, 8), task.generator("generator").initial_seed())
    rng = task.generator("latents")
    climb, learn = (torch.optim.Adam(m.parameters(), lr=1e-3) for m in (generator, student))

    def divergence(x: Tensor) -> Tensor:
        p, q = torch.softmax(teacher(x), 1), torch.softmax(student(x), 1)
        return (p * (p / q).log()).sum() / len(x) / k

    def through(x: Tensor) -> Tensor:
        return x[teacher(x).softmax(1)[:, 0] <= gate]

    def maps(model: nn.Module, x: Tensor) -> list[Tensor]:
        found = []
        for layer in model.get_submodule("encoder"):  # type: ignore[attr-defined]
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                square = (x**2).mean(1).flatten(1)
                found.append(square / (square**2).sum(1, keepdim=True).sqrt())
        return found

    def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = sum((p.grad**2).sum() for p in parameters).sqrt()
        for p in parameters:
            p.grad *= min(1.0, 5 / (norm.item() + 1e-6))
        optimizer.step()

    for _ in range(3):
        z = torch.randn(12, 16, generator=rng)
        step(climb, -divergence(through(generator(z))))
        x = through(generator(z)).detach()
        for _ in range(2):
            gap = sum(((a - b) ** 2).mean() for a, b in zip(maps(student, x), maps(teacher, x), strict=True))
            step(learn, divergence(x) + attention * gap)
    return student


@pytest.mark.usefixtures("float64")
def test_gkt_is_its_reference_parameter_by_parameter(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gkt, "ROUNDS", 3)
    teacher = task_of(GKT(), data, split_of(data)).fresh_model("teacher").eval()
    gate = teacher(torch.randn(99, 1, 8, 8, generator=torch.Generator())).softmax(1)[:, 0].median().item()
    method = GKT(gate=gate, latent=16, batch_size=12, student_steps=2, epochs=1)
    task = task_of(method, data, split_of(data))
    before = deepcopy(teacher.state_dict())
    result = method.unlearn(teacher, task)
    assert_same_parameters(result, gkt_reference(teacher, task, gate=gate))
    assert all(torch.equal(t, before[name]) for name, t in teacher.state_dict().items())
    for mistake in ({"gate": 1}, {"attention": 0}, {"k": 1}):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, gkt_reference(teacher, task, **{"gate": gate, **mistake}))  # type: ignore[arg-type]


def test_gkt_says_so_when_nothing_passes_the_gate(data: Data) -> None:
    method = GKT(gate=0.0, batch_size=2)
    with pytest.raises(Diverged, match="gate=0"):
        method.unlearn(network(dtype=torch.float32), task_of(method, data, split_of(data)))


def test_gkt_sees_no_data_and_has_the_notebooks_weights() -> None:
    method = GKT()
    assert GKT.needs == Access(0)
    assert (method.gate, method.attention, method.lr, method.generator_lr) == (0.01, 250, 1e-3, 1e-3)
    assert (method.student_steps, method.latent, gkt.ROUNDS) == (10, 128, 50)


# --- scar ------------------------------------------------------------------------------------------------------------


def transformed(h: Tensor) -> Tensor:
    root = torch.sign(h) * torch.sqrt(torch.abs(h))
    return root / (root**2).sum(1, keepdim=True).sqrt()


def inverse(covariance: np.ndarray) -> Tensor:
    d = len(covariance)
    for _ in range(2):
        on = np.trace(covariance) / d
        off = (covariance.sum() - np.trace(covariance)) / (d * d - d)
        covariance = covariance + 3 * (on * np.eye(d) + off * (1 - np.eye(d)))
    deviation = np.sqrt(np.diag(covariance))
    return torch.from_numpy(np.linalg.inv(covariance / np.outer(deviation, deviation)))


def scar_reference(
    model: Classifier,
    task: Task,
    x: Tensor,
    y: Tensor,
    *,
    swapped: bool = False,
    nearest_of_all: bool = False,
    in_turn: bool = False,
) -> Classifier:
    """Three epochs of two steps: one batch to forget, surrogates in turn or, for random samples, drawn."""
    original, model, gone = deepcopy(model).eval(), deepcopy(model), list(task.forget_classes)
    means, covariances = task.statistics
    centres, inverses = transformed(means), [inverse(c.numpy()) for c in covariances]

    def distance(h: Tensor, c: int) -> Tensor:
        away = transformed(h) - centres[c]
        return torch.stack([a @ inverses[c] @ a for a in away])

    with torch.no_grad():
        table = torch.stack([distance(original.encode(x), c) for c in range(3)], 1)
    for i, label in enumerate(y):
        table[i, [] if nearest_of_all else [int(label), *gone]] = torch.inf
    nearest = table.argmin(1)
    images, rng = task.surrogate("noise", 2 * len(x)).images(), task.generator("surrogates")
    seen = [int(c) for c in original(images).argmax(1)]
    rarity = torch.tensor([1 / seen.count(c) if seen.count(c) >= 3 else 1 / 5 for c in seen])
    turns = [images[: len(x)], images[len(x) :]]
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    weights = torch.ones(3)
    model.train()
    for _ in range(3):
        for turn in turns:
            drawn = gone or in_turn or torch.multinomial(rarity, len(x), replacement=True, generator=rng)
            s = images[drawn] if isinstance(drawn, Tensor) else turn
            h = model.encode(x)
            away = torch.stack([distance(h[i : i + 1], int(c))[0] for i, c in enumerate(nearest)])
            with torch.no_grad():
                old = original(s)
            kept = torch.tensor([int(c) not in gone for c in old.argmax(1)])
            new, old = model(s)[kept], old[kept].clone()
            old[:, gone] = old.min()
            p, q = torch.softmax(old, 1), torch.softmax(new, 1)
            p, q = (q, p) if swapped else (p, q)
            plain_step(adam, (away * weights[y]).mean() + 5 * (p * (p / q).log()).sum() / len(p))
            model.eval()
            right = model(x).argmax(1) == y
            model.train()
            if not gone:
                shares = [right[y == c].double().mean().item() for c in range(3)]
                weights = torch.tensor([share if share >= 0.3 else 0.0 for share in shares])
    return model


@pytest.mark.usefixtures("in_order", "float64")
@pytest.mark.parametrize("scenario", [CLASS, RANDOM], ids=["class", "random"])
def test_scar_is_its_reference_parameter_by_parameter(data: Data, scenario: tuple[str, dict[str, Any]]) -> None:
    data = double(data)
    model, split = knowing(data), split_of(data, scenario)
    x, y = data.x_train[split.forget], data.y_train[split.forget]
    method = SCAR(surrogates=2 * len(x), surrogate_steps=2, lr=0.01, guard=0.3, epochs=3)
    task = task_of(method, data, split)
    task._sets["validation"] = task.forget  # its accuracy is not reached from above: no early end
    result = method.unlearn(deepcopy(model), task)
    assert_same_parameters(result, scar_reference(model, task, x, y))
    mistakes = [{"swapped": True}, {"nearest_of_all": True}] + [{"in_turn": True}] * (scenario == RANDOM)
    for mistake in mistakes:
        with pytest.raises(AssertionError):
            assert_same_parameters(result, scar_reference(model, task, x, y, **mistake))


@pytest.mark.usefixtures("float64")
def test_scar_forgets_the_same_batches_in_every_epoch(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[list[int]] = []
    monkeypatch.setattr(SCAR, "nearest_wrong", lambda _self, _h, y, *_: torch.arange(len(y)))
    monkeypatch.setattr(SCAR, "distance", lambda _self, h, near, *_: met.append(near.tolist()) or h.sum(1))
    method, split = SCAR(surrogates=32, surrogate_steps=1, batch_size=20, epochs=2), split_of(data)
    method.unlearn(network(), task_of(method, double(data), split))
    assert met == [list(range(20)), list(range(20, 32))] * 2


@pytest.mark.usefixtures("float64")
def test_scar_ends_in_its_third_epoch_where_all_is_forgotten(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Tensor] = []
    split = split_of(data)
    wrong = nn.functional.one_hot((data.y_train[split.forget] + 1) % data.num_classes, data.num_classes)
    monkeypatch.setattr(scar, "descend", lambda _optimizer, loss: steps.append(loss))
    monkeypatch.setattr(scar, "predict", lambda _model, _x: wrong)
    method = SCAR(surrogates=64, surrogate_steps=4)
    method.unlearn(network(), task_of(method, double(data), split))
    assert len(steps) == 4 + 4 + 1


@pytest.mark.usefixtures("float64")
def test_scar_gives_rare_classes_of_surrogates_as_much_weight(data: Data) -> None:
    method = SCAR()
    task = task_of(method, double(data), split_of(data, RANDOM))
    images = torch.zeros(400, 1, 8, 8)
    images[:, 0, 0, 0] = torch.tensor([0.0] * 300 + [1.0] * 99 + [2.0])

    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(x[:, 0, 0, 0].long(), 3).double()

    draws = scar.balanced(Samples(images, None, 0, None, Counter()), First(), 5000, task)
    shares = next(draws)[0][:, 0, 0, 0].long().bincount() / 5000
    torch.testing.assert_close(shares, torch.tensor([1, 1, 1 / 5]) / 2.2, atol=0.03, rtol=0)


def test_scar_defaults_are_the_authors() -> None:
    method = SCAR()
    assert (method.forget_weight, method.retain_weight, method.lr, method.tukey, method.shrink) == (1, 5, 5e-4, 0.5, 3)
    assert (method.guard, method.batch_size, method.epochs, method.surrogates) == (0.8, 1024, 30, 10_000)
    assert (method.surrogate_steps, method.surrogate) == (6, "noise")
    assert Access.RETAIN not in SCAR.needs
