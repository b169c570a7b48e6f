"""The attacks: losses in closed form, direction, chance, and the inputs they must survive."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from unlearnbench.measure import attacks
from unlearnbench.plan.evidence import Evidence
from unlearnbench.plan.spec import Empty

CLASSES = 4


def outputs(rng: np.random.Generator, labels: np.ndarray, margin: float) -> np.ndarray:
    """Noisy logits whose true class stands out by ``margin``."""
    return (rng.normal(size=(len(labels), CLASSES)) + margin * np.eye(CLASSES)[labels]).astype(np.float32)


def model(
    forget: float,
    retain: float,
    test: float,
    *,
    n: int = 400,
    test_n: int = 1000,
    classes: int = CLASSES,
    seed: int = 0,
) -> Evidence:
    """A model with these margins on its sets; D_f holds the first ``classes`` classes."""
    rng = np.random.default_rng(seed)
    labels = {
        "forget": rng.integers(classes, size=n),
        "retain": rng.integers(CLASSES, size=3 * n),
        "test": rng.integers(CLASSES, size=test_n),
    }
    margins = {"forget": forget, "retain": retain, "test": test}
    logits = {name: outputs(rng, y, margins[name]) for name, y in labels.items()}
    return Evidence(logits, labels, (), np.empty((0, 2)), {}, {}, seed)


def constant(logits: dict[str, list[float]], n: int = 40, seed: int = 0) -> Evidence:
    """Every row of a set has the same logits; all labels are 0."""
    rows = {name: np.tile(np.array(row, dtype=np.float32), (n, 1)) for name, row in logits.items()}
    return Evidence(rows, {name: np.zeros(n, dtype=int) for name in rows}, (), np.empty((0, 2)), {}, {}, seed)


def value(result: float | Empty) -> float:
    assert isinstance(result, float)
    return result


# --- features --------------------------------------------------------------------------------------------------------


def test_cross_entropy_in_closed_form() -> None:
    logits = np.array([[0, 0, 0, 0], [1, 1, 1, 3], [40, 0, -99, -99]], dtype=np.float32)
    losses = attacks.cross_entropy(logits, np.array([2, 3, 0]))
    assert losses.dtype == np.float64
    assert losses == pytest.approx([1.3862943611198906, 0.3407529, 4.248354255291589e-18], rel=1e-6)


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    logits = np.array([[3e38, -3e38], [-3e38, 3e38]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert attacks.cross_entropy(logits, np.array([0, 0])) == pytest.approx([0, 6e38])


def test_sorted_softmax_in_closed_form() -> None:
    features = attacks.sorted_softmax(np.log(np.array([[5, 1, 2], [4, 2, 2]], dtype=np.float32)))
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, [[0.125, 0.25, 0.625], [0.25, 0.25, 0.5]], rtol=1e-6)


def test_sorted_softmax_of_huge_logits() -> None:
    assert attacks.sorted_softmax(np.array([[3e38, -3e38, 3e38]], dtype=np.float32)).tolist() == [[0, 0.5, 0.5]]


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forget", "retain", "test", "expected"),
    [
        (6000, 54000, 10000, 4000),
        (6000, 54000, 9000, 3600),
        (500, 5000, 10000, 500),
        (500, 300, 10000, 300),
        (9, 9, 9, 3),
    ],
)
def test_gbt_size(forget: int, retain: int, test: int, expected: int) -> None:
    sizes = {"forget": forget, "retain": retain, "test": test}
    logits = {name: np.empty((n, 2), dtype=np.float32) for name, n in sizes.items()}
    assert attacks.gbt_size(Evidence(logits, {}, (), np.empty((0, 2)), {}, {}, 0)) == expected


def test_lr_loss_size_counts_test_samples_of_the_forgotten_classes() -> None:
    labels = {"forget": np.repeat([0, 2], 15), "test": np.repeat([0, 1, 2], [5, 90, 7])}
    assert attacks.lr_loss_size(Evidence({}, labels, (), np.empty((0, 2)), {}, {}, 0)) == 12


# --- direction -------------------------------------------------------------------------------------------------------


def test_lr_loss_grows_with_the_leak() -> None:
    found = [value(attacks.lr_loss(model(margin, margin, test=2.0))) for margin in (2.0, 4.0, 6.0, 12.0)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(0.5, abs=0.05)
    assert found[-1] > 0.85


def test_lr_loss_is_symmetric_a_forget_set_known_to_be_worse_leaks_too() -> None:
    assert value(attacks.lr_loss(model(-4.0, 4.0, test=4.0))) > 0.9


def test_lr_loss_of_one_class() -> None:
    leaking = model(12.0, 12.0, test=2.0, classes=1)
    assert attacks.lr_loss_size(leaking) == np.sum(leaking.labels["test"] == 0)
    assert value(attacks.lr_loss(leaking)) > 0.85


def test_gbt_grows_with_the_leak() -> None:
    found = [value(attacks.gbt(model(margin, margin, test=1.0))) for margin in (1.0, 3.0, 5.0)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(0.5, abs=0.05)
    assert found[-1] > 0.9


def test_gbt_falls_under_chance_where_the_forget_set_passes_for_unseen() -> None:
    assert value(attacks.gbt(model(0.0, 8.0, test=6.0))) < 0.45


# --- edges -----------------------------------------------------------------------------------------------------------


def test_losses_without_variance_are_at_chance() -> None:
    assert attacks.lr_loss(constant({"forget": [3, 0], "test": [3, 0]})) == 0.5


def test_perfect_separation() -> None:
    apart = constant({"forget": [9, 0], "retain": [9, 0], "test": [0, 9]})
    assert attacks.lr_loss(apart) == 1.0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, 3e38])
def test_attacks_survive_logits_of_any_size(scale: float) -> None:
    apart = constant({"forget": [scale, 0], "retain": [scale, 0], "test": [0, scale]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert attacks.lr_loss(apart) == 1.0
        assert 0 <= value(attacks.gbt(apart)) <= 1


def test_tied_features_make_the_trees_constant() -> None:
    tied = constant({"forget": [0, 0], "retain": [0, 0], "test": [0, 0]})  # all members or none: 40 or 24 right of 64
    assert attacks.gbt(tied) in (40 / 64, 24 / 64)


def test_too_few_samples() -> None:
    few = model(3.0, 3.0, test=3.0, n=9)
    assert attacks.gbt(few) == Empty("too_few", "9 members and 9 non-members, 10 of each needed")
    assert attacks.lr_loss(few) == Empty("too_few", "9 members and 9 non-members, 10 of each needed")


def test_ten_samples_per_side_are_enough() -> None:
    small = model(3.0, 3.0, test=3.0, n=10, test_n=60)
    assert 0 <= value(attacks.gbt(small)) <= 1
    assert 0 <= value(attacks.lr_loss(small)) <= 1


def test_no_test_sample_of_the_forgotten_class() -> None:
    other = constant({"forget": [3, 0], "test": [3, 0]})
    other.labels["test"][:] = 1
    assert attacks.lr_loss(other) == Empty("too_few", "0 members and 0 non-members, 10 of each needed")


def test_the_seed_of_the_evidence_decides_the_draws() -> None:
    one = model(3.0, 3.0, test=2.0, n=100, test_n=200)
    values = [[attack(one), attack(one)] for attack in (attacks.gbt, attacks.lr_loss)]
    assert all(first == again for first, again in values)
    other = Evidence(one.logits, one.labels, (), one.curve, {}, {}, seed=one.seed + 1)
    assert attacks.gbt(other) != attacks.gbt(one)
    assert attacks.lr_loss(other) != attacks.lr_loss(one)
