"""Verification of OUT: every byte of the stores is read, and all damage is named.

In: OUT. Out: a `Finding` for all cases, or some. Metadata are checked in this process, shards in tasks on any
cluster. Writes nothing; `repair_damage` repairs what is found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxelmill.basics.errors import StoreError
from voxelmill.basics.geometry import Box
from voxelmill.inputs.sources.source_checksums import source_digest
from voxelmill.runs.report_json import failed_cases
from voxelmill.runtime.memory_budget import Memory
from voxelmill.runtime.stage_engine import Engine
from voxelmill.runtime.task_window import execute
from voxelmill.runtime.tasks import Outcome, Task, in_groups, task
from voxelmill.stages.fingerprint.fingerprint_json import Fingerprint
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.preprocessing.preprocess import attributes_of
from voxelmill.stages.preprocessing.training_store import LOOKED_AT_TOGETHER, TrainingCase, training_cases
from voxelmill.stages.raw_store.images_in_place import place_of
from voxelmill.stages.raw_store.raw_case import RawCase, read_dataset
from voxelmill.storage import zarr_stores
from voxelmill.storage.shard_damage import shard_damage
from voxelmill.storage.shard_files import Index, ShardedArray

GROUP_BYTES = 2**27
"""Decoded bytes of the small shards that share one task; about a tenth of a second of work."""

SHARD_BYTES = 2**18
"""Bytes added to the size of each shard when tasks are filled: the fixed cost of opening a shard."""

MISSING = "is missing"
RECORD, SOURCE_FILES, MASK = "raw", "raw/image", "raw/mask"


@dataclass(frozen=True, order=True)
class Damage:
    """One shard, array, record or file that is not as it was written.

    Attributes
    ----------
    case : str
        Empty if the damage belongs to no case.
    array : str
        "raw" or a configuration, followed by an array's name: "raw/label", "fullres/image". Without an
        array's name it is the record of the case. For damage outside the cases: a file or a group of OUT.
    shard : tuple of int or None
        Index of the shard; None for the whole array or its metadata.
    what : str
        The predicate of the message, such as "is missing".
    """

    case: str
    array: str
    shard: Index | None
    what: str

    @property
    def is_missing(self) -> bool:
        """Whether the data are missing, not damaged."""
        return self.what.startswith(MISSING)

    def __str__(self) -> str:
        shard = "" if self.shard is None else f" shard {'/'.join(map(str, self.shard))}"
        return f"{self.case or 'OUT'}  {self.array}{shard}: {self.what}"


@dataclass(frozen=True)
class Finding:
    """The result of a verification: the damage, and the number of shards and bytes that were read."""

    damages: tuple[Damage, ...]
    shards: int
    bytes: int

    @property
    def summary(self) -> str:
        """One line: how much was read, and how much of it is damaged."""
        missing = sum(damage.is_missing for damage in self.damages)
        counts = {"damaged": len(self.damages) - missing, "missing": missing}
        told = ", ".join(f"{n} {word}" for word, n in counts.items() if n) or "nothing is damaged"
        size = f"{self.bytes / 2**30:.1f} GiB" if self.bytes >= 2**29 else f"{self.bytes / 2**20:.1f} MiB"
        return f"read {size} in {self.shards} shards: {told}"


@dataclass(frozen=True)
class _Looked:
    """The checked metadata of a case: its damage, and its named arrays, which are still to be read."""

    case: str
    damages: tuple[Damage, ...] = ()
    arrays: tuple[tuple[str, ShardedArray], ...] = ()


def verify(out: Path, engine: Engine, only: Collection[str] | None = None) -> Finding:
    """Read everything that the stores hold of all cases, or of some.

    Parameters
    ----------
    out : Path
    engine : Engine
        Runs the tasks that read the shards.
    only : collection of str, optional
        Cases to check. Files of OUT that belong to no case are always checked.

    Raises
    ------
    StoreError
        If OUT holds no store.
    """
    check_there(out)
    damages, plan = _documents(out)
    looked = [x for x in _look(out, plan) if only is None or x.case in only]
    damages += [damage for x in looked for damage in x.damages]
    total = sum(_shards(array) for x in looked for _, array in x.arrays)
    size = 0
    with engine.reporter.stage("verify", total, 0) as progress:
        for outcome in execute(_tasks(looked), engine.client, engine.watch):
            progress.advance(0)
            size += 0 if outcome.value is None else outcome.value[0]
            damages += _of_outcome(outcome)
    return Finding(tuple(sorted(_joined(damages, looked), key=_order)), total, size)


def check_there(out: Path) -> None:
    """Refuse a folder that is not the OUT of a run.

    Raises
    ------
    StoreError
        If it holds neither of the stores.
    """
    if not any((out / name).is_dir() for name in (zarr_stores.RAW, zarr_stores.TRAINING)):
        raise StoreError("OUT holds no store. Name the OUT of a run, or begin one with `voxelmill run`.")


def _order(damage: Damage) -> tuple[str, str, Index, str]:
    return damage.case, damage.array, damage.shard or (), damage.what


# Files of OUT, and what belongs to no case


def _documents(out: Path) -> tuple[list[Damage], Plan | None]:
    """Return the damage in the plan, the fingerprint and the groups above the cases, and the plan."""
    damages, plan = list[Damage](), None
    groups = [(zarr_stores.RAW, "")]
    if (out / Fingerprint.FILE).exists() or (out / zarr_stores.TRAINING).exists():
        damages += _unreadable(out, Fingerprint)
    if (out / Plan.FILE).exists() or (out / zarr_stores.TRAINING).exists():
        damages += _unreadable(out, Plan)
    with suppress(StoreError):
        plan = Plan.load(out)
    if plan is not None and (out / zarr_stores.TRAINING).exists():
        groups += [(zarr_stores.TRAINING, path) for path in ("", *plan.configurations)]
    for name, path in groups:
        what = zarr_stores.metadata_damage(out / name, path)
        if what is not None:
            damages.append(Damage("", f"{name}/{path}".rstrip("/"), None, what))
    return damages, plan


def _unreadable(out: Path, kind: type[Fingerprint] | type[Plan]) -> list[Damage]:
    try:
        kind.load(out)
    except StoreError:
        what = "is damaged, or was changed" if (out / kind.FILE).exists() else MISSING
        return [Damage("", kind.FILE, None, what)]
    return []


def _look(out: Path, plan: Plan | None) -> list[_Looked]:
    """Check the metadata of every case that the dataset, the plan or the raw store lists."""
    names, failed = set(zarr_stores.list_groups(out / zarr_stores.RAW)), failed_cases(out)
    with suppress(StoreError):
        names |= set(read_dataset(out).cases)
    planned = list[TrainingCase]()
    if plan is not None:
        for configuration in plan.configurations:
            planned += training_cases(out, plan, configuration, Memory())
    names |= {case.case for case in planned}
    with ThreadPoolExecutor(LOOKED_AT_TOGETHER) as threads:
        raw = threads.map(lambda name: _look_at_raw(RawCase(out, name), failed.get(name)), sorted(names))
        return [*raw, *threads.map(_look_at_training, planned)]


# Metadata of a case


def _look_at_raw(raw: RawCase, cause: str | None) -> _Looked:
    """Check the record of a raw case, and the metadata of the arrays that it lists."""
    if not (raw.root / raw.case).is_dir():
        return _Looked(raw.case, (Damage(raw.case, RECORD, None, MISSING + (f": {cause}" if cause else "")),))
    what = zarr_stores.metadata_damage(raw.root, raw.case)
    try:
        expected = raw.layouts()
    except StoreError:
        what = what or "cannot be told from the record, or that of the dataset"
        return _Looked(raw.case, (Damage(raw.case, RECORD, None, what),))
    found = [_open(raw.root, raw.case, RECORD, raw.case, name, *layout) for name, layout in expected.items()]
    damages = [Damage(raw.case, RECORD, None, what)] if what else []
    damages += [x for x in found if isinstance(x, Damage)] + _source_damage(raw)
    return _Looked(raw.case, tuple(damages), tuple(x for x in found if not isinstance(x, Damage)))


def _source_damage(raw: RawCase) -> list[Damage]:
    """Compare the files of an image that is read in place with the checksum in the record."""
    if not raw.record.is_in_place:
        return []
    try:
        same = source_digest(place_of(raw.out, raw.case)[0]) == raw.record.source
    except (StoreError, OSError):
        same = False
    what = "is read in place, and its source files hold something else now, or are gone"
    return [] if same else [Damage(raw.case, SOURCE_FILES, None, what)]


def _look_at_training(case: TrainingCase) -> _Looked:
    """Check the attributes of a case in the training store, and the metadata of its arrays."""
    if not (case.root / case.path).is_dir():
        return _Looked(case.case, (Damage(case.case, case.configuration, None, MISSING),))
    what = zarr_stores.metadata_damage(case.root, case.path) or _other_attributes(case)
    damages = [Damage(case.case, case.configuration, None, what)] if what else []
    found = [
        _open(case.root, case.path, case.configuration, case.case, name, *layout)
        for name, layout in case.layouts().items()
    ]
    damages += [x for x in found if isinstance(x, Damage)]
    return _Looked(case.case, tuple(damages), tuple(x for x in found if not isinstance(x, Damage)))


OTHER_PLAN = "was made by another plan: plan.json was changed since, or is damaged"


def _other_attributes(case: TrainingCase) -> str | None:
    """Describe attributes of another plan, or attributes that preprocess would not write; None if good."""
    if case.is_stale:
        return OTHER_PLAN
    expected: Any = None
    with suppress(StoreError, ValueError):  # damage in the raw store is reported with the raw store
        expected = json.loads(json.dumps(attributes_of(case)))  # tuples become lists, as in the file
    is_same = expected in (None, zarr_stores.read_attributes(case.root, case.path))
    return None if is_same else "says something else of itself than the plan and the raw store"


def _open(
    root: Path,
    group: str,
    label: str,
    case: str,
    name: str,
    shape: Sequence[int] | None,
    dtype: Any,
    chunk: Sequence[int] | None = None,
    shard: Sequence[int] | None = None,
) -> Damage | tuple[str, ShardedArray]:
    """Open an array of a case, or return what is wrong with its metadata."""
    path, label = f"{group}/{name}", f"{label}/{name}"
    what = zarr_stores.metadata_damage(root, path)
    try:
        array = zarr_stores.open_array(root, path)
    except StoreError:
        return Damage(case, label, None, what or "has damaged metadata")
    expected = (
        tuple(shape or array.shape),
        np.dtype(dtype),
        tuple(chunk or array.chunks),
        tuple(shard or array.shards),
    )
    if (array.shape, array.dtype, array.chunks, array.shards) != expected:
        what = f"has shape {array.shape} {array.dtype}, expected {expected[0]} {expected[1]}"
    return (label, array) if what is None else Damage(case, label, None, what)


# Shards


def _shards(array: ShardedArray) -> int:
    return math.prod(-(-n // s) for n, s in zip(array.shape, array.shards, strict=True))


def _tasks(looked: Sequence[_Looked]) -> Iterator[Task]:
    """Yield tasks with one step per shard; small shards share a task."""
    return in_groups(
        (
            (
                task(f"verify-{name}", x.case, check_shard, name, array, index),
                SHARD_BYTES + array.shard_box(index).size * array.dtype.itemsize,
            )
            for x in looked
            for name, array in x.arrays
            for index in array.shards_in(Box.whole(array.shape))
        ),
        GROUP_BYTES,
    )


def check_shard(name: str, array: ShardedArray, index: Index) -> tuple[int, str, Index, str | None]:
    """Read one shard.

    Returns
    -------
    size : int
        Bytes of the file; 0 if it cannot be read.
    name, index
        As given: they identify the shard in the result of a task that checks several.
    what : str or None
        What is wrong with it.
    """
    what = shard_damage(array, index)
    try:
        size = array.file(index).stat().st_size
    except OSError:
        size = 0
    return size, name, index, what


def _of_outcome(outcome: Outcome) -> list[Damage]:
    if outcome.value is None:
        array = outcome.name.removeprefix("verify-")
        return [Damage(outcome.case, array, None, f"could not be looked at: {outcome.cause}")]
    _, name, index, what = outcome.value
    return [] if what is None else [Damage(outcome.case, name, index, what)]


def _joined(damages: Sequence[Damage], looked: Sequence[_Looked]) -> list[Damage]:
    """Replace the missing shards of an array by one damage, if the array has several and all are missing."""
    missing: dict[tuple[str, str], int] = {}
    for damage in damages:
        if damage.shard is not None and damage.is_missing:
            key = damage.case, damage.array
            missing[key] = missing.get(key, 0) + 1
    shards = {(x.case, name): _shards(array) for x in looked for name, array in x.arrays}
    gone = {key: n for key, n in missing.items() if n == shards[key] > 1}
    kept = [d for d in damages if d.shard is None or (d.case, d.array) not in gone]
    return kept + [Damage(*key, None, f"{MISSING}, all {n} shards") for key, n in gone.items()]
