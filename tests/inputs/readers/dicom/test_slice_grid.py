"""Series that make no regular grid: refused with the slices at fault, or repaired by a setting."""

import copy

import numpy as np
import pydicom
import pytest
from readers_support import assemble, assert_holds, peak_bytes, refuse, save_series, series

from voxelmill.basics.errors import GeometryError, SpacingError
from voxelmill.basics.geometry import Box
from voxelmill.basics.volume import Repair
from voxelmill.config.repair_settings import RepairConfig
from voxelmill.inputs.readers.dicom.slice_pixels import Pixels
from voxelmill.inputs.readers.formats import open_volume

RNG = np.random.default_rng(11)
VOXELS = RNG.integers(-1000, 1000, (6, 8, 9)).astype("i2")


def moved(piece, axis, by):
    """One slice elsewhere."""
    piece.ImagePositionPatient[axis] = round(float(piece.ImagePositionPatient[axis]) + by, 6)


class TestGrid:
    def test_rounded_orientations_are_at_right_angles(self, tmp_path):
        pieces = list(series(VOXELS, ImageOrientationPatient=[0.996, 0.087, 0, -0.0871, 0.9962, 0.0005]))
        geometry = open_volume(save_series(tmp_path / "s", pieces)).geometry
        matrix = np.asarray(geometry.direction)
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-12)

    def test_a_missing_slice_is_refused(self, tmp_path):
        pieces = list(series(VOXELS))
        del pieces[3]
        refuse(
            save_series(tmp_path / "s", pieces),
            SpacingError,
            r"slices are 2.5 mm apart, but 5 mm between the slice at -25.00 mm \(InstanceNumber 4\) and "
            r"the slice at -20.00 mm \(InstanceNumber 2\) \(1 missing\?\)",
        )

    def test_a_step_that_is_a_little_off_is_noted(self, tmp_path):
        """A clinical series: 20 slices, 6.97 mm apart, but for one step."""
        pieces = list(series(np.zeros((20, 8, 9), "i2"), step=6.97))
        for piece in pieces[12:]:
            moved(piece, 2, 0.1)
        volume = open_volume(save_series(tmp_path / "s", pieces))
        assert volume.repairs == ()
        (note,) = volume.notes
        farthest = "the slice at 46.67 mm (InstanceNumber 9)"
        assert note == f"slices lie within 0.0083 voxels of an even grid, farthest is {farthest}"
        assert volume.geometry.spacing[0] == pytest.approx((19 * 6.97 + 0.1) / 19)
        assert volume.geometry.origin == pytest.approx((-30, 20, -10))

    @pytest.mark.parametrize("seed", range(4))
    def test_slices_within_a_tenth_of_a_step_are_even(self, tmp_path, seed):
        """Wherever they lie, some even grid is as near to them as the one that they were made by."""
        pieces, rng = list(series(VOXELS)), np.random.default_rng(seed)
        for piece in pieces:
            moved(piece, 2, round(rng.choice([-0.24, 0.24]), 2))
        folder = save_series(tmp_path / "s", pieces)
        volume = open_volume(folder)
        assert_holds(volume, VOXELS[None])
        for n, piece in enumerate(pieces):
            at = np.array(piece.ImagePositionPatient, float)[::-1]
            assert abs(at - volume.geometry.world((n, 0, 0))).max() <= 0.25 + 1e-9

    @pytest.mark.parametrize(("by", "off"), [(0.7, 0.14), (1.25, 0.25)])
    def test_beyond_a_tenth_of_a_voxel_is_refused(self, tmp_path, by, off):
        pieces = list(series(VOXELS))
        moved(pieces[2], 2, by)
        refuse(
            save_series(tmp_path / "s", pieces),
            SpacingError,
            rf"2\.5 mm apart, but {2.5 + by:.4g} mm between the slice at -27.50 mm .*: they lie up to {off} "
            r"voxels off the best even grid, at most 0.1 is accepted\. .*--set repair.irregular=resample",
        )

    @pytest.mark.parametrize(
        ("axis", "by", "error"),
        [(1, 0.05, None), (1, 0.09, GeometryError), (0, 0.09, GeometryError)],
    )
    def test_a_slice_beside_the_others_by_a_tenth_of_a_pixel(self, tmp_path, axis, by, error):
        pieces = list(series(np.zeros((30, 8, 9), "i2")))
        moved(pieces[12], axis, by)
        folder = save_series(tmp_path / "s", pieces)
        if error:
            refuse(folder, error, r"straight row: .*InstanceNumber 18\) is 0.0\d mm .* at most 0.06 mm")
        else:
            (note,) = open_volume(folder).notes
            assert "within 0.083 voxels of an even grid, farthest is the slice at 0.00 mm" in note

    def test_a_drift_as_orientations_are_rounded_is_noted(self, tmp_path):
        """Three decimals of a vector that should be a little oblique; 40 slices make it 0.11 mm."""
        tilt = np.array([[1, 0, 0], [0, 0.995, -0.1], [0, 0.1, 0.995]])
        exact = tilt / np.linalg.norm(tilt, axis=0)
        pieces = list(series(np.zeros((40, 8, 9), "i2"), exact))
        plain = open_volume(save_series(tmp_path / "s", pieces))
        assert plain.notes == ()
        for piece in pieces:
            piece.ImageOrientationPatient = [1, 0, 0, 0, 0.994, 0.101]
        (note,) = open_volume(save_series(tmp_path / "t", pieces)).notes
        assert note == "slices drift 0.11 mm sideways, as ImageOrientationPatient is rounded"
        for piece in pieces:
            piece.ImageOrientationPatient = [1, 0, 0, 0, 0.99488, 0.10106]
        refuse(save_series(tmp_path / "u", pieces), GeometryError, "gantry tilt of 0")

    @pytest.mark.parametrize(("angle", "error"), [(2e-5, None), (9e-4, GeometryError)])
    def test_orientations_that_differ_by_a_tenth_of_a_pixel_at_a_corner(self, tmp_path, angle, error):
        pieces = list(series(np.zeros((4, 100, 200), "i2")))
        pieces[2].ImageOrientationPatient = [np.cos(angle), round(np.sin(angle), 12), 0, 0, 1, 0]
        folder = save_series(tmp_path / "s", pieces)
        if error:
            refuse(folder, error, r"InstanceNumber 2\) turns a corner by 0.2\d* pixels from where that of")
        else:
            assert "within 0.0046 voxels of an even grid" in open_volume(folder).notes[0]

    def test_rounded_positions_are_regular(self, tmp_path):
        pieces = list(series(VOXELS, step=2 / 3))
        for piece in pieces:
            piece.ImagePositionPatient[2] = round(float(piece.ImagePositionPatient[2]), 2)
        assert open_volume(save_series(tmp_path / "s", pieces)).geometry.spacing[0] == pytest.approx(
            2 / 3, 0.01
        )

    def test_a_slice_that_is_there_twice_is_refused(self, tmp_path):
        folder = save_series(tmp_path / "s", [*series(VOXELS)])
        copy = pydicom.dcmread(folder / "IM0002")
        copy.InstanceNumber = 99
        pydicom.dcmwrite(folder / "copy", copy)
        refuse(
            folder,
            SpacingError,
            r"two slices lie at one position.*InstanceNumber 4\) and .*InstanceNumber 99\)",
        )

    @pytest.mark.parametrize("angle", [2, 15])
    def test_gantry_tilt_is_refused_by_name(self, tmp_path, angle):
        pieces = list(series(VOXELS))
        for n, piece in enumerate(pieces):
            piece.ImagePositionPatient[1] = 20 + round(n * 2.5 * np.tan(np.radians(angle)), 6)
        refuse(save_series(tmp_path / "s", pieces), GeometryError, f"gantry tilt of {angle}.0 degrees")

    def test_other_pixel_spacing_is_refused(self, tmp_path):
        pieces = list(series(VOXELS))
        pieces[1].PixelSpacing = [0.7, 0.65]
        refuse(save_series(tmp_path / "s", pieces), GeometryError, r"but \(0.7, 0.65\) mm in the slice at")

    def test_no_pixel_spacing_is_refused(self, tmp_path):
        refuse(
            save_series(tmp_path / "s", list(series(VOXELS, PixelSpacing=None))),
            SpacingError,
            "no PixelSpacing",
        )

    @pytest.mark.parametrize("spacing", [[0, 0.6], [0.7, -0.6]])
    def test_pixel_spacing_that_is_none_is_refused(self, tmp_path, spacing):
        folder = save_series(tmp_path / "s", list(series(VOXELS, PixelSpacing=spacing)))
        refuse(folder, SpacingError, r"states PixelSpacing \(0.*two positive numbers are needed")

    def test_a_single_slice_takes_its_thickness(self, tmp_path):
        folder = save_series(tmp_path / "s", list(series(VOXELS[:1])))
        refuse(folder, SpacingError, "one slice and states neither")
        assert open_volume(folder, spacing=(3, 2, 1)).geometry.spacing == (3, 2, 1)
        for tags, expected in [
            ({"SliceThickness": 4}, 4),
            ({"SliceThickness": 4, "SpacingBetweenSlices": 5}, 5),
        ]:
            folder = save_series(tmp_path / f"{expected}", list(series(VOXELS[:1], **tags)))
            volume = open_volume(folder)
            assert volume.geometry.spacing[0] == expected
            assert_holds(volume, VOXELS[None, :1])
            assert_holds(open_volume(folder / "IM0000"), VOXELS[None, :1])


