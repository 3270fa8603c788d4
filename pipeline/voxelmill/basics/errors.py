"""All errors that a user can see.

Each message says in one or two sentences what is wrong, what was found and what was expected, where, and
what to do. It never holds a file name, because a file name can hold a patient's name.
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
"""By errno: what is wrong and what to do. Only writing raises these errors, so they always concern OUT.

After one of them every further write fails too, so no other case can succeed.
"""


def disk_message(error: OSError) -> str | None:
    """Return the message for an error of OUT's disk, or None for any other error."""
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
"""By errno: what is wrong and what to do, for errors of reading or writing."""


def system_message(error: OSError) -> str:
    """Return the message for an error of the operating system; it names no file."""
    said = error.errno and os.strerror(error.errno)
    if error.errno in CANNOT:
        return CANNOT[error.errno].format(said) + "."
    return f"{said or type(error).__name__}. Check that OUT and SOURCE can be used, and run again."


class VoxelmillError(Exception):
    """Base class of all errors that voxelmill raises on purpose; each is shown as one line."""


@contextmanager
def speaking_of(what: str) -> Iterator[None]:
    """Prefix errors about a source file with its role in the case, such as "channel 1 (T2)" or "the label".

    The type of the error does not change. Errors that already begin with `what`, and errors about OUT, stay
    as they are. An empty `what`, for a case with one file, changes nothing.
    """
    try:
        yield
    except (SourceError, FormatError, GeometryError, ValueRuleError) as error:
        if not str(error).startswith(what):
            error.args = (f"{what}: {error}",)
        raise


class StoppedError(Exception):
    """The run was stopped by Ctrl-C or a batch system's SIGTERM.

    It replaces KeyboardInterrupt, which the command parser would swallow.
    """


class ConfigError(VoxelmillError):
    """A setting, an option or a path is wrong; refused before any work begins."""


class SourceError(VoxelmillError):
    """SOURCE as a whole cannot be used: a wrong manifest, an empty folder.

    Attributes
    ----------
    files : tuple of Path
        The files that the error is about; its text names none of them.
    """

    files: tuple[Path, ...] = ()

    def about(self, files: Iterable[Path]) -> Self:
        """Record the files that the error is about, and return the error."""
        self.files = tuple(files)
        return self


class FormatError(VoxelmillError):
    """A file is not what its format says, or holds what voxelmill does not read."""


class GeometryError(VoxelmillError):
    """Grids that should agree do not, or a geometry is invalid."""


class SpacingError(GeometryError):
    """The spacing is missing, not positive or not regular."""


class ValueRuleError(VoxelmillError):
    """Voxel values break a rule: all zero, not finite, a label that is not a whole number."""


class PlanError(VoxelmillError):
    """The plan cannot be carried out with these settings."""


class MemoryLimitError(VoxelmillError):
    """A task does not fit into a worker's memory limit, even in its smallest pieces."""


class StoreError(VoxelmillError):
    """A store is missing, damaged or not as expected."""


class SettingsChangedError(StoreError):
    """OUT was made with different settings from this run's."""


class StageError(VoxelmillError):
    """A stage that needs all cases could not be finished."""


class ClusterLostError(VoxelmillError):
    """No worker or no scheduler is left: the run ends and keeps what it has written."""


class DiskError(VoxelmillError):
    """OUT's disk accepts no more writes: the run ends and keeps what it has written."""


class LeaseError(VoxelmillError):
    """OUT is held by another run."""


class LeaseLostError(LeaseError):
    """This run held OUT and has lost it."""


ENDED = (ClusterLostError, DiskError, LeaseLostError)
"""Errors that end a run after it has begun: exit status 1. All others refuse it and leave OUT unchanged."""
