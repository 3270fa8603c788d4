"""The command line: words in, one call of the pipeline, exit status out.

0: all cases done; 1: some cases failed, each with its cause; 2: wrong use, or refused before work began;
130: stopped by Ctrl-C. An error is one line, never a traceback.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from voxelmill import __version__
from voxelmill.config import Config, load_config
from voxelmill.errors import VoxelmillError

if TYPE_CHECKING:
    from voxelmill.graph import Engine
    from voxelmill.pipeline import Job
    from voxelmill.report import Report

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
Preset = Annotated[str, typer.Option(help="default, or nnunet: its labels and its -1 outside the mask.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with settings.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting, key=value in TOML; repeatable.")
]
Workers = Annotated[int | None, typer.Option(help="Worker processes; by default one a core.")]
Cluster = Annotated[str, typer.Option(help="local, or none: everything in this process.")]
Scheduler = Annotated[str | None, typer.Option(help="Address or file of a running Dask scheduler.")]
MemoryLimit = Annotated[
    str | None, typer.Option(help="Most memory of a worker process, such as 1GiB; changes no voxel.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Recompute what was made under other settings.")]


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
def run(
    source: Source,
    out: Out,
    preset: Preset = "default",
    config: ConfigFile = None,
    set_: Settings = None,
    memory_limit: MemoryLimit = None,
    workers: Workers = None,
    cluster: Cluster = "local",
    scheduler: Scheduler = None,
    restart: Restart = False,
) -> None:
    """All stages: SOURCE to training-ready shards in OUT."""
    job = _job(out, load_config(preset, config, set_ or (), memory_limit), restart)
    sources = job.discover(source)
    _say_sources(len(sources.cases), sources.skipped)
    with _engine(out, cluster, workers, scheduler) as engine:
        report = job.run(sources, engine)
    _finish(report, out)


@app.command()
def ingest(
    source: Source,
    out: Out,
    preset: Preset = "default",
    config: ConfigFile = None,
    set_: Settings = None,
    memory_limit: MemoryLimit = None,
    workers: Workers = None,
    cluster: Cluster = "local",
    scheduler: Scheduler = None,
    restart: Restart = False,
) -> None:
    """First stage: source files into OUT's raw store."""
    job = _job(out, load_config(preset, config, set_ or (), memory_limit), restart)
    sources = job.discover(source)
    _say_sources(len(sources.cases), sources.skipped)
    with _engine(out, cluster, workers, scheduler) as engine:
        job.ingest(sources, engine)
    _finish(job.report([c.case for c in sources.cases]), out)


@app.command()
def fingerprint(
    out: Out,
    memory_limit: MemoryLimit = None,
    workers: Workers = None,
    cluster: Cluster = "local",
    scheduler: Scheduler = None,
) -> None:
    """Second stage: facts of the raw store into OUT/fingerprint.json."""
    from voxelmill.summary import fingerprint_table

    job = _job(out, load_config(memory_limit=memory_limit), restart=False)
    job.check_raw()
    with _engine(out, cluster, workers, scheduler) as engine:
        made = job.fingerprint(engine)
    _stdout().print(fingerprint_table(made))


@app.command()
def plan(
    out: Out,
    preset: Preset = "default",
    config: ConfigFile = None,
    set_: Settings = None,
    memory_limit: MemoryLimit = None,
    restart: Restart = False,
) -> None:
    """Third stage: every decision into OUT/plan.json, printed as a table. Reads no voxel."""
    from voxelmill.fingerprint import Fingerprint
    from voxelmill.summary import plan_tables

    job = _job(out, load_config(preset, config, set_ or (), memory_limit), restart)
    made = job.plan(Fingerprint.load(out))
    for table in plan_tables(made, out):
        _stdout().print(table)


@app.command()
def preprocess(
    out: Out,
    memory_limit: MemoryLimit = None,
    workers: Workers = None,
    cluster: Cluster = "local",
    scheduler: Scheduler = None,
) -> None:
    """Last stage: the raw store into the training store, as OUT/plan.json says."""
    from voxelmill.plan import Plan

    made = Plan.load(out)
    if memory_limit is not None:
        limited = load_config(memory_limit=memory_limit).memory_limit
        settings = made.settings.model_copy(update={"memory_limit": limited})
        made = made.model_copy(update={"settings": settings})
    job = _job(out, made.settings, restart=False)
    with _engine(out, cluster, workers, scheduler) as engine:
        job.preprocess(made, engine)
    _finish(job.report(sorted({case for c in made.configurations.values() for case in c.cases})), out)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for the phantoms and what becomes of them.")] = Path(
        "voxelmill-demo"
    ),
    workers: Workers = None,
) -> None:
    """Make phantoms, run all stages on them, and say where everything is."""
    from voxelmill.phantoms import write_dataset

    source = out / "Dataset001_Phantoms"
    if not source.exists():
        logger.info("making phantoms")
        write_dataset(source)
    run(source, out / "out", workers=workers)


class _StoppedError(Exception):
    """Ctrl-C; not KeyboardInterrupt, which the command parser would swallow."""


def main() -> None:
    """Entry point of the console script."""
    _log_to_terminal()
    sys.unraisablehook = _lose_no_interrupt
    try:
        app()
    except VoxelmillError as error:
        _fail(str(error), 2)
    except (_StoppedError, KeyboardInterrupt):
        _fail("stopped. Run the same command again to go on from here.", 130)
    except OSError as error:
        _fail(f"{error.strerror or error}. Check that OUT can be written and its disk has room.", 1)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        _fail(f"{type(error).__name__} at {where}: {error}. This is a bug; OUT/logs has the details.", 1)


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


def _job(out: Path, config: Config, restart: bool) -> Job:
    from voxelmill.pipeline import Job

    return Job(out, config, restart)


@contextmanager
def _engine(out: Path, cluster: str, workers: int | None, scheduler: str | None) -> Iterator[Engine]:
    """Where to run; Ctrl-C closes it in order."""
    from voxelmill.cluster import connect
    from voxelmill.graph import Engine
    from voxelmill.progress import Reporter, log_to

    try:
        with connect(cluster, workers, scheduler) as client, log_to(out / "logs"), _once():
            yield Engine(client, Reporter(console))
    except KeyboardInterrupt:
        raise _StoppedError from None


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
