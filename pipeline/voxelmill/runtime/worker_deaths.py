"""The cause of a worker's death, as far as its nanny has told the scheduler.

In: a client, and Dask's error with the address of the worker. Out: the cause for the report of a case, and
details for the log.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from typing import Any

from distributed import Client
from distributed.scheduler import KilledWorker

from voxelmill.basics.safe_tracebacks import is_own_fault
from voxelmill.nanny import TOPIC

WAIT_SECONDS = 2.0
"""Seconds to wait for the nanny's message: the scheduler may notice first that the connection is lost."""

CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
"""Signals of a crash in native code."""

_MEMORY = "Rerun with fewer workers or more memory."
_LOG = "Look at the end of the workers' logs; of what it read, try another copy."


def cause_of_death(client: Client, error: KilledWorker) -> tuple[str, str]:
    """Return the line for the report of a case, and details for the log.

    Parameters
    ----------
    client : distributed.Client
        Its scheduler has the nannies' messages.
    error : KilledWorker
        Dask's error for a task after three deaths; it names the last worker.
    """
    death = _told(client, error.last_worker.address)
    why, advice = explain(death)
    cause = f"its worker died three times while working on it: {why}. It was skipped. {advice}"
    return cause, f"{error}\n{death or 'nothing is known of how the last worker ended'}"


def explain(death: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return why a worker died, and what to do.

    Parameters
    ----------
    death : mapping or None
        "exit": exit status, or the negative number of a signal; "killed_for_memory": whether the kernel
        killed processes for lack of memory meanwhile. None if the nanny sent no message.
    """
    if death is None:
        return "its job or node is gone with it: walltime, cancelled, or lost", "Run again to go on."
    status = int(death["exit"])
    if status == -signal.SIGKILL and death["killed_for_memory"]:
        return "the kernel killed it for lack of memory", _MEMORY
    if status == -signal.SIGKILL:
        return "it was killed (SIGKILL), most likely for lack of memory by the batch system", _MEMORY
    if -status in CRASHES:
        return f"a native library crashed ({signal.Signals(-status).name})", _LOG
    if status == -signal.SIGTERM:
        return (
            "it was told to end (SIGTERM), as at the end of a job's walltime or by a cancel",
            "Run again to go on, with more walltime if that was it.",
        )
    if status < 0:
        return f"it was ended by signal {-status}", _LOG
    return f"it left with status {status}", _LOG


def _told(client: Client, worker: str) -> Mapping[str, Any] | None:
    """Return the nanny's message on a worker's death, or None if none comes within `WAIT_SECONDS`."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            events = client.get_events(TOPIC)
        except Exception as error:  # the scheduler is gone; the next call to it reports that
            if is_own_fault(error):
                raise
            return None
        for _, told in reversed(events):
            if told["worker"] == worker:
                found: Mapping[str, Any] = told
                return found
        if time.monotonic() > end:
            return None
        time.sleep(0.1)
