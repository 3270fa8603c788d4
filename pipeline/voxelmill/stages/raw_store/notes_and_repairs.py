"""Notes for the user on how cases were read, and repairs of their files.

In: OUT and names of cases. Out: remarks from the records of the raw store, read many at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from voxelmill.stages.raw_store.raw_records import RepairRecord
from voxelmill.storage import zarr_stores

READ_TOGETHER = 16
"""Records that are read at the same time: on a network file system each read is a wait."""


@dataclass(frozen=True)
class Remarks:
    """Notes for the user on how a case was read, and repairs of its files."""

    notes: tuple[str, ...] = ()
    repairs: tuple[RepairRecord, ...] = ()
    otherwise: tuple[str, ...] = ()
    """Settings, not chosen, that would place one of the files elsewhere."""


def read_remarks(out: Path, names: Sequence[str]) -> dict[str, Remarks]:
    """Return the remarks of those cases that are in the raw store, without validating their whole records."""

    def read(case: str) -> Remarks | None:
        attributes = zarr_stores.read_attributes(out / zarr_stores.RAW, case)
        if not attributes:
            return None
        repairs = tuple(RepairRecord.model_validate(r) for r in attributes.get("repairs", ()))
        return Remarks(tuple(attributes.get("notes", ())), repairs, tuple(attributes.get("otherwise", ())))

    with ThreadPoolExecutor(READ_TOGETHER) as threads:
        found = zip(names, threads.map(read, names), strict=True)
        return {case: remarks for case, remarks in found if remarks is not None}
