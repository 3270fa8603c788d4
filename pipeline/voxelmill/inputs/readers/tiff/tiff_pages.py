"""The pages of one TIFF file: their arrangement as axes of an image, and reading of single planes.

In: a path. Out: a `Layout`, and a function that reads one plane. tifffile parses the tags. This module knows
neither spacing nor other files of a stack.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from voxelmill.basics.errors import FormatError, VoxelmillError
from voxelmill.basics.safe_tracebacks import is_own_fault
from voxelmill.inputs.readers.shared.axes_and_units import Array, Latest, arrange
from voxelmill.inputs.readers.shared.packed_voxels import forget, supported

Plane = Callable[[int, int], Array]
"""A function of page channel and slice that returns an array (samples per pixel, y, x)."""

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # its warnings name files

_MOST_RATIO = 1 << 16  # upper bound of the values decoded from one stored byte
_UNLIMITED = {34712, 33003, 33004, 33005, 34887, 34927, 50001, 50002, 52546}
"""Compression codes without an upper bound of the ratio: JPEG 2000, LERC, WebP and JPEG XL.

Of the others, Zstandard reaches the highest ratio: 32 KiB per stored byte.
"""

_RESTORE = "Restore the file from its source."


@dataclass(frozen=True)
class Layout:
    """The arrangement of pages as an image.

    Attributes
    ----------
    axes : str
        Letters C (channels over pages), S (channels within a page), Z, Y, X, in the order of the file.
    shape : tuple of int
        Lengths of `axes`.
    within : int
        Number of trailing axes that lie within a page.
    dtype : numpy.dtype
        Type of one value, in native byte order.
    """

    axes: str
    shape: tuple[int, ...]
    within: int
    dtype: np.dtype[Any]

    def size(self, axis: str) -> int:
        """Return the length of an axis; 1 if it is absent."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return prod(self.shape[-self.within :]) * self.dtype.itemsize

    def page(self, channel: int, z: int) -> int:
        """Return the number of the page that holds a plane, from 0."""
        outer = len(self.axes) - self.within
        at = [{"C": channel, "Z": z}[axis] for axis in self.axes[:outer]]
        return int(np.ravel_multi_index(at, self.shape[:outer])) if at else 0


