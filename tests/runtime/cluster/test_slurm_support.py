"""SLURM is one for the machine: two processes of pytest-xdist never start it at once."""

import subprocess
import sys

from slurm_support import turn

TRY = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""


def is_free(lock):
    done = subprocess.run([sys.executable, "-c", TRY, lock], capture_output=True, text=True)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr
    return done.returncode == 0


def test_a_second_process_waits_for_its_turn(tmp_path):
    lock = tmp_path / "lock"
    with turn(lock):
        with turn(lock):  # a test that starts its own beside that of its file
            assert not is_free(lock)
        assert not is_free(lock)
    assert is_free(lock)
