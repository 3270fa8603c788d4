"""The rows of a manifest, CSV or JSON.

In: a path. Out: the names of its columns, and rows of as many cells. Knows nothing of what the columns mean,
but for the one that tells which sign is between the cells.
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
"""What may be between the cells of a line."""


@dataclass(frozen=True)
class Table:
    """What a manifest holds: the columns as it names them, and cells of text, or of JSON."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def read_table(path: Path) -> Table:
    """The rows of a manifest, in order; a `SourceError` where it is not a table."""
    table = _json_table(path) if path.suffix.lower() == ".json" else _csv_table(path)
    if not table.rows:
        raise SourceError("the manifest has no rows. Add one row a case.")
    return table


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file; `what` names it in the error."""
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
    """The sign that sets a column `case` apart; else the one that makes most columns."""
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
