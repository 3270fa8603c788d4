"""Resampling of label volumes: an output voxel is always one of the labels around it.

*Nearest* is a gather. *Linear* computes the same as nnU-Net's `resize_segmentation` (batchgenerators 0.25.5):
the indicator of every label is interpolated linearly and the largest wins. An exact tie goes to the nearest
label if it is among the tied ones, else to the lowest. Here the cost does not depend on the number of labels,
because only the labels at the 8 corners of a voxel's cell can win. If they agree, that label is copied. If
not, their scores are summed in float64 in the order of `scipy.ndimage.zoom` (weights multiplied z, y, x;
corners added with x fastest), so that near ties are decided the same way to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from voxelmill.basics.geometry import Box
from voxelmill.kernels.backend import Array, get_array_module
from voxelmill.kernels.resampling.axis_matrix import nearest_index, read_box, sample_positions
from voxelmill.kernels.resampling.images import Bounds, as_box, as_target, as_volumes, check_block, gather

Method = Literal["nearest", "linear"]
ORDER = {"nearest": 0, "linear": 1}


def resample_labels(
    array: Array,
    new_shape: Sequence[int],
    *,
    method: Method = "nearest",
    separate_axis: int | None = None,
    box: Box | Bounds | None = None,
) -> Array:
    """Resample a volume of labels to a new shape, or compute one box of the result.

    Parameters
    ----------
    array : (z, y, x) or (c, z, y, x)
        Integers of any width, NumPy or CuPy; the type is kept.
    new_shape : (z, y, x)
        Voxels of the whole output.
    method : {"nearest", "linear"}
        The label of the nearest voxel (ties as in SciPy's order 0), or nnU-Net's argmax of linearly
        interpolated indicators (batchgenerators 0.25.5), bit for bit.
    separate_axis : {None, 0, 1, 2}
        Resample each slice along this axis in its plane, then take the nearest slice.
    box : Box or ((z0, z1), (y0, y1), (x0, x1)), optional
        Part of the output to compute.

    Returns
    -------
    array
        With the shape of the box, in the type of `array`.

    Raises
    ------
    ValueError
        If a shape, the method, the axis or the box is invalid, or the array does not hold integers.
    """
    volumes = as_volumes(array)
    shape_in, shape_out = volumes.shape[1:], tuple(new_shape)
    write = as_box(box, shape_out)
    rule: dict[str, Any] = {"method": method, "separate_axis": separate_axis}
    read = read_box(write, shape_in, shape_out, order=_order(method), separate_axis=separate_axis)
    return resample_labels_block(array[(..., *read.slices)], read, shape_in, shape_out, write, **rule)


def resample_labels_block(
    block: Array,
    read: Box,
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    write: Box,
    *,
    method: Method = "nearest",
    separate_axis: int | None = None,
    out: Array | None = None,
) -> Array:
    """Compute one output box of `resample_labels` in a task that holds only its read box.

    Parameters
    ----------
    block : (z, y, x) or (c, z, y, x)
        The labels of `read`.
    read, write : Box
        Input box (at least ``read_box(write, ..., order=0)`` for nearest, ``order=1`` for linear, with the
        same separate axis) and output box, in voxels of the whole input and output.
    shape_in, shape_out : (z, y, x)
        Voxels of the whole input and output.
    method, separate_axis
        As for `resample_labels`.
    out : array, optional
        Array of the output's shape and type to write into.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    ValueError
        If the block is not its read box, the read box is too small, or an argument is invalid.
    """
    module, volumes = get_array_module(block), as_volumes(block)
    need = read_box(write, shape_in, shape_out, order=_order(method), separate_axis=separate_axis)
    if block.dtype.kind not in "iub":
        raise ValueError(f"labels are {block.dtype}; whole numbers (an integer type) are needed")
    check_block(volumes.shape[1:], read, need, write)
    target = as_target(out, (*block.shape[:-3], *write.shape), block.dtype, module)
    spans = list(zip(shape_in, shape_out, write.start, write.stop, read.start, strict=True))
    interpolate = _compiled if module is np else _vectorised
    for volume, result in zip(volumes, as_volumes(target), strict=True):
        if method == "nearest":
            gather(volume, [nearest_index(*span) - start for *span, start in spans], result)
        else:
            interpolate(volume, [_cells(*span, k == separate_axis) for k, span in enumerate(spans)], result)
    return target


@dataclass(frozen=True)
class _Cells:
    """For every output voxel along one axis: its two neighbours, their weights, and which is nearer.

    The order of the fields is that of the arguments of the compiled pass.
    """

    lower: Any
    upper: Any
    weight_lower: Any
    weight_upper: Any
    nearest_is_upper: Any


def _cells(n_in: int, n_out: int, start: int, stop: int, begin: int, separate: bool) -> _Cells:
    """Compute neighbours and weights in SciPy's arithmetic; a separate axis has one neighbour of weight 1."""
    nearest = nearest_index(n_in, n_out, start, stop)
    c = nearest.astype(np.float64) if separate else sample_positions(n_in, n_out, start, stop)
    weight_lower = 1.0 - (c - np.floor(c))
    weight_upper = 1.0 - weight_lower
    floor = np.floor(c).astype(np.int64)
    lower, upper = np.clip(floor, 0, n_in - 1), np.clip(floor + (weight_upper > 0), 0, n_in - 1)
    return _Cells(
        lower - begin, upper - begin, weight_lower, weight_upper, (nearest == upper).astype(np.int64)
    )


def _order(method: Method) -> int:
    if method not in ORDER:
        raise ValueError(f'method is {method!r}; "nearest" or "linear" is needed')
    return ORDER[method]


def _keys(labels: Array) -> Array:
    """Return the labels as signed integers in the same order: int32 if that holds the type, else int64."""
    if labels.dtype == np.uint64:
        return (labels ^ labels.dtype.type(1 << 63)).view(np.int64)
    fits = labels.dtype.itemsize < 4 or labels.dtype == np.int32
    return labels.astype(np.int32 if fits else np.int64, copy=False)


def _from_keys(keys: Array, dtype: Any) -> Array:
    """Invert `_keys`."""
    return keys.view(np.uint64) ^ np.uint64(1 << 63) if dtype == np.uint64 else keys


def _compiled(volume: Array, cells: list[_Cells], out: Array) -> None:
    """Interpolate plane by plane with the compiled pass; only two input planes are held as keys."""
    from voxelmill.kernels.resampling import _labels_cpu

    z, y, x = cells
    held: dict[int, Any] = {}
    plane = np.empty(out.shape[1:], _keys(volume[:1, :1, :1]).dtype)
    kernel = _labels_cpu.compiled(plane.dtype.itemsize)
    sides = tuple(part for axis in (y, x) for part in vars(axis).values())
    for o in range(len(z.lower)):
        pair = (int(z.lower[o]), int(z.upper[o]))
        held = {k: held[k] if k in held else np.ascontiguousarray(_keys(volume[k])) for k in pair}
        weights = (z.weight_lower[o], z.weight_upper[o], z.nearest_is_upper[o])
        kernel(held[pair[0]], held[pair[1]], *weights, *sides, plane)
        out[o] = _from_keys(plane, out.dtype)


def _vectorised(volume: Array, cells: list[_Cells], out: Array) -> None:
    """Do the same with whole-array operations, plane by plane, for arrays on a GPU."""
    module = get_array_module(volume)
    z, y, x = ([module.asarray(part) for part in vars(axis).values()] for axis in cells)
    for o in range(len(z[0])):
        corners, scores = [], []
        for dz in (0, 1):
            for dy in (0, 1):
                for dx in (0, 1):
                    corners.append(_keys(volume[int(z[dz][o])])[y[dy][:, None], x[dx]])
                    scores.append((z[2 + dz][o] * y[2 + dy])[:, None] * x[2 + dx])
        nearest = 4 * z[4][o] + 2 * y[4][:, None] + x[4]
        out[o] = _from_keys(_winner(module, corners, scores, nearest), out.dtype)


def _winner(module: Any, corners: list[Array], weights: list[Array], nearest: Array) -> Array:
    """Return the label with the largest summed weight; a tie goes to corner `nearest`, else to the lowest."""
    best = module.full(corners[0].shape, -1.0)
    label, near = corners[0].copy(), module.zeros_like(corners[0])
    near_score = module.zeros(corners[0].shape)
    for k, corner in enumerate(corners):
        score = module.zeros(corner.shape)
        for other, weight in zip(corners, weights, strict=True):
            score += weight * (other == corner)
        better = (score > best) | ((score == best) & (corner < label))
        label, best = module.where(better, corner, label), module.where(better, score, best)
        near = module.where(nearest == k, corner, near)
        near_score = module.where(nearest == k, score, near_score)
    return module.where(near_score == best, near, label)
