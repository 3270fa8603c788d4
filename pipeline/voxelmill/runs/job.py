"""The main job: SOURCE through all stages into OUT, or through some of them.

In: paths, settings, an engine. Out: the stores, fingerprint.json, plan.json, report.json. Every command calls
`Job.execute`, which alone knows what is checked, done and reported, and in which order.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from voxelmill.basics.errors import ConfigError, MemoryLimitError
from voxelmill.basics.stage_order import Stage, in_order
from voxelmill.basics.user_paths import local_path
from voxelmill.inputs.sources.case_source import Sources
from voxelmill.inputs.sources.discover import discover
from voxelmill.inputs.sources.pseudonyms import check_mapping, write_mapping
from voxelmill.runs.case_outcomes import Account
from voxelmill.runs.disk_and_memory import check_room, say_memory
from voxelmill.runs.plan_before_work import known_fingerprint, rehearse
from voxelmill.runs.report_json import Report
from voxelmill.runs.resume import check_plan, check_settings, check_sources, remember_sources, remove_raw
from voxelmill.runs.source_and_out_apart import check_apart, check_cases_apart, check_out
from voxelmill.runs.status import check_raw
from voxelmill.runtime.memory_budget import BASE_BYTES, Memory
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine
from voxelmill.stages.fingerprint.dataset_statistics import find_odd_cases, make_fingerprint
from voxelmill.stages.fingerprint.fingerprint_json import Fingerprint
from voxelmill.stages.ingest.ingest import dataset_record, ingest
from voxelmill.stages.planning.make_plan import make_plan
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.planning.plan_reuse import adopt, check_words, fit_plan
from voxelmill.stages.preprocessing.preprocess import check_memory, preprocess
from voxelmill.stages.preprocessing.training_store import deal, training_cases
from voxelmill.stages.raw_store.raw_case import list_cases, read_dataset
from voxelmill.storage import zarr_stores
from voxelmill.storage.lease import Lease, hold

logger = logging.getLogger("voxelmill")

SMALLEST_LIMIT = BASE_BYTES + 2**24
"""Smallest memory limit of a worker that a run can start with, in bytes."""

RUN = "run"
"""The command of all stages."""

Start = Callable[[Lease], AbstractContextManager[Engine]]
"""Starts the engine that runs the stages, once OUT is held."""


@dataclass
class Job(Account):
    """One command on one OUT: its checks, then its work."""

    sources: Sources | None = field(default=None, init=False)
    fingerprint: Fingerprint | None = field(default=None, init=False)
    """The fingerprint that this command made, or found in OUT to plan with."""

    plan: Plan | None = field(default=None, init=False)
    """The plan that this command made, or found in OUT to preprocess with."""

    stale: list[str] = field(default_factory=list, init=False)
    """Raw cases that `restart` ingests again."""

    checked: tuple[Plan, list[tuple[str, str]]] | None = field(default=None, init=False)
    """The plan that was checked last, and what it replaces in the training store: (configuration, case)."""

    def __post_init__(self) -> None:
        self.out = local_path(self.out, "OUT").absolute()  # workers may run in another folder
        limit = self.config.memory_limit
        if limit is not None and limit < SMALLEST_LIMIT:
            raise ConfigError(
                f"--memory-limit is {limit / 2**20:.0f} MiB; a worker takes {BASE_BYTES >> 20} MiB before it "
                f"does anything. Pass {SMALLEST_LIMIT >> 20}MiB or more."
            )
        if self.share is not None and self.restart:
            raise ConfigError(
                "--restart would remove what other shares write. Run it without --share, then the shares."
            )
        if self.frozen is not None:
            self._freeze(self.frozen)

    def _freeze(self, plan: Plan) -> None:
        """Take all settings that change voxels from a plan that is reused."""
        if self.share is not None:
            raise ConfigError(
                "--plan writes OUT/plan.json, which shares read. Run `voxelmill plan OUT` with it first, and "
                "the shares without."
            )
        self.frozen = adopt(plan, self.config)
        self.config = self.frozen.settings

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """The stages from SOURCE to training shards; a plan that is reused needs no statistics."""
        return tuple(stage for stage in Stage if self.frozen is None or stage != Stage.FINGERPRINT)

    def execute(self, stages: Collection[Stage], start: Start, sources: Sources | None = None) -> Report:
        """Hold OUT, run some stages in their order, and report on every case that they cover.

        Parameters
        ----------
        stages : collection of Stage
        start : callable
            Starts the engine. It is not called if no stage needs workers.
        sources : Sources, optional
            What `discover` found. Ingest needs it.

        Raises
        ------
        VoxelmillError
            If the work is refused. Whatever can be known in advance is refused before a worker starts, and a
            refusal changes nothing in OUT.
        """
        self.sources = sources
        self.command = (
            RUN if {Stage.INGEST, Stage.PREPROCESS} <= {*stages} else max(stages, key=list(Stage).index)
        )
        self._foresee(stages)
        with self.hold(self.command) as lease:
            if sources is not None:
                self.check(sources)
            needs_workers = {*stages} != {Stage.PLAN}
            with start(lease) if needs_workers else nullcontext(Engine(None, Reporter())) as engine:
                cases = self._cases(stages)
                with self.working(cases):
                    self.perform(stages, engine)
            return self.report({*cases, *self.failed()})

    def perform(self, stages: Collection[Stage], engine: Engine) -> None:
        """Run some stages in their order, as long as a case is left."""
        steps = {
            Stage.INGEST: self._ingest,
            Stage.FINGERPRINT: self._fingerprint,
            Stage.PLAN: self._plan,
            Stage.PREPROCESS: self._preprocess,
        }
        in_order(stages, {stage: partial(step, engine) for stage, step in steps.items()}, self._has_cases)

    def _has_cases(self) -> bool:
        """Whether a case is left; a share may have none from the start, and goes on to say so."""
        failed = self.failed()
        return not failed or self.sources is None or len(failed) < len(self.my_cases(self.sources))

    def _foresee(self, stages: Collection[Stage]) -> None:
        """Refuse what can be refused by looking at OUT alone."""
        if Stage.INGEST in stages:
            return  # SOURCE is looked at when OUT is held
        if Stage.FINGERPRINT in stages:
            check_raw(self.out)
        elif Stage.PLAN in stages:
            self.plan = self.foresee_plan()
            self.check_plan(self.plan)
        else:
            self.plan = self._planned()

    def _cases(self, stages: Collection[Stage]) -> list[str]:
        """The cases that some stages cover."""
        if self.sources is not None:
            return self.my_cases(self.sources)
        if Stage.PREPROCESS in stages and self.plan is not None:
            return self.planned_cases(self.plan)
        return self.all_cases()

    @contextmanager
    def hold(self, command: str) -> Iterator[Lease]:
        """Lease OUT, so that no other run writes into it; other shares of the same stage may.

        Raises
        ------
        LeaseError
            If another run holds it.
        """
        self.command = command
        with hold(self.out, command, self.share) as lease:
            self.checked = None  # another run may have ended in between
            yield lease

    def discover(self, source: Path) -> Sources:
        """Find the cases of SOURCE, before anything is started or written."""
        typed, source = str(source), local_path(source, "SOURCE").absolute()
        check_apart(source, self.out)
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError("OUT is a file; a folder is needed. Name another path.")
        dicom, outside = self.config.dicom, self.config.ingest.outside
        if dicom.mapping is not None:
            check_mapping(dicom.mapping, self.out)
        check_out(self.out)
        sources = discover(source, channels=self.config.channels, dicom=dicom, outside=outside, typed=typed)
        check_cases_apart(sources, self.out)
        self.remarks = sources.remarks
        if self.frozen is not None:
            check_words(self.frozen, sources)
        nearest = next(p for p in (self.out, *self.out.parents) if p.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            raise ConfigError(
                "OUT cannot be written: no permission, or a file is in the way. Name another path."
            )
        return sources

    def check(self, sources: Sources) -> None:
        """Refuse to mix what OUT holds with other settings or sources. Write nothing.

        `run` checks its plan here too, as far as it can be known before any work.
        """
        dataset = dataset_record(sources, self.config)
        self.stale = check_sources(self.out, sources, dataset, self.config.repair, self.restart, self.share)
        if self.command == "run" and not self.stale:
            if not self.restart:
                check_settings(self.out, self.config)
            plan = rehearse(self.out, sources, self.config, self.frozen)
            if plan is not None:
                self.check_plan(plan)

    def _planned(self) -> Plan:
        """Load OUT's plan, with the settings that this run may choose for itself.

        Raises
        ------
        StoreError
            If OUT holds no plan, or one that another version made.
        """
        plan = Plan.load(self.out)
        read_dataset(self.out)
        plan = adopt(plan, self.config)
        check_memory(plan, Memory(plan.settings.memory_limit))
        check_room(self.out, plan)
        return plan

    def foresee_plan(self) -> Plan:
        """Make the plan that OUT would get, without writing it."""
        if self.frozen is not None:
            check_raw(self.out)
            return fit_plan(self.out, self.frozen)[0]
        if self.fingerprint is None:
            self.fingerprint = known_fingerprint(self.out)
        return make_plan(self.fingerprint, self.config)

    def check_plan(self, plan: Plan) -> list[tuple[str, str]]:
        """Refuse a plan that does not fit OUT; return what `restart` removes: (configuration, case)."""
        if self.checked is None or plan != self.checked[0]:
            stale = check_plan(self.out, plan, self.restart)
            check_room(self.out, plan, stale)
            self.checked = plan, stale
        return self.checked[1]

    def my_cases(self, sources: Sources) -> list[str]:
        """The names of the cases of this share, or of all."""
        mine = sources.cases if self.share is None else self.share.of(sources.cases)
        return [c.case for c in mine]

    def planned_cases(self, plan: Plan) -> list[str]:
        """The names of the cases that this share, or all, has shards of, sorted."""
        names = set[str]()
        for configuration in plan.configurations:
            cases = list(training_cases(self.out, plan, configuration, Memory()))
            names |= {c.case for c, shards in zip(cases, deal(cases, self.share), strict=True) if shards}
        return sorted(names)

    # What each stage does

    def _ingest(self, engine: Engine) -> None:
        """Read source files into the raw store."""
        assert self.sources is not None
        self.remark()
        if self.config.dicom.mapping is not None:
            write_mapping(self.config.dicom.mapping, self.out, self.sources.names)
        remove_raw(self.out, self.stale)
        with self.stage(Stage.INGEST, engine):
            self.outcomes += ingest(self.sources, self.out, self.config, engine, self.share)
            remember_sources(self.out, self.sources, self.share)
        self._check_memory()
        if self.command == Stage.INGEST and self.share is None and self._has_cases():
            self.refuse_odd(Stage.INGEST)  # in a longer run a later stage does

    def _fingerprint(self, engine: Engine) -> None:
        """Merge the facts of the raw store into a fingerprint."""
        with self.stage(Stage.FINGERPRINT, engine):
            odd = self.refuse_odd(Stage.FINGERPRINT)
            names = [name for name in list_cases(self.out) if name not in odd]
            memory = Memory(self.config.memory_limit, engine.threads)
            self.fingerprint = make_fingerprint(self.out, names, engine, memory)
        # A run may still refuse the plan that follows. Then both files of the run before stay.
        if self.command != RUN or not (self.out / Plan.FILE).exists():
            self.fingerprint.save(self.out)

    def _plan(self, engine: Engine) -> None:
        """Write every decision into plan.json, unless it would mix with other settings in OUT."""
        plan = self._refit(engine.threads) if self.frozen else self._make_plan(engine.threads)
        for configuration, case in self.check_plan(plan):
            zarr_stores.remove_group(self.out / zarr_stores.TRAINING, f"{configuration}/{case}")
        for configuration, reason in plan.left_out.items():
            logger.info("plan: %s is left out: %s", configuration, reason)
        if self.fingerprint is not None:
            self.fingerprint.save(self.out)
        plan.save(self.out)
        self.plan = plan

    def _make_plan(self, threads: int) -> Plan:
        assert self.fingerprint is not None
        return make_plan(self.fingerprint, self.config, threads)

    def _refit(self, threads: int) -> Plan:
        """Apply the reused plan to the cases of OUT; refuse the cases that it is not for."""
        assert self.frozen is not None
        plan, misfits = fit_plan(self.out, self.frozen, threads)
        for case, cause in misfits.items():
            self.refuse(Stage.PLAN, case, cause)
        return plan

    def _preprocess(self, engine: Engine) -> None:
        """Crop, normalise and resample the raw store into the training store."""
        assert self.plan is not None
        if self.command == RUN:
            say_memory(self.plan, engine.local_workers)
        self.doubt(self.plan)
        self.forget(case for of in self.plan.configurations.values() for case in of.cases)
        with self.stage(Stage.PREPROCESS, engine):
            self.outcomes += preprocess(self.out, self.plan, engine, self.share)
        self._check_memory()

    def refuse_odd(self, stage: str) -> set[str]:
        """Refuse the cases whose number of channels is not that of most; return their names."""
        odd = find_odd_cases(self.out, list_cases(self.out))
        for case, cause in odd.items():
            self.refuse(stage, case, cause)
        return set(odd)

    def _check_memory(self) -> None:
        """Stop if a case does not fit into memory: the limit is wrong, and not the case."""
        for outcome in self.outcomes:
            if outcome.trouble == "refused":
                raise MemoryLimitError(f"case {outcome.case}: {outcome.cause}")
