"""Calls of the command line, as a user makes them, in a separate process or in this one."""

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from distributed import Client, Nanny, Scheduler, SpecCluster
from typer.testing import CliRunner

from voxelmill.cli.commands import app
from voxelmill.runtime.cluster.dask_settings import dask_settings

SCRIPT = Path(sys.executable).with_name("voxelmill")
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR", "PYTHONWARNINGS")},
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s",
}


HALF_OPEN = "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
"""If Dask connects to a worker that has just died, Tornado leaves a socket to the garbage collector."""


def collect_half_open():
    """Collect such sockets now, so that no unrelated test gets their warning."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


def wait_until(condition, seconds=60, say=lambda: "", pause=0.05):
    """Wait until `condition()` is true and return its value; fail with `say()` after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, say()
        time.sleep(pause)
    return found


def call(*words, cwd=None, timeout=120, fork=True, **variables):
    """Run the command in a process of its own, and assert that it prints no traceback and no warning.

    By default it is forked from a process that has imported everything. With `fork=False`, or with variables
    for the environment, the console script itself runs, which needs two seconds for its imports.
    """
    run = forked if fork and not variables else script
    done = run(list(map(str, words)), cwd, timeout, **variables)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done


def script(words, cwd, timeout, **variables):
    return subprocess.run(
        [SCRIPT, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env=ENVIRONMENT | variables,
    )


def forked(words, cwd, timeout):
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        command = {"folder": Path(cwd or ".").absolute(), "words": words, "outputs": outputs}
        print(json.dumps(command, default=str), file=warm().stdin, flush=True)
        pid = answer()
        killer = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
        killer.start()
        status = answer()
        if not killer.is_alive():
            raise subprocess.TimeoutExpired(words, timeout)
        killer.cancel()
        return subprocess.CompletedProcess(words, status, *(path.read_text() for path in outputs))


@cache
def warm():
    """Start the process that forks, once; see `warm.py`. It ends together with this process."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("warm.py"), SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    atexit.register(process.communicate)
    return process


def answer():
    """Read one number from the forking process: a process id or an exit status."""
    line = warm().stdout.readline()
    assert line, warm().stderr.read()
    return int(line)


def alone(*words, **options):
    """Run the command without a cluster, which starts faster."""
    return call(*words, "--cluster", "none", **options)


def status_within(*words):
    """Return the exit status of a command that runs in this process without a cluster, which is fastest."""
    return within(*words, "--cluster=none").exit_code


def within(*words):
    """Run a command in this process; return its `exit_code` and `stdout`."""
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def before(folder):
    """Return PYTHONPATH with a folder in front."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def workers(*options):
    """Start one worker process per element of `options`, each a dict; yield a client."""
    import dask

    spec = {
        i: {"cls": Nanny, "options": {"nthreads": 1, "memory_limit": 0, "preload": "voxelmill.worker", **of}}
        for i, of in enumerate(options)
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}}
    with (
        dask.config.set(dask_settings()),
        SpecCluster(scheduler=scheduler, workers=spec, silence_logs=50) as found,
        Client(found) as client,
    ):
        yield client
