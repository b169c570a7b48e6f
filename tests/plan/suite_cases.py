"""What the tests of suites share: one that is good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unlearnbench.plan.suites import Options, Plan, make_plan

SUITE = """
title = "Good"
dataset = { name = "digits", limit_train = 500 }
model = "cnn"
recipe = { name = "camu", epochs = 3 }
seeds = [0, 1]

[scenarios.random-10]
scenario = "random"

[scenarios.class]
classes = [0]

[methods.retrain]

[methods.camu]
epochs = 5
in.class = { lr_ce = 1, epochs = 4 }

[methods.silent]
method = "camu"
noise = 0

[probe]
relearn_every = 50
"""

Write = Callable[[str], str]


def plan(write: Write, text: str = SUITE, **options: Any) -> Plan:
    return make_plan(write(text), Options(**options))


def labels(made: Plan) -> list[str]:
    return list(dict.fromkeys(entry.method for entry in made.entries))


def params(made: Plan, method: str, scenario: str = "random-10") -> dict[str, Any]:
    found = [e for e in made.entries if (e.method, e.scenario) == (method, scenario)]
    return dict(found[0].cell.method.params)
