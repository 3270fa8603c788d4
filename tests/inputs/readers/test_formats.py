"""The registry, NIfTI and .npy: against nibabel, ITK and NumPy."""

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from readers_support import (
    DATA,
    assemble,
    assert_holds,
    assert_same_grid,
    channels_first,
    itk_geometry,
    random_image,
)

from voxelmill.basics.errors import FormatError, GeometryError, SpacingError
from voxelmill.basics.geometry import Geometry
from voxelmill.basics.volume import Repair
from voxelmill.config.repair_settings import RepairConfig
from voxelmill.inputs.readers import formats
from voxelmill.inputs.readers.formats import open_volume
from voxelmill.inputs.readers.shared import decompression


def nifti(array: np.ndarray, affine: np.ndarray | None = None, kind: type = nibabel.Nifti1Image) -> object:
    return kind(array, np.diag([1.0, 2, 3, 1]) if affine is None else affine)


def save(image: object, path: Path) -> Path:
    nibabel.save(image, path)
    return path


class TestRegistry:
    @pytest.mark.parametrize(
        "name", ["a.b.nii.gz", "a.b.NII", "a.b.mha", "a.b.mhd", "a.b.nrrd", "a.b.npy", "a.b"]
    )
    def test_stem_loses_only_the_ending_of_the_format(self, name):
        assert formats.case_stem(Path(name)) == "a.b"

    def test_a_known_ending_needs_no_file(self, tmp_path):
        assert formats.is_known(tmp_path / "x.nii.gz")
        assert not formats.is_known(tmp_path / "x.txt")
        assert not formats.is_known(tmp_path)

    def test_missing_unknown_and_empty_are_refused_without_names(self, tmp_path):
        (tmp_path / "secret.txt").write_text("x")
        (tmp_path / "secret").mkdir()
        for name, message in {
            "secret.nii": "the file is missing",
            "secret.mha": "the file is missing",
            "secret.nrrd": "the file is missing",
            "secret.npy": "the file is missing",
            "secret.dat": "the file is missing",
            "secret.txt": "ending in '.txt' is of no known format",
            "secret": "holds no DICOM file",
        }.items():
            with pytest.raises(FormatError, match=message) as caught:
                open_volume(tmp_path / name, spacing=(1, 1, 1))
            assert "secret" not in str(caught.value)

    def test_libraries_are_imported_only_when_needed(self):
        code = "import sys; "
        code += (
            "import voxelmill.inputs.readers.formats, voxelmill.inputs.sources.discover; print(*sys.modules)"
        )
        loaded = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        assert not {"pydicom", "nibabel", "SimpleITK"} & set(loaded.split())

    def test_given_spacing_goes_before_the_file(self, tmp_path):
        path = save(nifti(np.zeros((3, 4, 5), "u1")), tmp_path / "a.nii")
        assert open_volume(path).geometry.spacing == (3, 2, 1)
        assert open_volume(path, spacing=(9, 8, 7)).geometry.spacing == (9, 8, 7)


