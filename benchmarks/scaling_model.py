"""A model of the time that a job takes on W workers, and of the resource that limits it.

In: the cost of one task, measured by `scaling` or assumed. Out: seconds, the name of the resource, and
advice. The module only computes; results for more workers than were measured are extrapolations.

A job takes `cases` cases through the stages, one stage after another. A stage has n = cases * tasks tasks.
Each resource is busy with it for a certain time, and the stage takes as long as the busiest resource::

    workers       n * (cpu * crowding + worker + read / R + written / S + files * file) / W
    longest case  largest * (cpu * crowding + read / R + written / S + files * file), if a case is one task;
                  without `largest` if it is cut into several, because then all tasks are of equal size
    scheduler     n * (alone + batch / tasks per batch)
    client        the same, with its own two numbers
    store         n * (read / R + written / S)
    machine       n * (cpu * crowding + worker + scheduler + client) / cores     if all runs on one machine

    seconds = start-up + cases * serial + the sum over stages of the largest of these times

R and S are the store's bytes per second, read and written, for all workers together. A batch is the number of
tasks that the client submits at a time: a quarter of its window of `window` tasks per worker, for at least
`fewest` workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MANY = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
CASES = (100, 1_000, 10_000, 100_000, 1_000_000)

ADVICE = {
    "workers": "add workers; time falls with their number",
    "longest case": "more workers are no use: one task of the largest case takes that long",
    "scheduler": "larger tasks (store.shard_mib), or several runs side by side (--share i/n)",
    "client": "larger tasks (store.shard_mib), or several runs side by side (--share i/n)",
    "client, case by case": "several runs side by side (--share i/n), each with cases of its own",
    "store": "more workers are no use; a faster or striped file system, or local disks for OUT",
    "machine": "it computes on all its cores: use more machines",
    "start-up": "nothing to gain: the work is done before workers have started",
}


@dataclass(frozen=True)
class Stage:
    """The cost of one stage.

    Attributes
    ----------
    tasks : float
        Tasks per case.
    cpu : float
        Seconds of one core per task.
    read, written : float
        Bytes that a task reads and writes.
    files : float
        Files that a task writes.
    crowding : float
        Factor by which a task slows down while all cores of its machine compute.
    """

    name: str
    tasks: float
    cpu: float
    read: float = 0.0
    written: float = 0.0
    files: float = 0.0
    crowding: float = 1.0


@dataclass(frozen=True)
class Store:
    """A file system: bytes per second for all workers together, and seconds of latency per written file."""

    name: str
    read: float = math.inf
    write: float = math.inf
    file: float = 0.0

    def seconds(self, stage: Stage) -> float:
        """Return the seconds that the store is busy with one task of a stage."""
        return stage.read / self.read + stage.written / self.write


@dataclass(frozen=True)
class PerTask:
    """Seconds of one core per task, plus seconds per batch of tasks."""

    alone: float = 0.0
    batch: float = 0.0

    def seconds(self, tasks_of_a_batch: float) -> float:
        """Return the seconds per task in batches of this size."""
        return self.alone + self.batch / tasks_of_a_batch


def fit(small: tuple[float, float], large: tuple[float, float]) -> PerTask:
    """Solve for the two costs from two measurements, each given as (tasks per batch, seconds per task)."""
    (few, slow), (many, fast) = small, large
    batch = max(0.0, (slow - fast) / (1 / few - 1 / many))
    return PerTask(max(0.0, fast - batch / many), batch)


@dataclass(frozen=True)
class Costs:
    """The costs of a job that do not depend on the cluster or the store.

    Attributes
    ----------
    stages : tuple of Stage
        In the order in which they run.
    client, scheduler : PerTask
        Their work per task.
    worker : float
        A worker's overhead per task, in seconds.
    serial : float
        The client's seconds per case while no task runs.
    startup : float
        Seconds before the first task and after the last.
    window : int
        Tasks that the client submits ahead per worker.
    fewest : int
        Workers that the window is made for at least.
    """

    stages: tuple[Stage, ...]
    client: PerTask = PerTask()
    scheduler: PerTask = PerTask()
    worker: float = 0.0
    serial: float = 0.0
    startup: float = 0.0
    window: int = 8
    fewest: int = 2

    def batch(self, workers: int) -> float:
        """Return the number of tasks that are submitted at a time."""
        return max(1.0, self.window * max(self.fewest, workers) / 4)


@dataclass(frozen=True)
class Prediction:
    """Seconds of a job, and how many of them each resource limits."""

    seconds: float
    shares: Mapping[str, float]

    @property
    def first(self) -> str:
        """The resource that limits the job for the longest time."""
        return max(self.shares, key=lambda name: self.shares[name])


def bounds(
    costs: Costs,
    stage: Stage,
    cases: float,
    workers: int,
    store: Store,
    largest: float = 1.0,
    cores: float = math.inf,
) -> dict[str, float]:
    """Return the seconds that each resource is busy with one stage; see the module's formulas.

    Parameters
    ----------
    costs : Costs
    stage : Stage
    cases : float
    workers : int
    store : Store
    largest : float
        Size of the largest case, relative to the mean.
    cores : float
        Cores of the machine if everything runs on one; infinite otherwise.
    """
    number, batch, moving = cases * stage.tasks, costs.batch(workers), store.seconds(stage)
    crowding = min(2.0, max(1.0, stage.crowding)) if workers > 1 else 1.0
    work, waiting = stage.cpu * crowding + costs.worker, moving + stage.files * store.file
    scheduler, client = costs.scheduler.seconds(batch), costs.client.seconds(batch)
    return {
        "workers": number * (work + waiting) / workers,
        "longest case": (largest if stage.tasks <= 1 else 1.0) * (stage.cpu * crowding + waiting),
        "scheduler": number * scheduler,
        "client": number * client,
        "store": number * moving,
        "machine": number * (work + scheduler + client) / cores,
    }


def predict(
    costs: Costs,
    cases: float,
    workers: int,
    store: Store,
    largest: float = 1.0,
    cores: float = math.inf,
) -> Prediction:
    """Return the prediction for a whole job; parameters as in `bounds`."""
    shares = {"start-up": costs.startup, "client, case by case": cases * costs.serial}
    for stage in costs.stages:
        busy = bounds(costs, stage, cases, workers, store, largest, cores)
        name = max(busy, key=lambda resource: busy[resource])
        shares[name] = shares.get(name, 0.0) + busy[name]
    return Prediction(sum(shares.values()), shares)


Grid = dict[int, list[Prediction]]


def grid(costs: Costs, store: Store, largest: float) -> Grid:
    """Return, for each number of cases, one prediction per number of workers."""
    return {cases: [predict(costs, cases, n, store, largest) for n in MANY] for cases in CASES}


def table(found: Grid) -> Iterator[str]:
    """Yield lines of text, one row per number of cases; the letter names the limiting resource."""
    letters = dict(zip(ADVICE, ("w", "l", "s", "c", "k", "d", "m", "u"), strict=True))
    yield f"{'cases':>9}" + "".join(f"{n:>10}" for n in MANY) + "  workers"
    for cases, row in found.items():
        yield f"{cases:>9,}" + "".join(f"{duration(p.seconds):>8} {letters[p.first]}" for p in row)
    named = {p.first for row in found.values() for p in row}
    for name in (n for n in ADVICE if n in named):
        yield f"        {letters[name]}  {name}: {ADVICE[name]}"


def duration(seconds: float) -> str:
    """Format seconds with at most three digits and a unit."""
    for unit, size in (("s", 1.0), ("min", 60.0), ("h", 3600.0)):
        if seconds < 99.5 * size:
            return f"{seconds / size:.3g}{unit}" if seconds < 9.95 * size else f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d" if seconds > 8.6e5 else f"{seconds / 86400:.1f}d"


def saturates_at(row: Sequence[Prediction]) -> tuple[int, str] | None:
    """Return the smallest number of workers that is not the limit, and the resource that is; or None."""
    for workers, prediction in zip(MANY, row, strict=False):
        if prediction.first != "workers":
            return workers, prediction.first
    return None
