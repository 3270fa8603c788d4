"""Reading boxes and writing shards of a sharded Zarr v3 array, with one chunk in memory at a time.

In: the folder and the layout of an array. Out: boxes of values; shard files that any Zarr v3 library reads.
This module knows no groups, attributes or cases. A shard holds its inner chunks one after another, each
bitshuffled by Blosc and followed by its CRC-32C. The index follows: offset and length of every chunk in C
order as little-endian 64-bit words, and their CRC-32C (Zarr v3 specification, codec "sharding_indexed").

zarr-python writes the metadata, but not the shards, because it holds an encoded shard twice while writing it.
Measured for int16 in chunks of 256 KiB to 2 MiB, zarr 3.1 takes 2 to 9 times as long to write and 1.3 to 8
times as long to read.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc

from voxelmill.basics.errors import StoreError
from voxelmill.basics.geometry import Box
from voxelmill.basics.volume import Array, Convert, put
from voxelmill.storage.partial_files import partial_name

Index = tuple[int, ...]

CRC_BYTES = 4
RESIDUE = 0x48674BC7
"""CRC-32C of any data followed by its own CRC-32C."""

ABSENT = np.iinfo(np.uint64).max
"""Offset and length, in an index, of an absent chunk: one beyond the edge of the array."""


@dataclass(frozen=True)
class ShardedArray:
    """An array of a store; shapes have one entry per axis.

    Attributes
    ----------
    folder : Path
        Folder of the array and its metadata.
    shape : tuple of int
        Voxels along each axis.
    dtype : numpy.dtype
        Little-endian.
    chunks, shards : tuple of int
        Shapes of the inner chunk and the shard, in voxels.
    compressor, level : str, int
        Blosc's codec and level for writing chunks.
    """

    folder: Path
    shape: Index
    dtype: np.dtype[Any]
    chunks: Index
    shards: Index
    compressor: str
    level: int

    @property
    def chunks_of_a_shard(self) -> int:
        """Number of chunks of a full shard."""
        return math.prod(self.grid)

    def read(self, box: Box) -> Array:
        """Return the values of a box; see `fill`."""
        out = np.empty(box.shape, self.dtype)
        self.fill(box, out)
        return out

    def fill(self, box: Box, out: Array, convert: Convert | None = None) -> None:
        """Write the values of a box into `out`, chunk by chunk through `convert`.

        Raises
        ------
        StoreError
            If a shard is missing or damaged.
        """
        buffer = np.empty(self.chunks, self.dtype)
        for index in self.shards_in(box):
            with self._open(index) as (file, extents):
                for piece in self.shard_box(index).intersect(box).cells(self.chunks):
                    self._decode(file, extents[self.place(piece)], index, buffer)
                    corner = [n - n % c for n, c in zip(piece.start, self.chunks, strict=True)]
                    part = buffer[_within(piece, corner)]
                    put(out[_within(piece, box.start)], part, convert)

    def write(self, box: Box, values: Array) -> None:
        """Replace whole shards; the box must end at the edges of shards or of the array."""
        with self.writer() as pieces:
            pieces.write(box.start, values)

    @contextmanager
    def writer(self) -> Iterator[ArrayWriter]:
        """Replace whole shards piece by piece; each is renamed into place after its last chunk."""
        pieces = ArrayWriter(self)
        try:
            yield pieces
            pieces.check()
        finally:
            pieces.discard()

    def shards_in(self, box: Box) -> Iterator[Index]:
        """Yield the indices of the shards that a box touches."""
        for cell in box.cells(self.shards):
            yield tuple(n // s for n, s in zip(cell.start, self.shards, strict=True))

    def missing_shards(self) -> list[Index]:
        """Return the indices of the shards that are not whole."""
        return [i for i in self.shards_in(Box.whole(self.shape)) if not self.is_whole(i)]

    def is_whole(self, index: Index) -> bool:
        """Return whether a shard is complete, judged by its index and the length of its file only."""
        try:
            with self._open(index) as (file, extents):
                size = os.fstat(file).st_size
        except StoreError:
            return False
        present = extents[extents[:, 0] != ABSENT]
        end = int(present.sum(axis=1).max(initial=0)) + self.index_bytes
        return end == size and len(present) == self.chunks_within(index)

    def made(self) -> tuple[int, int] | None:
        """Return inode and modification time (ns) of the metadata, or None if the array is gone.

        They differ if another array was created in its place.
        """
        try:
            found = (self.folder / "zarr.json").stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_ino, found.st_mtime_ns

    def file(self, index: Index) -> Path:
        """Return the path of a shard's file."""
        return self.folder.joinpath("c", *(str(i) for i in index))

    @property
    def grid(self) -> Index:
        """Number of chunks of a shard along each axis."""
        return tuple(s // c for s, c in zip(self.shards, self.chunks, strict=True))

    @property
    def index_bytes(self) -> int:
        """Length of a shard's index with its checksum, in bytes."""
        return 16 * self.chunks_of_a_shard + CRC_BYTES

    def shard_box(self, index: Index) -> Box:
        """Return the voxels of a shard that lie within the array."""
        start = tuple(i * s for i, s in zip(index, self.shards, strict=True))
        stop = tuple(a + s for a, s in zip(start, self.shards, strict=True))
        return Box(start, stop).intersect(Box.whole(self.shape))

    def chunks_within(self, index: Index) -> int:
        """Return the number of chunks of a shard that hold a voxel of the array."""
        return math.prod(-(-n // c) for n, c in zip(self.shard_box(index).shape, self.chunks, strict=True))

    def place(self, piece: Box) -> int:
        """Return the position, in the index of its shard, of the chunk that holds a piece."""
        place = 0
        for start, chunk, n in zip(piece.start, self.chunks, self.grid, strict=True):
            place = place * n + start // chunk % n
        return place

    @contextmanager
    def _open(self, index: Index) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
        """Open a shard: its file descriptor, and offset and length of its chunks."""
        try:
            file = os.open(self.file(index), os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            raise self._damaged(index, "is missing") from None
        try:
            yield file, self.read_index(file, index)
        finally:
            os.close(file)

    def read_index(self, file: int, index: Index) -> npt.NDArray[np.uint64]:
        """Return offset and length of each chunk of a shard, shape (chunks, 2), in bytes.

        Raises
        ------
        StoreError
            If the index is damaged.
        """
        size = os.fstat(file).st_size
        words = os.pread(file, self.index_bytes, max(0, size - self.index_bytes))
        if len(words) < self.index_bytes or not is_intact(words):
            raise self._damaged(index, "has a damaged index")
        return np.frombuffer(words[:-CRC_BYTES], "<u8").reshape(-1, 2)

    def _decode(self, file: int, extent: npt.NDArray[np.uint64], index: Index, buffer: Array) -> None:
        """Decode one chunk of a shard into the buffer."""
        offset, length = extent.tolist()
        encoded = b"" if offset == ABSENT else os.pread(file, length, offset)
        if len(encoded) <= CRC_BYTES or not is_intact(encoded):
            raise self._damaged(index, "holds a chunk that does not match its checksum")
        if int.from_bytes(encoded[4:8], "little") != buffer.nbytes:  # Blosc's header: the decoded length
            raise self._damaged(index, "holds a chunk of another size")
        with _one_thread():
            blosc.decompress(memoryview(encoded)[:-CRC_BYTES], buffer)

    def _damaged(self, index: Index, what: str) -> StoreError:
        where = f"{self.folder.parent.name}/{self.folder.name}"
        return StoreError(
            f"shard {'/'.join(map(str, index))} of {where} {what}. `voxelmill verify OUT --repair` finds all "
            "that is damaged and mends it."
        )


class ArrayWriter:
    """Writes shards from pieces of whole chunks; a piece may span several shards.

    Raises
    ------
    StoreError
        From `write`, if another run removed or replaced the array meanwhile, after this run's driver died.
    """

    def __init__(self, array: ShardedArray) -> None:
        self._array = array
        self._made = array.made()
        self._open: dict[Index, _ShardWriter] = {}

    def write(self, start: Sequence[int], values: Array) -> None:
        """Append the chunks of a box that begins at `start` and ends at edges of chunks or of the array."""
        box = Box(tuple(start), tuple(a + n for a, n in zip(start, values.shape, strict=True)))
        for index in self._array.shards_in(box):
            part = self._array.shard_box(index).intersect(box)
            if index not in self._open:
                self._open[index] = _ShardWriter(self._array, index)
            shard = self._open[index]
            shard.write(part, values[_within(part, box.start)])
            if shard.is_complete:
                self._check_same(index)
                shard.finish()
                del self._open[index]

    def _check_same(self, index: Index) -> None:
        if self._array.made() != self._made:
            where = f"{self._array.folder.parent.name}/{self._array.folder.name}"
            raise StoreError(
                f"shard {'/'.join(map(str, index))} of {where} is not written: another run has made the "
                "array anew. Leave OUT to it."
            )

    def check(self) -> None:
        """Raise ValueError if a shard is unfinished."""
        if self._open:
            raise ValueError(f"shards {list(self._open)} lack chunks")

    def discard(self) -> None:
        """Remove the files of unfinished shards."""
        for shard in self._open.values():
            shard.partial.unlink(missing_ok=True)


class _ShardWriter:
    """Appends the chunks of one shard to a file under a temporary name.

    The bytes depend on the order of the chunks, so callers write in C order, whatever the size of their
    pieces. No file stays open between two writes.
    """

    def __init__(self, array: ShardedArray, index: Index) -> None:
        self._array = array
        self._target = array.file(index)
        self._waiting = array.chunks_within(index)
        self._extents = np.full((array.chunks_of_a_shard, 2), ABSENT, "<u8")
        self._size = 0
        self.partial = partial_name(self._target)

    @property
    def is_complete(self) -> bool:
        """Whether every chunk was written."""
        return self._waiting == 0

    def write(self, box: Box, values: Array) -> None:
        """Append the chunks of a box."""
        array = self._array
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        with self.partial.open("ab") as file:
            for piece in box.cells(array.chunks):
                self._check(piece)
                encoded = self._encode(values[_within(piece, box.start)])
                file.write(encoded)
                file.write(checksum(encoded))
                length = len(encoded) + CRC_BYTES
                self._extents[array.place(piece)] = self._size, length
                self._size += length
                self._waiting -= 1

    def _check(self, piece: Box) -> None:
        """Raise ValueError if a piece is not a whole chunk, or was written before."""
        array = self._array
        whole = all(
            a % c == 0 and (b % c == 0 or b == n)
            for a, b, c, n in zip(piece.start, piece.stop, array.chunks, array.shape, strict=True)
        )
        if not whole or self._extents[array.place(piece), 0] != ABSENT:
            raise ValueError(f"{piece.bounds} is no whole chunk of {array.chunks}, or was written before")

    def finish(self) -> None:
        """Append the index, sync the file to disk, and rename it."""
        words = self._extents.tobytes()
        with self.partial.open("ab") as file:
            file.write(words + checksum(words))
            file.flush()
            os.fsync(file.fileno())
        self.partial.replace(self._target)

    def _encode(self, part: Array) -> bytes:
        """Encode one chunk, padded with zeros at the edge of the array."""
        array = self._array
        if part.shape != array.chunks:
            full = np.zeros(array.chunks, array.dtype)
            full[tuple(slice(n) for n in part.shape)] = part
            part = full
        chunk = np.ascontiguousarray(part, array.dtype)
        with _one_thread():
            encoded: bytes = blosc.compress(chunk, array.compressor.encode(), array.level, blosc.BITSHUFFLE)
        return encoded


def checksum(data: bytes) -> bytes:
    """Return the CRC-32C of `data`, little-endian."""
    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


def is_intact(data: bytes) -> bool:
    """Return whether `data` ends in its own CRC-32C: then the CRC-32C of all of it is `RESIDUE`."""
    return bool(google_crc32c.value(data) == RESIDUE)


def _within(box: Box, origin: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of a box in an array that begins at voxel `origin`."""
    return box.shift([-n for n in origin]).slices


@contextmanager
def _one_thread() -> Iterator[None]:
    """Turn off Blosc's threads, which it uses in the main thread: they order a chunk's blocks at random."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, blosc.use_threads = blosc.use_threads, False
    try:
        yield
    finally:
        blosc.use_threads = before
