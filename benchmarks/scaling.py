"""Scaling: overhead per task, one job on one and two workers, and a model for up to a thousand workers.

There are four parts, each with its own kind of row: empty tasks through `execute`, with Dask's scheduler and
workers in separate processes; the same job on one worker and on two, alternately; the cost of its tasks
without a cluster, and the speed of the disk; and the predictions of `scaling_model`. For a part that is left
out (`--only`) the newest earlier results are used. Real work is measured on at most two worker processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import scaling_model as model
from benchmarks.scaling_alone import calm, client_alone, in_processes, store_here
from benchmarks.scaling_tasks import Workers, some_case, start, submission
from voxelmill.cli.demo_dataset import write_dataset
from voxelmill.runtime import task_window

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results" / "scaling.jsonl"
STAGES = ("ingest", "fingerprint", "preprocess")
LARGEST = 4.0  # assumed: the largest case relative to the mean
ASSUMED_GB_S = (1, 10, 100)  # stores of clusters: a server, a striped file system, a large one
ASSUMED_FILE_S = 0.01  # assumed seconds per file there, independent of its size


def run(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of all parts."""
    known = {row["name"]: row for row in earlier(options.quick)}
    with tempfile.TemporaryDirectory(prefix="scaling-", dir=options.folder) as folder:
        for row in measured(Path(folder), options):
            known[row["name"]] = row
            yield row | {"load": list(os.getloadavg())}
    if options.only in "model":
        yield from predictions(known)


def earlier(quick: bool) -> list[Row]:
    """Return the rows of earlier runs of the same kind, quick or full, the newest last."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [row for row in map(json.loads, lines) if row["quick"] == quick]


def measured(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of all parts except the model."""
    case = some_case(folder)
    for shape, tasks, cluster in submissions(options.quick):
        name = f"submission, {shape}, {tasks:,} tasks, {cluster}"
        if options.only in name:
            yield {"name": name, **submission(case, shape, tasks, cluster)}
    if options.only in "job, 1 and 2 workers, tasks by themselves, store of this machine":
        yield from job(folder, options)
    if options.only in "client, case by case":
        yield client_alone(folder, options.quick)


TWO, TWO_WIDE, HUNDRED = Workers(2), Workers(2, 16), Workers(100, in_one=True)


def submissions(quick: bool) -> Iterator[tuple[str, int, Workers]]:
    """Yield the graph's shape, the number of tasks and the workers of each measurement, the longest last."""
    if quick:
        yield from (("shards alone", 1000, TWO), ("after prepare", 1000, TWO))
        yield "after prepare", 1000, Workers(20, in_one=True)
        return
    for tasks in (10_000, 100_000):
        yield from (("shards alone", tasks, TWO), ("after prepare", tasks, TWO))
    yield from (("after prepare", 20_000, TWO_WIDE), ("after prepare", 50_000, HUNDRED))
    yield "after prepare", 1_000_000, TWO_WIDE


# The job.


