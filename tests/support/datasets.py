"""Small datasets for whole runs: files in many formats, and the same voxels as input of the reference.

Each function writes files and returns a `Dataset`; its `cases` hold the same voxels as arrays. Grids are in
SimpleITK's order (x, y, z). The module does not use voxelmill.
"""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import reference
import SimpleITK as sitk  # noqa: N813
from nibabel.nifti1 import Nifti1Header
from readers_support import random_direction
from scipy import ndimage


@dataclass(frozen=True)
class Grid:
    """Spacing and origin x, y, z in mm, and the direction, 3x3 row by row, as in ITK."""

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def random(cls, rng, spacing, kind="oblique"):
        """Return a random grid; `spacing` is z, y, x here, and rounded to float32 as NIfTI stores it."""
        spacing = tuple(float(np.float32(s)) for s in reversed(spacing))
        direction = random_direction(rng, kind).ravel()
        return cls(spacing, tuple(rng.uniform(-200, 200, 3).round(2).tolist()), tuple(direction.tolist()))

    def apply(self, image):
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def ras_affine(self):
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(self.direction, (3, 3)) * self.spacing
        matrix[:3, 3] = self.origin
        return np.diag([-1, -1, 1, 1]) @ matrix


@dataclass
class Dataset:
    """A source, and its contents as arrays."""

    source: Path
    channels: tuple[str, ...]
    cases: dict[str, reference.ReferenceCase] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)

    def expected(self, **options):
        return reference.run(self.cases, self.channels, **options)


