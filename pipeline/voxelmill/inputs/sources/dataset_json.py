"""Channels and labels of a dataset.json, in the dialects of nnU-Net 1 and 2 and of the Decathlon.

In: its content. Out: a `Description`, with a remark on each deviation from nnU-Net 2. Ambiguous content is
refused. No file is opened.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voxelmill.basics.errors import SourceError
from voxelmill.inputs.readers import formats

Labels = dict[str, int | list[int]]
"""Name of each class to its value, or to a list of values for a region."""


@dataclass(frozen=True)
class Description:
    """The channels, labels and file ending of a dataset.

    Attributes
    ----------
    channel_names : tuple of str
        In the order of their numbers.
    labels : dict or None
        Name of each class to its value, or to a list of values for a region; None if no class is stated.
    ending : str
        Ending of the image and label files, with its dot.
    ignore_label : int or None
        Value of voxels without an annotation.
    remarks : tuple of str
        Remarks on content that was not taken literally.
    """

    channel_names: tuple[str, ...]
    labels: Labels | None
    ending: str
    ignore_label: int | None = None
    remarks: tuple[str, ...] = ()


def describe(content: Mapping[str, Any]) -> Description:
    """Parse the channels, the labels and the file ending.

    Parameters
    ----------
    content : mapping
        The content of a dataset.json.

    Raises
    ------
    SourceError
        If one of them is missing, invalid or ambiguous.
    """
    remarks: list[str] = []
    names = _channels(content, remarks)
    labels = _labels(content.get("labels"), remarks)
    ending = _ending(content.get("file_ending", ".nii.gz"), remarks)
    ignore = (labels or {}).get("ignore")
    if isinstance(ignore, list):
        raise SourceError(f"dataset.json: the ignore label is {ignore}; one whole number is expected.")
    return Description(names, labels, ending, ignore, tuple(f"dataset.json: {what}" for what in remarks))


def say_number(stated: Any, cases: int) -> tuple[str, ...]:
    """Return a remark if `numTraining` is not the number of cases; it has no other effect."""
    if stated is None or str(stated).strip() == str(cases):
        return ()
    return (f"dataset.json: numTraining is {_short(stated)}, and {cases} cases are there: these count",)


def _channels(content: Mapping[str, Any], remarks: list[str]) -> tuple[str, ...]:
    """Return channel names in ascending order of number; older datasets call them `modality`."""
    stated = [key for key in ("channel_names", "modality") if content.get(key) is not None]
    if not stated:
        raise _no_channels("channel_names", None)
    found = {key: _names(key, content[key], remarks) for key in stated}
    if len(set(found.values())) > 1:
        raise SourceError(
            f"dataset.json has channel_names {_short(content['channel_names'])} and modality "
            f"{_short(content['modality'])}, which differ. Remove one of them."
        )
    if "channel_names" not in found:
        remarks.append("`modality` is read as channel_names")
    return found[stated[0]]


def _names(key: str, stated: Any, remarks: list[str]) -> tuple[str, ...]:
    """Parse channel names from {number: name}, {name: number} or a list."""
    if isinstance(stated, list):
        remarks.append(f"{key} is a list: channels have its order")
        numbered = dict(enumerate(stated))
    elif isinstance(stated, dict):
        numbered = _by_number(key, stated, remarks)
    else:
        raise _no_channels(key, stated)
    names = [numbered.get(n) for n in range(len(stated))]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise _no_channels(key, stated)
    return tuple(str(name).strip() for name in names)


def _by_number(key: str, stated: Mapping[str, Any], remarks: list[str]) -> dict[int, Any]:
    """Return channel names by number; numbers may have leading zeros, as in file names."""
    if all(_is_number(number) for number in stated):
        if any(number != str(int(number)) for number in stated):
            remarks.append(f"numbers of {key} have zeros before them, as in names of files")
        return {int(number): name for number, name in stated.items()}
    numbers = [_whole(value) for value in stated.values()]
    if None in numbers:
        raise _no_channels(key, stated)
    remarks.append(f"{key} is name: number, and read as number: name")
    return {int(number): name for name, number in zip(stated, numbers, strict=True) if number is not None}


def _no_channels(key: str, stated: Any) -> SourceError:
    return SourceError(
        f'dataset.json has {key} {_short(stated)}; expected is {{"0": name, "1": name, ...}}. Correct it.'
    )


def _labels(stated: Any, remarks: list[str]) -> Labels | None:
    """Return names to values; older datasets map values to names."""
    if stated == {}:
        remarks.append("labels is empty: no class is stated, and no label is checked against it")
        return None
    if not isinstance(stated, dict):
        raise _no_labels(stated)
    if _is_reversed(stated):
        remarks.append("labels are number: name, and read as name: number")
        return {name: int(value) for value, name in stated.items()}
    found = {name: _classes(value) for name, value in stated.items()}
    if None in found.values():
        raise _no_labels(stated)
    labels = {name: value for name, value in found.items() if value is not None}
    if labels != stated:
        remarks.append("values of labels are texts, and read as numbers")
    return labels


def _is_reversed(stated: Mapping[str, Any]) -> bool:
    """Return whether labels are {number: name}; if names are numbers too, both readings must agree."""
    if not all(_is_number(key) and isinstance(name, str) for key, name in stated.items()):
        return False
    if len(set(stated.values())) < len(stated):
        raise _no_labels(stated, "; two classes have one name")
    if not all(map(_is_number, stated.values())):
        return True
    if any(int(key) != int(name) for key, name in stated.items()):
        raise _no_labels(stated, ", which is number: name or name: number")
    return False


def _no_labels(stated: Any, why: str = "") -> SourceError:
    return SourceError(
        f'dataset.json has labels {_short(stated)}{why}; expected is {{"background": 0, name: number or '
        "list, ...}. Correct it."
    )


def _classes(value: Any) -> int | list[int] | None:
    """Parse the value of a class, or the values of a region; None if invalid."""
    if not isinstance(value, list):
        return _whole(value)
    numbers = [number for number in map(_whole, value) if number is not None]
    return numbers if value and len(numbers) == len(value) else None


def _whole(value: Any) -> int | None:
    """Parse a non-negative integer from a number or its digits; None if it is not one."""
    if isinstance(value, str) and _is_number(value.strip()):
        return int(value)
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    return int(value) if is_whole and value == value // 1 else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _ending(stated: Any, remarks: list[str]) -> str:
    """Return the file ending, with its dot even if that was forgotten."""
    known = formats.known_endings()
    if isinstance(stated, str) and f".{stated}".lower() in known:
        remarks.append(f"file_ending {stated!r} is read as {'.' + stated!r}")
        return f".{stated}"
    if not isinstance(stated, str) or stated.lower() not in known:
        raise SourceError(
            f"dataset.json has file_ending {stated!r}; known are {', '.join(known)}. Convert the files."
        )
    return stated


def _short(value: Any) -> str:
    """Return the repr of a value, shortened to 300 characters."""
    return textwrap.shorten(repr(value), 300, placeholder=" ...")
