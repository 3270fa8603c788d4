"""What the tests of sources share: empty files, and what SOURCE is refused with."""

from pathlib import Path

import pytest

from voxelmill.basics.errors import SourceError
from voxelmill.inputs.sources.discover import discover


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def refuse(source: Path, message: str, **options: object) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        discover(source, **options)
    assert "\n" not in str(caught.value)
