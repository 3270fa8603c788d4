"""How much memory a worker takes: modelled beforehand, shared out while it works, measured afterwards.

In: shapes and item sizes. Out: bytes. All numbers are resident memory of one process without file-backed
pages (libraries, mapped sources): what a worker can run out of. A worker takes `BASE_BYTES` and what its
tasks take; a task takes the sum of the terms that its function lists.
"""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxelmill.basics.errors import MemoryLimitError
from voxelmill.basics.record_base import Model
from voxelmill.basics.volume import Volume
from voxelmill.kernels.statistics.foreground_locations import LOCATIONS_BYTES
from voxelmill.kernels.statistics.histogram import BINS, COUNTED
from voxelmill.kernels.statistics.voxel_values import is_narrow
from voxelmill.storage.chunk_and_shard_shapes import RAW_SIDE, THICKNESS, slab_depth

BASE_BYTES = 206 * 2**20
"""Resident memory of a worker process with all libraries and compiled kernels loaded; measured."""

NANNY_BYTES = 128 * 2**20
"""Resident memory of the process that starts a worker process and restarts it when it dies; measured."""

HISTOGRAM_BYTES = 8 * BINS

MERGE_BYTES = 64 * 2**20
MOST_MERGED = 16

LONG_SECONDS = 0.005
"""Collecting what a task left takes less, where only that is looked at."""

CHANNELS_TOGETHER = 8
"""Channels whose percentiles are made at a time."""

FINE_HISTOGRAMS = 3
"""Histograms of a channel that its percentiles fall in, at most."""

RAW_CHUNK = 2 * THICKNESS * RAW_SIDE**2
"""Voxels of a chunk of the raw store at most: its sides may be half as long again."""


