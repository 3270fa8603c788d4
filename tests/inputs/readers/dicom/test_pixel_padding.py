"""Voxels that DICOM marks as holding nothing: the lowest value of all others, or kept."""

import numpy as np
import pydicom
import pytest
import runs
import SimpleITK as sitk  # noqa: N813
import zarr
from pydicom.dataelem import DataElement
from readers_support import assemble, assert_holds, enhanced, peak_bytes, save_series, series

from voxelmill.basics.errors import SettingsChangedError
from voxelmill.config.load_settings import load_config
from voxelmill.config.repair_settings import RepairConfig
from voxelmill.inputs.readers.formats import open_volume

RNG = np.random.default_rng(3)
VOXELS = RNG.integers(-1000, 1000, (6, 8, 9)).astype("i2")
CIRCLE = np.hypot(*(np.indices((8, 9)) - 4)) > 4
"""Beyond what the scanner reconstructs."""


def padded(folder, stated, *, kind="US", held=None, voxels=VOXELS, limit=None, **tags):
    """A series with voxels beyond a circle that hold `held`; `stated` and `limit` are written with a type."""
    voxels = voxels.copy()
    voxels[:, CIRCLE] = stated if held is None else held
    pieces = list(series(voxels, **tags))
    for piece in pieces:
        for element, value in ((0x00280120, stated), (0x00280121, limit)):
            if value is not None:
                with pydicom.config.disable_value_validation():
                    piece[element] = DataElement(element, kind, value)
    return save_series(folder, pieces), voxels


def expected(voxels, lowest):
    return np.where(CIRCLE, lowest, voxels).astype(voxels.dtype)


LOW = VOXELS[:, ~CIRCLE].min()
UNSIGNED = (VOXELS.astype("i4") + 1024).astype("u2")


