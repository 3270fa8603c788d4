"""DICOM files of many frames: the volume that the same slices make as files of their own."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from readers_support import (
    assemble,
    assert_holds,
    assert_same_grid,
    enhanced,
    itk_geometry,
    peak_bytes,
    random_direction,
    refuse,
    save_series,
    series,
)

from voxelmill.basics.errors import FormatError, GeometryError, SpacingError
from voxelmill.config.repair_settings import RepairConfig
from voxelmill.inputs.readers.formats import open_volume

RNG = np.random.default_rng(12)
VOXELS = RNG.integers(-1000, 1000, (6, 8, 9)).astype("i2")


def saved(folder, *files):
    return save_series(folder, list(files))


def assert_same(volume, other):
    """The same grid, voxels and scale."""
    np.testing.assert_array_equal(assemble(volume, 4), assemble(other, 4))
    assert volume.geometry == other.geometry
    assert (volume.slope, volume.intercept, volume.dtype) == (other.slope, other.intercept, other.dtype)
    assert volume.modality == other.modality


class TestRead:
    @pytest.mark.parametrize("seed", range(4))
    def test_is_what_one_file_per_slice_is(self, tmp_path, seed):
        direction = random_direction(np.random.default_rng(seed), "oblique")
        direction[:, 2] = np.cross(direction[:, 0], direction[:, 1])
        pieces = list(series(VOXELS, direction))
        alone = open_volume(save_series(tmp_path / "alone", pieces))
        RNG.shuffle(pieces)
        assert_same(open_volume(saved(tmp_path / "frames", enhanced(pieces))), alone)

    @pytest.mark.parametrize(
        ("syntax", "dtype"),
        [
            (ExplicitVRLittleEndian, "i2"),
            (ExplicitVRLittleEndian, "u1"),
            (ImplicitVRLittleEndian, "u4"),
            (RLELossless, "i2"),
            (JPEGLSLossless, "u2"),
            (JPEG2000Lossless, "u2"),
        ],
    )
    def test_encodings(self, tmp_path, syntax, dtype):
        voxels = RNG.integers(0, 200, (5, 41, 53)).astype(dtype)
        whole = enhanced(list(series(voxels)))
        if syntax.is_compressed:
            whole.compress(syntax)
        whole.file_meta.TransferSyntaxUID = syntax
        assert_holds(open_volume(saved(tmp_path / "s", whole)), voxels[None])

    def test_big_endian(self, tmp_path):
        whole = enhanced(list(series(VOXELS)))
        whole.PixelData = VOXELS.astype(">i2").tobytes()
        whole.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        folder = tmp_path / "s"
        folder.mkdir()
        pydicom.dcmwrite(folder / "a", whole, implicit_vr=False, little_endian=False)
        assert_holds(open_volume(folder), VOXELS[None])

    def test_is_what_itk_reads(self, tmp_path):
        folder = saved(tmp_path / "s", enhanced(list(series(VOXELS)), SliceThickness=2.5))
        volume = open_volume(folder)
        image = sitk.ReadImage(str(folder / "IM0000"))
        values = assemble(volume, 4)[0] * volume.slope + volume.intercept
        np.testing.assert_array_equal(values, sitk.GetArrayFromImage(image))
        assert_same_grid(volume.geometry, itk_geometry(image))

    def test_is_what_highdicom_converted(self, tmp_path):
        """Another program's choice of what is shared and what is not."""
        legacy = pytest.importorskip("highdicom.legacy")
        named = ("StudyDate", "StudyTime", "StudyID", "PatientBirthDate", "PatientSex", "Laterality")
        named += ("ReferringPhysicianName", "PositionReferenceIndicator", "BodyPartExamined")
        tags = dict.fromkeys(named, "")
        tags |= {"PatientID": "x", "PatientPosition": "HFS", "Manufacturer": "m", "AcquisitionNumber": 1}
        tags |= {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()}
        pieces = list(series(VOXELS, SliceThickness=2.5, **tags))
        whole = legacy.LegacyConvertedEnhancedCTImage(pieces, generate_uid(), 1, generate_uid(), 1)
        alone = open_volume(save_series(tmp_path / "alone", pieces))
        assert_same(open_volume(saved(tmp_path / "s", whole)), alone)

    def test_what_a_frame_states_goes_before_what_all_share(self, tmp_path):
        whole = enhanced(list(series(VOXELS)))
        for n, groups in enumerate(whole.PerFrameFunctionalGroupsSequence):
            item = pydicom.Dataset()
            item.RescaleSlope, item.RescaleIntercept = 1 + n, -n
            groups.PixelValueTransformationSequence = [item]
        slopes = np.arange(1, 7).reshape(6, 1, 1)
        assert_holds(
            open_volume(saved(tmp_path / "s", whole)), (VOXELS * slopes - slopes + 1.0).astype("f4")[None]
        )

    def test_a_series_of_several_files(self, tmp_path):
        pieces = list(series(VOXELS))
        alone = open_volume(save_series(tmp_path / "alone", pieces))
        parts = [enhanced(pieces[4:]), pieces[3], enhanced(pieces[:3])]
        assert_same(open_volume(saved(tmp_path / "s", *parts)), alone)

    def test_a_file_that_describes_its_only_frame(self, tmp_path):
        whole = enhanced(list(series(VOXELS[:1])))
        whole.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness = 3
        volume = open_volume(saved(tmp_path / "s", whole))
        assert volume.geometry.spacing[0] == 3
        assert_holds(volume, VOXELS[None, :1])

    def test_one_frame_at_a_time_is_held(self, tmp_path):
        volume = open_volume(saved(tmp_path / "s", enhanced(list(series(np.zeros((40, 256, 256), "i2"))))))
        assert peak_bytes(volume) < volume.slice_bytes + volume.extra_bytes < 8 * volume.slice_bytes

    def test_the_head_of_a_file_is_read_once(self, tmp_path, monkeypatch):
        volume = open_volume(saved(tmp_path / "s", enhanced(list(series(VOXELS)))))
        read, real = [], pydicom.dcmread
        monkeypatch.setattr(pydicom, "dcmread", lambda *a, **k: read.append(1) or real(*a, **k))
        assemble(volume, 4)
        assert len(read) == 1


