"""What SOURCE holds: its cases, their channels and labels.

In: a nnU-Net raw dataset folder, a folder of images or DICOM series, a manifest, or one image. Out: a
`Sources` of paths and names. Opens no image: a file that is missing fails its own case, later.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxelmill import readers
from voxelmill.errors import SourceError
from voxelmill.geometry import Triple
from voxelmill.manifest import read_json, read_rows
from voxelmill.readers.dicom_files import is_dicom
from voxelmill.readers.folders import are_tiff_pages, holds_ome

RESERVED = ("case", "label", "spacing")
KINDS = (
    "a nnU-Net raw dataset, a folder with one image, DICOM series or TIFF stack a case, "
    "a manifest (.csv, .json)"
)
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_DATA_ENDINGS = (".raw", ".zraw", ".raw.gz", ".img", ".img.gz")


@dataclass(frozen=True)
class CaseSource:
    """Where one case lies; a path is a file, or the folder of an image, and may be missing."""

    case: str
    channels: tuple[Path, ...]
    label: Path | None = None
    spacing: Triple | None = None


@dataclass(frozen=True)
class Sources:
    """Every case of SOURCE, sorted by id.

    Attributes
    ----------
    kind : str
        "nnunet", "folder", "manifest" or "file".
    channel_names : tuple of str or None
        In the order of the channels; None where the source does not name them.
    labels : dict or None
        Name of each class to its value, or to its values where it is a region.
    ignore_label : int or None
        Value of voxels that no class is stated for.
    skipped : tuple of str
        What was left out, by count and ending.
    """

    kind: str
    cases: tuple[CaseSource, ...]
    channel_names: tuple[str, ...] | None = None
    labels: dict[str, int | list[int]] | None = None
    ignore_label: int | None = None
    skipped: tuple[str, ...] = ()


def discover(source: Path, *, channels: Sequence[str] | None = None) -> Sources:
    """Find the cases of SOURCE.

    Parameters
    ----------
    source : Path
        Folder, manifest or image.
    channels : sequence of str, optional
        Names that go before those of the source.

    Raises
    ------
    SourceError
        If SOURCE as a whole cannot be used: one line that says what was found and what to do.
    """
    try:
        found = _discover(source)
    except OSError as error:  # its own text names a file
        raise SourceError(f"SOURCE cannot be read: {error.strerror}. Correct its rights.") from None
    if not found.cases:
        left_out = f" ({', '.join(found.skipped)})" if found.skipped else ""
        raise SourceError(f"SOURCE holds no file of a known format{left_out}; expected is {KINDS}.")
    _check_cases(found.cases)
    if channels is not None:
        found = _rename(found, tuple(channels))
    return replace(found, cases=tuple(sorted(found.cases, key=lambda case: case.case)))


def case_problem(case: str) -> str | None:
    """Why a text cannot be the id of a case, which names a group in a store; None where it can."""
    if not case or case != case.strip():
        return "is empty or has blanks at its ends"
    if any(c in case for c in "/\\") or ".." in case or case.startswith((".", "__")) or case == "zarr.json":
        return "could name a place outside of OUT"
    if not case.isprintable() or len(case.encode()) > 200:
        return "holds control characters, or more than 200 bytes"
    return None


def parse_spacing(value: Any) -> Triple | None:
    """Spacing from "z,y,x" or [z, y, x] in millimetres; None where it is not three positive numbers."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        z, y, x = (float(part) for part in parts)
    except (TypeError, ValueError):
        return None
    return (z, y, x) if all(0 < s < float("inf") for s in (z, y, x)) else None


def _discover(source: Path) -> Sources:
    if source.is_dir() and not holds_ome(source):
        return _nnunet(source) if (source / "dataset.json").is_file() else _folder(source)
    if not source.exists():
        raise SourceError(f"SOURCE does not exist; expected is {KINDS}. Correct the path.")
    if source.suffix.lower() in (".csv", ".json"):
        return _manifest(source)
    if readers.is_known(source):
        return Sources("file", (_one(source),))
    known = ", ".join(readers.known_endings())
    raise SourceError(f"SOURCE is a file that is neither a manifest (.csv, .json) nor an image ({known}).")


