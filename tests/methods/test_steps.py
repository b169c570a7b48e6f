"""Steps that methods share: what they do where networks run in half precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from unlearnbench_methods.duck import distances
from unlearnbench_methods.steps import descend, product

from unlearnbench.plan.cells import Recipe
from unlearnbench.training.loop import precision

HALF = precision(Recipe(precision="bfloat16"), torch.device("cpu"))


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_product_is_in_the_precision_of_its_factors() -> None:
    """Distances of representations differ from one another by less than bfloat16 holds."""
    a, b = some(6, 40), some(40, 5)
    expected = a @ b
    centroids = some(3, 40)
    away = 1 - F.normalize(a, dim=1) @ F.normalize(centroids, dim=1).T
    with HALF:
        assert (a @ b).dtype == torch.bfloat16
        assert torch.equal(product(a, b), expected)
        assert torch.equal(distances(a, centroids), away)


def test_a_step_back_through_a_product_is_in_its_precision_too() -> None:
    """Or the backward pass, which multiplies as well, gives gradients of three digits."""
    layers = [nn.Linear(4, 2, bias=False) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x, optimizers = some(5, 4), [torch.optim.SGD(layer.parameters(), 1.0) for layer in layers]
    descend(optimizers[0], product(x, layers[0].weight.T).square().sum())
    with HALF:
        descend(optimizers[1], product(x, layers[1].weight.T).square().sum())
    assert torch.equal(layers[0].weight, layers[1].weight)
