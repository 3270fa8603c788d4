"""The two stores of a run, as Zarr v3 groups with one group per case.

    OUT/raw.zarr/<case>/{image,label,histogram[,mask]}        stored values on the source grid, and facts
    OUT/training.zarr/<configuration>/<case>/{image,label}    the data that training reads

Only this module creates and opens groups and arrays; `shard_files` reads and writes their voxels. One task
writes a whole shard to a temporary name, syncs it and renames it. A shard is *done* if the checksum of its
index holds and the file is as long as the index says. A case of the raw store is done if its group has facts.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core import sync
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from voxelmill.basics.errors import StoreError
from voxelmill.config.settings import StoreConfig
from voxelmill.storage.partial_files import is_left, remove, trash_name, write_whole
from voxelmill.storage.shard_files import ShardedArray, checksum

METADATA = "zarr.json"
RAW = "raw.zarr"
TRAINING = "training.zarr"
ATTRIBUTES = "voxelmill"
"""Key of voxelmill's entry in the attributes of a group or an array."""

SEAL = "voxelmill_crc32c"
"""Key, beside it, of a checksum of the metadata; without it, a digit flipped on disk would go unnoticed."""


@atexit.register
def _stop_zarr() -> None:
    """Stop zarr's thread and wait for it at exit.

    zarr itself waits only 0.2 s; on a busy machine the command would then end with a traceback.
    """
    thread, loop = sync.iothread[0], sync.loop[0]
    if thread is not None and loop is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=60)


def _sealed(metadata: dict[str, Any]) -> bytes:
    """Return metadata as written to disk, with a checksum among the attributes."""
    attributes = {**metadata.get("attributes", {}), SEAL: _seal_of(metadata)}
    return json.dumps({**metadata, "attributes": attributes}, indent=2, allow_nan=False).encode()


def _seal_of(metadata: dict[str, Any]) -> str:
    """Return the CRC-32C of metadata as canonical JSON, without entries that other libraries may add."""
    kept = {k: v for k, v in metadata.items() if k != "consolidated_metadata"}  # zarr 3.1.0 adds a null
    own = {k: v for k, v in metadata.get("attributes", {}).items() if k == ATTRIBUTES}
    return checksum(json.dumps({**kept, "attributes": own}, sort_keys=True).encode()).hex()


def _read_metadata(root: Path, path: str) -> dict[str, Any] | None:
    """Return the content of the zarr.json of a group or an array, or None if it is missing or damaged."""
    try:
        metadata = json.loads((root / path / METADATA).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    is_sealed = isinstance(metadata, dict) and isinstance(metadata.get("attributes"), dict)
    return metadata if is_sealed and metadata["attributes"].get(SEAL) == _seal_of(metadata) else None


def metadata_damage(root: Path, path: str) -> str | None:
    """Return what is wrong with the zarr.json of a group or an array, such as "is missing", or None.

    Every byte must be as written, even if other bytes would mean the same JSON.
    """
    try:
        text = (root / path / METADATA).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    metadata = _read_metadata(root, path)
    if metadata is None or json.dumps(metadata, indent=2).encode() != text:
        return "has damaged metadata"
    return None


def write_group(root: Path, path: str, attributes: dict[str, Any]) -> None:
    """Create a group, or replace its attributes if they differ or are damaged, in one atomic write."""
    if read_attributes(root, path) == attributes and metadata_damage(root, path) is None:
        return
    metadata = {"attributes": {ATTRIBUTES: attributes}, "zarr_format": 3, "node_type": "group"}
    write_whole(root / path / METADATA, _sealed(metadata))


def write_attributes(array: ShardedArray, attributes: dict[str, Any]) -> None:
    """Replace an array's attributes in one atomic write."""
    file = array.folder / METADATA
    metadata = json.loads(file.read_bytes()) | {"attributes": {ATTRIBUTES: attributes}}
    write_whole(file, _sealed(metadata))


def read_attributes(root: Path, path: str) -> dict[str, Any] | None:
    """Return voxelmill's attributes of a group or an array; None if it is missing, damaged or has none."""
    metadata = _read_metadata(root, path)
    return None if metadata is None else metadata["attributes"].get(ATTRIBUTES)


def list_groups(root: Path, path: str = "") -> list[str]:
    """Return the names of the groups directly below `path`, sorted."""
    folder = root / path
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if not is_left(p) and (p / METADATA).exists())


