"""The command line: words in, one call of the pipeline, exit status out.

0: all cases done; 1: some cases failed, each with its cause; 2: wrong use, or refused before work began;
130: stopped by Ctrl-C. An error is one line, never a traceback.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from voxelmill import __version__
from voxelmill.errors import (
    ClusterLostError,
    ConfigError,
    DiskError,
    LeaseLostError,
    StoppedError,
    VoxelmillError,
    disk_message,
)
from voxelmill.options import Options, with_options
from voxelmill.traces import place, system_reason

if TYPE_CHECKING:
    from voxelmill.graph import Engine
    from voxelmill.lease import Lease
    from voxelmill.pipeline import Job
    from voxelmill.report import Report
    from voxelmill.verify import Finding

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="From medical and microscopy volumes of any size to training-ready Zarr shards.",
)
logger = logging.getLogger("voxelmill")
console = Console(stderr=True)

Source = Annotated[Path, typer.Argument(help="nnU-Net raw dataset, folder of images or series, or manifest.")]
Out = Annotated[Path, typer.Argument(help="Folder for the stores.")]
ShareOf = Annotated[
    str | None, typer.Option("--share", help="i/n: do the i-th of n shares, without a network between them.")
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", help="A plan.json: its decisions for the cases at hand, no statistics."),
]


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
@with_options
def run(source: Source, out: Out, options: Options, frozen: PlanFile = None) -> None:
    """All stages: SOURCE to training-ready shards in OUT."""
    if options.dry_run:
        return typer.echo(options.job_script(out))
    job = _job(out, options, frozen=frozen)
    sources = job.discover(source)
    _say_sources(len(sources.cases), sources.skipped)
    with job.hold("run") as lease:
        job.check(sources)
        with _engine(job, options, lease) as engine:
            report = job.run(sources, engine)
        _finish(report, out)


@app.command()
@with_options
def ingest(source: Source, out: Out, options: Options, share: ShareOf = None) -> None:
    """First stage: source files into OUT's raw store."""
    if options.dry_run:
        return typer.echo(options.job_script(out))
    job = _job(out, options, share)
    sources = job.discover(source)
    _say_sources(len(sources.cases), sources.skipped)
    cases = job.my_cases(sources)
    with job.hold("ingest") as lease:
        job.check(sources)
        with _engine(job, options, lease) as engine, job.reporting(cases):
            job.ingest(sources, engine)
        _finish(job.report(cases), out)


@app.command()
@with_options
def fingerprint(out: Out, options: Options) -> None:
    """Second stage: facts of the raw store into OUT/fingerprint.json."""
    from voxelmill.status import check_raw
    from voxelmill.summary import fingerprint_table

    if options.dry_run:
        return typer.echo(options.job_script(out))
    job = _job(out, options)
    check_raw(job.out)
    with job.hold("fingerprint") as lease, _engine(job, options, lease) as engine:
        made = job.fingerprint(engine)
    _stdout().print(fingerprint_table(made))


@app.command()
@with_options
def plan(out: Out, options: Options, frozen: PlanFile = None) -> None:
    """Third stage: every decision into OUT/plan.json, printed as a table. Reads no voxel."""
    from voxelmill.fingerprint import Fingerprint
    from voxelmill.status import check_raw
    from voxelmill.summary import plan_tables

    job = _job(out, options, frozen=frozen)
    found = Fingerprint.load(out) if job.frozen is None else None
    if found is None:
        check_raw(job.out)
    with job.hold("plan"):
        made = job.refit() if found is None else job.plan(found)
    for table in plan_tables(made, out):
        _stdout().print(table)
    if job.failed():
        sys.exit(1)


@app.command()
@with_options
def preprocess(out: Out, options: Options, share: ShareOf = None, frozen: PlanFile = None) -> None:
    """Last stage: the raw store into the training store, as OUT/plan.json says."""
    if options.dry_run:
        return typer.echo(options.job_script(out))
    job = _job(out, options, share, frozen)
    made = job.planned()
    with job.hold("preprocess") as lease:
        made = made or job.refit()
        cases = sorted({*job.planned_cases(made), *job.failed()})
        with _engine(job, options, lease) as engine, job.reporting(cases):
            job.preprocess(made, engine)
        _finish(job.report(cases), out)


@app.command()
def status(out: Out) -> None:
    """How far a run on OUT is, from the stores alone; exit status 0 where nothing is missing."""
    from voxelmill.status import read_status
    from voxelmill.summary import status_table

    found = read_status(out)
    output = _stdout()
    output.print(status_table(found))
    for case, cause in found.failed.items():
        output.print(f"failed  {case}: {cause}", highlight=False, markup=False, soft_wrap=True)
    for holder in found.holders:
        output.print(f"at work  {holder}", highlight=False, markup=False, soft_wrap=True)
    sys.exit(0 if found.is_complete else 1)


