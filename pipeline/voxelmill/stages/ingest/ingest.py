"""Source files -> raw store: one forward pass over each case, slab by slab, that also collects its facts.

In: a `CaseSource`. Out: the case's group in OUT/raw.zarr with stored values, labels, histograms and its
record. The record is written last: a case without one does not count. Slabs are as thick as memory allows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from voxelmill.basics.errors import FormatError, SourceError, ValueRuleError, speaking_of
from voxelmill.basics.geometry import Box
from voxelmill.basics.stage_share import Share
from voxelmill.basics.volume import Volume
from voxelmill.config.settings import Config
from voxelmill.inputs.readers.formats import data_files, open_volume
from voxelmill.inputs.sources.case_source import CaseSource, Sources
from voxelmill.inputs.sources.source_checksums import source_digest
from voxelmill.kernels.statistics.channel_facts import ChannelFacts, Facts, nonzero_box
from voxelmill.kernels.statistics.foreground_locations import ForegroundLocations
from voxelmill.runtime.memory_budget import Memory
from voxelmill.runtime.stage_engine import Engine
from voxelmill.runtime.step_progress import did, expect
from voxelmill.runtime.tasks import Outcome, in_groups, task
from voxelmill.stages.ingest.opened_case import THE_LABEL, Incoming, LabelTally, WholeLabels, label_dtype
from voxelmill.stages.ingest.undo_tilt_and_match_grids import one_grid
from voxelmill.stages.raw_store.images_in_place import remember_place
from voxelmill.stages.raw_store.notes_and_repairs import read_remarks
from voxelmill.stages.raw_store.raw_case import RawCase
from voxelmill.stages.raw_store.raw_records import (
    REVISION,
    CaseRecord,
    DatasetRecord,
    LabelRecord,
    RepairRecord,
    pack_facts,
)
from voxelmill.stages.raw_store.stored_values import as_stored, image_names, rescaling, stored_dtype
from voxelmill.storage import zarr_stores
from voxelmill.storage.chunk_and_shard_shapes import raw_layout
from voxelmill.storage.lease import live_ids
from voxelmill.storage.partial_files import RUN, sweep
from voxelmill.storage.shard_files import ArrayWriter

logger = logging.getLogger("voxelmill")

LINES = 20
"""Most notes and repairs that are shown on the terminal; the log file has all of them."""

GROUP_BYTES = 2**22
"""Small cases share a task up to this many bytes of source files, about 0.1 s of work."""

CASE_BYTES = 2**18
"""Bytes that are added for each case, since any case takes some time."""


def ingest(
    sources: Sources, out: Path, config: Config, engine: Engine, share: Share | None = None
) -> list[Outcome]:
    """Ingest every case of a source, or those of a share, into OUT's raw store; keep complete cases.

    Returns
    -------
    list of Outcome
        One per ingested case; `value` is its number of voxels, channels counted.
    """
    root = out / zarr_stores.RAW
    dataset = dataset_record(sources, config)
    zarr_stores.write_group(root, "", dataset.model_dump(mode="json"))
    sweep(root, lambda: live_ids(out))
    mine = sources.cases if share is None else share.of(sources.cases)
    waiting = [c for c in mine if not RawCase(out, c.case).is_whole]
    memory = Memory(config.memory_limit, engine.threads)
    tasks = (
        (task(f"ingest-{c.case}", c.case, ingest_case, c, out, config, dataset, memory, rank=rank), _cost(c))
        for rank, c in enumerate(waiting)
    )
    done = engine.run("ingest", in_groups(tasks, GROUP_BYTES), len(waiting), len(mine) - len(waiting))
    _say(out, sorted(outcome.case for outcome in done if outcome.cause is None))
    sweep(root, lambda: live_ids(out) - {RUN.get()})  # left by this run's killed workers
    return done


def _cost(source: CaseSource) -> int:
    """Return the bytes of a case's files, to find small cases; a case with a folder never counts as small."""
    paths = [*source.channels, *([source.label] if source.label else [])]
    files = [file for path in paths for file in (path, *(data_files(path) if path.is_file() else ()))]
    return CASE_BYTES + sum(p.stat().st_size if p.is_file() else GROUP_BYTES for p in files)


def dataset_record(sources: Sources, config: Config) -> DatasetRecord:
    """Make the record of the dataset for the raw store's root."""
    return DatasetRecord(
        revision=REVISION,
        channel_names=sources.channel_names,
        labels=sources.labels,
        ignore_label=sources.ignore_label,
        settings={
            "nonfinite": config.nonfinite,
            "dicom": {**config.dicom.model_dump(mode="json"), "padding": config.dicom.padding},
        },
        reading=reading_of(config),
        cases=tuple(c.case for c in sources.cases),
    )


