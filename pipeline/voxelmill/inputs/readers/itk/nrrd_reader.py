"""The reader for NRRD: .nrrd, and .nhdr with its data file or files.

In: a path. Out: a volume. ITK reads the grid, except for layers of segments; the location of the bytes is
read here from the same header.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from voxelmill.inputs.readers.itk.nrrd_layered_grid import layered_grid
from voxelmill.inputs.readers.itk.slicer_segments import MergedLayers, Segment, find_segments
from voxelmill.inputs.readers.itk.voxels_in_several_files import PiecedVolume
from voxelmill.inputs.readers.shared import voxels_as_text
from voxelmill.inputs.readers.shared.hints import Hints
from voxelmill.inputs.readers.shared.packed_voxels import PackedVolume, Packing, data_file

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
_CODECS = {
    "raw": None,
    **dict.fromkeys(["gz", "gzip"], "gzip"),
    **dict.fromkeys(["bz2", "bzip2"], "bzip2"),
    **dict.fromkeys(["ascii", "txt", "text"], "decimal"),
    "hex": "hex",
}
_ON_GRID = ("domain", "space", "time", "none", "???")  # kinds that ITK treats as axes of the grid


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a NRRD file; see `voxelmill.inputs.readers.formats.open_volume`."""
    fields, keys, end = _read_fields(path)
    if hints.spacing is None and not {"spacings", "spacedirections"} & fields.keys():
        raise SpacingError(
            "the NRRD header has neither spacings nor space directions. Add them, or a `spacing` column "
            "to a manifest."
        )
    files = _data_files(path, fields, end)
    _check_fields(fields)
    segments = find_segments(keys) if integer(fields, "dimension") == 4 else ()
    layered = layered_grid(fields) if segments else None
    header = layered or _header(path, fields)
    packings = [_packing(file, fields, end if file == path else 0, header, len(files)) for file in files]
    if voxels_in_several_files.is_several(fields.get("datafile", "")):
        volume: Volume = PiecedVolume(header.geometry, packings, channels=header.channels)
    else:
        volume = PackedVolume(header.geometry, packings[0], channels=header.channels)
    return _merged(volume, segments, hints.is_label) if segments else volume