def blobs(rng, shape, low, high, border=2, holes=True):
    """Return smooth values between two bounds, with exact zeros in a border and in a hole."""
    field_ = ndimage.gaussian_filter(rng.normal(size=shape), 1.5, mode="wrap")
    field_ += 0.02 * rng.normal(size=shape)
    field_ = (field_ - field_.min()) / np.ptp(field_)
    image = low + (high - low) * field_
    image[image == 0] = (low + high) / 3
    margin = [min(border + 1, (n - 1) // 2) if border else 0 for n in shape]
    inside = np.zeros(shape, bool)
    inside[tuple(slice(m, n - max(0, m - 1)) for m, n in zip(margin, shape, strict=True))] = True
    if holes and min(shape) > 6:
        centre = tuple(slice(n // 2 - 1, n // 2 + 2) for n in shape)
        inside[centre] = False
    return np.where(inside, image, 0)


def classes(rng, shape, count=3, dtype="u1"):
    """Return blobs of labels 0..count; half of the voxels are background."""
    field_ = ndimage.gaussian_filter(rng.normal(size=shape), 2, mode="wrap")
    edges = np.quantile(field_, np.linspace(0.5, 1, count + 1)[:-1])
    return np.digitize(field_, edges).astype(dtype)


def values_of(stored, slope=1.0, intercept=0.0):
    """Return the rescaled values of stored voxels, as float32."""
    if (slope, intercept) == (1.0, 0.0):
        return np.asarray(stored).astype(np.float32)
    return (np.asarray(stored).astype(np.float64) * slope + intercept).astype(np.float32)


def write_nifti(path, stored, grid, slope=1.0, intercept=0.0, byte_order="<"):
    """Write a NIfTI file by hand, to control slope, intercept and byte order; `stored` is z, y, x."""
    header = Nifti1Header(endianness=byte_order)
    header.set_data_dtype(stored.dtype.newbyteorder(byte_order))
    header.set_data_shape(stored.shape[::-1])
    header.set_sform(grid.ras_affine(), 1)
    header["pixdim"][1:4] = grid.spacing
    header["xyzt_units"] = 2
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["vox_offset"] = 352
    data = stored.astype(stored.dtype.newbyteorder(byte_order)).tobytes()
    path.write_bytes(header.binaryblock + bytes(4) + data)


def write_image(path, stored, grid):
    """Write an image with SimpleITK, in the format of the path's ending."""
    sitk.WriteImage(grid.apply(sitk.GetImageFromArray(stored)), str(path), True)


def write(path, stored, grid, slope=1.0, intercept=0.0):
    """Write an image in the format of the path's ending; `.npy` keeps no grid, only `.nii` keeps a slope."""
    if path.name.endswith(".npy"):
        np.save(path, stored)
    elif path.name.endswith(".nii"):
        write_nifti(path, stored, grid, slope, intercept)
    else:
        write_image(path, stored, grid)


def manifest(folder, cases, channels=("T1",), grid="identity", endings=(), labels=True, seed=0, **options):
    """Write random cases and their manifest.

    Parameters
    ----------
    folder : Path
    cases : dict
        Name to (shape, spacing), both z, y, x.
    channels : sequence of str
    grid : "identity", or a kind of `random_direction`
    endings : sequence of str
        File name ending of each channel; ".nii" by default.
    labels : bool or collection of str
        Whether all cases have a label, or the names of those that have one.
    seed : int
    options
        `classes`, `label_dtype` and `label_ending` describe the labels; the rest goes to `stored_channel`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    count, label_dtype = options.pop("classes", 3), options.pop("label_dtype", "u1")
    label_ending = options.pop("label_ending", ".nii")
    made = Dataset(folder / "cases.csv", tuple(channels))
    endings = endings or (".nii",) * len(channels)
    rows = []
    for name, (shape, spacing) in cases.items():
        place = (
            Grid.random(rng, spacing, grid) if grid != "identity" else Grid.random(rng, spacing, "permuted")
        )
        if grid == "identity":
            place = Grid(place.spacing, place.origin)
        row, values = {"case": name}, []
        for i, (channel, ending) in enumerate(zip(channels, endings, strict=True)):
            stored, slope, intercept = stored_channel(rng, shape, i, **options)
            path = folder / f"{name}_{i}{ending}"
            write(path, stored, place, slope, intercept)
            row[channel] = path.name
            values.append(values_of(stored, slope, intercept))
        label = None
        if labels is True or (labels and name in labels):
            label = classes(rng, shape, count, label_dtype)
            write(folder / f"{name}_label{label_ending}", label, place)
            row["label"] = f"{name}_label{label_ending}"
        rows.append(row)
        spacing = tuple(reversed(place.spacing))
        made.cases[name] = reference.ReferenceCase(np.stack(values), label, spacing)
        made.grids[name] = place
    write_rows(made.source, rows)
    return made


def stored_channel(
    rng, shape, channel, dtype="i2", low=1, high=900, slope=1.0, intercept=0.0, border=2, holes=True, empty=()
):
    """Return one channel's stored voxels, slope and intercept; a tuple gives one value per channel.

    `low` and `high` bound the stored values. With a slope, zeros are stored as the number that rescales to 0,
    if there is one.
    """
    dtype, low, high, slope, intercept = (
        v[channel] if isinstance(v, tuple) else v for v in (dtype, low, high, slope, intercept)
    )
    slope, intercept = float(np.float32(slope)), float(np.float32(intercept))
    image = blobs(rng, shape, low, high, border, holes)
    if (slope, intercept) != (1.0, 0.0) and intercept % slope == 0:
        image = np.where(image == 0, -intercept / slope, image)
    if channel in empty:
        image[:] = 0
    dtype = np.dtype(dtype)
    stored = image.astype(dtype) if dtype.kind == "f" else image.round().astype(dtype)
    return stored, slope, intercept


def write_rows(path, rows):
    """Write the rows of a manifest, as JSON or CSV by the path's ending."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if path.suffix == ".json":
        path.write_text(json.dumps([{c: row.get(c) for c in columns} for row in rows]))
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def nnunet(folder, cases=("a", "b"), shape=(10, 14, 12), channels=("CT",), seed=0):
    """Write a small nnU-Net raw dataset; a case has 1,680 voxels by default."""
    rng = np.random.default_rng(seed)
    (folder / "imagesTr").mkdir(parents=True, exist_ok=True)
    (folder / "labelsTr").mkdir(exist_ok=True)
    made = Dataset(folder, tuple(channels))
    for name in cases:
        grid = Grid((0.5, 0.5, 1.5) if name != "b" else (0.75, 0.5, 1.25), (10.0, 20.0, -30.0))
        images = [blobs(rng, shape, -900, 900, border=0, holes=False).round().astype("i2") for _ in channels]
        for i, image in enumerate(images):
            write_image(folder / "imagesTr" / f"{name}_{i:04d}.nii.gz", image, grid)
        label = classes(rng, shape, 2)
        write_image(folder / "labelsTr" / f"{name}.nii.gz", label, grid)
        image = np.stack([values_of(i) for i in images])
        made.cases[name] = reference.ReferenceCase(image, label, grid.spacing[::-1])
        made.grids[name] = grid
    description = {
        "channel_names": {str(i): c for i, c in enumerate(channels)},
        "labels": {"background": 0, "one": 1, "two": 2},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return made


def stores(out):
    """Return the bytes of every file in OUT that two equal runs share: all but logs and the report."""
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.parts[len(out.parts)] != "logs")
    return {str(p.relative_to(out)): p.read_bytes() for p in files if p.name != "report.json"}


def times(out):
    """Return the modification time of every file in the stores, by its path relative to OUT."""
    files = (p for store in ("raw.zarr", "training.zarr") for p in sorted((out / store).rglob("*")))
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in files if p.is_file()}


def of_cases(found, cases):
    """Return the entries that belong to some cases; the keys are paths relative to OUT."""
    starts = tuple(f"{folder}/{case}/" for folder in ("raw.zarr", "training.zarr/fullres") for case in cases)
    return {path: value for path, value in found.items() if path.startswith(starts)}
