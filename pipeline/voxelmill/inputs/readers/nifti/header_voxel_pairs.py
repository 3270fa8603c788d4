"""The two files of a NIfTI or Analyze pair: the header (.hdr) and the voxels (.img), which are called alike.

In: the path of either. Out: that of the other. Opens a header that lies alone, to tell other programs' files.
"""

from __future__ import annotations

from pathlib import Path

from voxelmill.basics.errors import FormatError

HEADERS = (".hdr", ".hdr.gz")
VOXELS = (".img", ".img.gz")
SIZES = {348, 540}
"""Bytes of a header of NIfTI-1 or Analyze, and of NIfTI-2, which are its first number."""


def is_header(path: Path) -> bool:
    """Whether a path is called as the header of a pair is."""
    return path.name.lower().endswith(HEADERS)


def is_voxels(path: Path) -> bool:
    """Whether a path is called as the voxels of a pair are."""
    return path.name.lower().endswith(VOXELS)


def other_half(path: Path) -> Path | None:
    """The file that belongs to a header, or to voxels; None where there is none.

    One that is compressed as this one is goes before one that is not.
    """
    stem, is_packed = _stem(path), path.name.lower().endswith(".gz")
    wanted = VOXELS if is_header(path) else HEADERS
    endings = sorted(wanted, key=lambda ending: ending.endswith(".gz") != is_packed)
    names = (path.parent / f"{stem}{e}" for ending in endings for e in (ending, ending.upper()))
    return next((file for file in names if file.is_file()), None)


def has_matrix(path: Path) -> bool:
    """Whether SPM's file of where the voxels lie is beside a header or voxels."""
    return (path.parent / f"{_stem(path)}.mat").is_file()


def _stem(path: Path) -> str:
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    return name[: -len(".hdr")]


def is_stranger(path: Path) -> bool:
    """Whether a file is called as a header is, has no voxels beside it, and does not begin as headers do."""
    if not path.name.lower().endswith(".hdr") or not path.is_file() or other_half(path) is not None:
        return False
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError:
        return False
    return not {int.from_bytes(head, "little"), int.from_bytes(head, "big")} & SIZES


def header_of(path: Path) -> Path:
    """The header of a pair, of which either file is named.

    Raises
    ------
    FormatError
        If it is missing.
    """
    found = path if is_header(path) or not path.exists() else other_half(path)
    if found is None:
        raise FormatError(
            "the file holds voxels alone (.img), and their header (.hdr) is missing beside it. Restore that; "
            "where another header names the file (.mhd, .nhdr), name that one instead."
        )
    return found


def voxels_of(path: Path) -> Path:
    """The voxels of a pair, of which either file is named.

    Raises
    ------
    FormatError
        If they are missing.
    """
    found = path if is_voxels(path) else other_half(path)
    if found is None:
        raise FormatError("the header's file of voxels (.img) is missing beside it. Restore it.")
    return found
