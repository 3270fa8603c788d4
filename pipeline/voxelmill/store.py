"""The two stores of a run, and what "done" means: Zarr v3 groups, one per case.

    OUT/raw.zarr/<case>/{image,label,histogram[,mask]}        stored values on the source grid, and facts
    OUT/training.zarr/<configuration>/<case>/{image,label}    what training reads

Arrays are created, opened and written here and nowhere else. A shard is written whole, by one task, to a
temporary name that is synced and then renamed; it is *done* when the checksum of its index holds and its
length is what the index says. A case of the raw store is done when its group carries facts.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from voxelmill.config import StoreConfig
from voxelmill.errors import StoreError
from voxelmill.geometry import Box

RAW = "raw.zarr"
TRAINING = "training.zarr"
ATTRIBUTES = "voxelmill"
"""Key of this project's entry in a group's attributes."""


class DurableStore(LocalStore):
    """A local store whose objects are on disk before they get their name.

    Zarr's own store renames without a sync: after a power cut, a name may stand for an empty file.
    """

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write one object durably."""
        self._ensure_open_sync()
        self._check_writable()
        _put(self.root / key, value.as_buffer_like())

    async def set(self, key: str, value: Buffer) -> None:
        """Write one object durably."""
        if not self._is_open:
            await self._open()
        self._check_writable()
        _put(self.root / key, value.as_buffer_like())


def _put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _config() -> Any:
    # zarr does not store write_empty_chunks: reopened with its default, writing an all-zero shard
    # would delete it. Its codecs also shall not use more cores than the worker has threads.
    return zarr.config.set({"array.write_empty_chunks": True, "threading.max_workers": 1})


def write_group(root: Path, path: str, attributes: dict[str, Any]) -> None:
    """Create a group, or replace its attributes where they differ; one atomic write."""
    if read_attributes(root, path) == attributes:
        return
    metadata = {"attributes": {ATTRIBUTES: attributes}, "zarr_format": 3, "node_type": "group"}
    _put(root / path / "zarr.json", json.dumps(metadata, indent=2, allow_nan=False).encode())


def write_attributes(array: zarr.Array[Any], attributes: dict[str, Any]) -> None:
    """Replace an array's attributes; one atomic write."""
    with _config():
        array.attrs.put({ATTRIBUTES: attributes})


def read_attributes(root: Path, path: str) -> dict[str, Any] | None:
    """The attributes of a group or an array, or None where it is not there, damaged, or has none."""
    try:
        metadata = json.loads((root / path / "zarr.json").read_bytes())
        return cast("dict[str, Any] | None", metadata["attributes"].get(ATTRIBUTES))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def list_groups(root: Path, path: str = "") -> list[str]:
    """Names of the groups directly below `path`, sorted."""
    folder = root / path
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if not _is_trash(p) and (p / "zarr.json").exists())


def remove_group(root: Path, path: str) -> None:
    """Remove a group and all it holds; it is renamed first, so that half of it never keeps its name."""
    folder = root / path
    if folder.exists():
        trash = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.trash")
        folder.rename(trash)
        shutil.rmtree(trash)


def sweep(root: Path, path: str = "", whole: bool = False) -> None:
    """Remove what a killed run left half-written or half-removed in a group, or in all that it holds."""
    folder = root / path
    for left in [p for p in (folder.rglob("*") if whole else folder.glob("*")) if _is_trash(p)]:
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _is_trash(path: Path) -> bool:
    return re.search(r"\.[0-9a-f]{32}\.(trash|partial)$", path.name) is not None


def create_array(
    root: Path,
    path: str,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    chunk: Sequence[int],
    shard: Sequence[int],
    config: StoreConfig,
) -> zarr.Array[Any]:
    """Create a sharded array, or open it where it exists with the same layout.

    Inner chunks are Blosc-compressed and end in a CRC-32C, as the shard's index does.

    Raises
    ------
    StoreError
        If an array with another layout stands there.
    """
    dtype = np.dtype(dtype)
    if array_exists(root, path):
        array = open_array(root, path, mode="r+")
        found = (array.shape, array.dtype, array.chunks, array.shards)
        if found != (tuple(shape), dtype, tuple(chunk), tuple(shard)):
            raise StoreError(
                f"{path}: found {array.shape} {array.dtype} in shards of {array.shards}, expected "
                f"{tuple(shape)} {dtype} in {tuple(shard)}. Pass --restart, or use another output."
            )
        return array
    (root / path / "zarr.json").unlink(missing_ok=True)  # damaged, if it is there
    blosc = BloscCodec(
        cname=config.compressor, clevel=config.level, shuffle="bitshuffle", typesize=dtype.itemsize
    )
    with _config():
        return zarr.create_array(
            DurableStore(root),
            name=path,
            shape=tuple(shape),
            dtype=dtype,
            chunks=tuple(chunk),
            shards=tuple(shard),
            compressors=[blosc, Crc32cCodec()],
            fill_value=0,
        )


