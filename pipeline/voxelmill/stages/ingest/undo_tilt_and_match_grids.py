"""The images and the label of a case on one grid with orthogonal axes, or a refusal, as the settings say.

In: the opened files of a case. Out: an `Incoming` on one grid, with its repairs. A volume that moves is first
written to the raw store, slab by slab, and read from there, since many formats can only be read forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from voxelmill.basics.errors import FormatError, GeometryError, speaking_of
from voxelmill.basics.geometry import SAME_GRID, Geometry
from voxelmill.basics.volume import Array, Repair, Slab, Volume
from voxelmill.config.repair_settings import RepairConfig
from voxelmill.config.settings import Config
from voxelmill.runtime.memory_budget import Memory, SlabCost, image_cost, label_cost
from voxelmill.stages.ingest.opened_case import Incoming, WholeLabels, label_dtype
from voxelmill.stages.ingest.regridded_volume import Regridded
from voxelmill.stages.raw_store.raw_case import RawCase
from voxelmill.stages.raw_store.stored_values import as_stored, rescaling, stored_dtype
from voxelmill.storage import zarr_stores
from voxelmill.storage.chunk_and_shard_shapes import raw_layout
from voxelmill.storage.shard_files import ShardedArray

Reason = Literal["shear", "grids"]
"""Why a volume is brought onto another grid, named after the setting: repair.shear or repair.grids."""


@dataclass(frozen=True)
class Aim:
    """The grid that all volumes of a case must have.

    Attributes
    ----------
    first : Geometry
        Grid of the first channel, as its file states it.
    target : Geometry
        The same grid with orthogonal axes.
    hint : str
        Sentences on the likely cause if a volume lies elsewhere; may be empty.
    """

    first: Geometry
    target: Geometry
    hint: str

    def reason(self, what: str, found: Geometry, repair: RepairConfig) -> Reason | None:
        """Return why a volume must move, or None if it is on the target grid.

        Raises
        ------
        GeometryError
            If it is not on the first channel's grid, and the settings do not accept that.
        """
        if _agree(found, self.target):
            return None
        if _agree(found, self.first):
            return "shear"
        if repair.grids == "refuse":
            raise GeometryError(
                f"{what} {_apart(found, self.first)}; one grid is needed, within {SAME_GRID} voxels. "
                f"{self.hint}Mend its header, or have it resampled onto channel 0: --set "
                "repair.grids=resample."
            )
        return "grids"


@contextmanager
def one_grid(raw: RawCase, incoming: Incoming, config: Config, memory: Memory) -> Iterator[Incoming]:
    """Yield all volumes of a case on one grid with orthogonal axes; afterwards remove what was staged.

    Raises
    ------
    FormatError
        If the label has several channels.
    GeometryError
        If grids are sheared or differ, and the settings do not accept that; with angle and displacement.
    """
    if incoming.label is not None and incoming.label.channels != 1:
        raise FormatError(
            f"the label has {incoming.label.channels} channels, expected 1. Merge them into one image."
        )
    named = incoming.named()
    aim = _aim(incoming.volumes[0].geometry, _hint(named), config.repair)
    reasons = [aim.reason(what, volume.geometry, config.repair) for what, volume in named]
    repairs = [Repair(r.setting, f"{what}: {r.what}") for what, v in named for r in v.repairs]
    repairs += [_unsheared(aim)] if "shear" in reasons else []
    volumes, images = list[Volume](), len(incoming.volumes)
    with ExitStack() as staged:
        for number, ((what, volume), reason) in enumerate(zip(named, reasons, strict=True)):
            if reason is None:
                volumes.append(volume)
                continue
            staging = Staging(raw, f"staged{number}", volume, number == images, config, memory)
            with speaking_of("" if incoming.is_alone else what):
                volumes.append(moved := staged.enter_context(staging.moved(aim.target, reason)))
            if reason == "grids":
                repairs.append(_resampled(what, volume.geometry, aim.first, moved))
        yield replace(
            incoming,
            volumes=volumes[:images],
            label=volumes[images] if len(volumes) > images else None,
            is_in_place=incoming.is_in_place and not any(reasons[:images]),
            repairs=tuple(repairs),
            otherwise=tuple(sorted({setting for _, volume in named for setting in volume.otherwise})),
        )


@dataclass(frozen=True)
class Staging:
    """A volume that is written to the raw store temporarily, to be read from there box by box."""

    raw: RawCase
    name: str
    volume: Volume
    is_label: bool
    config: Config
    memory: Memory

    @contextmanager
    def moved(self, target: Geometry, reason: Reason) -> Iterator[Regridded]:
        """Yield the volume on another grid; afterwards remove what was written for it."""
        volume = self.volume
        slope, intercept = (1.0, 0.0) if self.is_label else rescaling(volume)
        try:
            whole = WholeLabels(volume)
            array, extremes = self._write(whole)
            yield Regridded(
                array,
                volume.geometry,
                target,
                array.dtype,
                outside=self._outside(reason, extremes),
                is_label=self.is_label,
                staging=self._cost,
                slope=slope,
                intercept=intercept,
                modality=volume.modality,
                notes=whole.notes,
            )
        finally:
            zarr_stores.remove_group(self.raw.root, f"{self.raw.case}/{self.name}")

    def _write(self, whole: WholeLabels) -> tuple[ShardedArray, Array]:
        """Write all voxels in their stored form; return the array, and each channel's lowest and highest."""
        volume, dtype, cost = self.volume, self._dtype, self._cost
        depth = cost.fitting_depth(volume.geometry.shape, self.memory)
        chunk, shard = raw_layout(volume.geometry.shape, dtype.itemsize, depth)
        shape = (volume.channels, *volume.geometry.shape)
        array = self.raw.create(self.name, shape, dtype, (1, *chunk), (1, *shard))
        extremes: list[list[Any]] = [[] for _ in range(volume.channels)]
        with self.memory.hold(cost.bytes(depth)), array.writer() as pieces:
            for slab in volume.slabs(depth):
                data = self._stored(slab, whole)
                pieces.write((slab.channel, slab.z, 0, 0), data)
                for channel, values in enumerate(data, slab.channel):
                    extremes[channel] += [values.min(), values.max()]
        return array, np.array([[min(found), max(found)] for found in extremes])

    def _stored(self, slab: Slab, whole: WholeLabels) -> Array:
        if self.is_label:
            return whole.take(slab.data[0], slab.z)[None]
        return as_stored(slab.data, self.volume, self.config.nonfinite, slab.z)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return label_dtype(self.volume) if self.is_label else stored_dtype(self.volume)

    @property
    def _cost(self) -> SlabCost:
        if self.is_label:
            return label_cost(self.volume, self._dtype)
        return image_cost(self.volume, self.volume.channels, self._dtype, False)

    def _outside(self, reason: Reason, extremes: Array) -> list[Any]:
        """Return the stored value outside the source, for each channel.

        For a label it is 0. Beside shifted slices of an image it is the lowest value of the channel: the air
        of a CT image is not 0 HU. Otherwise it is the stored value closest to the value 0.
        """
        if self.is_label:
            return [0]
        slope, intercept = rescaling(self.volume)
        if reason == "shear":
            return list(extremes[:, 0 if slope > 0 else 1])
        dtype = self._dtype
        zero = 0.0 if dtype.kind == "f" else np.rint(-intercept / slope)
        if dtype.kind != "f":
            zero = int(np.clip(zero, float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)))
        return [dtype.type(zero)] * self.volume.channels


