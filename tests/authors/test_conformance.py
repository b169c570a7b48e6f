"""Conformance: every registered method passes, and every check catches the plugin that breaks its rule."""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from conformance_cases import Breaks, failed
from torch import nn
from unlearnbench_methods.collapse import Collapse
from unlearnbench_methods.finetune import FineTune
from unlearnbench_methods.identity import Identity
from unlearnbench_methods.random_init import RandomInit
from unlearnbench_methods.retrain_other_seed import RetrainOtherSeed

from unlearnbench.authors import conformance
from unlearnbench.authors.conformance import CHECKS, check_method
from unlearnbench.authors.toy import Trial, attempt, make_toy
from unlearnbench.plan import registry
from unlearnbench.plan.spec import Access, Method
from unlearnbench.training.models import ResNet9, build_model
from unlearnbench.training.task import Task

# --- every registered method -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.names("methods"))
def test_registered_methods_conform(name: str) -> None:
    results = check_method(name)
    assert [r for r in results if not r.passed] == []
    assert {r.name for r in results} == {"configurable", "declared", "runs", *(check.__name__ for check in CHECKS)}


def test_a_control_is_told_what_was_left_out() -> None:
    left_out = {result.name for result in check_method("identity") if "left out" in result.detail}
    assert left_out == {"forgets", "retains"}


@pytest.mark.parametrize("name", ["identity", "retrain_other_seed", "random_init", "collapse"])
def test_a_control_need_not_unlearn(name: str) -> None:
    results = {result.name: result for result in check_method(name)}
    assert all(result.passed for result in results.values())
    assert [n for n, result in results.items() if "a control need not unlearn" in result.detail] == [
        "forgets", "retains",
    ]  # fmt: skip


def test_what_a_control_is_spared_a_method_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for control in (RandomInit, Collapse, RetrainOtherSeed):
        monkeypatch.setattr(control, "role", "method")
    assert "retains" in failed(RandomInit) & failed(Collapse)
    assert failed(RetrainOtherSeed) == set()


def test_an_unknown_method_is_an_error_that_suggests() -> None:
    with pytest.raises(registry.RegistryError, match="did you mean 'camu'"):
        check_method("cmau")


# --- unlearning: what must not pass ----------------------------------------------------------------------------------


def test_identity_does_not_forget() -> None:
    trial = attempt(Identity())
    assert conformance.forgets(trial)
    assert not conformance.retains(trial)


def test_an_untrained_network_does_not_retain() -> None:
    toy = make_toy("class")
    for seed in range(5):
        untrained = build_model(registry.build("models", "cnn", {}), (1, 8, 8), 4, seed)
        assert conformance.retains(replace(attempt(Identity()), toy=toy, unlearned=untrained))


def test_one_class_for_everything_does_not_retain() -> None:
    trial = attempt(Identity())
    with torch.no_grad():
        trial.unlearned.get_parameter("head.1.bias")[2] += 1e4
    assert not conformance.forgets(trial)
    assert conformance.retains(trial)


def test_halfway_to_the_oracle_is_enough_and_less_is_not() -> None:
    class Fixed(nn.Module):
        """Right on so many percent of the forget set, which is class 0."""

        def __init__(self, percent: float) -> None:
            super().__init__()
            self.percent = percent

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            right = torch.arange(len(x)) < self.percent / 100 * len(x)
            return nn.functional.one_hot(torch.where(right, 0, 1), 4).float()

    trial = attempt(Identity())
    before, oracle = trial.toy.accuracy(trial.original, "forget"), trial.toy.oracle_forget
    assert before - oracle > 50
    half = (before + oracle) // 2
    assert not conformance.forgets(replace(trial, unlearned=Fixed(half)))
    assert conformance.forgets(replace(trial, unlearned=Fixed(half + 1)))


# --- plugins that break one rule each --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChangesNothing(Breaks):
    def unlearn(self, model: nn.Module, task: Task) -> nn.Module:
        return model


@dataclass(frozen=True)
class ChangesAgainstItsWord(Breaks):
    changes: ClassVar[bool] = False


def caller(name: str) -> Any:
    """A local variable of the harness that called ``unlearn``."""
    frame: Any = sys._getframe(3)
    return frame.f_locals[name]


