"""Checks of text header fields before ITK parses them: some wrong ones crash the process or make ITK print.

In: names and texts of fields. Out: numbers, or a `FormatError` that names the field. It knows no format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from voxelmill.basics.errors import FormatError

MOST_LENGTH = 500
"""Longest field in characters; at twice as many, ITK's NRRD library overruns its message buffer."""

_NUMBER = re.compile(r"[^\s(),]+")
_WORD = re.compile(r"(?<![\w.])[^\W\d][\w.-]{3,}")  # may be part of a file name


def add_field(fields: dict[str, str], key: str, value: str) -> None:
    """Add a field of a header.

    Raises
    ------
    FormatError
        If it occurs twice, where programs differ in the one they take, or exceeds `MOST_LENGTH`.
    """
    if key in fields or len(value) > MOST_LENGTH:
        fault = "is there twice" if key in fields else f"is longer than {MOST_LENGTH} characters"
        raise FormatError(f"{_quoted(key)} in the header {fault}. Mend the header.")
    fields[key] = value


def integer(fields: Mapping[str, str], key: str) -> int:
    """Return an integer field of a header; 0 if it is not stated."""
    try:
        return int(fields.get(key, "0"))
    except ValueError:
        raise FormatError(f"{key} in the header is not a whole number. Mend the header.") from None


def number_of_axes(fields: Mapping[str, str], key: str, what: str) -> int:
    """Return the number of axes, 2 to 4; `what` names the format in messages."""
    axes = integer(fields, key)
    if not 2 <= axes <= 4:
        raise FormatError(f"{key} in the {what} header is {axes}; 2 to 4 are read. Mend the header.")
    return axes


def sizes(fields: Mapping[str, str], key: str, axes: int) -> list[int]:
    """Return the number of voxels along each axis, at least 1."""
    found = fields.get(key, "").split()
    values = [int(n) for n in found if n.isascii() and n.isdecimal()]
    if len(found) != axes or len(values) != axes or min(values) < 1 or math.prod(values) >= 2**63:
        raise FormatError(
            f"{key} in the header is {_numbers(fields.get(key, ''))}; {axes} whole numbers from 1 on are "
            "needed. Mend the header."
        )
    return values


def check_numbers(fields: Mapping[str, str], key: str, count: int) -> None:
    """Refuse a field that is present but is not `count` finite numbers."""
    found = _NUMBER.findall(fields.get(key, ""))
    if key in fields and not (len(found) == count and all(map(_is_finite, found))):
        raise FormatError(
            f"{key} in the header is {_numbers(fields[key])}; {count} finite numbers are needed. "
            "Mend the header."
        )


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _numbers(text: str) -> str:
    """Quote text found in place of numbers, without words long enough to be a name."""
    return _quoted(_WORD.sub("...", text))


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
