"""OME-Zarr 0.4 and 0.5: groups written by hand with zarr, and by ngff-zarr."""

import json
import math
from pathlib import Path

import nibabel
import numcodecs
import numcodecs.abc
import numcodecs.registry
import numpy as np
import pytest
import zarr
from readers_support import DATA, assemble, assert_holds, assert_same_grid, training_files
from runs import process

from voxelmill.basics.errors import FormatError, GeometryError, SpacingError
from voxelmill.basics.geometry import Box
from voxelmill.inputs.readers.formats import case_stem, is_known, open_volume
from voxelmill.inputs.sources.case_source import CaseSource
from voxelmill.inputs.sources.discover import discover

RNG = np.random.default_rng(6)
VERSIONS = ["0.4", "0.5"]
MNI = DATA / "nilearn" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
SHAPE = {"t": 1, "c": 3, "z": 10, "y": 9, "x": 7}
TYPES = {"t": "time", "c": "channel"} | dict.fromkeys("zyx", "space")


def values(*shape: int, dtype: str = "u2") -> np.ndarray:
    return RNG.integers(0, 2 if dtype == "bool" else 250, shape).astype(dtype)


def describe(folder: Path, version: str, **metadata: object) -> Path:
    """Write the OME metadata of a group."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.5":
        content = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"ome": {"version": version} | metadata},
        }
        (folder / "zarr.json").write_text(json.dumps(content))
    else:
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps(metadata))
    return folder


def axes_of(axes: str, unit: str | None = "micrometer", **changes: object) -> list[dict[str, object]]:
    units = {"unit": unit} if unit else {}
    return [{"name": a, "type": TYPES[a]} | (units if a in "zyx" else {}) | changes for a in axes]


def scale(*factors: float) -> dict[str, object]:
    return {"type": "scale", "scale": list(factors)}


def translation(*steps: float) -> dict[str, object]:
    return {"type": "translation", "translation": list(steps)}


def save(folder: Path, array: np.ndarray, axes: str = "zyx", version: str = "0.4", **options: object) -> Path:
    """An image of one level, a micrometre a voxel; `metadata` and `level` change what is stated."""
    level = {"path": "0", "coordinateTransformations": [scale(*[1.0] * array.ndim)]}
    image = {"axes": axes_of(axes), "datasets": [level | options.pop("level", {})]}
    describe(folder, version, multiscales=[image | options.pop("metadata", {})])
    options = {"chunks": tuple(min(4, n) for n in array.shape), "fill_value": 0} | options
    zarr_format = 3 if version == "0.5" else 2
    stored = zarr.create_array(
        folder, name="0", shape=array.shape, dtype=array.dtype, zarr_format=zarr_format, **options
    )
    stored[...] = array
    return folder


class Counting(numcodecs.abc.Codec):
    """A codec that changes nothing and counts how often a chunk is decoded."""

    codec_id = "voxelmill_counting"
    decoded = 0

    def encode(self, buf):
        return buf

    def decode(self, buf, out=None):
        type(self).decoded += 1
        return buf


numcodecs.registry.register_codec(Counting)


class TestVoxels:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize(
        "axes", ["tczyx", "czyx", "zyx", "tzyx", "zcyx", "zyxc", "xyz", "cyx", "yx", "xyzct"]
    )
    def test_axes_in_any_order(self, tmp_path, axes, version):
        array = values(*(SHAPE[a] for a in axes))
        volume = open_volume(save(tmp_path / "a.zarr", array, axes, version))
        absent = tuple(i for i, a in enumerate("czyx") if a not in axes)
        kept = array.squeeze(axes.index("t")) if "t" in axes else array
        order = axes.replace("t", "")
        expected = np.expand_dims(kept.transpose([order.index(a) for a in "czyx" if a in order]), absent)
        assert_holds(volume, expected)

    @pytest.mark.parametrize(
        ("version", "options"),
        [
            ("0.4", {"chunks": (10, 9, 7)}),  # one chunk
            ("0.4", {"chunks": (1, 9, 7)}),  # a chunk a slice
            ("0.4", {"chunks": (3, 2, 5), "compressors": None}),
            ("0.4", {"compressors": numcodecs.Blosc("zstd")}),
            ("0.4", {"compressors": numcodecs.Zlib()}),
            ("0.4", {"chunk_key_encoding": {"name": "v2", "separator": "/"}}),  # nested, as 0.4 asks for
            ("0.4", {"order": "F"}),
            ("0.5", {"chunks": (3, 2, 5)}),
            ("0.5", {"chunks": (2, 3, 4), "shards": (6, 9, 8)}),
            ("0.5", {"chunks": (4, 9, 7), "compressors": zarr.codecs.GzipCodec()}),
        ],
    )
    def test_storage(self, tmp_path, version, options):
        array = values(10, 9, 7)
        assert_holds(open_volume(save(tmp_path / "a.zarr", array, version=version, **options)), array[None])

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize(
        "dtype", ["u1", "i1", ">u2", "i2", "u4", ">i4", "u8", "i8", "f2", ">f4", "f8", "bool"]
    )
    def test_types(self, tmp_path, dtype, version):
        array = values(5, 6, 7, dtype=dtype)
        volume = open_volume(save(tmp_path / "a.zarr", array, version=version))
        assert volume.dtype == (np.uint8 if dtype == "bool" else np.dtype(dtype).newbyteorder("="))
        assert_holds(volume, array[None].astype(volume.dtype))

    @pytest.mark.parametrize("version", VERSIONS)
    def test_chunks_that_were_never_written_hold_the_fill_value(self, tmp_path, version):
        array = np.full((10, 9, 7), 5, "u2")
        array[:4] = values(4, 9, 7)
        path = save(tmp_path / "a.zarr", array, version=version, fill_value=5)
        assert_holds(open_volume(path), array[None])

    @pytest.mark.parametrize("depth", [1, 3, 4, 6, 8, 100])
    @pytest.mark.parametrize(("chunks", "pieces"), [((1, 4, 4, 4), 3 * 3 * 2), ((3, 4, 4, 4), 3 * 2)])
    def test_a_pass_decodes_a_chunk_once_for_each_slab_it_meets(self, tmp_path, depth, chunks, pieces):
        """Once in all where slabs are multiples of `step`: nothing is kept from one slab to the next."""
        array = values(3, 10, 9, 7)
        path = save(tmp_path / "a.zarr", array, "czyx", chunks=chunks, filters=[Counting()])
        volume = open_volume(path)
        assert (volume.step, volume.together) == (4, chunks[0])
        before = Counting.decoded
        np.testing.assert_array_equal(assemble(volume, depth), array)
        layers = {1: 10, 3: 1 + 2 + 2 + 1, 6: 2 + 2}.get(depth, 3)
        assert Counting.decoded - before == layers * pieces

    @pytest.mark.parametrize(
        ("box", "pieces"),
        [
            (Box((0, 0, 0), (1, 1, 1)), 1),
            (Box((3, 3, 3), (5, 5, 5)), 8),
            (Box((4, 0, 0), (8, 4, 7)), 2),
            (Box((0, 0, 0), (10, 9, 7)), 18),
        ],
    )
    def test_a_box_decodes_the_chunks_it_meets(self, tmp_path, box, pieces):
        array = values(10, 9, 7)
        volume = open_volume(save(tmp_path / "a.zarr", array, filters=[Counting()]))
        before = Counting.decoded
        np.testing.assert_array_equal(volume.read(box), array[None][:, *box.slices])
        assert Counting.decoded - before == pieces

    @pytest.mark.parametrize("depth", [1, 3, 8])
    @pytest.mark.parametrize(("thick", "groups"), [(1, [0, 1, 2]), (2, [0, 2]), (3, [0])])
    def test_slabs_begin_at_multiples_of_their_depth(self, tmp_path, thick, groups, depth):
        """Channels that share chunks come together."""
        path = save(tmp_path / "a.zarr", values(3, 10, 9, 7), "czyx", chunks=(thick, 4, 9, 7))
        found = [(slab.channel, slab.z, slab.data.shape[1]) for slab in open_volume(path).slabs(depth)]
        assert found == [(c, z, min(depth, 10 - z)) for c in groups for z in range(0, 10, depth)]


class TestGeometry:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_level_then_image(self, tmp_path, version):
        """Transformations of the level come first, then those of all levels."""
        level = {"coordinateTransformations": [scale(1, 2, 4, 8), translation(0, 10, 20, 30)]}
        outer = {"coordinateTransformations": [scale(1, 0.5, 0.25, 0.125), translation(0, 1, 2, 3)]}
        path = save(tmp_path / "a.zarr", values(3, 10, 9, 7), "czyx", version, level=level, metadata=outer)
        geometry = open_volume(path).geometry
        np.testing.assert_allclose(geometry.spacing, (1e-3, 1e-3, 1e-3))
        np.testing.assert_allclose(geometry.origin, (6e-3, 7e-3, 6.75e-3))
        assert geometry.direction == ((1, 0, 0), (0, 1, 0), (0, 0, 1))

    def test_axes_are_matched_by_name(self, tmp_path):
        level = {"coordinateTransformations": [scale(2, 4, 8), translation(1, 2, 3)]}
        axes = {"axes": [{"name": n, "type": "space", "unit": "millimeter"} for n in "xzy"]}
        geometry = open_volume(
            save(tmp_path / "a.zarr", values(5, 6, 7), "xzy", level=level, metadata=axes)
        ).geometry
        assert geometry.shape == (6, 7, 5)
        assert (geometry.spacing, geometry.origin) == ((4, 8, 2), (2, 3, 1))

    def test_spatial_axes_of_other_names_are_in_order(self, tmp_path):
        axes = [{"name": n, "type": "space", "unit": "meter"} for n in ("slice", "row", "column")]
        array = values(5, 6, 7)
        assert_holds(open_volume(save(tmp_path / "a.zarr", array, metadata={"axes": axes})), array[None])

    def test_one_slice_needs_no_unit_along_z(self, tmp_path):
        spacing = open_volume(save(tmp_path / "a.zarr", values(9, 7), "yx")).geometry.spacing
        assert spacing == pytest.approx((1, 1e-3, 1e-3))

    @pytest.mark.parametrize(
        ("unit", "length"),
        [
            ("angstrom", 1e-7),
            ("nanometer", 1e-6),
            ("micrometer", 1e-3),
            ("millimeter", 1),
            ("centimeter", 10),
            ("meter", 1000),
            ("inch", 25.4),
            ("micrometre", 1e-3),
            ("micrometers", 1e-3),
            ("Micrometres", 1e-3),
            ("micron", 1e-3),
            ("microns", 1e-3),
            ("um", 1e-3),
            ("\u00b5m", 1e-3),  # the sign for micro
            ("\u03bcm", 1e-3),  # the letter
            ("angstroms", 1e-7),
            ("nanometers", 1e-6),
            ("millimeters", 1),
            ("inches", 25.4),
            ("feet", 304.8),
        ],
    )
    def test_units(self, tmp_path, unit, length):
        level = {"coordinateTransformations": [scale(3, 2, 1), translation(-1, 0, 1)]}
        metadata = {"axes": axes_of("zyx", unit)}
        geometry = open_volume(
            save(tmp_path / "a.zarr", values(5, 6, 7), level=level, metadata=metadata)
        ).geometry
        assert geometry.spacing == pytest.approx((3 * length, 2 * length, length))
        assert geometry.origin == pytest.approx((-length, 0, length))

    @pytest.mark.parametrize(
        ("metadata", "level", "axes"),
        [
            ({"axes": axes_of("zyx", None)}, {}, "z, y, x"),
            ({"axes": axes_of("zyx", "pixel")}, {}, "z, y, x"),
            ({"axes": axes_of("z", "parsec") + axes_of("yx")}, {}, "z"),
            ({}, {"coordinateTransformations": []}, "z, y, x"),
        ],
    )
    def test_where_not_all_is_stated_one_must_be_given(self, tmp_path, metadata, level, axes):
        path = save(tmp_path / "secret.zarr", values(5, 6, 7), metadata=metadata, level=level)
        with pytest.raises(SpacingError, match=f"no spacing in a known unit .* along {axes}. Add") as caught:
            open_volume(path)
        assert "secret" not in str(caught.value)
        assert open_volume(path, spacing=(3, 2, 1)).geometry.spacing == (3, 2, 1)

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("unit", ["millimeter", None])
    def test_a_negative_scale_is_a_direction(self, tmp_path, version, unit):
        """Voxel i lies at scale * i + translation; a spacing that is given keeps the sign."""
        level = {"coordinateTransformations": [scale(1, -3, 2, -1), translation(0, 30, -20, 10)]}
        path = save(
            tmp_path / "a.zarr",
            values(2, 5, 6, 7),
            "czyx",
            version,
            level=level,
            metadata={"axes": axes_of("czyx", unit)},
        )
        geometry = open_volume(path, spacing=None if unit else (3, 2, 1)).geometry
        assert (geometry.spacing, geometry.origin) == ((3, 2, 1), (30, -20, 10))
        assert geometry.direction == ((-1, 0, 0), (0, 1, 0), (0, 0, -1))
        assert geometry.world((4, 5, 6)).tolist() == [18, -10, 4]

    def test_signs_of_several_scales_multiply(self, tmp_path):
        level = {"coordinateTransformations": [scale(-2, 1, -1), translation(5, 0, 4)]}
        outer = {"coordinateTransformations": [scale(-1, -1, 3)]}
        geometry = open_volume(
            save(tmp_path / "a.zarr", values(5, 6, 7), level=level, metadata=outer)
        ).geometry
        assert np.diag(geometry.direction).tolist() == [1, -1, -1]
        assert geometry.origin == pytest.approx((-5e-3, 0, 12e-3))

    @pytest.mark.parametrize(
        ("steps", "error", "message"),
        [
            ([scale(1, 0, 1)], SpacingError, "states a scale of 0 along y; the distance between voxels"),
            ([scale(0, 1, -0.0)], SpacingError, "states a scale of 0 along z, x"),
            ([scale(1, 1, math.nan)], FormatError, "states a scale of nan along x; a finite number"),
            ([scale(-math.inf, 1, 1)], FormatError, "states a scale of -inf along z"),
            ([scale(1, 1, 1), translation(1, math.inf, 0)], FormatError, "a translation of inf along y"),
        ],
    )
    def test_numbers_that_are_no_scale(self, tmp_path, steps, error, message):
        path = save(tmp_path / "secret.zarr", values(5, 6, 7), level={"coordinateTransformations": steps})
        with pytest.raises(error, match=message) as caught:
            open_volume(path)
        assert "secret" not in str(caught.value)
        if error is SpacingError:
            assert open_volume(path, spacing=(3, 2, 1)).geometry.spacing == (3, 2, 1)

    @staticmethod
    def oriented(folder: Path, *towards: object) -> Path:
        axes = [a | {"orientation": value} for a, value in zip(axes_of("zyx"), towards, strict=True)]
        level = {"coordinateTransformations": [scale(1, 1, 1), translation(1000, 2000, 3000)]}
        return save(folder, values(5, 6, 7), version="0.5", metadata={"axes": axes}, level=level)

    @pytest.mark.parametrize(
        ("towards", "direction"),
        [
            (
                ("inferior-to-superior", "anterior-to-posterior", "right-to-left"),
                [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            ),
            (
                ("inferior-to-superior", "posterior-to-anterior", "left-to-right"),
                [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
            ),
            (
                ("left-to-right", "superior-to-inferior", "anterior-to-posterior"),
                [[0, -1, 0], [0, 0, 1], [-1, 0, 0]],
            ),
            (("rostral-to-caudal", "dorsal-to-ventral", "left-to-right"), np.eye(3).tolist()),  # not of LPS
        ],
    )
    @pytest.mark.parametrize("as_object", [False, True])
    def test_anatomical_orientation(self, tmp_path, towards, direction, as_object):
        """The axes point into the body; translations count along them."""
        stated = [{"type": "anatomical", "value": value} if as_object else value for value in towards]
        geometry = open_volume(self.oriented(tmp_path / "a.zarr", *stated)).geometry
        assert [list(row) for row in geometry.direction] == direction
        assert geometry.origin == pytest.approx(tuple(np.array(direction) @ [1, 2, 3]))

    def test_two_axes_of_one_orientation_are_refused(self, tmp_path):
        path = self.oriented(tmp_path / "a.zarr", *["left-to-right"] * 2, "anterior-to-posterior")
        with pytest.raises(GeometryError, match="singular"):
            open_volume(path)


class TestRefused:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({"plate": {"wells": []}}, "is a plate, one image is needed"),
            ({"well": {"images": []}}, "is a well"),
            ({"labels": ["secret"]}, "is a list of labels"),
            ({"bioformats2raw.layout": 3}, "holds 0 images"),
            ({}, "states no OME image"),
            ({"multiscales": []}, "not of version 0.4 or 0.5"),
            (
                {"multiscales": [{"axes": ["z", "y", "x"], "datasets": [{"path": "0"}]}]},
                "not of version",
            ),  # 0.3
            ({"multiscales": [{"datasets": [{"path": "0"}]}]}, "not of version"),  # 0.2
            (
                {"multiscales": [{"axes": axes_of("zyx"), "datasets": [{"path": "0"}]}]},
                "level 0 .* is missing",
            ),
        ],
    )
    def test_groups_that_are_no_image(self, tmp_path, metadata, message, version):
        with pytest.raises(FormatError, match=message) as caught:
            open_volume(describe(tmp_path / "secret.zarr", version, **metadata), spacing=(1, 1, 1))
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("axes", "metadata", "message"),
        [
            ("tzyx", {}, "axes t, z, y, x of 2x3x4x5 voxels; one time point"),
            ("zyx", {"axes": axes_of("yx")}, "axes y, x of 2x3x4 voxels"),
            ("zyx", {"axes": axes_of("czy")}, "y and x, and perhaps z, c and t, are needed"),
            ("zyx", {"axes": axes_of("zyy")}, "not of version"),
            (
                "czyx",
                {"axes": [{"name": "q", "type": "phase"}, *axes_of("zyx")]},
                "axes q, z, y, x of 2x3x4x5",
            ),
            ("czyx", {"axes": [{"name": n, "type": "space"} for n in "abcd"]}, "axes a, b, c, d"),
        ],
    )
    def test_other_axes(self, tmp_path, axes, metadata, message):
        array = values(*range(2, 2 + len(axes)))
        path = save(tmp_path / "a.zarr", array, axes, metadata=metadata)
        if len(metadata.get("axes", axes)) != len(axes):
            path = save(
                tmp_path / "b.zarr", array, axes, metadata=metadata, level={"coordinateTransformations": []}
            )
        with pytest.raises(FormatError, match=message):
            open_volume(path, spacing=(1, 1, 1))

    @pytest.mark.parametrize(
        "step",
        [
            scale(1, 1),
            {"type": "scale", "path": "secret"},
            {"type": "affine", "affine": []},
            {"scale": [1, 1, 1]},
        ],
    )
    def test_other_transformations(self, tmp_path, step):
        path = save(tmp_path / "a.zarr", values(5, 6, 7), level={"coordinateTransformations": [step]})
        with pytest.raises(FormatError, match="transformations of scale and translation are read"):
            open_volume(path)

    def test_complex_numbers(self, tmp_path):
        with pytest.raises(FormatError, match="complex64"):
            open_volume(save(tmp_path / "a.zarr", values(5, 6, 7, dtype="c8")))

    def test_missing(self, tmp_path):
        with pytest.raises(FormatError, match="the file is missing"):
            open_volume(tmp_path / "secret.zarr")

    @pytest.mark.parametrize("content", ["", "{", "[]", "\0"])
    def test_damaged_metadata(self, tmp_path, content):
        path = save(tmp_path / "secret.zarr", values(5, 6, 7))
        (path / ".zattrs").write_text(content)
        with pytest.raises(FormatError, match="states no OME image"):
            open_volume(path)

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("kept", [0, 10, -5])
    def test_damaged_chunks(self, tmp_path, version, kept):
        path = save(tmp_path / "secret.zarr", values(4, 6, 7), version=version, chunks=(4, 6, 7))
        chunk = path / "0" / ("c/0/0/0" if version == "0.5" else "0.0.0")
        chunk.write_bytes(chunk.read_bytes()[:kept])
        with pytest.raises(FormatError, match="a chunk of the OME-Zarr image does not decode") as caught:
            assemble(open_volume(path), 2)
        assert "secret" not in str(caught.value)


class TestSources:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_endings_and_contents(self, tmp_path, version):
        for name in ("a.ome.zarr", "b.zarr", "c"):
            save(tmp_path / name, values(5, 6, 7), version=version)
        (tmp_path / "empty").mkdir()
        assert discover(tmp_path).cases == tuple(
            CaseSource(case_stem(tmp_path / n), (tmp_path / n,)) for n in ("a.ome.zarr", "b.zarr", "c")
        )
        assert [c.case for c in discover(tmp_path).cases] == ["a", "b", "c"]
        assert not is_known(tmp_path / "empty")

    def test_one_image(self, tmp_path):
        path = save(tmp_path / "a.ome.zarr", values(5, 6, 7))
        assert discover(path).cases == (CaseSource("a", (path,)),)

    def test_a_label_within_the_image(self, tmp_path):
        path = save(tmp_path / "a.zarr", values(5, 6, 7))
        label = values(5, 6, 7)
        save(path / "labels" / "cells", label)
        assert_holds(open_volume(path / "labels" / "cells"), label[None])

    @pytest.mark.parametrize("version", VERSIONS)
    def test_bioformats2raw(self, tmp_path, version):
        path = describe(tmp_path / "a.zarr", version, **{"bioformats2raw.layout": 3})
        (path / "OME").mkdir()
        array = values(5, 6, 7)
        save(path / "0", array, version=version)
        assert discover(path).cases[0].channels == (path,)
        assert_holds(open_volume(path), array[None])
        save(path / "1", array, version=version)
        with pytest.raises(FormatError, match="holds 2 images, one is needed"):
            open_volume(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_gives_what_npy_gives(tmp_path, version):
    image = values(2, 9, 40, 30) + 1
    label = (image[0] > 150).astype("u1")
    np.save(tmp_path / "i.npy", image)
    np.save(tmp_path / "l.npy", label)
    steps = {"level": {"coordinateTransformations": [scale(1, 2, 1, 1)]}}
    save(
        tmp_path / "i.zarr", image, "czyx", version, metadata={"axes": axes_of("czyx", "millimeter")}, **steps
    )
    steps = {"level": {"coordinateTransformations": [scale(2, 1, 1)]}}
    save(
        tmp_path / "i.zarr/labels/l",
        label,
        "zyx",
        version,
        metadata={"axes": axes_of("zyx", "millimeter")},
        **steps,
    )
    (tmp_path / "npy.csv").write_text('case,A,label,spacing\na,i.npy,l.npy,"2,1,1"\n')
    (tmp_path / "zarr.csv").write_text("case,A,label\na,i.zarr,i.zarr/labels/l\n")
    stores = []
    for name in ("npy", "zarr"):
        report = process(
            tmp_path / f"{name}.csv", tmp_path / name, target_spacing=(2.0, 1.5, 1.5), channels=["A", "B"]
        )
        assert [case.cause for case in report.cases] == [None]
        stores.append(training_files(tmp_path / name))
    assert stores[0] == stores[1]


@pytest.mark.parametrize("repair", ["refuse", "resample"])
def test_a_label_whose_axis_runs_the_other_way(tmp_path, repair):
    """Its first slice is the image's last: refused as another grid, or flipped exactly."""
    image, axes = values(5, 30, 20) + 1, {"axes": axes_of("zyx", "millimeter")}
    label = (image > 150).astype("u1")
    up = {"coordinateTransformations": [scale(2, 1, 1)]}
    down = {"coordinateTransformations": [scale(-2, 1, 1), translation(8, 0, 0)]}
    save(tmp_path / "i.zarr", image, metadata=axes, level=up)
    save(tmp_path / "l.zarr", label[::-1], metadata=axes, level=down)
    (tmp_path / "cases.csv").write_text("case,A,label\na,i.zarr,l.zarr\n")
    (case,) = process(tmp_path / "cases.csv", tmp_path / "out", repair={"grids": repair}).cases
    if repair == "refuse":
        assert "the label lies 8 voxels away from channel 0 at its farthest corner" in case.cause
    else:
        assert case.cause is None
        found = zarr.open_array(tmp_path / "out" / "raw.zarr" / "a" / "label", mode="r")[:]
        np.testing.assert_array_equal(found, label)


