"""Headers of Analyze 7.5, from before NIfTI: the same fields for sizes and types, none for the place.

In: 348 bytes. Out: a NIfTI header of the same grid that states no place, and what is to be known of it; and
which other programs' .hdr files are neither. Reads no file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from voxelmill.basics.errors import FormatError, GeometryError

CONVERT = "Convert it to NIfTI with the program that it comes from"

_ORIENT = 252
_ORIENTATIONS = {1: "coronal", 2: "sagittal", 3: "transverse, flipped", 4: "coronal, flipped"} | {
    5: "sagittal, flipped"
}
_FOREIGN = {
    b"ENVI": "a header of ENVI",
    b"#?RADIANCE": "a photograph of Radiance",
    b"#?RGBE": "a photograph of Radiance",
    b"!INTERFILE": "a header of Interfile",
}
_PLACE = (
    "Analyze 7.5 states no place: axes are the world's (x to the left, y to the back) from 0 on, as in "
    "SimpleITK; nibabel and SPM take y to the front, so left and right may be exchanged"
)
_MATRIX = "the .mat file of SPM beside it, which states a place, is not read"


def refuse_foreign(head: bytes) -> None:
    """Name the program whose .hdr file this is, where it is none of NIfTI or Analyze.

    Raises
    ------
    FormatError
        With the program.
    """
    for mark, name in _FOREIGN.items():
        if head.startswith(mark):
            raise FormatError(f"the .hdr file is {name}; those of NIfTI and Analyze are read. Convert it.")


def is_analyze(head: bytes) -> bool:
    """Whether 348 bytes, of which the first four are right, are of Analyze: they end in no word of NIfTI."""
    return head[344:347] not in (b"ni1", b"n+1")


def as_nifti(head: bytes, has_matrix: bool) -> tuple[Any, tuple[str, ...]]:
    """nibabel's NIfTI header of the same sizes, type and spacing, and a line for each thing to be known.

    `has_matrix` says whether SPM's .mat file, which states a place, is beside it.

    Raises
    ------
    GeometryError
        If the header states another orientation than the usual one: programs differ in what it means.
    """
    import nibabel

    kind: Any = nibabel.Nifti1Header
    header = kind(head, check=False)
    if head[_ORIENT] in _ORIENTATIONS:
        raise GeometryError(
            f"the Analyze header states that slices are {_ORIENTATIONS[head[_ORIENT]]}; transverse ones are "
            f"read, since programs differ in the others. {CONVERT}."
        )
    for name in ("qform_code", "sform_code", "xyzt_units", "scl_inter"):
        header[name] = 0
    dims = header["dim"]
    dims[4:][dims[4:] == 0] = 1  # axes that are not there
    matrix = (_MATRIX,) if has_matrix else ()
    return header, (_PLACE, *matrix, *_scaled(float(header["scl_slope"])))


def _scaled(slope: float) -> tuple[str, ...]:
    if slope in (0.0, 1.0) or not np.isfinite(slope):
        return ()
    return (f"values are multiplied by {slope:g}, as SPM states beside Analyze's fields; SimpleITK does not",)
