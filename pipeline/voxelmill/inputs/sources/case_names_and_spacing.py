"""A case and its files: where it lies, what it may be called, and the spacing stated beside its image.

In: paths and words of a source. Out: a `CaseSource` each, and `Sources`. Knows no kind of source.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from voxelmill.basics.errors import SourceError
from voxelmill.basics.geometry import Triple
from voxelmill.basics.paths_within_folder import within
from voxelmill.basics.user_paths import local_path
from voxelmill.inputs.readers import formats
from voxelmill.inputs.sources.manifest_table import read_json
from voxelmill.storage.partial_files import is_left

_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def case_problem(case: str) -> str | None:
    """Why a text cannot be the id of a case, which names a group in a store; None where it can."""
    if problem := _encoding_problem(case):
        return problem
    alike = unicodedata.normalize("NFKC", case)  # what some systems make of it
    if not case or case != case.strip():
        return "is empty or has blanks at its ends"
    if any(c in alike for c in "/\\") or ".." in alike or alike.startswith((".", "__")):
        return "could name a place outside of OUT"
    if alike == "zarr.json" or is_left(Path(alike)):
        return "is a name that the stores need themselves"
    if not case.isprintable() or len(case.encode()) > 200:
        return "holds control characters, or more than 200 bytes"
    if alike.endswith(".") or _DEVICE.fullmatch(alike):
        return "is no name of a folder on Windows"
    return None


def _encoding_problem(name: str) -> str | None:
    """Why no file can have a name: characters that the locale does not know; None where one can."""
    try:
        os.fsencode(name)
        name.encode()
    except UnicodeEncodeError:
        return f"is no name of a file in this locale ({sys.getfilesystemencoding()}; LC_ALL=C.UTF-8 has all)"
    return None


def check_case(where: str, case: str) -> None:
    """Refuse a text that cannot be the id of a case.

    Raises
    ------
    SourceError
        That begins with `where`.
    """
    problem = case_problem(case)
    if problem:
        raise SourceError(f"{where}: the id {case!r} {problem}. Rename the case.")


def path_of(where: str, folder: Path, stated: str, outside: bool) -> Path:
    """The path that a source states, which lies in the source's folder or below unless `outside` allows more.

    Raises
    ------
    SourceError
        That begins with `where`, and does not show the path.
    """
    if problem := _encoding_problem(stated):
        raise SourceError(f"{where} {problem}. Set LC_ALL, or rename the file.")
    meant = local_path(stated, where)
    place = folder / meant if outside else within(folder, str(meant))
    if place is None:
        raise SourceError(
            f"{where} leads out of the folder that it is stated in. Set ingest.outside=true if that is meant."
        )
    return place


def parse_spacing(value: Any) -> Triple | None:
    """Spacing from "z,y,x" or [z, y, x] in millimetres; None where it is not three positive numbers."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        z, y, x = (float(part) for part in parts)
    except (TypeError, ValueError):
        return None
    return (z, y, x) if all(0 < s < float("inf") for s in (z, y, x)) else None


def stated_spacing(image: Path, case: str) -> Triple | None:
    """Spacing from ``<case>.json`` beside an image whose format has no place for it."""
    beside = image.parent / f"{case}.json"
    if formats.states_spacing(image) or not beside.is_file():
        return None
    content = read_json(beside, f"case {case!r}: the .json beside its image")
    spacing = parse_spacing(content.get("spacing")) if isinstance(content, dict) else None
    if spacing is None:
        raise SourceError(
            f"case {case!r}: the .json beside its image has no usable spacing; expected is "
            '{"spacing": [z, y, x]} in mm. Correct it.'
        )
    return spacing


def count_endings(paths: Iterable[Path]) -> tuple[str, ...]:
    """How many paths there are of each ending, in words."""
    endings = Counter("folder" if path.is_dir() else formats.known_ending(path) for path in paths)
    return tuple(
        f"{n} folder(s)" if ending == "folder" else f"{n} file(s) ending '{ending}'"
        for ending, n in sorted(endings.items())
    )
