"""The parts of a stage's graph: tasks of one or more steps, and trees of merges.

In: functions and their arguments. Out: Dask graphs. A step that fails does not raise: its `Outcome` says what
went wrong, so a bad case fails alone. Nothing large travels: steps read from and write to the stores.
"""

from __future__ import annotations

import errno
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from voxelmill.basics.errors import MemoryLimitError, VoxelmillError, disk_message, system_message
from voxelmill.basics.safe_tracebacks import place, trace
from voxelmill.kernels.backend import on_device
from voxelmill.runtime.peak_memory import PeakMeter
from voxelmill.runtime.same_versions import these
from voxelmill.runtime.step_progress import taking
from voxelmill.storage.partial_files import RUN, working_for

Key = tuple[str, str, str]
"""Key of a task in Dask: kind, name, and a random part."""

Trouble = Literal["refused", "lost", "passing", "memory", "disk"]
"""Kinds of failure; see `Outcome`."""

PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EREMOTEIO,
    errno.ESHUTDOWN,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
"""Errors of a network file system that may pass within moments."""


@dataclass(frozen=True)
class Outcome:
    """The result of one step.

    Attributes
    ----------
    name : str
        Name of the step, as on the dashboard.
    case : str
        The case it worked on; empty for a merge.
    value : object
        Return value of its function.
    cause : str or None
        Why it failed, in one line; None if it did not.
    details : str or None
        The traceback, if the failure was not one of voxelmill's own errors.
    seconds : float
        Wall time of the function.
    peak_bytes : int
        Peak resident memory of the worker in bytes, during this step and the tasks before it.
    trouble : str or None
        Kind of failure, which decides what happens next. "refused": it does not fit into the memory limit;
        "lost": its worker is gone, and the step did not end; "passing": the same may work a moment later;
        "memory": the machine had none left; "disk": OUT accepts no more data. None: it would fail again.
    """

    name: str
    case: str
    value: Any = None
    cause: str | None = None
    details: str | None = None
    seconds: float = 0.0
    peak_bytes: int = 0
    trouble: Trouble | None = None


@dataclass(frozen=True)
class Step:
    """One function call with its own outcome."""

    name: str
    case: str
    function: Callable[..., Any]
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Task:
    """One node of a stage's graph, with the tasks before it.

    Attributes
    ----------
    key : tuple of str
        Key in Dask: kind, name, and a part that no other run on the same scheduler has.
    steps : tuple of Step
        Run one after the other.
    after : tuple of Task
        Tasks to run first; if one fails, this task fails with the same cause.
    merge : callable, optional
        Makes one value from the values of all steps and of all tasks in `after`.
    rank : int
        Tasks of low rank run first.
    on_gpu : bool
        Whether it needs a worker with the resource GPU.
    attempt : int
        Number of this attempt, from 1.
    """

    key: Key
    steps: tuple[Step, ...]
    after: tuple[Task, ...] = ()
    merge: Callable[[list[Any]], Any] | None = None
    rank: int = 0
    on_gpu: bool = False
    attempt: int = 1

    @property
    def name(self) -> str:
        """Name on the dashboard."""
        return self.key[1]

    @property
    def cases(self) -> list[str]:
        """The cases of its steps, in order; empty for a merge of merges."""
        return list(dict.fromkeys(step.case for step in self.steps))

    @property
    def call(self) -> tuple[Callable[[list[list[Outcome]]], list[Outcome]], list[Key]]:
        """The node in Dask's form: a function, and the keys of its arguments."""
        if self.merge is None:
            device = "gpu" if self.on_gpu else "cpu"
            function = partial(run_steps, self.steps, run=RUN.get(), device=device, versions=these())
        else:
            function = partial(
                run_and_merge, self.name, self.merge, self.steps, run=RUN.get(), versions=these()
            )
        return function, [t.key for t in self.after]

    def again(self, case: str | None = None) -> Task:
        """Return the next attempt of this task and of the tasks before it; `case` keeps one case's steps."""
        steps = tuple(s for s in self.steps if case is None or s.case == case)
        before = tuple(t.again() for t in self.after)
        return replace(self, key=_unique(self.name), steps=steps, after=before, attempt=self.attempt + 1)

    def on_cpu(self) -> Task:
        """Return the same task for any worker."""
        return replace(self, key=_unique(self.name), on_gpu=False)


def graph_of(tasks: Iterable[Task]) -> HighLevelGraph:
    """Build the Dask graph of tasks and of all tasks before them.

    Tasks of the same rank and device form a layer with their priority and resources. `dask.delayed` would
    make a layer for each task, and a third more work for the process that submits.
    """
    layers: dict[tuple[int, bool], dict[Key, Any]] = {}
    known, waiting = set[Key](), list(tasks)
    while waiting:
        t = waiting.pop()
        if t.key not in known:
            known.add(t.key)
            layers.setdefault((t.rank, t.on_gpu), {})[t.key] = t.call
            waiting += t.after
    made = {
        f"rank {rank}{' on GPUs' if on_gpu else ''}": MaterializedLayer(
            nodes, {"priority": -rank} | ({"resources": {"GPU": 1}} if on_gpu else {})
        )
        for (rank, on_gpu), nodes in layers.items()
    }
    return HighLevelGraph(made, {name: set() for name in made})


def task(
    name: str,
    case: str,
    function: Callable[..., Any],
    *args: Any,
    after: Sequence[Task] = (),
    rank: int = 0,
    on_gpu: bool = False,
) -> Task:
    """Make a task of one step, which calls ``function(*args)``."""
    step = Step(name, case, function, args)
    return Task(_unique(name), (step,), tuple(after), rank=rank, on_gpu=on_gpu)


