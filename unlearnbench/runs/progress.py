"""What a run shows while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Lines:
    """A line for each job that ends: a log that can be read later."""

    def __init__(self, console: Console) -> None:
        self._console, self._total, self._done, self._started = console, 0, 0, time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def start(self, total: int) -> None:
        self._total, self._started = total, time.monotonic()

    def say(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def begin(self, name: str) -> None:
        pass

    def end(self, name: str, status: str, seconds: float) -> None:
        self._done += 1
        elapsed = time.monotonic() - self._started
        remaining = elapsed / self._done * (self._total - self._done)
        self.say(
            f"[{self._done}/{self._total}] {name}: {status}, {seconds:.1f} s "
            f"(elapsed {clock(elapsed)}, remaining about {clock(remaining)})"
        )


class Bar:
    """One bar over all jobs, with what is running now."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.description}"), console=console, transient=True)
        self._task = self._progress.add_task("", total=None)
        self._running: list[str] = []

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, total: int) -> None:
        self._progress.reset(self._task, total=total)

    def say(self, message: str) -> None:
        self._progress.console.print(message, markup=False, highlight=False)

    def begin(self, name: str) -> None:
        self._running.append(name)
        self._describe()

    def end(self, name: str, status: str, seconds: float) -> None:
        self._running.remove(name)
        if status == "failed":
            self.say(f"failed: {name}")
        self._progress.advance(self._task)
        self._describe()

    def _describe(self) -> None:
        self._progress.update(self._task, description=escape(" · ".join(self._running)))


def clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
