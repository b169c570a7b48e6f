"""SCRUB, SCRUB+R, bad teacher and DELETE against plain lines written from their papers, in double precision."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from method_cases import CLASS, RANDOM, assert_same_parameters, double, network, parts, plain_step, split_of, task_of
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.bad_teacher import BadTeacher
from unlearnbench_methods.delete import DELETE
from unlearnbench_methods.scrub import SCRUB
from unlearnbench_methods.scrub_r import SCRUBR
from unlearnbench_methods.steps import mixture

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Data, Samples
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.spec import Access, AccessDenied
from unlearnbench.training.models import Classifier
from unlearnbench.training.task import Task


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Σ p·log(p/q), of each row."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(1)


# --- scrub -----------------------------------------------------------------------------------------------------------


def scrub_reference(model: Classifier, data: Data, split: Split, wrong: str, sgd: bool) -> Classifier:
    """Four epochs, the first two of them with a maximising pass; the rate falls tenfold after the second and third."""
    x_f, x_r = data.x_train[split.forget], data.x_train[split.retain]
    y_r = data.y_train[split.retain]
    student, t = deepcopy(model).train(), 3.0
    teacher = student if wrong == "the teacher moves" else deepcopy(model).eval()
    optimizer: torch.optim.Optimizer = torch.optim.Adam(student.parameters(), lr=5e-4, weight_decay=0.1)
    if sgd:
        optimizer = torch.optim.SGD(student.parameters(), lr=5e-4, momentum=0.9, weight_decay=0.1)

    def divergence(x: Tensor) -> Tensor:
        with torch.no_grad():
            p = torch.softmax(teacher(x) / t, 1)
        q = torch.softmax(student(x) / t, 1)
        rows = kl(q, p) if wrong == "the divergence is swapped" else kl(p, q)
        return rows.sum() / len(x) * (1 if wrong == "no T²" else t**2)

    for epoch in (1, 2, 3, 4):
        decayed = {1: 5e-4, 2: 5e-4, 3: 5e-5, 4: 5e-6}
        optimizer.param_groups[0]["lr"] = 5e-4 if wrong == "no decay" else decayed[epoch]
        if epoch <= 2 or wrong == "it maximises to the end":
            for b in parts(len(x_f), 12):
                plain_step(optimizer, (1 if wrong == "it minimises on D_f" else -1) * divergence(x_f[b]))
        for b in parts(len(x_r), 10):
            plain_step(optimizer, 0.9 * F.cross_entropy(student(x_r[b]), y_r[b]) + 0.4 * divergence(x_r[b]))
    return student


SCRUB_CASE: dict[str, Any] = {
    "gamma": 0.9, "alpha": 0.4, "temperature": 3.0, "max_steps": 2, "epochs": 4, "decay_after": (2, 3),
    "batch_size": 10, "forget_batch_size": 12,
}  # fmt: skip
SCRUB_WRONG = (
    "the teacher moves", "the divergence is swapped", "no T²", "no decay", "it maximises to the end",
    "it minimises on D_f",
)  # fmt: skip


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("sgd", [False, True], ids=["adam", "sgd"])
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_scrub_is_its_reference_parameter_by_parameter(data: Data, norm: bool, sgd: bool) -> None:
    data, model, split = double(data), network(norm=norm), split_of(data)
    method = SCRUB(optimizer="sgd" if sgd else "adam", **SCRUB_CASE)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, scrub_reference(model, data, split, "", sgd))
    for wrong in () if norm or sgd else SCRUB_WRONG:
        with pytest.raises(AssertionError):
            assert_same_parameters(result, scrub_reference(model, data, split, wrong, sgd))


@pytest.mark.usefixtures("in_order")
def test_scrub_trains_on_images_as_they_are_whatever_the_recipe(data: Data) -> None:
    """The authors' notebooks: datasets.get_loaders(..., augment=False)."""
    data, model, split, augmenting = double(data), network(), split_of(data), Recipe(augment="crop_flip")
    for method in (SCRUB(**SCRUB_CASE), SCRUBR(**SCRUB_CASE)):
        task = task_of(method, replace(data, x_validation=data.x_validation.double()), split, recipe=augmenting)
        result = list(method.trajectory(trained := deepcopy(model), task))
        assert len(result) == 4
        assert_same_parameters(trained, scrub_reference(model, data, split, "", False))


