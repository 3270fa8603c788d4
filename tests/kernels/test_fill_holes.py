"""Holes filled slab by slab against SciPy's of the whole: every cut, labyrinths, and in the raw store."""

from itertools import pairwise

import numpy as np
import pytest
from datasets import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from voxelmill.basics.geometry import Box
from voxelmill.config.settings import Config
from voxelmill.inputs.sources.discover import discover
from voxelmill.kernels.nonzero_mask import OPEN, HoleFiller, fill_holes
from voxelmill.runtime.memory_budget import Memory
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine
from voxelmill.stages.ingest.ingest import ingest
from voxelmill.stages.raw_store.raw_case import RawCase, slabs_of
from voxelmill.storage import chunk_and_shard_shapes, zarr_stores
from voxelmill.storage.shard_files import ShardedArray

quick = settings(max_examples=150, deadline=None)
seeds = st.integers(0, 2**32)


def cut(mask, cuts):
    """Slabs that end at each of `cuts` inside the mask."""
    ends = sorted({0, len(mask), *(c for c in cuts if 0 < c < len(mask))})
    return [mask[a:b] for a, b in pairwise(ends)]


def fill_slabs(slabs):
    filler = HoleFiller()
    scanned = list(filler.scan(slabs))
    for slab in reversed(scanned):
        was_open = (slab == OPEN).any()
        assert filler.fill(slab) == was_open
    return np.concatenate(scanned)


def check(mask, cuts):
    before = mask.copy()
    np.testing.assert_array_equal(fill_slabs(cut(mask, cuts)), ndimage.binary_fill_holes(before))
    np.testing.assert_array_equal(mask, before)


def corridor(depth, columns, door):
    """A passage that winds up and down through all slices, with at most one way out."""
    mask = np.ones((depth, 3, 2 * columns + 1), bool)
    mask[1:-1, 1, 1::2] = False
    for column in range(1, columns):
        mask[1 if column % 2 else -2, 1, 2 * column] = False
    if door == "first":
        mask[0, 1, 1] = False
    elif door == "last":
        mask[-1, 1, -2] = False
    elif door == "side":
        mask[depth // 2, 0, 2 * (columns // 2) + 1] = False
    return mask


def labyrinth(rng, cells, walls):
    """A spanning tree of passages through cells, some walled up again, with a door or none."""
    mask = np.ones([2 * n + 1 for n in cells], bool)
    mask[1::2, 1::2, 1::2] = False
    seen, path = {(0, 0, 0)}, [(0, 0, 0)]
    passages = []
    while path:
        ways = [
            step
            for step in np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
            if all(0 <= c < n for c, n in zip(path[-1] + step, cells, strict=True))
            and tuple(path[-1] + step) not in seen
        ]
        if not ways:
            path.pop()
            continue
        step = ways[rng.integers(len(ways))]
        passages.append(tuple(2 * np.array(path[-1]) + 1 + step))
        path.append(tuple(path[-1] + step))
        seen.add(path[-1])
    for passage in passages:
        mask[passage] = rng.random() < walls
    if rng.random() < 0.7:
        door, axis = 2 * rng.integers(cells) + 1, rng.integers(3)
        door[axis] = rng.choice([0, 2 * cells[axis]])
        mask[tuple(door)] = False
    return mask


cuts = st.lists(st.integers(1, 24), max_size=24)


@quick
@given(st.tuples(*[st.integers(1, 12)] * 3), st.floats(0, 1), seeds, cuts)
def test_noise(shape, density, seed, cuts):
    check(np.random.default_rng(seed).random(shape) < density, cuts)


@pytest.mark.parametrize("density", [0.3, 0.5, 0.6, 0.69, 0.75, 0.9])
@pytest.mark.parametrize("depth", [1, 2, 7, 24])
def test_larger_noise(density, depth):
    check(np.random.default_rng(7).random((48, 50, 70)) < density, range(0, 48, depth))


@quick
@given(st.integers(3, 24), st.integers(1, 6), st.sampled_from(["none", "first", "last", "side"]), cuts)
def test_a_corridor_through_all_slabs(depth, columns, door, cuts):
    mask = corridor(depth, columns, door)
    check(mask, cuts)
    check(mask, range(depth))
    assert fill_holes(mask).all() == (door == "none")


@quick
@given(st.tuples(*[st.integers(1, 7)] * 3), st.sampled_from([0, 0.02, 0.1, 0.4]), seeds, cuts)
def test_labyrinths(cells, walls, seed, cuts):
    mask = labyrinth(np.random.default_rng(seed), cells, walls)
    check(mask, cuts)
    check(mask, range(len(mask)))


@quick
@given(seeds, st.floats(0.2, 1.5), cuts)
def test_sheets(seed, width, cuts):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((20, 18, 22)), 1.5)
    check(np.abs(noise) < width * noise.std(), cuts)


def test_shells_around_shells_across_slabs():
    distance = np.abs(np.indices((17, 17, 17)) - 8).max(0)
    check(distance % 2 == 0, [3, 8, 9])
    check(distance % 2 == 1, [3, 8, 9])


@pytest.mark.parametrize("view", [np.asfortranarray, lambda m: m[::-1, :, ::2], lambda m: m.astype("f4")])
def test_any_layout(view):
    mask = view(np.random.default_rng(1).random((9, 10, 20)) < 0.6)
    np.testing.assert_array_equal(fill_slabs(cut(mask, [2, 5])), ndimage.binary_fill_holes(mask))


