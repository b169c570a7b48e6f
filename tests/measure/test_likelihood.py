"""Attacks on one model with never-trained ones: closed forms, libraries, and the bugs they must reject."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from bank_cases import library_auc, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import roc_curve

from unlearnbench.measure import likelihood
from unlearnbench.plan.spec import Empty


def value(result: float | Empty) -> float:
    assert isinstance(result, float)
    return result


# --- areas ------------------------------------------------------------------------------------------------------------

few_values = arrays(np.float64, st.tuples(st.integers(1, 4), st.just(3)), elements=st.integers(0, 3).map(float))


@settings(max_examples=50, deadline=None)
@given(few_values, few_values)
def test_areas_are_scikit_learns_with_ties_half(positive: np.ndarray, negative: np.ndarray) -> None:
    assert likelihood.auc(positive, negative) == pytest.approx(library_auc(positive, negative))


def test_ties_are_neither_wins_nor_losses() -> None:
    positive, negative = np.array([1.0, 2.0]), np.array([1.0, 1.0, 2.0, 0.0])
    assert likelihood.auc(positive, negative) == 5.5 / 8
    assert np.mean(positive[:, None] > negative) == 4 / 8
    assert np.mean(positive[:, None] >= negative) == 7 / 8


def test_areas_refuse_nan_and_empty_sides() -> None:
    with pytest.raises(ValueError, match="NaN"):
        likelihood.auc(np.array([np.nan]), np.array([0.0]))
    with pytest.raises(ValueError, match="both sides"):
        likelihood.auc(np.array([]), np.array([0.0]))


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(("fpr", "n"), [(0.01, 1000), (0.01, 2900), (0.001, 10_000)])
def test_true_positive_rate_is_the_highest_of_the_roc_curve_within_the_bound(fpr: float, n: int, rounded: bool) -> None:
    positive, negative = 1 + normal(0, 500), normal(1, n)
    if rounded:
        positive, negative = positive.round(1), negative.round(1)
    labels = np.repeat([1, 0], [500, n])
    false, true, _ = roc_curve(labels, np.concatenate([positive, negative]), drop_intermediate=False)
    assert likelihood.tpr_at(positive, negative, fpr) == true[false <= fpr + 1e-12].max()


def test_a_false_positive_rate_beyond_the_bound_does_not_count_though_it_is_the_closest() -> None:
    positive, negative = np.repeat([2.0, 1.0, 0.0], [25, 50, 25]), np.repeat([1.0, 0.0], [15, 985])
    assert likelihood.tpr_at(positive, negative, 0.01) == 0.25  # threshold above 1: FPR 0; at 1 it would be .015
    false, true, _ = roc_curve(np.repeat([1, 0], [100, 1000]), np.concatenate([positive, negative]))
    assert true[np.abs(false - 0.01).argmin()] == 0.75


# --- rmia -------------------------------------------------------------------------------------------------------------


def rmia_by_hand(
    x: np.ndarray, z: np.ndarray, out_x: np.ndarray, out_z: np.ndarray, a: float = 0.3, gamma: float = 1.0
) -> list[float]:
    def mean(column: np.ndarray) -> float:
        return ((1 + a) * float(np.mean(column)) + (1 - a)) / 2

    wins = [
        [(x[i] / mean(out_x[:, i])) / (z[j] / mean(out_z[:, j])) > gamma for j in range(len(z))] for i in range(len(x))
    ]
    return [float(np.mean(row)) for row in wins]


def test_rmia_scores_are_shares_of_the_population() -> None:
    # p̄ = .35 + .65 p_out: .48 for x, and .61, .74 for z; ratios 1.875 and .3125 against .984 and 1.216
    x, z = np.array([0.9, 0.15]), np.array([0.6, 0.9])
    out_x, out_z = np.array([[0.1, 0.3], [0.3, 0.1]]), np.array([[0.4, 0.6], [0.4, 0.6]])
    assert likelihood.rmia_scores(x, z, out_x, out_z).tolist() == [1, 0]
    assert likelihood.rmia_scores(x, z, out_x, out_z, gamma=1.6).tolist() == [
        0.5,
        0,
    ]  # beats 1.6 · .984, not 1.6 · 1.216


@pytest.mark.parametrize(("a", "gamma"), [(0.3, 1.0), (0.0, 2.0), (1.0, 1.0), (0.6, 0.5)])
def test_rmia_scores_are_those_of_the_double_loop(a: float, gamma: float) -> None:
    rng = np.random.default_rng(0)
    x, z, out_x, out_z = (rng.uniform(0.01, 1, size) for size in (40, 30, (3, 40), (3, 30)))
    found = likelihood.rmia_scores(x, z, out_x, out_z, a, gamma)
    assert found == pytest.approx(rmia_by_hand(x, z, out_x, out_z, a, gamma))
    assert found != pytest.approx(rmia_by_hand(x, z, out_x, out_z, a=0.9 - a, gamma=gamma))
    assert found != pytest.approx(rmia_by_hand(x, z, out_x, out_z, a, gamma=1.2 * gamma))


def test_rmia_compares_strictly_and_survives_probabilities_of_zero() -> None:
    out = np.full((1, 2), 0.5)
    scores = likelihood.rmia_scores(np.array([0.5, 0.0]), np.array([0.5, 0.0]), out, out)
    assert scores.tolist() == [0.5, 0.0]  # with >= it would be 1 and .5


def test_rmia_finds_what_is_better_known_than_never_trained_models_know_it() -> None:
    rng = np.random.default_rng(0)
    easy = rng.uniform(0.05, 0.6, 300)  # how well anyone knows each sample
    member, rest = np.minimum(1, easy[:100] + 0.3), easy[100:]
    out = np.clip(easy + 0.02 * rng.normal(size=(4, 300)), 0.01, 1)
    parts = (rest[:100], rest[100:], out[:, :100], out[:, 100:200], out[:, 200:])
    assert value(likelihood.rmia(member, *parts)) > 0.95
    assert value(likelihood.rmia(easy[:100], *parts)) == pytest.approx(0.5, abs=0.1)
    assert value(likelihood.rmia(easy[:100] / 2, *parts)) < 0.3


# --- emia -------------------------------------------------------------------------------------------------------------


def test_emia_positions_are_interpolated_between_order_statistics() -> None:
    loss = np.array([0, 0.5, 1, 2, 3, 501.5, 1000, 2000.0])
    positions = likelihood.emia_positions(loss, np.array([[3.0], [1.0]]).repeat(8, axis=1))  # at 0, 1, 3, 1000: 0 to 1
    assert positions == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1, 1])
    steps = (np.array([1.0, 3.0]) <= loss[:, None]).mean(axis=1)
    assert positions != pytest.approx(steps)  # the empirical distribution without interpolation


def test_emia_positions_belong_to_each_sample() -> None:
    assert likelihood.emia_positions(np.array([1.0, 1.0]), np.array([[1.0, 2.0]])) == pytest.approx([0.5, 0.25])


def test_emia_is_high_where_members_have_lower_losses_than_never_trained_models() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(0.1, 5, 200)
    out = hard * rng.uniform(0.8, 1.2, (8, 200))
    member, other, out_member, out_other = hard[:100] * 0.5, hard[100:], out[:, :100], out[:, 100:]
    assert value(likelihood.emia(member, other, out_member, out_other)) > 0.95
    assert value(likelihood.emia(hard[:100], other, out_member, out_other)) == pytest.approx(0.5, abs=0.1)
    assert library_auc(-member, -other) < 0.85  # the losses alone, without their distributions


# --- iam --------------------------------------------------------------------------------------------------------------


def iam_by_steps(
    original: np.ndarray, out: np.ndarray, unlearned: np.ndarray,
    ahead: int = 1, last: int = 99, pooled: bool = True, euler: float = np.euler_gamma,
) -> np.ndarray:  # fmt: skip
    """Step by step with SciPy's Gumbel distribution; the options are plausible mistakes."""
    s_r, s_o, s_u = (-np.log(1e-2 - np.log(p + 1e-5)) for p in (original, out, unlearned))
    total, weights = np.zeros(len(original)), 0.0
    for k in range(last):
        path = s_o + k / 99 * (s_r - s_o)
        beta = math.sqrt(6) / math.pi * (path.std() if pooled else path.std(axis=0))
        with np.errstate(over="ignore"):
            below = stats.gumbel_r.cdf(s_u, path.mean(axis=0) - euler * beta, beta)
        total, weights = total + (k + ahead) / 99 * below, weights + (k + ahead) / 99
    return 1 - total / weights


