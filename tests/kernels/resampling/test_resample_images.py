"""`resample` against SciPy, scikit-image and itself in boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize
from strategies import SEPARATE_AXES, SPLINE_ORDERS, boxes, shapes, targets, volumes

from voxelmill.basics.errors import ValueRuleError
from voxelmill.basics.geometry import Box
from voxelmill.kernels.resampling import _images_gpu, axis_matrix
from voxelmill.kernels.resampling import images as module
from voxelmill.kernels.resampling.axis_matrix import Rule, band, read_box
from voxelmill.kernels.resampling.images import resample, resample_block, workspace_bytes

TOLERANCE = {np.dtype("f4"): 1e-5, np.dtype("f8"): 1e-10}


def span(array: Any) -> float:
    return float(array.max() - array.min()) or 1.0


def bound(array: Any) -> float:
    """The promised error, and half a step of the number format at the values' size."""
    return TOLERANCE[array.dtype] * span(array) + float(np.spacing(np.abs(array).max())) / 2


def reference(array: Any, shape: Any, order: int, anti_alias: bool = False) -> Any:
    return resize(array.astype("f8"), shape, order=order, mode="edge", anti_aliasing=anti_alias)


def sliced_reference(array: Any, shape: Any, order: int, separate_axis: int) -> Any:
    """nnU-Net's rule: each slice in its plane, then the nearest slice."""
    plane = [n for k, n in enumerate(shape) if k != separate_axis]
    slices = np.stack([reference(s, plane, order) for s in np.moveaxis(array, separate_axis, 0)])
    n = len(slices)
    c = (n / shape[separate_axis]) * (np.arange(shape[separate_axis]) + 0.5) - 0.5
    return np.moveaxis(
        slices[ndimage.map_coordinates(np.arange(n), [c], order=0, mode="nearest")], 0, separate_axis
    )


@given(volumes(), targets(), SPLINE_ORDERS, st.booleans())
def test_equals_scikit_image(array: Any, shape: Any, order: int, anti_alias: bool) -> None:
    got = resample(array, shape, order=order, anti_alias=anti_alias)
    assert got.dtype == array.dtype
    assert got.shape == shape
    assert abs(got - reference(array, shape, order, anti_alias)).max() <= bound(array)


@given(volumes(), targets(), st.integers(1, 3), st.sampled_from([0, 1, 2]))
def test_separate_axis_equals_resizing_slice_by_slice(
    array: Any, shape: Any, order: int, separate_axis: int
) -> None:
    got = resample(array, shape, order=order, separate_axis=separate_axis)
    assert abs(got - sliced_reference(array, shape, order, separate_axis)).max() <= bound(array)


@given(volumes(), targets(), st.integers(0, 3))
def test_without_clip_equals_scipy_zoom(array: Any, shape: Any, order: int) -> None:
    expected = ndimage.zoom(
        array.astype("f8"),
        np.divide(shape, array.shape),
        order=order,
        mode="nearest",
        grid_mode=True,
    )
    assert abs(resample(array, shape, order=order, clip=False) - expected).max() <= bound(array)


@pytest.mark.parametrize("engine", ["compiled", "whole arrays"])
@given(st.data())
@settings(max_examples=60)
def test_a_box_has_the_bits_of_the_whole(engine: str, data: Any) -> None:
    array = data.draw(volumes())
    shape = data.draw(targets())
    rule = {
        "order": data.draw(SPLINE_ORDERS),
        "separate_axis": data.draw(SEPARATE_AXES),
        "order_separate": data.draw(SPLINE_ORDERS),
        "anti_alias": data.draw(st.booleans()),
        "clip": data.draw(st.sampled_from([True, False, (0.25, 0.5)])),
    }
    box = data.draw(boxes(shape))
    with pytest.MonkeyPatch.context() as patch:
        if engine != "compiled":
            patch.setattr(module, "_engine", lambda _: (band, _images_gpu.sweep))
        whole = resample(array, shape, **rule)
        part = resample(array, shape, box=box, **rule)
    np.testing.assert_array_equal(part, whole[box.slices])


