"""Volumes far larger than memory through ``voxelmill run``: peak memory, speed, and voxels against SciPy's.

A source follows a formula, so it is written slab by slab, and any box of it can be computed again on its own.
The results of the run are compared with it: crop box, intensity statistics and boxes of voxels. There is one
row per volume, followed by the overhead of boxes on a volume that fits into memory.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr
from scipy import ndimage

from benchmarks.sources import VALUES, Bounds, Truth, Volume, box_of, write_source
from voxelmill.cli.commands import app

Row = dict[str, Any]
MIB, GIB = 2**20, 2**30
WORKERS, LIMIT_MIB = 2, 1024
TARGET = 1.0  # mm; sources have 0.8 mm, so about half of the voxels remain
SETTINGS = ("--set", f"target_spacing=[{TARGET}, {TARGET}, {TARGET}]", "--set", 'channels=["CT"]')
TOLERANCE = 1e-5  # as a fraction of the value range
SPARE = 8 * GIB  # left free on the disk
DISK = 2.4  # source, raw store and training store, relative to the source; measured: 1.9
PROMISE = 1.3  # CPU seconds of boxes relative to those of the whole


def run(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of the small volume, of the large ones compared with it, and of the boxes."""
    large, packed = (64 * MIB, 16 * MIB) if options.quick else (24 * GIB, 6 * GIB)
    scale = share_that_fits(options.folder, max(large, packed))
    volumes = [
        Volume("raw MetaImage, a sixteenth", ".mhd", large * scale / 16),
        Volume("raw MetaImage", ".mhd", large * scale),
        Volume("gzipped NIfTI", ".nii.gz", packed * scale),
    ]
    box_of((8, 8, 8), [(0, 8)] * 3)  # compiles
    small: Row = {}
    for volume in volumes:
        if options.only in volume.name:
            with tempfile.TemporaryDirectory(prefix="volumes-", dir=options.folder) as folder:
                row = measure(volume, Path(folder)) | {"scaled_by": scale}
            small = small or row
            yield row | beside(row, small)
            check(row)
    with tempfile.TemporaryDirectory(prefix="volumes-", dir=options.folder) as folder:
        yield from boxes(Path(folder), options)


def share_that_fits(folder: Path, largest: int) -> float:
    """Return the factor, at most 1, that scales sizes so that a volume and its stores fit on the disk."""
    room = shutil.disk_usage(folder).free - SPARE
    share = min(1.0, room / (DISK * largest))
    if share <= 0:
        raise OSError(f"{folder} has no more than {SPARE / GIB:.0f} GiB free; name another --folder")
    if share < 1:
        print(f"{folder} has room for {room / GIB:.1f} GiB: sizes are scaled by {share:.3f}", flush=True)
    return share


def measure(volume: Volume, folder: Path) -> Row:
    """Write a source, run voxelmill on it, and compare the results with the formula."""
    print(f"{volume.name}: writing {volume.bytes / GIB:.2f} GiB", flush=True)
    start = time.perf_counter()
    truth = write_source(folder / "source", volume)
    written = time.perf_counter() - start
    out = folder / "out"
    peaks = run_watched(
        "run", folder / "source", out, "--workers", WORKERS, "--memory-limit", f"{LIMIT_MIB}MiB", *SETTINGS
    )
    report, plan = (json.loads((out / f"{name}.json").read_text()) for name in ("report", "plan"))
    row: Row = {
        "name": volume.name,
        "shape": list(truth.shape),
        "gib": truth.voxels * 2 / GIB,
        "workers": WORKERS,
        "limit_mib": LIMIT_MIB,
        **peaks,
        "reported_peak_mib": report["peak_bytes"] / MIB,
        **{f"{stage}_planned_mib": planned / MIB for stage, planned in plan["peak_bytes"].items()},
        "seconds": report["seconds"],
        **{f"{stage}_s": seconds for stage, seconds in report["stages"].items()},
        **{f"{stage}_mvoxel_s": truth.voxels / 1e6 / s for stage, s in report["stages"].items()},
        "disk_of_source": bytes_below(folder) / (2 * truth.voxels),
        "source_mb_s": 2 * truth.voxels / 1e6 / written,
    }
    check_facts(out, truth)
    return row | {"worst_difference": worst_difference(out, truth)}


