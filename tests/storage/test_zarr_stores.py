"""Groups, attributes and metadata of the stores, layouts that are refused, and what a kill leaves."""

import json
import subprocess
import sys

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec

from voxelmill.basics.errors import StoreError
from voxelmill.basics.geometry import Box
from voxelmill.config.settings import StoreConfig
from voxelmill.storage import zarr_stores
from voxelmill.storage.partial_files import write_whole

SHAPE, CHUNK, SHARD = (2, 8, 12, 10), (1, 4, 6, 5), (2, 8, 6, 10)
WHOLE = Box.whole(SHAPE)


def values_at_random(seed=0, dtype="f4"):
    return np.random.default_rng(seed).integers(-500, 500, SHAPE).astype(dtype)


def make(root, path="a/image", **layout):
    """An array of two shards, both written."""
    array = zarr_stores.create_array(root, path, SHAPE, "f4", CHUNK, SHARD, StoreConfig(**layout))
    array.write(WHOLE, values_at_random())
    return array


def files_below(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# Metadata


def test_inner_chunks_and_the_index_end_in_a_checksum(tmp_path):
    make(tmp_path)
    (sharding,) = json.loads((tmp_path / "a/image/zarr.json").read_text())["codecs"]
    assert [c["name"] for c in sharding["configuration"]["codecs"]] == ["bytes", "blosc", "crc32c"]
    assert [c["name"] for c in sharding["configuration"]["index_codecs"]] == ["bytes", "crc32c"]


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "i8"])
def test_an_array_says_how_it_is_made(tmp_path, dtype):
    config = StoreConfig(compressor="zstd", level=7)
    made = zarr_stores.create_array(tmp_path, "a/image", SHAPE, dtype, CHUNK, SHARD, config)
    assert made == zarr_stores.open_array(tmp_path, "a/image")
    assert made.folder == tmp_path / "a/image"
    assert (made.shape, made.dtype, made.chunks, made.shards) == (SHAPE, np.dtype(dtype), CHUNK, SHARD)
    assert (made.compressor, made.level) == ("zstd", 7)
    (sharding,) = json.loads((tmp_path / "a/image/zarr.json").read_text())["codecs"]
    (blosc,) = (c["configuration"] for c in sharding["configuration"]["codecs"] if c["name"] == "blosc")
    assert (blosc["shuffle"], blosc["typesize"]) == ("bitshuffle", np.dtype(dtype).itemsize)


def test_what_is_written_is_deterministic(tmp_path):
    for name in ("one", "two"):
        make(tmp_path / name)
        zarr_stores.write_group(tmp_path / name, "a", {"spacing": [1.0, 0.1, 3.0]})
    files = files_below(tmp_path / "one")
    assert files == files_below(tmp_path / "two")
    assert sum(name.startswith("a/image/c/") for name in files) == 2
    make(tmp_path / "one")  # over what is there
    assert files == files_below(tmp_path / "one")


def test_groups_and_arrays_are_zarr_s(tmp_path):
    zarr_stores.write_group(tmp_path, "", {})
    zarr_stores.write_group(tmp_path, "a", {"spacing": [1.0, 2.0]})
    make(tmp_path)
    group = zarr.open_group(tmp_path, mode="r")
    assert group["a"].attrs["voxelmill"] == {"spacing": [1.0, 2.0]}
    assert np.array_equal(group["a/image"][:], values_at_random())


# Writing that fails


def test_a_write_that_fails_leaves_neither_a_partial_file_nor_a_changed_one(tmp_path):
    make(tmp_path)
    before = files_below(tmp_path)
    for target in (tmp_path / "a/image/zarr.json", tmp_path / "a/new"):
        with pytest.raises(TypeError, match="bytes-like"):
            write_whole(target, object())
    assert files_below(tmp_path) == before


def test_a_write_onto_a_folder_leaves_no_partial_file(tmp_path):
    (tmp_path / "name" / "in the way").mkdir(parents=True)
    value = b"x"
    with pytest.raises(OSError):
        write_whole(tmp_path / "name", value)
    assert [p.name for p in tmp_path.iterdir()] == ["name"]