def _rename(found: Sources, names: tuple[str, ...]) -> Sources:
    files = len(found.cases[0].channels)
    if files > 1 and files != len(names):
        raise SourceError(
            f"channels names {len(names)} channel(s) {list(names)}, but each case has {files} images. "
            "Give one name per image."
        )
    return replace(found, channel_names=names)


def _check_cases(cases: Iterable[CaseSource]) -> None:
    seen: set[str] = set()
    for number, case in enumerate(cases, 1):
        problem = case_problem(case.case)
        if problem:
            raise SourceError(f"case {number}: the id {case.case!r} {problem}. Rename the case.")
        if case.case in seen:
            raise SourceError(f"case {number}: the id {case.case!r} is there twice. Rename one of the two.")
        seen.add(case.case)


def _folder(source: Path) -> Sources:
    entries = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    images = [path for path in entries if readers.is_known(path)]
    if images and (all(map(is_dicom, images)) or are_tiff_pages(images)):
        return Sources("folder", (_one(source if source.name not in ("", "..") else source.resolve()),))
    stems = {readers.case_stem(path) for path in images}
    others = [path for path in entries if path not in images and not _belongs(path, stems)]
    return Sources("folder", tuple(_one(path) for path in images), skipped=_count(others))


def _one(path: Path) -> CaseSource:
    case = readers.case_stem(path)
    return CaseSource(case, (path,), spacing=_stated_spacing(path, case))


def _belongs(path: Path, stems: set[str]) -> bool:
    """Whether a file is the data file or the spacing of an image with the same stem."""
    endings = (*_DATA_ENDINGS, ".json")
    return any(path.name.endswith(e) and path.name.removesuffix(e) in stems for e in endings)


def _count(paths: Iterable[Path]) -> tuple[str, ...]:
    endings = Counter("folder" if path.is_dir() else path.suffix.lower() for path in paths)
    return tuple(
        f"{n} folder(s)" if ending == "folder" else f"{n} file(s) ending '{ending}'"
        for ending, n in sorted(endings.items())
    )


def _stated_spacing(image: Path, case: str) -> Triple | None:
    """Spacing from ``<case>.json`` beside an image whose format has no place for it."""
    beside = image.parent / f"{case}.json"
    if readers.states_spacing(image) or not beside.is_file():
        return None
    content = read_json(beside, f"case {case!r}: the .json beside its image")
    spacing = parse_spacing(content.get("spacing")) if isinstance(content, dict) else None
    if spacing is None:
        raise SourceError(
            f"case {case!r}: the .json beside its image has no usable spacing; expected is "
            '{"spacing": [z, y, x]} in mm. Correct it.'
        )
    return spacing


def _nnunet(source: Path) -> Sources:
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
        cases = _listed(source, dataset["dataset"], len(names))
    else:
        cases, skipped = _images_tr(source, dataset.get("file_ending", ".nii.gz"), len(names))
    return Sources("nnunet", cases, names, labels, ignore, skipped)


