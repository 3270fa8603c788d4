"""A case of the training store: what it is made from, and which of its shards are whole.

In: OUT, a plan, a configuration and a case's name. Out: all that a worker needs to know to make the case's
shards, and from the store alone which are missing. Computes no voxel.
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
"""Cases whose shards are looked at at a time: on a network's disk each look is a wait."""


Layout = tuple[tuple[int, ...], str, tuple[int, ...], tuple[int, ...]]
"""Shape, type, chunk and shard of an array."""


@dataclass(frozen=True)
class TrainingCase:
    """One case in one configuration."""

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
        return self.out / zarr_stores.TRAINING

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

    @property
    def voxels(self) -> int:
        """Voxels of the image, channels counted."""
        return self.plan.channels * int(np.prod(self.plan.shape))

    @property
    def is_stale(self) -> bool:
        """Whether something lies under the case's name that was not made under its token."""
        attributes = zarr_stores.read_attributes(self.root, self.path)
        if attributes is None:
            return (self.root / self.path).exists()
        return bool(attributes.get("settings") != self.token)

    def check(self) -> None:
        """Refuse to write where something else lies under the case's name.

        Raises
        ------
        StoreError
            If it does.
        """
        if self.is_stale:
            raise StoreError(
                "the training store holds something else under the case's name. Run `voxelmill plan OUT "
                "--restart`."
            )

    def create(self, attributes: dict[str, Any]) -> None:
        """Create the case's group and arrays, unless they are there.

        Raises
        ------
        StoreError
            If something else is there.
        """
        self.check()
        zarr_stores.write_group(self.root, self.path, attributes)
        for name, layout in self.layouts().items():
            zarr_stores.create_array(self.root, f"{self.path}/{name}", *layout, self.settings.store)

    def layouts(self) -> dict[str, Layout]:
        """Shape, type, chunk and shard of each array."""
        plan = self.plan
        image = ((plan.channels, *plan.shape), "float32", (1, *plan.chunk), (plan.channels, *plan.shard))
        if self.label_dtype is None or not self.has_label:
            return {"image": image}
        return {"image": image, "label": (plan.shape, self.label_dtype, plan.chunk, plan.shard)}

    def missing(self) -> Sequence[int]:
        """Numbers, in C order, of the shards that are not whole in the image or the label."""
        try:
            if self.is_stale:
                return range(self.plan.shards)
            arrays = [zarr_stores.open_array(self.root, f"{self.path}/{name}") for name in self.layouts()]
            found = [array.missing_shards() for array in arrays]
        except StoreError:
            return range(self.plan.shards)
        numbers = {int(np.ravel_multi_index(i[-3:], self.plan.grid)) for indices in found for i in indices}
        return sorted(numbers)


def training_cases(
    out: Path, plan: Plan, configuration: Configuration, memory: Memory
) -> Iterator[TrainingCase]:
    """Every case of a configuration, in the order of the plan."""
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
    """Shards of each case that are not whole."""
    with ThreadPoolExecutor(LOOKED_AT_TOGETHER) as threads:
        return list(threads.map(TrainingCase.missing, cases))


def lacking_mask(cases: Iterable[TrainingCase]) -> list[bool]:
    """Whether each case depends on a mask that is not whole, or not there."""
    with ThreadPoolExecutor(LOOKED_AT_TOGETHER) as threads:
        return list(threads.map(lambda case: case.needs_mask and not case.raw.has_mask, cases))


def deal(cases: Sequence[TrainingCase], share: Share | None) -> list[range]:
    """Shards of each case that are a share's: one run through all cases, as many voxels in each share.

    Depends on the plan alone, so that a share that is run again gets the same shards.
    """
    if share is None:
        return [range(c.plan.shards) for c in cases]
    total, before, dealt = sum(c.voxels for c in cases), 0, []
    for c in cases:
        places = (
            (before + c.voxels * k // c.plan.shards) * share.count // total for k in range(c.plan.shards)
        )
        mine = [k for k, place in enumerate(places) if place == share.index - 1]
        dealt.append(range(mine[0], mine[-1] + 1) if mine else range(0))
        before += c.voxels
    return dealt
