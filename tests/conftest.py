"""What all tests share."""

import os
import signal
import socket
import tempfile
import warnings
from contextlib import suppress

import psutil
from hypothesis import settings

with warnings.catch_warnings(action="ignore"):  # SWIG's, which older versions do not survive as errors
    import SimpleITK  # noqa: F401

# In a shell's background job Ctrl-C is ignored, and processes of tests inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("voxelmill", deadline=None)  # timings are noisy, and first calls compile
settings.load_profile("voxelmill")

_HOME = tempfile.TemporaryDirectory()
os.environ["XDG_CONFIG_HOME"] = _HOME.name  # where the secret of pseudonyms is made, not in the user's own

_DASHBOARD = socket.socket()
_MEMORY = "/dev/shm"


def pytest_configure(config):
    """Choose where folders of tests are, and hold the dashboard's usual port.

    Quick tests write to memory: on a disk they would wait for it nearly as long as they compute. Slow tests
    write more, and use the disk. As for the port: where two clusters find it free, Dask leaves a socket open.
    """
    if "not slow" in config.option.markexpr and memory_has_room(2 << 30):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)
    if not hasattr(config, "workerinput"):  # in the process that starts those of pytest-xdist
        with suppress(OSError):
            _DASHBOARD.bind(("127.0.0.1", 8787))
            _DASHBOARD.listen()


def memory_has_room(size):
    """Whether folders in memory can take some bytes, and programs can be started there."""
    try:
        found = os.statvfs(_MEMORY)
    except OSError:  # not on Linux
        return False
    room = min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available // 2)
    return room >= size and os.access(_MEMORY, os.W_OK) and not found.f_flag & os.ST_NOEXEC


def pytest_unconfigure():
    """Give it back."""
    _DASHBOARD.close()
