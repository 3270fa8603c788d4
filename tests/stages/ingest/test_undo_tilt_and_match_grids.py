"""Grids that are sheared or differ, and labels that break rules: refused, or repaired and recorded."""

import json
import shutil

import datasets
import numpy as np
import pytest
import runs
import SimpleITK as sitk  # noqa: N813
import zarr
from commands import alone
from datasets import Grid, of_cases, times, write_nifti, write_rows
from nibabel.nifti1 import Nifti1Header
from readers_support import training_files

from voxelmill.basics.errors import SettingsChangedError
from voxelmill.basics.geometry import Geometry

UNDO = {"repair": {"shear": "undo"}}
RESAMPLE = {"repair": {"grids": "resample"}}


def tilted(degrees=12.0, spacing=(0.8, 0.7, 2.5)):
    """A grid as a tilted gantry makes it: slices slide along y as they rise."""
    angle = np.radians(degrees)
    matrix = np.eye(3)
    matrix[:, 2] = 0, -np.sin(angle), np.cos(angle)
    return Grid(
        tuple(float(np.float32(s)) for s in spacing), (5.0, -20.0, 30.0), tuple(matrix.ravel().tolist())
    )


def as_itk(stored, grid):
    return grid.apply(sitk.GetImageFromArray(stored))


def raw(out, case, name):
    return zarr.open_array(out / "raw.zarr" / case / name, mode="r")[:]


def record(out, case):
    return zarr.open_group(out / "raw.zarr" / case, mode="r").attrs["voxelmill"]


def geometry(out, case):
    stated = record(out, case)
    rows = [tuple(row) for row in stated["direction"]]
    return Geometry(tuple(stated["shape"]), tuple(stated["spacing"]), tuple(stated["origin"]), tuple(rows))


def grid_of(found):
    """An empty ITK image on a grid."""
    made = sitk.Image([int(n) for n in found.shape[::-1]], sitk.sitkUInt8)
    made.SetSpacing(found.spacing[::-1])
    made.SetOrigin(found.origin[::-1])
    made.SetDirection(np.asarray(found.direction)[::-1, ::-1].ravel().tolist())
    return made


def resampled(stored, grid, target, interpolator, outside):
    image = as_itk(stored, grid)
    return sitk.GetArrayFromImage(sitk.Resample(image, target, sitk.Transform(), interpolator, outside))


class Made:
    """Cases as files: each an image and a label, on grids of their own."""

    def __init__(self, folder, cases, dtype="i2", ending=".nii", channel="CT"):
        rng, shape = np.random.default_rng(0), (14, 20, 18)
        folder.mkdir()
        self.source, self.cases, rows = folder / "cases.csv", {}, []
        for name, (grid, label_grid) in cases.items():
            image = datasets.blobs(rng, shape, -900, 900, border=0, holes=False).round().astype(dtype)
            label = datasets.classes(rng, shape, 3)
            for what, array, place in (("image", image, grid), ("label", label, label_grid)):
                datasets.write(folder / f"{name}_{what}{ending}", array, place)
            self.cases[name] = image, label
            rows.append({"case": name, channel: f"{name}_image{ending}", "label": f"{name}_label{ending}"})
        write_rows(self.source, rows)


STRAIGHT = Grid((0.75, 0.75, 2.5), (5.0, -20.0, 30.0))
MOVED = Grid((0.75, 0.75, 2.5), (5.0, -17.0, 30.0))


