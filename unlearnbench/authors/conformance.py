"""What every unlearning method must keep to, checked on a toy problem: for plugin authors and for our own tests alike.

A check is a function of a `Trial`, one application of a method to the toy problem; it returns what is wrong, or "".
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from unlearnbench.authors.toy import Trial, attempt, undisturbed
from unlearnbench.plan import cells, registry
from unlearnbench.plan.cells import Plugin
from unlearnbench.plan.spec import Access, AccessDenied, Method, UnlearnBenchError
from unlearnbench.training import cost
from unlearnbench.training.loop import predict
from unlearnbench.training.task import Task


@dataclass(frozen=True)
class Result:
    """Outcome of one check. ``detail`` says what is wrong, or what was left out and why."""

    name: str
    passed: bool
    detail: str = ""


# --- the class -------------------------------------------------------------------------------------------------------


def configurable(cls: type[Method]) -> str:
    """A frozen dataclass whose parameters have finite defaults and come back from storage as they were."""
    if "__dataclass_params__" not in vars(cls):  # inherited, its own fields would not count
        return "it must be decorated with @dataclass(frozen=True)"
    try:
        for given in ({}, cls.toy):
            instance = registry.configure(cls, given, cls.__name__)
            stored = Plugin.of(cls.__name__, instance)
            cells.digest(dict(stored.params))
            if registry.configure(cls, stored.params, cls.__name__) != instance:
                return f"its parameters do not come back from storage as they were: {dict(stored.params)}"
    except (UnlearnBenchError, ValueError, TypeError) as error:
        return str(error)
    return ""


def declared(cls: type[Method]) -> str:
    """``paper``, ``needs``, ``scenarios`` and ``role`` say what they should."""
    scenarios = cls.scenarios is None or (isinstance(cls.scenarios, tuple) and bool(cls.scenarios))
    expected = {
        "paper, a text": isinstance(getattr(cls, "paper", None), str) and bool(cls.paper),
        "needs, of unlearnbench.Access": isinstance(getattr(cls, "needs", None), Access),
        "scenarios, a tuple of names, or None for all": scenarios,
        "role, one of 'method', 'oracle' and 'control'": cls.role in ("method", "oracle", "control"),
    }
    return "; ".join(f"it must declare {what}" for what, right in expected.items() if not right)


# --- what it did -----------------------------------------------------------------------------------------------------


def input_untouched(trial: Trial) -> str:
    """The original that the handed-over copy was made of is as it was, and shares no memory with the result."""
    for name, tensor in trial.original.state_dict().items():
        if not torch.equal(tensor, trial.before[name]):
            return f"{name} of the original changed"
    if any(module.training for module in trial.original.modules()):
        return "the original was left in train mode"
    memory = {tensor.untyped_storage().data_ptr() for tensor in trial.original.state_dict().values()}
    for name, tensor in trial.unlearned.state_dict().items():
        if tensor.untyped_storage().data_ptr() in memory:
            return f"{name} of the result shares its memory with the original"
    return ""


def parameters_change(trial: Trial) -> str:
    """Parameters, not only buffers, differ from the original's; or, where ``changes`` is False, none does."""
    then, now = dict(trial.original.named_parameters()), dict(trial.unlearned.named_parameters())
    changed = then.keys() != now.keys() or any(not torch.equal(now[name], then[name]) for name in then)
    if changed == trial.method.changes:
        return ""
    return "a parameter changed, though changes is False" if changed else "no parameter changed"


def data_untouched(trial: Trial) -> str:
    """The dataset, which other cells see as well, is as it was, and the result leaves images alone that it is given."""
    if not all(map(torch.equal, trial.toy.data.checksums(), trial.data.checksums())):
        return "the dataset was written into"
    images = trial.toy.data.x_test.clone()
    predict(trial.unlearned, images)
    return "" if torch.equal(images, trial.toy.data.x_test) else "the result writes into the images that it is given"


def outputs_valid(trial: Trial) -> str:
    """Logits of the right shape, all finite."""
    logits = predict(trial.unlearned, trial.toy.data.x_test.clone())
    expected = (len(trial.toy.data.x_test), trial.toy.data.num_classes)
    if logits.shape != expected:
        return f"logits have shape {tuple(logits.shape)}, expected {expected}"
    return "" if torch.isfinite(logits).all() else "logits are not finite"


def state_restored(trial: Trial) -> str:
    """Global generators, gradient mode, backend flags and default dtype are left as they were found."""
    return f"left changed: {', '.join(trial.disturbed)}" if trial.disturbed else ""


def model_restored(trial: Trial) -> str:
    """The result has no hooks, and all its parameters require gradients again."""
    for name, module in trial.unlearned.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        for hook in (hook for registered in hooks for hook in registered.values()):
            if hook.__module__ != cost.__name__:  # the harness counts gradients of fresh models by hooks
                return f"a hook was left on {name or 'the model'}"
    for name, parameter in trial.unlearned.named_parameters():
        if not parameter.requires_grad:
            return f"requires_grad of {name} was left False"
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return f"a hook was left on {name}"
    return ""


def same_seed_same_result(trial: Trial) -> str:
    """Applied again with the same seed, and with global generators in other states, it gives the same bits."""
    with undisturbed():
        torch.manual_seed((torch.initial_seed() + 1) % 2**32)  # in any case another than it ran under before
        np.random.seed(1)  # noqa: NPY002  a method might draw from it
        random.seed(1)
        again = attempt(trial.method, trial.toy).unlearned.state_dict()
    for name, tensor in trial.unlearned.state_dict().items():
        if not torch.equal(tensor, again[name]):
            return f"{name} differs between two runs of the same seed: draw from task.generator"
    return ""


