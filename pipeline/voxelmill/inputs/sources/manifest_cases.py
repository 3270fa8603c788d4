"""A manifest as SOURCE: its columns are channels, and each row is a case.

In: the path of a CSV or JSON file. Out: `Sources`. No image is opened.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxelmill.basics.errors import SourceError
from voxelmill.basics.geometry import Triple
from voxelmill.inputs.readers import formats
from voxelmill.inputs.sources.case_names_and_spacing import (
    case_problem,
    parse_spacing,
    path_of,
    stated_spacing,
)
from voxelmill.inputs.sources.case_source import CaseSource, Sources
from voxelmill.inputs.sources.image_label_pairs import is_word, suffix_of
from voxelmill.inputs.sources.manifest_table import Table, read_table

RESERVED = ("case", "label", "spacing")
"""Columns with a meaning of their own; every other column is a channel."""

_DECIMAL_COMMA = re.compile(r"\d,\d+\s*[;/|x ]|\d,\d+,\d+,\d")
"""A spacing that seems to have decimal commas."""


def read_manifest(path: Path, outside: bool, channels: Sequence[str] | None) -> Sources:
    """Return every case of a manifest.

    Parameters
    ----------
    path : Path
        The file.
    outside : bool
        Whether the paths in it may lead out of its folder.
    channels : sequence of str, optional
        The setting `channels`: columns that it names are channels even if they are named like labels.

    Raises
    ------
    SourceError
        If the file is not a table, a column is invalid, or a path leads out of the folder.
    """
    table = read_table(path)
    columns = [_column(name) for name in table.columns]
    _check_header(path.parent, table, columns)
    names = tuple(column for column in columns if column not in RESERVED)
    _check_labels(columns, {name.lower() for name in channels or ()})
    rows = [dict(zip(columns, row, strict=True)) for row in table.rows]
    for number, row in enumerate(rows, 1):
        _check_places(path.parent, number, row, names, outside)
    _check_columns(path.parent, rows, names)
    cases = [_row_case(path.parent, number, row, names, outside) for number, row in enumerate(rows, 1)]
    return Sources("manifest", tuple(cases), names)


def _column(name: str) -> str:
    """Return the name of a column without blanks at its ends; reserved names in lower case."""
    plain = name.strip()
    return plain.lower() if plain.lower() in RESERVED else plain


def _check_header(folder: Path, table: Table, columns: Sequence[str]) -> None:
    if "case" not in columns and any(_is_image(folder, name) for name in columns):
        raise SourceError(
            "the manifest has no header: its first row holds paths. Put a row above it that names the "
            "columns, like case,CT,label."
        )
    twice = [column for column, count in Counter(columns).items() if count > 1 or not column]
    if twice:
        raise SourceError(
            f"the manifest has a column named {twice[0]!r} that is empty or there twice. Rename it."
        )
    count = f"{len(columns)} column{'' if len(columns) == 1 else 's'}"
    lacking = "column `case`" if "case" not in columns else "column of a channel"
    if "case" not in columns or set(columns) <= set(RESERVED):
        raise SourceError(
            f"the manifest has {count} and no {lacking}; its first row, or its keys, name `case`, one column "
            "a channel, and perhaps `label` and `spacing`. Add it."
        )


def _check_labels(columns: Iterable[str], channels: Iterable[str]) -> None:
    """Refuse columns that are named like labels but would become channels, the input of training."""
    for name in columns:
        if name not in RESERVED and name.lower() not in channels and (is_word(name) or suffix_of(name)):
            raise SourceError(
                f"the manifest has a column {name!r}, which is what labels are called. Call it `label`; if "
                f"it is a channel, name all channels in the setting channels, {name!r} among them."
            )


def _is_image(folder: Path, cell: str) -> bool:
    return bool(cell) and (formats.case_stem(Path(cell)) != Path(cell).name or (folder / cell).exists())


def _check_places(
    folder: Path, number: int, row: Mapping[str, Any], names: Iterable[str], outside: bool
) -> None:
    """Refuse paths that lead out of the folder, before any of them is accessed."""
    for name in (*names, "label"):
        stated = row.get(name)
        if isinstance(stated, str):
            _check_slashes(f"row {number}: the path in column {name!r}", folder, stated)
            path_of(f"row {number}: the path in column {name!r}", folder, stated, outside)


def _check_slashes(where: str, folder: Path, stated: str) -> None:
    if "\\" in stated and os.sep == "/" and not (folder / stated).exists():
        raise SourceError(
            f"{where} has backslashes, as on Windows. Write it with /, relative to the manifest."
        )


def _check_columns(folder: Path, rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> None:
    for name in names:
        cells = [row[name] for row in rows if isinstance(row[name], str) and row[name]]
        if not any(formats.is_known(folder / cell) or (folder / cell).exists() for cell in cells):
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
        commas = isinstance(value, str) and _DECIMAL_COMMA.search(value)
        points = ", with decimal points instead of commas" if commas else ""
        raise SourceError(
            f'row {number}: spacing is {value!r}; three positive numbers "z,y,x" in mm are needed{points}. '
            "Correct it."
        )
    return spacing
