"""Volumes brought onto another grid, against ITK's resampling."""

import tracemalloc

import numpy as np
import pytest
import readers_support
import SimpleITK as sitk  # noqa: N813

from voxelmill.basics.geometry import Geometry
from voxelmill.runtime.memory_budget import RAW_CHUNK, SlabCost
from voxelmill.stages.ingest import regridded_volume
from voxelmill.stages.ingest.regridded_volume import Regridded

COST = SlabCost(fixed=0, per_slice=0)


class Stored:
    """An array that is read box by box, and how much was asked for at a time."""

    def __init__(self, array):
        self.array, self.largest = array, 0

    def fill(self, box, out):
        self.largest = max(self.largest, box.size)
        out[...] = self.array[box.slices]


def image(rng, shape, spacing, kind, dtype="f4"):
    """A random image around the world's origin, z, y, x."""
    made = sitk.GetImageFromArray(
        (rng.uniform(0, 250, shape) if dtype == "u1" else rng.normal(size=shape) * 300).astype(dtype)
    )
    made.SetSpacing(spacing[::-1])
    made.SetDirection(readers_support.random_direction(rng, kind).ravel().tolist())
    centre = made.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in shape[::-1]])
    made.SetOrigin((rng.uniform(-1, 1, 3) - centre).tolist())
    return made


def regridded(source, target, is_label=False, outside=0):
    arrays = Stored(readers_support.channels_first(source))
    grids = (readers_support.itk_geometry(grid) for grid in (source, target))
    return arrays, Regridded(
        arrays, *grids, arrays.array.dtype, outside=[outside], is_label=is_label, staging=COST
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kinds", [("oblique", "oblique"), ("permuted", "left-handed")])
@pytest.mark.parametrize("tile_bytes", [4000, 2**24])
def test_linear_equals_itk(seed, kinds, tile_bytes, monkeypatch):
    """Rotated, anisotropic grids, in tiles of any size."""
    monkeypatch.setattr(regridded_volume, "TILE_BYTES", tile_bytes)
    rng = np.random.default_rng(seed)
    source = image(rng, (9, 33, 28), (4.0, 0.9, 1.1), kinds[0])
    target = image(rng, (31, 22, 19), (1.3, 2.0, 1.7), kinds[1])
    arrays, volume = regridded(source, target, outside=-77)
    expected = sitk.GetArrayFromImage(sitk.Resample(source, target, sitk.Transform(), sitk.sitkLinear, -77.0))
    assert 0.1 < (expected == -77).mean() < 0.95
    np.testing.assert_allclose(readers_support.assemble(volume, 5)[0], expected, rtol=1e-5, atol=1e-3)
    assert arrays.largest * 4 <= max(tile_bytes, 4 * 27)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", ["u1", "i8"])
def test_nearest_equals_itk(seed, dtype):
    rng = np.random.default_rng(seed)
    source = image(rng, (9, 33, 28), (4.0, 0.9, 1.1), "oblique")
    values = rng.integers(0, 200, (9, 33, 28)).astype(dtype)
    labels = sitk.GetImageFromArray(values)
    labels.CopyInformation(source)
    target = image(rng, (31, 22, 19), (1.3, 2.0, 1.7), "left-handed")
    _, volume = regridded(labels, target, is_label=True)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(labels, target, sitk.Transform(), sitk.sitkNearestNeighbor)
    )
    np.testing.assert_array_equal(readers_support.assemble(volume, 4)[0], expected)
    assert volume.share_outside() == pytest.approx(1 - _inside(labels, target), abs=1e-9)


def _inside(source, target):
    ones = sitk.Image(source.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(source)
    moved = sitk.Resample(ones, target, sitk.Transform(), sitk.sitkNearestNeighbor)
    return sitk.GetArrayFromImage(moved).mean()


@pytest.mark.parametrize("dtype", ["f4", "i2", "u1"])
def test_any_cut_has_the_same_bits(dtype, monkeypatch):
    rng = np.random.default_rng(5)
    source = image(rng, (9, 33, 28), (4.0, 0.9, 1.1), "oblique", "f4")
    source = sitk.Cast(source, {"f4": sitk.sitkFloat32, "i2": sitk.sitkInt16, "u1": sitk.sitkUInt8}[dtype])
    target = image(rng, (21, 22, 19), (1.3, 2.0, 1.7), "oblique")
    whole = readers_support.assemble(regridded(source, target)[1], 21)
    monkeypatch.setattr(regridded_volume, "TILE_BYTES", 2000)
    for depth in (1, 2, 7, 16, 21):
        cut = readers_support.assemble(regridded(source, target)[1], depth)
        np.testing.assert_array_equal(cut, whole)


def test_integers_are_rounded_and_large_ones_of_labels_kept():
    values = np.array([[[2**53 + 1, 2**60 + 3]]])
    grid = Geometry((1, 1, 2))
    between = Geometry((1, 1, 3), (1.0, 1.0, 0.5))
    label = Regridded(Stored(values[None]), grid, between, "i8", outside=[0], is_label=True, staging=COST)
    assert readers_support.assemble(label, 1).ravel().tolist() == [2**53 + 1, 2**60 + 3, 2**60 + 3]
    small = np.array([[[[1, 4]]]], "u1")
    image_ = Regridded(Stored(small), grid, between, "u1", outside=[0], is_label=False, staging=COST)
    assert readers_support.assemble(image_, 1).ravel().tolist() == [1, 2, 4]  # 2.5 to even


def test_up_to_half_a_voxel_beyond_a_face_is_its_edge():
    values = np.array([[[[10.0, 20.0]]]])
    target = Geometry((1, 1, 8), (1.0, 1.0, 0.5), (0.0, 0.0, -1.0))
    made = Regridded(
        Stored(values), Geometry((1, 1, 2)), target, "f8", outside=[-1], is_label=False, staging=COST
    )
    found = readers_support.assemble(made, 1).ravel()
    assert found.tolist() == [-1, 10, 10, 15, 20, -1, -1, -1]


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (5.0, 5.0, 5.0), (0.3, 9.0, 1.0)])
def test_memory_of_a_tile_is_what_it_says(spacing):
    """A plane that lies oblique in a volume of fine voxels would need nearly all of it."""
    rng = np.random.default_rng(1)
    source = image(rng, (120, 130, 110), (0.4, 0.4, 0.4), "oblique")
    target = image(rng, (20, 40, 30), spacing, "oblique")
    arrays, volume = regridded(source, target)
    for _ in volume.slabs(8):
        pass
    assert 0 < 4 * arrays.largest <= volume.extra_bytes
    assert 4 * arrays.largest <= regridded_volume.TILE_BYTES


@pytest.mark.parametrize(("dtype", "is_label"), [("u1", True), ("u1", False), ("f4", False), ("f8", False)])
def test_measured_memory_is_what_it_says(dtype, is_label):
    """Beside the slab: no more than `extra_bytes`, in which there is room for chunks that are decoded."""
    rng = np.random.default_rng(2)
    source = image(rng, (60, 200, 190), (0.8, 0.4, 0.4), "oblique", dtype)
    target = image(rng, (40, 150, 140), (0.9, 0.5, 0.5), "oblique")
    _, volume = regridded(source, target, is_label)
    chunks = 2 * RAW_CHUNK * volume.dtype.itemsize
    tracemalloc.start()
    for _ in volume.slabs(8):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 8 * volume.slice_bytes + volume.extra_bytes - chunks + 2**16
