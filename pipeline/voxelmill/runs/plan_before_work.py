"""The plan of a rerun, computed before any work so that a bad plan is refused early.

In: OUT, SOURCE and settings. Out: a plan, or None if voxels have to be read first. Writes nothing.
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
    """Return the plan that this run will make, or None if it cannot be known yet.

    It is known if the raw store holds every case of SOURCE, and either a plan is reused or the fingerprint
    covers exactly these cases.

    Raises
    ------
    PlanError, MemoryLimitError
        For the same reasons as `make_plan` and `fit_plan`.
    """
    present = set(zarr_stores.list_groups(out / zarr_stores.RAW))
    if not present or not present >= {c.case for c in sources.cases}:
        return None
    if frozen is not None:
        return fit_plan(out, frozen)[0]
    found = _fingerprint(out, present - failed_cases(out).keys())
    return None if found is None else make_plan(_as_stated(found, sources), config)


def _fingerprint(out: Path, cases: set[str]) -> Fingerprint | None:
    """Return OUT's fingerprint if it covers exactly these cases."""
    try:
        found = Fingerprint.load(out)
    except StoreError:
        return None
    return found if found.cases.keys() == cases else None


def _as_stated(found: Fingerprint, sources: Sources) -> Fingerprint:
    """Return the fingerprint with the channel names and the number of labels that SOURCE states now."""
    names, labels = sources.channel_names, sources.labels
    return found.model_copy(
        update={
            "channel_names": names or found.channel_names,
            "classes": len(labels) if labels else found.classes,
        }
    )


def known_fingerprint(out: Path) -> Fingerprint:
    """Load OUT's fingerprint, to plan by it.

    Raises
    ------
    StoreError
        If there is none, or if the raw store has cases that it does not know.
    """
    found = Fingerprint.load(out)
    known = {*found.cases, *failed_cases(out)}
    new = [case for case in zarr_stores.list_groups(out / zarr_stores.RAW) if case not in known]
    if new:
        raise StoreError(
            f"{len(new)} cases of OUT's raw store are not in fingerprint.json: {new[0]} is one. Run "
            "`voxelmill fingerprint OUT` first."
        )
    return found
