"""The reader for OME-Zarr 0.4 and 0.5: level 0 of the first multiscale image of a group.

In: a folder. Out: a volume (c, z, y, x), whatever the order on disk. Besides the store, only this module
imports zarr. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from voxelmill.basics.errors import FormatError
from voxelmill.basics.geometry import Box, Geometry
from voxelmill.basics.safe_tracebacks import is_own_fault
from voxelmill.basics.volume import Convert, Slab, Volume, put
from voxelmill.inputs.readers.ome_zarr.ome_folder import ome_metadata
from voxelmill.inputs.readers.ome_zarr.ome_metadata import Multiscale
from voxelmill.inputs.readers.shared.axes_and_units import Array, arrange
from voxelmill.inputs.readers.shared.hints import Hints
from voxelmill.inputs.readers.shared.packed_voxels import readable, supported

ONE_AT_A_TIME = {"threading.max_workers": 1, "async.concurrency": 1}
"""Options that limit zarr to one chunk in memory; its default is ten."""

_MOST_BEYOND = 8
"""Largest accepted ratio of a chunk to the whole image."""

_SMALL_BYTES = 16 * 2**20
"""Size of a chunk in bytes that is accepted in any case."""

_RESTORE = "Restore the image from its source."


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open an OME-Zarr image; see `voxelmill.inputs.readers.formats.open_volume`."""
    folder = _image_folder(path)
    image = Multiscale.parse(ome_metadata(folder))
    array = _open_array(folder, image.path)
    image.check(array.shape)
    return _Image(image.geometry(array.shape, hints.spacing), array, image.letters)


class _Image(Volume):
    def __init__(self, geometry: Geometry, array: zarr.Array[Any], axes: str) -> None:
        self._array = array
        self._axes = axes
        self._lengths = dict(zip(axes, array.shape, strict=True))
        self._chunks = dict(zip(axes, array.chunks, strict=True))
        dtype = np.dtype(np.uint8) if array.dtype == bool else supported(array.dtype)
        super().__init__(geometry, dtype, channels=self._lengths.get("c", 1))
        self.together = min(self._chunks.get("c", 1), self.channels)
        self.step = min(self._chunks.get("z", 1), geometry.shape[0])
        self.is_random_access = True

    @property
    def extra_bytes(self) -> int:
        """Bytes held beside a slab: one chunk, its encoded bytes, and the index of a shard."""
        return 3 * prod(self._array.chunks) * self.dtype.itemsize

    def slabs(self, depth: int) -> Iterator[Slab]:
        """Yield every voxel once, a chunk's channels together; a chunk thicker than a slab decodes again."""
        length, *plane = self.geometry.shape
        memory = np.empty((self.together, min(depth, length), *plane), self.dtype)
        for first in range(0, self.channels, self.together):
            stop = min(first + self.together, self.channels)
            for z in range(0, length, depth):
                box = Box((first, z, 0, 0), (stop, min(z + depth, length), *plane))
                data = memory[: box.shape[0], : box.shape[1]]
                self.fill(box, data)
                yield Slab(first, z, data)

    def fill(self, box: Box, out: Array, convert: Convert | None = None) -> None:
        """Read a (c, z, y, x) box into `out`, one chunk at a time."""
        with readable(), zarr.config.set(ONE_AT_A_TIME):
            for cell in box.cells([self._chunks.get(axis, 1) for axis in "czyx"]):
                put(out[cell.shift([-n for n in box.start]).slices], self._decode(cell), convert)

    def _decode(self, box: Box) -> Array:
        wanted = dict(zip("czyx", box.slices, strict=True))
        index = tuple(wanted.get(axis, 0) for axis in self._axes)  # every other axis has length 1
        kept = "".join(axis for axis in self._axes if axis in wanted)
        return arrange(_decode(self._array, index), kept, "czyx")


def _decode(array: zarr.Array[Any], index: tuple[Any, ...]) -> Array:
    try:
        return np.asarray(array[index])
    except OSError:
        raise
    except Exception as error:  # a codec may raise anything, and may quote paths
        if is_own_fault(error):
            raise
        raise FormatError(
            f"a chunk of the OME-Zarr image does not decode ({type(error).__name__}). {_RESTORE}"
        ) from None


def _open_array(folder: Path, path: str) -> zarr.Array[Any]:
    try:
        array = zarr.open_array(LocalStore(folder, read_only=True), path=path, mode="r")
    except Exception as error:  # errors of zarr and of its codecs quote paths
        if is_own_fault(error):
            raise
        raise FormatError(
            "level 0 of the OME-Zarr image is missing, or is no array that zarr reads "
            f"({type(error).__name__}). {_RESTORE}"
        ) from None
    if not all(array.shape) or not all(array.chunks):
        raise FormatError(
            f"level 0 of the OME-Zarr image is empty, of shape {array.shape} in chunks of {array.chunks}. "
            f"{_RESTORE}"
        )
    _check_codecs(array)
    _check_chunks(array)
    return array


def _check_chunks(array: zarr.Array[Any]) -> None:
    """Refuse chunks that lie mostly outside the image: each is decoded whole."""
    chunk, whole = (prod(shape) * array.dtype.itemsize for shape in (array.chunks, array.shape))
    if chunk > max(_MOST_BEYOND * whole, _SMALL_BYTES):
        raise FormatError(
            f"the OME-Zarr image has chunks of {array.chunks} voxels ({chunk} bytes), but is of "
            f"{array.shape} ({whole} bytes). Save it with chunks that are no larger, or mend its metadata."
        )


def _check_codecs(array: zarr.Array[Any]) -> None:
    """Refuse codecs that create Python objects: unpickling executes code from the file."""
    found = {_codec_name(codec) for codec in (*array.filters, *array.compressors)} & {
        "pickle",
        "msgpack2",
        "json2",
    }
    if found or array.dtype.hasobject:
        raise FormatError(
            f"voxels of the OME-Zarr image are objects of Python ({', '.join(sorted(found)) or 'object'}); "
            "numbers are read. Write the image again."
        )


def _codec_name(codec: Any) -> str:
    stated = codec.get_config()["id"] if hasattr(codec, "get_config") else codec.to_dict()["name"]
    return str(stated).removeprefix("numcodecs.")


def _image_folder(path: Path) -> Path:
    """Return the group of the image; in a bioformats2raw container, its only image."""
    found = ome_metadata(path)
    if "multiscales" in found:
        return path
    if found.get("bioformats2raw.layout") == 3:
        images = [p for p in path.iterdir() if p.name.isdecimal() and "multiscales" in ome_metadata(p)]
        if len(images) == 1:
            return images[0]
        raise FormatError(
            f"the OME-Zarr container holds {len(images)} images, one is needed. Name the folder of one."
        )
    for key, what in {"plate": "a plate", "well": "a well", "labels": "a list of labels"}.items():
        if key in found:
            raise FormatError(
                f"the OME-Zarr group is {what}, one image is needed. Name the folder of an image within it."
            )
    if not path.exists():
        raise FileNotFoundError  # worded by `readable`
    raise FormatError(
        "the Zarr group states no OME image (multiscales of version 0.4 or 0.5). Name the folder of an "
        "image, or write its metadata."
    )