def job(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Measure one and two workers alternately, one and two independent processes, and the disk."""
    cases, side, shard_mib, rounds = (4, 32, 1, 1) if options.quick else (32, 128, 128, 3)
    source = write_dataset(folder / "Dataset002_Job", cases=cases, shape=(side, 2 * side, 2 * side))
    whole, warm, lone = [], [], []
    timed(folder, source, 2, shard_mib)  # compiles
    for _ in range(rounds):
        calm(0 if options.quick else 120)
        whole.append([timed(folder, source, n, shard_mib) for n in (1, 2)])
        warm.append([in_processes(folder, source, shard_mib, 1, n)[0] for n in (1, 2)])
        lone.append([in_processes(folder, source, shard_mib, n) for n in (1, 2)])
    about = {"part": "job", "cases": cases, "rounds": rounds}
    yield about | {"name": "job, 1 and 2 workers", **efficiencies(whole, warm)}
    alone, bytes_a_file = by_themselves(lone)
    yield about | {"name": "job, tasks by themselves", **alone}
    yield store_here(folder, bytes_a_file, 10 if options.quick else 100)


def timed(folder: Path, source: Path, workers: int, shard_mib: int) -> float:
    """Return the wall time of `voxelmill run` in a process of its own, in seconds."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as out:
        words = ["run", source, out, "--workers", workers, "--set", f"store.shard_mib={shard_mib}"]
        begun = time.perf_counter()
        process = start([sys.executable, "-m", "voxelmill", *words], dict(os.environ))
        if process.wait() != 0:
            raise RuntimeError(f"voxelmill run ended with status {process.returncode}")
        return time.perf_counter() - begun


def efficiencies(whole: Sequence[Sequence[float]], warm: Sequence[Sequence[Row]]) -> Row:
    """Return the medians over rounds of the seconds on one and on two workers, and of t1 / (2 * t2).

    The stages are measured on workers that have loaded all code; the remaining wall time is start-up.
    """
    rounds = [[dict(row) for row in pair] for pair in warm]
    for walls, pair in zip(whole, rounds, strict=True):
        for wall, row in zip(walls, pair, strict=True):
            row["work_s"] = sum(row[f"{stage}_s"] for stage in STAGES)
            row |= {"whole_s": wall, "startup_s": wall - row["work_s"]}
    found: Row = {}
    for name in (*STAGES, "work", "whole", "startup"):
        one, two = ([pair[i][f"{name}_s"] for pair in rounds] for i in (0, 1))
        found |= {f"{name}_1_s": median(one), f"{name}_2_s": median(two)}
        found[f"{name}_efficiency"] = median(a / (2 * b) for a, b in zip(one, two, strict=True))
    for stage in STAGES:
        one, two = ([pair[i][f"{stage}_step_seconds"] for pair in rounds] for i in (0, 1))
        found[f"{stage}_steps_1_s"], found[f"{stage}_steps_2_s"] = median(one), median(two)
        found[f"{stage}_steps_slower"] = median(b / a for a, b in zip(one, two, strict=True))
    found |= {key: median(pair[0][key] for pair in rounds) for key in ("connect_s", "load_s")}
    work = [one["work_s"] / (2 * two["work_s"]) for one, two in rounds]
    loads = [[row["others_cores"] for row in pair] for pair in rounds]
    return found | {"work_efficiency_rounds": work, "others_cores_rounds": loads}


def by_themselves(lone: Sequence[Sequence[Sequence[Row]]]) -> tuple[Row, int]:
    """Return medians for one process, the slowdown if two do the same, and the bytes of a shard's file."""
    first = [one for (one,), _ in lone]
    row = {name: median(r[name] for r in first) for name in first[0]}
    for stage in STAGES:
        for name, of in (("crowding", "wall"), ("crowding_cpu", "cpu")):
            key = f"{stage}_{of}"
            slower = [sum(two[key] for two in pair) / 2 / one[key] for (one,), pair in lone]
            row[f"{stage}_{name}"] = median(slower)
    row["others_cores_rounds"] = [[one["others_cores"], two[0]["others_cores"]] for (one,), two in lone]
    return row, int(row["preprocess_written"] / row["preprocess_files"])


# The model.


def costs_of(known: dict[str, Row]) -> model.Costs:
    """Derive the inputs of the model from the rows."""
    alone = known["job, tasks by themselves"]
    tried = [row for row in known.values() if row.get("part") == "submission" and row["prepared_a_case"]]
    small, large = (max(tried, key=lambda row: (sign * row["threads"], row["tasks"])) for sign in (-1, 1))
    client, scheduler = (
        model.fit(*((row["batch"], row[f"{who}_cpu_ms"] / 1e3) for row in (small, large)))
        for who in ("client", "scheduler")
    )
    return model.Costs(
        stages=tuple(stage_of(name, alone) for name in STAGES),
        client=client,
        scheduler=scheduler,
        worker=large["workers_cpu_ms"] / 1e3,
        serial=known["client, case by case"]["ms_a_case"] / 1e3,
        startup=known["job, 1 and 2 workers"]["startup_1_s"],
        window=task_window.WINDOW_PER_THREAD,
        fewest=task_window.FEWEST_THREADS,
    )


def stage_of(name: str, row: Row) -> model.Stage:
    """Return a stage of the measured job, per task."""
    of = {key: row[f"{name}_{key}"] / row[f"{name}_tasks"] for key in ("cpu", "read", "written", "files")}
    return model.Stage(name, row[f"{name}_tasks"] / row["cases"], crowding=row[f"{name}_crowding_cpu"], **of)


def predictions(known: dict[str, Row]) -> Iterator[Row]:
    """Compare the measured job with its prediction, then predict more workers and cases, and other stores."""
    costs, here = costs_of(known), known["store of this machine"]
    rates = (here["read_mb_s"] * 1e6, here["write_mb_s"] * 1e6, here["write_ms_a_file"] / 1e3)
    disk = model.Store("this machine", *rates)
    yield {"name": "model, its costs", "part": "model", "costs": asdict(costs)}
    yield from beside_measured(known, costs, disk)
    lines = [f"Extrapolated. Assumed: the largest case is {LARGEST:g} times the mean; other stores."]
    for store in (disk, *(model.Store(f"{n} GB/s", n * 1e9, n * 1e9, ASSUMED_FILE_S) for n in ASSUMED_GB_S)):
        found = model.grid(costs, store, LARGEST)
        lines += ["", f"Store: {store.name}", *model.table(found)]
        for cases, row in found.items():
            yield {
                "name": f"model, {cases:,} cases, store: {store.name}",
                "part": "model",
                "store": asdict(store),
                "largest": LARGEST,
                "seconds": {n: round(p.seconds, 1) for n, p in zip(model.MANY, row, strict=True)},
                "first": {n: p.first for n, p in zip(model.MANY, row, strict=True)},
                "saturates_at": model.saturates_at(row),
            }
    print(*lines, sep="\n")


def beside_measured(known: dict[str, Row], costs: model.Costs, disk: model.Store) -> Iterator[Row]:
    """Compare prediction and measurement for one and two workers here; the measured start-up is used."""
    measured_row = known["job, 1 and 2 workers"]
    for workers in (1, 2):
        whole, work = (measured_row[f"{name}_{workers}_s"] for name in ("whole", "work"))
        found = model.predict(costs, measured_row["cases"], workers, disk, cores=os.cpu_count() or 1)
        yield {
            "name": f"model beside measured, {workers} workers",
            "part": "model",
            "predicted_s": found.seconds,
            "measured_s": whole,
            "error": found.seconds / whole - 1,
            "work_predicted_s": found.seconds - costs.startup,
            "work_measured_s": work,
            "work_error": (found.seconds - costs.startup) / work - 1,
            "shares": dict(found.shares),
        }
