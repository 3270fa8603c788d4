"""Records of the dataset and of each case: attributes of the raw store's groups.

Records only: pydantic models, and facts as JSON values. Ingest writes them, `raw_case` reads them.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from pydantic import ValidationError

from voxelmill.basics.errors import StoreError
from voxelmill.basics.geometry import Geometry, Matrix, Shape, Triple
from voxelmill.basics.record_base import Model
from voxelmill.basics.volume import Array
from voxelmill.config.validation_messages import first_problem
from voxelmill.kernels.statistics.channel_facts import Facts
from voxelmill.runtime.memory_budget import SlabCost, read_bytes

REVISION = 1
"""Raised when a release reads other voxels or facts from the same source and settings."""


class RepairRecord(Model):
    """A problem of a source that a setting accepted; see `volume.Repair`."""

    setting: str
    what: str


class DatasetRecord(Model):
    """Record of the dataset; attributes of the raw store's root group."""

    revision: int
    """See `REVISION`."""

    channel_names: tuple[str, ...] | None
    labels: dict[str, int | list[int]] | None
    ignore_label: int | None
    settings: dict[str, Any]
    """The settings that ingest depends on."""

    reading: dict[str, Any] = {}
    """Further settings that SOURCE was found and read by; `verify --repair` reads it with them again."""

    cases: tuple[str, ...] = ()
    """Every case of the source, sorted, readable or not."""

    @property
    def stated_labels(self) -> frozenset[int] | None:
        """Every value that a label may hold, including 0; None if the source states no labels."""
        if self.labels is None:
            return None
        values = [v if isinstance(v, list) else [v] for v in self.labels.values()]
        return frozenset({0}.union(*values))

    @classmethod
    def read(cls, attributes: dict[str, Any]) -> Self:
        """Return the record in the attributes of a group.

        Raises
        ------
        StoreError
            If the attributes are damaged, or another version wrote them.
        """
        try:
            return cls.model_validate(attributes)
        except ValidationError as error:
            problem = first_problem(error, cls, attributes)
            raise StoreError(
                f"OUT's raw store is damaged or of another version ({problem}). Run "
                "`voxelmill ingest SOURCE OUT --restart`, or use another OUT."
            ) from None


class LabelRecord(Model):
    """Record of the label of a case; `low` and `high` are its lowest and highest value."""

    dtype: str
    counts: dict[int, int]
    """Number of voxels of each label; for instances, 0 counts the background and 1 the foreground."""

    low: int
    high: int
    is_instances: bool
    """Whether there are more than 1,000 labels: ids of instances, which count as one class."""


class CaseRecord(Model):
    """Record of one case; attributes of its group, written last. Spacing and origin are in mm, z, y, x."""

    shape: Shape
    spacing: Triple
    origin: Triple
    direction: Matrix
    channels: int
    dtypes: tuple[str, ...]
    """Stored type of each channel."""

    slopes: tuple[float, ...]
    intercepts: tuple[float, ...]
    modality: str | None
    label: LabelRecord | None
    crop_box: list[list[int]]
    """Non-zero box over all channels."""

    facts: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    """Notes for the user on how the source was read."""

    repairs: tuple[RepairRecord, ...] = ()
    """Problems of the source that a setting accepted."""

    otherwise: tuple[str, ...] = ()
    """Settings, not chosen, that would place one of the files elsewhere."""

    source: str
    """Checksum of the contents of the source files, and of the repairs."""

    image_cost: SlabCost
    label_cost: SlabCost | None
    """Memory that ingest takes."""

    is_in_place: bool
    """Whether the image is read from its source, and not stored in the raw store."""

    @property
    def read_bytes(self) -> int:
        """Bytes held beside a box of the image while it is read."""
        itemsize, slices = np.dtype(self.dtypes[0]).itemsize, self.channels * sum(self.shape)
        return read_bytes(itemsize, slices, self.image_cost if self.is_in_place else None)

    @property
    def geometry(self) -> Geometry:
        """The source grid."""
        return Geometry(self.shape, self.spacing, self.origin, self.direction)


def pack_facts(facts: Facts) -> dict[str, Any]:
    """Return facts as JSON values, without their histogram; infinities become null."""
    arrays = {k: v for k, v in facts.to_arrays().items() if k != "histogram"}
    return {k: _finite_or_none(v.tolist()) for k, v in arrays.items()}


def unpack_facts(values: dict[str, Any]) -> Facts:
    """Invert `pack_facts`; the histogram is empty."""
    arrays: dict[str, Array] = {"histogram": np.empty(0, np.int64)}
    for key, value in values.items():
        empty = math.inf if key.endswith("low") else -math.inf
        filled = [empty if v is None else v for v in value] if isinstance(value, list) else value
        arrays[key] = np.asarray(empty if filled is None else filled)
        if key in ("low", "high"):
            arrays[key] = arrays[key].astype(np.float32)
    return Facts.from_arrays(arrays)


def _finite_or_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite_or_none(v) for v in value]
    return None if isinstance(value, float) and math.isinf(value) else value
