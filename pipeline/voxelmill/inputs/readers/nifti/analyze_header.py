"""Headers of Analyze 7.5, the predecessor of NIfTI: the same fields for size and type, none for position.

In: the 348 bytes of a header. Out: a NIfTI header of the same grid without a position, and notes for the
user. Headers of other programs that end in .hdr are refused. No file is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from voxelmill.basics.errors import FormatError, GeometryError

CONVERT = "Convert it to NIfTI with the program that it comes from"

_ORIENT = 252  # byte of the field `orient`; 0 is transverse, not flipped
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
    """Refuse a .hdr file of a program that writes neither NIfTI nor Analyze.

    Raises
    ------
    FormatError
        Names the program.
    """
    for mark, name in _FOREIGN.items():
        if head.startswith(mark):
            raise FormatError(f"the .hdr file is {name}; those of NIfTI and Analyze are read. Convert it.")


def is_analyze(head: bytes) -> bool:
    """Return whether a header of the right size is Analyze: it has no NIfTI magic."""
    return head[344:347] not in (b"ni1", b"n+1")


def as_nifti(head: bytes, has_matrix: bool) -> tuple[Any, tuple[str, ...]]:
    """Convert an Analyze header to nibabel's NIfTI header of the same size, type and spacing.

    Parameters
    ----------
    head : bytes
        The 348 bytes of the header.
    has_matrix : bool
        Whether SPM's .mat file, which states a position, lies beside the header.

    Returns
    -------
    header : nibabel.Nifti1Header
        Without qform and sform.
    notes : tuple of str
        Notes for the user.

    Raises
    ------
    GeometryError
        If the orientation is not transverse: programs differ in the meaning of the others.
    """
    import nibabel

    kind: Any = nibabel.Nifti1Header
    header = kind(head, check=False)
    if head[_ORIENT] in _ORIENTATIONS:
        raise GeometryError(
            f"the Analyze header states that slices are {_ORIENTATIONS[head[_ORIENT]]}; transverse ones are "
            f"read, since programs differ in the others. {CONVERT}."
        )
    # NIfTI has these fields where Analyze has others
    for name in ("qform_code", "sform_code", "xyzt_units", "scl_inter"):
        header[name] = 0
    dims = header["dim"]
    dims[4:][dims[4:] == 0] = 1  # unused axes
    matrix = (_MATRIX,) if has_matrix else ()
    return header, (_PLACE, *matrix, *_scaled(float(header["scl_slope"])))


def _scaled(slope: float) -> tuple[str, ...]:
    if slope in (0.0, 1.0) or not np.isfinite(slope):
        return ()
    return (f"values are multiplied by {slope:g}, as SPM states beside Analyze's fields; SimpleITK does not",)
