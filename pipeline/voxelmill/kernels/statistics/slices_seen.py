"""This module checks that a collector receives every slice of a volume exactly once.

In: the first slice and the shape of each slab. Out: nothing, or a `ValueError`. This module knows no voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class SlicesSeen:
    """Records which slices of a volume (z, y, x) were added, in one byte per slice."""

    def __init__(self, shape: Sequence[int]):
        self._shape = tuple(shape)
        self._seen = np.zeros(shape[0], bool)

    def claim(self, z: int, slab: Sequence[int]) -> None:
        """Record a slab of shape (d, y, x) at slice `z`.

        Raises
        ------
        ValueError
            If the slab does not fit into the volume, or one of its slices was added before.
        """
        stop = z + slab[0]
        if len(slab) != 3 or z < 0 or stop > self._shape[0] or tuple(slab[1:]) != self._shape[1:]:
            raise ValueError(f"a slab of shape {tuple(slab)} at slice {z} does not fit into {self._shape}")
        if self._seen[z:stop].any():
            twice = z + int(np.flatnonzero(self._seen[z:stop])[0])
            raise ValueError(f"slice {twice} of the slices {z} to {stop} was added before")
        self._seen[z:stop] = True

    def check_all(self, what: str) -> None:
        """Raise ValueError if a slice is missing; the message names `what`, which needs all slices."""
        if not self._seen.all():
            missing = int(np.flatnonzero(~self._seen)[0])
            raise ValueError(f"slice {missing} of {self._shape[0]} was not added; {what} need all slices")