PROBABILITIES = np.random.default_rng(0).uniform(0.02, 0.99, (8, 25))
ORIGINAL, OUT, UNLEARNED = PROBABILITIES[0], PROBABILITIES[1:7] * 0.6, PROBABILITIES[7]


def test_iam_is_the_weighted_mean_of_gumbel_distributions() -> None:
    found = likelihood.iam_completeness(ORIGINAL, OUT, UNLEARNED)
    assert found == pytest.approx(iam_by_steps(ORIGINAL, OUT, UNLEARNED), rel=1e-9)
    assert found == pytest.approx(iam_by_steps(ORIGINAL, OUT, UNLEARNED, euler=0.5772), abs=1e-4)  # as in the code
    assert not isinstance(found, Empty)
    assert likelihood.iam(ORIGINAL, OUT, UNLEARNED) == pytest.approx(found.mean())
    one = likelihood.iam_completeness(ORIGINAL, OUT[:1], UNLEARNED)
    assert one == pytest.approx(iam_by_steps(ORIGINAL, OUT[:1], UNLEARNED), rel=1e-9)


@pytest.mark.parametrize("mistake", [{"ahead": 0}, {"last": 100}, {"pooled": False}, {"euler": 0.0}])
def test_wrong_weights_steps_and_moments_are_rejected(mistake: dict[str, float]) -> None:
    right = likelihood.iam_completeness(ORIGINAL, OUT, UNLEARNED)
    wrong = iam_by_steps(ORIGINAL, OUT, UNLEARNED, **mistake)  # type: ignore[arg-type]
    assert right != pytest.approx(wrong, abs=1e-4)


