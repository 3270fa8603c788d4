"""The commands of voxelmill.

In: the words of a command line. Out: one call of the pipeline, and an exit status. 0: all cases are done;
1: some cases failed, each with its cause, or the cluster, OUT's disk or the lease was lost; 2: wrong use, or
refused before work began; 130: stopped by Ctrl-C; 143: by SIGTERM. An error is one line, never a traceback.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.models import CommandInfo

from voxelmill import __version__
from voxelmill.basics.errors import (
    ClusterLostError,
    ConfigError,
    DiskError,
    LeaseLostError,
    SourceError,
    StoppedError,
    VoxelmillError,
    disk_message,
    system_message,
)
from voxelmill.basics.safe_tracebacks import place
from voxelmill.basics.stage_order import Stage
from voxelmill.cli.shared_options import (
    Options,
    Out,
    PlanFile,
    ShareOf,
    ShowFiles,
    Source,
    Workers,
    named,
    with_options,
)
from voxelmill.cli.stop_signals import heed_signals, once, terminated
from voxelmill.cli.terminal_output import (
    FileNames,
    console,
    fail,
    finish,
    log_to_terminal,
    print_tables,
    say,
    say_failed,
)
from voxelmill.cli.typed_words import repeat, typed_words

if TYPE_CHECKING:
    from voxelmill.runs.job import Job
    from voxelmill.runs.verify import Finding
    from voxelmill.runtime.stage_engine import Engine
    from voxelmill.storage.lease import Lease

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Make training-ready Zarr shards of medical and microscopy volumes of any size.",
)
logger = logging.getLogger("voxelmill")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
@with_options
def run(
    source: Source, out: Out, options: Options, frozen: PlanFile = None, show_files: ShowFiles = False
) -> None:
    """Make training-ready shards in OUT of SOURCE, by all stages."""
    if options.dry_run:
        return typer.echo(options.job_script(out))
    job = _job(out, options, frozen=frozen)
    _from_source(job, job.all_stages, source, out, options, show_files)


@app.command()
@with_options
def ingest(
    source: Source, out: Out, options: Options, share: ShareOf = None, show_files: ShowFiles = False
) -> None:
    """Read SOURCE into OUT's raw store. This is the first stage."""
    if options.dry_run:
        return typer.echo(options.job_script(out))
    job = _job(out, options, share)
    _from_source(job, [Stage.INGEST], source, out, options, show_files)


def _from_source(
    job: Job, stages: Collection[Stage], source: Path, out: Path, options: Options, show_files: bool
) -> None:
    """Run stages that start from SOURCE; `out` is the path as it was typed."""
    names = FileNames(show_files)
    with names.of_refusals():
        sources = names.found(source, job.discover(source))
        report = job.execute(stages, partial(_engine, job, options), sources)
        finish(report, out, names)


@app.command()
@with_options
def fingerprint(out: Out, options: Options) -> None:
    """Write facts of the raw store into OUT/fingerprint.json. This is the second stage."""
    from voxelmill.cli.tables import fingerprint_table  # imported here, so that --help stays fast

    if options.dry_run:
        return typer.echo(options.job_script(out))
    job = _job(out, options)
    report = job.execute([Stage.FINGERPRINT], partial(_engine, job, options))
    assert job.fingerprint is not None
    print_tables([fingerprint_table(job.fingerprint)])
    say_failed(report)


@app.command()
@with_options
def plan(out: Out, options: Options, frozen: PlanFile = None) -> None:
    """Write every decision into OUT/plan.json, and print it. This is the third stage; it reads no voxel."""
    from voxelmill.cli.tables import plan_tables

    job = _job(out, options, frozen=frozen)
    made = job.foresee_plan()
    print_tables(plan_tables(made, job.out))
    job.doubt(made)
    job.check_plan(made)  # after the tables: they explain a refusal
    if not options.dry_run:
        say_failed(job.execute([Stage.PLAN], partial(_engine, job, options)))


@app.command()
@with_options
def preprocess(out: Out, options: Options, share: ShareOf = None, frozen: PlanFile = None) -> None:
    """Make OUT's training store as OUT/plan.json says. This is the last stage."""
    if options.dry_run:
        return typer.echo(options.job_script(out))
    job = _job(out, options, share, frozen)
    stages = [Stage.PREPROCESS] if frozen is None else [Stage.PLAN, Stage.PREPROCESS]
    finish(job.execute(stages, partial(_engine, job, options)), out)


@app.command()
def status(out: Out) -> None:
    """Say how far a run on OUT is, from the stores alone. The exit status is 0 where nothing is missing."""
    from voxelmill.cli.tables import status_table
    from voxelmill.runs.status import read_status

    found = read_status(out)
    print_tables([status_table(found)])
    for case, cause in found.failed.items():
        say(f"failed  {case}: {cause}")
    for holder in found.holders:
        say(f"at work  {holder}")
    sys.exit(0 if found.is_complete else 1)


