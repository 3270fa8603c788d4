"""Whole runs on phantoms, array by array against a plain whole-volume reference."""

import json

import datasets
import numpy as np
import pytest
import reference
import runs
import SimpleITK as sitk  # noqa: N813
import zarr
from datasets import Grid, manifest, stores, values_of, write_rows
from distributed import Client, LocalCluster
from readers_support import save_series, series

import voxelmill

ISOTROPIC = {
    "a": ((19, 22, 20), (1.0, 1.1, 1.0)),
    "b": ((16, 24, 21), (1.3, 0.9, 1.1)),
    "c": ((18, 17, 23), (1.1, 1, 1)),
}
PAIR = {name: ISOTROPIC[name] for name in "ab"}
ALONG_Z = {"a": ((8, 26, 24), (5.0, 0.8, 0.7)), "b": ((9, 25, 27), (5.5, 0.9, 0.8))}
ALONG_Y = {"a": ((26, 8, 24), (0.8, 5.0, 0.7)), "b": ((25, 9, 27), (0.9, 5.5, 0.8))}
ALONG_X = {"a": ((26, 24, 8), (0.8, 0.7, 5.0)), "b": ((25, 27, 9), (0.9, 0.8, 5.5))}


def check(made, out, options=None, **settings):
    """Run, and compare voxels, statistics and geometry."""
    options = {} if options is None else options
    report = runs.process(made.source, out, **settings)
    assert not report.failed
    expected, statistics = made.expected(**options)
    configuration = options.get("configuration", "fullres")
    runs.compare(out, expected, configuration)
    runs.compare_statistics(out, statistics)
    shapes = {name: case.image.shape[1:] for name, case in made.cases.items()}
    runs.compare_geometry(out, made.grids, shapes, configuration)
    return expected


class TestGrids:
    @pytest.mark.parametrize("cases", [ISOTROPIC, ALONG_Z, ALONG_Y, ALONG_X], ids=["iso", "z", "y", "x"])
    @pytest.mark.parametrize("channels", [("T1",), ("CT", "T2")], ids=["1", "2"])
    def test_spacings_and_channels(self, tmp_path, cases, channels):
        made = manifest(tmp_path / "raw", cases, channels, grid="oblique")
        check(made, tmp_path / "out")
        expected = {"a": None, "b": None} if cases is ISOTROPIC else None
        axes = {c: p["separate_axis"] for c, p in plan(tmp_path / "out")["cases"].items()}
        if expected is None:
            assert set(axes.values()) == {[ALONG_Z, ALONG_Y, ALONG_X].index(cases)}
        else:
            assert set(axes.values()) == {None}

    @pytest.mark.parametrize("kind", ["identity", "oblique", "left-handed", "permuted"])
    def test_directions(self, tmp_path, kind):
        check(manifest(tmp_path / "raw", ISOTROPIC, grid=kind, seed=5), tmp_path / "out")

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_one_axis_is_far_coarser_in_one_case_only(self, tmp_path, axis):
        spacing = [0.9, 0.9, 0.9]
        spacing[axis] = 4.0
        cases = {**ISOTROPIC, "odd": ((14, 15, 16), tuple(spacing))}
        check(manifest(tmp_path / "raw", cases, labels=("a", "odd")), tmp_path / "out")

    def test_two_axes_share_the_largest_spacing(self, tmp_path):
        cases = {"a": ((9, 10, 24), (4.0, 4.0, 1.0)), "b": ((8, 9, 20), (4.0, 4.0, 1.25))}
        check(manifest(tmp_path / "raw", cases), tmp_path / "out")

    def test_tenth_percentile_of_the_coarse_axis_below_the_fine_ones(self, tmp_path):
        shape = (6, 30, 28)
        spacings = {"a": 0.5, "b": 6.0, "c": 6.5, "d": 5.0}
        cases = {name: (shape, (z, 0.8, 0.9)) for name, z in spacings.items()}
        made = manifest(tmp_path / "raw", cases, labels=False)
        check(made, tmp_path / "out")

    def test_a_case_on_the_target_grid_is_not_resampled(self, tmp_path):
        cases = dict.fromkeys("abc", ((12, 13, 14), (1.5, 1.0, 1.0)))
        made = manifest(tmp_path / "raw", cases, ("nonorm",), border=0, holes=False)
        expected = check(made, tmp_path / "out")
        for name, case in made.cases.items():
            assert expected[name].image.shape == case.image.shape
            np.testing.assert_array_equal(runs.group(tmp_path / "out", name)["image"][:], case.image)
            np.testing.assert_array_equal(runs.group(tmp_path / "out", name)["label"][:], case.label)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_one_slice(self, tmp_path, axis):
        shape, spacing = [21, 22, 23], [1.0, 1.1, 0.9]
        shape[axis], spacing[axis] = 1, 3.0
        cases = {"a": (tuple(shape), tuple(spacing)), "b": (tuple(shape), (1.0, 1.0, 1.0))}
        check(manifest(tmp_path / "raw", cases, border=1), tmp_path / "out")

    def test_one_voxel_is_not_zero(self, tmp_path):
        made = manifest(tmp_path / "raw", {"a": ((9, 9, 9), (1, 1, 1)), "b": ((11, 9, 10), (1, 1, 1))})
        image = np.zeros((9, 9, 9), "i2")
        image[4, 5, 6] = 7
        datasets.write(tmp_path / "raw" / "a_0.nii", image, made.grids["a"])
        made.cases["a"].image = values_of(image)[None]
        check(made, tmp_path / "out")

    @pytest.mark.parametrize("target", [(0.6, 2.0, 1.0), (5.0, 0.7, 0.7), (30, 30, 30), (1, 1, 4.0)])
    def test_target_spacing(self, tmp_path, target):
        made = manifest(tmp_path / "raw", ISOTROPIC)
        expected = check(made, tmp_path / "out", {"target": target}, target_spacing=target)
        assert runs.attributes(tmp_path / "out", "a")["target_spacing"] == list(target)
        assert min(min(r.image.shape) for r in expected.values()) >= 1


