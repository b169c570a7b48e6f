"""The command line: parses, calls, prints."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from unlearnbench.plan import registry
from unlearnbench.plan.spec import UnlearnBenchError

# One thread per process, before anything imports torch: two processes of one thread beat one process of two.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

app = App(
    name="unlearnbench",
    help="A benchmark suite for machine unlearning.",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # main() says what to do
)

Kind = Literal["methods", "datasets", "models", "scenarios", "metrics", "figures", "suites"]
Results = Annotated[Path, Parameter(help="Folder of rows and weights; a run continues what it holds.")]
Out = Annotated[Path, Parameter(help="Folder for tables and figures, one sub-folder a suite.")]
Names = Annotated[str, Parameter(help="Names, separated by commas.")]
NOTHING, DEFAULT_RESULTS, DEFAULT_OUT = "", Path("results"), Path("reports/out")


@app.command(name="list")
def list_(kind: Kind | None = None, *, check: bool = False) -> int:
    """List what is registered.

    Parameters
    ----------
    kind
        Only this kind.
    check
        Import every plugin, and say of a broken one what is wrong with it.
    """
    broken = 0
    for each in [kind] if kind else [*registry.KINDS, "suites"]:
        print(f"{each}:")
        if each == "suites":
            from unlearnbench.plan.suites import packaged

            print(*(f"  {name}" for name in packaged()), sep="\n")
            continue
        for item in registry.listing(each, check=check):
            broken += bool(item.error)
            needs = ("needs " + ", ".join(n.lower() for n in item.needs) if item.needs else "needs no data") + "; "
            facts = f"{needs}{item.paper}" if each == "methods" and item.paper else item.summary
            outside = "" if item.package == "unlearnbench" else f" [{item.package}]"
            print(f"  {item.name:<16}{outside} {'BROKEN: ' + item.error if item.error else facts}")
    return 1 if broken else 0


@app.command
def show(kind: Kind | Literal["rows"], name: str, *, results: Results = DEFAULT_RESULTS) -> None:
    """Show one plugin: for a method its paper, formula, data access, hyperparameters and defaults.

    Parameters
    ----------
    kind
        Kind of plugin; or "rows" for a stored row by its key, with the traceback if it failed.
    """
    if kind == "rows":
        from unlearnbench.store.folder import Store

        row = Store(results).row_of(name)
        if row is None:
            raise UnlearnBenchError(f"no row {name} in {results} (unlearnbench run SUITE --dry-run prints the keys)")
        facts = {"status": row.status, "cost": dict(row.cost), "scalars": dict(row.scalars), **row.environment}
        print(json.dumps({"cell": row.cell.as_dict(), **facts}, indent=2), row.reason, sep="\n")
        return
    from unlearnbench.plan.cards import card

    print(card(kind, name))


@app.command
def run(
    suite: str,
    *,
    methods: Names = NOTHING,
    scenarios: Names = NOTHING,
    seeds: str = "",
    device: str = "auto",
    jobs: int | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    results: Results = DEFAULT_RESULTS,
    out: Out = DEFAULT_OUT,
    data: Path | None = None,
    quick: bool = False,
    dry_run: bool = False,
) -> int:
    """Run a suite, as far as it is not done, and report it.

    Parameters
    ----------
    suite
        A packaged suite (unlearnbench list suites) or the path of a .toml file.
    methods
        Only these of the suite's methods, or other registered ones; "all" for every registered one.
        The oracle always runs: every gap is measured against it.
    scenarios
        Only these of the suite's scenarios.
    seeds
        Such as 0-4 or 0,2,5-7.
    device
        auto, cpu, cuda or cuda:0. auto takes every CUDA device, one process each, or else the CPU.
    jobs
        Worker processes on the CPU, of one thread each; default the number of cores.
    set_
        TARGET.PARAMETER=VALUE, such as camu.lr_ce=1e-4 or recipe.epochs=5. May be repeated.
    data
        Folder of datasets; default $UNLEARNBENCH_DATA or ~/.cache/unlearnbench/data.
    quick
        At most 2,000 training and 1,000 test samples, 2 epochs, one seed, a small model: the whole path in minutes.
    dry_run
        Print the cells and which of them are done; run nothing.
    """
    from unlearnbench import api
    from unlearnbench.plan.suites import Options, make_plan, parse_seeds
    from unlearnbench.store.folder import Store

    options = Options(_split(methods), _split(scenarios), parse_seeds(seeds) if seeds else (), set_ or (), quick)
    plan, store = make_plan(suite, options), Store(results)
    if dry_run:
        for entry in plan.entries:
            row = store.row(entry.cell)
            print(f"{entry.cell.key}  {entry.name}: {row.status if row else 'to do'}")
        return 0
    with _reporter() as reporter:
        scored = api.execute(plan, store, device, jobs, data, reporter)
    _report(scored, out, anew=False)
    failed = [(entry, row) for entry in plan.entries if (row := store.row(entry.cell)) and row.status == "failed"]
    for entry, row in failed:
        print(f"failed: {entry.name}: {row.reason.strip().splitlines()[-1]}", file=sys.stderr)
        print(f"  the whole traceback: unlearnbench show rows {row.key} --results {results}", file=sys.stderr)
    return 1 if failed else 0


@app.command
def tune(
    suite: str,
    *,
    trials: int,
    methods: Names = NOTHING,
    scenarios: Names = NOTHING,
    requests: int = 2,
    device: str = "auto",
    jobs: int | None = None,
    results: Results = DEFAULT_RESULTS,
    data: Path | None = None,
    quick: bool = False,
    to: Path | None = None,
) -> int:
    """Search hyperparameters, with the same number of trials for every method, and write them as a suite.

    What is searched, and from where to where, stands beside each default (unlearnbench show methods NAME). Forget sets
    and seeds are not those of the suite, and a held-out share of the training set stands for the test set. Interrupted,
    the same command goes on where it was.

    Parameters
    ----------
    suite
        A packaged suite (unlearnbench list suites) or the path of a .toml file.
    trials
        Of each method in each scenario; the first tries the suite's own values.
    methods
        Only these; "all" for every registered one.
    scenarios
        Only these of the suite's scenarios.
    requests
        Forget sets that a trial is judged by, with an original and an oracle each.
    device
        auto, cpu, cuda or cuda:0.
    jobs
        Worker processes on the CPU; default the number of cores.
    data
        Folder of datasets; default $UNLEARNBENCH_DATA or ~/.cache/unlearnbench/data.
    quick
        As in run: few samples, 2 epochs, a small model.
    to
        The file that is written; default SUITE-tuned.toml, or SUITE-tuned-TRIALS.toml where that is a packaged suite.
    """
    if trials < 1 or requests < 1:
        raise UnlearnBenchError(f"--trials {trials} --requests {requests}: expected at least 1 of each")
    from unlearnbench import api
    from unlearnbench.plan.suites import Options, find, make_plan
    from unlearnbench.runs.tuning import tuned_suite
    from unlearnbench.store.folder import Store

    path, text = find(suite)
    plan = make_plan(suite, Options(_split(methods), _split(scenarios), quick=quick))
    to = to or _tuned(path.stem, trials)
    with _reporter() as reporter:
        best = api.tune(plan, trials, requests, Store(results), device, jobs, data, reporter)
    chosen = f" --methods {methods}" * bool(methods) + f" --scenarios {scenarios}" * bool(scenarios)
    command = f"unlearnbench tune {suite} --trials {trials} --requests {requests}{chosen}" + " --quick" * quick
    to.write_text(tuned_suite(text, best, trials, command, quick), encoding="utf-8")
    print(f"Tuned {len(best)} method-scenario pairs, {trials} trials each. Written: {to} (unlearnbench run {to})")
    return 0


@app.command
def new(name: str, *, into: Path = Path()) -> None:
    """Write a plugin package with a method of your own: it installs, passes the checks and runs as it stands.

    Parameters
    ----------
    name
        Of the method and of the package, such as my_method.
    into
        The folder in which the package's folder is made.
    """
    from unlearnbench.authors.templates import write_plugin

    folder = write_plugin(name, into)
    where = shlex.quote(str(folder) if folder.is_absolute() else f"./{folder}")  # without ./ it may be a name on PyPI
    print(f"{folder}: pip install {where} && unlearnbench check {name} && unlearnbench run digits --methods {name}")


@app.command
def report(*suites: str, results: Results = DEFAULT_RESULTS, out: Out = DEFAULT_OUT) -> None:
    """Rebuild tables and figures from stored rows: of these suites, or of every suite that was run."""
    from unlearnbench import api

    for suite in _chosen(suites, results):
        _report(api.stored(suite, results), out)


@app.command
def score(*suites: str, results: Results = DEFAULT_RESULTS, jobs: int | None = None) -> None:
    """Bring the scores of stored rows up to date: metrics that are new, or changed, or lacked their oracle."""
    from unlearnbench import api
    from unlearnbench.runs.engine import bring_up_to_date
    from unlearnbench.store.folder import Store

    store = Store(results)
    for suite in _chosen(suites, results):
        bring_up_to_date(api.stored_plan(suite, store), store, jobs or os.cpu_count() or 1)
        print(f"{suite}: scored")


@app.command
def validate(results: Path = DEFAULT_RESULTS, *suites: str) -> int:
    """Check that the headline metrics put the controls where they belong: the suite testing itself.

    Prints metric x control with pass, FAIL or uninformative; exits with 1 if a headline metric fails.

    Parameters
    ----------
    results
        Folder of rows.
    suites
        Only these of the suites that were run into it.
    """
    from unlearnbench_reports import control_table

    from unlearnbench import api
    from unlearnbench.judge.validation import DOUBTED

    failed = 0
    for suite in _chosen(suites, results):
        table = control_table(api.stored(suite, results))
        for (dataset, scenario), rows in table.groupby(["dataset", "scenario"], sort=False):
            print(f"{suite}: {dataset} {scenario}")
            print(rows.drop(columns=["dataset", "scenario", "reason"]).to_string(index=False))
            for row in rows[rows["verdict"].isin(DOUBTED)].itertuples():
                print(f"  {row.metric}: {row.verdict}: {row.reason}")
            print()
        failed += int((table["verdict"] == "fail").sum())
        if table.empty:
            print(f"{suite}: no control has run, so nothing can be said of its metrics")
    return 1 if failed else 0


@app.command
def check(*methods: str) -> int:
    """Run the conformance checks on methods, yours or ours: what every plugin must pass."""
    from unlearnbench.authors.conformance import check_method

    failed = 0
    for name in methods or registry.names("methods"):
        try:
            results = check_method(name)
        except registry.RegistryError as error:
            failed += 1
            print(f"{name}: FAIL  {error}")
            continue
        for result in results:
            failed += not result.passed
            print(
                f"{name}: {'pass' if result.passed else 'FAIL'}  {result.name}{result.detail and ': ' + result.detail}"
            )
    return 1 if failed else 0


def main() -> None:
    """Entry point: errors for the user in one line, exit status 2; failed cells 1; Ctrl-C 130."""
    try:
        sys.exit(app(exit_on_error=False, print_error=False, result_action="return_value"))
    except (UnlearnBenchError, CycloptsError) as error:
        print(f"unlearnbench: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        print(f"unlearnbench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("unlearnbench: stopped; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)


def _split(text: str) -> list[str]:
    return [part for part in text.replace(",", " ").split() if part]


def _chosen(suites: tuple[str, ...], results: Path) -> list[str]:
    """These suites, or else all that were run; of these a plan that cannot be read is left out with a warning."""
    from unlearnbench import api
    from unlearnbench.store.folder import Store

    found = list(suites) or api.stored_suites(Store(results), _warn)
    if not found:
        raise UnlearnBenchError(f"no results in {results} (unlearnbench run digits)")
    return found


def _tuned(suite: str, trials: int) -> Path:
    """The file that a tuned suite is written to: not of the name of a packaged one, whose report it would share."""
    from unlearnbench.plan.suites import packaged

    choices = [f"{suite}-tuned", f"{suite}-tuned-{trials}"]
    free = [name for name in choices if name not in packaged()]
    if not free:
        raise UnlearnBenchError(f"{' and '.join(choices)} are packaged suites: name the file to write, --to FILE.toml")
    return Path(f"{free[0]}.toml")


def _warn(message: str) -> None:
    print(f"unlearnbench: {message}", file=sys.stderr)


def _reporter():  # type: ignore[no-untyped-def]
    from rich.console import Console

    from unlearnbench.runs.progress import Bar, Lines

    console = Console(stderr=True)
    return Bar(console) if console.is_terminal else Lines(console)


def _report(scored, out: Path, anew: bool = True) -> None:  # type: ignore[no-untyped-def]
    import matplotlib

    matplotlib.use("Agg")
    import unlearnbench_reports as reports

    print(reports.terminal(scored, color=sys.stdout.isatty(), brief=True))
    print(f"Every metric, every figure and what the controls say: {out / scored.suite}")
    if not anew and reports.is_current(scored, out / scored.suite):
        print(f"{out / scored.suite} is up to date")
        return
    figures = {}
    for name in registry.names("figures"):
        try:
            figures[name] = registry.load("figures", name)
        except registry.RegistryError as error:
            _warn(f"{error}; its figure is left out")
    written = reports.render(scored, out / scored.suite, figures)
    print(f"{len(written)} files in {out / scored.suite}")
