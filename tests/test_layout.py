"""How arrays are cut: raw slabs, training chunks and shards."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voxelmill.kernels.axis import GRID
from voxelmill.layout import SIDE, SLAB_BYTES, chunk_shape, raw_layout, shard_shape

MIB = 2**20
QUICK = settings(max_examples=300, derandomize=True)
LENGTHS = st.one_of(st.integers(1, 700), st.sampled_from([1, 2, 31, 32, 33, 255, 256, 257, 512, 3700]))
SHAPES = st.tuples(LENGTHS, LENGTHS, LENGTHS)
ITEMSIZES = st.sampled_from([1, 2, 4, 8])
SPACINGS = st.tuples(*[st.floats(0.05, 8)] * 3)


def covered(n, piece):
    return -(-n // piece) * piece


# The raw store


@QUICK
@given(SHAPES, ITEMSIZES)
@example((1, 3700, 3700), 8)
@example((2000, 3700, 3700), 2)
@example((1, 1, 1), 1)
@example((5000, 1, 1), 8)
@example((17, 1000, 1000), 2)
@example((1, 1, 100_000), 4)
@example((1, 20_000, 20_000), 2)
def test_raw_shards_are_slabs_of_whole_slices(shape, itemsize):
    chunk, shard = raw_layout(shape, itemsize)
    assert all(s % c == 0 for s, c in zip(shard, chunk, strict=True))
    assert all(c >= 1 for c in chunk)
    plane = shape[1] * shape[2] * itemsize
    # Whole slices: chunks that the plane does not fill are no larger than they must be.
    for n, c, s in zip(shape[1:], chunk[1:], shard[1:], strict=True):
        assert n <= s < n + s // c
    # A slab that does not hold the whole case stays under the limit, but has one slice at least.
    slices = shard[0]
    assert slices == 1 or slices * plane <= SLAB_BYTES * (1 if slices < shape[0] else 2)
    assert slices < shape[0] + 16
    # Nor is it needlessly thin: twice as many slices would be too many.
    assert slices >= shape[0] or (2 * slices + 15) * plane > SLAB_BYTES


@QUICK
@given(SHAPES, ITEMSIZES)
@example((2000, 3700, 3700), 2)
@example((400, 512, 512), 2)
@example((1, 20_000, 20_000), 2)
def test_raw_chunks_let_a_box_of_a_large_plane_be_read_without_the_rest(shape, itemsize):
    chunk, _ = raw_layout(shape, itemsize)
    assert chunk[0] <= 16
    assert chunk[0] & (chunk[0] - 1) == 0
    assert math.prod(chunk) * itemsize <= max(SLAB_BYTES, 1.5**2 * 256**2 * 16 * itemsize)
    side = 256
    while side * side * chunk[0] * itemsize < SLAB_BYTES // 16:
        side *= 2
    assert max(chunk[1:]) <= 1.5 * side + 1


@pytest.mark.parametrize(
    ("shape", "itemsize", "chunk", "shard"),
    [
        ((1, 1, 1), 1, (1, 1, 1), (1, 1, 1)),
        ((400, 512, 512), 2, (16, 256, 256), (64, 512, 512)),
        ((2000, 3700, 3700), 2, (1, 925, 925), (1, 3700, 3700)),  # a slice is 26 MiB: one at a time
        ((2000, 3700, 3700), 8, (1, 529, 529), (1, 3703, 3703)),  # a slice is above the limit
        ((20, 64, 64), 2, (16, 64, 64), (32, 64, 64)),
        ((3, 64, 64), 2, (2, 64, 64), (4, 64, 64)),
    ],
)
def test_raw_layout_by_hand(shape, itemsize, chunk, shard):
    assert raw_layout(shape, itemsize) == (chunk, shard)


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
