"""Golden cases of metrics, and the planted bugs that they must reject: what the tests of each family share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from unlearnbench.measure.scoring import score
from unlearnbench.plan.evidence import Context, Evidence
from unlearnbench.plan.spec import Metric


class Case(NamedTuple):
    """What a metric makes of some evidence, compared with a context, or with an oracle and nothing else."""

    evidence: Evidence
    expected: float | str  # a value, or the reason why there is none
    compared: Context | Evidence = Context()


def found(metric: Metric, case: Case) -> float | str:
    own = replace(case.evidence, scores=dict(case.evidence.scores))
    given = case.compared if isinstance(case.compared, Context) else Context(oracle=case.compared)
    result = score(own, replace(given, shared={}), {metric.name: metric})[metric.name]
    return result.reason if result.value is None else result.value


def golden_tests(
    records: Mapping[str, Metric], golden: Mapping[str, Sequence[Case]],
    mutants: Sequence[tuple[str, str, Callable[..., Any]]], tolerance: float = 1e-12,
) -> tuple[Callable[..., None], Callable[..., None], Callable[..., None]]:  # fmt: skip
    """Three tests: every metric gives its golden values, these reject every wrong version (metric, what is wrong with
    it, function), and no metric is without either."""

    @pytest.mark.parametrize("name", records)
    def test_golden(name: str) -> None:
        cases = golden[name]
        assert [found(records[name], c) for c in cases] == pytest.approx([c.expected for c in cases], abs=tolerance)

    @pytest.mark.parametrize(("name", "mutant"), [pytest.param(n, fn, id=f"{n}: {bug}") for n, bug, fn in mutants])
    @pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
    def test_the_golden_cases_reject_a_planted_bug(name: str, mutant: Callable[..., Any]) -> None:
        values = [(found(replace(records[name], fn=mutant), case), case.expected) for case in golden[name]]
        assert any(v != "metric_error" and v != pytest.approx(expected, abs=1e-7) for v, expected in values)

    def test_every_metric_has_golden_cases_and_a_planted_bug() -> None:
        assert list(golden) == list(records)
        assert {name for name, _, _ in mutants} == set(records)

    return test_golden, test_the_golden_cases_reject_a_planted_bug, test_every_metric_has_golden_cases_and_a_planted_bug
