"""DUCK and LoTUS against plain lines written from their papers and code, in double precision."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from method_cases import (
    CLASS,
    RANDOM,
    assert_same_parameters,
    double,
    network,
    parts,
    plain_step,
    sets_of,
    split_of,
    task_of,
)
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.duck import DUCK
from unlearnbench_methods.lotus import LoTUS, targets
from unlearnbench_methods.steps import accuracy

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Data, Samples
from unlearnbench.training.models import Classifier


def scripted(monkeypatch: pytest.MonkeyPatch, module: str, values: list[float]) -> list[Samples]:
    """Accuracies that the method is told, one after another; gives the sets that it asked about."""
    left, asked = iter(values), list[Samples]()

    def told(_: nn.Module, samples: Samples) -> float:
        asked.append(samples)
        return next(left)

    monkeypatch.setattr(f"unlearnbench_methods.{module}.accuracy", told)
    return asked


# --- duck ------------------------------------------------------------------------------------------------------------


def duck_reference(
    model: Classifier, data: Data, split: Split, epochs: int, size: int, most: int, wrong: str
) -> Classifier:
    """``most`` batches of D_r beside each batch of D_f. The class scenario of these tests removes class 0."""
    x_f, y_f, x_r, y_r = sets_of(data, split)
    whole = not (y_r == 0).any()
    classes = [1, 2] if whole else [0, 1, 2]
    with torch.no_grad():
        h = model.encode(x_r)
        centroids = torch.stack([h[y_r == c].mean(0) for c in classes])
    student, nearest = deepcopy(model).train(), {}

    def distance(h: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(h[:, None], centroids[None], dim=2)

    adam = torch.optim.Adam(student.parameters(), lr=4e-4)
    for epoch in range(epochs):
        adam.param_groups[0]["lr"] = 4e-4 / (1 if epoch < 25 or wrong == "no decay" else 2 if epoch < 40 else 4)
        for n, f in enumerate(parts(len(x_f), size)):
            for r in parts(len(x_r), size, most):
                away = distance(student.encode(x_f[f]))
                if n not in nearest:
                    rows = []
                    for row, label in zip(away.tolist(), y_f[f].tolist(), strict=True):
                        allowed = [k for k, c in enumerate(classes) if c != label or wrong == "its own class too"]
                        rows.append(min(allowed, key=lambda k: row[k]))
                    nearest[n] = torch.tensor(rows)
                chosen = away[torch.arange(len(away)), nearest[n]].mean()
                logits = student(x_r[r]) / (1 if wrong == "no temperature" else 2)
                plain_step(adam, chosen + 1.4 * F.cross_entropy(logits, y_r[r]))
    adam = torch.optim.Adam(student.parameters(), lr=1e-4)
    batches, done = parts(len(x_f), size), 0
    for _ in range(0 if wrong == "no recovery" else 2):
        for n, f in enumerate(batches[: 1 if whole else None]):
            for r in parts(len(x_r), 512, 1000 if whole else 20):
                adam.param_groups[0]["lr"] = 1e-4 * (1 + math.cos(math.pi * done / (40 * len(batches)))) / 2
                h = student.encode(torch.cat([x_f[f], x_r[r]]))
                k = len(x_f[f])
                chosen = distance(h[:k])[torch.arange(k), nearest[n]].mean()
                plain_step(adam, chosen / 10 + F.cross_entropy(student.head(h[k:]) / 2, y_r[r]))
                done += 1
    return student


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("scenario", [CLASS, RANDOM], ids=["class", "random"])
def test_duck_is_its_reference_parameter_by_parameter(
    data: Data, scenario: Any, norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, "duck", [0.5] * 9)  # never below the target
    data, model, split = double(data), network(norm=norm), split_of(data, scenario)
    method = DUCK(batch_size=10, retain_batches=3, epochs=3)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, duck_reference(model, data, split, 3, 10, 3, ""))
    for wrong in ("no temperature", "no recovery", *(("its own class too",) if scenario is RANDOM else ())):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, duck_reference(model, data, split, 3, 10, 3, wrong))


@pytest.mark.usefixtures("in_order")
def test_duck_halves_its_rate_after_25_and_40_epochs(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, "duck", [0.5] * 50)
    data, model, split = double(data), network(), split_of(data)
    method = DUCK(batch_size=40, retain_batches=1, epochs=42)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, duck_reference(model, data, split, 42, 40, 1, ""))
    with pytest.raises(AssertionError):
        assert_same_parameters(result, duck_reference(model, data, split, 42, 40, 1, "no decay"))


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(
    ("scenario", "told"),
    [(CLASS, [0.5, 0.01, 0.009]), (RANDOM, [0.8, 0.9, 0.8, 0.79])],
    ids=["class: below 0.01", "random: below the original on the validation set"],
)
def test_duck_stops_when_the_forget_accuracy_is_below_its_target(
    data: Data, scenario: Any, told: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scripted(monkeypatch, "duck", told)
    data, model, split = double(data), network(), split_of(data, scenario)
    method = DUCK(batch_size=10, retain_batches=2)
    task = task_of(method, data, split)
    result = method.unlearn(deepcopy(model), task)
    assert asked == [*([] if scenario is CLASS else [task.validation]), *[task.forget] * 3]
    assert_same_parameters(result, duck_reference(model, data, split, 3, 10, 2, ""))


@pytest.mark.parametrize("columns", [(0, 1), (1, 0)], ids=str)
def test_duck_keeps_to_the_centroid_that_was_nearest_first(
    data: Data, columns: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is nearest at the first step, the other at all later ones, those of the recovery too."""
    given = list[Tensor]()

    def distances(h: Tensor, centroids: Tensor) -> Tensor:
        given.append(torch.ones(len(h), len(centroids)))
        given[-1][:, columns[min(1, len(given) - 1)]] = 0
        return given[-1].requires_grad_()

    monkeypatch.setattr("unlearnbench_methods.duck.distances", distances)
    scripted(monkeypatch, "duck", [0.5] * 2)
    method = DUCK(batch_size=40, retain_batches=2, epochs=2)
    method.unlearn(network(dtype=torch.float32), task_of(method, data, split_of(data)))
    pulled = [[column for column in (0, 1) if table.grad[:, column].any()] for table in given]  # type: ignore[index]
    assert pulled == [[columns[0]]] * 6


