"""Empty tasks through `execute`: the time and memory that client and scheduler need per task.

In: the number of tasks, the shape of their graph, and the workers. Out: a row of numbers. Scheduler and
workers are separate processes, started in the way of the batch scripts.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

import voxelmill
from benchmarks.volumes import call, memory_of
from voxelmill.cli.demo_dataset import write_dataset
from voxelmill.runtime import task_window
from voxelmill.runtime.cluster.connection import connect
from voxelmill.runtime.memory_budget import Memory
from voxelmill.runtime.task_window import execute
from voxelmill.runtime.tasks import Task, task
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.preprocessing.training_store import TrainingCase, training_cases

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent
SHARDS = 100  # per case
QUIET = subprocess.DEVNULL
ALONE_SECONDS = 120  # after this time orphaned processes end themselves


@dataclass(frozen=True)
class Workers:
    """Workers of a cluster: one process each, by Dask's command, or many in one process if none computes."""

    count: int
    threads: int = 1
    in_one: bool = False

    def __str__(self) -> str:
        return f"{self.count} x {self.threads}{' in one process' if self.in_one else ''}"

    def command(self, file: Path) -> list[Any]:
        """Return the command that starts the workers."""
        if self.in_one:
            program = f"from benchmarks.scaling_tasks import many; many({str(file)!r}, {self.count})"
            return [sys.executable, "-c", program]
        words = ["--nworkers", self.count, "--nthreads", self.threads, "--memory-limit", 0, "--no-dashboard"]
        words += ["--preload", "voxelmill.worker", "--local-directory", file.parent]
        words += ["--death-timeout", ALONE_SECONDS]
        return [dask(), "worker", "--scheduler-file", file, *words]


def some_case(folder: Path) -> TrainingCase:
    """Return a small case of a real training store, the argument of real tasks."""
    source, out = write_dataset(folder / "Dataset001_Tiny", cases=1, shape=(16, 32, 32)), folder / "tiny"
    call("run", source, out, "--cluster", "none")
    return next(training_cases(out, Plan.load(out), "fullres", Memory()))


