"""The table of a manifest, CSV or JSON.

In: a path. Out: column names, and rows with one cell per column. This module does not know what the columns
mean, except that a column `case` reveals the delimiter.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxelmill.basics.errors import SourceError

ENDINGS = (".csv", ".tsv", ".json")
_SIGNS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""Delimiters of CSV, and their names in messages."""


@dataclass(frozen=True)
class Table:
    """The content of a manifest: column names as stated, and rows of cells: text, or JSON values."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def read_table(path: Path) -> Table:
    """Read the rows of a manifest, in order.

    Raises
    ------
    SourceError
        If the file is not a table, or has no rows.
    """
    table = _json_table(path) if path.suffix.lower() == ".json" else _csv_table(path)
    if not table.rows:
        raise SourceError("the manifest has no rows. Add one row a case.")
    return table


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file; `what` names it in the error.

    Raises
    ------
    SourceError
        If it cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise SourceError(f"{what} is no JSON{where}. Correct it.") from None


def _csv_table(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = file.readlines()
        sign = _delimiter(next(filter(str.strip, lines), ""))
        read = csv.reader(lines, delimiter=sign)
        header, *rows = [[cell.strip() for cell in row] for row in read if any(row)] or [[]]
    except (ValueError, csv.Error):
        raise SourceError("the manifest is no CSV text in UTF-8. Save it as such.") from None
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise SourceError(
                f"row {number}: {len(row)} cells, but the manifest has {len(header)} columns. Correct the "
                f'row; a cell with {_SIGNS[sign]} needs quotes, like "5,0.7,0.7".'
            )
    return Table(header, rows)


def _delimiter(header: str) -> str:
    """Return the delimiter that yields a column `case`, or else the one that yields most columns."""
    cells = {sign: next(csv.reader([header], delimiter=sign), []) for sign in _SIGNS}
    named = (sign for sign, row in cells.items() if "case" in [cell.strip().lower() for cell in row])
    return next(named, max(_SIGNS, key=lambda sign: len(cells[sign])))


def _json_table(path: Path) -> Table:
    content = read_json(path, "the manifest")
    rows = content.get("cases") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError(
            'the manifest is neither a list of records nor {"cases": [records]}. Give each case one record; '
            "of a nnU-Net dataset name the folder."
        )
    for number, row in enumerate(rows, 1):
        if row.keys() != rows[0].keys():
            different = sorted(row.keys() ^ rows[0].keys())
            raise SourceError(
                f"row {number}: keys {different} differ from those of row 1. Give all rows the same keys; "
                "null stands for no label."
            )
    columns = list(rows[0]) if rows else []
    return Table(columns, [[row[column] for column in columns] for row in rows])