class TestShear:
    """A tilted gantry: dcm2niix#253, dicom2nifti#23, heudiconv#409, Slicer#570, TotalSegmentator#610."""

    def test_refused_with_angle_and_displacement(self, tmp_path):
        made = Made(tmp_path / "raw", {"a": (tilted(), tilted())})
        (failed,) = runs.process(made.source, tmp_path / "out").failed
        for text in ("12.0 degrees", "voxels at the farthest corner", "--set repair.shear=undo"):
            assert text in failed.cause

    @pytest.mark.parametrize("ending", [".nii", ".nrrd"])
    def test_undone_equals_itk(self, tmp_path, ending):
        """Values and labels lie where they lay; no voxel is lost; what is new is the lowest value, and 0."""
        grid = tilted()
        made, out = Made(tmp_path / "raw", {"a": (grid, grid)}, ending=ending), tmp_path / "out"
        report = runs.process(made.source, out, **UNDO)
        assert not report.failed
        found, (image, label) = geometry(out, "a"), made.cases["a"]
        step = 2.5 * np.cos(np.radians(12))
        np.testing.assert_allclose(found.spacing, (step, 0.7, 0.8), rtol=1e-5)
        assert found.shear_voxels < 1e-3
        moved = 13 * 2.5 * np.sin(np.radians(12))
        assert found.shape == (14, 20 + int(np.ceil(moved / 0.7)), 18)
        target = grid_of(found)
        wanted = resampled(image, grid, target, sitk.sitkLinear, float(image.min()))
        assert np.abs(raw(out, "a", "image")[0].astype(int) - wanted).max() <= 1  # ties
        wanted = resampled(label, grid, target, sitk.sitkNearestNeighbor, 0)
        assert (raw(out, "a", "label") != wanted).mean() < 1e-3  # ties
        np.testing.assert_array_equal(np.unique(raw(out, "a", "label")), np.unique(label))

    def test_a_linear_field_stays_itself(self, tmp_path):
        """Interpolation is exact where values rise evenly: to float32's rounding the field is the same."""
        grid, shape, out = tilted(20), (9, 12, 11), tmp_path / "out"
        (tmp_path / "raw").mkdir()
        itk = as_itk(np.zeros(shape, "u1"), grid)
        index = np.stack(np.meshgrid(*map(range, shape), indexing="ij"), -1)
        world = np.array([itk.TransformIndexToPhysicalPoint(i[::-1].tolist()) for i in index.reshape(-1, 3)])
        field = (world @ [2.0, -3.0, 5.0] + 500).reshape(shape).astype("f4")
        write_nifti(tmp_path / "raw" / "a.nii", field, grid)
        assert not runs.process(tmp_path / "raw", out, **UNDO).failed
        found, image = geometry(out, "a"), raw(out, "a", "image")[0]
        index = np.stack(np.meshgrid(*map(range, image.shape), indexing="ij"), -1)
        wanted = found.world(index) @ [5.0, -3.0, 2.0] + 500
        matrix, offset = found.indices_in(Geometry.from_ras_affine(shape[::-1], grid.ras_affine()))
        at = index @ matrix.T + offset
        within = np.all((at > 0.01) & (at < np.array(shape) - 1.01), axis=-1)
        assert within.mean() > 0.3
        np.testing.assert_allclose(image[within], wanted[within], rtol=1e-5)
        outside = np.any((at < -0.51) | (at > np.array(shape) - 0.49), axis=-1)
        assert (image[outside] == field.min()).all()

    def test_recorded_everywhere(self, tmp_path, caplog):
        caplog.set_level("INFO", "voxelmill")
        made, out = (
            Made(tmp_path / "raw", {"a": (tilted(), tilted()), "b": (STRAIGHT, STRAIGHT)}),
            tmp_path / "out",
        )
        for _ in range(2):  # a rerun that finds all done reports the same
            report = runs.process(made.source, out, **UNDO)
            (repair,) = report.cases[0].repairs
            assert repair.startswith(
                "repair.shear=undo: tilt of 12.0 degrees undone: slices moved by up to 6.8 mm"
            )
            assert "20 rows became 30, 18 columns 18" in repair
            assert report.cases[1].repairs == ()
            written = json.loads((out / "report.json").read_text())
            assert written["cases"][0]["repairs"] == [repair]
            cells = [str(cell) for column in report.table().columns for cell in column.cells]
            assert "cases repaired" in cells
        assert [r["setting"] for r in runs.attributes(out, "a")["repairs"]] == ["repair.shear=undo"]
        assert runs.attributes(out, "b")["repairs"] == []
        assert record(out, "a")["repairs"] == runs.attributes(out, "a")["repairs"]
        assert "case a: repaired by repair.shear=undo: tilt of" in caplog.text
        assert sorted(p.name for p in (out / "raw.zarr" / "a").iterdir() if p.is_dir()) == [
            "histogram",
            "image",
            "label",
            "locations",
        ]

    def test_a_case_that_lies_straight_does_not_change(self, tmp_path):
        made = Made(tmp_path / "raw", {"b": (STRAIGHT, STRAIGHT)})
        for out, settings in (("one", {}), ("other", UNDO)):
            runs.process(made.source, tmp_path / out, **settings)
        one, other = (datasets.stores(tmp_path / out) for out in ("one", "other"))
        assert of_cases(one, "b") == of_cases(other, "b")

    def test_nothing_is_left_where_a_case_fails(self, tmp_path):
        made = Made(tmp_path / "raw", {"a": (tilted(), tilted())})
        label = datasets.classes(np.random.default_rng(0), (14, 20, 18), 3).astype("f4")
        label[7, 7, 7] = 0.5
        write_nifti(tmp_path / "raw" / "a_label.nii", label, tilted())
        (failed,) = runs.process(made.source, tmp_path / "out", **UNDO).failed
        assert "holds 0.5 in 1 voxels of slice 7" in failed.cause
        assert not list((tmp_path / "out" / "raw.zarr").rglob("staged*"))


