"""Segmentations of 3D Slicer with several layers: one label, or refused by the names of segments."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import zarr
from commands import within
from readers_support import assemble, assert_holds, assert_same_grid, itk_geometry, peak_bytes
from segments import DIRECTIONS, SEGMENTS, layers, seg

from voxelmill.basics.errors import FormatError
from voxelmill.inputs.readers.formats import open_volume
from voxelmill.inputs.sources.discover import discover
from voxelmill.kernels.statistics.histogram import COUNTED


def label(path):
    return open_volume(path, is_label=True)


class TestMerged:
    @pytest.mark.parametrize("kind", ["list", "vector", "???", "none"])
    @pytest.mark.parametrize("encoding", ["gzip", "raw"])
    @pytest.mark.parametrize("dtype", ["u1", "<i2"])
    def test_layers_are_one_label(self, tmp_path, dtype, encoding, kind):
        values = layers().astype(dtype)
        volume = label(seg(tmp_path / "a.seg.nrrd", values, encoding=encoding, kind=kind))
        assert volume.channels == 1
        assert_holds(volume, values.max(axis=0)[None])
        assert volume.notes == ("2 layers of 3 segments were merged into one label",)

    def test_layers_that_come_last(self, tmp_path):
        volume = label(seg(tmp_path / "a.seg.nrrd", first=False, encoding="raw"))
        assert_holds(volume, layers().max(axis=0)[None])
        with pytest.raises(FormatError, match="lie one after another and compressed"):
            label(seg(tmp_path / "a.seg.nrrd", first=False))

    @pytest.mark.parametrize("space", ["left-posterior-superior", "RAS"])
    def test_the_grid_is_itks(self, tmp_path, space):
        path = seg(tmp_path / "a.seg.nrrd", space=space)
        assert_same_grid(label(path).geometry, itk_geometry(sitk.ReadImage(path)), 1e-9)

    def test_left_anterior_superior(self, tmp_path):
        # SimpleITK 2.4 does not turn this space where layers come first, so it is no reference here.
        found = label(seg(tmp_path / "a.seg.nrrd", space="left-anterior-superior")).geometry
        known = label(seg(tmp_path / "b.seg.nrrd")).geometry
        towards_posterior = np.diag([1, -1, 1])  # z, y, x
        np.testing.assert_array_equal(found.direction, towards_posterior @ known.direction)
        np.testing.assert_array_equal(found.origin, towards_posterior @ known.origin)
        assert found.spacing == known.spacing

    def test_directions_that_itk_does_not_read(self, tmp_path):
        known = label(seg(tmp_path / "a.seg.nrrd")).geometry
        directions = " ".join(["(nan,nan,nan)", *DIRECTIONS])
        assert label(seg(tmp_path / "b.seg.nrrd", directions=directions)).geometry == known

    @pytest.mark.parametrize("encoding", ["gzip", "raw"])
    def test_memory_is_what_the_model_counts(self, tmp_path, encoding):
        values = np.zeros((6, 60, 90, 80), "u1")
        for n in range(6):
            values[n, :, 15 * n : 15 * n + 15] = n + 1
        segments = [(f"s{n}", n, n + 1) for n in range(6)]
        volume = label(seg(tmp_path / "a.seg.nrrd", values, segments, encoding=encoding))
        assert peak_bytes(volume) < volume.extra_bytes + volume.slice_bytes + 32 * COUNTED


def rename(segments, **changes):
    return [(name, *changes.get(name, of)) for name, *of in segments]


class TestRefused:
    def test_segments_that_overlap(self, tmp_path):
        values = layers()
        values[1, 3, 1, 0:2] = 2
        for encoding in ("gzip", "raw"):
            volume = label(seg(tmp_path / "a.seg.nrrd", values, encoding=encoding))
            for depth in (1, 3, 9):
                message = "segments 'Vessel: portal' and 'Tumour' overlap in 2 voxels of slice 3; a label"
                with pytest.raises(FormatError, match=message):
                    assemble(volume, depth)

    @pytest.mark.parametrize(
        ("segments", "message"),
        [
            (rename(SEGMENTS, Tumour=(1, 1)), "segments 'Leber', 'Tumour' share the value 1; a label needs"),
            ([(f"s{n}", n % 2, 1) for n in range(9)], "'s0', 's1', 's2' and 6 more share the value 1"),
            (
                rename(SEGMENTS, Tumour=(2, 2)),
                "segment 'Tumour' has the value 2 in layer 2; layers are 0 to 1",
            ),
            (rename(SEGMENTS, Tumour=(1, 0)), "segment 'Tumour' has the value 0 in layer 1"),
            (rename(SEGMENTS, Tumour=(1, 300)), "segment 'Tumour' has the value 300, which is no uint8"),
            (rename(SEGMENTS, Tumour=("x", 2)), "segment 'Tumour' has a layer or a value that is no whole"),
            (rename(SEGMENTS, Tumour=(1, "9" * 5000)), "segment 'Tumour' has a layer or a value that is no"),
            ([("a" * 99, 5, 1)], "segment 'a{40}...' has the value 1 in layer 5"),
            (rename(SEGMENTS, Tumour=(1, 3)), "layer 1 holds the value 2 in 21 voxels of slice 2, which no"),
        ],
    )
    def test_segments_that_no_label_holds(self, tmp_path, segments, message):
        with pytest.raises(FormatError, match=message) as caught:
            assemble(label(seg(tmp_path / "a.seg.nrrd", segments=segments)), 2)
        assert len(str(caught.value)) < 400

    def test_files_of_old_slicers_state_neither_layer_nor_value(self, tmp_path):
        path = seg(tmp_path / "a.seg.nrrd", segments=SEGMENTS[:2])
        lines = path.read_bytes().split(b"\n")
        path.write_bytes(b"\n".join(n for n in lines if b"_Layer" not in n and b"_LabelValue" not in n))
        with pytest.raises(FormatError, match="segments 'Leber', 'Tumour' share the value 1"):
            label(path)

    def test_layers_of_floats(self, tmp_path):
        with pytest.raises(FormatError, match="layers of segments are of type float32; integers are needed"):
            label(seg(tmp_path / "a.seg.nrrd", layers().astype("<f4")))

    def test_as_an_image(self, tmp_path):
        with pytest.raises(FormatError, match="is a segmentation of 3 segments in 2 layers, and no image"):
            open_volume(seg(tmp_path / "a.seg.nrrd"))

    def test_a_file_that_is_cut_off(self, tmp_path):
        path = seg(tmp_path / "a.seg.nrrd")
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(FormatError, match="compressed data are damaged or end early"):
            assemble(label(path), 2)


class TestRuns:
    @pytest.fixture
    def source(self, tmp_path):
        folder = tmp_path / "raw"
        folder.mkdir()
        for name in ("a", "b"):
            path = seg(folder / f"{name}.seg.nrrd")
            grid = sitk.ReadImage(path)
            image = sitk.GetImageFromArray(np.random.default_rng(1).normal(size=(5, 6, 7)).astype("f4"))
            image.SetOrigin(grid.GetOrigin())
            image.SetSpacing(grid.GetSpacing())
            image.SetDirection(grid.GetDirection())
            sitk.WriteImage(image, folder / f"{name}.nrrd")
        return folder

    def test_a_label_in_a_folder(self, source, tmp_path):
        assert [case.label.name for case in discover(source).cases] == ["a.seg.nrrd", "b.seg.nrrd"]
        done = within("run", source, tmp_path / "out", "--cluster=none")
        assert done.exit_code == 0, done.stdout
        found = zarr.open_array(tmp_path / "out" / "raw.zarr/a/label", mode="r")[:]
        np.testing.assert_array_equal(found, layers().max(axis=0))
        text = "".join(p.read_text() for p in (tmp_path / "out").rglob("*.json"))
        assert "the label: 2 layers of 3 segments were merged" in text
        assert "Leber" not in text

    def test_a_refusal_says_which_file_of_the_case_it_speaks_of(self, source, tmp_path):
        values = layers()
        values[1, 0] = 2
        seg(source / "b.seg.nrrd", values)
        (source / "cases.csv").write_text("case,MR,label\na,a.seg.nrrd,a.seg.nrrd\nb,b.nrrd,b.seg.nrrd\n")
        assert within("run", source / "cases.csv", tmp_path / "out", "--cluster=none").exit_code == 1
        cases = json.loads((tmp_path / "out" / "report.json").read_text())["cases"]
        causes = {case["case"]: case["cause"] for case in cases}
        assert causes["a"].startswith("channel 0 (MR): the file is a segmentation of 3 segments")
        assert causes["b"].startswith("the label: segments 'Leber' and 'Tumour' overlap")
