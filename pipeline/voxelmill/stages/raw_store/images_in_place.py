"""Images that are read in place: where they lie, and their voxels as the raw store would hold them.

In: OUT and a case. Out: an object that is read box by box, like an array of the raw store. The paths are kept
in OUT/logs, since stores hold no paths.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxelmill.basics.errors import StoreError, speaking_of
from voxelmill.basics.geometry import Box
from voxelmill.basics.volume import Array, Convert, Volume
from voxelmill.config.repair_settings import RepairConfig
from voxelmill.inputs.readers.formats import open_volume
from voxelmill.inputs.sources.case_source import CaseSource
from voxelmill.stages.raw_store.stored_values import as_stored, image_names
from voxelmill.storage.partial_files import write_whole

FOLDER = Path("logs", "in_place")
"""Folder of OUT with one JSON file per case that is read in place."""


@dataclass(frozen=True)
class InPlace:
    """The images of a case, one after another along the channel axis.

    Attributes
    ----------
    volumes : sequence of Volume
        The opened images, each with one or more channels.
    nonfinite : {"fail", "zero"}
        What happens to voxels that are not finite.
    """

    volumes: Sequence[Volume]
    nonfinite: str

    def fill(self, box: Box, out: Array, convert: Convert | None = None) -> None:
        """Put the stored values of a (c, z, y, x) box into `out`, each piece through `convert`."""
        first = 0
        for what, volume in zip(_called(self.volumes), self.volumes, strict=True):
            part = Box.whole((volume.channels, *volume.geometry.shape)).shift((first, 0, 0, 0)).intersect(box)
            if part.size:
                target = out[part.start[0] - box.start[0] : part.stop[0] - box.start[0]]
                with speaking_of(what):
                    volume.fill(part.shift((-first, 0, 0, 0)), target, self._through(volume, convert))
            first += volume.channels

    def _through(self, volume: Volume, convert: Convert | None) -> Convert:
        def stored(data: Array) -> Array:
            values = as_stored(data, volume, self.nonfinite)
            return values if convert is None else convert(values)

        return stored


def remember_place(out: Path, source: CaseSource, repair: RepairConfig) -> None:
    """Save the paths of a case's files, and the repair settings that they are read with."""
    place = {
        "channels": [str(p) for p in source.channels],
        "label": None if source.label is None else str(source.label),
        "spacing": source.spacing,
        "repair": repair.model_dump(mode="json"),
    }
    write_whole(_file(out, source.case), json.dumps(place).encode())


def is_known(out: Path, case: str) -> bool:
    """Return whether OUT has the paths of a case's images."""
    return _file(out, case).exists()


def place_of(out: Path, case: str) -> tuple[CaseSource, RepairConfig]:
    """Return the files of a case that is read in place, and the repair settings that they are read with.

    Raises
    ------
    StoreError
        If OUT does not have the paths any more.
    """
    try:
        place = json.loads(_file(out, case).read_text())
        channels, label, spacing = place["channels"], place["label"], place["spacing"]
        repair = RepairConfig.model_validate(place["repair"])
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(
            f"case {case} is read in place, but OUT/logs does not say where any more. Run `voxelmill ingest "
            "SOURCE OUT` again."
        ) from None
    paths = tuple(Path(p) for p in channels)
    return CaseSource(case, paths, label and Path(label), spacing and tuple(spacing)), repair


def open_place(out: Path, case: str, nonfinite: str) -> InPlace:
    """Open the images of a case in place.

    Raises
    ------
    StoreError
        If OUT does not have the paths any more.
    FormatError
        If a file does not exist any more.
    """
    place, repair = place_of(out, case)
    volumes: list[Volume] = []
    for what, path in zip(_called(place.channels), place.channels, strict=True):
        with speaking_of(what):
            volumes.append(open_volume(path, spacing=place.spacing, repair=repair))
    return InPlace(volumes, nonfinite)


def _called(images: Sequence[object]) -> list[str]:
    """Names of the images in error messages; empty for a single image."""
    return image_names(len(images), None) if len(images) > 1 else [""]


def _file(out: Path, case: str) -> Path:
    return out / FOLDER / f"{case}.json"
