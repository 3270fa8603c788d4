"""Kill -9 at random moments of every stage, to every process or to one of them, and run again.

Real accidents (NEEDS.md, 7 and 13): a job that outlived its slot in the queue left a torn shard that poisoned
every retry; a worker that the kernel killed took the run with it. The seed is printed, and can be set by
VOXELMILL_KILL_SEED.
"""

import os
import random
import shutil
import signal
import subprocess
import time

import psutil
import pytest
from commands import ENVIRONMENT, SCRIPT, call
from datasets import manifest, stores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CASES = {f"case{i}": ((40, 90, 90), (1.2, 0.9, 0.9)) for i in range(4)}
SETTINGS = ["--preset", "nnunet", "--set", "target_spacing=[1, 0.8, 0.8]", "--set", "store.shard_mib=1"]
STAGES = ["ingest", "fingerprint", "plan", "preprocess"]
APPEARS = {
    "ingest": ["raw.zarr/case*/image/c/*/*/*/*", "raw.zarr/case*/zarr.json", "raw.zarr/*/*/c/**/*.partial"],
    "fingerprint": ["logs/lease/fingerprint.*", "fingerprint.json*"],
    "plan": ["logs/lease/plan.*", "plan.json*"],
    "preprocess": ["raw.zarr/case*/mask*", "training.zarr/fullres/case*/image/c/*/*/*/*", "**/*.partial"],
}
APPEARS["run"] = [pattern for patterns in APPEARS.values() for pattern in patterns]
ROUNDS = {"ingest": 7, "fingerprint": 3, "plan": 2, "preprocess": 8, "run": 12}
"""Kills of each command that hit it at work: 32 in all."""


def words_of(stage, source, out):
    where = [source, out] if stage in ("run", "ingest") else [out]
    how = [] if stage == "plan" else ["--workers", "2"]
    settings = [] if stage == "preprocess" else SETTINGS
    return [str(word) for word in (stage, *where, *settings, *how)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The source, the bytes of an undisturbed run, and how long each command takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    made = manifest(folder / "raw", CASES, ("CT", "T1"), border=4)
    seconds = {}
    for stage in [*STAGES, "run"]:
        out = folder / ("whole" if stage == "run" else "staged")
        start = time.monotonic()
        done = call(*words_of(stage, made.source, out))
        assert done.returncode == 0, done.stderr
        seconds[stage] = time.monotonic() - start
    assert stores(folder / "whole") == stores(folder / "staged")
    return made.source, stores(folder / "whole"), seconds


def family(process):
    """The command and all that it started, by what they do."""
    try:
        return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def session(process):
    return [
        p
        for p in psutil.process_iter()
        if p.status() != psutil.STATUS_ZOMBIE and os.getsid(p.pid) == process.pid
    ]


def wait_for(process, out, stage, seconds, rng):
    """Until a moment of the stage, or until something appears and a little longer."""
    end = time.monotonic() + seconds
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, seconds))
        return "a moment"
    pattern = rng.choice(APPEARS[stage])
    known = set(out.glob(pattern))
    while process.poll() is None and time.monotonic() < end and not set(out.glob(pattern)) - known:
        time.sleep(0.002)
    time.sleep(rng.choice([0, 0, 0.01, 0.1]))
    return pattern


def kill(process, everyone, rng):
    """SIGKILL to all at once, or to one of them; the others come to their end by themselves."""
    if everyone:
        for victim in session(process):
            victim.kill()
        return "all"
    living = family(process)
    if living:
        victim = rng.choice(living)
        number = living.index(victim)
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return "none"
        return f"number {number} of {len(living)}"
    return "none"


def killed_once(words, out, stage, seconds, rng):
    """Run a command and kill some of it; returns whether a process that was at work was killed."""
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=ENVIRONMENT
    )
    when = wait_for(process, out, stage, seconds, rng)
    was_at_work = process.poll() is None
    everyone = rng.random() < 0.5
    who = kill(process, everyone, rng) if was_at_work else "none"
    print(f"{stage}: killed {who} at {when}")
    status = process.wait(90)
    assert status in (0, 1, -signal.SIGKILL)
    end = time.monotonic() + 60
    while rng.random() < 0.8 and session(process):  # else those that are left meet the next run
        assert time.monotonic() < end
        time.sleep(0.02)
    return who != "none"


def test_a_worker_that_is_killed_while_it_starts(undisturbed, tmp_path):
    words = words_of("run", undisturbed[0], tmp_path / "out")
    process = subprocess.Popen([SCRIPT, *words], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not (starting := [p for p in family(process)[1:] if "spawn_main" in " ".join(p.cmdline())]):
        assert process.poll() is None
        time.sleep(0.01)
    starting[0].kill()
    said = process.communicate(timeout=90)[1]
    assert process.returncode == 1
    assert "ended before it was ready" in said.splitlines()[-1]
    assert "Run the same command again" in said.splitlines()[-1]
    finish(words)


def remove_one(out, stage, rng):
    """A case of the stage's store is gone, so that later runs have something to do."""
    stored = {"ingest": ["raw.zarr/case*"], "preprocess": ["training.zarr/fullres/case*"]}
    patterns = [*stored["ingest"], *stored["preprocess"]] if stage == "run" else stored.get(stage, [])
    folders = sorted(folder for pattern in patterns for folder in out.glob(pattern))
    if folders:
        shutil.rmtree(rng.choice(folders))


def finish(words):
    done = call(*words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("way", ["by stages", "run"])
def test_at_random_moments(tmp_path, undisturbed, way):
    seed = int(os.environ.get("VOXELMILL_KILL_SEED", time.time_ns() % 2**32))
    print(f"VOXELMILL_KILL_SEED={seed}")
    rng = random.Random(seed)
    source, expected, seconds = undisturbed
    out = tmp_path / "out"
    for stage in ["run"] if way == "run" else STAGES:
        words = words_of(stage, source, out)
        kills = 0
        while kills < ROUNDS[stage]:
            remove_one(out, stage, rng)
            kills += killed_once([SCRIPT, *words], out, stage, seconds[stage], rng)
        finish(words)
    check(out, expected)


def check(out, expected):
    found = stores(out)
    assert sorted(found) == sorted(expected)
    assert [key for key in expected if found[key] != expected[key]] == []
    assert not list(out.rglob("*.partial"))
    assert not list(out.rglob("*.trash"))
