"""Why a worker died, as far as the process that watched over it has told the scheduler.

In: a client, and the address of a worker. Out: the cause that a case is reported with; details for the log.
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
"""The scheduler may hear of a death from the worker's connection before it is told how it came."""

CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}

_MEMORY = "Rerun with fewer workers or more memory."
_LOG = "Look at the end of the workers' logs; of what it read, try another copy."


def cause_of_death(client: Client, error: KilledWorker) -> tuple[str, str]:
    """The line that a case gets, and details.

    Parameters
    ----------
    error : KilledWorker
        What Dask says of a task after three deaths; it names the last worker.
    """
    death = _told(client, error.last_worker.address)
    why, advice = explain(death)
    cause = f"its worker died three times while working on it: {why}. It was skipped. {advice}"
    return cause, f"{error}\n{death or 'nothing is known of how the last worker ended'}"


def explain(death: Mapping[str, Any] | None) -> tuple[str, str]:
    """Why a worker died, and what to do.

    Parameters
    ----------
    death : mapping or None
        "exit": status, or the negative number of a signal; "killed_for_memory": whether the kernel did so
        meanwhile. None where nobody told.
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
    """What was told of a worker's death; None where nothing is for a while."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            events = client.get_events(TOPIC)
        except Exception as error:  # the scheduler is gone, which whoever asks it next will say
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
