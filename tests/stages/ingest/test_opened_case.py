"""Opened files on their way into the raw store: types, finite values, whole labels, instances."""

import json

import hypothesis
import numpy as np
import pytest
import runs
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from voxelmill.basics.errors import ValueRuleError
from voxelmill.basics.geometry import Geometry
from voxelmill.basics.volume import Volume
from voxelmill.stages.ingest.opened_case import LabelTally, WholeLabels, label_dtype
from voxelmill.stages.raw_store.raw_case import RawCase
from voxelmill.stages.raw_store.stored_values import as_stored, stored_dtype

QUICK = hypothesis.settings(max_examples=80, deadline=None, derandomize=True)


class Described(Volume):
    """A volume of which only the description matters here."""

    def slabs(self, depth):
        yield from ()


def volume(dtype, slope=1.0, intercept=0.0):
    return Described(Geometry((1, 1, 1), (1.0, 1.0, 1.0)), dtype, slope=slope, intercept=intercept)


class TestImages:
    @pytest.mark.parametrize(
        ("dtype", "slope", "expected"),
        [
            ("i2", 1, "i2"),
            ("i2", 2, "i2"),
            ("u4", 1, "u4"),
            ("f4", 1, "f4"),
            ("f8", 1, "f8"),
            ("f8", 2, "f4"),
        ],
    )
    def test_stored_type(self, dtype, slope, expected):
        """Integers keep their scale; floats that have one are stored as their values."""
        assert stored_dtype(volume(dtype, slope)) == np.dtype(expected)

    @QUICK
    @given(hnp.arrays("f8", (2, 3, 4, 5), elements=st.floats(-1e30, 1e30)), st.sampled_from([1.0, 0.5]))
    def test_finite_floats_stay(self, data, slope):
        stored = as_stored(data.copy(), volume("f8", slope), "fail")
        expected = data if slope == 1 else (data * slope).astype("f4")
        np.testing.assert_array_equal(stored, expected)
        assert stored.dtype == expected.dtype

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
    @pytest.mark.parametrize("is_writeable", [True, False])
    def test_other_floats_fail_or_become_zero(self, value, is_writeable):
        data = np.ones((1, 4, 3, 3))
        data[0, 2, 1, 1] = data[0, 2, 0, 0] = value
        data.flags.writeable = is_writeable
        with pytest.raises(
            ValueRuleError, match=r"^2 voxels of slice 12 are NaN, .* --set nonfinite=zero\.$"
        ):
            as_stored(data, volume("f8"), "fail", 10)
        stored = as_stored(data, volume("f8"), "zero")
        assert stored.sum() == data.size - 2
        assert stored[0, 2, 1, 1] == 0


class TestLabels:
    def test_whole_floats_are_integers(self):
        stored = np.array([[[0.0, 3.0]], [[-1.0, 255.0]]], "f4")
        whole = WholeLabels(volume("f4"))
        labels = whole.take(stored, 0)
        assert labels.dtype == label_dtype(volume("f4")) == np.int32
        assert labels.tolist() == [[[0, 3]], [[-1, 255]]]
        assert whole.notes == ()

    @pytest.mark.parametrize(
        ("dtype", "slope", "intercept", "stored", "expected", "deviation"),
        [
            ("f4", 1, 0, [0.99999, 2.0004, -1e-4], [1, 2, 0], "0.0004"),  # resampled and saved as floats
            ("f8", 1, 0, [1 - 1e-3 + 1e-9, 7, 0], [1, 7, 0], "0.001"),
            ("i2", float(np.float32(0.1)), 0, [30, 10, 0], [3, 1, 0], "4.5e-08"),  # a slope of float32
            ("i2", 1, -1024, [1025, 1026, 1024], [1, 2, 0], None),
        ],
    )
    def test_nearly_whole_numbers_are_rounded_and_noted(
        self, dtype, slope, intercept, stored, expected, deviation
    ):
        whole = WholeLabels(volume(dtype, slope, intercept))
        assert whole.take(np.array(stored, dtype)[None, None], 0).tolist() == [[expected]]
        wanted = f"values rounded to whole numbers, by {deviation} at most" if deviation else None
        assert whole.notes == ((wanted,) if wanted else ())

    @pytest.mark.parametrize("wrong", [0.5, 1.0011, np.nan, np.inf, 2.0**40])
    def test_others_are_refused(self, wrong):
        stored = np.array([[[0, 1]], [[1, wrong]]], "f4")
        with pytest.raises(ValueRuleError, match=r"in 1 voxels of slice 6; whole numbers are needed"):
            WholeLabels(volume("f4")).take(stored, 5)

    @QUICK
    @given(
        hnp.arrays("i4", st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(-3, 40)), st.integers(1, 6)
    )
    def test_tally(self, labels, depth):
        tally = LabelTally()
        for z in range(0, len(labels), depth):
            tally.add(labels[z : z + depth])
        values, counts = np.unique(labels, return_counts=True)
        assert tally.counts == dict(zip(values.tolist(), counts.tolist(), strict=True))
        assert (tally.low, tally.high, tally.is_instances) == (labels.min(), labels.max(), False)

    @pytest.mark.parametrize("ids", [1000, 1001, 30_000])
    @pytest.mark.parametrize("order", [1, -1])
    def test_more_than_a_thousand_labels_are_instances(self, ids, order):
        labels = np.zeros((4, 100, 100), "u4")
        labels.reshape(-1)[5 : 5 + ids] = np.arange(1, ids + 1)[::order] * 7
        tally = LabelTally()
        for plane in labels:
            tally.add(plane[None])
        assert tally.is_instances == (ids > 1000)
        assert (tally.low, tally.high) == (0, 7 * ids)
        assert len(tally.counts) == (2 if ids > 1000 else ids + 1)
        assert tally.counts[0] == labels.size - ids
        assert sum(tally.counts.values()) == labels.size


def test_instances_through_the_whole_pipeline(tmp_path):
    """Each instance keeps its id; together they count as one class of foreground."""
    rng = np.random.default_rng(0)
    label = np.zeros((24, 40, 40), "u2")
    cells = np.zeros(12 * 20 * 20, "u2")
    cells[rng.permutation(cells.size)[:1500]] = np.arange(1, 1501) * 40
    label[::2, ::2, ::2] = cells.reshape(12, 20, 20)
    image = rng.integers(1, 900, label.shape).astype("u2")
    for name, array in (("image", image), ("label", label)):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.nii.gz"))
    (tmp_path / "cases.csv").write_text("case,CT,label\na,image.nii.gz,label.nii.gz\n")
    out = tmp_path / "out"
    report = runs.process(tmp_path / "cases.csv", out)
    assert report.failed == []
    raw = RawCase(out, "a")
    assert raw.record.label.counts == {0: label.size - 1500, 1: 1500}
    locations = raw.locations()
    assert len(locations) == 1500
    assert set(locations[:, 0]) == {1}
    assert (label[tuple(locations[:, 1:].T)] > 0).all()
    assert json.loads((out / "fingerprint.json").read_text())["classes"] == 2
    assert runs.fingerprint(out)["cases"]["a"]["label_range"] == [0, 60000]
    np.testing.assert_array_equal(runs.group(out, "a")["label"][:], label)
