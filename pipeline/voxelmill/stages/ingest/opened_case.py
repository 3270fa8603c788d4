"""The opened files of a case: the memory of a slab, and labels as whole numbers, counted and checked.

In: volumes. Out: bytes, label types, labels, counts. Writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from voxelmill.basics.errors import ValueRuleError
from voxelmill.basics.geometry import Shape
from voxelmill.basics.volume import Array, Repair, Volume
from voxelmill.kernels.statistics.foreground_locations import MOST_CLASSES
from voxelmill.kernels.statistics.histogram import class_counts
from voxelmill.runtime.memory_budget import SlabCost, image_cost, label_cost
from voxelmill.stages.ingest.regridded_volume import Regridded
from voxelmill.stages.raw_store.stored_values import image_names, stored_dtype

ROUNDED = 1e-3
"""Largest distance of a label from a whole number: tools that resample masks save 0.99999."""

STRANGE = 1000
"""Most different labels, of those that the source does not state, that are counted."""


THE_LABEL = "the label"
"""Name of the label in messages."""


@dataclass(frozen=True)
class Incoming:
    """The images of a case, each with one or more channels, and its label."""

    volumes: Sequence[Volume]
    label: Volume | None
    is_in_place: bool = False
    """Whether the images are read in place, and not copied to the raw store."""

    repairs: tuple[Repair, ...] = ()
    """Problems of the files that a setting accepted."""

    otherwise: tuple[str, ...] = ()
    """Settings, not chosen, that would place one of the files elsewhere."""

    names: tuple[str, ...] | None = None
    """Names of the channels, if the source states them."""

    @property
    def shape(self) -> Shape:
        """Voxels along z, y, x."""
        return self.volumes[0].geometry.shape

    @property
    def channels(self) -> int:
        """Number of channels of all images."""
        return sum(v.channels for v in self.volumes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type that holds the stored values of all channels."""
        return np.result_type(*(stored_dtype(v) for v in self.volumes))

    @property
    def is_alone(self) -> bool:
        """Whether there is one image and no label, so that messages need not name the file."""
        return len(self.volumes) == 1 and self.label is None

    @property
    def bytes(self) -> int:
        """Uncompressed bytes of all voxels, as the files store them."""
        return sum(v.channels * math.prod(v.geometry.shape) * v.dtype.itemsize for _, v in self.named())

    def images(self) -> list[tuple[str, Volume]]:
        """Return all images, each with its name in messages."""
        return list(zip(image_names(len(self.volumes), self.names), self.volumes, strict=True))

    def named(self) -> list[tuple[str, Volume]]:
        """Return all images, then the label, each with its name in messages."""
        return [*self.images(), *([] if self.label is None else [(THE_LABEL, self.label)])]

    def image_cost(self) -> SlabCost:
        """Return the memory of ingesting the most demanding image, staging included."""
        costs = [image_cost(v, self.channels, stored_dtype(v), self.label is not None) for v in self.volumes]
        return _most_demanding([*costs, *_staging(self.volumes)])

    def label_cost(self) -> SlabCost | None:
        """Return the memory of ingesting the label, or None without one."""
        if self.label is None:
            return None
        return _most_demanding([label_cost(self.label, label_dtype(self.label)), *_staging([self.label])])


def _staging(volumes: Iterable[Volume]) -> list[SlabCost]:
    """Return the memory that staging took, for volumes brought onto another grid."""
    return [v.staging for v in volumes if isinstance(v, Regridded)]


def _most_demanding(costs: Sequence[SlabCost]) -> SlabCost:
    return max(costs, key=lambda cost: cost.bytes(cost.step))


def label_dtype(label: Volume) -> np.dtype[Any]:
    """Return the integer type for the labels of a volume; floats must hold whole numbers."""
    if label.dtype.kind == "b":
        return np.dtype(np.uint8)
    if _is_whole(label):
        return label.dtype
    return np.dtype(np.int64 if label.dtype.itemsize > 4 else np.int32)


def _is_whole(label: Volume) -> bool:
    return label.dtype.kind in "iub" and (label.slope, label.intercept) == (1.0, 0.0)


