"""Resampling of image volumes: arrays in, arrays out, the whole or any box of the output.

One banded matrix per axis (`axis.py`) is applied axis by axis; nothing here knows files, chunks or tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from voxelmill.errors import ValueRuleError
from voxelmill.geometry import Box
from voxelmill.kernels.axis import Band, bands, read_box
from voxelmill.kernels.backend import Array, get_array_module

Clip = bool | None | tuple[Any, Any]
Bounds = Sequence[Sequence[int]]


def resample(
    array: Array,
    new_shape: Sequence[int],
    *,
    order: int = 3,
    separate_axis: int | None = None,
    order_separate: int = 0,
    anti_alias: bool = False,
    clip: Clip = True,
    box: Box | Bounds | None = None,
) -> Array:
    """Resample a volume to a new shape, as nnU-Net does, or only one box of the result.

    Equal to ``skimage.transform.resize(mode="edge")`` and so to ``scipy.ndimage.zoom(mode="nearest",
    grid_mode=True)`` with a clip, within 1e-5 of the value range for float32 and 1e-10 for float64.

    Parameters
    ----------
    array : (z, y, x) or (c, z, y, x)
        NumPy or CuPy. float32 and float64 keep their type; all others become float32.
    new_shape : (z, y, x)
        Voxels of the whole output.
    order : {0, 1, 2, 3}
        Spline degree; 0 copies the nearest voxel.
    separate_axis : {None, 0, 1, 2}
        Resample each slice along this axis in its plane, then across with `order_separate`.
    anti_alias : bool
        Smooth shrinking axes first with scikit-image's Gaussian, sigma ``(factor - 1) / 2``.
    clip : bool, or (low, high)
        True: to the range of the whole array, per channel, and per slice along `separate_axis`. A pair
        holds numbers, or arrays of shape (c,), or with a separate axis (c, slices of the input); a volume
        without channels has no c.
    box : Box or ((z0, z1), (y0, y1), (x0, x1)), optional
        Part of the output to compute; only the input that it needs is resampled.

    Returns
    -------
    array
        Of the box' shape, with the channels of `array`; NumPy for NumPy, CuPy for CuPy.

    Raises
    ------
    ValueError
        If a shape, an order, an axis or the box is wrong.
    ValueRuleError
        If the range is needed and a voxel is not finite.
    """
    module = get_array_module(array)
    volumes = as_volumes(array)
    shape_in, shape_out = volumes.shape[1:], checked_shape(new_shape)
    write = checked_box(box, shape_out)
    rule = {
        "order": order,
        "separate_axis": separate_axis,
        "order_separate": order_separate,
        "anti_alias": anti_alias,
    }
    check_rule(**rule)
    dtype = float_type(volumes.dtype)
    span = None if clip is not True and clip not in (False, None) else _ranges(module, volumes, separate_axis)
    limits = span if clip is True else clip
    middle = None if span is None else _middle(span, len(volumes))
    if array.ndim == 3 and isinstance(limits, tuple) and clip is not True:
        limits = tuple(np.asarray(limit)[None] if np.ndim(limit) else limit for limit in limits)
    read = read_box(write, shape_in, shape_out, itemsize=dtype.itemsize, **rule)
    block = volumes[(slice(None), *read.slices)]
    out = resample_block(block, read, shape_in, shape_out, write, clip=limits, middle=middle, **rule)
    return out[0] if array.ndim == 3 else out


def resample_block(
    block: Array,
    read: Box,
    shape_in: Sequence[int],
    shape_out: Sequence[int],
    write: Box,
    *,
    order: int = 3,
    separate_axis: int | None = None,
    order_separate: int = 0,
    anti_alias: bool = False,
    clip: Clip = None,
    middle: Any = None,
    out: Array | None = None,
) -> Array:
    """`resample` for a task that holds only its read box.

    Parameters
    ----------
    block : (z, y, x) or (c, z, y, x)
        The input voxels of `read`.
    read, write : Box
        Input box (at least what `read_box` says) and output box, voxels of the whole input and output.
    shape_in, shape_out : (z, y, x)
        Voxels of the whole input and output.
    clip : (low, high) or None
        Range of the whole input: numbers or arrays that broadcast to (c,) or, with a separate axis, to
        (c, shape_in[separate_axis]), indexed by the slice of the whole input. Never computed here.
    middle : number or (c,), optional
        What is subtracted before and added after, for precision: by default the middle of the clip range,
        0 without one. The same for all blocks of a volume, or the blocks differ in their last bits.
    out : array, optional
        Of the output's shape and type, to write into.

    Returns
    -------
    array
        `out`, or a new array.
    """
    module = get_array_module(block)
    volumes = as_volumes(block)
    if volumes.shape[1:] != read.shape:
        raise ValueError(f"the block has shape {volumes.shape[1:]}, but its read box {read.bounds} another")
    dtype = float_type(volumes.dtype)
    rule = {"order": order, "separate_axis": separate_axis, "order_separate": order_separate}
    itemsize = dtype.itemsize
    need = read_box(write, shape_in, shape_out, anti_alias=anti_alias, itemsize=itemsize, **rule)
    if need.intersect(read) != need:
        raise ValueError(f"the read box is {read.bounds}, but write box {write.bounds} needs {need.bounds}")
    volumes = volumes[(slice(None), *need.shift([-a for a in read.start]).slices)]
    rows = bands(write, shape_in, shape_out, anti_alias=anti_alias, itemsize=itemsize, **rule)
    target = out if out is not None else module.empty((*block.shape[:-3], *write.shape), dtype)
    if target.shape != (*block.shape[:-3], *write.shape) or target.dtype != dtype:
        raise ValueError(
            f"out is {target.dtype} {target.shape}; {dtype} {(*block.shape[:-3], *write.shape)} is needed"
        )
    limits = _limits(clip, len(volumes), None if separate_axis is None else shape_in[separate_axis])
    centres = _middle(limits, len(volumes)) if middle is None else np.broadcast_to(middle, len(volumes))
    factors = [m / n for n, m in zip(shape_in, shape_out, strict=True)]
    for c, (volume, result) in enumerate(zip(volumes, as_volumes(target), strict=True)):
        low, high = limits[0][c], limits[1][c]
        if separate_axis is not None:
            part = slice(need.start[separate_axis], need.stop[separate_axis])
            low, high = low[part], high[part]
        _resample_volume(volume, need, rows, factors, separate_axis, (low, high), centres[c], result)
    return target


def workspace_bytes(read: Box, write: Box, itemsize: int = 4) -> int:
    """Bytes that `resample_block` allocates for one channel at a time, beyond its block and its output.

    The volume between the two sweeps, at most one plane's buffers and the bands.
    """
    (z, y, x), (zo, yo, xo) = read.shape, write.shape
    between = max(z * yo * xo, zo * y * x)
    plane = 2 * (max(y, yo) + 48) * (max(x, xo) + 48)
    strip = (z + 48) * 512
    return itemsize * (between + 2 * plane + strip + 64 * (zo + yo + xo))


def as_volumes(array: Array) -> Array:
    """The array as (c, z, y, x)."""
    if array.ndim not in (3, 4) or array.size == 0:
        raise ValueError(
            f"the array has shape {array.shape}; (z, y, x) or (c, z, y, x), not empty, is needed"
        )
    return array[None] if array.ndim == 3 else array


def checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Three positive integers."""
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape):
        raise ValueError(f"new_shape is {tuple(shape)}; three whole numbers of at least 1 are needed")
    return int(shape[0]), int(shape[1]), int(shape[2])


