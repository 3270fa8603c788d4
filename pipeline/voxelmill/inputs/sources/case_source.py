"""A case and its files, and all cases of SOURCE.

In: paths and words of a source. Out: records. Opens nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from voxelmill.basics.geometry import Triple


@dataclass(frozen=True)
class CaseSource:
    """Where one case lies; a path is a file, or the folder of an image, and may be missing."""

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
    channel_names : tuple of str or None
        In the order of the channels; None where the source does not name them.
    labels : dict or None
        Name of each class to its value, or to its values where it is a region.
    ignore_label : int or None
        Value of voxels that no class is stated for.
    skipped : tuple of str
        What was left out, by count and ending.
    remarks : tuple of str
        What a user should know of how the source was understood; without names of files.
    names : mapping of str to str
        Pseudonym of each case that has one to what its folder or file is called; written to no file of OUT.
    """

    kind: str
    cases: tuple[CaseSource, ...]
    channel_names: tuple[str, ...] | None = None
    labels: dict[str, int | list[int]] | None = None
    ignore_label: int | None = None
    skipped: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict, repr=False)
