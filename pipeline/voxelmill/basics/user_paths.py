"""Paths as a user states them: `~` is the home folder, and an address is refused by name.

In: a text or a path. Out: a path of this machine's file systems. Looks at no file.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from voxelmill.basics.errors import ConfigError

LONGEST_NAME = 255
LONGEST_PATH = 3600
"""Bytes: file systems take paths of 4096, and what is written into OUT is up to 400 longer."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""``s3:``, ``https:``, ``server:``; one letter alone is a drive of Windows."""


def local_path(stated: str | Path, what: str) -> Path:
    """The path that a user means; `what` is what messages call it, such as "OUT".

    Raises
    ------
    ConfigError
        If it is the address of an object store, a web page or another host, or too long for a file system.
    """
    path = Path(stated)
    scheme = path.parts[0] if path.parts else ""
    if _SCHEME.fullmatch(scheme):
        raise ConfigError(
            f"{what} begins with {scheme!r}; object stores and addresses cannot be used yet. Name a path "
            "on a disk of this machine, without `file://`."
        )
    with suppress(RuntimeError):  # of a user that there is none of: it is the name of a file
        path = path.expanduser()
    name, whole = (len(os.fsencode(p)) for p in (max(path.parts, key=len, default=""), path.absolute()))
    if name > LONGEST_NAME or whole > LONGEST_PATH:
        raise ConfigError(
            f"{what} is too long: {whole} bytes, {name} in its longest name, where {LONGEST_PATH} and "
            f"{LONGEST_NAME} are possible. Choose a shorter path."
        )
    return path
