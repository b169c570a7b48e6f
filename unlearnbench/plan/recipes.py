"""The named recipes: how originals and oracles are trained."""

from __future__ import annotations

from unlearnbench.plan.cells import Recipe

RECIPES = {
    # CaMU's protocol (2401.17504, public code).
    "camu": Recipe(optimizer="adam", lr=1e-3, weight_decay=1e-4, batch_size=32, epochs=20),
    # What most of the field trains CIFAR networks with.
    "standard": Recipe(
        optimizer="sgd",
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        batch_size=128,
        epochs=182,
        schedule="cosine",
        augment="crop_flip",
    ),
    # A quick CIFAR network for a GPU: one cycle, large batches, half precision.
    "fast": Recipe(
        optimizer="sgd",
        lr=0.4,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        batch_size=512,
        epochs=16,
        schedule="one_cycle",
        augment="crop_flip",
        label_smoothing=0.1,
        precision="bfloat16",
    ),
}