class TestMissingSlices:
    """Series with gaps, "quite prevalent" in public collections (rse-panimg#7, rse-grand-challenge#1301)."""

    @staticmethod
    def without(folder, *left_out, voxels=VOXELS, **tags):
        pieces = [piece for n, piece in enumerate(series(voxels, **tags)) if n not in left_out]
        return save_series(folder, pieces)

    def test_the_message_names_the_setting_that_puts_them_in(self, tmp_path):
        folder = self.without(tmp_path / "s", 3)
        refuse(folder, SpacingError, r"\(1 missing\?\).*--set repair.irregular=fill")

    def test_are_put_in_between(self, tmp_path):
        volume = open_volume(self.without(tmp_path / "s", 3), repair=RepairConfig(irregular="fill"))
        expected = VOXELS.copy()
        expected[3] = np.rint((VOXELS[2].astype(float) + VOXELS[4]) / 2)
        assert_holds(volume, expected[None])
        assert volume.geometry == open_volume(save_series(tmp_path / "t", list(series(VOXELS)))).geometry
        assert volume.repairs == (
            Repair(
                "repair.irregular=fill",
                "1 slices put in, linear between the nearest two, the first between the slice at -25.00 mm "
                "(InstanceNumber 4) and the slice at -20.00 mm (InstanceNumber 2)",
            ),
        )

    def test_a_ramp_comes_back_whole_from_either_way(self, tmp_path):
        ramp = (np.arange(12).reshape(12, 1, 1) * 30 + np.arange(72).reshape(8, 9)).astype("i2")
        folder = self.without(tmp_path / "s", 2, 3, 7, voxels=ramp)
        for way in ("fill", "resample"):
            volume = open_volume(folder, repair=RepairConfig(irregular=way))
            assert_holds(volume, ramp[None])
            assert volume.geometry.spacing == pytest.approx((2.5, 0.7, 0.6))

    def test_labels_are_copies_of_the_nearest_slice(self, tmp_path):
        folder = self.without(tmp_path / "s", 2, 3)
        volume = open_volume(folder, repair=RepairConfig(irregular="fill"), is_label=True)
        assert_holds(volume, VOXELS[None, [0, 1, 1, 4, 4, 5]])
        assert "copies of the nearest" in volume.repairs[0].what

    def test_each_file_is_decoded_once(self, tmp_path, monkeypatch):
        volume = open_volume(self.without(tmp_path / "s", 2, 3), repair=RepairConfig(irregular="fill"))
        read, decode = [], Pixels.decode
        monkeypatch.setattr(
            Pixels, "decode", lambda self, piece: read.append(piece.number) or decode(self, piece)
        )
        assemble(volume, 4)
        assert read == [6, 5, 2, 1]

    @pytest.mark.parametrize("is_uniform", [True, False])
    def test_memory_stays_within_what_is_stated(self, tmp_path, is_uniform):
        pieces = list(series(np.zeros((6, 512, 512), "i2")))
        pieces[0].RescaleSlope = 1 if is_uniform else 2
        folder = save_series(tmp_path / "s", pieces[:2] + pieces[4:])
        volume = open_volume(folder, repair=RepairConfig(irregular="fill"))
        assert 3 * volume.slice_bytes < peak_bytes(volume) < volume.slice_bytes + volume.extra_bytes

    def test_slopes_that_differ_are_taken_out_before(self, tmp_path):
        pieces = list(series(VOXELS))
        for n, piece in enumerate(pieces):
            piece.RescaleSlope = 1 + n
        del pieces[2]
        volume = open_volume(save_series(tmp_path / "s", pieces), repair=RepairConfig(irregular="fill"))
        values = (VOXELS * np.arange(1.0, 7).reshape(6, 1, 1) - 1024).astype("f4")
        values[2] = (values[1].astype(float) + values[3]) / 2
        assert_holds(volume, values[None])

    def test_a_regular_series_is_not_touched(self, tmp_path):
        folder = self.without(tmp_path / "s")
        everything = RepairConfig(irregular="resample", duplicates="first", shear="undo")
        volume = open_volume(folder, repair=everything)
        assert_holds(volume, VOXELS[None])
        assert (volume.geometry, volume.repairs) == (open_volume(folder).geometry, ())