def _channel_names(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Names by rising number; older datasets call them `modality`."""
    names = dataset.get("channel_names", dataset.get("modality"))
    numbers = {str(n) for n in range(len(names))} if isinstance(names, dict) else set()
    if not isinstance(names, dict) or not names or set(names) != numbers:
        raise SourceError(
            f'dataset.json has channel_names {names}; expected is {{"0": name, "1": name, ...}}. Correct it.'
        )
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _labels(labels: Any) -> dict[str, int | list[int]]:
    """Names to values; older datasets have it the other way round."""
    if (
        isinstance(labels, dict)
        and labels
        and all(isinstance(v, str) and k.isdigit() for k, v in labels.items())
    ):
        labels = {name: int(value) for value, name in labels.items()}
    if not isinstance(labels, dict) or not all(_is_class(value) for value in labels.values()):
        raise SourceError(
            f'dataset.json has labels {labels}; expected is {{"background": 0, name: number or list, ...}}. '
            "Correct it."
        )
    return dict(labels)


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
    return listed, _count(path for path, match in matches.items() if match is None)


def _named(folder: Path, ending: str) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else iter(())
    return sorted(p for p in paths if p.name.endswith(ending) and not p.name.startswith("."))


def _numbered(images: Path, labels: Path, case: str, ending: str, channels: int) -> CaseSource:
    paths = tuple(images / f"{case}_{n:04d}{ending}" for n in range(channels))
    return CaseSource(case, paths, labels / f"{case}{ending}", _stated_spacing(paths[0], case))


def _listed(source: Path, dataset: Any, channels: int) -> tuple[CaseSource, ...]:
    """Cases of the key `dataset`."""
    if not isinstance(dataset, dict):
        raise SourceError('dataset.json: `dataset` is no object; {case: {"images": [...], "label": ...}} is.')
    return tuple(_entry(source, case, entry, channels) for case, entry in dataset.items())


def _entry(source: Path, case: str, entry: Any, channels: int) -> CaseSource:
    """One case: paths from the folder on, with environment variables."""
    images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
    paths = images if isinstance(images, list) and all(isinstance(image, str) for image in images) else []
    if len(paths) != channels or not isinstance(label, str | None):
        raise SourceError(
            f"dataset.json: case {case!r} has {len(paths)} images; {channels} and one `label` path "
            "are expected. Correct it."
        )
    channel_paths = tuple(source / os.path.expandvars(path) for path in paths)
    label_path = source / os.path.expandvars(label) if label else None
    return CaseSource(case, channel_paths, label_path, _stated_spacing(channel_paths[0], case))


def _manifest(path: Path) -> Sources:
    rows = read_rows(path)
    columns = list(rows[0])
    names = tuple(column for column in columns if column not in RESERVED)
    if "case" not in columns or not names:
        lacking = "column `case`" if "case" not in columns else "column of a channel"
        raise SourceError(
            f"the manifest has columns {columns} and no {lacking}; expected are `case`, one column a "
            "channel, and perhaps `label` and `spacing`. Add it."
        )
    _check_columns(path.parent, rows, names)
    cases = [_row_case(path.parent, number, row, names) for number, row in enumerate(rows, 1)]
    return Sources("manifest", tuple(cases), names)


def _check_columns(folder: Path, rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> None:
    for name in names:
        cells = [row[name] for row in rows if isinstance(row[name], str) and row[name]]
        if not any(readers.is_known(folder / cell) or (folder / cell).exists() for cell in cells):
            raise SourceError(
                f"the manifest has an unknown column {name!r}: it holds no path of an image. Reserved are "
                f"{', '.join(RESERVED)}; every other column is a channel. Remove it, or correct its paths."
            )


def _row_case(folder: Path, number: int, row: Mapping[str, Any], names: Iterable[str]) -> CaseSource:
    case = row["case"]
    problem = case_problem(case) if isinstance(case, str) else "is no text"
    if problem:
        raise SourceError(f"row {number}: the id {case!r} {problem}. Correct the manifest.")
    for name in names:
        if not isinstance(row[name], str) or not row[name]:
            raise SourceError(f"row {number}: channel {name!r} is {row[name]!r}; a path is needed. Add it.")
    label = row.get("label") or None
    if not isinstance(label, str | None):
        raise SourceError(f"row {number}: label is {label!r}; a path, or nothing, is needed. Correct it.")
    paths = tuple(folder / row[name] for name in names)
    spacing = _row_spacing(number, row.get("spacing")) or _stated_spacing(paths[0], case)
    return CaseSource(case, paths, folder / label if label else None, spacing)


def _row_spacing(number: int, value: Any) -> Triple | None:
    if value in (None, ""):
        return None
    spacing = parse_spacing(value)
    if spacing is None:
        raise SourceError(
            f'row {number}: spacing is {value!r}; three positive numbers "z,y,x" in mm are needed. '
            "Correct it."
        )
    return spacing
