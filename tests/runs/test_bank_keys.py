"""Which members a bank has, and on what each depends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from run_cases import CELL, CLASS, DIGITS, KINDS, RECIPE, plugin

from unlearnbench.plan.cells import Plugin, Probe
from unlearnbench.store import roster

# --- keys ------------------------------------------------------------------------------------------------------------


def test_members_are_apart_from_every_cell_and_from_one_another() -> None:
    for kind in KINDS:
        seeds = {roster.member(kind, CELL, i).seed for i in range(1000)}
        assert len(seeds) == len({roster.key(kind, CELL, i) for i in range(1000)}) == 1000
        assert min(seeds) >= 1_000_000  # further than the seeds of any suite go
    first, shadows = ({roster.member(k, CELL, i).seed for i in range(1000)} for k in ("originals", "shadow_originals"))
    assert not first & shadows


def test_the_bank_is_shared_by_the_cells_of_all_seeds() -> None:
    for kind in KINDS:
        assert roster.key(kind, replace(CELL, seed=7), 3) == roster.key(kind, CELL, 3)


CHANGES: dict[str, dict[str, Any]] = {
    "dataset": {"dataset": replace(DIGITS, name="mnist")},
    "model": {"model": Plugin("resnet9", {"width": 4})},
    "recipe": {"recipe": replace(RECIPE, epochs=2)},
    "scenario": {"scenario": CLASS.scenario},
    "split seed": {"split_seed": 1},
    "method": {"method": plugin("methods", "finetune")},
    "parameter of the method": {"method": plugin("methods", "finetune", epochs=3)},
    "probe": {"probe": Probe(relearn_cap=7)},
}
TRAINED = {"dataset", "model", "recipe"}
SPLIT = {"scenario", "split seed"}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_member_depends_on(what: str) -> None:
    other = replace(CELL, **CHANGES[what])
    changed = {kind: roster.key(kind, other, 0) != roster.key(kind, CELL, 0) for kind in KINDS}
    assert changed["originals"] == (what in TRAINED | {"split seed"})  # what is found on two splits is independent
    assert changed["oracles"] == (what in TRAINED | SPLIT)
    assert changed["shadow_originals"] == (what in TRAINED | SPLIT)
    assert changed["unlearned"]
    assert changed["shadows"]


def test_no_two_kinds_share_a_key() -> None:
    other = replace(CELL, method=plugin("methods", "retrain"))  # shares what no method made
    keys = {roster.key(kind, cell, 0) for kind in KINDS for cell in (CELL, other)}
    assert len(keys | {other.prepared_key, CELL.untrained_key, CELL.bank_key}) == 3 + 2 * 2 + 3
