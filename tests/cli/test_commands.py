"""The command as a person or a script runs it: the real console script, its words, files and exit status."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import datasets
import numpy as np
import psutil
import pytest
import runs
from commands import ENVIRONMENT, SCRIPT, alone, call, wait_until
from datasets import Grid, manifest, stores, write_rows

SMALL = {"a": ((9, 12, 11), (1.5, 0.5, 0.5)), "b": ((8, 12, 13), (1.25, 0.75, 0.5))}


def more(*values):
    """A row of a table that is not needed in every run of the tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture
def source(tmp_path):
    return datasets.nnunet(tmp_path / "raw").source


class TestWrongUse:
    def refuse(self, words, tmp_path, *named):
        done = call(*words, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        lines = [line for line in done.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
        if not lines[0].startswith("Usage"):
            assert len(lines) == 1, done.stderr
            assert lines[0].startswith("voxelmill: ")
        for word in named:
            assert word in lines[-1]
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            ("run nothing out", ["SOURCE does not exist"]),  # no such path
            more("ingest nothing out", ["SOURCE does not exist"]),
            ("run empty out", ["no file of a known format"]),  # empty folder
            more("run texts out", ["no file of a known format", "2 file(s) ending '.txt'"]),
            more("run texts/a.txt out", ["neither a manifest", ".nii.gz"]),
            ("run raw out --set ordr=1", ["'ordr'", "did you mean 'order'"]),  # unknown setting
            more("run raw out --set store.shard=1", ["'store.shard'", "did you mean 'store.shard_mib'"]),
            ("run raw out --set order=9", ["'order'", "9"]),  # a value out of range
            more("run raw out --set order=one", ["'order'", "'one'"]),
            more("run raw out --set target_spacing=[1,1]", ["'target_spacing"]),
            more("run raw out --set target_spacing=[1,1,0]", ["'target_spacing'", "above 0"]),
            ("run raw out --set order", ["no key=value"]),  # no value
            more("run raw out --set =1", ["no key=value"]),
            more("run raw out --config nothing.toml", ["nothing.toml", "cannot be read"]),
            more("run raw out --config texts/a.txt", ["texts/a.txt", "not TOML"]),
            more("run raw out --config wrong.toml", ["'ordr'", "did you mean 'order'"]),
            more("run raw out --order 1", ["--order"]),  # unknown option
            ("run raw out --preset nnUNet2", ["nnUNet2", "default, nnunet"]),
            ("run raw texts/a.txt", ["OUT ('texts/a.txt') is a file"]),  # OUT is a file
            ("run raw out --cluster slurmm", ["slurmm", "local"]),
            ("run raw out --workers 0", ["--workers", "0"]),
            more("run raw out --workers two", ["--workers", "whole number"]),
            ("run raw out --scheduler nothing.json", ["nothing.json", "no such"]),
            ("run raw out --scheduler tcp://127.0.0.1:9", ["tcp://127.0.0.1:9", "no scheduler answers"]),
            more("run raw out --scheduler nonsense", ["nonsense"]),
            ("run raw out --scheduler texts/broken.json", ["broken.json"]),
            more("run raw", ["OUT"]),
            more("runn raw out", ["runn"]),
            ("plan out", ["voxelmill"]),  # before ingest
            more("fingerprint out", ["voxelmill ingest"]),
            ("preprocess out", ["voxelmill plan"]),
        ],
    )
    def test_table(self, tmp_path, source, words, named):
        (tmp_path / "empty").mkdir()
        (tmp_path / "texts").mkdir()
        for name in ("a.txt", "b.txt", "broken.json"):
            (tmp_path / "texts" / name).write_text("no image")
        if words.startswith("run texts "):
            (tmp_path / "texts" / "broken.json").unlink()
        (tmp_path / "wrong.toml").write_text("ordr = 1\n")
        self.refuse(words.split(), tmp_path, *named)
        assert (tmp_path / "texts" / "a.txt").read_text() == "no image"

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("", "no rows"),
            ("case,CT\na,imagesTr/a_0000.nii.gz,more\n", "row 1"),
            more("case,CT\n,imagesTr/a_0000.nii.gz\n", "is empty"),
            ("case,CT\n../up,imagesTr/a_0000.nii.gz\n", "outside of OUT"),
            ("case,CT\na,imagesTr/a_0000.nii.gz\na,imagesTr/b_0000.nii.gz\n", "twice"),
            ("case,CT,age\na,imagesTr/a_0000.nii.gz,63\n", "'age'"),
            more("name,CT\na,imagesTr/a_0000.nii.gz\n", "column `case`"),
        ],
    )
    def test_manifest(self, tmp_path, source, text, named):
        (source / "cases.csv").write_text(text)
        self.refuse(["run", "raw/cases.csv", "out"], tmp_path, named)

    def test_broken_results_of_earlier_stages(self, tmp_path, source):
        out = tmp_path / "out"
        assert alone("ingest", source, out).returncode == 0
        (out / "fingerprint.json").write_text('{"spacings": [')
        (out / "plan.json").write_text("{}")
        for words in (["plan", out], ["preprocess", out, "--cluster", "none"]):
            done = call(*words)
            assert done.returncode == 2
            assert re.search(
                r"voxelmill: .*(fingerprint|plan)\.json.*`voxelmill (fingerprint|plan) OUT`", done.stderr
            )


