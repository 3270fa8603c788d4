"""Which slices of a volume a collector has taken in: each once, and in the end all of them.

In: where slabs begin, and their shapes. Out: nothing, or a `ValueError`. Knows no voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class SlicesSeen:
    """Keeps a byte for each slice of a volume (z, y, x)."""

    def __init__(self, shape: Sequence[int]):
        self._shape = tuple(shape)
        self._seen = np.zeros(shape[0], bool)

    def claim(self, z: int, slab: Sequence[int]) -> None:
        """Take a slab of shape (d, y, x) at slice `z`.

        Raises
        ------
        ValueError
            If it does not fit the volume, or a slice of it was added before.
        """
        stop = z + slab[0]
        if len(slab) != 3 or z < 0 or stop > self._shape[0] or tuple(slab[1:]) != self._shape[1:]:
            raise ValueError(f"a slab of shape {tuple(slab)} at slice {z} does not fit into {self._shape}")
        if self._seen[z:stop].any():
            twice = z + int(np.flatnonzero(self._seen[z:stop])[0])
            raise ValueError(f"slice {twice} of the slices {z} to {stop} was added before")
        self._seen[z:stop] = True

    def check_all(self, what: str) -> None:
        """Refuse to go on while a slice is missing that `what` needs."""
        if not self._seen.all():
            missing = int(np.flatnonzero(~self._seen)[0])
            raise ValueError(f"slice {missing} of {self._shape[0]} was not added; {what} need all slices")