class TestCropAndMask:
    def test_no_border_and_no_hole(self, tmp_path):
        made = manifest(tmp_path / "raw", ISOTROPIC, border=0, holes=False, low=10)
        check(made, tmp_path / "out")
        assert runs.attributes(tmp_path / "out", "a")["normalization"][0]["masked"] is False

    @pytest.mark.parametrize("preset", ["default", "nnunet"])
    @pytest.mark.parametrize("cases", [ISOTROPIC, ALONG_Y], ids=["iso", "y"])
    def test_masked_zscore(self, tmp_path, preset, cases):
        made = manifest(tmp_path / "raw", cases, ("T1", "T2"), border=4)
        options = {"labels": "linear", "outside_label": -1} if preset == "nnunet" else {}
        check(made, tmp_path / "out", options, preset=preset)
        assert runs.attributes(tmp_path / "out", "a")["normalization"][0]["masked"] is True

    def test_channels_are_nonzero_in_different_places(self, tmp_path):
        made = manifest(tmp_path / "raw", ISOTROPIC, ("T1", "T2"), seed=3)
        for name, case in made.cases.items():
            first, second = case.image.copy()
            first[:, :, : first.shape[2] // 2] = 0
            second[:, :, second.shape[2] // 2 :] = 0
            case.image = np.stack([first, second])
            for i, image in enumerate(case.image):
                datasets.write(tmp_path / "raw" / f"{name}_{i}.nii", image.astype("i2"), made.grids[name])
        check(made, tmp_path / "out", {"labels": "linear", "outside_label": -1}, preset="nnunet")

    @pytest.mark.parametrize("border", [0, 4])
    def test_one_channel_is_all_zero(self, tmp_path, border):
        made = manifest(tmp_path / "raw", ISOTROPIC, ("T1", "T2"), empty=(1,), border=border)
        check(made, tmp_path / "out")
        assert not runs.group(tmp_path / "out", "a")["image"][1].any()

    def test_a_hole_open_to_the_outside_is_no_hole(self, tmp_path):
        made = manifest(tmp_path / "raw", ISOTROPIC, border=0, holes=False)
        for name, case in made.cases.items():
            case.image[0, 4:9, 4:9, :7] = 0
            case.image[0, 12:14, 12:14, 12:14] = 0
            datasets.write(tmp_path / "raw" / f"{name}_0.nii", case.image[0].astype("i2"), made.grids[name])
        check(made, tmp_path / "out", {"labels": "linear", "outside_label": -1}, preset="nnunet")

    def test_foreground_outside_the_mask_stays(self, tmp_path):
        made = manifest(tmp_path / "raw", ISOTROPIC, border=5)
        for name, case in made.cases.items():
            case.image[0, :, :, :4] = 0
            case.image[0, 8, 9, 1] = 50
            case.label[7:10, 6:9, 1:4] = 3
            datasets.write(tmp_path / "raw" / f"{name}_0.nii", case.image[0].astype("i2"), made.grids[name])
            datasets.write(tmp_path / "raw" / f"{name}_label.nii", case.label, made.grids[name])
        expected = check(made, tmp_path / "out", {"outside_label": -1}, outside_label=-1)
        assert all({-1, 3} <= set(np.unique(r.label)) for r in expected.values())
        assert runs.group(tmp_path / "out", "a")["label"].dtype == np.int8


class TestLabels:
    def test_a_case_without_a_label(self, tmp_path):
        made = manifest(tmp_path / "raw", ISOTROPIC, ("CT",), labels=("a", "c"))
        check(made, tmp_path / "out")
        assert runs.fingerprint(tmp_path / "out")["statistics_from"] == "label"

    @pytest.mark.parametrize("channel", ["CT", "T1"])
    @pytest.mark.parametrize("border", [0, 4])
    def test_no_label_at_all(self, tmp_path, channel, border):
        made = manifest(tmp_path / "raw", ISOTROPIC, (channel,), labels=False, border=border)
        check(made, tmp_path / "out")
        assert "label" not in runs.group(tmp_path / "out", "a")
        assert runs.fingerprint(tmp_path / "out")["statistics_from"] == "nonzero mask"

    @pytest.mark.parametrize("method", ["nearest", "linear"])
    @pytest.mark.parametrize("outside", [0, -1])
    @pytest.mark.parametrize("cases", [PAIR, pytest.param(ALONG_X, marks=pytest.mark.slow)], ids=["iso", "x"])
    def test_methods(self, tmp_path, method, outside, cases):
        made = manifest(tmp_path / "raw", cases, classes=9, seed=2)
        options = {"labels": method, "outside_label": outside}
        check(made, tmp_path / "out", options, **options)

    @pytest.mark.parametrize(
        ("dtype", "outside", "stored"),
        [
            ("u1", 0, "u1"),  # one byte stays one byte
            ("i4", 0, "u1"),  # a wide type with small numbers
            ("f4", 0, "u1"),  # floats that are whole
            ("f8", -1, "i1"),
            ("i8", -1, "i1"),
            ("u2", -1, "i1"),
        ],
    )
    def test_types(self, tmp_path, dtype, outside, stored):
        made = manifest(tmp_path / "raw", PAIR, label_dtype=dtype)
        options = {"labels": "linear", "outside_label": outside}
        check(made, tmp_path / "out", options, **options)
        assert runs.group(tmp_path / "out", "a")["label"].dtype == stored

    @pytest.mark.parametrize(
        ("highest", "outside", "stored"),
        [(127, -1, "i1"), (128, -1, "i2"), (128, 0, "u1"), (255, 0, "u1"), (256, 0, "u2"), (70000, 0, "u4")],
    )
    def test_smallest_type_that_holds_all(self, tmp_path, highest, outside, stored):
        made = manifest(tmp_path / "raw", PAIR, label_dtype="i4")
        made.cases["b"].label[made.cases["b"].label == 3] = highest
        datasets.write(tmp_path / "raw" / "b_label.nii", made.cases["b"].label, made.grids["b"])
        check(made, tmp_path / "out", {"outside_label": outside}, outside_label=outside)
        assert runs.group(tmp_path / "out", "b")["label"].dtype == stored

    def test_ignore_label_is_no_foreground(self, tmp_path):
        made = datasets.nnunet(tmp_path / "raw")
        described = json.loads((tmp_path / "raw" / "dataset.json").read_text())
        described["labels"] = {"background": 0, "one": 1, "ignore": 2}
        (tmp_path / "raw" / "dataset.json").write_text(json.dumps(described))
        check(made, tmp_path / "out", {"ignore_label": 2})
        assert {2} < set(np.unique(runs.group(tmp_path / "out", "a")["label"][:]))

    def test_one_case_has_only_background(self, tmp_path):
        made = manifest(tmp_path / "raw", PAIR, ("CT",))
        made.cases["b"].label[:] = 0
        datasets.write(tmp_path / "raw" / "b_label.nii", made.cases["b"].label, made.grids["b"])
        check(made, tmp_path / "out", {"labels": "linear"}, labels="linear")


class TestValues:
    @pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
    def test_types(self, tmp_path, dtype):
        low, high = (1, 120) if dtype[1] == "1" else (-500, 900) if dtype[0] in "if" else (1, 1500)
        made = manifest(tmp_path / "raw", PAIR, ("CT",), dtype=dtype, low=low, high=high)
        check(made, tmp_path / "out")

    @pytest.mark.parametrize(("low", "high"), [(-2e9, 2e9), (2**31 - 3000, 2**31 - 1), (-5, 5)])
    def test_wide_integers(self, tmp_path, low, high):
        check(manifest(tmp_path / "raw", PAIR, ("CT",), dtype="i4", low=low, high=high), tmp_path / "out")

    @pytest.mark.parametrize("dtype", ["f4", pytest.param("f8", marks=pytest.mark.slow)])
    @pytest.mark.parametrize(("low", "high"), [(30000, 30020), (-1e-3, 1e-3), (1e20, 1e21), (1e-30, 1e-29)])
    def test_floats_far_from_one(self, tmp_path, dtype, low, high):
        check(
            manifest(tmp_path / "raw", PAIR, ("CT", "T1"), dtype=dtype, low=low, high=high),
            tmp_path / "out",
        )

    @pytest.mark.parametrize("border", [0, 4])
    def test_constant_channel(self, tmp_path, border):
        made = manifest(
            tmp_path / "raw", PAIR, ("CT", "T1", "rescale_to_0_1"), low=77, high=77, border=border
        )
        check(made, tmp_path / "out")

    @pytest.mark.parametrize(
        ("slope", "intercept", "dtype"),
        [
            (2.0, -1000.0, "i2"),  # as scanners write it
            (0.125, 0.0, "u1"),
            (0.1, 0.3, "i2"),  # not exact in binary: no voxel of the border is 0
            (-1.0, 0.0, "i2"),  # turns the order round
            (-0.25, 100.0, "u2"),
            (2.0, 0.0, "i4"),
            (-0.5, 3.0, "f4"),
            (3.0, -30.0, "f8"),
        ],
    )
    def test_slope_and_intercept(self, tmp_path, slope, intercept, dtype):
        low, high = (1, 250) if dtype == "u1" else (1, 900)
        made = manifest(
            tmp_path / "raw",
            PAIR,
            ("CT", "T1"),
            dtype=dtype,
            low=low,
            high=high,
            slope=slope,
            intercept=intercept,
        )
        check(made, tmp_path / "out")

    def test_slope_differs_from_channel_to_channel(self, tmp_path):
        made = manifest(
            tmp_path / "raw",
            PAIR,
            ("CT", "T1", "nonorm"),
            dtype=("i2", "u1", "f4"),
            low=1,
            high=200,
            slope=(-2.0, 1.0, 0.5),
            intercept=(100.0, 0.0, 0.0),
        )
        check(made, tmp_path / "out")

    def test_types_and_formats_differ_from_channel_to_channel(self, tmp_path):
        made = manifest(
            tmp_path / "raw",
            PAIR,
            ("CT", "T1", "T2", "nonorm", "CT2"),
            endings=(".nii", ".mha", ".nrrd", ".nii.gz", ".mhd"),
            dtype=("i2", "f4", "u1", "f8", "u4"),
            low=3,
            high=200,
            grid="left-handed",
        )
        check(made, tmp_path / "out")

    def test_big_endian(self, tmp_path):
        made = manifest(tmp_path / "raw", PAIR, ("CT",))
        for name, case in made.cases.items():
            path = tmp_path / "raw" / f"{name}_0.nii"
            datasets.write_nifti(path, case.image[0].astype("i2"), made.grids[name], byte_order=">")
        check(made, tmp_path / "out")

    def test_cases_differ_in_type(self, tmp_path):
        made = manifest(tmp_path / "raw", PAIR, ("CT",))
        for name, dtype in zip(made.cases, ("f4", "u2"), strict=True):
            image = made.cases[name].image[0]
            datasets.write(tmp_path / "raw" / f"{name}_0.nii", image.astype(dtype), made.grids[name])
        check(made, tmp_path / "out")

    def test_one_file_holds_several_channels(self, tmp_path):
        made = manifest(tmp_path / "raw", {"a": PAIR["a"]}, ("CT", "T1"))
        image = np.moveaxis(made.cases["a"].image.astype("i2"), 0, -1)
        datasets.write_image(tmp_path / "raw" / "both.nrrd", image, made.grids["a"])
        write_rows(made.source, [{"case": "a", "both": "both.nrrd", "label": "a_label.nii"}])
        check(made, tmp_path / "out", channels=["CT", "T1"])

    def test_npy_takes_its_spacing_from_the_manifest(self, tmp_path):
        made = manifest(tmp_path / "raw", ALONG_Z, endings=(".npy",), label_ending=".npy")
        rows = [
            {
                "case": c,
                "T1": f"{c}_0.npy",
                "label": f"{c}_label.npy",
                "spacing": ",".join(map(str, v.spacing)),
            }
            for c, v in made.cases.items()
        ]
        write_rows(made.source, rows)
        made.grids = {name: Grid(grid.spacing) for name, grid in made.grids.items()}
        check(made, tmp_path / "out")

    def test_non_finite_voxels_as_zeros(self, tmp_path):
        made = manifest(tmp_path / "raw", PAIR, ("CT", "T1"), dtype="f4")
        image = made.cases["a"].image[0]
        image[5, 6, 7], image[6, 6, 7], image[7, 6, 7] = np.nan, np.inf, -np.inf
        datasets.write(tmp_path / "raw" / "a_0.nii", image, made.grids["a"])
        image[~np.isfinite(image)] = 0
        check(made, tmp_path / "out", nonfinite="zero")


class TestSchemes:
    @pytest.mark.parametrize(
        "channel", ["CT", "ct", "zscore", "nonorm", "noNorm", "rescale_to_0_1", "rgb_to_0_1", "PET", "MRI"]
    )
    @pytest.mark.parametrize("cases", [PAIR, pytest.param(ALONG_Z, marks=pytest.mark.slow)], ids=["iso", "z"])
    def test_by_channel_name(self, tmp_path, channel, cases):
        made = manifest(tmp_path / "raw", cases, (channel,), dtype="u1", low=1, high=255, border=4)
        check(made, tmp_path / "out")
        known = {
            "ct": "CTNormalization",
            "nonorm": "NoNormalization",
            "rescale_to_0_1": "RescaleTo01Normalization",
            "rgb_to_0_1": "RGBTo01Normalization",
        }
        scheme = runs.attributes(tmp_path / "out", "a")["normalization"][0]["scheme"]
        assert scheme == known.get(channel.casefold(), "ZScoreNormalization")

    def test_setting_goes_before_the_source(self, tmp_path):
        made = manifest(tmp_path / "raw", PAIR, ("CT", "T1"))
        made.channels = ("nonorm", "CT")
        check(made, tmp_path / "out", channels=["nonorm", "CT"])

    def test_negative_values_only(self, tmp_path):
        made = manifest(tmp_path / "raw", PAIR, ("CT", "T1", "rescale_to_0_1"), low=-900, high=-5)
        check(made, tmp_path / "out")

    def test_cases_weigh_equally(self, tmp_path):
        cases = {"big": ((26, 26, 26), (1, 1, 1)), "small": ((9, 9, 9), (1, 1, 1))}
        made = manifest(tmp_path / "raw", cases, ("CT",), border=0)
        made.cases["small"].image[0] += 3000
        datasets.write(
            tmp_path / "raw" / "small_0.nii", made.cases["small"].image[0].astype("i2"), made.grids["small"]
        )
        check(made, tmp_path / "out")
        mean = runs.fingerprint(tmp_path / "out")["foreground_intensity_properties_per_channel"]["0"]["mean"]
        assert 1500 < mean < 2500


class TestSettings:
    @pytest.mark.parametrize("order", [0, 1, 2, 3])
    @pytest.mark.parametrize("cases", [PAIR, pytest.param(ALONG_Y, marks=pytest.mark.slow)], ids=["iso", "y"])
    def test_order(self, tmp_path, order, cases):
        check(manifest(tmp_path / "raw", cases), tmp_path / "out", {"order": order}, order=order)

    @pytest.mark.parametrize("order", [0, 1, 3])
    def test_anti_alias(self, tmp_path, order):
        target = (3.7, 2.2, 0.8)
        check(
            manifest(tmp_path / "raw", ISOTROPIC),
            tmp_path / "out",
            {"order": order, "target": target, "anti_alias": True, "separate": "never"},
            order=order,
            target_spacing=target,
            anti_alias=True,
            separate_axis="never",
        )

    def test_never_separate(self, tmp_path):
        made = manifest(tmp_path / "raw", ALONG_Z, ("T1", "CT"), border=4)
        options = {"labels": "linear", "outside_label": -1}
        check(made, tmp_path / "out", {**options, "separate": "never"}, **options, separate_axis="never")

    @pytest.mark.parametrize("cases", [ISOTROPIC, ALONG_Z, ALONG_Y], ids=["iso", "z", "y"])
    def test_2d(self, tmp_path, cases):
        made = manifest(tmp_path / "raw", cases, grid="oblique")
        check(made, tmp_path / "out", {"configuration": "2d"}, configurations=["2d"])
        assert not (tmp_path / "out" / "training.zarr" / "fullres").exists()

    def test_two_configurations(self, tmp_path):
        made = manifest(tmp_path / "raw", ALONG_Z)
        runs.process(made.source, tmp_path / "out", configurations=["fullres", "2d"])
        for configuration in ("fullres", "2d"):
            runs.compare(tmp_path / "out", made.expected(configuration=configuration)[0], configuration)

    @pytest.mark.parametrize("preset", ["default", "nnunet"])
    @pytest.mark.parametrize("cases", ["one", "separate"])
    def test_many_shards_hold_what_one_holds(self, tmp_path, preset, cases):
        shape, spacing = ((96, 70, 75), (1, 1, 1)) if cases == "one" else ((30, 150, 160), (5, 0.8, 0.8))
        made = manifest(tmp_path / "raw", {"a": (shape, spacing)}, ("T1", "CT"), border=9, seed=4)
        target = tuple(0.9 * s for s in spacing)
        settings = {"preset": preset, "target_spacing": target}
        runs.process(made.source, tmp_path / "whole", **settings)
        store = {"shard_mib": 1, "chunk": (16, 32, 32)}
        runs.process(made.source, tmp_path / "cut", **settings, store=store)
        one, many = (runs.group(tmp_path / out, "a") for out in ("whole", "cut"))
        assert (shards(one["image"]), shards(one["label"])) == (1, 1)
        assert shards(many["image"]) == shards(many["label"]) > 1
        assert many["image"].chunks == (1, min(16, one["image"].shape[1]), 32, 32)
        np.testing.assert_array_equal(many["label"][:], one["label"][:])
        np.testing.assert_array_equal(many["image"][:], one["image"][:])  # whatever the cut: the same bits
        options = {"labels": "linear", "outside_label": -1} if preset == "nnunet" else {}
        runs.compare(tmp_path / "cut", made.expected(target=target, **options)[0])

    @pytest.mark.parametrize("compressor", ["lz4", "zstd"])
    def test_compressors(self, tmp_path, compressor):
        made = manifest(tmp_path / "raw", ISOTROPIC)
        check(made, tmp_path / "out", store={"compressor": compressor, "level": 1})


class TestDicom:
    def test_a_folder_of_series(self, tmp_path):
        rng = np.random.default_rng(0)
        expected = {}
        for name, step in (("one", 2.5), ("two", 3.0)):
            voxels = rng.integers(0, 2000, (7, 12, 11)).astype("i2")
            save_series(tmp_path / "raw" / name, list(series(voxels, step=step))) if (tmp_path / "raw").mkdir(
                exist_ok=True
            ) is None else None
            expected[name] = reference.ReferenceCase(
                values_of(voxels, 1, -1024)[None], None, (step, 0.7, 0.6)
            )
        report = runs.process(tmp_path / "raw", tmp_path / "out", dicom={"ids": "names"})
        assert [c.case for c in report.cases] == ["one", "two"]
        runs.compare(tmp_path / "out", reference.run(expected, ("CT",))[0])
        assert runs.attributes(tmp_path / "out", "one")["channel_names"] == ["CT"]

    @pytest.mark.parametrize("uniform", [True, False])
    def test_each_slice_has_its_own_slope(self, tmp_path, uniform):
        rng = np.random.default_rng(1)
        voxels = rng.integers(-1000, 1000, (6, 12, 11)).astype("i2")
        slopes = [0.5] * 6 if uniform else [0.5, 0.25, 2.5, 0.3, 1.0, 0.7]
        pieces = list(series(voxels))
        for piece, slope in zip(pieces, slopes, strict=True):
            piece.RescaleSlope, piece.RescaleIntercept, piece.Modality = slope, -3, "PT"
        save_series(tmp_path / "raw", pieces)
        runs.process(tmp_path / "raw", tmp_path / "out", dicom={"ids": "names"})
        values = np.stack([values_of(v, s, -3.0) for v, s in zip(voxels, slopes, strict=True)])
        case = reference.ReferenceCase(values[None], None, (2.5, 0.7, 0.6))
        runs.compare(tmp_path / "out", reference.run({"raw": case}, ("PT",))[0])

    def test_tags_stay_where_they_are(self, tmp_path):
        voxels = np.random.default_rng(2).integers(0, 99, (4, 8, 9)).astype("i2")
        (tmp_path / "raw").mkdir()
        save_series(
            tmp_path / "raw" / "case", list(series(voxels, StudyDate="19991231", PatientID="ID-4711"))
        )
        runs.process(tmp_path / "raw", tmp_path / "out")
        written = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
        for text in (b"Secret", b"19991231", b"4711", b"IM00", str(tmp_path).encode()):
            assert text not in written


class TestSources:
    def test_nnunet_folder(self, tmp_path):
        made = datasets.nnunet(tmp_path / "raw", channels=("CT", "PET"))
        check(made, tmp_path / "out")

    @pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr"])
    def test_folder_of_images(self, tmp_path, ending):
        made = manifest(tmp_path / "raw", ISOTROPIC, ("0",), endings=(ending,), labels=False, grid="oblique")
        made.source.unlink()
        made.source = tmp_path / "raw"
        made.cases = {f"{name}_0": case for name, case in made.cases.items()}
        made.grids = {f"{name}_0": grid for name, grid in made.grids.items()}
        check(made, tmp_path / "out")

    def test_one_image(self, tmp_path):
        made = manifest(tmp_path / "raw", {"a": ISOTROPIC["a"]}, ("0",), labels=False)
        made.source = tmp_path / "raw" / "a_0.nii"
        made.cases, made.grids = {"a_0": made.cases["a"]}, {"a_0": made.grids["a"]}
        check(made, tmp_path / "out")

    def test_json_manifest(self, tmp_path):
        made = manifest(tmp_path / "raw", ISOTROPIC, labels=("b",))
        made.source = tmp_path / "raw" / "cases.json"
        rows = [
            {"case": n, "T1": f"{n}_0.nii", "label": "b_label.nii" if n == "b" else None} for n in ISOTROPIC
        ]
        write_rows(made.source, rows)
        check(made, tmp_path / "out")

    @pytest.mark.parametrize(
        "names", [("merge-0-0", "merge-1-0"), ("a.trash", "b.partial"), ("image", "c"), ("a b", "ä")]
    )
    def test_any_id_is_a_case(self, tmp_path, names):
        made = manifest(tmp_path / "raw", dict(zip(names, PAIR.values(), strict=True)))
        check(made, tmp_path / "out")


class TestReportAndAttributes:
    def test_report(self, tmp_path):
        made = manifest(tmp_path / "raw", ISOTROPIC, ("T1", "T2"))
        (tmp_path / "raw" / "b_0.nii").unlink()
        report = runs.process(made.source, tmp_path / "out")
        written = json.loads((tmp_path / "out" / "report.json").read_text())
        assert written == report.model_dump(mode="json")
        assert [(c["case"], c["status"]) for c in written["cases"]] == [
            ("a", "done"),
            ("b", "failed"),
            ("c", "done"),
        ]
        assert "missing" in written["cases"][1]["cause"]
        assert written["cases"][0]["cause"] is None
        assert written["cases"][0]["seconds"] > 0
        assert written["cases"][0]["peak_bytes"] > 10 * 2**20
        assert written["seconds"] >= sum(c["seconds"] for c in written["cases"])
        images = [runs.group(tmp_path / "out", c)["image"] for c in "ac"]
        assert written["voxels"] == sum(image.size for image in images)
        assert not (tmp_path / "out" / "training.zarr" / "fullres" / "b").exists()

    def test_attributes(self, tmp_path):
        made = manifest(tmp_path / "raw", ALONG_Z, ("CT", "T1"), border=4)
        runs.process(made.source, tmp_path / "out")
        stated = runs.attributes(tmp_path / "out", "a")
        assert stated["channel_names"] == ["CT", "T1"]
        ct, zscore = stated["normalization"]
        statistics = made.expected()[1][0]
        assert ct["scheme"] == "CTNormalization"
        assert (ct["lower"], ct["upper"]) == (statistics["percentile_00_5"], statistics["percentile_99_5"])
        assert (ct["masked"], zscore["masked"]) == (False, True)
        mask, _ = reference.crop(made.cases["a"].image)
        assert zscore["shift"] == pytest.approx(made.cases["a"].image[1][mask].mean(dtype=float))
        assert len(stated["settings"]) >= 16
        assert stated["settings"] != runs.attributes(tmp_path / "out", "b")["settings"]

    def test_tokens_do_not_depend_on_the_place(self, tmp_path):
        made = manifest(tmp_path / "raw", ISOTROPIC)
        for out in ("one", "other"):
            runs.process(made.source, tmp_path / out)
        assert stores(tmp_path / "one") == stores(tmp_path / "other")

    def test_raw_store_keeps_stored_values_and_grid(self, tmp_path):
        made = manifest(tmp_path / "raw", ISOTROPIC, ("T1", "T2"), slope=2.0, intercept=-100.0)
        runs.process(made.source, tmp_path / "out")
        image = zarr.open_array(tmp_path / "out" / "raw.zarr" / "a" / "image", mode="r")
        assert image.dtype == np.int16
        assert image.shape == (2, *ISOTROPIC["a"][0])
        np.testing.assert_array_equal(values_of(image[:], 2.0, -100.0), made.cases["a"].image)
        label = zarr.open_array(tmp_path / "out" / "raw.zarr" / "a" / "label", mode="r")
        np.testing.assert_array_equal(label[:], made.cases["a"].label)

    def test_shards_end_in_checksums(self, tmp_path):
        made = manifest(tmp_path / "raw", {"a": ISOTROPIC["a"]})
        runs.process(made.source, tmp_path / "out")
        shard = next((tmp_path / "out" / "training.zarr" / "fullres" / "a" / "image" / "c").rglob("0"))
        shard = next(p for p in shard.parent.rglob("*") if p.is_file())
        content = bytearray(shard.read_bytes())
        content[10] ^= 1
        shard.write_bytes(content)
        with pytest.raises(ValueError, match="checksum"):
            runs.group(tmp_path / "out", "a")["image"][:]


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


class TestCluster:
    def test_same_bytes_as_in_one_process(self, tmp_path, client):
        cases = {f"case{i}": ((16 + i, 20, 21), (1.0 + 0.1 * i, 1, 1)) for i in range(5)}
        made = manifest(tmp_path / "raw", cases, ("CT", "T1"), border=3, labels=("case0", "case3"))
        config = {"labels": "linear", "outside_label": -1}
        runs.process(made.source, tmp_path / "one", **config)
        report = voxelmill.run(made.source, tmp_path / "two", config=config, client=client)
        assert not report.failed
        assert stores(tmp_path / "one") == stores(tmp_path / "two")

    def test_many_shards(self, tmp_path, client):
        made = manifest(tmp_path / "raw", {"a": ((96, 70, 75), (1, 1, 1))}, ("CT", "T1"), border=9)
        config = {"store": {"shard_mib": 1, "chunk": (16, 32, 32)}, "target_spacing": (0.9, 0.9, 0.9)}
        runs.process(made.source, tmp_path / "one", **config)
        voxelmill.run(made.source, tmp_path / "two", config=config, client=client)
        assert shards(runs.group(tmp_path / "two", "a")["image"]) > 1
        assert stores(tmp_path / "one") == stores(tmp_path / "two")

    def test_one_client_serves_many_runs(self, tmp_path, client):
        made = manifest(tmp_path / "raw", ISOTROPIC)
        reports = [voxelmill.run(made.source, tmp_path / out, client=client) for out in ("one", "two")]
        assert not any(r.failed for r in reports)
        assert stores(tmp_path / "one") == stores(tmp_path / "two")

    def test_two_runs_at_once_do_not_meet(self, tmp_path, client):
        datasets_ = [manifest(tmp_path / f"raw{i}", ISOTROPIC, ("CT",), seed=i) for i in range(2)]
        alone = [stores_of_a_run(made, tmp_path / f"alone{i}") for i, made in enumerate(datasets_)]
        from concurrent.futures import ThreadPoolExecutor

        def run(i):
            with Client(client.scheduler.address) as own:
                return voxelmill.run(datasets_[i].source, tmp_path / f"at_once{i}", client=own)

        with ThreadPoolExecutor(2) as pool:
            reports = list(pool.map(run, range(2)))
        assert not any(r.failed for r in reports)
        assert [stores(tmp_path / f"at_once{i}") for i in range(2)] == alone


def stores_of_a_run(made, out):
    runs.process(made.source, out)
    return stores(out)


def shards(array):
    """Number of shards, by the files."""
    return sum(p.is_file() for p in (array.store.root / array.path / "c").rglob("*"))


def plan(out, configuration="fullres"):
    return json.loads((out / "plan.json").read_text())["configurations"][configuration]


def test_public_run_refuses_before_it_writes(tmp_path):
    from voxelmill.basics.errors import VoxelmillError

    with pytest.raises(VoxelmillError, match="does not exist"):
        voxelmill.run(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(VoxelmillError, match="did you mean 'order'"):
        voxelmill.run(tmp_path, tmp_path / "out", config={"ordr": 1})
    assert not (tmp_path / "out").exists()


def test_label_that_ITK_reads(tmp_path):  # noqa: N802
    """The written label, taken back to the world with its attributes, lies where the source's lies."""
    grid = Grid((1.0, 2.0, 3.0), (5.0, -7.0, 11.0), (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    label = np.zeros((12, 14, 16), "u1")
    label[4:8, 5:9, 6:12] = 1
    image = np.where(label > 0, 100, 1).astype("i2")
    datasets.write(tmp_path / "a.nii", image, grid)
    datasets.write(tmp_path / "l.nii", label, grid)
    write_rows(tmp_path / "m.csv", [{"case": "a", "T1": "a.nii", "label": "l.nii"}])
    runs.process(tmp_path / "m.csv", tmp_path / "out", target_spacing=(1.5, 1.0, 0.5))
    written = runs.group(tmp_path / "out", "a")["label"][:]
    stated = runs.attributes(tmp_path / "out", "a")
    result = sitk.GetImageFromArray(written)
    result.SetSpacing(stated["spacing"][::-1])
    result.SetOrigin(stated["origin"][::-1])
    result.SetDirection(np.array(stated["direction"])[::-1, ::-1].ravel().tolist())
    back = sitk.Resample(
        result, grid.apply(sitk.GetImageFromArray(label)), sitk.Transform(), sitk.sitkNearestNeighbor
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), label)
