"""MetaImage and NRRD whose slices lie in several files, by a list or a pattern: what ITK reads of them."""

import bz2
import gzip
import json
import zlib

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from commands import within
from readers_support import assert_holds, channels_first, itk_geometry, peak_bytes

from voxelmill.basics.errors import FormatError
from voxelmill.inputs.readers.formats import data_files, open_volume
from voxelmill.inputs.sources.discover import discover
from voxelmill.inputs.sources.source_checksums import source_digest

MHD = """ObjectType = Image
NDims = {axes}
BinaryData = True
BinaryDataByteOrderMSB = {msb}
CompressedData = {packed}
{more}TransformMatrix = {matrix}
ElementSpacing = {spacing}
DimSize = {sizes}
HeaderSize = {skip}
ElementType = MET_SHORT
ElementDataFile = {file}
"""
NRRD = """NRRD0004
type: short
dimension: {axes}
sizes: {sizes}
space: left-posterior-superior
space directions: {directions}
kinds: {kinds}
endian: little
encoding: {encoding}
{more}data file: {file}
"""
VALUES = np.random.default_rng(0).integers(0, 200, (7, 6, 5)).astype("<i2")
NAMES = [f"secret{3 * n:02d}.raw" for n in range(7)]
STATED = {
    "list": "LIST\n" + "\n".join(NAMES),
    "pattern": "secret%02d.raw 0 18 3",
}


def mhd(folder, pieces=VALUES, stated=STATED["list"], names=NAMES, pack=bytes, **fields):
    """A header and its files, one a piece."""
    axes = fields.get("axes", 3)
    known = {"axes": axes, "msb": False, "packed": False, "skip": 0, "sizes": "5 6 7", "more": ""}
    known |= {"spacing": " ".join(["0.5", "1", "2", "1"][:axes])}
    known |= {"matrix": " ".join(map(str, np.eye(axes, dtype=int).ravel()))}
    write(folder, pieces, names, pack)
    text = MHD.format(**{**known, **fields, "file": stated})
    (folder / "secret.mhd").write_text(text)
    return folder / "secret.mhd"


def nrrd(folder, pieces=VALUES, stated=STATED["list"], names=NAMES, pack=bytes, **fields):
    known = {"axes": 3, "sizes": "5 6 7", "kinds": "domain domain domain", "encoding": "raw", "more": ""}
    known |= {"directions": "(0.5,0,0) (0,1,0) (0,0,2)"}
    write(folder, pieces, names, pack)
    (folder / "secret.nhdr").write_text(NRRD.format(**{**known, **fields, "file": stated}))
    return folder / "secret.nhdr"


