"""A bounded sample of the foreground's voxels; it does not depend on how the volume is cut into slabs.

In: slabs (z, y, x) of labels. Out: `Locations`, voxels of each class for a sampler of foreground patches
(nnU-Net's `class_locations`). This module knows no files, no image and no patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import ValueRuleError
from voxelmill.basics.geometry import Shape
from voxelmill.kernels.numba_on_first_use import compiled
from voxelmill.kernels.statistics.slices_seen import SlicesSeen

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

CLASS_SAMPLES = 10_000
"""Most voxels kept per class."""
TOTAL_SAMPLES = 500_000
"""Most voxels kept over all classes; at least `MOST_CLASSES`."""
MOST_CLASSES = 1_000
"""Most labels that count as classes; with more, the labels are ids of instances."""

LOCATIONS_BYTES = 2 * 8 * (CLASS_SAMPLES + TOTAL_SAMPLES) + 32 * TOTAL_SAMPLES + 2**20
"""Most bytes that one collector holds: twice the hashes it keeps, its result, tables and scratch space."""

# splitmix64, of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014)
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_SLOTS = 4096  # size of the table of ids, a power of two; at most a quarter full, so that probes are short
_BLOCK = 128  # voxels that are skipped together if all are background


@dataclass(frozen=True)
class Locations:
    """Sampled foreground voxels, ordered by label and then by hash.

    The first n voxels of a class are also a uniform sample of it.

    Attributes
    ----------
    labels : int64 array (n,)
        Ascending; all 1 for instances.
    positions : int64 array (n, 3)
        Index (z, y, x) of each voxel in the source grid, each voxel once.
    is_instances : bool
        Whether the labels are ids of instances, which count as one class.
    """

    labels: Int64
    positions: Int64
    is_instances: bool


class ForegroundLocations:
    """Samples the foreground of one label, one slab of whole z slices at a time.

    Foreground is every label above zero except the ignore label. The hash of a voxel is splitmix64 of its
    linear index in the source grid (C order). For each class the k voxels with the smallest hashes are
    kept: a uniform sample that depends neither on the order nor on the depth of the slabs::

        k = min(10,000, 500,000 // number of classes seen so far)

    With more classes k only shrinks. So a voxel is dropped only if its class has k voxels with smaller
    hashes, at least as many as the final k: no voxel of the final sample is ever dropped.

    Another 10,000 voxels are sampled from all foreground together. If there are more than 1,000 ids, or one
    beyond int64, the labels count as instances: the samples of the classes are discarded for good, and the
    sample of all foreground remains.

    Memory is bounded by `LOCATIONS_BYTES`, 25.2 MB, for any volume: 8.2 MB for hashes (8 bytes each, twice
    as many as are kept; the voxel follows from its hash because splitmix64 is a bijection), 16 MB for the
    result (32 bytes per voxel), 1 MiB for tables and scratch space. In addition, one byte is held per slice,
    and a copy of one slice of labels if they are not C-contiguous or are read-only.

    Parameters
    ----------
    shape : (z, y, x)
        Shape of the whole label volume.
    ignore_label : int, optional
        A label that is not foreground.
    """

    def __init__(self, shape: Shape, ignore_label: int | None = None):
        self.shape = shape
        self.ignore_label = ignore_label
        self.is_instances = False
        self._slices = SlicesSeen(shape)
        self._classes = 0
        self._slots = np.zeros(_SLOTS, np.uint64)  # hash table of ids; 0 marks a free slot
        self._rows = np.zeros(_SLOTS, np.int64)  # rows of these ids; row 0 belongs to all foreground, no id
        self._hashes = np.empty(2 * (CLASS_SAMPLES + TOTAL_SAMPLES), np.uint64)
        self._starts = _row_starts(0)  # row r has room for hashes[starts[r] : starts[r + 1]]
        self._ends = np.zeros(1, np.int64)  # and fills it up to ends[r]
        self._limits = np.full(1, 2**64 - 1, np.uint64)  # highest hash that each row accepts

    def add(self, z: int, labels: Array) -> None:
        """Add slices ``z`` to ``z + len(labels)``.

        Parameters
        ----------
        z : int
            Index of the first slice.
        labels : integer array (d, y, x)

        Raises
        ------
        ValueRuleError
            If the labels are not integers.
        ValueError
            If the slices do not fit the shape, or were added before.
        """
        if labels.dtype.kind not in "biu":
            raise ValueRuleError(f"labels are {labels.dtype}; integers are needed. Convert the label image.")
        self._slices.claim(z, labels.shape)
        for i, plane in enumerate(labels):
            self._add_plane(z + i, plane)

    def result(self) -> Locations:
        """Return the sample after every slice was added.

        Raises
        ------
        ValueError
            If slices are missing.
        """
        self._slices.check_all("locations")
        ids, rows = self._classes_by_id()
        for row in rows:
            self._trim(row)
        sizes = self._ends[rows] - self._starts[rows]
        positions = np.empty((sizes.sum(), 3), np.int64)
        for row, size, stop in zip(rows, sizes, sizes.cumsum(), strict=True):
            hashes = np.sort(self._hashes[self._starts[row] : self._ends[row]])
            positions[stop - size : stop] = np.transpose(np.unravel_index(_indices(hashes), self.shape))
        return Locations(np.repeat(ids, sizes), positions, self.is_instances)

    def _classes_by_id(self) -> tuple[Int64, Int64]:
        """Return the ids, ascending, and their rows; for instances id 1 and the row of all foreground."""
        if self.is_instances:
            return np.ones(1, np.int64), np.zeros(1, np.int64)
        found = np.flatnonzero(self._rows)
        found = found[np.argsort(self._slots[found])]
        return self._slots[found].astype(np.int64), self._rows[found]

    def _add_plane(self, z: int, plane: Array) -> None:
        """Add one slice: scan until a row is full or an id is new, deal with it, and continue."""
        words, highest = _as_words(plane)
        ignored = self.ignore_label or 0
        ignored = ignored if 0 < ignored <= highest else 0  # zero is no foreground anyway
        i, first = 0, z * self.shape[1] * self.shape[2]
        while i < len(words):
            i = _scan(
                words, i, first, np.uint64(highest), np.uint64(ignored), not self.is_instances,
                self._slots, self._rows, self._hashes, self._starts, self._ends, self._limits,
            )  # fmt: skip
            full = np.flatnonzero(self._ends == self._starts[1:]).tolist()
            for row in full:
                self._trim(row)
            if not full and i < len(words):
                self._admit(int(words[i]))

    def _admit(self, label: int) -> None:
        """Give a new id a row, or discard the samples of the classes."""
        if self._classes == MOST_CLASSES or label > np.iinfo(np.int64).max:
            self._give_up_classes()
            return
        self._classes += 1
        self._rows[self._slots == label] = self._classes  # the scan put the id into its slot
        starts = _row_starts(self._classes)
        for row in np.flatnonzero(self._ends - self._starts[:-1] >= np.diff(starts[:-1])).tolist():
            self._trim(row)
        _move_rows(self._hashes, self._starts, self._ends, starts)
        self._starts = starts
        self._ends = np.append(self._ends, starts[self._classes])
        self._limits = np.append(self._limits, np.uint64(2**64 - 1))

    def _give_up_classes(self) -> None:
        """Keep only the row of all foreground."""
        self.is_instances = True
        self._hashes = self._hashes[: 2 * CLASS_SAMPLES].copy()
        self._starts, self._ends, self._limits = _row_starts(0), self._ends[:1], self._limits[:1]

    def _trim(self, row: int) -> None:
        """Keep the k smallest hashes of a row, and accept no larger ones from now on."""
        k = _kept(self._classes) if row else CLASS_SAMPLES
        hashes = self._hashes[self._starts[row] : self._ends[row]]
        if len(hashes) > k:
            hashes.partition(k - 1)
            self._ends[row] = self._starts[row] + k
            self._limits[row] = hashes[k - 1]


def _kept(classes: int) -> int:
    """Return the number of voxels kept per class, for a number of classes."""
    return min(CLASS_SAMPLES, TOTAL_SAMPLES // max(classes, 1))


def _row_starts(classes: int) -> Int64:
    """Return the starts of the rows, that of all foreground first, and the end of the last row."""
    return np.append(0, 2 * (CLASS_SAMPLES + _kept(classes) * np.arange(classes + 1)))


def _as_words(plane: Array) -> tuple[Array, int]:
    """Return labels as flat unsigned integers of the same width, and the highest non-negative label."""
    integers = plane.view(np.uint8) if plane.dtype.kind == "b" else plane
    native = integers.dtype.newbyteorder("=")
    flat = np.require(integers, native, ["C", "W"]).reshape(-1)
    return flat.view(f"u{native.itemsize}"), int(np.iinfo(native).max)


def _indices(hashes: UInt64) -> Int64:
    """Return the linear indices of hashes, by inverting each step of splitmix64."""
    h: UInt64 = hashes ^ (hashes >> np.uint64(31)) ^ (hashes >> np.uint64(62))
    h *= np.uint64(pow(_SECOND, -1, 2**64))
    h ^= (h >> np.uint64(27)) ^ (h >> np.uint64(54))
    h *= np.uint64(pow(_FIRST, -1, 2**64))
    h ^= (h >> np.uint64(30)) ^ (h >> np.uint64(60))
    h -= np.uint64(_STEP)
    return h.view(np.int64)


@compiled
def _move_rows(hashes: Array, starts: Array, ends: Array, new_starts: Array) -> None:
    """Move each row down to its new start, first to last, and update `ends`."""
    for row in range(len(ends)):
        down = starts[row] - new_starts[row]
        if down > 0:
            for i in range(starts[row], ends[row]):
                hashes[i - down] = hashes[i]
            ends[row] -= down


@compiled
def _scan(
    words: Array,
    i: int,
    first: int,
    highest: np.uint64,
    ignored: np.uint64,
    classed: bool,
    slots: Array,
    rows: Array,
    hashes: Array,
    starts: Array,
    ends: Array,
    limits: Array,
) -> int:
    """Add voxels from `i` on; return the index where the scan stopped.

    The scan stops at an id without a row, after putting the id into a slot, and behind a voxel that filled a
    row. `first` is the linear index of ``words[0]``. A vectorised loop skips blocks of background; within a
    run of one label, a single comparison rejects a voxel.
    """
    word, one, mask = words.dtype.type, np.uint64(1), np.uint64(len(slots) - 1)
    step, early, late = np.uint64(_STEP), np.uint64(_FIRST), np.uint64(_SECOND)
    last, row, limit = np.uint64(0), 0, limits[0]
    while i < len(words):
        block = words[i : i + _BLOCK]
        any_bit = word(0)
        for j in range(len(block)):
            any_bit = word(any_bit | block[j])
        for j in range(len(block) if any_bit else 0):
            label = np.uint64(block[j])
            if label - one >= highest or label == ignored:  # 0 - 1 wraps to the highest number
                continue
            if classed and label != last:
                slot = ((label * early) >> np.uint64(32)) & mask
                while slots[slot] != label and slots[slot] != 0:
                    slot = (slot + one) & mask
                slots[slot] = label
                if rows[slot] == 0:
                    return i + j
                last, row = label, rows[slot]
                limit = max(limits[0], limits[row])
            h = np.uint64(first + i + j) + step
            h = (h ^ (h >> np.uint64(30))) * early
            h = (h ^ (h >> np.uint64(27))) * late
            h ^= h >> np.uint64(31)
            if h > limit:
                continue
            if h <= limits[0]:
                hashes[ends[0]] = h
                ends[0] += 1
            if row > 0 and h <= limits[row]:
                hashes[ends[row]] = h
                ends[row] += 1
            if ends[0] == starts[1] or ends[row] == starts[row + 1]:
                return i + j + 1
        i += len(block)
    return i
