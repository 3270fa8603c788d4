"""An nnU-Net raw dataset as SOURCE: its dataset.json, and the cases named there or by its folders.

In: a folder. Out: `Sources`. No image is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from voxelmill.basics.errors import SourceError
from voxelmill.inputs.readers import formats
from voxelmill.inputs.sources.case_names_and_spacing import check_case, count_endings, stated_spacing
from voxelmill.inputs.sources.case_source import CaseSource, Sources
from voxelmill.inputs.sources.dataset_json import Description, describe, say_number
from voxelmill.inputs.sources.dataset_json_cases import (
    Cases,
    is_list_of_cases,
    place,
    read_training,
    say_list,
)
from voxelmill.inputs.sources.manifest_table import read_json

_CHANNEL = re.compile(r"(.+)_(\d{4})")
"""The case id and channel number in a file name."""


def read_raw_dataset(source: Path, outside: bool) -> Sources:
    """Return every case of a folder with a dataset.json.

    Parameters
    ----------
    source : Path
        The folder.
    outside : bool
        Whether paths that dataset.json states may lead out of it.

    Raises
    ------
    SourceError
        If dataset.json or the folders do not follow nnU-Net, or a path leads out.
    """
    dataset = read_json(source / "dataset.json", "dataset.json")
    if not isinstance(dataset, dict):
        raise SourceError("dataset.json is no object; channel_names and labels are expected. Correct it.")
    found = describe(dataset)
    cases, skipped, remarks = _cases(source, dataset, found, outside)
    remarks = (*found.remarks, *remarks, *say_number(dataset.get("numTraining"), len(cases)))
    return Sources("nnunet", cases, found.channel_names, found.labels, found.ignore_label, skipped, remarks)


def _cases(source: Path, dataset: Mapping[str, Any], found: Description, outside: bool) -> Cases:
    """Return the cases of the key `dataset`, of the list `training`, or of the folders."""
    channels = len(found.channel_names)
    if "dataset" in dataset:
        return Cases(_listed(source, dataset["dataset"], channels, outside))
    if is_list_of_cases(source, dataset, found.ending):
        return read_training(source, dataset, channels, outside)
    cases, skipped = _images_tr(source, found.ending, channels)
    return Cases(cases, skipped, say_list(dataset, len(cases)))


def _images_tr(source: Path, ending: str, channels: int) -> tuple[tuple[CaseSource, ...], tuple[str, ...]]:
    """Return every case with a file in imagesTr or labelsTr; missing files are reported when it is read."""
    images, labels = source / "imagesTr", source / "labelsTr"
    if not images.is_dir():
        raise SourceError(
            "dataset.json is there, but no folder imagesTr, no key `dataset` and no list `training`. Add one "
            "of them."
        )
    matches = {path: _CHANNEL.fullmatch(path.name.removesuffix(ending)) for path in _named(images, ending)}
    cases = {match[1] for match in matches.values() if match}
    cases |= {path.name.removesuffix(ending) for path in _named(labels, ending)}
    others = [path for path in _named(images) if not matches.get(path) and formats.is_known(path)]
    if others and not cases:
        raise SourceError(
            f"imagesTr holds no file that ends _0000{ending}, as dataset.json has them, but "
            f"{', '.join(count_endings(others))}. Correct file_ending, or the names."
        ).about(others)
    extra: dict[str, list[Path]] = {}  # files of unnamed channels: their case fails, as it has too many
    for path, match in matches.items():
        if match and int(match[2]) >= channels:
            extra.setdefault(match[1], []).append(path)
    listed = (
        _numbered(images, labels, case, ending, channels, extra.get(case, ())) for case in sorted(cases)
    )
    return tuple(listed), count_endings(others)


def _named(folder: Path, ending: str = "") -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(p for p in paths if p.name.endswith(ending) and not p.name.startswith("."))


def _numbered(
    images: Path, labels: Path, case: str, ending: str, channels: int, extra: Iterable[Path]
) -> CaseSource:
    paths = (*(images / f"{case}_{n:04d}{ending}" for n in range(channels)), *extra)
    return CaseSource(case, paths, labels / f"{case}{ending}", stated_spacing(paths[0], case))


def _listed(source: Path, dataset: Any, channels: int, outside: bool) -> tuple[CaseSource, ...]:
    """Return the cases of the key `dataset`."""
    if not isinstance(dataset, dict):
        raise SourceError('dataset.json: `dataset` is no object; {case: {"images": [...], "label": ...}} is.')
    return tuple(_entry(source, case, entry, channels, outside) for case, entry in dataset.items())


def _entry(source: Path, case: str, entry: Any, channels: int, outside: bool) -> CaseSource:
    """Return one case; paths are relative to the folder and may hold environment variables."""
    check_case(f"dataset.json: case {case!r}", case)
    images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
    paths = images if isinstance(images, list) and all(isinstance(image, str) for image in images) else []
    if len(paths) != channels or not isinstance(label, str | None):
        raise SourceError(
            f"dataset.json: case {case!r} has {len(paths)} images; {channels} and one `label` path "
            "are expected. Correct it."
        )
    channel_paths = tuple(place(source, case, path, outside) for path in paths)
    label_path = place(source, case, label, outside) if label else None
    return CaseSource(case, channel_paths, label_path, stated_spacing(channel_paths[0], case))
