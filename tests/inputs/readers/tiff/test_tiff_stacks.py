"""TIFF as microscopes leave it: stacks of numbered files, what states no calibration, tiles left out."""

import re

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from readers_support import assemble, assert_holds, peak_bytes
from runs import process

from voxelmill.basics.errors import FormatError, SpacingError
from voxelmill.basics.geometry import Box
from voxelmill.basics.volume import Repair
from voxelmill.config.repair_settings import RepairConfig
from voxelmill.inputs.readers.formats import open_volume
from voxelmill.inputs.readers.tiff.stack_file_names import arrange, mean_slices
from voxelmill.inputs.sources.case_source import CaseSource
from voxelmill.inputs.sources.discover import discover
from voxelmill.inputs.sources.source_checksums import source_digest
from voxelmill.stages.raw_store.raw_case import RawCase

RNG = np.random.default_rng(6)
ONE = (1.0, 1.0, 1.0)


def values(*shape, dtype="u2"):
    return RNG.integers(1, 250, shape).astype(dtype)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, **{"photometric": "minisblack"} | options)
    return path


def imagej(path, resolution, inch_or_cm, **facts):
    """A file as ImageJ writes it, with a unit among its tags."""
    options = {"imagej": True, "resolution": resolution, "resolutionunit": inch_or_cm}
    return save(path, values(5, 6, 7), metadata={"axes": "ZYX", "spacing": 2.5, **facts}, **options)


class TestCalibration:
    @pytest.mark.parametrize(
        ("resolution", "unit"),
        [
            ((72, 72), "INCH"),
            ((96, 96), "INCH"),
            ((150, 150), "INCH"),
            ((300, 300), "INCH"),
            ((72.009, 72.009), "INCH"),  # 2835 dots a metre
            ((28.35, 28.35), "CENTIMETER"),
            ((118.11, 118.11), "CENTIMETER"),
            ((1, 1), "CENTIMETER"),
            ((1, 1), "INCH"),
        ],
    )
    def test_what_programs_write_of_any_image_states_nothing(self, tmp_path, resolution, unit):
        path = imagej(tmp_path / "a.tif", resolution, unit)
        with pytest.raises(SpacingError, match=r"no spacing .* along z, y, x. Add a `spacing` column"):
            open_volume(path)
        assert open_volume(path, spacing=(3, 2, 1)).geometry.spacing == (3, 2, 1)

    @pytest.mark.parametrize("dots", [72, 96, 150, 300])
    def test_printers_dots_stay_so_where_imagej_names_the_inch(self, tmp_path, dots):
        with pytest.raises(SpacingError, match="along z, y, x"):
            open_volume(imagej(tmp_path / "a.tif", (dots, dots), "INCH", unit="inch"))

    @pytest.mark.parametrize(
        ("resolution", "unit", "facts", "expected"),
        [
            ((51000, 51000), "CENTIMETER", {}, (25, 10 / 51000, 10 / 51000)),
            ((51000, 51000), "CENTIMETER", {"unit": "um"}, (0.0025, 1e-3 / 51000, 1e-3 / 51000)),
            ((72, 72), "NONE", {"unit": "um"}, (0.0025, 1e-3 / 72, 1e-3 / 72)),  # 72 voxels a micrometre
            ((1, 1), "NONE", {"unit": "um"}, (0.0025, 0.001, 0.001)),
            ((1, 1), "NONE", {"unit": "cm"}, (25, 10, 10)),
            ((4, 2), "INCH", {"unit": "inch"}, (63.5, 12.7, 6.35)),
        ],
    )
    def test_what_was_measured_counts(self, tmp_path, resolution, unit, facts, expected):
        path = imagej(tmp_path / "a.tif", resolution, unit, **facts)
        assert open_volume(path).geometry.spacing == pytest.approx(expected, rel=1e-6)


