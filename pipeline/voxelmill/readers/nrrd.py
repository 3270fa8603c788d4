"""NRRD: .nrrd, and .nhdr with its data file.

In: a path. Out: a volume. ITK reads the grid; where the bytes are is read here from the same header.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from voxelmill.errors import FormatError, SpacingError
from voxelmill.readers.common import Hints, PackedVolume, Packing, data_file
from voxelmill.readers.fields import add_field, check_numbers, integer, number_of_axes, sizes
from voxelmill.readers.itk import Header, read_header
from voxelmill.volume import Volume

_TYPES = {
    **dict.fromkeys(["char", "int8"], "i1"),
    **dict.fromkeys(["uchar", "unsigned char", "uint8"], "u1"),
    **dict.fromkeys(["short", "int16"], "i2"),
    **dict.fromkeys(["ushort", "unsigned short", "uint16"], "u2"),
    **dict.fromkeys(["int", "int32"], "i4"),
    **dict.fromkeys(["uint", "unsigned", "uint32"], "u4"),
    **dict.fromkeys(["longlong", "long long", "int64"], "i8"),
    **dict.fromkeys(["ulonglong", "unsigned long long", "uint64"], "u8"),
    "float": "f4",
    "double": "f8",
}
_CODECS = {"raw": None, "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2"}
_ON_GRID = ("domain", "space", "time", "none", "???")  # kinds of axes that ITK takes for the grid's


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a NRRD file; see `voxelmill.readers.open_volume`."""
    fields, end = _read_fields(path)
    if hints.spacing is None and not {"spacings", "spacedirections"} & fields.keys():
        raise SpacingError(
            "the NRRD header has neither spacings nor space directions. Add them, or a `spacing` column "
            "to a manifest."
        )
    data = _data_file(path, fields)
    _check_fields(fields)
    header = read_header(path)
    _check_axes(fields, header)
    packing = _packing(data, fields, end if data == path else 0, header)
    return PackedVolume(header.geometry, packing, channels=header.channels)


def _read_fields(path: Path) -> tuple[dict[str, str], int]:
    """The lines ``field: value``, names without blanks, and the byte at which they end."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        if not file.readline(80).startswith(b"NRRD"):
            raise FormatError("the file does not start with 'NRRD'. Restore it, or convert it again.")
        while line := file.readline(1 << 20).decode("utf-8", "surrogateescape").strip():
            if line.startswith("#"):
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise FormatError("the NRRD header has a line that is not 'field: value'. Mend the header.")
            if not value.startswith("="):
                add_field(fields, name.lower().replace(" ", ""), value.strip())
        return fields, file.tell()


def _check_fields(fields: dict[str, str]) -> None:
    """Refuse numbers that are none before ITK sees them."""
    axes = number_of_axes(fields, "dimension", "NRRD")
    sizes(fields, "sizes", axes)
    _dtype(fields)
    if "spaceorigin" in fields:
        check_numbers(fields, "spaceorigin", fields["spaceorigin"].count(",") + 1)


def _check_axes(fields: dict[str, str], header: Header) -> None:
    """ITK moves the axis of values to the front; only there the bytes lie as ITK says."""
    lengths = [int(n) for n in fields["sizes"].split()]
    kinds = fields.get("kinds", "").lower().split()
    expected = [*reversed(header.geometry.shape)]
    expected = [header.channels, *expected] if header.is_interleaved else [*expected, header.channels]
    is_moved = header.is_interleaved and kinds and kinds[0] in _ON_GRID
    if is_moved or [n for n in lengths if n > 1] != [n for n in expected if n > 1]:
        raise FormatError(
            f"the NRRD file has sizes {lengths} of kinds {kinds}; a vector axis is read where it comes "
            "first. Convert the file."
        )


def _data_file(path: Path, fields: dict[str, str]) -> Path:
    name = fields.get("datafile")
    if name is None:
        return path
    if name.startswith("LIST") or "%" in name:
        raise FormatError(
            "the NRRD header names one data file per slice; one for all slices is read. Convert the file."
        )
    data = data_file(path, name)
    data.stat()  # a missing file is told apart from a wrong header
    return data


def _packing(data: Path, fields: dict[str, str], end: int, header: Header) -> Packing:
    encoding = fields.get("encoding", "").lower()
    if encoding not in _CODECS:
        raise FormatError(
            f"the NRRD encoding is {encoding!r}; raw, gzip and bzip2 are read. Convert the file."
        )
    codec, dtype = _CODECS[encoding], _dtype(fields)
    offset = _after_lines(data, end, integer(fields, "lineskip"))
    skip = integer(fields, "byteskip")
    if skip < 0:
        expected = prod(header.geometry.shape) * header.channels * dtype.itemsize
        skip = max(data.stat().st_size - offset - expected, 0)
    return Packing(data, dtype, offset, skip, codec, header.is_interleaved)


def _after_lines(data: Path, offset: int, lines: int) -> int:
    with data.open("rb") as file:
        file.seek(offset)
        for _ in range(lines):
            file.readline()
        return file.tell()


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    name = fields.get("type", "").lower()
    short = name.removesuffix("_t").removeprefix("signed ").removesuffix(" int")
    if short not in _TYPES:
        raise FormatError(f"the NRRD type is {name!r}; integers and floats are read. Convert the file.")
    return np.dtype((">" if fields.get("endian", "").lower() == "big" else "<") + _TYPES[short])
