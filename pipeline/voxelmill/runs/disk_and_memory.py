"""Whether OUT's disk has room for what a plan will make.

In: OUT and a plan. Out: bytes, or a `PlanError` that says what is lacking. Reads the training store's shards
only where the disk has less room than the whole of it takes.
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
    """Refuse a plan that OUT's disk has no room for, before compression, unless `check_disk` is off.

    Parameters
    ----------
    out, plan
        What is whole already takes nothing more.
    replaced : iterable of (configuration, case)
        What is removed before.

    Raises
    ------
    PlanError
        With both sizes, and with what looks wrong.
    """
    free = free_bytes(out)
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
    """Room on the disk of a folder that may not be there yet."""
    return shutil.disk_usage(next(p for p in (out, *out.absolute().parents) if p.exists())).free


def bytes_to_make(out: Path, plan: Plan) -> int:
    """Uncompressed bytes of the shards of a plan that are not whole."""
    cases = [c for name in plan.configurations for c in training_cases(out, plan, name, Memory())]
    found = zip(cases, missing_of(cases), strict=True)
    return sum(_bytes(case) * len(shards) // case.plan.shards for case, shards in found)


def _bytes(case: TrainingCase) -> int:
    label = np.dtype(case.label_dtype).itemsize if case.has_label else 0
    return case.plan.image_bytes + label * math.prod(case.plan.shape)


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} TiB"


def say_memory(plan: Plan, workers: int) -> None:
    """What the run will take, and whether this machine has it."""
    peak, total = max(plan.peak_bytes.values()), psutil.virtual_memory().total
    logger.info("plan: a worker takes at most %.0f MiB of memory", peak / 2**20)
    if workers * peak > total:
        logger.warning(
            "%d workers may take %.1f GiB, this machine has %.1f GiB: pass --memory-limit or fewer --workers",
            workers,
            workers * peak / 2**30,
            total / 2**30,
        )
