"""Facts of a channel against plain NumPy on the whole array."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from voxelmill.errors import ValueRuleError
from voxelmill.geometry import Box
from voxelmill.kernels.facts import (
    BINS,
    ChannelFacts,
    Facts,
    bin_values,
    class_counts,
    histogram_values,
    nonzero_box,
    refine,
    refined_values,
    value_range,
)
from voxelmill.kernels.keys import is_narrow, keys_of, rescale, values_of

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
        tolerance = 1e-6 * np.abs(v).sum() + 1e-6 * len(v), 1e-6 * (v**2).sum() + 1e-6 * len(v)
        assert found[0] == len(v)
        assert found[1] == pytest.approx(v.sum(), abs=tolerance[0])
        assert found[2] == pytest.approx((v**2).sum(), abs=tolerance[1])
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
