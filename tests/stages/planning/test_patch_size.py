"""nnU-Net's patch and lowres spacing, against numbers that nnU-Net itself gave."""

import json
import math

import numpy as np
import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelmill.stages.planning.patch_size import lowres_spacing, patch_size

# From nnU-Net 2.8.1, `ExperimentPlanner.plan_experiment` with PlainConvUNet of dynamic_network_architectures,
# z, y, x: target spacing, median shape, labels -> patch and, where it plans 3d_lowres, its spacing and patch.
NNUNET = [
    ((1.0, 1.0, 1.0), (138, 169, 138), 4, (128, 128, 128), None, None),
    ((0.8, 0.8, 0.8), (40, 36, 50), 2, (40, 40, 56), None, None),
    ((5.4037, 0.59475, 0.59475), (19, 320, 320), 2, (16, 320, 320), None, None),
    (
        (1.0, 0.75, 0.75),
        (482, 512, 512),
        3,
        (128, 128, 128),
        (2.5000803453253524, 1.8750602589940135, 1.8750602589940135),
        (128, 128, 128),
    ),
    (
        (2.5, 0.8, 0.8),
        (110, 512, 512),
        118,
        (40, 192, 160),
        (3.074684663562176, 1.5788692089012846, 1.5788692089012846),
        (64, 160, 160),
    ),
    (
        (0.7, 0.7, 5.0),
        (512, 512, 80),
        2,
        (224, 224, 32),
        (1.2274542371539712, 1.2274542371539712, 5.0),
        (192, 192, 48),
    ),
    (
        (0.9, 3.0, 0.9),
        (576.0, 108.5, 440.0),
        3,
        (224, 48, 192),
        (1.5781554477693913, 3.09, 1.5781554477693913),
        (224, 64, 160),
    ),
    ((1.0, 1.0, 1.0), (5, 6, 7), 2, (5, 6, 7), None, None),
    (
        (0.5, 0.5, 0.5),
        (2000, 1800, 2400),
        2,
        (128, 112, 160),
        (5.01502995401556, 5.01502995401556, 5.01502995401556),
        (128, 112, 160),
    ),
    (
        (3.0, 0.12, 0.12),
        (60, 4000, 4000),
        2,
        (7, 512, 448),
        (3.0, 1.315214072774774, 1.315214072774774),
        (40, 224, 224),
    ),
    (
        (2.0, 0.4, 0.4),
        (300.5, 2024.0, 2048.0),
        2,
        (32, 224, 256),
        (5.627724908743053, 2.8139528866492824, 2.8139528866492824),
        (64, 192, 192),
    ),
    ((1.0, 1.0, 1.0), (190, 190, 190), 2, (128, 128, 128), None, None),
    ((1.5, 1.5, 1.5), (1, 300, 300), 2, None, None, None),
    (
        (0.29, 0.26, 0.26),
        (33, 1024, 1024),
        2,
        (24, 320, 320),
        (0.45181055081422183, 0.405071528316199, 0.405071528316199),
        (24, 320, 320),
    ),
    ((1.0, 1.0, 1.0), (210, 210, 210), 2, (128, 128, 128), None, None),
    ((3.0, 1.0, 1.0), (90, 300, 280), 5, (56, 192, 192), None, None),
    ((4.0, 0.9, 0.9), (40, 500, 500), 2, (24, 256, 256), None, None),
    ((0.6, 2.4, 0.6), (305.0, 105.0, 285.0), 3, (160, 64, 160), None, None),
    (
        (1.75, 3.5, 0.84),
        (333, 512, 2000),
        2,
        (48, 80, 320),
        (4.780834267136088, 9.561668534272176, 4.804802531454784),
        (80, 112, 224),
    ),
    (
        (15.0, 1.5, 3.75),
        (128, 1000, 333),
        10,
        (40, 256, 96),
        (15.0, 4.097857943259503, 7.622977899226515),
        (80, 224, 112),
    ),
    (
        (1.5625, 3.90625, 0.78125),
        (333, 128, 512),
        2,
        (128, 48, 192),
        (1.9793282521681503, 3.90625, 1.6848369277686266),
        (160, 80, 160),
    ),
    (
        (0.1, 0.1, 0.2),
        (7, 7, 2000),
        3,
        (7, 7, 176),
        (0.2500080345325352, 0.2500080345325352, 0.5000160690650703),
        (3, 3, 176),
    ),
    (
        (1.5, 3.75, 3.75),
        (317, 283, 568),
        2,
        (96, 80, 192),
        (3.140666894481323, 6.1981786210190695, 6.1981786210190695),
        (96, 112, 224),
    ),
    (
        (1.719, 1.845, 1.656),
        (2000, 2000, 9),
        10,
        (320, 256, 10),
        (5.775666253379811, 6.199013518025447, 5.563992621056988),
        (320, 256, 3),
    ),
]

