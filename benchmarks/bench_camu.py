"""CaMU's unlearning call on MNIST, class 0: 2 epochs of 186 batches of 32, float32. Targets: at most half of the time
of the authors' way of doing the same arithmetic, and no more than a bare loop that takes the same shortcuts as ours.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor
from unlearnbench_methods.camu import CaMU

from unlearnbench.data import datasets
from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Counter, Data
from unlearnbench.plan.cells import Cell
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import UnlearnBenchError
from unlearnbench.plan.suites import Options, make_plan
from unlearnbench.runs.runner import make_cell_split
from unlearnbench.training.models import Classifier, build_model
from unlearnbench.training.task import Task

WORKERS = min(3, os.cpu_count() or 1)  # the authors' code has 3 for each loader; no more than there are cores


@dataclass(frozen=True)
class Problem:
    """The cell of the packaged suite, its data, and D_f and D_s once more as the authors' loops want them."""

    cell: Cell
    data: Data
    split: Split
    forget: Pictures
    sample: Pictures
    device: torch.device

    @property
    def camu(self) -> CaMU:
        return build("methods", "camu", self.cell.method.params)

    def model(self) -> Classifier:
        """How long a call takes does not depend on how well the model is trained."""
        model = build_model(build("models", "cnn", self.cell.model.params), self.data.input_shape, 10, seed=0)
        return model.to(self.device).eval()

    def task(self) -> Task:
        return Task.of(self.cell, self.data, self.split, CaMU.needs, Counter())


class Pictures(Dataset):
    """What torchvision's MNIST with ToTensor hands out, image by image; uint8 ``[n, 1, 28, 28]``, int64 ``[n]``."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return to_tensor(Image.fromarray(self.x[i, 0])), int(self.y[i])


class Columns(Dataset):
    """Arrays side by side."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, i: int) -> tuple[np.ndarray, ...]:
        return tuple(array[i] for array in self.arrays)


@pytest.fixture(scope="module")
def problem(device: torch.device) -> Problem:
    plan = make_plan("camu-mnist", Options(methods=["camu"], scenarios=["class-0"], seeds=[0]))
    cell = next(entry.cell for entry in plan.entries if entry.role == "method")
    try:
        arrays = datasets.load(build("datasets", "mnist", cell.dataset.params), datasets.default_root())
    except UnlearnBenchError as error:
        pytest.skip(str(error))
    data = Data.of(arrays, 0.0, device)
    split = make_cell_split(cell, data)
    sampled = split.retain[: len(split.forget)]
    forget, sample = (Pictures(arrays.x_train[s], arrays.y_train[s]) for s in (split.forget, sampled))
    return Problem(cell, data, split, forget, sample, device)


def bench_over_bare_loop(compare: Callable[..., None], problem: Problem) -> None:
    camu = replace(problem.camu, epochs=1)  # a ratio of equal work: half of it says the same
    compare(
        "CaMU's unlearning, MNIST, class 0, one epoch: ours / bare loop, same shortcuts",
        camu.unlearn,
        lambda model, task: bare_loop(model, task, camu),
        lambda: (problem.model(), problem.task()),
        target="close to 1",
    )


def bench_over_authors_way(compare: Callable[..., None], problem: Problem) -> None:
    compare(
        f"CaMU's unlearning, MNIST, class 0: ours / authors' way, {WORKERS} workers a loader",
        problem.camu.unlearn,
        lambda model, _: authors_way(model, problem),
        lambda: (problem.model(), problem.task()),
        target="at most 0.5",
    )


