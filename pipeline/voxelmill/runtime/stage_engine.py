"""The engine of a stage: it runs the tasks, shows their progress, and adds up the outcome of each case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Literal

from distributed import Client, LocalCluster

from voxelmill.basics.errors import DiskError, StageError
from voxelmill.runtime.progress_display import Reporter, say_failed
from voxelmill.runtime.step_progress import listening
from voxelmill.runtime.task_window import execute
from voxelmill.runtime.tasks import Outcome, Task, count_steps
from voxelmill.runtime.workers_present import Watch

Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Engine:
    """Runs the graphs of stages on one client and reports their progress.

    Attributes
    ----------
    client : distributed.Client or None
        None runs Dask's synchronous scheduler in this process.
    reporter : Reporter
        Shows progress.
    device : {"auto", "cpu", "gpu"}
        Where images are resampled: on GPUs if there are any, on CPUs only, or on GPUs only.
    watch : Watch
        Decides when to give up.
    worker_threads : int
        Threads of a worker to assume before the first worker has connected.
    peak_bytes : dict
        Largest resident memory of a worker so far in bytes, by the first word of a stage's name.
    """

    client: Client | None
    reporter: Reporter
    device: Device = "cpu"
    watch: Watch = field(default_factory=Watch)
    worker_threads: int = 1
    peak_bytes: dict[str, int] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Tasks that a worker process runs at a time."""
        threads = {} if self.client is None else self.client.nthreads()
        return max(threads.values(), default=self.worker_threads)

    @property
    def all_threads(self) -> int:
        """Tasks that all workers together run at a time."""
        return 1 if self.client is None else max(1, sum(self.client.nthreads().values()))

    @property
    def local_workers(self) -> int:
        """Processes that share this machine's memory; 0 if the cluster is not a `LocalCluster`."""
        if self.client is None:
            return 1
        return len(self.client.nthreads()) if isinstance(self.client.cluster, LocalCluster) else 0

    @property
    def uses_gpu(self) -> bool:
        """Whether tasks are made for workers with the resource GPU."""
        if self.device != "auto" or self.client is None:
            return self.device == "gpu"
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return any(worker["resources"].get("GPU") for worker in workers)

    def run(self, stage: str, tasks: Iterable[Task], total: int, kept: int = 0) -> list[Outcome]:
        """Run the tasks of a stage.

        Parameters
        ----------
        stage : str
            Name to show.
        tasks : iterable of Task
            Read lazily.
        total : int
            Number of steps that return a number of voxels; only these count as progress.
        kept : int
            Further steps that were found done.

        Returns
        -------
        list of Outcome
            One per case: voxels and seconds summed, and the cause of its first failure.

        Raises
        ------
        DiskError
            If OUT accepts no more data. No task starts after that; running tasks finish.
        """
        cases: dict[str, Outcome] = {}
        full: list[str] = []
        told: set[str] = set()  # a failed preparation comes back once for each of its shards
        with self.reporter.stage(stage, total, kept) as progress, listening(progress.note):
            for outcome in execute(takewhile(lambda _: not full, tasks), self.client, self.watch):
                if outcome.trouble == "disk":
                    full.append(outcome.cause or "")
                    continue
                if outcome.cause is not None and outcome.name not in told:
                    told.add(outcome.name)
                    progress.failed(outcome.case, outcome.cause, outcome.details)
                if outcome.value is not None or outcome.cause is not None:
                    progress.advance(outcome.value or 0, outcome.name)
                cases[outcome.case] = _add(cases.get(outcome.case), outcome, stage)
                self._note(stage, outcome)
            if full:
                raise DiskError(full[0])
        return list(cases.values())

    def refuse(self, stage: str, case: str, cause: str) -> Outcome:
        """Report a case that fails without a task, and return its outcome."""
        say_failed(stage, case, cause)
        return Outcome(stage, case, cause=cause)

    def one(self, stage: str, root: Task) -> Any:
        """Run one graph and return the value of its last task, `root`.

        Raises
        ------
        StageError
            If a task failed; the message holds the cause.
        DiskError
            If OUT accepts no more data.
        """
        steps = max(1, count_steps(root))
        with (
            self.reporter.stage(stage, 1, 0) as progress,
            listening(lambda step, part: progress.note(step, part / steps)),
        ):
            (outcome,) = execute([root], self.client, self.watch)
            if outcome.trouble == "disk":
                raise DiskError(outcome.cause)
            progress.advance(0)
        self._note(stage, outcome)
        if outcome.cause is not None:
            raise StageError(f"{stage}: {f'case {outcome.case}: ' if outcome.case else ''}{outcome.cause}")
        return outcome.value

    def _note(self, stage: str, outcome: Outcome) -> None:
        name = stage.split()[0]
        self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), outcome.peak_bytes)


def _add(before: Outcome | None, outcome: Outcome, stage: str) -> Outcome:
    """Return the outcome of a case after one more of its steps; `before` is the outcome up to then."""
    if before is None:
        return replace(outcome, name=stage, value=outcome.value or 0, details=None)
    first = before if before.cause is not None else outcome
    return Outcome(
        stage,
        outcome.case,
        before.value + (outcome.value or 0),
        first.cause,
        None,
        before.seconds + outcome.seconds,
        max(before.peak_bytes, outcome.peak_bytes),
        first.trouble,
    )