class TestUnevenSteps:
    """Steps that change within a series, as where two parts were scanned (Slicer#7339)."""

    VOXELS = VOXELS.astype("i4") * 36  # no halves, which are rounded either way

    @pytest.fixture
    def folder(self, tmp_path):
        pieces = list(series(self.VOXELS, step=2))
        for piece in pieces[4:]:
            piece.ImagePositionPatient[2] = float(piece.ImagePositionPatient[2]) + 1
        return save_series(tmp_path / "s", pieces)

    def test_are_refused_with_the_setting_that_makes_them_even(self, folder):
        for repair in (RepairConfig(), RepairConfig(irregular="fill")):
            message = refuse(folder, SpacingError, "slices are 2 mm apart, but 3 mm between", repair=repair)
            assert "--set repair.irregular=resample" in message

    def test_are_made_even(self, folder):
        volume = open_volume(folder, repair=RepairConfig(irregular="resample"))
        positions, wanted = np.array([0, 2, 4, 6, 9, 11]), np.linspace(0, 11, 7)
        lines = self.VOXELS.reshape(6, -1).T
        expected = np.rint([np.interp(wanted, positions, line) for line in lines]).T.reshape(7, 8, 9)
        assert_holds(volume, expected.astype("i4")[None])
        np.testing.assert_array_equal(volume.read(Box((6, 0, 0), (7, 8, 9)))[0, 0], self.VOXELS[5])
        assert volume.geometry.spacing[0] == pytest.approx(11 / 6)
        assert volume.repairs[0].setting == "repair.irregular=resample"
        assert volume.repairs[0].what.startswith("6 slices 2 to 3 mm apart became 7 at even steps, linear")

    def test_a_slice_far_off_is_refused_whatever_is_set(self, tmp_path):
        pieces = list(series(VOXELS))
        pieces[5].ImagePositionPatient[2] = 5000
        folder = save_series(tmp_path / "s", pieces)
        refuse(folder, SpacingError, "over 10 times as many", repair=RepairConfig(irregular="resample"))

    def test_steps_of_micrometres_are_judged_by_themselves(self, tmp_path):
        """10 um micro-CT: a gap there is less than what rounding explains in a clinical series."""
        pieces = list(series(VOXELS, step=0.01, PixelSpacing=[0.01, 0.01]))
        assert_holds(open_volume(save_series(tmp_path / "s", pieces)), VOXELS[None])
        refuse(save_series(tmp_path / "t", pieces[:3] + pieces[4:]), SpacingError, "0.01 mm apart, but 0.02")