def tasks_of(case: TrainingCase, shape: str, number: int) -> Iterator[Task]:
    """Yield tasks for `number` shards with the arguments of those of `preprocess`, but with `len` to call."""
    for rank in range(-(-number // SHARDS)):
        name = f"fullres-{case.case}-{rank}"
        of = replace(case, case=f"{case.case}-{rank}")
        prepare = task(f"prepare-{name}", of.case, len, (of,), rank=rank)
        after = [prepare] if shape == "after prepare" else []
        for k in range(min(SHARDS, number - rank * SHARDS)):
            yield task(f"shard-{name}-{k}", of.case, len, (of, k, None), after=after, rank=rank)


def submission(case: TrainingCase, shape: str, number: int, workers: Workers) -> Row:
    """Measure time, CPU and memory of `number` tasks.

    Parameters
    ----------
    case : TrainingCase
    shape : {"shards alone", "after prepare"}
        Whether each shard depends on a task that prepares its case.
    number : int
    workers : Workers
    """
    with cluster(workers) as (client, processes):
        run_through(execute(tasks_of(case, shape, 10 * SHARDS), client))  # imports, first connections
        memory: list[tuple[int, dict[str, int]]] = []
        since, used = spent(processes), dict.fromkeys([*processes, "seconds"], 0.0)
        for done, _ in enumerate(execute(tasks_of(case, shape, number), client), start=1):
            if done % (number // 10) == 0:  # the time of `look` itself is left out
                used = {name: used[name] + value - since[name] for name, value in spent(processes).items()}
                memory.append((done, look(client, processes)))
                since = spent(processes)
        left, prepared = client.run_on_scheduler(left_on_scheduler)
    (tenth, first), (_, last) = memory[0], memory[-1]
    seconds = used.pop("seconds")
    return {
        "part": "submission",
        "tasks": number,
        "threads": workers.count * workers.threads,
        "batch": batch_of(workers),
        "ms_a_task": 1e3 * seconds / number,
        **{f"{name}_cpu_ms": 1e3 * value / number for name, value in used.items()},
        **{f"{name}_mib_tenth": first[name] / 2**20 for name in first},
        **{f"{name}_mib_end": last[name] / 2**20 for name in last},
        **{f"{name}_bytes_a_task": (last[name] - first[name]) / (number - tenth) for name in last},
        **{f"{name}_mib": [round(m[name] / 2**20, 1) for _, m in memory] for name in last},
        "left_on_scheduler": left,
        "prepared_a_case": prepared / (-(-number // SHARDS) + 10),
    }


def batch_of(workers: Workers) -> float:
    """Return the number of tasks that the client submits at a time: a quarter of its window."""
    threads = max(task_window.FEWEST_THREADS, workers.count * workers.threads)
    return task_window.WINDOW_PER_THREAD * threads / 4


def run_through(things: Iterable[Any]) -> None:
    """Consume all items, and keep none."""
    for _ in things:
        pass


def spent(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Return the CPU seconds of each process, and the time as `seconds`."""
    return {name: cpu_seconds(process) for name, process in processes.items()} | {
        "seconds": time.perf_counter()
    }


def look(client: Any, processes: dict[str, psutil.Process]) -> dict[str, int]:
    """Return the memory of client and scheduler in bytes, after a garbage collection in both."""
    gc.collect()
    client.run_on_scheduler(gc.collect)
    return {name: 1024 * memory_of(processes[name].pid)[1] for name in ("client", "scheduler")}


def left_on_scheduler(dask_scheduler: Any) -> tuple[int, int]:
    """Run on the scheduler; return the number of tasks it still knows, and how often a case was prepared."""
    prepare = dask_scheduler.task_prefixes.get("prepare")
    return len(dask_scheduler.tasks), 0 if prepare is None else prepare.state_counts["memory"]


def cpu_seconds(process: psutil.Process) -> float:
    """Return user and system seconds of a process with its living descendants, or of this process alone."""
    below = [] if process.pid == os.getpid() else process.children(recursive=True)
    family = [process, *below]
    return float(sum(sum(p.cpu_times()[:2]) for p in family))


def dask() -> Path:
    """Return the path of the `dask` command beside this Python."""
    return Path(sys.executable).with_name("dask")


@contextmanager
def cluster(workers: Workers) -> Iterator[tuple[Any, dict[str, psutil.Process]]]:
    """Start scheduler and workers as the batch scripts do; yield a client and all processes by name."""
    settings = Path(voxelmill.__file__).with_name("dask.yaml")
    env = os.environ | {"DASK_CONFIG": str(settings), "PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        file = Path(folder) / "scheduler.json"
        words = ["--scheduler-file", file, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        words += ["--dashboard-address", "127.0.0.1:0", "--idle-timeout", f"{ALONE_SECONDS} s"]
        started = [start([dask(), "scheduler", *words], env)]
        while not file.exists():
            time.sleep(0.1)
        started.append(start(workers.command(file), env))
        try:
            with connect(scheduler=str(file)) as client:
                assert client is not None
                client.wait_for_workers(workers.count)
                processes = [psutil.Process(), *(psutil.Process(p.pid) for p in started)]
                yield client, dict(zip(("client", "scheduler", "workers"), processes, strict=True))
        finally:
            for process in reversed(started):
                end(process)


def start(command: Sequence[Any], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process without output."""
    return subprocess.Popen(list(map(str, command)), env=env, cwd=ROOT, stdout=QUIET, stderr=QUIET)


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process; kill it and its descendants if they still run after five seconds."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    psutil.wait_procs([psutil.Process(process.pid), *family], timeout=5)
    for left in (p for p in family if p.is_running()):
        left.kill()
    process.kill()
    process.wait()


def many(file: str, count: int) -> None:
    """Run `count` workers of one thread each in this process, until it is terminated."""
    from distributed import Worker

    async def live() -> None:
        words: Row = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "death_timeout": ALONE_SECONDS}
        started = [Worker(scheduler_file=file, **words) for _ in range(count)]
        await asyncio.gather(*started)
        await asyncio.gather(*(worker.finished() for worker in started))

    asyncio.run(live())
