"""The fingerprint against plain NumPy on whole volumes, through real files of every type."""

import json

import datasets
import nibabel
import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import SEEDS

from voxelmill.basics.errors import StoreError
from voxelmill.config.load_settings import load_config
from voxelmill.config.settings import Config
from voxelmill.inputs.sources.discover import discover
from voxelmill.runtime.cluster.connection import connect
from voxelmill.runtime.memory_budget import Memory
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine
from voxelmill.stages.fingerprint.dataset_statistics import find_odd_cases, make_fingerprint
from voxelmill.stages.fingerprint.fingerprint_json import Fingerprint
from voxelmill.stages.ingest.ingest import ingest
from voxelmill.stages.raw_store.raw_case import RawCase, list_cases

HERE = Engine(None, Reporter())
NARROW = ("i1", "u1", "i2", "u2")
WIDE = ("i4", "u4", "f4", "f8")
KINDS = ("few", "wide", "offset")
PERCENTILES = ("percentile_00_5", "median", "percentile_99_5")


# Datasets: arrays, as files, and as the reference sees them


def write_manifest(folder, cases, channels=("T1",)):
    """``{case: (list of arrays, label or None)}`` as .npy files and a manifest; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"case,{','.join(channels)},label,spacing"]
    for name, (arrays, label) in cases.items():
        files = [f"{name}_{i}.npy" for i in range(len(arrays))]
        for file, array in zip(files, arrays, strict=True):
            np.save(folder / file, array)
        if label is not None:
            np.save(folder / f"{name}_label.npy", label)
        rows.append(f'{name},{",".join(files)},{"" if label is None else f"{name}_label.npy"},"2,1,0.5"')
    (folder / "cases.csv").write_text("\n".join(rows))
    return folder / "cases.csv"


def fingerprint_of(source, out, engine=HERE, config=None):
    outcomes = ingest(discover(source), out, config or Config(), engine)
    assert [o.cause for o in outcomes if o.cause] == []
    return make_fingerprint(out, list_cases(out), engine, Memory())


def as_reference(cases):
    return [
        reference.ReferenceCase(np.stack([a.astype(np.float32) for a in arrays]), label, (2, 1, 0.5))
        for arrays, label in cases.values()
    ]


def moments(cases, channel, ignore_label=None):
    """Mean and standard deviation in two passes, every case with the same weight."""
    parts = []
    has_label = any(case.label is not None for case in cases)
    for case in cases:
        if has_label and case.label is None:
            continue
        inside = case.label > 0 if has_label else reference.crop(case.image)[0]
        if has_label and ignore_label is not None:
            inside = inside & (case.label != ignore_label)
        if inside.any():
            parts.append(case.image[channel][inside].astype(np.longdouble))
    mean = np.mean([part.mean() for part in parts])
    return float(mean), float(np.sqrt(np.mean([((part - mean) ** 2).mean() for part in parts])))


def assert_equal(found, cases, ignore_label=None, unrounded=None):
    """Range and percentiles to the last bit; the moments to what float64 sums can hold.

    The moments of narrow integers are of values that are not rounded to float32: `unrounded`.
    """
    for channel in range(cases[0].image.shape[0]):
        expected = reference.foreground_statistics(cases, channel, ignore_label)
        intensity = found.foreground_intensity_properties_per_channel.get(str(channel))
        if expected is None:
            assert intensity is None
            continue
        for name in (*PERCENTILES, "min", "max"):
            assert getattr(intensity, name) == expected[name], name
        mean, std = moments(unrounded or cases, channel, ignore_label)
        largest = max(abs(intensity.min), abs(intensity.max))
        assert intensity.mean == pytest.approx(mean, rel=1e-9, abs=1e-12 * largest)
        # The variance is a difference of squares: its error is a rounding error of those.
        assert intensity.std**2 == pytest.approx(std**2, rel=1e-9, abs=1e-13 * largest**2)


def values_of_type(rng, dtype, shape, kind):
    """Values of a type with zeros, ties, its extremes, or a narrow range far from zero."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        array = rng.normal(size=shape) * {"few": 2, "wide": 1e6, "offset": 20}[kind]
        array = np.round(array) if kind == "few" else array + (30_000 if kind == "offset" else 0)
    else:
        limits = np.iinfo(dtype)
        low, high = {
            "few": (max(-2, limits.min), 4),
            "wide": (limits.min, limits.max),
            "offset": (100, 120),
        }[kind]
        array = rng.integers(low, high, shape, endpoint=True, dtype=dtype)
    array = array.astype(dtype)
    array[rng.random(shape) < 0.2] = 0
    array.flat[-1] = 1  # never all zero
    return array


