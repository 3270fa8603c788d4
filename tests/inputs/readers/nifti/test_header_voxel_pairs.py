"""NIfTI and Analyze pairs (.hdr and .img): against nibabel and SimpleITK, in folders and in manifests."""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from commands import within
from readers_support import (
    assert_holds,
    assert_same_grid,
    channels_first,
    itk_geometry,
    random_image,
    save_series,
    series,
)

from voxelmill.basics.errors import FormatError, GeometryError
from voxelmill.basics.geometry import Geometry
from voxelmill.inputs.readers.formats import data_files, open_volume
from voxelmill.inputs.sources.discover import discover
from voxelmill.inputs.sources.source_checksums import source_digest

VALUES = np.random.default_rng(0).integers(1, 200, (5, 6, 7)).astype("i2")
AFFINE = np.diag([-0.5, 0.7, 2.0, 1.0])


def pair(folder: Path, kind: type = nibabel.Nifti1Pair, stem: str = "a", packed: str = "", **fields) -> Path:
    """A pair that nibabel writes; `packed` says which of its files become .gz; returns the header."""
    image = kind(VALUES.T, AFFINE)
    nibabel.save(image, folder / f"{stem}.hdr")
    header = bytearray((folder / f"{stem}.hdr").read_bytes())
    changed = nibabel.Nifti1Header(bytes(header[:348]), check=False) if fields else None
    for name, value in fields.items():
        changed[name] = value
    (folder / f"{stem}.hdr").write_bytes(changed.binaryblock if changed else bytes(header))
    for ending in packed.split():
        file = folder / f"{stem}.{ending}"
        (folder / f"{stem}.{ending}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    return folder / (f"{stem}.hdr.gz" if "hdr" in packed else f"{stem}.hdr")


def out_of(folder: Path) -> Path:
    """An OUT beside a source."""
    return folder.with_name(f"{folder.name}_out")


class TestPairs:
    @pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
    @pytest.mark.parametrize("packed", ["", "hdr img", "img"])
    def test_either_file_is_what_nibabel_reads(self, tmp_path, packed, kind):
        header = pair(tmp_path, kind, packed=packed)
        voxels = tmp_path / ("a.img.gz" if packed else "a.img")
        for path in (header, voxels):
            volume = open_volume(path)
            assert_holds(volume, VALUES[None])
            assert_same_grid(volume.geometry, Geometry.from_ras_affine((7, 6, 5), AFFINE))
            assert volume.is_random_access == (packed == "")
            assert volume.notes == ()

    @pytest.mark.parametrize("kind", ["oblique", "left-handed", "permuted"])
    def test_is_what_itk_reads(self, tmp_path, kind):
        for dtype in ("u1", "i2", "f4"):
            sitk.WriteImage(random_image(np.random.default_rng(5), kind, dtype), tmp_path / "a.hdr")
            expected = sitk.ReadImage(tmp_path / "a.hdr")
            volume = open_volume(tmp_path / "a.img")
            assert_holds(volume, channels_first(expected))
            assert_same_grid(volume.geometry, itk_geometry(expected))

    def test_voxels_begin_where_the_header_says(self, tmp_path):
        header = pair(tmp_path, vox_offset=16, scl_slope=0.5, scl_inter=-3)
        (tmp_path / "a.img").write_bytes(bytes(16) + VALUES.tobytes())
        volume = open_volume(header)
        assert_holds(volume, VALUES[None])
        assert (volume.slope, volume.intercept) == (0.5, -3)

    def test_capital_letters(self, tmp_path):
        pair(tmp_path)
        for ending in ("hdr", "img"):
            (tmp_path / f"a.{ending}").rename(tmp_path / f"B.{ending.upper()}")
        assert_holds(open_volume(tmp_path / "B.IMG"), VALUES[None])
        assert_holds(open_volume(tmp_path / "B.HDR"), VALUES[None])

    def test_both_files_count_for_the_checksum(self, tmp_path):
        pair(tmp_path)
        (case,) = discover(tmp_path).cases
        assert data_files(tmp_path / "a.hdr") == (tmp_path / "a.img",)
        before = source_digest(case)
        (tmp_path / "a.img").write_bytes((VALUES + 1).tobytes())
        assert source_digest(case) != before


HEADS = {
    b"ENVI\nsamples = 7\n": r"is a header of ENVI; those of NIfTI and Analyze are read",
    b"#?RADIANCE\nFORMAT=32": r"is a photograph of Radiance",
    b"#?RGBE\n": r"is a photograph of Radiance",
    b"!INTERFILE :=\n": r"is a header of Interfile",
    b"": r"does not start with a NIfTI or Analyze header",
    b"\x5c\x01\0\0": r"does not start with a NIfTI or Analyze header",
}


class TestRefused:
    @pytest.mark.parametrize(("head", "message"), HEADS.items())
    @pytest.mark.parametrize("beside", [True, False])
    def test_other_headers_are_refused_by_name(self, tmp_path, beside, head, message):
        (tmp_path / "secret.hdr").write_bytes(head)
        if beside:
            (tmp_path / "secret.img").write_bytes(bytes(99))
        with pytest.raises(FormatError, match=message) as caught:
            open_volume(tmp_path / "secret.hdr")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("gone", "named", "message"),
        [
            ("a.hdr", "a.img", r"their header \(.hdr\) is missing beside it.*\.mhd, \.nhdr"),
            ("a.img", "a.hdr", r"file of voxels \(\.img\) is missing beside it"),
            ("a.img", "a.img", "the file is missing"),
        ],
    )
    def test_one_without_the_other(self, tmp_path, gone, named, message):
        pair(tmp_path)
        (tmp_path / gone).unlink()
        with pytest.raises(FormatError, match=message):
            open_volume(tmp_path / named)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"magic": b"n+1"}, "ni1.*is needed, which the header of a pair has"),
            ({"dim": [3, 7, 6, 9, 1, 1, 1, 1]}, "asks for 756 bytes of voxels, the file holds 420"),
            ({"vox_offset": 352}, "asks for 420 bytes of voxels, the file holds 68"),
            ({"vox_offset": -9}, "puts the voxels before the file begins"),
            ({"datatype": 128}, "integers and floats"),
        ],
    )
    def test_wrong_headers(self, tmp_path, fields, message):
        with pytest.raises(FormatError, match=message):
            open_volume(pair(tmp_path, **fields))

    def test_a_header_that_is_cut_off_within_gz(self, tmp_path):
        path = pair(tmp_path, packed="hdr img")
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(FormatError, match=r"does not decompress as \.gz"):
            open_volume(path)


