"""A frozen plan, --plan: its decisions for cases that it was not made with; and OUT of other versions."""

import json
import shutil

import datasets
import numpy as np
import pytest
import reference
import runs
from commands import alone, call, within
from datasets import manifest, of_cases, stores, times

from voxelmill.basics.errors import ConfigError, PlanError, SettingsChangedError, StoreError
from voxelmill.basics.stage_order import Stage
from voxelmill.config.load_settings import make_config
from voxelmill.runs.job import Job
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.planning.plan_reuse import load_frozen
from voxelmill.stages.raw_store.raw_case import RawCase
from voxelmill.storage import zarr_stores

CASES = {
    "a": ((14, 18, 16), (1.0, 1.2, 1.0)),
    "b": ((15, 16, 20), (1.2, 1.0, 1.0)),
    "c": ((13, 17, 18), (1.0, 1.0, 1.1)),
}
NEW = {"d": ((12, 20, 15), (1.4, 0.9, 1.3))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset of CT, whose statistics depend on every case, and its finished run."""
    folder = tmp_path_factory.mktemp("trained")
    made = manifest(folder / "raw", CASES, ("CT", "T1"), border=4)
    assert not runs.process(made.source, folder / "out").failed
    return made, folder / "out"


def process(source, out, plan, restart=False, **settings):
    """A run with a frozen plan, without a cluster."""
    job = Job(out, make_config(settings), restart, frozen=load_frozen(plan))
    return runs.execute(job, job.discover(source))


def with_one_more(trained, folder, name="d", seed=7, **options):
    """The cases of the finished run and a new one, as a manifest; `options` are of the new one."""
    made, _ = trained
    other = manifest(folder / "more", {name: NEW["d"]}, ("CT", "T1"), border=4, seed=seed, **options)
    lines = [*made.source.read_text().splitlines(), *other.source.read_text().splitlines()[1:]]
    source = folder / "more" / "all.csv"
    for file in made.source.parent.glob("*.nii"):
        (source.parent / file.name).symlink_to(file)
    source.write_text("\n".join(lines) + "\n")
    return source, other.cases[name]


def by_hand(trained, new):
    """The new case under the plan's statistics, by the reference."""
    made, out = trained
    found = Plan.load(out).configurations["fullres"]
    statistics = reference.run(made.cases, made.channels)[1]
    mask, box = reference.crop(new.image)
    part = reference.slices_of(box)
    shape = reference.new_shape([b - a for a, b in box], new.spacing, found.target_spacing)
    image = []
    for values, scheme, masked in zip(new.image, made.channels, found.use_mask_for_norm, strict=True):
        normal = reference.normalise(
            values[part].astype(float), scheme, statistics[len(image)], mask[part] if masked else None
        )
        image.append(reference.resize(normal, shape, 3))
    label = None if new.label is None else reference.nearest_label(new.label[part], shape)
    return reference.ReferenceResult(np.stack(image), label, box, found.target_spacing)


class TestNewCase:
    def test_costs_only_itself(self, tmp_path, trained):
        """Adding one case to a finished dataset recomputed all of them, since it moves the statistics."""
        source, new = with_one_more(trained, tmp_path)
        out = tmp_path / "out"
        runs.process(trained[0].source, out)
        at, before = of_cases(times(out), CASES), Plan.load(out)
        report = process(source, out, out / "plan.json")
        assert [c.status for c in report.cases] == ["done"] * 4
        assert of_cases(times(out), CASES) == at
        after = Plan.load(out)
        assert report.voxels == 2 * np.prod(after.configurations["fullres"].cases["d"].shape)
        assert "fingerprint" not in report.stages
        for case in CASES:
            assert after.token("fullres", case) == before.token("fullres", case)
        assert after.intensity == before.intensity
        results = trained[0].expected()[0]
        runs.compare(out, {**results, "d": by_hand(trained, new)})

    def test_same_bytes_whatever_else_is_there(self, tmp_path, trained):
        """The new case alone in another OUT, under the plan that lacks it, and under one that has it."""
        source, _ = with_one_more(trained, tmp_path)
        process(source, tmp_path / "all", trained[1] / "plan.json")
        alone_ = manifest(tmp_path / "alone", NEW, ("CT", "T1"), border=4, seed=7)
        for name, plan in (("x", trained[1]), ("y", tmp_path / "all")):
            process(alone_.source, tmp_path / name, plan / "plan.json")
            found = of_cases(stores(tmp_path / name), "d")
            assert len(found) > 5
            assert found == of_cases(stores(tmp_path / "all"), "d")
            assert sorted(Plan.load(tmp_path / name).configurations["fullres"].cases) == ["d"]

    def test_the_same_cases_have_the_same_shards(self, tmp_path, trained):
        """A frozen plan on its own dataset gives what the run that made it gave."""
        made, out = trained
        process(made.source, tmp_path / "out", out / "plan.json")
        assert of_cases(stores(tmp_path / "out"), CASES) == of_cases(stores(out), CASES)
        assert Plan.load(tmp_path / "out").decisions() == Plan.load(out).decisions()

    def test_images_without_labels(self, tmp_path, trained):
        made = manifest(tmp_path / "test", NEW, ("CT", "T1"), border=4, labels=False)
        assert not process(made.source, tmp_path / "out", trained[1] / "plan.json").failed
        runs.compare(tmp_path / "out", {"d": by_hand(trained, made.cases["d"])})

    def test_status_is_complete(self, tmp_path, trained):
        made = manifest(tmp_path / "test", NEW, ("CT", "T1"), border=4, labels=False)
        process(made.source, tmp_path / "out", trained[1] / "plan.json")
        assert not (tmp_path / "out" / "fingerprint.json").exists()
        done = within("status", tmp_path / "out")
        assert done.exit_code == 0, done.stdout
        assert "fingerprint" not in done.stdout

    def test_settings_of_ingest_come_from_the_plan(self, tmp_path):
        made = manifest(tmp_path / "raw", CASES, ("MR",), dtype="f4")
        runs.process(made.source, tmp_path / "out", nonfinite="zero", order=1)
        new = manifest(tmp_path / "new", NEW, ("MR",), dtype="f4", labels=False)
        image = new.cases["d"].image[0].copy()
        image[3, 3, 3] = np.nan
        datasets.write(tmp_path / "new" / "d_0.nii", image, new.grids["d"])
        process(new.source, tmp_path / "test", tmp_path / "out" / "plan.json")
        plan = Plan.load(tmp_path / "test")
        assert (plan.settings.nonfinite, plan.settings.order) == ("zero", 1)
        assert RawCase(tmp_path / "test", "d").record.shape == NEW["d"][0]


class TestMisfits:
    def test_labels_that_its_type_does_not_hold(self, tmp_path, trained):
        source, _ = with_one_more(trained, tmp_path, classes=300, label_dtype="u2")
        report = process(source, tmp_path / "out", trained[1] / "plan.json")
        assert [c.case for c in report.failed] == ["d"]
        assert "labels from 0 to" in report.failed[0].cause
        assert "uint8 holds 0 to 255" in report.failed[0].cause
        assert sorted(Plan.load(tmp_path / "out").configurations["fullres"].cases) == sorted(CASES)

    def test_another_number_of_channels(self, tmp_path):
        """One file of several channels among files of one: only the readers know."""
        made = manifest(tmp_path / "raw", CASES, ("T1",), labels=False)
        for folder in ("train", "test"):
            (tmp_path / folder).mkdir()
            for case in CASES:
                name = f"{case}_0.nii"
                (tmp_path / folder / f"{case}.nii").write_bytes((made.source.parent / name).read_bytes())
        runs.process(tmp_path / "train", tmp_path / "out")
        np.save(tmp_path / "test" / "d.npy", np.stack([made.cases["a"].image[0]] * 2).astype("i2"))
        (tmp_path / "test" / "d.json").write_text('{"spacing": [1, 1, 1]}')
        report = process(tmp_path / "test", tmp_path / "again", tmp_path / "out" / "plan.json")
        assert [c.case for c in report.failed] == ["d"]
        assert "has 2 channels, the plan is for 1 (0)" in report.failed[0].cause

    def test_none_fits(self, tmp_path, trained):
        made = manifest(tmp_path / "raw", NEW, ("CT", "T1"), classes=300, label_dtype="u2")
        with pytest.raises(PlanError, match="no case of OUT: case d has labels from 0 to"):
            process(made.source, tmp_path / "out", trained[1] / "plan.json")
        assert not (tmp_path / "out" / "plan.json").exists()

    def test_labels_where_the_plan_has_none(self, tmp_path):
        made = manifest(tmp_path / "raw", CASES, ("T1",), labels=False)
        runs.process(made.source, tmp_path / "out")
        new = manifest(tmp_path / "new", NEW, ("T1",))
        with pytest.raises(PlanError, match="has a label, the plan was made without any"):
            process(new.source, tmp_path / "test", tmp_path / "out" / "plan.json")

    def test_other_channels(self, tmp_path, trained):
        made = manifest(tmp_path / "raw", NEW, ("T1", "CT"))
        with pytest.raises(ConfigError, match="SOURCE has the channels T1, CT, the plan was made for CT, T1"):
            process(made.source, tmp_path / "out", trained[1] / "plan.json")
        assert not (tmp_path / "out").exists()


class TestWords:
    @pytest.mark.parametrize(
        "words", [["order=1"], ["store.shard_mib=1"], ['configurations=["2d"]'], ["nonfinite='zero'"]]
    )
    def test_that_contradict_the_plan(self, tmp_path, trained, words):
        made, out = trained
        words = [made.source, tmp_path / "out", "--plan", out / "plan.json", "--set", *words]
        done = alone("run", *words)
        assert done.returncode == 2
        assert "the plan was made with" in done.stderr.splitlines()[-1]
        assert not (tmp_path / "out").exists()

    def test_of_memory_may_differ(self, tmp_path, trained):
        made, out = trained
        report = process(made.source, tmp_path / "out", out / "plan.json", memory_limit="1GiB")
        assert not report.failed
        assert of_cases(stores(tmp_path / "out"), CASES) == of_cases(stores(out), CASES)

    def test_another_plan_than_the_one_that_was_used(self, tmp_path, trained):
        made, out = trained
        other = json.loads((out / "plan.json").read_text())
        other["settings"]["order"] = 1
        (tmp_path / "other.json").write_text(json.dumps(other))
        process(made.source, tmp_path / "out", out / "plan.json")
        with pytest.raises(SettingsChangedError, match=r"order was 3, is 1"):
            process(made.source, tmp_path / "out", tmp_path / "other.json")
        process(made.source, tmp_path / "out", tmp_path / "other.json", restart=True)
        assert Plan.load(tmp_path / "out").settings.order == 1

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (lambda text: text[:500], "damaged or of another version"),
            (lambda text: text.replace('"revision": 1', '"revision": 0'), "revision was 0, is 1"),
            (lambda text: text.replace('"revision": 1,', ""), "another version (revision"),
            (lambda text: text.replace('"ignore_label"', '"ignored"'), "another version"),
            (lambda text: None, "--plan: No such file or directory"),
        ],
    )
    def test_a_file_that_is_no_plan(self, tmp_path, trained, change, named):
        made, out = trained
        text = change((out / "plan.json").read_text())
        if text is not None:
            (tmp_path / "some.json").write_text(text)
        done = alone("run", made.source, tmp_path / "out", "--plan", tmp_path / "some.json")
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        typed = f" ({str(tmp_path / 'some.json')!r})"
        assert line.count(typed) == 1
        assert named in line.replace(typed, "")
        assert not (tmp_path / "out").exists()


