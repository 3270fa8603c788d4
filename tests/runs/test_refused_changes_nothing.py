"""What is refused changes nothing on disk, and --dry-run writes nothing: the whole tree is compared."""

import json
import shutil

import datasets
import numpy as np
import pytest
from commands import within
from datasets import manifest, stores, write_rows
from typer.testing import CliRunner

import voxelmill
from voxelmill.basics.errors import (
    ENDED,
    ConfigError,
    LeaseError,
    PlanError,
    SettingsChangedError,
    VoxelmillError,
)
from voxelmill.cli.commands import app
from voxelmill.runs import job
from voxelmill.runs.report_json import Report
from voxelmill.runtime.memory_budget import BASE_BYTES
from voxelmill.storage.lease import hold

CASES = {"a": ((9, 12, 11), (1.5, 0.5, 0.5)), "b": ((8, 12, 13), (1.5, 0.5, 0.5))}


def tree(folder):
    """Every path below a folder; of files their bytes and their time of change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
    }


def refused(*words, match=None, error=VoxelmillError):
    """A command that ends with status 2; its message."""
    with pytest.raises(error, match=match) as caught:
        within(*words)
    assert not isinstance(caught.value, ENDED)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    made = manifest(folder / "raw", CASES, ("CT", "T1"))
    words = ("--cluster=none", "--set", "order=1", "--set", 'configurations=["fullres", "2d"]')
    assert within("run", made.source, folder / "out", *words).exit_code == 0
    return folder


@pytest.fixture
def untouched(template, monkeypatch):
    """A folder with a source and the OUT of a run that is finished, for commands that change nothing."""
    monkeypatch.chdir(template)
    return template


@pytest.fixture
def place(tmp_path, template, monkeypatch):
    """The same, to be changed."""
    shutil.copytree(template / "raw", tmp_path / "raw")
    shutil.copytree(template / "out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rename_channel(place):
    text = (place / "raw" / "cases.csv").read_text()
    (place / "raw" / "cases.csv").write_text(text.replace("CT", "PET"))


def spoil_manifest(place):
    (place / "raw" / "cases.csv").write_text("case,CT,T1\n../up,a_0.nii,a_1.nii\n")


def drop_a_case(place):
    lines = (place / "raw" / "cases.csv").read_text().splitlines()
    (place / "raw" / "cases.csv").write_text("\n".join(lines[:-1]) + "\n")


def change_a_file(place):
    path = place / "raw" / "b_0.nii"
    content = bytearray(path.read_bytes())
    content[-700] ^= 1
    path.write_bytes(content)


def add_a_folder(place):
    (place / "holiday").mkdir()
    np.save(place / "holiday" / "beach.npy", np.zeros((2, 3, 4)))


def add_a_series(place):
    (place / "holiday" / "CT 1").mkdir(parents=True)
    (place / "holiday" / "CT 1" / "IM0001").write_bytes(bytes(128) + b"DICM")


def state_an_address(place):
    text = (place / "raw" / "cases.csv").read_text()
    (place / "raw" / "cases.csv").write_text(text.replace("b_0.nii", "s3://bucket/b_0.nii"))


def state_the_home(place):
    text = (place / "raw" / "cases.csv").read_text()
    (place / "raw" / "cases.csv").write_text(text.replace("b_0.nii", "~/b_0.nii"))


def take_from_out(place):
    text = (place / "raw" / "cases.csv").read_text()
    (place / "raw" / "cases.csv").write_text(text.replace("b_0.nii", "out/b_0.nii"))


def other_plan(place):
    content = json.loads((place / "out" / "plan.json").read_text())
    content["settings"]["order"] = 0
    (place / "other.json").write_text(json.dumps(content))


def nothing(place):
    pass


MADE = '--set order=1 --set configurations=["fullres","2d"]'
TINY = "--set target_spacing=[0.0005,0.0005,0.0005]"


class TestNothingChanges:
    @pytest.mark.parametrize(
        ("words", "before", "match"),
        [
            # another setting
            ("run raw/cases.csv out", nothing, "order was 1, is 3"),
            (f"run raw/cases.csv out {MADE} --set labels=linear", nothing, "labels was nearest, is linear"),
            (f"run raw/cases.csv out {MADE} --set nonfinite=zero", nothing, "nonfinite was fail, is zero"),
            ("run raw/cases.csv out --set order=1", nothing, r'was \["fullres", "2d"\], is \["fullres"\]'),
            ("run raw/cases.csv out --set order=1 --set ordr=1", nothing, "ordr"),
            (f"ingest raw/cases.csv out {MADE} --set nonfinite=zero", nothing, "nonfinite"),
            ("plan out", nothing, "order was 1, is 3"),
            ("plan out --set order=1", nothing, r'was \["fullres", "2d"\], is \["fullres"\].*--restart'),
            ("plan out --preset nnunet", nothing, "order was 1, is 3"),
            ("preprocess out --set order=3", nothing, "'order' is 3, the plan was made with 1"),
            # another source
            (f"run raw/cases.csv out {MADE}", rename_channel, "was CT, is PET|channel"),
            (f"run raw/cases.csv out {MADE}", spoil_manifest, "outside of OUT"),
            (f"run raw/cases.csv out {MADE}", drop_a_case, "case b"),
            (f"run raw/cases.csv out {MADE}", change_a_file, "case b has other files or contents"),
            ("run nowhere out", nothing, "does not exist"),
            # no room in memory, or on disk, though what was there could go
            (f"run raw/cases.csv out {MADE} --memory-limit 9MiB", nothing, "9 MiB"),
            (f"run raw/cases.csv out {MADE} {TINY} --restart", nothing, "TiB.*check_disk=false"),
            (f"plan out {MADE} {TINY} --restart", nothing, "TiB.*check_disk=false"),
            # wrong words
            ("preprocess out --plan other.json", other_plan, "order was 1, is 0"),
            ("preprocess out --plan out/plan.json --scheduler nowhere.json", nothing, "no such"),
            ("demo raw", nothing, "OUT holds images"),
            (f"run raw/cases.csv out {MADE} --scheduler nowhere.json", nothing, "no such"),
            (f"run raw/cases.csv out {MADE} --cluster slurmm", nothing, "slurmm"),
            (f"run raw/cases.csv out {MADE} --plan nowhere.json", nothing, "--plan"),
            (f'run raw/cases.csv out {MADE} --set dicom.mapping="out/who.csv"', nothing, "within OUT"),
            (f'run raw/cases.csv out {MADE} --set dicom.mapping="no/who.csv"', nothing, "is in no folder"),
            ("ingest raw/cases.csv out --share 1/2 --restart", nothing, "--share"),
            ("verify out --source raw/cases.csv", nothing, "--repair"),
            ("verify out --repair --set order=3", nothing, "order"),
            # paths that are mixed up
            ("run out raw", nothing, "SOURCE is the OUT of a run.*swapped"),
            ("run nowhere raw", nothing, "OUT holds images|swapped"),
            ("run raw/cases.csv raw", nothing, "SOURCE lies within OUT"),
            ("run raw raw", nothing, "the same path"),
            ("run raw raw/out", nothing, "OUT lies within SOURCE"),
            ("run raw .", nothing, "SOURCE lies within OUT"),
            ("run raw/cases.csv holiday", add_a_folder, "OUT holds images .NumPy. and is no OUT of a run"),
            ("ingest raw/cases.csv holiday", add_a_folder, "is no OUT of a run"),
            ("run raw/cases.csv holiday", add_a_series, "OUT holds images .DICOM. and is no OUT of a run"),
            ("run raw/cases.csv raw/out", take_from_out, "case 'b': a file lies within OUT"),
            # addresses
            ("run raw/cases.csv new", state_an_address, "row 2: .* 'CT' begins with 's3:'"),
            (
                "run raw/cases.csv new",
                state_the_home,
                "row 2: .* 'CT' leads out of .*ingest.outside",
            ),
            ("run raw/cases.csv s3://bucket/out", nothing, "OUT begins with 's3:'"),
            ("run gs://bucket/raw out", nothing, "SOURCE begins with 'gs:'"),
            ("run raw/cases.csv file:///tmp/out", nothing, "OUT begins with 'file:'"),
            ("run https://example.org/raw.zip out", nothing, "SOURCE begins with 'https:'"),
            ("status az://bucket/out", nothing, "OUT begins with 'az:'"),
            ("demo s3://bucket/demo", nothing, "OUT begins with 's3:'"),
        ],
    )
    def test_table(self, request, words, before, match):
        place = request.getfixturevalue("untouched" if before is nothing else "place")
        before(place)
        here = tree(place)
        words = words.split()
        has_cluster = words[0] not in ("status", "demo") and "--cluster" not in words
        refused(*words, *(["--cluster=none"] * has_cluster), match=match)
        assert tree(place) == here

    def test_out_is_held(self, place):
        with hold(place / "out", "preprocess"):
            here = tree(place)
            refused(
                "run",
                "raw/cases.csv",
                "out",
                *MADE.split(),
                "--cluster=none",
                match="in use by",
                error=LeaseError,
            )
            assert tree(place).keys() == here.keys()
        refused("run", "raw/cases.csv", "out", "--cluster=none")

    def test_a_memory_limit_that_is_too_small_for_the_plan(self, place, monkeypatch):
        monkeypatch.setattr(job, "SMALLEST_LIMIT", 0)
        here = tree(place)
        limit = str(BASE_BYTES + 1000)
        for words in (("run", "raw/cases.csv", "out", *MADE.split()), ("preprocess", "out")):
            refused(*words, "--cluster=none", "--memory-limit", limit, match="memory")
            assert tree(place) == here

    def test_a_link_is_where_it_leads(self, place):
        (place / "link").symlink_to(place / "raw")
        for source, out in (("raw", "link"), ("link", "raw/new"), ("raw/cases.csv", "link")):
            refused("run", source, out, "--cluster=none", error=ConfigError)
        assert not (place / "raw" / "new").exists()

    def test_a_training_set_that_is_left_out_goes_with_restart(self, place):
        words = ("run", "raw/cases.csv", "out", "--set", "order=1", "--cluster=none")
        refused(*words, match="holds 2d, which this plan leaves out")
        at = (place / "out" / "training.zarr" / "fullres" / "a" / "zarr.json").stat().st_mtime_ns
        assert within(*words, "--restart").exit_code == 0
        assert not (place / "out" / "training.zarr" / "2d").exists()
        assert (place / "out" / "training.zarr" / "fullres" / "a" / "zarr.json").stat().st_mtime_ns == at

    def test_a_finished_run_is_still_finished(self, place):
        refused("plan", "out", "--set", "order=1", error=SettingsChangedError)
        assert within("status", "out").exit_code == 0
        assert within("verify", "out", "--cluster=none").exit_code == 0
        assert len(Report.load(place / "out").cases) == 2


class TestWhatIsNoImageIsNotInTheWay:
    def test_logs_and_scripts_of_jobs(self, place):
        (place / "new").mkdir()
        for name in ("slurm-12.out", ".DS_Store", "job.sh", "notes.txt", "ids.csv"):
            (place / "new" / name).write_text("x")
        assert within("run", "raw/cases.csv", "new", "--cluster=none").exit_code == 0

    def test_out_beside_a_manifest(self, place):
        assert within("run", "raw/cases.csv", "raw/out", "--cluster=none").exit_code == 0


@pytest.mark.parametrize("cluster", ["none", "slurm"])
@pytest.mark.parametrize(
    "words",
    [
        "run raw/cases.csv out",
        "run raw/cases.csv new",
        "ingest raw/cases.csv new",
        "fingerprint out",
        f"plan out {MADE}",
        f"plan out {MADE} --set store.shard_mib=7",
        "preprocess out",
        "verify out",
        "verify out --repair",
    ],
)
def test_a_dry_run_writes_nothing(untouched, words, cluster):
    if cluster == "slurm":
        pytest.importorskip("dask_jobqueue")
    here = tree(untouched)
    words = (*words.split(), "--dry-run", "--cluster", cluster, "--set", 'cluster.memory="4GiB"')
    if "store.shard_mib=7" in words:
        refused(*words, match="shard_mib was 128, is 7")
    elif cluster == "none" and words[0] != "plan":
        refused(*words, match="submits no job")
    else:
        assert within(*words).stdout
    assert tree(untouched) == here


def test_a_dry_run_of_plan_prints_the_plan(untouched):
    done = within("plan", "out", *MADE.split(), "--dry-run")
    assert "What it takes" in done.stdout
    assert "2d: to" in done.stdout


class TestHome:
    """A `~` in quotes reaches the command as it is."""

    def test_everywhere(self, place, monkeypatch):
        monkeypatch.setenv("HOME", str(place))
        (place / "settings.toml").write_text("order = 2\n")
        words = ("run", "~/raw/cases.csv", "~/new", "--config", "~/settings.toml", "--cluster=none")
        assert within(*words).exit_code == 0
        assert json.loads((place / "new" / "plan.json").read_text())["settings"]["order"] == 2
        assert within("status", "~/new").exit_code == 0
        words = ("verify", "~/new", "--repair", "--source", "~/raw/cases.csv", "--cluster=none")
        assert within(*words).exit_code == 0
        words = ("run", "~/raw/cases.csv", "~/other", "--plan", "~/new/plan.json", "--cluster=none")
        assert within(*words).exit_code == 0
        assert not (place / "~").exists()

    def test_in_a_manifest(self, place, monkeypatch):
        monkeypatch.setenv("HOME", str(place / "raw"))
        (place / "elsewhere").mkdir()
        text = (place / "raw" / "cases.csv").read_text().replace("a_", "~/a_").replace("b_", "~/b_")
        (place / "elsewhere" / "cases.csv").write_text(text)
        words = ("run", "elsewhere/cases.csv", "new", "--set", "ingest.outside=true", "--cluster=none")
        assert within(*words).exit_code == 0

    def test_in_python(self, place, monkeypatch):
        monkeypatch.setenv("HOME", str(place))
        with pytest.raises(ConfigError, match="OUT lies within SOURCE"):
            voxelmill.run("raw", "~/raw/new")
        with pytest.raises(ConfigError, match="OUT begins with 's3:'"):
            voxelmill.run("raw/cases.csv", "s3://bucket/out")
        with pytest.raises(ConfigError, match="SOURCE begins with 'gs:'"):
            voxelmill.run("gs://bucket/raw", "new")
        with pytest.raises(SettingsChangedError, match="order was 1, is 3"):
            voxelmill.run("~/raw/cases.csv", "~/out")

    def test_of_nobody(self, place):
        """An editor's backup is called so, too."""
        shutil.copy(place / "raw" / "cases.csv", place / "raw" / "~cases.csv")
        assert within("run", "raw/~cases.csv", "new", "--cluster=none").exit_code == 0


