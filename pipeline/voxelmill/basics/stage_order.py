"""The stages, in the order in which data pass them. Nothing else knows this order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum


class Stage(StrEnum):
    """One stage; its value is the command that runs it alone."""

    INGEST = "ingest"
    FINGERPRINT = "fingerprint"
    PLAN = "plan"
    PREPROCESS = "preprocess"


def in_order(
    stages: Collection[Stage], steps: Mapping[Stage, Callable[[], None]], go_on: Callable[[], bool]
) -> None:
    """Take the steps of some stages, one after the other, for as long as there is something to go on with."""
    for stage in Stage:
        if stage in stages and go_on():
            steps[stage]()
