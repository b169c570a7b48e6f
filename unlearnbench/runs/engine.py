"""Jobs over processes: trainings first, then the cells, each stored and scored as soon as it is finished."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

from filelock import FileLock, Timeout
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from unlearnbench.judge.comparing import score_plan, score_row
from unlearnbench.judge.floor import score_banks
from unlearnbench.plan.cells import Cell, Row
from unlearnbench.plan.registry import load, names
from unlearnbench.plan.spec import Access, Family, Metric, UnlearnBenchError
from unlearnbench.plan.suites import Entry, Plan
from unlearnbench.runs import bank
from unlearnbench.store import roster
from unlearnbench.store.folder import Store

if TYPE_CHECKING:
    import torch

OF_METHOD = ("unlearned", "shadows")  # banks that each method has of its own
UNLEARNED_AT_ONCE = 8  # members of a bank that one job makes
FAMILIES = get_args(Family)


class Reporter(Protocol):
    """Told what happens: `progress.Bar` on a terminal, `progress.Lines` elsewhere."""

    def start(self, total: int) -> None: ...
    def say(self, message: str) -> None: ...
    def begin(self, name: str) -> None: ...
    def end(self, name: str, status: str, seconds: float) -> None: ...


@dataclass(frozen=True)
class Job:
    """A piece of work for a worker: an original or an oracle to train, a cell to run and score, or ``members`` of a
    bank to train or unlearn."""

    kind: Literal["original", "oracle", "cell"] | roster.Kind
    entry: Entry
    members: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        cell, kind = self.entry.cell, self.kind
        if self.members:
            which = f"{self.members[0]}-{self.members[-1]}"
            what = self.entry.method if kind in OF_METHOD else kind.replace("_", " ")
            where = "" if kind == "originals" else f" {self.entry.scenario} split {cell.split_seed}"
            return f"{cell.dataset.name}{where} bank: {what}{' shadows' * (kind == 'shadows')} {which}"
        names = {"original": f"{cell.dataset.name} original seed {cell.seed}", "oracle": f"{self.entry.name}, training"}
        return names.get(kind, self.entry.name)


def jobs_of(plan: Plan, store: Store) -> tuple[list[Job], list[Job]]:
    """What is left to do: first the trainings that are missing, then the cells. Jobs on banks are not cut up yet."""
    entries = [e for e in plan.entries if not store.done(e.cell)]
    originals = {e.cell.original_key: e for e in entries if not store.has_artifact(e.cell.original_key)}
    oracles = [e for e in entries if e.role == "oracle" and not store.has_artifact(e.cell.prepared_key)]
    trainings = [Job("original", e) for e in originals.values()] + [Job("oracle", e) for e in oracles]
    trainings += _bank_jobs("originals", plan, plan.unlearned_bank, store)
    trainings += _bank_jobs("oracles", plan, plan.bank, store)
    trainings += _bank_jobs("shadow_originals", plan, plan.shadows, store)
    made = _bank_jobs("unlearned", plan, plan.unlearned_bank, store) + _bank_jobs("shadows", plan, plan.shadows, store)
    return trainings, [Job("cell", e) for e in entries] + made


def _bank_jobs(kind: roster.Kind, plan: Plan, count: int, store: Store) -> list[Job]:
    """A job for each bank of a kind that lacks members, all of them at once."""
    entries = [e for e in plan.entries if kind not in OF_METHOD or (e.role != "oracle" and _supports(e, kind))]
    banks = {roster.key(kind, e.cell, 0): e for e in reversed(entries)}
    jobs = [Job(kind, e, tuple(roster.missing(kind, e.cell, count, store))) for e in reversed(banks.values())]
    return [job for job in jobs if job.members]


def _supports(entry: Entry, kind: roster.Kind) -> bool:
    """Whether the method has such a bank: not of a scenario that it refuses, nor shadows of an original of its own."""
    method = load("methods", entry.cell.method.name)
    refused = method.scenarios is not None and entry.cell.scenario.name not in method.scenarios
    return not refused and not (kind == "shadows" and Access.TRAINING in method.needs)


def _cut(job: Job, device: str) -> Iterator[Job]:
    """The job in pieces for one worker: stacks of networks, whose size does not depend on the number of workers."""
    import torch

    size = UNLEARNED_AT_ONCE if job.kind in OF_METHOD else bank.stack_size(job.entry.cell, torch.device(device))
    for start in range(0, max(1, len(job.members)), size):
        yield Job(job.kind, job.entry, job.members[start : start + size])


def execute(
    plan: Plan, store: Store, data_root: Path, devices: Sequence[str], workers: int, reporter: Reporter
) -> None:
    """Run what is left of ``plan`` and bring all scores up to date. Failed cells are rows, not exceptions."""
    store.put_plan(plan.suite, plan.as_dict())
    trainings, cells = ([piece for job in jobs for piece in _cut(job, devices[0])] for jobs in jobs_of(plan, store))
    reporter.start(len(trainings) + len(cells))
    pool = Pool(store.root, data_root, tuple(devices), workers, reporter)
    seconds = pool.look_ahead(trainings, cells)
    hours = seconds * sum(len(job.members) or 1 for job in trainings) / workers / 3600
    if hours > 1:
        reporter.say(
            f"Judging by a first few training steps, the originals and oracles of this suite alone will take about "
            f"{hours:.0f} h on {devices[0]}. --quick (QUICK=1) runs the whole path on a small part in minutes."
        )
    broken = {artifact_key(job): reason for job, reason in pool.run(trainings) if not job.members}
    single = [job for job in cells if not job.members]  # banks have originals of their own
    lost = [job for job in single if {job.entry.cell.original_key, job.entry.cell.prepared_key} & broken.keys()]
    for cell in (job.entry.cell for job in lost):
        store.put(Row(cell.key, cell, "failed", broken.get(cell.original_key) or broken[cell.prepared_key]))
    pool.run([job for job in cells if job not in lost])
    scorers = workers if tuple(devices) == ("cpu",) else os.cpu_count() or 1  # scoring is the processor's work
    bring_up_to_date(plan, store, scorers)


def artifact_key(job: Job) -> str:
    return job.entry.cell.original_key if job.kind == "original" else job.entry.cell.prepared_key


def bring_up_to_date(plan: Plan, store: Store, workers: int = 1) -> None:
    """Score what is not scored yet, or rests on something that has changed since: rows, and the banks' members."""
    metrics = all_metrics()
    with workers_of_one_thread(workers):
        score_plan(plan, store, metrics, workers)
        score_banks(plan, store, metrics, workers)