def beside(row: Row, small: Row) -> Row:
    """Return the throughput of each stage as a multiple of the small volume's."""
    return {
        key.replace("_mvoxel_s", "_of_small"): row[key] / small[key]
        for key in row
        if key.endswith("_mvoxel_s")
    }


def check(row: Row) -> None:
    """Raise an error for a row that breaks a promise; by then it is printed and saved."""
    if not row["worst_difference"] <= TOLERANCE:
        raise ValueError(f"{row['name']}: {row['worst_difference']:.2g} of the range away from SciPy")
    for peak in ("worker_mib", "reported_peak_mib"):
        if row[peak] > row["limit_mib"]:
            raise ValueError(f"{row['name']}: a worker took {row[peak]:.0f} of {row['limit_mib']} MiB")


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Memory.


def run_watched(*words: object) -> Row:
    """Run a command of voxelmill; return the peak memory of all its processes and of one worker, in MiB."""
    command = [sys.executable, "-m", "voxelmill", *map(str, words)]
    tree, worker = 0, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            shared, own = zip(*map(memory_of, processes(process.pid)), strict=True)
            tree, worker = max(tree, sum(shared)), max(worker, *own[1:], 0)
            time.sleep(0.2)
    if process.returncode != 0:
        raise RuntimeError(f"voxelmill {words[0]} ended with status {process.returncode}")
    return {"tree_pss_mib": tree / 1024, "worker_mib": worker / 1024}


def processes(pid: int) -> list[int]:
    """Return the ids of a process and its descendants."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def memory_of(pid: int) -> tuple[int, int]:
    """Return proportional set size, and resident memory without file-backed pages, in KiB.

    Both are zero if the process has ended.
    """
    folder = Path("/proc") / str(pid)
    try:
        text = (folder / "smaps_rollup").read_text() + (folder / "status").read_text()
    except OSError:
        return 0, 0
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith(" kB")}
    return kib.get("Pss", 0), kib.get("VmRSS", 0) - kib.get("RssFile", 0)


# Voxels.


def check_facts(out: Path, truth: Truth) -> None:
    """Assert that crop box and statistics are those of the formula."""
    fingerprint = json.loads((out / "fingerprint.json").read_text())
    (case,) = fingerprint["cases"].values()
    np.testing.assert_array_equal(case["crop_box"], truth.crop_box)
    found = fingerprint["foreground_intensity_properties_per_channel"]["0"]
    for name, expected in truth.statistics().items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, err_msg=name)


def worst_difference(out: Path, truth: Truth) -> float:
    """Return the largest difference of 20 boxes from SciPy's spline, as a fraction of the value range."""
    (group,) = (path for path in (out / "training.zarr" / "fullres").iterdir() if path.is_dir())
    image = zarr.open_array(group / "image", mode="r")
    low, high = (normalise(truth, np.array(v)) for v in (0.0, VALUES))
    worst = 0.0
    for bounds in checked_boxes(image.shape[1:], image.shards[1:]):
        found = image[(0, *(slice(a, b) for a, b in bounds))]
        expected = np.clip(interpolate(truth, image.shape[1:], bounds), low, high)
        worst = max(worst, float(np.abs(found - expected).max() / (high - low)))
    return worst


