"""The reader for MetaImage: .mhd with its data file or files, and .mha.

In: a path. Out: a volume. ITK reads the grid; the location of the bytes is read here from the same header.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from voxelmill.basics.errors import FormatError, SpacingError
from voxelmill.basics.volume import Volume
from voxelmill.inputs.readers.itk import voxels_in_several_files
from voxelmill.inputs.readers.itk.header_fields import (
    add_field,
    check_numbers,
    integer,
    number_of_axes,
    sizes,
)
from voxelmill.inputs.readers.itk.itk_grid import Header, read_header
from voxelmill.inputs.readers.itk.voxels_in_several_files import PiecedVolume
from voxelmill.inputs.readers.shared.hints import Hints
from voxelmill.inputs.readers.shared.packed_voxels import PackedVolume, Packing, data_file

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # four bytes on disk, on every system
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_VECTORS = ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation")
_SCALARS = ("CompressedDataSize", "HeaderSize", "ElementMin", "ElementMax")
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a MetaImage file; see `voxelmill.inputs.readers.formats.open_volume`."""
    fields, end = _read_fields(path)
    if hints.spacing is None and not {"ElementSpacing", "ElementSize"} & fields.keys():
        raise SpacingError(
            "the MetaImage header has no ElementSpacing. Add it, or a `spacing` column to a manifest."
        )
    if voxels_in_several_files.is_several(fields["ElementDataFile"]):
        return _open_pieces(path, fields, end)
    data = _data_file(path, fields)
    _check_fields(fields)
    header = read_header(path)
    packing = _packing(data, fields, end if data == path else 0, header, 1)
    return PackedVolume(header.geometry, packing, channels=header.channels)


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the existing files that a header names; see `voxelmill.inputs.readers.formats.data_files`."""
    fields, end = _read_fields(path)
    stated = fields["ElementDataFile"]
    if voxels_in_several_files.is_several(stated):
        names, count = _names(path, fields, end)
        return voxels_in_several_files.existing(path, names, count)
    return () if stated.upper() == "LOCAL" else voxels_in_several_files.existing(path, [stated], 1)


def _open_pieces(path: Path, fields: dict[str, str], end: int) -> Volume:
    """Open a volume whose slices lie in several files."""
    _check_fields(fields)
    names, count = _names(path, fields, end)
    files = voxels_in_several_files.find_pieces(path, names, count)
    header = read_header(path)
    packings = [_packing(file, fields, 0, header, count) for file in files]
    return PiecedVolume(header.geometry, packings, channels=header.channels)


def _names(path: Path, fields: dict[str, str], end: int) -> tuple[Iterator[str], int]:
    """Return the names of the data files, and their number by DimSize."""
    axes = number_of_axes(fields, "NDims", "MetaImage")
    lengths = sizes(fields, "DimSize", axes)
    stated = fields["ElementDataFile"]
    if not voxels_in_several_files.is_list(stated):
        return voxels_in_several_files.numbered(*_numbers(stated, lengths[-1])), lengths[-1]
    each = voxels_in_several_files.axes_of_list(stated, axes - 1)
    if not 2 <= each < axes:
        raise FormatError(
            f"the MetaImage header lists data files of {each} of its {axes} axes; files of whole slices are "
            "read. Convert the file."
        )
    return voxels_in_several_files.listed(path, end), prod(lengths[each:])


def _numbers(stated: str, count: int) -> tuple[str, range]:
    """Parse ``name%d.raw first last step``; missing numbers default to 1, `count` files, and step 1."""
    pattern, *words = stated.split()
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        numbers = [0] * 4  # too many, and so refused below
    first = numbers[0] if numbers else 1
    step = numbers[2] if len(numbers) > 2 else 1
    last = numbers[1] if len(numbers) > 1 else first + count - 1
    if len(numbers) > 3 or step < 1 or len(range(first, last + 1, step)) != count:
        raise FormatError(
            f"the MetaImage header numbers its data files by {len(words)} words; first, last and step of "
            f"{count} whole numbers are needed. Mend the header."
        )
    return pattern, range(first, last + 1, step)


def _read_fields(path: Path) -> tuple[dict[str, str], int]:
    """Return the lines ``Key = value``, and the byte at which they end; ElementDataFile is the last."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields:
            key, equals, value = file.readline(1 << 16).decode("utf-8", "surrogateescape").partition("=")
            if not equals:
                raise FormatError(
                    "the MetaImage header ends without ElementDataFile, or has a line that is not "
                    "'Key = value'. Restore the file."
                )
            add_field(fields, key.strip(), value.strip())
        return fields, file.tell()


def _check_fields(fields: dict[str, str]) -> None:
    """Refuse malformed numbers before ITK parses them."""
    axes = number_of_axes(fields, "NDims", "MetaImage")
    sizes(fields, "DimSize", axes)
    _dtype(fields)
    if "ElementNumberOfChannels" in fields:
        sizes(fields, "ElementNumberOfChannels", 1)
    for key in _SCALARS:
        check_numbers(fields, key, 1)
    for key in _VECTORS:
        check_numbers(fields, key, axes)
    for key in _MATRICES:
        check_numbers(fields, key, axes * axes)


def _data_file(path: Path, fields: dict[str, str]) -> Path:
    name = fields["ElementDataFile"]
    if not name:
        raise FormatError("ElementDataFile in the MetaImage header is empty. Mend the header.")
    data = path if name.upper() == "LOCAL" else data_file(path, name)
    data.stat()  # raises FileNotFoundError: a missing file is not a wrong header
    return data


def _packing(data: Path, fields: dict[str, str], end: int, header: Header, count: int) -> Packing:
    """Return the place and layout of the voxels in a file, one of `count` files."""
    dtype = _dtype(fields)
    codec = "zlib" if _is_true(fields.get("CompressedData", "False")) else None
    if not _is_true(fields.get("BinaryData", "True")):
        codec = "decimal"
    expected = prod(header.geometry.shape) * header.channels * dtype.itemsize // count
    offset = _offset(data, fields, expected)
    return Packing(data, dtype, offset or end, codec=codec, is_interleaved=header.is_interleaved)


def _offset(data: Path, fields: dict[str, str], expected: int) -> int:
    """Return HeaderSize, the bytes before the data; -1 means that the data are at the end of the file."""
    skipped = integer(fields, "HeaderSize")
    return skipped if skipped >= 0 else max(data.stat().st_size - expected, 0)


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    name = fields.get("ElementType", "").removesuffix("_ARRAY")
    if name not in _TYPES:
        raise FormatError(f"ElementType is {name!r}; {', '.join(_TYPES)} are read. Convert the file.")
    order = fields.get("ElementByteOrderMSB", fields.get("BinaryDataByteOrderMSB", "False"))
    return np.dtype((">" if _is_true(order) else "<") + _TYPES[name])


def _is_true(value: str) -> bool:
    return value[:1] in ("T", "t", "1")
