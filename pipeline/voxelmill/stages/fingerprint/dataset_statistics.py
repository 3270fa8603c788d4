"""Facts of the cases -> Fingerprint: exact intensity statistics of the dataset, merged in a tree.

All cases have the same weight, as in nnU-Net, which draws the same number of foreground voxels from each: a
histogram is divided by its count before it is added. Percentiles are exact, by two passes over histograms of
order-preserving 32-bit keys: the high 16 bits give the bins that the percentiles fall in, the low 16 bits
in these bins give the values. The tree of merges has a fixed shape, so the bits do not depend on the cluster.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import Box, Shape
from voxelmill.kernels.statistics.channel_facts import Facts
from voxelmill.kernels.statistics.histogram import BINS, histogram_values, refine
from voxelmill.kernels.statistics.voxel_values import ZERO_KEY, is_narrow, keys_of, values_of
from voxelmill.runtime.memory_budget import CHANNELS_TOGETHER, FINE_HISTOGRAMS, Memory, fan_in, values_cost
from voxelmill.runtime.stage_engine import Engine
from voxelmill.runtime.tasks import Task, task, tree
from voxelmill.stages.fingerprint.fingerprint_json import CaseFingerprint, Fingerprint, Intensity
from voxelmill.stages.raw_store.raw_case import RawCase, read_dataset
from voxelmill.stages.raw_store.raw_records import CaseRecord

COARSE_FROM = 8
"""Cases share tasks only if more than this many tasks are left for each thread."""

PERCENTILES = (0.5, 50.0, 99.5)

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """The contribution of one or more cases; lists are over channels, then over cases.

    Attributes
    ----------
    cases : dict
        Facts of every case, with foreground or without.
    coarse : array (channels, 65536)
        Sum over cases of the foreground's histogram of high key halves, divided by its number of voxels.
    moments : list of (mean, variance) lists
        Of each case with foreground.
    low, high : arrays (channels,)
        Range of the foreground; +inf and -inf without foreground.
    labels : frozenset
        Every label that occurs.
    """

    cases: dict[str, CaseFingerprint]
    coarse: Weights
    moments: list[list[tuple[float, float]]]
    low: Weights
    high: Weights
    labels: frozenset[int]


def find_odd_cases(out: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the cases whose number of channels differs from most, each with a message."""
    channels = {name: RawCase(out, name).channels for name in names}
    usual = Counter(channels.values()).most_common(1)[0][0]
    return {
        name: f"has {n} channels, most cases have {usual}; all need the same. Mend it, or run it apart."
        for name, n in channels.items()
        if n != usual
    }


def make_fingerprint(out: Path, names: Sequence[str], engine: Engine, memory: Memory) -> Fingerprint:
    """Merge the facts of cases of OUT; all must have the same number of channels.

    Raises
    ------
    StageError
        If a case cannot be read.
    """
    dataset = read_dataset(out)
    masked = not any(RawCase(out, name).has_label for name in names)
    leaves = [task(f"fingerprint-{name}", name, summarise, out, name, masked, memory) for name in names]
    together = fan_in(RawCase(out, names[0]).channels)
    root = tree("fingerprint-merge", leaves, merge, together, _is_coarse(leaves, together, engine))
    summary: Summary = engine.one("fingerprint", root)
    bins = [_bins_wanted(weights) for weights in summary.coarse]
    fine = _refine(out, names, masked, bins, engine, memory)
    facts = list(summary.cases.values())
    sizes = [Box.from_bounds(c.crop_box).size / int(np.prod(c.shape)) for c in facts]
    return Fingerprint(
        spacings=[c.spacing for c in facts],
        shapes_after_crop=[_shape(Box.from_bounds(c.crop_box)) for c in facts],
        foreground_intensity_properties_per_channel={
            str(channel): _intensity(summary, channel, bins[channel], fine[channel])
            for channel in range(len(bins))
            if summary.moments[channel]
        },
        median_relative_size_after_cropping=float(np.median(sizes)),
        statistics_from="nonzero mask" if masked else "label",
        channel_names=dataset.channel_names or _default_names(out, names[0]),
        ignore_label=dataset.ignore_label,
        classes=len(dataset.labels or summary.labels | {0}),
        cases=summary.cases,
    )