class TestDuplicates:
    """Time points or copies of a series in one folder (dicom2nifti#19, MONAI#8468)."""

    def test_the_lowest_instance_number_of_each_position_is_kept(self, tmp_path):
        later = list(series(-VOXELS))
        for piece in later:
            piece.InstanceNumber += 6
        folder = save_series(tmp_path / "s", [*later, *series(VOXELS)])
        uid = pydicom.dcmread(folder / "IM0000").SeriesInstanceUID
        for path in folder.iterdir():
            piece = pydicom.dcmread(path)
            piece.SeriesInstanceUID = uid
            pydicom.dcmwrite(path, piece)
        refuse(folder, SpacingError, "two slices lie at one position.*--set repair.duplicates=first")
        volume = open_volume(folder, repair=RepairConfig(duplicates="first"))
        assert_holds(volume, VOXELS[None])
        assert volume.repairs == (
            Repair(
                "repair.duplicates=first",
                "6 slices left out, at 6 of 6 positions, the first beside the slice at -30.00 mm "
                "(InstanceNumber 6)",
            ),
        )

    def test_one_without_instance_number_comes_last(self, tmp_path):
        pieces = list(series(VOXELS))
        nameless = copy.deepcopy(pieces[2])
        nameless.InstanceNumber, nameless.PixelData = None, bytes(144)
        folder = save_series(tmp_path / "s", [nameless, *pieces])
        assert_holds(open_volume(folder, repair=RepairConfig(duplicates="first")), VOXELS[None])


