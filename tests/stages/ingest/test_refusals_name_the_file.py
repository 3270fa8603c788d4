"""A refusal says which file of a case it speaks of, and notes say it too."""

import numpy as np
import pytest
import runs
import SimpleITK as sitk  # noqa: N813

from voxelmill.basics.errors import FormatError, GeometryError, StoreError, speaking_of
from voxelmill.basics.geometry import Box
from voxelmill.stages.raw_store.raw_case import RawCase

IMAGE = np.random.default_rng(0).integers(1, 900, (6, 8, 8)).astype("i2")
LABEL = (IMAGE > 450).astype("u1")
FILES = {"CT": "ct.mha", "T2": "t2.mha", "label": "seg.mha"}


def write(path, array, spacing=(1.0, 1.0, 1.0), compress=False):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path), compress)


def make(folder, columns=("CT", "T2", "label")):
    """A manifest of one case and its files."""
    for column in columns:
        write(folder / FILES[column], LABEL if column == "label" else IMAGE)
    row = ",".join(FILES[column] for column in columns)
    (folder / "cases.csv").write_text(f"case,{','.join(columns)}\na,{row}\n")
    return folder / "cases.csv"


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def damage(path):
    write(path, LABEL if path.stem == "seg" else IMAGE, compress=True)
    data = bytearray(path.read_bytes())
    data[-20] ^= 255
    path.write_bytes(data)


def not_finite(path):
    write(path, np.where(LABEL, np.nan, 1).astype("f4"))


def two_channels(path):
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([LABEL, LABEL], -1), isVector=True), str(path))


FAULTS = [
    ("T2", lambda path: path.unlink(), r"^channel 1 \(T2\) is missing: no such file"),
    ("label", lambda path: path.unlink(), r"^the label is missing: no such file"),
    ("CT", lambda path: path.write_bytes(b"x"), r"^channel 0 \(CT\): the MetaImage header ends"),
    ("label", lambda path: path.write_bytes(b"x"), r"^the label: the MetaImage header ends"),
    ("T2", cut, r"^channel 1 \(T2\): the header asks for 768 bytes of voxels, the file holds 763"),
    ("label", cut, r"^the label: the header asks for 384 bytes"),
    ("CT", damage, r"^channel 0 \(CT\): compressed data are damaged"),
    ("label", damage, r"^the label: compressed data are damaged"),
    ("T2", not_finite, r"^channel 1 \(T2\): \d+ voxels of slice 0 are NaN"),
    ("label", not_finite, r"^the label holds nan in \d+ voxels of slice 0; whole numbers"),
    ("T2", lambda p: write(p, IMAGE, (2.0, 1.0, 1.0)), r"^channel 1 \(T2\) lies .* away from channel 0"),
    ("label", lambda p: write(p, LABEL[1:]), r"^the label has \(5, 8, 8\) voxels"),
    ("label", two_channels, r"^the label has 2 channels"),
]


@pytest.mark.parametrize(("column", "fault", "message"), FAULTS)
def test_a_refusal_names_the_file(tmp_path, column, fault, message):
    source = make(tmp_path)
    fault(tmp_path / FILES[column])
    report = runs.process(source, tmp_path / "out")
    (failed,) = report.failed
    assert failed.cause.count("the label") <= 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(failed.cause)


def test_all_zero_is_of_all_channels(tmp_path):
    source = make(tmp_path)
    for column in ("CT", "T2"):
        write(tmp_path / FILES[column], 0 * IMAGE)
    (failed,) = runs.process(source, tmp_path / "out").failed
    assert failed.cause.startswith("every voxel of all 2 channels is zero")


def test_one_image_alone_needs_no_name(tmp_path):
    source = make(tmp_path, ("CT",))
    cut(tmp_path / FILES["CT"])
    (failed,) = runs.process(source, tmp_path / "out").failed
    assert failed.cause.startswith("the header asks for")


def test_an_image_read_in_place_is_named_as_well(tmp_path):
    """It is missed by a later stage, which opens it again."""
    source = make(tmp_path)
    out = tmp_path / "out"
    assert runs.process(source, out, ingest={"copy": False}).failed == []
    cut(tmp_path / FILES["T2"])
    with pytest.raises(FormatError, match=r"^channel 1: the header asks for 768 bytes"):
        RawCase(out, "a").values(1, Box((0, 0, 0), (6, 8, 8)))


@pytest.mark.parametrize("error", [FormatError, GeometryError])
def test_types_stay(error):
    with pytest.raises(error, match=r"^the label: it is damaged$") as caught, speaking_of("the label"):
        raise error("it is damaged")
    assert type(caught.value) is error


def test_errors_of_out_are_not_the_source_s():
    with pytest.raises(StoreError, match=r"^OUT is damaged$"), speaking_of("the label"):
        raise StoreError("OUT is damaged")


def test_a_rounded_label_is_noted_in_the_record(tmp_path):
    source = make(tmp_path, ("CT", "label"))
    write(tmp_path / FILES["label"], LABEL * np.float32(0.99999))
    assert runs.process(source, tmp_path / "out").failed == []
    record = RawCase(tmp_path / "out", "a").record
    assert record.notes == ("the label: values rounded to whole numbers, by 1e-05 at most",)
    assert record.label.counts == {0: int((LABEL == 0).sum()), 1: int(LABEL.sum())}


def test_a_rounded_label_that_is_moved_is_noted_once(tmp_path):
    source = make(tmp_path, ("CT", "label"))
    write(tmp_path / FILES["label"], LABEL * np.float32(0.99999), (1.0, 1.0, 1.1))
    assert runs.process(source, tmp_path / "out", repair={"grids": "resample"}).failed == []
    record = RawCase(tmp_path / "out", "a").record
    assert record.notes == ("the label: values rounded to whole numbers, by 1e-05 at most",)
