"""Volumes far larger than memory through ``voxelmill run``: peak memory, speed, and voxels beside SciPy's.

A source follows a formula, so it is written slab by slab and any box of it can be made again by itself. What
the run wrote is held against it: crop box, intensity statistics and boxes of voxels. One row a volume; then
what boxes cost beside the whole, on a volume that fits into memory.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numba
import numpy as np
import psutil
import zarr
from scipy import ndimage

from voxelmill.cli import app

Row = dict[str, Any]
MIB, GIB = 2**20, 2**30
WORKERS, LIMIT_MIB = 2, 1024
SPACING, TARGET = 0.8, 1.0  # 0.8^3 of the voxels: about half
SETTINGS = ("--set", f"target_spacing=[{TARGET}, {TARGET}, {TARGET}]", "--set", 'channels=["CT"]')
TOLERANCE = 1e-5  # of the value range
SPARE = 8 * GIB  # left free on the disk
DISK = 2.4  # source, raw store and training store, in bytes of the source; measured: 1.9
PROMISE = 1.3  # CPU seconds of boxes beside those of the whole


@dataclass(frozen=True)
class Volume:
    """A source of about `bytes` uncompressed, in the format of `ending`."""

    name: str
    ending: str
    bytes: float


def run(options: argparse.Namespace) -> Iterator[Row]:
    """The small volume, what is compared with it, and the boxes."""
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
    """1, or the factor that sizes are scaled down by, so that a volume and its stores fit on the disk."""
    room = shutil.disk_usage(folder).free - SPARE
    share = min(1.0, room / (DISK * largest))
    if share <= 0:
        raise OSError(f"{folder} has no more than {SPARE / GIB:.0f} GiB free; name another --folder")
    if share < 1:
        print(f"{folder} has room for {room / GIB:.1f} GiB: sizes are scaled by {share:.3f}", flush=True)
    return share


def measure(volume: Volume, folder: Path) -> Row:
    """Write a source, run it, compare what came out."""
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
    """Throughput as a multiple of the small volume's."""
    return {
        key.replace("_mvoxel_s", "_of_small"): row[key] / small[key]
        for key in row
        if key.endswith("_mvoxel_s")
    }


def check(row: Row) -> None:
    """Refuse a row that breaks a promise, after it was shown and written."""
    if not row["worst_difference"] <= TOLERANCE:
        raise ValueError(f"{row['name']}: {row['worst_difference']:.2g} of the range away from SciPy")
    for peak in ("worker_mib", "reported_peak_mib"):
        if row[peak] > row["limit_mib"]:
            raise ValueError(f"{row['name']}: a worker took {row[peak]:.0f} of {row['limit_mib']} MiB")