@dataclass
class WholeLabels:
    """Converts the labels of a volume to integers; a value within `ROUNDED` of a whole number is rounded.

    Attributes
    ----------
    label : Volume
        The volume that the stored values come from.
    largest : float
        Largest deviation from a whole number so far.
    """

    label: Volume
    largest: float = 0.0

    def take(self, stored: Array, z: int) -> Array:
        """Convert stored values (z, y, x) to integer labels; `z` is the index of the first slice.

        Raises
        ------
        ValueRuleError
            If a label is not a whole number, or does not fit into the integer type.
        """
        dtype = label_dtype(self.label)
        if _is_whole(self.label):
            return stored.astype(dtype, copy=False)
        out = np.empty(stored.shape, dtype)
        for i, plane in enumerate(stored):
            self._round(plane, out[i], z + i)
        return out

    def _round(self, plane: Array, out: Array, z: int) -> None:
        values = self._values(plane)
        whole = np.rint(values)
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            np.abs(np.subtract(values, whole, out=values), out=values)
        wrong = ~(values <= ROUNDED) | (np.abs(whole) > np.iinfo(out.dtype).max)
        if wrong.any():
            raise ValueRuleError(
                f"the label holds {self._values(plane[wrong])[0]:.6g} in {int(wrong.sum())} voxels of slice "
                f"{z}; whole numbers are needed, within {ROUNDED:g}. Round it, or write it as integers."
            )
        self.largest = max(self.largest, float(values.max()))
        out[...] = whole

    def _values(self, stored: Array) -> Array:
        values = stored.astype(np.float64)
        values *= self.label.slope
        values += self.label.intercept
        return values

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user on the label, as far as it was read."""
        rounded = f"values rounded to whole numbers, by {self.largest:.2g} at most" if self.largest else None
        return (*self.label.notes, *([rounded] if rounded else []))


@dataclass
class LabelTally:
    """Counts the voxels of each label; more than `MOST_CLASSES` labels are instances, counted together.

    Attributes
    ----------
    stated : frozenset of int, optional
        The labels that may occur; None allows all.
    counts : dict
        Voxels of each label; for instances 0 counts the background and 1 the foreground.
    strange : dict
        Voxels of each label that may not occur.
    low, high : int or None
        Lowest and highest label so far.
    is_instances : bool
        Whether the labels are ids of instances.
    """

    stated: frozenset[int] | None = None
    counts: dict[int, int] = field(default_factory=dict)
    strange: dict[int, int] = field(default_factory=dict)
    low: int | None = None
    high: int | None = None
    is_instances: bool = False

    def add(self, labels: Array) -> None:
        """Count the labels of slices (z, y, x)."""
        for plane in labels:
            found = class_counts(plane[None])  # the whole plane at a time, not row by row
            self.low = min(found) if self.low is None else min(self.low, *found)
            self.high = max(found) if self.high is None else max(self.high, *found)
            self._look_for_strange(found)
            for value, number in found.items():
                key = int(value > 0) if self.is_instances else value
                self.counts[key] = self.counts.get(key, 0) + number
            if not self.is_instances and sum(value > 0 for value in self.counts) > MOST_CLASSES:
                self.is_instances = True
                foreground = sum(n for value, n in self.counts.items() if value > 0)
                self.counts = {0: sum(self.counts.values()) - foreground, 1: foreground}

    def _look_for_strange(self, found: dict[int, int]) -> None:
        for value, number in found.items() if self.stated is not None else ():
            if value not in (self.stated or ()) and (value in self.strange or len(self.strange) < STRANGE):
                self.strange[value] = self.strange.get(value, 0) + number

    def check(self) -> None:
        """Refuse labels that may not occur.

        Raises
        ------
        ValueRuleError
            The message names them and the number of their voxels.
        """
        if not self.strange:
            return
        named = [f"{value} in {number} voxels" for value, number in sorted(self.strange.items())]
        more = f" and {len(named) - 3} more values" if len(named) > 3 else ""
        raise ValueRuleError(
            f"the label holds {', '.join(named[:3])}{more}; dataset.json states "
            f"{_ranges(self.stated or ())}. Mend the label, or state its values under labels in dataset.json."
        )


def _ranges(values: Iterable[int]) -> str:
    """Format whole numbers as ranges, such as "0 to 3, 255"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], value]
        else:
            runs.append([value])
    return ", ".join(" to ".join(map(str, run)) for run in runs)