def open_array(root: Path, path: str, mode: str = "r") -> zarr.Array[Any]:
    """Open an array of a store.

    Raises
    ------
    StoreError
        If there is none, or its metadata is damaged.
    """
    store = LocalStore(root, read_only=True) if mode == "r" else DurableStore(root)
    try:
        with _config():
            return zarr.open_array(store, path=path, mode=mode)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        raise StoreError(
            f"{root.name}/{path} is not there, or its metadata is damaged. Run the stage that makes it again."
        ) from None


def array_exists(root: Path, path: str) -> bool:
    """Whether an array's metadata is there and can be read."""
    try:
        open_array(root, path)
    except StoreError:
        return False
    return True


def read_box(array: zarr.Array[Any], channel: int | None, box: Box) -> npt.NDArray[Any]:
    """A (z, y, x) box of one channel, or of an array without channels."""
    selection: Any = box.slices if channel is None else (channel, *box.slices)
    with _config():
        return np.asarray(array[selection])


def write_box(array: Any, box: Box, values: npt.NDArray[Any]) -> None:
    """Write `values` to the last three axes' `box`, all channels; the box is made of whole shards."""
    selection: Any = (..., *box.slices)
    # Zarr would read and merge what stands in a shard at the edge of the array, damaged or not.
    for index in _shards_in(array, box):
        shard_path(array.store.root, array.path, index).unlink(missing_ok=True)
    with _config():
        array[selection] = values


def _shards_in(array: Any, box: Box) -> Iterator[tuple[int, ...]]:
    """Indices of the shards that a box of the last axes is made of, along all of the axes before them."""
    whole = Box.whole(array.shape)
    before = array.ndim - len(box.start)
    start, stop = whole.start[:before] + box.start, whole.stop[:before] + box.stop
    return product(*(range(a // s, -(-b // s)) for a, b, s in zip(start, stop, array.shards, strict=True)))


def write_slab(array: zarr.Array[Any], channel: int, z: int, data: npt.NDArray[Any]) -> None:
    """Write whole slices (c, z, y, x) of the raw image at ``[channel:, z:]``."""
    channels, depth = data.shape[:2]
    with _config():
        array[channel : channel + channels, z : z + depth] = data


def shard_path(root: Path, path: str, index: Sequence[int]) -> Path:
    """The file of one shard, by its index along each axis."""
    return root.joinpath(path, "c", *(str(i) for i in index))


def missing_shards(root: Path, path: str) -> list[tuple[int, ...]]:
    """Indices of an array's shards that are not whole.

    Raises
    ------
    StoreError
        If there is no such array, or its metadata is damaged.
    """
    array: Any = open_array(root, path)
    chunks = math.prod(s // c for s, c in zip(array.shards, array.chunks, strict=True))
    every = _shards_in(array, Box.whole(array.shape))
    return [i for i in every if not shard_is_whole(shard_path(root, path, i), chunks)]


def shard_is_whole(file: Path, chunks: int) -> bool:
    """Whether a shard of `chunks` inner chunks is complete, from its index and its length alone."""
    index_bytes = 16 * chunks + 4
    try:
        with file.open("rb") as f:
            size = f.seek(0, os.SEEK_END)
            if size < index_bytes:
                return False
            f.seek(size - index_bytes)
            index = f.read(index_bytes)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if google_crc32c.value(index[:-4]) != int.from_bytes(index[-4:], "little"):
        return False
    extents = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
    present = extents[extents[:, 0] != np.iinfo(np.uint64).max]
    return bool(present.sum(axis=1).max(initial=0) + index_bytes == size)