def test_iam_without_spread_is_the_weight_of_the_steps_above() -> None:
    s = [-math.log(1e-2 - math.log(p + 1e-5)) for p in (1.0, 0.5)]
    middle = math.exp(1e-2 - math.exp(-(s[0] + s[1]) / 2)) - 1e-5
    found = likelihood.iam_completeness(np.array([1.0]), np.array([[0.5]]), np.array([middle]))
    assert found == pytest.approx([1 - 1275 / 4950])  # steps 0 to 49 lie below, with the weights 1/99 to 50/99
    assert likelihood.iam_completeness(np.array([1.0]), np.array([[0.5]]), np.array([1.0])) == pytest.approx([0])


def test_completeness_falls_as_the_unlearned_model_knows_more() -> None:
    original, out = np.full(20, 0.999), np.random.default_rng(0).uniform(0.3, 0.7, (3, 20))
    found = [value(likelihood.iam(original, out, np.full(20, p))) for p in (0.01, 0.3, 0.7, 0.9, 0.99, 0.999)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.95
    assert found[-1] < 0.2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert likelihood.iam(np.ones(2), np.zeros((1, 2)), np.zeros(2)) == pytest.approx(1, abs=1e-3)


# --- nothing to attack ------------------------------------------------------------------------------------------------


def test_single_model_attacks_say_what_is_missing() -> None:
    some, none, bank, no_bank = np.full(3, 0.5), np.empty(0), np.full((1, 3), 0.5), np.empty((0, 3))
    no_model = Empty("small_bank", "1 never-trained model needed, 0 there")
    assert likelihood.rmia(some, some, some, no_bank, no_bank, no_bank) == no_model
    assert likelihood.emia(some, some, no_bank, no_bank) == no_model
    assert likelihood.iam(some, no_bank, some) == no_model
    assert likelihood.rmia(some, none, none, bank, bank, bank) == Empty(
        "too_few", "no nonmember and no population sample"
    )
    assert likelihood.emia(none, some, bank, bank) == Empty("too_few", "no member sample")
    assert likelihood.iam(none, bank[:, :0], none) == Empty("too_few", "no forget sample")
    with pytest.raises(ValueError, match="NaN"):
        likelihood.iam(some, bank, np.full(3, np.nan))
