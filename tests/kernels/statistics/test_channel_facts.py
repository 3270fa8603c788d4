"""Facts of a channel against plain NumPy on the whole array."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voxelmill.basics.errors import ValueRuleError
from voxelmill.basics.geometry import Box
from voxelmill.kernels.statistics.channel_facts import ChannelFacts, Facts, nonzero_box, value_range
from voxelmill.kernels.statistics.histogram import (
    BINS,
    bin_values,
    class_counts,
    histogram_values,
    refine,
    refined_values,
)
from voxelmill.kernels.statistics.voxel_values import is_narrow, keys_of, rescale, values_of

INTEGERS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64"]
RESCALINGS = [(1.0, 0.0), (1.0, -1024.0), (-2.0, 6.0), (0.37, 0.0), (-0.25, 3.1), (1e-3, 5e6)]
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def random_volume(rng, shape, dtype, sparse=0.5):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        data = (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)).astype(dtype)
    elif dtype.kind == "b":
        data = rng.random(shape) < 0.5
    else:
        info = np.iinfo(dtype)
        reach = int(rng.choice([5, 300, 2**60]))
        data = rng.integers(max(info.min, -reach), min(info.max, reach), shape, dtype, endpoint=True)
    data[rng.random(shape) < sparse] = 0
    return data


def collect(data, slope=1.0, intercept=0.0, foreground=None, depth=3):
    facts = ChannelFacts(data.shape, data.dtype, slope, intercept)
    for z in range(0, len(data), depth):
        inside = None if foreground is None else foreground[z : z + depth]
        facts.add(z, data[z : z + depth], inside)
    return facts.result()


def same(a: Facts, b: Facts):
    return all(np.array_equal(v, b.to_arrays()[k], equal_nan=True) for k, v in a.to_arrays().items())


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=3, max_size=3)))
    data = random_volume(rng, shape, draw(st.sampled_from(INTEGERS + FLOATS)), draw(st.floats(0, 1)))
    slope, intercept = draw(st.sampled_from(RESCALINGS))
    foreground = rng.random(shape) < 0.4 if draw(st.booleans()) else None
    return data, slope, intercept, foreground


@quick
@given(cases(), st.integers(1, 9))
def test_facts_equal_numpy(case, depth):
    data, slope, intercept, foreground = case
    facts = collect(data, slope, intercept, foreground, depth)
    values = rescale(data, slope, intercept)
    nonzero = values != 0
    inside = nonzero if foreground is None else foreground
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        np.testing.assert_array_equal(facts.nonzero[axis], nonzero.sum(axis=others))
        np.testing.assert_array_equal(facts.low[axis], np.where(nonzero, values, np.inf).min(others))
        np.testing.assert_array_equal(facts.high[axis], np.where(nonzero, values, -np.inf).max(others))
        assert facts.low[axis].dtype == facts.high[axis].dtype == np.float32
    for found, mask in (
        ((facts.count, facts.total, facts.squares), nonzero),
        ((facts.foreground_count, facts.foreground_total, facts.foreground_squares), inside),
    ):
        v = values[mask].astype(float)
        half_step = np.finfo(np.float32).eps / 2  # `values` are rounded to float32, sums of integers are not
        assert found[0] == len(v)
        assert found[1] == pytest.approx(v.sum(), abs=half_step * np.abs(v).sum() + 1e-12 * len(v))
        assert found[2] == pytest.approx((v**2).sum(), abs=2.01 * half_step * (v**2).sum() + 1e-12 * len(v))
    v = values[inside]
    assert facts.foreground_low == v.min(initial=np.inf)
    assert facts.foreground_high == v.max(initial=-np.inf)
    if is_narrow(data.dtype):
        bins = data[inside].astype(int) + (BINS // 2 if data.dtype.kind == "i" else 0)
    else:
        bins = keys_of(v) >> 16
    np.testing.assert_array_equal(facts.histogram, np.bincount(bins, minlength=BINS))


@quick
@given(cases())
def test_facts_do_not_depend_on_slabs(case):
    data, slope, intercept, foreground = case
    whole = collect(data, slope, intercept, foreground, depth=99)
    assert same(whole, collect(data, slope, intercept, foreground, depth=1))
    backwards = ChannelFacts(data.shape, data.dtype, slope, intercept)
    for z in reversed(range(len(data))):
        backwards.add(z, data[z : z + 1], None if foreground is None else foreground[z : z + 1])
    assert same(whole, backwards.result())


@quick
@given(cases())
def test_arrays_round_trip(case):
    facts = collect(*case)
    again = Facts.from_arrays(facts.to_arrays())
    assert same(facts, again)
    assert again.shape == case[0].shape
    assert isinstance(again.count, int)


@quick
@given(cases(), cases())
def test_box_and_ranges(one, other):
    values = rescale(*one[:3])
    facts = collect(*one)
    twin_data = np.resize(other[0], values.shape)
    box = nonzero_box([facts, collect(twin_data, *other[1:3])])
    mask = (values != 0) | (rescale(twin_data, *other[1:3]) != 0)
    if mask.any():
        hits = np.argwhere(mask)
        assert box == Box(tuple(hits.min(0)), tuple(hits.max(0) + 1))
    else:
        assert box == Box.whole(values.shape)
    crop = values[box.slices]
    low, high = value_range(facts, box)
    assert (low, high) == (crop.min(), crop.max())
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        low, high = value_range(facts, box, axis)
        assert low.dtype == np.float32
        np.testing.assert_array_equal(low, crop.min(others))
        np.testing.assert_array_equal(high, crop.max(others))


def test_range_inside_a_mask():
    values = np.zeros((3, 2, 4), np.float32)
    values[0] = 5
    values[1, 0] = -2
    facts = collect(values)
    box = Box.whole(values.shape)
    low, high = value_range(facts, box, axis=0, voxels=[8, 4, 0])
    np.testing.assert_array_equal(low, [5, -2, np.inf])
    np.testing.assert_array_equal(high, [5, -2, -np.inf])
    assert value_range(facts, box, voxels=12) == (-2, 5)
    with pytest.raises(ValueError, match="does not hold all"):
        value_range(facts, Box((1, 0, 0), (3, 2, 4)))


def test_integer_sums_are_exact():
    data = np.full((2, 40, 500), 32767, np.int16)
    data[1] = -32768
    facts = collect(data, slope=0.5, intercept=-3.0)
    assert facts.total == 20000 * (32767 * 0.5 - 3 - 32768 * 0.5 - 3)
    assert facts.squares == 20000 * ((32767 * 0.5 - 3) ** 2 + (32768 * 0.5 + 3) ** 2)


def test_zero_is_a_rescaled_zero():
    data = np.array([[[0, 1000, 1024, 1025]]], np.uint16)
    facts = collect(data, 1.0, -1024.0)
    assert facts.nonzero[2].tolist() == [1, 1, 0, 1]
    assert facts.low[2].tolist() == [-1024, -24, np.inf, 1]


def test_nonfinite_voxels_are_counted_and_left_out():
    data = np.array([[[1, np.nan, 2, np.inf, -np.inf, -0.0]]])
    for foreground, expected in ((None, 2), (np.ones((1, 1, 6), bool), 3)):
        facts = collect(data, foreground=foreground)
        assert (facts.nonfinite, facts.count, facts.total, facts.squares) == (3, 2, 3, 5)
        assert facts.nonzero[2].tolist() == [1, 0, 1, 0, 0, 0]
        assert (facts.foreground_count, facts.foreground_high) == (expected, 2)
        assert facts.histogram.sum() == expected


def test_float64_beyond_float32_is_not_finite():
    assert collect(np.array([[[1e300, 1.0]]])).nonfinite == 1


@pytest.mark.parametrize("order", ["C", "F"])
def test_strided_and_read_only_slabs(order):
    data = np.asarray(np.random.default_rng(0).integers(-5, 6, (4, 6, 10)), np.int16, order=order)
    foreground = np.asarray(data > 1, np.uint8, order=order)
    data.setflags(write=False)
    half = collect(data[:, ::2, ::-1], foreground=foreground[:, ::2, ::-1])
    assert same(half, collect(data[:, ::2, ::-1].copy(), foreground=foreground[:, ::2, ::-1].copy()))


def test_wrong_slabs_are_refused():
    facts = ChannelFacts((4, 2, 3), np.int16)
    slab = np.zeros((2, 2, 3), np.int16)
    facts.add(0, slab)
    with pytest.raises(ValueError, match="added before"):
        facts.add(1, slab)
    with pytest.raises(ValueError, match="does not fit"):
        facts.add(3, slab)
    with pytest.raises(ValueError, match="foreground has shape"):
        facts.add(2, slab, np.zeros((1, 2, 3), bool))
    with pytest.raises(ValueError, match="float32"):
        facts.add(2, slab.astype(np.float32))
    with pytest.raises(ValueError, match="slice 2 of 4"):
        facts.result()


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept"),
    [("complex64", 1, 0), ("int16", 0, 0), ("int16", np.nan, 0), ("f4", 1, np.inf), ("uint16", 1e38, 0)],
)
def test_unusable_rescaling_is_refused(dtype, slope, intercept):
    with pytest.raises(ValueRuleError):
        ChannelFacts((1, 1, 1), dtype, slope, intercept)


@quick
@given(st.sampled_from(INTEGERS[:5]), st.sampled_from(RESCALINGS), st.integers(0, 2**32))
def test_histogram_values_of_narrow_types(dtype, rescaling, seed):
    data = random_volume(np.random.default_rng(seed), (3, 5, 7), dtype)
    facts = collect(data, *rescaling, foreground=np.ones(data.shape, bool))
    values, counts = histogram_values(facts.histogram, data.dtype, *rescaling)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(np.repeat(values, counts), np.sort(rescale(data, *rescaling), axis=None))


@quick
@given(st.sampled_from(INTEGERS[5:] + FLOATS), st.sampled_from(RESCALINGS), st.integers(0, 2**32))
def test_refined_bins_are_exact(dtype, rescaling, seed):
    rng = np.random.default_rng(seed)
    data = random_volume(rng, (3, 5, 7), dtype)
    for foreground in (rng.random(data.shape) < 0.6, None):
        facts = collect(data, *rescaling, foreground=foreground)
        values = rescale(data, *rescaling)
        inside = np.sort(values[values != 0 if foreground is None else foreground])
        bins = np.flatnonzero(facts.histogram)[::2]
        found, counts = refined_values(bins, refine(data, *rescaling, foreground, bins))
        np.testing.assert_array_equal(np.repeat(found, counts), inside[np.isin(keys_of(inside) >> 16, bins)])


def test_keys_sort_like_values():
    specials = [-np.inf, np.finfo("f4").min, -1, -1e-45, 0, 1e-45, 1, np.finfo("f4").max, np.inf]
    values = np.array(specials, np.float32)
    assert (np.diff(keys_of(values).astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(values_of(keys_of(values)), values)
    assert keys_of(np.float32([-0.0])) == keys_of(np.float32([0.0]))


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_rescale(dtype):
    data = random_volume(np.random.default_rng(1), (2, 3, 4), dtype)
    np.testing.assert_array_equal(rescale(data), data.astype(np.float32))
    expected = (data.astype(np.float64) * 0.3 - 7).astype(np.float32)
    np.testing.assert_array_equal(rescale(data, 0.3, -7), expected)
    np.testing.assert_array_equal(rescale(data[0, 0], 0.3, -7), expected[0, 0])
    assert bin_values("int16")[0] == -32768


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 5, 6)])
def test_class_counts(dtype, shape):
    labels = random_volume(np.random.default_rng(3), shape, dtype)
    values, counts = np.unique(labels, return_counts=True)
    found = class_counts(labels)
    assert found == dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert list(found) == sorted(found)


def test_class_counts_of_large_ids():
    labels = np.array([[2**63 - 1, 0, 70000], [0, 1, 70000]], np.uint64)
    assert class_counts(labels) == {0: 2, 1: 1, 70000: 2, 2**63 - 1: 1}
    with pytest.raises(ValueRuleError, match="float32"):
        class_counts(labels.astype(np.float32))
