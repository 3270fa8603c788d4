"""Bytes on disk: what a shard is, when it is whole, and what a kill or a flipped bit leaves."""

import json
import shutil

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelmill import store
from voxelmill.config import StoreConfig
from voxelmill.errors import StoreError
from voxelmill.geometry import Box

SHAPE, CHUNK, SHARD = (2, 8, 12, 10), (1, 4, 6, 5), (2, 8, 6, 10)
CHUNKS = 2 * 2 * 1 * 2  # inner chunks of a shard
INDEX_BYTES = 16 * CHUNKS + 4
FIRST, LAST = (0, 0, 0, 0), (0, 0, 1, 0)
QUICK = settings(
    max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def values_at_random(seed=0, dtype="f4", shape=SHAPE):
    return np.random.default_rng(seed).integers(-500, 500, shape).astype(dtype)


def make(root, values=None, path="a/image", dtype="f4", **layout):
    """An array of two shards, both written."""
    array = store.create_array(root, path, SHAPE, dtype, CHUNK, SHARD, StoreConfig(**layout))
    for y in (0, 6):
        box = Box((0, y, 0), (8, y + 6, 10))
        store.write_box(array, box, (values_at_random() if values is None else values)[:, *box.slices])
    return array


def files_below(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# What is written


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("compressor", ["lz4", "zstd"])
def test_any_zarr_reader_reads_what_is_written(tmp_path, dtype, compressor):
    values = values_at_random(dtype=dtype)
    make(tmp_path, values, dtype=dtype, compressor=compressor)
    found = zarr.open_array(tmp_path / "a/image", mode="r")
    assert found.dtype == values.dtype
    assert np.array_equal(found[:], values)
    box = Box((1, 5, 2), (7, 8, 9))
    array = store.open_array(tmp_path, "a/image")
    assert np.array_equal(store.read_box(array, 1, box), values[1, *box.slices])


def test_inner_chunks_and_the_index_end_in_a_checksum(tmp_path):
    make(tmp_path)
    (sharding,) = json.loads((tmp_path / "a/image/zarr.json").read_text())["codecs"]
    assert [c["name"] for c in sharding["configuration"]["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert [c["name"] for c in sharding["configuration"]["index_codecs"]] == ["bytes", "crc32c"]


def test_a_shard_of_zeros_is_a_file_also_after_reopening(tmp_path):
    """zarr deletes it by default; what is missing then looks the same as what is done."""
    make(tmp_path)
    array = store.open_array(tmp_path, "a/image", "r+")
    store.write_box(array, Box((0, 0, 0), (8, 6, 10)), np.zeros((2, 8, 6, 10), "f4"))
    file = store.shard_path(tmp_path, "a/image", FIRST)
    assert store.shard_is_whole(file, CHUNKS)
    assert not store.read_box(array, None, Box((0, 0, 0, 0), (2, 8, 6, 10))).any()
    assert np.array_equal(array[:, :, 6:], values_at_random()[:, :, 6:])


def test_an_array_of_zeros_has_all_its_files(tmp_path):
    make(tmp_path, np.zeros(SHAPE, "f4"))
    assert all(store.shard_is_whole(store.shard_path(tmp_path, "a/image", i), CHUNKS) for i in (FIRST, LAST))


def test_a_slab_is_written_at_its_place(tmp_path):
    array = store.create_array(
        tmp_path, "image", (3, 8, 4, 4), "i2", (1, 2, 4, 4), (1, 4, 4, 4), StoreConfig()
    )
    slab = values_at_random(dtype="i2", shape=(2, 4, 4, 4))
    store.write_slab(array, 1, 4, slab)
    expected = np.zeros((3, 8, 4, 4), "i2")
    expected[1:, 4:] = slab
    assert np.array_equal(store.open_array(tmp_path, "image")[:], expected)


def test_encoding_is_deterministic(tmp_path):
    values = values_at_random()
    for name in ("one", "two"):
        make(tmp_path / name, values)
        store.write_group(tmp_path / name, "a", {"spacing": [1.0, 0.1, 3.0]})
    files = files_below(tmp_path / "one")
    assert files == files_below(tmp_path / "two")
    assert sum(name.startswith("a/image/c/") for name in files) == 2
    make(tmp_path / "one", values)  # over what is there
    assert files == files_below(tmp_path / "one")


# Whole or not


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """The bytes of a whole shard."""
    root = tmp_path_factory.mktemp("shard")
    make(root)
    content = store.shard_path(root, "a/image", FIRST).read_bytes()
    assert len(content) > INDEX_BYTES + 100
    return content


def is_whole(folder, content, chunks=CHUNKS):
    (folder / "shard").write_bytes(content)
    return store.shard_is_whole(folder / "shard", chunks)


def test_a_whole_shard_is_whole(tmp_path, shard):
    assert is_whole(tmp_path, shard)


def test_a_shard_that_is_not_there_is_not_whole(tmp_path):
    assert not store.shard_is_whole(tmp_path / "none", CHUNKS)
    (tmp_path / "file").write_bytes(b"x")
    assert not store.shard_is_whole(tmp_path / "file" / "0", CHUNKS)


def test_an_empty_file_is_not_whole(tmp_path):
    """zarr reads zeros from it and says nothing."""
    assert not is_whole(tmp_path, b"")


def test_a_shard_cut_short_anywhere_is_not_whole(tmp_path, shard):
    lengths = {*range(0, len(shard), 7), *range(len(shard) - INDEX_BYTES - 3, len(shard))}
    assert [n for n in sorted(lengths) if is_whole(tmp_path, shard[:n])] == []


@pytest.mark.parametrize("more", [b"\0", b"x" * 16, b"\0" * INDEX_BYTES])
def test_a_shard_with_more_behind_it_or_before_it_is_not_whole(tmp_path, shard, more):
    assert not is_whole(tmp_path, shard + more)
    assert not is_whole(tmp_path, more + shard)


def test_a_shard_that_lost_a_piece_in_the_middle_is_not_whole(tmp_path, shard):
    assert not is_whole(tmp_path, shard[:50] + shard[58:])


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_of_the_index_is_noticed(tmp_path, shard, bit):
    for at in range(len(shard) - INDEX_BYTES, len(shard)):
        content = bytearray(shard)
        content[at] ^= 1 << bit
        assert not is_whole(tmp_path, content), at


@pytest.mark.parametrize("chunks", [1, CHUNKS - 1, CHUNKS + 1, 10 * CHUNKS])
def test_a_shard_of_another_layout_is_not_whole(tmp_path, shard, chunks):
    assert not is_whole(tmp_path, shard, chunks)


def test_a_tail_of_zeros_is_not_whole(tmp_path, shard):
    """What some file systems leave after a power cut: the length, without the contents."""
    for n in (1, 4, INDEX_BYTES, INDEX_BYTES + 20, len(shard)):
        assert not is_whole(tmp_path, shard[:-n] + b"\0" * n)


@QUICK
@given(st.data())
def test_a_flipped_bit_of_a_chunk_is_noticed_when_it_is_read(tmp_path, shard, data):
    at = data.draw(st.integers(0, len(shard) - INDEX_BYTES - 1))
    content = bytearray(shard)
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    array = make(tmp_path)
    store.shard_path(tmp_path, "a/image", FIRST).write_bytes(content)
    with pytest.raises(ValueError, match=r"[Cc]hecksum"):
        (
            store.read_box(array, 0, Box((0, 0, 0), (8, 6, 10))),
            store.read_box(array, 1, Box((0, 0, 0), (8, 6, 10))),
        )
    assert np.array_equal(array[:, :, 6:], values_at_random()[:, :, 6:])  # the other shard is as it was


# Writing that fails


def test_a_write_that_fails_leaves_neither_a_partial_file_nor_a_changed_one(tmp_path):
    make(tmp_path)
    before = files_below(tmp_path)
    path = tmp_path / "a/image/c/0/0/0/0"

    for target in (path, tmp_path / "a/new"):
        with pytest.raises(TypeError, match="bytes-like"):
            store._put(target, object())
    assert files_below(tmp_path) == before


def test_a_write_onto_a_folder_leaves_no_partial_file(tmp_path):
    (tmp_path / "name" / "in the way").mkdir(parents=True)
    value = b"x"
    with pytest.raises(OSError):
        store._put(tmp_path / "name", value)
    assert [p.name for p in tmp_path.iterdir()] == ["name"]


def test_only_whole_files_ever_have_a_name(tmp_path):
    """Every file that appears is complete: nothing is written under the final name."""
    value = b"x" * 1000
    path = tmp_path / "deep" / "shard"
    store._put(path, value)
    inode = path.stat().st_ino
    store._put(path, value)
    assert path.stat().st_ino != inode  # another file took the name
    assert files_below(tmp_path) == {"deep/shard": b"x" * 1000}


# Layout that differs


@pytest.mark.parametrize(
    ("shape", "dtype", "chunk", "shard", "found"),
    [
        ((2, 8, 12, 20), "f4", CHUNK, SHARD, "(2, 8, 12, 10)"),
        (SHAPE, "f8", CHUNK, SHARD, "float32"),
        (SHAPE, "f4", CHUNK, (2, 8, 12, 10), "(2, 8, 6, 10)"),
        (SHAPE, "f4", (1, 4, 6, 10), SHARD, "(2, 8, 6, 10)"),
    ],
)
def test_an_array_of_another_layout_is_refused_by_name(tmp_path, shape, dtype, chunk, shard, found):
    make(tmp_path)
    with pytest.raises(StoreError, match="a/image: found") as caught:
        store.create_array(tmp_path, "a/image", shape, dtype, chunk, shard, StoreConfig())
    assert found in str(caught.value)
    assert "--restart" in str(caught.value)


def test_the_same_layout_is_opened_with_its_values(tmp_path):
    make(tmp_path)
    array = store.create_array(tmp_path, "a/image", SHAPE, "f4", CHUNK, SHARD, StoreConfig())
    assert np.array_equal(array[:], values_at_random())


def test_an_array_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StoreError, match=r"raw\.zarr/a/image is not there, or its metadata is damaged\. Run"):
        store.open_array(tmp_path / "raw.zarr", "a/image")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="is not there"):
        store.open_array(tmp_path / "raw.zarr", "a/image", "r+")


def test_reading_never_writes(tmp_path):
    make(tmp_path)
    array = store.open_array(tmp_path, "a/image")
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 0
    assert np.array_equal(array[:], values_at_random())


# Groups


def test_attributes_are_replaced_as_a_whole(tmp_path):
    store.write_group(tmp_path, "", {})
    store.write_group(tmp_path, "case", {"spacing": [1.0, 2.0], "old": 1})
    inode = (tmp_path / "case/zarr.json").stat().st_ino
    assert store.read_attributes(tmp_path, "case") == {"spacing": [1.0, 2.0], "old": 1}
    store.write_group(tmp_path, "case", {"spacing": [3.0]})
    assert store.read_attributes(tmp_path, "case") == {"spacing": [3.0]}
    assert (tmp_path / "case/zarr.json").stat().st_ino != inode  # renamed over, never written in place
    assert not list(tmp_path.rglob("*.partial"))


def test_attributes_of_an_array_leave_its_values(tmp_path):
    store.write_attributes(make(tmp_path), {"slices": [1, 2]})
    assert store.read_attributes(tmp_path, "a/image") == {"slices": [1, 2]}
    assert np.array_equal(store.open_array(tmp_path, "a/image")[:], values_at_random())


def test_what_is_not_there_has_no_attributes(tmp_path):
    make(tmp_path)
    assert store.read_attributes(tmp_path, "none") is None
    assert store.read_attributes(tmp_path, "a/image") is None
    assert store.list_groups(tmp_path, "none") == []


def test_numbers_in_attributes_come_back_to_the_last_bit(tmp_path):
    values = [0.1, 1 / 3, 1e-300, 2**53 + 0.0, -0.0]
    store.write_group(tmp_path, "case", {"values": values})
    found = store.read_attributes(tmp_path, "case")["values"]
    assert [float(v).hex() for v in found] == [v.hex() for v in values]


def test_a_removed_group_is_gone_and_its_neighbours_are_not(tmp_path):
    for name in ("a", "b", "a.b"):
        store.write_group(tmp_path, name, {"is": name})
        make(tmp_path, path=f"{name}/image")
    assert store.list_groups(tmp_path) == ["a", "a.b", "b"]
    store.remove_group(tmp_path, "a")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["a.b", "b"]
    assert store.list_groups(tmp_path) == ["a.b", "b"]
    store.remove_group(tmp_path, "a")  # once more: nothing to do
    assert np.array_equal(store.open_array(tmp_path, "b/image")[:], values_at_random())


def test_half_removed_groups_are_no_cases(tmp_path):
    """What a kill leaves between renaming and removing."""
    store.write_group(tmp_path, "a", {"is": 1})
    (tmp_path / "a").rename(tmp_path / "a.0123456789abcdef0123456789abcdef.trash")
    (tmp_path / "not a group").mkdir()
    (tmp_path / "file").write_text("")
    assert store.list_groups(tmp_path) == []
