"""DICOM series that pydicom writes, against ITK and against the arrays that went in."""

import copy
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid
from readers_support import (
    DATA,
    assemble,
    assert_holds,
    assert_same_grid,
    itk_geometry,
    random_direction,
    save_series,
    series,
)

from voxelmill.config import RepairConfig
from voxelmill.errors import FormatError, GeometryError, SpacingError
from voxelmill.geometry import Box
from voxelmill.readers import case_stem, dicom, is_known, open_volume
from voxelmill.volume import Repair

RNG = np.random.default_rng(11)
VOXELS = RNG.integers(-1000, 1000, (6, 8, 9)).astype("i2")


def read_with_itk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def refuse(folder: Path, error: type[Exception], message: str, **options: object) -> str:
    with pytest.raises(error, match=message) as caught:
        assemble(open_volume(folder, **options), 2)
    assert "Secret" not in str(caught.value)
    assert "IM0" not in str(caught.value)
    return str(caught.value)


class TestSeries:
    @pytest.mark.parametrize("kind", ["oblique", "permuted"])
    @pytest.mark.parametrize("seed", range(4))
    def test_is_what_itk_reads(self, tmp_path, kind, seed):
        direction = random_direction(np.random.default_rng(seed), kind)
        direction[:, 2] = np.cross(direction[:, 0], direction[:, 1])
        folder = save_series(tmp_path / "s", list(series(VOXELS, direction)))
        expected = read_with_itk(folder)
        volume = open_volume(folder)
        values = assemble(volume, 4)[0] * volume.slope + volume.intercept
        np.testing.assert_array_equal(values, sitk.GetArrayFromImage(expected))
        assert_same_grid(volume.geometry, itk_geometry(expected))

    def test_keeps_stored_values_and_modality(self, tmp_path):
        volume = open_volume(save_series(tmp_path / "s", list(series(VOXELS, RescaleSlope=2))))
        assert (volume.slope, volume.intercept, volume.modality) == (2, -1024, "CT")
        assert volume.geometry.spacing == pytest.approx((2.5, 0.7, 0.6))
        assert volume.geometry.origin == pytest.approx((-30, 20, -10))
        assert_holds(volume, VOXELS[None])

    @pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4"])
    def test_types(self, tmp_path, dtype):
        voxels = VOXELS.astype(dtype)
        volume = open_volume(save_series(tmp_path / "s", list(series(voxels))))
        assert volume.dtype == dtype
        assert_holds(volume, voxels[None])

    def test_fewer_bits_stored_than_allocated(self, tmp_path):
        packed = (VOXELS.view("u2") & 0xFFF) | 0x5000
        pieces = list(series(packed, BitsStored=12, HighBit=11, PixelRepresentation=1))
        assert_holds(open_volume(save_series(tmp_path / "s", pieces)), VOXELS[None])

    @pytest.mark.parametrize("seed", range(3))
    def test_order_is_by_position_whatever_names_and_numbers_say(self, tmp_path, seed):
        rng = np.random.default_rng(seed)
        pieces = list(series(VOXELS))
        for piece, number in zip(pieces, rng.permutation(6), strict=True):
            piece.InstanceNumber = int(number)
        names = [f"IM{n}" for n in rng.permutation(6)]
        assert_holds(open_volume(save_series(tmp_path / "s", pieces, names)), VOXELS[None])

    def test_a_slope_for_each_slice_gives_rescaled_floats(self, tmp_path):
        pieces = list(series(VOXELS))
        for n, piece in enumerate(pieces):
            piece.RescaleSlope, piece.RescaleIntercept = 0.5 + n, n
        folder = save_series(tmp_path / "s", pieces)
        volume = open_volume(folder)
        assert (volume.dtype, volume.slope, volume.intercept) == (np.float32, 1, 0)
        scale = np.arange(6).reshape(6, 1, 1)
        assert_holds(volume, (VOXELS * (scale + 0.5) + scale).astype("f4")[None])

    def test_a_box_decodes_its_own_slices_only(self, tmp_path):
        folder = save_series(tmp_path / "s", list(series(VOXELS)))
        volume = open_volume(folder)
        (folder / "IM0000").unlink()
        box = Box((1, 2, 3), (4, 8, 5))
        np.testing.assert_array_equal(volume.read(box), VOXELS[None][:, *box.slices])
        with pytest.raises(FormatError, match=r"slice at -30.00 mm \(InstanceNumber 6\) does not decode"):
            assemble(volume, 2)

    def test_other_files_in_the_folder_do_not_matter(self, tmp_path):
        folder = save_series(tmp_path / "s", list(series(VOXELS)))
        (folder / "LICENSE").write_text("text")
        (folder / "sub").mkdir()
        report = next(series(VOXELS))
        del report.Rows, report.Columns, report.PixelData
        pydicom.dcmwrite(folder / "report", report)
        assert_holds(open_volume(folder), VOXELS[None])

    def test_files_are_known_by_content_and_folders_by_files(self, tmp_path):
        folder = save_series(tmp_path / "v1.2", list(series(VOXELS[:2])), ["a", "b.1"])
        assert is_known(folder)
        assert is_known(folder / "b.1")
        assert case_stem(folder) == "v1.2"


