"""LAF and LAF+R against plain lines written from their papers and code, in double precision."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from method_cases import RANDOM, assert_same_parameters, double, network, parts, plain_step, sets_of, split_of, task_of
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.laf import LAF, VAE, surprise
from unlearnbench_methods.laf_r import LAFR

from unlearnbench.data.split import Split
from unlearnbench.data.tensors import Data
from unlearnbench.plan.spec import Access, AccessDenied
from unlearnbench.training.models import Classifier
from unlearnbench.training.task import Task

# --- laf -------------------------------------------------------------------------------------------------------------


def rebuild(vae: VAE, h: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The rebuilt representation, mean and variance, from the weights by name."""
    w = dict(vae.named_parameters())

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    body = layer("body.2", layer("body.0", h).clamp(min=0)).clamp(min=0)
    mean, variance = layer("mean", body), layer("log_variance", body).exp()
    z = mean + variance.sqrt() * torch.empty_like(mean).normal_(generator=rng)
    z = layer("decoder.4", layer("decoder.2", layer("decoder.0", z).clamp(min=0)).clamp(min=0))
    return 1 / (1 + (-z).exp()), mean, variance


def fit(vae: VAE, h: Tensor, rng: torch.Generator, wrong: str) -> None:
    adam = torch.optim.Adam(vae.parameters(), lr=1e-3)
    for _ in range(2):
        for b in parts(len(h), 12):
            rebuilt, mean, variance = rebuild(vae, h[b], rng)
            divergence = (mean**2 + variance - 1 - (variance + 1e-8).log()).sum() / 2
            weight = 1 if wrong == "the divergence in full" else 0.025
            plain_step(adam, (((rebuilt - h[b]) ** 2).sum() + weight * divergence) / len(h[b]))


def laf_reference(model: Classifier, data: Data, split: Split, task: Task, wrong: str) -> Classifier:
    x_f, _, x_r, _ = sets_of(data, split)
    blank, rng = LAF(vae_epochs=0), task.generator("latent")
    original, student = deepcopy(model).eval(), deepcopy(model).eval()
    vaes = []
    everything = x_r if wrong == "fitted to D_r" else torch.cat([x_f, x_r])
    for purpose, x in (("vae of all", everything), ("vae of forget", x_f)):
        vae = blank.autoencoder(original.requires_grad_(False), task.forget, task.generator(purpose), rng)
        fit(vae.requires_grad_(True), original.encode(x), rng, wrong)
        vaes.append(vae)

    def error(vae: VAE, h: Tensor) -> Tensor:
        m = ((rebuild(vae, h, rng)[0] - h) ** 2).sum(1)
        return (m / (m + 1)).exp().sum()

    def cosine(x: Tensor) -> Tensor:
        a, b = student.encode(x), original.encode(x)
        return 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))

    extract = torch.optim.Adam(student.parameters(), lr=1e-3)
    align = torch.optim.Adam(student.parameters(), lr=2e-3)
    for _ in range(2):
        for f, r in zip(parts(len(x_f), 12), parts(len(x_r), 12), strict=False):
            kept, gone = error(vaes[0], student.encode(x_r[r])), error(vaes[1], student.encode(x_f[f]))
            plain_step(extract, kept + gone if wrong == "D_f is kept too" else kept - gone)
            d_r, d_f = cosine(x_r[r]), cosine(x_f[f])
            if wrong == "aligned to D_f":
                d_r, d_f = d_f, d_r
            plain_step(align, (d_r.exp() / (d_f / (1 if wrong == "no τ" else 4)).exp().sum()).log().sum())
    return student


LAF_CASE: dict[str, Any] = {
    "lr_extract": 1e-3, "lr_align": 2e-3, "temperature": 4.0, "vae_epochs": 2, "batch_size": 12, "epochs": 2,
}  # fmt: skip


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batchnorm"])
def test_laf_is_its_reference_parameter_by_parameter(data: Data, norm: bool) -> None:
    data, model, split = double(data), network(norm=norm), split_of(data)
    method = LAF(**LAF_CASE)
    task = task_of(method, data, split)
    result = method.unlearn(deepcopy(model), task)
    assert_same_parameters(result, laf_reference(model, data, split, task, ""))
    mistakes = ("the divergence in full", "fitted to D_r", "D_f is kept too", "aligned to D_f", "no τ")
    for wrong in () if norm else mistakes:
        with pytest.raises(AssertionError):
            assert_same_parameters(result, laf_reference(model, data, split, task, wrong))


def test_laf_leaves_the_head_and_the_statistics_of_batch_norm_bit_by_bit(data: Data) -> None:
    model, method = network(norm=True, dtype=torch.float32), LAF(**LAF_CASE)
    result = method.unlearn(deepcopy(model), task_of(method, data, split_of(data)))
    before, after = model.state_dict(), result.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {
        "head.weight",
        "head.bias",
        *(f"encoder.1.{buffer}" for buffer, _ in nn.BatchNorm2d(1).named_buffers()),
    }


def test_laf_sees_no_labels(data: Data) -> None:
    assert LAF.needs == Access.FORGET | Access.RETAIN
    with pytest.raises(AccessDenied):
        _ = task_of(LAF(), data, split_of(data)).retain.labels


def test_surprise_by_hand() -> None:
    """A decoder without weights rebuilds 0.5: squared errors 0 and 1 give exp(0) and exp(1/2)."""
    vae = VAE(2, 8)
    for parameter in vae.parameters():
        nn.init.zeros_(parameter)
    h = torch.tensor([[0.5, 0.5], [1.5, 0.5]])
    assert surprise(vae, h, torch.Generator()).item() == pytest.approx(1 + 1.6487213)


def test_laf_defaults_are_those_of_the_authors_for_mnist() -> None:
    m = LAF()
    assert (m.lr_extract, m.lr_align, m.temperature, m.latent, m.epochs) == (5e-5, 1e-4, 5, 8, 20)
    assert (m.vae_epochs, m.batch_size) == (10, 32)


# --- laf_r -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_order")
def test_laf_r_trains_the_head_after_laf_on_as_many_batches_as_the_forget_set_has(data: Data) -> None:
    data, model, split = double(data), network(), split_of(data, RANDOM)
    method = LAFR(**LAF_CASE, lr_repair=1e-2, repair_epochs=3)
    result = method.unlearn(deepcopy(model), task_of(method, data, split))
    laf = LAF(**LAF_CASE)

    def expected(batches: int) -> nn.Module:
        student = laf.unlearn(deepcopy(model), task_of(laf, data, split))
        _, _, x_r, y_r = sets_of(data, split)
        adam = torch.optim.Adam(student.get_submodule("head").parameters(), lr=1e-2)
        for _ in range(3):
            for b in parts(len(x_r), 12, batches):
                plain_step(adam, F.cross_entropy(student(x_r[b]), y_r[b]))
        return student

    assert_same_parameters(result, expected(2))  # 24 forget samples in batches of 12
    with pytest.raises(AssertionError):
        assert_same_parameters(result, expected(6))


def test_laf_r_adds_labels_to_what_laf_has() -> None:
    assert LAFR.needs == LAF.needs | Access.LABELS
    assert vars(LAFR()) == vars(LAF()) | {"lr_repair": 1e-4, "repair_epochs": 5}