class TestGrids:
    """Headers of image and label that differ: nnUNet#1287, #2526, #2551."""

    def test_refused_with_displacement(self, tmp_path):
        made = Made(tmp_path / "raw", {"a": (STRAIGHT, MOVED)})
        (failed,) = runs.process(made.source, tmp_path / "out").failed
        assert "the label lies 4 voxels away from channel 0 at its farthest corner" in failed.cause
        assert "--set repair.grids=resample" in failed.cause

    def test_other_spacing_and_shape_is_refused_by_both(self, tmp_path):
        made = self._coarse(tmp_path)
        (failed,) = runs.process(made.source, tmp_path / "out").failed
        assert "the label has (7, 10, 9) voxels (z, y, x), channel 0 has (14, 20, 18)" in failed.cause

    @staticmethod
    def _coarse(tmp_path, ending=".nii.gz"):
        made = Made(tmp_path / "raw", {"a": (STRAIGHT, STRAIGHT)}, ending=ending)
        coarse = Grid((1.625, 1.4375, 5.25), (5.1, -18.0, 29.9))
        label = datasets.classes(np.random.default_rng(3), (7, 10, 9), 3)
        datasets.write(tmp_path / "raw" / f"a_label{ending}", label, coarse)
        made.cases["a"] = made.cases["a"][0], label
        made.coarse = coarse
        return made

    @pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd"])
    def test_resampled_label_equals_itk(self, tmp_path, ending):
        made, out = self._coarse(tmp_path, ending), tmp_path / "out"
        report = runs.process(made.source, out, **RESAMPLE)
        assert not report.failed
        image, label = made.cases["a"]
        np.testing.assert_array_equal(raw(out, "a", "image")[0], image)
        target = as_itk(image, STRAIGHT)
        wanted = resampled(label, made.coarse, target, sitk.sitkNearestNeighbor, 0)
        np.testing.assert_array_equal(raw(out, "a", "label"), wanted)
        (repair,) = report.cases[0].repairs
        assert repair.startswith("repair.grids=resample: the label has (7, 10, 9) voxels")
        assert "it was resampled onto channel 0; about 1" in repair
        assert "% of the grid lies beyond it and is 0" in repair

    @pytest.mark.parametrize("intercept", [0.0, -1024.0])
    def test_resampled_channel_equals_itk(self, tmp_path, intercept):
        """Beyond a channel's own grid it is stored as what comes nearest to a value of 0."""
        made, out = Made(tmp_path / "raw", {"a": (STRAIGHT, STRAIGHT)}), tmp_path / "out"
        other = np.random.default_rng(4).integers(100, 2000, (12, 16, 15)).astype("i2")
        grid = Grid((0.9, 0.8, 2.75), (6.0, -19.0, 31.0))
        write_nifti(tmp_path / "raw" / "t1.nii", other, grid, 1.0, intercept)
        write_rows(made.source, [{"case": "a", "CT": "a_image.nii", "T1": "t1.nii", "label": "a_label.nii"}])
        report = runs.process(made.source, out, **RESAMPLE)
        (repair,) = report.cases[0].repairs
        assert repair.startswith("repair.grids=resample: channel 1 (T1) has (12, 16, 15)")
        image, label = made.cases["a"]
        wanted = resampled(other, grid, as_itk(image, STRAIGHT), sitk.sitkLinear, -intercept)
        found = raw(out, "a", "image")
        np.testing.assert_array_equal(found[0], image)
        assert np.abs(found[1].astype(int) - wanted).max() <= 1
        np.testing.assert_array_equal(raw(out, "a", "label"), label)

    def test_a_displacement_within_tolerance_changes_nothing(self, tmp_path):
        near = Grid(STRAIGHT.spacing, (5.0, -20.05, 30.0))
        made = Made(tmp_path / "raw", {"a": (STRAIGHT, near)})
        report = runs.process(made.source, tmp_path / "out", **RESAMPLE)
        assert report.cases[0].repairs == ()
        np.testing.assert_array_equal(raw(tmp_path / "out", "a", "label"), made.cases["a"][1])

    def test_a_label_of_another_place_is_refused(self, tmp_path):
        """Of another patient, or without a stated origin: all of it would become background."""
        far = Grid(STRAIGHT.spacing, (500.0, 500.0, 500.0))
        made = Made(tmp_path / "raw", {"a": (STRAIGHT, far)})
        (failed,) = runs.process(made.source, tmp_path / "out", **RESAMPLE).failed
        assert "resampled onto channel 0 nothing of it is left" in failed.cause

    def test_a_straight_label_of_a_tilted_image(self, tmp_path):
        """Drawn on an image whose tilt was undone elsewhere: both settings are needed."""
        made, out = Made(tmp_path / "raw", {"a": (tilted(), STRAIGHT)}), tmp_path / "out"
        assert runs.process(made.source, out, **UNDO).failed
        report = runs.process(made.source, out, repair={"shear": "undo", "grids": "resample"})
        settings = [repair.partition(":")[0] for repair in report.cases[0].repairs]
        assert settings == ["repair.shear=undo", "repair.grids=resample"]
        target = grid_of(geometry(out, "a"))
        wanted = resampled(made.cases["a"][1], STRAIGHT, target, sitk.sitkNearestNeighbor, 0)
        assert (raw(out, "a", "label") != wanted).mean() < 1e-3

    def test_read_in_place(self, tmp_path):
        """An image that is moved is copied, whatever is set; one that stays where it lies is not."""
        cases = {"a": (tilted(), tilted()), "b": (STRAIGHT, MOVED)}
        made, settings = Made(tmp_path / "raw", cases), {"repair": {"shear": "undo", "grids": "resample"}}
        runs.process(made.source, tmp_path / "copied", **settings)
        report = runs.process(made.source, tmp_path / "out", ingest={"copy": False}, **settings)
        assert not report.failed
        assert [record(tmp_path / "out", c)["is_in_place"] for c in cases] == [False, True]
        for case in cases:
            for name in ("image", "label"):
                found, wanted = (runs.group(tmp_path / o, case)[name][:] for o in ("out", "copied"))
                np.testing.assert_array_equal(found, wanted)