def save_sparse(path, array, left_out, **options):
    """Save (page, y, x), then state offset and length 0 for some pieces of its pages, and make them zeros."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {name: options.pop(name) for name in ("bigtiff", "byteorder") if name in options}
    with tifffile.TiffWriter(path, **kinds) as writer:
        for page in array:  # one by one: pages of one call share a table
            writer.write(page, metadata=None, contiguous=False, photometric="minisblack", **options)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for number, pieces in left_out.items():
            page = tif.pages[number]
            offsets, counts = list(page.dataoffsets), list(page.databytecounts)
            for piece in pieces:
                offsets[piece] = counts[piece] = 0
                height, width = page.chunks[-2:]
                y, x = np.unravel_index(piece, page.chunked[-2:])
                array[number, y * height : (y + 1) * height, x * width : (x + 1) * width] = 0
            tiled = "Tile" if page.is_tiled else "Strip"
            for name, numbers in ((f"{tiled}Offsets", offsets), (f"{tiled}ByteCounts", counts)):
                page.tags[name].overwrite(numbers)
    return path


class TestSparse:
    @pytest.mark.parametrize(
        ("left_out", "options"),
        [
            ({0: [1, 4], 2: [0]}, {"tile": (16, 16)}),
            ({0: [1, 4], 2: [0]}, {"tile": (16, 16), "compression": "zlib"}),
            ({1: range(6)}, {"tile": (16, 16), "compression": "lzw"}),  # a page of which nothing is stored
            ({0: range(6)}, {"tile": (16, 16)}),
            ({0: [0, 3], 3: [2]}, {"rowsperstrip": 8}),
            ({0: [0, 3], 3: [2]}, {"rowsperstrip": 8, "compression": "zstd", "byteorder": ">"}),
            ({0: [0]}, {}),  # a strip a page
            ({1: [0], 3: [0]}, {"bigtiff": True}),
            ({0: [0]}, {"compression": "zlib"}),
            ({n: [0] for n in range(4)}, {}),
        ],
    )
    def test_what_is_not_stored_is_zeros(self, tmp_path, left_out, options):
        array = values(4, 32, 40)
        path = save_sparse(tmp_path / "a.tif", array, left_out, **options)
        volume = open_volume(path, spacing=ONE)
        assert (array == 0).any()
        assert_holds(volume, array[None])
        said = "pages of the TIFF are sparse: tiles or strips not stored became zeros"
        assert volume.notes == (f"{len(left_out)} {said}",)
        box = Box((0, 3, 12), (4, 20, 37))
        np.testing.assert_array_equal(volume.read(box), array[None, *box.slices])

    @pytest.mark.parametrize("pieces", [[1], range(6)])
    def test_gdal_states_another_value(self, tmp_path, pieces):
        array = values(1, 32, 40)
        tag = (42113, "s", 0, "7", True)
        path = save_sparse(tmp_path / "a.tif", array, {0: pieces}, tile=(16, 16), extratags=[tag])
        expected = np.where(array == 0, 7, array)
        assert_holds(open_volume(path, spacing=ONE), expected[None])

    def test_one_page(self, tmp_path):
        array = values(1, 32, 40)
        path = save_sparse(tmp_path / "a.tif", array, {0: [0]}, compression=None)
        assert_holds(open_volume(path, spacing=ONE), np.zeros((1, 1, 32, 40), "u2"))

    def test_a_stack(self, tmp_path):
        array = values(3, 32, 40)
        for z in range(3):
            save_sparse(tmp_path / f"{z}.tif", array[z : z + 1], {0: [1]} if z else {}, tile=(16, 16))
        volume = open_volume(tmp_path, spacing=ONE)
        assert_holds(volume, array[None])
        assert volume.notes[0].startswith("2 pages of the TIFF are sparse")

    @pytest.mark.parametrize(("offset", "count"), [(0, 512), (512, 0), (0, 1)])
    def test_half_a_statement_is_damage(self, tmp_path, offset, count):
        path = save(tmp_path / "a.tif", values(2, 32, 40), tile=(16, 16), metadata=None)
        with tifffile.TiffFile(path, mode="r+b") as tif:
            page = tif.pages[1]
            offsets, counts = list(page.dataoffsets), list(page.databytecounts)
            offsets[2], counts[2] = offset, count
            page.tags["TileOffsets"].overwrite(offsets)
            page.tags["TileByteCounts"].overwrite(counts)
        with pytest.raises(FormatError, match=r"page 1 of the TIFF \(from 0\) is missing"):
            assemble(open_volume(path, spacing=ONE), 2)

    def test_a_run(self, tmp_path):
        array = values(4, 32, 40)
        save_sparse(tmp_path / "set" / "a.tif", array, {0: [1, 4], 2: [0]}, tile=(16, 16))
        (tmp_path / "set" / "a.json").write_text('{"spacing": [1, 1, 1]}')
        report = process(tmp_path / "set", tmp_path / "out")
        assert [case.cause for case in report.cases] == [None]
        assert report.cases[0].notes[0].startswith("2 pages of the TIFF are sparse")


def cut(text):
    return [name.strip() for name in text.split(",")]


class TestNames:
    @pytest.mark.parametrize(
        ("given", "expected"),  # in any order; by channel, in the order of slices
        [
            ("img_0001, img_0003, img_0002", "img_0001, img_0002, img_0003"),
            ("img10, img2, img1", "img1, img2, img10"),
            ("img_z003, img_z001, img_z002", "img_z001, img_z002, img_z003"),
            ("0002, 0000, 0001", "0000, 0001, 0002"),
            ("Z1, z3, Z02", "Z1, Z02, z3"),
            ("a-z_9, a-z_10, a-z_8", "a-z_8, a-z_9, a-z_10"),
            ("imgZ2, imgZ1", "imgZ1, imgZ2"),
            ("s 2, s_1, S-3, s04", "s_1, s 2, S-3, s04"),
            ("Slice0, Slice2, Slice1", "Slice0, Slice1, Slice2"),
            ("_z00_ch00, _z00_ch01, _z01_ch00, _z01_ch01", "_z00_ch00, _z01_ch00 | _z00_ch01, _z01_ch01"),
            ("_t00_z00_ch01, _t00_z00_ch00", "_t00_z00_ch00 | _t00_z00_ch01"),  # one slice
            ("I-Z012-C1, I-Z011-C1, I-Z011-C3, I-Z012-C3", "I-Z011-C1, I-Z012-C1 | I-Z011-C3, I-Z012-C3"),
            ("C1-a_1, C2-a_1, C1-a_2, C2-a_2", "C1-a_1, C1-a_2 | C2-a_1, C2-a_2"),
            ("s_C001Z02, s_C001Z01, s_C002Z01, s_C002Z02", "s_C001Z01, s_C001Z02 | s_C002Z01, s_C002Z02"),
            (
                "img_channel001_position000_time000_z000, img_channel000_position000_time000_z000",
                "img_channel000_position000_time000_z000 | img_channel001_position000_time000_z000",
            ),
            ("r01c03f01p02-ch1sk1, r01c03f01p01-ch1sk1", "r01c03f01p01-ch1sk1, r01c03f01p02-ch1sk1"),
            (
                "U[00 x 00]_C00_xyz-Table Z01, U[00 x 00]_C00_xyz-Table Z00",
                "U[00 x 00]_C00_xyz-Table Z00, U[00 x 00]_C00_xyz-Table Z01",
            ),
            ("exp12_1, exp12_2", "exp12_1, exp12_2"),
            ("0131-235958_1, 0131-235959_2, 0201-000003_3", "0131-235958_1, 0131-235959_2, 0201-000003_3"),
            ("1_z00_c0, 2_z00_c1, 4_z01_c1, 3_z01_c0", "1_z00_c0, 3_z01_c0 | 2_z00_c1, 4_z01_c1"),
            ("only", "only"),
            ("img, MAX_img", "img"),
            ("MAX_1, MAX_2", "MAX_1, MAX_2"),  # of nothing else
        ],
    )
    def test_are_ordered_by_number(self, given, expected):
        names = cut(given)
        found = [[names[i] for i in row] for row in arrange(names).files]
        assert found == [cut(row) for row in expected.split("|")]

    @pytest.mark.parametrize(
        ("numbers", "step", "gaps", "length"),
        [
            ([0, 1, 2], 1, [], 3),
            ([0, 2, 4, 6], 2, [], 4),  # every second slice
            ([10, 40, 20], 10, [(20, 40)], 4),
            ([0, 2, 4, 5], 1, [(0, 2), (2, 4)], 6),
            ([3, 9], 6, [], 2),
            ([1, 20260131], 20260130, [], 2),
            ([1, 2, 20260131], 1, [(2, 20260131)], 20260131),
        ],
    )
    def test_gaps_are_of_the_largest_common_step(self, numbers, step, gaps, length):
        found = arrange([f"img_z{n:02}" for n in numbers])
        assert found.numbers == tuple(sorted(numbers))
        assert (found.step, list(found.gaps), found.length) == (step, gaps, length)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("_t00_z0, _t00_z1, _t01_z0, _t01_z1", r"count 2 time points \(t 0 to 1\); one is read"),
            ("a_t1, a_t2, a_t3", "count 3 time points"),
            ("z0_ch0, z0_ch1, z1_ch0, z2_ch0", "channel 1 of the TIFF stack lacks slice 1 and 1 more"),
            ("z0_z0, z1_z1", "2 numbers that vary and are called z"),
            ("c0_ch0, c1_ch1", "2 numbers that vary and are called c"),
            ("img_1, img_01", "two files of the TIFF stack are one slice"),
            ("img_1, img_01, img_2", "two files of the TIFF stack are slice 1 by the numbers"),
            ("p1_z0, p1_z1, p2_z0, p2_z1", r"two files .* are slice 0 .*\(1 more number\(s\) that vary"),
            ("488_z0, 488_z1, 561_z0, 561_z1", "two files .* are slice 0 .* call channels ch0 and ch1"),
            ("z0_c1, z0_c2, z1_c1, z1_c2, Z0_C2", "two files of the TIFF stack are slice 0 of channel 2"),
            ("a1_1, a1_2, a2_1, a2_2", "2 numbers vary .* of which none count slices without a gap"),
            ("a1_1, a2_2", "2 numbers vary .* of which 2 count slices without a gap"),
            ("a, b", "2 TIFF files whose names share no number"),
            ("a b, a_b", "2 TIFF files whose names share no number"),
            ("a_1, a_2, b_1, b_2", "of 2 stems, 2 and 2 of the first two"),
            ("dapi_1, dapi_2, dapi_3, gfp_1, gfp_2, gfp_3", "number channels: ch0, ch1"),
            ("a_1, a_2, a_3, a_4, a_5, b_6, b_7", "of 2 stems, 5 and 2"),  # b may go on where a ends
            ("a_1, a_2, b, c", "of 3 stems, 2 and 1"),
            ("a_1, a_2, MAX_1, MAX_2", "of 2 stems"),
        ],
    )
    def test_that_are_refused(self, given, message):
        with pytest.raises(FormatError, match=message):
            arrange(cut(given))

    @pytest.mark.parametrize(
        ("given", "slices", "note"),
        [
            ("MAX_img, img_1, img_2, img_3", 3, "1 of 4 TIFF files .* set aside: 1 called projection"),
            ("img_1, thumb_1, img_2, thumb_2", 2, "2 of 4 .*: 2 called projection or preview"),
            ("img_1, img_1_thumb, img_2, img_2_thumb", 2, "2 of 4 .*: 2 called projection or preview"),
            ("z1_c1, z1_c2, z2_c1, z2_c2, MAX_c1, MAX_c2", 2, "2 of 6 .*: 2 called projection"),
            ("i1, i2, i3, other", 3, "1 of 4 .*: 1 named otherwise than the slices"),
            ("i1, i2, i3, i3 (1)", 3, "1 of 4 .*: 1 named otherwise"),
            ("i1, i2, i3, i4, i5, view_1, view_2", 5, "2 of 7 .*: 2 named otherwise"),
            ("i1, i2, i3, i4, AVG_i, other", 4, "2 of 6 .*: 1 called projection or preview, 1 named other"),
            ("img, MAX_img", 1, "1 of 2 .*: 1 called projection"),
            ("exp1_z1, exp1_z2, exp2_z3", 3, r"1 more number\(s\) that vary in the names .* are not used"),
        ],
    )
    def test_strangers_are_set_aside_and_said(self, given, slices, note):
        found = arrange(cut(given))
        assert len(found.numbers) == slices
        assert re.search(note, found.notes[0])

    @pytest.mark.parametrize(
        ("given", "ends"),
        [
            ("1, 2, 10", "1, 10"),
            ("img_0001, img_0002", "img_0001, img_0002"),
            ("img2, img1", "img1, img2"),
            ("z0, z1", "z0, z1"),
            ("cell z0, cell z1, MAX_cell", "cell z0, cell z1"),
            ("img_t0, img_t1", "img_t0, img_t1"),  # of one case, though it is refused
            ("p1_z0, p1_z1, p2_z0, p2_z1", "p1_z0, p2_z1"),
            ("a_z1, a_z2, b_z1, b_z2", "a_z1, a_z2"),
            ("a1, a2", None),
            ("w0, w1, w2", None),
            ("patient1, patient2", None),
            ("case_001, case_002", None),
            ("sub-01, sub-02", None),
            ("sub-01_brain, sub-02_brain", None),
            ("T1, T2", None),
            ("c1, c2", None),
            ("A01, A02, B01, B02", None),
            ("left, right", None),
            ("img_1, img_2, left, right", None),
            ("img_1", None),
        ],
    )
    def test_mean_slices_or_images(self, given, ends):
        found = mean_slices(cut(given))
        assert (None if found is None else [cut(given)[i] for i in found]) == (ends and cut(ends))


class TestAnyNames:
    @given(
        before=st.sampled_from(["", "img_", "Exp 12 - ", "a.b.", "2026-01-31_", "t3 "]),
        z=st.sampled_from(["z", "Z", "slice_", "Plane-"]),
        c=st.sampled_from(["ch", "C", "channel ", "Ch="]),
        between=st.sampled_from(["_", "-", " ", "."]),
        is_z_first=st.booleans(),
        widths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
        slices=st.tuples(st.integers(0, 99), st.integers(1, 7), st.integers(2, 12)),
        channels=st.sets(st.integers(0, 9), min_size=1, max_size=3),
        seed=st.randoms(use_true_random=False),
    )
    def test_of_slices_and_channels(self, before, z, c, between, is_z_first, widths, slices, channels, seed):
        first, step, count = slices
        numbers = [first + step * i for i in range(count)]
        known = {}
        for channel in channels:
            for number in numbers:
                parts = [f"{z}{number:0{widths[0]}}", f"{c}{channel:0{widths[1]}}"]
                known[before + between.join(parts if is_z_first else parts[::-1])] = (channel, number)
        names = list(known)
        seed.shuffle(names)
        found = arrange(names)
        assert (found.numbers, found.step) == (tuple(numbers), step)
        assert found.notes == () == tuple(found.gaps)
        expected = [[(channel, number) for number in numbers] for channel in sorted(channels)]
        assert [[known[names[i]] for i in row] for row in found.files] == expected

    @given(st.lists(st.text("zct_- .(09129amx\u0663\u017f", max_size=8), min_size=1, max_size=8, unique=True))
    def test_no_name_is_taken_twice_and_none_goes_unsaid(self, names):
        mean_slices(names)
        try:
            found = arrange(names)
        except FormatError:
            return
        taken = [i for row in found.files for i in row]
        assert len(taken) == len({*taken}) == len(found.numbers) * len(found.channels)
        assert len(taken) == len(names) or "set aside" in found.notes[0]


def save_stack(folder, array, name="img_z{z:03}_ch{c:02}.tif", numbers=None, **options):
    """A file for each slice and channel of a (c, z, y, x) array."""
    for c, volume in enumerate(array):
        for z, page in zip(numbers or range(array.shape[1]), volume, strict=True):
            save(folder / name.format(z=z, c=c), page, **options)
    return folder


def save_ome_files(folder, array):
    """A file for each slice and channel of a (c, z, y, x) array, each with metadata of them all."""
    channels, slices, height, width = array.shape
    of = {(c, z): f"urn:uuid:{c:08}-0000-0000-0000-{z:012}" for c in range(channels) for z in range(slices)}
    size = f'SizeX="{width}" SizeY="{height}" SizeZ="{slices}" SizeC="{channels}" SizeT="1"'
    place = '<TiffData FirstC="{}" FirstT="0" FirstZ="{}" IFD="0"><UUID FileName="{}">{}</UUID></TiffData>'
    places = "".join(place.format(c, z, f"i_z{z}_ch{c}.ome.tif", uuid) for (c, z), uuid in of.items())
    for (c, z), uuid in of.items():
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuid}">'
            f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" {size} '
            f'PhysicalSizeX="0.5" PhysicalSizeY="0.5" PhysicalSizeZ="2">{places}</Pixels></Image></OME>'
        )
        save(folder / f"i_z{z}_ch{c}.ome.tif", array[c, z], description=xml.encode(), metadata=None)


class TestStacks:
    @pytest.mark.parametrize("name", ["img_z{z}_ch{c:02}.tif", "I-Z{z:03}-C{c}.TIFF", "C{c}-img_{z}.ome.tif"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_channels_and_slices(self, tmp_path, name, channels):
        array = values(channels, 12, 6, 7)
        volume = open_volume(save_stack(tmp_path / "a", array, name, metadata=None), spacing=ONE)
        assert volume.channels == channels
        assert volume.notes == volume.repairs == ()
        assert_holds(volume, array)

    def test_channels_of_colours(self, tmp_path):
        array = values(2, 4, 6, 7, 3, dtype="u1")
        save_stack(tmp_path, array, photometric="rgb")
        assert_holds(open_volume(tmp_path, spacing=ONE), np.moveaxis(array, -1, 1).reshape(6, 4, 6, 7))

    @pytest.mark.parametrize("numbers", [[0, 2, 4, 6], [5, 10, 15, 20]])
    def test_every_other_slice_is_no_gap(self, tmp_path, numbers):
        array = values(1, 4, 6, 7)
        facts = {"axes": "YX", "PhysicalSizeX": 2, "PhysicalSizeY": 2, "PhysicalSizeZ": 4}
        save_stack(tmp_path, array, numbers=numbers, ome=True, metadata=facts)
        volume = open_volume(tmp_path)
        assert volume.geometry.spacing == pytest.approx((0.004, 0.002, 0.002))
        assert_holds(volume, array)

    @pytest.mark.parametrize(
        ("numbers", "found"),
        [
            ([1, 2, 4], "numbered 1 to 4 in steps of 1, but 3 is missing. Restore"),
            ([1, 2, 5, 9], "numbered 1 to 9 in steps of 1, but 3 and 4 more are missing. Restore"),
            ([0, 2, 6], "in steps of 2, but 4 is missing"),
        ],
    )
    def test_a_gap_is_refused(self, tmp_path, numbers, found):
        folder = save_stack(tmp_path / "secret", values(1, len(numbers), 6, 7), numbers=numbers)
        with pytest.raises(SpacingError, match=f"{found}.* repair.irregular=fill") as caught:
            open_volume(folder, spacing=ONE)
        assert "secret" not in str(caught.value)

    def test_a_gap_that_is_too_wide(self, tmp_path):
        save_stack(tmp_path, values(1, 3, 6, 7), numbers=[1, 2, 20260131])
        repair = RepairConfig(irregular="fill")
        with pytest.raises(SpacingError, match=r"Restore the files from their source\.$"):
            open_volume(tmp_path, spacing=ONE, repair=repair)

    @pytest.mark.parametrize("irregular", ["fill", "resample"])
    @pytest.mark.parametrize("is_label", [False, True])
    def test_a_gap_is_filled_as_one_of_dicom(self, tmp_path, irregular, is_label):
        array = values(2, 5, 6, 7)
        save_stack(tmp_path, array, numbers=[0, 2, 3, 4, 7])
        repair = RepairConfig(irregular=irregular)
        volume = open_volume(tmp_path, spacing=ONE, repair=repair, is_label=is_label)
        a = array.astype("f8")
        steps = [(0, 0), (0, 1 / 2), (1, 0), (2, 0), (3, 0), (3, 1 / 3), (3, 2 / 3), (4, 0)]
        made = [
            a[:, i] + w * (a[:, min(i + 1, 4)] - a[:, i]) if not is_label else a[:, i if w <= 0.5 else i + 1]
            for i, w in steps
        ]
        assert_holds(volume, np.rint(np.stack(made, 1)).astype("u2"))
        how = "copies of the nearest" if is_label else "linear between the nearest two"
        what = f"3 slices put in, {how}, the first between numbers 0 and 2 of the TIFF stack"
        assert volume.repairs == (Repair(f"repair.irregular={irregular}", what),)

    @pytest.mark.parametrize("lost", [False, True])
    def test_ome_metadata_that_name_all_files(self, tmp_path, lost):
        """As Bio-Formats writes an image over files; a slice at an end is missed by what the others say."""
        array = values(2, 4, 6, 7)
        save_ome_files(tmp_path, array)
        if lost:
            for path in tmp_path.glob("*z3*"):
                path.unlink()
        volume = open_volume(tmp_path)
        assert volume.geometry.spacing == pytest.approx((0.002, 0.0005, 0.0005))
        assert_holds(volume, array[:, : 3 if lost else 4])
        said = "the TIFF stack has 3 slices by the numbers in its names, 4 by its OME metadata"
        assert volume.notes == ((said,) if lost else ())

    @pytest.mark.parametrize("numbers", [[0, 1, 2, 3], [0, 2, 3, 6]])
    @pytest.mark.parametrize("compression", ["zlib", "lzw"])  # noise: LZW makes it larger
    def test_memory_stays_within_what_is_stated(self, tmp_path, numbers, compression):
        save_stack(tmp_path, values(1, 4, 600, 700, dtype="u1"), numbers=numbers, compression=compression)
        repair = RepairConfig(irregular="fill")
        volume = open_volume(tmp_path, spacing=ONE, repair=repair)
        assert volume.slice_bytes < peak_bytes(volume) < volume.slice_bytes + volume.extra_bytes

    def test_strangers_are_no_slices(self, tmp_path):
        array = values(1, 5, 6, 7)
        save_stack(tmp_path, array, "img_{z}.tif")
        save(tmp_path / "MAX_img.tif", values(6, 7))
        save(tmp_path / "zz.tif", values(3, 9, 9))
        volume = open_volume(tmp_path, spacing=ONE)
        assert_holds(volume, array)
        said = "2 of 7 TIFF files of the folder were set aside: 1 called projection or preview, 1 named"
        assert volume.notes[0].startswith(said)

    def test_a_file_beside_its_projection(self, tmp_path):
        array = values(5, 6, 7)
        save(tmp_path / "img.tif", array)
        save(tmp_path / "MAX_img.tif", values(6, 7))
        volume = open_volume(tmp_path, spacing=ONE)
        assert_holds(volume, array[None])
        assert len(volume.notes) == 1

    def test_damage_names_the_slice(self, tmp_path):
        save_stack(tmp_path, values(2, 4, 30, 40), compression="zlib")
        path = tmp_path / "img_z002_ch01.tif"
        path.write_bytes(path.read_bytes()[:-300])
        with pytest.raises(FormatError, match="slice 2 of channel 1 of the TIFF stack: "):
            assemble(open_volume(tmp_path, spacing=ONE), 2)


def cases_of(folder):
    return [case.case for case in discover(folder).cases]


class TestFolders:
    @pytest.mark.parametrize(
        ("names", "cases"),
        [
            ("1, 2, 10", ["set"]),
            ("img_z1, img_z2, MAX_img", ["set"]),
            ("img_z1, img_z3", ["set"]),
            ("a1, a2", ["a1", "a2"]),
            ("patient1, patient2", ["patient1", "patient2"]),
            ("case_1, case_2", ["case_1", "case_2"]),
            ("w0, w1", ["w0", "w1"]),
            ("left, right", ["left", "right"]),
        ],
    )
    def test_a_stack_or_an_image_a_file(self, tmp_path, names, cases):
        for name in cut(names):
            save(tmp_path / "set" / f"{name}.tif", values(6, 7))
        assert cases_of(tmp_path / "set") == cases

    def test_files_of_several_pages_are_images_whatever_they_are_called(self, tmp_path):
        for name in ("img_1", "img_2"):
            save(tmp_path / f"{name}.tif", values(5, 6, 7), metadata={"axes": "ZYX"})
        assert cases_of(tmp_path) == ["img_1", "img_2"]

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            ("a_ch0, a_ch1, b_ch0, b_ch1", "4 of 4 images are called as the channels of 2"),
            ("a_z1_C1, a_z1_C2, other", "2 of 3 images are called as the channels of 1"),
            ("a_ch0, b_ch0", ""),
            ("c1, c2", ""),
            ("r01c01-ch1, r01c02-ch1", ""),
        ],
    )
    def test_files_of_several_pages_that_are_called_as_channels(self, tmp_path, names, said):
        for name in cut(names):
            save(tmp_path / f"{name}.tif", values(5, 6, 7), metadata={"axes": "ZYX"})
        found = discover(tmp_path)
        assert len(found.cases) == len(cut(names))
        remarks = [remark for remark in found.remarks if "channels" in remark]
        assert len(remarks) == bool(said)
        assert "".join(remarks).startswith(said)

    def test_a_long_stack_beside_a_file_of_many_pages(self, tmp_path):
        save_stack(tmp_path / "set", values(1, 5, 6, 7))
        save(tmp_path / "set" / "zz.tif", values(5, 6, 7), metadata={"axes": "ZYX"})
        assert cases_of(tmp_path / "set") == ["set"]


class TestChecksums:
    def test_numbers_count_and_stems_do_not(self, tmp_path):
        array = values(1, 3, 6, 7)
        first = self.digest(save_stack(tmp_path / "a", array, "a_z{z}.tif"))
        assert self.digest(save_stack(tmp_path / "b", array, "other_z{z}.tif")) == first
        assert self.digest(save_stack(tmp_path / "c", array[:, ::-1], "a_z{z}.tif")) != first
        assert self.digest(save_stack(tmp_path / "d", array, "a_z{z}.tif", numbers=[0, 1, 3])) != first
        assert self.digest(save_stack(tmp_path / "e", array, "a_c{z}.tif")) != first

    @staticmethod
    def digest(folder):
        return source_digest(CaseSource("a", (folder,)))


class TestRuns:
    def test_channels_and_remarks_reach_the_store(self, tmp_path):
        array = values(2, 9, 12, 11)
        folder = tmp_path / "set"
        save_stack(folder / "a", array, "cell_z{z}_ch{c:02}.tif")
        save(folder / "a" / "MAX_cell.tif", values(12, 11))
        (folder / "a.json").write_text('{"spacing": [1, 1, 1]}')
        report = process(folder, tmp_path / "out")
        assert [case.cause for case in report.cases] == [None]
        assert any("1 of 19 TIFF files" in note for note in report.cases[0].notes)
        raw = RawCase(tmp_path / "out", "a")
        for channel in range(2):
            found = raw.values(channel, Box.whole(array.shape[1:]))
            np.testing.assert_array_equal(found, array[channel])

    def test_a_gap_fails_its_case_alone(self, tmp_path):
        folder = tmp_path / "set"
        for name, numbers in (("a", [1, 2, 3]), ("b", [1, 2, 4])):
            save_stack(folder / name, values(1, 3, 12, 11), numbers=numbers)
            (folder / f"{name}.json").write_text('{"spacing": [1, 1, 1]}')
        report = process(folder, tmp_path / "out")
        whole, cut_short = report.cases
        assert whole.cause is None
        assert "but 3 is missing" in cut_short.cause
        again = process(folder, tmp_path / "filled", repair={"irregular": "fill"})
        assert [case.cause for case in again.cases] == [None, None]
        assert "repair.irregular=fill" in again.cases[1].repairs[0]