SPACINGS = st.tuples(*[st.floats(0.05, 12)] * 3)
SHAPES = st.tuples(*[st.integers(1, 20000)] * 3)
CLASSES = st.sampled_from([2, 3, 60, 256, 70000])


@pytest.mark.parametrize(("target", "median", "classes", "patch", "spacing", "lowres_patch"), NNUNET)
def test_equals_nnunet(target, median, classes, patch, spacing, lowres_patch):
    found = lowres_spacing(target, median, classes)
    if patch is not None:  # nnU-Net plans no 3D patch for single slices
        assert patch_size(target, median, classes) == patch
    if spacing is None:
        assert found is None
    else:
        assert found == pytest.approx(spacing, rel=1e-12)
        shape = [round(t / s * n) for t, s, n in zip(target, found, median, strict=True)]
        assert patch_size(found, shape, classes) == lowres_patch


@settings(max_examples=60, derandomize=True, deadline=None)
@given(SPACINGS, SHAPES, CLASSES)
def test_always_ends_with_a_coarser_spacing_or_none(target, median, classes):
    assert min(patch_size(target, median, classes)) > 0
    found = lowres_spacing(target, median, classes)
    if found is not None:
        assert all(a >= b for a, b in zip(found, target, strict=True))
        assert math.prod(found) >= 2 * math.prod(target) * (1 - 1e-12)


def test_more_classes_take_room_from_the_patch():
    sizes = [math.prod(patch_size((1, 1, 1), (500, 500, 500), n)) for n in (2, 100, 1000)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_a_stack_of_few_slices_keeps_at_least_one():
    # nnU-Net 2.8.1 comes to a median of no slice here and ends with an OverflowError.
    found = lowres_spacing((1.0, 1.0, 1.0), (3, 20000, 20000), 2)
    assert found is not None
    assert found[0] == found[1] == found[2] > 6


def test_a_run_makes_what_fullres_makes_at_that_spacing(tmp_path):
    """Thousands of labels keep the patch, and with it the volume, small; the dataset states them."""
    rng = np.random.default_rng(4)
    shape, source = (60, 130, 120), tmp_path / "in"
    for folder, name, (low, high), dtype in (
        ("imagesTr", "a_0000.npy", (1, 99), "i2"),
        ("labelsTr", "a.npy", (0, 5000), "u2"),
    ):
        (source / folder).mkdir(parents=True)
        np.save(source / folder / name, rng.integers(low, high, shape).astype(dtype))
    (source / "imagesTr" / "a.json").write_text('{"spacing": [2, 1, 1]}')
    description = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0} | {f"label {i}": i for i in range(1, 5000)},
        "numTraining": 1,
        "file_ending": ".npy",
    }
    (source / "dataset.json").write_text(json.dumps(description))
    runs.process(source, tmp_path / "lowres", configurations=["lowres"])
    target = lowres_spacing((2.0, 1.0, 1.0), shape, 5000)
    assert runs.fingerprint(tmp_path / "lowres")["classes"] == 5000
    runs.process(source, tmp_path / "fullres", target_spacing=target)
    for name in ("image", "label"):
        found = runs.group(tmp_path / "lowres", "a", "lowres")[name][:]
        assert np.array_equal(found, runs.group(tmp_path / "fullres", "a")[name][:])
    attributes = runs.attributes(tmp_path / "lowres", "a", "lowres")
    assert attributes["target_spacing"] == list(target)
    assert not (tmp_path / "lowres" / "training.zarr" / "fullres").exists()
