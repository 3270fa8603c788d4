"""A reference implementation of the whole pipeline, on whole volumes, in plain NumPy and SciPy.

It follows nnU-Net's rules in the simplest way, without regard to speed or memory. Tests compare the output of
voxelmill with it, array by array. The module does not import voxelmill. Arrays are (c, z, y, x) or (z, y, x);
spacings are z, y, x in mm; boxes are half-open [start, stop] pairs in voxels.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass
class ReferenceCase:
    """One case: rescaled channels (c, z, y, x) float32, label (z, y, x) or None, spacing z, y, x in mm."""

    image: np.ndarray
    label: np.ndarray | None
    spacing: tuple[float, float, float]


@dataclass
class ReferenceResult:
    """The expected training data of one case: float64 image (c, z, y, x), label, crop box, target spacing."""

    image: np.ndarray
    label: np.ndarray | None
    crop_box: list[list[int]]
    target: tuple[float, float, float]


def crop(image):
    """Return the hole-filled non-zero mask of an image, and its bounding box (the whole image if empty)."""
    mask = np.zeros(image.shape[1:], bool)
    for channel in image:
        mask |= channel != 0
    mask = ndimage.binary_fill_holes(mask)
    if not mask.any():
        mask_box = [[0, n] for n in mask.shape]
    else:
        where = np.argwhere(mask)
        mask_box = [[int(a), int(b) + 1] for a, b in zip(where.min(0), where.max(0), strict=True)]
    return mask, mask_box


def slices_of(box):
    """Return a box as a tuple of slices."""
    return tuple(slice(a, b) for a, b in box)


def target_spacing(spacings, shapes):
    """Return the target spacing of a dataset, as nnU-Net's `determine_fullres_target_spacing`.

    It is the median spacing. If one axis is anisotropic in spacing and in size, the 10th percentile is used
    along that axis, but never less than the largest spacing of the other axes.
    """
    spacings, shapes = np.array(spacings), np.array(shapes)
    target, size = np.percentile(spacings, 50, 0), np.percentile(shapes, 50, 0)
    worst = np.argmax(target)
    others = [i for i in range(3) if i != worst]
    if target[worst] > 3 * max(target[others]) and size[worst] * 3 < min(size[others]):
        value = np.percentile(spacings[:, worst], 10)
        if value < max(target[others]):
            value = max(max(target[others]), value) + 1e-5
        target[worst] = value
    return target


def new_shape(shape, spacing, target):
    """Return the resampled shape, as nnU-Net's `compute_new_shape`, but at least one voxel per axis."""
    return tuple(max(1, round(s / t * n)) for n, s, t in zip(shape, spacing, target, strict=True))


def case_target(spacing, target, configuration):
    """Return the target spacing of a case; in 2d the axis with the largest target is not resampled."""
    across = int(np.argmax(target)) if configuration == "2d" else None
    return tuple(spacing[i] if i == across else target[i] for i in range(3))


def separate_axis(current, target):
    """Return the axis to resample separately, or None, as nnU-Net's `determine_do_sep_z_and_axis`.

    It is the axis with the largest spacing, if that exceeds three times the smallest and is unique.
    The current spacing decides if it is that anisotropic, otherwise the target spacing does.
    """
    for spacing in (np.array(current), np.array(target)):
        if spacing.max() / spacing.min() > 3:
            axes = np.flatnonzero(spacing == spacing.max())
            return int(axes[0]) if len(axes) == 1 else None
    return None


def foreground_statistics(cases, channel, ignore_label=None):
    """Return mean, std, min, max and percentiles of one channel's foreground; each case has the same weight.

    The foreground is label > 0 without the ignore label, or the non-zero mask if no case has a label. Returns
    None if there is no foreground.
    """
    values, weights, means, variances = [], [], [], []
    has_label = any(case.label is not None for case in cases)
    for case in cases:
        if has_label:
            if case.label is None:
                continue
            inside = case.label > 0
            if ignore_label is not None:
                inside &= case.label != ignore_label
        else:
            inside = crop(case.image)[0]
        found = case.image[channel][inside].astype(np.float64)
        if found.size:
            values.append(found)
            weights.append(np.full(found.size, 1 / found.size))
            means.append(found.mean())
            variances.append(found.var())
    if not values:
        return None
    joined, weight = np.concatenate(values), np.concatenate(weights)
    low, median, high = (weighted_percentile(joined, weight, p) for p in (0.5, 50, 99.5))
    mean = np.mean(means)
    return {
        "mean": mean,
        "std": np.sqrt(np.mean(variances + (np.array(means) - mean) ** 2)),
        "min": joined.min(),
        "max": joined.max(),
        "percentile_00_5": low,
        "median": median,
        "percentile_99_5": high,
    }


