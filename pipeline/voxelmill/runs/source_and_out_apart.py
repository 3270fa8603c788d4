"""Checks that SOURCE and OUT are separate: neither is the other, nor lies inside it.

In: two paths. Out: nothing, or a `ConfigError` that says what is in the way. Symbolic links are resolved.
File names are read, no image is opened, and nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from voxelmill.basics.errors import ConfigError
from voxelmill.inputs.readers import formats
from voxelmill.inputs.readers.ome_zarr.ome_folder import holds_ome
from voxelmill.inputs.sources.case_source import Sources
from voxelmill.storage import zarr_stores

SWAPPED = "SOURCE comes first, then OUT: are they swapped?"
_DATASET = ("dataset.json", "imagesTr", "labelsTr", "imagesTs")
_STORES = (zarr_stores.RAW, zarr_stores.TRAINING)
_LOOKED_AT = 1000
_LOOKED_INTO = 50
"""Entries checked in a folder, and in each folder in it, before it counts as a folder without images."""


def check_apart(source: Path, out: Path) -> None:
    """Refuse a SOURCE and an OUT that are the same or nested, and a SOURCE that is the OUT of a run.

    Raises
    ------
    ConfigError
        Says which of these it is.
    """
    inner, outer = source.resolve(), out.resolve()
    is_folder = os.path.isdir(source)  # noqa: PTH112  # False, not an error, where it cannot be seen
    if inner == outer:
        raise ConfigError(
            "SOURCE and OUT are the same path, but SOURCE is only read. Name another OUT: a folder that need "
            "not exist yet."
        )
    if is_folder and outer.is_relative_to(inner):
        raise ConfigError(
            "OUT lies within SOURCE, whose next run would take it for images. Name a folder beside SOURCE."
        )
    if inner.is_relative_to(outer):
        raise ConfigError(
            f"SOURCE lies within OUT, which is for a run's own stores. Name another folder for OUT. {SWAPPED}"
        )
    if is_folder and is_out(source):
        raise ConfigError(
            f"SOURCE is the OUT of a run: it holds its stores. Name what that run was made from. {SWAPPED}"
        )


def check_cases_apart(sources: Sources, out: Path) -> None:
    """Refuse a manifest or a dataset.json that lists files inside OUT.

    Raises
    ------
    ConfigError
        Names the first such case.
    """
    folder = os.path.normpath(out)
    for case in sources.cases:
        paths = (*case.channels, *([case.label] if case.label else []))
        if any(Path(os.path.normpath(path)).is_relative_to(folder) for path in paths):
            raise ConfigError(
                f"case {case.case!r}: a file lies within OUT, which is for a run's own stores. Name another "
                "folder for OUT."
            )


def check_out(out: Path) -> None:
    """Refuse an OUT that holds images or a dataset and is not the output of an earlier run.

    Other files are allowed: logs and scripts of jobs, or hidden files of the operating system.

    Raises
    ------
    ConfigError
        Says what was found.
    """
    if not out.is_dir() or is_out(out):
        return
    found = next(_images(out), None)
    if found is not None:
        raise ConfigError(
            f"OUT holds {found} and is no OUT of a run: nothing is written into it. Name a new or an empty "
            f"folder. {SWAPPED}"
        )


def is_out(folder: Path) -> bool:
    """Return whether a folder holds a store that a run made."""
    return any(zarr_stores.read_attributes(folder / name, "") is not None for name in _STORES)


def _images(folder: Path) -> Iterator[str]:
    """Yield the datasets and image formats found in a folder and its subfolders, without file names."""
    for path in islice(folder.iterdir(), _LOOKED_AT):
        if path.name.startswith(".") or path.name in _STORES:
            continue
        if path.name in _DATASET:
            yield f"a dataset ({path.name})"
        with suppress(OSError):  # a run could not read an image here either
            yield from (f"images ({name})" for name in _formats(path))


def _formats(path: Path) -> Iterator[str]:
    """Yield the format of a path, or those of the first files in a folder that is not itself an image."""
    is_zarr = path.name.lower().endswith(formats.OME_ZARR.endings)
    is_folder = path.is_dir() and not is_zarr and not holds_ome(path)
    inside = islice(path.iterdir(), _LOOKED_INTO) if is_folder else iter(())
    for file in [file for file in inside if file.is_file()] if is_folder else [path]:
        if (kind := formats.find_format(file)) is not None:
            yield kind.name
