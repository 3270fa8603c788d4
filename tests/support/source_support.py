"""Helpers for the tests of sources: empty files, and a check that SOURCE is refused."""

from pathlib import Path

import pytest

from voxelmill.basics.errors import SourceError
from voxelmill.inputs.sources.discover import discover


def touch(*paths: Path) -> None:
    """Create empty files and their folders."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def refuse(source: Path, message: str, **options: object) -> None:
    """Assert that SOURCE is refused with one line that matches `message`."""
    with pytest.raises(SourceError, match=message) as caught:
        discover(source, **options)
    assert "\n" not in str(caught.value)