class TestStages:
    def test_one_by_one(self, tmp_path, trained):
        made, out = trained
        frozen, fresh = out / "plan.json", tmp_path / "out"
        assert alone("ingest", made.source, fresh).returncode == 0
        assert alone("preprocess", fresh, "--plan", frozen).returncode == 0
        assert of_cases(stores(fresh), CASES) == of_cases(stores(out), CASES)
        assert not (fresh / "fingerprint.json").exists()

    def test_shares_take_it_from_the_stage_before(self, tmp_path, trained):
        made, out = trained
        fresh = tmp_path / "out"
        assert within("ingest", made.source, fresh, "--cluster=none").exit_code == 0
        refused = alone("preprocess", fresh, "--plan", out / "plan.json", "--share", "1/2")
        assert refused.returncode == 2
        assert "shares" in refused.stderr
        assert within("plan", fresh, "--plan", out / "plan.json").exit_code == 0
        for share in ("1/2", "2/2"):
            assert within("preprocess", fresh, "--share", share, "--cluster=none").exit_code == 0
        assert of_cases(stores(fresh), CASES) == of_cases(stores(out), CASES)


def change_attributes(folder, change):
    """Write a group with other attributes, as another release would."""
    attributes = zarr_stores.read_attributes(folder, "")
    change(attributes)
    zarr_stores.write_group(folder, "", attributes)