def random_cases(rng, dtype, kinds, labels, count=3):
    """A channel for each kind of values; a case in turn with "some" labels, with "none", or "empty" ones."""
    cases = {}
    for i in range(count):
        shape = tuple(rng.integers(2, 9, 3))
        arrays = [values_of_type(rng, dtype, shape, kind) for kind in kinds]
        label = None
        if labels[i % len(labels)] == "some":
            label = (rng.random(shape) < 0.3).astype("u1") * rng.integers(1, 4, shape, dtype="u1")
        elif labels[i % len(labels)] == "empty":
            label = np.zeros(shape, "u1")
        cases[f"case{i}"] = (arrays, label)
    return cases


# Every type and kind of dataset


@pytest.mark.parametrize("dtype", [*NARROW, *WIDE])
@pytest.mark.parametrize("labels", [("some",), ("none",), ("some", "none", "empty")], ids="-".join)
def test_equals_numpy(tmp_path, dtype, labels):
    rng = np.random.default_rng([ord(c) for c in dtype])
    cases = random_cases(rng, dtype, KINDS, labels)
    found = fingerprint_of(write_manifest(tmp_path / "in", cases, KINDS), tmp_path / "out")
    assert_equal(found, as_reference(cases))
    assert found.statistics_from == ("nonzero mask" if labels == ("none",) else "label")
    assert list(found.cases) == ["case0", "case1", "case2"]


@settings(max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    SEEDS,
    st.sampled_from([*NARROW, *WIDE]),
    st.sampled_from(KINDS),
    st.lists(st.sampled_from(["some", "none", "empty"]), min_size=1, max_size=3),
    st.integers(1, 4),
)
def test_random_datasets_equal_numpy(tmp_path_factory, seed, dtype, kind, labels, count):
    folder = tmp_path_factory.mktemp("random")
    cases = random_cases(np.random.default_rng(seed), dtype, [kind], labels, count=count)
    found = fingerprint_of(write_manifest(folder / "in", cases), folder / "out")
    assert_equal(found, as_reference(cases))


SLOPES = ((2.0, -1024.0), (-0.25, 7.5), (1e-3, 0.1), (3.0, -6.0))


