"""Attacks that learn from retain against test: features against exact arithmetic, shares by hand, direction, edges."""

from __future__ import annotations

import decimal
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from unlearnbench.measure import attacks
from unlearnbench.plan.evidence import Evidence
from unlearnbench.plan.spec import Empty

Feature = Callable[[np.ndarray, np.ndarray], np.ndarray]


def evidence(
    logits: dict[str, list[list[float]]], labels: dict[str, list[int]] | None = None, classes: tuple[int, ...] = ()
) -> Evidence:
    """A model with these outputs; labels are 0 unless given."""
    arrays = {name: np.array(rows, dtype=np.float32) for name, rows in logits.items()}
    given = labels or {}
    targets = {name: np.array(given.get(name, [0] * len(rows))) for name, rows in arrays.items()}
    return Evidence(arrays, targets, classes, np.empty((0, 2)), {}, {}, 0)


def noisy(forget: float, retain: float, test: float, n: int = 150, seed: int = 0) -> Evidence:
    """Four classes; the true one stands out by these margins."""
    rng = np.random.default_rng(seed)
    sizes = {"forget": n, "retain": 2 * n, "test": 2 * n}
    labels = {name: rng.integers(4, size=size) for name, size in sizes.items()}
    margins = {"forget": forget, "retain": retain, "test": test}
    logits = {
        name: (rng.normal(size=(len(y), 4)) + margins[name] * np.eye(4)[y]).astype(np.float32)
        for name, y in labels.items()
    }
    return Evidence(logits, labels, (), np.empty((0, 2)), {}, {}, seed)


def value(result: float | Empty) -> float:
    assert isinstance(result, float)
    return result


# --- features ---------------------------------------------------------------------------------------------------------


def log_odds(*weights: float) -> np.ndarray:
    return np.log(np.array([weights]))


FEATURE_CASES = [  # logits, label, entropy, modified entropy
    (log_odds(2, 1, 1), 0, 1.0397207708399179, 0.4904146265058631),
    (log_odds(2, 1, 1), 1, 1.0397207708399179, 1.4582148792328358),
    (log_odds(1, 1, 1, 1), 3, 1.3862943611198906, 1.2554823251787535),
    (log_odds(9, 1), 0, 0.3250829733914482, 0.021072103131565253),  # two classes: -2 (1 - p) log p
    (np.array([[0.0, 800.0]]), 0, 0.0, 1600.0),  # p underflows, its logarithm does not
    (np.array([[1000.0, 0.0, 0.0]]), 0, 0.0, 0.0),
]


def rejects(feature: Feature, column: int) -> bool:
    """Whether the cases tell this function from the entropy (column 2) or the modified entropy (3)."""
    with np.errstate(all="ignore"):
        found = [feature(case[0], np.array([case[1]]))[0] for case in FEATURE_CASES]
    return found != pytest.approx([case[column] for case in FEATURE_CASES], rel=1e-12)


def test_entropies_in_closed_form() -> None:
    assert not rejects(attacks.entropy, 2)
    assert not rejects(attacks.modified_entropy, 3)