class TestANewCase:
    """It changes the statistics that all others were normalised with."""

    @pytest.fixture
    def added(self, place):
        rng = np.random.default_rng(5)
        grid = datasets.Grid((0.5, 0.5, 1.5))
        for i in range(2):
            image = datasets.blobs(rng, (9, 11, 12), 1, 5000).round().astype("i2")
            datasets.write(place / "raw" / f"c_{i}.nii", image, grid)
        datasets.write(place / "raw" / "c_label.nii", datasets.classes(rng, (9, 11, 12)), grid)
        rows = [{"case": c, "CT": f"{c}_0.nii", "T1": f"{c}_1.nii", "label": f"{c}_label.nii"} for c in "abc"]
        write_rows(place / "raw" / "cases.csv", rows)
        return place

    def test_says_so_and_names_both_ways_on(self, added):
        before = stores(added / "out")
        report = (added / "out" / "report.json").read_bytes()
        words = ("run", "raw/cases.csv", "out", *MADE.split(), "--cluster=none")
        message = refused(*words, match="intensity", error=SettingsChangedError)
        for part in (
            "2 cases",
            "statistics",
            "which 1 new case (c) changed",
            "--plan OUT/plan.json",
            "--restart",
        ):
            assert part in message
        after = stores(added / "out")
        made = {k: v for k, v in after.items() if not k.startswith("raw.zarr/")}
        assert made == {k: v for k, v in before.items() if not k.startswith("raw.zarr/")}
        assert (added / "out" / "report.json").read_bytes() == report
        assert not list((added / "out").rglob("*.trash"))

    @pytest.mark.parametrize("way", [("--restart", *MADE.split()), ("--plan", "out/plan.json")])
    def test_both_ways_go_on(self, added, way):
        refused("run", "raw/cases.csv", "out", *MADE.split(), "--cluster=none")
        assert within("run", "raw/cases.csv", "out", *way, "--cluster=none").exit_code == 0
        assert within("status", "out").exit_code == 0


