"""Raw store + Plan -> training store: crop, normalise and resample, one task per shard.

In: OUT with a raw store and a plan. Out: OUT/training.zarr/<configuration>/<case>/{image,label}. A task
reads the box of the source that its shard needs, computes the shard, in pieces if memory is short, and writes
it whole. No two tasks write the same object. Whole shards with the same settings token are kept, so a rerun
computes only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import Box, Geometry
from voxelmill.basics.stage_share import Share
from voxelmill.kernels import clip_and_normalize
from voxelmill.kernels.backend import compute
from voxelmill.kernels.clip_and_normalize import Normalization
from voxelmill.kernels.resampling.images import resample_block
from voxelmill.kernels.resampling.labels import resample_labels_block
from voxelmill.kernels.statistics.channel_facts import value_range
from voxelmill.runtime.memory_budget import Memory
from voxelmill.runtime.stage_engine import Engine
from voxelmill.runtime.step_progress import did, expect
from voxelmill.runtime.tasks import Outcome, Task, in_groups, task, together
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.planning.shard_pieces import fit_piece
from voxelmill.stages.preprocessing.training_store import (
    TrainingCase,
    deal,
    lacking_mask,
    missing_of,
    training_cases,
)
from voxelmill.storage import zarr_stores
from voxelmill.storage.lease import live_ids
from voxelmill.storage.partial_files import RUN, sweep
from voxelmill.storage.shard_files import ArrayWriter

Array = npt.NDArray[Any]


GROUP_VOXELS = 2**22
"""Small cases share a task up to this many voxels, about 0.1 s of work."""

CASE_VOXELS = 2**17
"""Voxels that are added for each case, since any case takes some time."""


def preprocess(out: Path, plan: Plan, engine: Engine, share: Share | None = None) -> list[Outcome]:
    """Make every shard of the plan that is not whole yet, within the memory limit of the plan's settings.

    A case that fails leaves nothing behind. If only a worker was lost, or memory ran short, its whole shards
    are kept for a rerun.

    Parameters
    ----------
    out, plan, engine : Path, Plan, Engine
        OUT with a raw store, the plan to carry out, and the engine that runs the tasks.
    share : Share, optional
        Make only this share of the shards; other processes may work on OUT at the same time.

    Returns
    -------
    list of Outcome
        One per case and configuration; `value` is its number of voxels, channels counted.

    Raises
    ------
    MemoryLimitError
        Before any work, if a piece of a shard does not fit.
    """
    root, outcomes = out / zarr_stores.TRAINING, list[Outcome]()
    memory = Memory(plan.settings.memory_limit, engine.threads)
    check_memory(plan, memory)
    for group in ("", *plan.configurations):
        zarr_stores.write_group(root, group, {})
        sweep(root / group, lambda: live_ids(out))
    for configuration in plan.configurations:
        cases = list(training_cases(out, plan, configuration, memory))
        if share is None:
            _remove_stale(cases)
        outcomes += _make(cases, deal(cases, share), engine, f"preprocess {configuration}")
    return outcomes


def check_memory(plan: Plan, memory: Memory) -> None:
    """Refuse a plan if a piece of a shard does not fit into memory.

    Raises
    ------
    MemoryLimitError
        The message states the memory that is enough.
    """
    for configuration, of in plan.configurations.items():
        for case in of.cases:
            fit_piece(plan.work(configuration, case), memory)


def _remove_stale(cases: Iterable[TrainingCase]) -> None:
    """Remove cases made under another token; never in a share, since other shares may be writing them."""
    for case in cases:
        if case.is_stale:
            zarr_stores.remove_group(case.root, case.path)


def _make(cases: Sequence[TrainingCase], dealt: Sequence[range], engine: Engine, stage: str) -> list[Outcome]:
    """Make the dealt shards that are not whole; remove a case that fails, if all its shards are ours."""
    waiting = _waiting(cases, dealt)
    left, total = sum(len(numbers) for _, numbers in waiting), sum(len(numbers) for numbers in dealt)
    _sweep([case for case, _ in waiting])
    done = engine.run(stage, _tasks(waiting, engine.uses_gpu), left, total - left)
    _sweep([case for case, _ in waiting], but=RUN.get())
    ours = {c.case: c for c, numbers in zip(cases, dealt, strict=True) if len(numbers) == c.plan.shards}
    for outcome in done:
        if outcome.cause is not None and outcome.trouble is None and outcome.case in ours:
            zarr_stores.remove_group(ours[outcome.case].root, ours[outcome.case].path)
    return done


def _waiting(cases: Sequence[TrainingCase], dealt: Sequence[range]) -> list[tuple[TrainingCase, list[int]]]:
    """Return the cases with their shards to make; a case that lacks only its mask has no shards to make."""
    mine = [(case, numbers) for case, numbers in zip(cases, dealt, strict=True) if numbers]
    missing = missing_of(case for case, _ in mine)
    lacking = lacking_mask(case for case, _ in mine)
    found = [
        (case, [n for n in of if n in numbers], is_lacking)
        for (case, numbers), of, is_lacking in zip(mine, missing, lacking, strict=True)
    ]
    return [(case, numbers) for case, numbers, is_lacking in found if numbers or is_lacking]


def _sweep(cases: Iterable[TrainingCase], but: str = "") -> None:
    """Remove what killed runs left in these cases, and what killed workers of the run `but` left.

    Called before and after the tasks of this run: a task that runs again, because its worker died, must not
    take the unfinished file of another task for a leftover.
    """
    for case in cases:
        live = partial(_live_but, case.out, but)
        sweep(case.root / case.path, live, whole=True)
        sweep(case.raw.root / case.case, live)


def _live_but(out: Path, run: str) -> frozenset[str]:
    return live_ids(out) - {run}


def _tasks(waiting: Sequence[tuple[TrainingCase, Sequence[int]]], uses_gpu: bool) -> Iterator[Task]:
    """Yield the tasks of all cases; cases are finished one after another, and can be used for training."""
    return in_groups(
        (
            made
            for rank, (case, numbers) in enumerate(waiting)
            for made in _case_tasks(case, numbers, rank, uses_gpu)
        ),
        GROUP_VOXELS,
    )


def _case_tasks(
    case: TrainingCase, numbers: Sequence[int], rank: int, uses_gpu: bool
) -> Iterator[tuple[Task, int]]:
    """Yield the tasks of a case with their cost in voxels: one per shard, or one in all for a small case.

    The tasks of shards come after the task that prepares the case. With GPUs the image is a separate task, so
    that workers without a GPU make the labels.
    """
    name = f"{case.configuration}-{case.case}"
    cost = CASE_VOXELS + case.voxels + case.crop_box.size
    prepare = task(f"prepare-{name}", case.case, prepare_case, case, rank=rank)
    if not numbers:
        yield prepare, cost
        return
    if cost <= GROUP_VOXELS:
        shards = [task(f"shard-{name}-{n}", case.case, write_shard, case, n, rank=rank) for n in numbers]
        yield replace(together([prepare, *shards]), on_gpu=uses_gpu), cost
        return
    parts = [("image", True), ("label", False)] if uses_gpu else [(None, False)]
    for number in numbers:
        for part, on_gpu in parts[: 1 + case.has_label]:
            what = f"{part or 'shard'}-{name}-{number}"
            yield (
                task(
                    what,
                    case.case,
                    write_shard,
                    case,
                    number,
                    part,
                    after=[prepare],
                    rank=rank,
                    on_gpu=on_gpu,
                ),
                cost,
            )


def prepare_case(case: TrainingCase) -> None:
    """Create the case's mask, group and arrays."""
    if case.needs_mask:
        case.raw.make_mask(case.memory)
    case.create(attributes_of(case))


