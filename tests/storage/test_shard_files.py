"""Bytes of shards: read and written by any Zarr library, the same however they come, whole or refused."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from strategies import SEEDS, boxes

from voxelmill.basics.errors import StoreError
from voxelmill.basics.geometry import Box
from voxelmill.config.settings import StoreConfig
from voxelmill.storage import zarr_stores
from voxelmill.storage.partial_files import is_left
from voxelmill.storage.shard_damage import shard_damage
from voxelmill.storage.shard_files import ABSENT

SHAPE, CHUNK, SHARD = (2, 8, 12, 10), (1, 4, 6, 5), (2, 8, 6, 10)
CHUNKS = 2 * 2 * 1 * 2  # of a shard
INDEX_BYTES = 16 * CHUNKS + 4
FIRST, LAST = (0, 0, 0, 0), (0, 0, 1, 0)
SECOND = Box((0, 0, 6, 0), SHAPE)
QUICK = settings(max_examples=80, derandomize=True)


def values_at_random(seed=0, dtype="f4", shape=SHAPE):
    """Noise without zeros, since zarr writes no chunk of zeros."""
    return np.random.default_rng(seed).integers(1, 120, shape).astype(dtype)


def create(root, shape=SHAPE, dtype="f4", chunk=CHUNK, shard=SHARD, **config):
    return zarr_stores.create_array(root, "a/image", shape, dtype, chunk, shard, StoreConfig(**config))


def make(root, values=None, **layout):
    """An array whose shards are all written."""
    values = values_at_random() if values is None else values
    array = create(root, values.shape, values.dtype, **layout)
    array.write(Box.whole(values.shape), values)
    return array


def whole(array):
    return array.read(Box.whole(array.shape))


def files_below(array):
    return {p.relative_to(array.folder): p.read_bytes() for p in array.folder.rglob("*") if p.is_file()}


def extents_of(content, chunks=CHUNKS):
    return np.frombuffer(content[-16 * chunks - 4 : -4], "<u8").reshape(-1, 2)


def chunks_of(content):
    return [content[offset : offset + length] for offset, length in extents_of(content).tolist()]


@st.composite
def layouts(draw):
    """Shape, chunk and shard of two to four axes; edges cut both, and both may be larger than the array."""
    axes = draw(st.integers(2, 4))
    chunk = [draw(st.integers(1, 4)) for _ in range(axes)]
    shard = [c * draw(st.integers(1, 3)) for c in chunk]
    shape = [draw(st.integers(1, 2 * s + 1)) for s in shard]
    return tuple(shape), tuple(chunk), tuple(shard)


@st.composite
def cut(draw, box, chunk, axis=0):
    """Pieces of whole chunks that come in C order: slabs, of which the thinnest are cut on along the next."""
    start, stop = box.start[axis], box.stop[axis]
    inner = [n for n in range(start + 1, stop) if n % chunk[axis] == 0]
    cuts = [start, *(n for n in inner if draw(st.booleans())), stop]
    pieces = []
    for a, b in pairwise(cuts):
        bounds = box.bounds
        bounds[axis] = [a, b]
        part = Box.from_bounds(bounds)
        if b - a <= chunk[axis] and axis + 1 < len(chunk) and draw(st.booleans()):
            pieces += draw(cut(part, chunk, axis + 1))
        else:
            pieces.append(part)
    return pieces


# Zarr


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("compressor", ["lz4", "zstd"])
@pytest.mark.parametrize("level", [1, 7])
def test_zarr_reads_and_writes_the_same_chunks(tmp_path, dtype, compressor, level):
    """Byte for byte, though zarr puts them in another order."""
    values = values_at_random(dtype=dtype)
    array = make(tmp_path / "ours", values, compressor=compressor, level=level)
    found = zarr.open_array(array.folder, mode="r")
    assert found.dtype == values.dtype
    assert np.array_equal(found[:], values)
    other = create(tmp_path / "zarr's", dtype=dtype, compressor=compressor, level=level)
    zarr.open_array(other.folder, mode="r+")[:] = values
    assert other.missing_shards() == []
    assert np.array_equal(whole(other), values)
    for index in (FIRST, LAST):
        assert chunks_of(other.file(index).read_bytes()) == chunks_of(array.file(index).read_bytes())


@QUICK
@given(layouts(), SEEDS, st.data())
def test_any_box_of_any_layout_equals_numpy(tmp_path_factory, layout, seed, data):
    shape, chunk, shard = layout
    values = values_at_random(seed, "i2", shape)
    array = make(tmp_path_factory.mktemp("any"), values, chunk=chunk, shard=shard)
    assert array.missing_shards() == []
    assert np.array_equal(zarr.open_array(array.folder, mode="r")[:], values)
    box = data.draw(boxes(shape))
    assert np.array_equal(array.read(box), values[box.slices])
    out = np.zeros([2 * n for n in box.shape], "i2")[tuple(slice(None, None, 2) for _ in shape)]
    array.fill(box, out)
    assert np.array_equal(out, values[box.slices])


def test_values_are_converted_piece_by_piece(tmp_path):
    values = values_at_random(dtype="i2")
    array = make(tmp_path, values)
    box, seen = Box((0, 1, 2, 3), (2, 8, 11, 9)), []

    def convert(part):
        seen.append(part.shape)
        return part.astype("f4") * 0.5 - 1

    out = np.empty(box.shape, "f4")
    array.fill(box, out, convert)
    assert np.array_equal(out, values[box.slices].astype("f4") * 0.5 - 1)
    assert len(seen) == 2 * 2 * 2 * 2
    assert all(n <= c for shape in seen for n, c in zip(shape, CHUNK, strict=True))
    inside = np.empty(box.shape, bool)
    array.fill(box, inside, lambda part: part > 60)
    assert np.array_equal(inside, values[box.slices] > 60)


# Writing in pieces


@QUICK
@given(layouts(), SEEDS, st.data())
def test_the_bytes_do_not_depend_on_how_an_array_is_cut(tmp_path_factory, layout, seed, data):
    """Pieces are smaller than a shard, or span several."""
    shape, chunk, shard = layout
    values, folder = values_at_random(seed, "u2", shape), tmp_path_factory.mktemp("cut")
    expected = files_below(make(folder / "whole", values, chunk=chunk, shard=shard))
    shards = create(folder / "shards", shape, "u2", chunk, shard)
    for index in shards.shards_in(Box.whole(shape)):
        box = shards.shard_box(index)
        shards.write(box, values[box.slices])
    assert files_below(shards) == expected
    array = create(folder / "pieces", shape, "u2", chunk, shard)
    with array.writer() as pieces:
        for piece in data.draw(cut(Box.whole(shape), chunk)):
            pieces.write(piece.start, values[piece.slices])
    assert files_below(array) == expected


def test_a_shard_gets_its_name_with_its_last_chunk(tmp_path):
    values = values_at_random()
    array, new = make(tmp_path, values), -values
    before = files_below(array)
    with array.writer() as pieces:
        for z in (0, 4):
            for channel in (0, 1):
                assert array.file(FIRST).read_bytes() == before[array.file(FIRST).relative_to(array.folder)]
                pieces.write((channel, z, 0, 0), new[channel : channel + 1, z : z + 4, :6])
                partial = [p for p in array.folder.rglob("*") if is_left(p)]
                assert len(partial) == (0 if (channel, z) == (1, 4) else 1)
        assert np.array_equal(whole(array)[:, :, :6], new[:, :, :6])
    assert np.array_equal(whole(array)[:, :, 6:], values[:, :, 6:])


def test_a_shard_is_replaced_at_once(tmp_path):
    array = make(tmp_path)
    content, inode = array.file(FIRST).read_bytes(), array.file(FIRST).stat().st_ino
    with array.file(FIRST).open("rb") as opened:
        array.write(Box.whole(SHAPE), values_at_random(1))
        assert opened.read() == content
    assert array.file(FIRST).stat().st_ino != inode
    assert np.array_equal(whole(array), values_at_random(1))


@pytest.mark.parametrize("stop", [(1, 8, 6, 10), (2, 4, 6, 10), (2, 8, 6, 5), (2, 8, 12, 5), (2, 4, 12, 10)])
def test_a_chunk_that_never_came_is_told_and_leaves_nothing(tmp_path, stop):
    array = make(tmp_path)
    before, box = files_below(array), Box(FIRST, stop)
    with pytest.raises(ValueError, match=r"^shards \[\(0, 0, 0, 0\).*\] lack chunks$"):
        array.write(box, np.ones(box.shape, "f4"))
    assert files_below(array) == before


def test_a_failure_between_pieces_leaves_neither_a_partial_file_nor_a_changed_shard(tmp_path):
    array = make(tmp_path)
    before = files_below(array)

    def fail():
        with array.writer() as pieces:
            pieces.write(FIRST, np.ones((1, *SHAPE[1:]), "f4"))  # of both shards
            assert len(files_below(array)) == len(before) + 2
            raise RuntimeError("a reader's")

    with pytest.raises(RuntimeError, match="a reader's"):
        fail()
    assert files_below(array) == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_neither_a_partial_file_nor_a_changed_shard(tmp_path, monkeypatch, call):
    array = make(tmp_path)
    before = files_below(array)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            array.write(Box.whole(SHAPE), np.ones(SHAPE, "f4"))
    assert files_below(array) == before


def test_encoding_is_the_same_in_every_thread(tmp_path, monkeypatch):
    """Blosc's own threads, which a main thread has, would write blocks as they get ready."""
    monkeypatch.setattr(blosc, "use_threads", None)  # as without zarr, which turns them off for all
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.integers(-3, 4, (2, 64, 128, 128)), axis=3).astype("f4")

    def encoded(name):
        return files_below(make(tmp_path / name, values, chunk=values.shape, shard=values.shape))

    expected = encoded("main")
    with ThreadPoolExecutor(3) as threads:
        assert all(found == expected for found in threads.map(encoded, ["0", "1", "2", "3"]))
    assert all(encoded(name) == expected for name in ("again", "main", "once more"))
    assert blosc.use_threads is None


