"""What is known of a dataset: spacings, shapes and intensities; written to fingerprint.json.

Plain records. How they come about is in `dataset_statistics.py`, what follows from them in `make_plan.py`.
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
    """Foreground intensities of one channel over the dataset, each case weighing the same."""

    max: float
    mean: float
    median: float
    min: float
    percentile_00_5: float
    percentile_99_5: float
    std: float


class CaseFingerprint(Model):
    """What the plan needs of one case; shapes and spacing are z, y, x."""

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
    """What ingest takes."""

    read_bytes: int
    """Memory beside a box of the image while it is read."""

    @property
    def plane(self) -> int:
        """Voxels of a slice."""
        return self.shape[1] * self.shape[2]


class Fingerprint(Document):
    """Facts of a dataset; the first four fields are those of nnU-Net's dataset_fingerprint.json."""

    FILE = "fingerprint.json"
    COMMAND = "voxelmill fingerprint OUT"

    spacings: list[Triple]
    """Millimetres (z, y, x), one entry a case, cases in order of their names."""

    shapes_after_crop: list[Shape]
    foreground_intensity_properties_per_channel: dict[str, Intensity]
    median_relative_size_after_cropping: float
    statistics_from: str
    """"label": voxels with label > 0, without the ignore label; "nonzero mask" where no case has a label."""

    channel_names: tuple[str, ...]
    ignore_label: int | None
    classes: int
    """Labels, background included: those that the source states, else those that occur."""

    cases: dict[str, CaseFingerprint]
    checksum: str = ""
    """Of all the rest; a file only has it. One digit more or less would normalise every case otherwise."""

    def save(self, out: Path) -> None:
        """Write the file, with its checksum; see `Document.save`."""
        Document.save(self.model_copy(update={"checksum": self._checksum()}), out)

    @classmethod
    def parse(cls, content: bytes, what: str) -> Self:
        """The record that a file holds; see `Document.parse`."""
        found = super().parse(content, what)
        if found.checksum != found._checksum():
            raise StoreError(f"{what} was changed since it was written. Run `{cls.COMMAND}` again.")
        return found.model_copy(update={"checksum": ""})

    def _checksum(self) -> str:
        rest = self.model_dump_json(exclude={"checksum"}).encode()
        return hashlib.blake2b(rest, digest_size=8).hexdigest()