def test_duck_defaults_are_those_of_the_authors_for_a_class_of_cifar10() -> None:
    m = DUCK()
    assert (m.lr, m.weight_decay, m.batch_size, m.epochs, m.target) == (4e-4, 0, 256, 200, 0.01)
    assert (m.weight_forget, m.weight_retain, m.temperature, m.retain_batches) == (1, 1.4, 2, 41)


# --- lotus -----------------------------------------------------------------------------------------------------------


def lotus_reference(
    model: Classifier, data: Data, split: Split, rng: torch.Generator, differences: list[float], wrong: str
) -> Classifier:
    """One epoch for each difference; 0.3 of the retain set, rounded down, after all of the forget set."""
    x_f, _, x_r, _ = sets_of(data, split)
    x, n = torch.cat([x_f, x_r[: int(0.3 * len(x_r))]]), len(x_f)
    student, teacher = deepcopy(model).train(), deepcopy(model).eval()
    adamw = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=5e-4)
    for difference in differences:
        tau = 1.0 if wrong == "τ is 1" else math.exp(2 * difference)
        for b in parts(len(x), 9):
            with torch.no_grad():
                z = teacher(x[b])
            if wrong != "no noise":
                z = z - torch.empty_like(z).exponential_(generator=rng).log()
            target = []
            for i, row in zip(range(len(x))[b], z, strict=True):
                soft = (i < n) != (wrong == "soft and hard are swapped")
                target.append(torch.softmax(row / tau, 0) if soft else torch.eye(3).double()[row.argmax()])
            plain_step(adamw, -(torch.stack(target) * torch.log_softmax(student(x[b]), 1)).sum() / len(target))
    return student


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(
    ("scenario", "told", "differences"),
    [
        (CLASS, [0.9, 0.7, 0.4], [0.9, 0.7, 0.4]),
        (RANDOM, [0.8, 0.9, 0.8, 0.795], [0.1, 0.0, -0.005]),
        (RANDOM, [0.8, 0.9, 0.78], [0.1]),  # ended before the second epoch
    ],
    ids=["class", "random", "ended"],
)
def test_lotus_is_its_reference_parameter_by_parameter(
    data: Data, scenario: Any, told: list[float], differences: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = scripted(monkeypatch, "lotus", told)
    data, model, split = double(data), network(), split_of(data, scenario)
    method = LoTUS(lr=1e-3, batch_size=9, epochs=3)
    task = task_of(method, data, split)
    result = method.unlearn(deepcopy(model), task)
    first = task.forget if scenario is CLASS else task.validation
    assert asked == [first, *[task.forget] * (len(told) - 1)]

    def expected(wrong: str) -> Classifier:
        return lotus_reference(model, data, split, task.generator("gumbel"), differences, wrong)

    assert_same_parameters(result, expected(""))
    for wrong in ("τ is 1", "no noise", "soft and hard are swapped"):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, expected(wrong))


def test_lotus_draws_classes_from_the_softmax_and_smooths_them_by_the_temperature() -> None:
    """Log-ratios of a Gumbel-softmax are the difference of logits plus a standard logistic, over the temperature."""
    z, n = torch.tensor([0.5, 0.0, -1.0]).double(), 20000
    rng = torch.Generator().manual_seed(0)
    hard = targets(z.expand(n, 3), torch.zeros(n).bool(), 7.0, rng)
    assert sorted(hard.unique().tolist()) == [0, 1]
    assert hard.sum(1).eq(1).all()
    assert stats.chisquare(hard.sum(0).numpy(), n * torch.softmax(z, 0).numpy()).pvalue > 0.01
    soft = targets(z.expand(n, 3), torch.ones(n).bool(), 3.0, rng)
    ratios = soft.log()[:, 0] - soft.log()[:, 2]
    assert stats.kstest((3 * ratios - 1.5).numpy(), "logistic").pvalue > 0.01
    assert stats.kstest((2 * ratios - 1.5).numpy(), "logistic").pvalue < 1e-6  # had the temperature been 2


def test_accuracy_is_the_share_that_is_right(data: Data) -> None:
    model, task = network(dtype=torch.float32), task_of(LoTUS(), data, split_of(data))
    with torch.no_grad():
        right = sum(
            int(model(x[None]).argmax() == y) for x, y in zip(data.x_validation, data.y_validation, strict=True)
        )
    assert accuracy(model, task.validation) == right / 6


def test_lotus_defaults_are_those_of_the_authors_for_resnet18() -> None:
    m = LoTUS()
    assert (m.lr, m.weight_decay, m.alpha, m.retain_share, m.batch_size, m.epochs) == (1e-4, 5e-4, 2, 0.3, 128, 10)
