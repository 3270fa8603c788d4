"""The Dask graphs of a stage, and how they run: on a client in a sliding window, or in this process.

A stage is many small independent graphs (one a case, or one a shard with what it needs first) or one tree
of merges. A task never raises: it returns an `Outcome` that says what went wrong, so that one bad case is
one bad case. Nothing large travels: tasks read from and write to the stores.
"""

from __future__ import annotations

import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from dask.delayed import Delayed, delayed
from distributed import Client, Future, LocalCluster, as_completed
from distributed.scheduler import KilledWorker

from voxelmill.errors import MemoryLimitError, StageError, VoxelmillError
from voxelmill.memory import PeakMeter
from voxelmill.progress import Reporter, say_failed

Key = tuple[str, str, str]

WINDOW_PER_THREAD = 8
"""Graphs submitted ahead for each thread of the cluster: workers never wait, the scheduler stays small."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes
    ----------
    name : str
        The task, as it stands on the dashboard.
    case : str
        The case it worked on; empty for a merge.
    value : object
        What its function returned.
    cause : str or None
        One line, where it failed.
    details : str or None
        The traceback, where the failure was not one of voxelmill's own errors.
    seconds : float
        Wall time of the function.
    peak_bytes : int
        Peak resident memory of the worker while it ran, and what stands before it.
    is_refused : bool
        It would not have fitted into the memory it was given.
    is_lost : bool
        It never came to an end of its own: its worker or its scheduler is gone.
    """

    name: str
    case: str
    value: Any = None
    cause: str | None = None
    details: str | None = None
    seconds: float = 0.0
    peak_bytes: int = 0
    is_lost: bool = False
    is_refused: bool = False


@dataclass(frozen=True)
class Task:
    """One node of a stage's graph, with what stands before it."""

    key: Key
    name: str
    case: str
    node: Delayed


def task(name: str, case: str, function: Callable[..., Any], *args: Any, after: Sequence[Task] = ()) -> Task:
    """A node that calls ``function(*args)``; if a task in `after` failed, it fails with the same cause."""
    before = [t.node for t in after]
    key = _unique(name)
    node = delayed(_attempt, pure=False)(name, case, function, args, before, dask_key_name=key)
    return Task(key, name, case, node)


def _unique(name: str) -> Key:
    """A key that no other run on the same scheduler has; its first part groups the tasks of a kind."""
    return name.partition("-")[0], name, uuid.uuid4().hex


def tree(name: str, leaves: Sequence[Task], merge: Callable[[list[Any]], Any], fan_in: int) -> Task:
    """Merge the values of `leaves`, `fan_in` at a time, in their order, into one task.

    The shape of the tree does not depend on the cluster, so sums come out the same bit for bit. Where a leaf
    failed, the whole fails with its cause.
    """
    level, depth = list(leaves), 0
    while len(level) > 1 or depth == 0:
        nodes: list[Task] = []
        for i in range(0, len(level), fan_in):
            key = _unique(name)
            group = [t.node for t in level[i : i + fan_in]]
            node = delayed(_merge, pure=False)(name, merge, group, dask_key_name=key)
            nodes.append(Task(key, name, "", node))
        level, depth = nodes, depth + 1
    return level[0]


@dataclass(frozen=True)
class Engine:
    """Runs the graphs of stages on one client and tells a reporter how far they are.

    Attributes
    ----------
    client : distributed.Client or None
        None runs Dask's synchronous scheduler in this process.
    reporter : Reporter
        Shows progress.
    peak_bytes : dict
        Largest resident memory of a worker so far, by the first word of a stage.
    """

    client: Client | None
    reporter: Reporter
    peak_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Tasks that a worker process runs at a time."""
        return 1 if self.client is None else max(self.client.nthreads().values(), default=1)

    @property
    def local_workers(self) -> int:
        """Processes that share this machine's memory; 0 where the cluster is none of ours."""
        if self.client is None:
            return 1
        return len(self.client.nthreads()) if isinstance(self.client.cluster, LocalCluster) else 0

    def run(self, stage: str, tasks: Iterable[Task], total: int, kept: int = 0) -> list[Outcome]:
        """Run `total` tasks; `kept` more were found done. Values are numbers of voxels."""
        outcomes: dict[str, Outcome] = {}  # a preparation that failed comes once for each of its shards
        with self.reporter.stage(stage, total, kept) as progress:
            for outcome in execute(tasks, self.client):
                progress.advance(outcome.value or 0)
                if outcome.cause is not None and outcome.name not in outcomes:
                    progress.failed(outcome.case, outcome.cause, outcome.details)
                outcomes[outcome.name] = outcome
                self._note(stage, outcome)
        return list(outcomes.values())

    def refuse(self, stage: str, case: str, cause: str) -> Outcome:
        """A case that goes no further, without a task of its own."""
        say_failed(stage, case, cause)
        return Outcome(f"{stage}-{case}", case, cause=cause)

    def one(self, stage: str, root: Task) -> Any:
        """Run one graph whole and return the value of its last task.

        Raises
        ------
        VoxelmillError
            With the cause, where a task of it failed.
        """
        with self.reporter.stage(stage, 1, 0) as progress:
            (outcome,) = execute([root], self.client)
            progress.advance(0)
        self._note(stage, outcome)
        if outcome.cause is not None:
            raise StageError(f"{stage}: {f'case {outcome.case}: ' if outcome.case else ''}{outcome.cause}")
        return outcome.value

    def _note(self, stage: str, outcome: Outcome) -> None:
        name = stage.split()[0]
        self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), outcome.peak_bytes)