@pytest.mark.parametrize("dtype", [*NARROW, "i4", "f4"])
@pytest.mark.parametrize("labelled", [True, False])
def test_slopes_of_nifti_files(tmp_path, dtype, labelled):
    """The statistics speak of values, not of what is stored; with (3, -6) a stored 2 is a zero."""
    rng = np.random.default_rng(7)
    names = [f"T{channel}" for channel in range(len(SLOPES))]
    rows, cases, unrounded = [f"case,{','.join(names)},label"], [], []
    for i in range(2):
        exact = []
        for name, (slope, intercept) in zip(names, SLOPES, strict=True):
            stored = rng.integers(0, 100, (6, 7, 8)).astype(dtype)
            header = nibabel.Nifti1Image(np.zeros((8, 7, 6), dtype), np.diag([1, 1, 2, 1])).header
            header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, intercept, 352
            (tmp_path / f"{i}{name}.nii").write_bytes(header.binaryblock + bytes(4) + stored.tobytes())
            # As the header holds them:
            slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
            exact.append(stored.astype(np.float64) * slope + intercept)
        label = (rng.random((6, 7, 8)) < 0.3).astype("u1") if labelled else None
        if labelled:
            image = nibabel.Nifti1Image(label.transpose(2, 1, 0), np.diag([1, 1, 2, 1]))
            nibabel.save(image, tmp_path / f"{i}.nii")
        rows.append(f"{i},{','.join(f'{i}{name}.nii' for name in names)},{f'{i}.nii' if labelled else ''}")
        unrounded.append(reference.ReferenceCase(np.stack(exact), label, (2, 1, 1)))
        cases.append(reference.ReferenceCase(np.stack(exact).astype(np.float32), label, (2, 1, 1)))
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    found = fingerprint_of(tmp_path / "cases.csv", tmp_path / "out")
    assert len(found.foreground_intensity_properties_per_channel) == len(SLOPES)
    assert_equal(found, cases, unrounded=unrounded if dtype in NARROW else None)


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_the_ignore_label_is_no_foreground(tmp_path, dtype):
    rng = np.random.default_rng(2)
    cases = random_cases(rng, dtype, ["wide"], ("some",))
    cases["case1"][1][:] = 3  # nothing but the ignore label: no foreground at all
    (tmp_path / "in" / "imagesTr").mkdir(parents=True)
    (tmp_path / "in" / "labelsTr").mkdir()
    for name, ((image,), label) in cases.items():
        np.save(tmp_path / "in" / "imagesTr" / f"{name}_0000.npy", image)
        (tmp_path / "in" / "imagesTr" / f"{name}.json").write_text('{"spacing": [2, 1, 0.5]}')
        np.save(tmp_path / "in" / "labelsTr" / f"{name}.npy", label)
    dataset = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "a": 1, "b": 2, "ignore": 3},
        "numTraining": 3,
        "file_ending": ".npy",
    }
    (tmp_path / "in" / "dataset.json").write_text(json.dumps(dataset))
    found = fingerprint_of(tmp_path / "in", tmp_path / "out")
    assert found.ignore_label == 3
    assert_equal(found, as_reference(cases), ignore_label=3)
    with_it = reference.foreground_statistics(as_reference(cases), 0)
    assert found.foreground_intensity_properties_per_channel["0"].mean != pytest.approx(with_it["mean"])


# Without labels: the filled mask


@pytest.mark.parametrize("dtype", ["i2", "u1", "i4", "f4"])
def test_zeros_in_holes_count_and_zeros_outside_do_not(tmp_path, dtype):
    image = np.zeros((9, 9, 9), dtype)
    image[1:8, 1:8, 1:8] = 5
    image[3:6, 3:6, 3:6] = 0  # a hole of 27 voxels
    image[1, 1, 1:4] = 100
    cases = {"hole": ([image], None)}
    found = fingerprint_of(write_manifest(tmp_path / "in", cases), tmp_path / "out")
    assert_equal(found, as_reference(cases))
    of = found.foreground_intensity_properties_per_channel["0"]
    assert (of.min, of.max, of.percentile_00_5) == (0, 100, 0)
    assert of.mean == pytest.approx((5 * (343 - 27 - 3) + 300) / 343)


def test_a_hole_of_one_channel_alone_is_inside(tmp_path):
    """The mask is of all channels, so each has zeros of its own in it."""
    first, second = np.ones((5, 5, 5), "i2"), np.full((5, 5, 5), -3, "i2")
    first[:, :, 3:] = 0
    second[:2] = 0
    cases = {"a": ([first, second], None)}
    found = fingerprint_of(write_manifest(tmp_path / "in", cases, ("A", "B")), tmp_path / "out")
    assert_equal(found, as_reference(cases))
    assert found.foreground_intensity_properties_per_channel["1"].max == 0


# Cases weigh equally


@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_a_large_case_weighs_as_much_as_a_small_one(tmp_path, dtype):
    small, large = np.full((2, 2, 2), 10, dtype), np.full((20, 20, 20), 20, dtype)
    label = np.ones
    cases = {"a": ([small], label(small.shape, "u1")), "b": ([large], label(large.shape, "u1"))}
    found = fingerprint_of(write_manifest(tmp_path / "in", cases), tmp_path / "out")
    of = found.foreground_intensity_properties_per_channel["0"]
    assert (of.mean, of.std, of.min, of.max) == (15, 5, 10, 20)
    assert (of.percentile_00_5, of.median, of.percentile_99_5) == (10, 10, 20)
    assert_equal(found, as_reference(cases))


