"""Sampled foreground voxels against plain NumPy on the whole volume."""

import tracemalloc
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, shapes

from voxelmill.basics.errors import ValueRuleError
from voxelmill.kernels.statistics import foreground_locations
from voxelmill.kernels.statistics.foreground_locations import LOCATIONS_BYTES, ForegroundLocations, Locations
from voxelmill.stages.raw_store.raw_case import foreground_of

INTEGERS = ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4"]
FEW = {"CLASS_SAMPLES": 6, "TOTAL_SAMPLES": 30, "MOST_CLASSES": 12}
"""Limits that small volumes reach: k is 6 for up to 5 classes and 2 for 12."""


def splitmix64(index):
    z = np.asarray(index, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def reference(labels, ignore_label=None):
    """All foreground sorted by label and hash, then the first k of each label."""
    index = np.flatnonzero(foreground_of(labels, ignore_label))
    ids = labels.ravel()[index].astype(np.uint64)
    classes = np.unique(ids)
    is_instances = len(classes) > foreground_locations.MOST_CLASSES or bool((classes >= 2**63).any())
    k = min(foreground_locations.CLASS_SAMPLES, foreground_locations.TOTAL_SAMPLES // max(len(classes), 1))
    if is_instances:
        ids, k = np.ones_like(ids), foreground_locations.CLASS_SAMPLES
    order = np.lexsort((splitmix64(index), ids))
    ids, index = ids[order], index[order]
    kept = np.arange(len(ids)) - np.searchsorted(ids, ids) < k
    positions = np.stack(np.unravel_index(index[kept], labels.shape), axis=1)
    return Locations(ids[kept].astype(np.int64), positions, is_instances)


def collect(labels, ignore_label=None, cuts=(), order=None):
    """The sample from slabs between the cuts, added in this order."""
    sampler = ForegroundLocations(labels.shape, ignore_label)
    slabs = list(pairwise([0, *cuts, len(labels)]))
    for i in range(len(slabs)) if order is None else order:
        sampler.add(slabs[i][0], labels[slice(*slabs[i])])
    return sampler.result()


def assert_same(found, expected):
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.positions, expected.positions)
    assert found.labels.dtype == found.positions.dtype == np.int64
    assert found.is_instances is expected.is_instances


def chi_square(counts):
    """For counts that are expected to be equal."""
    return ((counts - counts.mean()) ** 2 / counts.mean()).sum()


@st.composite
def labelled(draw):
    """Labels with up to 14 ids from anywhere in the type's range, noisy or in blocks, (z, y, x)."""
    dtype = np.dtype(draw(st.sampled_from(INTEGERS)))
    rng = np.random.default_rng(draw(SEEDS))
    shape = draw(shapes(16))
    if dtype.kind == "b":
        return rng.random(shape) < 0.3
    info = np.iinfo(dtype)
    reach = min(info.max, draw(st.sampled_from([100, 2**40, 2**63 - 1, 2**64 - 1])))
    ids = rng.integers(max(info.min, -3), reach, draw(st.integers(1, 14)), dtype.newbyteorder("="), True)
    grain = draw(st.sampled_from([1, 5]))
    chosen = rng.integers(0, len(ids), [-(-n // grain) for n in shape])
    blocks = ids[chosen].repeat(grain, 0).repeat(grain, 1).repeat(grain, 2)
    blocks[rng.random(blocks.shape) < draw(st.sampled_from([0, 0.9]))] = 0
    return np.ascontiguousarray(blocks[tuple(map(slice, shape))]).astype(dtype)


@st.composite
def cut_volumes(draw):
    """Labels, an ignore label or None, where to cut them, and an order of the slabs."""
    labels = draw(labelled())
    ignore = draw(st.sampled_from([None, 0, -1, 300, *np.unique(labels).tolist()]))
    cuts = sorted(draw(st.sets(st.integers(1, max(len(labels) - 1, 1)), max_size=4)) - {len(labels)})
    return labels, ignore, cuts, draw(st.permutations(range(len(cuts) + 1)))


@given(cut_volumes())
def test_the_sample_equals_numpy_for_any_cut_and_order(case):
    labels, ignore = case[:2]
    assert_same(collect(*case), reference(labels, ignore))
    with patch.multiple(foreground_locations, **FEW):
        expected = reference(labels, ignore)
        assert_same(collect(*case), expected)
        assert_same(collect(labels, ignore), expected)


def test_the_hash_is_splitmix64():
    """First outputs of the published generator for the seeds 0 and 1234567."""
    assert splitmix64([0, 1234567]).tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]


@pytest.mark.parametrize("dtype", ["u1", "i2"])
def test_more_voxels_than_are_kept(dtype):
    labels = np.zeros((12, 70, 90), dtype)
    labels[1:, :50], labels[2:5, 50:, :80], labels[0, 0, :7] = 1, 2, 100
    found = collect(labels, cuts=[5])
    assert_same(found, reference(labels))
    assert np.unique(found.labels, return_counts=True)[1].tolist() == [10_000, 4_800, 7]


def test_a_thousand_ids_are_classes_and_one_more_makes_instances():
    labels = (np.arange(3 * 500 * 1000).reshape(3, 500, 1000) % 1000 + 1).astype(np.int32)
    found = collect(labels)
    assert_same(found, reference(labels))
    assert not found.is_instances
    assert np.bincount(found.labels).tolist() == [0] + [500] * 1000  # each class has 1,500 voxels
    labels[2, 499, 999] = 70_000
    for order in ([0, 1, 2], [2, 0, 1]):
        found = collect(labels, cuts=[1, 2], order=order)
        assert_same(found, reference(labels))
        assert found.is_instances
        assert np.bincount(found.labels).tolist() == [0, 10_000]
    assert not collect(labels, ignore_label=70_000).is_instances


def test_instances_found_late_sample_what_their_classes_rejected():
    """With 12 classes, class 1 keeps 2 voxels, while all foreground keeps 6, nearly all of class 1."""
    labels = np.ones((9, 20, 20), np.uint8)
    labels[0, 0, :12], labels[-1, -1, -1] = np.arange(1, 13), 13
    with patch.multiple(foreground_locations, **FEW):
        found = collect(labels)
        assert_same(found, reference(labels))
    assert found.is_instances


def test_a_plane_of_100_000_ids():
    labels = (2**40 + np.arange(100_000, dtype=np.uint64)).reshape(1, 250, 400)
    found = collect(labels)
    assert_same(found, reference(labels))
    assert found.is_instances


def test_an_id_beyond_int64_is_an_instance():
    labels = np.array([[[1, 2**63 - 1, 0]]], np.uint64)
    assert collect(labels).labels.tolist() == [1, 2**63 - 1]
    labels[0, 0, 2] = 2**63
    found = collect(labels)
    assert found.is_instances
    assert found.labels.tolist() == [1, 1, 1]
    assert not collect(labels, ignore_label=2**63).is_instances


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_classes_that_come_late_leave_fewer_voxels_to_each(order):
    labels = np.ones((8, 200, 200), np.uint16)
    labels[:6, ::2] = 2
    labels[6:] = 3 + np.arange(40_000).reshape(200, 200) % 200
    found = collect(labels, cuts=[6, 7], order=order)
    assert_same(found, reference(labels))
    assert np.bincount(found.labels).tolist() == [0, 500_000 // 202, 500_000 // 202] + [400] * 200


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 0, 5), (0, 4, 5)])
def test_no_foreground(shape):
    for labels, ignore in (
        (np.zeros(shape, np.uint8), None),
        (np.full(shape, 7), 7),
        (np.full(shape, -1), 2),
    ):
        found = collect(labels, ignore)
        assert_same(found, reference(labels, ignore))
        assert found.positions.shape == (0, 3)


def test_strided_and_read_only_slabs():
    labels = np.random.default_rng(0).integers(-2, 4, (4, 6, 10), np.int16)
    labels.setflags(write=False)
    for view in (labels, np.asfortranarray(labels), labels[:, ::2, ::-1]):
        assert_same(collect(view, cuts=[1]), reference(view))


def test_the_sample_is_uniform():
    """Chi-square over 8 cells of equal size lies below 24.3 in 999 of 1,000 uniform samples."""
    positions = collect(np.ones((64, 64, 64), np.uint8)).positions
    assert len(positions) == 10_000
    for sample in (positions, positions[:1000]):
        for cells in (sample // 32, sample % 2):  # octants; even and odd voxels along each axis
            assert chi_square(np.bincount(cells @ [4, 2, 1], minlength=8)) < 24.3


def test_memory_stays_within_its_bound():
    labels = np.arange(2 * 1000 * 1000).reshape(2, 1000, 1000).astype(np.uint16) % 1000 + 1
    collect(labels)  # compiles
    tracemalloc.start()
    try:
        collect(labels)
        assert LOCATIONS_BYTES / 2 < tracemalloc.get_traced_memory()[1] <= LOCATIONS_BYTES
    finally:
        tracemalloc.stop()


def test_wrong_slabs_are_refused():
    sampler = ForegroundLocations((4, 2, 3))
    slab = np.zeros((2, 2, 3), np.int16)
    sampler.add(0, slab)
    with pytest.raises(ValueError, match="slice 1 of the slices 1 to 3 was added before"):
        sampler.add(1, slab)
    for z, shape in ((3, (2, 2, 3)), (-1, (2, 2, 3)), (2, (2, 3, 2)), (2, (2, 3))):
        with pytest.raises(ValueError, match=r"slab of shape .* does not fit into \(4, 2, 3\)"):
            sampler.add(z, np.zeros(shape, np.int16))
    with pytest.raises(ValueRuleError, match="float32"):
        sampler.add(2, slab.astype(np.float32))
    with pytest.raises(ValueError, match="slice 2 of 4"):
        sampler.result()
    sampler.add(2, slab)
    assert len(sampler.result().labels) == 0
