"""The progress of a run, read from the stores alone: any node can ask, while others work or after they died.

In: OUT. Out: what each stage has done and what it lacks, the cases that the last runs reported as failed, and
the runs that hold OUT. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from voxelmill.basics.errors import StoreError
from voxelmill.config.configuration_names import Configuration
from voxelmill.runs.report_json import failed_cases
from voxelmill.runtime.memory_budget import Memory
from voxelmill.stages.fingerprint.fingerprint_json import Fingerprint
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.preprocessing.training_store import LOOKED_AT_TOGETHER, missing_of, training_cases
from voxelmill.stages.raw_store.raw_case import RawCase, list_cases, read_dataset
from voxelmill.storage import zarr_stores
from voxelmill.storage.lease import HolderState, holders


@dataclass(frozen=True)
class StageStatus:
    """Progress of one stage, counted in units of `what` (cases, files, shards), and its unfinished cases."""

    name: str
    what: str
    done: int
    total: int
    unfinished: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """Progress of a run."""

    stages: tuple[StageStatus, ...]
    failed: dict[str, str]
    """Causes of the unfinished cases that the last runs reported as failed."""

    holders: tuple[HolderState, ...]

    @property
    def unfinished(self) -> list[str]:
        """Cases that are not finished, sorted."""
        return sorted({case for stage in self.stages for case in stage.unfinished})

    @property
    def is_complete(self) -> bool:
        """Whether every case of the source is finished."""
        return not self.unfinished and all(stage.done == stage.total for stage in self.stages)


def read_status(out: Path) -> Status:
    """Return the status of OUT.

    Raises
    ------
    StoreError
        If OUT does not hold the stores of a run.
    """
    cases = read_dataset(out).cases or tuple(zarr_stores.list_groups(out / zarr_stores.RAW))
    stages = [_ingest(out, cases), *_documents(out)]
    if stages[-1].done:
        plan = Plan.load(out)
        stages += [_preprocess(out, plan, configuration, cases) for configuration in plan.configurations]
    at_work = tuple(holder for holder in holders(out) if holder.is_alive is not False)
    found = Status(tuple(stages), {}, at_work)
    causes = failed_cases(out)
    return replace(found, failed={case: causes[case] for case in found.unfinished if case in causes})


def check_raw(out: Path) -> None:
    """Refuse to go on without a raw store, or with one that lacks cases which no report lists as failed.

    Raises
    ------
    StoreError
        Names one of the missing cases.
    """
    known = {*list_cases(out), *failed_cases(out)}
    lacking = [case for case in read_dataset(out).cases if case not in known]
    if lacking:
        raise StoreError(
            f"{len(lacking)} cases of SOURCE are not in the raw store, and none is reported as failed: "
            f"{lacking[0]} is one. Run `voxelmill ingest`, or the share of it that ended early, again."
        )


def _ingest(out: Path, cases: Sequence[str]) -> StageStatus:
    with ThreadPoolExecutor(LOOKED_AT_TOGETHER) as threads:
        whole = list(threads.map(lambda case: RawCase(out, case).is_whole, cases))
    unfinished = tuple(case for case, is_whole in zip(cases, whole, strict=True) if not is_whole)
    return StageStatus("ingest", "cases", sum(whole), len(cases), unfinished)


def _documents(out: Path) -> list[StageStatus]:
    """Return the states of fingerprint and plan; only a plan that reuses another has no fingerprint."""
    plan = _document(out, "plan", Plan)
    if plan.done and not (out / Fingerprint.FILE).exists():
        return [plan]
    return [_document(out, "fingerprint", Fingerprint), plan]


def _document(out: Path, name: str, kind: type[Fingerprint] | type[Plan]) -> StageStatus:
    try:
        kind.load(out)
    except StoreError:
        return StageStatus(name, "file", 0, 1)
    return StageStatus(name, "file", 1, 1)


def _preprocess(out: Path, plan: Plan, configuration: Configuration, cases: Sequence[str]) -> StageStatus:
    """Count the shards of the plan; a case of the source that is not in the plan is unfinished."""
    planned = list(training_cases(out, plan, configuration, Memory()))
    missing: Sequence[Sequence[int]] = missing_of(planned)
    total, left = sum(case.plan.shards for case in planned), sum(len(shards) for shards in missing)
    whole = {case.case for case, shards in zip(planned, missing, strict=True) if not shards}
    unfinished = tuple(case for case in cases if case not in whole)
    return StageStatus(f"preprocess {configuration}", "shards", total - left, total, unfinished)