class TestNgffZarr:
    """Images as a tool of the OME community writes them."""

    @staticmethod
    def write(path: Path, array: np.ndarray, version: str, **options: object) -> Path:
        ngff = pytest.importorskip("ngff_zarr")
        image = ngff.to_ngff_image(array, dims=options.pop("dims", ["z", "y", "x"]), **options)
        ngff.to_ngff_zarr(str(path), ngff.to_multiscales(image, scale_factors=[], chunks=64), version=version)
        return path

    @pytest.mark.parametrize("version", VERSIONS)
    def test_is_what_was_written(self, tmp_path, version):
        array = values(20, 33, 18)
        options = {
            "scale": {"z": 2.0, "y": 0.5, "x": 0.25},
            "translation": {"z": 1.0, "y": 2.0, "x": 3.0},
            "axes_units": dict.fromkeys("zyx", "micrometer"),
        }
        volume = open_volume(self.write(tmp_path / "a.ome.zarr", array, version, **options))
        assert_holds(volume, array[None])
        assert volume.geometry.spacing == pytest.approx((2e-3, 5e-4, 2.5e-4))
        assert volume.geometry.origin == pytest.approx((1e-3, 2e-3, 3e-3))

    @pytest.mark.parametrize("version", VERSIONS)
    def test_channels(self, tmp_path, version):
        array = values(2, 5, 8, 9)
        units = {"axes_units": dict.fromkeys("zyx", "nanometer"), "dims": ["c", "z", "y", "x"]}
        assert_holds(open_volume(self.write(tmp_path / "a.zarr", array, version, **units)), array)

    @pytest.mark.real
    @pytest.mark.skipif(not MNI.exists(), reason="real volumes are absent")
    @pytest.mark.parametrize("version", VERSIONS)
    def test_brain_has_the_grid_of_its_nifti_file(self, tmp_path, version):
        """Converted without a unit, which the spacing then tells."""
        ngff = pytest.importorskip("ngff_zarr")
        image = ngff.nibabel_image_to_ngff_image(nibabel.load(MNI))
        path = tmp_path / "mni.ome.zarr"
        ngff.to_ngff_zarr(str(path), ngff.to_multiscales(image, scale_factors=[], chunks=64), version=version)
        with pytest.raises(SpacingError):
            open_volume(path)
        volume, expected = open_volume(path, spacing=(1.0, 1.0, 1.0)), open_volume(MNI)
        assert_same_grid(volume.geometry, expected.geometry)
        np.testing.assert_array_equal(assemble(volume, 32), assemble(expected, 32))