@dataclass(frozen=True)
class Memory:
    """What a worker process may take.

    Attributes
    ----------
    limit : int or None
        Bytes of one worker process, base included; None sets no limit.
    threads : int
        Tasks that a worker runs at a time, if they fit.
    """

    limit: int | None = None
    threads: int = 1

    @property
    def available(self) -> int | None:
        """Bytes for all tasks of a worker."""
        return None if self.limit is None else max(0, self.limit - BASE_BYTES)

    @property
    def budgets(self) -> tuple[int | None, ...]:
        """Bytes that one task may take: its share; where that is too little, all of them."""
        if self.available is None:
            return (None,)
        return self.available // self.threads, self.available

    def worker_bytes(self, task: int) -> int:
        """Bytes of a worker whose largest task takes `task` bytes: as many of them at a time as fit."""
        if self.available is None:
            return BASE_BYTES + self.threads * task
        return BASE_BYTES + max(1, min(self.threads, self.available // max(1, task))) * task

    @contextmanager
    def hold(self, task: int) -> Iterator[None]:
        """Take bytes for a task of this process, as soon as those of others leave room for it."""
        with _held.changed:
            _held.changed.wait_for(lambda: self._has_room(task))
            _held.bytes += task
        try:
            yield
        finally:
            if threading.current_thread() is not threading.main_thread():  # a worker, not a script
                _collect()
            with _held.changed:
                _held.bytes -= task
                _held.changed.notify_all()

    def _has_room(self, task: int) -> bool:
        return self.available is None or _held.bytes == 0 or _held.bytes + task <= self.available


def _collect() -> None:
    """Give back what is held by frames that an exception, a library's own too, remembers.

    Where looking takes long, modules have been loaded since the worker began: they stay, and are not looked
    at again.
    """
    start = time.perf_counter()
    gc.collect()
    if time.perf_counter() - start > LONG_SECONDS:
        gc.freeze()


class _Held:
    """Bytes that the tasks of this process have taken."""

    def __init__(self) -> None:
        self.bytes = 0
        self.changed = threading.Condition()


_held = _Held()


class SlabCost(Model):
    """Bytes of a task that goes through a volume slab by slab: some, and some for each slice of a slab."""

    fixed: int
    per_slice: int
    step: int = 1
    """Slices that lie together in the source."""

    def bytes(self, depth: int) -> int:
        """Bytes for slabs of `depth` slices."""
        return self.fixed + depth * self.per_slice

    def depth(self, shape: Sequence[int], memory: Memory) -> int:
        """Slices of a slab of a volume (z, y, x); 0 where not even one fits."""
        depths = (slab_depth(shape[0], self.per_slice, self.fixed, b, self.step) for b in memory.budgets)
        return next((depth for depth in depths if depth > 0), 0)

    def fitting_depth(self, shape: Sequence[int], memory: Memory) -> int:
        """`depth`, or a refusal.

        Raises
        ------
        MemoryLimitError
            If not even one slice fits.
        """
        depth = self.depth(shape, memory)
        if depth == 0:
            raise too_little(f"a slice of {shape[1]} x {shape[2]} voxels", self.bytes(1), memory)
        return depth


def too_little(what: str, task: int, memory: Memory, otherwise: str = "") -> MemoryLimitError:
    """What to say of a task that does not fit, and what else may be done."""
    needed, given = BASE_BYTES + task, memory.limit or 0
    return MemoryLimitError(
        f"{what} needs a worker of {_mib(needed)}, --memory-limit is {_mib(given)}. "
        f"Pass --memory-limit {_mib(needed)}, or more.{otherwise}"
    )


def _mib(count: int) -> str:
    return f"{-(-count // 2**20)}MiB"


def image_cost(volume: Volume, channels: int, dtype: np.dtype[Any], has_label: bool) -> SlabCost:
    """Ingest of an image that is stored as `dtype`, in a case of so many channels.

    For each slice of a slab: the slab as it is read, again where it is stored as another type, and the
    foreground of the label. Beside them: what the reader holds; one slice as it is scanned, put in order, and
    where it has more than 16 bits as float32, rescaled in float64, and whether it is finite; a chunk, copied
    and encoded; two histograms for each channel.
    """
    plane, item = math.prod(volume.geometry.shape[1:]), dtype.itemsize
    is_rescaled = (volume.slope, volume.intercept) != (1.0, 0.0)
    scan = plane * (item + (0 if is_narrow(dtype) else 5 + 16 * is_rescaled))
    converted = 0 if dtype == volume.dtype else volume.together * plane * item
    return SlabCost(
        fixed=volume.extra_bytes + scan + 3 * RAW_CHUNK * item + 2 * channels * HISTOGRAM_BYTES,
        per_slice=volume.slice_bytes + converted + has_label * plane,
        step=volume.step,
    )


def label_cost(volume: Volume, dtype: np.dtype[Any]) -> SlabCost:
    """Ingest of a label that is stored as `dtype`.

    For each slice of a slab: the slab as it is read, and again where it is stored as another type. Beside
    them: what the reader holds; one slice as it is rounded; labels as they are counted; a chunk, copied and
    encoded; a sample of the foreground.
    """
    plane, item = math.prod(volume.geometry.shape[1:]), dtype.itemsize
    rounded = plane * (0 if dtype == volume.dtype else 28)
    return SlabCost(
        fixed=volume.extra_bytes + rounded + 32 * COUNTED + 3 * RAW_CHUNK * item + LOCATIONS_BYTES,
        per_slice=volume.slice_bytes + (0 if dtype == volume.dtype else plane * item),
        step=volume.step,
    )


def read_bytes(itemsize: int, slices: int, in_place: SlabCost | None) -> int:
    """Beside a box that is read: a chunk of the raw store, encoded and decoded, or what the source takes.

    And the facts of the case as they come from JSON, of so many slices along all axes and channels.
    """
    return (2 * RAW_CHUNK * itemsize if in_place is None else in_place.bytes(1)) + 300 * slices


def values_cost(plane: int, has_label: bool, reading: int) -> SlabCost:
    """A second pass over the values of a channel, `plane` voxels a slice.

    For each slice of a slab: its values and its foreground. Beside them: what reading takes; one slice as
    values, keys and foreground; histograms.
    """
    return SlabCost(fixed=reading + 10 * plane + 8 * HISTOGRAM_BYTES, per_slice=plane * (4 + has_label))


def mask_cost(plane: int, reading: int) -> SlabCost:
    """Filling the holes of a mask.

    For each slice of a slab: its mask twice, the next slab's, and the scanned one; runs of background, which
    take up to six bytes a voxel in noise, next to nothing in bodies. Beside them what reading takes.
    """
    return SlabCost(fixed=reading, per_slice=plane * (4 + 6))


def fan_in(histograms: int) -> int:
    """How many cases of so many histograms are merged at a time: what memory allows, and at least two."""
    return max(2, min(MOST_MERGED, MERGE_BYTES // (histograms * HISTOGRAM_BYTES)))


def merge_bytes(channels: int, cases: int) -> int:
    """Merging statistics: histograms of some cases, their sum, and that on its way; coarse or finer ones."""
    counts = (channels, FINE_HISTOGRAMS * min(channels, CHANNELS_TOGETHER))
    return max((min(cases, fan_in(n)) + 2) * n * HISTOGRAM_BYTES for n in counts)


def shard_bytes(
    read: int,
    write: int,
    workspace: int,
    reading: int,
    label: int,
    gathered: int,
    chunk: int,
    has_mask: bool,
) -> int:
    """One piece of a shard: `read` voxels of the source become `write` voxels, image first, then label.

    Image: one channel's read box and write box as float32, the kernel's workspace, and what reading takes.
    Label (`label` bytes a voxel): both boxes and what is gathered between them, voxels. With each the mask of
    the read box; a chunk of the output (`chunk` voxels), copied and encoded.
    """
    image = 4 * (read + write) + workspace + reading
    of_label = label * (read + write + gathered) + reading
    return max(image, of_label) + (read if has_mask else 0) + 12 * chunk
