"""Runs on a scheduler that is running already, and what is said when it, its workers or OUT are lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
from commands import ENVIRONMENT, SCRIPT, alone, call, status_within, wait_until, within
from datasets import stores

from voxelmill.runtime.cluster.dask_settings import DASK_CONFIG

DASK = Path(sys.executable).with_name("dask")
MANY_SHARDS = (
    "--set=store.shard_mib=1",
    "--set=store.chunk=[16, 32, 32]",
    "--set=target_spacing=[0.2, 0.1, 0.1]",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source, and what one run makes of it."""
    folder = tmp_path_factory.mktemp("cluster")
    source = datasets.nnunet(folder / "raw", ("a", "b", "c"), shape=(20, 40, 40)).source
    assert status_within("run", source, folder / "whole", *MANY_SHARDS) == 0
    return source, stores(folder / "whole")


@contextmanager
def scheduler(folder, workers=0, **variables):
    """A Dask scheduler and workers as a user starts them; the scheduler's file and its process."""
    environment = {**ENVIRONMENT, "DASK_CONFIG": str(DASK_CONFIG), **variables}
    file, started = folder / "scheduler.json", []

    def start(*words):
        started.append(
            subprocess.Popen(
                [DASK, *words, f"--scheduler-file={file}", "--no-dashboard"],
                env=environment,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    start("scheduler", "--host=127.0.0.1", "--port=0")
    for _ in range(workers):
        start(
            "worker", "--nthreads=1", "--memory-limit=0", "--preload=voxelmill.worker", "--death-timeout=20"
        )
    try:
        wait_until(lambda: file.exists() and file.read_text().strip(), 30)
        yield file, started[0]
    finally:
        for process in started:
            process.kill()
            process.wait()


def start(*words):
    return subprocess.Popen(
        [SCRIPT, *map(str, words)],
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def until_shards(out, count, process):
    end = time.monotonic() + 60
    while sum(1 for _ in out.glob("training.zarr/*/*/image/c/*/*/*/*")) < count:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)


def causes(out):
    return {c["case"]: c["cause"] for c in json.loads((out / "report.json").read_text())["cases"]}


# Lost


def test_without_a_worker_a_run_ends_with_one_line_and_a_report(made, tmp_path):
    out = tmp_path / "out"
    with scheduler(tmp_path) as (file, _):
        done = call("run", made[0], out, f"--scheduler={file}", "--set=no_worker_timeout=2")
    assert done.returncode == 1
    assert re.fullmatch(
        r"voxelmill: no worker for \d s\. What is written stays.*", done.stderr.splitlines()[-1]
    )
    assert all(cause.startswith("not finished: no worker for") for cause in causes(out).values())
    assert not list(out.glob("logs/lease/*"))
    assert alone("run", made[0], out, *MANY_SHARDS).returncode == 0
    assert stores(out) == made[1]
    assert causes(out) == dict.fromkeys("abc")


@pytest.mark.slow
def test_when_the_scheduler_dies_a_run_ends_with_one_line_and_goes_on_later(made, tmp_path):
    """Dask's client would try to connect again, and its futures are cancelled."""
    out = tmp_path / "out"
    with scheduler(tmp_path, workers=1) as (file, process):
        run = start("run", made[0], out, f"--scheduler={file}", *MANY_SHARDS)
        until_shards(out, 5, run)
        process.kill()
        said = run.communicate(timeout=120)[1]
    assert run.returncode == 1
    assert said.splitlines()[-1].startswith("voxelmill: the Dask scheduler is gone (")
    assert "Traceback" not in said
    assert any(cause is not None and cause.startswith("not finished") for cause in causes(out).values())
    assert alone("run", made[0], out, *MANY_SHARDS).returncode == 0
    assert stores(out) == made[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_batch_system_s_sigterm_is_like_ctrl_c(made, tmp_path, number):
    """SLURM sends it before it kills; OUT is let go, so that the job's successor can have it."""
    out = tmp_path / "out"
    run = start("run", made[0], out, "--workers=2", *MANY_SHARDS)
    until_shards(out, 5, run)
    run.send_signal(number)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 128 + number
    assert said.splitlines()[-1] == "voxelmill: stopped. Run the same command again to go on from here."
    assert not list(out.glob("logs/lease/*"))
    assert alone("run", made[0], out, *MANY_SHARDS).returncode == 0
    assert stores(out) == made[1]


# Joined


def openssl(folder, *words):
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.slow
def test_a_scheduler_that_encrypts(made, tmp_path):
    keys = tmp_path / "keys"
    keys.mkdir()
    openssl(keys, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test",
            "-keyout", "key.pem", "-out", "cert.pem")  # fmt: skip
    comm = "DASK_DISTRIBUTED__COMM"
    tls = {f"{comm}__TLS__CA_FILE": str(keys / "cert.pem")}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        tls |= {f"{comm}__TLS__{role}__{k.upper()}": str(keys / f"{k}.pem") for k in ("key", "cert")}
    encrypts = {f"{comm}__DEFAULT_SCHEME": "tls", f"{comm}__REQUIRE_ENCRYPTION": "true"}
    with scheduler(tmp_path, workers=1, **tls, **encrypts) as (file, _):
        assert json.loads(file.read_text())["address"].startswith("tls://")
        done = call("run", made[0], tmp_path / "out", f"--scheduler={file}", *MANY_SHARDS, **tls)
        assert done.returncode == 0, done.stderr
        plain = call("run", made[0], tmp_path / "out2", f"--scheduler={file}")
        assert plain.returncode == 2
        assert "no scheduler answers" in plain.stderr
        wrong = tls | {f"{comm}__TLS__CA_FILE": str(keys / "nothing.pem")}
        missing = call("run", made[0], tmp_path / "out2", f"--scheduler={file}", **wrong)
        assert missing.returncode == 2
        assert "a certificate of distributed.comm.tls cannot be used (No such file" in missing.stderr
    assert stores(tmp_path / "out") == made[1]


# Held


def test_two_runs_on_one_out_are_refused_and_a_killed_one_is_taken_over(made, tmp_path):
    out = tmp_path / "out"
    with scheduler(tmp_path) as (file, _):  # a run that waits for workers
        first = start("run", made[0], out, f"--scheduler={file}", *MANY_SHARDS)
        wait_until(lambda: list(out.glob("logs/lease/run.*.json")))
        for words in (["run", made[0], out], ["ingest", made[0], out, "--share=1/2"]):
            second = alone(*words)
            assert second.returncode == 2
            who = f"by `voxelmill run` on host {os.uname().nodename}, process {first.pid}, since "
            assert f"voxelmill: OUT ({str(out)!r}) is in use {who}" in second.stderr
            assert "sign of life" in second.stderr
        first.kill()
        first.communicate()
    assert alone("run", made[0], out, *MANY_SHARDS).returncode == 0
    assert stores(out) == made[1]


# How far it is


class TestStatus:
    def test_of_nothing(self, tmp_path):
        done = call("status", tmp_path / "out")
        assert done.returncode == 2
        assert " holds no raw store. Run `voxelmill ingest SOURCE OUT` first." in done.stderr

    def test_stage_by_stage(self, made, tmp_path):
        out = tmp_path / "out"

        def rows():
            done = within("status", out)
            assert done.exit_code in (0, 1)
            lines = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()[3:]]
            return done.exit_code, {row[0]: (int(row[1]), int(row[2])) for row in lines if len(row) > 3}

        assert status_within("ingest", made[0], out, "--share=1/3") == 0
        assert rows() == (1, {"ingest": (1, 3), "fingerprint": (0, 1), "plan": (0, 1)})
        assert status_within("ingest", made[0], out) == 0
        assert status_within("fingerprint", out) == 0
        assert rows() == (1, {"ingest": (3, 3), "fingerprint": (1, 1), "plan": (0, 1)})
        assert status_within("plan", out, *MANY_SHARDS) == 0
        status, found = rows()
        done, total = found["preprocess fullres"]
        assert (status, done) == (1, 0)
        assert status_within("preprocess", out) == 0
        assert rows() == (0, found | {"preprocess fullres": (total, total)})
        next(out.glob("training.zarr/fullres/b/image/c/*/*/*/1")).unlink()
        assert rows() == (1, found | {"preprocess fullres": (total - 1, total)})
        assert re.search(r"preprocess fullres .* b\s*$", call("status", out).stdout, re.MULTILINE)
