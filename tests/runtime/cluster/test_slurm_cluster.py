"""`--cluster slurm` on a real SLURM: jobs are lost in every way there is, the training store stays the same.

Each test compares all files below training.zarr, names and bytes, with those of a run without any cluster.
"""

import json
import os
import re
import signal
import subprocess
import time

import datasets
import psutil
import pytest
from commands import ENVIRONMENT, SCRIPT, wait_until
from slurm_support import local, running, tell, training

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600, func_only=True)]

CASES = tuple("abcdef")
MANY_SHARDS = (
    "--set=store.shard_mib=1",
    "--set=store.chunk=[16, 32, 32]",
    "--set=target_spacing=[0.2, 0.07, 0.07]",
)
THRICE_AS_MANY = (*MANY_SHARDS[:2], "--set=target_spacing=[0.07, 0.07, 0.07]")
JOBS = ("--cluster=slurm", "--workers=2", "--set=cluster.memory=640MiB", "--set=cluster.walltime=00:30:00")


@pytest.fixture(scope="module")
def slurm():
    with running(nodes=1, cpus=4) as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source, and what a run without a cluster makes of it."""
    folder = tmp_path_factory.mktemp("slurm")
    source = datasets.nnunet(folder / "raw", CASES, shape=(20, 40, 40)).source
    local(source, folder / "whole", *MANY_SHARDS)
    return source, training(folder / "whole")


class Run:
    """A run on SLURM that goes on while a test looks on."""

    def __init__(self, source, out, *words, shards=MANY_SHARDS):
        self.out = out
        self.log = (out.parent / f"driver-{time.monotonic_ns()}.log").open("w+")
        command = [SCRIPT, "run", source, out, *shards, *JOBS, *words]
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=subprocess.STDOUT, env=ENVIRONMENT, cwd=out.parent
        )

    def jobs(self, *states):
        """Ids of its jobs in the queue, which are all there are."""
        of = [f"--states={','.join(states)}"] if states else []
        return tell("squeue", "-h", "-o", "%A", *of).split()

    def shards(self):
        return sum(1 for p in self.out.glob("training.zarr/*/*/image/c/*/*/*/*") if p.suffix != ".partial")

    def until_shards(self, count):
        """Wait until some shards are there, and by far not all."""
        wait_until(lambda: self.shards() >= count or self.process.poll() is not None, 120, self.said)
        assert self.process.poll() is None, self.said()

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def end(self, seconds=240):
        """The exit status."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on after {seconds} s: {self.said()}") from None
        finally:
            self.process.kill()
            self.process.wait()
        assert "Traceback" not in self.said()
        return status


