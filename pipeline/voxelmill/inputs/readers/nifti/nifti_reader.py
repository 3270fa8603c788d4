"""The reader for NIfTI-1 and NIfTI-2, as .nii, .nii.gz, or pairs of .hdr and .img, and for Analyze 7.5 pairs.

In: a path, either one of a pair. Out: a volume; dimensions beyond the third become channels. nibabel parses
the header; the stored voxels are read here.
"""

from __future__ import annotations

from contextlib import closing
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from voxelmill.basics.errors import FormatError
from voxelmill.basics.volume import Volume
from voxelmill.inputs.readers.nifti import analyze_header, header_voxel_pairs
from voxelmill.inputs.readers.nifti.nifti_grid import MENDING, make_geometry
from voxelmill.inputs.readers.shared import decompression
from voxelmill.inputs.readers.shared.hints import Hints
from voxelmill.inputs.readers.shared.packed_voxels import PackedVolume, Packing, fill, open_stream, supported

_SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}  # sizeof_hdr, the first field, to nibabel's class
_MAGICS = {348: (b"n+1\0", b"ni1\0"), 540: (b"n+2\0", b"ni2\0")}  # of a single file, of a pair


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a NIfTI file or pair; see `voxelmill.inputs.readers.formats.open_volume`."""
    is_pair = header_voxel_pairs.is_header(path) or header_voxel_pairs.is_voxels(path)
    header, notes = _read_header(header_voxel_pairs.header_of(path) if is_pair else path, is_pair)
    voxels = header_voxel_pairs.voxels_of(path) if is_pair else path
    what = "Analyze" if notes else "NIfTI"  # only Analyze headers come with notes
    size, channels = _split(header.get_data_shape(), what)
    slope, intercept = _scaling(header)
    placed = make_geometry(header, size, hints, what)
    return PackedVolume(
        placed.geometry,
        Packing(voxels, _dtype(header, what), skip=int(header["vox_offset"]), codec=_codec(voxels)),
        channels=channels,
        slope=slope,
        intercept=intercept,
        repairs=placed.repairs,
        notes=(*notes, *placed.notes),
        otherwise=placed.otherwise,
    )


def _codec(path: Path) -> str | None:
    return "gzip" if path.name.lower().endswith(".gz") else None


def _read_header(path: Path, is_pair: bool) -> tuple[Any, tuple[str, ...]]:
    """Return nibabel's header, and notes for the user on it."""
    import nibabel

    block = _head(path)
    if is_pair:
        analyze_header.refuse_foreign(block)
    for size, name in _SIZES.items():
        head = block[:size]
        if (
            size in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
            and len(head) == size
        ):
            if is_pair and size == 348 and analyze_header.is_analyze(head):
                return analyze_header.as_nifti(head, header_voxel_pairs.has_matrix(path))
            _check_magic(head, size, is_pair)
            return getattr(nibabel, name)(head, check=False), ()
    known = "a NIfTI or Analyze header" if is_pair else "a NIfTI-1 or NIfTI-2 header"
    raise FormatError(f"the file does not start with {known}. {MENDING}")


def _head(path: Path) -> bytes:
    """Return the first 540 decompressed bytes of a file, the size of the longest header, or all of them."""
    block = np.zeros(540, np.uint8)
    with closing(open_stream(path, _codec(path))) as stream:
        try:
            found = fill(stream, block)
        except decompression.ERRORS:
            raise FormatError(f"the file does not decompress as .gz. {MENDING}") from None
    return block[:found].tobytes()


def _dtype(header: Any, what: str) -> np.dtype[Any]:
    try:
        return supported(header.get_data_dtype())
    except KeyError:
        raise FormatError(
            f"the {what} header has data type {int(header['datatype'])}, which nothing defines. {MENDING}"
        ) from None


def _check_magic(head: bytes, size: int, is_pair: bool) -> None:
    magic, known = head[344:348] if size == 348 else head[4:8], _MAGICS[size][is_pair]
    if magic != known:
        which = "the header of a pair" if is_pair else "a single file of header and voxels"
        raise FormatError(
            f"the NIfTI header has magic {magic!r}; {known!r} is needed, which {which} has. {MENDING}"
        )


def _split(dims: tuple[int, ...], what: str) -> tuple[tuple[int, int, int], int]:
    """Return the size x, y, z and the number of channels."""
    x, y, z, *further = [int(n) for n in dims] + [1] * (3 - len(dims))
    if len(dims) < 2 or min(dims) < 1 or sum(n > 1 for n in further) > 1:
        raise FormatError(
            f"the {what} header has dimensions {tuple(int(n) for n in dims)}; two or three, and besides them "
            "either channels or time points, are read. Split the file."
        )
    return (x, y, z), prod(further)


def _scaling(header: Any) -> tuple[float, float]:
    """Return slope and intercept; a slope of zero or NaN means that there is no scaling."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise FormatError(f"the NIfTI header has slope {slope} and intercept {intercept}. {MENDING}")
    return slope, intercept