def weighted_percentile(values, weights, p):
    """Return the smallest value whose cumulative weight reaches p percent, up to rounding of the sum."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return values[order][np.searchsorted(cumulated, p / 100 * cumulated[-1] * (1 - 1e-12))]


def normalise(channel, scheme, stats, mask):
    """Normalise one cropped channel, float64 in and out, by one of nnU-Net's schemes.

    Unknown schemes are z-scored, over `mask` only if it is given.
    """
    scheme = scheme.casefold()
    if scheme == "ct":
        clipped = np.clip(channel, stats["percentile_00_5"], stats["percentile_99_5"])
        return (clipped - stats["mean"]) / max(stats["std"], 1e-8)
    if scheme == "nonorm":
        return channel
    if scheme == "rescale_to_0_1":
        return (channel - channel.min()) / max(channel.max() - channel.min(), 1e-8)
    if scheme == "rgb_to_0_1":
        return channel / 255
    out = channel.copy()
    inside = np.ones(channel.shape, bool) if mask is None else mask
    out[inside] = (channel[inside] - channel[inside].mean()) / max(channel[inside].std(), 1e-8)
    return out


def zoom(array, shape, order):
    """Interpolate on the new grid by a spline of degree `order`, with edge values outside the volume."""
    factors = [m / n for n, m in zip(array.shape, shape, strict=True)]
    return ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)


def resize(array, shape, order, anti_alias=False):
    """Resize as `skimage.transform.resize(mode="edge")`, including the clip to the input's range."""
    filtered = array
    if anti_alias:
        sigma = [max(0, (n / m - 1) / 2) for n, m in zip(array.shape, shape, strict=True)]
        filtered = ndimage.gaussian_filter(array, sigma, mode="nearest")
    return np.clip(zoom(filtered, shape, order), array.min(), array.max())


def nearest_index(n_in, n_out):
    """Return, for each output voxel along an axis, the index of the nearest input voxel; ties go up."""
    centre = (n_in / n_out) * (np.arange(n_out) + 0.5) - 0.5
    return np.clip(np.floor(centre + 0.5), 0, n_in - 1).astype(int)


def by_slices(resize_one, array, shape, axis):
    """Resize each slice in its plane, then take the nearest slices along `axis`; in 3D if `axis` is None."""
    if axis is None:
        return array if array.shape == tuple(shape) else resize_one(array, shape)
    moved = np.moveaxis(array, axis, 0)
    plane = [n for i, n in enumerate(shape) if i != axis]
    same = moved.shape[1:] == tuple(plane)
    done = moved if same else np.stack([resize_one(s, plane) for s in moved])
    return np.moveaxis(done[nearest_index(len(moved), shape[axis])], 0, axis)


def resize_label(label, shape):
    """Return the argmax of linearly interpolated one-hot labels.

    A tie goes to the nearest voxel's label if that is tied, otherwise to the lowest label.
    """
    values = np.unique(label)
    scores = np.stack([np.clip(zoom((label == v).astype(float), shape, 1), 0, 1) for v in values])
    best = values[np.argmax(scores, 0)]
    nearest = nearest_label(label, shape)
    tied = np.take_along_axis(scores, np.searchsorted(values, nearest)[None], 0)[0] == scores.max(0)
    return np.where(tied, nearest, best)


def nearest_label(label, shape):
    """Return the label of the nearest voxel."""
    index = [nearest_index(n, m) for n, m in zip(label.shape, shape, strict=True)]
    return label[np.ix_(*index)]


def run(
    cases,
    schemes,
    *,
    labels="nearest",
    outside_label=0,
    order=3,
    ignore_label=None,
    target=None,
    configuration="fullres",
    separate="auto",
    anti_alias=False,
):
    """Run the whole pipeline on all cases.

    Parameters
    ----------
    cases : dict of ReferenceCase
    schemes : sequence of str
        Channel names, which choose the normalisation.
    labels : {"nearest", "linear"}
        Resampling of labels.
    outside_label : int
        Label of background voxels outside the non-zero mask.
    order : int
        Spline degree for images.
    ignore_label : int, optional
        Excluded from the statistics.
    target : (z, y, x), optional
        Target spacing in mm; by default computed from the cases.
    configuration : {"fullres", "2d"}
    separate : {"auto", ...}
        "auto" may resample one axis separately; any other value resamples in 3D.
    anti_alias : bool
        Smooth axes that are reduced.

    Returns
    -------
    results : dict of ReferenceResult
    statistics : list of dict
        One per channel, see `foreground_statistics`.
    """
    crops = {name: crop(case.image) for name, case in cases.items()}
    shapes = {name: [b - a for a, b in box] for name, (_, box) in crops.items()}
    if target is None:
        target = target_spacing([c.spacing for c in cases.values()], list(shapes.values()))
    relative = np.median([np.prod(shapes[n]) / np.prod(c.image.shape[1:]) for n, c in cases.items()])
    statistics = [foreground_statistics(list(cases.values()), c, ignore_label) for c in range(len(schemes))]
    results = {}
    for name, case in cases.items():
        mask, box = crops[name]
        inside, part = mask[slices_of(box)], slices_of(box)
        wanted = case_target(case.spacing, target, configuration)
        shape = new_shape(shapes[name], case.spacing, wanted)
        axis = separate_axis(case.spacing, wanted) if separate == "auto" else None
        channels = []
        for c, scheme in enumerate(schemes):
            known = scheme.casefold() in ("ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1")
            masked = relative < 0.75 and not known
            values = case.image[c][part].astype(np.float64)
            values = normalise(values, scheme, statistics[c], inside if masked else None)
            channels.append(by_slices(lambda a, s: resize(a, s, order, anti_alias), values, shape, axis))
        label = None
        if case.label is not None:
            label = case.label[part].astype(np.int64)
            if outside_label:
                label[(label == 0) & ~inside] = outside_label
            method = resize_label if labels == "linear" else nearest_label
            label = by_slices(method, label, shape, axis)
        results[name] = ReferenceResult(np.stack(channels), label, box, wanted)
    return results, statistics
