"""Temporary names: what lies half-written or half-removed on disk, and whose it is.

What is being made is called `<name>.<32 hex digits>.partial` until it is whole, what is being removed
`<name>.<32 hex digits>.trash`. The first 12 digits are the id of the run that works, the other 20 are random:
so what a killed run left can be removed while other runs write beside it. Knows no store and no lease.
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
"""Pattern of the id of a run."""

LEFT = re.compile(rf"\.({ID})[0-9a-f]{{20}}\.(?:partial|trash)$")


def new_id() -> str:
    """A random id for a run."""
    return secrets.token_hex(6)


PROCESS = new_id()

RUN: ContextVar[str] = ContextVar("RUN", default=PROCESS)
"""Id of the run that this thread works for; the process's own where none is set."""


@contextmanager
def working_for(run: str) -> Iterator[None]:
    """Give temporary names the id of a run; for this thread alone, so a task in a thread enters it itself."""
    token = RUN.set(run)
    try:
        yield
    finally:
        RUN.reset(token)


def partial_name(path: Path) -> Path:
    """A name beside `path` for what is being made."""
    return _beside(path, "partial")


def trash_name(path: Path) -> Path:
    """A name beside `path` for what is being removed."""
    return _beside(path, "trash")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{RUN.get()}{secrets.token_hex(10)}.{ending}")


def is_left(path: Path) -> bool:
    """Whether a name is one of these."""
    return LEFT.search(path.name) is not None


def owner(path: Path) -> str:
    """Id of the run that gave a temporary name.

    Raises
    ------
    ValueError
        If it is none; see `is_left`.
    """
    found = LEFT.search(path.name)
    if found is None:
        raise ValueError(f"{path.name} is no temporary name")
    return found[1]


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file so that a reader, or a power cut, finds the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error says more
            partial.unlink()
        raise


def write_changed(path: Path, content: bytes) -> None:
    """Write a small file whole, see `write_whole`, unless it holds that already."""
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    write_whole(path, content)


def try_to_write(folder: Path) -> None:
    """Write a file, rename it and remove it again, as everything here is written.

    Raises
    ------
    OSError
        If the file system, or a permission, does not let that be.
    """
    tried = partial_name(folder / "tried")
    with suppress(FileNotFoundError):  # another run has swept it away, see `sweep`
        write_whole(tried, b"")
        tried.unlink()


def sweep(folder: Path, live: frozenset[str] | Callable[[], frozenset[str]], whole: bool = False) -> None:
    """Remove what runs that are over left half-written or half-removed.

    Parameters
    ----------
    folder : Path
        It need not be there; another process may sweep it, too.
    live : set of str, or a function that makes one
        Ids of the runs that go on. A function is called when the names are known, and only where there are
        any: a run that begins meanwhile is in its answer, while a set that is made before may lack it.
    whole : bool
        Also below `folder`.
    """
    left = list(_left(folder, whole))
    if not left:
        return
    going_on = live() if callable(live) else live
    for path in left:
        if owner(path) not in going_on:
            remove(path)


def _left(folder: Path, whole: bool) -> Iterator[Path]:
    """Temporary names in a folder; what lies inside of one is not looked at."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in [*folders, *files] if is_left(Path(name)))
        folders[:] = [name for name in folders if whole and not is_left(Path(name))]


def remove(path: Path) -> None:
    """Remove a file, a folder and all it holds, or a link, but never what a link leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
