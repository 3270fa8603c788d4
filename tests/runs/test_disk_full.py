"""OUT's disk is full, or becomes read-only, in the middle of a run: on a real file system of its own.

Real accidents (NEEDS.md, 7 and 21): a disk that was full failed every case after it, one by one, with a
traceback each; half-written files looked whole to the next run.
"""

import subprocess
import threading
import time

import pytest
from commands import ENVIRONMENT, SCRIPT, call
from datasets import manifest, stores, times

CASES = {f"case{i}": ((40, 90, 90), (1.2, 0.9, 0.9)) for i in range(6)}
WORDS = ["--set", "target_spacing=[1, 0.8, 0.8]", "--set", "store.shard_mib=1", "--set", "check_disk=false"]
CLUSTERS = [["--cluster", "none"], pytest.param(["--workers", "2"], marks=pytest.mark.slow)]

pytestmark = pytest.mark.slow


def mount(*words):
    return subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode == 0


@pytest.fixture
def disk(tmp_path):
    """A small disk, mounted; `resize` and `freeze` change it."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=1m", "voxelmill", place):
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def resize(disk, option):
    assert mount("-o", f"remount,size={option}", disk)


def freeze(disk):
    """Read-only from now on, by a mount on top: whatever is opened, made or renamed by its path."""
    other = disk.with_name("other")
    other.mkdir()
    assert mount("--bind", disk, other)
    assert mount("-o", "remount,bind,ro", other)
    assert mount("--bind", other, disk)
    subprocess.run(["umount", "-l", other], check=True)


def thaw(disk):
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The source, what a run writes, and its bytes after ingest and in the end."""
    folder = tmp_path_factory.mktemp("undisturbed")
    made = manifest(folder / "raw", CASES, ("CT", "T1"), border=4)
    assert call("run", made.source, folder / "out", *WORDS, "--workers", "2").returncode == 0
    raw = sum(p.stat().st_size for p in (folder / "out" / "raw.zarr").rglob("*") if p.is_file())
    training = sum(p.stat().st_size for p in (folder / "out" / "training.zarr").rglob("*") if p.is_file())
    return made.source, stores(folder / "out"), raw, training


def ends_with_one_line(said, named):
    """What a person reads: no traceback, no case by case, one line at the end."""
    assert "Traceback" not in said
    assert "Logging error" not in said
    assert "bug" not in said
    lines = [line for line in said.splitlines() if line.startswith("voxelmill: ")]
    assert lines == said.splitlines()[-1:], said
    assert named in lines[0]
    assert "What is written stays" in lines[0]
    assert "run the same command again" in lines[0]
    assert sum("failed" in line for line in said.splitlines()) == 0, said


def rerun_equals(words, out, expected):
    done = call("run", *words)
    assert done.returncode == 0, done.stderr
    assert stores(out) == expected
    assert not list(out.rglob("*.partial"))
    assert not list(out.rglob("*.trash"))


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("part", [0.02, 0.5, 1.0, 1.05, 1.5])
def test_full(disk, undisturbed, cluster, part):
    """`part` of what a run writes: up to 1 of the raw store, beyond that of the training store."""
    source, expected, raw, training = undisturbed
    size = raw * min(part, 1) + training * max(0, part - 1)
    resize(disk, f"{max(64, int(size / 1024))}k")
    out = disk / "out"
    words = [source, out, *WORDS, *cluster]
    done = call("run", *words)
    assert done.returncode == 1, done.stderr
    ends_with_one_line(done.stderr, "OUT's disk is full (No space left on device)")
    whole = {k: v for k, v in stores(out).items() if k in expected and v == expected[k] and "/c/" in k}
    at = {path: time_ for path, time_ in times(out).items() if path in whole and path.startswith("training")}
    resize(disk, "512m")
    rerun_equals(words, out, expected)
    assert whole or part < 0.1
    assert at or part < 1.1
    assert times(out).items() >= at.items()  # a rerun computes only what is missing


def test_what_is_full_stays_full(disk, undisturbed):
    """Again without making room: the same line, and nothing that was whole is gone."""
    source, expected, raw, _ = undisturbed
    resize(disk, f"{int(raw / 2048)}k")
    out = disk / "out"
    words = [source, out, *WORDS, "--cluster", "none"]
    assert call("run", *words).returncode == 1
    before = {k: v for k, v in stores(out).items() if "/c/" in k and v == expected[k]}
    done = call("run", *words)
    assert done.returncode == 1
    ends_with_one_line(done.stderr, "OUT's disk is full")
    found = stores(out)
    records = {k.split("/")[1] for k in before if f"raw.zarr/{k.split('/')[1]}/zarr.json" in found}
    assert records
    for key, value in before.items():
        if key.split("/")[1] in records:
            assert found[key] == value


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("when", ["raw.zarr/case1", "training.zarr/fullres/case1"])
def test_read_only(disk, undisturbed, cluster, when):
    source, expected, *_ = undisturbed
    resize(disk, "512m")
    out = disk / "out"
    words = [source, out, *WORDS, *cluster]

    def freeze_when_there():
        while not (out / when).exists():
            time.sleep(0.002)
        freeze(disk)

    thread = threading.Thread(target=freeze_when_there)
    thread.start()
    done = subprocess.run(
        [SCRIPT, "run", *map(str, words)], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )
    thread.join()
    assert done.returncode == 1, done.stderr
    ends_with_one_line(done.stderr, "OUT's disk cannot be written any more (Read-only file system)")
    again = call("run", *words)
    assert again.returncode in (1, 2)
    assert len(again.stderr.splitlines()) <= 2
    thaw(disk)
    rerun_equals(words, out, expected)
