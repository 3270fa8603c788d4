"""Whether a cluster has workers, and how long to wait for them.

In: a client, and a `Watch` that says when to give up. Out: counts of threads and GPUs, or a
`ClusterLostError` if there has been no worker for too long or the scheduler is gone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dask.utils import key_split
from distributed import Client

from voxelmill.basics.errors import ClusterLostError
from voxelmill.basics.safe_tracebacks import is_own_fault

logger = logging.getLogger("voxelmill")

KEYS_KEPT = 5000
"""Keys of tasks that a scheduler may remember after they are forgotten: half a kilobyte each."""

SAY_SECONDS = 60.0
"""Time between two lines that say what is waited for."""


@dataclass(frozen=True)
class Watch:
    """What is looked at while tasks run.

    Attributes
    ----------
    no_worker_timeout : float
        Seconds without any worker after which nothing is expected any more.
    pending : callable
        Number of jobs that wait in the queue of a batch system; while some do, no worker is no failure.
    check : callable
        Raises where the run may not go on.
    needs_gpu : bool
        Whether a worker without a GPU is of no use.
    newcomers : callable
        Given the addresses of all workers, says why one of them cannot be used, or None.
    """

    no_worker_timeout: float = 300.0
    pending: Callable[[], int] = lambda: 0
    check: Callable[[], None] = lambda: None
    needs_gpu: bool = False
    newcomers: Callable[[list[str]], str | None] = lambda _: None


class Patience:
    """How long there has been no worker, and what is said meanwhile."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._since: float | None = None
        self._said = -math.inf

    def look(self, threads: int) -> None:
        """Note how many threads there are.

        Raises
        ------
        ClusterLostError
            If there has been none for too long.
        """
        now = time.monotonic()
        if threads:
            self._since = None
            return
        if self._since is None:
            self._since = self._said = now
        waited, timeout = now - self._since, self._watch.no_worker_timeout
        if waited < min(timeout, SAY_SECONDS) and now - self._said < SAY_SECONDS:
            return
        pending = self._watch.pending()
        if pending:
            self._since = now
        elif waited >= timeout:
            raise ClusterLostError(
                f"no {self._worker} for {waited:.0f} s. What is written stays: see in their logs why workers "
                "ended, start others, and run the same command again to go on from here."
            )
        if now - self._said >= SAY_SECONDS:
            self._said = now
            jobs = f", {pending} jobs wait in the queue" if pending else ""
            logger.info("waiting for a %s%s", self._worker, jobs)

    @property
    def _worker(self) -> str:
        return "worker with a GPU" if self._watch.needs_gpu else "worker"


def count_threads(client: Client) -> tuple[int, int, list[str]]:
    """Threads of all workers, tasks that their GPUs take at a time, and their addresses.

    Raises
    ------
    ClusterLostError
        If there is no scheduler to ask.
    """
    try:
        counts: tuple[int, int, list[str]] = client.run_on_scheduler(_threads_of)
        return counts
    except Exception as error:  # Dask has many for it
        if is_own_fault(error):
            raise
        raise ClusterLostError(
            f"the Dask scheduler is gone ({type(error).__name__}). What is written stays: start it, and run "
            "the same command again to go on from here."
        ) from None


def _threads_of(dask_scheduler: Any) -> tuple[int, int, list[str]]:
    _forget_what_is_over(dask_scheduler)
    workers = list(dask_scheduler.workers.values())
    gpus = int(sum(w.resources.get("GPU", 0) for w in workers))
    return sum(w.nthreads for w in workers), gpus, [w.address for w in workers]


def _forget_what_is_over(dask_scheduler: Any) -> None:
    """Keep a scheduler's memory flat: Dask notes every submission, and its last 100,000 keys."""
    spans = dask_scheduler.extensions.get("spans")
    for span in spans.spans.values() if spans is not None else ():
        if span.metadata is not None:
            span.metadata["collections"].clear()
    split: Any = key_split
    if split.cache_info().currsize > KEYS_KEPT:
        split.cache_clear()
