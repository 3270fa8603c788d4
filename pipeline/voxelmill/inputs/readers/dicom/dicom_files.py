"""Recognition of DICOM files by their content, because many have no ending.

In: a file or a folder. Out: paths. This module reads the first 4 KiB of a file and interprets no values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_MAGIC_AT = 128  # after the preamble (DICOM PS3.10, section 7.1)
_MAGIC = b"DICM"

_HEAD = 4096
_ELEMENTS = 3  # number of elements checked in a data set without preamble
_GROUPS = (0x0008, 0x0010, 0x0018, 0x0020)  # the first groups of a data set, whose values are text
_META = 0x0002
_LENGTHS = (0x0000, 0x0001)  # group length and length to end: 4-byte numbers
_SHORT_VRS = frozenset(b"AE AS CS DA DS DT IS LO LT PN SH ST TM UI UL".split())
_LONG_VRS = frozenset(b"UC UR UT".split())  # with a 4-byte length
_CONTROL = {*range(32)} - {*b"\t\n\f\r\x1b"}  # escape (0x1b) switches character sets


def is_dicom(path: Path) -> bool:
    """Return whether a file ends in .dcm, has the DICM prefix, or begins like a DICOM data set."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".dcm":
        return True
    head = _head(path)
    return _has_mark(head) or _is_bare(head)


def is_bare(path: Path) -> bool:
    """Return whether a file is a DICOM data set without preamble and prefix, as in old archives."""
    head = _head(path)
    return not _has_mark(head) and _is_bare(head)


def dicom_files(path: Path) -> Iterator[Path]:
    """Yield the DICOM files of a folder by name, without its sub-folders; or the file itself."""
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return (file for file in found if is_dicom(file))


def holds_dicom(path: Path) -> bool:
    """Return whether a path is a DICOM file, or a folder that holds one."""
    return path.exists() and next(dicom_files(path), None) is not None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _has_mark(head: bytes) -> bool:
    return head[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


def _is_bare(head: bytes) -> bool:
    """Return whether a file begins with the meta group, or with text elements in ascending tag order."""
    if head[:4] in (b"\x02\0\0\0", b"\x02\0\1\0", b"\x02\0\2\0"):
        return head[4:6] in (b"UL", b"OB", b"UI")
    order = "<" if head[:2] == b"\x08\0" else ">"  # group 0008, which comes first
    at, last = 0, (0, 0)
    for _ in range(_ELEMENTS):
        found = _text_element(head, at, order)
        if found is None or found[0] <= last:
            return False
        last, at = found
    return True


def _text_element(head: bytes, at: int, order: str) -> tuple[tuple[int, int], int] | None:
    """Return the tag of a text element and the offset of the next one; None if it is not a text element."""
    if len(head) < at + 12:
        return None
    group, element = struct.unpack_from(f"{order}HH", head, at)
    begin, length = _value(head, at + 4, order)
    value = head[begin : begin + length]
    is_number = element in _LENGTHS and length == 4
    is_whole = length % 2 == 0 and len(value) == length
    if group not in _GROUPS or not is_whole or not (is_number or _is_text(value)):
        return None
    return (group, element), begin + length


def _value(head: bytes, at: int, order: str) -> tuple[int, int]:
    """Return the offset and length of a value, with explicit or implicit value representation."""
    kind = head[at : at + 2]
    if kind in _LONG_VRS:
        return at + 8, struct.unpack_from(f"{order}I", head, at + 4)[0]
    if kind in _SHORT_VRS:
        return at + 4, struct.unpack_from(f"{order}H", head, at + 2)[0]
    return at + 4, struct.unpack_from(f"{order}I", head, at)[0]


def _is_text(value: bytes) -> bool:
    return not _CONTROL & set(value.rstrip(b"\0"))
