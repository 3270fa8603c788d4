"""TIFF files and stacks: what tifffile, Pillow and SimpleITK write, against the arrays they were given."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from PIL import Image
from readers_support import DATA, assemble, assert_holds, training_files
from runs import process

from voxelmill.basics.errors import FormatError, SpacingError
from voxelmill.basics.geometry import Box
from voxelmill.inputs.readers.formats import open_volume
from voxelmill.inputs.sources.case_source import CaseSource
from voxelmill.inputs.sources.discover import discover

RNG = np.random.default_rng(4)
ONE = (1.0, 1.0, 1.0)
REAL = sorted((DATA / "stardist").glob("*.tif"))


def values(*shape: int, dtype: str = "u2") -> np.ndarray:
    return RNG.integers(0, 2 if dtype == "bool" else 250, shape).astype(dtype)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, array, **{"photometric": "minisblack"} | options)
    return path


def spread_ome(path: Path, channels: int = 1, times: int = 1) -> Path:
    """Make the OME metadata of a file name another one, as those of an image over many files do."""
    other = '<TiffData IFD="0" PlaneCount="1"><UUID FileName="secret.tif">urn:uuid:0</UUID></TiffData>'
    xml = re.sub(r"<TiffData[^>]*/>|<TiffData.*</TiffData>", other, tifffile.tiffcomment(path))
    xml = xml.replace('SizeC="1"', f'SizeC="{channels}"').replace('SizeT="1"', f'SizeT="{times}"')
    tifffile.tiffcomment(path, xml.encode())
    return path


def opened(path: Path, array: np.ndarray, **options: object):
    return open_volume(save(path, array, **options), spacing=ONE)


class TestVoxels:
    @pytest.mark.parametrize(
        "options",
        [
            {},  # pages one after another: mapped
            {"metadata": None},  # no shape in the description: pages alone
            {"bigtiff": True, "byteorder": ">"},
            {"rowsperstrip": 5},
            {"tile": (16, 32)},
            {"tile": (16, 32), "compression": "zlib", "predictor": True},
            {"compression": "zlib", "byteorder": ">", "bigtiff": True},
            {"compression": "lzw", "rowsperstrip": 7},
            {"compression": "zstd", "metadata": None},
            {"compression": "lzma"},
            {"compression": "packbits"},
            {"volumetric": True, "tile": (16, 16, 16), "metadata": {"axes": "ZYX"}},  # one page of all slices
            {"imagej": True, "metadata": {"axes": "ZYX"}},
            {
                "imagej": True,
                "metadata": {"axes": "ZYX"},
                "truncate": True,
            },  # one page, the rest after it: as ImageJ beyond 4 GiB
            {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
        ],
    )
    def test_storage(self, tmp_path, options):
        array = values(7, 33, 50)
        assert_holds(opened(tmp_path / "a.tif", array, **options), array[None])

    @pytest.mark.parametrize("compression", [None, "zlib"])
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    @pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "bool"])
    def test_types(self, tmp_path, dtype, byteorder, compression):
        array = values(5, 6, 11, dtype=dtype)
        volume = opened(tmp_path / "a.tif", array, byteorder=byteorder, compression=compression)
        assert volume.dtype == (np.uint8 if dtype == "bool" else np.dtype(dtype))
        assert_holds(volume, array[None].astype(volume.dtype))

    @pytest.mark.parametrize("compression", [None, "zlib"])
    @pytest.mark.parametrize(
        ("axes", "shape", "options"),
        [
            ("CZYX", (2, 5, 8, 9), {}),  # channel by channel
            ("ZCYX", (5, 2, 8, 9), {}),  # channels interleaved by page
            ("TZCYX", (1, 5, 2, 8, 9), {"imagej": True}),  # hyperstack
            ("TZCYX", (1, 5, 2, 8, 9), {"ome": True}),
            ("TCZYX", (1, 2, 5, 8, 9), {"ome": True}),
            ("CYX", (6, 8, 9), {"ome": True}),  # one slice of six channels
            ("ZYX", (3, 8, 9), {}),
            ("ZYXS", (5, 8, 9, 3), {"photometric": "rgb"}),  # samples of a pixel together
            ("ZSYX", (5, 3, 8, 9), {"photometric": "rgb", "planarconfig": "separate"}),
            ("ZYXS", (5, 8, 9, 3), {"photometric": "rgb", "ome": True}),
            ("CZYXS", (2, 5, 8, 9, 3), {"photometric": "rgb", "ome": True}),  # samples within channels
            ("YXS", (8, 9, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
            ("CZYX", (2, 3, 8, 9), {"photometric": "rgb", "planarconfig": "separate"}),  # slices in one page
            ("YX", (8, 9), {}),
        ],
    )
    def test_axes(self, tmp_path, axes, shape, options, compression):
        array = values(*shape, dtype="u1")
        options = {"metadata": {"axes": axes}, "compression": compression} | options
        volume = opened(tmp_path / "a.tif", array, **options)
        assert_holds(volume, self.channels_first(array, axes))

    @staticmethod
    def channels_first(array: np.ndarray, axes: str) -> np.ndarray:
        absent = [i for i, axis in enumerate("CSZYX") if axis not in axes]
        kept = array.squeeze(0) if axes[0] == "T" else array
        kept = np.transpose(kept, [axes.removeprefix("T").index(a) for a in "CSZYX" if a in axes])
        c, s, *grid = np.expand_dims(kept, absent).shape
        return kept.reshape(c * s, *grid)

    @pytest.mark.parametrize("metadata", [{}, None])
    @pytest.mark.parametrize("compression", ["zlib", None])
    def test_pages_written_one_by_one(self, tmp_path, compression, metadata):
        array = values(5, 6, 7)
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            for page in array:
                writer.write(page, contiguous=False, compression=compression, metadata=metadata)
        assert_holds(open_volume(tmp_path / "a.tif", spacing=ONE), array[None])

    @pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
    def test_pillow(self, tmp_path, compression):
        array = values(5, 6, 7)
        first, *others = (Image.fromarray(page) for page in array)
        first.save(tmp_path / "a.tif", save_all=True, append_images=others, compression=compression)
        assert_holds(open_volume(tmp_path / "a.tif", spacing=ONE), array[None])

    def test_itk(self, tmp_path):
        array = values(5, 6, 7)
        sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / "a.tif")
        assert_holds(open_volume(tmp_path / "a.tif", spacing=ONE), array[None])

    def test_the_first_of_several_resolutions(self, tmp_path):
        array = values(5, 64, 64)
        with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
            options = {"tile": (16, 16), "compression": "zlib", "photometric": "minisblack"}
            writer.write(array, subifds=1, metadata={"axes": "ZYX"}, **options)
            writer.write(array[:, ::2, ::2], subfiletype=1, **options)
        assert_holds(open_volume(tmp_path / "a.ome.tif", spacing=ONE), array[None])

    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_boxes_of_many_channels(self, tmp_path, compression):
        array = values(4, 3, 8, 9)
        volume = opened(tmp_path / "a.tif", array, metadata={"axes": "ZCYX"}, compression=compression)
        for box in (Box((0, 0, 0), (1, 1, 1)), Box((2, 3, 4), (4, 8, 5)), Box.whole((4, 8, 9))):
            np.testing.assert_array_equal(volume.read(box), array.swapaxes(0, 1)[:, *box.slices])


class TestStack:
    def test_files_are_slices_in_the_order_of_their_numbers(self, tmp_path):
        array = values(12, 6, 7)
        for z, page in enumerate(array):
            save(tmp_path / f"Slice{z}.tif", page, compression="zlib" if z % 2 else None)
        (tmp_path / "notes.txt").touch()
        (tmp_path / "._Slice3.tif").touch()  # what macOS leaves behind
        assert_holds(open_volume(tmp_path, spacing=ONE), array[None])

    def test_colours_are_channels(self, tmp_path):
        array = values(3, 6, 7, 3, dtype="u1")
        for z, page in enumerate(array):
            save(tmp_path / f"{z:03d}.tiff", page, photometric="rgb")
        assert_holds(open_volume(tmp_path, spacing=ONE), np.moveaxis(array, -1, 0))

    def test_one_file_in_a_folder_is_that_file(self, tmp_path):
        array = values(5, 6, 7)
        save(tmp_path / "a.tif", array)
        assert_holds(open_volume(tmp_path, spacing=ONE), array[None])

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (values(6, 8), r"slice 2 of the TIFF stack differs .*YX \(6, 8\).* and YX \(6, 7\)"),
            (values(6, 7, dtype="u1"), "differs"),
            (values(2, 6, 7), "differs"),
        ],
    )
    def test_files_that_differ_are_refused(self, tmp_path, other, message):
        save(tmp_path / "secret1.tif", values(6, 7))
        save(tmp_path / "secret2.tif", other)
        with pytest.raises(FormatError, match=message) as caught:
            assemble(open_volume(tmp_path, spacing=ONE), 2)
        assert "secret" not in str(caught.value)

    def test_more_than_slices_is_refused(self, tmp_path):
        for n in range(2):
            save(tmp_path / f"{n}.tif", values(5, 6, 7))
        with pytest.raises(FormatError, match="the first has 5 pages"):
            open_volume(tmp_path, spacing=ONE)

    @pytest.mark.parametrize(("channels", "times"), [(1, 1), (2, 1), (1, 3)])
    def test_ome_metadata_that_name_all_files(self, tmp_path, channels, times):
        array = values(3, 6, 7)
        for n, page in enumerate(array):
            spread_ome(save(tmp_path / f"{n}.ome.tif", page, metadata={"axes": "YX"}), channels, times)
        if (channels, times) == (1, 1):
            assert_holds(open_volume(tmp_path, spacing=ONE), array[None])
        else:
            with pytest.raises(FormatError, match=f"OME: {channels} channels, {times} time points"):
                open_volume(tmp_path, spacing=ONE)

    def test_spacing_of_the_first_page(self, tmp_path):
        metadata = {"axes": "YX", "PhysicalSizeX": 2, "PhysicalSizeY": 3, "PhysicalSizeZ": 4}
        for n in range(2):
            save(tmp_path / f"{n}.tif", values(6, 7), ome=True, metadata=metadata)
        assert open_volume(tmp_path).geometry.spacing == pytest.approx((0.004, 0.003, 0.002))


class TestSpacing:
    @pytest.mark.parametrize(
        ("facts", "expected"),
        [
            ({"unit": "um", "spacing": 2.5}, (0.0025, 0.0005, 0.00025)),
            ({"unit": "\\u00B5m", "spacing": 2.5}, (0.0025, 0.0005, 0.00025)),  # as ImageJ escapes it
            ({"unit": "micron", "spacing": 1}, (0.001, 0.0005, 0.00025)),
            ({"unit": "mm", "spacing": 3}, (3, 0.5, 0.25)),
            ({"unit": "cm", "spacing": 3}, (30, 5, 2.5)),
            ({"unit": "inch", "spacing": 1}, (25.4, 12.7, 6.35)),
            ({"unit": "nm", "zunit": "um", "spacing": 2}, (2e-3, 5e-7, 2.5e-7)),
        ],
    )
    def test_imagej(self, tmp_path, facts, expected):
        path = save(
            tmp_path / "a.tif",
            values(5, 6, 7),
            imagej=True,
            resolution=(4, 2),
            metadata=facts | {"axes": "ZYX"},
        )
        assert open_volume(path).geometry.spacing == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize(
        ("unit", "scale"),
        [
            (None, 1e-3),
            ("nm", 1e-6),
            ("\u00b5m", 1e-3),
            ("mm", 1),
            ("\u00c5", 1e-7),
            ("m", 1000),
            ("in", 25.4),
        ],
    )
    def test_ome(self, tmp_path, unit, scale):
        facts = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", (3, 2, 0.5), strict=True)}
        facts |= {f"PhysicalSize{axis}Unit": unit for axis in "ZYX" if unit}
        path = save(tmp_path / "a.ome.tif", values(5, 6, 7), metadata=facts | {"axes": "ZYX"})
        expected = (3 * scale, 2 * scale, 0.5 * scale)
        assert open_volume(path).geometry.spacing == pytest.approx(expected)

    def test_one_slice_needs_none_along_z(self, tmp_path):
        facts = {"axes": "YX", "PhysicalSizeX": 1, "PhysicalSizeY": 2}
        path = save(tmp_path / "a.ome.tif", values(6, 7), metadata=facts)
        assert open_volume(path).geometry.spacing == pytest.approx((1, 0.002, 0.001))

    @pytest.mark.parametrize(
        ("options", "axes"),
        [
            ({}, "z, y, x"),
            ({"resolution": (72, 72), "resolutionunit": "inch"}, "z, y, x"),  # what any program writes
            ({"imagej": True, "resolution": (4, 2), "metadata": {"axes": "ZYX", "unit": "um"}}, "z"),
            ({"imagej": True, "metadata": {"axes": "ZYX", "spacing": 2}}, "z, y, x"),  # of no unit
            (
                {
                    "imagej": True,
                    "resolution": (4, 2),
                    "metadata": {"axes": "ZYX", "unit": "pixel", "spacing": 2},
                },
                "z, y, x",
            ),
            ({"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 1, "PhysicalSizeY": 1}}, "z"),
            ({"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeY": 0}}, "z, y, x"),
        ],
    )
    def test_where_not_all_is_stated_one_must_be_given(self, tmp_path, options, axes):
        path = save(tmp_path / "secret.tif", values(5, 6, 7), **options)
        with pytest.raises(
            SpacingError, match=f"no spacing .* along {axes}. Add a `spacing` column"
        ) as caught:
            open_volume(path)
        assert "secret" not in str(caught.value)
        assert open_volume(path, spacing=(3, 2, 1)).geometry.spacing == (3, 2, 1)


class TestRefused:
    @pytest.mark.parametrize(
        ("shape", "options", "message"),
        [
            ((5, 8, 9), {"metadata": {"axes": "TYX"}}, "axes TYX of 5x8x9 voxels, of which T is time"),
            ((2, 5, 6, 8, 9), {"imagej": True}, "T is time"),
            ((2, 5, 8, 9), {}, "axes QQYX of 2x5x8x9"),
            ((2, 5, 8, 9), {"metadata": {"axes": "HZYX"}}, "axes HZYX"),
            ((5, 8, 9), {"metadata": {"axes": "XYZ"}}, "axes XYZ"),
        ],
    )
    def test_other_axes(self, tmp_path, shape, options, message):
        with pytest.raises(FormatError, match=message):
            opened(tmp_path / "a.tif", values(*shape), **options)

    def test_several_images(self, tmp_path):
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            for shape in ((5, 8, 9), (5, 4, 4)):
                writer.write(values(*shape), photometric="minisblack")
        with pytest.raises(FormatError, match=r"holds 2 images \(5x8x9, 5x4x4\)"):
            open_volume(tmp_path / "a.tif", spacing=ONE)

    def test_complex_numbers(self, tmp_path):
        with pytest.raises(FormatError, match="complex64"):
            opened(tmp_path / "a.tif", values(5, 8, 9, dtype="c8"))

    def test_an_image_spread_over_files(self, tmp_path):
        path = spread_ome(save(tmp_path / "a.ome.tif", values(5, 6, 7), metadata={"axes": "ZYX"}))
        with pytest.raises(FormatError, match="spread over several files") as caught:
            open_volume(path, spacing=ONE)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"II", b"II*\0", b"II*\0\x08\0\0\0" + b"\xff" * 40, b"x" * 500])
    def test_other_content(self, tmp_path, content):
        (tmp_path / "secret.tif").write_bytes(content)
        with pytest.raises(FormatError) as caught:
            open_volume(tmp_path / "secret.tif", spacing=ONE)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
    def test_files_cut_short(self, tmp_path, compression):
        path = save(tmp_path / "secret.tif", values(20, 30, 40), compression=compression, metadata=None)
        path.write_bytes(path.read_bytes()[:-3000])
        with pytest.raises(FormatError, match="Restore") as caught:
            assemble(open_volume(path, spacing=ONE), 4)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
    def test_pages_beyond_the_end(self, tmp_path, options):
        """A copy that ran out of disk keeps the tags, which come first, and loses voxels."""
        path = save(tmp_path / "a.tif", values(1, 30, 40), **options)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(FormatError, match=r"ends beyond the file|asks? for 2400 bytes of voxels"):
            assemble(open_volume(path, spacing=ONE), 4)

    def test_damaged_pages(self, tmp_path):
        path = save(tmp_path / "a.tif", values(5, 30, 40), compression="zlib")
        with tifffile.TiffFile(path) as tif:
            at = tif.pages[2].dataoffsets[0]
        content = bytearray(path.read_bytes())
        content[at : at + 200] = bytes(200)
        path.write_bytes(content)
        with pytest.raises(
            FormatError, match=r"page 2 of the TIFF \(from 0\) does not decode from ADOBE_DEF"
        ):
            assemble(open_volume(path, spacing=ONE), 2)

    def test_a_codec_that_is_not_installed_is_named(self, tmp_path):
        path = save(tmp_path / "a.tif", values(5, 30, 40), compression="lzw")
        code = (
            "import sys, pathlib; sys.modules['imagecodecs'] = None\n"
            "from voxelmill.inputs.readers.formats import open_volume\n"
            f"open_volume(pathlib.Path({str(path)!r}), spacing=(1, 1, 1))"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "packed as LZW; reading them needs imagecodecs: pip install imagecodecs" in found.stderr

    def test_an_empty_folder_with_the_ending_of_a_file(self, tmp_path):
        (tmp_path / "a.tif").mkdir()
        with pytest.raises(FormatError, match="holds no TIFF file"):
            open_volume(tmp_path / "a.tif", spacing=ONE)


class TestSources:
    def test_files_and_stacks_are_cases(self, tmp_path):
        save(tmp_path / "b.ome.tif", values(5, 6, 7))
        (tmp_path / "b.json").write_text('{"spacing": [3, 2, 1]}')
        (tmp_path / "stack").mkdir()
        save(tmp_path / "stack" / "1.tif", values(6, 7))
        assert discover(tmp_path).cases == (
            CaseSource("b", (tmp_path / "b.ome.tif",), spacing=(3, 2, 1)),
            CaseSource("stack", (tmp_path / "stack",)),
        )

    @pytest.mark.parametrize(("pages", "cases"), [(1, ["source"]), (5, ["1", "2"])])
    def test_a_folder_of_single_pages_is_one_case(self, tmp_path, pages, cases):
        folder = tmp_path / "source"
        folder.mkdir()
        for n in (1, 2):
            array, metadata = values(pages, 6, 7), {"axes": "ZYX"}
            save(folder / f"{n}.tif", array, imagej=True, truncate=True, metadata=metadata)
        assert [case.case for case in discover(folder).cases] == cases


class TestRuns:
    def test_manifest_gives_what_npy_gives(self, tmp_path):
        image, label = self.case()
        np.save(tmp_path / "i.npy", image)
        np.save(tmp_path / "l.npy", label)
        save(tmp_path / "i.tif", image, compression="zlib", metadata={"axes": "ZCYX"[:1] + "YX"})
        save(tmp_path / "l.tif", label, tile=(16, 16))
        outs = []
        for ending in ("npy", "tif"):
            manifest = tmp_path / f"{ending}.csv"
            manifest.write_text(f'case,A,label,spacing\na,i.{ending},l.{ending},"2,1,1"\n')
            outs.append(self.run(manifest, tmp_path / f"out_{ending}"))
        assert_same_training(*outs)

    def test_nnunet_dataset_with_spacing_beside_the_images(self, tmp_path):
        image, label = self.case()
        outs = []
        for ending in (".npy", ".tif"):
            source = tmp_path / f"source{ending}"
            for folder, name, array in (("imagesTr", "a_0000", image), ("labelsTr", "a", label)):
                (source / folder).mkdir(parents=True)
                (np.save if ending == ".npy" else save)(source / folder / f"{name}{ending}", array)
                (source / folder / "a.json").write_text('{"spacing": [2, 1, 1]}')
            facts = {"channel_names": {"0": "A"}, "labels": {"background": 0, "one": 1}, "numTraining": 1}
            (source / "dataset.json").write_text(json.dumps(facts | {"file_ending": ending}))
            outs.append(self.run(source, tmp_path / f"out{ending}"))
        assert_same_training(*outs)

    @staticmethod
    def case() -> tuple[np.ndarray, np.ndarray]:
        image = values(9, 40, 30) + 1
        return image, (image > 150).astype("u1")

    @staticmethod
    def run(source: Path, out: Path) -> Path:
        report = process(source, out, target_spacing=(2.0, 1.5, 1.5))
        assert [case.cause for case in report.cases] == [None]
        return out


def assert_same_training(first: Path, second: Path) -> None:
    """The training stores hold the same files, byte by byte."""
    found = [training_files(out) for out in (first, second)]
    assert any("/image/" in path for path in found[0])
    assert found[0] == found[1]


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="real volumes are absent")
class TestReal:
    def test_nuclei(self):
        for path in REAL:
            expected = tifffile.imread(path)
            volume = open_volume(path, spacing=(2.0, 1.0, 1.0))
            assert volume.geometry.shape == (31, 61, 57)
            assert_holds(volume, expected[None])
        assert len(np.unique(expected)) == 52

    def test_no_spacing_is_stated(self):
        with pytest.raises(SpacingError, match="along z, y, x"):
            open_volume(REAL[0])

    def test_run(self, tmp_path):
        for name, path in zip(("image.tif", "label.tif"), REAL, strict=True):
            (tmp_path / name).symlink_to(path)
        rows = ["case,nuclei,label,spacing", 'a,image.tif,label.tif,"2,1,1"']
        (tmp_path / "m.csv").write_text("\n".join(rows))
        report = process(tmp_path / "m.csv", tmp_path / "out")
        assert [case.cause for case in report.cases] == [None]
