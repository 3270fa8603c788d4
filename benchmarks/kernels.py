"""Resampling, labels and hole filling on one core, compared with the functions that nnU-Net calls.

Each row holds the median over repeats of ``their CPU seconds / our CPU seconds``; the two are measured
alternately within one run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
from scipy import ndimage
from threadpoolctl import threadpool_limits

from voxelmill.basics.geometry import Box
from voxelmill.kernels.nonzero_mask import fill_holes
from voxelmill.kernels.resampling.images import resample
from voxelmill.kernels.resampling.labels import resample_labels

Row = dict[str, Any]
Call = Callable[[], Any]
GROW = ((96, 256, 256), (128, 320, 320))
SHRINK = ((160, 400, 400), (96, 256, 256))
SLICES = ((24, 512, 512), (24, 640, 640))


def run(options: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows, measured on one thread."""
    scale, repeats = (2, 1) if options.quick else (1, 3)
    rows = [*_images(scale), *_labels(scale), *_holes(scale)]
    if options.atlas:
        rows.append(_atlas(options.atlas))
    with threadpool_limits(1):
        for name, (voxels, ours, theirs) in rows:
            if options.only in name:
                yield compare(name, voxels, ours, theirs, 1 if "atlas" in name else repeats)
        if options.only in "order 3, lower bound":
            yield lower_bound(scale)


def compare(name: str, voxels: int, ours: Call, theirs: Call, repeats: int) -> Row:
    """Time both alternately; ours three times for each of theirs, because it is much shorter.

    Parameters
    ----------
    name : str
    voxels : int
        Voxels of the output, for the throughput.
    ours, theirs : callable
    repeats : int

    Returns
    -------
    dict
        `ratio` is theirs / ours; times are in milliseconds of CPU time.
    """
    ours()  # compiles
    pairs = [(median(seconds(ours) for _ in range(3)), seconds(theirs)) for _ in range(repeats)]
    return {
        "name": name,
        "ratio": median(b / a for a, b in pairs),
        "ours_ms": 1e3 * median(a for a, _ in pairs),
        "theirs_ms": 1e3 * median(b for _, b in pairs),
        "ours_mvoxel_s": voxels / 1e6 / median(a for a, _ in pairs),
        "repeats": repeats,
    }


def seconds(call: Call) -> float:
    """Return the CPU seconds of one call on one thread; other load on the machine is not counted."""
    start = time.process_time()
    call()
    return time.process_time() - start


Rows = Iterator[tuple[str, tuple[int, Call, Call]]]


