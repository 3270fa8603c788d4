"""What a run did: one entry a case, with its cause where it failed; written to report.json and printed.

In: outcomes of the stages. Out: a `Report`, its file and its table. Holds no file names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from rich.table import Table

from voxelmill.config import Model
from voxelmill.document import Document
from voxelmill.graph import Outcome


class CaseReport(Model):
    """What became of one case."""

    case: str
    status: Literal["done", "failed"]
    cause: str | None = None
    seconds: float = 0.0
    """Time of its tasks, added up."""

    peak_bytes: int = 0
    """Largest resident memory of a worker while it worked on the case."""


class Report(Document):
    """What a run did.

    Attributes are the fields of report.json.
    """

    FILE = "report.json"
    COMMAND = "voxelmill run SOURCE OUT"

    cases: tuple[CaseReport, ...]
    seconds: float
    """Wall time of the whole run."""

    voxels: int
    """Voxels written to the training store in this run, channels counted."""

    peak_bytes: int
    """Largest resident memory of a worker."""

    stages: dict[str, float]
    """Seconds of wall time of each stage."""

    stage_peak_bytes: dict[str, int]
    """Largest resident memory of a worker in each stage; plan.json has what was planned."""

    @property
    def failed(self) -> list[CaseReport]:
        """The cases that failed."""
        return [c for c in self.cases if c.status == "failed"]

    def table(self) -> Table:
        """The table at the end of a run."""
        table = Table(title="voxelmill", title_justify="left", show_header=False)
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_row("cases done", str(len(self.cases) - len(self.failed)))
        table.add_row("cases failed", str(len(self.failed)))
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
) -> Report:
    """Join the outcomes of all stages case by case; the first failure of a case is its cause."""
    by_case: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_case[outcome.case].append(outcome)
    return Report(
        cases=tuple(_case_report(case, by_case[case]) for case in cases),
        seconds=round(seconds, 3),
        voxels=voxels,
        peak_bytes=max((o.peak_bytes for o in outcomes), default=0),
        stages={name: round(s, 3) for name, s in stages.items()},
        stage_peak_bytes=peak_bytes,
    )


def _case_report(case: str, outcomes: list[Outcome]) -> CaseReport:
    cause = next((o.cause for o in outcomes if o.cause is not None), None)
    return CaseReport(
        case=case,
        status="done" if cause is None else "failed",
        cause=cause,
        seconds=round(sum(o.seconds for o in outcomes), 3),
        peak_bytes=max((o.peak_bytes for o in outcomes), default=0),
    )