# Edges


def test_a_shard_of_zeros_is_a_file(tmp_path):
    """zarr deletes it by default; what is missing then looks the same as what is done."""
    array = make(tmp_path)
    array.write(Box.whole((2, 8, 6, 10)), np.zeros((2, 8, 6, 10), "f4"))
    assert array.is_whole(FIRST)
    assert not array.read(Box.whole((2, 8, 6, 10))).any()
    assert np.array_equal(whole(array)[:, :, 6:], values_at_random()[:, :, 6:])
    assert make(tmp_path / "zeros", np.zeros(SHAPE, "f4")).missing_shards() == []


def test_chunks_beyond_the_edge_are_not_stored(tmp_path):
    values = values_at_random(shape=(9, 7))
    array = make(tmp_path, values, chunk=(2, 3), shard=(6, 6))
    present = {
        index: np.flatnonzero(extents_of(array.file(index).read_bytes(), 6)[:, 0] != ABSENT).tolist()
        for index in array.shards_in(Box.whole((9, 7)))
    }
    assert present == {(0, 0): [0, 1, 2, 3, 4, 5], (0, 1): [0, 2, 4], (1, 0): [0, 1, 2, 3], (1, 1): [0, 2]}
    assert np.array_equal(zarr.open_array(array.folder, mode="r")[:], values)
    padded = whole(replace(array, shape=(10, 9)))
    assert np.array_equal(padded, np.pad(values, [(0, 1), (0, 2)]))  # with zeros, whatever was in memory


