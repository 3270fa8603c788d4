"""Fields of text headers, looked at before ITK does: it ends the process, or prints, over some wrong ones.

In: names and texts. Out: numbers, or a `FormatError` that names the field. Knows no format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from voxelmill.basics.errors import FormatError

MOST_LENGTH = 500
"""Characters of a field; ITK's NRRD library writes past its buffer when it complains of twice as many."""

_NUMBER = re.compile(r"[^\s(),]+")
_WORD = re.compile(r"(?<![\w.])[^\W\d][\w.-]{3,}")  # could be of a file's name where numbers should be


def add_field(fields: dict[str, str], key: str, value: str) -> None:
    """Note a field of a header.

    Raises
    ------
    FormatError
        If it is there already, so that programs differ in which they take, or is too long for any number.
    """
    if key in fields or len(value) > MOST_LENGTH:
        fault = "is there twice" if key in fields else f"is longer than {MOST_LENGTH} characters"
        raise FormatError(f"{_quoted(key)} in the header {fault}. Mend the header.")
    fields[key] = value


def integer(fields: Mapping[str, str], key: str) -> int:
    """A whole number from a header; 0 where it is not stated."""
    try:
        return int(fields.get(key, "0"))
    except ValueError:
        raise FormatError(f"{key} in the header is not a whole number. Mend the header.") from None


def number_of_axes(fields: Mapping[str, str], key: str, what: str) -> int:
    """Two to four, which are read; `what` names the format."""
    axes = integer(fields, key)
    if not 2 <= axes <= 4:
        raise FormatError(f"{key} in the {what} header is {axes}; 2 to 4 are read. Mend the header.")
    return axes


def sizes(fields: Mapping[str, str], key: str, axes: int) -> list[int]:
    """The numbers of voxels along axes, each at least 1."""
    found = fields.get(key, "").split()
    values = [int(n) for n in found if n.isascii() and n.isdecimal()]
    if len(found) != axes or len(values) != axes or min(values) < 1 or math.prod(values) >= 2**63:
        raise FormatError(
            f"{key} in the header is {_numbers(fields.get(key, ''))}; {axes} whole numbers from 1 on are "
            "needed. Mend the header."
        )
    return values


def check_numbers(fields: Mapping[str, str], key: str, count: int) -> None:
    """Refuse a field, where it is there, that is not so many finite numbers."""
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
    """What stands where numbers should be; words that are long enough to be a name are left out."""
    return _quoted(_WORD.sub("...", text))


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
