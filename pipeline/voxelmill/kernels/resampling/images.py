"""Resampling of image volumes: the whole output or any box of it.

In: arrays, or the read box of an output box. Out: arrays. Each axis has one banded matrix (`axis_matrix.py`
states the mathematics and the error bound). The matrices are applied axis by axis, after the middle of the
value range is subtracted, and the result is clipped. NumPy arrays go through compiled sweeps
(`_images_cpu.py`), CuPy arrays through whole-array operations (`_images_gpu.py`). This module knows no files,
chunks or tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from voxelmill.basics.errors import ValueRuleError
from voxelmill.basics.geometry import Box
from voxelmill.kernels.backend import Array, asnumpy, get_array_module
from voxelmill.kernels.resampling.axis_matrix import GRID, SHORT, SLAB, Rule, band, step

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
    """Resample a volume to a new shape, as nnU-Net does, or compute one box of the result.

    The result equals ``skimage.transform.resize(mode="edge")``, and so ``scipy.ndimage.zoom(mode="nearest",
    grid_mode=True)`` with a clip, within 1e-5 of the value range for float32 and 1e-10 for float64. A box is
    identical, bit for bit, to the same part of the whole result.

    Parameters
    ----------
    array : (z, y, x) or (c, z, y, x)
        NumPy or CuPy. float32 and float64 keep their type; all others become float32.
    new_shape : (z, y, x)
        Voxels of the whole output.
    order : {0, 1, 2, 3}
        Spline degree; 0 copies the nearest voxel.
    separate_axis : {None, 0, 1, 2}
        Resample each slice along this axis in its plane, then across slices with `order_separate`.
    anti_alias : bool
        Smooth shrinking axes first with scikit-image's Gaussian, sigma ``(factor - 1) / 2``.
    clip : bool, or (low, high)
        True clips to the range of the whole array, per channel, and per slice along `separate_axis`. A pair
        holds numbers, or arrays of shape (c,) or, with a separate axis, (c, slices of the input). Omit c for
        a volume without channels.
    box : Box or ((z0, z1), (y0, y1), (x0, x1)), optional
        Part of the output to compute; only the input that it needs is resampled.

    Returns
    -------
    array
        With the shape of the box and the channels of `array`, from the same array library.

    Raises
    ------
    ValueError
        If a shape, an order, an axis or the box is invalid.
    ValueRuleError
        If the value range is needed and a voxel is not finite.
    """
    volumes = as_volumes(array)
    itemsize = float_type(volumes.dtype).itemsize
    shapes = volumes.shape[1:], tuple(new_shape)
    rule = Rule(*shapes, order, separate_axis, order_separate, anti_alias, itemsize)
    write = as_box(box, rule.shape_out)
    ranges = None if isinstance(clip, tuple) else value_ranges(volumes, separate_axis)
    if clip is True:
        clip = ranges
    elif isinstance(clip, tuple) and array.ndim == 3:
        clip = (_with_channel(clip[0]), _with_channel(clip[1]))
    read = rule.read_box(write)
    out = get_array_module(array).empty((len(volumes), *write.shape), float_type(volumes.dtype))
    middle = None if ranges is None else _middle(*ranges)
    _resample_channels(volumes[(slice(None), *read.slices)], rule, write, clip, middle, out)
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
    """Compute one output box of `resample` in a task that holds only its read box.

    Parameters
    ----------
    block : (z, y, x) or (c, z, y, x)
        The input voxels of `read`.
    read, write : Box
        Input box (at least that of `read_box`) and output box, in voxels of the whole input and output.
    shape_in, shape_out : (z, y, x)
        Voxels of the whole input and output.
    order, separate_axis, order_separate, anti_alias
        As for `resample`.
    clip : (low, high) or None
        Range of the whole input: numbers or arrays that broadcast to (c,) or, with a separate axis, to
        (c, shape_in[separate_axis]), indexed by the slice of the whole input. It is never computed here.
    middle : number or (c,), optional
        Subtracted before and added after, for precision: by default the middle of the clip range, or 0
        without one. It must be the same for all blocks of a volume, or they differ in their last bits.
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
    volumes = as_volumes(block)
    dtype = float_type(volumes.dtype)
    shapes = tuple(shape_in), tuple(shape_out)
    rule = Rule(*shapes, order, separate_axis, order_separate, anti_alias, dtype.itemsize)
    need = rule.read_box(write)
    check_block(volumes.shape[1:], read, need, write)
    target = as_target(out, (*block.shape[:-3], *write.shape), dtype, get_array_module(block))
    inside = volumes[(slice(None), *need.shift([-start for start in read.start]).slices)]
    _resample_channels(inside, rule, write, clip, middle, as_volumes(target))
    return target


