"""The records of all metrics: what tables, ranks and plots read of them, and that none goes untested."""

from __future__ import annotations

import csv
import inspect
import pkgutil
import re
import runpy
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

from unlearnbench.measure import attacks, distances, distributions, likelihood, metrics, scoring
from unlearnbench.measure.scoring import LACKING
from unlearnbench.plan import registry
from unlearnbench.plan.spec import REASONS, Family, Metric, Need, Tolerance
from unlearnbench.runs.engine import FAMILIES

TESTS = Path(__file__).parent
MODULES = {
    found.name: import_module(f"unlearnbench.measure.metrics.{found.name}")
    for found in pkgutil.iter_modules(metrics.__path__)
}
RECORDS = [record for module in MODULES.values() for record in vars(module).values() if isinstance(record, Metric)]


def line(metric: Metric) -> dict[str, str]:
    needs = " ".join(f"{need}={count}" for need, count in metric.needs.items())
    cells = {name: str(getattr(metric, name)) for name in ("name", "label", "unit", "family", "better")}
    rest = {name: str(getattr(metric, name)) for name in ("of_split", "per_machine", "digits")}
    margin = metric.tolerance
    tolerance = "" if margin is None else f"{margin.amount:g}" + " of the oracle's" * margin.of_oracle
    return cells | {"needs": needs} | rest | {"tolerance": tolerance}


def test_the_records_are_the_stored_ones() -> None:
    with (TESTS.parent / "golden" / "metrics.csv").open(newline="") as file:
        stored = list(csv.DictReader(file))
    assert [line(record) for record in sorted(RECORDS, key=lambda r: FAMILIES.index(r.family))] == stored


def test_every_record_is_registered_under_its_name_and_named_by_its_constant() -> None:
    points = {name: [point.value for point in points] for name, points in registry.entries("metrics").items()}
    ours = {name: values for name, values in points.items() if values[0].startswith("unlearnbench.measure.metrics.")}
    assert ours == {
        value.name: [f"{module.__name__}:{name}"]
        for module in MODULES.values()
        for name, value in vars(module).items()
        if isinstance(value, Metric)
    }
    assert all(values == [f"{values[0].partition(':')[0]}:{name.upper()}"] for name, values in ours.items())


def test_every_record_has_golden_cases_and_a_planted_bug() -> None:
    """Each of the other files asserts this of the records it knows; here, that together they know all."""
    cases: list[str] = []
    bugs: set[str] = set()
    for path in sorted(TESTS.glob("test_metrics_*.py")):
        if path != Path(__file__):
            tested = runpy.run_path(str(path))
            cases += tested["GOLDEN"]
            bugs |= {name for name, _, _ in tested["MUTANTS"]}
    assert sorted(cases) == sorted(record.name for record in RECORDS)
    assert bugs == set(cases)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_record_is_sound(record: Metric) -> None:
    assert record.family in get_args(Family)
    assert record.needs.keys() <= set(get_args(Need))
    assert all(count >= 1 for count in record.needs.values())
    assert record.doc.endswith(".")
    assert record.relative == ("oracle" in record.needs)
    assert record.family != "oracle-distance" or record.needs or record.better == "oracle"  # else it has no reference
    assert record.digits >= 0


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_tolerances_are_declared_by_family_beforehand(record: Metric) -> None:
    """A point of accuracy, .02 of an attack, a tenth of the oracle's steps and epochs, and none elsewhere."""
    by_family = {"utility": Tolerance(1.0), "leakage": Tolerance(0.02)}
    of_unit = {"steps": Tolerance(0.1, of_oracle=True), "epochs": Tolerance(0.1, of_oracle=True)}
    assert record.tolerance == by_family.get(record.family, of_unit.get(record.unit))


def test_metrics_of_models_are_statements_about_a_split() -> None:
    several = [record for record in RECORDS if record.needs.keys() & {"unlearned", "shadows"}]
    assert all(record.of_split for record in several)
    assert {record.name for record in several} == {
        "ulira", "ulira_test", "ulira_excess", "ulira_accuracy", "ulira_tpr_1", "ulira_tpr_01", "ruli",
        "klom", "klom_ou", "klom_uo", "klom_forget", "klom_retain", "klom_test",
        "klom_ou_forget_p95", "klom_ou_retain_p95", "klom_ou_test_p95",
        "forgetting_quality", "forgetting_ratio",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["ulira", "ulira_test", "ulira_accuracy", "ulira_tpr_1", "ulira_tpr_01", "iam"])
def test_an_attack_whose_negatives_did_not_go_through_the_method_says_what_that_means(name: str) -> None:
    doc = next(record.doc for record in RECORDS if record.name == name)
    assert "the method was run" in doc or "the method itself, not D_f" in doc or "read it beside TA" in doc


def test_what_is_not_as_published_is_said_where_it_is_shown() -> None:
    docs = {record.name: record.doc for record in RECORDS}
    assert "Not on the challenge's scale" in docs["forgetting_quality"]
    assert "least weight of a leaf" in docs["mia_gbt"]
    assert "their code takes a step first" in docs["ain"]
    assert "KL(oracles ‖ unlearned models)" in docs["klom_ou"]
    assert "KL(unlearned models ‖ oracles)" in docs["klom_uo"]


def test_names_and_labels_differ() -> None:
    for field in ("name", "label"):
        assert len({getattr(record, field) for record in RECORDS}) == len(RECORDS)


def test_reasons_for_an_empty_value() -> None:
    modules = [attacks, distances, distributions, likelihood, metrics, scoring, *MODULES.values()]
    reasons = set(re.findall(r"Empty\(\s*\"(\w+)\"", "".join(map(inspect.getsource, modules)))) | set(LACKING.values())
    assert reasons <= set(REASONS)
    assert reasons | {"not_on_device"} == {
        "constant", "metric_error", "no_class", "no_oracle", "no_partner", "not_measured", "not_on_device", "of_split",
        "oracle_censored", "oracle_empty", "small_bank", "too_few", "whole_class", "zero_cost",
    }  # fmt: skip
    assert LACKING.keys() == set(get_args(Need))
