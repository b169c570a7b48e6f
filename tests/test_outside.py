"""Judging models made elsewhere: linear models on digits, against scikit-learn and what must hold of known models."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from torch import Tensor, nn

from unlearnbench import evaluate
from unlearnbench.plan.cells import Probe
from unlearnbench.plan.spec import Empty, UnlearnBenchError
from unlearnbench.runs.engine import all_metrics

X, Y = load_digits(return_X_y=True)
IMAGES = torch.tensor(X / 16).float()
TRAIN, TEST = (IMAGES[:300], Y[:300]), (IMAGES[300:450], Y[300:450])
FORGET = np.arange(30)
RETAIN = np.arange(30, 300)
PROBE = Probe(relearn_every=5, relearn_points=2, relearn_cap=20, relearn_epochs=2)


def fit(model: nn.Module, keep: np.ndarray, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(TRAIN[0][keep]), torch.tensor(Y[keep])).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return fit(nn.Linear(64, 10), np.arange(300), 0)


@pytest.fixture(scope="module")
def oracle() -> nn.Module:
    return fit(nn.Linear(64, 10), RETAIN, 1)


@pytest.fixture(scope="module")
def judge(original: nn.Module, oracle: nn.Module) -> Callable[..., pd.Series]:
    """`evaluate` with what every call here shares; arguments override."""

    def call(unlearned: Any, **arguments: Any) -> pd.Series:
        shared = {"original": original, "train": TRAIN, "test": TEST, "forget": FORGET, "probe": PROBE}
        if "bank" not in arguments:
            shared["oracle"] = oracle
        return evaluate(unlearned, **{**shared, **arguments})

    return call


@pytest.fixture(scope="module")
def of_identity(judge: Callable[..., pd.Series], original: nn.Module) -> pd.Series:
    return judge(original)


def accuracy(model: nn.Module, x: Tensor, y: np.ndarray) -> float:
    with torch.no_grad():
        return 100 * float(accuracy_score(y, model(x).argmax(1).numpy()))


# --- what is known of known models -----------------------------------------------------------------------------------


def test_the_series_has_every_metric_in_order_as_a_number_or_a_reason(of_identity: pd.Series) -> None:
    assert list(of_identity.index) == list(all_metrics())
    assert all(isinstance(value, (float, Empty)) for value in of_identity)


def test_the_original_has_its_own_accuracy_and_has_not_moved(of_identity: pd.Series, original: nn.Module) -> None:
    assert of_identity["fa"] == pytest.approx(accuracy(original, IMAGES[FORGET], Y[FORGET]))
    assert of_identity["ra"] == pytest.approx(accuracy(original, IMAGES[RETAIN], Y[RETAIN]))
    assert of_identity["ta"] == pytest.approx(accuracy(original, *TEST))
    assert of_identity["relearn_steps"] == 0
    assert of_identity["weight_distance"] == 0
    assert of_identity["avg_gap"] > 0


def test_of_the_cost_nothing_is_known(of_identity: pd.Series) -> None:
    cost = [name for name, metric in all_metrics().items() if metric.family == "cost"]
    assert len(cost) > 5
    assert {of_identity[name].reason for name in cost} == {"not_measured"}


def test_the_oracle_is_at_no_distance_from_itself(judge: Callable[..., pd.Series], oracle: nn.Module) -> None:
    scores = judge(oracle)
    assert scores["avg_gap"] == scores["js_oracle"] == scores["activation_distance"] == scores["relearn_gap"] == 0
    assert scores["tow"] == scores["tow_mia"] == 1
    assert scores["weight_distance"] > 0


def test_moved_weights_have_their_distance(judge: Callable[..., pd.Series], original: nn.Module) -> None:
    doubled = deepcopy(original)
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter.mul_(2)
    assert judge(doubled)["weight_distance"] == pytest.approx(1.0)


def test_whatever_the_order_of_forget_it_is_the_same_set(
    judge: Callable[..., pd.Series], of_identity: pd.Series, original: nn.Module
) -> None:
    for forget in (torch.tensor(FORGET), list(FORGET[::-1]), FORGET.astype(np.uint8), [*FORGET, 0]):
        scores = judge(original, forget=forget)
        assert scores.drop("relearn_time").to_list() == of_identity.drop("relearn_time").to_list()


# --- banks and several models ----------------------------------------------------------------------------------------


def test_without_an_oracle_the_first_of_the_bank_is_it(judge: Callable[..., pd.Series], oracle: nn.Module) -> None:
    other = fit(nn.Linear(64, 10), RETAIN, 2)
    scores = judge(oracle, bank=[oracle, other])
    assert scores["avg_gap"] == 0
    assert judge(oracle, bank=[other, oracle])["avg_gap"] > 0
    assert isinstance(scores["rmia"], float)  # one that is left is a bank
    assert judge(oracle, bank=[oracle])["rmia"].reason == "small_bank"


def test_with_both_the_bank_is_whole(judge: Callable[..., pd.Series], oracle: nn.Module) -> None:
    scores = judge(oracle, bank=[fit(nn.Linear(64, 10), RETAIN, 2)], oracle=oracle)
    assert scores["avg_gap"] == 0
    assert isinstance(scores["rmia"], float)


def test_several_models_are_a_distribution_and_the_first_speaks_for_itself(
    judge: Callable[..., pd.Series], original: nn.Module, oracle: nn.Module, of_identity: pd.Series
) -> None:
    bank = [fit(nn.Linear(64, 10), RETAIN, seed) for seed in range(2, 18)]  # 8 against 8 is the least
    one = judge(original, bank=bank, oracle=oracle)
    several = judge([original] * 8, bank=bank, oracle=oracle)
    assert one["forgetting_quality"].reason == "small_bank"
    assert isinstance(several["forgetting_quality"], float)
    for name in ("fa", "ra", "avg_gap", "js_oracle", "weight_distance"):
        assert several[name] == one[name] == of_identity[name]
    honest = judge(bank[8:], bank=bank, oracle=oracle)  # one half of the bank against the other
    assert honest["forgetting_quality"] > several["forgetting_quality"]


# --- what is given ---------------------------------------------------------------------------------------------------


def test_all_of_a_class_is_a_class_scenario(judge: Callable[..., pd.Series], original: nn.Module) -> None:
    scores = judge(original, forget=np.flatnonzero(Y[:300] == 3))
    threes = Y[300:450] == 3
    assert scores["ta_f"] == pytest.approx(accuracy(original, TEST[0][threes], TEST[1][threes]))
    assert scores["ta_r"] == pytest.approx(accuracy(original, TEST[0][~threes], TEST[1][~threes]))
    for forget in (np.flatnonzero(Y[:300] == 3)[1:], [0, *np.flatnonzero(Y[:300] == 3)]):
        assert judge(original, forget=forget)["ta_f"].reason == "no_class"


def test_images_and_a_named_head_give_what_representations_bear(judge: Callable[..., pd.Series]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
            self.fc = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.body(x))

    images = {
        "train": (TRAIN[0].view(-1, 1, 8, 8), Y[:300]),
        "test": (TEST[0].view(-1, 1, 8, 8), torch.tensor(TEST[1])),
    }
    original, oracle = fit(Net(), np.arange(300), 0), fit(Net(), RETAIN, 1)
    forget = np.flatnonzero(Y[:300] == 3)
    scores = judge(oracle, original=original, oracle=oracle, head="fc", forget=forget, **images)
    assert scores["cka"] == pytest.approx(1.0)
    assert 0.5 < scores["separability"] <= 1
    without = judge(oracle, original=original, oracle=oracle, forget=forget, **images)
    assert str(without["cka"]) == "it was not measured: one of the models has no representation"
    assert str(without["separability"]) == "it was not measured: the model has no representation"
    assert without["ta_f"] == scores["ta_f"]


def test_models_and_random_numbers_are_left_as_they_were(judge: Callable[..., pd.Series]) -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.Linear(12, 10))

    models = [build() for _ in range(3)]
    for seed, model in enumerate(models):
        fit(model, RETAIN, seed)
    calls: list[int] = []
    for model in models:
        model.train()
        model[1].eval()  # a frozen normalisation in a model that trains
        model[0].weight.requires_grad_(False)
        model[3].register_forward_hook(lambda *_: calls.append(1))
    states = [deepcopy(model.state_dict()) for model in models]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    unlearned, original, oracle = models
    once = judge(unlearned, original=original, oracle=oracle, head="3")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # type: ignore[index]  # noqa: NPY002
    for model, state in zip(models, states, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
        assert [module.training for module in model] == [True, False, True, True]
        assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
        assert len(model[3]._forward_hooks) == 1
        assert not model[3]._forward_pre_hooks
    assert calls  # the hook was there while we looked
    torch.rand(7)
    again = judge(unlearned, original=original, oracle=oracle, head="3")  # whatever the caller's generator has done
    assert again.drop("relearn_time").to_list() == once.drop("relearn_time").to_list()


# --- what does not fit -----------------------------------------------------------------------------------------------


class Shapeless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "fewer labels": ({"train": (TRAIN[0], Y[:299])}, "train has 300 images and 299 labels"),
    "more labels": ({"test": (TEST[0], Y[:300])}, "test has 150 images and 300 labels"),
    "no sample": ({"test": (TEST[0][:0], Y[:0])}, "test has 0 images and 0 labels"),
    "beyond the end": ({"forget": [0, 300]}, "positions in the 300 training samples"),
    "negative": ({"forget": [-1, 3]}, "positions in the 300 training samples"),
    "none": ({"forget": []}, "some but not all"),
    "all": ({"forget": range(300)}, "some but not all"),
    "a mask": ({"forget": np.arange(300) < 30}, "positions in the 300 training samples"),
    "fractions": ({"forget": [0.5, 3.0]}, "positions in the 300 training samples"),
    "no classes": (
        {"original": nn.Sequential(nn.Linear(64, 10), nn.Flatten(0))},
        r"of shape \(1000,\), expected logits",
    ),
    "no shape": ({"original": Shapeless()}, r"of shape \(\), expected logits"),
    "images of logits": (
        {"original": nn.Unflatten(1, (8, 8))},
        r"of shape \(100, 8, 8\), expected logits \[100, classes\]",
    ),
    "too few classes": ({"original": nn.Linear(64, 9)}, r"of shape \(100, 9\), expected .* a class for every label"),
    "an oracle of others": (
        {"oracle": nn.Linear(64, 12)},
        r"of shape \(100, 12\), expected .* as many as the original",
    ),
    "a bank of others": ({"bank": [nn.Linear(64, 11)]}, r"of shape \(100, 11\)"),
    "an unknown head": ({"head": "fc"}, "head='fc': .*fc"),
    "nothing to compare with": ({"oracle": None}, r"expected oracle=MODEL, bank=\[MODELS\] or both"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_said(judge: Callable[..., pd.Series], original: nn.Module, what: str) -> None:
    arguments, text = WRONG[what]
    with pytest.raises(UnlearnBenchError, match=text):
        judge(original, **arguments)


def test_there_must_be_a_model(judge: Callable[..., pd.Series]) -> None:
    with pytest.raises(UnlearnBenchError, match="no unlearned model given"):
        judge([])
    with pytest.raises(UnlearnBenchError, match=r"of shape \(100, 11\)"):
        judge(nn.Linear(64, 11))


def test_a_model_that_writes_into_the_images_is_refused_and_they_are_as_they_were(
    judge: Callable[..., pd.Series], original: nn.Module
) -> None:
    """The next model would be shown what it left."""
    before = TEST[0].clone()
    with pytest.raises(UnlearnBenchError, match="a model writes into the images that it is given"):
        judge(nn.Sequential(nn.Hardtanh(0, 0.5, inplace=True), original))
    assert torch.equal(TEST[0], before)
