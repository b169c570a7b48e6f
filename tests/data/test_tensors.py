"""Data on the device: normalised once, handed out in batches that cover it, augmented by what the recipe says."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unlearnbench.data.tensors import (
    Counter,
    Data,
    Samples,
    augmentation,
    crop_flip,
    derive_seed,
    generator,
    resized_crop_flip,
)
from unlearnbench.plan.arrays import Arrays
from unlearnbench.plan.cells import Recipe
from unlearnbench.plan.recipes import RECIPES
from unlearnbench.plan.spec import AccessDenied

CPU = torch.device("cpu")


def arrays() -> Arrays:
    """RGB images of one pixel: 8 for training, all of one colour; 40 for testing, all different, 10 and 30 a class."""
    x_train = np.tile(np.array([255, 51, 0], np.uint8).reshape(3, 1, 1), (8, 1, 1, 1))
    x_test = np.arange(120, dtype=np.uint8).reshape(40, 3, 1, 1)
    y_test = np.repeat([0, 1], [10, 30])
    scale = (0.5, 0.1, 0.0), (0.25, 0.2, 1.0)
    return Arrays(x_train, np.arange(8) % 2, x_test, y_test, 2, *scale, None, "here", "f")


def samples(n: int = 10, *, labels: bool = True, seed: int = 0, augment: Any = None) -> Samples:
    x = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1)
    return Samples(x, torch.arange(n) if labels else None, seed, augment, Counter())


def seen(batches: Any) -> list[int]:
    return torch.cat([x.flatten() for x, *_ in batches]).int().tolist()


def test_seeds_for_other_purposes_are_unrelated() -> None:
    assert derive_seed(0, "original") == 7514870582148178742  # sha256("0/original"), the first 63 bits
    assert len({derive_seed(s, p) for s in (0, 1, 11) for p in ("a", "1/a", "")}) == 9
    assert torch.equal(torch.rand(3, generator=generator(1, "x")), torch.rand(3, generator=generator(1, "x")))


# --- Data ------------------------------------------------------------------------------------------------------------


def test_images_are_normalised_by_channel() -> None:
    made = Data.of(arrays(), 0, CPU)
    assert made.x_train.dtype == torch.float32
    assert made.x_train[7].flatten().tolist() == pytest.approx([2.0, 0.5, 0.0])  # (1 - .5) / .25, (.2 - .1) / .2, 0
    assert made.x_test[17].flatten().tolist() == pytest.approx([-1.2, 0.519608, 53 / 255])  # of 51, 52, 53
    assert made.input_shape == (3, 1, 1)
    assert (made.y_train.dtype, made.fingerprint, made.source) == (torch.int64, "f", "here")


def test_the_validation_set_is_a_stratified_part_of_the_test_split() -> None:
    made = Data.of(arrays(), 0.1, CPU)
    assert torch.bincount(made.y_validation).tolist() == [1, 3]
    assert torch.bincount(made.y_test).tolist() == [9, 27]
    images = torch.cat([made.x_validation, made.x_test]).flatten(1)
    assert len(images.unique(dim=0)) == 40


def test_without_a_validation_share_the_test_split_is_whole_and_in_order() -> None:
    made = Data.of(arrays(), 0, CPU)
    assert (len(made.x_test), len(made.x_validation)) == (40, 0)
    assert made.y_test.tolist() == [0] * 10 + [1] * 30


def test_loading_leaves_the_arrays_as_they_are() -> None:
    source = arrays()
    before = source.x_train.copy()
    Data.of(source, 0.1, CPU).x_train.zero_()
    assert np.array_equal(source.x_train, before)


# --- Samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_pass_gives_every_sample_once(shuffle: bool) -> None:
    batches = list(samples().batches(4, shuffle=shuffle))
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert sorted(seen(batches)) == list(range(10))
    assert (seen(batches) == list(range(10))) == (not shuffle)
    assert all(torch.equal(x.flatten().long(), y) for x, y in batches)


def test_every_pass_has_an_order_of_its_own_and_every_seed() -> None:
    first, again, other = samples(100), samples(100), samples(100, seed=1)
    orders = [seen(first.batches(10)) for _ in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    assert orders == [seen(again.batches(10)) for _ in range(3)]
    assert seen(other.batches(10)) not in orders


def test_extra_columns_go_along() -> None:
    for x, y, double, ones in samples().batches(3, extra=(2 * torch.arange(10), torch.ones(10, 2))):
        assert torch.equal(double, 2 * y)
        assert ones.shape == (len(x), 2)


def test_without_labels_there_are_none() -> None:
    bare = samples(labels=False)
    assert all(len(batch) == 1 for batch in bare.batches(4))
    for each in (bare, bare.take(3)):
        with pytest.raises(AccessDenied, match=r"add Access\.LABELS"):
            _ = each.labels


def test_what_is_handed_out_is_counted_also_by_what_was_taken() -> None:
    counter = Counter()
    whole = Samples(torch.zeros(10, 1, 1, 1), torch.zeros(10), 0, None, counter)
    next(iter(whole.batches(4)))
    assert counter.samples == 4
    list(whole.batches(4))
    assert counter.samples == 14
    whole.take(3).images()
    whole.replace(torch.zeros(5, 1, 1, 1)).images()
    assert counter.samples == 22
    assert (len(whole), len(whole.labels)) == (10, 10)
    assert counter.samples == 22
    assert counter.gradients == 0


def test_take_is_a_prefix() -> None:
    first = samples().take(4)
    assert first.images().flatten().tolist() == [0, 1, 2, 3]
    assert first.labels.tolist() == [0, 1, 2, 3]
    assert len(samples().take(99)) == 10


def test_replace_leaves_the_set_as_it_was() -> None:
    whole = samples(4)
    other = whole.replace(torch.full((2, 1, 1, 1), 9.0), torch.tensor([7, 8]))
    assert other.images().flatten().tolist() == [9, 9]
    assert other.labels.tolist() == [7, 8]
    assert whole.images().flatten().tolist() == [0, 1, 2, 3]


def add_noise(x: Tensor, rng: torch.Generator) -> Tensor:
    return x + torch.rand(x.shape, generator=rng)


def test_augmentation_is_drawn_anew_in_every_pass_and_only_where_it_is_asked_for() -> None:
    noisy = samples(300, augment=add_noise)
    assert noisy.augmented
    passes = [noisy.images(augment=True), noisy.images(augment=True), next(noisy.batches(300, shuffle=False))[0]]
    for i, made in enumerate(passes):
        assert made.shape == (300, 1, 1, 1)
        assert made.flatten().int().tolist() == list(range(300))  # in the order of the set, beyond the first 256 too
        assert not any(torch.equal(made, earlier) for earlier in passes[:i])
    assert torch.equal(samples(300, augment=add_noise).images(augment=True), passes[0])
    again = samples(300, augment=add_noise)
    assert [len(part) for part in samples(300, augment=add_noise).augmented_images()] == [256, 44]
    assert torch.equal(torch.cat(list(again.augmented_images())), passes[0])
    assert torch.equal(torch.cat(list(again.augmented_images())), passes[1])
    assert torch.equal(noisy.images(), samples(300).images())
    assert seen(noisy.batches(300, shuffle=False, augment=False)) == list(range(300))


# --- augmentation ----------------------------------------------------------------------------------------------------


def test_recipes_name_their_augmentation() -> None:
    assert augmentation(RECIPES["camu"]) is None
    x = torch.rand(2, 3, 32, 32)
    standard = augmentation(RECIPES["standard"])
    assert standard is not None
    assert torch.equal(standard(x, generator(0, "a")), crop_flip(x, generator(0, "a"), 4))
    resized = augmentation(Recipe(augment="resized_crop_flip", image_size=48))
    assert resized is not None
    assert resized(x, generator(0, "a")).shape == (2, 3, 48, 48)


def windows(image: Tensor, padding: int) -> list[Tensor]:
    """All images that cropping and flipping may give."""
    _, height, width = image.shape
    padded = torch.zeros(image.shape[0], height + 2 * padding, width + 2 * padding)
    padded[:, padding : padding + height, padding : padding + width] = image
    crops = [padded[:, i : i + height, j : j + width] for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
    return crops + [crop.flip(2) for crop in crops]


def test_crop_flip_gives_windows_of_the_padded_image_and_their_mirror_images() -> None:
    image = torch.rand(2, 5, 4) + 1
    made = crop_flip(image.expand(600, 2, 5, 4), generator(0, "a"), padding=1)
    possible = windows(image, 1)
    drawn = [next(i for i, window in enumerate(possible) if torch.equal(window, one)) for one in made]
    counts = np.bincount(drawn, minlength=18)
    assert counts.min() >= 12  # each of the 18, about 33 times
    assert counts.max() <= 60


def test_crop_flip_draws_for_each_image_apart_and_again_the_same() -> None:
    x = torch.rand(1, 1, 8, 8).expand(64, 1, 8, 8)
    made = crop_flip(x, generator(0, "a"), padding=4)
    assert len(made.flatten(1).unique(dim=0)) > 32
    assert torch.equal(made, crop_flip(x, generator(0, "a"), padding=4))
    assert not torch.equal(made, crop_flip(x, generator(0, "b"), padding=4))


def test_crop_flip_without_padding_only_flips() -> None:
    x = torch.rand(200, 1, 3, 4)
    made = crop_flip(x, generator(0, "a"), padding=0)
    flipped = [torch.equal(m, o.flip(2)) for m, o in zip(made, x, strict=True)]
    same = [torch.equal(m, o) for m, o in zip(made, x, strict=True)]
    assert all(a != b for a, b in zip(flipped, same, strict=True))
    assert 70 <= sum(flipped) <= 130


@pytest.mark.parametrize(("size", "shape"), [(None, (50, 3, 12, 8)), (5, (50, 3, 5, 5)), (20, (50, 3, 20, 20))])
def test_resized_crop_keeps_range_and_gives_the_size_asked_for(size: int | None, shape: tuple[int, ...]) -> None:
    x = torch.rand(50, 3, 12, 8) * 3 - 1
    made = resized_crop_flip(x, generator(0, "a"), size)
    assert made.shape == shape
    assert made.isfinite().all()
    assert (made.amin((2, 3)) >= x.amin((2, 3)) - 1e-5).all()
    assert (made.amax((2, 3)) <= x.amax((2, 3)) + 1e-5).all()


def test_resized_crop_covers_8_to_100_percent_of_the_area_at_aspects_of_3_to_4() -> None:
    """On a ramp the crop can be read off: its width is what the values along a row span. n = 2000."""
    side = 64
    ramp = (torch.arange(side) + 0.5) / side
    x = torch.stack([ramp.expand(side, side), ramp.view(-1, 1).expand(side, side)]).expand(2000, 2, side, side)
    made = resized_crop_flip(x, generator(0, "a"), None)
    scale = side / (side - 1)  # from the centres of the outer pixels to their edges
    width = (made[:, 0, 0, -1] - made[:, 0, 0, 0]) * scale
    height = (made[:, 1, -1, 0] - made[:, 1, 0, 0]) * scale
    flipped = width < 0
    area, aspect = width.abs() * height, width.abs() / height
    assert 0.45 < flipped.float().mean() < 0.55
    assert 0.079 < area.min() < 0.1
    assert 0.95 < area.max() <= 1.01
    assert 0.74 < aspect.min() < 0.76
    assert 1.31 < aspect.max() < 1.35
    assert (made[:, 1].amin((1, 2)) >= -0.01).all()
    centres = made[:, 0].mean((1, 2))
    assert abs(centres.mean() - 0.5) < 0.02


@pytest.mark.parametrize("name", ["x_train", "y_train", "x_test", "y_test", "x_validation", "y_validation"])
@pytest.mark.parametrize("how", ["one value", "two samples change places", "flipped"])
def test_whatever_is_written_into_a_dataset_changes_its_checksums(data: Data, name: str, how: str) -> None:
    own = deepcopy(data)
    before = own.checksums()
    assert all(map(torch.equal, before, data.checksums()))
    tensor = getattr(own, name)
    if how == "one value":
        tensor.view(-1)[-1] += 1
    elif how == "two samples change places" or name.startswith("y"):
        tensor[[0, 1]] = tensor[[1, 0]]
    else:
        tensor[0] = tensor[0].flip(-1)
    assert sum(not torch.equal(a, b) for a, b in zip(before, own.checksums(), strict=True)) == 1
