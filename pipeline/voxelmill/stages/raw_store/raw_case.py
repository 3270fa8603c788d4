"""A case in the raw store: stored values, geometry, facts, and the filled non-zero mask.

In: OUT and a case's name. Out: its record, boxes of values and labels, its mask. Ingest writes the case;
fingerprint and preprocess read nothing else. Knows no plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from voxelmill.basics.errors import StoreError
from voxelmill.basics.geometry import Box
from voxelmill.basics.volume import Array, Convert
from voxelmill.config.settings import StoreConfig
from voxelmill.kernels.nonzero_mask import HoleFiller, slice_counts
from voxelmill.kernels.statistics.channel_facts import Facts
from voxelmill.kernels.statistics.foreground_locations import Locations
from voxelmill.kernels.statistics.histogram import BINS
from voxelmill.kernels.statistics.voxel_values import rescale
from voxelmill.runtime.memory_budget import Memory, mask_cost
from voxelmill.runtime.step_progress import did, expect
from voxelmill.stages.raw_store.images_in_place import InPlace, is_known, open_place
from voxelmill.stages.raw_store.raw_records import REVISION, CaseRecord, DatasetRecord, unpack_facts
from voxelmill.storage import zarr_stores
from voxelmill.storage.chunk_and_shard_shapes import raw_layout
from voxelmill.storage.partial_files import partial_name
from voxelmill.storage.shard_files import ShardedArray

LOCATIONS_CHUNK = 65536
"""Rows of a chunk of sampled locations."""

SliceCounts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Voxels in each slice along z, y and x."""

LAYOUT = StoreConfig()
"""Compression of the raw store; no setting changes it."""


def list_cases(out: Path) -> list[str]:
    """Return the sorted names of the cases that have a record, which ingest writes last.

    Raises
    ------
    StoreError
        If there is none.
    """
    root = out / zarr_stores.RAW
    names = [name for name in zarr_stores.list_groups(root) if zarr_stores.read_attributes(root, name)]
    if not names:
        raise StoreError("no case is in OUT's raw store. Run `voxelmill ingest SOURCE OUT` first.")
    return names


def read_dataset(out: Path) -> DatasetRecord:
    """Read the dataset's record.

    Raises
    ------
    StoreError
        If OUT holds no raw store, or one of another revision.
    """
    attributes = zarr_stores.read_attributes(out / zarr_stores.RAW, "")
    if not attributes:
        raise StoreError("OUT holds no raw store. Run `voxelmill ingest SOURCE OUT` first.")
    dataset = DatasetRecord.read(attributes)
    if dataset.revision != REVISION:
        raise StoreError(
            f"OUT's raw store is of another version: its revision was {dataset.revision}, is {REVISION}. Run "
            "`voxelmill ingest SOURCE OUT --restart`, or use another OUT."
        )
    return dataset


