"""Source files -> raw store: one forward pass over each case, slab by slab, that also collects its facts.

In: a `CaseSource`. Out: the case's group in OUT/raw.zarr with stored values, labels, histograms and, as the
last thing written, its record: a case without a record is not there. Decides what is refused: missing
files, grids that differ, voxels that are not finite, images that are all zero.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill import store
from voxelmill.cases import LAYOUT, CaseRecord, DatasetRecord, LabelRecord, RawCase, foreground_of, pack_facts
from voxelmill.checksum import source_digest
from voxelmill.config import Config
from voxelmill.errors import FormatError, GeometryError, SourceError, ValueRuleError
from voxelmill.geometry import Box
from voxelmill.graph import Engine, Outcome, task
from voxelmill.kernels.facts import ChannelFacts, Facts, nonzero_box
from voxelmill.kernels.histogram import BINS, class_counts
from voxelmill.kernels.keys import rescale
from voxelmill.layout import raw_layout
from voxelmill.readers import open_volume
from voxelmill.sources import CaseSource, Sources
from voxelmill.volume import Slab, Volume

Array = npt.NDArray[Any]
logger = logging.getLogger("voxelmill")

TOLERANCE = 0.1
"""Voxels by which corners of channels and label may lie apart and still count as one grid."""


def ingest(sources: Sources, out: Path, config: Config, engine: Engine) -> list[Outcome]:
    """Bring every case of a source into OUT's raw store; cases that are there are kept.

    Returns
    -------
    list of Outcome
        One a case; `value` is its number of voxels.
    """
    root = out / store.RAW
    dataset = dataset_record(sources, config)
    store.write_group(root, "", dataset.model_dump(mode="json"))
    store.sweep(root)
    waiting = [c for c in sources.cases if not RawCase(out, c.case).is_whole]
    tasks = (task(f"ingest-{c.case}", c.case, ingest_case, c, out, config, dataset) for c in waiting)
    return engine.run("ingest", tasks, len(waiting), kept=len(sources.cases) - len(waiting))


def dataset_record(sources: Sources, config: Config) -> DatasetRecord:
    """What the raw store's root says of the dataset."""
    return DatasetRecord(
        channel_names=sources.channel_names,
        labels=sources.labels,
        ignore_label=sources.ignore_label,
        settings=config.model_dump(mode="json", include={"nonfinite", "dicom"}),
    )


def ingest_case(source: CaseSource, out: Path, config: Config, dataset: DatasetRecord) -> int:
    """Bring one case into the raw store; returns its number of voxels.

    Raises
    ------
    VoxelmillError
        If a file is missing or broken, grids differ, or values break a rule.
    """
    root = out / store.RAW
    store.remove_group(root, source.case)  # what an interrupted ingest left
    volumes = [_open(source, path, f"channel {i}", config) for i, path in enumerate(source.channels)]
    label = None if source.label is None else _open(source, source.label, "the label", config)
    _check_channels(volumes, dataset)
    _check_grids(volumes, label)
    depth = _create_arrays(root, source.case, volumes, label)
    label_record = None if label is None else _write_label(root, source.case, label, depth)
    facts = _write_image(out, source.case, volumes, depth, config, dataset.ignore_label)
    record = _make_record(volumes, facts, label_record, source_digest(source))
    store.write_group(root, source.case, record.model_dump(mode="json"))
    for note in record.notes:
        logger.info("case %s: %s", source.case, note)
    return int(np.prod(record.shape)) * record.channels


def _open(source: CaseSource, path: Path, what: str, config: Config) -> Volume:
    if not path.exists():
        raise SourceError(f"{what} is missing: no such file. Add it, or remove the case.")
    return open_volume(path, spacing=source.spacing, dicom_series=config.dicom.series)


def _check_channels(volumes: Sequence[Volume], dataset: DatasetRecord) -> None:
    found, names = sum(v.channels for v in volumes), dataset.channel_names
    if names is not None and found != len(names):
        raise FormatError(
            f"found {found} channels, expected {len(names)} ({', '.join(names)}). Mend the files or names."
        )


