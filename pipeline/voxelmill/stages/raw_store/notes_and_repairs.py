"""What a user should know of how cases were read: notes, and what was repaired.

In: OUT and names of cases. Out: remarks from the records of the raw store, many at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from voxelmill.stages.raw_store.raw_records import RepairRecord
from voxelmill.storage import zarr_stores

READ_TOGETHER = 16
"""Records that are read at a time: on a network's disk each is a wait."""


@dataclass(frozen=True)
class Remarks:
    """What a user should know of how a case was read, and what was repaired."""

    notes: tuple[str, ...] = ()
    repairs: tuple[RepairRecord, ...] = ()
    otherwise: tuple[str, ...] = ()
    """Settings that would have it read otherwise, and were not chosen."""


def read_remarks(out: Path, names: Sequence[str]) -> dict[str, Remarks]:
    """Of some cases, those that are in the raw store; without the rest of their records."""

    def read(case: str) -> Remarks | None:
        attributes = zarr_stores.read_attributes(out / zarr_stores.RAW, case)
        if not attributes:
            return None
        repairs = tuple(RepairRecord.model_validate(r) for r in attributes.get("repairs", ()))
        return Remarks(tuple(attributes.get("notes", ())), repairs, tuple(attributes.get("otherwise", ())))

    with ThreadPoolExecutor(READ_TOGETHER) as threads:
        found = zip(names, threads.map(read, names), strict=True)
        return {case: remarks for case, remarks in found if remarks is not None}