def write(folder, pieces, names, pack=bytes):
    for name, piece in zip(names, pieces, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(pack(piece.tobytes()))


def assert_is_itks(path):
    expected = sitk.ReadImage(path)
    volume = open_volume(path)
    assert_holds(volume, channels_first(expected))
    assert volume.geometry == itk_geometry(expected)


class TestMetaImage:
    @pytest.mark.parametrize("stated", STATED)
    @pytest.mark.parametrize("msb", [True, False])
    def test_is_what_itk_reads(self, tmp_path, msb, stated):
        path = mhd(tmp_path, VALUES.astype(">i2") if msb else VALUES, STATED[stated], msb=msb)
        assert_holds(open_volume(path), VALUES[None])
        assert_is_itks(path)
        assert open_volume(path).is_random_access

    @pytest.mark.parametrize("words", ["LIST 2", "LIST 2D"])
    def test_the_axes_of_a_file_may_be_stated(self, tmp_path, words):
        assert_is_itks(mhd(tmp_path, stated=STATED["list"].replace("LIST", words)))

    @pytest.mark.parametrize("skip", [9, -1])
    @pytest.mark.parametrize("stated", STATED)
    def test_bytes_before_each(self, tmp_path, stated, skip):
        path = mhd(tmp_path, VALUES, STATED[stated], pack=lambda data: b"x" * 9 + data, skip=skip)
        assert_is_itks(path)
        assert_holds(open_volume(path), VALUES[None])

    def test_each_may_be_compressed(self, tmp_path):
        path = mhd(tmp_path, pack=zlib.compress, packed=True)
        assert_holds(open_volume(path), VALUES[None])
        assert not open_volume(path).is_random_access

    def test_values_of_a_voxel_lie_together(self, tmp_path):
        values = np.random.default_rng(1).integers(0, 99, (7, 6, 5, 3)).astype("<i2")
        path = mhd(tmp_path, values, more="ElementNumberOfChannels = 3\n")
        assert_is_itks(path)
        assert_holds(open_volume(path), np.moveaxis(values, -1, 0))

    def test_files_of_whole_volumes_are_channels(self, tmp_path):
        values = np.random.default_rng(1).integers(0, 99, (2, 7, 6, 5)).astype("<i2")
        stated = "LIST 3\na.raw\nb.raw\n"
        path = mhd(tmp_path, values, stated, ["a.raw", "b.raw"], axes=4, sizes="5 6 7 2")
        assert_holds(open_volume(path), values)
        assert_holds(open_volume(path), sitk.GetArrayFromImage(sitk.ReadImage(path)))

    @pytest.mark.parametrize(
        ("pattern", "numbers"),
        [("s%d.raw", range(1, 8)), ("s%d.raw 4", range(4, 11)), ("s%03d.raw 8 20", range(8, 21, 2))],
    )
    def test_numbers_that_are_left_out(self, tmp_path, pattern, numbers):
        if len(pattern.split()) == 3:
            pattern += " 2"
        names = [pattern.split()[0] % number for number in numbers]
        assert_is_itks(mhd(tmp_path, VALUES, pattern, names))


class TestNrrd:
    @pytest.mark.parametrize("stated", STATED)
    def test_is_what_itk_reads(self, tmp_path, stated):
        path = nrrd(tmp_path, stated=STATED[stated])
        assert_is_itks(path)
        assert_holds(open_volume(path), VALUES[None])

    def test_numbers_that_go_down(self, tmp_path):
        path = nrrd(tmp_path, stated="secret%02d.raw 18 0 -3 2")
        assert_holds(open_volume(path), VALUES[None, ::-1])

    @pytest.mark.parametrize(
        ("encoding", "pack"),
        [
            ("gzip", gzip.compress),
            ("bzip2", bz2.compress),
            ("hex", lambda data: data.hex().encode()),
            ("ascii", lambda data: " ".join(map(str, np.frombuffer(data, "<i2"))).encode()),
        ],
    )
    def test_encodings(self, tmp_path, encoding, pack):
        path = nrrd(tmp_path, pack=pack, encoding=encoding)
        assert_holds(open_volume(path), VALUES[None])

    @pytest.mark.parametrize(("skip", "lines"), [(3, 1), (-1, 0)])
    def test_bytes_and_lines_before_each(self, tmp_path, skip, lines):
        more = f"line skip: {lines}\nbyte skip: {skip}\n"
        path = nrrd(tmp_path, pack=lambda data: b"x" * 8 + b"\n" + b"abc" + data, more=more)
        assert_holds(open_volume(path), VALUES[None])

    @pytest.mark.parametrize("is_first", [True, False])
    def test_a_vector_axis(self, tmp_path, is_first):
        values = np.random.default_rng(1).integers(0, 99, (7, 6, 5, 3)).astype("<i2")
        rows = ["(0.5,0,0)", "(0,1,0)", "(0,0,2)"]
        order = ["none", *rows] if is_first else [*rows, "none"]
        kinds = ["vector" if row == "none" else "domain" for row in order]
        pieces = values if is_first else np.ascontiguousarray(np.moveaxis(values, -1, 0))
        sizes = "3 5 6 7" if is_first else "5 6 7 3"
        names = NAMES if is_first else NAMES[:3]
        fields = {"axes": 4, "sizes": sizes, "kinds": " ".join(kinds), "directions": " ".join(order)}
        path = nrrd(tmp_path, pieces, "LIST\n" + "\n".join(names), names, **fields)
        assert_holds(open_volume(path), np.moveaxis(values, -1, 0))


class TestRefused:
    @pytest.mark.parametrize("make", [mhd, nrrd])
    @pytest.mark.parametrize("stated", STATED)
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda file: file.unlink(), "data file 4 of 7: the file is missing"),
            (lambda file: file.write_bytes(bytes(59)), "data file 4 of 7: .* asks for 60 .* file holds 59"),
            (lambda file: file.write_bytes(bytes(120)), "data file 4 of 7: .* asks for 60 .* file holds 120"),
        ],
    )
    def test_a_wrong_file_is_named_by_its_number(self, tmp_path, change, message, stated, make):
        path = make(tmp_path, stated=STATED[stated])
        change(tmp_path / NAMES[3])
        with pytest.raises(FormatError, match=message) as caught:
            open_volume(path)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (zlib.compress(VALUES[3].tobytes()[:-1]), "data file 4 of 7: it ends early: 60 .* 59 were found"),
            (zlib.compress(VALUES[3].tobytes())[:-9], "data file 4 of 7: compressed data are damaged"),
            (zlib.compress(VALUES[3].tobytes() + b"x"), "data file 4 of 7: it goes on after the 60 bytes"),
        ],
    )
    def test_a_damaged_file_is_named_by_its_number(self, tmp_path, content, message):
        path = mhd(tmp_path, pack=zlib.compress, packed=True)
        (tmp_path / NAMES[3]).write_bytes(content)
        for depth in (1, 3, 7):
            with pytest.raises(FormatError, match=message):
                list(open_volume(path).slabs(depth))

    @pytest.mark.parametrize(
        ("stated", "message"),
        [
            ("LIST\n" + "\n".join(NAMES[:5]), "names 5 data files; its sizes need 7"),
            ("LIST\n" + "\n".join([*NAMES, NAMES[0]]), "names more data files than the 7"),
            ("LIST 1\n" + "\n".join(NAMES), "data files of 1 of its 3 axes"),
            ("LIST 3\n" + "\n".join(NAMES), "data files of 3 of its 3 axes"),
            ("LIST\n../secret.raw\n", "data file 1 of 7: .* outside of its folder"),
            ("LIST\n/etc/passwd\n", "data file 1 of 7: .* outside of its folder"),
            ("secret%02d.raw 0 x 3", "numbers its data files by 3 words"),
            ("secret%02d.raw 0 18 3 2 1", "numbers its data files by 5 words"),
            ("secret%02d%d.raw 0 18 3", "pattern that is not understood"),
            ("secret%f.raw 0 18 3", "pattern that is not understood"),
            ("../secret%02d.raw 0 18 3", "data file 1 of 7: .* outside of its folder"),
            ("secret%02d.raw 0 18 0", "numbers its data files|names 0 data files"),
            ("secret%02d.raw 0 21 3", "numbers its data files|names more data files"),
        ],
    )
    @pytest.mark.parametrize("make", [mhd, nrrd])
    def test_wrong_headers(self, tmp_path, make, stated, message):
        (tmp_path / "x").mkdir()
        (tmp_path / "secret.raw").write_bytes(bytes(60))
        for name in [*NAMES, "secret21.raw"]:
            (tmp_path / name).write_bytes(bytes(60))
        path = make(tmp_path / "x", stated=stated)
        (tmp_path / "x" / "secret21.raw").write_bytes(bytes(60))
        with pytest.raises(FormatError, match=message) as caught:
            open_volume(path)
        assert "secret" not in str(caught.value).replace("secret%", "")

    def test_files_of_rows(self, tmp_path):
        fields = {"axes": 4, "kinds": "vector domain domain domain", "sizes": "5 6 7 1"}
        path = nrrd(
            tmp_path,
            stated="LIST 2\n" + "\n".join(NAMES),
            directions="none (1,0,0) (0,1,0) (0,0,1)",
            **fields,
        )
        with pytest.raises(FormatError, match="names 7 data files for 1 slices"):
            open_volume(path)