class TestCompression:
    @pytest.mark.parametrize(
        "syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda s: s.keyword
    )
    @pytest.mark.parametrize("dtype", ["i2", "u2", "u1"])
    def test_lossless_syntaxes(self, tmp_path, syntax, dtype):
        voxels = (np.indices((4, 40, 44)).sum(0) * 2 - 50).astype(dtype)
        pieces = list(series(voxels))
        for piece in pieces:
            piece.compress(syntax, generate_instance_uid=False)
        assert_holds(open_volume(save_series(tmp_path / "s", pieces)), voxels[None])

    def test_lossless_jpeg(self, tmp_path):
        voxels = VOXELS.astype("u2")
        folder = save_series(tmp_path / "s", list(series(voxels)))
        for path in folder.iterdir():
            reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
            reader.SetFileName(str(path))
            assert reader.Read()
            change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
            change.SetInput(reader.GetImage())
            assert change.Change()
            writer.SetFileName(str(path))
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            assert writer.Write()
        assert_holds(open_volume(folder), voxels[None])

    def test_damaged_pixels_are_named_by_position(self, tmp_path):
        pieces = list(series(VOXELS))
        pieces[2].compress(RLELossless, generate_instance_uid=False)
        pieces[2].PixelData = pieces[2].PixelData[:70]
        folder = save_series(tmp_path / "s", pieces)
        refuse(
            folder, FormatError, r"slice at -25.00 mm \(InstanceNumber 4\) does not decode from RLE Lossless"
        )

    def test_a_truncated_file_is_named_by_position(self, tmp_path):
        folder = save_series(tmp_path / "s", list(series(VOXELS)))
        content = (folder / "IM0003").read_bytes()
        (folder / "IM0003").write_bytes(content[:-60])
        refuse(folder, FormatError, r"slice at -22.50 mm \(InstanceNumber 3\) does not decode")


