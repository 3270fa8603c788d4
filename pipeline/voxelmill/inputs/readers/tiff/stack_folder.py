"""The TIFF files of a folder, and whether they make up one stack.

In: paths. Out: files in the order of their names, and yes or no. This module reads names; of a stack it opens
the first and the last file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from voxelmill.inputs.readers.tiff.stack_file_names import mean_slices

TIFF_ENDINGS = (".ome.tiff", ".ome.tif", ".tiff", ".tif", ".btf")


def tiff_files(path: Path) -> list[Path]:
    """Return the TIFF files of a folder, without sub-folders, by name with numbers in numeric order."""
    if not path.is_dir():
        return []
    found = (p for p in path.iterdir() if _is_tiff(p) and p.is_file() and not p.name.startswith("."))
    return sorted(found, key=lambda p: (_natural(p.name), p.name))


def are_tiff_pages(paths: Iterable[Path]) -> bool:
    """Return whether files are the pages of one TIFF stack rather than separate images.

    They are if all are TIFF, their names count slices, channels or time points
    (`stack_file_names.mean_slices`), and the first and the last file have one page. ``0001.tif``,
    ``img_0001.tif`` and ``z1.tif`` with one page each are a stack, even if opening it is refused because
    slices are missing. ``a1.tif``, ``patient1.tif`` and ``case_01.tif`` are separate images, and so are files
    of several pages, whatever their names.
    """
    files = list(paths)
    if not all(_is_tiff(p) for p in files):
        return False
    found = mean_slices([tiff_stem(p) for p in files])
    if found is None:
        return False
    # imported late: tifffile is loaded for TIFF files only
    from voxelmill.inputs.readers.tiff.tiff_pages import is_one_page

    return all(is_one_page(files[i]) for i in found)


def tiff_stem(path: Path) -> str:
    """Return the name of a TIFF file without its ending."""
    ending = next((e for e in TIFF_ENDINGS if path.name.lower().endswith(e)), "")
    return path.name[: len(path.name) - len(ending)]


def _is_tiff(path: Path) -> bool:
    return path.name.lower().endswith(TIFF_ENDINGS)


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]
