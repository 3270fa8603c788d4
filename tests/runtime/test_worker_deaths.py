"""Why a worker died is told by the process that watches over it, and stands in the case's cause.

Reproduces reports of "KilledWorker" that say no more than to look into the workers' logs: users with too
little memory, with a crash in a codec and with a walltime that was over all saw the same line.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from commands import HALF_OPEN, collect_half_open

from voxelmill.nanny import count_kills
from voxelmill.runtime.cluster.connection import connect
from voxelmill.runtime.task_window import execute
from voxelmill.runtime.tasks import task
from voxelmill.runtime.worker_deaths import cause_of_death, explain

pytestmark = pytest.mark.filterwarnings(HALF_OPEN)


@pytest.fixture(scope="module")
def cluster():
    with connect("local", 1) as client:
        yield client
    collect_half_open()


def settle():
    time.sleep(0.5)  # Dask does not restart a worker that dies before it was seen to have started


def end_with(number):
    settle()
    os.kill(os.getpid(), number)


def crash():
    settle()
    ctypes.string_at(0)


def abort():
    settle()
    os.abort()


def leave():
    settle()
    os._exit(3)


def use_up(group):
    """Take more memory than the control group has."""
    settle()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    bytearray(64 * 2**20)


def cause(client, function, *args):
    (outcome,) = execute([task(function.__name__, "case", function, *args)], client)
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "args", "why"),
    [
        (end_with, (signal.SIGKILL,), "it was killed (SIGKILL), most likely for lack of memory"),
        (end_with, (signal.SIGTERM,), "it was told to end (SIGTERM), as at the end of a job's walltime"),
        (end_with, (signal.SIGUSR1,), f"it was ended by signal {signal.SIGUSR1:d}"),
        (crash, (), "a native library crashed (SIGSEGV)"),
        (abort, (), "a native library crashed (SIGABRT)"),
        (leave, (), "it left with status 3"),
    ],
)
def test_the_cause_says_how_the_worker_ended(cluster, capfd, function, args, why):
    found = cause(cluster, function, *args)
    assert found.cause.startswith(f"its worker died three times while working on it: {why}")
    assert "It was skipped." in found.cause
    assert "tcp://" in found.details
    assert "'exit': " in found.details
    assert "Fatal Python error" not in capfd.readouterr().err


@pytest.fixture
def small_group():
    """A control group, of version 1 or 2, whose processes may take 32 MiB together."""
    for place in ("memory/*/memory.limit_in_bytes", "*/memory.max"):
        limit = Path("/sys/fs/cgroup", place.replace("*", f"voxelmill-{os.getpid()}"))
        with suppress(OSError):
            limit.parent.mkdir()
        try:
            if limit.exists():
                limit.write_text(str(32 * 2**20))
                yield limit.parent
                return
        finally:
            if limit.parent.is_dir():
                limit.parent.rmdir()
    pytest.skip("no control group for memory can be made here")


@pytest.mark.slow
def test_the_kernel_kills_a_worker_for_lack_of_memory(cluster, small_group):
    found = cause(cluster, use_up, small_group)
    assert found.cause == (
        "its worker died three times while working on it: the kernel killed it for lack of memory. It was "
        "skipped. Rerun with fewer workers or more memory."
    )


def test_what_nobody_told_of_is_a_job_or_node_that_is_gone():
    assert explain(None) == (
        "its job or node is gone with it: walltime, cancelled, or lost",
        "Run again to go on.",
    )


def test_a_kill_by_the_kernel_is_told_from_another():
    """The kernel's own count of such kills has risen since the worker began."""
    assert explain({"exit": -9, "killed_for_memory": True}) == (
        "the kernel killed it for lack of memory",
        "Rerun with fewer workers or more memory.",
    )


def test_kills_are_counted_where_the_kernel_tells_of_them():
    machine, group = count_kills()
    assert machine >= 0
    assert group >= 0


def test_a_watcher_of_an_older_version_tells_nothing(cluster):
    """The wait for it is bounded."""

    class Gone:
        last_worker = type("Worker", (), {"address": "tcp://127.0.0.1:1"})

    line, details = cause_of_death(cluster, Gone())
    assert "its job or node is gone with it" in line
    assert "nothing is known" in details


@pytest.mark.parametrize("module", ["voxelmill.nanny"])
def test_watching_loads_nothing_heavy(module):
    """The process of `dask worker` imports it, for each node's watchers."""
    code = (
        f"import {module}, sys; print(any(name in sys.modules for name in ('numpy', 'zarr', 'distributed')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"
