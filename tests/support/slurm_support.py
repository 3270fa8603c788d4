"""A real SLURM on this machine for tests, with functions to submit jobs and wait for them.

`with running(nodes=3) as slurm:` starts SLURM and stops it at the end; test files wrap this in a fixture. It
needs root and a script that starts SLURM's daemons without systemd (VM_START_SLURM, or start-slurm.sh in the
folder shared/slurm beside the repository); without either, the test is skipped. The machine has one SLURM: a
second user, such as another process of pytest-xdist, waits.
"""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
BATCH = REPOSITORY / "cluster" / "batch"
START = Path(os.environ.get("VM_START_SLURM", REPOSITORY.parent / "shared" / "slurm" / "start-slurm.sh"))
LOCK = Path(tempfile.gettempdir(), "voxelmill-slurm.lock")
BIN = Path(sys.executable).parent
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED")


def environment(**more):
    """Return the environment of a user's shell with the virtual environment active.

    `more` adds variables; None removes one.
    """
    left_out = re.compile(r"SLURM_|DASK_|VOXELMILL_|COLUMNS$|FORCE_COLOR$|PYTHONWARNINGS$")
    kept = {k: v for k, v in os.environ.items() if not left_out.match(k)}
    kept["PATH"] = f"{BIN}{os.pathsep}{kept['PATH']}"
    kept |= {k: str(v) for k, v in more.items() if v is not None}
    return {k: v for k, v in kept.items() if more.get(k, v) is not None}


def tell(*words, check=True, timeout=60, cwd=None, **more):
    """Run a command and return its output; `more` is added to its environment."""
    done = subprocess.run(
        [str(w) for w in words],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=environment(**more),
    )
    assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def local(source, out, *options, check=True):
    """Make the same run without a cluster, for comparison."""
    tell(BIN / "voxelmill", "run", source, out, "--cluster", "none", *options, timeout=240, check=check)


def training(out):
    """Return the bytes of every file in OUT's training store."""
    files = (p for p in sorted((out / "training.zarr").rglob("*")) if p.is_file())
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


_turns = []


@contextmanager
def turn(lock=LOCK):
    """Keep other processes out until the end; within one process turns may nest."""
    with lock.open("w") as file:
        if not _turns:
            fcntl.flock(file, fcntl.LOCK_EX)
        _turns.append(lock)
        try:
            yield
        finally:
            _turns.pop()


@contextmanager
def running(nodes=1, cpus=2, gpus=0):
    """Start SLURM, and stop it at the end; `cpus` and `gpus` (simulated) are per node."""
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons are started by root")
    if not START.exists():
        pytest.skip("no start-slurm.sh here; VM_START_SLURM may name one")
    stop = START.with_name("stop-slurm.sh")
    wanted = {"VM_SLURM_NODES": nodes, "VM_SLURM_CPUS": cpus, "VM_SLURM_GPUS": gpus}
    with turn():
        tell("bash", stop, timeout=120)
        try:
            tell("bash", START, timeout=300, **wanted)
            yield Slurm()
        finally:
            tell("bash", stop, timeout=120)


class Slurm:
    """Commands of SLURM. The id of a job is a string; that of an array's element is `ARRAY_TASK`."""

    def submit(self, script, *words, options=(), cwd, **variables):
        """Submit a job and return its id.

        `options` are passed to sbatch, `words` to the script; `variables` are added to the environment.
        """
        command = ["sbatch", "--parsable", f"--chdir={cwd}", *options, script, *words]
        return tell(*command, **variables).split(";")[0]

    def show(self, job):
        """Return the output of `scontrol show job`: one dictionary per job, or per element of an array."""
        records = tell("scontrol", "show", "job", "-o", job).splitlines()
        return [dict(re.findall(r"(?:^| )(\w+(?::\w+)?)=(\S*)", record)) for record in records]

    def state(self, job):
        """Return a state such as PENDING, RUNNING or COMPLETED; MIXED if the elements of an array differ."""
        states = {record["JobState"] for record in self.show(job)}
        return states.pop() if len(states) == 1 else "MIXED"

    def wait(self, job, seconds=120):
        """Wait for the end of a job; return its exit status, the largest one for an array.

        It is 128 + n after signal n, and 1 if a job did not complete without a status or signal.
        """
        wait_until(lambda: self._ended(job), seconds, lambda: f"{job} goes on: {self.show(job)}")
        return max(map(self._status, self.show(job)))

    def _status(self, record):
        status, signal = map(int, record["ExitCode"].split(":"))
        return status or (128 + signal if signal else int(record["JobState"] != "COMPLETED"))

    def _ended(self, job):
        """Return whether a job and its processes have ended; until then it is COMPLETING."""
        return all(record["JobState"] in ENDED for record in self.show(job))

    def wait_for(self, job, *states, seconds=60):
        """Wait until the job is in one of these states."""
        wait_until(lambda: self.state(job) in states, seconds, lambda: f"{job}: {self.show(job)}")

    def processes(self, job):
        """Return the process ids by step: {"0": [..], "batch": [..]}."""
        found = {}
        for line in tell("scontrol", "listpids", job, check=False).splitlines()[1:]:
            pid, _, step, *_ = line.split()
            found.setdefault(step, []).append(int(pid))
        return found

    def cancel(self, *jobs):
        """Cancel jobs, as a user would."""
        tell("scancel", *jobs)

    def queued(self):
        """Return the ids of all jobs that wait or run."""
        return tell("squeue", "-h", "-r", "-o", "%F_%K").replace("_N/A", "").split()
