"""The set-up that every target of the Makefile does by itself, with stand-ins for Python and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Has pip if there is a file pip beside bin/.
INSIDE = """\
#!/bin/sh
test -e "$(dirname "$0")/../pip" || { echo "No module named pip" >&2; exit 1; }
echo "$*" >> pip.log
"""
# python -m venv FOLDER.
OUTSIDE = f"""\
#!/bin/sh
mkdir -p "$3/bin" && cat > "$3/bin/python" <<'END'
{INSIDE}END
chmod +x "$3/bin/python" && touch "$3/pip"
echo "$*" >> venv.log
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    script(tmp_path / "python", OUTSIDE)
    return tmp_path


def setup(project: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "setup", "PYTHON=./python", "VENV=.venv"]
    alone = {**os.environ, "MAKEFLAGS": ""}  # not part of the make that runs the tests
    return subprocess.run(command, cwd=project, env=alone, capture_output=True, text=True, check=False)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_the_first_set_up_makes_an_environment_and_the_second_does_nothing(project: Path) -> None:
    for _ in range(2):
        done = setup(project)
        assert done.returncode == 0, done.stderr
        assert lines(project / "venv.log") == ["-m venv .venv"]
        assert [line.split()[:3] for line in lines(project / "pip.log")][-1] == ["-m", "pip", "install"]
    assert len([line for line in lines(project / "pip.log") if "install" in line]) == 1


def test_an_environment_that_was_interrupted_before_it_had_pip_is_completed(project: Path) -> None:
    script(project / ".venv/bin/python", INSIDE)
    (project / ".venv/mine").write_text("installed before")
    done = setup(project)
    assert done.returncode == 0, done.stderr
    assert lines(project / "venv.log") == ["-m venv .venv"]
    assert (project / ".venv/mine").read_text() == "installed before"


def test_an_environment_with_pip_is_not_made_anew(project: Path) -> None:
    script(project / ".venv/bin/python", INSIDE)
    (project / ".venv/pip").touch()
    assert setup(project).returncode == 0
    assert not (project / "venv.log").exists()


def test_where_it_cannot_be_made_it_says_so_and_what_is_there_stays(project: Path) -> None:
    script(project / "python", "#!/bin/sh\nexit 1\n")
    script(project / ".venv/bin/python", INSIDE)
    (project / ".venv/mine").touch()
    done = setup(project)
    assert done.returncode != 0
    assert "could not make .venv: on Debian and Ubuntu, apt-get install python3-venv" in done.stderr
    assert (project / ".venv/mine").exists()
    assert not (project / ".venv/.installed").exists()
