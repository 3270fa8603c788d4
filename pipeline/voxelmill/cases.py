"""A case as it lies in the raw store: stored values, geometry and facts, and what follows from them.

In: OUT and a case's name. Out: its record, boxes of values and labels, its filled non-zero mask. Ingest
writes what this reads; fingerprint and preprocess work on nothing else. Knows no source files and no plan.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from voxelmill import store
from voxelmill.config import Model, StoreConfig
from voxelmill.errors import StoreError
from voxelmill.geometry import Box, Geometry, Matrix, Shape, Triple
from voxelmill.kernels.crop import HoleFiller, slice_counts
from voxelmill.kernels.facts import Facts
from voxelmill.kernels.keys import rescale
from voxelmill.layout import raw_layout

Array = npt.NDArray[Any]
SliceCounts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]

LAYOUT = StoreConfig()
"""Compression of the raw store, which no setting changes."""


class DatasetRecord(Model):
    """What the raw store knows of the dataset; attributes of its root group."""

    channel_names: tuple[str, ...] | None
    labels: dict[str, int | list[int]] | None
    ignore_label: int | None
    settings: dict[str, Any]
    """The settings that ingest depends on."""


class LabelRecord(Model):
    """The label of a case."""

    dtype: str
    counts: dict[int, int]
    """Voxels of each label."""


class CaseRecord(Model):
    """What the raw store knows of one case; attributes of its group, written last."""

    shape: Shape
    spacing: Triple
    origin: Triple
    direction: Matrix
    channels: int
    dtypes: tuple[str, ...]
    """Type of the values as the source stored them, a channel each."""

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    modality: str | None
    label: LabelRecord | None
    crop_box: list[list[int]]
    """Non-zero box over all channels."""

    facts: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    """What a user should know of how the source was read."""

    source: str
    """Checksum of the contents of the source files."""

    @property
    def geometry(self) -> Geometry:
        """The source grid."""
        return Geometry(self.shape, self.spacing, self.origin, self.direction)


def pack_facts(facts: Facts) -> dict[str, Any]:
    """Facts without their histogram as JSON values; infinities become null."""
    arrays = {k: v for k, v in facts.to_arrays().items() if k != "histogram"}
    return {k: _finite_or_none(v.tolist()) for k, v in arrays.items()}


def unpack_facts(values: dict[str, Any], histogram: Array) -> Facts:
    """The inverse of `pack_facts`."""
    arrays: dict[str, Array] = {"histogram": histogram}
    for key, value in values.items():
        empty = math.inf if key.endswith("low") else -math.inf
        filled = [empty if v is None else v for v in value] if isinstance(value, list) else value
        arrays[key] = np.asarray(empty if filled is None else filled)
        if key in ("low", "high"):
            arrays[key] = arrays[key].astype(np.float32)
    return Facts.from_arrays(arrays)


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite_or_none(v) for v in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def list_cases(out: Path) -> list[str]:
    """Names of the cases whose ingest is complete, sorted.

    Raises
    ------
    StoreError
        If there is none.
    """
    root = out / store.RAW
    names = [name for name in store.list_groups(root) if store.read_attributes(root, name)]
    if not names:
        raise StoreError("no case is in OUT's raw store. Run `voxelmill ingest SOURCE OUT` first.")
    return names


def read_dataset(out: Path) -> DatasetRecord:
    """The dataset's record.

    Raises
    ------
    StoreError
        If OUT holds no raw store.
    """
    attributes = store.read_attributes(out / store.RAW, "")
    if not attributes:
        raise StoreError("OUT holds no raw store. Run `voxelmill ingest SOURCE OUT` first.")
    return DatasetRecord.model_validate(attributes)


MASK_BYTES = 4
"""Bytes a voxel that the slabs of a mask are cut for: its holes take memory beside it."""


@dataclass(frozen=True)
class RawCase:
    """One ingested case; arrays are read box by box."""

    out: Path
    case: str

    @cached_property
    def record(self) -> CaseRecord:
        """Geometry and facts."""
        attributes = store.read_attributes(self.root, self.case)
        if not attributes:
            raise StoreError(f"case {self.case} is not in the raw store. Run `voxelmill ingest` again.")
        return CaseRecord.model_validate(attributes)

    @property
    def root(self) -> Path:
        """The raw store."""
        return self.out / store.RAW

    @cached_property
    def facts(self) -> list[Facts]:
        """Facts of each channel."""
        histograms = np.asarray(store.open_array(self.root, f"{self.case}/histogram")[:])
        return [unpack_facts(f, h) for f, h in zip(self.record.facts, histograms, strict=True)]

    @property
    def crop_box(self) -> Box:
        """Non-zero box over all channels."""
        return Box.from_bounds(self.record.crop_box)

    @cached_property
    def _image(self) -> Any:
        return store.open_array(self.root, f"{self.case}/image")

    @cached_property
    def _label(self) -> Any:
        return store.open_array(self.root, f"{self.case}/label")

    @property
    def has_label(self) -> bool:
        """Whether the case has a label, without reading its record."""
        return (self.root / self.case / "label").exists()

    @property
    def channels(self) -> int:
        """Number of channels, without reading its record."""
        return int(self._image.shape[0])

    def slabs(self) -> Iterator[Box]:
        """Boxes of whole slices that cover the source grid, each one slab of the raw store."""
        return slabs_of(Box.whole(self.record.shape), self._image.shards[1])

    def values(self, channel: int, box: Box) -> npt.NDArray[np.float32]:
        """Values (rescaled) of one channel in a box of the source grid."""
        record = self.record
        stored = store.read_box(self._image, channel, box)
        return rescale(stored, record.slopes[channel], record.intercepts[channel])

    def label(self, box: Box) -> Array:
        """Labels in a box of the source grid, in their stored type."""
        return store.read_box(self._label, None, box)

    def foreground(self, box: Box, ignore_label: int | None) -> Array | None:
        """Where the label is above zero and not the ignore label; None without a label."""
        return None if self.record.label is None else foreground_of(self.label(box), ignore_label)

    def mask(self, box: Box) -> npt.NDArray[np.bool_]:
        """The filled non-zero mask in a box of the crop box's grid; `make_mask` has made it."""
        return store.read_box(store.open_array(self.root, f"{self.case}/mask"), None, box).astype(bool)

    def mask_counts(self) -> SliceCounts:
        """Voxels of the mask in each slice of the crop box along z, y and x."""
        attributes = store.read_attributes(self.root, f"{self.case}/mask")
        if attributes is None:
            raise StoreError(f"case {self.case} has no mask. Run `voxelmill preprocess` again.")
        z, y, x = (np.asarray(counts, np.int64) for counts in attributes["slices"])
        return z, y, x

    def make_mask(self) -> SliceCounts:
        """Fill the holes of the non-zero mask inside the crop box and store it, unless it is there.

        Its shards are written twice, and two tasks may make the mask of one case at once: each does so
        under a name of its own, and the first that is complete gets its name.
        """
        path = f"{self.case}/mask"
        if not self._has_mask():
            partial = f"{path}.{uuid.uuid4().hex}.partial"
            try:
                self._write_mask(partial)
                self._name_mask(partial, path)
            finally:
                store.remove_group(self.root, partial)
        return self.mask_counts()

    @property
    def is_whole(self) -> bool:
        """Whether the case has its record and every shard that the record speaks of."""
        try:
            arrays = ["image", "histogram"] + (["label"] if self.record.label else [])
        except (StoreError, ValidationError):
            return False
        return all(self._is_whole(f"{self.case}/{name}") for name in arrays)

    def _is_whole(self, path: str) -> bool:
        """Whether an array is there with all its shards."""
        try:
            return not store.missing_shards(self.root, path)
        except StoreError:
            return False

    def _has_mask(self) -> bool:
        path = f"{self.case}/mask"
        return store.read_attributes(self.root, path) is not None and self._is_whole(path)

    def _name_mask(self, partial: str, path: str) -> None:
        """Rename a mask that is complete, unless another task was quicker."""
        try:
            (self.root / partial).rename(self.root / path)
        except OSError:
            if not self._has_mask():  # damaged, and in the way
                store.remove_group(self.root, path)
                (self.root / partial).rename(self.root / path)

    def _write_mask(self, path: str) -> None:
        """The filled mask, slab by slab; its attributes come last."""
        crop = self.crop_box
        chunk, shard = raw_layout(crop.shape, MASK_BYTES)
        array = store.create_array(self.root, path, crop.shape, "u1", chunk, shard, LAYOUT)
        boxes = list(slabs_of(Box.whole(crop.shape), shard[0]))
        filler = HoleFiller()
        slabs = filler.scan(self._nonzero(box.shift(crop.start)) for box in boxes)
        for box, scanned in zip(boxes, slabs, strict=True):
            store.write_box(array, box, scanned)
        z, y, x = (np.zeros(n, np.int64) for n in crop.shape)
        for box in reversed(boxes):
            slab = store.read_box(array, None, box)
            if filler.fill(slab):
                store.write_box(array, box, slab)
            z[box.slices[0]], along_y, along_x = slice_counts(slab.view(bool))
            y, x = y + along_y, x + along_x
        store.write_attributes(array, {"slices": [counts.tolist() for counts in (z, y, x)]})

    def _nonzero(self, box: Box) -> npt.NDArray[np.bool_]:
        """Where any channel is not zero; no more than one slab of values is held."""
        mask = np.zeros(box.shape, bool)
        for part in slabs_of(box, self._image.shards[1]):
            inside = mask[part.start[0] - box.start[0] : part.stop[0] - box.start[0]]
            for channel in range(self.record.channels):
                inside |= self.values(channel, part) != 0
        return mask


def slabs_of(box: Box, step: int) -> Iterator[Box]:
    """Cut a box into whole slices at the multiples of `step` of its grid."""
    cuts = [box.start[0], *range((box.start[0] // step + 1) * step, box.stop[0], step), box.stop[0]]
    for start, stop in pairwise(cuts):
        yield Box((start, *box.start[1:]), (stop, *box.stop[1:]))


def foreground_of(label: Array, ignore_label: int | None) -> npt.NDArray[np.bool_]:
    """Where a label is above zero and not the ignore label."""
    inside = label > 0
    if ignore_label is not None:
        inside &= label != ignore_label
    return np.asarray(inside)
