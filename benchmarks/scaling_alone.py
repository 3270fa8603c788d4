"""The cost of tasks without a cluster: CPU seconds and bytes of every stage, and the speed of the disk.

In: a source. Out: rows of numbers. Time inside `execute` is separated from the client's work between tasks.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import Mock, patch

import psutil

from benchmarks.sources import forget
from voxelmill.basics.stage_order import Stage
from voxelmill.cli.demo_dataset import write_dataset
from voxelmill.config.load_settings import make_config
from voxelmill.runs.job import Job
from voxelmill.runtime import stage_engine
from voxelmill.runtime.cluster.connection import connect
from voxelmill.runtime.memory_budget import Memory
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine
from voxelmill.runtime.task_window import execute
from voxelmill.runtime.tasks import Task
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.preprocessing.training_store import training_cases

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent


@dataclass
class Meter:
    """Replaces `execute`: measures time and bytes inside it, and counts tasks, steps and their seconds."""

    keys: set[Any] = field(default_factory=set)
    steps: int = 0
    step_seconds: float = 0.0
    cpu: float = 0.0
    wall: float = 0.0
    read: int = 0
    written: int = 0

    def __call__(self, tasks: Iterable[Task], client: Any, *rest: Any) -> Iterator[Any]:
        """Yield the outcomes of `execute` as they come."""
        outcomes = execute(self.count(tasks, client is None), client, *rest)
        while True:
            before = now()
            outcome = next(outcomes, None)
            for name, value in now().items():
                setattr(self, name, getattr(self, name) + value - before[name])
            if outcome is None:
                return
            self.steps += 1
            self.step_seconds += outcome.seconds
            yield outcome

    def count(self, tasks: Iterable[Task], is_here: bool) -> Iterator[Task]:
        """Yield every task and count it.

        In this process nothing remembers the results of earlier tasks, so the tasks that shards depend on
        would run again for each shard: they are yielded once, as tasks of their own.
        """
        for of in tasks:
            before = [] if of.merge else [b for b in of.after if b.key not in self.keys]
            self.keys |= keys_of(of)
            if is_here and of.merge is None:
                yield from before
                of = replace(of, after=())
            yield of


def keys_of(of: Task) -> set[Any]:
    """Return the keys of a task and of all tasks that it depends on."""
    return {of.key}.union(*(keys_of(before) for before in of.after))


def now() -> dict[str, float]:
    """Return CPU and wall seconds, and the bytes that this process has read and written, of any file."""
    lines = Path("/proc/self/io").read_text().splitlines()
    moved = dict(line.split(": ") for line in lines)
    return {
        "cpu": time.process_time(),
        "wall": time.perf_counter(),
        "read": int(moved["rchar"]),
        "written": int(moved["wchar"]),
    }


def metered(source: Path, out: Path, settings: dict[str, Any], client: Any = None) -> Row:
    """Measure every stage, and the work between tasks; with a client, bytes and CPU are the client's only."""
    begun, inside, row = time.process_time(), 0.0, Row()
    work = Job(out, make_config(settings))
    sources, on = work.discover(source), Engine(client, Reporter())
    with work.hold("run"):
        work.check(sources)
        work.sources = sources
        stages = {
            "ingest": [Stage.INGEST],
            "fingerprint": [Stage.FINGERPRINT, Stage.PLAN],
            "preprocess": [Stage.PREPROCESS],
        }
        for name, of in stages.items():
            meter, files = Meter(), Mock(side_effect=os.fsync)
            start = time.perf_counter()
            with patch.object(stage_engine, "execute", meter), patch.object(os, "fsync", files):
                work.perform(of, on)
            inside += meter.cpu
            row[f"{name}_s"] = time.perf_counter() - start
            row |= {f"{name}_{key}": value for key, value in vars(meter).items() if key != "keys"}
            row |= {f"{name}_tasks": len(meter.keys), f"{name}_files": files.call_count}
    return row | {"between_cpu": time.process_time() - begun - inside}


# In separate processes: a job of tiny cases loads all code, then the real job is measured.