@pytest.mark.parametrize(
    "words", ["", "config", "run raw out --set ordr=1", "runn", "run raw out --workers 1"]
)
def test_a_fork_is_like_the_script(tmp_path, source, words):
    """Most tests of the command fork; see `commands.call`."""
    found = []
    for fork in (True, False):
        done = call(*words.split(), cwd=tmp_path, fork=fork)
        said = re.sub(r"\d+(\.\d+)?", "0", done.stdout + done.stderr)  # times, ports, bytes
        found.append((done.returncode, re.sub(" +|─+", " ", said)))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert found[0] == found[1]


class TestHelp:
    COMMANDS = ("run", "ingest", "fingerprint", "plan", "preprocess", "config", "demo")

    def test_lists_commands(self):
        done = call("--help", fork=False)
        assert done.returncode == 0
        assert all(re.search(rf"^  {command} ", done.stdout, re.M) for command in self.COMMANDS)

    def test_without_words(self):
        done = call()
        assert done.returncode in (0, 2)
        assert "Usage" in done.stdout + done.stderr

    @pytest.mark.parametrize(
        ("command", "options"),
        [
            ("run", "--preset --config --set --workers --cluster --scheduler --restart"),
            ("ingest", "--preset --config --set --workers --cluster --scheduler --restart"),
            ("fingerprint", "--workers --cluster --scheduler"),
            ("plan", "--preset --config --set --restart"),
            ("preprocess", "--workers --cluster --scheduler"),
            ("config", "--preset --config --set --memory-limit"),
            ("demo", "--workers"),
        ],
    )
    def test_lists_options(self, command, options):
        done = call(command, "--help")
        assert done.returncode == 0
        for option in options.split():
            assert re.search(rf"^  {option} .*\w", done.stdout, re.M), option


