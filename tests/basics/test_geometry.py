"""Where voxels lie, against ITK; boxes against plain indexing."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from readers_support import random_direction
from strategies import SEEDS, boxes, shapes

from voxelmill.basics.errors import GeometryError, SpacingError
from voxelmill.basics.geometry import Box, Geometry

KINDS = st.sampled_from(["oblique", "left-handed", "permuted"])
QUICK = settings(max_examples=60, derandomize=True)


def image_at_random(seed, kind, shape=(4, 5, 6)):
    rng = np.random.default_rng(seed)
    image = sitk.Image([int(n) for n in reversed(shape)], sitk.sitkUInt8)
    image.SetSpacing(rng.uniform(0.2, 5, 3).tolist())
    image.SetOrigin(rng.uniform(-300, 300, 3).tolist())
    image.SetDirection(random_direction(rng, kind).ravel().tolist())
    return image, rng


def geometry_of(image):
    return Geometry.from_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def itk_world(image, index):
    """World position (z, y, x) of an index (z, y, x), as ITK computes it."""
    return np.array(image.TransformContinuousIndexToPhysicalPoint([float(i) for i in reversed(index)])[::-1])


def assert_places(geometry, image, indices):
    for index in indices:
        np.testing.assert_allclose(geometry.world(index), itk_world(image, index), atol=1e-9)


@QUICK
@given(SEEDS, KINDS)
def test_world_equals_itk(seed, kind):
    image, rng = image_at_random(seed, kind)
    geometry = geometry_of(image)
    assert geometry.shape == image.GetSize()[::-1]
    assert geometry.spacing == image.GetSpacing()[::-1]
    assert geometry.origin == image.GetOrigin()[::-1]
    indices = rng.uniform(-3, 9, (5, 3))
    assert_places(geometry, image, indices)
    np.testing.assert_allclose(geometry.world(indices), [geometry.world(i) for i in indices], atol=1e-9)


@QUICK
@given(SEEDS, KINDS)
def test_ras_affine_equals_itk(seed, kind):
    """A NIfTI affine is ITK's matrix with the first two world axes turned round."""
    image, rng = image_at_random(seed, kind)
    columns = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, image.GetOrigin()
    affine[:2] *= -1
    geometry = Geometry.from_ras_affine(image.GetSize(), affine)
    assert_places(geometry, image, rng.uniform(-3, 9, (5, 3)))
    np.testing.assert_allclose(geometry.spacing, image.GetSpacing()[::-1], rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(geometry.direction, axis=0), 1, rtol=1e-12)


@QUICK
@given(SEEDS, KINDS, st.data())
def test_crop_equals_itk(seed, kind, data):
    image, rng = image_at_random(seed, kind)
    box = data.draw(boxes((4, 5, 6)))
    cropped = sitk.RegionOfInterest(image, box.shape[::-1], box.start[::-1])
    geometry = geometry_of(image).crop(box)
    assert geometry.shape == box.shape
    assert_places(geometry, cropped, rng.uniform(-3, 9, (5, 3)))


@QUICK
@given(SEEDS, KINDS, shapes(9), shapes(9))
def test_resample_keeps_the_faces(seed, kind, before, after):
    image, _ = image_at_random(seed, kind, before)
    source = geometry_of(image)
    made = source.resample(after)
    assert made.shape == after
    assert made.direction == source.direction
    for corner in np.ndindex(2, 2, 2):
        face = np.array(corner)
        old = source.world(face * before - 0.5)
        np.testing.assert_allclose(made.world(face * after - 0.5), old, atol=1e-8)
        np.testing.assert_allclose(old, itk_world(image, face * before - 0.5), atol=1e-8)
    np.testing.assert_allclose(np.array(made.spacing) * after, np.array(source.spacing) * before, rtol=1e-12)


@QUICK
@given(SEEDS, KINDS)
def test_resampling_to_the_same_shape_changes_nothing(seed, kind):
    geometry = geometry_of(image_at_random(seed, kind)[0])
    assert geometry.resample(geometry.shape) == geometry


@QUICK
@given(SEEDS, KINDS)
def test_displacement_is_the_farthest_corner_in_voxels(seed, kind):
    image, rng = image_at_random(seed, kind)
    other, _ = image_at_random(seed + 1, kind)
    a, b = geometry_of(image), geometry_of(other)
    corners = [
        [i * (n - 1) for i, n in zip(corner, (4, 5, 6), strict=True)] for corner in np.ndindex(2, 2, 2)
    ]
    apart = [np.linalg.norm(itk_world(image, c) - itk_world(other, c)) for c in corners]
    assert a.displacement(b) == pytest.approx(max(apart) / min(a.spacing), rel=1e-9)
    assert a.displacement(a) == 0
    step = rng.normal(size=3)
    moved = Geometry(a.shape, a.spacing, tuple(np.array(a.origin) + step), a.direction)
    assert a.displacement(moved) == pytest.approx(np.linalg.norm(step) / min(a.spacing), rel=1e-6)


@QUICK
@given(SEEDS, KINDS)
def test_attributes_are_json(seed, kind):
    geometry = geometry_of(image_at_random(seed, kind)[0])
    attributes = json.loads(json.dumps(geometry.to_attributes()))
    assert attributes == {
        "spacing": list(geometry.spacing),
        "origin": list(geometry.origin),
        "direction": [list(row) for row in geometry.direction],
    }


