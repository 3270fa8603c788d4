"""The volume of formats that store their voxels contiguously in one file, plain or compressed.

In: the place and layout of the bytes. Out: a `PackedVolume`. It knows no header of any format.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import FormatError
from voxelmill.basics.geometry import Box, Geometry
from voxelmill.basics.paths_within_folder import within
from voxelmill.basics.volume import Convert, Slab, Volume, put
from voxelmill.inputs.readers.shared import decompression, voxels_as_text


@dataclass(frozen=True)
class Packing:
    """The place and layout of a volume's voxels in a file.

    Attributes
    ----------
    path : Path
        The file.
    dtype : numpy.dtype
        Type of one value, in the byte order of the file.
    offset : int
        Byte of the file at which the (possibly compressed) data begin.
    skip : int
        Bytes to skip after `offset`, counted after decompression.
    codec : str or None
        "gzip", "zlib", "bzip2"; "decimal" or "hex" for text; None for plain bytes.
    is_interleaved : bool
        Whether the channels of a voxel lie together: (z, y, x, c) instead of (c, z, y, x).
    """

    path: Path
    dtype: np.dtype[Any]
    offset: int = 0
    skip: int = 0
    codec: str | None = None
    is_interleaved: bool = False

    @property
    def contents(self) -> str:
        """The name of encoded bytes in messages."""
        return "voxels as text" if self.codec in voxels_as_text.CODECS else "compressed data"

    def open(self) -> io.RawIOBase | io.BufferedIOBase:
        """Open a forward stream of plain bytes that begins at the first voxel."""
        stream = open_stream(self.path, self.codec, self.offset, self.dtype)
        if self.codec is None:
            stream.seek(self.skip, io.SEEK_CUR)
        else:
            fill(stream, np.empty(self.skip, np.uint8))
        return stream


class PackedVolume(Volume):
    """A volume whose voxels lie contiguously in one file.

    Parameters
    ----------
    geometry : Geometry
        The grid; its shape is (z, y, x).
    packing : Packing
        The place and layout of the voxels.
    channels : int
        Number of channels.
    **facts
        Further arguments of `Volume`.

    Raises
    ------
    FormatError
        If the file cannot hold as many bytes as its header asks for.
    """

    def __init__(self, geometry: Geometry, packing: Packing, *, channels: int = 1, **facts: Any) -> None:
        super().__init__(geometry, supported(packing.dtype), channels=channels, **facts)
        self._packing = packing
        self.together = channels if packing.is_interleaved else 1
        self.is_random_access = packing.codec is None
        self._check_size()

    def slabs(self, depth: int) -> Iterator[Slab]:
        """Yield every voxel once, in the order of the file; see `Volume.slabs`."""
        planes = 1 if self._packing.is_interleaved else self.channels
        length = self.geometry.shape[0]
        memory = self._empty(min(depth, length))
        with readable(), closing(self._open()) as stream:
            found = 0
            for channel in range(planes):
                for z in range(0, length, depth):
                    data = self._first(memory, min(depth, length - z))
                    found += self._fill(stream, data, found)
                    yield Slab(channel, z, self._arrange(data))
            self._check_end(stream)

    @property
    def extra_bytes(self) -> int:
        """Bytes held beside a slab: decompression buffers, and one slice to detect surplus data."""
        return 0 if self._packing.codec is None else decompression.HELD_BYTES + self._slice_bytes()

    def fill(self, box: Box, out: npt.NDArray[Any], convert: Convert | None = None) -> None:
        """Read a (c, z, y, x) box into `out`; memory-maps uncompressed files."""
        if self._packing.codec is not None:
            return super().fill(box, out, convert)
        at = self._packing
        with readable():
            mapped = np.memmap(at.path, at.dtype, "r", at.offset + at.skip, self._disk_shape())
        volumes = np.moveaxis(mapped, -1, 0) if at.is_interleaved else mapped
        # slice by slice, so that few mapped pages are resident at a time
        for part in box.cells((1, 1, *self.geometry.shape[1:])):
            plane = np.array(volumes[part.slices], self.dtype, order="C")
            forget(mapped)
            put(out[part.shift([-n for n in box.start]).slices], plane, convert)

    def _disk_shape(self) -> tuple[int, ...]:
        shape = self.geometry.shape
        return (*shape, self.channels) if self._packing.is_interleaved else (self.channels, *shape)

    def _empty(self, slices: int) -> npt.NDArray[Any]:
        plane = self.geometry.shape[1:]
        shape = (slices, *plane, self.channels) if self._packing.is_interleaved else (1, slices, *plane)
        return np.empty(shape, self._packing.dtype)

    def _first(self, memory: npt.NDArray[Any], slices: int) -> npt.NDArray[Any]:
        """Return the first `slices` slices of an array made by `_empty`."""
        return memory[:slices] if self._packing.is_interleaved else memory[:, :slices]

    def _fill(self, stream: io.RawIOBase | io.BufferedIOBase, data: npt.NDArray[Any], before: int) -> int:
        try:
            found = fill(stream, data)
        except decompression.ERRORS:
            found = -1  # damaged: refused below as too short
        if found < data.nbytes:
            at_least = before + max(found, 0)
            raise FormatError(
                f"{self._packing.contents} are damaged or end early: the header asks for {self._bytes()} "
                f"bytes, about {at_least} were found. Restore the file from its source."
                if self._packing.codec
                else _wrong_size(self._bytes(), at_least)
            )
        return found

    def _arrange(self, data: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not data.dtype.isnative:
            data = data.byteswap(inplace=True).view(self.dtype)
        return np.moveaxis(data, -1, 0) if self._packing.is_interleaved else data

    def _bytes(self) -> int:
        return prod(self._disk_shape()) * self.dtype.itemsize

    def _slice_bytes(self) -> int:
        return self._bytes() // self.geometry.shape[0]

    def _open(self) -> io.RawIOBase | io.BufferedIOBase:
        """Open a forward stream of the plain bytes of all voxels."""
        return self._packing.open()

    def _check_size(self) -> None:
        check_held(self._packing, self._bytes(), self._slice_bytes())

    def _check_end(self, stream: io.RawIOBase | io.BufferedIOBase) -> None:
        """Read to the end of a compressed stream: this verifies its checksum and detects surplus slices."""
        if self._packing.codec is None:
            return
        try:
            surplus = fill(stream, np.empty(self._slice_bytes(), np.uint8))
        except decompression.ERRORS:
            raise FormatError(
                f"compressed data are damaged: {self._bytes()} bytes were found, as the header asks for, "
                "but the stream's own end is missing or its checksum wrong. Restore the file."
            ) from None
        if surplus == self._slice_bytes():
            raise FormatError(
                f"the header asks for {self._bytes()} bytes of voxels; the data go on for a slice or more "
                f"({surplus} bytes). Mend the header, or restore the file."
            )


def check_held(packing: Packing, expected: int, surplus: int) -> None:
    """Check that the size of a file fits its voxels.

    Parameters
    ----------
    packing : Packing
        The place and layout of the voxels.
    expected : int
        Bytes of voxels, uncompressed.
    surplus : int
        Number of bytes after the voxels from which the file is refused.

    Raises
    ------
    FormatError
        If the file is too small, or is uncompressed and too large.
    """
    if min(packing.skip, packing.offset) < 0:
        raise FormatError("the header puts the voxels before the file begins. Mend the header.")
    held = packing.path.stat().st_size - packing.offset
    wanted = expected + packing.skip
    if packing.codec is not None:
        if wanted > decompression.MAX_RATIO[packing.codec] * held:
            raise FormatError(
                f"the header asks for {expected} bytes of voxels; {held} bytes of {packing.contents} "
                "cannot hold them. Restore the file, or mend its header."
            )
    elif not wanted <= held < wanted + surplus:
        raise FormatError(_wrong_size(expected, max(held - packing.skip, 0)))


def open_stream(
    path: Path, codec: str | None, offset: int = 0, dtype: np.dtype[Any] | None = None
) -> io.RawIOBase | io.BufferedIOBase:
    """Open the decompressed bytes of a file from `offset` on; `dtype` is that of decimal text."""
    file = path.open("rb", buffering=0)
    file.seek(offset)
    if codec is None:
        return file
    if codec in voxels_as_text.CODECS:
        return voxels_as_text.TextStream(file, dtype if codec == "decimal" else None)
    return decompression.Bzip2(file) if codec == "bzip2" else decompression.Inflater(file, codec)


def forget(mapped: np.memmap) -> None:
    """Release the pages of a mapped file: the system counts them as memory of this process."""
    pages: Any = mapped.base
    pages.madvise(mmap.MADV_DONTNEED)


def fill(stream: io.RawIOBase | io.BufferedIOBase, data: npt.NDArray[Any]) -> int:
    """Read into an array until it is full or the stream ends; return the number of bytes read."""
    view = data.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < len(view) and (count := stream.readinto(view[filled:])):
        filled += count
    return filled


def data_file(header: Path, stated: str) -> Path:
    """Return the path of the data file that a detached header names.

    Raises
    ------
    FormatError
        If it lies outside the header's folder.
    """
    data = within(header.parent, stated)
    if data is None:
        raise FormatError(
            "the header names a data file outside of its folder. Move the file there, and correct the header."
        )
    return data


@contextmanager
def readable() -> Iterator[None]:
    """Turn errors of the file system, which name files, into a `FormatError`, which does not."""
    try:
        yield
    except FileNotFoundError:
        raise FormatError("the file is missing. Restore it, or correct the path.") from None
    except decompression.ERRORS:
        raise FormatError("compressed data are damaged or end early. Restore the file.") from None
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else "its contents do not decode"
        raise FormatError(f"the file cannot be read: {cause}. Restore it, or correct its rights.") from None


def supported(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type unchanged if it is a real number of at most 64 bits.

    Raises
    ------
    FormatError
        If it is not.
    """
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise FormatError(
            f"voxels are of type {dtype}; integers and floats of up to 64 bits are read. Convert the file."
        )
    return dtype


def _wrong_size(expected: int, found: int) -> str:
    return (
        f"the header asks for {expected} bytes of voxels, the file holds {found}. "
        "Restore the file, or mend its header."
    )
