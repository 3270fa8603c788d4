"""The settings ``repair.*``: which problems of geometry are repaired instead of refused.

In: values that a user chose. Out: a validated `RepairConfig`. This module knows no other settings.
"""

from __future__ import annotations

from typing import Literal

from voxelmill.basics.record_base import Settings


class RepairConfig(Settings):
    """Problems of a source's geometry that are repaired instead of refused; what was done stands in the
    case's attributes and in the report.

    A setting matters to the cases that have the problem and to no other.
    """

    irregular: Literal["refuse", "fill", "resample"] = "refuse"
    """Slices of a DICOM series that are not evenly spaced: "fill" puts in slices that are missing, where the
    others leave a gap of a whole number of steps; "resample" makes even steps of any. Of a TIFF stack either
    puts in the slices that the numbers in its names leave out. Linear between the two nearest slices; the
    nearest one for labels. Refused where there would be ten times as many slices."""

    duplicates: Literal["refuse", "first"] = "refuse"
    """Several slices of a DICOM series at one position: "first" keeps the one of lowest InstanceNumber."""

    shear: Literal["refuse", "undo"] = "refuse"
    """Axes that are not at right angles, such as a tilted gantry makes: "undo" moves each slice."""

    grids: Literal["refuse", "resample"] = "refuse"
    """A channel or a label on another grid than the first channel: "resample" brings it there by its physical
    coordinates, linear, or the nearest voxel for labels."""

    affine: Literal["refuse", "sform", "qform"] = "refuse"
    """sform and qform of a NIfTI file, or sform and pixdim, that make grids of different shapes: which holds.
    Where sform and qform differ in place alone, sform holds, and that is noted, unless this is "qform"."""

    pixdim: Literal["refuse", "absolute"] = "refuse"
    """A negative spacing in a NIfTI header: "absolute" leaves its sign out."""