@pytest.mark.parametrize("dtype", ["i2", "f4"])
@pytest.mark.parametrize("voxels", [3, 7, 49])
def test_ties_at_a_percentile_go_to_the_smaller_value(tmp_path, dtype, voxels):
    """Half of the weight lies exactly at or below the median, in sums that round."""
    cases = {}
    for i in range(6):
        values = np.full((1, 1, voxels), 1 if i < 3 else 2, dtype)
        cases[f"case{i}"] = ([values], np.ones(values.shape, "u1"))
    found = fingerprint_of(write_manifest(tmp_path / "in", cases), tmp_path / "out")
    assert found.foreground_intensity_properties_per_channel["0"].median == 1


@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_ties_inside_one_case(tmp_path, dtype):
    """200 voxels: half a percent is exactly one voxel, so the percentile is the lowest value."""
    values = np.arange(1, 201).reshape(2, 10, 10).astype(dtype)
    cases = {"a": ([values], np.ones(values.shape, "u1"))}
    found = fingerprint_of(write_manifest(tmp_path / "in", cases), tmp_path / "out")
    of = found.foreground_intensity_properties_per_channel["0"]
    assert (of.percentile_00_5, of.median, of.percentile_99_5) == (1, 100, 199)


def test_a_constant_has_no_spread(tmp_path):
    for dtype, value in (("i2", 30_000), ("f4", 0.1), ("f4", -1e30)):
        values = np.full((4, 4, 4), value, dtype)
        cases = {"a": ([values], np.ones(values.shape, "u1"))}
        folder = tmp_path / f"{dtype}{value}"
        found = fingerprint_of(write_manifest(folder / "in", cases), folder / "out")
        of = found.foreground_intensity_properties_per_channel["0"]
        assert of.min == of.max == of.median == values[0, 0, 0]
        assert of.mean == pytest.approx(values[0, 0, 0], rel=1e-12)
        assert of.std <= 1e-7 * abs(value)


# What else the fingerprint says


def test_no_foreground_anywhere_leaves_the_channel_out(tmp_path):
    cases = random_cases(np.random.default_rng(0), "i2", ["few"], ("empty", "none"))
    found = fingerprint_of(write_manifest(tmp_path / "in", cases), tmp_path / "out")
    assert found.foreground_intensity_properties_per_channel == {}
    assert found.statistics_from == "label"


def test_shapes_boxes_and_labels_of_cases(tmp_path):
    image = np.zeros((6, 8, 10), "i2")
    image[1:5, 2:4, 3:10] = 1
    label = np.zeros(image.shape, "i2")
    label[2, 2, 4], label[2, 2, 5] = 7, -1
    full = np.ones((4, 4, 4), "i2")
    source = write_manifest(tmp_path / "in", {"b": ([image], label), "a": ([full], None)})
    found = fingerprint_of(source, tmp_path / "out")
    assert list(found.cases) == ["a", "b"]
    assert found.spacings == [(2.0, 1.0, 0.5)] * 2
    assert found.shapes_after_crop == [(4, 4, 4), (4, 2, 7)]
    assert found.median_relative_size_after_cropping == pytest.approx((1 + 56 / 480) / 2, rel=1e-15)
    assert found.channel_names == ("T1",)
    b = found.cases["b"]
    assert (b.shape, b.crop_box) == ((6, 8, 10), [[1, 5], [2, 4], [3, 10]])
    assert (b.channels, b.dtype, b.label_dtype, b.label_range) == (1, "int16", "int16", (-1, 7))
    assert (found.cases["a"].label_dtype, found.cases["a"].label_range) == (None, None)
    assert found.classes == 3  # -1, 0 and 7 occur


