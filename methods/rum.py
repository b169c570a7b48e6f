"""RUM: split the forget set by how much of it was learnt by heart, and unlearn each part in the way that suits it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench import Access, Method, Samples, Task, UnlearnBenchError, build, predict


@dataclass(frozen=True)
class RUM(Method):
    """Refined unlearning meta-algorithm: D_f in thirds of low, medium and high memorisation, each unlearned in turn by
    a method of its own.

    Objective: those of the methods named ``low``, ``medium`` and ``high``, with their own defaults, applied one after
    the other to the least, the middle and the most memorised third of D_f. Each sees its third as D_f, and as D_r the
    retain set with the thirds that are still to come; thirds already unlearned are left out. Memorisation is ranked by
    the original's confidence in the true label: the lower, the more memorised.

    Code read: https://github.com/kairanzhao/RUM, main_rum.py, main_rum_proxy.py, main_forget.py and
    memorization_proxy/learning_events.py at f593c9d. Held against main_forget.py at f593c9d (its choice of sets for a
    sequence, by text, with 1 - confidence as the memorisation and its median for .5): the choice of parts and retain
    sets alone, no weights. Of D_f of 24 to 96 samples the first and the last part are the same, and so are the retain
    sets that follow, except for the samples in which the middle parts differ.

    Differences: the authors rank by estimated memorisation scores (Feldman and Zhang 2020: models trained with and
    without each sample) or by proxies: confidence in the true label, highest confidence, entropy or accuracy, each
    averaged over the epochs of a training that records them, retraining on held-out data, or loss curvature. Ours is
    the first of these at the end of training alone, which needs nothing but the original. They make D_f of the lowest,
    the middle and the highest 1,000 samples of the training set; here any D_f is cut in thirds. Their middle part are
    the samples nearest to .5 (of a proxy, to its median), which may overlap the others; ours are the middle ranks.

    Defaults: the authors' best: nothing for the low third, fine-tuning for the medium, SalUn for the high
    (main_rum.py). Each runs with its defaults here; theirs are rate .1, 10 epochs of fine-tuning and 5 of SalUn.

    Known failures: confidences of a network that fits its training set are all near 1 and their order mostly chance.
    Where whole classes are forgotten, the first third stays known until the last one is unlearned. In
    cifar10-small-tuned, class-0, the network collapsed (retain accuracy about 11%); nothing of it is tuned there.
    """

    paper: ClassVar[str] = "Zhao et al. 2024, What makes unlearning hard and what to do about it, 2406.01257"
    needs: ClassVar[Access] = Access.FORGET | Access.RETAIN | Access.LABELS

    low: str = "identity"
    medium: str = "finetune"
    high: str = "salun"

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        methods = [self.method(name) for name in (self.low, self.medium, self.high)]
        parts = [part.sort().values for part in torch.tensor_split(memorisation(model, task.forget).argsort(), 3)]
        for i, (method, part) in enumerate(zip(methods, parts, strict=True)):
            if len(part):
                retain = joined(task.retain, pick(task.forget, torch.cat(parts[i + 1 :]))) if i < 2 else task.retain
                request = task.request(pick(task.forget, part), retain)
                # within RUM, which runs in the precision of the recipe
                with torch.autocast(task.device.type, enabled=False) if method.full_precision else nullcontext():
                    model = method.unlearn(model, request)
        return model

    def method(self, name: str) -> Method:
        method: Method = build("methods", name, {})
        if method.needs & ~self.needs or type(method).prepare is not Method.prepare or method.scenarios is not None:
            raise UnlearnBenchError(
                f"rum cannot run '{name}': it takes one that needs the two sets alone, in every scenario"
            )
        return method


def memorisation(model: nn.Module, samples: Samples) -> Tensor:
    """The lower the confidence in the true label, the more a sample has been learnt by heart."""
    return F.cross_entropy(predict(model, samples.images()), samples.labels, reduction="none")


def pick(samples: Samples, index: Tensor) -> Samples:
    return samples.replace(samples.images()[index], samples.labels[index])


def joined(one: Samples, other: Samples) -> Samples:
    return one.replace(torch.cat([one.images(), other.images()]), torch.cat([one.labels, other.labels]))
