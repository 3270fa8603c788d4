"""What all tests share."""

import os
import signal
import socket
import tempfile
import warnings
from contextlib import suppress

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


def pytest_configure(config):
    """Hold the dashboard's usual port: where two clusters find it free, Dask leaves a socket open."""
    if not hasattr(config, "workerinput"):  # in the process that starts those of pytest-xdist
        with suppress(OSError):
            _DASHBOARD.bind(("127.0.0.1", 8787))
            _DASHBOARD.listen()


def pytest_unconfigure():
    """Give it back."""
    _DASHBOARD.close()
