"""How arrays are cut: raw slabs, training chunks and shards."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voxelmill.kernels.resampling.axis_matrix import GRID
from voxelmill.storage.chunk_and_shard_shapes import (
    RAW_SHARD_BYTES,
    RAW_SIDE,
    SIDE,
    SLAB_BYTES,
    STEP_BYTES,
    THICKNESS,
    chunk_shape,
    raw_layout,
    shard_shape,
    slab_depth,
)

MIB = 2**20
QUICK = settings(max_examples=300, derandomize=True)
LENGTHS = st.one_of(st.integers(1, 700), st.sampled_from([1, 2, 31, 32, 33, 255, 256, 257, 512, 3700]))
SHAPES = st.tuples(LENGTHS, LENGTHS, LENGTHS)
ITEMSIZES = st.sampled_from([1, 2, 4, 8])
SPACINGS = st.tuples(*[st.floats(0.05, 8)] * 3)


def covered(n, piece):
    return -(-n // piece) * piece


# Slabs

SLICES = st.one_of(st.integers(1, 40), st.integers(1, 5000))
SLICE_BYTES = st.one_of(st.integers(1, 100), st.integers(1, 2 * MIB), st.integers(MIB, 900 * MIB))


@st.composite
def passes(draw):
    """Slices, bytes of one, bytes beside them, slices that lie together."""
    slices = draw(SLICES)
    step = draw(st.one_of(st.just(1), st.integers(1, min(slices, 300))))
    return slices, draw(SLICE_BYTES), draw(st.integers(0, 100 * MIB)), step


def depth_of(way, budget):
    slices, slice_bytes, fixed, step = way
    return slab_depth(slices, slice_bytes, fixed, budget, step)


@QUICK
@given(passes(), st.one_of(st.none(), st.integers(0, 3 * 2**30)))
@example((400, 2**19, 0, 1), None)
@example((3, 700 * MIB, 10, 3), None)
def test_slabs_fit_and_are_not_needlessly_thin(way, budget):
    slices, slice_bytes, fixed, step = way
    depth = depth_of(way, budget)
    if budget is not None and slice_bytes + fixed > budget:
        assert depth == 0
        return
    assert 1 <= depth <= slices
    available = math.inf if budget is None else budget - fixed
    assert depth * slice_bytes <= available
    if step > 1 and step * slice_bytes <= min(available, STEP_BYTES):
        assert depth % step == 0
        more = depth + step
    else:
        assert depth & (depth - 1) == 0
        more = 2 * depth
    most = min(available, max(SLAB_BYTES, slice_bytes))
    assert depth == step or (depth <= THICKNESS and depth * slice_bytes <= most)
    assert more > min(THICKNESS, slices) or more * slice_bytes > most


@QUICK
@given(passes(), st.lists(st.integers(0, 2**30), min_size=2, max_size=2).map(sorted))
def test_more_memory_never_makes_thinner_slabs(way, budgets):
    depths = [depth_of(way, budget) for budget in (*budgets, None)]
    assert depths == sorted(depths)


@pytest.mark.parametrize(
    ("slices", "slice_bytes", "fixed", "budget", "step", "expected"),
    [
        (400, 2**19, 0, None, 1, 16),
        (2000, 26 * MIB, 0, None, 1, 2),  # three would be above 64 MiB
        (2000, 104 * MIB, 0, None, 1, 1),  # a slice is above the limit
        (7, 100, 0, None, 1, 4),
        (1, 1, 0, None, 1, 1),
        (400, 10, 100, 109, 1, 0),  # not even one slice
        (400, 10, 100, 110, 1, 1),
        (400, 10, 100, 179, 1, 4),
        (400, 10, 0, None, 5, 15),  # whole layers of the source
        (400, 10, 0, None, 64, 64),  # one of them, though it is thick
        (400, 10, 0, 639, 64, 16),  # it does not fit: it is decoded again for each slab
        (400, 8 * MIB, 0, None, 64, 64),  # 512 MiB
        (400, 8 * MIB, 0, None, 65, 8),
    ],
)
def test_slabs_by_hand(slices, slice_bytes, fixed, budget, step, expected):
    assert slab_depth(slices, slice_bytes, fixed, budget, step) == expected


# The raw store

DEPTHS = st.one_of(st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 100))


@QUICK
@given(SHAPES, ITEMSIZES, DEPTHS)
@example((1, 3700, 3700), 8, 1)
@example((2000, 3700, 3700), 2, 2)
@example((1, 1, 1), 1, 1)
@example((5000, 1, 1), 8, 16)
@example((17, 1000, 1000), 2, 16)
@example((1, 1, 100_000), 4, 1)
@example((1, 20_000, 20_000), 2, 1)
def test_raw_shards_are_whole_slabs_of_whole_slices(shape, itemsize, depth):
    chunk, shard = raw_layout(shape, itemsize, depth)
    assert all(s % c == 0 for s, c in zip(shard, chunk, strict=True))
    assert all(c >= 1 for c in chunk)
    assert depth % chunk[0] == 0
    assert shard[0] % depth == 0
    # Whole slices: chunks that the plane does not fill are no larger than they must be.
    for n, c, s in zip(shape[1:], chunk[1:], shard[1:], strict=True):
        assert n <= s < n + s // c
    # Under the limit, unless one slab is above it; no longer than the volume, and not needlessly short.
    assert shard[0] == depth or math.prod(shard) * itemsize <= RAW_SHARD_BYTES
    assert shard[0] < shape[0] + depth
    more = math.prod((shard[0] + depth, *shard[1:])) * itemsize
    assert shard[0] >= shape[0] or more > RAW_SHARD_BYTES


@QUICK
@given(SHAPES, ITEMSIZES, DEPTHS)
@example((2000, 3700, 3700), 2, 2)
@example((400, 512, 512), 2, 16)
@example((1, 20_000, 20_000), 2, 1)
def test_raw_chunks_let_a_box_of_a_large_plane_be_read_without_the_rest(shape, itemsize, depth):
    chunk, _ = raw_layout(shape, itemsize, depth)
    assert depth % chunk[0] == 0
    assert chunk[0] == depth or depth > THICKNESS
    assert chunk[0] >= min(depth, THICKNESS // 2)
    side = RAW_SIDE * min(1, (THICKNESS / chunk[0]) ** 0.5)
    assert all(c <= 1.5 * side + 1 for c in chunk[1:])
    assert all(c >= min(n, side / 1.5) for n, c in zip(shape[1:], chunk[1:], strict=True))


@pytest.mark.parametrize(
    ("shape", "itemsize", "depth", "chunk", "shard"),
    [
        ((1, 1, 1), 1, 1, (1, 1, 1), (1, 1, 1)),
        ((400, 512, 512), 2, 16, (16, 128, 128), (256, 512, 512)),  # 128 MiB
        ((400, 512, 512), 2, 20, (10, 128, 128), (240, 512, 512)),  # two chunks a slab
        ((400, 512, 512), 2, 64, (16, 128, 128), (256, 512, 512)),
        ((400, 512, 512), 2, 17, (17, 128, 128), (255, 512, 512)),  # no slices of one
        ((400, 512, 512), 2, 74, (37, 86, 86), (222, 516, 516)),  # thicker, but no larger
        ((2000, 3700, 3700), 2, 2, (2, 128, 128), (4, 3712, 3712)),
        ((2000, 3700, 3700), 8, 1, (1, 128, 128), (1, 3712, 3712)),
        ((2000, 3700, 3700), 8, 16, (16, 128, 128), (16, 3712, 3712)),  # a slab is above the limit
        ((20, 64, 64), 2, 16, (16, 64, 64), (32, 64, 64)),
        ((3, 64, 64), 2, 2, (2, 64, 64), (4, 64, 64)),
    ],
)
def test_raw_layout_by_hand(shape, itemsize, depth, chunk, shard):
    assert raw_layout(shape, itemsize, depth) == (chunk, shard)


# Training chunks


@QUICK
@given(SPACINGS, st.sampled_from(["fullres", "2d"]))
def test_chunks_end_on_the_grid(target, name):
    chunk = chunk_shape(target, name)
    for side in chunk:
        assert side % SIDE == 0 or (side < SIDE and SIDE % side == 0)
    if name == "2d":
        assert chunk[int(np.argmax(target))] == 1


@pytest.mark.parametrize(
    ("target", "name", "expected"),
    [
        ((1, 1, 1), "fullres", (64, 64, 64)),  # half of 128 a side
        ((2, 2, 2), "fullres", (64, 64, 64)),
        ((5, 0.7, 0.7), "fullres", (16, 128, 128)),  # a cube in millimetres
        ((5, 0.7, 0.7), "2d", (1, 256, 256)),
        ((0.7, 5, 0.7), "2d", (256, 1, 256)),
        ((5, 0.5, 1.0), "2d", (1, 352, 192)),
    ],
)
def test_chunks_by_hand(target, name, expected):
    assert chunk_shape(target, name) == expected


# Training shards


@st.composite
def cuts(draw):
    """A shape, a chunk of it as the plan makes them, bytes of a voxel, a limit."""
    shape = draw(SHAPES)
    sides = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 5, 24, 40])
    chunk = tuple(min(draw(sides), n) for n in shape)
    return shape, chunk, 4 * draw(st.integers(1, 4)), MIB * draw(st.sampled_from([1, 2, 16, 128]))


@QUICK
@given(cuts())
@example(((3700, 3700, 3700), (64, 64, 64), 4, 128 * MIB))
@example(((1, 3700, 3700), (1, 256, 256), 4, MIB))
@example(((37, 37, 37), (37, 37, 37), 4, 1))
def test_shards_are_whole_chunks_on_the_grid_under_the_limit(cut):
    shape, chunk, voxel_bytes, limit = cut
    shard = shard_shape(*cut)
    for n, c, s in zip(shape, chunk, shard, strict=True):
        assert s % c == 0
        assert s <= covered(n, c)
        assert s >= n or s % GRID == 0  # an inner border lies on the grid
    finest = [min(covered(n, c), math.lcm(c, GRID)) for n, c in zip(shape, chunk, strict=True)]
    if math.prod(finest) * voxel_bytes <= limit:
        assert math.prod(shard) * voxel_bytes <= limit
    else:
        assert list(shard) == finest
    if math.prod(covered(n, c) for n, c in zip(shape, chunk, strict=True)) * voxel_bytes <= limit:
        assert all(s >= n for s, n in zip(shard, shape, strict=True))  # what fits is one shard


@pytest.mark.parametrize(
    ("shape", "chunk", "voxel_bytes", "limit", "expected"),
    [
        ((200, 300, 300), (64, 64, 64), 4, 128 * MIB, (256, 320, 320)),  # 100 MiB: one shard
        ((200, 300, 300), (64, 64, 64), 8, 128 * MIB, (256, 192, 320)),  # the cut goes through a long axis
        ((1000, 100, 100), (64, 64, 64), 4, 16 * MIB, (256, 128, 128)),
        ((33, 33, 33), (32, 32, 32), 4, 2**18, (64, 64, 64)),  # no cut within a piece of the kernel
    ],
)
def test_shards_by_hand(shape, chunk, voxel_bytes, limit, expected):
    found = shard_shape(shape, chunk, voxel_bytes, limit)
    assert sorted(found) == sorted(expected)
    assert found[0] == expected[0] or len(set(shape)) == 1


@QUICK
@given(cuts())
def test_shards_are_not_needlessly_small(cut):
    """Merging two neighbours along any cut axis would break the limit, or the last cut was the first."""
    shape, chunk, voxel_bytes, limit = cut
    shard = shard_shape(*cut)
    pieces = [-(-n // s) for n, s in zip(shape, shard, strict=True)]
    if max(pieces) > 1 and math.prod(shard) * voxel_bytes <= limit:
        doubled = math.prod(min(2 * s, covered(n, c)) for n, c, s in zip(shape, chunk, shard, strict=True))
        assert doubled * voxel_bytes > limit
