"""Phantom datasets: layout, geometry, and what makes them worth processing."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from voxelmill.cli.demo_dataset import write_dataset


def read(path):
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image), image.GetSpacing()[::-1], image.GetOrigin()[::-1]


@pytest.mark.parametrize(("kind", "channels", "labels"), [("ct", 1, 3), ("mr", 2, 2)])
def test_layout_is_nnunets(tmp_path, kind, channels, labels):
    folder = write_dataset(tmp_path / "raw", cases=2, shape=(24, 40, 44), kind=kind)
    described = json.loads((folder / "dataset.json").read_text())
    assert (len(described["channel_names"]), len(described["labels"])) == (channels, labels + 1)
    assert described["numTraining"] == 2
    for case in (f"{kind}_000", f"{kind}_001"):
        label, *grid = read(folder / "labelsTr" / f"{case}.nii.gz")
        assert np.unique(label).tolist() == list(range(labels + 1))
        for i in range(channels):
            image, *same_grid = read(folder / "imagesTr" / f"{case}_{i:04d}.nii.gz")
            assert (image.shape, same_grid) == (label.shape, grid)
    assert len(list((folder / "imagesTr").iterdir())) == 2 * channels


def test_ct_voxels(tmp_path):
    folder = write_dataset(tmp_path, cases=2, shape=(24, 40, 44))
    image, spacing, _ = read(folder / "imagesTr" / "ct_000_0000.nii.gz")
    label, *_ = read(folder / "labelsTr" / "ct_000.nii.gz")
    assert image.dtype == np.int16
    assert image[0, 0, 0] < -900
    assert image[label == 2].mean() > image[label == 3].mean() + 100
    assert 1.5 <= spacing[0] <= 3
    assert spacing[1] == spacing[2] <= 1.2
    assert spacing != read(folder / "imagesTr" / "ct_001_0000.nii.gz")[1]


def test_mr_has_zeros_around_the_head_and_holes_in_it(tmp_path):
    folder = write_dataset(tmp_path, cases=1, shape=(20, 64, 64), kind="mr")
    first, second = (read(folder / "imagesTr" / f"mr_000_{i:04d}.nii.gz") for i in range(2))
    label, *_ = read(folder / "labelsTr" / "mr_000.nii.gz")
    mask = first[0] != 0
    np.testing.assert_array_equal(mask, second[0] != 0)
    assert first[0].dtype == np.float32
    assert mask.mean() < 0.5
    assert (ndimage.binary_fill_holes(mask) & ~mask).sum() > 10
    assert mask[label > 0].all()
    assert first[1][0] > 3 * first[1][1]


def test_seeds(tmp_path):
    names = ["imagesTr/ct_000_0000.nii.gz", "labelsTr/ct_000.nii.gz"]
    one, again, other = (
        write_dataset(tmp_path / name, cases=1, seed=seed, shape=(12, 20, 20))
        for name, seed in (("one", 1), ("again", 1), ("other", 2))
    )
    for name in names:
        np.testing.assert_array_equal(read(one / name)[0], read(again / name)[0])
    assert read(one / names[0])[1] != read(other / names[0])[1]


def test_unknown_kind(tmp_path):
    with pytest.raises(ValueError, match="'pet'"):
        write_dataset(tmp_path, kind="pet")
