"""How long a job takes on W workers, and which resource is the first that cannot keep up.

In: what one task costs, measured by `scaling` or stated. Out: seconds, a name and an advice. Pure arithmetic;
whatever it says of more workers than were measured is extrapolated.

A job brings `cases` cases through stages, one stage after another; a stage has n = cases * tasks tasks. While
it runs, every resource is busy for a time of its own, and the stage takes as long as the busiest of them::

    workers       n * (cpu * crowding + worker + read / R + written / S + files * file) / W
    longest case  largest * (cpu * crowding + read / R + written / S + files * file), if a case is one task;
                  where it is cut into several, none is longer than others: once that
    scheduler     n * (alone + batch / tasks of a batch)
    client        the same, with its own two numbers
    store         n * (read / R + written / S)
    machine       n * (cpu * crowding + worker + scheduler + client) / cores     where all is on one machine

    seconds = start-up + cases * serial + the sum over stages of the largest

R and S are the store's bytes a second for all workers together. A batch is what the client submits at a time:
a quarter of its window of `window` tasks for each worker, `fewest` workers at least.
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
    """What one stage asks for.

    Attributes
    ----------
    tasks : float
        Tasks for each case.
    cpu : float
        Seconds of one core for a task.
    read, written, files : float
        Bytes of a task, and files that it writes.
    crowding : float
        How much longer a task takes while all cores of its machine compute.
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
    """A file system: bytes a second, all workers together; seconds that one waits for a file it writes."""

    name: str
    read: float = math.inf
    write: float = math.inf
    file: float = 0.0

    def seconds(self, stage: Stage) -> float:
        """Time that it is busy with one task."""
        return stage.read / self.read + stage.written / self.write


@dataclass(frozen=True)
class PerTask:
    """Seconds of one core for a task, and for each batch that tasks come in."""

    alone: float = 0.0
    batch: float = 0.0

    def seconds(self, tasks_of_a_batch: float) -> float:
        """For one task of a batch."""
        return self.alone + self.batch / tasks_of_a_batch


def fit(small: tuple[float, float], large: tuple[float, float]) -> PerTask:
    """The two numbers that give both measurements: tasks of a batch, seconds a task."""
    (few, slow), (many, fast) = small, large
    batch = max(0.0, (slow - fast) / (1 / few - 1 / many))
    return PerTask(max(0.0, fast - batch / many), batch)


@dataclass(frozen=True)
class Costs:
    """What a job costs, wherever it runs.

    Attributes
    ----------
    client, scheduler : PerTask
        Their work.
    worker : float
        Seconds of a worker for a task, beside the task's own work.
    serial : float
        Seconds of the client for each case, while no task runs.
    startup : float
        Seconds before the first task and after the last.
    window, fewest : int
        Tasks that the client submits ahead for a worker, and for how many workers at least.
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
        """Tasks that are submitted at a time."""
        return max(1.0, self.window * max(self.fewest, workers) / 4)


@dataclass(frozen=True)
class Prediction:
    """Seconds of a job, and of them those in which each resource was the busiest."""

    seconds: float
    shares: Mapping[str, float]

    @property
    def first(self) -> str:
        """What most of the time is spent on."""
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
    """Seconds that each resource is busy with one stage; `largest` is the largest case beside the mean."""
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
    """Seconds of a whole job."""
    shares = {"start-up": costs.startup, "client, case by case": cases * costs.serial}
    for stage in costs.stages:
        busy = bounds(costs, stage, cases, workers, store, largest, cores)
        name = max(busy, key=lambda resource: busy[resource])
        shares[name] = shares.get(name, 0.0) + busy[name]
    return Prediction(sum(shares.values()), shares)


Grid = dict[int, list[Prediction]]


def grid(costs: Costs, store: Store, largest: float) -> Grid:
    """Predictions for every number of cases: one for each number of workers."""
    return {cases: [predict(costs, cases, n, store, largest) for n in MANY] for cases in CASES}


def table(found: Grid) -> Iterator[str]:
    """Lines of text: a row for each number of cases; the letter says what the time is spent on."""
    letters = dict(zip(ADVICE, ("w", "l", "s", "c", "k", "d", "m", "u"), strict=True))
    yield f"{'cases':>9}" + "".join(f"{n:>10}" for n in MANY) + "  workers"
    for cases, row in found.items():
        yield f"{cases:>9,}" + "".join(f"{duration(p.seconds):>8} {letters[p.first]}" for p in row)
    named = {p.first for row in found.values() for p in row}
    for name in (n for n in ADVICE if n in named):
        yield f"        {letters[name]}  {name}: {ADVICE[name]}"


def duration(seconds: float) -> str:
    """Three figures or fewer, and a unit."""
    for unit, size in (("s", 1.0), ("min", 60.0), ("h", 3600.0)):
        if seconds < 99.5 * size:
            return f"{seconds / size:.3g}{unit}" if seconds < 9.95 * size else f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d" if seconds > 8.6e5 else f"{seconds / 86400:.1f}d"


def saturates_at(row: Sequence[Prediction]) -> tuple[int, str] | None:
    """The first number of workers from which on the time is no longer the workers', and whose it is."""
    for workers, prediction in zip(MANY, row, strict=False):
        if prediction.first != "workers":
            return workers, prediction.first
    return None
