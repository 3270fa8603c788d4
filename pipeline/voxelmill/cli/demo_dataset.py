"""Small phantoms: seeded nnU-Net raw datasets for trying voxelmill without patient data.

In: a folder, a seed and a shape. Out: NIfTI images, labels and dataset.json in nnU-Net's layout. This module
does not use the pipeline.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import Shape, Triple

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Kind = Literal["ct", "mr"]

CHANNELS = {"ct": ["CT"], "mr": ["T1", "T2"]}
LABELS = {"ct": ["liver", "spleen", "kidney"], "mr": ["lesion", "core"]}
ORGAN_SIZES = {"ct": (0.16, 0.11, 0.07), "mr": (0.14, 0.08)}  # radii, as fractions of the volume
HOUNSFIELD = (60, 120, -80)
MR_LEVELS = ((300, 520, 700), (800, 450, 200))  # per channel: the head, then each label


@dataclass(frozen=True)
class Phantom:
    """One case: `channels` and `label` are (z, y, x) arrays; spacing and origin are z, y, x in mm."""

    channels: list[Array]
    label: npt.NDArray[np.uint8]
    spacing: Triple
    origin: Triple


def write_dataset(
    folder: Path, *, cases: int = 3, seed: int = 0, shape: Shape = (48, 96, 96), kind: Kind = "ct"
) -> Path:
    """Write a dataset of phantoms; the same arguments always write the same voxels.

    Parameters
    ----------
    folder : Path
        The dataset's folder, created if it does not exist.
    cases : int
        Number of cases.
    seed : int
    shape : (z, y, x)
        Mean shape in voxels; each length varies by up to 10 % between cases.
    kind : "ct" or "mr"
        "ct": one int16 channel in Hounsfield units, spacing 1.5-3 x 0.8-1.2 mm (between slices x in plane), a
        body and three organs. "mr": two float32 channels, spacing 5-7 x 0.5-0.8 mm, a head with exact zeros
        around it and in holes inside it, and two labels.

    Returns
    -------
    Path
        `folder`, which holds dataset.json, imagesTr and labelsTr.

    Raises
    ------
    ValueError
        If `kind` is neither "ct" nor "mr".
    """
    if kind not in CHANNELS:
        raise ValueError(f"kind is {kind!r}; 'ct' or 'mr' is needed")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        phantom = make_phantom(kind, shape, np.random.default_rng([seed, number]))
        _write_case(folder, f"{kind}_{number:03d}", phantom)
    description = {
        "channel_names": {str(i): name for i, name in enumerate(CHANNELS[kind])},
        "labels": {"background": 0} | {name: i for i, name in enumerate(LABELS[kind], start=1)},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
    return folder


def make_phantom(kind: Kind, shape: Shape, rng: np.random.Generator) -> Phantom:
    """Return one random case of about this shape (z, y, x)."""
    shape = _three(max(4, round(n * f)) for n, f in zip(shape, rng.uniform(0.9, 1.1, 3), strict=True))
    in_plane, between = ((0.8, 1.2), (1.5, 3.0)) if kind == "ct" else ((0.5, 0.8), (5.0, 7.0))
    xy = round(rng.uniform(*in_plane), 3)
    spacing = (round(rng.uniform(*between), 3), xy, xy)
    origin = _three(float(o) for o in rng.uniform(-200, 200, 3).round(2))
    body = _ellipsoid(shape, (0.5, 0.5, 0.5), (0.7, 0.4, 0.45) if kind == "ct" else (0.45, 0.38, 0.33))
    label = _label(shape, body, ORGAN_SIZES[kind], rng)
    channels = [_ct(body, label, rng)] if kind == "ct" else _mr(body, label, rng)
    return Phantom(channels, label, spacing, origin)


def _label(
    shape: Shape, body: Mask, sizes: Sequence[float], rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Return ellipsoids inside the body, labelled 1, 2, ... from the largest to the smallest."""
    label = np.zeros(shape, np.uint8)
    for i, size in enumerate(sizes, start=1):
        centre = 0.5 + rng.uniform(-0.15, 0.15, 3)
        label[_ellipsoid(shape, centre, size * rng.uniform(0.8, 1.2, 3)) & body] = i
    return label


def _ct(body: Mask, label: Array, rng: np.random.Generator) -> npt.NDArray[np.int16]:
    levels = np.array([20, *HOUNSFIELD], np.float32)
    image = np.where(body, levels[label] + 15 * _smooth(body.shape, rng), np.float32(-1000))
    image += 12 * rng.standard_normal(body.shape, dtype=np.float32)
    return image.round().clip(-1024, 3071).astype(np.int16)


def _mr(body: Mask, label: Array, rng: np.random.Generator) -> list[Array]:
    """Return two float32 channels: positive inside the head, zero outside it and in its holes."""
    inside = body & ~(_holes(body.shape, rng) & (label == 0))
    channels: list[Array] = []
    for levels in MR_LEVELS:
        image = np.array(levels, np.float32)[label] + 40 * _smooth(body.shape, rng)
        image += 15 * rng.standard_normal(body.shape, dtype=np.float32)
        channels.append(np.where(inside, np.maximum(image, 1), np.float32(0)))
    return channels


def _holes(shape: Sequence[int], rng: np.random.Generator) -> Mask:
    """Return six small ellipsoids near the middle, away from the surface of the head."""
    holes = np.zeros(shape, np.bool_)
    for _ in range(6):
        holes |= _ellipsoid(shape, 0.5 + rng.uniform(-0.12, 0.12, 3), (0.06, 0.03, 0.04))
    return holes


def _ellipsoid(shape: Sequence[int], centre: Sequence[float] | Array, radii: Sequence[float] | Array) -> Mask:
    """Return the mask of an ellipsoid; centre and radii are fractions of the shape."""
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    terms = [((g / n - c) / r) ** 2 for g, n, c, r in zip(grid, shape, centre, radii, strict=True)]
    inside: Mask = terms[0] + terms[1] + terms[2] <= 1
    return inside


def _smooth(shape: Sequence[int], rng: np.random.Generator, step: int = 8) -> Float32:
    """Return noise of unit size that varies over about `step` voxels: a coarse grid, interpolated."""
    field = rng.standard_normal([n // step + 2 for n in shape], dtype=np.float32)
    for axis, n in enumerate(shape):
        at = np.arange(n) / step
        low = at.astype(int)
        weight = (at - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        field = field.take(low, axis) * (1 - weight) + field.take(low + 1, axis) * weight
    return field


def _write_case(folder: Path, case: str, phantom: Phantom) -> None:
    for i, image in enumerate(phantom.channels):
        _write_image(folder / "imagesTr" / f"{case}_{i:04d}.nii.gz", image, phantom)
    _write_image(folder / "labelsTr" / f"{case}.nii.gz", phantom.label, phantom)


def _write_image(path: Path, array: Array, phantom: Phantom) -> None:
    import SimpleITK as sitk  # noqa: N813

    image: Any = sitk.GetImageFromArray(array)
    image.SetSpacing(phantom.spacing[::-1])
    image.SetOrigin(phantom.origin[::-1])
    sitk.WriteImage(image, str(path), True, 1)


def _three(values: Any) -> Any:
    z, y, x = values
    return z, y, x
