"""`voxelmill verify`: whatever is flipped, cut short or removed in OUT is named, and made again as it was."""

import json
import random
import re
import shutil

import pytest
import runs
from commands import call, within
from datasets import manifest, stores

from voxelmill.runs.verify import verify
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine

CASES = {
    "a": ((34, 40, 36), (1.0, 1.2, 1.0)),
    "b": ((30, 36, 40), (1.2, 1.0, 1.0)),
    "c": ((26, 34, 36), (1.0, 1.0, 1.1)),
}
SETTINGS = {"store": {"shard_mib": 1, "chunk": (16, 32, 32)}, "target_spacing": (0.8, 0.8, 0.8)}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A source and a finished run with masks, to be copied."""
    folder = tmp_path_factory.mktemp("template")
    made = manifest(folder / "raw", CASES, ("T1", "CT"), border=4)
    assert not runs.process(made.source, folder / "out", preset="nnunet", **SETTINGS).failed
    return folder


@pytest.fixture
def out(tmp_path, template):
    shutil.copytree(template / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def source(template):
    return template / "raw" / "cases.csv"


def damages(out):
    return verify(out, Engine(None, Reporter())).damages


def whose(file):
    """Case, array and shard that a file of OUT belongs to, told from its path alone."""
    top, *parts = file.parts
    if len(parts) < (2 if top == "raw.zarr" else 3):
        return "", "/".join([top, *parts[:-1]]), None
    name, case, rest = ("raw", parts[0], parts[1:]) if top == "raw.zarr" else (parts[0], parts[1], parts[2:])
    if "c" in rest:
        return case, f"{name}/{rest[0]}", tuple(map(int, rest[2:]))
    return case, "/".join([name, *rest[:-1]]), None


def files(out, metadata):
    found = [p for p in sorted(out.glob("*.zarr/**/*")) if p.is_file()]
    return [p for p in found if (p.name == "zarr.json") == metadata]


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << at % 8
    file.write_bytes(content)


def repaired(out, source):
    words = ["--repair", "--source", source, "--cluster=none"]
    return within("verify", out, *words)


def test_what_is_whole_has_no_damage_and_nothing_is_written(out):
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    found = within("verify", out, "--cluster=none")
    assert found.exit_code == 0
    assert re.fullmatch(r"read [\d.]+ MiB in \d+ shards: nothing is damaged\n", found.stdout)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_what_dead_runs_left_is_no_damage(out):
    (out / "raw.zarr/a/image/c/0" / f"0.{'0' * 32}.partial").write_bytes(b"half")
    (out / "training.zarr/fullres" / f"b.{'0' * 32}.trash").mkdir()
    assert damages(out) == ()


@pytest.mark.slow
def test_flipped_bytes_and_files_cut_short_are_found_and_made_again(out, source):
    """zarr-python reads a shard of 0 bytes, and most short ones, as zeros (iohub#415, #442, zarrs#420).

    What concurrent writers leave (zarr-python#3683) and bit rot look no different.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    before, shards = stores(out), files(out, metadata=False)
    untouched, flips = {file: file.read_bytes() for file in shards}, 0
    while flips < 100:  # one a shard and look
        batch = rng.sample(shards, min(len(shards), 100 - flips))
        for file in batch:
            flip(file, rng.randrange(file.stat().st_size))
        flips += len(batch)
        assert {(d.case, d.array, d.shard) for d in damages(out)} == {
            whose(f.relative_to(out)) for f in batch
        }
        for file in batch:
            file.write_bytes(untouched[file])
    cut = rng.sample(shards, 11)
    for n, file in enumerate(cut[:10]):
        file.write_bytes(untouched[file][: 0 if n == 0 else rng.randrange(len(untouched[file]))])
    cut[10].unlink()
    found = damages(out)
    assert {(d.case, d.array, d.shard) for d in found} == {whose(f.relative_to(out)) for f in cut}
    assert sum(d.what.startswith("is cut short") for d in found) == 10
    assert sum(d.is_missing for d in found) == 1
    done = repaired(out, source)
    assert done.exit_code == 0, done.stdout
    assert stores(out) == before


@pytest.mark.slow
def test_every_flipped_metadata_is_found_by_name_and_made_again(out, source):
    """A digit in the metadata is silent otherwise: JSON is as good with it as without."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    before = stores(out)
    for file in files(out, metadata=True):
        content = file.read_bytes()
        flip(file, rng.randrange(len(content)))
        found = {(d.case, d.array, d.shard) for d in damages(out)}
        assert whose(file.relative_to(out)) in found, file
        assert {case for case, _, _ in found} == {whose(file.relative_to(out))[0]}, (file, found)
        file.write_bytes(content)
    for file in files(out, metadata=True):
        flip(file, rng.randrange(file.stat().st_size))
    done = repaired(out, source)
    assert done.exit_code == 0, done.stdout
    assert stores(out) == before


@pytest.mark.slow
def test_a_damaged_raw_case_needs_its_source_and_nothing_is_made_of_it_before(out, source, tmp_path):
    before = stores(out)
    flip(out / "raw.zarr/a/image/c/0/0/0/0", 100)
    shutil.rmtree(out / "training.zarr/fullres/a")
    (out / "training.zarr/fullres/b/image/c/0/0/0/0").unlink()
    done = within("verify", out, "--repair", "--cluster=none")
    assert done.exit_code == 1
    assert "b  fullres/image shard 0/0/0/0: is missing" in done.stdout
    *_, raw, training, advice, summary = done.stdout.splitlines()
    assert raw.startswith("a  fullres: is missing")
    assert training.startswith("a  raw/image shard 0/0/0/0: holds a chunk that does not match its checksum")
    assert "--source SOURCE" in advice
    assert summary.endswith("1 damaged, 1 missing")
    assert not (out / "training.zarr/fullres/a").exists()
    assert repaired(out, source).exit_code == 0
    assert stores(out) == before


def test_another_source_is_refused_by_name(out, tmp_path):
    other = manifest(tmp_path / "other", CASES, ("T1", "CT"), border=4, seed=1)
    flip(out / "raw.zarr/b/label/c/0/0/0", 50)
    before = stores(out)
    done = call("verify", out, "--repair", "--source", other.source, "--cluster=none")
    assert done.returncode == 2
    assert "case b has other contents in SOURCE (" in done.stderr
    assert stores(out) == before


def test_a_damaged_mask_is_made_again_without_the_source(out):
    before = stores(out)
    flip(out / "raw.zarr/b/mask/c/0/0/0", 5)
    assert within("verify", out, "--repair", "--cluster=none").exit_code == 0
    assert stores(out) == before


@pytest.mark.parametrize("name", ["plan.json", "fingerprint.json"])
def test_a_document_that_cannot_be_read_is_named_and_made_again(out, name):
    before = stores(out)
    (out / name).write_bytes(before[name][:-100])
    assert [str(d) for d in damages(out)] == [f"OUT  {name}: is damaged, or was changed"]
    words = ["--preset=nnunet", "--set=target_spacing=[0.8,0.8,0.8]"]
    words += ["--set=store.shard_mib=1", "--set=store.chunk=[16,32,32]"]
    done = within("verify", out, "--repair", "--cluster=none", *words)
    assert done.exit_code == 0, done.stdout
    assert stores(out) == before


def test_one_digit_of_the_fingerprint_that_changed_is_found_and_mended(out):
    before = stores(out)
    text = before["fingerprint.json"].decode()
    (out / "fingerprint.json").write_text(re.sub(r'("mean": -?)\d', lambda m: m[1] + "7", text, count=1))
    assert [str(d) for d in damages(out)] == ["OUT  fingerprint.json: is damaged, or was changed"]
    done = call("plan", out)
    assert done.returncode == 2
    assert f"fingerprint.json in OUT ({str(out)!r}) was changed since it was written" in done.stderr
    assert within("verify", out, "--repair", "--cluster=none").exit_code == 0
    assert stores(out) == before


def test_a_changed_plan_is_named(out):
    before = stores(out)
    plan = json.loads(before["plan.json"])
    plan["configurations"]["fullres"]["cases"]["b"]["crop_box"][0][0] += 1
    (out / "plan.json").write_text(json.dumps(plan))
    (found, *_) = damages(out)
    assert str(found) == "b  fullres: was made by another plan: plan.json was changed since, or is damaged"
    assert within("verify", out, "--repair", "--cluster=none").exit_code == 0
    assert stores(out) == before


def test_a_raw_shard_that_preprocess_stumbles_on_says_how_to_go_on(out, source):
    flip(out / "raw.zarr/a/image/c/0/0/0/0", 100)
    shutil.rmtree(out / "training.zarr/fullres/a")
    report = runs.process(source, out, preset="nnunet", **SETTINGS)
    (failed,) = report.failed
    assert failed.case == "a"
    assert "`voxelmill verify OUT --repair`" in failed.cause


def test_an_image_read_in_place_is_compared_with_its_source(tmp_path):
    made = manifest(tmp_path / "raw", {"a": CASES["c"]}, ("CT",), border=4)
    out = tmp_path / "out"
    runs.process(made.source, out, ingest={"copy": False})
    assert damages(out) == ()
    flip(tmp_path / "raw/a_0.nii", 5000)
    (found,) = damages(out)
    assert (found.case, found.array) == ("a", "raw/image")
    assert "source files hold something else now" in found.what


def test_a_folder_without_a_store_is_refused(tmp_path):
    done = call("verify", tmp_path)
    assert done.returncode == 2
    assert f"OUT ({str(tmp_path)!r}) holds no store" in done.stderr


@pytest.mark.slow
def test_the_command_with_workers(out, source):
    """One real command: a line a damage, a count, the status; repaired, nothing is damaged any more."""
    before = stores(out)
    file = out / "training.zarr/fullres/c/image/c/0/0/0/0"
    file.write_bytes(file.read_bytes()[:1200])
    flip(out / "raw.zarr/a/histogram/c/0/0", 30)
    done = call("verify", out, "--workers", "2")
    assert done.returncode == 1
    raw, training, advice, summary = done.stdout.splitlines()
    assert raw == "a  raw/histogram shard 0/0: holds a chunk that does not match its checksum (chunk 0/0)"
    assert training.startswith("c  fullres/image shard 0/0/0/0: is cut short (1200 ")
    assert "--repair --source SOURCE" in advice
    assert summary.endswith(": 2 damaged")
    done = call("verify", out, "--repair", "--source", source, "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("nothing is damaged")
    assert stores(out) == before
