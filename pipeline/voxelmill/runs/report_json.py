"""The report of a run: one entry per case, with the cause if it failed; saved as report.json and printed.

In: outcomes of the stages. Out: a `Report`, its file and its table. Each share keeps its report in OUT/logs,
and report.json joins them. A report holds no file names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError
from rich.table import Table

from voxelmill.basics.errors import ENDED, StoreError, VoxelmillError
from voxelmill.basics.record_base import Model
from voxelmill.basics.stage_share import Share
from voxelmill.runtime.tasks import Outcome
from voxelmill.stages.raw_store.notes_and_repairs import Remarks
from voxelmill.storage.json_documents import Document
from voxelmill.storage.partial_files import remove, trash_name, write_whole

LOGS = "logs"

FEW = 5
"""Number of failed cases that the `repr` of a report names."""

T = TypeVar("T", int, float)


class CaseReport(Model):
    """The result of one case."""

    case: str
    status: Literal["done", "failed"]
    cause: str | None = None
    seconds: float = 0.0
    """Sum of the seconds of its tasks."""

    peak_bytes: int = 0
    """Largest resident memory, in bytes, of a worker while it worked on the case."""

    notes: tuple[str, ...] = ()
    """Notes for the user on how the case was read."""

    repairs: tuple[str, ...] = ()
    """Each repair of its source: the setting that allowed it, and what was done."""


class Report(Document):
    """The result of a run: what happened to each case, and the time and memory that it took.

    The attributes are the fields of report.json.
    """

    FILE = "report.json"
    COMMAND = "voxelmill run SOURCE OUT"

    cases: tuple[CaseReport, ...]
    seconds: float
    """Wall time of the whole run, in seconds."""

    voxels: int
    """Voxels written to the training store in this run; each channel counts."""

    peak_bytes: int
    """Largest resident memory of a worker, in bytes."""

    stages: dict[str, float]
    """Wall time of each stage, in seconds."""

    stage_peak_bytes: dict[str, int]
    """Largest resident memory of a worker in each stage, in bytes; plan.json has the planned values."""

    notes: tuple[str, ...] = ()
    """Notes for the user on how SOURCE as a whole was read."""

    def __repr__(self) -> str:
        """Return two lines: the counts of cases, and the time and memory."""
        counts = f"{len(self.cases) - len(self.failed)} of {len(self.cases)} cases done"
        failed = ", ".join(c.case for c in self.failed[:FEW])
        more = f" and {len(self.failed) - FEW} more" if len(self.failed) > FEW else ""
        size = f"{self.voxels:,} voxels written, {self.peak_bytes / 2**20:.0f} MiB a worker at most"
        return (
            f"Report: {counts}{f'; failed: {failed}{more}' if failed else ''}\n{self.seconds:.1f} s, {size}"
        )

    __str__ = __repr__

    def __dir__(self) -> list[str]:
        """List the names that users need, without those of pydantic."""
        return sorted([*type(self).model_fields, "failed", "load", "save", "table"])

    @property
    def failed(self) -> list[CaseReport]:
        """Cases that failed."""
        return [c for c in self.cases if c.status == "failed"]

    def table(self) -> Table:
        """Return the summary table that is printed at the end of a run."""
        table = Table(title="voxelmill", title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_row("cases done", str(len(self.cases) - len(self.failed)))
        table.add_row("cases failed", str(len(self.failed)))
        if repaired := sum(bool(c.repairs) for c in self.cases):
            table.add_row("cases repaired", str(repaired))
        table.add_row("seconds", f"{self.seconds:.1f}")
        for stage, seconds in self.stages.items():
            table.add_row(f"  {stage}", f"{seconds:.1f}")
        table.add_row("voxels written", f"{self.voxels:,}")
        table.add_row("voxels/s", f"{self.voxels / max(self.seconds, 1e-9):,.0f}")
        table.add_row("peak memory of a worker", f"{self.peak_bytes / 2**20:.0f} MiB")
        return table


def make_report(
    cases: Iterable[str],
    outcomes: list[Outcome],
    voxels: int,
    stages: dict[str, float],
    peak_bytes: dict[str, int],
    seconds: float,
    remarks: Mapping[str, Remarks],
    doubts: Mapping[str, str] | None = None,
) -> Report:
    """Merge the outcomes of all stages case by case; the first failure of a case is its cause.

    Parameters
    ----------
    cases : iterable of str
        Cases of the report, in its order.
    outcomes : list of Outcome
    voxels : int
        Voxels written to the training store.
    stages : dict
        Wall time of each stage, in seconds.
    peak_bytes : dict
        Peak memory of a worker in each stage, in bytes.
    seconds : float
        Wall time of the whole run.
    remarks : mapping
        Notes and repairs, by case.
    doubts : mapping, optional
        Suspected mistakes in the source, by case; they are added to the notes.
    """
    wrong = doubts or {}
    by_case: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_case[outcome.case].append(outcome)
    return Report(
        cases=tuple(
            _case_report(case, by_case[case], remarks.get(case, Remarks()), wrong.get(case)) for case in cases
        ),
        seconds=round(seconds, 3),
        voxels=voxels,
        peak_bytes=max((o.peak_bytes for o in outcomes), default=0),
        stages={name: round(s, 3) for name, s in stages.items()},
        stage_peak_bytes=peak_bytes,
    )


def _case_report(case: str, outcomes: list[Outcome], remarks: Remarks, doubt: str | None) -> CaseReport:
    cause = next((o.cause for o in outcomes if o.cause is not None), None)
    return CaseReport(
        case=case,
        status="done" if cause is None else "failed",
        cause=cause,
        seconds=round(sum(o.seconds for o in outcomes), 3),
        peak_bytes=max((o.peak_bytes for o in outcomes), default=0),
        notes=remarks.notes if doubt is None else (*remarks.notes, doubt),
        repairs=tuple(f"{repair.setting}: {repair.what}" for repair in remarks.repairs),
    )


def save_share(
    out: Path, stage: str, share: Share, report: Report, left: Mapping[str, str] | None = None
) -> None:
    """Save the report of one share, and join the reports of all shares in report.json.

    `left` maps the cases that no share of this stage processes to their causes.
    """
    write_whole(
        out / LOGS / f"report-{stage}{share.suffix}.json", (report.model_dump_json(indent=1) + "\n").encode()
    )
    rows = (CaseReport(case=case, status="failed", cause=cause) for case, cause in (left or {}).items())
    others = report.model_copy(update={"cases": tuple(rows)})
    join_reports([*_share_reports(out), others]).save(out)


@contextmanager
def set_aside(out: Path, stage: str, share: Share | None) -> Iterator[None]:
    """Hide the reports of earlier runs of a stage while it works; restore them if the work is refused.

    A share leaves the reports of the other shares in place.
    """
    moved = {file: trash_name(file) for file in _earlier_reports(out, stage, share)}
    for file, trash in moved.items():
        file.rename(trash)
    try:
        yield
    except ENDED:  # some work was done, so the earlier reports no longer hold
        raise
    except VoxelmillError:
        for file, trash in moved.items():
            trash.rename(file)
        raise
    for trash in moved.values():
        remove(trash)


def _earlier_reports(out: Path, stage: str, share: Share | None) -> list[Path]:
    files = [file for file in (out / Report.FILE,) if share is None and file.exists()]
    for file in (out / LOGS).glob(f"report-{'*' if stage == 'run' else stage}-*of*.json"):
        # Reports of shares of another count divide the cases differently, and are outdated.
        own = share is not None and file.stem.endswith(share.suffix)
        if share is None or own or not file.stem.endswith(f"of{share.count}"):
            files.append(file)
    return files


def load_report(out: Path) -> Report | None:
    """Return the report in OUT, or None if there is none or it cannot be read."""
    with suppress(StoreError):
        return Report.load(out)
    return None


def continued(before: Report, now: Report) -> Report:
    """Extend the report of earlier stages by that of a later one, with the newest result of each case."""
    rows = {case.case: case for case in before.cases}
    stages = before.stages | now.stages
    return now.model_copy(
        update={
            "cases": tuple(_after(rows.get(case.case, case), case) for case in now.cases),
            "seconds": round(sum(stages.values()), 3),
            "voxels": now.voxels if "preprocess" in now.stages else before.voxels,
            "peak_bytes": max(before.peak_bytes, now.peak_bytes),
            "stages": stages,
            "stage_peak_bytes": before.stage_peak_bytes | now.stage_peak_bytes,
            "notes": now.notes or before.notes,
        }
    )


def _after(before: CaseReport, now: CaseReport) -> CaseReport:
    if before is now:
        return now
    seconds = round(before.seconds + now.seconds, 3)
    return now.model_copy(update={"seconds": seconds, "peak_bytes": max(before.peak_bytes, now.peak_bytes)})


def failed_cases(out: Path) -> dict[str, str]:
    """Return the cases that the last runs on OUT, or their shares, reported as failed, with the causes."""
    reports = _share_reports(out)
    with suppress(StoreError):
        reports.append(Report.load(out))
    return {c.case: c.cause or "" for report in reports for c in report.failed}


def join_reports(reports: Sequence[Report]) -> Report:
    """Merge the reports of shares that ran side by side: largest seconds and memory, sum of the voxels."""
    by_case: dict[str, list[CaseReport]] = defaultdict(list)
    for case in (case for report in reports for case in report.cases):
        by_case[case.case].append(case)
    return Report(
        cases=tuple(_join(by_case[case]) for case in sorted(by_case)),
        seconds=max(r.seconds for r in reports),
        voxels=sum(r.voxels for r in reports),
        peak_bytes=max(r.peak_bytes for r in reports),
        stages=_most(r.stages for r in reports),
        stage_peak_bytes=_most(r.stage_peak_bytes for r in reports),
        notes=tuple(dict.fromkeys(note for r in reports for note in r.notes)),
    )


def _share_reports(out: Path) -> list[Report]:
    """Return the readable reports of shares, in the order of their file names."""
    reports = []
    for file in sorted((out / LOGS).glob("report-*of*.json")):
        with suppress(OSError, ValidationError):
            reports.append(Report.model_validate_json(file.read_bytes()))
    return reports


def _join(parts: Sequence[CaseReport]) -> CaseReport:
    failed = next((part for part in parts if part.status == "failed"), parts[0])
    seconds = round(sum(part.seconds for part in parts), 3)
    return failed.model_copy(update={"seconds": seconds, "peak_bytes": max(p.peak_bytes for p in parts)})


def _most(rows: Iterable[dict[str, T]]) -> dict[str, T]:
    """Return the largest value of each key."""
    most: dict[str, T] = {}
    for row in rows:
        most |= {key: max(value, most.get(key, value)) for key, value in row.items()}
    return most