class TestReplaced:
    @pytest.mark.parametrize(
        ("kind", "stated", "held", "voxels"),
        [
            ("SS", -2000, -2000, VOXELS),
            ("US", 63536, -2000, VOXELS),  # the same bits
            ("US", 63536, 63536, UNSIGNED),  # 62,512 HU
            ("SS", -2000, 63536, UNSIGNED),
            ("US", 3000, 3000, VOXELS),
            ("SS", -2000, -2000, VOXELS.astype("i4")),
            ("US", 7, 7, (UNSIGNED // 9 + 8).astype("u1")),
        ],
    )
    def test_by_the_lowest_of_all_others(self, tmp_path, kind, stated, held, voxels):
        folder, voxels = padded(tmp_path / "s", stated, kind=kind, held=held, voxels=voxels)
        lowest = voxels[:, ~CIRCLE].min()
        volume = open_volume(folder)
        assert volume.notes == ()
        assert_holds(volume, expected(voxels, lowest)[None])
        (note,) = volume.notes
        assert note == (
            f"PixelPaddingValue {held} ({held - 1024} once rescaled) in {CIRCLE.sum() * 6} voxels became "
            f"{int(lowest) - 1024}, the lowest of all others"
        )

    @pytest.mark.parametrize(("stated", "limit"), [(-2000, -1500), (-1500, -2000)])
    def test_a_range(self, tmp_path, stated, limit):
        held = RNG.integers(-2000, -1499, (6, CIRCLE.sum()))
        folder, voxels = padded(tmp_path / "s", stated, kind="SS", held=held, limit=limit)
        volume = open_volume(folder)
        assert_holds(volume, expected(voxels, LOW)[None])
        assert volume.notes[0].startswith(
            "PixelPaddingValue -2000 to -1500 (-3024 to -2524 once rescaled) in "
        )

    def test_of_the_series_not_of_the_slab(self, tmp_path):
        """The lowest value is in the last slice; slabs and boxes of the first ones have it all the same."""
        voxels = np.abs(VOXELS)
        voxels[5, 4, 4] = -1017
        folder, voxels = padded(tmp_path / "s", -2000, kind="SS", voxels=voxels)
        assert_holds(open_volume(folder), expected(voxels, -1017)[None])

    def test_where_values_fall_as_stored_ones_rise(self, tmp_path):
        folder, voxels = padded(tmp_path / "s", 5000, RescaleSlope=-1)
        volume = open_volume(folder)
        high = voxels[:, ~CIRCLE].max()
        assert_holds(volume, expected(voxels, high)[None])
        assert f"became {-1024 - high}, the lowest" in volume.notes[0]

    def test_where_each_slice_has_a_slope(self, tmp_path):
        folder, voxels = padded(tmp_path / "s", -2000, kind="SS")
        for n, path in enumerate(sorted(folder.iterdir())):
            piece = pydicom.dcmread(path)
            piece.RescaleSlope = n + 1
            piece.save_as(path)
        values = (voxels * np.arange(1.0, 7).reshape(6, 1, 1) - 1024).astype("f4")
        assert_holds(open_volume(folder), np.where(CIRCLE, values[:, ~CIRCLE].min(), values)[None])

    def test_before_missing_slices_are_put_in(self, tmp_path):
        folder, voxels = padded(tmp_path / "s", -2000, kind="SS")
        (folder / "IM0003").unlink()
        found = assemble(open_volume(folder, repair=RepairConfig(irregular="fill")), 2)[0]
        assert (found[:, CIRCLE] == np.delete(voxels, 3, 0)[:, ~CIRCLE].min()).all()

    def test_a_file_of_many_frames(self, tmp_path):
        voxels = expected(VOXELS, -2000)
        whole = enhanced(list(series(voxels)), PixelPaddingValue=-2000)
        assert_holds(open_volume(save_series(tmp_path / "s", [whole])), expected(voxels, LOW)[None])

    def test_memory_stays_within_what_is_stated(self, tmp_path):
        voxels = np.zeros((4, 512, 512), "i2")
        voxels[:, :200] = -2000
        folder = save_series(tmp_path / "s", list(series(voxels, PixelPaddingValue=-2000)))
        volume = open_volume(folder)
        assert peak_bytes(volume) < volume.slice_bytes + volume.extra_bytes
        assert (assemble(volume, 2) == 0).all()


class TestKept:
    def test_as_itk_reads_it(self, tmp_path):
        folder, voxels = padded(tmp_path / "s", 63536, voxels=UNSIGNED)
        volume = open_volume(folder, dicom_padding="keep")
        assert volume.notes == ("PixelPaddingValue 63536 (62512 once rescaled) is kept",)
        assert_holds(volume, voxels[None])
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(reader.Execute()), voxels.astype("i4") - 1024)

    @pytest.mark.parametrize(
        ("stated", "tags", "options"),
        [
            (0, {"RescaleIntercept": 0}, {}),  # background of MR
            (63536, {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}, {}),  # not among its values
            (5, {}, {"is_label": True}),
        ],
    )
    def test_where_it_is_background_or_cannot_be_or_a_label(self, tmp_path, stated, tags, options):
        folder, voxels = padded(tmp_path / "s", stated, held=0, voxels=(UNSIGNED // 2), **tags)
        volume = open_volume(folder, **options)
        assert_holds(volume, voxels[None])
        assert volume.notes == ()

    def test_where_no_voxel_holds_it_or_every_one_does(self, tmp_path):
        none, voxels = padded(tmp_path / "s", -2000, kind="SS", held=7)
        every, _ = padded(tmp_path / "t", -2000, kind="SS", voxels=np.full_like(VOXELS, -2000))
        for folder, wanted in ((none, voxels), (every, np.full_like(VOXELS, -2000))):
            volume = open_volume(folder)
            assert_holds(volume, wanted[None])
            assert volume.notes == ()

    def test_the_preset_of_nnunet_keeps_it(self):
        assert load_config().dicom.padding == "minimum"
        assert load_config("nnunet").dicom.padding == "keep"
        assert load_config("nnunet", settings=["dicom.padding=minimum"]).dicom.padding == "minimum"
        assert load_config("nnunet").dicom.padding == "keep"


class TestRun:
    def run(self, folder, name, **settings):
        (case,) = runs.process(folder / "s", folder / name, channels=["CT"], **settings).cases
        assert case.cause is None, case.cause
        return case

    def test_statistics_are_without_it_and_a_change_is_noticed(self, tmp_path):
        padded(tmp_path / "s", 63536, voxels=UNSIGNED)
        case = self.run(tmp_path, "out")
        assert "PixelPaddingValue 63536 (62512 once rescaled) in" in case.notes[-1]
        raw = zarr.open_group(tmp_path / "out" / "raw.zarr" / case.case, mode="r")["image"][:]
        assert raw.max() == UNSIGNED[:, ~CIRCLE].max()
        assert (
            runs.fingerprint(tmp_path / "out")["foreground_intensity_properties_per_channel"]["0"]["max"]
            < 1000
        )
        with pytest.raises(SettingsChangedError, match=r"dicom.padding was minimum, is keep"):
            self.run(tmp_path, "out", dicom={"padding": "keep"})
        self.run(tmp_path, "kept", dicom={"padding": "keep"})
        stated = runs.fingerprint(tmp_path / "kept")["foreground_intensity_properties_per_channel"]["0"]
        assert stated["max"] == 62512