@app.command()
@with_options
def verify(
    out: Out,
    options: Options,
    repair: Annotated[bool, typer.Option("--repair", help="Make again what is damaged or missing.")] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            help="Make the raw store again, with --repair, from what OUT was made of.",
            callback=named("--source"),
        ),
    ] = None,
) -> None:
    """Read every byte of OUT's stores, and name what is damaged. The exit status is 0 where nothing is."""
    from voxelmill.runs import verify as stage
    from voxelmill.runs.repair_damage import known_plan, verify_and_repair
    from voxelmill.storage.lease import holders

    stage.check_there(out)
    if options.dry_run:
        return typer.echo(options.job_script(out))
    if source is not None and not repair:
        raise ConfigError("--source is for --repair alone. Pass both, or neither.")
    job = _job(out, options)
    if repair:
        known_plan(job)  # refuses settings that differ from the plan's before anything is read
    for holder in holders(out):
        if holder.is_alive is not False:
            say(f"at work  {holder}: what it writes may be told as missing")
    if not repair:
        with options.engine(job.out, job.config, console, None) as engine, once():
            found = stage.verify(job.out, engine)
    else:
        with job.hold("verify") as lease, _engine(job, options, lease) as engine:
            found = verify_and_repair(job, source, engine, say)
    _say_found(found, advise=source is None)


def _say_found(found: Finding, advise: bool) -> None:
    """Print one line per damage, advice and a summary, and exit with the status."""
    from voxelmill.runs.repair_damage import ADVICE, needs_source

    for damage in found.damages:
        say(str(damage))
    if advise and needs_source(found.damages):
        say(ADVICE)
    say(found.summary)
    sys.exit(1 if found.damages else 0)


@app.command()
@partial(with_options, only=("preset", "config", "set_", "memory_limit"))
def config(options: Options) -> None:
    """Print every setting, its meaning, default and unit, as TOML. It is a file for --config."""
    from voxelmill.config.settings_as_toml import config_text

    typer.echo(config_text(options.load()), nl=False)


@app.command()
def demo(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The phantoms, and what becomes of them, go into this folder.",
            callback=named("OUT"),
        ),
    ] = Path("voxelmill-demo"),
    workers: Workers = None,
) -> None:
    """Make phantoms, run all stages on them, and say where all is."""
    from voxelmill.cli.demo_dataset import write_dataset
    from voxelmill.runs.source_and_out_apart import check_out

    source = out / "Dataset001_Phantoms"
    if not source.exists():
        check_out(out)
        logger.info("making phantoms")
        write_dataset(source)
    run(source=source, out=out / "out", **vars(Options(workers=workers)))


def _keep_whole(commands: Iterable[CommandInfo]) -> None:
    """Show the whole first sentence of each command in the list of commands; typer would cut it to a line."""
    for command in commands:
        first, _, _ = (inspect.getdoc(command.callback) or "").partition(". ")
        command.short_help = first.removesuffix(".") + "."


_keep_whole(app.registered_commands)


def main() -> None:
    """Run the command line; entry point of the console script."""
    log_to_terminal()
    heed_signals()
    try:
        app()
    except (ClusterLostError, DiskError, LeaseLostError) as error:
        fail(str(error), 1)
    except VoxelmillError as error:
        fail(_as_typed(str(error), "SOURCE" if isinstance(error, SourceError) else ""), 2)
    except (StoppedError, KeyboardInterrupt):
        fail("stopped. Run the same command again to go on from here.", 143 if terminated.is_set() else 130)
    except OSError as error:
        fail(disk_message(error) or _as_typed(system_message(error)), 1)
    except Exception as error:
        fail(f"{place(error)}. This is a bug; OUT/logs has where.", 1)


def _as_typed(line: str, about: str = "") -> str:
    return repeat(line, typed_words(typer.main.get_command(app), sys.argv[1:]), about)


def _job(out: Path, options: Options, share: str | None = None, frozen: Path | None = None) -> Job:
    from voxelmill.basics.stage_share import Share
    from voxelmill.runs.job import Job
    from voxelmill.stages.planning.plan_reuse import load_frozen

    mine = None if share is None else Share.parse(share)
    plan = None if frozen is None else load_frozen(frozen)
    return Job(out, options.load(), options.restart, mine, plan)


@contextmanager
def _engine(job: Job, options: Options, lease: Lease) -> Iterator[Engine]:
    """Start the engine and its log; on Ctrl-C both are closed in order."""
    from voxelmill.runtime.progress_display import log_to

    log = f"voxelmill-{job.command}{job.share.suffix}.log" if job.share else "voxelmill.log"
    with (
        options.engine(job.out, job.config, console, lease) as engine,
        log_to(job.out / "logs", log),
        once(),
    ):
        yield engine
