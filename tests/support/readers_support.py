"""Helpers for the tests of the readers: random grids, and files as other programs write them."""

import copy
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import zarr
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from voxelmill.basics.geometry import Box, Geometry
from voxelmill.basics.volume import Volume
from voxelmill.inputs.readers.formats import open_volume

DATA = Path(__file__).parents[3] / "shared" / "data"


def random_direction(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Return a 3x3 direction matrix in ITK's order (x, y, z).

    `kind` is "permuted" (axis-aligned, either handedness), "left-handed", or anything else for a right-handed
    oblique rotation.
    """
    if kind == "permuted":
        return np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    matrix = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    sign = -1 if kind == "left-handed" else 1
    return matrix * [1, 1, sign * np.sign(np.linalg.det(matrix))]


def random_image(rng: np.random.Generator, kind: str, dtype: str = "i2", components: int = 1) -> sitk.Image:
    shape = (7, 6, 5) if components == 1 else (7, 6, 5, components)
    array = (rng.normal(size=shape) * 50 + 100).astype(dtype)
    image = sitk.GetImageFromArray(array, isVector=components > 1)
    image.SetSpacing(rng.uniform(0.3, 4, 3).round(3).tolist())
    image.SetOrigin(rng.uniform(-200, 200, 3).round(3).tolist())
    image.SetDirection(random_direction(rng, kind).ravel().tolist())
    return image


def itk_geometry(image: sitk.Image) -> Geometry:
    return Geometry.from_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def assert_same_grid(found: Geometry, expected: Geometry, tolerance: float = 1e-4) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.spacing, expected.spacing, rtol=1e-6)
    np.testing.assert_allclose(found.direction, expected.direction, atol=1e-5)
    assert found.displacement(expected) < tolerance


def assemble(volume: Volume, depth: int) -> np.ndarray:
    """Return all stored values (c, z, y, x) from slabs, and assert that each voxel comes exactly once."""
    out = np.zeros((volume.channels, *volume.geometry.shape), volume.dtype)
    seen = np.zeros(out.shape, int)
    for slab in volume.slabs(depth):
        assert slab.data.dtype == volume.dtype
        assert slab.data.dtype.isnative
        assert 0 < slab.data.shape[1] <= depth
        at = (
            slice(slab.channel, slab.channel + slab.data.shape[0]),
            slice(slab.z, slab.z + slab.data.shape[1]),
        )
        out[at] = slab.data
        seen[at] += 1
    assert (seen == 1).all()
    return out


def assert_holds(volume: Volume, expected: np.ndarray) -> None:
    """Assert that slabs of several depths and a box equal the expected (c, z, y, x) array."""
    for depth in (1, 3, 100):
        np.testing.assert_array_equal(assemble(volume, depth), expected)
    z, y, x = volume.geometry.shape
    box = Box((z // 3, y // 2, 1), (z, y, x - 1))
    np.testing.assert_array_equal(volume.read(box), expected[:, *box.slices])
    assert volume.read(box).dtype == volume.dtype


def peak_bytes(volume: Volume) -> int:
    """Return the peak of traced memory, in bytes, while a volume is read slice by slice."""
    list(volume.slabs(1))  # libraries load code on first use; this must not count
    tracemalloc.start()
    for _ in volume.slabs(1):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def channels_first(image: sitk.Image) -> np.ndarray:
    array = sitk.GetArrayFromImage(image)
    return array[None] if array.ndim == 3 else np.moveaxis(array, -1, 0)


def series(
    voxels: np.ndarray, direction: np.ndarray | None = None, step: float = 2.5, **tags: object
) -> Iterator[FileDataset]:
    """Yield the slices of a CT series.

    Parameters
    ----------
    voxels : ndarray
        Stored values (z, y, x).
    direction : ndarray, optional
        ITK's 3x3 matrix, right-handed; identity by default.
    step : float
        Distance between slices in mm; pixels are 0.7 x 0.6 mm.
    tags
        Set on every slice, over the defaults.
    """
    direction = np.eye(3) if direction is None else direction
    uid = generate_uid()
    for z, pixels in enumerate(voxels):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        piece = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        piece.SOPClassUID, piece.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        piece.PatientName = "Secret^Name"
        piece.Modality, piece.SeriesInstanceUID, piece.SeriesNumber = "CT", uid, 1
        piece.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        piece.InstanceNumber = len(voxels) - z
        origin = np.array([-10.0, 20.0, -30.0]) + direction[:, 2] * step * z
        piece.ImagePositionPatient = [f"{v:.8f}"[:16] for v in origin]
        piece.ImageOrientationPatient = [f"{v:.12f}"[:16] for v in direction[:, :2].T.ravel()]
        piece.PixelSpacing = [0.7, 0.6]
        piece.Rows, piece.Columns = pixels.shape
        piece.SamplesPerPixel, piece.PhotometricInterpretation = 1, "MONOCHROME2"
        piece.BitsAllocated = 8 * pixels.dtype.itemsize
        piece.BitsStored, piece.HighBit = piece.BitsAllocated, piece.BitsAllocated - 1
        piece.PixelRepresentation = int(pixels.dtype.kind == "i")
        piece.RescaleSlope, piece.RescaleIntercept = 1, -1024
        piece.PixelData = pixels.tobytes()
        for name, value in tags.items():
            setattr(piece, name, value)
        yield piece


def save_series(folder: Path, pieces: list[FileDataset], names: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for n, piece in enumerate(pieces):
        name = names[n] if names else f"IM{len(list(folder.iterdir())):04d}"
        pydicom.dcmwrite(folder / name, piece)
    return folder


def enhanced(pieces: list[FileDataset], **tags: object) -> FileDataset:
    """Return one multi-frame file made of the slices of a series, in order; `tags` apply to the file."""
    whole = copy.deepcopy(pieces[0])
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(whole, name)
    del whole.RescaleIntercept
    whole.NumberOfFrames = len(pieces)
    whole.PixelData = b"".join(piece.PixelData for piece in pieces)
    whole.PixelData += b"\0" * (len(whole.PixelData) % 2)
    whole.SharedFunctionalGroupsSequence = [_macros(pieces[0], SHARED_MACROS)]
    whole.PerFrameFunctionalGroupsSequence = [_macros(piece, FRAME_MACROS) for piece in pieces]
    for name, value in tags.items():
        setattr(whole, name, value)
    return whole


SHARED_MACROS = {
    "PlaneOrientationSequence": ["ImageOrientationPatient"],
    "PixelMeasuresSequence": ["PixelSpacing"],
    "PixelValueTransformationSequence": ["RescaleSlope", "RescaleIntercept"],
}
FRAME_MACROS = {"PlanePositionSequence": ["ImagePositionPatient"]}


def _macros(piece: FileDataset, macros: dict[str, list[str]]) -> Dataset:
    groups = Dataset()
    for sequence, names in macros.items():
        item = Dataset()
        for name in names:
            setattr(item, name, getattr(piece, name))
        setattr(groups, sequence, [item])
    return groups


def refuse(folder: Path, error: type[Exception], message: str, **options: object) -> str:
    """Assert that a DICOM folder is refused with a message that names neither files nor the patient."""
    with pytest.raises(error, match=message) as caught:
        assemble(open_volume(folder, **options), 2)
    assert "Secret" not in str(caught.value)
    assert "IM0" not in str(caught.value)
    return str(caught.value)


def save_ome_zarr(path: Path, array: np.ndarray, spacing: tuple = (1, 1, 1), chunk: tuple = (32, 256, 256)):
    """Write an OME-Zarr 0.5 image with one level and axes z, y, x in millimetres."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    chunks = tuple(min(c, n) for c, n in zip(chunk, array.shape, strict=True))
    group.create_array("0", shape=array.shape, chunks=chunks, dtype=array.dtype)[:] = array
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": list(spacing)}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}


def training_files(out):
    """Return the bytes of every file in the training store, without the token: it depends on the source."""
    files = (p for p in sorted((out / "training.zarr").rglob("*")) if p.is_file())
    token = re.compile(rb'"(?:settings": "[0-9a-f]{16}|voxelmill_crc32c": "[0-9a-f]{8})"')
    return {str(p.relative_to(out)): token.sub(b"", p.read_bytes()) for p in files}
