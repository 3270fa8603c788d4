"""A Plan: every decision of a run, as numbers and words that can be printed and compared.

Records only; `make_plan` makes them. For each configuration the plan holds the target spacing, the
normalisation of each channel, and for each case its new shape, its separate axis and its shards. From these
follow the memory, files and bytes of a run.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np

from voxelmill.basics.errors import StoreError
from voxelmill.basics.geometry import Box, Shape, Triple
from voxelmill.basics.record_base import Model
from voxelmill.config.configuration_names import Configuration
from voxelmill.config.settings import Config
from voxelmill.kernels.resampling.axis_matrix import Rule
from voxelmill.stages.fingerprint.fingerprint_json import Intensity
from voxelmill.stages.planning.shard_pieces import Work
from voxelmill.storage.json_documents import Document

CHANGES_NO_VOXEL = {"configurations", "memory_limit", "ingest", "repair"}
"""Settings that change no voxel of a configuration; repairs are in the case's own row."""

REVISION = 1
"""Raised when a release makes other voxels, or another plan, from the same raw store and settings."""


class CasePlan(Model):
    """Plan of one case in one configuration; shapes in voxels and spacings in millimetres are z, y, x."""

    source_shape: Shape
    source_spacing: Triple
    crop_box: list[list[int]]
    shape: Shape
    target_spacing: Triple
    separate_axis: int | None
    chunk: Shape
    shard: Shape
    channels: int
    has_label: bool
    source: str
    """Checksum of the contents of the source files."""

    repairs: tuple[str, ...]
    """Settings that repaired something in them, sorted, such as "repair.shear=undo"."""

    read_bytes: int
    """Bytes held beside a box of the source while it is read."""

    @property
    def image_bytes(self) -> int:
        """Uncompressed bytes of the image, float32."""
        return 4 * self.channels * int(np.prod(self.shape))

    @property
    def shards(self) -> int:
        """Number of shards of the image."""
        return int(np.prod(self.grid))

    @property
    def grid(self) -> tuple[int, ...]:
        """Shards along each axis."""
        return tuple(-(-n // s) for n, s in zip(self.shape, self.shard, strict=True))

    def write_box(self, number: int) -> Box:
        """Return the box of one shard; shards are numbered in C order, and tile the output exactly once."""
        index = [int(i) for i in np.unravel_index(number, self.grid)]
        start = tuple(i * s for i, s in zip(index, self.shard, strict=True))
        stop = tuple(min(a + s, n) for a, s, n in zip(start, self.shard, self.shape, strict=True))
        return Box(start, stop)


class ConfigurationPlan(Model):
    """One training set."""

    target_spacing: Triple
    """Millimetres; in "2d" the axis of largest spacing keeps each case's own spacing."""

    normalization: tuple[str, ...]
    """Scheme of each channel."""

    use_mask_for_norm: tuple[bool, ...]
    """Whether each channel's statistics and normalisation are limited to the filled non-zero mask."""

    cases: dict[str, CasePlan]


class Plan(Document):
    """All decisions of a run; written to plan.json."""

    FILE = "plan.json"
    COMMAND = "voxelmill plan OUT"

    revision: int
    """See `REVISION`."""

    version: str
    """Release that made the plan, for the user only: most releases change no voxel."""

    settings: Config
    channel_names: tuple[str, ...]
    intensity: dict[str, Intensity]
    """Foreground statistics of each channel ("0", "1", ...), which CT normalisation uses."""

    label_dtype: str | None
    ignore_label: int | None
    configurations: dict[Configuration, ConfigurationPlan]
    left_out: dict[Configuration, str]
    """Configurations that were asked for but that the dataset does not need, with the reason."""

    peak_bytes: dict[str, int]
    """Largest resident memory of a worker process in bytes, by stage, base included."""

    def check_revision(self, what: str = "the plan") -> None:
        """Refuse a plan that this release would carry out differently; `what` names it in the message.

        Raises
        ------
        StoreError
            If it is of another revision.
        """
        if self.revision != REVISION:
            raise StoreError(
                f"{what} is of another version: its revision was {self.revision}, is {REVISION}. Run "
                "`voxelmill plan OUT --restart`, or use the version that made it."
            )

    def token(self, configuration: Configuration, case: str) -> str:
        """Return a hash of everything that the voxels of one case depend on, as 16 hexadecimal digits."""
        of = self.configurations[configuration]
        depends = {
            "revision": self.revision,
            "settings": self.settings.model_dump(mode="json", exclude=CHANGES_NO_VOXEL),
            "channel_names": self.channel_names,
            "intensity": {
                k: v.model_dump(mode="json")
                for k, v in self.intensity.items()
                if of.normalization[int(k)] == "CTNormalization"  # other schemes do not use it
            },
            "label_dtype": self.label_dtype,
            "normalization": of.normalization,
            "use_mask_for_norm": of.use_mask_for_norm,
            "case": of.cases[case].model_dump(mode="json", exclude={"read_bytes"}),
        }
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]

    def decisions(self) -> dict[str, Any]:
        """Return everything that the voxels depend on, as JSON values."""
        left_out: dict[str, Any] = {"version": True, "peak_bytes": True, "settings": CHANGES_NO_VOXEL}
        values = self.model_dump(mode="json", exclude=left_out)
        for of in values["configurations"].values():
            for row in of["cases"].values():
                del row["read_bytes"]
        return values

    def work(self, configuration: Configuration, case: str) -> Work:
        """Return the shapes and resampling rules of the shards of one case."""
        row, settings = self.configurations[configuration].cases[case], self.settings
        shapes = Box.from_bounds(row.crop_box).shape, row.shape
        order = 1 if settings.labels == "linear" else 0
        has_label = row.has_label and self.label_dtype is not None
        return Work(
            image=Rule(
                *shapes, settings.order, row.separate_axis, settings.order_separate, settings.anti_alias
            ),
            label=Rule(*shapes, order, row.separate_axis),
            shard=row.shard,
            chunk=row.chunk,
            label_bytes=np.dtype(self.label_dtype).itemsize if has_label else 0,
            has_mask=self.needs_mask,
            read_bytes=row.read_bytes,
        )

    @property
    def needs_mask(self) -> bool:
        """Whether a voxel depends on the filled non-zero mask."""
        masked = any(any(of.use_mask_for_norm) for of in self.configurations.values())
        return masked or (self.label_dtype is not None and self.settings.outside_label != 0)

    @property
    def training_bytes(self) -> int:
        """Uncompressed bytes of the training store."""
        label = 0 if self.label_dtype is None else np.dtype(self.label_dtype).itemsize
        rows = [row for of in self.configurations.values() for row in of.cases.values()]
        return sum(row.image_bytes + row.has_label * label * math.prod(row.shape) for row in rows)
