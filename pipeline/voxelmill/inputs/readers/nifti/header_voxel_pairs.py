"""The two files of a NIfTI or Analyze pair: header (.hdr) and voxels (.img), with the same stem.

In: the path of either file. Out: the path of the other. A header without voxels is opened to recognise .hdr
files of other programs.
"""

from __future__ import annotations

from pathlib import Path

from voxelmill.basics.errors import FormatError

HEADERS = (".hdr", ".hdr.gz")
VOXELS = (".img", ".img.gz")
SIZES = {348, 540}
"""The first field of a header, its size in bytes: 348 for NIfTI-1 and Analyze, 540 for NIfTI-2."""


def is_header(path: Path) -> bool:
    """Return whether a path has the ending of a pair's header."""
    return path.name.lower().endswith(HEADERS)


def is_voxels(path: Path) -> bool:
    """Return whether a path has the ending of a pair's voxels."""
    return path.name.lower().endswith(VOXELS)


def other_half(path: Path) -> Path | None:
    """Return the voxels of a header, or the header of voxels; None if missing.

    A file with the same compression as this one is preferred.
    """
    stem, is_packed = _stem(path), path.name.lower().endswith(".gz")
    wanted = VOXELS if is_header(path) else HEADERS
    endings = sorted(wanted, key=lambda ending: ending.endswith(".gz") != is_packed)
    names = (path.parent / f"{stem}{e}" for ending in endings for e in (ending, ending.upper()))
    return next((file for file in names if file.is_file()), None)


def has_matrix(path: Path) -> bool:
    """Return whether SPM's .mat file, which holds an affine, lies beside a header or voxels."""
    return (path.parent / f"{_stem(path)}.mat").is_file()


def _stem(path: Path) -> str:
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    return name[: -len(".hdr")]  # .img is as long


def is_stranger(path: Path) -> bool:
    """Return whether a .hdr file has no voxels beside it and is not a NIfTI or Analyze header."""
    if not path.name.lower().endswith(".hdr") or not path.is_file() or other_half(path) is not None:
        return False
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError:
        return False
    return not {int.from_bytes(head, "little"), int.from_bytes(head, "big")} & SIZES


def header_of(path: Path) -> Path:
    """Return the header of a pair, given either file.

    Raises
    ------
    FormatError
        If it is missing.
    """
    # a path that does not exist is returned as it is: opening it reports that
    found = path if is_header(path) or not path.exists() else other_half(path)
    if found is None:
        raise FormatError(
            "the file holds voxels alone (.img), and their header (.hdr) is missing beside it. Restore that; "
            "where another header names the file (.mhd, .nhdr), name that one instead."
        )
    return found


def voxels_of(path: Path) -> Path:
    """Return the voxels of a pair, given either file.

    Raises
    ------
    FormatError
        If they are missing.
    """
    found = path if is_voxels(path) else other_half(path)
    if found is None:
        raise FormatError("the header's file of voxels (.img) is missing beside it. Restore it.")
    return found
