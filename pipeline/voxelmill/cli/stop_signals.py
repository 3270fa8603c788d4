"""Ctrl-C and a batch system's SIGTERM: both end a command in order, and release what it holds.

In: signals. Out: one `KeyboardInterrupt`. The exit status and its message are set in `commands`.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

terminated = threading.Event()
"""Set once SIGTERM has arrived."""


def heed_signals() -> None:
    """Treat SIGTERM like Ctrl-C from now on, and lose no Ctrl-C."""
    sys.unraisablehook = lose_no_interrupt
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: object) -> None:
    """Raise KeyboardInterrupt once: workers are stopped, jobs are cancelled, the lease on OUT is released."""
    if not terminated.is_set():
        terminated.set()
        raise KeyboardInterrupt


def lose_no_interrupt(lost: sys.UnraisableHookArgs) -> None:
    """Send a lost Ctrl-C again: during a garbage collection Python prints a traceback and drops it."""
    if lost.exc_type is KeyboardInterrupt:
        main = threading.main_thread().ident
        threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


@contextmanager
def once() -> Iterator[None]:
    """Ignore further Ctrl-C after the first: closing the cluster takes a second and must not be cut short."""
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise
