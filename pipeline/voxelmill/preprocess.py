"""Raw store + Plan -> training store: crop, normalise and resample, one shard a task.

In: OUT with a raw store and a plan. Out: OUT/training.zarr/<configuration>/<case>/{image,label}. A task
reads the box of the source that its shard needs, computes it and writes it whole, in pieces where memory is
short; no two tasks touch one object. What is whole under the same settings token is kept, so a rerun computes
what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill import store
from voxelmill.blocks import Work, fit_piece
from voxelmill.cases import RawCase
from voxelmill.config import Config, Configuration
from voxelmill.errors import StoreError
from voxelmill.fingerprint import Intensity
from voxelmill.geometry import Box, Geometry
from voxelmill.graph import Engine, Outcome, Task, task
from voxelmill.kernels import normalize
from voxelmill.kernels.facts import value_range
from voxelmill.kernels.labels import resample_labels_block
from voxelmill.kernels.normalize import Normalization
from voxelmill.kernels.resample import resample_block
from voxelmill.memory import Memory
from voxelmill.plan import CasePlan, Plan

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know to make shards of one case in one configuration."""

    out: Path
    case: str
    configuration: Configuration
    token: str
    plan: CasePlan
    work: Work
    settings: Config
    channel_names: tuple[str, ...]
    normalization: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    intensity: dict[str, Intensity]
    label_dtype: str | None
    memory: Memory

    @property
    def root(self) -> Path:
        """The training store."""
        return self.out / store.TRAINING

    @property
    def path(self) -> str:
        """The case's group."""
        return f"{self.configuration}/{self.case}"

    @cached_property
    def raw(self) -> RawCase:
        """The case's source."""
        return RawCase(self.out, self.case)

    @property
    def crop_box(self) -> Box:
        """Box of the source grid that is resampled."""
        return Box.from_bounds(self.plan.crop_box)

    @property
    def needs_mask(self) -> bool:
        """Whether a voxel of this case depends on the filled non-zero mask."""
        return any(self.use_mask_for_norm) or (self.has_label and self.settings.outside_label != 0)

    @property
    def has_label(self) -> bool:
        """Whether the case has a label."""
        return self.label_dtype is not None and self.plan.has_label


def preprocess(out: Path, plan: Plan, engine: Engine) -> list[Outcome]:
    """Make every shard of the plan that is not whole yet, within the memory that the plan's settings give.

    A case that fails leaves nothing behind, but where a worker was lost, or memory is too little, whole
    shards are kept for a rerun.

    Returns
    -------
    list of Outcome
        One a shard; `value` is its number of voxels.

    Raises
    ------
    MemoryLimitError
        Before any work, if a piece of a shard does not fit.
    """
    root = out / store.TRAINING
    store.write_group(root, "", {})
    store.sweep(root)
    outcomes = []
    for configuration in plan.configurations:
        store.write_group(root, configuration, {})
        store.sweep(root, configuration)
        jobs = _jobs(out, plan, configuration, Memory(plan.settings.memory_limit, engine.threads))
        waiting = [(job, box) for job in jobs for box in _missing(job)]
        for job in jobs:
            fit_piece(job.work, job.memory)
        _sweep(waiting)
        kept = sum(job.plan.shards for job in jobs) - len(waiting)
        done = engine.run(f"preprocess {configuration}", _tasks(waiting), len(waiting), kept)
        for case in {o.case for o in done if o.cause is not None and not (o.is_lost or o.is_refused)}:
            store.remove_group(root, f"{configuration}/{case}")
        outcomes += done
    return outcomes


def _jobs(out: Path, plan: Plan, configuration: Configuration, memory: Memory) -> list[Job]:
    of = plan.configurations[configuration]
    return [
        Job(
            out,
            case,
            configuration,
            plan.token(configuration, case),
            case_plan,
            plan.work(configuration, case),
            plan.settings,
            plan.channel_names,
            of.normalization,
            of.use_mask_for_norm,
            plan.intensity,
            plan.label_dtype,
            memory,
        )
        for case, case_plan in of.cases.items()
    ]


def _missing(job: Job) -> list[Box]:
    """Write boxes of the shards that are not whole."""
    attributes = store.read_attributes(job.root, job.path)
    boxes = dict(job.plan.write_boxes())
    if attributes is None or attributes["settings"] != job.token:
        return list(boxes.values())
    arrays = ["image", "label"] if job.has_label else ["image"]
    try:
        found = [store.open_array(job.root, f"{job.path}/{name}").missing_shards() for name in arrays]
    except StoreError:
        return list(boxes.values())
    missing = {index[-3:] for indices in found for index in indices}
    return [box for index, box in boxes.items() if index in missing]


def _sweep(waiting: list[tuple[Job, Box]]) -> None:
    """Remove what a killed run left in the cases that are to be worked on.

    Here, while no task runs: a task that is run again, because its worker died, must not take what another
    is writing for a leftover.
    """
    for job in {job.case: job for job, _ in waiting}.values():
        store.sweep(job.root, job.path, whole=True)
        store.sweep(job.raw.root, job.case)


