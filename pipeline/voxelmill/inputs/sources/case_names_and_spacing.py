"""Checks shared by all kinds of SOURCE: ids of cases, stated paths, and the spacing beside an image.

In: ids, paths and spacings as a source states them. Out: checked values, or a `SourceError`. This module
knows no kind of source.
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
"""Device names of Windows, which cannot name a folder there."""


def case_problem(case: str) -> str | None:
    """Return why a text cannot be the id of a case, which names a group in a store; None if it can."""
    if problem := _encoding_problem(case):
        return problem
    alike = unicodedata.normalize("NFKC", case)  # some file systems normalise names
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
    """Return why the locale cannot encode a file name; None if it can."""
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
        Begins with `where`.
    """
    problem = case_problem(case)
    if problem:
        raise SourceError(f"{where}: the id {case!r} {problem}. Rename the case.")


def path_of(where: str, folder: Path, stated: str, outside: bool) -> Path:
    """Resolve a path that a source states.

    Parameters
    ----------
    where : str
        Subject of the error message.
    folder : Path
        The folder of the source.
    stated : str
        The path, relative to `folder` or absolute.
    outside : bool
        Whether it may lie outside `folder`.

    Raises
    ------
    SourceError
        Begins with `where`, and does not quote the path.
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
    """Parse a spacing "z,y,x" or [z, y, x] in millimetres; None unless it is three positive numbers."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        z, y, x = (float(part) for part in parts)
    except (TypeError, ValueError):
        return None
    return (z, y, x) if all(0 < s < float("inf") for s in (z, y, x)) else None


def stated_spacing(image: Path, case: str) -> Triple | None:
    """Read the spacing (z, y, x) in millimetres from ``<case>.json`` beside an image.

    Returns
    -------
    (z, y, x) or None
        None if the format of the image states its spacing, or there is no such file.

    Raises
    ------
    SourceError
        If the file holds no valid spacing.
    """
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
    """Count paths by ending, in words for messages."""
    endings = Counter("folder" if path.is_dir() else formats.known_ending(path) for path in paths)
    return tuple(
        f"{n} folder(s)" if ending == "folder" else f"{n} file(s) ending '{ending}'"
        for ending, n in sorted(endings.items())
    )
