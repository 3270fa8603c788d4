"""Fingerprint + Config -> Plan: every decision of a run, and the memory that each stage takes.

Pure arithmetic: reads no voxel and no store.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from voxelmill import __version__
from voxelmill.basics.errors import PlanError
from voxelmill.basics.geometry import Box, Shape, Triple
from voxelmill.config.configuration_names import Configuration
from voxelmill.config.settings import Config
from voxelmill.kernels.clip_and_normalize import scheme_of
from voxelmill.kernels.statistics.voxel_values import is_narrow
from voxelmill.runtime.memory_budget import Memory, SlabCost, mask_cost, merge_bytes, values_cost
from voxelmill.stages.fingerprint.fingerprint_json import CaseFingerprint, Fingerprint
from voxelmill.stages.planning.patch_size import SMALL_PATCH, lowres_spacing, patch_size
from voxelmill.stages.planning.plan_json import REVISION, CasePlan, ConfigurationPlan, Plan
from voxelmill.stages.planning.shard_pieces import fit_piece
from voxelmill.stages.planning.spacing_rules import new_shape, separate_axis, target_spacing
from voxelmill.storage.chunk_and_shard_shapes import chunk_shape, shard_shape

T = TypeVar("T")


def make_plan(fingerprint: Fingerprint, config: Config, threads: int = 1) -> Plan:
    """Make every decision of a run.

    Parameters
    ----------
    fingerprint : Fingerprint
        Facts of the dataset.
    config : Config
        The user's settings.
    threads : int
        Tasks that a worker runs at a time.

    Raises
    ------
    PlanError
        If the number of channel names does not match the channels, a CT channel has no foreground, the labels
        fit no integer type, or the only configuration asked for is one that the dataset does not need.
    MemoryLimitError
        If a piece of the training set does not fit into a worker's memory.
    """
    names = _channel_names(fingerprint, config)
    schemes = tuple(scheme_of(name) for name in names)
    _check_statistics(fingerprint, schemes)
    target = config.target_spacing or target_spacing(fingerprint.spacings, fingerprint.shapes_after_crop)
    masked = fingerprint.median_relative_size_after_cropping < 0.75  # nnU-Net's threshold
    targets, left_out = _targets(fingerprint, config, target)
    configurations = {
        name: ConfigurationPlan(
            target_spacing=of_name,
            normalization=schemes,
            use_mask_for_norm=tuple(masked and scheme == "ZScoreNormalization" for scheme in schemes),
            cases=_plan_cases(fingerprint.cases, config, name, of_name),
        )
        for name, of_name in targets.items()
    }
    plan = Plan(
        revision=REVISION,
        version=__version__,
        settings=config,
        channel_names=names,
        intensity=fingerprint.foreground_intensity_properties_per_channel,
        label_dtype=_label_dtype(fingerprint, config),
        ignore_label=fingerprint.ignore_label,
        configurations=configurations,
        left_out=left_out,
        peak_bytes={},
    )
    memory = Memory(config.memory_limit, threads)
    return plan.model_copy(update={"peak_bytes": peak_bytes(plan, fingerprint, memory)})


def refit(plan: Plan, cases: Mapping[str, CaseFingerprint], threads: int = 1) -> Plan:
    """Return a plan with the same decisions for other cases; compute only their rows and the memory again.

    Raises
    ------
    MemoryLimitError
        If a piece of the training set does not fit into a worker's memory.
    """
    settings, memory = plan.settings, Memory(plan.settings.memory_limit, threads)
    configurations = {
        name: of.model_copy(update={"cases": _plan_cases(cases, settings, name, of.target_spacing)})
        for name, of in plan.configurations.items()
    }
    other = plan.model_copy(update={"configurations": configurations})
    return other.model_copy(update={"peak_bytes": _peak_bytes(other, cases, memory, other.needs_mask)})


def _channel_names(fingerprint: Fingerprint, config: Config) -> tuple[str, ...]:
    names = config.channels or fingerprint.channel_names
    for case, facts in fingerprint.cases.items():
        if facts.channels != len(names):
            raise PlanError(
                f"case {case} has {facts.channels} channels, but {len(names)} are named "
                f"({', '.join(names)}). Name each channel once: --set 'channels=[...]'."
            )
    return tuple(names)


def _check_statistics(fingerprint: Fingerprint, schemes: Sequence[str]) -> None:
    for channel, scheme in enumerate(schemes):
        if (
            scheme == "CTNormalization"
            and str(channel) not in fingerprint.foreground_intensity_properties_per_channel
        ):
            raise PlanError(
                f"channel {channel} is CT, whose normalisation needs foreground statistics, but no label of "
                "any case has foreground. Check the labels, or choose --set 'channels=[\"zscore\"]'."
            )


def _targets(
    fingerprint: Fingerprint, config: Config, target: Triple
) -> tuple[dict[Configuration, Triple], dict[Configuration, str]]:
    """Return each configuration's target spacing, and why others are left out; `target` is for fullres."""
    targets: dict[Configuration, Triple] = dict.fromkeys(config.configurations, target)
    if "lowres" not in targets:
        return targets, {}
    sizes = zip(fingerprint.shapes_after_crop, fingerprint.spacings, strict=True)
    median = _three(np.median([new_shape(n, s, target) for n, s in sizes], axis=0).tolist())
    lowres = lowres_spacing(target, median, fingerprint.classes)
    if lowres is not None:
        return {**targets, "lowres": lowres}, {}
    reason = _why_no_lowres(target, median, fingerprint.classes)
    del targets["lowres"]
    if not targets:
        raise PlanError(
            f"lowres alone is asked for, but nnU-Net makes none for this dataset: {reason}. "
            "Choose --set 'configurations=[\"fullres\"]'."
        )
    return targets, {"lowres": reason}


