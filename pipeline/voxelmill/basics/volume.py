"""`Volume`, which every reader returns: a source image that is read piece by piece.

Its slabs and boxes hold *stored* values in native byte order. All rules about values apply to
``stored * slope + intercept``. This module knows no files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import Box, Geometry

Array = npt.NDArray[Any]
Convert = Callable[[Array], Array]


@dataclass(frozen=True)
class Repair:
    """A problem of a source that was accepted because of a setting.

    Attributes
    ----------
    setting : str
        The setting, such as "repair.shear=undo".
    what : str
        What was found and what was done: one line with the values and no file name.
    """

    setting: str
    what: str


@dataclass(frozen=True)
class Slab:
    """Consecutive whole slices: `data` (c, z, y, x) belongs at ``[channel:, z:]`` of the volume.

    The data are valid only until the next slab is requested, because readers reuse the memory.
    """

    channel: int
    z: int
    data: Array


class Volume(ABC):
    """An image of one or more channels on one grid, read on demand.

    Attributes
    ----------
    geometry : Geometry
        The grid; `geometry.shape` is (z, y, x).
    channels : int
        Number of channels.
    dtype : numpy.dtype
        Type of the stored values, in native byte order.
    slope, intercept : float
        ``value = stored * slope + intercept``, for the whole volume.
    modality : str or None
        DICOM Modality ("CT", "MR"), if the source states one.
    notes : tuple of str
        Notes for the user on how the source was read, one line each.
    repairs : tuple of Repair
        Problems of the source that settings accepted.
    otherwise : tuple of str
        Settings that were not chosen and would place the volume elsewhere, such as "repair.affine=qform".
    together : int
        Channels per slab: those that the file interleaves.
    step : int
        Slices that the file stores together. Slabs of other depths decode some slices more than once.
    is_random_access : bool
        Whether `read` reads little more of the file than the box.
    """

    together = 1
    step = 1
    is_random_access = False

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
        repairs: tuple[Repair, ...] = (),
        otherwise: tuple[str, ...] = (),
    ) -> None:
        self.geometry = geometry
        self.dtype = np.dtype(dtype).newbyteorder("=")
        self.channels = channels
        self.slope = slope
        self.intercept = intercept
        self.modality = modality
        self.notes = notes
        self.repairs = repairs
        self.otherwise = otherwise

    @abstractmethod
    def slabs(self, depth: int) -> Iterator[Slab]:
        """Yield every voxel once, in file order, in slabs of at most `depth` slices.

        A slab holds `together` channels. Memory use is one slab plus `extra_bytes`, independent of the size
        of the volume. The arrays may be read-only.

        Raises
        ------
        FormatError
            If the file ends early or cannot be decoded.
        """

    @property
    def slice_bytes(self) -> int:
        """Bytes of one slice of a slab."""
        _, height, width = self.geometry.shape
        return self.together * height * width * self.dtype.itemsize

    @property
    def extra_bytes(self) -> int:
        """Memory held besides a slab while it is read, in bytes."""
        return 0

    def read(self, box: Box) -> Array:
        """Return the stored values of a (z, y, x) box for all channels, with shape (c, *box.shape)."""
        out = np.empty((self.channels, *box.shape), self.dtype)
        self.fill(box.with_channels(0, self.channels), out)
        return out

    def fill(self, box: Box, out: Array, convert: Convert | None = None) -> None:
        """Write the stored values of a (c, z, y, x) box into `out`, piece by piece through `convert`.

        Besides `out`, at most `extra_bytes` and one slice of the box are held. This implementation reads the
        file from its beginning; readers that can seek override it.
        """
        for slab in self.slabs(depth=1):
            corner = (slab.channel, slab.z, 0, 0)
            part = Box.whole(slab.data.shape).shift(corner).intersect(box)
            if part.size:
                inside = slab.data[part.shift([-n for n in corner]).slices]
                put(out[part.shift([-n for n in box.start]).slices], inside, convert)

    def __repr__(self) -> str:
        shape = "x".join(str(n) for n in self.geometry.shape)
        spacing = "x".join(f"{s:.4g}" for s in self.geometry.spacing)
        channels = f"{self.channels} channels " if self.channels > 1 else ""
        return f"Volume {channels}{shape} {self.dtype}, {spacing} mm"


def put(target: Array, values: Array, convert: Convert | None) -> None:
    """Assign `values` to `target`, through `convert` if given."""
    target[...] = values if convert is None else convert(values)