def remove_group(root: Path, path: str) -> None:
    """Remove a group and its content; it is renamed first, so no half-removed group keeps the name.

    If the group is a link, only the link is removed.
    """
    folder = root / path
    if os.path.lexists(folder):
        trash = trash_name(folder)
        folder.rename(trash)
        remove(trash)


def create_array(
    root: Path,
    path: str,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    chunk: Sequence[int],
    shard: Sequence[int],
    config: StoreConfig,
) -> ShardedArray:
    """Create a sharded array, or open it if it exists with the same layout.

    The inner chunks are compressed with Blosc. Each ends in a CRC-32C, as the shard's index does.

    Parameters
    ----------
    root, path : Path, str
        Store, and path of the array within it.
    shape, chunk, shard : sequence of int
        Shapes of the array, its inner chunks and its shards, in voxels.
    dtype : numpy dtype
        Type of the voxels.
    config : StoreConfig
        Compressor and level.

    Raises
    ------
    StoreError
        If an array with another layout exists there.
    """
    dtype = np.dtype(dtype)
    if array_exists(root, path):
        array = open_array(root, path)
        found = (array.shape, array.dtype, array.chunks, array.shards)
        if found != (tuple(shape), dtype, tuple(chunk), tuple(shard)):
            raise StoreError(
                f"{path}: found {array.shape} {array.dtype} in shards of {array.shards}, expected "
                f"{tuple(shape)} {dtype} in {tuple(shard)}. Pass --restart, or use another output."
            )
        return array
    blosc = BloscCodec(
        cname=config.compressor, clevel=config.level, shuffle="bitshuffle", typesize=dtype.itemsize
    )
    made = zarr.create_array(
        MemoryStore(),
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(chunk),
        shards=tuple(shard),
        compressors=[blosc, Crc32cCodec()],
        fill_value=0,
    )
    metadata = made.metadata.to_buffer_dict(default_buffer_prototype())[METADATA].to_bytes()
    write_whole(root / path / METADATA, _sealed(json.loads(metadata)))
    return open_array(root, path)


def open_array(root: Path, path: str) -> ShardedArray:
    """Open an array of a store.

    Raises
    ------
    StoreError
        If it is missing, its metadata is damaged, or its layout is that of another version.
    """
    metadata = _read_metadata(root, path)
    if metadata is None:
        raise StoreError(
            f"{root.name}/{path} is not there, or its metadata is damaged. Run the stage that makes it again."
        )
    try:
        return _sharded_array(root / path, metadata)
    except LookupError:
        raise StoreError(
            f"{root.name}/{path} has a layout that this version of voxelmill does not write. Use the version "
            "that wrote it, or another OUT."
        ) from None


def _sharded_array(folder: Path, metadata: dict[str, Any]) -> ShardedArray:
    """Make an array from its metadata: the only codec is sharding, and Blosc is its second inner codec.

    The checksum was checked before, so a missing entry means that another version wrote the metadata.
    """
    shards = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    sharding = metadata["codecs"][0]["configuration"]
    blosc = sharding["codecs"][1]["configuration"]
    return ShardedArray(
        folder,
        tuple(metadata["shape"]),
        np.dtype(metadata["data_type"]),
        tuple(sharding["chunk_shape"]),
        tuple(shards),
        blosc["cname"],
        blosc["clevel"],
    )


def array_exists(root: Path, path: str) -> bool:
    """Return whether an array's metadata exists and is intact."""
    return _read_metadata(root, path) is not None