def _images(scale: int) -> Rows:
    from skimage.transform import resize

    for word, shapes in (("grow", GROW), ("shrink", SHRINK)):
        source, target = (tuple(n // scale for n in shape) for shape in shapes)
        image = noise(source)

        def ours(image: Any = image, target: Any = target) -> Any:
            return resample(image, target)

        def theirs(image: Any = image, target: Any = target) -> Any:
            return resize(image.astype(float), target, 3, mode="edge", anti_aliasing=False)

        voxels = int(np.prod(target))
        yield f"order 3, {word}, scikit-image", (voxels, ours, theirs)
        yield f"order 3, {word}, SimpleITK", (voxels, ours, itk_bspline(image, target))
    source, target = (tuple(n // scale for n in shape) for shape in SLICES)
    slices = noise(source)
    yield (
        "separate axis, nnU-Net slice by slice",
        (
            int(np.prod(target)),
            lambda: resample(slices, target, separate_axis=0),
            lambda: [
                resize(s, target[1:], 3, mode="edge", anti_aliasing=False) for s in slices.astype(float)
            ],
        ),
    )
    yield "order 3 in boxes of 64, our whole", in_boxes(scale)


def in_boxes(scale: int) -> tuple[int, Call, Call]:
    """Compare resampling in boxes of 64 voxels a side with one call for the whole volume.

    A ratio below 1 is the overhead of the boxes.
    """
    source, target = (tuple(n // scale for n in shape) for shape in GROW)
    image, whole = noise(source), Box.whole(target)
    starts = np.ndindex(*[-(-n // 64) for n in target])
    boxes = [Box(tuple(64 * k for k in s), tuple(64 * k + 64 for k in s)).intersect(whole) for s in starts]

    def call(box: Box | None) -> Any:
        return resample(image, target, clip=(0.0, 1.0), box=box)

    return whole.size, lambda: [call(box) for box in boxes], lambda: call(None)


def itk_bspline(image: Any, target: Any) -> Call:
    """Return a call of SimpleITK's cubic B-spline resampling to the same grid, on one thread."""
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    volume = sitk.GetImageFromArray(image)
    spacing = [n / m for n, m in zip(image.shape[::-1], target[::-1], strict=True)]
    origin = [0.5 * s - 0.5 for s in spacing]
    size, identity = [int(n) for n in target[::-1]], sitk.Transform()
    direction = volume.GetDirection()
    return lambda: sitk.Resample(volume, size, identity, sitk.sitkBSpline, origin, spacing, direction, 0.0)


def _labels(scale: int) -> Rows:
    from batchgenerators.augmentations.utils import resize_segmentation

    source, target = (tuple(n // scale for n in shape) for shape in GROW)
    for word, labels in (("6 organs", organs(source)), ("6 blobs of noise", blobs(source))):
        yield f"labels linear, {word}, nnU-Net", linear(labels, target)
    labels = organs(source)
    yield (
        "labels nearest, nnU-Net",
        (
            int(np.prod(target)),
            lambda: resample_labels(labels, target),
            lambda: resize_segmentation(labels.astype(float), target, 0),
        ),
    )


def linear(labels: Any, target: Any) -> tuple[int, Call, Call]:
    """Compare our linear labels with batchgenerators' and assert that they are equal."""
    from batchgenerators.augmentations.utils import resize_segmentation

    expected: list[Any] = []

    def theirs() -> None:
        expected[:] = [resize_segmentation(labels.astype(float), target, 1)]
        np.testing.assert_array_equal(resample_labels(labels, target, method="linear"), expected[0])

    return int(np.prod(target)), lambda: resample_labels(labels, target, method="linear"), theirs


def _atlas(path: Any) -> tuple[str, tuple[int, Call, Call]]:
    import nibabel

    labels = np.ascontiguousarray(np.asarray(nibabel.load(path).dataobj).T.astype(np.int16))
    target = tuple(round(1.25 * n) for n in labels.shape)
    return f"labels linear, atlas of {len(np.unique(labels))} labels, nnU-Net", linear(labels, target)


def _holes(scale: int) -> Rows:
    shape = (256 // scale,) * 3
    rng = np.random.default_rng(0)
    tortuous = ndimage.gaussian_filter(rng.random(shape, np.float32), 2) > 0.5
    for word, mask in (("tortuous", tortuous), ("50 % noise", rng.random(shape) > 0.5)):

        def ours(mask: Any = mask) -> Any:
            return fill_holes(mask)

        def theirs(mask: Any = mask) -> Any:
            return ndimage.binary_fill_holes(mask)

        yield f"hole filling, {word}, SciPy", (mask.size, ours, theirs)


def lower_bound(scale: int) -> Row:
    """Compare order 3 with the time to read the input and write the output once, at the speed of a copy."""
    source, target = (tuple(n // scale for n in shape) for shape in GROW)
    image, big = noise(source), np.ones(64 << 20, np.float32)
    there = np.empty_like(big)
    copied = 2 * big.nbytes / min(seconds(lambda: np.copyto(there, big)) for _ in range(5))
    least = (image.nbytes + 4 * int(np.prod(target))) / copied
    taken = min(seconds(lambda: resample(image, target)) for _ in range(5))
    return {
        "name": "order 3, lower bound",
        "ratio": least / taken,
        "ours_ms": 1e3 * taken,
        "theirs_ms": 1e3 * least,
        "copy_gb_s": copied / 1e9,
    }


def noise(shape: Any) -> Any:
    """Return float32 noise in [0, 1) from a fixed seed."""
    return np.random.default_rng(0).random(shape, np.float32)


def organs(shape: Any) -> Any:
    """Return a uint8 label of six ellipsoids."""
    grid = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij", sparse=True)
    labels, rng = np.zeros(shape, np.uint8), np.random.default_rng(1)
    for organ in range(1, 7):
        centre, radius = rng.uniform(0.25, 0.75, 3), rng.uniform(0.08, 0.2, 3)
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) < 1
        labels[inside] = organ
    return labels


def blobs(shape: Any) -> Any:
    """Return a uint8 label of six values; each voxel takes the one with the largest smoothed noise."""
    rng = np.random.default_rng(2)
    fields = [ndimage.gaussian_filter(rng.random(shape, np.float32), 3.2) for _ in range(6)]
    return np.argmax(fields, 0).astype(np.uint8)
