"""`resample_labels` against SciPy, batchgenerators and itself in boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SEEDS, SEPARATE_AXES, boxes, label_volumes, shapes

from voxelmill.kernels.resampling import labels as module
from voxelmill.kernels.resampling.axis_matrix import read_box
from voxelmill.kernels.resampling.labels import resample_labels, resample_labels_block

METHODS = st.sampled_from(["nearest", "linear"])


def argmax_reference(array: Any, shape: Any) -> Any:
    """nnU-Net's rule, straight: interpolate every label's indicator, the largest wins."""
    from skimage.transform import resize

    ids = np.unique(array)
    codes = np.searchsorted(ids, array).astype(float)
    nearest = resize(codes, shape, order=0, mode="edge", anti_aliasing=False).astype(int)
    scores = np.stack(
        [
            resize((codes == k).astype(float), shape, order=1, mode="edge", anti_aliasing=False)
            for k in range(len(ids))
        ]
    )
    nearest_score = np.take_along_axis(scores, nearest[None], 0)[0]
    return ids[np.where(nearest_score == scores.max(0), nearest, scores.argmax(0))]


@given(label_volumes(), shapes())
@settings(max_examples=200)
def test_linear_is_the_argmax_of_interpolated_labels(array: Any, shape: Any) -> None:
    got = resample_labels(array, shape, method="linear")
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, argmax_reference(array, shape))


@given(SEEDS, shapes(10), shapes(14))
def test_linear_equals_batchgenerators(seed: int, shape: Any, target: Any) -> None:
    utils = pytest.importorskip("batchgenerators.augmentations.utils")
    array = np.random.default_rng(seed).integers(-1, 4, shape).astype(np.float32)
    expected = utils.resize_segmentation(array, target, order=1)
    np.testing.assert_array_equal(resample_labels(array.astype(np.int8), target, method="linear"), expected)


@given(label_volumes(), shapes())
def test_nearest_equals_scipy(array: Any, shape: Any) -> None:
    from skimage.transform import resize

    ids, codes = np.unique(array, return_inverse=True)
    where = resize(codes.reshape(array.shape).astype(float), shape, order=0, mode="edge", anti_aliasing=False)
    np.testing.assert_array_equal(resample_labels(array, shape), ids[where.astype(int)])


@given(label_volumes(), shapes(), st.sampled_from([0, 1, 2]))
def test_separate_axis_is_slice_by_slice_then_nearest(array: Any, shape: Any, separate_axis: int) -> None:
    slices = np.moveaxis(array, separate_axis, 0)
    plane = [n for k, n in enumerate(shape) if k != separate_axis]
    each = np.stack([argmax_reference(s, plane) for s in slices])
    n, m = len(slices), shape[separate_axis]
    nearest = np.clip(np.floor((n / m) * (np.arange(m) + 0.5)), 0, n - 1).astype(int)
    got = resample_labels(array, shape, method="linear", separate_axis=separate_axis)
    np.testing.assert_array_equal(np.moveaxis(got, separate_axis, 0), each[nearest])


@pytest.mark.parametrize("engine", ["_compiled", "_vectorised"])
@given(label_volumes(), shapes(), METHODS, SEPARATE_AXES, st.data())
@settings(max_examples=60)
def test_a_box_equals_the_whole_and_invents_no_label(
    engine: str, array: Any, shape: Any, method: Any, separate_axis: int | None, data: Any
) -> None:
    write = data.draw(boxes(shape))
    whole = resample_labels(array, shape, method=method, separate_axis=separate_axis)
    order = {"nearest": 0, "linear": 1}[method]
    read = read_box(write, array.shape, shape, order=order, separate_axis=separate_axis)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_compiled", getattr(module, engine))
        part = resample_labels_block(
            array[read.slices], read, array.shape, shape, write, method=method, separate_axis=separate_axis
        )
    np.testing.assert_array_equal(part, whole[write.slices])
    assert np.isin(part, array).all()


@pytest.mark.parametrize("method", ["nearest", "linear"])
def test_large_ids_are_untouched(method: Any) -> None:
    ids = np.array([0, 2**53 + 1, 2**62 + 3, 2**63], np.uint64)
    array = ids[np.random.default_rng(0).integers(0, 4, (5, 6, 7))]
    got = resample_labels(array, (9, 8, 11), method=method)
    assert got.dtype == np.uint64
    assert np.isin(got, ids).all()
    np.testing.assert_array_equal(got == 2**63, _only(array, 2**63, method))


def _only(array: Any, label: int, method: Any) -> Any:
    """The same volume with small ids, so that no id can be rounded."""
    ids, codes = np.unique(array, return_inverse=True)
    small = resample_labels(codes.reshape(array.shape).astype(np.uint8), (9, 8, 11), method=method)
    return small == np.searchsorted(ids, label)


def test_channels_and_out() -> None:
    array = np.random.default_rng(0).integers(0, 3, (2, 5, 6, 7)).astype(np.uint8)
    got = resample_labels(array, (6, 6, 9), method="linear")
    for given_, channel in zip(array, got, strict=True):
        np.testing.assert_array_equal(channel, resample_labels(given_, (6, 6, 9), method="linear"))


@pytest.mark.parametrize(
    "change",
    [
        {"array": np.zeros((3, 3, 3), np.float32)},
        {"method": "cubic"},
        {"separate_axis": 3},
        {"box": ((0, 5), (0, 4), (0, 4))},
        {"new_shape": (4, 4, 0)},
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"array": np.zeros((3, 3, 3), np.uint8), "new_shape": (4, 4, 4)} | change
    with pytest.raises(ValueError):
        resample_labels(**arguments)