def test_what_is_known_after_the_scan():
    mask = np.ones((6, 5, 5), bool)
    mask[1, 1, 1] = mask[1:5, 3, 3] = mask[0, 2, 0] = False  # a hole, one across slabs, and outside
    filler = HoleFiller()
    upper, lower = filler.scan(cut(mask, [3]))
    assert upper[1, 1, 1] == 1
    assert set(upper[1:3, 3, 3]) == {OPEN}
    assert upper[0, 2, 0] == 0
    assert set(lower[:2, 3, 3]) == {1}
    assert not filler.fill(lower)
    assert filler.fill(upper)


def test_slabs_may_come_lazily():
    """Not more than one slab is asked for ahead of the one that is given back."""
    asked = []
    slabs = cut(np.zeros((8, 3, 3), bool), range(8))
    for i, _ in enumerate(HoleFiller().scan(asked.append(slab) or slab for slab in slabs)):
        assert len(asked) <= i + 2


@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 0, 3)], [(0, 2, 3)], [(2, 3, 4), (2, 3, 5)]])
def test_slabs_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match="slab has shape"):
        list(HoleFiller().scan(np.ones(shape, bool) for shape in shapes))


@quick
@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 12))
def test_slabs_of_a_box_end_on_the_grid(start, depth, step):
    box = Box((start, 2, 3), (start + depth, 5, 7))
    slabs = list(slabs_of(box, step))
    assert [slabs[0].start, slabs[-1].stop] == [box.start, box.stop]
    for a, b in pairwise(slabs):
        assert a.stop[0] == b.start[0]
        assert a.stop[0] % step == 0
    assert all(0 < s.shape[0] <= step and s.shape[1:] == box.shape[1:] for s in slabs)


class TestRawStore:
    """`RawCase.make_mask` over many slabs, cut otherwise than those of the image."""

    @pytest.fixture
    def made(self, tmp_path, monkeypatch):
        """Two channels whose union holds a winding corridor that only the last slice opens."""
        monkeypatch.setattr(chunk_and_shard_shapes, "SLAB_BYTES", 12_000)
        rng = np.random.default_rng(2)
        image = np.zeros((2, 41, 14, 17), "i2")
        body = np.ones((32, 11, 13), bool)
        body[:, 1:4] = corridor(32, 6, "last")
        body[:, 5:8] = corridor(32, 6, "none")
        body[:, 9:] &= rng.random((32, 2, 13)) < 0.6
        channel = rng.integers(2, size=body.shape)
        image[:, 3:35, 2:13, 1:14] = [body * (channel == 0), -2 * body * (channel == 1)]
        for i in range(2):
            np.save(tmp_path / f"a_{i}.npy", image[i])
        rows = [{"case": "a", "T1": "a_0.npy", "T2": "a_1.npy", "spacing": "1,1,1"}]
        write_rows(tmp_path / "cases.csv", rows)
        sources = discover(tmp_path / "cases.csv")
        (outcome,) = ingest(sources, tmp_path / "out", Config(), Engine(None, Reporter()))
        assert outcome.cause is None
        return image.any(0)

    @staticmethod
    def check(raw, mask):
        filled = ndimage.binary_fill_holes(mask)[raw.crop_box.slices]
        counts = raw.make_mask(Memory())
        box = Box.whole(filled.shape)
        np.testing.assert_array_equal(raw.mask(box), filled)
        for axis, found in enumerate(counts):
            np.testing.assert_array_equal(found, filled.sum(tuple({0, 1, 2} - {axis})))
        assert [p.name for p in (raw.root / "a").glob("mask*")] == ["mask"]

    def test_many_slabs(self, made, tmp_path):
        raw = RawCase(tmp_path / "out", "a")
        self.check(raw, made)
        array = zarr_stores.open_array(raw.root, "a/mask")
        assert array.shape[0] / array.shards[0] > 2
        assert array.shards[0] != zarr_stores.open_array(raw.root, "a/image").chunks[1]
        assert set(np.unique(array.read(Box.whole(array.shape)))) == {0, 1}

    def test_it_is_made_once(self, made, tmp_path, monkeypatch):
        raw = RawCase(tmp_path / "out", "a")
        self.check(raw, made)
        monkeypatch.setattr(RawCase, "_write_mask", None)
        self.check(raw, made)

    @pytest.mark.parametrize("writes", [0, 1, 4, 5])
    def test_interrupted(self, made, tmp_path, monkeypatch, writes):
        """The disk is full after some shards: nothing is left, and the next one makes it."""
        raw, write = RawCase(tmp_path / "out", "a"), ShardedArray.write
        left = iter(range(writes))

        def failing(array, box, values):
            if next(left, None) is None:
                raise OSError("no space left on device")
            write(array, box, values)

        with monkeypatch.context() as patch:
            patch.setattr(ShardedArray, "write", failing)
            with pytest.raises(OSError, match="no space"):
                raw.make_mask(Memory())
        assert list((raw.root / "a").glob("mask*")) == []
        self.check(raw, made)

    @pytest.mark.parametrize("name", ["zarr.json", "c/1/0/0"])
    def test_damaged(self, made, tmp_path, name):
        raw = RawCase(tmp_path / "out", "a")
        raw.make_mask(Memory())
        (raw.root / "a" / "mask" / name).unlink()
        self.check(raw, made)

    def test_two_tasks_at_once(self, made, tmp_path, monkeypatch):
        """Two configurations prepare one case: the slower one finds the mask there when it is done."""
        raw, write = RawCase(tmp_path / "out", "a"), RawCase._write_mask

        def overtaken(self, path, memory):
            monkeypatch.setattr(RawCase, "_write_mask", write)
            write(self, path, memory)
            raw.make_mask(Memory())

        monkeypatch.setattr(RawCase, "_write_mask", overtaken)
        self.check(raw, made)