class TestNifti:
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("kind", ["oblique", "left-handed", "permuted"])
    def test_is_what_itk_reads(self, tmp_path, kind, ending):
        rng = np.random.default_rng(5)
        for dtype in ("u1", "i2", "u2", "i4", "f4", "f8"):
            path = tmp_path / f"a{ending}"
            sitk.WriteImage(random_image(rng, kind, dtype), path)
            expected = sitk.ReadImage(path)
            volume = open_volume(path)
            assert_holds(volume, channels_first(expected))
            assert_same_grid(volume.geometry, itk_geometry(expected))
            assert volume.geometry.spacing == pytest.approx(expected.GetSpacing()[::-1], abs=0)

    @pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("dtype", ["<i2", ">i2", ">f4", ">f8", "u1"])
    def test_four_dimensions_are_channels(self, tmp_path, dtype, ending, kind):
        array = np.random.default_rng(1).integers(0, 200, (4, 5, 6, 3)).astype(dtype)
        header = kind.header_class(endianness=">" if ">" in dtype else "<")
        header.set_data_dtype(dtype)
        path = save(kind(array, np.eye(4), header), tmp_path / f"a{ending}")
        stored = np.asanyarray(nibabel.load(path).dataobj.get_unscaled())
        assert stored.dtype == np.dtype(dtype)
        assert_holds(open_volume(path), stored.T)

    def test_vectors_at_one_time_point_are_channels(self, tmp_path):
        array = np.arange(4 * 5 * 6 * 3, dtype="f4").reshape(4, 5, 6, 1, 3)
        assert_holds(open_volume(save(nifti(array), tmp_path / "a.nii")), array[:, :, :, 0].T)
        twice = np.zeros((4, 5, 6, 2, 3), "f4")
        with pytest.raises(FormatError, match=r"dimensions \(4, 5, 6, 2, 3\)"):
            open_volume(save(nifti(twice), tmp_path / "b.nii"))

    def test_two_dimensions_are_one_slice(self, tmp_path):
        array = np.arange(20, dtype="i2").reshape(4, 5)
        assert_holds(open_volume(save(nifti(array), tmp_path / "a.nii")), array.T[None, None])

    def test_slope_and_intercept_give_what_nibabel_gives(self, tmp_path):
        image = nifti(np.arange(60, dtype="i2").reshape(3, 4, 5))
        image.header.set_slope_inter(0.5, -10)
        path = save(image, tmp_path / "a.nii")
        volume = open_volume(path)
        values = assemble(volume, 2)[0] * volume.slope + volume.intercept
        np.testing.assert_array_equal(values, nibabel.load(path).get_fdata().T)

    @pytest.mark.parametrize("slope", [0.0, float("nan")])
    def test_slope_of_zero_or_nan_is_none(self, tmp_path, slope):
        path = patched(tmp_path, scl_slope=slope, scl_inter=5.0)
        assert (open_volume(path).slope, open_volume(path).intercept) == (1, 0)

    def test_micrometres_become_millimetres(self, tmp_path):
        image = nifti(np.zeros((3, 4, 5), "u1"))
        image.header.set_xyzt_units("micron")
        geometry = open_volume(save(image, tmp_path / "a.nii")).geometry
        np.testing.assert_allclose(geometry.spacing, (0.003, 0.002, 0.001), rtol=1e-6)

    def test_without_orientation_the_grid_is_itks(self, tmp_path):
        path = patched(tmp_path, sform_code=0, qform_code=0)
        assert_same_grid(open_volume(path).geometry, itk_geometry(sitk.ReadImage(path)))

    def test_orientation_from_the_quaternion_alone(self, tmp_path):
        path = tmp_path / "a.nii"
        sitk.WriteImage(random_image(np.random.default_rng(3), "left-handed"), path)
        expected = itk_geometry(sitk.ReadImage(path))
        header = bytearray(path.read_bytes())
        header[254:256] = b"\0\0"  # sform_code
        path.write_bytes(header)
        assert_same_grid(open_volume(path).geometry, expected)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, SpacingError, r"spacing \(1.0, 1.0, 0.0\) mm"),
            ({"pixdim": [1, np.nan, 1, 1, 0, 0, 0, 0]}, SpacingError, "nan"),
            ({"datatype": 1792}, FormatError, "complex128"),
            ({"datatype": 128}, FormatError, "integers and floats"),
            ({"datatype": 77}, FormatError, "data type 77"),
            (
                {"dim": [3, 300, 4, 5, 1, 1, 1, 1]},
                FormatError,
                "asks for 6000 bytes of voxels, the file holds 60",
            ),
            (
                {"dim": [3, 3, 4, 2, 1, 1, 1, 1]},
                FormatError,
                "asks for 24 bytes of voxels, the file holds 60",
            ),
            ({"dim": [3, 3, 0, 5, 1, 1, 1, 1]}, FormatError, r"dimensions \(3, 0, 5\)"),
            ({"magic": b"ni1"}, FormatError, "magic"),
            ({"sizeof_hdr": 12}, FormatError, "does not start with a NIfTI"),
            ({"quatern_b": 3.0, "qform_code": 1, "sform_code": 0}, GeometryError, "quaternion"),
        ],
    )
    def test_wrong_headers_are_refused(self, tmp_path, change, error, message):
        with pytest.raises(error, match=message):
            open_volume(patched(tmp_path, **change))

    def test_zero_spacing_is_mended_by_a_given_one(self, tmp_path):
        path = patched(tmp_path, pixdim=[1, 0, 1, 1, 0, 0, 0, 0], sform_code=0)
        assert open_volume(path, spacing=(4, 3, 2)).geometry.spacing == (4, 3, 2)


