"""What a cell cost: what its method drew, with what it prepared, and on which device."""

from __future__ import annotations

from dataclasses import replace

import pytest
from run_cases import CPU, cell, run

from unlearnbench.judge.results import gather
from unlearnbench.plan.registry import load
from unlearnbench.plan.suites import Entry, Plan
from unlearnbench.runs import runner
from unlearnbench.runs.runner import add_costs
from unlearnbench.store.folder import Store

# --- cost ------------------------------------------------------------------------------------------------------------


def test_the_cost_of_a_method_is_what_it_drew(store: Store) -> None:
    row = run(cell("gradient_ascent", epochs=3), store)
    assert (row.cost["samples"], row.cost["gradients"]) == (36, 36)
    row = run(cell("finetune", epochs=2), store)
    assert (row.cost["samples"], row.cost["gradients"]) == (216, 216)


def test_costs_add_up_except_for_the_peak_of_memory() -> None:
    call: dict[str, float | None] = {"seconds": 1.0, "peak_memory": 5.0, "samples": 2.0}
    assert add_costs(call, {"seconds": 2.5, "peak_memory": 3.0, "samples": 8.0}) == {
        "seconds": 3.5, "peak_memory": 5.0, "samples": 10.0,
    }  # fmt: skip
    assert add_costs(call, {}) == call
    assert add_costs({"peak_memory": None}, {"peak_memory": None}) == {"peak_memory": None}


def test_the_estimate_of_a_training_grows_with_it(store: Store) -> None:
    short = cell()
    data = runner.load_data(short.dataset, store.root, CPU)
    long = replace(short, recipe=replace(short.recipe, epochs=100_000))
    assert runner.time_training(long, data) > 100 * runner.time_training(short, data) > 0
    assert not list(store.root.rglob("*.safetensors"))


def test_an_artifact_notes_the_device_that_it_cost_this_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on elsewhere: the oracle's seconds are of one machine and of another."""
    one = cell("retrain")
    monkeypatch.setattr(runner, "device_name", lambda _: "GPU A")
    runner.prepare_cell(one, store, store.root / "data", CPU)
    assert store.made_on(one.prepared_key) == "GPU A"
    monkeypatch.setattr(runner, "device_name", lambda _: "GPU B")
    row = run(one, store)
    assert (row.environment["device"], row.environment["prepared_device"]) == ("GPU B", "GPU A")
    assert "prepared_device" not in run(cell(), store).environment  # which prepares nothing
    assert store.made_on(one.original_key) == "GPU B"
    entries = tuple(Entry(which, "random", "m", "method") for which in (one, cell()))
    results = gather(store, Plan("suite", "Title", entries, {}), {"seconds": load("metrics", "seconds")})
    assert results.values["device"].tolist() == ["GPU B + GPU A", "GPU B"]