@dataclass(frozen=True)
class RawCase:
    """One ingested case; arrays are read box by box."""

    out: Path
    case: str

    @cached_property
    def record(self) -> CaseRecord:
        """Geometry and facts; raises `StoreError` if they are missing, damaged, or of another version."""
        attributes = zarr_stores.read_attributes(self.root, self.case)
        if not attributes:
            raise StoreError(f"case {self.case} is not in the raw store. Run `voxelmill ingest` again.")
        try:
            return CaseRecord.model_validate(attributes)
        except ValidationError:
            raise StoreError(
                f"case {self.case} in the raw store is of another version or damaged. Run `voxelmill ingest`."
            ) from None

    @property
    def channels(self) -> int:
        """Number of channels, read without validating the whole record; 0 if there is none."""
        attributes = zarr_stores.read_attributes(self.root, self.case) or {}
        return int(attributes.get("channels", 0))

    @property
    def root(self) -> Path:
        """Path of the raw store."""
        return self.out / zarr_stores.RAW

    @cached_property
    def facts(self) -> list[Facts]:
        """Facts of each channel, without their histograms."""
        return [unpack_facts(f) for f in self.record.facts]

    def histogram(self, channel: int) -> npt.NDArray[np.int64]:
        """Read the histogram of one channel (65536,); see `Facts.histogram`."""
        array = zarr_stores.open_array(self.root, f"{self.case}/histogram")
        counts: npt.NDArray[np.int64] = array.read(Box((channel, 0), (channel + 1, BINS)))[0]
        return counts

    @property
    def crop_box(self) -> Box:
        """Non-zero box over all channels."""
        return Box.from_bounds(self.record.crop_box)

    @cached_property
    def _image(self) -> ShardedArray | InPlace:
        if self.record.is_in_place:
            return open_place(self.out, self.case, read_dataset(self.out).settings["nonfinite"])
        return zarr_stores.open_array(self.root, f"{self.case}/image")

    @cached_property
    def _label(self) -> ShardedArray:
        return zarr_stores.open_array(self.root, f"{self.case}/label")

    @property
    def has_label(self) -> bool:
        """Whether the case has a label, without reading its record."""
        return (self.root / self.case / "label").exists()

    def create(
        self, name: str, shape: Sequence[int], dtype: Any, chunk: Sequence[int], shard: Sequence[int]
    ) -> ShardedArray:
        """Create an array of the case."""
        return zarr_stores.create_array(self.root, f"{self.case}/{name}", shape, dtype, chunk, shard, LAYOUT)

    def write_histograms(self, histograms: Sequence[npt.NDArray[np.int64]]) -> None:
        """Write the histogram of each channel."""
        shape = (len(histograms), BINS)
        array = self.create("histogram", shape, np.int64, (1, BINS), shape)
        array.write(Box.whole(shape), np.stack(histograms))

    def write_locations(self, locations: Locations) -> None:
        """Write a sample of foreground voxels as rows of label, z, y, x; nothing without foreground."""
        if len(locations.labels) == 0:
            return
        table = np.column_stack([locations.labels, locations.positions])
        chunk = (min(len(table), LOCATIONS_CHUNK), 4)
        shard = (-(-len(table) // chunk[0]) * chunk[0], 4)
        self.create("locations", table.shape, np.int64, chunk, shard).write(Box.whole(table.shape), table)

    def locations(self) -> npt.NDArray[np.int64]:
        """Read the sampled foreground voxels (n, 4): label (1 for instances), z, y, x of the source grid."""
        if not self._has_locations:
            return np.empty((0, 4), np.int64)
        array = zarr_stores.open_array(self.root, f"{self.case}/locations")
        return array.read(Box.whole(array.shape))

    def slabs(self, depth: int) -> Iterator[Box]:
        """Yield boxes of at most `depth` whole slices that cover the source grid."""
        return slabs_of(Box.whole(self.record.shape), depth)

    def values(self, channel: int, box: Box) -> npt.NDArray[np.float32]:
        """Read the rescaled values of one channel in a box (z, y, x) of the source grid."""
        out = np.empty(box.shape, np.float32)
        self._fill(channel, box, out, self._rescale(channel))
        return out

    def _fill(self, channel: int, box: Box, out: Array, convert: Convert | None) -> None:
        self._image.fill(box.with_channels(channel, channel + 1), out[None], convert)

    def _rescale(self, channel: int) -> Convert:
        slope, intercept = self.record.slopes[channel], self.record.intercepts[channel]
        return lambda part: rescale(part, slope, intercept)

    def label(self, box: Box, dtype: str | None = None) -> Array:
        """Read the labels in a box (z, y, x) of the source grid, as `dtype` or in their stored type."""
        out = np.empty(box.shape, dtype or self._label.dtype)
        self._label.fill(box, out)
        return out

    def foreground(self, box: Box, ignore_label: int | None) -> npt.NDArray[np.bool_]:
        """Read a box (z, y, x) of the source grid: where the label is above zero and not the ignore label."""
        out = np.empty(box.shape, bool)
        self._label.fill(box, out, lambda part: foreground_of(part, ignore_label))
        return out

    def mask(self, box: Box) -> npt.NDArray[np.bool_]:
        """Read the filled non-zero mask in a box (z, y, x) of the crop box's grid; `make_mask` made it."""
        return zarr_stores.open_array(self.root, f"{self.case}/mask").read(box).view(bool)

    def mask_counts(self) -> SliceCounts:
        """Read the voxels of the mask in each slice of the crop box along z, y and x; `make_mask` made it."""
        attributes = zarr_stores.read_attributes(self.root, f"{self.case}/mask")
        if attributes is None:
            raise StoreError(f"case {self.case} has no mask. Run `voxelmill preprocess` again.")
        z, y, x = (np.asarray(counts, np.int64) for counts in attributes["slices"])
        return z, y, x

    def make_mask(self, memory: Memory) -> SliceCounts:
        """Fill the holes of the non-zero mask inside the crop box and store it, unless it is there.

        Its shards are written twice, and two tasks may make the mask of a case at the same time. Each task
        uses its own temporary name, and the first complete mask gets the final name.
        """
        path = f"{self.case}/mask"
        if not self.has_mask:
            partial = str(partial_name(Path(path)))
            try:
                self._write_mask(partial, memory)
                self._name_mask(partial, path)
            finally:
                zarr_stores.remove_group(self.root, partial)
        return self.mask_counts()

    @property
    def has_mask(self) -> bool:
        """Whether the filled non-zero mask is complete."""
        path = f"{self.case}/mask"
        return zarr_stores.read_attributes(self.root, path) is not None and self._is_whole(path)

    @property
    def is_whole(self) -> bool:
        """Whether the case has its record and every shard of the arrays in the record."""
        try:
            is_readable = not self.record.is_in_place or is_known(self.out, self.case)
            return is_readable and all(self._is_whole(f"{self.case}/{name}") for name in self._arrays)
        except StoreError:
            return False

    @property
    def _arrays(self) -> list[str]:
        record = self.record
        image = [] if record.is_in_place else ["image"]
        label = [] if record.label is None else ["label"]
        return [*image, *label, "histogram", *(["locations"] if self._has_locations else [])]

    def layouts(self) -> dict[str, tuple[tuple[int, ...] | None, str]]:
        """Return shape and type of each array that `record` implies, and of the mask if there is one."""
        record = self.record
        types = [np.dtype(name) for name in record.dtypes]
        known: dict[str, tuple[tuple[int, ...] | None, str]] = {
            "image": ((record.channels, *record.shape), str(np.result_type(*types))),
            "label": (record.shape, "" if record.label is None else record.label.dtype),
            "histogram": ((record.channels, BINS), "int64"),
            "locations": (None, "int64"),
            "mask": (self.crop_box.shape, "uint8"),
        }
        mask = ["mask"] if (self.root / self.case / "mask").exists() else []
        return {name: known[name] for name in [*self._arrays, *mask]}

    @property
    def _has_locations(self) -> bool:
        label = self.record.label
        try:
            ignored = read_dataset(self.out).ignore_label
        except StoreError:  # `is_whole` does not need the dataset's record
            return (self.root / self.case / "locations").exists()
        return label is not None and any(value > 0 and value != ignored for value in label.counts)

    def _is_whole(self, path: str) -> bool:
        """Whether an array exists with all its shards."""
        try:
            return not zarr_stores.open_array(self.root, path).missing_shards()
        except StoreError:
            return False

    def _name_mask(self, partial: str, path: str) -> None:
        """Give a complete mask its final name, unless another task was faster."""
        try:
            (self.root / partial).rename(self.root / path)
        except OSError:
            if not self.has_mask:  # a damaged mask is in the way
                zarr_stores.remove_group(self.root, path)
                (self.root / partial).rename(self.root / path)

    def _write_mask(self, path: str, memory: Memory) -> None:
        """Write the filled mask in two passes over its slabs, up and down; its attributes come last."""
        crop = self.crop_box
        cost = mask_cost(crop.size // crop.shape[0], self.record.read_bytes)
        depth = cost.fitting_depth(crop.shape, memory)
        # A shard is one slab, so the second pass can write a slab again without reading others.
        chunk, (_, *plane) = raw_layout(crop.shape, 1, depth)
        array = zarr_stores.create_array(self.root, path, crop.shape, "u1", chunk, (depth, *plane), LAYOUT)
        boxes = list(slabs_of(Box.whole(crop.shape), depth))
        filler = HoleFiller()
        expect(2 * crop.size)
        with memory.hold(cost.bytes(depth)):
            slabs = filler.scan(self._nonzero(box.shift(crop.start)) for box in boxes)
            for box, scanned in zip(boxes, slabs, strict=True):
                array.write(box, scanned)
                did(box.size)
            z, y, x = (np.zeros(n, np.int64) for n in crop.shape)
            for box in reversed(boxes):
                slab = array.read(box)
                if filler.fill(slab):
                    array.write(box, slab)
                z[box.slices[0]], along_y, along_x = slice_counts(slab.view(bool))
                y, x = y + along_y, x + along_x
                did(box.size)
        zarr_stores.write_attributes(array, {"slices": [counts.tolist() for counts in (z, y, x)]})

    def _nonzero(self, box: Box) -> npt.NDArray[np.bool_]:
        """Return where any channel is not zero."""
        mask = np.empty(box.shape, bool)
        self._fill(0, box, mask, self._is_nonzero(0))
        for channel in range(1, self.record.channels):
            other = np.empty(box.shape, bool)
            self._fill(channel, box, other, self._is_nonzero(channel))
            mask |= other
        return mask

    def _is_nonzero(self, channel: int) -> Convert:
        values = self._rescale(channel)
        return lambda part: values(part) != 0


def slabs_of(box: Box, step: int) -> Iterator[Box]:
    """Cut a box into slabs of whole slices, at the multiples of `step` of its grid."""
    cuts = [box.start[0], *range((box.start[0] // step + 1) * step, box.stop[0], step), box.stop[0]]
    for start, stop in pairwise(cuts):
        yield Box((start, *box.start[1:]), (stop, *box.stop[1:]))


def foreground_of(label: Array, ignore_label: int | None) -> npt.NDArray[np.bool_]:
    """Return where a label is above zero and not the ignore label."""
    inside = label > 0
    if ignore_label is not None:
        inside &= label != ignore_label
    return np.asarray(inside)
