"""Benchmarks of the harness are ratios: two ways of doing the same thing, timed in turn in one run (`make speed`)."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from cpuinfo import get_cpu_info  # type: ignore[import-untyped]
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from unlearnbench.runs.engine import choose_devices

ROUNDS = 8


@dataclass(frozen=True)
class Ratio:
    """Median time of ``first`` over median time of ``second``; both in seconds, one for each round."""

    name: str
    target: str
    first: list[float]
    second: list[float]

    @property
    def value(self) -> float:
        return median(self.first) / median(self.second)

    def __str__(self) -> str:
        rounds = sorted(a / b for a, b in zip(self.first, self.second, strict=True))
        times = f"{median(self.first):.4g} s / {median(self.second):.4g} s"
        spread = f"rounds {rounds[0]:.3f} to {rounds[-1]:.3f}"
        return f"{self.value:7.3f}  {self.name}; {self.target}; {times}; {spread}"


RATIOS = pytest.StashKey[list[Ratio]]()


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(choose_devices("auto")[0])


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """As every worker of the harness has it. scikit-learn's trees have threads of their own."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture
def compare(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Time ``first`` and ``second`` in turn and record the ratio of their medians.

    Each is called once to warm up and then 8 times, with what ``prepare`` has just returned; the clock does not run
    during ``prepare``, and waits for the GPU.
    """

    def run(
        name: str,
        first: Callable[..., object],
        second: Callable[..., object],
        prepare: Callable[[], tuple[Any, ...]] = tuple,
        *,
        target: str = "no target",
    ) -> None:
        seconds: list[float] = []

        def second_comes_before() -> tuple[tuple[Any, ...], dict[str, Any]]:
            arguments = prepare()
            start = time.perf_counter()
            _finished(second, *arguments)
            seconds.append(time.perf_counter() - start)
            return prepare(), {}

        def timed(*arguments: object) -> None:
            _finished(first, *arguments)

        _synchronise()
        benchmark.pedantic(timed, setup=second_comes_before, rounds=ROUNDS, warmup_rounds=1)
        if benchmark.stats is not None:  # None with --benchmark-disable
            ratio = Ratio(name, target, list(benchmark.stats.stats.data), seconds[1:])
            benchmark.extra_info["ratio"] = ratio.value
            request.config.stash.setdefault(RATIOS, []).append(ratio)

    return run


@pytest.fixture
def clock(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Time a call 3 times, where a limit in seconds is the target: recorded as its ratio to one second."""

    def run(name: str, call: Callable[[], object], target: str) -> None:
        benchmark.pedantic(call, rounds=3, warmup_rounds=1)
        if benchmark.stats is not None:
            ratio = Ratio(name, target, list(benchmark.stats.stats.data), [1.0] * 3)
            request.config.stash.setdefault(RATIOS, []).append(ratio)

    return run


def _finished(call: Callable[..., object], *arguments: object) -> None:
    call(*arguments)
    _synchronise()


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ratios", metavar="FILE", type=Path, help="write the ratios, machine and versions as JSON")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ratios = config.stash.get(RATIOS, [])
    if not ratios:
        return
    machine = _machine()
    terminalreporter.section(f"ratios of medians over {ROUNDS} alternating rounds")
    terminalreporter.write_line(", ".join(f"{name} {value}" for name, value in machine.items()))
    for ratio in ratios:
        terminalreporter.write_line(str(ratio))
    if path := config.getoption("--ratios"):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine, "ratios": [{**asdict(ratio), "ratio": ratio.value} for ratio in ratios]}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _machine() -> dict[str, str | int]:
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "processor": get_cpu_info().get("brand_raw", platform.machine()),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
