"""Ctrl-C and a batch system's SIGTERM: a command ends in order, and what it holds is let go.

In: signals. Out: a `KeyboardInterrupt`, once. Does not say what became of the command.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

terminated = threading.Event()
"""Whether SIGTERM came."""


def heed_signals() -> None:
    """From now on SIGTERM ends like Ctrl-C, and no Ctrl-C is lost."""
    sys.unraisablehook = lose_no_interrupt
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> None:
    """What was started is stopped, jobs are cancelled, OUT is let go."""
    if not terminated.is_set():
        terminated.set()
        raise KeyboardInterrupt


def lose_no_interrupt(lost: sys.UnraisableHookArgs) -> None:
    """Ctrl-C amid a garbage collection would be printed as a traceback and forgotten: it comes again."""
    if lost.exc_type is KeyboardInterrupt:
        main = threading.main_thread().ident
        threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


@contextmanager
def once() -> Iterator[None]:
    """After one Ctrl-C the cluster is closed, which takes a second; more of them change nothing."""
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise
