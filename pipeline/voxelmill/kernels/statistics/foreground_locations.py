"""Where the foreground lies: a bounded sample of its voxels, the same however the volume is cut.

In: slabs (z, y, x) of labels. Out: `Locations`, some voxels of each class, for a patch sampler that wants
a foreground voxel (nnU-Net's `class_locations`). Knows no files, no image and no patches.
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
"""Most voxels kept of one class."""
TOTAL_SAMPLES = 500_000
"""Most voxels kept of all classes; at least `MOST_CLASSES`."""
MOST_CLASSES = 1_000
"""More ids than these are instances, not classes."""

LOCATIONS_BYTES = 2 * 8 * (CLASS_SAMPLES + TOTAL_SAMPLES) + 32 * TOTAL_SAMPLES + 2**20
"""Most bytes that one collector holds: twice the hashes it keeps, its result, tables and scratch."""

# splitmix64, of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014)
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_SLOTS = 4096  # of the table of ids, a power of two; a quarter full at most, so that a probe finds soon
_BLOCK = 128  # voxels that are skipped together where all are background


@dataclass(frozen=True)
class Locations:
    """Sampled foreground voxels, ordered by label and then by hash.

    The first n of a class are a uniform sample of it, too.

    Attributes
    ----------
    labels : int64 array (n,)
        Ascending; all 1 for instances.
    positions : int64 array (n, 3)
        Index z, y, x of each voxel in the source grid; no voxel comes twice.
    is_instances : bool
        Whether the labels are ids of instances, which count as one class.
    """

    labels: Int64
    positions: Int64
    is_instances: bool


class ForegroundLocations:
    """Samples the foreground of one label, one slab of whole z slices at a time.

    Foreground is what lies above zero and is not the ignore label. Each voxel has a hash, splitmix64 of
    its linear index in the source grid (C order), and of each class those k voxels are kept that have the
    smallest hashes: a uniform sample that depends neither on the order nor on the depth of the slabs::

        k = min(10,000, 500,000 // number of classes seen so far)

    With more classes k only shrinks. So a voxel is dropped only when its class has k voxels with smaller
    hashes, which are at least as many as the final k: no voxel of the final sample is ever dropped.

    Of all foreground together 10,000 voxels are sampled, too. More than 1,000 ids, or one beyond int64,
    are taken for instances: the classes' samples are given up for good, and that sample remains.

    Memory is bounded by `LOCATIONS_BYTES`, 25.2 MB, whatever the volume: 8.2 MB for hashes (8 bytes each,
    twice as many as are kept; a hash tells its voxel, since splitmix64 is a bijection), 16 MB for the
    result (32 bytes a voxel), 1 MiB for tables and scratch. Beside it are held a byte for each slice, and
    a copy of one slice of labels where they are not C-contiguous or are read-only.

    Parameters
    ----------
    shape : (z, y, x)
        Of the whole label.
    ignore_label : int, optional
        This label is no foreground.
    """

    def __init__(self, shape: Shape, ignore_label: int | None = None):
        self.shape = shape
        self.ignore_label = ignore_label
        self.is_instances = False
        self._slices = SlicesSeen(shape)
        self._classes = 0
        self._slots = np.zeros(_SLOTS, np.uint64)  # hash table of ids; 0 where a slot is free
        self._rows = np.zeros(_SLOTS, np.int64)  # rows of these ids; row 0 is all foreground, no id's
        self._hashes = np.empty(2 * (CLASS_SAMPLES + TOTAL_SAMPLES), np.uint64)
        self._starts = _row_starts(0)  # row r has room for hashes[starts[r] : starts[r + 1]]
        self._ends = np.zeros(1, np.int64)  # and fills it up to ends[r]
        self._limits = np.full(1, 2**64 - 1, np.uint64)  # of each row; higher hashes are not wanted

    def add(self, z: int, labels: Array) -> None:
        """Take in slices ``z`` to ``z + len(labels)``.

        Parameters
        ----------
        z : int
            Position of the first slice.
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
        """The sample, once every slice was added.

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
        """Ids, ascending, and their rows; for instances 1 and the row of all foreground."""
        if self.is_instances:
            return np.ones(1, np.int64), np.zeros(1, np.int64)
        found = np.flatnonzero(self._rows)
        found = found[np.argsort(self._slots[found])]
        return self._slots[found].astype(np.int64), self._rows[found]

    def _add_plane(self, z: int, plane: Array) -> None:
        """Take in one slice: scan until something is in the way, clear it, go on."""
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
        """Give a new id a row, or give up the classes."""
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
        """Keep the row of all foreground only."""
        self.is_instances = True
        self._hashes = self._hashes[: 2 * CLASS_SAMPLES].copy()
        self._starts, self._ends, self._limits = _row_starts(0), self._ends[:1], self._limits[:1]

    def _trim(self, row: int) -> None:
        """Keep the k smallest hashes of a row, and want none above them."""
        k = _kept(self._classes) if row else CLASS_SAMPLES
        hashes = self._hashes[self._starts[row] : self._ends[row]]
        if len(hashes) > k:
            hashes.partition(k - 1)
            self._ends[row] = self._starts[row] + k
            self._limits[row] = hashes[k - 1]


def _kept(classes: int) -> int:
    """Voxels kept of each of so many classes."""
    return min(CLASS_SAMPLES, TOTAL_SAMPLES // max(classes, 1))


def _row_starts(classes: int) -> Int64:
    """Where the rows of all foreground and of the classes begin, and where the last one ends."""
    return np.append(0, 2 * (CLASS_SAMPLES + _kept(classes) * np.arange(classes + 1)))


def _as_words(plane: Array) -> tuple[Array, int]:
    """Labels as flat unsigned numbers of their width, and the highest of them that is not negative."""
    integers = plane.view(np.uint8) if plane.dtype.kind == "b" else plane
    native = integers.dtype.newbyteorder("=")
    flat = np.require(integers, native, ["C", "W"]).reshape(-1)
    return flat.view(f"u{native.itemsize}"), int(np.iinfo(native).max)


def _indices(hashes: UInt64) -> Int64:
    """Linear indices that hash to these: each step of splitmix64, backwards."""
    h: UInt64 = hashes ^ (hashes >> np.uint64(31)) ^ (hashes >> np.uint64(62))
    h *= np.uint64(pow(_SECOND, -1, 2**64))
    h ^= (h >> np.uint64(27)) ^ (h >> np.uint64(54))
    h *= np.uint64(pow(_FIRST, -1, 2**64))
    h ^= (h >> np.uint64(30)) ^ (h >> np.uint64(60))
    h -= np.uint64(_STEP)
    return h.view(np.int64)


@compiled
def _move_rows(hashes: Array, starts: Array, ends: Array, new_starts: Array) -> None:
    """Move each row down to its new start, first to last; `ends` follow."""
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
    """Take in voxels from `i` on; where it stopped.

    It stops at an id that has no row, which is in its slot then, and behind a voxel that filled a row.
    `first` is the linear index of ``words[0]``. Blocks of background are skipped by a loop that
    vectorises; within a run of one label, one compare rejects a voxel.
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
            if label - one >= highest or label == ignored:  # 0 - 1 is the highest number
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
