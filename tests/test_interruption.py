"""A run can be stopped or killed at any moment, and goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from unlearnbench import api
from unlearnbench.plan.suites import make_plan
from unlearnbench.store.folder import Store

Tiny = Callable[..., Path]


def start(suite: Path, results: Path, jobs: int) -> subprocess.Popen[str]:
    """The real program in a process group of its own."""
    program = [sys.executable, "-P", "-c", "from unlearnbench.cli import main; main()"]
    options = ["--results", str(results), "--out", str(results / "out"), "--jobs", str(jobs), "--device", "cpu"]
    return subprocess.Popen(
        [*program, "run", str(suite), *options], start_new_session=True, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        # a shell's background job ignores Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip


def finished(results: Path) -> dict[str, int]:
    """Rows with a result, and when they were written."""
    rows = {p.stem: p for p in (results / "rows").glob("*.json")}
    return {key: p.stat().st_mtime_ns for key, p in rows.items() if json.loads(p.read_text())["status"] == "ok"}


def stop(process: subprocess.Popen[str], results: Path, rows: int, how: signal.Signals, group: bool) -> str:
    """Wait until ``rows`` rows are finished, then send the signal. What the program said."""
    deadline = time.monotonic() + 120
    while len(finished(results)) < rows:
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (os.killpg if group else os.kill)(process.pid, how)
    return end(process)


def end(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=180)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def without_times(results: Path) -> pd.DataFrame:
    from unlearnbench.runs.engine import all_metrics

    values = api.stored("tiny", results).values
    timing = [name for name, metric in all_metrics().items() if metric.per_machine]
    assert timing
    return values[~values.metric.isin(timing)].reset_index(drop=True)


def evidence(results: Path) -> dict[str, str]:
    return {p.stem: json.loads(p.read_text())["evidence_sha256"] for p in (results / "rows").glob("*.json")}


METHODS = ("identity", "camu", "gradient_ascent")


def test_stopped_killed_and_run_again_it_gives_what_an_uninterrupted_run_gives(tiny: Tiny, tmp_path: Path) -> None:
    """Ctrl-C at one worker, kill -9 of everything at two, then to the end; each starts where the last one stopped."""
    suite, whole = tiny(*METHODS, seeds=(0, 1)), tmp_path / "whole"
    for attempt in range(3):  # Python drops an exception that a signal raises inside a finalizer: one of three does not
        broken = tmp_path / f"broken {attempt}"
        first = start(suite, broken, jobs=1)
        said = stop(first, broken, 1, signal.SIGINT, group=False)
        if first.returncode:
            break
    assert first.returncode == 130
    assert said.endswith("unlearnbench: stopped; the same command goes on where it was\n")
    assert "Traceback" not in said
    after_first = finished(broken)

    second = start(suite, broken, jobs=2)
    stop(second, broken, len(after_first) + 2, signal.SIGKILL, group=True)
    assert second.returncode == -signal.SIGKILL
    after_second = finished(broken)
    assert after_second.items() >= after_first.items()
    assert len(after_second) < 8

    third = start(suite, broken, jobs=1)
    said = end(third)
    assert third.returncode == 0, said
    rows = finished(broken)
    assert rows.items() >= after_second.items()  # kept, not written again
    assert len(rows) == 8
    done = [entry.name for entry in make_plan(str(suite)).entries if entry.cell.key in after_second]
    assert len(done) == len(after_second)
    assert not [name for name in done if f"] {name}: " in said]

    api.run(str(suite), device="cpu", jobs=1, results=whole)
    assert evidence(whole) == evidence(broken)
    pd.testing.assert_frame_equal(without_times(broken), without_times(whole))


@pytest.mark.slow
def test_killed_alone_its_orphaned_workers_do_no_harm(tiny: Tiny, tmp_path: Path) -> None:
    """kill -9 of the main process; the same command, while its workers may still be at work, completes correctly."""
    suite, broken, whole = tiny(*METHODS, seeds=(0, 1)), tmp_path / "broken", tmp_path / "whole"
    first = start(suite, broken, jobs=2)
    try:
        deadline = time.monotonic() + 120
        while len(finished(broken)) < 2:
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        kept = finished(broken)
        second = start(suite, broken, jobs=2)
        said = end(second)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)  # the orphans are still in its group
    assert second.returncode == 0, said
    assert finished(broken).items() >= kept.items()
    api.run(str(suite), device="cpu", jobs=1, results=whole)
    assert evidence(whole) == evidence(broken)
    pd.testing.assert_frame_equal(without_times(broken), without_times(whole))


def test_a_result_folder_may_be_moved(tiny: Tiny, tmp_path: Path) -> None:
    suite = tiny("identity")
    api.run(str(suite), device="cpu", jobs=1, results=tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    plan = make_plan(str(suite))
    assert all(Store(tmp_path / "there").done(entry.cell) for entry in plan.entries)