def together(tasks: Sequence[Task]) -> Task:
    """Join several tasks into one, with their steps in order; after a failure the rest of a case is skipped.

    Every task costs Dask a few milliseconds, so small cases share one.
    """
    if len(tasks) == 1:
        return tasks[0]
    steps = tuple(step for t in tasks for step in t.steps)
    return replace(tasks[0], key=_unique(f"{tasks[0].name} and {len(steps) - 1} more"), steps=steps)


def in_groups(tasks: Iterable[tuple[Task, int]], limit: int) -> Iterator[Task]:
    """Join consecutive tasks up to a total cost of `limit`; a task that comes after others stays alone."""
    waiting: list[Task] = []
    total = 0
    for t, cost in tasks:
        if waiting and (t.after or total + cost > limit):
            yield together(waiting)
            waiting, total = [], 0
        if t.after:
            yield t
        else:
            waiting.append(t)
            total += cost
    if waiting:
        yield together(waiting)


def tree(
    name: str,
    leaves: Sequence[Task],
    merge: Callable[[list[Any]], Any],
    fan_in: int,
    coarse: bool = False,
) -> Task:
    """Make one task that merges the values of `leaves` in their order, `fan_in` at a time.

    The shape of the tree does not depend on the cluster, so sums are the same bit for bit. If a leaf fails,
    the tree fails with its cause. A `coarse` tree runs its leaves inside the tasks that merge them.
    """
    level = _merges(name, leaves, merge, fan_in)
    if coarse:
        level = [
            replace(t, steps=tuple(step for leaf in t.after for step in leaf.steps), after=()) for t in level
        ]
    while len(level) > 1:
        level = _merges(name, level, merge, fan_in)
    return level[0]


def _merges(name: str, tasks: Sequence[Task], merge: Callable[[list[Any]], Any], fan_in: int) -> list[Task]:
    groups = [tuple(tasks[i : i + fan_in]) for i in range(0, len(tasks), fan_in)]
    return [Task(_unique(name), (), group, merge) for group in groups]


def count_steps(root: Task) -> int:
    """Count the steps of a tree of tasks."""
    return len(root.steps) + sum(map(count_steps, root.after))


def _unique(name: str) -> Key:
    """Make a key that no other run on the same scheduler has; its first part groups tasks of one kind."""
    return name.partition("-")[0], name, uuid.uuid4().hex


# On a worker


def run_steps(
    steps: Sequence[Step], before: Sequence[Sequence[Outcome]], *, run: str, device: str, versions: str
) -> list[Outcome]:
    """Run steps and return their outcomes; if a task before failed, return that outcome and run nothing.

    Raises
    ------
    RuntimeError
        If the task comes from a process with other versions: this worker is new, and not yet checked.
    """
    if versions != these():
        raise RuntimeError(f"the task is for {versions}; this worker has {these()}")
    failed = [o for outcomes in before for o in outcomes if o.cause is not None]
    if failed:
        return failed[:1]
    peak = max((o.peak_bytes for outcomes in before for o in outcomes), default=0)
    found: list[Outcome] = []
    with working_for(run), on_device(device):
        for step in steps:
            if not any(o.case == step.case and o.cause is not None for o in found):
                with taking(run, step.name):
                    outcome = attempt(step.name, step.case, step.function, step.args)
                found.append(replace(outcome, peak_bytes=max(peak, outcome.peak_bytes)))
    return found


def attempt(name: str, case: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Outcome:
    """Call a function and return its outcome; an exception becomes the cause."""
    meter, start = PeakMeter(), time.perf_counter()
    value, cause, details, trouble = None, None, None, None
    try:
        value = function(*args)
    except Exception as error:
        cause, trouble = _explain(error)
        details = None if isinstance(error, (VoxelmillError, MemoryError)) else trace(error)
    seconds = time.perf_counter() - start
    return Outcome(name, case, value, cause, details, seconds, meter.peak_bytes(), trouble)


def _explain(error: Exception) -> tuple[str, Trouble | None]:
    """Return one line and the kind of trouble; only voxelmill's own errors are quoted, others name files."""
    if isinstance(error, VoxelmillError):
        return str(error), "refused" if isinstance(error, MemoryLimitError) else None
    if isinstance(error, MemoryError):
        return "out of memory. Run with fewer workers, or on a machine with more memory.", "memory"
    if isinstance(error, OSError):
        if line := disk_message(error):
            return line, "disk"
        return system_message(error), "passing" if error.errno in PASSING else None
    return f"{place(error)}. This is a bug; OUT/logs has where.", None


def run_and_merge(
    name: str,
    merge: Callable[[list[Any]], Any],
    steps: Sequence[Step],
    before: Sequence[Sequence[Outcome]],
    *,
    run: str,
    versions: str,
) -> list[Outcome]:
    """Run steps and merge all values; return one outcome, that of the merge or the first failure."""
    outcomes = [
        *(o for group in before for o in group),
        *run_steps(steps, (), run=run, device="cpu", versions=versions),
    ]
    failed = [o for o in outcomes if o.cause is not None]
    if failed:
        return failed[:1]
    merged = attempt(name, "", merge, ([o.value for o in outcomes],))
    peak = max(merged.peak_bytes, *(o.peak_bytes for o in outcomes))
    return [replace(merged, peak_bytes=peak)]