def _refine(
    out: Path, names: Sequence[str], masked: bool, bins: list[list[int]], engine: Engine, memory: Memory
) -> list[Weights]:
    """Return for each channel the weights (bins, 65536) of all cases; some channels at a time."""
    ignore_label, fine = read_dataset(out).ignore_label, list[Weights]()
    for first in range(0, len(bins), CHANNELS_TOGETHER):
        group = dict(list(enumerate(bins))[first : first + CHANNELS_TOGETHER])
        leaves = [
            task(f"percentiles-{name}", name, refine_case, out, name, masked, group, ignore_label, memory)
            for name in names
        ]
        together = fan_in(FINE_HISTOGRAMS * len(group))
        root = tree("percentiles-merge", leaves, _add_all, together, _is_coarse(leaves, together, engine))
        fine += engine.one("fingerprint percentiles", root)
    return fine


def _is_coarse(leaves: Sequence[Task], together: int, engine: Engine) -> bool:
    """Whether cases share tasks: only if there are enough cases to keep all workers busy."""
    return len(leaves) > COARSE_FROM * together * engine.all_threads


def summarise(out: Path, case: str, masked: bool, memory: Memory) -> Summary:
    """Return one case's contribution; if `masked`, the foreground is the filled non-zero mask."""
    raw = RawCase(out, case)
    record, facts = raw.record, raw.facts
    zeros = _zeros_in_mask(raw, masked, memory)
    contributions = [
        _contribution(f, n) if masked or record.label else None for f, n in zip(facts, zeros, strict=True)
    ]
    coarse = np.zeros((record.channels, BINS))
    for channel, contribution in enumerate(contributions):
        if contribution is not None:
            coarse[channel] = _coarse_counts(raw, channel, zeros[channel]) / contribution.count
    return Summary(
        {case: case_facts(record)},
        coarse,
        [[] if c is None else [(c.mean, c.variance)] for c in contributions],
        np.array([np.inf if c is None else c.low for c in contributions]),
        np.array([-np.inf if c is None else c.high for c in contributions]),
        frozenset() if record.label is None else frozenset(record.label.counts),
    )


def case_facts(record: CaseRecord) -> CaseFingerprint:
    """Return the facts of one case that a plan needs, from its record."""
    label = record.label
    return CaseFingerprint(
        shape=record.shape,
        spacing=record.spacing,
        crop_box=record.crop_box,
        channels=record.channels,
        dtype=record.dtypes[0],
        label_dtype=None if label is None else label.dtype,
        label_range=None if label is None else (label.low, label.high),
        source=record.source,
        repairs=tuple(sorted({repair.setting for repair in record.repairs})),
        image_cost=record.image_cost,
        label_cost=record.label_cost,
        read_bytes=record.read_bytes,
    )


@dataclass(frozen=True)
class _Contribution:
    """Count, moments and range of the foreground of one channel of one case."""

    count: int
    mean: float
    variance: float
    low: float
    high: float


def _contribution(facts: Facts, zeros: int) -> _Contribution | None:
    """Return the moments of the foreground, with `zeros` further voxels of value 0; None if it is empty."""
    count = facts.foreground_count + zeros
    if count == 0:
        return None
    mean = facts.foreground_total / count
    low, high = facts.foreground_low, facts.foreground_high
    if zeros:
        low, high = min(low, 0.0), max(high, 0.0)
    return _Contribution(count, mean, max(0.0, facts.foreground_squares / count - mean**2), low, high)


def _zeros_in_mask(raw: RawCase, masked: bool, memory: Memory) -> list[int]:
    """Count the zeros inside the filled mask for each channel; its histogram has non-zero voxels only."""
    if not masked:
        return [0] * raw.record.channels
    inside = int(raw.make_mask(memory)[0].sum())
    return [inside - facts.count for facts in raw.facts]


def _coarse_counts(raw: RawCase, channel: int, zeros: int) -> Weights:
    """Count the voxels in each bin of high key halves."""
    if is_narrow(raw.record.dtypes[channel]):
        keys, counts = _narrow_keys(raw, channel)
        coarse = _count(keys >> 16, counts)
    else:
        coarse = raw.histogram(channel).astype(np.float64)
    coarse[ZERO_KEY >> 16] += zeros
    return coarse


