"""DICOM series that pydicom writes, against ITK and against the arrays that went in."""

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
from pydicom.uid import BasicTextSRStorage, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid
from readers_support import (
    DATA,
    assemble,
    assert_holds,
    assert_same_grid,
    enhanced,
    itk_geometry,
    random_direction,
    refuse,
    save_series,
    series,
)

from voxelmill.basics.errors import FormatError, GeometryError
from voxelmill.basics.geometry import Box
from voxelmill.inputs.readers.formats import case_stem, is_known, open_volume

RNG = np.random.default_rng(11)
VOXELS = RNG.integers(-1000, 1000, (6, 8, 9)).astype("i2")


def read_with_itk(folder: Path) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


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
        report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
        pydicom.dcmwrite(folder / "report", report)
        volume = open_volume(folder)
        assert_holds(volume, VOXELS[None])
        assert volume.notes == ("1 DICOM file(s) without an image set aside",)

    @pytest.mark.parametrize("content", [bytes(128) + b"DICM" + b"Not found. " * 9, "cut"])
    def test_a_slice_that_is_no_slice_any_more_is_refused(self, tmp_path, content):
        """At an end of the series nothing but the file itself tells that a slice is gone."""
        folder = save_series(tmp_path / "s", list(series(VOXELS)))
        last = folder / "IM0005"
        last.write_bytes(last.read_bytes()[:500] if content == "cut" else content)
        refuse(folder, FormatError, "DICOM file 6 in the order of names has a header that cannot be read")

    def test_files_are_known_by_content_and_folders_by_files(self, tmp_path):
        folder = save_series(tmp_path / "v1.2", list(series(VOXELS[:2])), ["a", "b.1"])
        assert is_known(folder)
        assert is_known(folder / "b.1")
        assert case_stem(folder) == "v1.2"


BARE = {  # what writes a data set as old archives hold it
    "implicit": {"implicit_vr": True, "little_endian": True},
    "explicit": {"implicit_vr": False, "little_endian": True},
    "big-endian": {"implicit_vr": False, "little_endian": False},
}


def save_bare(folder: Path, pieces: list, ending: str = "", encoding: str = "implicit") -> Path:
    """A series without preamble, mark and meta group."""
    folder.mkdir()
    for n, piece in enumerate(pieces):
        if encoding == "big-endian":
            piece.PixelData = np.frombuffer(piece.PixelData, "<i2").astype(">i2").tobytes()
        bare = pydicom.Dataset(piece)
        pydicom.dcmwrite(folder / f"IM{n:04d}{ending}", bare, enforce_file_format=False, **BARE[encoding])
    return folder


class TestWithoutPreamble:
    """Data sets of old research archives, which GDCM and `dcmread(force=True)` read."""

    @pytest.mark.parametrize("encoding", BARE)
    @pytest.mark.parametrize("ending", ["", ".dcm", ".IMA", ".1"])
    def test_a_folder_is_known_by_content(self, tmp_path, encoding, ending):
        folder = save_bare(tmp_path / "s", list(series(VOXELS)), ending, encoding)
        with (folder / f"IM0000{ending}").open("rb") as file:
            assert file.read(2) in (b"\x08\0", b"\0\x08")
        (folder / "notes").write_text("text")
        volume = open_volume(folder)
        assert_holds(volume, VOXELS[None])
        assert volume.geometry == open_volume(save_series(tmp_path / "t", list(series(VOXELS)))).geometry
        assert (volume.slope, volume.intercept, volume.modality) == (1, -1024, "CT")
        assert is_known(folder / f"IM0000{ending}")
        if encoding != "big-endian":
            np.testing.assert_array_equal(
                sitk.GetArrayFromImage(read_with_itk(folder)), VOXELS.astype("i4") - 1024
            )

    def test_a_file_of_many_frames(self, tmp_path):
        whole = enhanced(list(series(VOXELS)))
        folder = save_bare(tmp_path / "s", [whole], encoding="explicit")
        assert_holds(open_volume(folder), VOXELS[None])

    def test_a_meta_group_without_preamble(self, tmp_path):
        folder = save_series(tmp_path / "s", list(series(VOXELS)))
        for path in folder.iterdir():
            path.write_bytes(path.read_bytes()[132:])
        assert_holds(open_volume(folder), VOXELS[None])

    def test_a_file_that_does_not_state_its_transfer_syntax(self, tmp_path):
        folder = save_series(tmp_path / "s", list(series(VOXELS)))
        for path in folder.iterdir():
            content = path.read_bytes()
            end = content.index(b"\x02\0\x10\0UI")
            path.write_bytes(content[:end] + content[end + 28 :])  # 1.2.840.10008.1.2.1, and its head
        assert_holds(open_volume(folder), VOXELS[None])

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x08",
            b"\x08\0",
            b"\x08\0" * 3000,  # voxels of 8
            b"\0\x08" * 3000,
            b"\x08\0\x05\0CS",
            b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + bytes(2000),  # one element, then nothing
            b"\x08\0\x05\0\x02\0\0\0ab" * 9,  # one tag again and again
            b"\x02\0\0\0" * 2000,
            b"\x02\0\0\0\x0a\0\0\0",
            np.arange(8, 4000, dtype="<u2").tobytes(),
            np.arange(8, 4000, dtype="<u4").tobytes(),
            b"\x08\0text that follows" * 200,
        ],
        ids=lambda content: repr(content[:12]),
    )
    def test_other_files_are_none(self, tmp_path, content):
        (tmp_path / "a").write_bytes(content)
        assert not is_known(tmp_path / "a")
        assert not is_known(tmp_path)

    def test_text_that_is_called_ima_is_refused(self, tmp_path):
        (tmp_path / "Secret.ima").write_text("text" * 100)
        with pytest.raises(FormatError, match="DICOM") as caught:
            open_volume(tmp_path / "Secret.ima")
        assert "Secret" not in str(caught.value)


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
        code = "import logging, sys, pathlib; from voxelmill.inputs.readers.formats import open_volume as o\n"
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
        ({"NumberOfFrames": 6}, "is multi-frame and holds 6 frames"),
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
