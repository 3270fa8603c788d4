"""Hypothesis strategies for arrays, shapes and boxes; arrays are small and made from a drawn seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from voxelmill.basics.geometry import Box

settings.register_profile("voxelmill", deadline=None)  # the first example compiles the kernels
settings.load_profile("voxelmill")

SPLINE_ORDERS = st.integers(0, 3)
SEPARATE_AXES = st.sampled_from([None, 0, 1, 2])
SEEDS = st.integers(0, 2**32 - 1)


def shapes(largest: int = 24) -> st.SearchStrategy[tuple[int, int, int]]:
    """Draw three lengths from 1 up, including those around SciPy's padding of 12 voxels."""
    length = st.one_of(st.integers(1, largest), st.sampled_from([1, 2, 11, 12, 13]))
    return st.tuples(length, length, length)


@st.composite
def targets(draw: Any) -> tuple[int, int, int]:
    """Draw a target shape: as in `shapes`, or with one axis of 60 to 200 voxels, for several pieces of 64."""
    shape = list(draw(shapes()))
    if draw(st.booleans()):
        shape = [min(n, 5) for n in shape]
        shape[draw(st.integers(0, 2))] = draw(st.integers(60, 200))
    return shape[0], shape[1], shape[2]


@st.composite
def boxes(draw: Any, shape: tuple[int, ...]) -> Box:
    """Draw a non-empty box inside `shape`."""
    start = tuple(draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    return Box(start, stop)


@st.composite
def volumes(
    draw: Any, largest: int = 24, dtypes: tuple[str, ...] = ("f4", "f8")
) -> np.ndarray[Any, np.dtype[Any]]:
    """Draw noise (z, y, x) with an offset of up to 30,000."""
    offset, spread = draw(st.sampled_from([(0, 1), (0, 1000), (-1000, 3000), (30000, 20)]))
    noise = np.random.default_rng(draw(SEEDS)).random(draw(shapes(largest)))
    return (offset + spread * noise).astype(draw(st.sampled_from(dtypes)))


@st.composite
def label_volumes(draw: Any, largest: int = 16) -> np.ndarray[Any, np.dtype[Any]]:
    """Draw blocky labels (z, y, x) of any integer type, which include -1 if the type is signed."""
    dtype = np.dtype(draw(st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])))
    shape, grain = draw(shapes(largest)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(SEEDS))
    coarse = rng.integers(0, draw(st.integers(1, 6)), [-(-n // grain) for n in shape])
    ids = np.unique(rng.integers(0, np.iinfo(dtype).max, 6, dtype, endpoint=True))
    if dtype.kind == "i":
        ids = np.unique(np.append(ids, dtype.type(-1)))
    blocks = ids[coarse % len(ids)].repeat(grain, 0).repeat(grain, 1).repeat(grain, 2)
    return np.ascontiguousarray(blocks[tuple(slice(n) for n in shape)])