def _check_grids(volumes: Sequence[Volume], label: Volume | None) -> None:
    """Channels and label share one grid, or the case is refused with the displacement measured."""
    first = volumes[0].geometry
    others = [(f"channel {i}", v) for i, v in enumerate(volumes)] + ([("the label", label)] if label else [])
    for what, volume in others:
        geometry = volume.geometry
        if geometry.shape != first.shape:
            raise GeometryError(
                f"{what} has {geometry.shape} voxels (z, y, x), channel 0 has {first.shape}; one grid is "
                "needed. Resample it onto channel 0."
            )
        if (apart := first.displacement(geometry)) > TOLERANCE:
            raise GeometryError(
                f"{what} lies {apart:.3g} voxels away from channel 0 at its farthest corner; at most "
                f"{TOLERANCE} is accepted. Mend its header, or resample it onto channel 0."
            )
    if label is not None and label.channels != 1:
        raise FormatError(f"the label has {label.channels} channels, expected 1. Merge them into one image.")


def _create_arrays(root: Path, case: str, volumes: Sequence[Volume], label: Volume | None) -> int:
    """Create the case's arrays with slabs of one thickness, which is returned."""
    shape, dtype = volumes[0].geometry.shape, np.result_type(*(_stored_dtype(v) for v in volumes))
    channels = sum(v.channels for v in volumes)
    label_dtype = None if label is None else _label_dtype(label)
    itemsize = max(dtype.itemsize, label_dtype.itemsize if label_dtype else 1)
    chunk, shard = raw_layout(shape, itemsize)
    store.create_array(root, f"{case}/image", (channels, *shape), dtype, (1, *chunk), (1, *shard), LAYOUT)
    if label_dtype is not None:
        store.create_array(root, f"{case}/label", shape, label_dtype, chunk, shard, LAYOUT)
    store.create_array(
        root, f"{case}/histogram", (channels, BINS), np.int64, (1, BINS), (channels, BINS), LAYOUT
    )
    return shard[0]


def _stored_dtype(volume: Volume) -> np.dtype[Any]:
    """Stored type in the raw store; rescaled floats are stored as their values."""
    if volume.dtype.kind == "b":
        return np.dtype(np.uint8)
    if volume.dtype.kind not in "iuf":
        raise FormatError(f"voxels are {volume.dtype}; real numbers are needed. Convert the image.")
    return np.dtype(np.float32) if _is_rescaled_float(volume) else volume.dtype


def _is_rescaled_float(volume: Volume) -> bool:
    return volume.dtype.kind == "f" and (volume.slope, volume.intercept) != (1.0, 0.0)


def _label_dtype(label: Volume) -> np.dtype[Any]:
    """Integer type that holds the labels a type can state; floats must turn out whole."""
    if label.dtype.kind == "b":
        return np.dtype(np.uint8)
    if label.dtype.kind in "iu" and (label.slope, label.intercept) == (1.0, 0.0):
        return label.dtype
    return np.dtype(np.int64 if label.dtype.itemsize > 4 else np.int32)


def _write_label(root: Path, case: str, label: Volume, depth: int) -> LabelRecord:
    """Write the label; returns its type and the voxels of each class."""
    array, counts = store.open_array(root, f"{case}/label", "r+"), dict[int, int]()
    for slab in label.slabs(depth):
        whole = _whole_numbers(slab.data[0], label, array.dtype)
        for value, number in class_counts(whole).items():
            counts[value] = counts.get(value, 0) + number
        store.write_box(array, _slab_box(slab), whole)
    return LabelRecord(dtype=str(array.dtype), counts=dict(sorted(counts.items())))


