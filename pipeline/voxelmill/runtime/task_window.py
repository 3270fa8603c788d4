"""How tasks run: on a Dask client in a sliding window, or one by one in this process.

In: tasks, as an iterator that is read as far as the window goes. Out: the outcomes of their steps as they
come. A failure that may pass is tried again, workers may come and go, and what cannot go on without workers
or without a scheduler ends with an error that says so.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import suppress
from itertools import islice
from typing import Any

from dask.local import get_sync
from distributed import Client, Future
from distributed.scheduler import KilledWorker

from voxelmill.basics.errors import ClusterLostError, LeaseError
from voxelmill.basics.safe_tracebacks import is_own_fault, trace
from voxelmill.runtime.tasks import Key, Outcome, Task, graph_of
from voxelmill.runtime.worker_deaths import cause_of_death
from voxelmill.runtime.workers_present import Patience, Watch, count_threads

logger = logging.getLogger("voxelmill")

WINDOW_PER_THREAD = 8
"""Graphs submitted ahead for each thread of the cluster: workers never wait, the scheduler stays small."""

FEWEST_THREADS = 2
"""The window is for so many threads at least, so that workers that come later find work."""

TRIES = 3
PAUSE_SECONDS = 2.0
"""A step whose trouble may pass is tried so often; the pause before a try doubles each time."""

LOOK_SECONDS = 1.0
"""Time between two looks at the cluster."""


def execute(tasks: Iterable[Task], client: Client | None, watch: Watch | None = None) -> Iterator[Outcome]:
    """Run graphs and yield the outcomes of their steps as they come.

    Parameters
    ----------
    tasks : iterable of Task
        Consumed lazily: only a window of it is ever known to the scheduler.
    client : distributed.Client or None
        None runs Dask's synchronous scheduler in this process, in order.
    watch : Watch, optional
        When to give up.

    Raises
    ------
    ClusterLostError
        If there is no worker for too long, or no scheduler any more.
    """
    watch = watch or Watch()
    if client is None:
        return _execute_here(tasks, watch)
    return _execute_on(client, iter(tasks), watch)


def _execute_here(tasks: Iterable[Task], watch: Watch) -> Iterator[Outcome]:
    for t in tasks:
        watch.check()
        waiting = [t]
        while waiting:
            doing = waiting.pop()
            if doing.attempt > 1:
                time.sleep(pause_before(doing.attempt))
            outcomes = get_sync(graph_of([doing]), doing.key)
            final, again, _ = sort_out(doing, outcomes, is_alone=True)
            yield from final
            waiting += again


def _execute_on(client: Client, tasks: Iterator[Task], watch: Watch) -> Iterator[Outcome]:
    """Run graphs in a window; then those whose workers died or had no memory left once more, one by one.

    To Dask every task that a dead worker had waiting is a suspect, not only the one it was running. When
    nothing else runs, nothing else is to blame.
    """
    suspects: list[tuple[Task, KilledWorker | None]] = []
    window = _Window(client, watch)
    for of, result in window.results(tasks):
        if isinstance(result, KilledWorker):
            suspects += [(part, result) for part in _apart(of)]
        else:
            final, again, alone = sort_out(of, result)
            yield from final
            window.try_later(again)
            suspects += [(part, None) for part in alone]
    guilty: dict[Any, tuple[str, str]] = {}
    for of, error in suspects:
        # What it waits for may have killed three more workers already.
        known = guilty.get(error.task) if error else None
        if known is None:
            ((_, result),) = _Window(client, watch).results(iter([of]))
            if isinstance(result, list):
                yield from result
                continue
            key, error = _find_guilty(client, watch, of, result)
            known = guilty[key] = cause_of_death(client, error)
        cause, details = known
        for case in of.cases or [""]:
            yield Outcome(of.name, case, cause=cause, details=details)


def _find_guilty(client: Client, watch: Watch, of: Task, error: KilledWorker) -> tuple[Key, KilledWorker]:
    """What killed the workers of a task that ran alone: itself, or what stands before it.

    The scheduler hears a moment late that one task is done and the next has begun, and then blames the first
    for what the second did. So what stands before is to blame only if it kills its workers by itself.
    """
    for before in of.after:
        if before.key == error.task:
            ((_, result),) = _Window(client, watch).results(iter([before.again()]))
            if isinstance(result, KilledWorker):
                return before.key, result
    return of.key, error


def _apart(of: Task) -> list[Task]:
    """The parts of a task that can be blamed by themselves."""
    return [of] if len(of.cases) < 2 else [of.again(case) for case in of.cases]


def pause_before(attempt: int) -> float:
    """Seconds to wait before a try."""
    return PAUSE_SECONDS * 2.0 ** (attempt - 2)


def sort_out(
    of: Task, outcomes: Sequence[Outcome], is_alone: bool = False
) -> tuple[list[Outcome], list[Task], list[Task]]:
    """What is final, what is tried again, and what is tried again when nothing else runs.

    Cases stay whole: where one step is tried again, so is what came before it, which finds its work done.
    """
    final, again, alone = list[Outcome](), list[Task](), list[Task]()
    for case in dict.fromkeys(o.case for o in outcomes):
        of_case = [o for o in outcomes if o.case == case]
        troubles = {o.trouble for o in of_case}
        part = case if of.merge is None and case in of.cases else None
        if "passing" in troubles and of.attempt < TRIES:
            again.append(of.again(part))
        elif "memory" in troubles and not is_alone:
            alone.append(of.again(part))
        else:
            final += of_case
    return final, again, alone


class _Window:
    """Graphs that the scheduler knows of, as many as keep its workers busy, and what has come of them."""

    def __init__(self, client: Client, watch: Watch) -> None:
        self._client = client
        self._watch = watch
        self._running: dict[Key, tuple[Task, Future[list[Outcome]]]] = {}
        self._done: queue.SimpleQueue[Future[list[Outcome]]] = queue.SimpleQueue()
        self._later: list[tuple[float, Task]] = []
        self._patience = Patience(watch)
        self._looked = -math.inf
        self._size = self._gpus = 0

    def try_later(self, tasks: Iterable[Task]) -> None:
        """Run tasks after a pause."""
        self._later += [(time.monotonic() + pause_before(t.attempt), t) for t in tasks]

    def results(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, list[Outcome] | KilledWorker]]:
        """Every task with its outcomes, or with the error that says that it killed its workers."""
        self._look()
        self._fill(tasks)
        while self._running or self._later:
            yield from self._finished()
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self._look()
            self._fill(tasks)

    def _fill(self, tasks: Iterator[Task]) -> None:
        """Submit what is due and what there is room for, many at a time."""
        now = time.monotonic()
        due = [t for when, t in self._later if when <= now]
        self._later = [(when, t) for when, t in self._later if when > now]
        room = self._size - len(self._running)
        is_time = due or room > self._size // 4 or not self._running
        if is_time and (found := [*due, *islice(tasks, max(0, room))]):
            self._submit(found)

    def _submit(self, tasks: Sequence[Task]) -> None:
        """Let the scheduler know of tasks; those for a GPU, where none is, are for any worker."""
        tasks = [t.on_cpu() if t.on_gpu and self._is_gpu_gone else t for t in tasks]
        futures = self._client.get(graph_of(tasks), [t.key for t in tasks], sync=False)
        for t, future in zip(tasks, futures, strict=True):
            self._running[t.key] = t, future
            future.add_done_callback(self._done.put)

    def _finished(self) -> list[tuple[Task, list[Outcome] | KilledWorker]]:
        """What has come back by now; nothing, if that takes longer than until the next look."""
        found = []
        with suppress(queue.Empty):
            found.append(self._done.get(timeout=LOOK_SECONDS))
            while True:
                found.append(self._done.get_nowait())
        finished = [self._running.pop(f.key) for f in found if f.key in self._running]
        return list(zip([of for of, _ in finished], self._results_of(finished), strict=True))

    def _results_of(
        self, finished: Sequence[tuple[Task, Future[list[Outcome]]]]
    ) -> list[list[Outcome] | KilledWorker]:
        """Outcomes, all of them with one question where that can be."""
        try:
            return self._gather([future for _, future in finished])
        except (ClusterLostError, LeaseError):
            raise
        except Exception as error:
            if is_own_fault(error):
                raise
            return [self._result_of(of, future) for of, future in finished]

    def _result_of(self, of: Task, future: Future[list[Outcome]]) -> list[Outcome] | KilledWorker:
        try:
            (outcomes,) = self._gather([future])
            return outcomes
        except KilledWorker as error:
            return error.with_traceback(None)  # whose frame would keep the task from being forgotten
        except (ClusterLostError, LeaseError):
            raise
        except Exception as error:
            if is_own_fault(error):
                raise
            self._look()  # raises, where it is the scheduler that is gone
            cause = f"lost with its worker ({type(error).__name__}); run again."
            cases = of.cases or [""]
            return [Outcome(of.name, case, None, cause, trace(error), trouble="lost") for case in cases]

    def _gather(self, futures: Sequence[Future[list[Outcome]]]) -> list[list[Outcome] | KilledWorker]:
        """What tasks returned. Where their worker has died since, they are computed again, if one is left."""
        loop: Any = self._client.loop
        asked = asyncio.run_coroutine_threadsafe(
            self._client.gather(futures, asynchronous=True), loop.asyncio_loop
        )
        while not wait([asked], LOOK_SECONDS).done:
            self._look()
        return list(asked.result())

    def _look(self) -> None:
        """How many threads there are, and whether to go on."""
        self._watch.check()
        threads, gpus, workers = count_threads(self._client)
        self._check_newcomers(workers)
        self._looked = time.monotonic()
        self._size = WINDOW_PER_THREAD * max(FEWEST_THREADS, threads)
        self._patience.look(gpus if self._watch.needs_gpu else threads)
        self._note_gpus(gpus)

    def _check_newcomers(self, workers: list[str]) -> None:
        """End where a worker came that cannot be used: it would fail whatever it is given."""
        unfit = None
        with suppress(OSError):  # a scheduler that is gone, which the next look says
            unfit = self._watch.newcomers(workers)
        if unfit:
            raise ClusterLostError(f"{unfit} What is written stays: run the same command again to go on.")

    def _note_gpus(self, gpus: int) -> None:
        """Where the last GPU is gone, what waits for one goes to other workers."""
        self._gpus = gpus
        if not self._is_gpu_gone:
            return
        waiting = [t for t, _ in self._running.values() if t.on_gpu]
        if waiting:
            logger.warning("no worker with a GPU is left: CPUs go on")
            self._client.cancel([self._running.pop(t.key)[1] for t in waiting])
            self._submit(waiting)

    @property
    def _is_gpu_gone(self) -> bool:
        return self._gpus == 0 and not self._watch.needs_gpu
