"""The options of a reader beside the path: spacing, DICOM series, accepted problems.

In: choices of the user. Out: `Hints`, which every ``open_volume`` takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from voxelmill.basics.geometry import Triple
from voxelmill.config.repair_settings import RepairConfig


@dataclass(frozen=True)
class Hints:
    """Options for opening a source; see `voxelmill.inputs.readers.formats.open_volume`.

    Attributes
    ----------
    spacing : (z, y, x) or None
        In millimetres; overrides the spacing in the file.
    dicom_series : str or None
        SeriesInstanceUID, or number from 1.
    dicom_padding : {"minimum", "keep"}
        Treatment of voxels that hold PixelPaddingValue.
    repair : RepairConfig
        Problems to accept.
    is_label : bool
        Whether values are labels, which must not be interpolated.
    """

    spacing: Triple | None = None
    dicom_series: str | None = None
    dicom_padding: str = "minimum"
    repair: RepairConfig = field(default_factory=RepairConfig)
    is_label: bool = False
