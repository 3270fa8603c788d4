"""Real accidents in one dataset: each is one failed case with its own line, and nothing else suffers."""

import json
import re

import accidents
import numpy as np
import pytest
import zarr
from accidents import ACCIDENTS, IMAGE
from commands import within
from datasets import stores
from runs import attributes

GOOD = ["good1", "good2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All accidents and two good cases, run once: OUT and what was said."""
    folder = tmp_path_factory.mktemp("accidents")
    source = accidents.write(folder / "raw")
    return folder / "out", within("run", source, folder / "out", "--cluster=none")


@pytest.fixture(scope="module")
def report(run):
    return {c["case"]: c for c in json.loads((run[0] / "report.json").read_text())["cases"]}


def test_there_are_many():
    assert len(ACCIDENTS) >= 30


@pytest.mark.parametrize("accident", ACCIDENTS, ids=lambda a: f"{a.name} ({a.thread})")
def test_is_told_with_its_cause(report, run, accident):
    of = report[accident.name]
    assert of["status"] == "failed"
    assert re.search(accident.cause, of["cause"]), of["cause"]
    assert len(of["cause"].splitlines()) == 1
    assert not re.search(r"\b(a|label)\.\w|IM\d|raw/", of["cause"]), of["cause"]
    assert f"failed  {accident.name}: {of['cause']}" in run[1].stdout


def test_others_are_completed_and_the_exit_status_says_so(report, run):
    out, done = run
    assert done.exit_code == 1
    assert [report[case]["status"] for case in ("good1", "good2")] == ["done", "done"]
    assert sorted(p.name for p in (out / "training.zarr" / "fullres").iterdir() if p.is_dir()) == GOOD
    assert sorted(p.name for p in (out / "raw.zarr").iterdir() if p.is_dir()) == GOOD


def test_the_good_ones_are_what_they_are_alone(run, tmp_path):
    alone = accidents.write(tmp_path / "raw", chosen=())
    assert within("run", alone, tmp_path / "out", "--cluster=none").exit_code == 0
    assert of_training(stores(run[0])) == of_training(stores(tmp_path / "out"))


def test_nothing_of_a_traceback_is_shown(run):
    assert "Traceback" not in run[1].stdout


def of_training(found):
    return {path: content for path, content in found.items() if path.startswith("training.zarr")}


# Accepted by settings

REPAIRED = {
    "a_slice_was_lost_on_the_way": ["repair.irregular=fill"],
    "a_slice_of_a_tiff_stack_was_lost": ["repair.irregular=fill"],
    "a_slice_is_there_twice": ["repair.duplicates=first"],
    "the_gantry_was_tilted": ["repair.shear=undo"],
    "sform_and_qform_disagree": ["repair.affine=sform"],
    "spacing_is_negative": ["repair.pixdim=absolute"],
    "an_sform_is_sheared": ["repair.shear=undo"],
    "a_label_lies_elsewhere": ["repair.grids=resample"],
    "a_channel_is_flipped": ["repair.grids=resample"],
    "two_series_share_a_folder": [],
    "a_voxel_is_nan": [],
}
SETTINGS = sorted({setting for settings in REPAIRED.values() for setting in settings})
OTHERS = ["nonfinite=zero", "dicom.series=1"]


@pytest.fixture(scope="module")
def repaired(tmp_path_factory):
    """The accidents that settings accept, with all these settings: OUT and what was said."""
    folder = tmp_path_factory.mktemp("repaired")
    source = accidents.write(folder / "raw", chosen=REPAIRED)
    words = [f"--set={setting}" for setting in (*SETTINGS, *OTHERS)]
    return folder / "out", within("run", source, folder / "out", "--cluster=none", *words)


@pytest.mark.parametrize(("name", "settings"), REPAIRED.items())
def test_a_repair_stands_in_the_attributes_and_in_the_report(repaired, name, settings):
    out, done = repaired
    assert done.exit_code == 0, done.stdout
    (of,) = (c for c in json.loads((out / "report.json").read_text())["cases"] if c["case"] == name)
    stated = attributes(out, name)["repairs"]
    assert sorted({repair["setting"] for repair in stated}) == settings
    assert len(of["repairs"]) == len(stated)
    assert all(any(setting in line for line in of["repairs"]) for setting in settings)
    assert attributes(out, "good1")["repairs"] == []


@pytest.mark.parametrize("name", ["a_slice_was_lost_on_the_way", "a_slice_of_a_tiff_stack_was_lost"])
def test_a_gap_is_filled_between_its_neighbours(repaired, name):
    expected = IMAGE.astype(float)
    expected[4] = np.rint((expected[3] + expected[5]) / 2)
    np.testing.assert_array_equal(raw_image(repaired, name)[0], expected)


def test_of_slices_at_one_position_the_first_is_kept(repaired):
    np.testing.assert_array_equal(raw_image(repaired, "a_slice_is_there_twice")[0], IMAGE)


def test_a_tilt_is_undone_slice_by_slice(repaired):
    """Rows are 0.7 mm apart, slices 2.5 mm, and each lies 2.5 mm tan(12 degrees) beside the one before."""
    found = raw_image(repaired, "the_gantry_was_tilted")[0]
    rows = np.arange(found.shape[1])
    for z, plane in enumerate(IMAGE):
        at = rows - z * 2.5 * np.tan(np.radians(12)) / 0.7
        inside = (at >= 0) & (at <= len(plane) - 1)
        lines = [np.interp(at[inside], np.arange(len(plane)), column) for column in plane.T]
        np.testing.assert_allclose(found[z][inside], np.transpose(lines), atol=0.51)  # stored as integers
        assert inside.sum() >= len(plane) - 1


def test_a_flipped_channel_is_brought_where_it_belongs(repaired):
    """Both axes run the other way from the same corner: one row and one column are shared."""
    found = raw_image(repaired, "a_channel_is_flipped")
    np.testing.assert_array_equal(found[0], IMAGE)
    np.testing.assert_array_equal(found[1, :, 0, 0], IMAGE[:, 0, 0])
    assert not found[1, :, 1:].any()


def test_a_label_is_brought_where_it_belongs(repaired):
    """It lies 2 mm, 3.33 voxels, further along x: to the nearest voxel that is 3."""
    label = zarr.open_array(repaired[0] / "raw.zarr/a_label_lies_elsewhere/label", mode="r")[:]
    np.testing.assert_array_equal(label[:, :, 3:], accidents.LABEL[:, :, :-3])
    assert not label[:, :, :3].any()


def raw_image(repaired, name):
    return zarr.open_array(repaired[0] / f"raw.zarr/{name}/image", mode="r")[:]