def attributes_of(case: TrainingCase) -> dict[str, Any]:
    """Return the attributes of a case's group: grid, source, normalisation, repairs and settings token."""
    record = case.raw.record
    source = record.geometry
    geometry: Geometry = source.crop(case.crop_box).resample(case.plan.shape)
    return {
        **geometry.to_attributes(),
        "source_shape": list(source.shape),
        "source_spacing": list(source.spacing),
        "crop_box": case.crop_box.bounds,
        "target_spacing": list(case.plan.target_spacing),
        "channel_names": list(case.channel_names),
        "normalization": [
            {**vars(normalization(case, channel)), "masked": case.use_mask_for_norm[channel]}
            for channel in range(case.plan.channels)
        ],
        "repairs": [repair.model_dump() for repair in record.repairs],
        "settings": case.token,
    }


def write_shard(case: TrainingCase, number: int, only: Literal["image", "label"] | None = None) -> int | None:
    """Compute and write one shard of the image and of the label, or of `only` one of them.

    Returns the number of the image's voxels, channels counted; None for the label alone.
    """
    box = case.plan.write_box(number)
    piece, needed = fit_piece(case.work, case.memory)
    pieces = list(case.work.pieces(box, piece))
    arrays = (only != "label") * case.plan.channels + (case.has_label and only != "image")
    expect(arrays * box.size)
    with case.memory.hold(needed):
        if only != "label":
            with _writer(case, "image") as image:
                for channel in range(case.plan.channels):
                    for part in pieces:
                        image.write((channel, *part.start), image_block(case, channel, part)[None])
                        did(part.size)
        if case.has_label and only != "image":
            with _writer(case, "label") as label:
                for part in pieces:
                    label.write(part.start, label_block(case, part))
                    did(part.size)
    return None if only == "label" else case.plan.channels * box.size


