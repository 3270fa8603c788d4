"""The stages, in the order in which they run. No other module knows this order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum


class Stage(StrEnum):
    """A stage; its value is the command that runs only this stage."""

    INGEST = "ingest"
    FINGERPRINT = "fingerprint"
    PLAN = "plan"
    PREPROCESS = "preprocess"


def in_order(
    stages: Collection[Stage], steps: Mapping[Stage, Callable[[], None]], go_on: Callable[[], bool]
) -> None:
    """Run the steps of the given stages in order, each only if `go_on` returns True before it."""
    for stage in Stage:
        if stage in stages and go_on():
            steps[stage]()