def checked_box(box: Box | Bounds | None, shape: Sequence[int]) -> Box:
    """The box asked for; the whole output where none is."""
    if box is None:
        return Box.whole(shape)
    if not isinstance(box, Box):
        if len(box) != 3 or any(len(bounds) != 2 for bounds in box):
            raise ValueError(f"box is {box}; ((z0, z1), (y0, y1), (x0, x1)) is needed")
        box = Box.from_bounds(box)
    if len(box.start) != 3:
        raise ValueError(f"box {box.bounds} has {len(box.start)} axes; z, y and x are needed")
    return box


def check_rule(order: int, separate_axis: int | None, order_separate: int, anti_alias: bool) -> None:
    """Refuse an order or an axis that does not exist."""
    if order not in (0, 1, 2, 3) or order_separate not in (0, 1, 2, 3):
        raise ValueError(f"order is {order} and order_separate {order_separate}; 0, 1, 2 or 3 are possible")
    if separate_axis not in (None, 0, 1, 2):
        raise ValueError(f"separate_axis is {separate_axis}; None, 0, 1 or 2 is needed")


def float_type(dtype: Any) -> np.dtype[Any]:
    """float64 for float64, float32 for all others."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _ranges(module: Any, volumes: Array, separate_axis: int | None) -> tuple[Any, Any]:
    """Smallest and largest voxel of each channel, or of each slice of each channel."""
    axes = tuple(axis + 1 for axis in range(3) if axis != separate_axis)
    low, high = volumes.min(axes), volumes.max(axes)
    if module is not np:
        low, high = low.get(), high.get()
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueRuleError(
            "the array holds voxels that are not finite (NaN or infinite); replace them first"
        )
    return low, high


def _limits(clip: Clip, channels: int, slices: int | None) -> tuple[Any, Any]:
    """The clip range as two float64 arrays (c,) or (c, slices); infinite where nothing is clipped."""
    if clip is True:
        raise ValueError("clip=True needs the whole array; a block takes (low, high)")
    pair = clip if isinstance(clip, tuple | list) else (-np.inf, np.inf)
    shape = (channels,) if slices is None else (channels, slices)
    arrays = [np.asarray(value, np.float64) for value in pair]
    if slices is not None:
        arrays = [a[:, None] if a.shape == (channels,) else a for a in arrays]
    try:
        return np.broadcast_to(arrays[0], shape), np.broadcast_to(arrays[1], shape)
    except ValueError:
        raise ValueError(
            f"clip has shapes {[a.shape for a in arrays]}; {shape} or numbers are needed"
        ) from None


def _middle(limits: tuple[Any, Any], channels: int) -> Any:
    """Middle of each channel's range; 0 where there is none."""
    low, high = (np.asarray(v, np.float64).reshape(channels, -1) for v in limits)
    middle = (low.min(1) + high.max(1)) / 2
    return np.where(np.isfinite(middle), middle, 0)