def reading_of(config: Config) -> dict[str, Any]:
    """Return the settings that SOURCE is found and read by, without secrets and paths."""
    return {**config.model_dump(mode="json", include={"ingest", "repair"}), "dicom_ids": config.dicom.ids}


def ingest_case(source: CaseSource, out: Path, config: Config, dataset: DatasetRecord, memory: Memory) -> int:
    """Ingest one case into the raw store, and return its number of voxels, channels counted.

    Raises
    ------
    VoxelmillError
        If a file is missing or broken, grids differ, values break a rule, or a slice does not fit.
    """
    raw = RawCase(out, source.case)
    zarr_stores.remove_group(raw.root, source.case)  # left by an interrupted ingest
    opened = _open_case(source, config, dataset.channel_names)
    _check_channels(opened, dataset)
    with _whole_or_not_at_all(raw), one_grid(raw, opened, config, memory) as incoming:
        image_depth, label_depth, needed = _depths(incoming, memory)
        with memory.hold(needed):
            if incoming.is_in_place:
                remember_place(out, source, config.repair)
            expect(incoming.bytes)
            label, label_notes = _write_label(raw, incoming, label_depth, dataset)
            facts = _write_image(raw, incoming, image_depth, config, dataset.ignore_label)
            record = _make_record(incoming, facts, label, label_notes, source_digest(source))
    zarr_stores.write_group(raw.root, source.case, record.model_dump(mode="json"))
    return int(np.prod(record.shape)) * record.channels


@contextmanager
def _whole_or_not_at_all(raw: RawCase) -> Iterator[None]:
    """Remove the case from the raw store if it fails."""
    try:
        yield
    except Exception:
        with suppress(OSError):  # the first error is the one to report
            zarr_stores.remove_group(raw.root, raw.case)
        raise


def _say(out: Path, cases: Sequence[str]) -> None:
    """Log the notes and repairs of cases; here, since a worker's log is not the log of the run."""
    lines = list[tuple[str, str]]()
    for case, remarks in read_remarks(out, cases).items():
        lines += [(case, note) for note in remarks.notes]
        lines += [(case, f"repaired by {repair.setting}: {repair.what}") for repair in remarks.repairs]
    for number, line in enumerate(lines):
        logger.log(logging.INFO if number < LINES else logging.DEBUG, "case %s: %s", *line)
    if len(lines) > LINES:
        logger.info("%d more notes and repairs are in the log and in report.json", len(lines) - LINES)


def _open_case(source: CaseSource, config: Config, names: tuple[str, ...] | None) -> Incoming:
    called = image_names(len(source.channels), names)
    volumes = [_open(source, *image, config) for image in zip(source.channels, called, strict=True)]
    label = None if source.label is None else _open(source, source.label, THE_LABEL, config, True)
    in_place = not config.ingest.copy_ and all(v.is_random_access for v in volumes)
    return Incoming(volumes, label, in_place, names=names)


def _open(source: CaseSource, path: Path, what: str, config: Config, is_label: bool = False) -> Volume:
    if not path.exists():
        raise SourceError(f"{what} is missing: no such file. Add it, or remove the case.")
    is_alone = len(source.channels) == 1 and source.label is None
    with speaking_of("" if is_alone else what):
        return open_volume(
            path,
            spacing=source.spacing,
            dicom_series=config.dicom.series,
            dicom_padding=config.dicom.padding,
            repair=config.repair,
            is_label=is_label,
        )


def _check_channels(incoming: Incoming, dataset: DatasetRecord) -> None:
    names = dataset.channel_names
    if names is not None and incoming.channels != len(names):
        raise FormatError(
            f"found {incoming.channels} channels, expected {len(names)} ({', '.join(names)}). "
            "Mend the files or names."
        )


def _depths(incoming: Incoming, memory: Memory) -> tuple[int, int, int]:
    """Return the slices per slab of image and label, and the bytes of the one that takes more."""
    shape, image, label = incoming.shape, incoming.image_cost(), incoming.label_cost()
    depth = image.fitting_depth(shape, memory)
    if label is None:
        return depth, 0, image.bytes(depth)
    label_depth = label.fitting_depth(shape, memory)
    return depth, label_depth, max(image.bytes(depth), label.bytes(label_depth))


