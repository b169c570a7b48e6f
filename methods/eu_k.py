"""EU-k: exact unlearning of the last k layers, by training these anew on the retain set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from torch import nn
from unlearnbench_methods.cf_k import CFk
from unlearnbench_methods.steps import weight_layers

from unlearnbench import Access, Count, Fraction, LogUniform, Method, NonNegative, Positive, Published, Task


@dataclass(frozen=True)
class EUk(Method):
    """Re-initialise the last k convolutions and linear layers and train them on the retain set; the rest is frozen.

    Objective: minimise CE(D_r; θ_k) as CF-k does (`CFk`), from weights that are drawn anew: N(0, 2/fan_in), biases 0.

    Code read: https://github.com/shash42/Evaluating-Inexact-Unlearning, src/methods.py, src/models.py, src/learn.py,
    src/unlearn.py, src/load_datasets.py and scripts at a45fe02.

    Held against: retrain_lastK of src/methods.py, with train_loop of src/learn.py, at a45fe02, whole run of 12 epochs,
    float64, k 1 to 3, a class and random samples, with and without BatchNorm: 7e-16. Patched: kaiming_normal_
    gives our draws, because theirs come from another generator; .cuda() and saving do nothing, as on a CPU.

    Differences: none known. As in the code the BatchNorms among these layers are trained, but start from θo's weights.
    Its option to start from a pretrained network is left out. The authors augment D_r (crop and flip on CIFAR), and so
    do we wherever the recipe does; D_f is not used.

    Defaults: those of `CFk`, whose training this is, k too. The authors train EU-k twice as long as CF-k, that is as
    long as a retraining, each time to one epoch before the end of a cycle. In digits-all the 62 epochs published for
    CIFAR-10 take longer than the retraining.

    Known failures: what the frozen layers know of D_f stays. With a k that reaches into the first layers it is a
    retraining with another recipe.
    """

    paper: ClassVar[str] = (
        "Goel et al. 2022, Towards Adversarial Evaluations for Inexact Machine Unlearning, 2201.06640"
    )
    needs: ClassVar[Access] = Access.RETAIN | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"epochs": 15}
    published: ClassVar[tuple[Published, ...]] = (
        Published(
            "cifar10", "random", {"epochs": 62}, "scripts/cifar10-CRT.sh at a45fe02, ResNet-110, its k (50) left out"
        ),
        Published(
            "cifar100",
            "random",
            {"epochs": 126},
            "scripts/cifar100-CRT.sh at a45fe02, ResNet-110, its k (10 and 50) left out",
        ),
    )

    k: Annotated[Count, LogUniform(1, 10)] = 3
    lr: Annotated[Positive, LogUniform(1e-3, 0.3)] = 0.1
    lr_min: NonNegative = 0.005
    momentum: Fraction = 0.9
    weight_decay: NonNegative = 5e-5
    batch_size: Count = 64
    epochs: Annotated[Count, LogUniform(2, 62)] = 30
    clip: Positive = 10.0

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        rng = task.generator("weights")
        for layer in weight_layers(model)[-self.k :]:
            nn.init.kaiming_normal_(layer.get_parameter("weight"), generator=rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.get_parameter("bias"))
        return CFk(**asdict(self)).unlearn(model, task)