class TestContradictions:
    """Headers of which one half is from a registration or from another program."""

    TURNED = np.array([[0, -2.0, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])

    def both(self, folder, sform, qform, **fields):
        """A file with both forms; pixdim is the qform's."""
        image = nifti(np.zeros((3, 4, 5), "u1"))
        image.header.set_sform(sform, 1)
        image.header.set_qform(qform, 2, strip_shears=True)
        return write_header(folder, image.header, **fields)

    def test_forms_that_agree_are_one(self, tmp_path):
        path = self.both(tmp_path, self.TURNED, self.TURNED)
        volume = open_volume(path)
        assert volume.repairs == ()
        assert volume.geometry.spacing == (3, 2, 1)
        for affine in ("sform", "qform"):
            chosen = open_volume(path, repair=RepairConfig(affine=affine))
            assert chosen.repairs == ()
            assert chosen.geometry.displacement(volume.geometry) < 1e-6

    @pytest.mark.parametrize("qform", [np.diag([1.0, 2, 3, 1]), "moved"])
    @pytest.mark.parametrize("affine", ["refuse", "sform"])
    def test_forms_that_differ_in_place_alone_leave_the_sform_and_a_note(self, tmp_path, qform, affine):
        """An atlas whose sform is of a template, and whose qform begins at 0, or is turned."""
        if isinstance(qform, str):
            qform = self.TURNED.copy()
            qform[:3, 3] = 0
        volume = open_volume(self.both(tmp_path, self.TURNED, qform), repair=RepairConfig(affine=affine))
        assert_same_grid(volume.geometry, Geometry.from_ras_affine((3, 4, 5), self.TURNED))
        assert (volume.repairs, volume.otherwise) == ((), ("repair.affine=qform",))
        (note,) = volume.notes
        assert note.startswith("sform and qform of the NIfTI header place a corner 1")
        assert note.endswith(
            "voxels apart: sform has origin (7, -6, -5) mm (z, y, x), qform (0, 0, 0); sform holds"
        )

    def test_the_qform_holds_where_it_is_chosen(self, tmp_path):
        path = self.both(tmp_path, self.TURNED, np.diag([1.0, 2, 3, 1]))
        volume = open_volume(path, repair=RepairConfig(affine="qform"))
        assert_same_grid(volume.geometry, Geometry.from_ras_affine((3, 4, 5), np.diag([1.0, 2, 3, 1])))
        (repair,) = volume.repairs
        assert (repair.setting, volume.notes, volume.otherwise) == ("repair.affine=qform", (), ())
        assert repair.what.endswith("; qform holds")

    SHEARED = np.array([[1.0, 0, 0, 0], [0, 2, 1, 0], [0, 0, 3, 0], [0, 0, 0, 1]])

    @pytest.mark.parametrize(
        ("sform", "fields", "message"),
        [
            (TURNED * [1, 1, -1, 1], {}, ": sform is left-handed, qform right-handed"),
            (TURNED * [1, 1, 1.2, 1], {}, r": sform has spacing (3.6, 2, 1) mm (z, y, x), qform (3, 2, 1)"),
            (
                SHEARED,
                {"pixdim": [1, 1, 2, np.sqrt(10), 0, 0, 0, 0]},
                "sform are 18.4 degrees off right angles",
            ),
        ],
    )
    def test_forms_of_other_shapes_are_refused_with_both(self, tmp_path, sform, fields, message):
        path = self.both(tmp_path, sform, self.TURNED, **fields)
        found = refused(path, GeometryError)
        assert found.startswith("sform and qform of the NIfTI header make grids of different shapes: ")
        assert message in found
        assert found.endswith("--set repair.affine=sform or repair.affine=qform.")
        for affine in ("sform", "qform"):
            volume = open_volume(path, repair=RepairConfig(affine=affine))
            assert [repair.setting for repair in volume.repairs] == [f"repair.affine={affine}"]
            wanted = sform if affine == "sform" else self.TURNED
            assert volume.geometry.origin == Geometry.from_ras_affine((3, 4, 5), wanted).origin

    def test_less_than_a_tenth_of_a_voxel_is_rounding(self, tmp_path):
        near, far = np.diag([1.0, 2, 3, 1]), np.diag([1.0, 2, 3, 1])
        near[0, 3], far[0, 3] = 0.09, 0.11
        assert open_volume(self.both(tmp_path, near, np.diag([1.0, 2, 3, 1]))).notes == ()
        (note,) = open_volume(self.both(tmp_path, far, np.diag([1.0, 2, 3, 1]))).notes
        assert "place a corner 0.11 voxels apart" in note

    def test_a_sheared_sform_alone_is_handed_on(self, tmp_path):
        """What a tilted gantry looks like after conversion; whether it is accepted is decided later."""
        image = nifti(np.zeros((3, 4, 5), "u1"), self.SHEARED)
        assert_same_grid(
            open_volume(save(image, tmp_path / "a.nii")).geometry,
            Geometry.from_ras_affine((3, 4, 5), self.SHEARED),
        )

    def test_a_qform_that_makes_no_sense_is_not_needed(self, tmp_path):
        volume = open_volume(self.both(tmp_path, self.TURNED, self.TURNED, quatern_b=3.0))
        assert_same_grid(volume.geometry, Geometry.from_ras_affine((3, 4, 5), self.TURNED))
        what = "the NIfTI header has a qform that makes no sense, and a sform; sform holds"
        assert (volume.notes, volume.repairs) == ((what,), ())

    def test_an_sform_that_makes_no_sense_is_not_needed_where_the_qform_is_chosen(self, tmp_path):
        path = self.both(tmp_path, self.TURNED, self.TURNED, srow_x=0)
        refused(path, GeometryError)
        volume = open_volume(path, repair=RepairConfig(affine="qform"))
        assert_same_grid(volume.geometry, Geometry.from_ras_affine((3, 4, 5), self.TURNED))
        what = "the NIfTI header has a sform that makes no sense, and a qform; qform holds"
        assert volume.repairs == (Repair("repair.affine=qform", what),)

    def test_an_sform_with_nan_is_refused(self, tmp_path):
        path = patched(tmp_path, srow_y=[0, 2, 0, np.nan])
        assert "sform of the NIfTI header holds what is no finite number" in refused(path, GeometryError)

    def test_pixdim_that_differs_from_sform_is_refused_with_both(self, tmp_path):
        path = patched(tmp_path, pixdim=[1, 1, 2, 4, 0, 0, 0, 0])
        for repair in (RepairConfig(), RepairConfig(affine="qform")):
            message = refused(path, GeometryError, repair=repair)
            assert "spacing (4, 2, 1) mm (z, y, x) in pixdim, but (3, 2, 1) mm in sform" in message
            assert message.endswith("--set repair.affine=sform.")
        volume = open_volume(path, repair=RepairConfig(affine="sform"))
        assert volume.geometry.spacing == (3, 2, 1)
        assert [r.setting for r in volume.repairs] == ["repair.affine=sform"]
        assert open_volume(path, spacing=(5, 2, 1)).geometry.spacing == (5, 2, 1)

    def test_pixdim_that_is_rounded_otherwise_goes_before_sform(self, tmp_path):
        volume = open_volume(patched(tmp_path, pixdim=[1, 1, 2, 3.002, 0, 0, 0, 0]))
        assert volume.repairs == ()
        assert volume.geometry.spacing == pytest.approx((3.002, 2, 1))

    @pytest.mark.parametrize("sform_code", [0, 1])
    def test_negative_pixdim_is_refused_or_taken_without_signs(self, tmp_path, sform_code):
        path = patched(tmp_path, pixdim=[1, -1, 2, -3, 0, 0, 0, 0], sform_code=sform_code)
        message = refused(path, SpacingError)
        assert "negative spacing, pixdim (-3.0, 2.0, -1.0) mm (z, y, x)" in message
        assert message.endswith("--set repair.pixdim=absolute.")
        volume = open_volume(path, repair=RepairConfig(pixdim="absolute"))
        assert volume.geometry.spacing == (3, 2, 1)
        what = "pixdim (-3.0, 2.0, -1.0) mm (z, y, x) taken without its signs"
        assert volume.repairs == (Repair("repair.pixdim=absolute", what),)
        given = open_volume(path, spacing=(9, 8, 7))
        assert (given.geometry.spacing, given.repairs) == ((9, 8, 7), ())


def refused(path: Path, error: type[Exception], **options: object) -> str:
    with pytest.raises(error) as caught:
        open_volume(path, **options)
    return str(caught.value)


def patched(folder: Path, **fields: object) -> Path:
    """A file of 3 x 4 x 5 zeros, 1 x 2 x 3 mm, with other fields in its header."""
    return write_header(folder, nifti(np.zeros((3, 4, 5), "u1")).header, **fields)


def write_header(folder: Path, header: nibabel.Nifti1Header, **fields: object) -> Path:
    header["magic"], header["vox_offset"] = b"n+1", 352
    for name, value in fields.items():
        header[name] = value
    path = folder / "a.nii"
    path.write_bytes(header.binaryblock + bytes(4 + 60))
    return path


class TestDamage:
    @pytest.fixture
    def content(self, tmp_path):
        array = np.random.default_rng(0).integers(0, 255, (64, 64, 40)).astype("u1")
        return save(nifti(array), tmp_path / "a.nii").read_bytes()

    def test_a_truncated_plain_file_is_refused_before_it_is_read(self, tmp_path, content):
        (tmp_path / "b.nii").write_bytes(content[:-5000])
        with pytest.raises(FormatError, match="asks for 163840 bytes of voxels, the file holds 158840"):
            open_volume(tmp_path / "b.nii")

    def test_a_file_truncated_after_it_was_opened_is_refused(self, tmp_path, content):
        path = tmp_path / "b.nii"
        path.write_bytes(content)
        volume = open_volume(path)
        path.write_bytes(content[:9000])
        with pytest.raises(FormatError, match="asks for 163840 bytes"):
            assemble(volume, 4)

    @pytest.mark.parametrize("kept", [-1, -9, -1000, 0.5, 0.1])
    def test_a_truncated_gzip_file_is_refused(self, tmp_path, content, kept):
        packed = gzip.compress(content)
        (tmp_path / "b.nii.gz").write_bytes(packed[: int(kept * len(packed)) if 0 < kept < 1 else kept])
        with pytest.raises(FormatError, match="163840 bytes"):
            assemble(open_volume(tmp_path / "b.nii.gz"), 4)

    def test_a_wrong_checksum_is_refused(self, tmp_path, content):
        packed = bytearray(gzip.compress(content))
        packed[-6] ^= 1
        (tmp_path / "b.nii.gz").write_bytes(packed)
        with pytest.raises(FormatError, match="damaged"):
            assemble(open_volume(tmp_path / "b.nii.gz"), 4)

    def test_more_slices_than_the_header_says_are_refused(self, tmp_path, content):
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content + b"\1" * 4096))
        with pytest.raises(FormatError, match="a slice or more"):
            assemble(open_volume(tmp_path / "b.nii.gz"), 4)

    def test_a_header_that_asks_for_the_impossible_is_refused_at_once(self, tmp_path, content):
        header = nibabel.Nifti1Header(content[:348])
        header["dim"] = [3, 30000, 30000, 30000, 1, 1, 1, 1]
        (tmp_path / "b.nii.gz").write_bytes(gzip.compress(header.binaryblock + content[348:]))
        with pytest.raises(FormatError, match="27000000000000 bytes"):
            open_volume(tmp_path / "b.nii.gz")

    @pytest.mark.parametrize("content", [b"", b"text", gzip.compress(b"text", mtime=0), b"\x1f\x8b\x08\0\0"])
    def test_other_content_is_refused(self, tmp_path, content):
        for name in ("b.nii", "b.nii.gz"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(FormatError):
                open_volume(tmp_path / name)


class TestInflate:
    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(st.binary(max_size=3000), min_size=1, max_size=4), st.integers(0, 5), st.integers(1, 5000)
    )
    def test_members_make_one_stream(self, tmp_path_factory, members, padding, step):
        path = tmp_path_factory.mktemp("inflate") / "a.gz"
        path.write_bytes(b"".join(map(gzip.compress, members)) + b"\0" * padding)
        with decompression.Inflater(path.open("rb", buffering=0), "gzip") as stream:
            out = b"".join(iter(lambda: stream.read(step), b""))
        assert out == b"".join(members)

    def test_standard_zlib_does_the_same(self, tmp_path, monkeypatch):
        monkeypatch.setattr(decompression, "zlib", decompression.standard_zlib)
        array = np.random.default_rng(0).normal(size=(50, 60, 70)).astype("f4")
        assert_holds(open_volume(save(nifti(array), tmp_path / "a.nii.gz")), array.T[None])