@dataclass(frozen=True)
class ChangesTheOriginal(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        with torch.no_grad():
            caller("original").head[1].bias += 1e-3
        return model


@dataclass(frozen=True)
class LeavesTheOriginalInTrainMode(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        caller("original").encoder[0].train()
        return model


@dataclass(frozen=True)
class SharesMemory(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        shared = caller("original").encoder[0].bias
        model.get_submodule("encoder.0").bias = shared
        return model


@dataclass(frozen=True)
class NotFinite(Breaks):
    """Infinite where it does not decide a class."""

    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        with torch.no_grad():
            model.get_parameter("head.1.bias")[0] = -torch.inf
        return model


@dataclass(frozen=True)
class TooManyLogits(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        return nn.Sequential(model, nn.ZeroPad1d((0, 1)))


@dataclass(frozen=True)
class ReturnsNothing(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        return None  # type: ignore[return-value]


@dataclass(frozen=True)
class AsksForMore(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        len(task.forget)
        return model


@dataclass(frozen=True)
class LeavesAHook(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        model.get_submodule("head").register_forward_hook(lambda module, inputs, output: None)
        return model


@dataclass(frozen=True)
class LeavesAGradientHook(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        model.get_parameter("head.0.weight").register_hook(lambda gradient: gradient)
        return model


@dataclass(frozen=True)
class LeavesItFrozen(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        model.get_parameter("encoder.0.weight").requires_grad_(False)
        return model


@dataclass(frozen=True)
class WritesIntoTheDataset(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        caller("data").x_test[0] += 1
        return model


@dataclass(frozen=True)
class MakesItWriteIntoImages(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        return nn.Sequential(nn.Hardtanh(-9, 2, inplace=True), model)


@dataclass(frozen=True)
class PreparesAnother(Breaks):
    def prepare(self, task: Task) -> nn.Module:
        return nn.Linear(2, 3)


@dataclass(frozen=True)
class BringsAnother(Breaks):
    needs: ClassVar[Access] = Access.TRAINING | Access.LABELS

    def original(self, task: Task) -> nn.Module:
        return nn.Linear(2, 3)

    def blank(self, task: Task) -> nn.Module:
        return task.fresh_model()


@dataclass(frozen=True)
class FailsInHalf(Breaks):
    """Numpy has no bfloat16."""

    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        model.get_submodule("encoder")(task.retain.images()[:1]).detach().numpy()
        return model


@dataclass(frozen=True)
class WorseInHalf(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        return task.fresh_model() if torch.is_autocast_enabled("cpu") else model


COUNT = itertools.count()


@dataclass(frozen=True)
class DiffersEachTime(Breaks):
    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        with torch.no_grad():
            model.get_parameter("head.1.bias")[0] -= next(COUNT)
        return model


@dataclass(frozen=True)
class DrawsFromTheAmbientSeed(Breaks):
    """Restores the generator, but what it draws hangs on the state it was found in."""

    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model.get_parameter("head.1.bias")[0] -= torch.rand(())
        return model


@dataclass(frozen=True)
class Forgetful(Breaks):
    """Forgets everything."""

    def spoil(self, model: nn.Module, task: Task) -> nn.Module:
        return task.fresh_model()


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (ChangesNothing, {"parameters_change", "forgets"}),
        (ChangesAgainstItsWord, {"parameters_change"}),
        (ChangesTheOriginal, {"input_untouched"}),
        (LeavesTheOriginalInTrainMode, {"input_untouched"}),
        (SharesMemory, {"input_untouched"}),
        (WritesIntoTheDataset, {"data_untouched"}),
        (MakesItWriteIntoImages, {"data_untouched"}),
        (PreparesAnother, {"runs"}),
        (BringsAnother, {"runs"}),
        (FailsInHalf, {"half_precision"}),
        (WorseInHalf, {"half_precision"}),
        (NotFinite, {"outputs_valid"}),
        (TooManyLogits, {"outputs_valid"}),
        (ReturnsNothing, {"runs"}),
        (AsksForMore, {"runs"}),
        (LeavesAHook, {"model_restored"}),
        (LeavesAGradientHook, {"model_restored"}),
        (LeavesItFrozen, {"model_restored"}),
        (DiffersEachTime, {"same_seed_same_result"}),
        (DrawsFromTheAmbientSeed, {"same_seed_same_result"}),
        (Forgetful, {"retains"}),
    ],
)
def test_each_check_catches_its_plugin_and_no_other(broken: type[Method], caught: set[str]) -> None:
    assert failed(broken) == caught


@pytest.mark.parametrize("broken", [PreparesAnother, BringsAnother])
def test_a_network_of_another_architecture_is_named(broken: type[Method]) -> None:
    (result,) = [r for r in check_method(broken) if not r.passed]
    assert "returned a network of another architecture than Classifier of this cell" in result.detail


def test_an_undeclared_set_is_named() -> None:
    (result,) = [r for r in check_method(AsksForMore) if not r.passed]
    assert "Access.FORGET" in result.detail


def test_changed_buffers_are_not_changed_parameters() -> None:
    original = build_model(ResNet9(width=2), (1, 8, 8), 4, 0)
    unlearned = build_model(ResNet9(width=2), (1, 8, 8), 4, 0)
    unlearned.train()(torch.randn(8, 1, 8, 8))  # BatchNorm's running mean and variance move
    trial = replace(attempt(Identity()), method=FineTune(), original=original, unlearned=unlearned)
    assert conformance.parameters_change(trial) == "no parameter changed"


def test_samples_forgotten_at_random_must_lose_a_tenth_of_the_way_and_a_class_half_of_it() -> None:
    for scenario, way in (("random", 0.1), ("class", 0.5)):
        trial = attempt(Identity(), make_toy(scenario))
        before = trial.toy.accuracy(trial.original, "forget")
        to_go = before - trial.toy.oracle_forget
        assert to_go > 20
        assert conformance.forgets(trial)
        for share, passes in ((way - 0.06, False), (way + 0.06, True)):
            after = before - share * to_go
            toy = _Answers(before, after, trial)
            assert (conformance.forgets(replace(trial, toy=toy)) == "") == passes, (scenario, share)


class _Answers:
    """A toy problem that says what the accuracies are."""

    def __init__(self, before: float, after: float, trial: Trial) -> None:
        self.split, self.oracle_forget, self._original = trial.toy.split, trial.toy.oracle_forget, trial.original
        self._before, self._after = before, after

    def accuracy(self, model: nn.Module, part: str) -> float:
        return self._before if model is self._original else self._after