class TestTwoPlaces:
    """sform of a template, qform at 0, as public atlases have them: sform holds, and that is noted."""

    @staticmethod
    def made(folder, *files):
        """A case whose files of these names have a second place."""
        folder.mkdir(exist_ok=True)
        made = Made(folder / "raw", {"a": (STRAIGHT, STRAIGHT)})
        for name in files:
            path = folder / "raw" / f"a_{name}.nii"
            content = path.read_bytes()
            header = Nifti1Header(content[:348])
            header.set_qform(Grid(STRAIGHT.spacing, (0.0, 0.0, 0.0)).ras_affine(), 1)
            path.write_bytes(header.binaryblock + content[348:])
        return made

    def test_is_what_it_is_without_the_second(self, tmp_path):
        outs = [tmp_path / "one", tmp_path / "two"]
        for out, files in zip(outs, [(), ("image", "label")], strict=True):
            (case,) = runs.process(self.made(out, *files).source, out / "out").cases
            assert case.cause is None
        one, two = (training_files(out / "out") for out in outs)
        assert one == two
        assert case.repairs == ()
        assert [note.partition(" place ")[0] for note in case.notes] == [
            "sform and qform of the NIfTI header",
            "the label: sform and qform of the NIfTI header",
        ]

    def test_a_label_that_lies_at_the_other_one_is_refused_with_that(self, tmp_path):
        made = self.made(tmp_path, "image")
        write_nifti(
            tmp_path / "raw" / "a_label.nii", made.cases["a"][1], Grid(STRAIGHT.spacing, (0.0, 0.0, 0.0))
        )
        (failed,) = runs.process(made.source, tmp_path / "out").failed
        assert "the label lies 48.5 voxels away from channel 0" in failed.cause
        assert "The header of channel 0 (CT) states two places; the other one holds by --set" in failed.cause
        assert "repair.affine=qform" in failed.cause
        (case,) = runs.process(made.source, tmp_path / "out", repair={"affine": "qform"}).cases
        assert case.cause is None
        assert geometry(tmp_path / "out", "a").origin == (0, 0, 0)

    def test_the_other_place_is_noticed_where_it_is_asked_for_later(self, tmp_path):
        made, out = self.made(tmp_path, "image", "label"), tmp_path / "out"
        runs.process(made.source, out)
        with pytest.raises(
            SettingsChangedError, match=r"case a was read without repair\.affine=qform, which is"
        ):
            runs.process(made.source, out, repair={"affine": "qform"})
        runs.process(made.source, out, repair={"affine": "sform", "shear": "undo"})  # changes nothing
        runs.process(made.source, out, restart=True, repair={"affine": "qform"})
        assert geometry(out, "a").origin == (0, 0, 0)