def test_only_whole_files_ever_have_a_name(tmp_path):
    """Every file that appears is complete: nothing is written under the final name."""
    value = b"x" * 1000
    path = tmp_path / "deep" / "shard"
    write_whole(path, value)
    inode = path.stat().st_ino
    write_whole(path, value)
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
        zarr_stores.create_array(tmp_path, "a/image", shape, dtype, chunk, shard, StoreConfig())
    assert found in str(caught.value)
    assert "--restart" in str(caught.value)


def test_the_same_layout_is_opened_with_its_values(tmp_path):
    make(tmp_path)
    array = zarr_stores.create_array(tmp_path, "a/image", SHAPE, "f4", CHUNK, SHARD, StoreConfig())
    assert np.array_equal(array.read(WHOLE), values_at_random())


def test_an_array_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StoreError, match=r"raw\.zarr/a/image is not there, or its metadata is damaged\. Run"):
        zarr_stores.open_array(tmp_path / "raw.zarr", "a/image")
    assert not zarr_stores.array_exists(tmp_path / "raw.zarr", "a/image")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"{}", b'{"zarr_format": 3}'])
def test_damaged_metadata_are_told_and_written_again(tmp_path, content):
    root = tmp_path / "raw.zarr"
    make(root)
    file = root / "a/image/zarr.json"
    before = file.read_bytes()
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"^raw\.zarr/a/image is not there, or its metadata is damaged"):
        zarr_stores.open_array(root, "a/image")
    array = zarr_stores.create_array(root, "a/image", SHAPE, "f4", CHUNK, SHARD, StoreConfig())
    assert file.read_bytes() == before
    assert np.array_equal(array.read(WHOLE), values_at_random())


@pytest.mark.parametrize(
    "others",
    [
        {"chunks": CHUNK},
        {"chunks": CHUNK, "shards": SHARD, "compressors": None},
        {"chunks": CHUNK, "shards": SHARD, "compressors": [BloscCodec()]},
        {"chunks": CHUNK, "shards": SHARD, "compressors": [GzipCodec(), Crc32cCodec()]},
    ],
)
def test_an_array_of_other_codecs_is_not_taken_for_one_of_ours(tmp_path, others):
    zarr.create_array(tmp_path / "image", shape=SHAPE, dtype="f4", **others)
    with pytest.raises(StoreError, match="damaged"):
        zarr_stores.open_array(tmp_path, "image")


def test_an_array_of_another_version_is_not_called_damaged_and_not_replaced(tmp_path):
    """Its checksum holds, so nothing is wrong with the disk."""
    array = make(tmp_path)
    file = array.folder / "zarr.json"
    metadata = json.loads(file.read_bytes())
    del metadata["codecs"][0]["configuration"]["codecs"][1]
    metadata["attributes"][zarr_stores.SEAL] = zarr_stores._seal_of(metadata)
    file.write_text(json.dumps(metadata, indent=2))
    before = file.read_bytes()
    for opened in (
        lambda: zarr_stores.open_array(tmp_path, "a/image"),
        lambda: zarr_stores.create_array(tmp_path, "a/image", SHAPE, "f4", CHUNK, SHARD, StoreConfig()),
    ):
        with pytest.raises(StoreError, match=r"a/image has a layout that this version .* does not write"):
            opened()
    assert file.read_bytes() == before


def test_reading_never_writes(tmp_path):
    make(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    zarr_stores.open_array(tmp_path, "a/image").read(WHOLE)
    zarr_stores.read_attributes(tmp_path, "a/image")
    zarr_stores.read_attributes(tmp_path, "b")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["case", "a/image"])
def test_every_flipped_byte_of_metadata_is_found(tmp_path, name):
    """A digit that is flipped on disk is JSON as good as before, and another spacing."""
    zarr_stores.write_group(tmp_path, "case", {"spacing": [1e-05, 2.5], "crop_box": [[0, 7]]})
    zarr_stores.write_attributes(make(tmp_path), {"slices": [1, 2]})
    file = tmp_path / name / "zarr.json"
    before = file.read_bytes()
    assert zarr_stores.metadata_damage(tmp_path, name) is None
    for at in range(len(before)):
        changed = bytearray(before)
        changed[at] ^= 1 << at % 8
        file.write_bytes(changed)
        assert zarr_stores.metadata_damage(tmp_path, name) == "has damaged metadata", at
        if json.dumps(_loaded(changed)) != json.dumps(_loaded(before)):
            assert zarr_stores.read_attributes(tmp_path, name) is None
    file.unlink()
    assert zarr_stores.metadata_damage(tmp_path, name) == "is missing"


