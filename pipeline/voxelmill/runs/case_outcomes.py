"""The outcomes that one command on one OUT has collected so far, and the report made of them.

In: outcomes of stages, and the reports that OUT holds. Out: report.json. The order of stages is not known
here; `job` holds it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from voxelmill.basics.errors import ClusterLostError, DiskError, StoreError, VoxelmillError, disk_message
from voxelmill.basics.stage_share import Share
from voxelmill.config.settings import Config
from voxelmill.runs.report_json import (
    Report,
    continued,
    failed_cases,
    load_report,
    make_report,
    save_share,
    set_aside,
)
from voxelmill.runs.status import read_status
from voxelmill.runtime.progress_display import say_failed
from voxelmill.runtime.stage_engine import Engine
from voxelmill.runtime.tasks import Outcome
from voxelmill.stages.planning.plan_doubts import doubts
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.raw_store.notes_and_repairs import read_remarks
from voxelmill.stages.raw_store.raw_case import read_dataset
from voxelmill.storage import zarr_stores
from voxelmill.storage.lease import live_ids
from voxelmill.storage.partial_files import sweep

logger = logging.getLogger("voxelmill")

NOT_FINISHED = "not finished"
"""First words of the cause of a case that the run ended before finishing."""

FEW = 5
"""Number of cases that look wrong and are logged by name; the rest are counted."""


@dataclass
class Account:
    """One command on one OUT, with its outcomes so far."""

    out: Path
    config: Config
    restart: bool = False
    share: Share | None = None
    frozen: Plan | None = None
    """The plan that this command reuses (`--plan`)."""

    command: str = field(default="run", init=False)
    outcomes: list[Outcome] = field(default_factory=list, init=False)
    doubts: dict[str, str] = field(default_factory=dict, init=False)
    """Suspected mistakes in the source, by case."""

    remarks: tuple[str, ...] = field(default=(), init=False)
    """Notes for the user on how SOURCE was read."""

    before: Report | None = field(default=None, init=False)
    """Report of the stages that earlier commands ran on their own."""

    earlier: dict[str, str] = field(default_factory=dict, init=False)
    """Causes of failure that earlier stages reported, by case."""

    stages: dict[str, float] = field(default_factory=dict, init=False)
    peak_bytes: dict[str, int] = field(default_factory=dict, init=False)
    started: float = field(default_factory=time.perf_counter, init=False)

    def failed(self) -> set[str]:
        """Return the cases that have failed so far."""
        return {o.case for o in self.outcomes if o.cause is not None}

    def refuse(self, stage: str, case: str, cause: str) -> None:
        """Record that a case stops at this stage, unless its failure is already recorded."""
        if case not in self.failed():
            say_failed(stage, case, cause)
            self.outcomes.append(Outcome(stage, case, cause=cause))

    def remark(self) -> None:
        """Log the notes on how SOURCE was read; the report holds them too."""
        for what in self.remarks:
            logger.info("source: %s", what)

    def doubt(self, plan: Plan) -> None:
        """Log suspected mistakes in the source, and keep them for the report."""
        self.doubts = {case: f"this looks wrong: {why}" for case, why in doubts(plan).items()}
        for case, what in list(self.doubts.items())[:FEW]:
            logger.warning("plan: case %s: %s", case, what)
        if len(self.doubts) > FEW:
            logger.warning("plan: so do %d more cases, see report.json", len(self.doubts) - FEW)

    def forget(self, cases: Iterable[str]) -> None:
        """Drop the causes that earlier stages reported for cases that are now processed again."""
        for case in cases:
            self.earlier.pop(case, None)

    @contextmanager
    def working(self, cases: Sequence[str]) -> Iterator[None]:
        """Guard the work on some cases.

        If the work is refused, OUT's earlier reports are put back. If the cluster or OUT's disk is lost, the
        unfinished cases are reported and the error is raised again.

        Raises
        ------
        ClusterLostError, DiskError
            After the unfinished cases are reported.
        """
        for folder in (self.out, self.out / "logs", self.out / "logs" / "in_place"):
            sweep(folder, lambda: live_ids(self.out))  # small files that a killed run was writing
        if self.command not in ("run", "ingest"):  # these start over from SOURCE, and so does the report
            self.before, self.earlier = load_report(self.out), self._earlier()
        try:
            with set_aside(self.out, self.command, self.share):
                yield
        except (ClusterLostError, DiskError) as error:
            self._report_lost(cases, error)
            raise
        except OSError as error:
            if line := disk_message(error):
                self._report_lost(cases, DiskError(line))
                raise DiskError(line) from None
            raise

    def _earlier(self) -> dict[str, str]:
        """Return the causes that earlier stages reported, by case.

        A cause "not finished" is dropped if the case is in the raw store: this command can go on with it.
        """
        known, present = self.all_cases(), set(zarr_stores.list_groups(self.out / zarr_stores.RAW))
        causes = {case: why for case, why in failed_cases(self.out).items() if case in known}
        return {c: why for c, why in causes.items() if c not in present or not why.startswith(NOT_FINISHED)}

    def all_cases(self) -> list[str]:
        """Return all cases of the dataset in OUT: those of its record, or else those of the raw store."""
        with suppress(StoreError):
            return list(read_dataset(self.out).cases) or zarr_stores.list_groups(self.out / zarr_stores.RAW)
        return []

    def _report_lost(self, cases: Sequence[str], error: VoxelmillError) -> None:
        """Report every unfinished case with the error that ended the run, if OUT can still be written."""
        with suppress(StoreError, OSError):
            unfinished, failed = set(read_status(self.out).unfinished), self.failed()
            cause = f"{NOT_FINISHED}: {error}"
            self.outcomes += [Outcome("", c, cause=cause) for c in cases if c in unfinished - failed]
            self.report(cases)

    @contextmanager
    def stage(self, name: str, engine: Engine) -> Iterator[None]:
        """Record the wall time and the peak memory of a stage."""
        start = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - start
        self.peak_bytes |= engine.peak_bytes

    def report(self, cases: Iterable[str]) -> Report:
        """Write report.json and return the report; a share writes its own file and joins all shares.

        Causes that earlier stages reported are kept for cases that this command does not process.
        """
        failed = self.failed()
        left = {case: why for case, why in self.earlier.items() if case not in failed}
        if self.share is None:
            self.outcomes += [Outcome("", case, cause=cause) for case, cause in left.items()]
            cases = {*cases, *left}
        # A task of preprocess returns the number of image voxels that it wrote, None for a label.
        written = sum(o.value or 0 for o in self.outcomes if o.name.startswith("preprocess"))
        seconds = time.perf_counter() - self.started
        names = sorted(cases)
        remarks = read_remarks(self.out, names)
        report = make_report(
            names, self.outcomes, written, self.stages, self.peak_bytes, seconds, remarks, self.doubts
        )
        report = report.model_copy(update={"notes": self.remarks})
        if self.share is not None:
            save_share(self.out, self.command, self.share, report, left)
            return report
        if self.before is not None:
            report = continued(self.before, report)
        report.save(self.out)
        return report
