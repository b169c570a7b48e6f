"""RUM: split the forget set by how much of it was learnt by heart, and unlearn each part in the way that suits it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench import Access, Method, Samples, Task, UnlearnBenchError, build, predict


@dataclass(frozen=True)
class RUM(Method):
    """Refined unlearning meta-algorithm: D_f in thirds of low, medium and high memorisation, each unlearned in turn by
    a method of its own.

    Objective: those of the methods named ``low``, ``medium`` and ``high``, applied one after the other to the least,
    the middle and the most memorised third of D_f; each has its own defaults but for what stands behind its name, as in
    "finetune lr=0.1 epochs=10". Each sees its third as D_f, and as D_r the retain set with the thirds that are still to
    come; thirds already unlearned are left out. Memorisation is ranked by the original's confidence in the true label:
    the lower, the more memorised.

    Code read: https://github.com/kairanzhao/RUM, main_rum.py, main_rum_proxy.py, main_forget.py, arg_parser.py,
    unlearn/RL.py, README.md and memorization_proxy/learning_events.py at f593c9d.

    Held against: the choice of sets for a sequence in main_forget.py (its lines by text) and FT in iterative_unlearn,
    unlearn/FT.py and impl.py at f593c9d, whole run of three steps of fine-tuning in float64, D_f of 24 and 48 samples,
    with and without BatchNorm, the same batches: all sets equal, the weights to 2e-16. Patched: the rank of the
    memorisation for their score, which takes thousands of trainings and has another middle; devices. With 1 -
    confidence, and its median for .5, the first and the last part stay equal, the middle does not.

    Differences: the authors rank by estimated memorisation scores (Feldman and Zhang 2020: models trained with and
    without each sample) or by proxies: confidence in the true label, highest confidence, entropy or accuracy, each
    averaged over the epochs of a training that records them, retraining on held-out data, or loss curvature. Ours is
    the first of these at the end of training alone, which needs nothing but the original. They make D_f of the lowest,
    the middle and the highest 1,000 samples of the training set; here any D_f is cut in thirds. Their middle part are
    the samples nearest to .5 (of a proxy, to its median), which may overlap the others; ours are the middle ranks.
    main_rum.py switches augmentation off for D_f and D_r; here each part is augmented as its method does alone, so that
    what was held against that method's authors is what runs. Their SalUn mixes both sets in one pass, which ours does
    not, and its weight decay moves masked weights.

    Defaults: the authors' best: nothing for the low third, fine-tuning for the medium, SalUn for the high. Their
    main_rum.py gives the rate .1 to both, in 10 and 5 epochs (3,000 samples of CIFAR-10, ResNet-18): medium "finetune
    lr=0.1 epochs=10", high "salun lr=0.1 epochs=5". That is not declared as published, which every suite would follow:
    on digits 7 runs of 10 of a network without BatchNorm ended without finite outputs.

    Known failures: confidences of a network that fits its training set are all near 1 and their order mostly chance.
    Where whole classes are forgotten, the first third stays known until the last one is unlearned. In
    cifar10-small-tuned, class-0, with the methods' own rates, the network collapsed (retain accuracy about 11%);
    nothing of it is tuned there.
    """

    paper: ClassVar[str] = "Zhao et al. 2024, What makes unlearning hard and what to do about it, 2406.01257"
    version: ClassVar[int] = 2
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

    def method(self, text: str) -> Method:
        name, *settings = text.split() or [""]
        pairs = [setting.partition("=")[::2] for setting in settings]
        method: Method = build("methods", name, {key: _value(value) for key, value in pairs})
        if method.needs & ~self.needs or type(method).prepare is not Method.prepare or method.scenarios is not None:
            raise UnlearnBenchError(
                f"rum cannot run '{name}': it takes one that needs the two sets alone, in every scenario"
            )
        return method


def _value(text: str) -> Any:
    """A number or truth value as JSON writes it, or the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def memorisation(model: nn.Module, samples: Samples) -> Tensor:
    """The lower the confidence in the true label, the more a sample has been learnt by heart."""
    return F.cross_entropy(predict(model, samples.images()), samples.labels, reduction="none")


def pick(samples: Samples, index: Tensor) -> Samples:
    return samples.replace(samples.images()[index], samples.labels[index])


def joined(one: Samples, other: Samples) -> Samples:
    return one.replace(torch.cat([one.images(), other.images()]), torch.cat([one.labels, other.labels]))
