"""What a reader is told beside a path: spacing, which series, what is accepted.

In: what a user chose. Out: `Hints`, which every ``open_volume`` takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from voxelmill.basics.geometry import Triple
from voxelmill.config.repair_settings import RepairConfig


@dataclass(frozen=True)
class Hints:
    """What a caller knows of a source that its files may not state."""

    spacing: Triple | None = None
    dicom_series: str | None = None
    dicom_padding: str = "minimum"
    repair: RepairConfig = field(default_factory=RepairConfig)
    is_label: bool = False