class TestReruns:
    """Of a channel whose normalisation asks nothing of other cases, at one spacing: cases are independent."""

    CASES = {"a": (STRAIGHT, STRAIGHT), "b": (STRAIGHT, STRAIGHT), "t": (tilted(), tilted())}
    SPACING = {"target_spacing": (2.5, 0.75, 0.75)}

    def test_a_repair_that_is_set_later_makes_the_failed_cases_alone(self, tmp_path):
        made, out = Made(tmp_path / "raw", self.CASES, channel="T1"), tmp_path / "out"
        assert [c.case for c in runs.process(made.source, out, **self.SPACING).failed] == ["t"]
        before = of_cases(times(out), "ab")
        report = runs.process(made.source, out, **self.SPACING, **UNDO)
        assert not report.failed
        assert of_cases(times(out), "ab") == before

    @pytest.mark.slow
    def test_a_repair_that_is_set_no_longer(self, tmp_path):
        """Refused with status 2, nothing changed; with --restart that case alone is made again, and fails."""
        made, out = Made(tmp_path / "raw", self.CASES, channel="T1"), tmp_path / "out"
        runs.process(made.source, out, **self.SPACING, **UNDO)
        before = times(out)
        with pytest.raises(
            SettingsChangedError, match=r"case t was repaired by repair.shear=undo, which is not set now"
        ):
            runs.process(made.source, out, **self.SPACING)
        assert alone("run", made.source, out, "--set", "target_spacing=[2.5, 0.75, 0.75]").returncode == 2
        assert times(out) == before
        report = runs.process(made.source, out, restart=True, **self.SPACING)
        assert [c.case for c in report.failed] == ["t"]
        assert of_cases(times(out), "t") == {}
        assert of_cases(times(out), "ab") == of_cases(before, "ab")

    def test_the_token_knows_the_repairs_of_its_case_alone(self, tmp_path):
        made = Made(tmp_path / "raw", {"a": (STRAIGHT, MOVED), "b": (STRAIGHT, STRAIGHT)})
        runs.process(made.source, tmp_path / "one", **RESAMPLE)
        runs.process(made.source, tmp_path / "two", repair={"grids": "resample", "shear": "undo"})
        for case in "ab":
            one, two = (runs.attributes(tmp_path / o, case)["settings"] for o in ("one", "two"))
            assert one == two
        sources = [record(tmp_path / "one", "a")["source"]]
        shutil.copy(tmp_path / "raw" / "b_label.nii", tmp_path / "raw" / "a_label.nii")
        runs.process(made.source, tmp_path / "three", **RESAMPLE)
        assert record(tmp_path / "three", "a")["source"] not in sources
        assert record(tmp_path / "three", "a")["repairs"] == []


