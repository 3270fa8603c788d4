"""A nnU-Net raw dataset: its dataset.json, and the cases that this or its folders name.

In: a folder. Out: `Sources`. Opens no image.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxelmill import readers
from voxelmill.case_files import CaseSource, Sources, check_case, count_endings, path_of, stated_spacing
from voxelmill.errors import SourceError
from voxelmill.manifest import read_json

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def read_raw_dataset(source: Path, outside: bool) -> Sources:
    """Every case of a folder with a dataset.json.

    Parameters
    ----------
    source : Path
        The folder.
    outside : bool
        Whether paths that dataset.json states may lead out of it.

    Raises
    ------
    SourceError
        If dataset.json or the folders are not as nnU-Net has them, or a path leads out.
    """
    dataset = read_json(source / "dataset.json", "dataset.json")
    if not isinstance(dataset, dict):
        raise SourceError("dataset.json is no object; channel_names and labels are expected. Correct it.")
    names = _channel_names(dataset)
    labels = _labels(dataset.get("labels"))
    ignore = labels.get("ignore") if labels else None
    if isinstance(ignore, list):
        raise SourceError(f"dataset.json: the ignore label is {ignore}; one whole number is expected.")
    skipped: tuple[str, ...] = ()
    if "dataset" in dataset:
        cases = _listed(source, dataset["dataset"], len(names), outside)
    else:
        cases, skipped = _images_tr(source, dataset.get("file_ending", ".nii.gz"), len(names))
    return Sources("nnunet", cases, names, labels, ignore, skipped)


def _channel_names(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Names by rising number; older datasets call them `modality`."""
    names = dataset.get("channel_names", dataset.get("modality"))
    numbers = {str(n) for n in range(len(names))} if isinstance(names, dict) else set()
    if not isinstance(names, dict) or not names or set(names) != numbers:
        raise SourceError(
            f'dataset.json has channel_names {_short(names)}; expected is {{"0": name, "1": name, ...}}. '
            "Correct it."
        )
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _labels(labels: Any) -> dict[str, int | list[int]]:
    """Names to values; older datasets have it the other way round."""
    if (
        isinstance(labels, dict)
        and labels
        and all(isinstance(v, str) and k.isdecimal() for k, v in labels.items())
    ):
        labels = {name: int(value) for value, name in labels.items()}
    if not isinstance(labels, dict) or not all(_is_class(value) for value in labels.values()):
        raise SourceError(
            f'dataset.json has labels {_short(labels)}; expected is {{"background": 0, name: number or list, '
            "...}. Correct it."
        )
    return dict(labels)


def _short(value: Any) -> str:
    """As it is written, or the front of it."""
    return textwrap.shorten(repr(value), 300, placeholder=" ...")


def _is_class(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)


def _images_tr(source: Path, ending: Any, channels: int) -> tuple[tuple[CaseSource, ...], tuple[str, ...]]:
    """Every case that imagesTr or labelsTr speaks of; what it lacks is missed when it is read."""
    if not isinstance(ending, str) or ending.lower() not in readers.known_endings():
        known = ", ".join(readers.known_endings())
        raise SourceError(f"dataset.json has file_ending {ending!r}; known are {known}. Convert the files.")
    images, labels = source / "imagesTr", source / "labelsTr"
    if not images.is_dir():
        raise SourceError(
            "dataset.json is there, but no folder imagesTr and no key `dataset`. Add one of them."
        )
    found = _named(images, ending)
    matches = {path: _CHANNEL.fullmatch(path.name.removesuffix(ending)) for path in found}
    cases = {match[1] for match in matches.values() if match}
    cases |= {path.name.removesuffix(ending) for path in _named(labels, ending)}
    listed = tuple(_numbered(images, labels, case, ending, channels) for case in sorted(cases))
    return listed, count_endings(path for path, match in matches.items() if match is None)


def _named(folder: Path, ending: str) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(p for p in paths if p.name.endswith(ending) and not p.name.startswith("."))


def _numbered(images: Path, labels: Path, case: str, ending: str, channels: int) -> CaseSource:
    paths = tuple(images / f"{case}_{n:04d}{ending}" for n in range(channels))
    return CaseSource(case, paths, labels / f"{case}{ending}", stated_spacing(paths[0], case))


def _listed(source: Path, dataset: Any, channels: int, outside: bool) -> tuple[CaseSource, ...]:
    """Cases of the key `dataset`."""
    if not isinstance(dataset, dict):
        raise SourceError('dataset.json: `dataset` is no object; {case: {"images": [...], "label": ...}} is.')
    return tuple(_entry(source, case, entry, channels, outside) for case, entry in dataset.items())


def _entry(source: Path, case: str, entry: Any, channels: int, outside: bool) -> CaseSource:
    """One case: paths from the folder on, with environment variables."""
    check_case(f"dataset.json: case {case!r}", case)
    images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
    paths = images if isinstance(images, list) and all(isinstance(image, str) for image in images) else []
    if len(paths) != channels or not isinstance(label, str | None):
        raise SourceError(
            f"dataset.json: case {case!r} has {len(paths)} images; {channels} and one `label` path "
            "are expected. Correct it."
        )
    channel_paths = tuple(_place(source, case, path, outside) for path in paths)
    label_path = _place(source, case, label, outside) if label else None
    return CaseSource(case, channel_paths, label_path, stated_spacing(channel_paths[0], case))


def _place(source: Path, case: str, stated: str, outside: bool) -> Path:
    """A path of the key `dataset`; one that begins with a variable leads where its user says."""
    free = outside or stated.startswith("$")
    return path_of(f"dataset.json: a path of case {case!r}", source, os.path.expandvars(stated), free)
