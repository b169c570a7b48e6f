"""SISA: an ensemble on disjoint shards, of which only those that hold forgotten samples are trained again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unlearnbench import Access, Count, Method, Task, train


class Ensemble(nn.Module):
    """Logits are the log of the members' mean probabilities. The state of each member after every slice but the last is
    kept in buffers ``[slices - 1, ...]``, so that it is stored with the rest."""

    def __init__(self, members: Sequence[nn.Module], slices: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        for shard, member in enumerate(members):
            for name, tensor in member.state_dict().items():
                self.register_buffer(_buffer(shard, name), tensor.new_zeros((slices - 1, *tensor.shape)))

    def forward(self, x: Tensor) -> Tensor:
        each = torch.stack([F.log_softmax(member(x), dim=1) for member in self.members])
        return each.logsumexp(0) - math.log(len(self.members))

    def keep(self, shard: int, done: int, member: nn.Module) -> None:
        """Keep the state of the member of a shard after its slice ``done``."""
        for name, tensor in member.state_dict().items():
            self.get_buffer(_buffer(shard, name))[done] = tensor

    def kept(self, shard: int, done: int) -> dict[str, Tensor]:
        names = self.members[shard].state_dict()
        return {name: self.get_buffer(_buffer(shard, name))[done] for name in names}


def _buffer(shard: int, name: str) -> str:
    return f"checkpoints {shard} {name}".replace(".", "/")  # a dot would be taken for a submodule


@dataclass(frozen=True)
class SISA(Method):
    """Sharded, isolated, sliced, aggregated training: exact unlearning for a model that was trained for it.

    Objective: the training set is cut at random, by the seed alone, into ``shards`` parts, each into ``slices`` parts.
    One network per shard minimises the cross-entropy with the original's recipe, on slice 1, then on slices 1 and 2,
    and so on to all of its shard. The answer is the mean of the members' probabilities. Of the recipe's e epochs slice
    i of R gets floor(2ei/(R + 1)) - floor(2e(i - 1)/(R + 1)), so that a shard is seen as often as without slices. To
    unlearn, each shard that holds forgotten samples goes back to its state before the first slice with one, and learns
    the remaining slices without them. The others are not touched.

    Code read: https://github.com/cleverhans-lab/machine-unlearning, sisa.py, sharded.py, distribution.py,
    aggregation.py and the example scripts at 50a3ada.

    Held against: the block of --train of sisa.py at 50a3ada, whole run of 9 epochs, 2 shards with 1, 3 and 4 slices,
    and unlearning from the first to the fourth slice on, float64, plain SGD, which has no state to keep: equal to the
    bit. Patched: shards and batches are ours, because theirs are not random; files stay in memory.

    Differences: that code cuts the training set in its stored order and does not shuffle batches; both are random here.
    Its default vote counts the members' answers; mean probabilities are its other choice, and give logits. It keeps its
    optimizer from slice to slice, but begins anew when it retrains; here every slice begins with a new one and a new
    schedule of the rate: going back gives bit for bit, but for dropout, what training without the samples would. The
    authors' loader of Purchase, a table, does not augment; here members are trained as the recipe says, that is with
    its augmentation, on what remains of their shard as well.

    Defaults: 5 shards, as in the authors' example for Purchase, which is of shards alone; the paper has tens of slices,
    we 5. Epochs, batches and rate are the recipe's.

    Known failures: each member sees a fraction of the data: the ensemble's accuracy falls with the number of shards,
    most where samples are few for each class. Once every shard holds a forgotten sample, and that is soon, nothing is
    saved but slices. Its original is its own: it is not comparable with methods that start from the common one.
    """

    paper: ClassVar[str] = "Bourtoule et al. 2021, Machine Unlearning, 1912.03817"
    needs: ClassVar[Access] = Access.TRAINING | Access.LABELS
    toy: ClassVar[dict[str, Any]] = {"shards": 2, "slices": 2}

    shards: Count = 5
    slices: Count = 5

    def blank(self, task: Task) -> Ensemble:
        return Ensemble([task.fresh_model(f"shard {shard}") for shard in range(self.shards)], self.slices)

    def original(self, task: Task) -> nn.Module:
        model, x = self.blank(task), task.training.images()
        for shard, slices in enumerate(self.partition(task)):
            self.learn(model, shard, slices, 0, task, x)
        return model

    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        model, x, forgotten = cast(Ensemble, model), task.training.images(), task.forgotten
        for shard, slices in enumerate(self.partition(task)):
            touched = [bool(forgotten[part].any()) for part in slices]
            if any(touched):
                remaining = [part[~forgotten[part]] for part in slices]
                self.learn(model, shard, remaining, touched.index(True), task, x)
        return model

    def partition(self, task: Task) -> list[tuple[Tensor, ...]]:
        """Positions in the training set of each slice of each shard."""
        order = torch.randperm(len(task.training), generator=task.generator("shards"), device=task.device)
        return [shard.tensor_split(self.slices) for shard in order.tensor_split(self.shards)]

    def learn(self, model: Ensemble, shard: int, slices: Sequence[Tensor], first: int, task: Task, x: Tensor) -> None:
        """Train the member of a shard from the state before slice ``first`` to the end."""
        member = task.fresh_model(f"shard {shard}")
        if first > 0:
            member.load_state_dict(model.kept(shard, first - 1))
        for i in range(first, self.slices):
            seen, epochs = torch.cat(list(slices[: i + 1])), self.epochs(i + 1, task) - self.epochs(i, task)
            if epochs and len(seen):
                samples = task.training.replace(x[seen], task.training.labels[seen])
                train(member, samples, replace(task.recipe, epochs=epochs))
            if i < self.slices - 1:
                model.keep(shard, i, member)
        model.members[shard] = member

    def epochs(self, slices: int, task: Task) -> int:
        """Epochs until so many slices are done."""
        return 2 * task.recipe.epochs * slices // (self.slices + 1)
