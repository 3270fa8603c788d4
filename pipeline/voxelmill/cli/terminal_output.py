"""The terminal output of commands: lines, tables, failed cases, and file names if the user asks for them.

In: reports, errors, sources. Out: standard output, standard error, and an exit status. File names are written
to the terminal here, and to no log.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.logging import RichHandler

from voxelmill.basics.errors import MemoryLimitError, SourceError, VoxelmillError

if TYPE_CHECKING:
    from rich.table import Table

    from voxelmill.inputs.sources.case_source import Sources
    from voxelmill.runs.report_json import Report

logger = logging.getLogger("voxelmill")
console = Console(stderr=True)


def say(*lines: str) -> None:
    """Print lines on standard output, without markup or wrapping."""
    _write(_stdout(), lines)


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables on standard output."""
    for table in tables:
        _stdout().print(table)


def fail(line: str, status: int) -> NoReturn:
    """Print one line on standard error, and exit with a status."""
    console.print(f"voxelmill: {line}", style="bold red", highlight=False, markup=False, soft_wrap=True)
    sys.exit(status)


def _write(to: Console, lines: Iterable[str]) -> None:
    for line in lines:
        to.print(line, highlight=False, markup=False, soft_wrap=True)


def _stdout() -> Console:
    """Return a console as wide as the terminal, or 120 columns wide if output is redirected."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def log_to_terminal() -> None:
    """Show log lines: bare on a terminal, with the time elsewhere; tracebacks go to the log file only."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # some terminals encode ASCII only
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


def finish(report: Report, out: Path, names: FileNames | None = None) -> None:
    """Print the summary, the failed cases and the paths of the results; exit with 1 if a case failed."""
    print_tables([report.table()])
    say(*(names.of_report(report) if names else _failed(report)))
    paths = (out / "training.zarr", out / "fingerprint.json", out / "plan.json", out / "report.json")
    say(*(str(path) for path in paths if path.exists()))
    _end(report)


def say_failed(report: Report) -> None:
    """Print the failed cases; exit with status 1 if there are any."""
    say(*_failed(report))
    _end(report)


def _end(report: Report) -> None:
    if report.failed:
        sys.exit(1)


def _failed(report: Report) -> list[str]:
    return [f"failed  {case.case}: {case.cause}" for case in report.failed]


@dataclass
class FileNames:
    """Shows the names of SOURCE's files on the terminal, or a hint at the option that does."""

    are_shown: bool
    sources: Sources | None = None

    def found(self, source: Path, sources: Sources) -> Sources:
        """Log the number of cases in SOURCE and the files that were left out; return `sources`."""
        from voxelmill.cli.show_files import left_out

        self.sources = sources
        cases, skipped = len(sources.cases), ", ".join(sources.skipped)
        rest = f", left out {skipped}" if skipped else ""
        logger.info("found %d case%s%s", cases, "" if cases == 1 else "s", rest)
        if self.are_shown:
            say(*left_out(source.absolute(), sources))
        return sources

    def of_report(self, report: Report) -> Iterable[str]:
        """Return the lines on failed cases; with file names, those on notes and repairs as well."""
        from voxelmill.cli.show_files import HINT, report_lines

        if self.are_shown and self.sources:
            return report_lines(report, self.sources)
        return [*_failed(report), HINT] if report.failed else []

    @contextmanager
    def of_refusals(self) -> Iterator[None]:
        """Print the files that an error refers to before it is raised, or append the hint to its text."""
        from voxelmill.cli.show_files import HINT, refusal_lines

        try:
            yield
        except VoxelmillError as error:
            files = error.files if isinstance(error, SourceError) else ()
            lines = [repr(str(path)) for path in files]
            lines += refusal_lines(str(error), self.sources) if self.sources else []
            if self.are_shown:
                _write(console, lines)
            elif lines and not isinstance(error, MemoryLimitError):
                error.args = (f"{error} {HINT}",)
            raise