@given(volumes(), targets(), SPLINE_ORDERS, SEPARATE_AXES, SPLINE_ORDERS)
@settings(max_examples=60)
def test_both_engines_agree(
    array: Any, shape: Any, order: int, separate_axis: int | None, across: int
) -> None:
    rule: dict[str, Any] = {"order": order, "separate_axis": separate_axis, "order_separate": across}
    compiled = resample(array, shape, **rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_engine", lambda _: (band, _images_gpu.sweep))
        whole_arrays = resample(array, shape, **rule)
    assert abs(compiled - whole_arrays).max() <= 0.1 * bound(array) + np.spacing(np.abs(array).max())


def test_slabs_do_not_change_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from voxelmill.kernels.resampling import _images_cpu

    rng = np.random.default_rng(0)
    for shape, target in (((8, 50, 9), (10, 150, 9)), ((90, 9, 8), (80, 9, 10))):
        array = rng.random(shape, np.float32)
        whole = resample(array, target)
        monkeypatch.setattr(_images_cpu, "SLAB", 1)
        np.testing.assert_array_equal(resample(array, target), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("target", [(13, 14, 15), (6, 7, 8), (9, 20, 8)])
def test_any_layout_of_memory_will_do(target: Any) -> None:
    array = np.random.default_rng(0).random((10, 11, 12), np.float32)
    expected = resample(array, target)
    frozen = array.copy()
    frozen.flags.writeable = False
    reversed_ = np.ascontiguousarray(array[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    spread = np.zeros((20, 22, 24), np.float32)[::2, ::2, ::2]
    spread[...] = array
    for other in (frozen, np.asfortranarray(array), reversed_, spread, array.astype(">f4")):
        np.testing.assert_array_equal(resample(other, target), expected)
    out = np.zeros((*target[::-1], 2), np.float32)[..., 0].T
    whole = Box.whole(array.shape), array.shape, target, Box.whole(target)
    resample_block(array, *whole, clip=(array.min(), array.max()), out=out)
    np.testing.assert_array_equal(out, expected)


@given(shapes(), shapes(), SPLINE_ORDERS, st.sampled_from([-1000.0, 0.0, 3.25, 30000.0]))
def test_constants_are_kept(shape: Any, target: Any, order: int, value: float) -> None:
    array = np.full(shape, value, np.float32)
    np.testing.assert_array_equal(resample(array, target, order=order), value)


@given(st.integers(40, 64), st.integers(20, 64), st.integers(1, 3), st.integers(0, 2))
@settings(max_examples=30)
def test_linear_fields_are_kept_away_from_the_ends(n: int, m: int, order: int, along: int) -> None:
    shape, target = [6, 6, 6], [5, 7, 6]
    shape[along], target[along] = n, m
    ramp = np.arange(n, dtype=np.float64).reshape([-1 if k == along else 1 for k in range(3)])
    got = resample(np.broadcast_to(ramp, shape).copy(), target, order=order)
    c = (np.arange(m) + 0.5) * n / m - 0.5
    inner = np.flatnonzero((c > 19) & (c < n - 20))
    line = np.moveaxis(got, along, 0)[inner]
    np.testing.assert_allclose(line, np.broadcast_to(c[inner, None, None], line.shape), atol=1e-8)


@given(volumes(dtypes=("f4",)), targets(), st.data())
@settings(max_examples=50)
def test_a_block_needs_only_its_read_box(array: Any, shape: Any, data: Any) -> None:
    """Facts gathered elsewhere stand in for the voxels that a task does not hold."""
    order, separate_axis = data.draw(st.integers(1, 3)), data.draw(SEPARATE_AXES)
    write = data.draw(boxes(shape))
    rule: dict[str, Any] = {"order": order, "separate_axis": separate_axis}
    both = np.stack([array, -array])
    read = read_box(write, array.shape, shape, **rule)
    axes = tuple(k + 1 for k in range(3) if k != separate_axis)
    clip = (both.min(axes), both.max(axes))
    out = np.empty((2, *write.shape), np.float32)
    block = both[(slice(None), *read.slices)]
    got = resample_block(block, read, array.shape, shape, write, clip=clip, out=out, **rule)
    assert got is out
    np.testing.assert_array_equal(got, resample(both, shape, box=write, **rule))


@pytest.mark.parametrize(("order", "itemsize"), [(2, 4), (3, 4), (2, 8), (3, 8)])
def test_what_a_band_cuts_off_is_below_its_bound(
    order: int, itemsize: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = np.zeros((331, 200))
    half = axis_matrix.HALF[itemsize][order]
    for sign, kept in ((1, 40), (-1, half)):
        monkeypatch.setitem(axis_matrix.HALF[8], order, kept)
        rows = band.__wrapped__(200, 331, 0, 331, order, False, 8)
        where = rows.first[:, None] + np.arange(rows.weights.shape[1])
        np.add.at(dense, (np.arange(331)[:, None], where), sign * rows.weights)
    limit = axis_matrix.TAIL[order] * abs(axis_matrix.POLE[order]) ** half
    assert abs(dense).sum(1).max() <= limit + 1e-15
    assert itemsize == 8 or abs(dense).sum(1).max() >= limit / 2


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("halo", [4, 6, 8])
def test_what_a_short_window_cuts_off_is_below_its_bound(
    order: int, halo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the recursion over the whole axis, on signs drawn by chance: halves of the range."""
    signs = np.sign(np.random.default_rng(0).random((512, 300, 1)) - 0.5).transpose(1, 2, 0)
    monkeypatch.setitem(axis_matrix.HALO, 8, halo)
    axis_matrix.step.cache_clear()
    cut = resample(signs.copy(), (500, 1, 512), order=order, clip=False)
    monkeypatch.undo()
    axis_matrix.step.cache_clear()
    error = abs(cut - resample(signs.copy(), (500, 1, 512), order=order, clip=False)).max()
    limit = 3 * abs(axis_matrix.POLE[order]) ** halo
    assert limit / 100 <= error <= limit


def test_integers_become_float32_and_channels_are_clipped_on_their_own() -> None:
    rng = np.random.default_rng(0)
    channels = np.stack([rng.integers(0, 50, (9, 9, 9)), rng.integers(900, 1000, (9, 9, 9))]).astype(np.int16)
    got = resample(channels, (14, 14, 14))
    assert got.dtype == np.float32
    for given_, channel in zip(channels, got, strict=True):
        assert given_.min() <= channel.min()
        assert channel.max() <= given_.max()
        assert abs(channel - reference(given_, (14, 14, 14), 3)).max() <= 1e-3


@pytest.mark.parametrize("target", [(128, 128, 128), (80, 180, 60), (96, 144, 160), (40, 120, 128)])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"order": 0},
        {"anti_alias": True},
        {"separate_axis": 0},
        {"separate_axis": 0, "order_separate": 1},
        {"separate_axis": 1},
        {"separate_axis": 2},
        {"separate_axis": 2, "order_separate": 3},
        {"separate_axis": 1, "order": 0},
    ],
)
def test_memory_formula_covers_what_is_allocated(how: dict[str, Any], target: tuple[int, int, int]) -> None:
    import tracemalloc

    shape = (96, 120, 128)
    rule, write = Rule(shape, target, **how), Box.whole(target)
    read = rule.read_box(write)
    block, out = np.zeros(read.shape, np.float32), np.zeros(target, np.float32)
    for _ in range(2):  # the first call compiles
        tracemalloc.start()
        resample_block(block, read, shape, target, write, clip=(0, 1), out=out, **how)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= workspace_bytes(rule, read, write)
    assert peak < 2**20 or workspace_bytes(rule, read, write) <= 4 * peak


@pytest.mark.parametrize(
    "change",
    [
        {"new_shape": (4, 4)},
        {"new_shape": (4, 0, 4)},
        {"order": 4},
        {"separate_axis": 3},
        {"box": ((0, 4), (0, 4))},
        {"box": ((0, 4), (0, 4), (0, 5))},
        {"box": ((0, 4), (2, 2), (0, 4))},
        {"clip": (np.zeros(3), np.ones(3))},
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"array": np.zeros((3, 3, 3), np.float32), "new_shape": (4, 4, 4)} | change
    with pytest.raises(ValueError):
        resample(**arguments)


def test_voxels_that_are_not_finite_are_refused() -> None:
    array = np.zeros((3, 3, 3), np.float32)
    array[1, 1, 1] = np.nan
    with pytest.raises(ValueRuleError, match="finite"):
        resample(array, (4, 4, 4))


def test_a_block_that_is_too_small_is_refused() -> None:
    shape, target = (40, 40, 40), (50, 50, 50)
    write = Box((20, 20, 20), (30, 30, 30))
    with pytest.raises(ValueError, match="needs"):
        resample_block(np.zeros((8, 8, 8), np.float32), Box((16,) * 3, (24,) * 3), shape, target, write)
