"""The real console script, as a person or a script calls it; or the same words in this process."""

import gc
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

from typer.testing import CliRunner

from voxelmill.cli import app

SCRIPT = Path(sys.executable).with_name("voxelmill")
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR", "PYTHONWARNINGS")},
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s",
}


HALF_OPEN = "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
"""Tornado leaves a socket to the garbage collector where Dask reaches for a worker that has just died."""


def collect_half_open():
    """Collect such sockets here, and not in a test that has nothing to do with them."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


def wait_until(condition, seconds=60, say=lambda: "", pause=0.05):
    """What `condition` returns, as soon as that is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, say()
        time.sleep(pause)
    return found


def call(*words, cwd=None, timeout=120, **variables):
    """Run the script; never a traceback, whatever happens. Variables are added to its environment."""
    done = subprocess.run(
        [SCRIPT, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env=ENVIRONMENT | variables,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done


def alone(*words, **options):
    """Without a cluster, which starts faster."""
    return call(*words, "--cluster", "none", **options)


def status_within(*words):
    """The exit status of a command that is run in this process, without a cluster: quicker."""
    return within(*words, "--cluster=none").exit_code


def within(*words):
    """A command run in this process: its `exit_code` and `stdout`."""
    done = CliRunner().invoke(app, list(map(str, words)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def before(folder):
    """PYTHONPATH with a folder that goes before all others."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
