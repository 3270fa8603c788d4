"""The progress of a stage: a live bar on a terminal, plain lines elsewhere, tracebacks in the log file.

In: counts of finished tasks and voxels, and the progress of running tasks. Out: text for the user who waits.
Knows no stage.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from voxelmill.basics.safe_tracebacks import trace

logger = logging.getLogger("voxelmill")

LINE_EVERY_SECONDS = 10.0
"""Seconds between two lines of progress if there is no terminal."""


@dataclass
class StageProgress:
    """Progress of one stage.

    A finished task counts 1. A running task counts the part of it that is done, and so does a step that
    prepares other tasks. The number shown never falls, even if a task is tried again.

    Attributes
    ----------
    total, done, failures : int
        Tasks of the stage, finished ones, and failed ones.
    voxels : int
        Voxels of the finished tasks.
    shown : float
        Tasks shown as done, 0 to `total`.
    parts : dict
        Part done of each running step, 0 to 1.
    """

    name: str
    total: int
    bar: Progress | None = None
    bar_id: TaskID | None = None
    done: int = 0
    voxels: int = 0
    failures: int = 0
    started: float = field(default_factory=time.perf_counter)
    last_line: float = field(default_factory=time.perf_counter)
    shown: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.perf_counter() - self.started

    def advance(self, voxels: int, step: str = "") -> None:
        """Count one more finished task; `step` is its name."""
        with self.lock:
            self.done += 1
            self.voxels += voxels
            self.parts = {name: part for name, part in self.parts.items() if part < 1 and name != step}
            self._show()

    def note(self, step: str, part: float) -> None:
        """Record the part of a running step that is done, 0 to 1; safe to call from any thread."""
        with self.lock:
            self.parts[step] = max(part, self.parts.get(step, 0.0))
            self._show()

    def _show(self) -> None:
        self.shown = max(self.shown, min(self.total, self.done + sum(self.parts.values())))
        if self.bar is not None and self.bar_id is not None:
            count = f"{self.done}/{self.total}"
            self.bar.update(self.bar_id, completed=self.shown, count=count, rate=self._rate())
        elif self.shown and time.perf_counter() - self.last_line > LINE_EVERY_SECONDS:
            self.last_line = time.perf_counter()
            logger.info(self._line())

    def _line(self) -> str:
        percent = f" ({100 * self.shown / self.total:.0f} %)" if self.parts else ""
        left = self.seconds / self.shown * (self.total - self.shown)
        parts = [f"{self.done} of {self.total}{percent}", self._rate(), f"about {left:.0f} s left"]
        return f"{self.name}: " + ", ".join(p for p in parts if p)

    def failed(self, case: str, cause: str, details: str | None) -> None:
        """Report a failed task: show the cause, and write the details to the log file."""
        self.failures += 1
        say_failed(self.name, case, cause)
        if details:
            logger.debug("%s: case %s:\n%s", self.name, case, details)

    def _rate(self) -> str:
        return f"{self.voxels / 1e6 / max(self.seconds, 1e-9):.1f} Mvoxel/s" if self.voxels else ""

    def summary(self) -> str:
        """Return one line for the end of the stage."""
        count = f"{self.done} " if self.total > 1 else ""
        parts = [f"{count}done in {self.seconds:.1f} s", self._rate()]
        if self.failures:
            parts.append(f"{self.failures} failed")
        return f"{self.name}: " + ", ".join(p for p in parts if p)


def say_failed(stage: str, case: str, cause: str) -> None:
    """Log the line for a failed case."""
    logger.error("%s: case %s: %s", stage, case, cause)


@dataclass
class Reporter:
    """Shows the progress of stages.

    Attributes
    ----------
    console : rich.console.Console or None
        A terminal gets a live bar. Any other console, and None, gets plain lines in the log.
    """

    console: Console | None = None

    @contextmanager
    def stage(self, name: str, total: int, kept: int) -> Iterator[StageProgress]:
        """Show the progress of one stage of `total` tasks; `kept` further tasks were found done."""
        if kept:
            logger.info("%s: %d found done, %d to do", name, kept, total)
        if self.console is not None and self.console.is_terminal and total:
            with _bar(self.console) as bar:
                bar_id = bar.add_task(name, total=total, count=f"0/{total}", rate="")
                progress = StageProgress(name, total, bar, bar_id)
                yield progress
        else:
            progress = StageProgress(name, total)
            yield progress
        if total:
            logger.info(progress.summary())


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class _LogFile(logging.FileHandler):
    """A log that cannot be written stops nothing: the code that writes results reports why, in one line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(folder: Path, name: str = "voxelmill.log") -> Iterator[None]:
    """Write all messages and the tracebacks of errors to a file of `folder`, while the context lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(folder / name, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    previous = logger.level
    logger.setLevel(logging.DEBUG)  # setting `level` itself would leave the logger's cache stale
    try:
        yield
    except Exception as error:
        logger.debug("stopped by an error\n%s", trace(error))
        raise
    finally:
        logger.setLevel(previous)
        logger.removeHandler(handler)
        handler.close()