@app.command()
@with_options
def verify(
    out: Out,
    options: Options,
    repair: Annotated[bool, typer.Option("--repair", help="Make again what is damaged or missing.")] = False,
    source: Annotated[
        Path | None, typer.Option(help="With --repair: what OUT was made from, for its raw store.")
    ] = None,
) -> None:
    """Read every byte of OUT's stores, name what is damaged; exit status 0 where nothing is."""
    from voxelmill import verify as stage
    from voxelmill.lease import holders
    from voxelmill.repair import verify_and_repair

    stage.check_there(out)
    if options.dry_run:
        return typer.echo(options.job_script(out))
    if source is not None and not repair:
        raise ConfigError("--source is for --repair alone. Pass both, or neither.")
    job = _job(out, options)
    for holder in holders(out):
        if holder.is_alive is not False:
            _say(f"at work  {holder}: what it writes may be told as missing")
    if not repair:
        with options.engine(job.out, job.config, console, None) as engine, _once():
            found = stage.verify(job.out, engine)
    else:
        with job.hold("verify") as lease, _engine(job, options, lease) as engine:
            found = verify_and_repair(job, source, engine, _say)
    _say_found(found, advise=source is None)


def _say_found(found: Finding, advise: bool) -> None:
    """A line a damage, what to do, a count, and the exit status."""
    from voxelmill.repair import ADVICE, needs_source

    for damage in found.damages:
        _say(str(damage))
    if advise and needs_source(found.damages):
        _say(ADVICE)
    _say(found.summary)
    sys.exit(1 if found.damages else 0)


def _say(line: str) -> None:
    _stdout().print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for the phantoms and what becomes of them.")] = Path(
        "voxelmill-demo"
    ),
    workers: Annotated[int | None, typer.Option(help="Worker processes; by default one a core.")] = None,
) -> None:
    """Make phantoms, run all stages on them, and say where everything is."""
    from voxelmill.phantoms import write_dataset

    source = out / "Dataset001_Phantoms"
    if not source.exists():
        logger.info("making phantoms")
        write_dataset(source)
    run(source=source, out=out / "out", **vars(Options(workers=workers)))


def main() -> None:
    """Entry point of the console script."""
    _log_to_terminal()
    sys.unraisablehook = _lose_no_interrupt
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except (ClusterLostError, DiskError, LeaseLostError) as error:
        _fail(str(error), 1)
    except VoxelmillError as error:
        _fail(str(error), 2)
    except (StoppedError, KeyboardInterrupt):
        _fail("stopped. Run the same command again to go on from here.", 143 if _terminated.is_set() else 130)
    except OSError as error:
        hint = f"{system_reason(error)}. Check that OUT can be written and its disk has room."
        _fail(disk_message(error) or hint, 1)
    except Exception as error:
        _fail(f"{place(error)}. This is a bug; OUT/logs has where.", 1)


_terminated = threading.Event()


def _terminate(number: int, frame: object) -> None:
    """Ends like Ctrl-C: what was started is stopped, jobs are cancelled, OUT is let go."""
    if not _terminated.is_set():
        _terminated.set()
        raise KeyboardInterrupt


def _lose_no_interrupt(lost: sys.UnraisableHookArgs) -> None:
    """Ctrl-C amid a garbage collection would be printed as a traceback and forgotten: it comes again."""
    if lost.exc_type is KeyboardInterrupt:
        main = threading.main_thread().ident
        threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


def _fail(line: str, status: int) -> NoReturn:
    console.print(f"voxelmill: {line}", style="bold red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(status)


def _log_to_terminal() -> None:
    """Log lines: bare on a terminal, with the time elsewhere; tracebacks only in the log file."""
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(
            console=console, show_time=False, show_level=False, show_path=False, markup=False
        )
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _say_sources(cases: int, skipped: tuple[str, ...]) -> None:
    left_out = f", left out {', '.join(skipped)}" if skipped else ""
    logger.info("found %d case%s%s", cases, "" if cases == 1 else "s", left_out)


def _job(out: Path, options: Options, share: str | None = None, frozen: Path | None = None) -> Job:
    from voxelmill.frozen import load_frozen
    from voxelmill.pipeline import Job
    from voxelmill.share import Share

    mine = None if share is None else Share.parse(share)
    plan = None if frozen is None else load_frozen(frozen)
    return Job(out, options.load(), options.restart, mine, plan)


@contextmanager
def _engine(job: Job, options: Options, lease: Lease) -> Iterator[Engine]:
    """Where to run; Ctrl-C closes it in order."""
    from voxelmill.progress import log_to

    log = f"voxelmill-{job.command}{job.share.suffix}.log" if job.share else "voxelmill.log"
    with (
        options.engine(job.out, job.config, console, lease) as engine,
        log_to(job.out / "logs", log),
        _once(),
    ):
        yield engine


def _stdout() -> Console:
    """Tables as wide as the terminal, or wide enough where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=120)


@contextmanager
def _once() -> Iterator[None]:
    """After one Ctrl-C the cluster is closed, which takes a second; more of them change nothing."""
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise


def _finish(report: Report, out: Path) -> None:
    """The table, where everything is, and the exit status."""
    output = _stdout()
    output.print(report.table())
    for case in report.failed:
        output.print(f"failed  {case.case}: {case.cause}", highlight=False, markup=False, soft_wrap=True)
    for path in (out / "training.zarr", out / "fingerprint.json", out / "plan.json", out / "report.json"):
        if path.exists():
            output.print(str(path), highlight=False, markup=False, soft_wrap=True)
    if report.failed:
        sys.exit(1)