class TestDisk:
    def test_the_setting_goes_on_all_the_same(self, place):
        assert (
            within(
                "plan", "out", *MADE.split(), *TINY.split(), "--restart", "--set", "check_disk=false"
            ).exit_code
            == 0
        )
        refused("preprocess", "out", "--cluster=none", match="TiB", error=PlanError)

    def test_plan_prints_what_it_refuses(self, place):
        done = CliRunner().invoke(app, ["plan", "out", *MADE.split(), *TINY.split(), "--restart"])
        assert isinstance(done.exception, PlanError)
        assert "NOT ENOUGH" in done.stdout

    def test_says_what_looks_wrong(self, tmp_path):
        """One case has its spacing in micrometres: it becomes a thousand times as wide and high."""
        cases = dict.fromkeys("ab", ((9, 12, 11), (1.5, 0.5, 0.5))) | {"c": ((9, 12, 11), (1500, 500, 500))}
        made = manifest(tmp_path / "raw", cases)
        words = ("run", made.source, tmp_path / "out", "--cluster=none")
        message = refused(*words, match="Case c looks wrong", error=PlanError)
        for part in ("millimetres", "OUT's disk has", "check_disk=false", "target_spacing"):
            assert part in message
        assert not (tmp_path / "out" / "plan.json").exists()
        assert not (tmp_path / "out" / "training.zarr").exists()
        refused("plan", tmp_path / "out", match="Case c looks wrong", error=PlanError)

    def test_notes_what_is_possible(self, tmp_path):
        made = manifest(tmp_path / "raw", CASES)
        words = (
            "run",
            made.source,
            tmp_path / "out",
            "--set",
            "target_spacing=[40, 0.5, 0.5]",
            "--cluster=none",
        )
        assert within(*words).exit_code == 0
        notes = [case.notes for case in Report.load(tmp_path / "out").cases]
        assert all("voxels along z become 1" in note for (note,) in notes)
        assert "looks wrong" in (tmp_path / "out" / "logs" / "voxelmill.log").read_text()