def _loaded(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_attributes_that_others_add_are_no_damage(tmp_path):
    zarr_stores.write_group(tmp_path, "case", {"spacing": [1.0, 2.5]})
    zarr.open_group(tmp_path / "case", mode="r+").attrs["reader"] = "somebody's"
    assert zarr_stores.read_attributes(tmp_path, "case") == {"spacing": [1.0, 2.5]}
    assert zarr_stores.metadata_damage(tmp_path, "case") is None


# Groups


def test_attributes_are_replaced_as_a_whole(tmp_path):
    zarr_stores.write_group(tmp_path, "", {})
    zarr_stores.write_group(tmp_path, "case", {"spacing": [1.0, 2.0], "old": 1})
    inode = (tmp_path / "case/zarr.json").stat().st_ino
    assert zarr_stores.read_attributes(tmp_path, "case") == {"spacing": [1.0, 2.0], "old": 1}
    zarr_stores.write_group(tmp_path, "case", {"spacing": [3.0]})
    assert zarr_stores.read_attributes(tmp_path, "case") == {"spacing": [3.0]}
    assert (tmp_path / "case/zarr.json").stat().st_ino != inode  # renamed over, never written in place
    assert not list(tmp_path.rglob("*.partial"))


def test_attributes_of_an_array_leave_its_values(tmp_path):
    zarr_stores.write_attributes(make(tmp_path), {"slices": [1, 2]})
    assert zarr_stores.read_attributes(tmp_path, "a/image") == {"slices": [1, 2]}
    assert np.array_equal(zarr_stores.open_array(tmp_path, "a/image").read(WHOLE), values_at_random())


def test_what_is_not_there_has_no_attributes(tmp_path):
    make(tmp_path)
    assert zarr_stores.read_attributes(tmp_path, "none") is None
    assert zarr_stores.read_attributes(tmp_path, "a/image") is None
    assert zarr_stores.list_groups(tmp_path, "none") == []


def test_numbers_in_attributes_come_back_to_the_last_bit(tmp_path):
    values = [0.1, 1 / 3, 1e-300, 2**53 + 0.0, -0.0]
    zarr_stores.write_group(tmp_path, "case", {"values": values})
    found = zarr_stores.read_attributes(tmp_path, "case")["values"]
    assert [float(v).hex() for v in found] == [v.hex() for v in values]


def test_a_removed_group_is_gone_and_its_neighbours_are_not(tmp_path):
    for name in ("a", "b", "a.b"):
        zarr_stores.write_group(tmp_path, name, {"is": name})
        make(tmp_path, path=f"{name}/image")
    assert zarr_stores.list_groups(tmp_path) == ["a", "a.b", "b"]
    zarr_stores.remove_group(tmp_path, "a")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["a.b", "b"]
    assert zarr_stores.list_groups(tmp_path) == ["a.b", "b"]
    zarr_stores.remove_group(tmp_path, "a")  # once more: nothing to do
    assert np.array_equal(zarr_stores.open_array(tmp_path, "b/image").read(WHOLE), values_at_random())


def test_half_removed_groups_are_no_cases(tmp_path):
    """What a kill leaves between renaming and removing."""
    zarr_stores.write_group(tmp_path, "a", {"is": 1})
    (tmp_path / "a").rename(tmp_path / "a.0123456789abcdef0123456789abcdef.trash")
    (tmp_path / "not a group").mkdir()
    (tmp_path / "file").write_text("")
    assert zarr_stores.list_groups(tmp_path) == []


def test_a_busy_machine_ends_a_process_without_a_word():
    """Zarr's thread answers late; zarr by itself waits for 0.2 s."""
    program = (
        "import time; from voxelmill.storage import zarr_stores as store; from zarr.core import sync;"
        "sync.sync(sync.asyncio.sleep(0)); sync._get_loop().call_soon_threadsafe(time.sleep, 1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
