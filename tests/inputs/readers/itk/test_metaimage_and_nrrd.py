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
    peak_bytes,
    random_image,
)

from voxelmill.basics.errors import FormatError, SpacingError
from voxelmill.inputs.readers.formats import open_volume

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


def as_text(array: np.ndarray, between: str = " ") -> bytes:
    return between.join(map(repr, array.ravel().tolist())).encode()


class TestText:
    """Numbers as text and bytes as hexadecimal digits are what ITK reads, and hold little memory."""

    TYPES = {"signed char": "i1", "uchar": "u1", "short": "i2", "uint": "u4", "ulonglong": "u8"} | {
        "longlong": "i8", "float": "f4", "double": "f8",
    }  # fmt: skip

    @pytest.mark.parametrize("name", list(TYPES))
    @pytest.mark.parametrize("encoding", ["ascii", "txt", "text", "hex"])
    @pytest.mark.parametrize("endian", ["little", "big"])
    def test_nrrd(self, tmp_path, endian, encoding, name):
        kind = np.dtype(self.TYPES[name]).newbyteorder("<" if endian == "little" else ">")
        values = (np.random.default_rng(3).normal(size=(7, 6, 5)) * 20 + 60).astype(kind)
        data = values.tobytes().hex().encode() if encoding == "hex" else as_text(values, "\n")
        path = nrrd(tmp_path, data + b"\n", type=name, encoding=encoding, endian=endian)
        assert_holds(open_volume(path), values[None])
        assert_holds(open_volume(path), channels_first(sitk.ReadImage(path)))
        assert open_volume(path).geometry == itk_geometry(sitk.ReadImage(path))

    @pytest.mark.parametrize("between", [" ", "\t", "\r\n", ", "])
    def test_what_stands_between_numbers(self, tmp_path, between):
        path = nrrd(tmp_path, as_text(VALUES, between), encoding="ascii")
        assert_holds(open_volume(path), channels_first(sitk.ReadImage(path)))

    def test_bytes_and_lines_are_left_out_before(self, tmp_path):
        extra = "line skip: 1\nbyte skip: 4\n"
        path = nrrd(tmp_path, b"1 2 3\n4 5 " + as_text(VALUES), extra, encoding="ascii")
        assert_holds(open_volume(path), VALUES[None].astype("i2"))

    @pytest.mark.parametrize("name", ["LOCAL", "a.txt"])
    @pytest.mark.parametrize(("kind", "dtype"), [("SHORT", "i2"), ("UCHAR", "u1"), ("FLOAT", "f4")])
    def test_metaimage(self, tmp_path, kind, dtype, name):
        values = VALUES.astype(dtype)
        path = mhd(tmp_path, as_text(values) + b"\n", name, type=f"MET_{kind}")
        path.write_bytes(path.read_bytes().replace(b"BinaryData = True", b"BinaryData = False"))
        assert_holds(open_volume(path), channels_first(sitk.ReadImage(path)))
        assert_holds(open_volume(path), values[None])

    @pytest.mark.parametrize(
        ("encoding", "wrong", "message"),
        [
            ("ascii", b"1.5", "is no number of type int16"),
            ("ascii", b"40000", "is no number of type int16"),
            ("ascii", b"Quixote", "is no number of type int16"),
            ("ascii", b"1" * 9999, "is no number of type int16"),
            ("hex", b"0g", "no pair of such digits"),
            ("hex", b"\xff\xff", "no pair of such digits"),
            ("ascii", b"", "voxels as text are damaged or end early: the header asks for 420 bytes"),
            ("hex", b"", "voxels as text are damaged or end early: the header asks for 420 bytes"),
            ("ascii", b"7 " * 60, "the data go on for a slice or more"),
            ("hex", b"07" * 120, "the data go on for a slice or more"),
        ],
    )
    def test_damaged(self, tmp_path, encoding, wrong, message):
        stored = VALUES.astype("<i2")
        data = stored.tobytes().hex().encode()[2:] if encoding == "hex" else as_text(stored.ravel()[1:])
        path = nrrd(tmp_path, data + b" " + wrong, encoding=encoding)
        if b" " in wrong or len(wrong) == 240:
            path = nrrd(tmp_path, data + b" 01 " + wrong, encoding=encoding)
        with pytest.raises(FormatError, match=message) as caught:
            assemble(open_volume(path), 2)
        assert "Quixote" not in str(caught.value)

    def test_too_little_text_is_refused_at_once(self, tmp_path):
        with pytest.raises(FormatError, match="50 bytes of voxels as text cannot hold them"):
            open_volume(nrrd(tmp_path, b"1 " * 25, encoding="ascii", sizes="500 600 700"))

    @pytest.mark.parametrize("encoding", ["ascii", "hex"])
    def test_memory_is_what_the_model_counts(self, tmp_path, encoding):
        values = np.random.default_rng(3).integers(1000, 9999, (400, 60, 50)).astype("<i2")
        data = values.tobytes().hex().encode() if encoding == "hex" else as_text(values)
        volume = open_volume(nrrd(tmp_path, data, encoding=encoding, sizes="50 60 400"))
        assert peak_bytes(volume) < volume.extra_bytes + volume.slice_bytes


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

    @pytest.mark.parametrize("kind", ["vector", "list", "3-vector", "RGB-color"])
    @pytest.mark.parametrize("encoding", ["raw", "gzip", "ascii"])
    def test_a_vector_axis_is_read_where_it_comes_last(self, tmp_path, encoding, kind):
        values = np.random.default_rng(0).integers(0, 99, (3, 7, 6, 5)).astype("<i2")
        axes = {"ndim": 4, "sizes": "5 6 7 3", "directions": "(0,0.5,0) (1,0,0) (0,0,2) none"}
        data = {"raw": values.tobytes(), "gzip": gzip.compress(values.tobytes()), "ascii": as_text(values)}
        kinds = f"domain domain domain {kind}"
        path = nrrd(tmp_path, data[encoding], **axes, kinds=kinds, encoding=encoding)
        expected = sitk.ReadImage(path)
        assert_holds(open_volume(path), values)
        assert_holds(open_volume(path), channels_first(expected))
        assert open_volume(path).geometry == itk_geometry(expected)
        assert open_volume(path).is_random_access == (encoding == "raw")

    def test_a_vector_axis_between_others_is_refused(self, tmp_path):
        axes = {"ndim": 4, "sizes": "5 6 3 7", "directions": "(0,0.5,0) (1,0,0) none (0,0,2)"}
        path = nrrd(tmp_path, bytes(1260), **axes, kinds="domain domain vector domain")
        with pytest.raises(FormatError, match="a vector axis is read where it comes first or last"):
            open_volume(path)

    @pytest.mark.parametrize(
        ("fields", "extra", "message"),
        [
            ({"encoding": "zip"}, "", "encoding is 'zip'; raw, gzip, bzip2, ascii and hex are read"),
            ({"encoding": "ascii"}, "byte skip: -1\n", "negative byte skip, and voxels as text"),
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