def _narrow_keys(raw: RawCase, channel: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    record = raw.record
    values, counts = histogram_values(
        raw.histogram(channel),
        record.dtypes[channel],
        record.slopes[channel],
        record.intercepts[channel],
    )
    return keys_of(values), counts


def _count(bins: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> Weights:
    """Sum `counts` in each of `BINS` bins."""
    return np.bincount(bins, counts, BINS).astype(np.float64)


def merge(summaries: Sequence[Summary]) -> Summary:
    """Merge contributions in order."""
    return Summary(
        {case: facts for s in summaries for case, facts in s.cases.items()},
        _sum([s.coarse for s in summaries]),
        [list(chain(*of_channel)) for of_channel in zip(*(s.moments for s in summaries), strict=True)],
        np.stack([s.low for s in summaries]).min(axis=0),
        np.stack([s.high for s in summaries]).max(axis=0),
        frozenset().union(*(s.labels for s in summaries)),
    )


def refine_case(
    out: Path, case: str, masked: bool, bins: dict[int, list[int]], ignore_label: int | None, memory: Memory
) -> list[Weights]:
    """Return for each channel of `bins` one case's weights (bins, 65536) by the low halves of the keys."""
    raw = RawCase(out, case)
    zeros = _zeros_in_mask(raw, masked, memory)
    weights = []
    for channel, wanted in bins.items():
        count = raw.facts[channel].foreground_count + zeros[channel]
        contributes = count > 0 and (masked or raw.record.label is not None)
        fine = (
            _fine_counts(raw, channel, wanted, ignore_label, memory)
            if contributes
            else np.zeros((len(wanted), BINS))
        )
        if ZERO_KEY >> 16 in wanted:
            fine[wanted.index(ZERO_KEY >> 16), ZERO_KEY & 0xFFFF] += zeros[channel]
        weights.append(fine / max(1, count))
    return weights


def _fine_counts(
    raw: RawCase, channel: int, wanted: list[int], ignore_label: int | None, memory: Memory
) -> Weights:
    if is_narrow(raw.record.dtypes[channel]):
        keys, counts = _narrow_keys(raw, channel)
        table = [_count(keys[keys >> 16 == b] & 0xFFFF, counts[keys >> 16 == b]) for b in wanted]
        return np.array(table, np.float64).reshape(len(wanted), BINS)
    record, fine = raw.record, np.zeros((len(wanted), BINS))
    cost = values_cost(math.prod(record.shape[1:]), raw.has_label, record.read_bytes)
    depth = cost.fitting_depth(record.shape, memory)
    with memory.hold(cost.bytes(depth)):
        for box in raw.slabs(depth):
            foreground = raw.foreground(box, ignore_label) if raw.has_label else None
            fine += refine(raw.values(channel, box), 1.0, 0.0, foreground, wanted)
    return fine


def _add_all(parts: Sequence[list[Weights]]) -> list[Weights]:
    return [_sum(of_channel) for of_channel in zip(*parts, strict=True)]


def _sum(arrays: Sequence[Weights]) -> Weights:
    """Add arrays in order, with memory for one more array."""
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total


def _position(cumulated: Weights, fraction: float) -> int:
    """Return the first entry at which the cumulated weight reaches a fraction of the total.

    Sums of weights k/n are rounded. A relative tolerance of 1e-12 keeps an exact tie from being missed.
    """
    return int(np.searchsorted(cumulated, fraction * cumulated[-1] * (1 - 1e-12), side="left"))


def _bins_wanted(coarse: Weights) -> list[int]:
    """Return the coarse bins that the percentiles fall in."""
    if not coarse.any():
        return []
    cumulated = np.cumsum(coarse)
    return sorted({_position(cumulated, p / 100) for p in PERCENTILES})


def _percentile(coarse: Weights, bins: list[int], fine: Weights, p: float) -> float:
    """Return the smallest value whose cumulated weight reaches p percent (NumPy's "inverted_cdf")."""
    cumulated = np.cumsum(coarse)
    b = _position(cumulated, p / 100)
    before = cumulated[b] - coarse[b]
    within = np.cumsum(fine[bins.index(b)])
    wanted = p / 100 * cumulated[-1] * (1 - 1e-12) - before
    low_half = min(  # rounding must not lead beyond the last value of the bin
        int(np.searchsorted(within, wanted, side="left")), int(np.flatnonzero(fine[bins.index(b)])[-1])
    )
    return float(values_of(np.array([b << 16 | low_half], np.uint32))[0])


def _intensity(summary: Summary, channel: int, bins: list[int], fine: Weights) -> Intensity:
    means, variances = np.array(summary.moments[channel]).T
    mean = float(means.mean())
    low, median, high = (_percentile(summary.coarse[channel], bins, fine, p) for p in PERCENTILES)
    return Intensity(
        max=float(summary.high[channel]),
        mean=mean,
        median=median,
        min=float(summary.low[channel]),
        percentile_00_5=low,
        percentile_99_5=high,
        std=float(np.sqrt(np.mean(variances + (means - mean) ** 2))),
    )


def _default_names(out: Path, case: str) -> tuple[str, ...]:
    """Return channel names for a source that states none: the DICOM modality, else numbers."""
    record = RawCase(out, case).record
    if record.modality is not None and record.channels == 1:
        return (record.modality,)
    return tuple(str(channel) for channel in range(record.channels))


def _shape(box: Box) -> Shape:
    z, y, x = box.shape
    return z, y, x
