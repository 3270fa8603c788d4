"""Silence pydicom: its warnings and log messages quote tag values, which may name a patient.

In: a block of code. Out: nothing. Exceptions pass through; the caller words them without values.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

logging.getLogger("pydicom").addHandler(logging.NullHandler())
logging.getLogger("pydicom").propagate = False

_lock = threading.Lock()
_filters = ExitStack()
_inside = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore all warnings while any thread is inside.

    Warning filters are global to the process: the first thread in sets them, the last one out restores them.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside
    with _lock:
        if _inside == 0:
            _filters.enter_context(warnings.catch_warnings(action="ignore"))
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0:
            _filters.close()