def forgets(trial: Trial) -> str:
    """Accuracy on the forget set goes from the original's towards the oracle's: at least half of the way where a class
    is forgotten, a tenth of it elsewhere, where samples are all that tells the two apart."""
    before, after = (trial.toy.accuracy(model, "forget") for model in (trial.original, trial.unlearned))
    oracle, way = trial.toy.oracle_forget, 0.5 if trial.toy.split.forget_classes else 0.1
    if abs(after - oracle) <= abs(before - oracle) * (1 - way):
        return ""
    return f"forget accuracy {after:.1f}; the original's is {before:.1f}, the oracle's {oracle:.1f}"


def retains(trial: Trial) -> str:
    """Accuracy on the retain set is at most 5 points below the original's."""
    before, after = (trial.toy.accuracy(model, "retain") for model in (trial.original, trial.unlearned))
    return "" if after >= before - 5 else f"retain accuracy {after:.1f}; the original's is {before:.1f}"


UNLEARNING = (forgets, retains)


def half_precision(trial: Trial) -> str:
    """Where the recipe is in bfloat16 it does what it does in float32."""
    again = attempt(trial.method, trial.toy.in_half)
    for check in (outputs_valid, *UNLEARNING):
        if not check(trial) and (wrong := check(again)):
            return f"in bfloat16: {wrong}"
    return ""


# --- what it could have seen -----------------------------------------------------------------------------------------

DENIABLE = {"forget": Access.FORGET, "retain": Access.RETAIN, "validation": Access.VALIDATION}


def only_declared_data(trial: Trial) -> str:
    """The task refuses what ``needs`` do not declare, and nothing that it refers to holds it."""
    buffers = [tensor for thing in reachable(trial.task) if (tensor := _memory(thing)) is not None]
    real = [t.float().numpy().tobytes() for t in buffers if t.is_floating_point()]
    whole = [t.long().numpy().tobytes() for t in buffers if not t.is_floating_point() and not t.is_complex()]
    for name, (x, y) in trial.toy.sets.items():
        granted = DENIABLE.get(name, Access(0)) in trial.method.needs and name in DENIABLE
        if name in DENIABLE and not granted and not _denies(trial.task, name):
            return f"task.{name} was given, though needs do not declare it"
        granted |= name in ("forget", "retain") and Access.TRAINING in trial.method.needs
        if not granted and any(image.numpy().tobytes() in memory for image in x for memory in real):
            return f"samples of the {name} set can be reached from the task"
        labelled = granted and Access.LABELS in trial.method.needs
        runs = () if labelled else [run for run in y.split(20) if len(run) == 20]  # twenty in a row are no accident
        if any(run.numpy().tobytes() in memory for run in runs for memory in whole):
            return f"labels of the {name} set can be reached from the task"
    return ""


def _denies(task: Task, name: str) -> bool:
    try:
        getattr(task, name)
    except AccessDenied:
        return True
    return False


def reachable(root: object) -> Iterator[object]:
    """Every object that ``root`` leads to: through attributes, containers, closures, default values, bound methods.

    Not through modules, classes and the globals of functions: they lead everywhere, whoever made the task.
    """
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, ModuleType | type | CodeType):
            continue
        seen[id(thing)] = thing
        yield thing
        if isinstance(thing, FunctionType):
            waiting += [thing.__closure__, thing.__defaults__, thing.__kwdefaults__, vars(thing)]
        else:
            waiting += gc.get_referents(thing)


def _memory(thing: object) -> Tensor | None:
    """The whole memory behind a tensor or an array, flat: a view leads to all that it was cut from."""
    if isinstance(thing, np.ndarray) and thing.dtype.kind in "iuf":
        while isinstance(thing.base, np.ndarray):
            thing = thing.base
        return torch.from_numpy(np.array(thing)).flatten()
    if not isinstance(thing, Tensor) or thing.layout != torch.strided:
        return None
    return torch.empty(0, dtype=thing.dtype, device=thing.device).set_(thing.untyped_storage()).cpu()


# --- all of them -----------------------------------------------------------------------------------------------------

CHECKS: tuple[Callable[[Trial], str], ...] = (
    input_untouched,
    parameters_change,
    data_untouched,
    outputs_valid,
    state_restored,
    model_restored,
    same_seed_same_result,
    half_precision,
    only_declared_data,
    *UNLEARNING,
)


def check_method(method: str | type[Method]) -> list[Result]:
    """Every check, on a registered method by name or on a class, with its ``toy`` hyperparameters.

    Where one fails that others need, those are left out. Raises RegistryError if there is no method of that name, or it
    cannot be imported.
    """
    cls = registry.load("methods", method) if isinstance(method, str) else method
    results = [_result("configurable", configurable(cls)), _result("declared", declared(cls))]
    if not all(result.passed for result in results):
        return results
    try:
        trial = attempt(registry.configure(cls, cls.toy, cls.__name__))
        returned = type(trial.unlearned)
        wrong = "" if issubclass(returned, nn.Module) else f"unlearn returned {returned.__name__}, not a model"
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    results.append(_result("runs", wrong))
    if wrong:
        return results
    for check in CHECKS:
        if cls.role == "control" and check in UNLEARNING:
            results.append(Result(check.__name__, True, "left out: a control need not unlearn"))
            continue
        try:
            wrong = check(trial)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        results.append(_result(check.__name__, wrong))
    return results


def _result(name: str, wrong: str) -> Result:
    return Result(name, not wrong, wrong)
