"""The plan that a run on an OUT will come to, where it is known before any work: so it is refused early.

In: OUT, SOURCE and settings. Out: a plan, or none where there is something to read first. Writes nothing.
"""

from __future__ import annotations

from pathlib import Path

from voxelmill import store
from voxelmill.config import Config
from voxelmill.errors import StoreError
from voxelmill.fingerprint import Fingerprint
from voxelmill.frozen import fit_plan
from voxelmill.plan import Plan
from voxelmill.planner import make_plan
from voxelmill.report import failed_cases
from voxelmill.sources import Sources


def rehearse(out: Path, sources: Sources, config: Config, frozen: Plan | None) -> Plan | None:
    """The plan of an OUT whose raw store has every case of SOURCE; None of any other.

    Raises
    ------
    PlanError, MemoryLimitError
        As making the plan does.
    """
    present = set(store.list_groups(out / store.RAW))
    if not present or not present >= {c.case for c in sources.cases}:
        return None
    if frozen is not None:
        return fit_plan(out, frozen)[0]
    found = _fingerprint(out, present - failed_cases(out).keys())
    return None if found is None else make_plan(_as_stated(found, sources), config)


def _fingerprint(out: Path, cases: set[str]) -> Fingerprint | None:
    """That of some cases and of no others."""
    try:
        found = Fingerprint.load(out)
    except StoreError:
        return None
    return found if found.cases.keys() == cases else None


def _as_stated(found: Fingerprint, sources: Sources) -> Fingerprint:
    """A fingerprint with what SOURCE says now of its channels and labels."""
    names, labels = sources.channel_names, sources.labels
    return found.model_copy(
        update={
            "channel_names": names or found.channel_names,
            "classes": len(labels) if labels else found.classes,
        }
    )