def execute(tasks: Iterable[Task], client: Client | None) -> Iterator[Outcome]:
    """Run graphs and yield their outcomes as they come.

    Parameters
    ----------
    tasks : iterable of Task
        Consumed lazily: only a window of it is ever known to the scheduler.
    client : distributed.Client or None
        None runs Dask's synchronous scheduler in this process, in order.
    """
    if client is None:
        for t in tasks:
            yield t.node.compute(scheduler="sync")
    else:
        yield from _execute_on(client, iter(tasks))


def _execute_on(client: Client, tasks: Iterator[Task]) -> Iterator[Outcome]:
    """Run graphs in a window; then those that lost their workers once more, one by one.

    To Dask every task that a dead worker had waiting is a suspect, not only the one it was running. When
    nothing else runs, nothing else is to blame.
    """
    suspects: list[tuple[Task, KilledWorker]] = []
    for of, result in _in_window(client, tasks):
        if isinstance(result, KilledWorker):
            suspects.append((of, result))
        else:
            yield _outcome_of(result, of)
    guilty: dict[Any, Outcome | Exception] = {}
    for of, error in suspects:
        alone = guilty.get(error.task)  # what it waits for may have killed three more workers already
        if alone is None:
            ((_, alone),) = _in_window(client, iter([of]))
            if isinstance(alone, KilledWorker):
                guilty[alone.task] = alone
        yield _outcome_of(alone, of)


def _in_window(client: Client, tasks: Iterator[Task]) -> Iterator[tuple[Task, Outcome | Exception]]:
    """Every task with its outcome, or with the error for which it has none."""
    threads = max(1, sum(client.nthreads().values()))
    running: dict[Key, Task] = {}

    def submit(count: int) -> list[Future[Outcome]]:
        batch = list(islice(tasks, count))
        running.update((t.key, t) for t in batch)
        futures: list[Future[Outcome]] = client.compute([t.node for t in batch])
        return futures

    completed = as_completed(submit(threads * WINDOW_PER_THREAD), raise_errors=False)
    for future in completed:
        yield running.pop(future.key), _result_of(future)
        for new in submit(1):
            completed.add(new)


def _result_of(future: Future[Outcome]) -> Outcome | Exception:
    try:
        outcome: Outcome = future.result()  # may have to be computed again, where its worker died since
        return outcome
    except Exception as error:
        return error.with_traceback(None)  # whose frame would keep the task from being forgotten


def _outcome_of(result: Outcome | Exception, of: Task) -> Outcome:
    """The task's own outcome, or the cause why there is none."""
    if isinstance(result, Outcome):
        return result
    if isinstance(result, KilledWorker):
        cause = (
            "its worker died three times while working on it, most likely out of memory or in a crash of "
            "a native library. It was skipped; rerun with fewer workers or more memory."
        )
        return Outcome(of.name, of.case, cause=cause, details=str(result))
    cause = f"lost with its worker ({type(result).__name__}); run again."
    return Outcome(of.name, of.case, cause=cause, details=str(result), is_lost=True)


def _attempt(
    name: str, case: str, function: Callable[..., Any], args: tuple[Any, ...], before: list[Outcome]
) -> Outcome:
    for earlier in before:
        if earlier.cause is not None:
            return earlier
    meter, start = PeakMeter(), time.perf_counter()
    value, cause, details, is_refused = None, None, None, False
    try:
        value = function(*args)
    except VoxelmillError as error:
        cause, is_refused = str(error), isinstance(error, MemoryLimitError)
    except MemoryError as error:
        cause = f"out of memory ({error}). Run with fewer workers, or on a machine with more memory."
    except OSError as error:
        cause = (
            f"{error.strerror or type(error).__name__}. Check that OUT and SOURCE can be used and run again."
        )
        details = traceback.format_exc()
    except Exception as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        details = traceback.format_exc()
    seconds = time.perf_counter() - start
    peak = max(meter.peak_bytes(), *(earlier.peak_bytes for earlier in before), 0)
    return Outcome(name, case, value, cause, details, seconds, peak, is_refused=is_refused)


def _merge(name: str, merge: Callable[[list[Any]], Any], outcomes: list[Outcome]) -> Outcome:
    values = ([o.value for o in outcomes],)
    return _attempt(name, "", merge, values, outcomes)
