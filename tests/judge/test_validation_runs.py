"""Where validation has nothing to say, what must not matter to it, and a real run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from validation_cases import (
    ACCURACY,
    ATTACK,
    AUC,
    DISTANCE,
    GAP,
    KLOM,
    LIKENESS,
    NAN,
    QUALITY,
    STEPS,
    TIME,
    F,
    N,
    P,
    U,
    as_dict,
    frame,
    judged,
    retrains,
    verdicts,
)  # fmt: skip

from unlearnbench import api
from unlearnbench.cli import validate as validate_results
from unlearnbench.judge.floor import honest
from unlearnbench.judge.validation import COLUMNS, overall, validate
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Metric

# --- what there is no verdict on -------------------------------------------------------------------------------------

FAMILIES = [ATTACK, AUC, DISTANCE, LIKENESS, GAP, KLOM, QUALITY, ACCURACY, STEPS, TIME]


@pytest.mark.parametrize("record", FAMILIES)
def test_without_controls_or_without_the_oracle_there_is_no_verdict(record: Metric) -> None:
    assert verdicts(record, 0.1, oracle=0.5, camu=0.7) == {}
    assert verdicts(record, 0.1, identity=0.5, other=0.6, collapse=0.1) == {}
    assert verdicts(record, 0.1, oracle=NAN, identity=0.5, other=0.6, collapse=0.1) == {}
    assert verdicts(record, 0.1, oracle=0.5, identity=NAN, other=NAN) == {}


def test_an_oracle_of_another_seed_is_no_partner() -> None:
    assert judged(ATTACK, frame(oracle=[0.5, NAN], identity=[NAN, 0.9]), 0.1).empty


@pytest.mark.parametrize("record", FAMILIES)
def test_methods_have_no_say(record: Metric) -> None:
    controls = {"oracle": 0.5, "identity": 0.9, "other": 0.52, "collapse": 3.0}
    values = frame(**controls, camu=0.5)
    posing = values.assign(stands_for=values["stands_for"].replace("", "useless"))  # whatever they stand for
    assert as_dict(judged(record, frame(**controls), 0.1)) == as_dict(judged(record, posing, 0.1))


def test_nothing_run_gives_an_empty_table() -> None:
    table = judged(ATTACK, frame(), None)
    assert table.empty
    assert overall(table).empty


def test_datasets_scenarios_and_metrics_are_judged_apart() -> None:
    easy, hard = frame(oracle=0.5, identity=0.5), frame(oracle=0.5, identity=0.9).assign(scenario="class")
    steps = frame(oracle=50.0, identity=80.0).assign(metric="n")
    metrics = {"m": ATTACK, "n": replace(STEPS, name="n")}
    values = pd.concat([easy, hard, steps])
    banks = pd.concat(
        [retrains(part, ATTACK, 0.1).assign(scenario=name) for part, name in ((easy, "random"), (hard, "class"))]
    )
    table = validate(values, honest(values, banks, metrics), metrics)
    found = [tuple(line) for line in table[["scenario", "metric", "verdict"]].to_numpy()]
    assert found == [("random", "m", U), ("class", "m", P), ("random", "n", F)]


# --- invariances -----------------------------------------------------------------------------------------------------

HUNDREDTHS = st.integers(-100, 100).map(lambda n: n / 64)  # exact in binary, so that shifts are


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[HUNDREDTHS] * 4), min_size=1, max_size=5),
    st.integers(0, 64).map(lambda n: n / 64),
    st.sampled_from([ATTACK, GAP, ACCURACY, STEPS]),
    st.integers(-8, 8),
    st.randoms(use_true_random=False),
)
def test_neither_a_constant_nor_the_order_of_rows_matters(
    runs: list[tuple[float, ...]], spread: float, record: Metric, constant: int, random: Any
) -> None:
    columns = [list(column) for column in zip(*runs, strict=True)]
    values = frame(**dict(zip(("oracle", "identity", "other", "collapse"), columns, strict=True)))
    order = list(range(len(values)))
    random.shuffle(order)
    once = judged(record, values, spread)
    again = judged(record, values.assign(value=values["value"] + constant).iloc[order], spread)
    assert as_dict(once) == as_dict(again)


# --- the worst of several --------------------------------------------------------------------------------------------


def test_overall_is_the_worst_with_its_reasons() -> None:
    lines = [
        ["digits", "random", "m", "identity", U, "inside"], ["digits", "random", "m", "a", F, "one"],
        ["digits", "random", "m", "b", F, "two"], ["digits", "random", "m", "c", F, "one"],
        ["digits", "random", "n", "identity", U, "inside"], ["digits", "random", "n", "a", P, ""],
        ["digits", "class", "n", "a", P, ""],
    ]  # fmt: skip
    table = overall(pd.DataFrame(lines, columns=COLUMNS))
    assert table.to_numpy().tolist() == [
        ["digits", "random", "m", F, "one; two"], ["digits", "random", "n", U, "inside"],
        ["digits", "class", "n", P, ""],
    ]  # fmt: skip


# --- a real run ------------------------------------------------------------------------------------------------------


def accuracy_on_random_labels(evidence: Evidence, _: Context) -> float:
    """The planted bug: labels that have nothing to do with the samples."""
    labels = np.random.default_rng(evidence.seed).integers(0, 10, len(evidence.labels["retain"]))
    return 100 * float((evidence.logits["retain"].argmax(axis=1) == labels).mean())


RANDOM_LABELS = Metric("random_labels", "RL", "%", "utility", "oracle", accuracy_on_random_labels, "A planted bug.")


def test_a_run_has_its_verdicts_and_a_planted_bug_is_found(
    tiny: Callable[..., Path], register: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register("metrics", random_labels=SimpleNamespace(__module__=__name__, __name__="RANDOM_LABELS"))
    headline = '[report]\nheadline = ["fa", "ra", "random_labels"]\n'
    controls = ("identity", "retrain_other_seed", "random_init", "collapse")
    suite = tiny(*controls, seeds=(0, 1), top="bank = 4", extra=headline)
    options: dict[str, Any] = {"sets": ["recipe.epochs=15"], "device": "cpu", "jobs": 1}
    results = api.run(str(suite), **options, results=tmp_path / "results")
    found: dict[str, Mapping[str, str]] = {
        str(name): as_dict(rows) for name, rows in results.controls.groupby("metric", sort=False)
    }
    assert found["ra"]["random_init"] == found["ra"]["collapse"] == P
    assert found["ra"]["retrain_other_seed"] in (P, N)
    assert F not in found["fa"].values()
    assert F in found["random_labels"].values()
    assert P not in [found["random_labels"].get(name) for name in ("random_init", "collapse")]
    assert validate_results(tmp_path / "results") == 1
    shown = capsys.readouterr().out
    assert "tiny: digits random" in shown
    line = next(line for line in shown.splitlines() if line.strip().startswith("random_labels"))
    assert "FAIL" in line
    assert "random_labels: fail: it tells no control from the oracle" in shown
    plain = tiny(*controls, seeds=(0, 1), top="bank = 4", extra=headline.replace(', "random_labels"', ""))
    api.run(str(plain), **options, results=tmp_path / "results")
    assert validate_results(tmp_path / "results") == 0