class TestSeveralSeries:
    @pytest.fixture
    def folder(self, tmp_path):
        first, second = list(series(VOXELS)), list(series(-VOXELS[:4], SeriesNumber=2))
        return save_series(tmp_path / "s", [*second, *first])

    def test_are_listed_by_what_tells_them_apart_and_without_identifiers(self, folder):
        """A reference slice and two volumes in one folder (dcm2niix#894, Slicer#1007)."""
        uids = {pydicom.dcmread(path).SeriesInstanceUID for path in folder.iterdir()}
        message = refuse(
            folder,
            GeometryError,
            "holds 2 series, one is needed: 1: 6 slices of 8x9, 2.5x0.7x0.6 mm, axial; "
            "2: 4 slices of 8x9, 2.5x0.7x0.6 mm, axial. Set dicom.series",
        )
        assert not any(uid in message for uid in uids)

    @pytest.mark.parametrize(
        ("order", "plane"), [([0, 1, 2], "axial"), ([1, 2, 0], "sagittal"), ([2, 0, 1], "coronal")]
    )
    def test_orientation_is_that_of_the_normal(self, tmp_path, order, plane):
        pieces = [*series(VOXELS, np.eye(3)[:, order]), *series(VOXELS[:1], SeriesNumber=2)]
        message = refuse(save_series(tmp_path / "s", pieces), GeometryError, "2 series")
        assert f"1: 6 slices of 8x9, 2.5x0.7x0.6 mm, {plane}; 2: 1 slices of 8x9, ?x0.7x0.6 mm" in message

    def test_one_without_positions_is_listed_too(self, tmp_path):
        pieces = [*series(VOXELS, ImagePositionPatient=None), *series(VOXELS[:2], SeriesNumber=2)]
        refuse(
            save_series(tmp_path / "s", pieces), GeometryError, "1: 6 slices of 8x9; 2: 2 slices of 8x9, 2.5x"
        )

    def test_are_chosen_by_number_or_uid(self, folder):
        assert_holds(open_volume(folder, dicom_series="1"), VOXELS[None])
        uid = pydicom.dcmread(folder / "IM0000").SeriesInstanceUID
        assert_holds(open_volume(folder, dicom_series=uid), -VOXELS[None, :4])

    def test_an_unknown_choice_is_refused(self, folder):
        refuse(folder, GeometryError, "0 of 2 series match number 3 in dicom.series", dicom_series="3")
        assert "1.2.3" not in refuse(folder, GeometryError, "0 of 2 series match the S", dicom_series="1.2.3")

    def test_orientation_and_shape_make_series_too(self, tmp_path):
        uid = generate_uid()
        turned = random_direction(RNG, "oblique")
        turned[:, 2] = np.cross(turned[:, 0], turned[:, 1])
        parts = [series(VOXELS), series(VOXELS, turned), series(VOXELS[:, 1:])]
        pieces = [piece for part in parts for piece in part]
        for piece in pieces:
            piece.SeriesInstanceUID = uid
        folder = save_series(tmp_path / "s", pieces)
        refuse(folder, GeometryError, "holds 3 series")
        refuse(folder, GeometryError, "3 of 3 series match", dicom_series=str(uid))

    def test_localisers_are_set_aside_and_said(self, tmp_path):
        scout = list(
            series(VOXELS[:1, :, :3], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], InstanceNumber=77)
        )
        folder = save_series(tmp_path / "s", [*scout, *series(VOXELS)])
        assert_holds(volume := open_volume(folder), VOXELS[None])
        assert volume.notes == ("1 localiser(s) set aside: InstanceNumber 77",)
        only = save_series(tmp_path / "t", scout)
        refuse(only, FormatError, "no DICOM image but localisers")


class TestGrid:
    def test_a_missing_slice_is_refused(self, tmp_path):
        pieces = list(series(VOXELS))
        del pieces[3]
        refuse(
            save_series(tmp_path / "s", pieces),
            SpacingError,
            r"slices are 2.5 mm apart, but 5 mm between the slice at -25.00 mm \(InstanceNumber 4\) and "
            r"the slice at -20.00 mm \(InstanceNumber 2\) \(1 missing\?\)",
        )

    def test_a_step_that_is_a_little_off_is_refused(self, tmp_path):
        pieces = list(series(VOXELS))
        pieces[5].ImagePositionPatient[2] = float(pieces[5].ImagePositionPatient[2]) + 0.1
        refuse(save_series(tmp_path / "s", pieces), SpacingError, "2.5 mm apart, but 2.6 mm between")

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
        read, decode = [], dicom._decode
        monkeypatch.setattr(dicom, "_decode", lambda piece: read.append(piece.number) or decode(piece))
        assemble(volume, 4)
        assert read == [6, 5, 2, 1]

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