class TestTilt:
    """Gantry tilt (dcm2niix#253, dicom2nifti#23, TotalSegmentator#610)."""

    @staticmethod
    def tilted(folder, shift, *left_out):
        pieces = list(series(VOXELS))
        for n, piece in enumerate(pieces):
            piece.ImagePositionPatient[1] = round(20 + n * shift, 6)
        return save_series(folder, [piece for n, piece in enumerate(pieces) if n not in left_out])

    def test_gives_a_sheared_grid_where_it_shall_be_undone(self, tmp_path):
        folder = self.tilted(tmp_path / "s", 0.6)
        refuse(folder, GeometryError, "--set repair.shear=undo")
        volume = open_volume(folder, repair=RepairConfig(shear="undo"))
        assert_holds(volume, VOXELS[None])
        assert volume.geometry.spacing == pytest.approx((np.hypot(2.5, 0.6), 0.7, 0.6))
        for n in range(6):
            assert volume.geometry.world((n, 0, 0)) == pytest.approx((-30 + 2.5 * n, 20 + 0.6 * n, -10))
        assert volume.notes == ("gantry tilt of 13.5 degrees",)

    def test_missing_slices_are_put_in_along_the_tilt(self, tmp_path):
        repair = RepairConfig(shear="undo", irregular="fill")
        whole = open_volume(self.tilted(tmp_path / "s", 0.6), repair=repair)
        volume = open_volume(self.tilted(tmp_path / "t", 0.6, 2), repair=repair)
        assert volume.geometry.displacement(whole.geometry) < 1e-6

    @pytest.mark.parametrize("tilt", [0, 0.6])
    @pytest.mark.parametrize("odd", [2, 5])
    def test_a_slice_beside_the_others_is_always_refused(self, tmp_path, tilt, odd):
        folder = self.tilted(tmp_path / "s", tilt)
        for path in folder.iterdir():
            piece = pydicom.dcmread(path)
            if piece.InstanceNumber == 6 - odd:
                piece.ImagePositionPatient[0] = 0
                pydicom.dcmwrite(path, piece)
        message = rf"not lie in a straight row: the slice at \S+ mm \(InstanceNumber {6 - odd}\) is \d+"
        for shear in ("refuse", "undo"):
            refuse(folder, GeometryError, message, repair=RepairConfig(shear=shear))
