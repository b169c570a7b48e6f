"""What the tests of tables share: stored rows with changes, and a line of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from unlearnbench.judge.results import Results

HOSTILE = "a|b<script>`x` [l](x) & 50%_$^{\\input{/etc/passwd}}~#\"'--\x1b\n± ☃ é"


def changed(results: Results, where: Mapping[str, object], **changes: Any) -> Results:
    """The results with ``changes`` in the lines that match ``where``."""
    values = results.values.copy()
    lines = (values[list(where)] == pd.Series(where)).all(axis=1)
    assert lines.any()
    for name, value in changes.items():
        values.loc[lines, name] = value
    return replace(results, values=values)


def line_of(text: str, start: str, panel: str = "Headline", scenario: str = "random-10") -> str:
    section = text[text.index(f"· {scenario} ·") :]
    return next(line for line in section[section.index(panel) :].splitlines() if line.startswith(start))
