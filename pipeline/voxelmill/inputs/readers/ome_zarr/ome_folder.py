"""Which folders are OME-Zarr images, by their metadata.

In: paths. Out: answers and metadata. Reads small JSON files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_OME_KEYS = {"multiscales", "plate", "well", "labels", "bioformats2raw.layout"}


def ome_metadata(folder: Path) -> dict[str, Any]:
    """What OME-Zarr 0.4 (Zarr v2) or 0.5 (Zarr v3) says of a group; empty where it says nothing."""
    attributes = _json(folder / "zarr.json").get("attributes")
    ome = attributes.get("ome") if isinstance(attributes, dict) else _json(folder / ".zattrs")
    return ome if isinstance(ome, dict) and _OME_KEYS & ome.keys() else {}


def holds_ome(path: Path) -> bool:
    """Whether a path is a folder with OME metadata."""
    return path.is_dir() and bool(ome_metadata(path))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