class TestAnalyze:
    def analyze(self, folder, **fields):
        header = pair(folder, nibabel.AnalyzeImage)
        content = bytearray(header.read_bytes())
        changed = nibabel.Spm99AnalyzeHeader(bytes(content), check=False)
        for name, value in fields.items():
            changed[name] = value
        header.write_bytes(changed.binaryblock)
        return header

    @pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<i4", ">f4", "<f8"])
    def test_is_what_itk_reads_with_a_note(self, tmp_path, dtype):
        header = nibabel.AnalyzeHeader(endianness=">" if ">" in dtype else "<")
        header.set_data_dtype(dtype)
        nibabel.save(nibabel.AnalyzeImage(VALUES.T.astype(dtype), AFFINE, header), tmp_path / "a.hdr")
        expected = sitk.ReadImage(tmp_path / "a.hdr")
        volume = open_volume(tmp_path / "a.hdr")
        assert_holds(volume, channels_first(expected))
        assert_holds(volume, VALUES[None].astype(dtype))
        assert_same_grid(volume.geometry, itk_geometry(expected))
        (note,) = volume.notes
        assert "states no place" in note
        assert "left and right may be exchanged" in note

    def test_the_factor_of_spm_counts_and_is_noted(self, tmp_path):
        path = self.analyze(tmp_path, scl_slope=0.25)
        assert nibabel.load(path).dataobj.slope == 0.25
        volume = open_volume(path)
        assert (volume.slope, volume.intercept) == (0.25, 0)
        assert "multiplied by 0.25" in volume.notes[1]

    @pytest.mark.parametrize("packed", ["", "hdr img"])
    def test_a_place_that_spm_keeps_in_a_file_of_its_own_is_noted(self, tmp_path, packed):
        path = pair(tmp_path, nibabel.AnalyzeImage, packed=packed)
        assert len(open_volume(path).notes) == 1
        (tmp_path / "a.mat").touch()
        assert open_volume(path).notes[1].startswith("the .mat file of SPM beside it")

    def test_axes_that_are_not_there(self, tmp_path):
        path = self.analyze(tmp_path, dim=[4, 7, 6, 5, 0, 0, 0, 0])
        assert_holds(open_volume(path), VALUES[None])

    @pytest.mark.parametrize(
        ("fields", "error", "message"),
        [
            ({"pixdim": [1, -1, 2, 3, 0, 0, 0, 0]}, GeometryError, "the Analyze header has negative spacing"),
            ({"pixdim": [1, 0, 2, 3, 0, 0, 0, 0]}, GeometryError, "the Analyze header has spacing"),
            ({"dim": [4, 7, 6, 5, -2, 0, 0, 0]}, FormatError, "the Analyze header has dimensions"),
            ({"datatype": 77}, FormatError, "the Analyze header has data type 77"),
        ],
    )
    def test_wrong_headers(self, tmp_path, fields, error, message):
        with pytest.raises(error, match=message):
            open_volume(self.analyze(tmp_path, **fields))

    def test_another_orientation_is_refused(self, tmp_path):
        with pytest.raises(GeometryError, match="states that slices are coronal; transverse ones are read"):
            open_volume(self.analyze(tmp_path, orient=b"\1"))

    def test_a_label_of_nifti_fits_none_that_states_no_place(self, tmp_path):
        self.analyze(tmp_path)
        label = nibabel.Nifti1Image((VALUES.T > 99).astype("u1"), AFFINE)
        nibabel.save(label, tmp_path / "a_seg.nii")
        done = within("run", tmp_path, out_of(tmp_path), "--cluster=none")
        assert "the label lies" in done.stdout