@contextmanager
def _writer(case: TrainingCase, name: str) -> Iterator[ArrayWriter]:
    """Yield the writer for the shards of an array.

    A worker may go on for a while after its run was killed, beside the next run. If that run has already
    created the case again, perhaps with other settings, writing is refused here; if it does so later, the
    writer refuses.
    """
    with zarr_stores.open_array(case.root, f"{case.path}/{name}").writer() as pieces:
        case.check()
        yield pieces


def image_block(case: TrainingCase, channel: int, write: Box) -> Array:
    """Return one channel of a write box (z, y, x): read; then normalise, resample and clip on the device."""
    rule = case.work.image
    read = rule.read_box(write)
    scheme = normalization(case, channel)
    clip = clip_range(case, channel, scheme)

    def make(block: Any, mask: Any) -> Any:
        return resample_block(
            scheme.apply(block, mask),
            read,
            rule.shape_in,
            rule.shape_out,
            write,
            order=rule.order,
            separate_axis=rule.separate_axis,
            order_separate=rule.order_separate,
            anti_alias=rule.anti_alias,
            clip=clip,
        )

    mask = case.raw.mask(read) if case.use_mask_for_norm[channel] else None
    return compute(make, case.raw.values(channel, read.shift(case.crop_box.start)), mask)


def label_block(case: TrainingCase, write: Box) -> Array:
    """Return the label of a write box (z, y, x): read, mark background outside the mask, resample."""
    rule, settings = case.work.label, case.settings
    read = rule.read_box(write)
    label = case.raw.label(read.shift(case.crop_box.start), case.label_dtype)
    if settings.outside_label != 0:
        for plane, inside in zip(label, case.raw.mask(read), strict=True):
            plane[(plane == 0) & ~inside] = settings.outside_label
    resampled: Array = resample_labels_block(
        label,
        read,
        rule.shape_in,
        rule.shape_out,
        write,
        method=settings.labels,
        separate_axis=rule.separate_axis,
    )
    return resampled


def normalization(case: TrainingCase, channel: int) -> Normalization:
    """Return the normalisation of a channel, with its parameters for this case."""
    scheme, facts = case.normalization[channel], case.raw.facts[channel]
    if scheme == "CTNormalization":
        of = case.intensity[str(channel)]
        return clip_and_normalize.ct(of.mean, of.std, of.percentile_00_5, of.percentile_99_5)
    if scheme == "ZScoreNormalization":
        voxels = case.crop_box.size
        if case.use_mask_for_norm[channel]:
            voxels = int(case.raw.mask_counts()[0].sum())
        return clip_and_normalize.zscore(voxels, facts.total, facts.squares)
    if scheme == "NoNormalization":
        return Normalization()
    low, high = (float(v) for v in value_range(facts, case.crop_box))
    return (clip_and_normalize.rgb_to_01 if scheme.startswith("RGB") else clip_and_normalize.rescale_to_01)(
        low, high
    )


def clip_range(case: TrainingCase, channel: int, scheme: Normalization) -> tuple[Array, Array]:
    """Return the lowest and highest normalised value of a channel's crop; of each slice of a separate axis.

    Normalisation is monotone, so this is the normalised range of the raw values. Voxels outside the mask are
    not normalised and are zero, so if there are any, the range includes zero.
    """
    facts, crop, axis = case.raw.facts[channel], case.crop_box, case.plan.separate_axis
    if not case.use_mask_for_norm[channel]:
        return scheme.apply_range(*value_range(facts, crop, axis))
    inside = case.raw.mask_counts()[axis or 0]
    area = crop.size // crop.shape[axis or 0]
    if axis is None:
        inside, area = np.asarray(inside.sum()), crop.size
    return scheme.apply_range(*value_range(facts, crop, axis, inside), outside=inside < area)