class TestSizes:
    """Headers that ask for more than their file can hold, before anything is allocated."""

    def test_of_plain_pixels(self, tmp_path):
        folder = save_series(tmp_path / "s", list(series(VOXELS, Rows=60000, Columns=60000)))
        with pytest.raises(FormatError, match=r"-30.00 mm \(InstanceNumber 6\) asks for 7200000000 bytes"):
            open_volume(folder)

    def test_of_compressed_pixels(self, tmp_path):
        pieces = list(series(VOXELS))
        for piece in pieces:
            piece.compress(RLELossless, generate_instance_uid=False)
            piece.Rows = piece.Columns = 60000
        folder = save_series(tmp_path / "s", pieces)
        with pytest.raises(FormatError, match=r"7200000000 bytes of pixels; the \d+ compressed bytes"):
            open_volume(folder)

    def test_an_empty_slice_may_compress_well(self, tmp_path):
        voxels = np.zeros((2, 512, 512), "i2")
        pieces = list(series(voxels))
        for piece in pieces:
            piece.compress(JPEG2000Lossless, generate_instance_uid=False)
        assert_holds(open_volume(save_series(tmp_path / "s", pieces)), voxels[None])


class TestPrivacy:
    def test_text_in_the_pixels_is_noted(self, tmp_path):
        """Names burned into pixels (pydicom#375)."""
        pieces = list(series(VOXELS))
        pieces[1].BurnedInAnnotation = pieces[4].BurnedInAnnotation = "YES"
        pieces[2].BurnedInAnnotation = "NO"
        assert open_volume(save_series(tmp_path / "s", pieces)).notes == (
            "BurnedInAnnotation is YES in 2 slices: text in the pixels may name the patient; it stays",
        )

    def test_what_pydicom_says_of_values_reaches_nobody(self, tmp_path):
        """Values that break the rules of their type are quoted in warnings, which end in logs of clusters."""
        pieces = list(series(VOXELS))
        for piece in pieces:
            piece.compress(RLELossless, generate_instance_uid=False)
            with pydicom.config.disable_value_validation():
                piece.add_new("SeriesInstanceUID", "UI", "1.Secret.2")
                piece.add_new("Modality", "CS", "ct secret")
                piece.add_new("PatientBirthDate", "DA", "19Secret")
                piece.add_new("PatientAge", "AS", "Secret")
        with pydicom.config.disable_value_validation():
            folder = save_series(tmp_path / "s", pieces)
        code = "import logging, sys, pathlib; from voxelmill.readers import open_volume as o\n"
        code += "logging.basicConfig(); list(o(pathlib.Path(sys.argv[1])).slabs(9))"
        for strictness in ("default", "error"):
            words = [sys.executable, "-W", strictness, "-c", code, str(folder)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            assert (done.stdout, done.stderr) == ("", "")

    def test_the_filters_of_the_process_stay_as_they_were(self, tmp_path):
        folder = save_series(tmp_path / "s", list(series(VOXELS)))
        before = list(warnings.filters)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: assemble(open_volume(folder), 2), range(8)))
        assert warnings.filters == before


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"NumberOfFrames": 6}, "multi-frame"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "are RGB; MONOCHROME is read"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "are PALETTE COLOR"),
        ({"BitsAllocated": 1}, "1 bits a pixel"),
        ({"ImagePositionPatient": None}, "no position or orientation"),
        ({"ImageOrientationPatient": None}, "no position or orientation"),
        ({"ImagePositionPatient": [0, "nan", 0]}, "no position or orientation"),
        ({"Rows": 0}, "0 rows and 9 columns"),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "look-up table"),
    ],
)
def test_what_is_not_read_is_refused(tmp_path, tags, message):
    with pydicom.config.disable_value_validation():
        folder = save_series(tmp_path / "s", list(series(VOXELS, **tags)))
    refuse(folder, FormatError, message)


def test_a_file_that_only_ends_in_dcm_is_refused(tmp_path):
    (tmp_path / "Secret.dcm").write_text("text")
    refuse(tmp_path, FormatError, "DICOM file 1 in the order of names has a header that cannot be read")


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "pydicom").exists(), reason="real volumes are absent")
def test_a_real_series_is_what_itk_reads():
    folder = DATA / "pydicom" / "CT5N"
    volume, expected = open_volume(folder), read_with_itk(folder)
    values = assemble(volume, 2)[0] * volume.slope + volume.intercept
    np.testing.assert_array_equal(values, sitk.GetArrayFromImage(expected))
    assert_same_grid(volume.geometry, itk_geometry(expected))
    assert (volume.modality, volume.geometry.shape) == ("CT", (5, 16, 16))