def all_metrics() -> dict[str, Metric]:
    """Every registered metric, in the order of the tables. A broken one is left out; `list --check` says why."""
    metrics = []
    for name in names("metrics"):
        try:
            metrics.append(load("metrics", name))
        except UnlearnBenchError:
            continue
    return {m.name: m for m in sorted(metrics, key=lambda m: FAMILIES.index(m.family))}


def choose_devices(device: str) -> list[str]:
    """``auto`` is every CUDA device, or else the CPU. Raises UnlearnBenchError for a device that is not there."""
    import torch

    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if device == "auto":
        return cuda or ["cpu"]
    if device == "cuda" and cuda:
        return cuda
    if device not in ["cpu", *cuda]:
        raise UnlearnBenchError(f"no device '{device}' here: expected auto, {', '.join(['cpu', *cuda])}")
    return [device]


@dataclass(frozen=True)
class Pool:
    """Worker processes of one thread each; one worker is this very process."""

    root: Path
    data_root: Path
    devices: tuple[str, ...]
    workers: int
    reporter: Reporter

    def run(self, jobs: list[Job]) -> list[tuple[Job, str]]:
        """Do the jobs; say, and give, why trainings diverged and banks failed."""

        def feed() -> Iterator[Any]:
            for job in jobs:
                self.reporter.begin(job.name)
                yield delayed(_work)(job, self.root, self.data_root, self.devices, os.getpid())

        broken = []
        for job, status, seconds, reason in self.map(feed()):
            self.reporter.end(job.name, status, seconds)
            if reason:
                self.reporter.say(reason)
                broken.append((job, reason))
        return broken

    def look_ahead(self, trainings: list[Job], cells: list[Job]) -> float:
        """Make every split once: a scenario that does not fit the labels, or shadows that do not fit the forget set,
        are an error before anything trains. Meanwhile take the first few steps of a training: the seconds that all of
        it will take here, 0 without any."""
        splits = {(job.entry.cell.split_key, job.kind == "shadows"): job.entry.cell for job in cells}
        tasks = [delayed(_time_training)(job, self.root, self.data_root, self.devices) for job in trainings[:1]]
        for (_, shadowed), cell in splits.items():
            tasks.append(delayed(_check_split)(cell, shadowed, self.root, self.data_root, self.devices))
        return sum(seconds or 0.0 for seconds in self.map(iter(tasks)))

    def map(self, tasks: Iterator[Any]) -> Iterator[Any]:
        """Results of joblib's ``delayed`` tasks as they end. One that stops half-way ends the workers."""
        with workers_of_one_thread(self.workers):
            try:
                yield from Parallel(
                    self.workers, return_as="generator_unordered", pre_dispatch=self.workers, batch_size=1
                )(tasks)
            except TerminatedWorkerError as error:
                raise UnlearnBenchError(
                    "a worker process died, perhaps for want of memory; the same command goes on, --jobs 1 needs less"
                ) from error
            except BaseException:
                if self.workers > 1:
                    get_reusable_executor().shutdown(wait=False, kill_workers=True)
                raise