def test_scrub_defaults_are_those_of_the_authors_at_small_scale() -> None:
    m = SCRUB()
    assert (m.optimizer, m.lr, m.weight_decay, m.momentum, m.decay_after) == ("adam", 5e-4, 0.1, 0.9, (5, 8, 9))
    assert (m.gamma, m.alpha, m.temperature, m.max_steps, m.epochs) == (1, 0.5, 2, 3, 10)
    assert (m.batch_size, m.forget_batch_size) == (32, 64)


# --- scrub_r ---------------------------------------------------------------------------------------------------------


def share_wrong(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return (model.eval()(x).argmax(1) != y).double().mean().item()


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("scenario", [CLASS, RANDOM], ids=["class", "random"])
def test_scrub_r_rewinds_to_the_epoch_with_the_error_of_unseen_samples(data: Data, scenario: Any) -> None:
    """Against as many runs of SCRUB, each an epoch longer than the one before."""
    data, model, split = double(data), network(), split_of(data, scenario)
    method = SCRUBR(lr=0.02, weight_decay=0, max_steps=2, epochs=6, decay_after=())
    x_f, y_f = data.x_train[split.forget], data.y_train[split.forget]
    same = torch.isin(data.y_validation, y_f)
    runs = []
    for epochs in range(1, 7):
        scrub = SCRUB(lr=0.02, weight_decay=0, max_steps=2, epochs=epochs, decay_after=())
        runs.append(scrub.unlearn(deepcopy(model), task_of(scrub, data, split)))
    reference = share_wrong(runs[-1], data.x_validation[same].double(), data.y_validation[same])
    gaps = [abs(share_wrong(run, x_f, y_f) - reference) for run in runs]
    data = replace(data, x_validation=data.x_validation.double())
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, runs[gaps.index(min(gaps))])


@pytest.mark.usefixtures("in_order")
def test_scrub_r_looks_at_unseen_samples_of_the_forgotten_classes_alone(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, split, method = network(dtype=torch.float32), split_of(data), SCRUBR(epochs=4)
    task, forget, unseen = task_of(method, data, split), iter([0.9, 0.5, 0.5, 0.2]), list[Tensor]()

    def accuracy(_: nn.Module, samples: Samples) -> float:
        if samples is task.forget:
            return next(forget)
        unseen.append(samples.labels)
        return 0.52

    monkeypatch.setattr("unlearnbench_methods.scrub_r.accuracy", accuracy)
    result = method.unlearn(deepcopy(model), task)
    assert [labels.tolist() for labels in unseen] == [[0, 0]]

    def after(epochs: int) -> nn.Module:
        scrub = SCRUB(epochs=epochs)
        return scrub.unlearn(deepcopy(model), task_of(scrub, data, split))

    assert_same_parameters(result, after(2))  # of the two at 0.5 the earlier one
    for wrong in (3, 4):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, after(wrong))


@pytest.mark.usefixtures("in_order")
def test_scrub_r_without_unseen_samples_of_the_classes_keeps_the_last_model(data: Data) -> None:
    model, split = network(dtype=torch.float32), split_of(data)
    other = data.y_validation != 0
    data = replace(data, x_validation=data.x_validation[other], y_validation=data.y_validation[other])
    scrub, method = SCRUB(epochs=3), SCRUBR(epochs=3)
    last = scrub.unlearn(deepcopy(model), task_of(scrub, data, split))
    assert_same_parameters(method.unlearn(deepcopy(model), task_of(method, data, split)), last)


def test_scrub_r_has_the_parameters_of_scrub_and_needs_validation_beside() -> None:
    assert vars(SCRUBR()) == vars(SCRUB())
    assert SCRUBR.needs == SCRUB.needs | Access.VALIDATION


# --- bad teacher -----------------------------------------------------------------------------------------------------


def bad_teacher_reference(
    model: Classifier, bad: Classifier, data: Data, split: Split, wrong: str
) -> tuple[Classifier, float]:
    """Two epochs, and the objective of the first batch. 0.3 of 64 retained samples are 19."""
    n = 64 if wrong == "all of D_r" else 19
    x = torch.cat([data.x_train[split.forget], data.x_train[split.retain[:n]]])
    student, good = deepcopy(model).train(), deepcopy(model).eval()
    if wrong == "the teachers are swapped":
        good, bad = bad, good
    adam, losses = torch.optim.Adam(student.parameters(), lr=1e-3), []
    for _ in range(2):
        for b in parts(len(x), 9):
            with torch.no_grad():
                forgotten = torch.arange(len(x))[b, None] < 32
                p = torch.softmax(torch.where(forgotten, bad(x[b]), good(x[b])) / 2, 1)
            q = torch.softmax(student(x[b]) / 2, 1)
            rows = kl(q, p) if wrong == "the divergence is swapped" else kl(p, q)
            loss = rows.mean() if wrong == "averaged over the batch alone" else rows.sum() / (3 * len(rows))
            plain_step(adam, loss)
            losses.append(loss.item())
    return student, losses[0]