def workspace_bytes(rule: Rule, read: Box, write: Box) -> int:
    """Return the most bytes that `resample_block` allocates besides its block and its output.

    The block must not exceed its read box. The terms, for one channel at a time: the volume between the two
    sweeps, for a slab of 32 MiB or of 64 output voxels if that is more, unless the first axis is copied; the
    buffers of one plane; one window of a strip of columns; a copy of a small output; copies of block and
    output if x is the separate axis, because their rows are then not contiguous. If every axis is copied, the
    bound is the memory of `gather`.
    """
    front = rule.separate_axis or 0
    axes = [front, *(k for k in range(3) if k != front)]
    (z, y, x), (zo, yo, xo) = ([box.shape[k] for k in axes] for box in (read, write))
    turned = z * y * x + zo * yo * xo
    if all(rule.is_copy(k) for k in range(3)):
        voxels = gather_voxels((z, y, x), (zo, yo, xo)) + (turned if front else 0)
        return rule.itemsize * voxels + (1 << 16)
    slab = min(max(z * yo * xo, zo * y * x), max(SLAB, GRID * max(z * xo, y * x)))
    columns = 0 if rule.is_copy(front) else slab + 1024 * z
    planes = 5 * max(y, yo) * max(x, xo) + 64 * (zo + yo + xo)
    copy = zo * yo * xo if zo * yo * xo <= SHORT else 0
    return rule.itemsize * (columns + planes + copy + (turned if front == 2 else 0)) + (1 << 16)


def gather_voxels(read: Sequence[int], write: Sequence[int]) -> int:
    """Return the most voxels that `gather` holds besides its volume and its output."""
    shape, sizes = list(read), []
    for axis in _gather_order(read, write)[:2]:
        shape[axis] = write[axis]
        sizes.append(math.prod(shape))
    return sum(sizes)


def as_volumes(array: Array) -> Array:
    """Return the array as (c, z, y, x)."""
    if array.ndim not in (3, 4) or array.size == 0:
        raise ValueError(f"the array has shape {array.shape}; (z, y, x) or (c, z, y, x) is needed, not empty")
    return array[None] if array.ndim == 3 else array


def as_box(box: Box | Bounds | None, shape: Sequence[int]) -> Box:
    """Return `box` as a `Box`, or the whole output if it is None."""
    if box is None:
        return Box.whole(shape)
    if not isinstance(box, Box):
        if len(box) != 3 or any(len(bounds) != 2 for bounds in box):
            raise ValueError(f"box is {box}; ((z0, z1), (y0, y1), (x0, x1)) is needed")
        box = Box.from_bounds(box)
    if len(box.start) != 3:
        raise ValueError(f"box {box.bounds} has {len(box.start)} axes; z, y and x are needed")
    return box


def as_target(out: Array | None, shape: tuple[int, ...], dtype: np.dtype[Any], module: Any) -> Array:
    """Return `out` after checking its shape and type, or a new array if it is None."""
    if out is None:
        return module.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out is {out.dtype} {out.shape}; {dtype} {shape} is needed")
    return out


def check_block(shape: tuple[int, ...], read: Box, need: Box, write: Box) -> None:
    """Refuse a block that is not its read box, or a read box that is too small."""
    if shape != read.shape or need.intersect(read) != need:
        raise ValueError(
            f"a block of shape {shape} with read box {read.bounds} was given; "
            f"write box {write.bounds} needs {need.bounds}"
        )