def _hint(named: Sequence[tuple[str, Volume]]) -> str:
    """Return sentences on the files that state two places, of which one was taken."""
    words = ""
    for what, volume in named:
        for setting in volume.otherwise:
            words += f"The header of {what} states two places; the other one holds by --set {setting}. "
    return words


def _aim(first: Geometry, hint: str, repair: RepairConfig) -> Aim:
    """Return the grid to aim at: the first channel's, with orthogonal axes."""
    if first.shear_voxels <= SAME_GRID:
        return Aim(first, first, hint)
    if repair.shear == "refuse":
        raise GeometryError(
            f"the axes of channel 0 are not at right angles: they are {first.shear_degrees:.1f} degrees off, "
            f"{first.shear_voxels:.3g} voxels at the farthest corner; at most {SAME_GRID} is accepted. Undo "
            "the tilt before, or have it undone: --set repair.shear=undo."
        )
    return Aim(first, first.unsheared(), hint)


def _agree(a: Geometry, b: Geometry) -> bool:
    return a.shape == b.shape and b.displacement(a) <= SAME_GRID


def _apart(found: Geometry, first: Geometry) -> str:
    """Return how a grid differs from that of channel 0, as a clause."""
    distance = f"lies {first.displacement(found):.3g} voxels away from channel 0 at its farthest corner"
    if found.shape == first.shape:
        return distance
    return f"has {found.shape} voxels (z, y, x), channel 0 has {first.shape}, and {distance}"


def _unsheared(aim: Aim) -> Repair:
    first, target = aim.first, aim.target
    moved = first.shear_voxels * min(first.spacing)
    return Repair(
        "repair.shear=undo",
        f"tilt of {first.shear_degrees:.1f} degrees undone: slices moved by up to {moved:.1f} mm, "
        f"{first.shape[1]} rows became {target.shape[1]}, {first.shape[2]} columns {target.shape[2]}",
    )


def _resampled(what: str, found: Geometry, first: Geometry, moved: Regridded) -> Repair:
    """Return the repair of a volume resampled onto channel 0's grid; refuse one that lies outside it."""
    outside = moved.share_outside()
    if outside == 1:
        raise GeometryError(
            f"{what} {_apart(found, first)}; resampled onto channel 0 nothing of it is left. Check that both "
            "are of one patient, and mend its header."
        )
    beyond = f"; about {100 * outside:.2g} % of the grid lies beyond it and is 0" if outside else ""
    return Repair(
        "repair.grids=resample", f"{what} {_apart(found, first)}: it was resampled onto channel 0{beyond}"
    )