class TestOtherVersions:
    """A release that makes other voxels must not go on in an old OUT; one that does not goes on."""

    @pytest.fixture
    def out(self, tmp_path, trained):
        return shutil.copytree(trained[1], tmp_path / "out")

    def test_a_release_that_changes_no_voxel(self, trained, out, monkeypatch):
        monkeypatch.setattr("voxelmill.stages.planning.make_plan.__version__", "99.0")
        at = times(out)
        assert not runs.process(trained[0].source, out).failed
        assert times(out) == at
        assert Plan.load(out).version == "99.0"

    def test_a_release_that_changes_voxels(self, trained, out, monkeypatch):
        monkeypatch.setattr("voxelmill.stages.planning.make_plan.REVISION", 2)
        monkeypatch.setattr("voxelmill.stages.planning.plan_json.REVISION", 2)
        with pytest.raises(SettingsChangedError, match=r"revision was 1, is 2.*--restart"):
            runs.process(trained[0].source, out)
        with pytest.raises(StoreError, match="revision was 1, is 2"):
            runs.execute(Job(out, Plan.load(out).settings), None, stages=[Stage.PREPROCESS])
        assert not runs.process(trained[0].source, out, restart=True).failed
        assert Plan.load(out).revision == 2

    def test_a_raw_store_of_another_revision(self, trained, out):
        before = stores(out)
        change_attributes(out / "raw.zarr", lambda record: record.update(revision=0))
        with pytest.raises(SettingsChangedError, match=r"revision was 0, is 1.*--restart"):
            runs.process(trained[0].source, out)
        for words in (["fingerprint", "--cluster=none"], ["preprocess", "--cluster=none"], ["status"]):
            done = call(*words, out)
            assert done.returncode == 2
            assert "revision was 0, is 1" in done.stderr.splitlines()[-1]
        assert not runs.process(trained[0].source, out, restart=True).failed
        assert stores(out) == before

    @pytest.mark.parametrize(
        ("folder", "change"),
        [
            ("raw.zarr", lambda record: record.pop("settings")),
            ("raw.zarr", lambda record: record.update(more=1)),
            ("raw.zarr", lambda record: record.pop("revision")),
        ],
    )
    def test_records_that_cannot_be_read(self, trained, out, folder, change):
        before = stores(out)
        change_attributes(out / folder, change)
        done = alone("run", trained[0].source, out)
        assert done.returncode == 2
        assert "damaged or of another version" in done.stderr.splitlines()[-1]
        assert "bug" not in done.stderr
        assert alone("run", trained[0].source, out, "--restart").returncode == 0
        assert stores(out) == before

    @pytest.mark.parametrize("folder", ["raw.zarr/b", "training.zarr/fullres/b"])
    def test_a_case_without_what_it_needs(self, trained, out, folder):
        """The case is made again, or refused by name; never a bug."""
        change_attributes(out / folder, lambda record: record.clear() or record.update(old=1))
        for words in (["fingerprint", out], ["preprocess", out], ["run", trained[0].source, out]):
            done = alone(*words)
            assert "bug" not in done.stderr
            assert done.returncode in (0, 1, 2)