def float_type(dtype: Any) -> np.dtype[Any]:
    """Return float64 for float64, and float32 for all other types."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def value_ranges(volumes: Array, separate_axis: int | None = None) -> tuple[Any, Any]:
    """Return the smallest and largest voxel per channel (c,), or per channel and slice (c, slices).

    Raises
    ------
    ValueRuleError
        If a voxel is not finite.
    """
    if separate_axis in (None, 0):  # plane by plane: one pass over memory for both
        pairs = [(plane.min(), plane.max()) for volume in volumes for plane in volume]
        stack, shape = get_array_module(volumes).stack, volumes.shape[:2]
        low, high = (asnumpy(stack(list(side))).reshape(shape) for side in zip(*pairs, strict=True))
        if separate_axis is None:
            low, high = low.min(1), high.max(1)
    else:
        axes = (1, 4 - separate_axis)
        low, high = asnumpy(volumes.min(axes)), asnumpy(volumes.max(axes))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueRuleError("the array holds voxels that are NaN or infinite; finite ones are needed")
    return low, high


def _resample_channels(volumes: Array, rule: Rule, write: Box, clip: Clip, middle: Any, out: Array) -> None:
    """Resample the channels one after another, with a separate axis moved to the front."""
    axis = rule.separate_axis
    low, high = _limits(clip, len(volumes), None if axis is None else rule.shape_in[axis])
    centres = np.broadcast_to(_middle(low, high) if middle is None else middle, len(volumes))
    arguments, begin = rule.axes(write), list(rule.read_box(write).start)
    if axis is not None:
        low, high = (limit[:, begin[axis] : begin[axis] + volumes.shape[1 + axis]] for limit in (low, high))
        volumes, out = (_front(array, axis) for array in (volumes, out))
        begin, arguments = ([items.pop(axis), *items] for items in (begin, arguments))
    for c in range(len(volumes)):
        limits = low[c].astype(out.dtype), high[c].astype(out.dtype)
        _resample_volume(volumes[c], begin, arguments, axis is not None, limits, centres[c], out[c])


def _front(array: Array, axis: int) -> Array:
    """Return (c, z, y, x) with one of z, y, x moved before the other two."""
    return get_array_module(array).moveaxis(array, 1 + axis, 1)


def _resample_volume(
    volume: Array,
    begin: list[int],
    arguments: list[Any],
    separate: bool,
    limits: tuple[Any, Any],
    middle: float,
    out: Array,
) -> None:
    """Resample one channel: by a gather if every axis copies voxels, else by a sweep."""
    volume, steps = volume.astype(out.dtype, copy=False), [step(*axis) for axis in arguments]
    if all(axis.is_copy for axis in steps):
        gather(volume, [axis.first - start for axis, start in zip(steps, begin, strict=True)], out)
        if separate:
            limits = tuple(limit[steps[0].first - begin[0], None, None] for limit in limits)
        module = get_array_module(out)
        module.clip(out, *(module.asarray(limit) for limit in limits), out=out)
        return
    factors = [n_out / n_in for n_in, n_out, *_ in arguments]
    rows, sweep = _engine(get_array_module(volume))
    ways = [rows(*axis) for axis in arguments]
    sweep(volume, begin, ways, factors, separate, limits, middle, out)


def gather(volume: Array, index: list[Any], out: Array) -> None:
    """Copy the voxel at ``index[axis][o]`` of each axis; x, the slowest to gather, when rows are fewest."""
    module = get_array_module(volume)
    quick = {"mode": "clip"} if module is np else {}  # NumPy's default mode would buffer `out`
    *first, last = _gather_order(volume.shape, [len(where) for where in index])
    for axis in first:
        volume = module.take(volume, module.asarray(index[axis]), axis, **quick)
    module.take(volume, module.asarray(index[last]), last, out=out, **quick)


def _gather_order(read: Sequence[int], write: Sequence[int]) -> list[int]:
    """Return the axes in the order of `gather`: those that shrink, then x, then those that grow."""
    return sorted(range(3), key=lambda k: 1 if k == 2 else 0 if write[k] < read[k] else 2)


def _engine(module: Any) -> tuple[Any, Any]:
    """Return the maker of an axis' rows and the sweep that applies them; compiled for NumPy arrays only."""
    if module is np:
        from voxelmill.kernels.resampling import _images_cpu

        return step, _images_cpu.sweep
    from voxelmill.kernels.resampling import _images_gpu

    return band, _images_gpu.sweep


def _limits(clip: Clip, channels: int, slices: int | None) -> tuple[Any, Any]:
    """Return the clip range as two float64 arrays (c,) or (c, slices); infinite if nothing is clipped."""
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
        found = [a.shape for a in arrays]
        raise ValueError(f"clip has shapes {found}; {shape} or numbers are needed") from None


def _middle(low: Any, high: Any) -> Any:
    """Return the middle of each channel's range (c,); 0 if the range is infinite."""
    low, high = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (low, high))
    middle = (low.min(1) + high.max(1)) / 2
    return np.where(np.isfinite(middle), middle, 0)


def _with_channel(limit: Any) -> Any:
    """Add the channel axis to a clip limit of a volume without channels."""
    return np.asarray(limit)[None] if np.ndim(limit) else limit
