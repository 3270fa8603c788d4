"""Tracebacks of unexpected exceptions that are safe to show: where they were raised, without their text.

In: an exception. Out: its type, and the modules and lines of its frames. The text of an exception may quote
a patient's name or the path of a file, and so may source lines of the caller's program: neither is shown.
voxelmill's own errors quote neither, so their text is kept.
"""

from __future__ import annotations

import os
from traceback import walk_tb

from voxelmill.basics.errors import VoxelmillError

OWN = __name__.partition(".")[0]


def place(error: BaseException) -> str:
    """Return type and place: ``ValueError at numpy.lib.format:830, called by voxelmill.runs.job:38``."""
    passed = [(module, line) for module, _, line in _frames(error)]
    if not passed:
        return type(error).__name__
    last = passed[-1]
    own = next((at for at in reversed(passed) if at[0].partition(".")[0] == OWN), last)
    called = "" if own == last else f", called by {own[0]}:{own[1]}"
    return f"{type(error).__name__} at {last[0]}:{last[1]}{called}"


PROGRAMMING = (AttributeError, NameError, TypeError, ImportError, AssertionError, NotImplementedError)
"""Exceptions that a programming mistake raises, or a library with a changed interface."""


def is_own_fault(error: BaseException) -> bool:
    """Return whether a line of voxelmill itself raised one of `PROGRAMMING`.

    A library may raise any exception on a damaged file. A line of voxelmill that raises AttributeError is a
    bug, not damage to the user's data.
    """
    # These frames of a library are skipped: our line that asked for the missing attribute is at fault.
    lookups = ("__getattr__", "__getattribute__")
    frames = [module for module, function, _ in _frames(error) if function not in lookups]
    return isinstance(error, PROGRAMMING) and bool(frames) and frames[-1].partition(".")[0] == OWN


def trace(error: BaseException) -> str:
    """Return the traceback of an exception and of its causes, in Python's order, without their texts."""
    lines = ["Traceback (most recent call last; without what the exceptions say):"]
    for link in _chain(error):
        lines += [f"  {module}:{line} in {function}" for module, function, line in _frames(link)]
        lines.append(f"{type(link).__name__}{_reason(link)}")
    return "\n".join(lines)


def system_reason(error: OSError) -> str:
    """Return the operating system's text for the errno, or the type of the error if it has none."""
    return os.strerror(error.errno) if error.errno else type(error).__name__


def _reason(error: BaseException) -> str:
    if isinstance(error, VoxelmillError):
        return f": {error}"
    return f" ({system_reason(error)})" if isinstance(error, OSError) and error.errno else ""


def _frames(error: BaseException) -> list[tuple[str, str, int]]:
    """Return module, function and line of each frame; file names are left out because they name folders."""
    return [
        (frame.f_globals.get("__name__", "?"), frame.f_code.co_name, line)
        for frame, line in walk_tb(error.__traceback__)
    ]


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and its causes, the first cause first, each once."""
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return found[::-1]