@pytest.mark.parametrize(
    "spacing", [(0.0, 1.0, 1.0), (1.0, -2.0, 1.0), (1.0, 1.0, np.inf), (np.nan, 1.0, 1.0)]
)
def test_spacing_that_is_not_positive_is_refused_with_its_value(spacing):
    with pytest.raises(SpacingError) as caught:
        Geometry((2, 2, 2), spacing)
    assert str(spacing) in str(caught.value)


@pytest.mark.parametrize(
    "direction",
    [((1.0, 0, 0), (0, 1.0, 0), (0, 1.0, 0)), ((0.0, 0, 0),) * 3, ((np.nan, 0, 0), (0, 1, 0), (0, 0, 1))],
)
def test_singular_directions_are_refused(direction):
    with pytest.raises(GeometryError, match="singular"):
        Geometry((2, 2, 2), direction=direction)


def test_an_affine_without_a_column_is_refused():
    with pytest.raises(SpacingError, match="positive"):
        Geometry.from_ras_affine((2, 2, 2), np.diag([1.0, 0.0, 1.0, 1.0]))


def test_two_entries_are_refused():
    with pytest.raises(GeometryError, match="2 entries"):
        Geometry.from_itk((2, 2), (1, 1), (0, 0), np.eye(3).ravel())


# Boxes


@QUICK
@given(st.data(), shapes(7))
def test_boxes_are_what_indexing_makes_of_them(data, shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    a, b = data.draw(boxes(shape)), data.draw(boxes(shape))
    assert array[a.slices].shape == a.shape
    assert a.size == array[a.slices].size
    assert Box.from_bounds(a.bounds) == a
    assert np.array_equal(array[Box.whole(shape).slices], array)
    shared = np.intersect1d(array[a.slices], array[b.slices])
    both = a.intersect(b)
    assert both.size == shared.size
    assert np.array_equal(np.sort(array[both.slices].ravel()), shared)
    inner = a.shift([-s for s in a.start])
    assert inner == Box.whole(a.shape)
    assert inner.shift(a.start) == a


def test_boxes_count_more_voxels_than_32_bits_hold():
    assert Box.whole((4000, 4000, 4000)).size == 64 * 10**9


def sheared(geometry, rng, lean=0.2):
    """The grid with axes that are not at right angles any more; x stays."""
    z, y, x = np.asarray(geometry.direction).T
    z = z + lean * rng.uniform(-1, 1) * y + lean * rng.uniform(-1, 1) * x
    y = y + lean * rng.uniform(-1, 1) * x
    columns = np.stack([z / np.linalg.norm(z), y / np.linalg.norm(y), x], axis=1)
    return Geometry(geometry.shape, geometry.spacing, geometry.origin, tuple(map(tuple, columns.tolist())))


@QUICK
@given(SEEDS, KINDS)
def test_right_angles_are_no_shear(seed, kind):
    geometry = geometry_of(image_at_random(seed, kind)[0])
    assert geometry.shear_voxels < 1e-9
    assert geometry.shear_degrees < 1e-5
    assert geometry.unsheared().shape == geometry.shape
    assert geometry.displacement(geometry.unsheared()) < 1e-9


@QUICK
@given(SEEDS, KINDS)
def test_an_unsheared_grid_keeps_x_and_holds_every_voxel(seed, kind):
    """Slices and rows only slide: the slice of a voxel stays; no voxel is lost."""
    image, rng = image_at_random(seed, kind, (9, 8, 7))
    grid = sheared(geometry_of(image), rng)
    straight = grid.unsheared()
    matrix = np.asarray(straight.direction)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(matrix[:, 2], np.asarray(grid.direction)[:, 2], atol=1e-12)
    assert np.sign(np.linalg.det(matrix)) == np.sign(np.linalg.det(grid.direction))
    assert straight.shape[0] == grid.shape[0]
    to_straight, offset = grid.indices_in(straight)
    index = np.stack(np.meshgrid(*map(range, grid.shape), indexing="ij"), -1).reshape(-1, 3)
    at = index @ to_straight.T + offset
    np.testing.assert_allclose(straight.world(at), grid.world(index), atol=1e-8)
    np.testing.assert_allclose(at[:, 0], index[:, 0], atol=1e-8)
    assert (at > -0.01).all()
    assert (at < np.array(straight.shape) - 0.99).all()


@pytest.mark.parametrize("degrees", [0.5, 12.0, 30.0])
def test_shear_is_the_tilt_of_a_gantry(degrees):
    angle = np.radians(degrees)
    columns = np.array([[np.cos(angle), 0, 0], [-np.sin(angle), 1, 0], [0, 0, 1]])
    grid = Geometry((41, 512, 512), (2.5, 0.5, 0.5), direction=tuple(map(tuple, columns.tolist())))
    across = 40 * 2.5 * np.sin(angle)
    assert grid.shear_degrees == pytest.approx(degrees)
    assert grid.shear_voxels == pytest.approx(across / 0.5)
    assert grid.unsheared().shape == (41, 512 + int(np.ceil(across / 0.5 - 1e-3)), 512)
