"""This module reads one DICOM file with pydicom, with or without preamble, prefix and meta group.

In: a path or an open file, and options of pydicom. Out: a data set that states its transfer syntax.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from voxelmill.inputs.readers.dicom.dicom_files import is_bare

_SYNTAXES = {  # by (implicit VR, little endian)
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


def read_dicom(path: Path, file: BinaryIO | None = None, **options: Any) -> Any:
    """Read a data set with `pydicom.dcmread`.

    A file without TransferSyntaxUID is not compressed; it gets the syntax that pydicom detected.

    Parameters
    ----------
    path : Path
        The file.
    file : BinaryIO, optional
        The same file, open; afterwards its position is where reading stopped.
    **options
        Further arguments of `pydicom.dcmread`.
    """
    # force only where needed: with it, pydicom takes any file for DICOM
    data = pydicom.dcmread(path if file is None else file, force=is_bare(path), **options)
    if "TransferSyntaxUID" not in data.file_meta and data.original_encoding in _SYNTAXES:
        data.file_meta.TransferSyntaxUID = _SYNTAXES[data.original_encoding]
    return data
