"""The full check of a shard: every byte of its file, one chunk at a time.

In: an array and the index of a shard. Out: None, or a text that says what is wrong with the file. Nothing is
decoded, because the checksums cover the encoded chunks. `ShardedArray.is_whole` checks only the index, which
is faster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import StoreError
from voxelmill.storage.shard_files import ABSENT, CRC_BYTES, Index, ShardedArray, is_intact

HEADER_BYTES = 16
"""Length of the header of a Blosc chunk; its last 4 bytes hold the length of the chunk."""


def shard_damage(array: ShardedArray, index: Index) -> str | None:
    """Return what is wrong with a shard, as the end of a sentence, or None if it is intact.

    Other libraries read an empty file, and most truncated ones, as zeros without an error (iohub#415 and
    #442, zarrs#420, zarr-python#3683); here they are reported like any flipped bit.
    """
    try:
        file = os.open(array.file(index), os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    try:
        return _damage(array, index, file)
    except OSError as error:  # such as a bad sector
        return f"cannot be read ({error.strerror})"
    finally:
        os.close(file)


def _damage(array: ShardedArray, index: Index, file: int) -> str | None:
    size = os.fstat(file).st_size
    try:
        extents = array.read_index(file, index)
    except StoreError:
        return _cut_short(array, index, file, size) or "has a damaged index"
    places = _places(array, index)
    present = np.flatnonzero((extents != ABSENT).any(axis=1))
    if present.tolist() != sorted(places):
        return "has an index of other chunks"
    order = present[np.argsort(extents[present, 0], kind="stable")]
    offsets, lengths = extents[order].astype(object).T  # Python integers: damaged words must not overflow
    ends = [0, *(offsets + lengths)]
    if ends[-1] + array.index_bytes != size:
        return f"is not as long as its index says ({size} of {ends[-1] + array.index_bytes} bytes)"
    if ends[:-1] != list(offsets):
        return "has an index with gaps or overlaps"
    return _damaged_chunks(array, index, file, extents[order], order)


def _damaged_chunks(
    array: ShardedArray,
    index: Index,
    file: int,
    extents: npt.NDArray[np.uint64],
    order: npt.NDArray[np.intp],
) -> str | None:
    """Report the chunks that do not match their checksums; all are read, in file order."""
    damaged = [
        place
        for place, (offset, length) in zip(order.tolist(), extents.tolist(), strict=True)
        if length <= CRC_BYTES or not is_intact(os.pread(file, length, offset))
    ]
    if not damaged:
        return None
    within = np.unravel_index(damaged[0], array.grid)
    chunk = "/".join(str(i * n + k) for i, n, k in zip(index, array.grid, within, strict=True))
    more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    return f"holds a chunk that does not match its checksum (chunk {chunk}{more})"


def _places(array: ShardedArray, index: Index) -> Iterator[int]:
    """Yield the positions, in the index of a shard, of the chunks that hold a voxel of the array."""
    for piece in array.shard_box(index).cells(array.chunks):
        yield array.place(piece)


def _cut_short(array: ShardedArray, index: Index, file: int, size: int) -> str | None:
    """Return that a file is cut short, from the lengths in the headers of its chunks; None if it is not."""
    end = 0
    for _ in range(array.chunks_within(index)):
        header = os.pread(file, HEADER_BYTES, end)
        if len(header) < HEADER_BYTES:
            return f"is cut short ({size} bytes)"
        end += int.from_bytes(header[12:], "little") + CRC_BYTES
    expected = end + array.index_bytes
    return f"is cut short ({size} of {expected} bytes)" if size < expected else None
