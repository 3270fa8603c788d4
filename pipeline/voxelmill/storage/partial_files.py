"""Temporary names for files that are half-written or half-removed, and atomic writes.

A file that is being written is called `<name>.<32 hex digits>.partial`, one that is being removed
`<name>.<32 hex digits>.trash`. The first 12 digits are the id of the run, the other 20 are random. So the
leftovers of a killed run can be removed while other runs write. This module knows no store and no lease.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

ID = "[0-9a-f]{12}"
"""Pattern of a run's id."""

LEFT = re.compile(rf"\.({ID})[0-9a-f]{{20}}\.(?:partial|trash)$")


def new_id() -> str:
    """Return a random id for a run."""
    return secrets.token_hex(6)


PROCESS = new_id()

RUN: ContextVar[str] = ContextVar("RUN", default=PROCESS)
"""Id of the run that this thread works for; by default an id of the process."""


@contextmanager
def working_for(run: str) -> Iterator[None]:
    """Use the id of a run in temporary names, in this thread only; each task's thread enters it itself."""
    token = RUN.set(run)
    try:
        yield
    finally:
        RUN.reset(token)


def partial_name(path: Path) -> Path:
    """Return a name beside `path` for a file or folder that is being made."""
    return _beside(path, "partial")


def trash_name(path: Path) -> Path:
    """Return a name beside `path` for a file or folder that is being removed."""
    return _beside(path, "trash")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{RUN.get()}{secrets.token_hex(10)}.{ending}")


def is_left(path: Path) -> bool:
    """Return whether a name is temporary."""
    return LEFT.search(path.name) is not None


def owner(path: Path) -> str:
    """Return the id of the run in a temporary name.

    Raises
    ------
    ValueError
        If the name is not temporary; see `is_left`.
    """
    found = LEFT.search(path.name)
    if found is None:
        raise ValueError(f"{path.name} is no temporary name")
    return found[1]


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file atomically: a reader, or a power cut, finds the whole old or the whole new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to raise
            partial.unlink()
        raise


def write_changed(path: Path, content: bytes) -> None:
    """Write a small file with `write_whole`, unless it has this content already."""
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    write_whole(path, content)


def try_to_write(folder: Path) -> None:
    """Write a file, rename it and remove it, to test that the folder allows this.

    Raises
    ------
    OSError
        If the file system or a permission does not allow it.
    """
    tried = partial_name(folder / "tried")
    with suppress(FileNotFoundError):  # another run has removed it, see `sweep`
        write_whole(tried, b"")
        tried.unlink()


def sweep(folder: Path, live: frozenset[str] | Callable[[], frozenset[str]], whole: bool = False) -> None:
    """Remove half-written and half-removed files that ended runs have left.

    Parameters
    ----------
    folder : Path
        Need not exist. Other processes may sweep it at the same time.
    live : set of str, or a function that returns one
        Ids of the runs that are still going. A function is called after the names are listed, and only if
        there are any, so it includes runs that began meanwhile; a set that was made before may lack them.
    whole : bool
        Whether to sweep the folders below `folder` too.
    """
    left = list(_left(folder, whole))
    if not left:
        return
    going_on = live() if callable(live) else live
    for path in left:
        if owner(path) not in going_on:
            remove(path)


def _left(folder: Path, whole: bool) -> Iterator[Path]:
    """Yield the temporary names in a folder, without looking into temporary folders."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in [*folders, *files] if is_left(Path(name)))
        folders[:] = [name for name in folders if whole and not is_left(Path(name))]


def remove(path: Path) -> None:
    """Remove a file, a folder with its content, or a link, but never the target of a link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
