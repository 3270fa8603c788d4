"""What SOURCE holds: its cases, their channels and labels.

In: a nnU-Net raw dataset folder, a folder of images or DICOM series, a manifest, or one image. Out: a
`Sources` of paths and names. Opens no image: a file that is missing fails its own case, later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from voxelmill import readers
from voxelmill.case_files import (
    CaseSource,
    Sources,
    case_problem,
    check_case,
    count_endings,
    parse_spacing,
    path_of,
    stated_spacing,
)
from voxelmill.dicom_config import DicomConfig
from voxelmill.errors import SourceError
from voxelmill.geometry import Triple
from voxelmill.manifest import read_rows
from voxelmill.pseudonyms import find_salt, pseudonym
from voxelmill.raw_dataset import read_raw_dataset
from voxelmill.readers.dicom_files import is_dicom
from voxelmill.readers.folders import are_tiff_pages, holds_ome
from voxelmill.traces import system_reason

__all__ = ["CaseSource", "Sources", "case_problem", "discover"]

RESERVED = ("case", "label", "spacing")
KINDS = (
    "a nnU-Net raw dataset, a folder with one image, DICOM series or TIFF stack a case, "
    "a manifest (.csv, .json)"
)
_DATA_ENDINGS = (".raw", ".zraw", ".raw.gz", ".img", ".img.gz")


def discover(
    source: Path,
    *,
    channels: Sequence[str] | None = None,
    dicom: DicomConfig | None = None,
    outside: bool = False,
) -> Sources:
    """Find the cases of SOURCE.

    Cases that a manifest or a nnU-Net dataset names keep their ids, and so do images of other formats. Those
    that take them from folders and files of DICOM get pseudonyms.

    Parameters
    ----------
    source : Path
        Folder, manifest or image.
    channels : sequence of str, optional
        Names that go before those of the source.
    dicom : DicomConfig, optional
        Whether cases of DICOM get pseudonyms, and with which secret.
    outside : bool
        Whether paths that a manifest or dataset.json states may lead out of their folder.

    Raises
    ------
    SourceError
        If SOURCE as a whole cannot be used: one line that says what was found and what to do.
    ConfigError
        If pseudonyms are wanted and there is no secret to make them with.
    """
    try:
        found = _hide_names(_discover(source, outside), dicom or DicomConfig())
    except OSError as error:  # its own text names a file
        raise SourceError(f"SOURCE cannot be read: {system_reason(error)}. Correct its rights.") from None
    if not found.cases:
        left_out = f" ({', '.join(found.skipped)})" if found.skipped else ""
        raise SourceError(f"SOURCE holds no file of a known format{left_out}; expected is {KINDS}.")
    _check_cases(found.cases)
    if channels is not None:
        found = _rename(found, tuple(channels))
    return replace(found, cases=tuple(sorted(found.cases, key=lambda case: case.case)))


def _discover(source: Path, outside: bool) -> Sources:
    if source.is_dir() and not holds_ome(source):
        is_dataset = (source / "dataset.json").is_file()
        return read_raw_dataset(source, outside) if is_dataset else _folder(source)
    if not source.exists():
        raise SourceError(f"SOURCE does not exist; expected is {KINDS}. Correct the path.")
    if source.suffix.lower() in (".csv", ".json"):
        return _manifest(source, outside)
    if readers.is_known(source):
        return Sources("file", (_one(source),))
    known = ", ".join(readers.known_endings())
    raise SourceError(f"SOURCE is a file that is neither a manifest (.csv, .json) nor an image ({known}).")


def _hide_names(found: Sources, config: DicomConfig) -> Sources:
    """Pseudonyms for the cases that are called like folders and files of DICOM."""
    if found.kind not in ("folder", "file") or config.ids == "names":
        return found
    named = [case for case in found.cases if readers.find_format(case.channels[0]) is readers.DICOM]
    if not named:
        return found
    salt = find_salt(config)
    ids = {case.case: pseudonym(case.case, salt) for case in named}
    cases = tuple(replace(case, case=ids[case.case]) if case in named else case for case in found.cases)
    return replace(found, cases=cases, names={hidden: name for name, hidden in ids.items()})


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
        check_case(f"case {number}", case.case)
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
    return Sources("folder", tuple(_one(path) for path in images), skipped=count_endings(others))


def _one(path: Path) -> CaseSource:
    case = readers.case_stem(path)
    return CaseSource(case, (path,), spacing=stated_spacing(path, case))


def _belongs(path: Path, stems: set[str]) -> bool:
    """Whether a file is the data file or the spacing of an image with the same stem."""
    endings = (*_DATA_ENDINGS, ".json")
    return any(path.name.endswith(e) and path.name.removesuffix(e) in stems for e in endings)


def _manifest(path: Path, outside: bool) -> Sources:
    rows = read_rows(path)
    columns = list(rows[0])
    names = tuple(column for column in columns if column not in RESERVED)
    if "case" not in columns or not names:
        lacking = "column `case`" if "case" not in columns else "column of a channel"
        raise SourceError(
            f"the manifest has {len(columns)} columns and no {lacking}; its first row, or its keys, name "
            "`case`, one column a channel, and perhaps `label` and `spacing`. Add it."
        )
    for number, row in enumerate(rows, 1):
        _check_places(path.parent, number, row, names, outside)
    _check_columns(path.parent, rows, names)
    cases = [_row_case(path.parent, number, row, names, outside) for number, row in enumerate(rows, 1)]
    return Sources("manifest", tuple(cases), names)


def _check_places(
    folder: Path, number: int, row: Mapping[str, Any], names: Iterable[str], outside: bool
) -> None:
    """Refuse paths that lead out before anything looks at what is there."""
    for name in (*names, "label"):
        stated = row.get(name)
        if isinstance(stated, str):
            path_of(f"row {number}: the path in column {name!r}", folder, stated, outside)


def _check_columns(folder: Path, rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> None:
    for name in names:
        cells = [row[name] for row in rows if isinstance(row[name], str) and row[name]]
        if not any(readers.is_known(folder / cell) or (folder / cell).exists() for cell in cells):
            raise SourceError(
                f"the manifest has an unknown column {name!r}: it holds no path of an image. Reserved are "
                f"{', '.join(RESERVED)}; every other column is a channel. Remove it, or correct its paths."
            )


def _row_case(
    folder: Path, number: int, row: Mapping[str, Any], names: Iterable[str], outside: bool
) -> CaseSource:
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
    paths = tuple(path_of(f"row {number}", folder, row[name], outside) for name in names)
    label_path = path_of(f"row {number}", folder, label, outside) if label else None
    spacing = _row_spacing(number, row.get("spacing")) or stated_spacing(paths[0], case)
    return CaseSource(case, paths, label_path, spacing)


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