def _tasks(waiting: list[tuple[Job, Box]]) -> Iterator[Task]:
    """One task a shard, after the one that prepares its case."""
    prepared: Task | None = None
    for job, box in waiting:
        name = f"prepare-{job.configuration}-{job.case}"
        if prepared is None or prepared.name != name:
            prepared = task(name, job.case, prepare_case, job)
        where = ".".join(str(i) for i in box.start)
        yield task(
            f"shard-{job.configuration}-{job.case}-{where}", job.case, write_shard, job, box, after=[prepared]
        )


def prepare_case(job: Job) -> None:
    """Make the case's group, arrays and mask; shards made under other settings are removed first."""
    attributes = store.read_attributes(job.root, job.path)
    if attributes is None or attributes["settings"] != job.token:
        store.remove_group(job.root, job.path)
    if job.needs_mask:
        job.raw.make_mask(job.memory)
    store.write_group(job.root, job.path, _attributes(job))
    plan, layout = job.plan, job.settings.store
    store.create_array(
        job.root,
        f"{job.path}/image",
        (plan.channels, *plan.shape),
        np.float32,
        (1, *plan.chunk),
        (plan.channels, *plan.shard),
        layout,
    )
    if job.label_dtype is not None and job.has_label:
        store.create_array(
            job.root, f"{job.path}/label", plan.shape, job.label_dtype, plan.chunk, plan.shard, layout
        )


def _attributes(job: Job) -> dict[str, Any]:
    source = job.raw.record.geometry
    geometry: Geometry = source.crop(job.crop_box).resample(job.plan.shape)
    return {
        **geometry.to_attributes(),
        "source_shape": list(source.shape),
        "source_spacing": list(source.spacing),
        "crop_box": job.crop_box.bounds,
        "target_spacing": list(job.plan.target_spacing),
        "channel_names": list(job.channel_names),
        "normalization": [
            {**vars(normalization(job, channel)), "masked": job.use_mask_for_norm[channel]}
            for channel in range(job.plan.channels)
        ],
        "settings": job.token,
    }


def write_shard(job: Job, box: Box) -> int:
    """Compute and write one shard of the image and of the label; returns its number of voxels."""
    piece, task = fit_piece(job.work, job.memory)
    pieces = list(job.work.pieces(box, piece))
    with job.memory.hold(task):
        with store.open_array(job.root, f"{job.path}/image").writer() as image:
            for channel in range(job.plan.channels):
                for part in pieces:
                    image.write((channel, *part.start), image_block(job, channel, part)[None])
        if job.has_label:
            with store.open_array(job.root, f"{job.path}/label").writer() as label:
                for part in pieces:
                    label.write(part.start, label_block(job, part))
    return job.plan.channels * box.size


def image_block(job: Job, channel: int, write: Box) -> Array:
    """One channel of a write box: read, normalise, resample, clip."""
    rule = job.work.image
    read = rule.read_box(write)
    block = job.raw.values(channel, read.shift(job.crop_box.start))
    scheme = normalization(job, channel)
    mask = job.raw.mask(read) if job.use_mask_for_norm[channel] else None
    scheme.apply(block, mask)
    del mask
    resampled: Array = resample_block(
        block,
        read,
        rule.shape_in,
        rule.shape_out,
        write,
        order=rule.order,
        separate_axis=rule.separate_axis,
        order_separate=rule.order_separate,
        anti_alias=rule.anti_alias,
        clip=clip_range(job, channel, scheme),
    )
    return resampled


def label_block(job: Job, write: Box) -> Array:
    """The label of a write box: read, mark what lies outside the mask, resample."""
    rule, settings = job.work.label, job.settings
    read = rule.read_box(write)
    label = job.raw.label(read.shift(job.crop_box.start), job.label_dtype)
    if settings.outside_label != 0:
        for plane, inside in zip(label, job.raw.mask(read), strict=True):
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


def normalization(job: Job, channel: int) -> Normalization:
    """The scheme of a channel with its parameters for this case."""
    scheme, facts = job.normalization[channel], job.raw.facts[channel]
    if scheme == "CTNormalization":
        of = job.intensity[str(channel)]
        return normalize.ct(of.mean, of.std, of.percentile_00_5, of.percentile_99_5)
    if scheme == "ZScoreNormalization":
        voxels = job.crop_box.size
        if job.use_mask_for_norm[channel]:
            voxels = int(job.raw.mask_counts()[0].sum())
        return normalize.zscore(voxels, facts.total, facts.squares)
    if scheme == "NoNormalization":
        return Normalization()
    low, high = (float(v) for v in value_range(facts, job.crop_box))
    return (normalize.rgb_to_01 if scheme.startswith("RGB") else normalize.rescale_to_01)(low, high)


def clip_range(job: Job, channel: int, scheme: Normalization) -> tuple[Array, Array]:
    """Range of the normalised crop of one channel; of each slice where an axis is separate.

    Normalisation is monotone, so this is the normalised range of the raw values. Zero belongs to it where
    a voxel is zero, as it is outside the mask, where nothing is normalised.
    """
    facts, crop, axis = job.raw.facts[channel], job.crop_box, job.plan.separate_axis
    if not job.use_mask_for_norm[channel]:
        return scheme.apply_range(*value_range(facts, crop, axis))
    inside = job.raw.mask_counts()[axis or 0]
    area = crop.size // crop.shape[axis or 0]
    if axis is None:
        inside, area = inside.sum(), crop.size
    return scheme.apply_range(*value_range(facts, crop, axis, inside), outside=inside < area)
