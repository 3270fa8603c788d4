"""This module checks that a path named in a file stays within a folder.

In: a folder, and a path as a text states it. Out: the path, or None if it leads out of the folder. The check
looks at the text of the path only. Symbolic links in the folder are allowed: the folder's owner made them.
"""

from __future__ import annotations

import os
from pathlib import Path


def within(folder: Path, stated: str) -> Path | None:
    """Return the path without ``..``, or None if it leads out of the folder.

    ``..`` is removed because after a symbolic link it would lead elsewhere.

    Parameters
    ----------
    folder : Path
        The folder that relative paths start from.
    stated : str
        A relative or an absolute path. An absolute one may begin with the folder as given or as resolved.

    Returns
    -------
    Path or None
        None also if the text cannot be a path.
    """
    if "\0" in stated:
        return None
    path = Path(os.path.normpath(folder / stated))
    homes = (Path(os.path.normpath(folder)), folder.resolve())
    return path if any(path.is_relative_to(home) for home in homes) else None
