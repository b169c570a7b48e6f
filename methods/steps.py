"""Steps that several methods share."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


def frozen(model: nn.Module) -> nn.Module:
    """A copy in eval mode that cannot change: a teacher."""
    return deepcopy(model).eval().requires_grad_(False)


def other_labels(y: Tensor, num_classes: int, rng: torch.Generator) -> Tensor:
    """Labels drawn uniformly from the classes other than ``y`` (int64 ``[n]``)."""
    shift = torch.randint(1, num_classes, y.shape, generator=rng, device=y.device)
    return (y + shift) % num_classes
