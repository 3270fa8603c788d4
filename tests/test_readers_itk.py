"""MetaImage and NRRD: files that SimpleITK writes, and headers by hand, against what ITK reads."""

import bz2
import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from readers_support import (
    DATA,
    assemble,
    assert_holds,
    assert_same_grid,
    channels_first,
    itk_geometry,
    random_image,
)

from voxelmill.errors import FormatError, SpacingError
from voxelmill.readers import open_volume

MHD = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = {msb}
CompressedData = {compressed}
CompressedDataSize = {size}
TransformMatrix = 0 1 0 1 0 0 0 0 1
Offset = 1 2 3
ElementSpacing = 0.5 1 2
DimSize = 5 6 7
HeaderSize = {skip}
ElementType = {type}
ElementDataFile = {file}
"""
NRRD = """NRRD0004
# a comment: with a colon
type: {type}
dimension: {ndim}
space: {space}
sizes: {sizes}
space directions: {directions}
kinds: {kinds}
endian: {endian}
encoding: {encoding}
key:=value: with colons
space origin: (1,2,3)
"""
FIELDS = {
    "type": "short",
    "ndim": 3,
    "space": "right-anterior-superior",
    "sizes": "5 6 7",
    "directions": "(0,0.5,0) (1,0,0) (0,0,2)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
}
VALUES = np.random.default_rng(0).integers(0, 200, (7, 6, 5))


def mhd(folder: Path, data: bytes, name: str = "a.raw", **fields: object) -> Path:
    known = {
        "msb": "False",
        "compressed": "False",
        "skip": 0,
        "type": "MET_SHORT",
        "file": name,
        "size": len(data),
    }
    text = MHD.format(**known | fields).encode()
    if name == "LOCAL":
        (folder / "a.mha").write_bytes(text + data)
        return folder / "a.mha"
    (folder / name).write_bytes(data)
    (folder / "a.mhd").write_bytes(text)
    return folder / "a.mhd"


def nrrd(folder: Path, data: bytes, extra: str = "", **fields: object) -> Path:
    (folder / "a.nrrd").write_bytes((NRRD.format(**FIELDS | fields) + extra + "\n").encode() + data)
    return folder / "a.nrrd"


class TestBoth:
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("kind", ["oblique", "left-handed", "permuted"])
    @pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr"])
    def test_is_what_itk_reads(self, tmp_path, ending, kind, compressed):
        rng = np.random.default_rng(7)
        for dtype in ("u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"):
            path = tmp_path / f"a{ending}"
            sitk.WriteImage(random_image(rng, kind, dtype), path, compressed)
            expected = sitk.ReadImage(path)
            volume = open_volume(path)
            assert_holds(volume, channels_first(expected))
            assert_same_grid(volume.geometry, itk_geometry(expected))
            assert volume.geometry == itk_geometry(expected)

    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr"])
    def test_interleaved_components_are_channels(self, tmp_path, ending, compressed):
        path = tmp_path / f"a{ending}"
        sitk.WriteImage(random_image(np.random.default_rng(1), "oblique", "f4", 3), path, compressed)
        volume = open_volume(path)
        assert volume.channels == 3
        assert_holds(volume, channels_first(sitk.ReadImage(path)))

    @pytest.mark.parametrize("ending", [".mha", ".nrrd"])
    def test_a_fourth_axis_is_channels(self, tmp_path, ending):
        array = np.random.default_rng(1).integers(0, 99, (3, 7, 6, 5)).astype("i2")
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), tmp_path / f"a{ending}")
        assert_holds(open_volume(tmp_path / f"a{ending}"), array)

    @pytest.mark.parametrize("ending", [".mha", ".nrrd"])
    def test_two_dimensions_are_one_slice(self, tmp_path, ending):
        array = np.arange(30, dtype="i2").reshape(6, 5)
        sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / f"a{ending}")
        assert_holds(open_volume(tmp_path / f"a{ending}"), array[None, None])

    @pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr"])
    @pytest.mark.parametrize("compressed", [False, True])
    def test_truncated_files_are_refused_without_names(self, tmp_path, ending, compressed):
        path = tmp_path / f"secret{ending}"
        sitk.WriteImage(random_image(np.random.default_rng(1), "oblique", "f8"), path, compressed)
        data = next((p for p in tmp_path.iterdir() if p != path), path)
        data.write_bytes(data.read_bytes()[:-100])
        with pytest.raises(FormatError, match="1680 bytes") as caught:
            assemble(open_volume(path), 2)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
    def test_a_missing_data_file_is_said_without_names(self, tmp_path, ending):
        path = tmp_path / f"secret{ending}"
        sitk.WriteImage(random_image(np.random.default_rng(1), "oblique"), path)
        next(p for p in tmp_path.iterdir() if p != path).unlink()
        with pytest.raises(FormatError, match="missing") as caught:
            open_volume(path)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr"])
    @pytest.mark.parametrize("content", [b"", b"\0\1\2\3" * 100, b"a = b\n" * 3, b"NRRD0004\n\n"])
    def test_other_content_is_refused(self, tmp_path, ending, content):
        (tmp_path / f"a{ending}").write_bytes(content)
        with pytest.raises(FormatError):
            open_volume(tmp_path / f"a{ending}", spacing=(1, 1, 1))


class TestMetaImage:
    @pytest.mark.parametrize("name", ["LOCAL", "a.raw"])
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_by_hand(self, tmp_path, order, compressed, name):
        data = VALUES.astype(order + "i2").tobytes()
        data = zlib.compress(data) if compressed else data
        path = mhd(tmp_path, data, name, msb=order == ">", compressed=compressed)
        volume = open_volume(path)
        assert_holds(volume, VALUES[None].astype("i2"))
        assert_holds(volume, channels_first(sitk.ReadImage(path)))
        assert volume.geometry == itk_geometry(sitk.ReadImage(path))

    @pytest.mark.parametrize("skip", [-1, 37])
    def test_header_size(self, tmp_path, skip):
        path = mhd(tmp_path, b"\7" * 37 + VALUES.astype("<i2").tobytes(), skip=skip)
        assert_holds(open_volume(path), VALUES[None].astype("i2"))

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"file": "LIST"}, "one data file per slice"),
            ({"file": "a%03d.raw 1 7 1"}, "one data file per slice"),
            ({"type": "MET_STRING"}, "ElementType is 'MET_STRING'"),
            ({"skip": "3.5"}, "HeaderSize in the header is not a whole number"),
            ({"type": "MET_DOUBLE"}, "asks for 1680 bytes of voxels, the file holds 420"),
            ({"type": "MET_UCHAR"}, "asks for 210 bytes of voxels, the file holds 420"),
        ],
    )
    def test_what_is_not_read_is_refused(self, tmp_path, fields, message):
        with pytest.raises(FormatError, match=message):
            open_volume(mhd(tmp_path, VALUES.astype("<i2").tobytes(), **fields))

    def test_needs_a_spacing(self, tmp_path):
        path = mhd(tmp_path, VALUES.astype("<i2").tobytes())
        path.write_text(path.read_text().replace("ElementSpacing = 0.5 1 2\n", ""))
        with pytest.raises(SpacingError, match="no ElementSpacing"):
            open_volume(path)
        assert open_volume(path, spacing=(3, 2, 1)).geometry.spacing == (3, 2, 1)


class TestNrrd:
    @pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior", "LAS"])
    @pytest.mark.parametrize("encoding", ["raw", "gz", "gzip", "bzip2"])
    @pytest.mark.parametrize("endian", ["little", "big"])
    def test_by_hand(self, tmp_path, endian, encoding, space):
        data = VALUES.astype(">i2" if endian == "big" else "<i2").tobytes()
        data = {"g": gzip.compress, "b": bz2.compress}.get(encoding[0], bytes)(data)
        path = nrrd(tmp_path, data, endian=endian, encoding=encoding, space=space)
        volume = open_volume(path)
        assert_holds(volume, VALUES[None].astype("i2"))
        if encoding != "bzip2":
            assert volume.geometry == itk_geometry(sitk.ReadImage(path))

    @pytest.mark.parametrize(
        "name",
        [
            "signed char",
            "uint8_t",
            "unsigned short int",
            "int",
            "unsigned int",
            "longlong",
            "uint64",
            "float",
        ],
    )
    def test_names_of_types(self, tmp_path, name):
        path = nrrd(tmp_path, b"", type=name)
        pixels = {"signed char": "i1", "uint8_t": "u1", "unsigned short int": "u2", "int": "i4"} | {
            "unsigned int": "u4", "longlong": "i8", "uint64": "u8", "float": "f4",
        }  # fmt: skip
        path.write_bytes(path.read_bytes() + VALUES.astype(pixels[name]).tobytes())
        assert open_volume(path).dtype == pixels[name]
        assert_holds(open_volume(path), channels_first(sitk.ReadImage(path)))

    @pytest.mark.parametrize(
        ("extra", "before"), [("byte skip: 9\n", b"x" * 9), ("byte skip: -1\n", b"x" * 9)]
    )
    def test_byte_skip(self, tmp_path, extra, before):
        path = nrrd(tmp_path, before + VALUES.astype("<i2").tobytes(), extra)
        assert_holds(open_volume(path), VALUES[None].astype("i2"))

    def test_line_skip_and_skip_in_the_decompressed_stream(self, tmp_path):
        data = b"line\nline\n" + gzip.compress(b"x" * 9 + VALUES.astype("<i2").tobytes())
        path = nrrd(tmp_path, data, "line skip: 2\nbyte skip: 9\n", encoding="gzip")
        assert_holds(open_volume(path), VALUES[None].astype("i2"))

    def test_a_vector_axis_is_read_where_it_comes_first(self, tmp_path):
        values = np.random.default_rng(0).integers(0, 99, (7, 6, 5, 3)).astype("<i2")
        axes = {"ndim": 4, "sizes": "3 5 6 7", "directions": "none (0,0.5,0) (1,0,0) (0,0,2)"}
        path = nrrd(tmp_path, values.tobytes(), **axes, kinds="vector domain domain domain")
        assert_holds(open_volume(path), np.moveaxis(values, -1, 0))
        assert_holds(open_volume(path), channels_first(sitk.ReadImage(path)))
        axes = {"ndim": 4, "sizes": "5 6 7 3", "directions": "(0,0.5,0) (1,0,0) (0,0,2) none"}
        path = nrrd(tmp_path, values.tobytes(), **axes, kinds="domain domain domain vector")
        with pytest.raises(FormatError, match="a vector axis is read where it comes first"):
            open_volume(path)

    @pytest.mark.parametrize(
        ("fields", "extra", "message"),
        [
            ({"encoding": "ascii"}, "", "encoding is 'ascii'; raw, gzip and bzip2 are read"),
            ({"encoding": "hex"}, "", "encoding is 'hex'"),
            ({"type": "double"}, "", "asks for 1680 bytes of voxels, the file holds 420"),
        ],
    )
    def test_what_is_not_read_is_refused(self, tmp_path, fields, extra, message):
        with pytest.raises(FormatError, match=message):
            open_volume(nrrd(tmp_path, VALUES.astype("<i2").tobytes(), extra, **fields))

    def test_needs_a_spacing(self, tmp_path):
        path = nrrd(tmp_path, VALUES.astype("<i2").tobytes())
        lines = [line for line in path.read_bytes().split(b"\n") if not line.startswith(b"space")]
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(SpacingError, match="neither spacings nor space directions"):
            open_volume(path)
        assert open_volume(path, spacing=(3, 2, 1)).geometry.spacing == (3, 2, 1)


REAL = sorted(DATA.glob("*/*.nrrd"))


@pytest.mark.real
@pytest.mark.skipif(not REAL, reason="real volumes are absent")
class TestRealNrrd:
    @pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
    def test_is_what_itk_reads(self, path):
        expected = sitk.ReadImage(path)
        volume = open_volume(path)
        np.testing.assert_array_equal(assemble(volume, 16), channels_first(expected))
        assert volume.geometry == itk_geometry(expected)

    @pytest.mark.parametrize("name", ["brain1", "lung1"])
    def test_a_label_lies_on_the_grid_of_its_image(self, name):
        folder = DATA / "pyradiomics"
        image, label = (open_volume(folder / f"{name}_{part}.nrrd") for part in ("image", "label"))
        assert image.geometry.displacement(label.geometry) < 1e-6