def _why_no_lowres(target: Triple, median: tuple[float, float, float], classes: int) -> str:
    patch = patch_size(target, median, classes)
    if median[int(np.argmax(target))] == 1:
        return "its cases are single slices"
    share = math.prod(patch) / math.prod(median)
    words = "x".join(str(n) for n in patch), "x".join(f"{n:g}" for n in median)
    fullres = f"a fullres patch, {words[0]}, holds {share:.0%} of the median case, {words[1]}"
    if share >= SMALL_PATCH:
        return f"{fullres}, and {SMALL_PATCH:.0%} is enough"
    return f"{fullres}, and {SMALL_PATCH:.0%} would need more than half of its voxels"


def _plan_cases(
    cases: Mapping[str, CaseFingerprint], config: Config, name: Configuration, target: Triple
) -> dict[str, CasePlan]:
    chunk = config.store.chunk or chunk_shape(target, name)
    return {
        case: _plan_case(facts, config, _case_target(facts, name, target), chunk)
        for case, facts in cases.items()
    }


def _plan_case(facts: CaseFingerprint, config: Config, target: Triple, chunk: Shape) -> CasePlan:
    shape = new_shape(Box.from_bounds(facts.crop_box).shape, facts.spacing, target)
    inner = _three(min(c, n) for c, n in zip(chunk, shape, strict=True))
    is_separable = config.separate_axis == "auto"
    return CasePlan(
        source_shape=facts.shape,
        source_spacing=facts.spacing,
        crop_box=facts.crop_box,
        shape=shape,
        target_spacing=target,
        separate_axis=separate_axis(facts.spacing, target) if is_separable else None,
        chunk=inner,
        shard=shard_shape(shape, inner, 4 * facts.channels, config.store.shard_mib * 2**20),
        channels=facts.channels,
        has_label=facts.label_dtype is not None,
        source=facts.source,
        repairs=facts.repairs,
        read_bytes=facts.read_bytes,
    )


def _case_target(facts: CaseFingerprint, name: Configuration, target: Triple) -> Triple:
    """Return a case's target spacing; in "2d" the axis of largest spacing keeps the case's own spacing."""
    if name != "2d":
        return target
    across = int(np.argmax(target))
    return _three(facts.spacing[axis] if axis == across else target[axis] for axis in range(3))


def _label_dtype(fingerprint: Fingerprint, config: Config) -> str | None:
    """Return the smallest integer type for every label of the dataset, or None if no case has a label."""
    ranges = [c.label_range for c in fingerprint.cases.values() if c.label_range is not None]
    if not ranges:
        return None
    lowest = min(config.outside_label, *(low for low, _ in ranges))
    highest = max(high for _, high in ranges)
    kind = "ui"[lowest < 0]
    types = [np.dtype(f"{kind}{bytes_}") for bytes_ in (1, 2, 4, 8)]
    holding = [t for t in types if np.iinfo(t).min <= lowest and highest <= np.iinfo(t).max]
    if not holding:
        raise PlanError(
            f"labels from {lowest} to {highest} fit no integer type. Renumber them, or set outside_label=0."
        )
    return str(holding[0])


def peak_bytes(plan: Plan, fingerprint: Fingerprint, memory: Memory) -> dict[str, int]:
    """Return the largest resident memory of a worker process in bytes, by stage.

    Raises
    ------
    MemoryLimitError
        If a piece of the training set does not fit.
    """
    cases = fingerprint.cases
    is_masked = fingerprint.statistics_from != "label"
    values = max(_values_bytes(c, memory) for c in cases.values())
    merging = merge_bytes(len(plan.channel_names), len(cases))
    masks = max(_mask_bytes(c, memory, is_masked) for c in cases.values())
    return {
        "fingerprint": memory.worker_bytes(max(merging, values, masks)),
        **_peak_bytes(plan, cases, memory, is_masked or plan.needs_mask),
    }


def _peak_bytes(
    plan: Plan, cases: Mapping[str, CaseFingerprint], memory: Memory, is_masked: bool
) -> dict[str, int]:
    """Return the memory of ingest and preprocess, which every run has."""
    shards = [
        fit_piece(plan.work(name, case), memory)[1]
        for name, of in plan.configurations.items()
        for case in of.cases
    ]
    masks = [_mask_bytes(c, memory, is_masked) for c in cases.values()]
    tasks = {
        "ingest": max(_ingest_bytes(c, memory) for c in cases.values()),
        "preprocess": max(*shards, *masks),
    }
    return {stage: memory.worker_bytes(task) for stage, task in tasks.items()}


def _ingest_bytes(case: CaseFingerprint, memory: Memory) -> int:
    image, label = case.image_cost, case.label_cost
    return max(_slabs(case, image, memory), 0 if label is None else _slabs(case, label, memory))


def _mask_bytes(case: CaseFingerprint, memory: Memory, is_needed: bool) -> int:
    crop = Box.from_bounds(case.crop_box)
    cost = mask_cost(crop.size // crop.shape[0], case.read_bytes)
    return cost.bytes(cost.fitting_depth(crop.shape, memory)) if is_needed else 0


def _values_bytes(case: CaseFingerprint, memory: Memory) -> int:
    """Return the bytes of the second pass for percentiles, which types of more than 16 bits need."""
    if is_narrow(case.dtype):
        return 0
    return _slabs(case, values_cost(case.plane, case.label_dtype is not None, case.read_bytes), memory)


def _slabs(case: CaseFingerprint, cost: SlabCost, memory: Memory) -> int:
    """Return the bytes of a pass over the slabs of a case."""
    return cost.bytes(max(1, cost.depth(case.shape, memory)))


def _three(values: Iterable[T]) -> tuple[T, T, T]:
    a, b, c = values
    return a, b, c