def _merged(layers: Volume, segments: Sequence[Segment], is_label: bool) -> Volume:
    if not is_label:
        raise FormatError(
            f"the file is a segmentation of {len(segments)} segments in {layers.channels} layers, and no "
            "image. Name it as a label."
        )
    return MergedLayers(layers, segments)


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the existing files that a header names; see `voxelmill.inputs.readers.formats.data_files`."""
    fields, _, end = _read_fields(path)
    stated = fields.get("datafile", "")
    if voxels_in_several_files.is_several(stated):
        names, count = _names(path, fields, end)
        return voxels_in_several_files.existing(path, names, count)
    return voxels_in_several_files.existing(path, [stated], 1) if stated else ()


def _read_fields(path: Path) -> tuple[dict[str, str], dict[str, str], int]:
    """Return the lines ``field: value``, names without blanks, those ``key:=value``, and where they end."""
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    with path.open("rb") as file:
        if not file.readline(80).startswith(b"NRRD"):
            raise FormatError("the file does not start with 'NRRD'. Restore it, or convert it again.")
        while line := file.readline(1 << 20).decode("utf-8", "surrogateescape").strip():
            if "\r" in line:  # ITK would end the line there
                raise FormatError("the NRRD header has a line break that is no line's end. Mend the header.")
            if line.startswith("#"):
                continue
            name, colon, value = line.partition(":")
            if not colon:
                raise FormatError("the NRRD header has a line that is not 'field: value'. Mend the header.")
            if value.startswith("="):
                keys[name] = value[1:].strip()
            else:
                add_field(fields, name.lower().replace(" ", ""), value.strip())
            if voxels_in_several_files.is_list(fields.get("datafile", "")):
                break  # names of files follow
        return fields, keys, file.tell()


def _check_fields(fields: dict[str, str]) -> None:
    """Refuse malformed numbers before ITK parses them."""
    axes = number_of_axes(fields, "dimension", "NRRD")
    sizes(fields, "sizes", axes)
    _dtype(fields)
    if _codec(fields) in voxels_as_text.CODECS and integer(fields, "byteskip") < 0:
        raise FormatError("the NRRD header has a negative byte skip, and voxels as text. Mend the header.")
    if "spaceorigin" in fields:
        check_numbers(fields, "spaceorigin", fields["spaceorigin"].count(",") + 1)


def _header(path: Path, fields: dict[str, str]) -> Header:
    """Return the grid as ITK reads it, and the place of the channels in the file."""
    header = read_header(path)
    header = replace(header, is_interleaved=header.is_interleaved and not _is_vector_last(fields))
    _check_axes(fields, header)
    return header


def _check_axes(fields: dict[str, str], header: Header) -> None:
    """Refuse a vector axis between others: ITK reports it first, but the bytes are ordered otherwise."""
    lengths = [int(n) for n in fields["sizes"].split()]
    kinds = fields.get("kinds", "").lower().split()
    expected = [*reversed(header.geometry.shape)]
    expected = [header.channels, *expected] if header.is_interleaved else [*expected, header.channels]
    is_moved = header.is_interleaved and kinds and kinds[0] in _ON_GRID
    if is_moved or [n for n in lengths if n > 1] != [n for n in expected if n > 1]:
        raise FormatError(
            f"the NRRD file has sizes {lengths} of kinds {kinds}; a vector axis is read where it comes "
            "first or last. Convert the file."
        )


def _is_vector_last(fields: dict[str, str]) -> bool:
    """Return whether channels are stored one after another, and not interleaved."""
    kinds = fields.get("kinds", "").lower().split()
    return len(kinds) > 1 and kinds[0] in _ON_GRID and kinds[-1] not in _ON_GRID


def _data_files(path: Path, fields: dict[str, str], end: int) -> list[Path]:
    """Return the files that hold the voxels; raise FileNotFoundError if the only one is missing."""
    name = fields.get("datafile")
    if name is None:
        return [path]
    if voxels_in_several_files.is_several(name):
        return voxels_in_several_files.find_pieces(path, *_names(path, fields, end))
    data = data_file(path, name)
    data.stat()
    return [data]


def _names(path: Path, fields: dict[str, str], end: int) -> tuple[Iterator[str], int]:
    """Return the names of the data files, and their number by `sizes`."""
    axes = number_of_axes(fields, "dimension", "NRRD")
    lengths, stated = sizes(fields, "sizes", axes), fields["datafile"]
    if voxels_in_several_files.is_list(stated):
        each, names = (
            voxels_in_several_files.axes_of_list(stated, axes - 1),
            voxels_in_several_files.listed(path, end),
        )
    else:
        each, names = _numbered(stated, axes)
    if not 2 <= each < axes:
        raise FormatError(
            f"the NRRD header names data files of {each} of its {axes} axes; files of whole slices are read. "
            "Convert the file."
        )
    return names, prod(lengths[each:])


def _numbered(stated: str, axes: int) -> tuple[int, Iterator[str]]:
    """Parse ``name%d.raw first last step``, with optional axes per file; return the axes and the names."""
    pattern, *words = stated.split()
    try:
        first, last, step, each = (
            int(word) for word in [*words, *([str(axes - 1)] if len(words) == 3 else [])]
        )
        numbers = range(first, last + (1 if step > 0 else -1), step)
    except ValueError:
        raise FormatError(
            f"the NRRD header numbers its data files by {len(words)} words; first, last and step, whole "
            "numbers, are needed. Mend the header."
        ) from None
    return each, voxels_in_several_files.numbered(pattern, numbers)


def _packing(data: Path, fields: dict[str, str], end: int, header: Header, count: int) -> Packing:
    """Return the place and layout of the voxels in a file, one of `count` files."""
    codec, dtype = _codec(fields), _dtype(fields)
    offset = _after_lines(data, end, integer(fields, "lineskip"))
    skip = integer(fields, "byteskip")
    if codec in voxels_as_text.CODECS:  # skip counts bytes of the file, not decoded ones
        if skip < 0:
            raise FormatError(
                "the NRRD header has a negative byte skip, and voxels as text. Mend the header."
            )
        return Packing(data, dtype, offset + skip, 0, codec, header.is_interleaved)
    if skip < 0:  # byte skip -1: the data are at the end of the file
        expected = prod(header.geometry.shape) * header.channels * dtype.itemsize // count
        skip = max(data.stat().st_size - offset - expected, 0)
    return Packing(data, dtype, offset, skip, codec, header.is_interleaved)


def _after_lines(data: Path, offset: int, lines: int) -> int:
    with data.open("rb") as file:
        file.seek(offset)
        for _ in range(lines):
            file.readline()
        return file.tell()


def _codec(fields: dict[str, str]) -> str | None:
    encoding = fields.get("encoding", "").lower()
    if encoding not in _CODECS:
        raise FormatError(
            f"the NRRD encoding is {encoding!r}; raw, gzip, bzip2, ascii and hex are read. Convert the file."
        )
    return _CODECS[encoding]


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    name = fields.get("type", "").lower()
    short = name.removesuffix("_t").removeprefix("signed ").removesuffix(" int")
    if short not in _TYPES:
        raise FormatError(f"the NRRD type is {name!r}; integers and floats are read. Convert the file.")
    return np.dtype((">" if fields.get("endian", "").lower() == "big" else "<") + _TYPES[short])
