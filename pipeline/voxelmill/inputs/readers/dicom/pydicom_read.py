"""One DICOM file, read by pydicom whether it has preamble, mark and meta group or not.

In: a path, or a file that is open, and options of pydicom. Out: a data set that states its transfer syntax.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from voxelmill.inputs.readers.dicom.dicom_files import is_bare

_SYNTAXES = {  # by whether types of values are implied, and the least byte comes first
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}


def read_dicom(path: Path, file: BinaryIO | None = None, **options: Any) -> Any:
    """`pydicom.dcmread` with some options; `file` is the same file, which then stands where it stopped.

    What does not state its transfer syntax is not compressed, and is what pydicom found it to be.
    """
    data = pydicom.dcmread(path if file is None else file, force=is_bare(path), **options)
    if "TransferSyntaxUID" not in data.file_meta and data.original_encoding in _SYNTAXES:
        data.file_meta.TransferSyntaxUID = _SYNTAXES[data.original_encoding]
    return data
