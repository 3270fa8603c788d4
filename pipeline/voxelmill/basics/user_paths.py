"""Paths as users write them: `~` is the home folder; URLs and addresses of other hosts are refused.

In: a text or a path. Out: a path on this machine. This module does not look at the file system.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from voxelmill.basics.errors import ConfigError

LONGEST_NAME = 255
LONGEST_PATH = 3600
"""Longest name and longest path, in bytes.

File systems accept paths of 4096 bytes; paths within OUT are up to 400 bytes longer than OUT's own.
"""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""Matches ``s3:``, ``https:`` and ``server:``, but not a single letter: that is a Windows drive."""


def local_path(stated: str | Path, what: str) -> Path:
    """Return a user's path with `~` expanded; messages call it `what`, such as "OUT".

    Raises
    ------
    ConfigError
        If the path is the address of an object store, a web page or another host, or is too long.
    """
    path = Path(stated)
    scheme = path.parts[0] if path.parts else ""
    if _SCHEME.fullmatch(scheme):
        raise ConfigError(
            f"{what} begins with {scheme!r}; object stores and addresses cannot be used yet. Name a path "
            "on a disk of this machine, without `file://`."
        )
    with suppress(RuntimeError):  # no such user: then "~name" is the name of a file
        path = path.expanduser()
    name, whole = (len(os.fsencode(p)) for p in (max(path.parts, key=len, default=""), path.absolute()))
    if name > LONGEST_NAME or whole > LONGEST_PATH:
        raise ConfigError(
            f"{what} is too long: {whole} bytes, {name} in its longest name, where {LONGEST_PATH} and "
            f"{LONGEST_NAME} are possible. Choose a shorter path."
        )
    return path