@pytest.mark.usefixtures("in_order")
def test_bad_teacher_is_its_reference_parameter_by_parameter(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model, bad, split = double(data), network(), network(), split_of(data)
    bad.get_parameter("head.weight").data.neg_()
    monkeypatch.setattr(Task, "fresh_model", lambda _self, _purpose: deepcopy(bad))
    losses = []

    def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        losses.append(loss.item())
        plain_step(optimizer, loss)

    monkeypatch.setattr("unlearnbench_methods.bad_teacher.descend", descend)
    method = BadTeacher(lr=1e-3, temperature=2, batch_size=9, epochs=2)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))

    def agree(wrong: str) -> None:
        expected, first = bad_teacher_reference(model, bad, data, split, wrong)
        assert losses[0] == pytest.approx(first, rel=1e-9)
        assert_same_parameters(result, expected)

    agree("")
    for wrong in (
        "all of D_r",
        "the teachers are swapped",
        "the divergence is swapped",
        "averaged over the batch alone",
    ):
        with pytest.raises(AssertionError):
            agree(wrong)


def test_bad_teacher_learns_from_a_new_network_and_sees_no_labels(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    method, made, fresh = BadTeacher(), list[Classifier](), Task.fresh_model

    def fresh_model(self: Task, purpose: str) -> Classifier:
        made.append(fresh(self, purpose))
        return made[-1]

    monkeypatch.setattr(Task, "fresh_model", fresh_model)
    task = task_of(method, data, split_of(data))
    model = task.fresh_model("original")
    method.unlearn(deepcopy(model), task)
    assert len(made) == 2
    assert not torch.equal(made[1].get_parameter("head.0.weight"), model.get_parameter("head.0.weight"))
    with pytest.raises(AccessDenied):
        _ = task.forget.labels


def test_mixture_is_the_forget_set_and_the_first_part_of_the_retain_set(data: Data) -> None:
    split = split_of(data, RANDOM)
    samples, forgotten = mixture(task_of(BadTeacher(), data, split), 0.3)
    assert torch.equal(samples.images()[:24], data.x_train[split.forget])
    assert torch.equal(samples.images()[24:], data.x_train[split.retain[:21]])  # 0.3 of 72, rounded down
    assert forgotten.tolist() == [True] * 24 + [False] * 21


def test_bad_teacher_defaults_are_those_of_the_notebook() -> None:
    m = BadTeacher()
    assert (m.lr, m.epochs, m.batch_size, m.retain_share, m.temperature) == (1e-4, 1, 256, 0.3, 1)
    assert m.needs == Access.FORGET | Access.RETAIN


# --- delete ----------------------------------------------------------------------------------------------------------


def delete_reference(model: Classifier, data: Data, split: Split, wrong: str) -> Classifier:
    x, y = data.x_train[split.forget], data.y_train[split.forget]
    student, teacher = deepcopy(model).train(), deepcopy(model).eval()
    sgd = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        for b in parts(len(x), 10):
            with torch.no_grad():
                p = torch.softmax(teacher(x[b]), 1)
                if wrong != "the true class stays":
                    p[torch.arange(len(p)), y[b]] = 0
                if wrong != "not normalised":
                    p = p / p.sum(1, keepdim=True)
            q = torch.softmax(student(x[b]), 1)
            plain_step(sgd, kl(p, q).sum() / (3 * len(p) if wrong == "averaged over classes too" else len(p)))
    return student


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("scenario", [CLASS, RANDOM], ids=["class", "random"])
def test_delete_is_its_reference_parameter_by_parameter(data: Data, norm: bool, scenario: Any) -> None:
    data, model, split = double(data), network(norm=norm), split_of(data, scenario)
    method = DELETE(lr=0.05, batch_size=10, epochs=3)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    assert_same_parameters(result, delete_reference(model, data, split, ""))
    for wrong in () if norm else ("the true class stays", "not normalised", "averaged over classes too"):
        with pytest.raises(AssertionError):
            assert_same_parameters(result, delete_reference(model, data, split, wrong))


def test_delete_needs_no_retain_set_and_has_the_defaults_of_the_authors_for_cifar10() -> None:
    m = DELETE()
    assert m.needs == Access.FORGET | Access.LABELS
    assert (m.lr, m.momentum, m.batch_size, m.epochs) == (1e-4, 0.9, 128, 20)
