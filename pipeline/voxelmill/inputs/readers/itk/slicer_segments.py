"""Multi-layer segmentations of 3D Slicer (seg.nrrd): their segments, and the layers merged into one label.

In: fields of a NRRD header, and a volume with one channel per layer. Out: segments, and a volume of one
channel. Segments that overlap or share a value are refused by name: a label holds one value per voxel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import FormatError
from voxelmill.basics.geometry import Box
from voxelmill.basics.volume import Convert, Slab, Volume, put
from voxelmill.kernels.statistics.histogram import class_counts

MOST_NAMES = 3
"""Number of segment names in a message."""

MOST_LENGTH = 40
"""Characters of a segment name in a message."""

MOST_DIGITS = 19
"""Longest number in characters; anything longer is refused."""

ADVICE = "Separate them in 3D Slicer, or export them as labels of their own"

_KEY = re.compile(r"Segment(\d{1,6})_(LabelValue|Layer|Name|ID)")


@dataclass(frozen=True)
class Segment:
    """A segment of a header: its voxels hold `value` in channel `layer`."""

    name: str
    layer: int
    value: int


def find_segments(keys: Mapping[str, str]) -> tuple[Segment, ...]:
    """Return the segments of a header by their number; empty if it is not a segmentation.

    If no layer or value is stated, as before Slicer 4.11, each segment is value 1 in its own layer.

    Parameters
    ----------
    keys : mapping of str to str
        The lines ``key:=value``.

    Raises
    ------
    FormatError
        If a layer or a value is not an integer.
    """
    stated: dict[int, dict[str, str]] = {}
    for key, value in keys.items():
        if found := _KEY.fullmatch(key):
            stated.setdefault(int(found[1]), {})[found[2]] = value
    return tuple(_segment(number, fields) for number, fields in sorted(stated.items()))


def _segment(number: int, fields: Mapping[str, str]) -> Segment:
    name = fields.get("Name") or fields.get("ID") or f"Segment{number}"
    layer, value = fields.get("Layer", str(number)), fields.get("LabelValue", "1")
    try:
        if max(len(layer), len(value)) > MOST_DIGITS:
            raise ValueError
        return Segment(name, int(layer), int(value))
    except ValueError:
        raise FormatError(
            f"segment {_shown(name)} has a layer or a value that is no whole number. Mend the header."
        ) from None


class MergedLayers(Volume):
    """All layers of a segmentation merged into one label, slab by slab; see `Volume`.

    Parameters
    ----------
    layers : Volume
        One channel per layer, of an integer type.
    segments : sequence of Segment
        Each keeps its value.

    Raises
    ------
    FormatError
        If segments share a value, or one has no layer; while reading, if segments overlap, or a layer holds a
        value that no segment has.
    """

    def __init__(self, layers: Volume, segments: Sequence[Segment]) -> None:
        note = f"{layers.channels} layers of {len(segments)} segments were merged into one label"
        super().__init__(
            layers.geometry,
            layers.dtype,
            notes=(*layers.notes, note),
            repairs=layers.repairs,
            otherwise=layers.otherwise,
        )
        self._layers = layers
        self._segments = segments
        self._allowed = [{s.value for s in segments if s.layer == n} | {0} for n in range(layers.channels)]
        self.is_random_access = layers.is_random_access
        _check(segments, layers)

    @property
    def slice_bytes(self) -> int:
        """Bytes of one slice of all layers and of the label."""
        return self._plane_bytes * (self._layers.channels + 1)

    @property
    def extra_bytes(self) -> int:
        """Bytes held beside a slab: those of the layers' reader, a slice of a layer, and masks."""
        plane = self._plane_bytes
        return self._layers.extra_bytes + plane + 3 * plane // self.dtype.itemsize

    def slabs(self, depth: int) -> Iterator[Slab]:
        """Yield every voxel once; see `Volume.slabs`."""
        length = self.geometry.shape[0]
        memory = np.empty((1, min(depth, length), *self.geometry.shape[1:]), self.dtype)
        for z, layers in self._read(depth):
            merged = memory[:, : layers.shape[1]]
            self._merge(layers, merged[0], z)
            yield Slab(0, z, merged)

    def fill(self, box: Box, out: npt.NDArray[Any], convert: Convert | None = None) -> None:
        """Read the merged labels of a (c, z, y, x) box into `out`, slice by slice."""
        if not self.is_random_access:
            return super().fill(box, out, convert)
        plane = np.empty((1, 1, *box.shape[2:]), self.dtype)
        for part in box.cells((1, 1, *self.geometry.shape[1:])):
            layers = self._layers.read(Box(part.start[1:], part.stop[1:]))
            self._merge(layers, plane[0], part.start[1])
            put(out[part.shift([-n for n in box.start]).slices], plane, convert)

    @property
    def _plane_bytes(self) -> int:
        _, height, width = self.geometry.shape
        return height * width * self.dtype.itemsize

    def _read(self, depth: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield the first slice and the data (c, z, y, x) of slabs of all layers."""
        # slabs of interleaved layers hold all of them; other layers are read box by box
        if self._layers.together == self._layers.channels:
            yield from ((slab.z, slab.data) for slab in self._layers.slabs(depth))
            return
        length, plane = self.geometry.shape[0], self.geometry.shape[1:]
        memory = np.empty((self._layers.channels, min(depth, length), *plane), self.dtype)
        for z in range(0, length, depth):
            box = Box((0, z, 0, 0), (self._layers.channels, min(z + depth, length), *plane))
            layers = memory[:, : box.shape[1]]
            self._layers.fill(box, layers)
            yield z, layers

    def _merge(self, layers: npt.NDArray[Any], out: npt.NDArray[Any], z: int) -> None:
        """Merge layers (c, z, y, x) into `out` (z, y, x); `z` is their first slice, for messages."""
        out[...] = 0
        for layer, slices in enumerate(layers):
            for i, plane in enumerate(slices):
                self._check_values(layer, plane, z + i)
                inside = plane != 0
                if (inside & (out[i] != 0)).any():
                    raise FormatError(self._overlap(plane, out[i], z + i))
                np.copyto(out[i], plane, where=inside)

    def _check_values(self, layer: int, plane: npt.NDArray[Any], z: int) -> None:
        found = class_counts(plane[None])
        strange = [value for value in found if value not in self._allowed[layer]]
        if strange:
            raise FormatError(
                f"layer {layer} holds the value {strange[0]} in {found[strange[0]]} voxels of slice {z}, "
                "which no segment has. Mend the segmentation in 3D Slicer."
            )

    def _overlap(self, plane: npt.NDArray[Any], out: npt.NDArray[Any], z: int) -> str:
        both = (plane != 0) & (out != 0)
        names = {s.value: s.name for s in self._segments}
        first, second = (_shown(names[int(array[both][0])]) for array in (out, plane))
        return (
            f"segments {first} and {second} overlap in {int(both.sum())} voxels of slice {z}; a label holds "
            f"one value a voxel. {ADVICE}."
        )


def _check(segments: Sequence[Segment], layers: Volume) -> None:
    """Refuse segments that cannot be merged, before any voxel is read."""
    if layers.dtype.kind not in "iu":
        raise FormatError(f"layers of segments are of type {layers.dtype}; integers are needed. {ADVICE}.")
    if layers.together != layers.channels and not layers.is_random_access:
        raise FormatError(
            "layers of segments lie one after another and compressed; their axis comes first in files of 3D "
            "Slicer. Save the file there again."
        )
    for segment in segments:
        _check_segment(segment, layers)
    named: dict[int, list[str]] = {}
    for segment in segments:
        named.setdefault(segment.value, []).append(_shown(segment.name))
    for value, names in named.items():
        if len(names) > 1:
            more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
            raise FormatError(
                f"segments {', '.join(names[:MOST_NAMES])}{more} share the value {value}; a label needs a "
                "value for each. Set their label values in 3D Slicer, or collapse the layers there, and save."
            )


def _check_segment(segment: Segment, layers: Volume) -> None:
    limits = np.iinfo(layers.dtype)
    if not 0 <= segment.layer < layers.channels or segment.value == 0:
        raise FormatError(
            f"segment {_shown(segment.name)} has the value {segment.value} in layer {segment.layer}; layers "
            f"are 0 to {layers.channels - 1}, and 0 is no segment. Mend the header."
        )
    if not limits.min <= segment.value <= limits.max:
        raise FormatError(
            f"segment {_shown(segment.name)} has the value {segment.value}, which is no {layers.dtype}. Mend "
            "the header."
        )


def _shown(name: str) -> str:
    return repr(name if len(name) <= MOST_LENGTH else f"{name[:MOST_LENGTH]}...")