# Whole or not


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """The bytes of a whole shard."""
    content = make(tmp_path_factory.mktemp("shard")).file(FIRST).read_bytes()
    assert len(content) > INDEX_BYTES + 100
    return content


@pytest.fixture
def array(tmp_path):
    """An array whose first shard the test replaces."""
    return make(tmp_path)


def is_whole(array, content):
    array.file(FIRST).write_bytes(content)
    found = array.is_whole(FIRST)
    assert found == (FIRST not in array.missing_shards())
    return found


def test_a_shard_that_is_not_there_is_not_whole_and_never_zeros(array):
    array.file(FIRST).unlink()
    assert array.missing_shards() == [FIRST]
    with pytest.raises(StoreError, match=r"^shard 0/0/0/0 of a/image is missing\. `voxelmill verify"):
        whole(array)
    assert np.array_equal(array.read(SECOND), values_at_random()[:, :, 6:])
    array.file(LAST).unlink()
    array.file(LAST).parent.rmdir()
    array.file(LAST).parent.write_text("a file in the way")
    assert array.missing_shards() == [FIRST, LAST]
    with pytest.raises(StoreError, match=r"^shard 0/0/1/0 of a/image is missing"):
        array.read(SECOND)


def test_a_shard_cut_short_anywhere_is_not_whole(array, shard):
    assert [n for n in range(len(shard) + 1) if is_whole(array, shard[:n])] == [len(shard)]


@pytest.mark.parametrize("more", [b"\0", b"x" * 16, b"\0" * INDEX_BYTES])
def test_a_shard_with_more_or_less_in_it_is_not_whole(array, shard, more):
    assert not is_whole(array, shard + more)
    assert not is_whole(array, more + shard)
    assert not is_whole(array, shard[:50] + shard[50 + len(more) :])


def test_a_flipped_bit_of_the_index_is_noticed(array, shard):
    for at in range(8 * (len(shard) - INDEX_BYTES), 8 * len(shard)):
        assert not is_whole(array, flipped(shard, at)), at
        with pytest.raises(
            StoreError, match=r"^shard 0/0/0/0 of a/image has a damaged index\. `voxelmill verify"
        ):
            array.read(Box(FIRST, CHUNK))


def test_a_tail_of_zeros_is_not_whole(array, shard):
    """What some file systems leave after a power cut: the length, without the contents."""
    for n in (1, 4, INDEX_BYTES, INDEX_BYTES + 20, len(shard)):
        assert not is_whole(array, shard[:-n] + b"\0" * n)