def bytes_below(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# The formula: a body with rounded edges, waves and noise in it, holes of zero, and a bite out of an edge.

BODY = 0.9  # share of each axis; beyond it every voxel is zero
HOLES = ((-0.4, 0.1, -0.3, 0.15), (0.3, -0.35, 0.25, 0.12), (0.1, 0.45, 0.4, 0.06))  # z, y, x, radius
BITE = (0.0, 0.9, 0.9, 0.3)  # open to the outside, so not filled
VALUES = 2048  # all are below

Bounds = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Truth:
    """What is known of a source: its shape, and how many voxels of the filled mask have each value."""

    shape: tuple[int, int, int]
    counts: Any

    @property
    def voxels(self) -> int:
        """Voxels of the source."""
        return math.prod(self.shape)

    @property
    def crop_box(self) -> list[tuple[int, int]]:
        """Extent of the body: along each axis through the middle of the others."""
        nearest = [min(abs(place(i, n)) for i in (n // 2 - 1, n // 2)) ** 4 for n in self.shape]
        halves = [(1 - sum(nearest) + own) ** 0.25 for own in nearest]
        return [span(0.0, half, n, 0, n) for half, n in zip(halves, self.shape, strict=True)]

    def statistics(self) -> dict[str, float]:
        """Of the filled mask, under the names of fingerprint.json."""
        values, cumulated = np.arange(VALUES), np.cumsum(self.counts)
        mean = float(self.counts @ values / cumulated[-1])
        low, middle, high = (
            float(np.searchsorted(cumulated, p / 100 * cumulated[-1])) for p in (0.5, 50, 99.5)
        )
        return {
            "mean": mean,
            "std": math.sqrt(self.counts @ (values - mean) ** 2 / cumulated[-1]),
            "min": float(np.flatnonzero(self.counts)[0]),
            "max": float(np.flatnonzero(self.counts)[-1]),
            "percentile_00_5": low,
            "median": middle,
            "percentile_99_5": high,
        }


def shape_of(size: float) -> tuple[int, int, int]:
    """Shape of an int16 volume of about `size` bytes, its sides as 3 to 4 to 5."""
    unit = (size / 2 / 60) ** (1 / 3)
    return round(3 * unit), round(4 * unit), round(5 * unit)


def box_of(shape: Sequence[int], bounds: Bounds) -> Any:
    """Any box of a source, int16."""
    out = np.empty([b - a for a, b in bounds], np.int16)
    fill(out, tuple(a for a, _ in bounds), tuple(shape), waves(shape), np.zeros(VALUES, np.int64))
    return out


def slabs(shape: Sequence[int], counts: Any) -> Iterator[Any]:
    """A whole source in slabs of about 32 MiB; each is overwritten by the next. Adds to `counts`."""
    depth, waves_of = max(1, 32 * MIB // (2 * shape[1] * shape[2])), waves(shape)
    buffer = np.empty((depth, *shape[1:]), np.int16)
    for z in range(0, shape[0], depth):
        slab = buffer[: min(depth, shape[0] - z)]
        fill(slab, (z, 0, 0), tuple(shape), waves_of, counts)
        yield slab


def waves(shape: Sequence[int]) -> tuple[Any, ...]:
    """Two sines along each axis, between -1 and 1."""
    axes = [np.arange(n) for n in shape]
    return tuple((0.6 * np.sin(i / 13) + 0.4 * np.sin(i / 4.7 + 1)).astype(np.float32) for i in axes)


@numba.njit(nogil=True)
def place(index: int, size: int) -> float:
    """Where a voxel lies along an axis: the body reaches from -1 to 1."""
    return float(((index + 0.5) / size * 2 - 1) / BODY)


@numba.njit(nogil=True)
def span(centre: float, half: float, size: int, start: int, stop: int) -> tuple[int, int]:
    """Voxels of a row whose place is within `half` of `centre`, counted from `start` and cut at `stop`."""
    low = math.ceil(((centre - half) * BODY + 1) * size / 2 - 0.5)
    high = math.floor(((centre + half) * BODY + 1) * size / 2 - 0.5) + 1
    first = min(max(low, start), stop) - start
    return first, max(min(high, stop) - start, first)


@numba.njit(nogil=True)
def hole_span(hole: Any, z: float, y: float, size: int, start: int, stop: int) -> tuple[int, int]:
    """Voxels of a row that lie in a hole."""
    rest = hole[3] ** 2 - (z - hole[0]) ** 2 - (y - hole[1]) ** 2
    return span(hole[2], math.sqrt(max(rest, 0.0)), size, start, stop) if rest > 0 else (0, 0)


@numba.njit(nogil=True)
def scramble(number: int) -> Any:
    """32 bits that look random."""
    h = np.uint32(number)
    h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x85EBCA6B))
    h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@numba.njit(nogil=True)
def tissue(row: Any, seed: Any, amplitude: Any, wave: Any, start: int) -> None:
    """Values of a row in the body: waves, and 6 bits of noise."""
    for i in range(row.size):
        noise = scramble(seed + np.uint32(start + i) * np.uint32(0x9E3779B1)) >> np.uint32(26)
        row[i] = np.int16(np.float32(1000) + amplitude * wave[start + i]) + np.int16(noise)


@numba.njit(nogil=True)
def fill(out: Any, start: Any, shape: Any, waves_of: Any, counts: Any) -> None:
    """Values of a box; `counts` gets the filled mask's, the bite left out."""
    x0, x1, size = start[2], start[2] + out.shape[2], shape[2]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            row, z, y = out[i, j], start[0] + i, start[1] + j
            row[:] = 0
            u, v = place(z, shape[0]), place(y, shape[1])
            rest = 1 - u**4 - v**4
            if rest <= 0:
                continue
            a, b = span(0.0, rest**0.25, size, x0, x1)
            seed = scramble(scramble(z) + np.uint32(y))
            tissue(row[a:b], seed, np.float32(400) * waves_of[0][z] * waves_of[1][y], waves_of[2], x0 + a)
            for hole in HOLES:
                c, d = hole_span(hole, u, v, size, x0, x1)
                row[c:d] = 0
                counts[0] += d - c
            c, d = hole_span(BITE, u, v, size, x0, x1)
            row[c:d] = 0
            for value in row[a:b]:
                if value != 0:
                    counts[value] += 1


# Files.


def write_source(folder: Path, volume: Volume) -> Truth:
    """A folder with one image."""
    folder.mkdir()
    truth = Truth(shape_of(volume.bytes), np.zeros(VALUES, np.int64))
    write = write_metaimage if volume.ending == ".mhd" else write_nifti
    write(folder / f"case{volume.ending}", truth.shape, slabs(truth.shape, truth.counts))
    for path in folder.iterdir():
        forget(path)
    return truth


def write_metaimage(path: Path, shape: Sequence[int], data: Iterator[Any]) -> None:
    """Header and raw data."""
    raw = path.with_suffix(".raw")
    z, y, x = shape
    path.write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = {x} {y} {z}\nElementType = MET_SHORT\n"
        f"ElementSpacing = {SPACING} {SPACING} {SPACING}\nElementByteOrderMSB = False\n"
        f"ElementDataFile = {raw.name}\n"
    )
    with raw.open("wb") as file:
        for slab in data:
            file.write(slab)


def write_nifti(path: Path, shape: Sequence[int], data: Iterator[Any]) -> None:
    """One gzip stream."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape[::-1])
    header.set_sform(np.diag([SPACING, SPACING, SPACING, 1]), 1)
    header.set_zooms([SPACING] * 3)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with open_gzip(path) as file:
        file.write(header.binaryblock + bytes(4))
        for slab in data:
            file.write(slab)


def open_gzip(path: Path) -> Any:
    """isal where it is installed: several times as fast as zlib."""
    try:
        from isal import igzip
    except ImportError:
        return gzip.open(path, "wb", 1)
    return igzip.open(path, "wb", 1)


def forget(path: Path) -> None:
    """Put a file on the disk and drop it from the page cache, so that small and large are read alike."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# Memory.


def run_watched(*words: object) -> Row:
    """Run a command of voxelmill; the peaks of its processes' memory."""
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
    """A process and all below it."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def memory_of(pid: int) -> tuple[int, int]:
    """Proportional share, and resident memory without file-backed pages, KiB; zero when it has ended."""
    folder = Path("/proc") / str(pid)
    try:
        text = (folder / "smaps_rollup").read_text() + (folder / "status").read_text()
    except OSError:
        return 0, 0
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines() if line.endswith(" kB")}
    return kib.get("Pss", 0), kib.get("VmRSS", 0) - kib.get("RssFile", 0)


# Voxels.


def check_facts(out: Path, truth: Truth) -> None:
    """Crop box and statistics are those of the formula."""
    fingerprint = json.loads((out / "fingerprint.json").read_text())
    (case,) = fingerprint["cases"].values()
    np.testing.assert_array_equal(case["crop_box"], truth.crop_box)
    found = fingerprint["foreground_intensity_properties_per_channel"]["0"]
    for name, expected in truth.statistics().items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, err_msg=name)


def worst_difference(out: Path, truth: Truth) -> float:
    """Largest difference of 20 boxes from SciPy's spline, as a fraction of the value range."""
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
    """Two corners, the middle of each face, six where shards meet, six anywhere."""
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
    """A box of the output in float64: a spline's weight falls by 3.7 a voxel, so a margin is the whole."""
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
    """nnU-Net's CT scheme."""
    of = truth.statistics()
    return (np.clip(values, of["percentile_00_5"], of["percentile_99_5"]) - of["mean"]) / of["std"]


# Boxes.


def boxes(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """CPU seconds of one case in boxes beside those of the whole, one process, each in turn.

    The system's share of them, which hands out fresh pages, varies from call to call: the user's is stated
    by itself.
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
    """OUT as far as its plan; the stages before it are run once."""
    first, out = folder / "ingested", folder / name
    if not first.exists():
        call("ingest", folder / "source", first, "--cluster", "none", *SETTINGS)
        call("fingerprint", first, "--cluster", "none")
    shutil.copytree(first, out)
    shard_mib, limit = variant
    call("plan", out, *SETTINGS, "--set", f"store.shard_mib={shard_mib}", *limit)
    return out


def planned_mib(out: Path) -> float:
    """What a plan says that preprocessing takes."""
    return float(json.loads((out / "plan.json").read_text())["peak_bytes"]["preprocess"] / MIB)


def preprocess_seconds(out: Path) -> tuple[float, float]:
    """CPU seconds of preprocessing from the start: all, and the user's."""
    shutil.rmtree(out / "training.zarr", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_SELF)
    call("preprocess", out, "--cluster", "none")
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return user + system, user


def call(*words: object) -> None:
    """A command of voxelmill in this process; what it prints is shown where it fails."""
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            app([str(word) for word in words], standalone_mode=False)
    except SystemExit as error:
        raise RuntimeError(
            f"voxelmill {words[0]} ended with status {error.code}: {said.getvalue()}"
        ) from None


def image_of(out: Path) -> Any:
    """The only image of a training store."""
    (group,) = (path for path in (out / "training.zarr" / "fullres").iterdir() if path.is_dir())
    return np.asarray(zarr.open_array(group / "image", mode="r")[:])