class TestRepair:
    def test_a_frame_that_is_missing_is_put_in(self, tmp_path):
        pieces = list(series(VOXELS))
        del pieces[3]
        folder = saved(tmp_path / "s", enhanced(pieces))
        refuse(
            folder,
            SpacingError,
            r"5 mm between the slice at -25.00 mm \(InstanceNumber 6, frame 3\) and the slice at -20.00 mm "
            r"\(InstanceNumber 6, frame 4\) \(1 missing\?\)",
        )
        alone = open_volume(save_series(tmp_path / "alone", pieces), repair=RepairConfig(irregular="fill"))
        assert_same(open_volume(folder, repair=RepairConfig(irregular="fill")), alone)

    def test_time_points(self, tmp_path):
        """Frames of a second time point lie where those of the first one do."""
        later = list(series(VOXELS + 1))
        folder = saved(tmp_path / "s", enhanced([*series(VOXELS), *later]))
        refuse(folder, SpacingError, r"two slices lie at one position, .*frame 1\) and .*frame 7\)")
        assert_holds(open_volume(folder, repair=RepairConfig(duplicates="first")), VOXELS[None])

    def test_stacks_of_two_orientations(self, tmp_path):
        whole = enhanced(list(series(VOXELS)))
        for groups in whole.PerFrameFunctionalGroupsSequence[3:]:
            item = pydicom.Dataset()
            item.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
            groups.PlaneOrientationSequence = [item]
        refuse(
            saved(tmp_path / "s", whole), GeometryError, r"holds 2 series, one is needed: 1: 3 slices of 8x9"
        )


class TestRefused:
    def test_frames_that_are_not_described(self, tmp_path):
        whole = enhanced(list(series(VOXELS)))
        del whole.PerFrameFunctionalGroupsSequence[4:]
        refuse(
            saved(tmp_path / "s", whole),
            FormatError,
            "multi-frame and holds 6 frames, but describes where 4 of them lie",
        )

    def test_a_frame_without_a_position(self, tmp_path):
        whole = enhanced(list(series(VOXELS)))
        del whole.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
        refuse(saved(tmp_path / "s", whole), FormatError, "state no position or orientation")

    @pytest.mark.parametrize(
        ("is_compressed", "message"),
        [
            (False, "asks for 24000 bytes of pixels"),
            (True, r"frame [34]\).* does not decode from RLE Lossless"),
        ],
    )
    def test_cut_off(self, tmp_path, is_compressed, message):
        whole = enhanced(list(series(RNG.integers(-1000, 1000, (6, 40, 50)).astype("i2"))))
        if is_compressed:
            whole.compress(RLELossless)
        folder = saved(tmp_path / "s", whole)
        content = (folder / "IM0000").read_bytes()
        (folder / "IM0000").write_bytes(content[: len(content) // 2])
        refuse(folder, FormatError, message)

    def test_a_look_up_table_for_all_frames(self, tmp_path):
        whole = enhanced(list(series(VOXELS)), ModalityLUTSequence=[pydicom.Dataset()])
        refuse(saved(tmp_path / "s", whole), FormatError, "look-up table")

    def test_deflated_as_a_whole(self, tmp_path):
        whole = enhanced(list(series(VOXELS)))
        whole.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        refuse(saved(tmp_path / "s", whole), FormatError, "deflated as a whole")

    def test_floats(self, tmp_path):
        whole = enhanced(list(series(np.zeros((6, 8, 9), "u4"))))
        del whole.PixelData
        whole.FloatPixelData = np.zeros((6, 8, 9), "f4").tobytes()
        refuse(
            saved(tmp_path / "s", whole),
            FormatError,
            "frame 1.* does not decode from Explicit VR",
        )