def copied(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The m_entropy that went from one repository into many: wrong in both terms."""
    p = attacks.probabilities(logits, labels)
    log_p = np.where(p > 0, np.log(p), np.log(1e-30))
    weights, logs = p.copy(), log_p.copy()
    weights[:, labels] = 1 - p[:, labels]
    return -np.sum(weights * logs, axis=1)


def one_term(own: bool) -> Feature:
    """The modified entropy with p_i in place of 1 - p_i in the weight of y, or in the logarithm of the others."""

    def mutant(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        p = attacks.probabilities(logits, labels)
        is_own = np.arange(p.shape[1]) == labels[:, None]
        weights = p if own else np.where(is_own, 1 - p, p)
        logs = np.where(is_own, np.log(p), np.log(1 - p)) if own else np.log(p)
        return -np.sum(weights * logs, axis=1)

    return mutant


def naive(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    p = attacks.probabilities(logits, labels)
    return -np.sum(np.where(np.arange(p.shape[1]) == labels[:, None], (1 - p) * np.log(p), p * np.log(1 - p)), axis=1)


@pytest.mark.parametrize("mutant", [copied, one_term(own=True), one_term(own=False), naive, attacks.entropy])
def test_wrong_modified_entropies_are_rejected(mutant: Feature) -> None:
    assert rejects(mutant, 3)


def test_the_copied_modified_entropy_depends_on_the_rest_of_the_batch_ours_does_not() -> None:
    logits, labels = np.log(np.array([[5, 2, 1], [1, 1, 6]])), np.array([0, 2])
    alone = np.concatenate([attacks.modified_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(2)])
    assert attacks.modified_entropy(logits, labels) == pytest.approx(alone)
    assert copied(logits, labels) != pytest.approx(np.concatenate([copied(logits[:1], labels[:1]), alone[1:]]))


def exactly(row: list[float], label: int) -> tuple[float, float, float]:
    """p_y, entropy and modified entropy in decimal arithmetic of 80 digits."""
    with decimal.localcontext(decimal.Context(prec=80)):
        e = [decimal.Decimal(z).exp() for z in row]
        total = sum(e)
        p = [x / total for x in e]
        rest = [(total - x) / total for x in e]
        entropy = -sum(x * x.ln() for x in p)
        modified = -sum(q * x.ln() if i == label else x * q.ln() for i, (x, q) in enumerate(zip(p, rest, strict=True)))
        return float(p[label]), float(entropy), float(modified)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=5), st.data())
def test_features_keep_their_precision_at_any_confidence(row: list[float], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(row) - 1))
    logits, labels = np.array([row], dtype=np.float32), np.array([label])
    features = (attacks.true_probability, attacks.entropy, attacks.modified_entropy)
    found = [feature(logits, labels)[0] for feature in features]
    assert found == pytest.approx(exactly([float(z) for z in logits[0]], label), rel=1e-11, abs=1e-300)
    shifted = [feature(logits.astype(np.float64) + 64, labels)[0] for feature in features]
    assert shifted == pytest.approx(found, rel=1e-11, abs=1e-300)


def test_correctness_and_probabilities() -> None:
    logits = np.log(np.array([[6, 3, 1], [1, 1, 8]]))
    assert attacks.correctness(logits, np.array([0, 1])).tolist() == [1, 0]
    assert attacks.true_probability(logits, np.array([0, 1])) == pytest.approx([0.6, 0.1])
    np.testing.assert_allclose(attacks.probabilities(logits, np.array([0, 1])), [[0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])


# --- svc --------------------------------------------------------------------------------------------------------------

SURE, UNSURE, WRONG = [4.0, 0.0, 0.0], [1.0, 0.8, 0.0], [0.0, 4.0, 0.0]
MIXED = evidence({"forget": [SURE] * 3 + [WRONG] * 7, "retain": [SURE] * 30, "test": [WRONG] * 20})


@pytest.mark.parametrize("feature", ["correctness", "confidence", "m_entropy", "prob"])
def test_svc_is_the_share_of_the_forget_set_called_non_member(feature: str) -> None:
    assert attacks.svc(MIXED, feature) == 0.7  # called member: .3; accuracy on "all are members": .3


def test_svc_on_entropy_sees_how_sure_the_model_is_not_of_what() -> None:
    unsure = evidence({"forget": [SURE] * 3 + [WRONG] * 5 + [UNSURE] * 2, "retain": [SURE] * 30, "test": [UNSURE] * 20})
    assert attacks.svc(unsure, "entropy") == pytest.approx(0.2)
    assert attacks.svc(unsure, "correctness") in (0, 1)  # no information: every sample is right in retain and test


def test_svc_is_scikit_learns_with_the_authors_settings() -> None:
    model = noisy(2.0, retain=3.0, test=1.0)
    x = {name: attacks.probabilities(model.logits[name], model.labels[name]) for name in ("retain", "test", "forget")}
    found = []
    for settings_ in ({"C": 3, "gamma": "auto"}, {"C": 0.03, "gamma": "auto"}, {"C": 3}, {"C": 3, "kernel": "linear"}):
        machine = SVC(**settings_).fit(np.concatenate([x["retain"], x["test"]]), np.repeat([1, 0], 300))
        found.append(float(np.mean(machine.predict(x["forget"]) == 0)))
    assert attacks.svc(model, "prob") == pytest.approx(found[0])
    assert found[0] not in found[1:]  # C, gamma and kernel all matter here


@pytest.mark.parametrize("feature", list(attacks.FEATURES))
def test_svc_falls_as_the_forget_set_looks_more_like_a_member(feature: str) -> None:
    unseen, seen = (value(attacks.svc(noisy(margin, retain=6.0, test=1.0), feature)) for margin in (1.0, 6.0))
    assert seen < 0.3
    assert unseen > seen + 0.3


def test_svc_fits_on_equally_many_prefixes_of_at_most_the_cap() -> None:
    assert [attacks.svc_size(MIXED, cap) for cap in (2000, 20, 12, None)] == [20, 20, 12, 20]
    beyond = [SURE] * 12 + [WRONG] * 18  # would turn the members into non-members
    capped = evidence({"forget": [SURE] * 3 + [WRONG] * 7, "retain": beyond, "test": [WRONG] * 20})
    assert attacks.svc(capped, "confidence", cap=12) == 0.7
    assert attacks.svc_size(noisy(1, 1, 1, n=1500)) == 2000
    assert attacks.svc_size(noisy(1, 1, 1, n=1500), cap=None) == 3000


@pytest.mark.parametrize("feature", list(attacks.FEATURES))
def test_svc_ignores_the_order_of_the_forget_set_and_a_constant_added_to_logits(feature: str) -> None:
    model = noisy(3.0, retain=5.0, test=2.0)
    order = np.random.default_rng(3).permutation(150)
    logits = {
        "forget": model.logits["forget"][order] + 2,
        "retain": model.logits["retain"],
        "test": model.logits["test"],
    }
    labels = {**model.labels, "forget": model.labels["forget"][order]}
    moved = Evidence(logits, labels, (), model.curve, {}, {}, seed=9)
    assert attacks.svc(moved, feature) == pytest.approx(attacks.svc(model, feature), abs=0.01)  # float32 rounds the sum


@pytest.mark.parametrize("feature", list(attacks.FEATURES))
def test_svc_survives_logits_of_any_size_and_tied_features(feature: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        huge = evidence({"forget": [[3e38, -3e38]] * 12, "retain": [[3e38, -3e38]] * 12, "test": [[-3e38, 3e38]] * 12})
        assert attacks.svc(huge, feature) in ((0, 1) if feature == "entropy" else (0,))
        tied = evidence({name: [[0.0, 0.0]] * 12 for name in ("forget", "retain", "test")})
        assert attacks.svc(tied, feature) in (0, 1)


def test_too_few_samples_and_unknown_features() -> None:
    few = evidence({"forget": [SURE] * 20, "retain": [SURE] * 20, "test": [WRONG] * 9})
    expected = Empty("too_few", "9 members and 9 non-members, 10 of each needed")
    assert attacks.svc(few, "prob") == attacks.entropy_lr(few) == expected
    assert attacks.svc(MIXED, "prob", cap=5) == Empty("too_few", "5 members and 5 non-members, 10 of each needed")
    nothing = Evidence(
        {**MIXED.logits, "forget": np.empty((0, 3), np.float32)}, {**MIXED.labels, "forget": np.empty(0, int)},
        (), MIXED.curve, {}, {}, 0,
    )  # fmt: skip
    assert attacks.svc(nothing, "prob") == Empty("too_few", "the forget set is empty")
    one = evidence({"forget": [WRONG], "retain": [SURE] * 10, "test": [WRONG] * 10})
    assert attacks.svc(one, "confidence") == 1.0
    with pytest.raises(KeyError):
        attacks.svc(MIXED, "loss")


# --- entropy_lr -------------------------------------------------------------------------------------------------------


def test_entropy_lr_is_the_share_of_the_forget_set_called_member() -> None:
    model = evidence({"forget": [SURE] * 3 + [UNSURE], "retain": [SURE] * 40, "test": [UNSURE] * 20})
    assert attacks.entropy_lr(model) == 0.75


def test_entropy_lr_separates_entropies_however_small() -> None:
    model = evidence({"forget": [[30.0, 0]] * 3 + [[20.0, 0]], "retain": [[30.0, 0]] * 40, "test": [[20.0, 0]] * 40})
    assert attacks.entropy_lr(model) == 0.75
    x = np.concatenate([attacks.entropy(model.logits[name], model.labels[name]) for name in ("retain", "test")])
    unscaled = LogisticRegression().fit(x[:, None], np.repeat([1, 0], 40))  # stops before its first step
    assert unscaled.predict(attacks.entropy(model.logits["forget"], model.labels["forget"])[:, None]).mean() != 0.75


def test_entropy_lr_rises_with_the_leak() -> None:
    found = [value(attacks.entropy_lr(noisy(margin, retain=6.0, test=1.0))) for margin in (1.0, 3.0, 6.0)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.3


# --- neighbour --------------------------------------------------------------------------------------------------------

A, B, F = [5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 1.0, 9.0]  # like class 0, like class 1, forgotten class 2


def class_scenario(forget: list[list[float]], test: list[list[float]] | None = None) -> Evidence:
    """Class 2 forgotten; by its test samples its neighbour is class 1 unless given otherwise."""
    test = [B] * 5 + [A] * 4 if test is None else test
    return evidence(
        {"forget": forget, "retain": [A] * 30 + [B] * 30, "test": [A] * 10 + [B] * 10 + test},
        {"forget": [2] * len(forget), "retain": [0] * 30 + [1] * 30, "test": [0] * 10 + [1] * 10 + [2] * len(test)},
        classes=(2,),
    )


def test_neighbour_is_the_share_that_passes_for_the_nearest_class() -> None:
    assert attacks.nearest_class(class_scenario([B]), 2) == 1
    assert attacks.neighbour(class_scenario([B] * 6 + [A] * 4)) == 0.6
    assert attacks.nearest_class(class_scenario([B], test=[A] * 5 + [B] * 4), 2) == 0
    assert attacks.neighbour(class_scenario([B] * 6 + [A] * 4, test=[A] * 5 + [B] * 4)) == 0.4


def test_neighbour_is_scikit_learns_machine_on_the_probability_of_the_nearest_class() -> None:
    model = noisy(1.0, retain=2.0, test=1.0)
    keep = model.labels["retain"] != 3  # class 3 is forgotten: retain lacks it, D_f is nothing else
    logits = {**model.logits, "retain": model.logits["retain"][keep]}
    labels = {**model.labels, "retain": model.labels["retain"][keep], "forget": np.full(150, 3)}
    scenario = Evidence(logits, labels, (3,), model.curve, {}, {}, 0)
    near = attacks.nearest_class(scenario, 3)
    assert isinstance(near, int)
    p = {name: attacks.probabilities(logits[name], labels[name])[:, [near]] for name in ("retain", "forget")}
    own, others = p["retain"][labels["retain"] == near], p["retain"][labels["retain"] != near]
    machine = SVC(C=3, gamma="auto").fit(np.concatenate([own, others[: len(own)]]), np.repeat([1, 0], len(own)))
    assert attacks.neighbour(scenario) == pytest.approx(machine.predict(p["forget"]).mean())
    assert attacks.neighbour(scenario) != pytest.approx(np.mean(p["forget"] > 0.5))


def test_the_nearest_class_is_never_a_forgotten_one() -> None:
    assert attacks.nearest_class(class_scenario([F], test=[F] * 9), 2) == 1


def test_neighbour_tells_original_relabelled_and_uniform_outputs_from_a_mixture() -> None:
    uniform = [[0.0, 0.0, 0.0]]
    assert attacks.neighbour(class_scenario([F] * 10, test=[F] * 9)) == 0
    assert attacks.neighbour(class_scenario([B] * 10)) == 1
    assert attacks.neighbour(class_scenario(uniform * 10, test=uniform * 9)) == 0


def test_renormalised_without_the_forgotten_class_the_original_would_pass_for_unlearned() -> None:
    renormalised = [[*F[:2], -1e9]]
    assert attacks.neighbour(class_scenario(renormalised * 10, test=renormalised * 9)) == 1


def test_neighbours_of_several_forgotten_classes_are_asked_separately() -> None:
    near_0, near_1 = [5.0, 0.0, 0.0, 0.0], [0.0, 5.0, 0.0, 0.0]
    model = evidence(
        {"forget": [near_0] * 3 + [near_1] * 5, "retain": [near_0] * 20 + [near_1] * 20, "test": [near_0, near_1]},
        {"forget": [2, 2, 3, 3, 3, 3, 3, 2], "retain": [0] * 20 + [1] * 20, "test": [2, 3]},
        classes=(2, 3),
    )  # class 2: two of three like class 0; class 3: four of five like class 1
    assert attacks.neighbour(model) == 6 / 8  # as one class with one neighbour it would be 3/8 or 5/8


def test_where_there_is_no_neighbour() -> None:
    assert attacks.neighbour(MIXED) == Empty("no_class")
    no_test = class_scenario([B], test=[])
    assert attacks.neighbour(no_test) == Empty("too_few", "class 2 has 0 test samples and 2 classes remain")
    two_classes = evidence({"forget": [[0, 1]], "retain": [[1, 0]] * 30, "test": [[0, 1]]}, {"test": [1]}, (1,))
    assert attacks.neighbour(two_classes) == Empty("too_few", "0 members and 0 non-members, 10 of each needed")
    assert attacks.neighbour(class_scenario([B]), cap=9) == Empty(
        "too_few", "9 members and 9 non-members, 10 of each needed"
    )
