"""Every error a user can meet.

Each message has four parts, in one or two sentences: what is wrong, what was found against what was
expected, where, and what to do. It never holds a file name, since a file name can hold a patient's name.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

CANNOT_WRITE = {
    errno.ENOSPC: ("OUT's disk is full", "make room"),
    errno.EDQUOT: ("the quota of OUT's disk is used up", "make room"),
    errno.EROFS: ("OUT's disk cannot be written any more", "see that it can be"),
}
"""What is wrong and what to do, for errors that come of writing alone: SOURCE is read, so they are OUT's.

Whatever else is written after one of them fails as well: no other case can succeed.
"""


def disk_message(error: OSError) -> str | None:
    """The line for an error of OUT's disk; None for any other."""
    if error.errno not in CANNOT_WRITE:
        return None
    what, remedy = CANNOT_WRITE[error.errno]
    return f"{what} ({error.strerror}). What is written stays: {remedy} and run the same command again."


CANNOT = {
    errno.EACCES: "no permission ({}). See that OUT can be written, SOURCE read, by this user",
    errno.EPERM: "no permission ({}). See that OUT can be written, SOURCE read, by this user",
    errno.ENAMETOOLONG: "a name or a path is too long ({}). Choose a shorter OUT, or shorter ids of cases",
    errno.EMFILE: "no more files can be opened ({}). Raise the limit (ulimit -n), or use fewer workers",
    errno.ENFILE: "no more files can be opened ({}). Use fewer workers, or another machine",
    errno.EXDEV: "OUT's file system cannot rename files ({}). Choose OUT on another",
    errno.ENOTSUP: "OUT's file system cannot do what is needed ({}). Choose OUT on another",
    errno.ENOSYS: "OUT's file system cannot do what is needed ({}). Choose OUT on another",
    errno.ENOMEM: "the system gives no more memory ({}). Use fewer workers, or raise the limit (ulimit -v)",
}
"""What is wrong and what to do, for errors that come of whatever is done with a file."""


def system_message(error: OSError) -> str:
    """The line for an error of the operating system; it names no file."""
    said = error.errno and os.strerror(error.errno)
    if error.errno in CANNOT:
        return CANNOT[error.errno].format(said) + "."
    return f"{said or type(error).__name__}. Check that OUT and SOURCE can be used, and run again."


class VoxelmillError(Exception):
    """Base of all errors that voxelmill raises on purpose; shown as one line."""


@contextmanager
def speaking_of(what: str) -> Iterator[None]:
    """Let refusals of a source's file begin with what the file is to its case: "channel 1 (T2)", "the label".

    They keep their type. One that names its subject itself stays as it is, and so do errors of OUT. An empty
    text, for a case of one file, changes nothing.
    """
    try:
        yield
    except (SourceError, FormatError, GeometryError, ValueRuleError) as error:
        if not str(error).startswith(what):
            error.args = (f"{what}: {error}",)
        raise


class StoppedError(Exception):
    """Ctrl-C, or a batch system's SIGTERM; not KeyboardInterrupt, which the command parser would swallow."""


class ConfigError(VoxelmillError):
    """A setting, an option or a path is wrong; refused before any work begins."""


class SourceError(VoxelmillError):
    """SOURCE as a whole cannot be used: a wrong manifest, an empty folder.

    Attributes
    ----------
    files : tuple of Path
        Those that it speaks of; its text holds no name.
    """

    files: tuple[Path, ...] = ()

    def about(self, files: Iterable[Path]) -> Self:
        """The same error of some files."""
        self.files = tuple(files)
        return self


class FormatError(VoxelmillError):
    """A file is not what its format says, or holds what voxelmill does not read."""


class GeometryError(VoxelmillError):
    """Grids that should agree do not, or a geometry makes no sense."""


class SpacingError(GeometryError):
    """The distance between voxels is missing, not positive or not regular."""


class ValueRuleError(VoxelmillError):
    """Voxel values break a rule: all zero, not finite, a label that is not a whole number."""


class PlanError(VoxelmillError):
    """The plan cannot be carried out with these settings."""


class MemoryLimitError(VoxelmillError):
    """Work does not fit into the memory that a worker may take, however it is cut."""


class StoreError(VoxelmillError):
    """A store is missing, damaged or not what it should be."""


class SettingsChangedError(StoreError):
    """OUT was made with other settings than this run's."""


class StageError(VoxelmillError):
    """A stage that needs all its cases could not be finished."""


class ClusterLostError(VoxelmillError):
    """No worker or no scheduler is left: the run ends, what is written stays."""


class DiskError(VoxelmillError):
    """OUT's disk takes nothing more: the run ends, what is written stays."""


class LeaseError(VoxelmillError):
    """OUT is held by another run."""


class LeaseLostError(LeaseError):
    """OUT was held by this run, and is no more."""


ENDED = (ClusterLostError, DiskError, LeaseLostError)
"""What ends work that had begun: exit status 1. Every other error refuses it, and leaves OUT as it was."""