def _whole_numbers(stored: Array, label: Volume, dtype: np.dtype[Any]) -> Array:
    """Labels as integers, refused where one is not whole or does not fit."""
    if label.dtype.kind in "iub" and (label.slope, label.intercept) == (1.0, 0.0):
        return stored.astype(dtype, copy=False)
    values = stored.astype(np.float64) * label.slope + label.intercept
    wrong = ~np.isfinite(values) | (np.rint(values) != values) | (np.abs(values) > np.iinfo(dtype).max)
    if wrong.any():
        raise ValueRuleError(
            f"the label holds {values[wrong][0]:g} in {int(wrong.sum())} voxels of a slab; whole numbers are "
            "needed. Round it, or write it as integers."
        )
    return np.asarray(values.astype(dtype))


def _write_image(
    out: Path, case: str, volumes: Sequence[Volume], depth: int, config: Config, ignore_label: int | None
) -> list[Facts]:
    """Write every channel and collect its facts in the same pass."""
    raw = RawCase(out, case)
    array = store.open_array(raw.root, f"{case}/image", "r+")
    facts: list[Facts] = []
    for volume in volumes:
        collectors = [_collector(volume) for _ in range(volume.channels)]
        for slab in _finite_slabs(volume, depth, config):
            foreground = foreground_of(raw.label(_slab_box(slab)), ignore_label) if raw.has_label else None
            for i, data in enumerate(slab.data):
                collectors[slab.channel + i].add(slab.z, data, foreground)
            store.write_slab(array, len(facts) + slab.channel, slab.z, slab.data)
        facts += [c.result() for c in collectors]
    if not any(f.count for f in facts):
        raise ValueRuleError(
            "every voxel of the image is zero, so there is nothing to crop to. Check the file."
        )
    histogram = store.open_array(raw.root, f"{case}/histogram", "r+")
    histogram[:] = np.stack([f.histogram for f in facts])
    return facts


def _collector(volume: Volume) -> ChannelFacts:
    return ChannelFacts(volume.geometry.shape, _stored_dtype(volume), *_rescaling(volume))


def _rescaling(volume: Volume) -> tuple[float, float]:
    """Slope and intercept that the raw store's values still need."""
    return (1.0, 0.0) if _is_rescaled_float(volume) else (volume.slope, volume.intercept)


def _finite_slabs(volume: Volume, depth: int, config: Config) -> Iterator[Slab]:
    """The slabs as they are stored, every voxel finite."""
    for slab in volume.slabs(depth):
        data = slab.data
        if _is_rescaled_float(volume):
            data = rescale(data, volume.slope, volume.intercept)
        values = rescale(data) if data.dtype.itemsize > 4 else data  # a float64 may lie beyond float32
        if data.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            if config.nonfinite == "fail":
                raise ValueRuleError(
                    f"{int(data.size - finite.sum())} voxels from slice {slab.z} on are NaN, infinite or "
                    "beyond float32; finite values are needed. Mend the file, or accept them as zero: "
                    "--set nonfinite=zero."
                )
            data = np.where(finite, data, data.dtype.type(0))
        yield Slab(slab.channel, slab.z, data.astype(_stored_dtype(volume), copy=False))


def _slab_box(slab: Slab) -> Box:
    depth, height, width = slab.data.shape[1:]
    return Box((slab.z, 0, 0), (slab.z + depth, height, width))


def _make_record(
    volumes: Sequence[Volume], facts: Sequence[Facts], label: LabelRecord | None, source: str
) -> CaseRecord:
    geometry = volumes[0].geometry
    per_channel = [v for v in volumes for _ in range(v.channels)]
    return CaseRecord(
        shape=geometry.shape,
        spacing=geometry.spacing,
        origin=geometry.origin,
        direction=geometry.direction,
        channels=len(per_channel),
        dtypes=tuple(str(_stored_dtype(v)) for v in per_channel),
        slopes=tuple(_rescaling(v)[0] for v in per_channel),
        intercepts=tuple(_rescaling(v)[1] for v in per_channel),
        modality=volumes[0].modality,
        label=label,
        crop_box=nonzero_box(facts).bounds,
        facts=tuple(pack_facts(f) for f in facts),
        notes=tuple(note for v in volumes for note in v.notes),
        source=source,
    )
