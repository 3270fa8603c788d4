"""Recognition of OME-Zarr folders by their metadata.

In: a path. Out: the metadata, or yes or no. This module reads small JSON files only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_OME_KEYS = {"multiscales", "plate", "well", "labels", "bioformats2raw.layout"}


def ome_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of OME-Zarr 0.4 (Zarr v2) or 0.5 (Zarr v3) of a group; empty if there are none."""
    attributes = _json(folder / "zarr.json").get("attributes")
    ome = attributes.get("ome") if isinstance(attributes, dict) else _json(folder / ".zattrs")
    return ome if isinstance(ome, dict) and _OME_KEYS & ome.keys() else {}


def holds_ome(path: Path) -> bool:
    """Return whether a path is a folder with OME metadata."""
    return path.is_dir() and bool(ome_metadata(path))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