@pytest.fixture
def start(slurm, made, tmp_path):
    """Starts runs on one OUT; at the end no job is left, whatever happened."""
    runs = []

    def begin(*words, **options):
        runs.append(Run(made[0], tmp_path / "out", *words, **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()
        run.log.close()
    for job in tell("squeue", "-h", "-o", "%A").split():
        tell("scancel", job)
    wait_until(lambda: not tell("squeue", "-h"), 60)


def workers():
    """Worker processes of this machine's jobs, not their nannies."""
    return [
        p
        for p in psutil.process_iter(["cmdline"])
        if "multiprocessing.spawn" in " ".join(p.info["cmdline"] or []) and _is_of_a_job(p)
    ]


def _is_of_a_job(process):
    try:
        return any("distributed.cli.dask_worker" in " ".join(p.cmdline()) for p in process.parents())
    except psutil.Error:
        return False


def test_an_undisturbed_run(start, made):
    run = start()
    assert run.end() == 0, run.said()
    assert training(run.out) == made[1]
    assert "slurm: 2 jobs of 1 workers" in run.said()
    assert wait_until(lambda: run.jobs() == [], 30)  # they are cancelled when the work is done
    assert list((run.out / "logs" / "workers").glob("voxelmill-*.err"))
    assert json.loads((run.out / "plan.json").read_text())["settings"].keys().isdisjoint({"cluster"})
    assert tell(SCRIPT, "status", run.out).count("at work") == 0


def test_a_job_that_is_cancelled_is_replaced(start, made, tmp_path):
    """Dask waits 15 seconds for a worker that is lost before another job takes its place."""
    run = start(shards=THRICE_AS_MANY)
    run.until_shards(10)
    before = run.jobs()
    tell("scancel", before[0])
    wait_until(lambda: set(run.jobs("RUNNING", "PENDING")) - set(before), 90, run.said)
    assert run.end() == 0, run.said()
    local(made[0], tmp_path / "whole", *THRICE_AS_MANY)
    assert training(run.out) == training(tmp_path / "whole")


def test_a_worker_that_is_killed(start, made):
    """As the kernel does when a node has no memory left: its nanny starts another."""
    run = start()
    run.until_shards(10)
    victim = wait_until(workers, 30)[0]
    victim.send_signal(signal.SIGKILL)
    assert run.end() == 0, run.said()
    assert training(run.out) == made[1]


def test_all_jobs_are_cancelled_and_others_come(start, made):
    run = start()
    run.until_shards(10)
    tell("scancel", *run.jobs())
    assert run.end() == 0, run.said()
    assert training(run.out) == made[1]


def test_all_jobs_are_cancelled_and_none_can_come(start, made):
    """The queue is closed: the run ends with one line, and goes on later."""
    run = start("--set=no_worker_timeout=30")
    run.until_shards(10)
    tell("scontrol", "update", "partitionname=main", "state=down")
    try:
        tell("scancel", *run.jobs())
        assert run.end(120) == 1
    finally:
        tell("scontrol", "update", "partitionname=main", "state=up")
    last = run.said().splitlines()[-1]
    assert re.fullmatch(r"voxelmill: no worker for \d+ s\. .* run the same command again to go on .*", last)
    causes = [c["cause"] for c in json.loads((run.out / "report.json").read_text())["cases"]]
    assert any(cause and cause.startswith("not finished: no worker") for cause in causes)
    done = run.shards()
    again = start()
    assert again.end() == 0, again.said()
    found = re.search(r"preprocess fullres: (\d+) found done", again.said())
    assert done - 2 <= int(found[1] if found else 0) <= done  # each of two workers may lack a label
    assert training(run.out) == made[1]


def test_jobs_that_wait_in_the_queue_are_waited_for(start, made):
    """Hours may pass in a busy queue: that is no lost cluster."""
    tell("scontrol", "update", "partitionname=main", "state=down")
    try:
        run = start()
        wait_until(lambda: run.jobs("PENDING"), 60, run.said)
        time.sleep(5)
        assert run.process.poll() is None, run.said()
        out = subprocess.run([SCRIPT, "status", run.out], capture_output=True, text=True, env=ENVIRONMENT)
        assert "no raw store" in out.stderr or "at work" in out.stdout
    finally:
        tell("scontrol", "update", "partitionname=main", "state=up")
    assert run.end() == 0, run.said()
    assert training(run.out) == made[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_driver_is_stopped(start, made, number):
    run = start()
    run.until_shards(10)
    run.process.send_signal(number)
    assert run.end(60) == 128 + number
    assert run.said().splitlines()[-1].startswith("voxelmill: stopped. Run the same command again")
    assert wait_until(lambda: run.jobs() == [], 30)
    assert not list((run.out / "logs" / "lease").glob("*.json"))
    again = start()
    assert again.end() == 0, again.said()
    assert training(run.out) == made[1]


def test_the_driver_and_with_it_the_scheduler_are_killed(start, made):
    """Nobody cancels the jobs: they end by themselves, and the next run takes OUT over at once."""
    run = start()
    run.until_shards(10)
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    wait_until(lambda: run.jobs("RUNNING") == [], 120)
    again = start()
    assert again.end() == 0, again.said()
    assert training(run.out) == made[1]
    assert not list(run.out.rglob("*.partial"))


def test_a_second_run_is_refused_with_who_holds_out(start):
    run = start()
    run.until_shards(1)
    second = start()
    assert second.end(60) == 2
    line = second.said().splitlines()[-1]
    assert f") is in use by `voxelmill run` on host {os.uname().nodename}, process {run.process.pid}" in line
    assert run.process.poll() is None


def test_what_slurm_says_of_a_job_it_refuses_is_told(start):
    run = start("--set=cluster.queue=nonesuch")
    assert run.end(60) == 2
    assert "invalid partition specified: nonesuch" in run.said().splitlines()[-1]
