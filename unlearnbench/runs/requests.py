"""What a trial of tuning is judged on: a request that no report shows, by models that no report shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unlearnbench.data.split import Split, chosen, make_split
from unlearnbench.data.tensors import Counter, Data, forked
from unlearnbench.measure.attacks import FEWEST
from unlearnbench.measure.metrics.leakage import MIA_LR_LOSS
from unlearnbench.measure.metrics.utility import FA, RA, TA
from unlearnbench.measure.scoring import score
from unlearnbench.plan.cells import Cell, Plugin, Probe
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.registry import build
from unlearnbench.plan.spec import Metric, Scenario
from unlearnbench.runs import runner
from unlearnbench.store.folder import State, Store
from unlearnbench.training.loop import predict, train
from unlearnbench.training.originals import trainee

HELD_OUT = 0.1  # of the training set
GAPS: Mapping[Metric, float] = {FA: 1, RA: 1, TA: 1, MIA_LR_LOSS: 100}  # and what makes points of each


def tuning_cell(cell: Cell, reported: Sequence[int], seed: int) -> Cell:
    """The request of a trial: the scenario's name says that its forget set is another, its parameters which it avoids,
    those of the dataset how much of it is held out. These are for the keys, of oracles and logs too: what is built are
    the scenario and the dataset of the suite."""
    params = {**cell.scenario.params, "reported": list(reported)}
    scenario = Plugin(f"tuning {cell.scenario.name}", params, cell.scenario.version)
    dataset = dataclasses.replace(cell.dataset, params={**cell.dataset.params, "held_out": [HELD_OUT, FEWEST]})
    return dataclasses.replace(cell, dataset=dataset, scenario=scenario, split_seed=seed, seed=seed, probe=Probe())


def held_out(labels: np.ndarray) -> np.ndarray:
    """Which training samples stand for unseen data (bool ``[N]``), the same for every request: of each class a share
    of `HELD_OUT`, but at least the `FEWEST` that an attack takes, where that leaves half of the class."""
    held, rng = np.zeros(len(labels), bool), np.random.default_rng(0x7E57)
    for own in (np.flatnonzero(labels == c) for c in np.unique(labels)):
        held[rng.choice(own, min(max(round(HELD_OUT * len(own)), FEWEST), len(own) // 2), replace=False)] = True
    return held


def tuning_split(scenario: Scenario, labels: np.ndarray, reported: Sequence[int], seed: int) -> Split:
    """A request of the same kind and size whose forget set shares no sample with those of the split seeds ``reported``.

    Positions are those among the samples that are not `held_out`; the latter are its test set. Raises UnlearnBenchError
    where too few are left.
    """
    held, taken = held_out(labels), np.zeros(len(labels), bool)
    for split_seed in reported:
        taken[make_split(scenario, labels, 0, split_seed).forget] = True
    left, free = labels[~held], np.flatnonzero(~taken[~held])
    elsewhere = scenario.elsewhere(labels.copy())
    rng = np.random.default_rng([seed, 0x7E57])
    forget = rng.permutation(free[chosen(elsewhere, left[free], rng)])
    retain = rng.permutation(np.setdiff1d(np.arange(len(left)), forget))
    return Split(forget, retain, rng.permutation(np.count_nonzero(held)), tuple(elsewhere.forget_classes))


def without_held_out(data: Data) -> Data:
    """The dataset with what is `held_out` of its training set in the place of its test set."""
    held = torch.from_numpy(held_out(data.y_train.cpu().numpy())).to(data.x_train.device)
    (x, y), (x_held, y_held) = ((data.x_train[mask], data.y_train[mask]) for mask in (~held, held))
    return dataclasses.replace(data, x_train=x, y_train=y, x_test=x_held, y_test=y_held)


class Request:
    """One tuning request: data, split, original and oracle, and how far a method lands from the oracle. ``without``
    names the metrics of `GAPS` that the oracle has no value of."""

    def __init__(
        self, cell: Cell, suite: Cell, reported: Sequence[int], store: Store, data_root: Path, device: torch.device
    ) -> None:
        self.cell, self.store = cell, store
        self._load = lambda: without_held_out(runner.load_data(suite.dataset, data_root, device))
        self.data = self._load()  # of its own: what a method did to them no other request sees
        labels = runner.load_data(suite.dataset, data_root, device).y_train.cpu().numpy()
        scenario = build("scenarios", suite.scenario.name, suite.scenario.params)
        self.split = tuning_split(scenario, labels, reported, cell.split_seed)
        self.original = runner.load_original(cell, store, self.data)
        oracle = runner.restored(cell, self.data, store.artifact(cell.oracle_key, self._train_oracle)[0])
        self.oracle = self._values(oracle)
        self.without = {metric.name for metric in GAPS} - self.oracle.keys()

    def _train_oracle(self) -> tuple[State, dict[str, float | None]]:
        model, samples = trainee(self.cell, self.data, self.split.retain, Counter())
        return train(model, samples, self.cell.recipe).state_dict(), {}

    def gap(self, params: Mapping[str, Any]) -> float:
        """Average gap to the oracle, in points, with these hyperparameters. Raises what the method raises."""
        method = build("methods", self.cell.method.name, dict(params))
        cell = dataclasses.replace(self.cell, method=Plugin.of(self.cell.method.name, method))
        try:
            with forked(self.data.x_train.device):
                original = runner.original_of(method, self.original, cell, self.store, self.data, self.split)
                model, _ = runner.unlearn(method, original, cell, self.store, self.data, self.split)
        except Exception:
            self.data = self._load()  # nor does the next trial
            raise
        values = self._values(model)
        return float(np.mean([abs(values[name] - self.oracle[name]) for name in self.oracle]))

    def _values(self, model: nn.Module) -> dict[str, float]:
        """The metrics of `GAPS` in points, those that there are."""
        data, split = self.data, self.split
        sets = {
            "forget": (data.x_train, data.y_train, split.forget),
            "retain": (data.x_train, data.y_train, split.retain),
            "test": (data.x_test, data.y_test, split.test),
        }
        logits = {name: predict(model.eval(), x[torch.from_numpy(i)]).float() for name, (x, _, i) in sets.items()}
        if not all(torch.isfinite(part).all() for part in logits.values()):
            raise FloatingPointError("the unlearned model's outputs are not finite")
        evidence = Evidence(
            logits={name: part.cpu().numpy() for name, part in logits.items()},
            labels={name: y[torch.from_numpy(i)].cpu().numpy() for name, (_, y, i) in sets.items()},
            forget_classes=split.forget_classes, curve=np.empty((0, 2)), scalars={}, cost={}, seed=self.cell.seed,
        )  # fmt: skip
        scores = score(evidence, Context(), {metric.name: metric for metric in GAPS})
        found = {metric.name: (scores[metric.name].value, scale) for metric, scale in GAPS.items()}
        return {name: value * scale for name, (value, scale) in found.items() if value is not None}