def bare_loop(model: Classifier, task: Task, camu: CaMU) -> None:
    """The method on plain tensors."""
    x_f, y_f = task.forget.images(), task.forget.labels
    x_s, y_s = task.retain.images()[: len(x_f)], task.retain.labels[: len(x_f)]
    with torch.no_grad():
        other = (y_f + torch.randint_like(y_f, 1, 10)) % 10
        y_cf = torch.where(y_s == y_f, other, y_s)
        p_s, p_cf = (
            torch.cat([F.softmax(model.encode(part), 1) for part in x.split(128)])
            for x in (x_s, x_s + torch.rand_like(x_s))
        )
    kl = torch.optim.Adam(model.parameters(), camu.lr_kl, weight_decay=camu.weight_decay, fused=True)
    ce = torch.optim.Adam(model.parameters(), camu.lr_ce, weight_decay=camu.weight_decay, fused=True)
    model.train()
    for _ in range(camu.epochs):
        orders = (torch.randperm(len(x_f)).to(x_f.device).split(camu.batch_size) for _ in range(2))
        for i, j in zip(*orders, strict=True):
            x = torch.cat([x_s[j], x_f[i]])
            h = F.log_softmax(model.encode(x), 1)
            loss = 0.5 * F.kl_div(h, torch.cat([p_s[j], p_cf[i]]), reduction="sum")
            step(kl, loss)
            f_s, f_f = model(x).split(len(i))
            step(ce, 0.9 * F.cross_entropy(f_s, y_s[j]) + 0.01 * F.cross_entropy(f_f, y_cf[i]))


class AuthorsNetwork(nn.Module):
    """Their CNN: ReLU before pooling, PyTorch's default memory format, and always both of its outputs."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 256),
        )
        self.head = nn.Sequential(nn.Linear(256, 128), nn.Linear(128, 10))
        with torch.no_grad():
            for own, given in zip(self.parameters(), model.parameters(), strict=True):
                own.copy_(given)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.features(x)
        return h, self.head(h)


def authors_way(model: Classifier, problem: Problem) -> None:
    """The same arithmetic with the means of the authors' code, written anew: loaders with worker processes that turn
    one image at a time into a tensor, counterfactuals as arrays, the frozen network asked at every batch, each set
    passed through the network on its own, PyTorch's default Adam.

    Source: https://github.com/ShaofeiShen768/CaMU, CaMU/main.py (what its clock covers), prepare.py, remove.py,
    dataset.py, Model.py at 44380c6.
    """
    device, camu = problem.device, problem.camu
    network = AuthorsNetwork(model).to(device)
    teacher = deepcopy(network).eval()
    forget, sample = loader(problem.forget), loader(problem.sample)
    x_f, y_f = gathered(forget, device)
    x_cf, y_cf = gathered(sample, device, noise=True)
    for j in range(len(y_f)):
        if y_cf[j] == y_f[j]:
            y_cf[j] = random.choice([label for label in range(10) if label != y_f[j]])
    pairs = loader(Columns(x_f, y_f, x_cf, y_cf))
    kl = torch.optim.Adam(network.parameters(), camu.lr_kl, weight_decay=camu.weight_decay)
    ce = torch.optim.Adam(network.parameters(), camu.lr_ce, weight_decay=camu.weight_decay)
    network.train()
    for _ in range(camu.epochs):
        for (a, _, b, b_label), (r, r_label) in zip(pairs, sample, strict=True):
            forgotten, counterfactual, retained = (x.to(device) for x in (a, b, r))
            cf_label, label = b_label.long().to(device), r_label.to(device)
            with torch.no_grad():
                target_r, target_f = (F.softmax(teacher(x)[0], 1) for x in (retained, counterfactual))
            h_r, h_f = (F.log_softmax(network(x)[0], 1) for x in (retained, forgotten))
            kl_r, kl_f = F.kl_div(h_r, target_r, reduction="sum"), F.kl_div(h_f, target_f, reduction="sum")
            step(kl, 0.5 * kl_r + 0.5 * kl_f)
            ce_f, ce_r = F.cross_entropy(network(forgotten)[1], cf_label), F.cross_entropy(network(retained)[1], label)
            step(ce, 0.9 * ce_r + 0.01 * ce_f)


def loader(dataset: Dataset) -> DataLoader:
    return DataLoader(dataset, batch_size=32, shuffle=True, num_workers=WORKERS)


def gathered(batches: DataLoader, device: torch.device, noise: bool = False) -> Sequence[np.ndarray]:
    """A pass over a loader as two arrays, images and labels, which grow on the device batch by batch."""
    x, y = torch.tensor([], device=device), torch.tensor([], device=device)
    for images, labels in batches:
        here = images.to(device)
        x = torch.cat([x, here + torch.rand(here.shape).to(device) if noise else here])
        y = torch.cat([y, labels.to(device)])
    return x.cpu().numpy(), y.cpu().numpy()


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
