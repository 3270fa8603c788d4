"""Volumes split over several files, which a header names in a list or by a numbered pattern.

In: the fields of a header. Out: the files, and a `PiecedVolume` of them. It knows no header of any format.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import FormatError, speaking_of
from voxelmill.basics.geometry import Box, Geometry
from voxelmill.basics.volume import Convert, put
from voxelmill.inputs.readers.shared.packed_voxels import (
    PackedVolume,
    Packing,
    check_held,
    data_file,
    forget,
    readable,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MOST_LENGTH = 4096
"""Longest name in a list, in bytes."""

PIECE_BYTES = 1024
"""Memory held per file that is not open, in bytes: its path and `Packing`."""

_LIST = re.compile(r"LIST(?:\s+(\d{1,3})D?)?", re.IGNORECASE)
_NUMBER = re.compile(r"%(0?)(\d{0,2})[diu]")


def is_list(stated: str) -> bool:
    """Return whether a list of data files follows, instead of the name of one."""
    return _LIST.fullmatch(stated.strip()) is not None


def is_several(stated: str) -> bool:
    """Return whether a header states several data files, by a list or a pattern."""
    return is_list(stated) or "%" in stated


def axes_of_list(stated: str, default: int) -> int:
    """Return the number of axes of each file in a list: ``LIST 2`` or ``LIST 2D``, else the default."""
    found = _LIST.fullmatch(stated.strip())
    return int(found[1]) if found and found[1] else default


def listed(header: Path, offset: int) -> Iterator[str]:
    """Yield the file names in a header from byte `offset` on, one per line."""
    with header.open("rb") as file:
        file.seek(offset)
        while line := file.readline(MOST_LENGTH):
            if name := line.decode("utf-8", "surrogateescape").strip():
                yield name


def numbered(pattern: str, numbers: Iterable[int]) -> Iterator[str]:
    """Return the names that a pattern such as ``s%03d.raw`` generates.

    Raises
    ------
    FormatError
        If the pattern does not hold exactly one integer conversion.
    """
    found = _NUMBER.findall(pattern)
    if len(found) != 1 or pattern.count("%") != 1:
        raise FormatError(
            "the header names its data files by a pattern that is not understood; one number such as %d or "
            "%03d is read. Mend the header, or convert the file."
        )
    zero, width = found[0]
    before, after = _NUMBER.split(pattern)[0], _NUMBER.split(pattern)[-1]
    form = f"{zero}{width}d" if width else "d"
    return (f"{before}{number:{form}}{after}" for number in numbers)


def find_pieces(header: Path, names: Iterable[str], count: int) -> list[Path]:
    """Return the `count` files that a header names, all of them in its folder or below.

    Raises
    ------
    FormatError
        If the number of names is not `count`, or a file is missing or lies elsewhere; names its number.
    """
    found: list[Path] = []
    for name in names:
        if len(found) == count:
            raise FormatError(
                f"the header names more data files than the {count} that its sizes need. Mend it."
            )
        with speaking_of(f"data file {len(found) + 1} of {count}"), readable():
            file = data_file(header, name)
            file.stat()
        found.append(file)
    if len(found) < count:
        raise FormatError(
            f"the header names {len(found)} data files; its sizes need {count}. Mend the header."
        )
    return found


def existing(header: Path, names: Iterable[str], most: int) -> tuple[Path, ...]:
    """Return the named files up to the first that `find_pieces` would refuse, `most` at most."""
    found: list[Path] = []
    try:
        for name in names:
            file = data_file(header, name)
            if len(found) == most or not file.is_file():
                break
            found.append(file)
    except (FormatError, OSError):
        pass
    return tuple(found)


class PiecedVolume(PackedVolume):
    """A volume whose voxels lie in several files, each with the same number of whole slices.

    Parameters
    ----------
    geometry : Geometry
        The grid of the whole volume.
    pieces : sequence of Packing
        In the order of the slices; all of one type and codec.
    channels : int
        Number of channels.
    **facts
        Further arguments of `Volume`.

    Raises
    ------
    FormatError
        If a file does not hold whole slices, or is too small for them.
    """

    def __init__(
        self, geometry: Geometry, pieces: Sequence[Packing], *, channels: int = 1, **facts: Any
    ) -> None:
        self._pieces = pieces
        slices = geometry.shape[0] * (1 if pieces[0].is_interleaved else channels)
        self._thickness = slices // len(pieces)
        if self._thickness * len(pieces) != slices:
            raise FormatError(
                f"the header names {len(pieces)} data files for {slices} slices; each file needs to hold "
                "whole slices. Convert the file."
            )
        super().__init__(geometry, pieces[0], channels=channels, **facts)

    @property
    def extra_bytes(self) -> int:
        """Bytes held beside a slab: those for the open file, and the names of all files."""
        return super().extra_bytes + PIECE_BYTES * len(self._pieces)

    def fill(self, box: Box, out: npt.NDArray[Any], convert: Convert | None = None) -> None:
        """Read a (c, z, y, x) box into `out`; memory-maps uncompressed files."""
        if self._packing.codec is not None:
            return super().fill(box, out, convert)
        for part in box.cells((1, 1, *self.geometry.shape[1:])):
            with readable():
                plane = self._plane(part)
            put(out[part.shift([-n for n in box.start]).slices], plane, convert)

    def _plane(self, part: Box) -> npt.NDArray[Any]:
        """Read a box within one slice of one channel."""
        channel, z = part.start[:2]
        flat = z if self._packing.is_interleaved else channel * self.geometry.shape[0] + z
        number, row = divmod(flat, self._thickness)
        at, shape = self._pieces[number], (self._thickness, *self._slice_shape())
        mapped = np.memmap(at.path, at.dtype, "r", at.offset + at.skip, shape)
        plane = mapped[row][part.slices[2:]]
        plane = plane[..., channel] if at.is_interleaved else plane
        copied = np.array(plane[None, None], self.dtype, order="C")
        forget(mapped)
        return copied

    def _slice_shape(self) -> tuple[int, ...]:
        plane = self.geometry.shape[1:]
        return (*plane, self.channels) if self._packing.is_interleaved else plane

    def _open(self) -> io.RawIOBase:
        return _Chain(self._pieces, self._bytes() // len(self._pieces))

    def _check_size(self) -> None:
        count, each = len(self._pieces), self._bytes() // len(self._pieces)
        for number, piece in enumerate(self._pieces, 1):
            with speaking_of(f"data file {number} of {count}"):
                check_held(piece, each, each // self._thickness)


class _Chain(io.RawIOBase):
    """The plain bytes of several files, `each` bytes per file, as one stream; one file is open at a time."""

    def __init__(self, pieces: Sequence[Packing], each: int) -> None:
        self._pieces = pieces
        self._each = each
        self._number = 0
        self._left = 0
        self._stream: io.RawIOBase | io.BufferedIOBase = io.BytesIO()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read up to ``len(buffer)`` bytes into a buffer; return their number, 0 at the end.

        Raises
        ------
        FormatError
            If a file is too short, or is compressed and too long.
        """
        view = memoryview(buffer).cast("B")
        if self._left == 0 and not self._next():
            return 0
        with speaking_of(f"data file {self._number} of {len(self._pieces)}"), readable():
            count = self._stream.readinto(view[: self._left])
            if not count:
                found = self._each - self._left
                raise FormatError(
                    f"it ends early: {self._each} bytes of voxels are needed, {found} were found. Restore it."
                )
        self._left -= count
        return count

    def close(self) -> None:
        """Close the open file."""
        self._stream.close()
        super().close()

    def _next(self) -> bool:
        """Finish the current file and open the next; return whether there is one."""
        self._end()
        self._stream.close()
        if self._number == len(self._pieces):
            return False
        self._number += 1
        with speaking_of(f"data file {self._number} of {len(self._pieces)}"), readable():
            self._stream = self._pieces[self._number - 1].open()
        self._left = self._each
        return True

    def _end(self) -> None:
        """Read past the end of a compressed file: this detects surplus data and verifies its checksum."""
        if self._number == 0 or self._stream.closed or self._pieces[0].codec is None:
            return
        with speaking_of(f"data file {self._number} of {len(self._pieces)}"), readable():
            if self._stream.readinto(bytearray(1)):
                raise FormatError(
                    f"it goes on after the {self._each} bytes that its slices need. Restore it."
                )