class TestRun:
    def test_on_a_cluster(self, tmp_path, source):
        done = call("run", source, tmp_path / "out", "--workers", "2", fork=False)
        assert done.returncode == 0, done.stderr
        for name in ("training.zarr", "fingerprint.json", "plan.json", "report.json"):
            assert f"{tmp_path / 'out' / name}\n" in done.stdout
        assert re.search(r"^\d\d:\d\d:\d\d dashboard: http://127\.0\.0\.1:\d+/status$", done.stderr, re.M)
        assert re.search(r"^\d\d:\d\d:\d\d ingest: 2 done in ", done.stderr, re.M)
        assert "\x1b" not in done.stdout + done.stderr
        assert re.search(r"cases done\W+2\b", done.stdout)
        runs.process(source, tmp_path / "other")
        assert stores(tmp_path / "out") == stores(tmp_path / "other")

    def test_stages_one_by_one(self, tmp_path, source):
        words = ["--preset", "nnunet", "--set", "target_spacing=[1, 0.5, 0.4]", "--set", "order=2"]
        runs.process(source, tmp_path / "one", "nnunet", target_spacing=(1, 0.5, 0.4), order=2)
        out = tmp_path / "two"
        assert alone("ingest", source, out, *words).returncode == 0
        assert not (out / "training.zarr").exists()
        assert alone("fingerprint", out).returncode == 0
        assert call("plan", out, *words).returncode == 0
        assert not (out / "training.zarr").exists()
        assert alone("preprocess", out).returncode == 0
        assert stores(tmp_path / "one") == stores(out)

    def test_settings_from_a_file_and_words(self, tmp_path, source):
        (tmp_path / "settings.toml").write_text('order = 0\nlabels = "linear"\n[store]\nlevel = 1\n')
        words = ["--config", tmp_path / "settings.toml", "--set", "order=1", "--set", "outside_label=-1"]
        assert alone("run", source, tmp_path / "out", *words).returncode == 0
        settings = json.loads((tmp_path / "out" / "plan.json").read_text())["settings"]
        found = [settings["order"], settings["labels"], settings["outside_label"], settings["store"]["level"]]
        assert found == [1, "linear", -1, 1]

    def test_paths_with_blanks_and_from_another_folder(self, tmp_path, source):
        (tmp_path / "my data").mkdir()
        source.rename(tmp_path / "my data" / "raw ö")
        done = alone("run", "my data/raw ö", "my out/deep", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "my out" / "deep" / "report.json").exists()

    def test_again_and_with_another_setting(self, tmp_path, source):
        out = tmp_path / "out"
        assert alone("run", source, out).returncode == 0
        before = stores(out)
        again = alone("run", source, out)
        assert again.returncode == 0
        assert "2 found done, 0 to do" in again.stderr
        changed = alone("run", source, out, "--set", "order=1")
        assert changed.returncode == 2
        assert "order was 3, is 1" in changed.stderr
        assert "--restart" in changed.stderr
        assert stores(out) == before

    def test_plan_says_what_it_takes(self, tmp_path):
        names = ("a" * 40, "b-of-a-rather-long-name-too")
        made = manifest(tmp_path / "raw", dict(zip(names, SMALL.values(), strict=True)), ("CT", "T1"))
        out = tmp_path / "out"
        assert alone("ingest", made.source, out).returncode == 0
        assert "CT" in alone("fingerprint", out).stdout
        done = call("plan", out)
        assert done.returncode == 0
        for name in names:
            assert name in done.stdout
        for text in (
            "9x12x11",
            "1.5x0.5x0.5",
            "CTNormalization",
            "shards",
            "inodes",
            "bytes",
            "room",
            "enough",
        ):
            assert text in done.stdout
        assert re.search(r"peak memory.*\d MiB", done.stdout)
        planned = json.loads((out / "plan.json").read_text())
        assert planned["peak_bytes"]["preprocess"] > 10 * 2**20
        assert alone("preprocess", out).returncode == 0
        stated = int(re.search(r"inodes\)\W+([\d,]+)", done.stdout)[1].replace(",", ""))
        written = [p for p in (out / "training.zarr").rglob("*") if p.is_file()]
        assert stated == len(written)

    def test_demo_in_an_empty_folder(self, tmp_path):
        done = call("demo", "--workers", "2", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        paths = [tmp_path / line for line in done.stdout.splitlines() if line.startswith("voxelmill-demo")]
        assert len(paths) == 4
        assert all(path.exists() for path in paths)
        assert not [p for p in tmp_path.iterdir() if p.name != "voxelmill-demo"]


def bad_cases(folder):
    """Two good cases, and one of each accident, with the words that its cause must hold."""
    good = {"good1": SMALL["a"], "good2": SMALL["b"]}
    accidents = {
        "missing": ["missing"],
        "nolabel": ["label", "missing"],
        "nan": ["NaN"],
        "infinite": ["infinite"],
        "zero": ["zero"],
        "shape": ["label", "(10, 12, 11)", "(9, 12, 11)"],
        "moved": ["label", "voxels away", "2"],
        "turned": ["channel 1", "voxels away"],
        "truncated": [],
        "garbage": [],
        "halflabel": ["label", "whole"],
        "text": [],
        "rgb": [],
    }
    made = manifest(folder, {**good, **dict.fromkeys(accidents, SMALL["a"])}, ("CT", "T1"), dtype="f4")
    shape, grids = SMALL["a"][0], made.grids

    def spoil(case, array, channel=0, grid=None):
        datasets.write(folder / f"{case}_{channel}.nii", array, grid or grids[case])

    image = made.cases["nan"].image[0].copy()
    (folder / "missing_1.nii").unlink()
    (folder / "nolabel_label.nii").unlink()
    image[4, 5, 6] = np.nan
    spoil("nan", image)
    image[4, 5, 6] = -np.inf
    spoil("infinite", image)
    for channel in range(2):
        spoil("zero", np.zeros(shape, "f4"), channel)
    spoil("shape", np.zeros((10, 12, 11), "u1"), "label")
    moved = grids["moved"]
    spoil(
        "moved",
        made.cases["moved"].label,
        "label",
        Grid(moved.spacing, (moved.origin[0] + 1.0, *moved.origin[1:])),
    )
    turned = grids["turned"]
    spoil(
        "turned",
        made.cases["turned"].image[1],
        1,
        Grid(turned.spacing, turned.origin, (-1, 0, 0, 0, 1, 0, 0, 0, 1)),
    )
    path = folder / "truncated_1.nii"
    path.write_bytes(path.read_bytes()[:-777])
    (folder / "garbage_0.nii").write_bytes(np.random.default_rng(0).bytes(5000))
    half = made.cases["halflabel"].label.astype("f4")
    half[2, 3, 4] = 0.5
    spoil("halflabel", half, "label")
    (folder / "text_0.nii").write_text("not an image at all")
    path = folder / "rgb_0.nii"
    content = bytearray(path.read_bytes())
    content[70:72] = (128).to_bytes(2, "little")  # NIfTI's RGB24
    path.write_bytes(content)
    return made, accidents


class TestBadCases:
    def test_among_good_ones(self, tmp_path):
        made, accidents = bad_cases(tmp_path / "raw")
        out = tmp_path / "out"
        done = call("run", made.source, out, "--workers", "2")
        assert done.returncode == 1, done.stderr
        report = {c["case"]: c for c in json.loads((out / "report.json").read_text())["cases"]}
        assert sorted(report) == sorted([*accidents, "good1", "good2"])
        for case, words in accidents.items():
            cause = report[case]["cause"]
            assert report[case]["status"] == "failed", case
            assert "\n" not in cause
            assert not re.search(r"\w(Error|Exception)\b", cause), cause
            assert ".nii" not in cause
            for word in words:
                assert word in cause, f"{case}: {cause}"
            assert f"failed  {case}: {cause}" in done.stdout
        assert [report[c]["status"] for c in ("good1", "good2")] == ["done", "done"]
        assert re.search(rf"cases failed\W+{len(accidents)}\b", done.stdout)
        written = sorted(p.name for p in (out / "training.zarr" / "fullres").iterdir() if p.is_dir())
        assert written == ["good1", "good2"]
        assert list(json.loads((out / "fingerprint.json").read_text())["cases"]) == ["good1", "good2"]
        alone_ = tmp_path / "alone"
        rows = [
            {"case": c, "CT": f"{c}_0.nii", "T1": f"{c}_1.nii", "label": f"{c}_label.nii"}
            for c in ("good1", "good2")
        ]
        write_rows(made.source, rows)
        runs.process(made.source, alone_)
        assert {k: v for k, v in stores(out).items() if k.startswith("training")} == {
            k: v for k, v in stores(alone_).items() if k.startswith("training")
        }

    def test_all_are_bad(self, tmp_path, source):
        for path in (source / "imagesTr").iterdir():
            path.write_bytes(path.read_bytes()[:50])
        done = alone("run", source, tmp_path / "out")
        assert done.returncode == 1
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert [c["status"] for c in report["cases"]] == ["failed", "failed"]

    def test_a_case_that_fails_in_the_last_stage(self, tmp_path):
        """Values beyond 255 break the rule of one scheme, which only the last stage knows."""
        made = manifest(tmp_path / "raw", SMALL, ("rgb_to_0_1",), high=200)
        made.cases["b"].image[0, 4, 5, 6] = 300
        datasets.write(tmp_path / "raw" / "b_0.nii", made.cases["b"].image[0].astype("i2"), made.grids["b"])
        done = alone("run", made.source, tmp_path / "out")
        assert done.returncode == 1
        assert re.search(r"failed  b: .*300", done.stdout)
        folder = tmp_path / "out" / "training.zarr" / "fullres"
        assert [p.name for p in folder.iterdir() if p.is_dir()] == ["a"]

    def test_missing_parts_of_a_nnunet_dataset(self, tmp_path, source):
        (source / "labelsTr" / "a.nii.gz").unlink()
        done = alone("run", source, tmp_path / "out")
        assert done.returncode == 1
        assert re.search("failed  a: .*label.*missing", done.stdout)

    @pytest.mark.parametrize("kept", [0.3, 0.995])
    def test_truncated_gz(self, tmp_path, source, kept):
        path = source / "imagesTr" / "b_0000.nii.gz"
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
        done = alone("run", source, tmp_path / "out")
        assert done.returncode == 1
        cause = re.search("failed  b: (.*)", done.stdout)[1]
        assert not re.search(r"\w(Error|Exception)\b", cause), cause

    def test_cases_with_different_numbers_of_channels(self, tmp_path):
        (tmp_path / "raw").mkdir()
        rng = np.random.default_rng(0)
        for name, shape in (("a", (6, 7, 8)), ("b", (6, 7, 8)), ("two", (6, 7, 8, 2))):
            datasets.write_image(
                tmp_path / "raw" / f"{name}.nrrd", rng.normal(size=shape).astype("f4"), Grid()
            )
        done = alone("run", tmp_path / "raw", tmp_path / "out")
        assert done.returncode == 1
        assert "case two: has 2 channels, most cases have 1" in done.stderr
        written = tmp_path / "out" / "training.zarr" / "fullres"
        assert sorted(p.name for p in written.iterdir() if p.is_dir()) == ["a", "b"]


def started(words, log):
    """The command in a process group of its own, which a terminal's Ctrl-C would reach as a whole."""
    with log.open("w") as file:
        return subprocess.Popen(
            [SCRIPT, *map(str, words)], stdout=file, stderr=file, start_new_session=True, env=ENVIRONMENT
        )


def session(process):
    """Every process that the command started, itself included."""
    return [
        p
        for p in psutil.process_iter()
        if p.status() != psutil.STATUS_ZOMBIE and os.getsid(p.pid) == process.pid
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    cases = {f"case{i}": ((60, 200, 200), (1.2, 0.9, 0.9)) for i in range(4)}
    made = manifest(folder / "raw", cases, ("CT", "T1"))
    words = [made.source, "--preset", "nnunet", "--set", "target_spacing=[1, 0.8, 0.8]"]
    words += ["--set", "store.shard_mib=8"]
    assert call("run", words[0], folder / "out", *words[1:], "--workers", "2").returncode == 0
    return words, stores(folder / "out")


@pytest.mark.slow
class TestInterrupted:
    WHEN = {
        "starting": lambda out, log: "found" in log.read_text(),
        "connecting": lambda out, log: "dashboard" in log.read_text(),
        "ingesting": lambda out, log: (out / "raw.zarr" / "case1").exists(),
        "preprocessing": lambda out, log: len(list(out.glob("training.zarr/fullres/*/image/c/*/*/*/*"))) > 2,
    }

    @pytest.mark.parametrize(
        ("how", "when"),
        [
            *((signal.SIGINT, when) for when in WHEN),
            (signal.SIGKILL, "ingesting"),
            (signal.SIGKILL, "preprocessing"),
        ],
    )
    def test_and_run_again(self, tmp_path, undisturbed, when, how):
        words, expected = undisturbed
        out, log = tmp_path / "out", tmp_path / "log"
        command = ["run", words[0], out, *words[1:], "--workers", "2"]
        process = started(command, log)
        wait_until(lambda: log.exists() and self.WHEN[when](out, log))
        assert process.poll() is None
        os.killpg(process.pid, how)
        status = process.wait(30)
        said = log.read_text()
        if how == signal.SIGINT:
            assert status == 130, said
            assert "Traceback" not in said
            assert "Run the same command again" in said
        wait_until(lambda: not session(process), 10)
        again = call(*command)
        assert again.returncode == 0, again.stderr
        assert stores(out) == expected
        assert not list(out.rglob("*.partial"))
        assert not list(out.rglob("*.trash"))

    def test_twice(self, tmp_path, undisturbed):
        """An impatient user presses Ctrl-C again and again."""
        words, _ = undisturbed
        out, log = tmp_path / "out", tmp_path / "log"
        process = started(["run", words[0], out, *words[1:], "--workers", "2"], log)
        wait_until(lambda: log.exists() and self.WHEN["preprocessing"](out, log))
        for _ in range(5):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                time.sleep(0.1)
        assert process.wait(30) in (130, -signal.SIGINT)  # by itself, or by the last of the signals
        assert "Traceback" not in log.read_text()
        wait_until(lambda: not session(process), 10)


def test_ctrl_c_amid_a_garbage_collection_is_not_lost(tmp_path):
    """Python would print it as an exception that it ignores, and go on."""
    script = """
import gc, os, signal, sys, time
from voxelmill.cli.stop_signals import lose_no_interrupt

sys.unraisablehook = lose_no_interrupt

def collecting(phase, info):
    gc.callbacks.remove(collecting)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

gc.callbacks.append(collecting)
try:
    gc.collect()
    time.sleep(20)
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("stopped\n", "")
