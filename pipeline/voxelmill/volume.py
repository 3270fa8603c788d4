"""What every reader returns: a source image whose voxels are read piece by piece.

In: nothing but arrays and geometry. Out: slabs and boxes of *stored* values, in native byte order. The
value that every rule speaks of is ``stored * slope + intercept``. Nothing here knows of files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.geometry import Box, Geometry


@dataclass(frozen=True)
class Slab:
    """A run of whole slices: `data` (c, z, y, x) belongs at ``[channel:, z:]`` of the volume."""

    channel: int
    z: int
    data: npt.NDArray[Any]


class Volume(ABC):
    """An image of one or more channels on one grid, not in memory.

    Attributes
    ----------
    geometry : Geometry
        The grid; `geometry.shape` is (z, y, x).
    channels : int
        Number of channels.
    dtype : numpy.dtype
        Type of the stored values, native byte order.
    slope, intercept : float
        ``value = stored * slope + intercept``, for the whole volume.
    modality : str or None
        DICOM Modality ("CT", "MR"), where the source states one.
    notes : tuple of str
        What a user should know of how the source was read, a line each.
    """

    def __init__(
        self,
        geometry: Geometry,
        dtype: npt.DTypeLike,
        *,
        channels: int = 1,
        slope: float = 1.0,
        intercept: float = 0.0,
        modality: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.geometry = geometry
        self.dtype = np.dtype(dtype).newbyteorder("=")
        self.channels = channels
        self.slope = slope
        self.intercept = intercept
        self.modality = modality
        self.notes = notes

    @abstractmethod
    def slabs(self, depth: int) -> Iterator[Slab]:
        """Every voxel once, in the order of the file, at most `depth` slices at a time.

        A slab holds one channel, or all channels where the file interleaves them. Memory stays at a
        few slabs whatever the size of the volume. The arrays may be read-only.

        Raises
        ------
        FormatError
            If the file ends early or its contents do not decode.
        """

    def read(self, box: Box) -> npt.NDArray[Any]:
        """Stored values of a (z, y, x) box, all channels: shape (c, *box.shape).

        Formats that can only be read forward start from the beginning; readers that can seek
        override this.
        """
        out = np.empty((self.channels, *box.shape), self.dtype)
        for slab in self.slabs(depth=1):
            if box.start[0] <= slab.z < box.stop[0]:
                channels = slice(slab.channel, slab.channel + slab.data.shape[0])
                rows, columns = box.slices[1:]
                out[channels, slab.z - box.start[0]] = slab.data[:, 0, rows, columns]
        return out

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.geometry.shape)
        spacing = "x".join(f"{s:.4g}" for s in self.geometry.spacing)
        channels = f"{self.channels} channels " if self.channels > 1 else ""
        return f"Volume {channels}{shape} {self.dtype}, {spacing} mm"
