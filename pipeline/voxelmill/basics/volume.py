"""What every reader returns: a source image whose voxels are read piece by piece.

In: nothing but arrays and geometry. Out: slabs and boxes of *stored* values, in native byte order. The
value that every rule speaks of is ``stored * slope + intercept``. Nothing here knows of files.
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
    """A problem of a source that a setting accepted.

    Attributes
    ----------
    setting : str
        Which, such as "repair.shear=undo".
    what : str
        What was found and what was done, a line with the values; without names of files.
    """

    setting: str
    what: str


@dataclass(frozen=True)
class Slab:
    """A run of whole slices: `data` (c, z, y, x) belongs at ``[channel:, z:]`` of the volume.

    The data are valid until the next slab is asked for: readers use their memory again.
    """

    channel: int
    z: int
    data: Array


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
    repairs : tuple of Repair
        What was not as it should be, and was accepted by a setting.
    otherwise : tuple of str
        Settings, such as "repair.affine=qform", that would place the volume elsewhere and were not chosen.
    together : int
        Channels that a slab holds: those that the file interleaves.
    step : int
        Slices that lie together in the file; slabs of other depths cost decoding them again.
    is_random_access : bool
        Whether `read` touches little more of the file than the box.
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
        """Every voxel once, in the order of the file, at most `depth` slices at a time.

        A slab holds `together` channels. Memory stays at one slab and `extra_bytes`, whatever the size of
        the volume. The arrays may be read-only.

        Raises
        ------
        FormatError
            If the file ends early or its contents do not decode.
        """

    @property
    def slice_bytes(self) -> int:
        """Bytes of one slice of a slab."""
        _, height, width = self.geometry.shape
        return self.together * height * width * self.dtype.itemsize

    @property
    def extra_bytes(self) -> int:
        """Bytes that are held beside a slab while it is read."""
        return 0

    def read(self, box: Box) -> Array:
        """Stored values of a (z, y, x) box, all channels: shape (c, *box.shape)."""
        out = np.empty((self.channels, *box.shape), self.dtype)
        self.fill(box.with_channels(0, self.channels), out)
        return out

    def fill(self, box: Box, out: Array, convert: Convert | None = None) -> None:
        """Put the stored values of a (c, z, y, x) box into `out`, each piece through `convert`.

        Beside it no more is held than `extra_bytes` and one slice of the box. Formats that can only be read
        forward start from the beginning; readers that can seek override this.
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
    """Assign values of the target's shape, converted if that is asked for."""
    target[...] = values if convert is None else convert(values)