@contextmanager
def open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF file, without other files that its OME metadata may name.

    Raises
    ------
    FormatError
        If it is not a TIFF, or is damaged.
    """
    with _understood():
        tif = tifffile.TiffFile(path, _multifile=False)
    with tif:
        with _understood():
            _check_chain(tif)
            each_by_itself = len(tif.series) > 1 and all(
                s.kind == "shaped" and len(s.pages) == 1 for s in tif.series
            )
        if not each_by_itself:
            yield tif
    if each_by_itself:  # written by tifffile page by page: each page became a series
        with tifffile.TiffFile(path, _multifile=False, is_shaped=False) as tif:
            yield tif


def is_one_page(path: Path) -> bool:
    """Return whether a TIFF has one page and no further images behind it, as ImageJ stores stacks."""
    try:
        with open_tiff(path) as tif:
            return len(tif.pages) == 1 and layout_of(tif).size("Z") == 1
    except (VoxelmillError, OSError):
        return False


def layout_of(tif: tifffile.TiffFile) -> Layout:
    """Return the arrangement of the pages as one image of channels, z, y, x.

    Raises
    ------
    FormatError
        If the pages are not such an image, or need a codec that is not installed.
    """
    with _understood():
        series = _only_series(tif)
        page = series.keyframe
        kept = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"]
        letters, shape = "".join(a for a, _ in kept), tuple(n for _, n in kept)
        inside = tuple(n for a, n in zip(page.axes, page.shape, strict=True) if n > 1 or a in "YX")
        axes = _name_axes(letters, shape, len(inside))
        if prod(series.shape) == 0 or shape[-len(inside) :] != inside or series.dtype is None:
            raise FormatError(
                f"the TIFF has pages of {inside} voxels in an image of {shape}; whole planes of numbers are "
                f"needed. {_RESTORE}"
            )
        _check_codec(page)
    dtype = np.dtype(np.uint8) if series.dtype == bool else supported(series.dtype)
    return Layout(axes, shape, len(inside), dtype)


def plane_reader(
    tif: tifffile.TiffFile, path: Path, layout: Layout, sparse: Callable[[int], None] = lambda _: None
) -> Plane:
    """Return a function that reads one plane of an open file; it holds one page, or memory-maps the file.

    Parameters
    ----------
    tif : tifffile.TiffFile
        The open file, which must stay open while planes are read.
    path : Path
        The same file.
    layout : Layout
        Its arrangement; see `layout_of`.
    sparse : callable
        Called with the number of each page that has tiles or strips which are not stored.

    Raises
    ------
    FormatError
        If the file is too short for its voxels.
    """
    offset = _data_offset(tif)
    return _paged(tif.series[0], layout, sparse) if offset is None else _mapped(path, layout, offset, tif)


def is_contiguous(tif: tifffile.TiffFile) -> bool:
    """Return whether the voxels of an open file are uncompressed and contiguous."""
    return _data_offset(tif) is not None


def _data_offset(tif: tifffile.TiffFile) -> int | None:
    """Return the byte offset of uncompressed contiguous voxels; None if there are none."""
    with _understood():
        return tif.series[0].dataoffset or None


def _mapped(path: Path, layout: Layout, offset: int, tif: tifffile.TiffFile) -> Plane:
    wanted, found = prod(layout.shape) * layout.dtype.itemsize, tif.filehandle.size - offset
    if found < wanted:
        raise FormatError(
            f"the tags ask for {wanted} bytes of voxels, the TIFF holds {max(found, 0)}. {_RESTORE}"
        )
    dtype = layout.dtype.newbyteorder(tif.byteorder)
    mapped = np.memmap(path, dtype, "r", offset, layout.shape)
    view = arrange(mapped, layout.axes, "CZSYX")

    def read(channel: int, z: int) -> Array:
        forget(mapped)  # the pages of planes before this one
        return np.asarray(view[channel, z])

    return read


def _paged(series: tifffile.TiffPageSeries, layout: Layout, sparse: Callable[[int], None]) -> Plane:
    inner, shape = layout.axes[-layout.within :], layout.shape[-layout.within :]
    _whole_page(series, 0)  # refuses a truncated file on opening

    def read(number: int) -> Array:
        page = _whole_page(series, number)
        if _stored(page, series.keyframe) < prod(series.keyframe.chunked):
            sparse(number)
        return arrange(_decode(series, number, shape), inner, "ZSYX")

    pages = Latest(read)
    return lambda channel, z: pages[layout.page(channel, z)][z if "Z" in inner else 0]


def _whole_page(series: tifffile.TiffPageSeries, number: int) -> tifffile.TiffPage | tifffile.TiffFrame:
    """Return a page; refuse it if its bytes are missing or too few for the voxels that the tags state."""
    with _understood():
        page, keyframe = series.pages[number], series.keyframe
        if page is None or not _is_whole(page, keyframe):
            raise FormatError(
                f"page {number} of the TIFF (from 0) is missing, or ends beyond the file. {_RESTORE}"
            )
        held, wanted = sum(page.databytecounts), prod(keyframe.chunks) * _stored(page, keyframe)
        if keyframe.compression not in _UNLIMITED and wanted > _MOST_RATIO * held:
            raise FormatError(
                f"the tags ask for {wanted} values a page; {held} compressed bytes cannot hold them. "
                f"{_RESTORE}"
            )
        return page


def _decode(series: tifffile.TiffPageSeries, number: int, shape: tuple[int, ...]) -> Array:
    page = _whole_page(series, number)
    try:
        if not _stored(page, series.keyframe):  # tifffile would read a page of one strip from byte 0
            return np.full(shape, series.keyframe.nodata, series.dtype)
        return page.asarray(maxworkers=1).reshape(shape)
    except Exception as error:  # a codec may raise anything
        if is_own_fault(error):
            raise
        codec = _name(series.keyframe.compression)
        raise FormatError(
            f"page {number} of the TIFF (from 0) does not decode from {codec} ({type(error).__name__}). "
            f"{_RESTORE}"
        ) from None


def _is_whole(page: tifffile.TiffPage | tifffile.TiffFrame, keyframe: tifffile.TiffPage) -> bool:
    """Return whether all tiles or strips of a page exist or are sparse; tifffile fills others with zeros."""
    pieces, size = prod(keyframe.chunked), page.parent.filehandle.size
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if not all(isinstance(number, int) for place in places for number in place):
        return False  # tags of a damaged file can be of any type
    return len(places) >= pieces and all(_is_there(at, count, size) for at, count in places[:pieces])


def _is_there(at: int, count: int, size: int) -> bool:
    """Return whether a tile or strip lies in a file of `size` bytes, or is marked as not stored (sparse)."""
    return at == count == 0 or (at > 0 and count > 0 and at + count <= size)


def _stored(page: tifffile.TiffPage | tifffile.TiffFrame, keyframe: tifffile.TiffPage) -> int:
    """Return the number of stored tiles or strips of a page; those of offset and length 0 are zeros."""
    return sum(count > 0 for count in page.databytecounts[: prod(keyframe.chunked)])


def _check_chain(tif: tifffile.TiffFile) -> None:
    """Refuse a file with a last page that points to a missing one; tifffile only logs it."""
    last = tif.pages.next_page_offset
    if last is not None:
        tif.filehandle.seek(last)
        rest = tif.filehandle.read(tif.tiff.offsetsize)
        if rest != bytes(tif.tiff.offsetsize):
            raise FormatError(
                f"the TIFF ends early: the page after page {len(tif.pages) - 1} is missing. {_RESTORE}"
            )


def _only_series(tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    if len(tif.series) != 1:
        shapes = ", ".join("x".join(map(str, s.shape)) for s in tif.series[:4])
        raise FormatError(
            f"the TIFF holds {len(tif.series)} images ({shapes}); one is needed. Save it by itself."
        )
    return tif.series[0]


def _name_axes(letters: str, shape: tuple[int, ...], within: int) -> str:
    """Convert tifffile's axis letters to those of `Layout`; a single unnamed axis of pages is z."""
    unnamed = [a for a in letters if a in "IQ"]
    if len(unnamed) == 1 and "Z" not in letters:
        letters = letters.replace(unnamed[0], "Z")
    outer, inner = letters[:-within].replace("S", "C"), letters[-within:].replace("C", "S")
    axes = outer + inner
    if set(axes) - set("CSZYX") or len(set(axes)) < len(axes) or not {"Y", "X"} <= set(inner):
        raise FormatError(_wrong_axes(letters, shape))
    return axes


