"""Checks before preprocessing: free space on OUT's disk, and memory of this machine.

In: OUT and a plan. Out: bytes, a line in the log, or a `PlanError` with both sizes. The shards of the
training store are looked at only if the disk has less room than the whole store takes.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil

from voxelmill.basics.errors import PlanError
from voxelmill.runtime.memory_budget import Memory
from voxelmill.stages.planning.plan_doubts import doubts
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.preprocessing.training_store import TrainingCase, missing_of, training_cases
from voxelmill.storage import zarr_stores

logger = logging.getLogger("voxelmill")


def check_room(out: Path, plan: Plan, replaced: Iterable[tuple[str, str]] = ()) -> None:
    """Refuse a plan whose uncompressed shards do not fit on OUT's disk, unless `check_disk` is off.

    Parameters
    ----------
    out : Path
    plan : Plan
        Shards that are already complete need no more room.
    replaced : iterable of (configuration, case)
        Groups of the training store that are removed first; their bytes count as free.

    Raises
    ------
    PlanError
        States both sizes, and the first case that looks wrong.
    """
    free = free_bytes(out)
    # With room for the whole store no shard has to be looked at, which is slow on a network disk.
    if not plan.settings.check_disk or free > plan.training_bytes:
        return
    free += sum(
        _size_of(out / zarr_stores.TRAINING / configuration / case) for configuration, case in replaced
    )
    needed = bytes_to_make(out, plan)
    if free > needed:
        return
    wrong = "".join(f" Case {case} looks wrong: {reason}" for case, reason in list(doubts(plan).items())[:1])
    raise PlanError(
        f"what is still to be made of the training set takes {size(needed)} before compression, OUT's disk "
        f"has {size(free)}.{wrong} Make room, correct spacings or target_spacing, or go on all the same: "
        "--set check_disk=false."
    )


def free_bytes(out: Path) -> int:
    """Return the free bytes on the disk of a folder that need not exist yet."""
    return shutil.disk_usage(next(p for p in (out, *out.absolute().parents) if p.exists())).free


def bytes_to_make(out: Path, plan: Plan) -> int:
    """Return the uncompressed bytes of the shards of a plan that are missing or incomplete."""
    cases = [c for name in plan.configurations for c in training_cases(out, plan, name, Memory())]
    found = zip(cases, missing_of(cases), strict=True)
    # An estimate: shards at the upper edges of a volume are smaller than the mean.
    return sum(_bytes(case) * len(shards) // case.plan.shards for case, shards in found)


def _bytes(case: TrainingCase) -> int:
    label = np.dtype(case.label_dtype).itemsize if case.has_label else 0
    return case.plan.image_bytes + label * math.prod(case.plan.shape)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def size(count: float) -> str:
    """Format a number of bytes, with a binary unit."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"


def say_memory(plan: Plan, workers: int) -> None:
    """Log the planned peak memory of a worker, and warn if all workers together exceed this machine's."""
    peak, total = max(plan.peak_bytes.values()), psutil.virtual_memory().total
    logger.info("plan: a worker takes at most %.0f MiB of memory", peak / 2**20)
    if workers * peak > total:
        logger.warning(
            "%d workers may take %.1f GiB, this machine has %.1f GiB: pass --memory-limit or fewer --workers",
            workers,
            workers * peak / 2**30,
            total / 2**30,
        )
