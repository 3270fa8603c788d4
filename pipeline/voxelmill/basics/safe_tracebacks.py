"""What may be told of an exception that nobody foresaw: where it came up, and nothing of what it says.

In: an exception. Out: its type, and the modules and lines that it passed. The text of an exception may quote
a patient's name or the path of a file, and so may the source lines of a caller's program: neither is shown.
voxelmill's own errors never do, and keep theirs.
"""

from __future__ import annotations

import os
from traceback import walk_tb

from voxelmill.basics.errors import VoxelmillError

OWN = __name__.partition(".")[0]


def place(error: BaseException) -> str:
    """One clause: ``ValueError at numpy.lib.format:830, called by voxelmill.runs.job:38``."""
    passed = [(module, line) for module, _, line in _frames(error)]
    if not passed:
        return type(error).__name__
    last = passed[-1]
    own = next((at for at in reversed(passed) if at[0].partition(".")[0] == OWN), last)
    called = "" if own == last else f", called by {own[0]}:{own[1]}"
    return f"{type(error).__name__} at {last[0]}:{last[1]}{called}"


PROGRAMMING = (AttributeError, NameError, TypeError, ImportError, AssertionError, NotImplementedError)
"""What a mistake in a program raises, or a library that changed its interface."""


def is_own_fault(error: BaseException) -> bool:
    """Whether a line of voxelmill raised what a mistake in a program raises, and no library that it called.

    A library raises whatever it likes over a damaged file. A line of voxelmill that asks for an attribute
    which is not there is a bug, and no damage to a user's data.
    """
    lookups = ("__getattr__", "__getattribute__")  # of a library's class or module, which a line of ours asks
    frames = [module for module, function, _ in _frames(error) if function not in lookups]
    return isinstance(error, PROGRAMMING) and bool(frames) and frames[-1].partition(".")[0] == OWN


def trace(error: BaseException) -> str:
    """The frames of an exception, and before them those of what it came from, as Python orders them."""
    lines = ["Traceback (most recent call last; without what the exceptions say):"]
    for link in _chain(error):
        lines += [f"  {module}:{line} in {function}" for module, function, line in _frames(link)]
        lines.append(f"{type(link).__name__}{_reason(link)}")
    return "\n".join(lines)


def system_reason(error: OSError) -> str:
    """What the operating system says of the kind of an error, or its type where it says nothing."""
    return os.strerror(error.errno) if error.errno else type(error).__name__


def _reason(error: BaseException) -> str:
    if isinstance(error, VoxelmillError):
        return f": {error}"
    return f" ({system_reason(error)})" if isinstance(error, OSError) and error.errno else ""


def _frames(error: BaseException) -> list[tuple[str, str, int]]:
    """Module, function and line of each frame; a path of a file would name folders."""
    return [
        (frame.f_globals.get("__name__", "?"), frame.f_code.co_name, line)
        for frame, line in walk_tb(error.__traceback__)
    ]


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and what it came from, the first cause first, each once."""
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return found[::-1]
