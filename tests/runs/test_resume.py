"""Runs again on an OUT that holds something: what is kept, what is made again, what is refused."""

import json
import os
import shutil
import time
from copy import deepcopy
from dataclasses import replace

import datasets
import numpy as np
import pytest
import runs
from datasets import manifest, of_cases, stores, times, write_rows

from voxelmill.basics.errors import SettingsChangedError, StoreError, VoxelmillError
from voxelmill.runtime.memory_budget import Memory
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.preprocessing import preprocess
from voxelmill.stages.preprocessing.training_store import training_cases

CASES = {
    "a": ((14, 18, 16), (1.0, 1.2, 1.0)),
    "b": ((15, 16, 20), (1.2, 1.0, 1.0)),
    "c": ((13, 17, 18), (1.0, 1.0, 1.1)),
}
MANY_SHARDS = {"store": {"shard_mib": 1, "chunk": (16, 32, 32)}, "target_spacing": (0.12, 0.12, 0.12)}


METADATA = (
    "training.zarr/fullres/b/image/zarr.json",
    "training.zarr/fullres/b/label/zarr.json",
    "training.zarr/fullres/b/zarr.json",
    "training.zarr/fullres/zarr.json",
    "training.zarr/zarr.json",
    "raw.zarr/b/zarr.json",
    "raw.zarr/b/image/zarr.json",
    "raw.zarr/b/label/zarr.json",
    "raw.zarr/zarr.json",
    "plan.json",
    "fingerprint.json",
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A source and a finished run, to be copied."""
    folder = tmp_path_factory.mktemp("template")
    made = manifest(folder / "raw", CASES, ("CT", "T1"), border=4)
    runs.process(made.source, folder / "out")
    return folder, made


@pytest.fixture
def made(tmp_path, template):
    folder, made = template
    shutil.copytree(folder / "raw", tmp_path / "raw")
    return replace(made, source=tmp_path / "raw" / "cases.csv", cases=deepcopy(made.cases))


@pytest.fixture
def out(tmp_path, made, template):
    """A finished run."""
    shutil.copytree(template[0] / "out", tmp_path / "out")
    return tmp_path / "out"


def refuse(made, out, message, **settings):
    """Refused, and no case and no plan changed."""
    before, at = stores(out), of_cases(times(out), CASES)
    with pytest.raises(SettingsChangedError, match=message):
        runs.process(made.source, out, **settings)
    after = stores(out)
    assert of_cases(after, CASES) == of_cases(before, CASES)
    assert after["plan.json"] == before["plan.json"]
    assert of_cases(times(out), CASES) == at


def fresh(made, tmp_path, **settings):
    """What an undisturbed run writes."""
    out = tmp_path / f"fresh{len(list(tmp_path.iterdir()))}"
    assert not runs.process(made.source, out, **settings).failed
    return stores(out)


def files(folder):
    return [p for p in sorted(folder.rglob("*")) if p.is_file()]


class TestKept:
    def test_nothing_is_written_again(self, made, out):
        before, at = stores(out), times(out)
        report = runs.process(made.source, out)
        assert not report.failed
        assert report.voxels == 0
        assert times(out) == at
        assert stores(out) == before
        assert [c.status for c in report.cases] == ["done"] * 3

    def test_nothing_is_written_again_with_restart(self, made, out):
        at = times(out)
        runs.process(made.source, out, restart=True)
        assert times(out) == at

    def test_touched_sources_with_the_same_content(self, made, out):
        at = times(out)
        for path in files(made.source.parent):
            os.utime(path, (1, 1))
        runs.process(made.source, out)
        assert times(out) == at
        runs.process(made.source, out)
        assert times(out) == at

    def test_source_and_out_moved(self, made, out, tmp_path):
        before = stores(out)
        shutil.move(made.source.parent, tmp_path / "elsewhere")
        shutil.move(out, tmp_path / "other")
        runs.process(tmp_path / "elsewhere" / "cases.csv", tmp_path / "other")
        assert stores(tmp_path / "other") == before

    def test_only_order_of_rows_and_names_of_files_differ(self, made, out, tmp_path):
        at = times(out)
        (tmp_path / "raw" / "b_0.nii").rename(tmp_path / "raw" / "renamed.nii")
        rows = [
            {
                "case": c,
                "CT": "renamed.nii" if c == "b" else f"{c}_0.nii",
                "T1": f"{c}_1.nii",
                "label": f"{c}_label.nii",
            }
            for c in "cba"
        ]
        write_rows(made.source, rows)
        runs.process(made.source, out)
        assert times(out) == at


class TestMadeAgain:
    def check(self, made, out, before, kept=()):
        """One run brings everything back, byte for byte, and leaves the kept cases alone."""
        at = of_cases(times(out), kept)
        assert not runs.process(made.source, out).failed
        assert stores(out) == before
        assert of_cases(times(out), kept) == at

    @pytest.mark.parametrize("array", ["image", "label"])
    @pytest.mark.parametrize("damage", ["delete", "truncate", "empty", "index", "longer"])
    def test_shard(self, made, out, array, damage):
        before = stores(out)
        (shard,) = files(out / "training.zarr" / "fullres" / "b" / array / "c")
        content = shard.read_bytes()
        if damage == "delete":
            shard.unlink()
        else:
            changed = bytearray(content)
            changed[-10] ^= 255
            shard.write_bytes(
                {
                    "truncate": content[: len(content) // 2],
                    "empty": b"",
                    "index": bytes(changed),
                    "longer": content + b"x",
                }[damage]
            )
        self.check(made, out, before, kept="ac")

    def test_one_of_many_shards(self, made, tmp_path):
        out = tmp_path / "out"
        runs.process(made.source, out, **MANY_SHARDS)
        before = stores(out)
        shards = files(out / "training.zarr" / "fullres" / "a" / "image" / "c")
        assert len(shards) > 1
        shards[1].unlink()
        at = {p: p.stat().st_mtime_ns for p in shards if p != shards[1]}
        assert not runs.process(made.source, out, **MANY_SHARDS).failed
        assert stores(out) == before
        assert {p: p.stat().st_mtime_ns for p in at} == at

    def test_training_case(self, made, out):
        before = stores(out)
        shutil.rmtree(out / "training.zarr" / "fullres" / "b")
        self.check(made, out, before, kept="ac")

    def test_training_store(self, made, out):
        before = stores(out)
        shutil.rmtree(out / "training.zarr")
        self.check(made, out, before)

    def test_raw_case(self, made, out):
        before = stores(out)
        shutil.rmtree(out / "raw.zarr" / "b")
        self.check(made, out, before, kept="ac")

    def test_raw_store(self, made, out):
        before = stores(out)
        shutil.rmtree(out / "raw.zarr")
        self.check(made, out, before)

    @pytest.mark.parametrize("array", ["image", "label", "histogram"])
    @pytest.mark.parametrize("damage", ["delete", "truncate"])
    def test_raw_shard(self, made, out, array, damage):
        before = stores(out)
        shard = files(out / "raw.zarr" / "b" / array / "c")[0]
        if damage == "delete":
            shard.unlink()
        else:
            shard.write_bytes(shard.read_bytes()[:-20])
        shutil.rmtree(out / "training.zarr" / "fullres" / "b")
        self.check(made, out, before, kept="ac")

    def test_mask(self, made, out):
        before = stores(out)
        files(out / "raw.zarr" / "b" / "mask" / "c")[0].unlink()
        shutil.rmtree(out / "training.zarr" / "fullres" / "b")
        self.check(made, out, before)

    def test_mask_alone(self, made, out):
        """A raw case was lost, and with it the mask that its training shards were made with; those stay."""
        before, at = stores(out), times(out)
        shutil.rmtree(out / "raw.zarr" / "b")
        assert not runs.process(made.source, out).failed
        assert stores(out) == before
        assert {p: t for p, t in times(out).items() if p.startswith("training")} == {
            p: t for p, t in at.items() if p.startswith("training")
        }

    @pytest.mark.parametrize("path", METADATA)
    def test_metadata_deleted(self, made, out, path):
        before = stores(out)
        (out / path).unlink()
        self.check(made, out, before)

    @pytest.mark.parametrize("path", METADATA)
    def test_metadata_cut(self, made, out, path):
        """A full disk: it comes back, or it is refused in words; never anything else."""
        before = stores(out)
        (out / path).write_bytes((out / path).read_bytes()[:40])
        try:
            report = runs.process(made.source, out)
        except VoxelmillError:
            return
        if not report.failed:
            assert stores(out) == before

    @pytest.mark.parametrize("damage", ["delete", "truncate", "empty"])
    def test_memory_of_sources(self, made, out, damage):
        before, path = stores(out), out / "logs" / "sources.json"
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:40] if damage == "truncate" else b"")
        self.check(made, out, before, kept="abc")

    def test_what_a_kill_leaves_does_not_matter(self, made, out):
        before = stores(out)
        folder = out / "training.zarr" / "fullres" / "b" / "image" / "c" / "0" / "0" / "0"
        leftovers = [folder / "0.deadbeef.partial", out / "training.zarr" / "fullres" / "b.deadbeef.trash"]
        leftovers[0].write_bytes(b"half")
        shutil.copytree(out / "training.zarr" / "fullres" / "b", leftovers[1])
        runs.process(made.source, out)
        assert {k: v for k, v in stores(out).items() if "deadbeef" not in k} == before
        assert sorted(runs.fingerprint(out)["cases"]) == list("abc")


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            ({"order": 1}, "order.*3.*1"),
            ({"labels": "linear"}, "labels.*nearest.*linear"),
            ({"outside_label": -1}, "outside_label"),
            ({"target_spacing": (2, 2, 2)}, "target_spacing"),
            ({"channels": ["T1", "T1"]}, "channel"),
            ({"anti_alias": True}, "anti_alias"),
            ({"store": {"compressor": "zstd"}}, "compressor"),
            ({"store": {"chunk": (8, 8, 8)}}, "chunk"),
            ({"nonfinite": "zero"}, "nonfinite"),
            ({"dicom": {"series": "2"}}, "series"),
        ],
    )
    def test_changed_setting(self, made, out, tmp_path, settings, named):
        refuse(made, out, named, **settings)
        assert not runs.process(made.source, out, restart=True, **settings).failed
        assert stores(out) == fresh(made, tmp_path, **settings)

    def test_restart_back_and_forth(self, made, out):
        before = stores(out)
        runs.process(made.source, out, restart=True, order=0)
        runs.process(made.source, out, restart=True)
        assert stores(out) == before

    def test_a_configuration_more(self, made, out, tmp_path):
        at = of_cases(times(out), CASES)
        settings = {"configurations": ["fullres", "2d"]}
        runs.process(made.source, out, **settings)
        assert of_cases(times(out), CASES) == at
        assert stores(out) == fresh(made, tmp_path, **settings)

    def test_refusal_says_how_to_go_on(self, made, out):
        refuse(made, out, "--restart.*another OUT", order=1)


class TestLeftovers:
    PARTIAL = "training.zarr/fullres/b/image/c/0/0/0/0.0123456789abcdef0123456789abcdef.partial"

    def test_a_preparation_that_is_run_again_spares_what_others_write(self, made, out):
        """Dask runs a preparation again when the worker that held its result dies; shards go on meanwhile."""
        plan = Plan.load(out)
        case = next(c for c in training_cases(out, plan, "fullres", Memory()) if c.case == "b")
        (out / self.PARTIAL).write_bytes(b"being written")
        preprocess.prepare_case(case)
        assert (out / self.PARTIAL).read_bytes() == b"being written"

    def test_a_worker_whose_driver_died_mixes_nothing_into_the_next_run(self, made, out):
        """A job outlives its driver, while the next run makes its case anew under other settings."""
        plan = Plan.load(out)
        case = next(c for c in training_cases(out, plan, "fullres", Memory()) if c.case == "b")
        image = np.zeros((case.plan.channels, *case.plan.shape), "f4")
        after = {}

        def write_late():
            with preprocess._writer(case, "image") as pieces:
                assert not runs.process(made.source, out, restart=True, order=1).failed
                after.update(stores(out))
                pieces.write((0, 0, 0, 0), image)

        with pytest.raises(StoreError, match="another run has made the array anew"):
            write_late()
        with pytest.raises(StoreError, match="holds something else under the case's name"):
            preprocess.write_shard(case, 0)
        assert stores(out) == after
        assert not list(out.rglob("*.partial"))

    def test_a_run_sweeps_what_a_killed_one_left(self, made, out):
        before = stores(out)
        (out / self.PARTIAL).write_bytes(b"half")
        (out / "training.zarr/fullres/b/image/c/0/0/0/0").unlink()
        (out / "raw.zarr/b/mask.0123456789abcdef0123456789abcdef.partial").mkdir()
        assert not runs.process(made.source, out).failed
        assert stores(out) == before
        assert not list(out.rglob("*.partial"))


class TestSources:
    def change(self, made, case="b", channel=1, value=5):
        """The same size and another content."""
        time.sleep(0.01)
        image = made.cases[case].image[channel]
        image[6, 7, 8] += value
        datasets.write(made.source.parent / f"{case}_{channel}.nii", image.astype("i2"), made.grids[case])

    def test_changed_content(self, made, out, tmp_path):
        self.change(made)
        refuse(made, out, "case b")
        assert not runs.process(made.source, out, restart=True).failed
        assert stores(out) == fresh(made, tmp_path)
        runs.compare(out, made.expected()[0])

    def test_changed_label(self, made, out, tmp_path):
        time.sleep(0.01)
        made.cases["c"].label[6:8, 6:8, 6:8] = 3
        datasets.write(made.source.parent / "c_label.nii", made.cases["c"].label, made.grids["c"])
        refuse(made, out, "case c")
        assert not runs.process(made.source, out, restart=True).failed
        runs.compare(out, made.expected()[0])

    def test_restart_keeps_the_raw_cases_that_are_the_same(self, made, out):
        self.change(made)
        at = {p: t for p, t in times(out).items() if p.startswith("raw.zarr/a/")}
        runs.process(made.source, out, restart=True)
        after = times(out)
        assert {p: after[p] for p in at} == at

    def test_channels_swapped(self, made, out):
        """The same files under other columns are another image."""
        rows = [{"case": c, "CT": f"{c}_1.nii", "T1": f"{c}_0.nii", "label": f"{c}_label.nii"} for c in "abc"]
        write_rows(made.source, rows)
        refuse(made, out, "case a")
        assert not runs.process(made.source, out, restart=True).failed
        for case in made.cases.values():
            case.image = case.image[::-1]
        runs.compare(out, made.expected()[0])

    def test_cases_swapped(self, made, out):
        names = {"a": "b", "b": "a", "c": "c"}
        rows = [
            {"case": c, "CT": f"{n}_0.nii", "T1": f"{n}_1.nii", "label": f"{n}_label.nii"}
            for c, n in names.items()
        ]
        write_rows(made.source, rows)
        refuse(made, out, "case a")

    def test_spacing_column_changed(self, tmp_path):
        made = manifest(tmp_path / "raw", CASES, endings=(".npy",), labels=False)

        def state(spacing):
            write_rows(made.source, [{"case": c, "T1": f"{c}_0.npy", "spacing": spacing} for c in "abc"])

        state("1,1,1")
        runs.process(made.source, tmp_path / "out")
        state("2,1,1")
        refuse(made, tmp_path / "out", "case a")
        runs.process(made.source, tmp_path / "out", restart=True)
        assert runs.attributes(tmp_path / "out", "a")["source_spacing"] == [2, 1, 1]

    def test_data_file_of_a_header_changed(self, tmp_path):
        """The header names its data file, which may have any name."""
        made = manifest(tmp_path / "raw", CASES, endings=(".mhd",), labels=False)
        header = tmp_path / "raw" / "a_0.mhd"
        data = next(p for p in (tmp_path / "raw").glob("a_0.*raw"))
        data.rename(tmp_path / "raw" / "voxels.bin")
        header.write_text(header.read_text().replace(data.name, "voxels.bin"))
        runs.process(made.source, tmp_path / "out")
        content = bytearray((tmp_path / "raw" / "voxels.bin").read_bytes())
        time.sleep(0.01)
        (tmp_path / "raw" / "voxels.bin").write_bytes(bytes(content[::-1]))
        refuse(made, tmp_path / "out", "case a")

    def test_label_added(self, tmp_path):
        made = manifest(tmp_path / "raw", CASES, labels=("a", "b", "c"))
        labelled = made.source.read_text()
        write_rows(made.source, [{"case": c, "T1": f"{c}_0.nii"} for c in "abc"])
        runs.process(made.source, tmp_path / "out")
        made.source.write_text(labelled)
        refuse(made, tmp_path / "out", "case a")
        runs.process(made.source, tmp_path / "out", restart=True)
        runs.compare(tmp_path / "out", made.expected()[0])

    def test_case_added(self, tmp_path):
        """Z-score and a given spacing: the cases that are there do not depend on the new one."""
        made = manifest(tmp_path / "raw", CASES, border=2)
        rows = made.source.read_text()
        made.source.write_text("".join(rows.splitlines(keepends=True)[:-1]))
        settings = {"target_spacing": (1, 1, 1)}
        runs.process(made.source, tmp_path / "out", **settings)
        at = of_cases(times(tmp_path / "out"), "ab")
        made.source.write_text(rows)
        report = runs.process(made.source, tmp_path / "out", **settings)
        assert [c.status for c in report.cases] == ["done"] * 3
        assert stores(tmp_path / "out") == fresh(made, tmp_path, **settings)
        assert of_cases(times(tmp_path / "out"), "ab") == at

    def test_case_added_that_changes_what_all_depend_on(self, tmp_path):
        made = manifest(tmp_path / "raw", CASES, ("CT",))
        rows = made.source.read_text()
        made.source.write_text("".join(rows.splitlines(keepends=True)[:-1]))
        runs.process(made.source, tmp_path / "out")
        before = {k: v for k, v in stores(tmp_path / "out").items() if k.startswith("training.zarr")}
        made.source.write_text(rows)
        with pytest.raises(SettingsChangedError, match="--restart"):
            runs.process(made.source, tmp_path / "out")
        after = {k: v for k, v in stores(tmp_path / "out").items() if k.startswith("training.zarr")}
        assert after == before
        assert not runs.process(made.source, tmp_path / "out", restart=True).failed
        assert stores(tmp_path / "out") == fresh(made, tmp_path)

    def test_case_removed(self, made, out, tmp_path):
        made.source.write_text("".join(made.source.read_text().splitlines(keepends=True)[:-1]))
        refuse(made, out, "case c")
        report = runs.process(made.source, out, restart=True)
        assert [c.case for c in report.cases] == ["a", "b"]
        assert stores(out) == fresh(made, tmp_path)

    def test_case_that_failed_is_tried_again(self, made, tmp_path):
        path, out = made.source.parent / "b_1.nii", tmp_path / "out"
        content = path.read_bytes()
        path.write_bytes(content[:-100])
        assert [c.case for c in runs.process(made.source, out, channels=["T1", "T1"]).failed] == ["b"]
        path.write_bytes(content)
        report = runs.process(made.source, out, channels=["T1", "T1"], restart=True)
        assert not report.failed
        assert stores(out) == fresh(made, tmp_path, channels=["T1", "T1"])

    def test_case_that_breaks_leaves_the_training_store(self, made, out):
        time.sleep(0.01)
        path = made.source.parent / "b_1.nii"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(SettingsChangedError, match="case b"):
            runs.process(made.source, out)
        report = runs.process(made.source, out, restart=True)
        assert [c.case for c in report.failed] == ["b"]
        made.cases.pop("b")
        runs.compare(out, made.expected()[0])

    def test_another_source(self, made, out, tmp_path):
        other = manifest(tmp_path / "other", {"z": CASES["a"]}, ("CT", "T1"))
        refuse(other, out, "gone|other files")
        runs.process(other.source, out, restart=True)
        assert stores(out) == fresh(other, tmp_path)


def test_stores_hold_no_time_and_no_place(made, out, tmp_path):
    import socket

    text = b"".join(stores(out).values())
    assert str(tmp_path).encode() not in text
    assert socket.gethostname().encode() not in text
    assert np.all([b".nii" not in v for v in stores(out).values()])
    assert json.loads((out / "plan.json").read_text())["channel_names"] == ["CT", "T1"]