def test_classes_are_those_that_the_source_states(tmp_path):
    made = datasets.nnunet(tmp_path / "in")
    description = json.loads((made.source / "dataset.json").read_text())
    description["labels"] |= {"three": 3, "ignore": 4}
    (made.source / "dataset.json").write_text(json.dumps(description))
    assert fingerprint_of(made.source, tmp_path / "out").classes == 5


def test_json_comes_back(tmp_path):
    cases = random_cases(np.random.default_rng(0), "f4", ["wide"], ("some", "none"))
    found = fingerprint_of(write_manifest(tmp_path / "in", cases), tmp_path / "out")
    found.save(tmp_path)
    assert Fingerprint.load(tmp_path) == found
    with pytest.raises(StoreError, match="voxelmill fingerprint OUT"):
        Fingerprint.load(tmp_path / "in")


def test_cases_with_other_channels_are_found(tmp_path):
    cases = {name: ([np.ones((3, 3, 3), "i2")], None) for name in "ab"}
    fingerprint_of(write_manifest(tmp_path / "one", cases), tmp_path / "out")
    two = {"two": ([np.ones((3, 3, 3), "i2")] * 2, None)}
    ingest(discover(write_manifest(tmp_path / "two", two, ("A", "B"))), tmp_path / "out", Config(), HERE)
    odd = find_odd_cases(tmp_path / "out", ["a", "b", "two"])
    assert odd == {"two": "has 2 channels, most cases have 1; all need the same. Mend it, or run it apart."}


def test_an_empty_store_is_told(tmp_path):
    with pytest.raises(StoreError, match="voxelmill ingest SOURCE OUT"):
        list_cases(tmp_path)


def test_facts_come_back_to_the_last_bit(tmp_path):
    """Empty slices have no range; it travels through JSON as null."""
    image = values_of_type(np.random.default_rng(1), "f4", (6, 7, 8), "wide")
    image[2:4] = image[:, 3] = 0
    source = write_manifest(tmp_path / "in", {"a": ([image], None)})
    fingerprint_of(source, tmp_path / "out", config=load_config())
    (facts,) = RawCase(tmp_path / "out", "a").facts
    for axis in range(3):
        slices = np.moveaxis(image, axis, 0).reshape(image.shape[axis], -1)
        for i, values in enumerate(slices):
            found = values[values != 0]
            assert facts.nonzero[axis][i] == found.size
            assert facts.low[axis][i] == found.min(initial=np.inf)
            assert facts.high[axis][i] == found.max(initial=-np.inf)


# The same bits everywhere


def test_the_same_bits_on_one_worker_and_on_two_and_in_this_process(tmp_path):
    rng = np.random.default_rng(5)
    cases = random_cases(rng, "f4", ["wide"], ("some", "some", "none"), count=20)
    source = write_manifest(tmp_path / "in", cases)
    made = [fingerprint_of(source, tmp_path / "0")]
    for workers in (1, 2):
        with connect("local", workers) as client:
            made.append(fingerprint_of(source, tmp_path / str(workers), Engine(client, Reporter())))
    assert len({m.model_dump_json() for m in made}) == 1
    assert_equal(made[0], as_reference(cases))


# Values that statistics cannot hold


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_values_that_are_not_finite_in_float32_fail_their_case_or_are_zeros(tmp_path, value):
    """float64 holds more than float32, in which all the rest is computed."""
    image = np.arange(1.0, 28).reshape(3, 3, 3)
    image[1, 1, 1] = value
    source = write_manifest(tmp_path / "in", {"a": ([image], np.ones(image.shape, "u1"))})
    (refused,) = ingest(discover(source), tmp_path / "out", Config(), HERE)
    assert refused.cause.startswith("channel 0 (T1): 1 voxels of slice 1 are NaN, infinite or beyond float32")
    found = fingerprint_of(source, tmp_path / "zeros", config=load_config(settings=["nonfinite=zero"]))
    image[1, 1, 1] = 0
    assert_equal(found, as_reference({"a": ([image], np.ones(image.shape, "u1"))}))