def _wrong_axes(letters: str, shape: tuple[int, ...]) -> str:
    found = f"the TIFF has axes {letters} of {'x'.join(map(str, shape))} voxels"
    if "T" in letters:
        return (
            f"{found}, of which T is time; one time point is read. Save it by itself, or, where slices were "
            "called time points, correct that (ImageJ: Image > Properties)."
        )
    return (
        f"{found}; pages (Y, X) over Z and perhaps channels (C, S) are read, each once. Save it with axes "
        "named as these."
    )


def _check_codec(page: tifffile.TiffPage) -> None:
    """Refuse a compression or predictor that tifffile cannot decode here, before any voxel is read."""
    for table, used in (
        (tifffile.TIFF.DECOMPRESSORS, page.compression),
        (tifffile.TIFF.UNPREDICTORS, page.predictor),
    ):
        try:
            _ = used == 1 or table[used]
        except KeyError as error:
            what = f"voxels of the TIFF are packed as {_name(used)}"
            if "imagecodecs" in str(error):
                raise FormatError(
                    f"{what}; reading them needs imagecodecs: pip install imagecodecs."
                ) from None
            raise FormatError(
                f"{what}, which is not read. Save the file with deflate, LZW or zstd."
            ) from None


def _name(code: int) -> str:
    return str(getattr(code, "name", code))


@contextmanager
def _understood() -> Iterator[None]:
    """Turn whatever tifffile raises on wrong tags into a `FormatError` without file names."""
    try:
        yield
    except (VoxelmillError, OSError):
        raise
    except Exception as error:
        if is_own_fault(error):
            raise
        raise FormatError(
            f"the file is no TIFF, or is damaged ({type(error).__name__}). {_RESTORE}"
        ) from None