class TestSources:
    @pytest.mark.parametrize("make", [mhd, nrrd])
    @pytest.mark.parametrize("stated", STATED)
    def test_files_of_a_header_are_no_cases_and_count_for_its_checksum(self, tmp_path, stated, make):
        names = [name.replace(".raw", ".img") for name in NAMES]
        path = make(tmp_path, VALUES, STATED[stated].replace(".raw", ".img"), names)
        assert data_files(path) == tuple(tmp_path / name for name in names)
        found = discover(tmp_path)
        assert [case.channels[0].name for case in found.cases] == [path.name]
        assert found.skipped == ()
        before = source_digest(found.cases[0])
        (tmp_path / names[5]).write_bytes(bytes(60))
        assert source_digest(found.cases[0]) != before

    def test_files_below_the_header(self, tmp_path):
        names = [f"slices/{n}.raw" for n in range(7)]
        path = mhd(tmp_path, VALUES, "slices/%d.raw 0 6 1", names)
        assert_is_itks(path)
        assert len(data_files(path)) == 7

    def test_a_run_in_place_and_one_that_copies_are_the_same(self, tmp_path):
        (tmp_path / "raw").mkdir()
        mhd(tmp_path / "raw", VALUES + 1)
        stores = {}
        for name, words in {"copied": [], "place": ["--set=ingest.copy=false"]}.items():
            done = within("run", tmp_path / "raw", tmp_path / name, "--cluster=none", *words)
            assert done.exit_code == 0, done.stdout
            image = tmp_path / name / "training.zarr/fullres/secret/image"
            stores[name] = [p.read_bytes() for p in sorted(image.rglob("c/**/*")) if p.is_file()]
        assert stores["copied"] == stores["place"] != []

    def test_a_refusal_says_which_file_of_the_case_it_speaks_of(self, tmp_path):
        (tmp_path / "image").mkdir()
        (tmp_path / "label").mkdir()
        mhd(tmp_path / "image", VALUES + 1)
        nrrd(tmp_path / "label", VALUES % 3)
        (tmp_path / "label" / NAMES[1]).unlink()
        rows = "case,MR,label\na,image/secret.mhd,label/secret.nhdr\n"
        (tmp_path / "cases.csv").write_text(rows)
        within("run", tmp_path / "cases.csv", tmp_path / "out", "--cluster=none")
        (case,) = json.loads((tmp_path / "out" / "report.json").read_text())["cases"]
        assert case["cause"].startswith("the label: data file 2 of 7: the file is missing")


def test_memory_is_what_the_model_counts(tmp_path):
    values = np.random.default_rng(3).integers(0, 999, (300, 60, 50)).astype("<i2")
    names = [f"{n}.raw" for n in range(300)]
    for packed in (False, True):
        pack = zlib.compress if packed else bytes
        path = mhd(tmp_path, values, "%d.raw 0 299 1", names, pack, packed=packed, sizes="50 60 300")
        volume = open_volume(path)
        assert peak_bytes(volume) < volume.extra_bytes + 2 * volume.slice_bytes
