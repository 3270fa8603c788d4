"""Showing how far a stage is: a live bar on a terminal, plain lines elsewhere, tracebacks in the log file.

In: counts of tasks and voxels, as they finish, and how far those are that run. Out: what a person reads while
waiting. Knows no stage.
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
"""Time between two lines of progress where there is no terminal."""


@dataclass
class StageProgress:
    """Progress of one stage.

    Tasks that are done count one each, those that run the part of them that is done, and so does what is
    prepared for them. What is shown never goes back, where a task is tried again.
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
        """Since the stage began."""
        return time.perf_counter() - self.started

    def advance(self, voxels: int, step: str = "") -> None:
        """One more task is finished."""
        with self.lock:
            self.done += 1
            self.voxels += voxels
            self.parts = {name: part for name, part in self.parts.items() if part < 1 and name != step}
            self._show()

    def note(self, step: str, part: float) -> None:
        """So much of a task that runs is done, of 1; called from any thread."""
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
        """A task failed; the cause is shown, the details go to the log file."""
        self.failures += 1
        say_failed(self.name, case, cause)
        if details:
            logger.debug("%s: case %s:\n%s", self.name, case, details)

    def _rate(self) -> str:
        return f"{self.voxels / 1e6 / max(self.seconds, 1e-9):.1f} Mvoxel/s" if self.voxels else ""

    def summary(self) -> str:
        """One line for the end of the stage."""
        count = f"{self.done} " if self.total > 1 else ""
        parts = [f"{count}done in {self.seconds:.1f} s", self._rate()]
        if self.failures:
            parts.append(f"{self.failures} failed")
        return f"{self.name}: " + ", ".join(p for p in parts if p)


def say_failed(stage: str, case: str, cause: str) -> None:
    """The line that a failed case gets."""
    logger.error("%s: case %s: %s", stage, case, cause)


@dataclass
class Reporter:
    """Where progress goes.

    Attributes
    ----------
    console : rich.console.Console or None
        None shows nothing; a console that is no terminal gets plain lines.
    """

    console: Console | None = None

    @contextmanager
    def stage(self, name: str, total: int, kept: int) -> Iterator[StageProgress]:
        """Progress of one stage of `total` tasks, while `kept` were found done."""
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
    """A log that cannot be written stops nothing: whoever writes what matters says why, in one line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(folder: Path, name: str = "voxelmill.log") -> Iterator[None]:
    """Everything, the places of errors too, into a file of the folder for as long as this lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(folder / name, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    previous = logger.level
    logger.setLevel(logging.DEBUG)  # not the attribute: what was too low before would stay left out
    try:
        yield
    except Exception as error:
        logger.debug("stopped by an error\n%s", trace(error))
        raise
    finally:
        logger.setLevel(previous)
        logger.removeHandler(handler)
        handler.close()
