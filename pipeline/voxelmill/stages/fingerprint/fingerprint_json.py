"""The fingerprint of a dataset: spacings, shapes and intensities, written to fingerprint.json.

Records only. `dataset_statistics.py` computes them, `make_plan.py` makes decisions from them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

from voxelmill.basics.errors import StoreError
from voxelmill.basics.geometry import Shape, Triple
from voxelmill.basics.record_base import Model
from voxelmill.runtime.memory_budget import SlabCost
from voxelmill.storage.json_documents import Document


class Intensity(Model):
    """Foreground intensities of one channel over the dataset; all cases have the same weight."""

    max: float
    mean: float
    median: float
    min: float
    percentile_00_5: float
    percentile_99_5: float
    std: float


class CaseFingerprint(Model):
    """Facts of one case that a plan needs; shape in voxels and spacing in millimetres are z, y, x."""

    shape: Shape
    spacing: Triple
    crop_box: list[list[int]]
    channels: int
    dtype: str
    label_dtype: str | None
    label_range: tuple[int, int] | None
    """Lowest and highest label."""

    source: str
    """Checksum of the contents of the source files."""

    repairs: tuple[str, ...]
    """Settings that repaired something in them, sorted, such as "repair.shear=undo"."""

    image_cost: SlabCost
    label_cost: SlabCost | None
    """Memory that ingest takes."""

    read_bytes: int
    """Bytes held beside a box of the image while it is read."""

    @property
    def plane(self) -> int:
        """Voxels of a slice."""
        return self.shape[1] * self.shape[2]


class Fingerprint(Document):
    """Facts of a dataset; the first four fields are those of nnU-Net's dataset_fingerprint.json."""

    FILE = "fingerprint.json"
    COMMAND = "voxelmill fingerprint OUT"

    spacings: list[Triple]
    """Millimetres (z, y, x), one entry per case, cases in order of their names."""

    shapes_after_crop: list[Shape]
    """Voxels (z, y, x) of each case's crop box."""

    foreground_intensity_properties_per_channel: dict[str, Intensity]
    """By channel ("0", "1", ...); channels without foreground are left out."""

    median_relative_size_after_cropping: float
    """Median over cases of the crop box's part of the volume, 0 to 1."""

    statistics_from: str
    """"label": voxels with label > 0, without the ignore label; "nonzero mask" if no case has a label."""

    channel_names: tuple[str, ...]
    ignore_label: int | None
    classes: int
    """Number of labels, background included: those that the source states, else those that occur."""

    cases: dict[str, CaseFingerprint]
    checksum: str = ""
    """Checksum of all other fields, in the file only: one changed digit would change every normalisation."""

    def save(self, out: Path) -> None:
        """Write the file, with its checksum; see `Document.save`."""
        Document.save(self.model_copy(update={"checksum": self._checksum()}), out)

    @classmethod
    def parse(cls, content: bytes, what: str) -> Self:
        """Return the record in a file, and check its checksum; see `Document.parse`."""
        found = super().parse(content, what)
        if found.checksum != found._checksum():
            raise StoreError(f"{what} was changed since it was written. Run `{cls.COMMAND}` again.")
        return found.model_copy(update={"checksum": ""})

    def _checksum(self) -> str:
        rest = self.model_dump_json(exclude={"checksum"}).encode()
        return hashlib.blake2b(rest, digest_size=8).hexdigest()