def _resample_volume(
    volume: Array,
    read: Box,
    rows: list[Band | None],
    factors: list[float],
    separate_axis: int | None,
    limits: tuple[Any, Any],
    middle: float,
    out: Array,
) -> None:
    """One channel. A separate axis comes first in all that follows."""
    if separate_axis:
        volume, out = (np.moveaxis(a, separate_axis, 0) for a in (volume, out))
        rows, factors = _first(rows, separate_axis), _first(factors, separate_axis)
    start = _first(read.start, separate_axis or 0)
    dtype = out.dtype
    steps = [_step(band, begin, n, dtype) for band, begin, n in zip(rows, start, volume.shape, strict=True)]
    if all(step[1].shape[1] == 1 for step in steps):
        gather(volume, [step[0] for step in steps], out)
        if np.isfinite(limits[0]).any():
            get_array_module(out).clip(out, limits[0].min(), limits[1].max(), out=out)
        return
    low, high = (np.ascontiguousarray(limit, dtype).reshape(-1) for limit in limits)
    if volume.dtype != dtype:
        volume = volume.astype(dtype)
    sweep = _engine(get_array_module(volume))
    sweep(volume, steps, factors, separate_axis is not None, low, high, dtype.type(middle), out)


def _first(items: Sequence[Any], axis: int) -> list[Any]:
    """The items with that of `axis` moved to the front."""
    return [items[axis], *(item for k, item in enumerate(items) if k != axis)]


def _step(band: Band | None, begin: int, n: int, dtype: Any) -> tuple[Any, Any]:
    """First voxel (within the block) and weights of each output row; the identity as a gather."""
    if band is None:
        return np.arange(n), np.ones((n, 1), dtype)
    return band.first - begin, band.weights


def gather(volume: Array, index: list[Any], out: Array) -> None:
    """Copy the voxel at ``index[axis][o]`` of each axis."""
    module = get_array_module(volume)
    for axis, where in enumerate(index):
        volume = volume.take(module.asarray(where), axis)
    out[...] = volume


def _engine(module: Any) -> Any:
    """Compiled sweeps for NumPy arrays, whole-array operations for CuPy's."""
    if module is np:
        from voxelmill.kernels._sweeps import sweep
    else:
        from voxelmill.kernels._taps import sweep
    return sweep