class TestNpy:
    @pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", ">f4", "f8", "?"])
    @pytest.mark.parametrize("shape", [(4, 5, 6), (2, 4, 5, 6)])
    def test_is_what_numpy_reads(self, tmp_path, shape, dtype):
        array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
        np.save(tmp_path / "a.npy", array)
        volume = open_volume(tmp_path / "a.npy", spacing=(3, 2, 1))
        assert volume.geometry == Geometry((4, 5, 6), (3, 2, 1))
        assert_holds(volume, array.reshape(-1, 4, 5, 6))

    def test_needs_a_spacing(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((4, 5, 6)))
        with pytest.raises(
            SpacingError, match=r'`spacing` column "z,y,x" in mm to a manifest, or a <case>.json'
        ):
            open_volume(tmp_path / "a.npy")

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((4, 5)), r"shape \(4, 5\)"),
            (np.zeros((4, 0, 5)), r"shape \(4, 0, 5\)"),
            (np.zeros((2, 2, 2), complex), "complex128"),
            (np.zeros((2, 3, 4), order="F"), "Fortran order"),
            (np.array([[[{}]]]), "Python objects"),
        ],
    )
    def test_other_arrays_are_refused(self, tmp_path, array, message):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(FormatError, match=message):
            open_volume(tmp_path / "a.npy", spacing=(1, 1, 1))

    def test_a_truncated_file_is_refused(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((4, 5, 6)))
        (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:500])
        with pytest.raises(FormatError, match="cut short"):
            open_volume(tmp_path / "a.npy", spacing=(1, 1, 1))


REAL = sorted(p for p in [*DATA.glob("*/*.nii.gz"), *DATA.glob("*/*.nii")])


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="real volumes are absent")
class TestRealNifti:
    @pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
    def test_is_what_nibabel_reads(self, path):
        image = nibabel.load(path)
        volume = open_volume(path)
        stored = np.asanyarray(image.dataobj.get_unscaled()).T
        np.testing.assert_array_equal(assemble(volume, 16), stored.reshape(-1, *stored.shape[-3:]))
        assert_same_grid(volume.geometry, Geometry.from_ras_affine(image.shape[:3], image.affine))

    def test_an_atlas_lies_on_the_grid_of_its_image(self):
        image, label = (open_volume(DATA / "mricron" / name) for name in ("ch2.nii.gz", "aal.nii.gz"))
        assert image.geometry.displacement(label.geometry) == 0