@pytest.mark.parametrize("chunk", [(2, 8, 6, 10), (1, 4, 6, 10), (1, 4, 3, 5), (1, 2, 2, 5)])
def test_a_shard_of_another_layout_is_not_whole(array, shard, chunk):
    assert not is_whole(replace(array, chunks=chunk), shard)


@pytest.mark.parametrize("lost", range(CHUNKS))
def test_a_shard_that_lacks_a_chunk_is_not_whole_and_never_zeros(array, shard, lost):
    extents = extents_of(shard).copy()
    extents[lost] = ABSENT
    index = extents.tobytes()
    index += int(google_crc32c.value(index)).to_bytes(4, "little")
    assert not is_whole(array, shard[:-INDEX_BYTES] + index)
    with pytest.raises(StoreError, match=r"^shard 0/0/0/0 of a/image holds a chunk that"):
        whole(array)


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("place", range(CHUNKS))
def test_every_flipped_bit_of_a_chunk_is_noticed_when_it_is_read(array, shard, place):
    """The error names the shard, and no path."""
    offset, length = extents_of(shard)[place].tolist()
    start = np.unravel_index(place, (2, 2, 1, 2)) * np.array(CHUNK)
    box = Box(tuple(start.tolist()), tuple((start + CHUNK).tolist()))
    for bit in range(8 * offset, 8 * (offset + length)):
        array.file(FIRST).write_bytes(flipped(shard, bit))
        with pytest.raises(StoreError) as caught:
            array.read(box)
        assert str(caught.value) == (
            "shard 0/0/0/0 of a/image holds a chunk that does not match its checksum. `voxelmill verify OUT "
            "--repair` finds all that is damaged and mends it."
        )
    assert array.missing_shards() == []  # the index alone does not tell
    assert np.array_equal(array.read(SECOND), values_at_random()[:, :, 6:])


# Every byte


def damage(array, content):
    array.file(FIRST).write_bytes(content)
    return shard_damage(array, FIRST)


def test_a_shard_as_it_was_written_has_no_damage(array, shard):
    assert damage(array, shard) is None
    edge = make(array.folder / "edge", values_at_random(shape=(9, 7)), chunk=(2, 3), shard=(6, 6))
    assert [shard_damage(edge, i) for i in edge.shards_in(Box.whole((9, 7)))] == [None] * 4


def test_every_flipped_byte_of_a_shard_is_found(array, shard):
    """Bit rot, also where nobody reads: the places are those of an index that is read beforehand."""
    extents = extents_of(shard).tolist()
    for at in range(len(shard)):
        found = damage(array, flipped(shard, 8 * at + at % 8))
        place = next((p for p, (offset, n) in enumerate(extents) if offset <= at < offset + n), None)
        if place is None:
            assert found == "has a damaged index", at
        else:
            chunk = "/".join(map(str, np.unravel_index(place, (2, 2, 1, 2))))
            assert found == f"holds a chunk that does not match its checksum (chunk {chunk})", at


def test_every_shard_that_is_cut_short_is_found(array, shard):
    """Of 0 bytes too: zarr-python reads such a shard as zeros (iohub#415, #442; zarrs#420)."""
    for n in range(len(shard)):
        found = damage(array, shard[:n])
        assert found is not None, n
        assert found.startswith(f"is cut short ({n} "), (n, found)
    assert found == f"is cut short ({n} of {n + 1} bytes)"


def test_several_damaged_chunks_are_counted(array, shard):
    changed = shard
    for offset, _ in extents_of(shard)[[2, 5, 7]].tolist():
        changed = flipped(changed, 8 * offset)
    assert damage(array, changed).endswith("(chunk 0/1/0/0 and 2 more)")


def sealed(extents):
    index = np.asarray(extents, "<u8").tobytes()
    return index + int(google_crc32c.value(index)).to_bytes(4, "little")


def test_an_index_that_holds_but_does_not_fit_is_found(array, shard):
    chunks, extents = shard[:-INDEX_BYTES], extents_of(shard)
    lacking, twice, gap = extents.copy(), extents.copy(), extents.copy()
    lacking[3] = ABSENT
    twice[1] = twice[0]
    gap[1] += np.array([1, -1]).astype("u8")
    assert damage(array, chunks + sealed(lacking)) == "has an index of other chunks"
    assert damage(array, chunks + sealed(twice)) == "has an index with gaps or overlaps"
    assert damage(array, chunks + sealed(gap)) == "has an index with gaps or overlaps"
    assert damage(array, b"x" + shard).startswith("is not as long as its index says")
    assert damage(array, shard[1:]).startswith("is not as long as its index says")


def test_a_shard_that_cannot_be_read_is_told(array):
    array.file(FIRST).unlink()
    assert shard_damage(array, FIRST) == "is missing"
    array.file(FIRST).mkdir()
    assert shard_damage(array, FIRST) == "cannot be read (Is a directory)"
