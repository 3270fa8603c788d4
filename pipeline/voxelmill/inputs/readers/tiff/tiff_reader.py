"""The reader for TIFF: a multi-page file, or a folder of one-page files with numbers in their names.

In: a path. Out: a volume with identity direction that holds one page at a time; uncompressed contiguous pages
are memory-mapped. A missing slice of a stack is refused, or interpolated from its neighbours. This module
knows no tags.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TiffFile

from voxelmill.basics.errors import FormatError, SpacingError, speaking_of
from voxelmill.basics.geometry import Box, Geometry
from voxelmill.basics.volume import Convert, Repair, Slab, Volume, put
from voxelmill.inputs.readers.shared.axes_and_units import Array, complete_spacing
from voxelmill.inputs.readers.shared.hints import Hints
from voxelmill.inputs.readers.shared.packed_voxels import readable
from voxelmill.inputs.readers.shared.uneven_slices import MOST_MADE, Between, slice_maker
from voxelmill.inputs.readers.tiff.stack_file_names import Stack, arrange
from voxelmill.inputs.readers.tiff.stack_folder import tiff_files, tiff_stem
from voxelmill.inputs.readers.tiff.tiff_pages import (
    Layout,
    Plane,
    is_contiguous,
    layout_of,
    open_tiff,
    plane_reader,
)
from voxelmill.inputs.readers.tiff.tiff_spacing import ome_pixels, stated_spacing


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a TIFF file or a folder of pages; see `voxelmill.inputs.readers.formats.open_volume`."""
    found = tiff_files(path) if path.is_dir() else [path]
    if not found:
        raise FormatError("the folder holds no TIFF file; one a slice is needed. Name another folder.")
    stack = arrange([tiff_stem(file) for file in found])
    files = [found[i] for row in stack.files for i in row]
    return _open_stack(files, stack, hints) if len(files) > 1 else _open_file(files[0], stack.notes, hints)


def _open_file(path: Path, notes: tuple[str, ...], hints: Hints) -> Volume:
    with open_tiff(path) as tif:
        layout = layout_of(tif)
        plane_reader(tif, path, layout)  # refuses a file that is too short
        if tif.is_ome and tif.series[0].kind != "ome":
            raise FormatError(
                "the OME metadata do not fit the pages of this TIFF; they may be spread over several files. "
                "Name the folder where each file is one slice, or join them into one file."
            )
        geometry = _geometry(tif, layout, layout.size("Z"), hints)
        return _File(path, geometry, layout, is_contiguous(tif), notes)


def _open_stack(files: Sequence[Path], stack: Stack, hints: Hints) -> Volume:
    places, repairs = _places(stack, hints)
    with open_tiff(files[0]) as tif:
        layout = layout_of(tif)
        plane_reader(tif, files[0], layout)
        ome = ome_pixels(tif)
        _check_page(layout, ome, len(stack.channels))
        geometry = _geometry(tif, layout, len(places), hints)
    stack = replace(stack, notes=(*stack.notes, *_other_length(stack, ome)))
    return _Stack(files, stack, places, geometry, layout, repairs, hints.is_label)


def _geometry(tif: TiffFile, layout: Layout, slices: int, hints: Hints) -> Geometry:
    spacing = hints.spacing or complete_spacing(stated_spacing(tif), slices, "the TIFF")
    return Geometry((slices, layout.size("Y"), layout.size("X")), spacing)


