"""A case of the training store: what it is made from, and which of its shards are whole.

In: OUT, a plan, a configuration and a case's name. Out: everything that a worker needs to make the case's
shards, and the numbers of missing shards, from the store alone. Computes no voxel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from voxelmill.basics.errors import StoreError
from voxelmill.basics.geometry import Box
from voxelmill.basics.stage_share import Share
from voxelmill.config.configuration_names import Configuration
from voxelmill.config.settings import Config
from voxelmill.runtime.memory_budget import Memory
from voxelmill.stages.fingerprint.fingerprint_json import Intensity
from voxelmill.stages.planning.plan_json import CasePlan, Plan
from voxelmill.stages.planning.shard_pieces import Work
from voxelmill.stages.raw_store.raw_case import RawCase
from voxelmill.storage import zarr_stores

LOOKED_AT_TOGETHER = 16
"""Cases that are checked at the same time: on a network file system each check is a wait."""


Layout = tuple[tuple[int, ...], str, tuple[int, ...], tuple[int, ...]]
"""Shape, type, chunk and shard of an array."""


@dataclass(frozen=True)
class TrainingCase:
    """One case in one configuration, with all that a worker needs to make it.

    Attributes
    ----------
    token : str
        Settings token: a hash of everything that the case's voxels depend on.
    plan : CasePlan
        The case's row of the plan.
    work : Work
        Shapes and rules of its shards.
    normalization, use_mask_for_norm : tuple
        Scheme of each channel, and whether it is limited to the filled non-zero mask.
    intensity : dict
        Foreground statistics of each channel, for CT normalisation.
    label_dtype : str or None
        Type of labels in the training store.
    memory : Memory
        The memory of a worker.
    """

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
        """Path of the training store."""
        return self.out / zarr_stores.TRAINING

    @property
    def path(self) -> str:
        """Path of the case's group in the training store."""
        return f"{self.configuration}/{self.case}"

    @cached_property
    def raw(self) -> RawCase:
        """The case in the raw store."""
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

    @property
    def voxels(self) -> int:
        """Number of voxels of the image, channels counted."""
        return self.plan.channels * int(np.prod(self.plan.shape))

    @property
    def is_stale(self) -> bool:
        """Whether the store has something under the case's name that was not made under its token."""
        attributes = zarr_stores.read_attributes(self.root, self.path)
        if attributes is None:
            return (self.root / self.path).exists()
        return bool(attributes.get("settings") != self.token)

    def check(self) -> None:
        """Refuse to write if the store has something else under the case's name.

        Raises
        ------
        StoreError
            If `is_stale`.
        """
        if self.is_stale:
            raise StoreError(
                "the training store holds something else under the case's name. Run `voxelmill plan OUT "
                "--restart`."
            )

    def create(self, attributes: dict[str, Any]) -> None:
        """Create the case's group and arrays, unless they exist.

        Raises
        ------
        StoreError
            If the store has something else under the case's name.
        """
        self.check()
        zarr_stores.write_group(self.root, self.path, attributes)
        for name, layout in self.layouts().items():
            zarr_stores.create_array(self.root, f"{self.path}/{name}", *layout, self.settings.store)

    def layouts(self) -> dict[str, Layout]:
        """Return shape, type, chunk and shard of each array."""
        plan = self.plan
        image = ((plan.channels, *plan.shape), "float32", (1, *plan.chunk), (plan.channels, *plan.shard))
        if self.label_dtype is None or not self.has_label:
            return {"image": image}
        return {"image": image, "label": (plan.shape, self.label_dtype, plan.chunk, plan.shard)}

    def missing(self) -> Sequence[int]:
        """Return the sorted numbers of the shards that are not whole in the image or the label."""
        try:
            if self.is_stale:
                return range(self.plan.shards)
            arrays = [zarr_stores.open_array(self.root, f"{self.path}/{name}") for name in self.layouts()]
            found = [array.missing_shards() for array in arrays]
        except StoreError:
            return range(self.plan.shards)
        # An index of the image begins with its channel, which is always 0: a shard holds all channels.
        numbers = {int(np.ravel_multi_index(i[-3:], self.plan.grid)) for indices in found for i in indices}
        return sorted(numbers)


def training_cases(
    out: Path, plan: Plan, configuration: Configuration, memory: Memory
) -> Iterator[TrainingCase]:
    """Yield every case of a configuration, in the order of the plan."""
    of = plan.configurations[configuration]
    for case, case_plan in of.cases.items():
        yield TrainingCase(
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


def missing_of(cases: Iterable[TrainingCase]) -> list[Sequence[int]]:
    """Return the shards of each case that are not whole."""
    with ThreadPoolExecutor(LOOKED_AT_TOGETHER) as threads:
        return list(threads.map(TrainingCase.missing, cases))


def lacking_mask(cases: Iterable[TrainingCase]) -> list[bool]:
    """Return for each case whether it depends on a mask that is incomplete or missing."""
    with ThreadPoolExecutor(LOOKED_AT_TOGETHER) as threads:
        return list(threads.map(lambda case: case.needs_mask and not case.raw.has_mask, cases))


def deal(cases: Sequence[TrainingCase], share: Share | None) -> list[range]:
    """Return the shards of each case that belong to a share, all of them without one.

    The shards of all cases in order are cut into consecutive parts with about the same number of voxels. This
    depends on the plan alone, so a share that runs again gets the same shards.
    """
    if share is None:
        return [range(c.plan.shards) for c in cases]
    total, before, dealt = sum(c.voxels for c in cases), 0, []
    for c in cases:
        places = (  # the share that each shard's first voxel falls in, from 0
            (before + c.voxels * k // c.plan.shards) * share.count // total for k in range(c.plan.shards)
        )
        mine = [k for k, place in enumerate(places) if place == share.index - 1]
        dealt.append(range(mine[0], mine[-1] + 1) if mine else range(0))
        before += c.voxels
    return dealt
