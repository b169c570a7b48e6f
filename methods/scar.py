"""SCAR: move forget samples to the nearest wrong class, and hold the rest with images from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.steps import accuracy, descend, endless, frozen, kl, product

from unlearnbench import (
    Access,
    Classifier,
    Count,
    Fraction,
    LogUniform,
    Method,
    NonNegative,
    Positive,
    Published,
    Samples,
    Task,
    chunks,
    make_optimizer,
    predict,
)

SOURCE = "README.md, src/opts.py and src/Unlearning_methods.py at 280ceae"


@dataclass(frozen=True)
class SCAR(Method):
    """Unlearning by metric learning on D_f and distillation on surrogate images; of the training set it knows the means
    and covariances of the representations of each class.

    Objective: minimise ``forget_weight``·mean over D_f of (t(h) - m)ᵀ S⁻¹ (t(h) - m) + ``retain_weight``·KL(f_θo(s) ‖
    f_θ(s)) over surrogates s by Adam. t(h) = sgn(h)·|h|^``tukey`` of the representation h, scaled to length 1, m the
    same of the mean of a class, S its covariance, twice increased by ``shrink`` times its mean variance on and mean
    covariance off the diagonal, scaled to unit variances. The class is the nearest in the original but the true and the
    forgotten ones, fixed. Each batch of D_f, in a fixed order, takes ``surrogate_steps`` steps, each with a batch of
    surrogates as large as D_f, but at most ``batch_size``. After two epochs it ends once the accuracy on D_f is below
    1%, for random samples below that of θo on the validation set less 1.5 points. Surrogates that θo takes for a
    forgotten class are left out, and the others' logit of it is their smallest. Where D_f is of random samples, classes
    whose accuracy is below ``guard`` count no more, others by their accuracy, and surrogates are drawn with
    replacement, each with 1/n, n how many of them θo puts in its class (or 5 if n < 3).

    Code read: https://github.com/jbonato1/SCAR, src/Unlearning_methods.py, opts.py, main.py and dsets.py at 280ceae.

    Held against: SCAR of src/Unlearning_methods.py at 280ceae, whole run of up to 12 epochs, one to four batches of D_f
    with 6 steps each, with and without BatchNorm, a class and random samples, float64: 3e-9 (a gradient of 0 in the
    first step, which Adam divides by as little). Patched: it has our means, covariances and nearest classes and
    λ2·e^-.0001, as named below; its loaders give our batches. With its own nearest classes: .2 where the first class is
    forgotten, .02 for random samples with BatchNorm.

    Differences: mean and covariance there are of t(h); here those of h are given: m is t of the mean, S (of which the
    shrinkage leaves a sixteenth) that of h. There t has no sign, as no h is negative. For random samples it aims at the
    accuracy on the test set, we at the validation set's. It takes the nearest class at the first visit of a batch; here
    of all samples at the start. Its batches of surrogates have 1,024 images, however small D_f is, and a pass over them
    begins with each batch of D_f. The authors do not augment D_f, nor do we; where a class is forgotten they crop and
    flip surrogates, and D_r for its statistics, and we nothing. Its mean covariance leaves out zeros. It counts the
    classes that stay from 0 and compares this number with the label: of a forgotten class c, samples nearest to class c
    + 1 are sent to the second nearest; here to c + 1. It finds them in train mode, here in eval mode. Its distillation
    is e^.0001 times the divergence. A seventh pair of batches passes in train mode before each batch of D_f ends, which
    moves BatchNorm's statistics; here six do.

    Defaults: those of its parser, with 10,000 images of ImageNet. ``surrogate_steps`` is one more than num_retain_samp
    in src/opts.py; for classes its comments count. ``surrogate`` is noise here, which is always at hand; the name of
    another dataset is nearer to the paper.

    Known failures: how much is retained hangs on the surrogates; noise that θo sends all to one class teaches little.
    """

    paper: ClassVar[str] = "Bonato et al. 2024, Is Retain Set All You Need, ECCV 2024, 2404.12922"
    version: ClassVar[int] = 3
    needs: ClassVar[Access] = Access.FORGET | Access.LABELS | Access.VALIDATION | Access.STATISTICS | Access.SURROGATE
    toy: ClassVar[dict[str, Any]] = {"surrogates": 1000}
    published: ClassVar[tuple[Published, ...]] = (
        Published("cifar10", "class", {"surrogate_steps": 2}, f"{SOURCE}, ResNet-18 (its comments for CR)"),
        Published("cifar10", "random", {}, f"{SOURCE}, ResNet-18"),
        Published("cifar100", "class", {"surrogate_steps": 4}, f"{SOURCE}, ResNet-18 (its comments for CR)"),
        Published("cifar100", "random", {}, f"{SOURCE}, ResNet-18"),
        Published("tiny-imagenet", "class", {"surrogate_steps": 10}, f"{SOURCE}, ResNet-18 (all of a pass)"),
        Published(
            "tiny-imagenet", "random", {"surrogate_steps": 10, "guard": 0.4}, f"{SOURCE}, ResNet-18 (all of a pass)"
        ),
    )

    surrogate: str = "noise"
    surrogates: Count = 10_000
    surrogate_steps: Count = 6
    forget_weight: NonNegative = 1.0
    retain_weight: Annotated[NonNegative, LogUniform(0.5, 50)] = 5.0
    lr: Annotated[Positive, LogUniform(1e-5, 1e-2)] = 5e-4
    tukey: Annotated[Positive, LogUniform(0.25, 1)] = 0.5
    shrink: NonNegative = 3.0
    guard: Fraction = 0.8
    batch_size: Count = 1024
    epochs: Annotated[Count, LogUniform(3, 60)] = 30

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        model, original, gone = cast(Classifier, model), cast(Classifier, frozen(model)), list(task.forget_classes)
        x, y, clusters = task.forget.images(), task.forget.labels, self.clusters(task)
        nearest = self.nearest_wrong(torch.cat([original.encode(part) for part in chunks(x)]), y, gone, clusters)
        goal = 0.01 if gone else accuracy(original, task.validation) - 0.015
        surrogates = self.surrogate_batches(task, original, min(self.batch_size, len(x)))
        optimizer = make_optimizer(model.parameters(), "adam", self.lr)
        weights = torch.ones(task.num_classes, device=y.device)
        model.train()
        for epoch in range(self.epochs):
            for x_f, y_f, near in task.forget.batches(self.batch_size, shuffle=False, augment=False, extra=(nearest,)):
                for x_s, *_ in islice(surrogates, self.surrogate_steps):
                    away = self.distance(model.encode(x_f), near, *clusters)
                    held = distillation(model, original, x_s, gone)
                    descend(optimizer, self.forget_weight * (away * weights[y_f]).mean() + self.retain_weight * held)
                    right = (predict(model, x).argmax(1) == y).double()
                    if epoch > 1 and right.mean() < goal:
                        return model
                    if not gone:
                        weights = torch.bincount(y, right, len(weights)) / torch.bincount(y, minlength=len(weights))
                        weights = torch.where(weights < self.guard, 0, weights.nan_to_num()).float()
        return model

    def surrogate_batches(self, task: Task, original: nn.Module, size: int) -> Iterator[tuple[Tensor, ...]]:
        samples = task.surrogate(self.surrogate, self.surrogates)
        return endless(samples, size) if task.forget_classes else balanced(samples, original, size, task)

    def transform(self, h: Tensor) -> Tensor:
        return F.normalize(h.sign() * h.abs().clamp(min=1e-6).pow(self.tukey), dim=1)

    def clusters(self, task: Task) -> tuple[Tensor, Tensor]:
        """Centres ``[classes, features]`` and inverted covariances ``[classes, features, features]``."""
        means, covariances = task.statistics
        with torch.autocast(means.device.type, enabled=False):  # an inverse in bfloat16 is none
            return self.transform(means), torch.stack([torch.linalg.pinv(self.shrunk(c)) for c in covariances])

    def shrunk(self, covariance: Tensor) -> Tensor:
        d = len(covariance)
        diagonal = torch.eye(d, dtype=torch.bool, device=covariance.device)
        for _ in range(2):
            variance, rest = covariance[diagonal].mean(), covariance[~diagonal].mean()
            covariance = covariance + self.shrink * torch.where(diagonal, variance, rest)
        deviation = covariance.diagonal().sqrt()
        return covariance / (deviation[:, None] * deviation)

    def distance(self, h: Tensor, near: Tensor, centres: Tensor, inverses: Tensor) -> Tensor:
        """Squared Mahalanobis distance of each representation to its class of ``near``, ``[n]``."""
        away = self.transform(h) - centres[near]
        whole = torch.zeros_like(away)
        for c in near.unique():  # a class at a time: a matrix for each sample would fill the memory
            whole = torch.where((near == c)[:, None], product(away, inverses[c]), whole)
        return (whole * away).sum(1)

    def nearest_wrong(self, h: Tensor, y: Tensor, gone: list[int], clusters: tuple[Tensor, Tensor]) -> Tensor:
        far = [self.distance(h, torch.full_like(y, k), *clusters) for k in range(len(clusters[0]))]
        away = torch.stack(far, dim=1).scatter(1, y[:, None], torch.inf)
        away[:, gone] = torch.inf
        return away.argmin(1)


def balanced(samples: Samples, original: nn.Module, size: int, task: Task) -> Iterator[tuple[Tensor, ...]]:
    """Batches drawn with replacement so that each class which ``original`` sees in ``samples`` is about as likely."""
    x, rng = samples.images(), task.generator("surrogates")
    seen = predict(original, x).argmax(1)
    counts = seen.bincount()
    weights = 1 / torch.where(counts < 3, 5, counts)[seen]
    while True:
        drawn = torch.multinomial(weights, size, replacement=True, generator=rng)
        yield from samples.replace(x[drawn]).batches(size, shuffle=False)


def distillation(model: nn.Module, original: nn.Module, x: Tensor, gone: list[int]) -> Tensor:
    """KL of the original to the model on surrogates; none that the original takes for a class of ``gone`` counts."""
    student = model(x)
    with torch.no_grad():
        teacher = original(x)
    kept = torch.isin(teacher.argmax(1), torch.tensor(gone, device=x.device), invert=True)
    if not kept.any():
        return student.new_zeros(())
    teacher = teacher[kept]
    teacher[:, gone] = teacher.min()
    return kl(student[kept], teacher)