class TestSources:
    def names(self, folder):
        found = discover(folder)
        assert found.skipped == ()
        return {case.case: case.channels[0].name for case in found.cases}

    def test_a_pair_is_one_case(self, tmp_path):
        pair(tmp_path, stem="b")
        pair(tmp_path, stem="c", packed="hdr img")
        pair(tmp_path, stem="d", packed="img")
        nibabel.save(nibabel.Nifti1Image(VALUES.T, AFFINE), tmp_path / "a.nii")
        assert self.names(tmp_path) == {"a": "a.nii", "b": "b.hdr", "c": "c.hdr.gz", "d": "d.hdr"}

    @pytest.mark.parametrize("data", ["h.img", "other.img", "other.img.gz"])
    @pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
    def test_voxels_of_other_headers_are_no_case(self, tmp_path, ending, data):
        image = sitk.GetImageFromArray(VALUES)
        sitk.WriteImage(image, tmp_path / f"h{ending}", useCompression=False)
        (tmp_path / "h.raw").rename(tmp_path / data)
        header = tmp_path / f"h{ending}"
        header.write_text(header.read_text().replace("h.raw", data))
        pair(tmp_path, stem="p")
        assert self.names(tmp_path) == {"h": f"h{ending}", "p": "p.hdr"}
        assert_holds(open_volume(header), VALUES[None])

    def test_a_header_of_another_program_is_no_case_beside_images(self, tmp_path):
        for n in range(3):
            tifffile.imwrite(tmp_path / f"img_z{n}.tif", VALUES[n])
        (tmp_path / "scan.hdr").write_text("ENVI\nsamples = 7\n")
        assert [case.channels for case in discover(tmp_path).cases] == [(tmp_path,)]
        (tmp_path / "img_z0.tif").rename(tmp_path / "s0.nii")
        assert discover(tmp_path).skipped == ("1 file(s) ending '.hdr'",)
        alone = tmp_path / "alone"
        alone.mkdir()
        (tmp_path / "scan.hdr").rename(alone / "scan.hdr")
        assert [case.case for case in discover(alone).cases] == ["scan"]

    @pytest.mark.parametrize("name", ["p.hdr", "p.img"])
    def test_either_file_is_a_source(self, tmp_path, name):
        pair(tmp_path, stem="p")
        assert [case.case for case in discover(tmp_path / name).cases] == ["p"]

    def test_voxels_alone_fail_by_name(self, tmp_path):
        pair(tmp_path, stem="b")
        (tmp_path / "alone.img").write_bytes(VALUES.tobytes())
        out = out_of(tmp_path)
        done = within("run", tmp_path, out, "--cluster=none")
        assert done.exit_code == 1
        cases = {c["case"]: c for c in json.loads((out / "report.json").read_text())["cases"]}
        assert cases["b"]["status"] == "done"
        assert "their header (.hdr) is missing" in cases["alone"]["cause"]

    def test_dicom_that_is_called_img_stays_dicom(self, tmp_path):
        save_series(tmp_path, list(series(VALUES.astype("u2"))), [f"{n}.img" for n in range(5)])
        assert_holds(open_volume(tmp_path), VALUES[None].astype("u2"))

    def test_labels_and_manifests(self, tmp_path):
        pair(tmp_path, stem="p")
        pair(tmp_path, stem="p_seg")
        (case,) = discover(tmp_path).cases
        assert (case.case, case.label) == ("p", tmp_path / "p_seg.hdr")
        (tmp_path / "cases.csv").write_text("case,MR,label\nx,p.img,p_seg.hdr\n")
        done = within("run", tmp_path / "cases.csv", out_of(tmp_path), "--cluster=none")
        assert done.exit_code == 0, done.stdout

    def test_a_refusal_says_which_file_it_speaks_of(self, tmp_path):
        pair(tmp_path, stem="p")
        pair(tmp_path, stem="q")
        (tmp_path / "q.img").unlink()
        rows = ["case,T1,T2,label", "image,p.img,q.hdr,p.hdr", "label,p.img,p.hdr,q.hdr"]
        (tmp_path / "cases.csv").write_text("\n".join(rows))
        out = out_of(tmp_path)
        within("run", tmp_path / "cases.csv", out, "--cluster=none")
        causes = {c["case"]: c["cause"] for c in json.loads((out / "report.json").read_text())["cases"]}
        assert causes["image"].startswith("channel 1 (T2): the header's file of voxels (.img) is missing")
        assert causes["label"].startswith("the label: the header's file of voxels (.img) is missing")