def _places(stack: Stack, hints: Hints) -> tuple[list[Between], tuple[Repair, ...]]:
    """Return the source of each slice of a stack; gaps in the numbers are refused or filled."""
    gap = next(stack.gaps, None)
    if gap is None:
        return [Between(i) for i in range(len(stack.numbers))], ()
    made, choice = stack.length - len(stack.numbers), hints.repair.irregular
    can_be_filled = stack.length < MOST_MADE * len(stack.numbers)
    if choice == "refuse" or not can_be_filled:
        fill = ", or put in what is missing: --set repair.irregular=fill" if can_be_filled else ""
        raise SpacingError(
            f"slices of the TIFF stack are numbered {stack.numbers[0]} to {stack.numbers[-1]} in steps of "
            f"{stack.step}, but {_missing(stack, gap)}. Restore the files from their source{fill}."
        )
    how = "copies of the nearest" if hints.is_label else "linear between the nearest two"
    what = f"{made} slices put in, {how}, the first between numbers {gap[0]} and {gap[1]} of the TIFF stack"
    steps = [(b - a) // stack.step for a, b in pairwise(stack.numbers)]
    filled = [Between(i, j / n) for i, n in enumerate(steps) for j in range(n)]
    return [*filled, Between(len(steps))], (Repair(f"repair.irregular={choice}", what),)


def _other_length(stack: Stack, ome: Any) -> tuple[str, ...]:
    """Return a note if OME states another length: numbers cannot show files missing at either end."""
    stated = int(ome.get("SizeZ", 1))
    note = (
        f"the TIFF stack has {stack.length} slices by the numbers in its names, {stated} by its OME metadata"
    )
    return (note,) if stated > 1 and stated != stack.length else ()


def _missing(stack: Stack, gap: tuple[int, int]) -> str:
    count = stack.length - len(stack.numbers)
    more = f" and {count - 1} more are" if count > 1 else " is"
    return f"{gap[0] + stack.step}{more} missing"


class _Pages(Volume):
    """An image that is read with one page in memory at a time."""

    def __init__(self, geometry: Geometry, layout: Layout, planes: int, **facts: Any) -> None:
        self._layout = layout
        self._samples = layout.size("S")
        self._sparse: set[int] = set()
        super().__init__(geometry, layout.dtype, channels=planes * self._samples, **facts)
        self.together = self._samples

    @property
    def extra_bytes(self) -> int:
        """Bytes held beside a slab: a page and its encoded bytes, which LZW can make larger than the page."""
        return 0 if self.is_random_access else 5 * self._layout.page_bytes

    def slabs(self, depth: int) -> Iterator[Slab]:
        """Yield every voxel once; see `Volume.slabs`."""
        length, *plane = self.geometry.shape
        memory = np.empty((self.together, min(depth, length), *plane), self.dtype)
        with readable(), self._open() as pages:
            for channel in range(self.channels // self._samples):
                for z in range(0, length, depth):
                    data = memory[:, : min(depth, length - z)]
                    for i in range(data.shape[1]):
                        data[:, i] = pages(channel, z + i)
                    yield Slab(channel * self._samples, z, data)
        self._note_sparse()

    def fill(self, box: Box, out: Array, convert: Convert | None = None) -> None:
        """Read a (c, z, y, x) box into `out`, page by page."""
        with readable(), self._open() as pages:
            for part in box.cells((self._samples, 1, *self.geometry.shape[1:])):
                first, z = part.start[0] // self._samples, part.start[1]
                samples = slice(part.start[0] % self._samples, (part.stop[0] - 1) % self._samples + 1)
                page = np.ascontiguousarray(pages(first, z)[samples, *part.slices[2:]], self.dtype)
                put(out[part.shift([-n for n in box.start]).slices], page[:, None], convert)

    @abstractmethod
    def _open(self) -> AbstractContextManager[Plane]:
        """Open the pages; the context is a function that reads planes."""

    def _reader(self, tif: TiffFile, path: Path, what: str, sparse: Callable[[int], None]) -> Plane:
        _check_same(self._layout, layout_of(tif), what)
        return plane_reader(tif, path, self._layout, sparse)

    def _note_sparse(self) -> None:
        note = f"{len(self._sparse)} pages of the TIFF are sparse: tiles or strips not stored became zeros"
        if self._sparse and note not in self.notes:
            self.notes += (note,)


class _File(_Pages):
    def __init__(
        self, path: Path, geometry: Geometry, layout: Layout, is_mapped: bool, notes: tuple[str, ...]
    ) -> None:
        super().__init__(geometry, layout, layout.size("C"), notes=notes)
        self._path = path
        self.is_random_access = is_mapped

    @contextmanager
    def _open(self) -> Iterator[Plane]:
        with open_tiff(self._path) as tif:
            yield self._reader(tif, self._path, "the TIFF", self._sparse.add)


class _Stack(_Pages):
    """A stack with one file per slice and channel; `files` is ordered by channel, then by slice."""

    def __init__(
        self,
        files: Sequence[Path],
        stack: Stack,
        places: Sequence[Between],
        geometry: Geometry,
        layout: Layout,
        repairs: tuple[Repair, ...],
        is_label: bool,
    ) -> None:
        super().__init__(geometry, layout, len(stack.channels), notes=stack.notes, repairs=repairs)
        self._files, self._stack, self._places = files, stack, places
        self._is_label = is_label
        self._is_blended = any(place.weight for place in places)

    @property
    def extra_bytes(self) -> int:
        """Bytes held beside a slab: a page and its encoded bytes, and more if slices are interpolated.

        These are two decoded pages, the interpolated page, and its float64 copy.
        """
        voxels = self._layout.page_bytes // self.dtype.itemsize
        blending = 3 * self._layout.page_bytes + 8 * voxels
        return super().extra_bytes + (blending if self._is_blended else 0)

    @contextmanager
    def _open(self) -> Iterator[Plane]:
        made = slice_maker(self._page, self._is_label)

        def plane(channel: int, z: int) -> Array:
            place = self._places[z]
            number = channel * len(self._stack.numbers) + place.first
            return made(Between(number, place.weight)) if self._is_blended else self._page(number)

        yield plane

    def _page(self, number: int) -> Array:
        channel, z = divmod(number, len(self._stack.numbers))
        of = f" of channel {self._stack.channels[channel]}" if len(self._stack.channels) > 1 else ""
        what = f"slice {self._stack.numbers[z]}{of} of the TIFF stack"
        with speaking_of(what), open_tiff(self._files[number]) as tif:
            return self._reader(tif, self._files[number], what, lambda _: self._sparse.add(number))(0, 0)


def _check_page(layout: Layout, ome: Any, channels: int) -> None:
    """Refuse a first file with several pages, or with more channels or times than the names state."""
    pages = layout.size("Z") * layout.size("C")
    if pages > 1:
        raise FormatError(
            f"the folder holds several TIFF files, of which the first has {pages} pages; a stack has "
            "files of one page each. Name one of the files."
        )
    spread = {axis: int(ome.get(axis, 1)) for axis in ("SizeC", "SizeT")}
    if spread["SizeC"] > layout.size("S") * channels or spread["SizeT"] > 1:
        raise FormatError(
            f"the TIFF stack is spread over files by more than their names say (OME: {spread['SizeC']} "
            f"channels, {spread['SizeT']} time points). Number channels (ch0, ch1) in the names, or join it "
            "into one file."
        )


def _check_same(expected: Layout, found: Layout, what: str) -> None:
    if found != expected:
        shapes = " and ".join(f"{e.axes} {e.shape} {e.dtype}" for e in (found, expected))
        raise FormatError(f"{what} differs from what was opened: {shapes}. Restore it from its source.")
