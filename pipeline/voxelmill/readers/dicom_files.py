"""Which files are DICOM, told by their content, since many have no ending.

In: a file or a folder. Out: paths. Reads 132 bytes a file and knows nothing of what is inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_MAGIC_AT = 128
_MAGIC = b"DICM"


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's mark after its preamble, or at least DICOM's ending."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC


def dicom_files(path: Path) -> Iterator[Path]:
    """The DICOM files of a folder, by name and not of its sub-folders; of a file, itself."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return (file for file in found if is_dicom(file))


def holds_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file, or a folder that holds one."""
    return path.exists() and next(dicom_files(path), None) is not None