def checked_boxes(shape: Sequence[int], shard: Sequence[int], side: int = 24) -> Iterator[Bounds]:
    """Yield 20 boxes: two corners, the middle of each face, six where shards meet, six at random places."""
    rng, last = np.random.default_rng(0), np.array(shape) - side
    starts = [np.zeros(3, int), last]
    for axis, end in np.ndindex(3, 2):
        starts.append(np.where(np.arange(3) == axis, end * last, last // 2))
    for _ in range(6):
        meeting = [s * rng.integers(1, max(2, -(-n // s))) for n, s in zip(shape, shard, strict=True)]
        starts += [np.clip(np.array(meeting) - side // 2, 0, last), rng.integers(0, last + 1)]
    for start in starts:
        yield [(int(a), int(a) + side) for a in start]


def interpolate(truth: Truth, shape: Sequence[int], bounds: Bounds, margin: int = 40) -> Any:
    """Return a box of the output in float64, from the source box with a margin of 40 voxels.

    A cubic spline's weight falls by a factor of 3.7 per voxel, so what lies beyond the margin does not
    matter.
    """
    coordinates, source = [], []
    for (a, b), n, (first, stop) in zip(bounds, shape, truth.crop_box, strict=True):
        at = (np.arange(a, b) + 0.5) * (stop - first) / n - 0.5 + first
        low, high = max(first, int(at[0]) - margin), min(stop, int(at[-1]) + margin + 2)
        coordinates.append(at - low)
        source.append((low, high))
    values = normalise(truth, box_of(truth.shape, source).astype(float))
    grid = np.meshgrid(*coordinates, indexing="ij")
    return ndimage.map_coordinates(values, grid, order=3, mode="nearest")


def normalise(truth: Truth, values: Any) -> Any:
    """Normalise by nnU-Net's CT scheme: clip to the 0.5 and 99.5 percentiles, then z-score."""
    of = truth.statistics()
    return (np.clip(values, of["percentile_00_5"], of["percentile_99_5"]) - of["mean"]) / of["std"]


# Boxes.


def boxes(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Compare the CPU seconds of one case in boxes with those of the whole, in one process, alternately.

    The system time, in which the kernel hands out fresh pages, varies from call to call, so the user time is
    reported separately.
    """
    size, rounds = (64 * MIB, 1) if options.quick else (128 * MIB, 9)
    variants: dict[str, tuple[int, Sequence[str]]] = {
        "whole": (4096, ()),
        "boxes, shards of 32 MiB": (32, ()),
        "boxes, 300 MiB of memory": (4096, ("--memory-limit", "300MiB")),
    }
    wanted = [name for name in variants if options.only in name and name != "whole"]
    if not wanted:
        return
    truth = write_source(folder / "source", Volume("boxes", ".mhd", size))
    outs = {name: planned(folder, name, variants[name]) for name in ("whole", *wanted)}
    preprocess_seconds(outs["whole"])  # compiles
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in outs}
    for first in range(rounds):
        for name in [*outs][first % len(outs) :] + [*outs][: first % len(outs)]:
            taken[name].append(preprocess_seconds(outs[name]))
    for name in wanted:
        ours, whole = np.array(taken[name]), np.array(taken["whole"])
        yield {
            "name": name,
            "ratio": float(np.median(ours[:, 0] / whole[:, 0])),
            "user_ratio": float(np.median(ours[:, 1] / whole[:, 1])),
            "promise": PROMISE,
            "boxes_ms": 1e3 * float(np.median(ours[:, 0])),
            "whole_ms": 1e3 * float(np.median(whole[:, 0])),
            "mvoxel_s": truth.voxels / 1e6 / float(np.median(ours[:, 0])),
            "planned_mib": planned_mib(outs[name]),
            "same_voxels": bool(np.array_equal(image_of(outs[name]), image_of(outs["whole"]))),
            "shape": list(truth.shape),
            "rounds": rounds,
        }


def planned(folder: Path, name: str, variant: tuple[int, Sequence[str]]) -> Path:
    """Return an OUT that is planned but not preprocessed; the stages before the plan run once for all."""
    first, out = folder / "ingested", folder / name
    if not first.exists():
        call("ingest", folder / "source", first, "--cluster", "none", *SETTINGS)
        call("fingerprint", first, "--cluster", "none")
    shutil.copytree(first, out)
    shard_mib, limit = variant
    call("plan", out, *SETTINGS, "--set", f"store.shard_mib={shard_mib}", *limit)
    return out


def planned_mib(out: Path) -> float:
    """Return the planned peak memory of preprocessing, in MiB."""
    return float(json.loads((out / "plan.json").read_text())["peak_bytes"]["preprocess"] / MIB)


def preprocess_seconds(out: Path) -> tuple[float, float]:
    """Preprocess from scratch; return the CPU seconds, and the user time among them."""
    shutil.rmtree(out / "training.zarr", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_SELF)
    call("preprocess", out, "--cluster", "none")
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return user + system, user


def call(*words: object) -> None:
    """Run a command of voxelmill in this process; if it fails, the error holds what it printed."""
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            app([str(word) for word in words], standalone_mode=False)
    except SystemExit as error:
        raise RuntimeError(
            f"voxelmill {words[0]} ended with status {error.code}: {said.getvalue()}"
        ) from None


def image_of(out: Path) -> Any:
    """Return the only image of a training store."""
    (group,) = (path for path in (out / "training.zarr" / "fullres").iterdir() if path.is_dir())
    return np.asarray(zarr.open_array(group / "image", mode="r")[:])
