"""Whether a shard is what was written: every byte of its file, one chunk at a time.

In: an array and the index of a shard. Out: nothing, or what is wrong with the file. Decodes nothing, since
checksums cover the encoded chunks. `ShardedArray.is_whole` looks at the index alone, which is quicker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import StoreError
from voxelmill.storage.shard_files import ABSENT, CRC_BYTES, Index, ShardedArray, is_intact

HEADER_BYTES = 16
"""Of a chunk that Blosc encoded; the last 4 say how long it is."""


def shard_damage(array: ShardedArray, index: Index) -> str | None:
    """What is wrong with a shard, as the end of a sentence; None where every byte is as it was written.

    A file of 0 bytes, and most that are cut short, read as zeros in other libraries, without an error
    (iohub#415 and #442, zarrs#420, zarr-python#3683); here they are told like any flipped bit.
    """
    try:
        file = os.open(array.file(index), os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    try:
        return _damage(array, index, file)
    except OSError as error:  # a sector that is gone
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
    offsets, lengths = extents[order].astype(object).T  # Python's integers, which do not overflow
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
    """The chunks that do not match their checksums; all are read, in the order in which they lie."""
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
    """Positions, in the index of a shard, of the chunks that hold a voxel of the array."""
    for piece in array.shard_box(index).cells(array.chunks):
        yield array.place(piece)


def _cut_short(array: ShardedArray, index: Index, file: int, size: int) -> str | None:
    """That a file ends too early, told by the lengths that its chunks themselves state, one after another."""
    end = 0
    for _ in range(array.chunks_within(index)):
        header = os.pread(file, HEADER_BYTES, end)
        if len(header) < HEADER_BYTES:
            return f"is cut short ({size} bytes)"
        end += int.from_bytes(header[12:], "little") + CRC_BYTES
    expected = end + array.index_bytes
    return f"is cut short ({size} of {expected} bytes)" if size < expected else None
