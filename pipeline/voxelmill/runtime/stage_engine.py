"""A stage as a whole: runs its tasks, shows how far they are, and adds up what became of each case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Literal

from distributed import Client, LocalCluster

from voxelmill.basics.errors import DiskError, StageError
from voxelmill.runtime.progress_display import Reporter, say_failed
from voxelmill.runtime.step_progress import listening
from voxelmill.runtime.task_window import Watch, execute
from voxelmill.runtime.tasks import Outcome, Task, count_steps

Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Engine:
    """Runs the graphs of stages on one client and tells a reporter how far they are.

    Attributes
    ----------
    client : distributed.Client or None
        None runs Dask's synchronous scheduler in this process.
    reporter : Reporter
        Shows progress.
    device : {"auto", "cpu", "gpu"}
        Where images are resampled: on GPUs if there are any, never, or nowhere else.
    watch : Watch
        When to give up.
    worker_threads : int
        Threads of a worker, while there is none to ask.
    peak_bytes : dict
        Largest resident memory of a worker so far, by the first word of a stage.
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
        """Tasks that run at a time."""
        return 1 if self.client is None else max(1, sum(self.client.nthreads().values()))

    @property
    def local_workers(self) -> int:
        """Processes that share this machine's memory; 0 where the cluster is none of ours."""
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
        """Run tasks of `total` steps that count, which are those with a number of voxels for a value.

        `kept` more were found done. Returns what became of each case: voxels and seconds added up, and the
        cause of its first failure.

        Raises
        ------
        DiskError
            If OUT takes nothing more: no task is begun after that, those that run come to their end.
        """
        cases: dict[str, Outcome] = {}
        full: list[str] = []
        told: set[str] = set()  # a preparation that failed comes once for each of its shards
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
        """A case that goes no further, without a task of its own."""
        say_failed(stage, case, cause)
        return Outcome(stage, case, cause=cause)

    def one(self, stage: str, root: Task) -> Any:
        """Run one graph whole and return the value of its last task.

        Raises
        ------
        VoxelmillError
            With the cause, where a task of it failed.
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
    """What became of a case so far, with one more of its steps."""
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
