"""The records of a case and its files, and of all cases of SOURCE.

In: paths and names. Out: records. No file is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from voxelmill.basics.geometry import Triple


@dataclass(frozen=True)
class CaseSource:
    """The files of one case; a path is a file or the folder of an image, and may be missing.

    Attributes
    ----------
    case : str
        Id of the case.
    channels : tuple of Path
        One per channel, or one that holds all channels.
    label : Path or None
        The label, if the case has one.
    spacing : (z, y, x) or None
        In millimetres, if the source states it beside the image.
    """

    case: str
    channels: tuple[Path, ...]
    label: Path | None = None
    spacing: Triple | None = None


@dataclass(frozen=True)
class Sources:
    """Every case of SOURCE, sorted by id.

    Attributes
    ----------
    kind : str
        "nnunet", "folder", "manifest" or "file".
    cases : tuple of CaseSource
        All cases.
    channel_names : tuple of str or None
        In the order of the channels; None if the source does not name them.
    labels : dict or None
        Name of each class to its value, or to a list of values for a region.
    ignore_label : int or None
        Value of voxels without an annotation.
    skipped : tuple of str
        Files that were left out, by count and ending.
    remarks : tuple of str
        Remarks for the user on how the source was interpreted; without file names.
    names : mapping of str to str
        Pseudonym to the name of the case's folder or file. Never written to OUT.
    """

    kind: str
    cases: tuple[CaseSource, ...]
    channel_names: tuple[str, ...] | None = None
    labels: dict[str, int | list[int]] | None = None
    ignore_label: int | None = None
    skipped: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict, repr=False)
