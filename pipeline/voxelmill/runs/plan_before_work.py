"""The plan that a run on an OUT will come to, where it is known before any work: so it is refused early.

In: OUT, SOURCE and settings. Out: a plan, or none where there is something to read first. Writes nothing.
"""

from __future__ import annotations

from pathlib import Path

from voxelmill.basics.errors import StoreError
from voxelmill.config.settings import Config
from voxelmill.inputs.sources.case_source import Sources
from voxelmill.runs.report_json import failed_cases
from voxelmill.stages.fingerprint.fingerprint_json import Fingerprint
from voxelmill.stages.planning.make_plan import make_plan
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.planning.plan_reuse import fit_plan
from voxelmill.storage import zarr_stores


def rehearse(out: Path, sources: Sources, config: Config, frozen: Plan | None) -> Plan | None:
    """The plan of an OUT whose raw store has every case of SOURCE; None of any other.

    Raises
    ------
    PlanError, MemoryLimitError
        As making the plan does.
    """
    present = set(zarr_stores.list_groups(out / zarr_stores.RAW))
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