class TestLabelValues:
    """Values that dataset.json does not state, such as nnU-Net's verify_dataset_integrity looks for."""

    @staticmethod
    def _nnunet(tmp_path, change, labels=None, dtype="u1"):
        made = datasets.nnunet(tmp_path / "raw")
        label = made.cases["a"].label.astype(dtype)
        change(label)
        datasets.write_image(tmp_path / "raw" / "labelsTr" / "a.nii.gz", label, made.grids["a"])
        if labels:
            described = json.loads((tmp_path / "raw" / "dataset.json").read_text())
            described["labels"] = labels
            (tmp_path / "raw" / "dataset.json").write_text(json.dumps(described))
        return runs.process(made.source, tmp_path / "out"), label

    def test_not_stated(self, tmp_path):
        def change(label):
            label[0, 0, :3] = 7

        report, _ = self._nnunet(tmp_path, change)
        (failed,) = report.failed
        assert failed.case == "a"
        assert "the label holds 7 in 3 voxels; dataset.json states 0 to 2. Mend the label" in failed.cause

    @pytest.mark.parametrize(
        ("labels", "is_fine"),
        [
            ({"background": 0, "whole": [1, 2], "core": [2], "ignore": 7}, True),
            ({"background": 0, "whole": [1, 2, 7]}, True),
            ({"background": 0, "one": 1, "two": 2, "six": 6}, False),
            ({"one": 1, "two": 2, "seven": 7}, True),
        ],
    )
    def test_regions_ignore_and_background_are_stated(self, tmp_path, labels, is_fine):
        def change(label):
            label[0, 0, :3] = 7

        report, _ = self._nnunet(tmp_path, change, labels)
        assert (report.failed == []) == is_fine
        if not is_fine:
            assert "states 0 to 2, 6." in report.failed[0].cause

    def test_negative_ones_are_never_stated(self, tmp_path):
        def change(label):
            label[0, 0, :2] = -1

        report, _ = self._nnunet(tmp_path, change, dtype="i2")
        assert "the label holds -1 in 2 voxels" in report.failed[0].cause

    def test_instances_are_looked_at_one_by_one(self, tmp_path):
        """Ids of instances that are not stated are found before all instances count as one class."""

        def change(label):
            label.reshape(-1)[:1500] = np.arange(3, 1503)

        report, _ = self._nnunet(tmp_path, change, dtype="u2")
        assert "3 in 1 voxels, 4 in 1 voxels, 5 in 1 voxels and 997 more values" in report.failed[0].cause

    def test_nothing_is_looked_for_where_nothing_is_stated(self, tmp_path):
        """A manifest: negative labels stay what they are, and count as no foreground."""
        made, out = Made(tmp_path / "raw", {"a": (STRAIGHT, STRAIGHT)}), tmp_path / "out"
        label = made.cases["a"][1].astype("i2")
        label[label == 3] = -5
        write_nifti(tmp_path / "raw" / "a_label.nii", label, STRAIGHT)
        assert not runs.process(made.source, out).failed
        written = runs.group(out, "a")["label"]
        assert written.dtype == np.int8
        np.testing.assert_array_equal(np.unique(written[:]), np.unique(label))
        locations = zarr.open_array(out / "raw.zarr" / "a" / "locations", mode="r")[:]
        assert set(locations[:, 0]) == {1, 2}

    @pytest.mark.parametrize("preset", ["default", "nnunet"])
    def test_large_ids_stay_what_they_are(self, tmp_path, preset):
        """Ids beyond 32 bits, whose floats would collide."""
        made, out = Made(tmp_path / "raw", {"a": (STRAIGHT, STRAIGHT)}), tmp_path / "out"
        ids = np.array([0, 2**32 + 1, 2**53 + 1, 2**62 + 1])
        label = ids[made.cases["a"][1]]
        write_nifti(tmp_path / "raw" / "a_label.nii", label, STRAIGHT)
        config = {"target_spacing": (2.5, 0.75, 0.75)}
        assert not runs.process(made.source, out, preset, **config).failed
        written = runs.group(out, "a")["label"]
        assert written.dtype.itemsize == 8
        np.testing.assert_array_equal(written[:], label)

    def test_whole_floats_are_labels(self, tmp_path):
        made, out = Made(tmp_path / "raw", {"a": (STRAIGHT, STRAIGHT)}), tmp_path / "out"
        label = made.cases["a"][1]
        write_nifti(tmp_path / "raw" / "a_label.nii", label.astype("f4"), STRAIGHT)
        assert not runs.process(made.source, out).failed
        np.testing.assert_array_equal(raw(out, "a", "label"), label)
        assert runs.group(out, "a")["label"].dtype == np.uint8


class TestImageValues:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, tmp_path, value):
        made = Made(tmp_path / "raw", {"a": (STRAIGHT, STRAIGHT), "b": (STRAIGHT, STRAIGHT)}, "f4")
        image = made.cases["a"][0]
        image[3, 4, 5] = value
        write_nifti(tmp_path / "raw" / "a_image.nii", image, STRAIGHT)
        (failed,) = runs.process(made.source, tmp_path / "out").failed
        assert failed.case == "a"
        assert "1 voxels of slice 3 are NaN, infinite" in failed.cause

    def test_all_zero(self, tmp_path):
        made = Made(tmp_path / "raw", {"a": (STRAIGHT, STRAIGHT), "b": (STRAIGHT, STRAIGHT)})
        write_nifti(tmp_path / "raw" / "a_image.nii", np.zeros((14, 20, 18), "i2"), STRAIGHT)
        (failed,) = runs.process(made.source, tmp_path / "out").failed
        assert "every voxel of the image is zero" in failed.cause
