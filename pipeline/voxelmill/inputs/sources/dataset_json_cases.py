"""Cases from the list `training` of a dataset.json, as in the Decathlon and nnU-Net 1.

In: its content, and the folder. Out: cases. This module checks which files exist, and opens none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from voxelmill.basics.errors import SourceError
from voxelmill.inputs.readers import formats
from voxelmill.inputs.sources.case_names_and_spacing import check_case, count_endings, path_of, stated_spacing
from voxelmill.inputs.sources.case_source import CaseSource

FIRST = "_0000"
"""Suffix after the case id in the file name of the first channel."""


class Cases(NamedTuple):
    """The cases of a dataset, files left out by count and ending, and remarks for the user."""

    cases: tuple[CaseSource, ...]
    skipped: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def is_list_of_cases(source: Path, content: Mapping[str, Any], ending: str) -> bool:
    """Return whether the list `training` determines the cases.

    If dataset.json has `file_ending` and file names have channel numbers, the dataset follows nnU-Net 2,
    which takes its cases from the folder.
    """
    is_second = "file_ending" in content and any((source / "imagesTr").glob(f"*{FIRST}{ending}"))
    return bool(content.get("training")) and not is_second


def read_training(source: Path, content: Mapping[str, Any], channels: int, outside: bool) -> Cases:
    """Return every case that `training` lists.

    Parameters
    ----------
    source : Path
        The folder.
    content : mapping
        The content of its dataset.json.
    channels : int
        Number of channels; one file may hold them all.
    outside : bool
        Whether paths may lead out of the folder.

    Raises
    ------
    SourceError
        If an entry names no image, may mean two files, or imagesTr holds images that no list names.
    """
    entries = content["training"]
    if not isinstance(entries, list):
        raise _no_entry(1)
    cases = tuple(_entry(source, n, entry, channels, outside) for n, entry in enumerate(entries, 1))
    taken = {path.name for case in cases for path in case.channels} | {*_others(content)}
    left = [path for path in _visible(source / "imagesTr") if path.name not in taken]
    images = sum(map(formats.is_known, left))
    if images:
        raise SourceError(
            f"dataset.json lists {len(cases)} cases in `training`, and imagesTr holds {images} images that "
            "are in no list. Remove the list where all are meant, or move those away."
        )
    remarks = ["dataset.json: the cases are those of the list `training`"]
    if validation := len(content.get("validation") or ()):
        remarks.append(f"dataset.json: {validation} cases of the list `validation` are left out")
    return Cases(cases, count_endings(left), tuple(remarks))


def say_list(content: Mapping[str, Any], cases: int) -> tuple[str, ...]:
    """Return a remark if `training` has another length than the cases found in the folder."""
    entries = content.get("training")
    if not entries or not isinstance(entries, list) or len(entries) == cases:
        return ()
    return (
        f"dataset.json: `training` lists {len(entries)} cases, and imagesTr and labelsTr hold {cases}: these "
        "count, as in nnU-Net",
    )


def place(source: Path, case: str, stated: str, outside: bool) -> Path:
    """Resolve a path of a list; one that begins with an environment variable may lead out of the folder."""
    free = outside or stated.startswith("$")
    return path_of(f"dataset.json: a path of case {case!r}", source, os.path.expandvars(stated), free)


def _entry(source: Path, number: int, entry: Any, channels: int, outside: bool) -> CaseSource:
    image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (None, None)
    images: list[Any] = image if isinstance(image, list) else [image]
    if not images or not all(isinstance(path, str) and path for path in images):
        raise _no_entry(number)
    if not isinstance(label, str | None) or len(images) not in (1, channels):
        raise _no_entry(number)
    case = _case(Path(images[0]), label)
    check_case(f"dataset.json: entry {number} of `training`", case)
    paths = tuple(place(source, case, path, outside) for path in images)
    channel_paths = paths if len(paths) > 1 else _channels(paths[0], case, channels)
    label_path = place(source, case, label, outside) if label else None
    return CaseSource(case, channel_paths, label_path, stated_spacing(channel_paths[0], case))


def _no_entry(number: int) -> SourceError:
    return SourceError(
        f'dataset.json: entry {number} of `training` is no {{"image": path, "label": path}}. Correct it.'
    )


def _case(image: Path, label: str | None) -> str:
    """Return the id of a case: the image's stem without _0000, unless the label has the same stem."""
    stem = formats.case_stem(image)
    is_own = label is not None and formats.case_stem(Path(label)) == stem
    return stem if is_own else stem.removesuffix(FIRST)


def _channels(stated: Path, case: str, channels: int) -> tuple[Path, ...]:
    """Return the listed file, or numbered files per channel, which nnU-Net 1 stores in place of it."""
    stem = formats.case_stem(stated)
    ending = stated.name[len(stem) :]
    numbered = tuple(stated.with_name(f"{case}_{n:04d}{ending}") for n in range(channels))
    if stem != case:
        return numbered
    are_there = any(path.exists() for path in numbered)
    if are_there and stated.exists():
        raise SourceError(
            f"dataset.json: case {case!r} has an image without a number of its channel, as `training` lists "
            f"it, and one with {FIRST}. Move the wrong one away."
        )
    return numbered if are_there else (stated,)


def _others(content: Mapping[str, Any]) -> Iterable[str]:
    """Yield the file names in the lists `validation` and `test`, which are not training cases."""
    for key in ("validation", "test"):
        for entry in content.get(key) or ():
            path = entry.get("image") if isinstance(entry, dict) else entry
            if isinstance(path, str):
                yield Path(path).name


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
