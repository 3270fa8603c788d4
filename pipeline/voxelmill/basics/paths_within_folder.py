"""Whether a path that a file names stays within a folder.

In: a folder, and a path as some text states it. Out: the path, or nothing where it leads out. Only the words
count: symbolic links within the folder are followed, since whoever made the folder made them.
"""

from __future__ import annotations

import os
from pathlib import Path


def within(folder: Path, stated: str) -> Path | None:
    """The path that is meant, without ``..``, which would mean something else behind a link.

    Parameters
    ----------
    folder : Path
        What a relative path starts from.
    stated : str
        Relative or absolute; an absolute one may name the folder as it was named, or as it really lies.

    Returns
    -------
    Path or None
        None where it leads out of the folder, or can be no path.
    """
    if "\0" in stated:
        return None
    path = Path(os.path.normpath(folder / stated))
    homes = (Path(os.path.normpath(folder)), folder.resolve())
    return path if any(path.is_relative_to(home) for home in homes) else None