def workers_of_one_thread(workers: int) -> parallel_config:
    """One thread per worker, set before torch is imported there: two processes of one thread beat one of two, and
    results do not depend on the number of workers. They work in the caller's folder: those that were started in another
    one, by an earlier call, would look there for what has a relative path."""
    if workers == 1:
        return parallel_config("sequential")
    return parallel_config("loky", inner_max_num_threads=1, initializer=os.chdir, initargs=(Path.cwd(),))


def _work(job: Job, root: Path, data_root: Path, devices: tuple[str, ...], parent: int) -> tuple[Job, str, float, str]:
    """Do a job: what became of it, its seconds, and, of a training that diverged or a bank that failed, the reason."""
    from unlearnbench.runs.runner import load_data, load_original, prepare_cell, run_cell
    from unlearnbench.training.loop import Diverged

    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
        end_with(parent)
    start = time.perf_counter()
    store, cell, device = Store(root), job.entry.cell, claim(root, devices)
    status = "ok"
    reason = ""
    try:
        if job.members:
            bank.make(cast(roster.Kind, job.kind), cell, job.members, store, data_root, device)
        elif job.kind == "original":
            load_original(cell, store, load_data(cell.dataset, data_root, device))
        elif job.kind == "oracle":
            prepare_cell(cell, store, data_root, device)
        else:
            row = run_cell(cell, store, data_root, device)
            status = row.status
            if status == "ok":
                score_row(store, row, all_metrics())
    except Diverged as error:
        status, reason = "failed", f"{job.name}: {error}"
    except (Exception, SystemExit) as error:
        if job.kind not in OF_METHOD:
            raise
        status, reason = "failed", f"{job.name}: {type(error).__name__}: {error}"  # its metrics say how many are there
    if device.type == "cuda":
        check_device(device, job.name)
    if os.getpid() != parent:
        _settle(job.kind)
    return job, status, time.perf_counter() - start, reason


def check_device(device: torch.device, job: str) -> None:
    """After some errors a GPU refuses everything that this process asks of it: not the fault of the jobs to come."""
    import torch

    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise UnlearnBenchError(f"{device} is of no use after {job}: {error}; the same command goes on") from error


@functools.cache
def _settle(_kind: str) -> None:
    """Spare the garbage collector what the first job of a kind has loaded: joblib has it look at everything after each
    job, which for the modules alone takes .15 s."""
    gc.collect()  # what is garbage already shall not stay
    gc.freeze()
    atexit.register(gc.unfreeze)  # at the end libraries count as leaked what was not collected


@functools.cache
def end_with(parent: int) -> None:
    """End this worker soon after its parent: one that was killed must not leave workers and their locks behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.getppid() == parent:
        threading.Thread(target=watch, daemon=True).start()


def _check_split(cell: Cell, shadowed: bool, root: Path, data_root: Path, devices: tuple[str, ...]) -> None:
    from unlearnbench.runs.runner import load_data, make_cell_split

    split = make_cell_split(cell, load_data(cell.dataset, data_root, claim(root, devices)))
    if shadowed:
        bank.shadow_split(split, 0)


def _time_training(job: Job, root: Path, data_root: Path, devices: tuple[str, ...]) -> float:
    from unlearnbench.runs.runner import load_data, time_training

    return time_training(job.entry.cell, load_data(job.entry.cell.dataset, data_root, claim(root, devices)))


@functools.cache
def claim(root: Path, devices: tuple[str, ...]) -> torch.device:
    """This worker's device: the first that no other worker holds. The lock lasts as long as the process."""
    import torch

    if devices == ("cpu",):
        torch.set_num_threads(1)
    else:
        torch.backends.cudnn.deterministic = True  # the same cell, the same row; and a training can be run once more
    for name in devices[:-1]:
        lock = FileLock(root / "locks" / f"device-{name.replace(':', '-')}.lock", timeout=0)
        with suppress(Timeout):
            lock.acquire()
            _held.append(lock)
            return torch.device(name)
    return torch.device(devices[-1])


_held: list[FileLock] = []  # a lock that is forgotten is a lock released
