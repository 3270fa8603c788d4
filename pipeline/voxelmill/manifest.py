"""The rows of a manifest, CSV or JSON.

In: a path. Out: records that all have the same keys. Knows nothing of what the columns mean.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

from voxelmill.errors import SourceError


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The records of a manifest, in order; a `SourceError` where it is not a table."""
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    if not rows:
        raise SourceError("the manifest has no rows. Add one row a case.")
    return rows


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file; `what` names it in the error."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise SourceError(f"{what} is no JSON{where}. Correct it.") from None


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(row)] or [[]]
    except (ValueError, csv.Error):
        raise SourceError("the manifest is no CSV text in UTF-8. Save it as such.") from None
    twice = [column for column, count in Counter(header).items() if count > 1 or not column]
    if twice:
        raise SourceError(
            f"the manifest has a column named {twice[0]!r} that is empty or there twice. Rename it."
        )
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise SourceError(
                f"row {number}: {len(row)} cells, but the manifest has {len(header)} columns. Correct the "
                'row; a cell with commas needs quotes, like "5,0.7,0.7".'
            )
    return [dict(zip(header, row, strict=True)) for row in rows]


def _json_rows(path: Path) -> list[dict[str, Any]]:
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
    return rows