def in_processes(folder: Path, source: Path, shard_mib: int, count: int, workers: int = 0) -> list[Row]:
    """Return one row per process; all do the same job at once, without a cluster or each with its own."""
    words = (str(folder), str(source), json.dumps({"store": {"shard_mib": shard_mib}}), workers)
    program = f"from benchmarks.scaling_alone import one; one(*{words!r})"
    before = others()
    begun = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    said = [process.communicate()[0] for process in begun]
    seconds, cpu = (b - a for a, b in zip(before, others(), strict=True))
    if any(process.returncode for process in begun):
        raise RuntimeError("a process that does the job failed")
    return [json.loads(text) | {"others_cores": cpu / seconds} for text in said]


def others() -> tuple[float, float]:
    """Return the time, and the CPU seconds so far of all processes except this one and its children."""
    machine, own = psutil.cpu_times(), [resource.getrusage(who) for who in (0, resource.RUSAGE_CHILDREN)]
    mine = sum(usage.ru_utime + usage.ru_stime for usage in own)
    return time.perf_counter(), machine.user + machine.nice + machine.system - mine


def calm(patience: float = 120.0) -> None:
    """Wait until less than a fifth of one core is busy, or `patience` seconds are over."""
    until = time.perf_counter() + patience
    while psutil.cpu_percent(2.0) * (os.cpu_count() or 1) > 20.0 and time.perf_counter() < until:
        pass


def one(folder: str, source: str, settings: str, workers: int) -> None:
    """Do the job in a process of `in_processes`; print nothing but the row."""
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory(prefix="out-", dir=folder) as out,
        connect("local" if workers else "none", workers or None) as client,
    ):
        connected = time.perf_counter()
        if client is not None:
            client.wait_for_workers(workers)
        tiny = write_dataset(Path(out) / "Dataset001_Tiny", cases=max(1, 2 * workers), shape=(12, 40, 40))
        metered(tiny, Path(out) / "tiny", json.loads(settings) | {"store": {"shard_mib": 1}}, client)
        loaded = time.perf_counter()
        row = metered(Path(source), Path(out) / "out", json.loads(settings), client)
    print(json.dumps(row | {"connect_s": connected - start, "load_s": loaded - connected}))


def client_alone(folder: Path, quick: bool) -> Row:
    """Measure the client's time and memory per case while no task runs, from few and from many tiny cases."""
    few, many = (8, 24) if quick else (100, 500)
    found = []
    for cases in (few, many):
        source = write_dataset(folder / f"Dataset003_Tiny{cases}", cases=cases, shape=(8, 16, 16))
        out = folder / f"tiny-{cases}"
        found.append([metered(source, out, {})["between_cpu"] for _ in range(2)])  # the second finds all done
    tracemalloc.start()
    kept = Plan.load(out), list(training_cases(out, Plan.load(out), "fullres", Memory()))
    taken = tracemalloc.get_traced_memory()[0] / len(kept[1])
    tracemalloc.stop()
    new, again = (1e3 * (b - a) / (many - few) for a, b in zip(*found, strict=True))
    return {
        "name": "client, case by case",
        "part": "client",
        "cases": many,
        "ms_a_case": new,
        "again_ms_a_case": again,
        "bytes_a_case": taken,
        "plan_json_bytes_a_case": (out / "plan.json").stat().st_size / many,
    }


def store_here(folder: Path, size: int, files: int) -> Row:
    """Measure this disk: bytes per second, and seconds per file, from files of 1 byte and of `size` bytes.

    Files are written through to the disk, dropped from the page cache and read back.
    """
    small, large = (moved(folder, n, files) for n in (1, size))
    return {
        "name": "store of this machine",
        "part": "store",
        "bytes_a_file": size,
        "files": files,
        "write_mb_s": size / 1e6 / max(1e-9, large[0] - small[0]),
        "read_mb_s": size / 1e6 / max(1e-9, large[1] - small[1]),
        "write_ms_a_file": 1e3 * small[0],
        "read_ms_a_file": 1e3 * small[1],
    }


def moved(folder: Path, size: int, files: int) -> tuple[float, float]:
    """Return the median seconds to write and to read a file of `size` bytes."""
    data, path = os.urandom(size), folder / "shard"
    written, read = [], []
    for _ in range(files):
        start = time.perf_counter()
        with path.open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())
        written.append(time.perf_counter() - start)
        forget(path)
        start = time.perf_counter()
        path.read_bytes()
        read.append(time.perf_counter() - start)
        path.unlink()
    return median(written), median(read)
