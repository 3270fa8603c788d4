"""The files that phrases in messages mean, such as "DICOM file 21 in the order of names".

In: the path of an image. Out: pairs of phrase and file. This module reads file names and, for DICOM, headers;
files that cannot be read are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from voxelmill.basics.errors import FormatError, VoxelmillError
from voxelmill.inputs.readers.dicom.dicom_files import dicom_files
from voxelmill.inputs.readers.formats import DICOM, TIFF, data_files, find_format
from voxelmill.inputs.readers.tiff.stack_folder import tiff_files, tiff_stem

if TYPE_CHECKING:
    from voxelmill.inputs.readers.dicom.slice_headers import Slice

Called = Iterator[tuple[str, Path]]
"""Pairs of a phrase that messages use and the file it stands for."""


def called(path: Path) -> Called:
    """Yield the phrases that messages use for the files of a multi-file image; a file may have several."""
    kind = find_format(path)
    if kind is DICOM:
        yield from _of_series(list(dicom_files(path)))
    elif kind is TIFF and path.is_dir():
        yield from _of_stack(tiff_files(path))
    else:
        pieces = data_files(path)
        yield from ((f"data file {n} of {len(pieces)}", file) for n, file in enumerate(pieces, 1))


def _of_series(files: Sequence[Path]) -> Called:
    from voxelmill.inputs.readers.dicom.slice_headers import describe, read_slices

    yield from ((f"DICOM file {n} in the order of names", file) for n, file in enumerate(files, 1))
    slices: list[Slice] = []
    with suppress(VoxelmillError, OSError):  # an unreadable header: the phrases above still name its file
        slices, _ = read_slices(files)
    for piece in slices:
        with suppress(VoxelmillError):  # a slice without a usable orientation has no description
            yield describe(piece), piece.path
        if piece.is_localizer:
            yield "localiser(s) set aside", piece.path
        if piece.is_burned_in:
            yield "BurnedInAnnotation is YES", piece.path
    images = {piece.path for piece in slices}
    yield from (("DICOM file(s) without an image", file) for file in files if slices and file not in images)


def _of_stack(files: Sequence[Path]) -> Called:
    from voxelmill.inputs.readers.tiff.stack_file_names import arrange

    yield "of which the first has", files[0]
    try:
        stack = arrange([tiff_stem(file) for file in files])
    except FormatError:
        return
    for channel, row in zip(stack.channels, stack.files, strict=True):
        of = f" of channel {channel}" if len(stack.channels) > 1 else ""
        for number, place in zip(stack.numbers, row, strict=True):
            yield f"slice {number}{of} of the TIFF stack", files[place]
    taken = {place for row in stack.files for place in row}
    yield from (("TIFF files of the folder were set aside", f) for i, f in enumerate(files) if i not in taken)
