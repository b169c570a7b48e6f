"""A suite file to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from suite_cases import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    path = tmp_path / "good.toml"

    def write(text: str) -> str:
        path.write_text(text)
        return str(path)

    return write