def _write_label(
    raw: RawCase, incoming: Incoming, depth: int, dataset: DatasetRecord
) -> tuple[LabelRecord | None, tuple[str, ...]]:
    """Write the label and a sample of its foreground; return its record, and notes for the user."""
    label = incoming.label
    if label is None:
        return None, ()
    dtype, tally = label_dtype(label), LabelTally(dataset.stated_labels)
    array = raw.create("label", incoming.shape, dtype, *raw_layout(incoming.shape, dtype.itemsize, depth))
    locations = ForegroundLocations(incoming.shape, dataset.ignore_label)
    whole = WholeLabels(label)
    with array.writer() as pieces, speaking_of(THE_LABEL):
        for slab in label.slabs(depth):
            labels = whole.take(slab.data[0], slab.z)
            tally.add(labels)
            locations.add(slab.z, labels)
            pieces.write((slab.z, 0, 0), labels)
            did(slab.data.nbytes)
    tally.check()
    raw.write_locations(locations.result())
    counted = {name: getattr(tally, name) for name in ("counts", "low", "high", "is_instances")}
    return LabelRecord(dtype=str(dtype), **counted), whole.notes


def _write_image(
    raw: RawCase, incoming: Incoming, depth: int, config: Config, ignore_label: int | None
) -> list[Facts]:
    """Write every channel, and collect its facts in the same pass."""
    facts: list[Facts] = []
    with _image_writer(raw, incoming, depth) as pieces:
        for what, volume in incoming.images():
            collectors = [_collector(volume) for _ in range(volume.channels)]
            with speaking_of("" if incoming.is_alone else what):
                for slab in volume.slabs(depth):
                    data = as_stored(slab.data, volume, config.nonfinite, slab.z)
                    box = Box.whole(data.shape[1:]).shift((slab.z, 0, 0))
                    foreground = None if incoming.label is None else raw.foreground(box, ignore_label)
                    for i, channel in enumerate(data):
                        collectors[slab.channel + i].add(slab.z, channel, foreground)
                    if pieces is not None:
                        pieces.write((len(facts) + slab.channel, slab.z, 0, 0), data)
                    did(slab.data.nbytes)
            facts += [c.result() for c in collectors]
    if not any(f.count for f in facts):
        every = "the image" if len(facts) == 1 else f"all {len(facts)} channels"
        raise ValueRuleError(
            f"every voxel of {every} is zero, so there is nothing to crop to. Check the file."
        )
    raw.write_histograms([f.histogram for f in facts])
    return facts


def _image_writer(raw: RawCase, incoming: Incoming, depth: int) -> AbstractContextManager[ArrayWriter | None]:
    """Return the writer of the image; it yields None for an image that is read in place."""
    if incoming.is_in_place:
        return nullcontext()
    chunk, shard = raw_layout(incoming.shape, incoming.dtype.itemsize, depth)
    shape = (incoming.channels, *incoming.shape)
    return raw.create("image", shape, incoming.dtype, (1, *chunk), (1, *shard)).writer()


def _collector(volume: Volume) -> ChannelFacts:
    return ChannelFacts(volume.geometry.shape, stored_dtype(volume), *rescaling(volume))


def _make_record(
    incoming: Incoming,
    facts: Sequence[Facts],
    label: LabelRecord | None,
    label_notes: Sequence[str],
    source: str,
) -> CaseRecord:
    geometry = incoming.volumes[0].geometry
    per_channel = [v for v in incoming.volumes for _ in range(v.channels)]
    return CaseRecord(
        shape=geometry.shape,
        spacing=geometry.spacing,
        origin=geometry.origin,
        direction=geometry.direction,
        channels=len(per_channel),
        dtypes=tuple(str(stored_dtype(v)) for v in per_channel),
        slopes=tuple(rescaling(v)[0] for v in per_channel),
        intercepts=tuple(rescaling(v)[1] for v in per_channel),
        modality=incoming.volumes[0].modality,
        label=label,
        crop_box=nonzero_box(facts).bounds,
        facts=tuple(pack_facts(f) for f in facts),
        notes=(*_image_notes(incoming), *(f"{THE_LABEL}: {note}" for note in label_notes)),
        repairs=tuple(RepairRecord(**vars(r)) for r in incoming.repairs),
        otherwise=incoming.otherwise,
        source=source,
        image_cost=incoming.image_cost(),
        label_cost=incoming.label_cost(),
        is_in_place=incoming.is_in_place,
    )


def _image_notes(incoming: Incoming) -> list[str]:
    """Return the notes on the images; with several images, each note names its image."""
    several = len(incoming.volumes) > 1
    return [f"{what}: {note}" if several else note for what, v in incoming.images() for note in v.notes]
