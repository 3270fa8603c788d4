"""Voxels that lie in several files, one after another: their names in a list, or made by a pattern.

In: what a header states. Out: the files, and a `PiecedVolume` of them. Knows no header of any format.
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
"""Characters of a name in a list; longer ones are none."""

PIECE_BYTES = 1024
"""What is held of a file that is not open: its path, and how it is read."""

_LIST = re.compile(r"LIST(?:\s+(\d{1,3})D?)?", re.IGNORECASE)
_NUMBER = re.compile(r"%(0?)(\d{0,2})[diu]")


def is_list(stated: str) -> bool:
    """Whether the names of data files follow, instead of the name of one."""
    return _LIST.fullmatch(stated.strip()) is not None


def is_several(stated: str) -> bool:
    """Whether a header states several data files, by a list or a pattern."""
    return is_list(stated) or "%" in stated


def axes_of_list(stated: str, default: int) -> int:
    """How many axes each file of a list has, ``LIST 2`` or ``LIST 2D``."""
    found = _LIST.fullmatch(stated.strip())
    return int(found[1]) if found and found[1] else default


def listed(header: Path, offset: int) -> Iterator[str]:
    """The names that follow in a header from a byte on, a line each."""
    with header.open("rb") as file:
        file.seek(offset)
        while line := file.readline(MOST_LENGTH):
            if name := line.decode("utf-8", "surrogateescape").strip():
                yield name


def numbered(pattern: str, numbers: Iterable[int]) -> Iterator[str]:
    """The names that a pattern like ``s%03d.raw`` makes.

    Raises
    ------
    FormatError
        If there is not one whole number in it.
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
    """The files that are stated, all in the header's folder or below, and so many.

    Raises
    ------
    FormatError
        With the number of the file that is not there, or lies elsewhere.
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
    """Those of the files that are stated that `find_pieces` would take, up to the first that it would not."""
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
    """A volume whose voxels lie in several files, each with as many whole slices as the others.

    Parameters
    ----------
    pieces : sequence of Packing
        In the order of the slices; all of one type and codec.

    Raises
    ------
    FormatError
        If files are no whole slices each, or one cannot hold as many bytes as its slices need.
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
        """Bytes held beside a slab: what a file takes that is read, and the names of all."""
        return super().extra_bytes + PIECE_BYTES * len(self._pieces)

    def fill(self, box: Box, out: npt.NDArray[Any], convert: Convert | None = None) -> None:
        """Put a (c, z, y, x) box into `out`; maps the files where they are not compressed."""
        if self._packing.codec is not None:
            return super().fill(box, out, convert)
        for part in box.cells((1, 1, *self.geometry.shape[1:])):
            with readable():
                plane = self._plane(part)
            put(out[part.shift([-n for n in box.start]).slices], plane, convert)

    def _plane(self, part: Box) -> npt.NDArray[Any]:
        """A box within one slice of one channel."""
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
    """Plain bytes of several files, so many of each, as one stream; one file is open at a time."""

    def __init__(self, pieces: Sequence[Packing], each: int) -> None:
        self._pieces = pieces
        self._each = each
        self._number = 0
        self._left = 0
        self._stream: io.RawIOBase | io.BufferedIOBase = io.BytesIO()

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill the front of a buffer; returns how many bytes, 0 at the end.

        Raises
        ------
        FormatError
            If a file holds less, or, compressed, more than it should.
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
        """Close the file that is open."""
        self._stream.close()
        super().close()

    def _next(self) -> bool:
        """Open the file that follows, once the one before is read to its end; whether there is one."""
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
        """See that a compressed file holds nothing more, and that its checksum is right."""
        if self._number == 0 or self._stream.closed or self._pieces[0].codec is None:
            return
        with speaking_of(f"data file {self._number} of {len(self._pieces)}"), readable():
            if self._stream.readinto(bytearray(1)):
                raise FormatError(
                    f"it goes on after the {self._each} bytes that its slices need. Restore it."
                )
