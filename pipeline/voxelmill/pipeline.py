"""The main job: SOURCE through all stages into OUT, and each stage by itself.

In: paths, settings, an engine. Out: the stores, fingerprint.json, plan.json, report.json. The order in
which things are checked, run and reported is here and nowhere else.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from voxelmill import store
from voxelmill.account import Account
from voxelmill.apart import check_apart, check_cases_apart, check_out
from voxelmill.cases import list_cases, read_dataset
from voxelmill.disk import check_room
from voxelmill.errors import (
    ConfigError,
    MemoryLimitError,
    StoreError,
)
from voxelmill.fingerprint import Fingerprint
from voxelmill.frozen import adopt, check_words, fit_plan
from voxelmill.graph import Engine
from voxelmill.ingest import dataset_record
from voxelmill.ingest import ingest as ingest_cases
from voxelmill.lease import Lease, hold
from voxelmill.memory import BASE_BYTES, Memory
from voxelmill.paths import local_path
from voxelmill.plan import Plan
from voxelmill.planner import make_plan
from voxelmill.preprocess import check_memory
from voxelmill.preprocess import preprocess as preprocess_cases
from voxelmill.pseudonyms import check_mapping, write_mapping
from voxelmill.rehearsal import rehearse
from voxelmill.report import (
    Report,
    failed_cases,
)
from voxelmill.resume import check_plan, check_settings, check_sources, remember_sources, remove_raw
from voxelmill.sources import Sources, discover
from voxelmill.statistics import find_odd_cases, make_fingerprint
from voxelmill.status import check_raw
from voxelmill.summary import say_memory
from voxelmill.training import deal, training_cases

if TYPE_CHECKING:
    pass

logger = logging.getLogger("voxelmill")

SMALLEST_LIMIT = BASE_BYTES + 2**24
"""Bytes of a worker's memory below which it is no use to begin."""


@dataclass
class Job(Account):
    """One command on one OUT: what is checked, then what is done."""

    stale: list[str] = field(default_factory=list, init=False)
    """Raw cases that `restart` makes again."""

    rehearsed: tuple[Plan, list[tuple[str, str]]] | None = field(default=None, init=False)
    """The plan that is expected, and what it replaces."""

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
        """Take all settings that matter from a plan."""
        if self.share is not None:
            raise ConfigError(
                "--plan writes OUT/plan.json, which shares read. Run `voxelmill plan OUT` with it first, and "
                "the shares without."
            )
        self.frozen = adopt(plan, self.config)
        self.config = self.frozen.settings

    @contextmanager
    def hold(self, command: str) -> Iterator[Lease]:
        """Keep OUT from other runs, but for other shares of the same stage.

        Raises
        ------
        LeaseError
            If another run holds it.
        """
        self.command = command
        with hold(self.out, command, self.share) as lease:
            yield lease

    def discover(self, source: Path) -> Sources:
        """Find the cases of SOURCE; refused before anything is started or written."""
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
        """Refuse to mix what OUT holds with other settings or sources; writes nothing.

        Of `run`, whatever can be known of its plan by now is refused by now, too.
        """
        dataset = dataset_record(sources, self.config)
        self.stale = check_sources(self.out, sources, dataset, self.config.repair, self.restart, self.share)
        if self.command == "run" and not self.stale:
            if not self.restart:
                check_settings(self.out, self.config)
            plan = rehearse(self.out, sources, self.config, self.frozen)
            self.rehearsed = None if plan is None else (plan, self.check_plan(plan))

    def my_cases(self, sources: Sources) -> list[str]:
        """The cases of a share, or all."""
        mine = sources.cases if self.share is None else self.share.of(sources.cases)
        return [c.case for c in mine]

    def planned(self) -> Plan | None:
        """OUT's plan under this run's words; None where it is still to be made of a frozen one.

        Raises
        ------
        StoreError
            If OUT holds no plan, or one that another version made.
        """
        if self.frozen is not None:
            check_raw(self.out)
            plan = self.try_plan(None)
            self.rehearsed = plan, self.check_plan(plan)
            return None
        plan = Plan.load(self.out)
        read_dataset(self.out)
        plan = adopt(plan, self.config)
        check_memory(plan, Memory(plan.settings.memory_limit))
        check_room(self.out, plan)
        return plan

    def known_fingerprint(self) -> Fingerprint:
        """OUT's fingerprint, for a plan.

        Raises
        ------
        StoreError
            If there is none, or the raw store has cases that it does not know.
        """
        found = Fingerprint.load(self.out)
        known = {*found.cases, *failed_cases(self.out)}
        new = [case for case in store.list_groups(self.out / store.RAW) if case not in known]
        if new:
            raise StoreError(
                f"{len(new)} cases of OUT's raw store are not in fingerprint.json: {new[0]} is one. Run "
                "`voxelmill fingerprint OUT` first."
            )
        return found

    def try_plan(self, fingerprint: Fingerprint | None) -> Plan:
        """The plan as `plan` or `refit` would make it; nothing is written."""
        if fingerprint is not None:
            return make_plan(fingerprint, self.config)
        assert self.frozen is not None
        return fit_plan(self.out, self.frozen)[0]

    def planned_cases(self, plan: Plan) -> list[str]:
        """The cases that a share, or all, has shards of, sorted."""
        names = set[str]()
        for configuration in plan.configurations:
            cases = list(training_cases(self.out, plan, configuration, Memory()))
            names |= {c.case for c, shards in zip(cases, deal(cases, self.share), strict=True) if shards}
        return sorted(names)

    def run(self, sources: Sources, engine: Engine) -> Report:
        """All stages."""
        cases = [c.case for c in sources.cases]
        with self.working(cases):
            self.ingest(sources, engine)
            if len(self.failed()) < len(cases):
                plan = self._make_plan(engine)
                say_memory(plan, engine.local_workers)
                self.preprocess(plan, engine)
        return self.report(cases)

    def _make_plan(self, engine: Engine) -> Plan:
        if self.frozen is not None:
            return self.refit(engine.threads)
        fingerprint = self.make_fingerprint(engine)
        if not (self.out / Plan.FILE).exists():
            fingerprint.save(self.out)  # for `voxelmill plan`, where this plan is refused
        plan = make_plan(fingerprint, self.config, engine.threads)
        stale = self.check_plan(plan)  # before anything of a finished run is replaced
        fingerprint.save(self.out)
        return self._keep_plan(plan, stale)

    def ingest(self, sources: Sources, engine: Engine) -> None:
        """Source files into the raw store."""
        self.remark()
        if self.config.dicom.mapping is not None:
            write_mapping(self.config.dicom.mapping, self.out, sources.names)
        remove_raw(self.out, self.stale)
        with self.stage("ingest", engine):
            self.outcomes += ingest_cases(sources, self.out, self.config, engine, self.share)
            remember_sources(self.out, sources, self.share)
        self._check_memory()

    def fingerprint(self, engine: Engine) -> Fingerprint:
        """Facts of the raw store into fingerprint.json."""
        made = self.make_fingerprint(engine)
        made.save(self.out)
        return made

    def make_fingerprint(self, engine: Engine) -> Fingerprint:
        """Facts of the raw store."""
        with self.stage("fingerprint", engine):
            odd = self.refuse_odd("fingerprint")
            names = [name for name in list_cases(self.out) if name not in odd]
            memory = Memory(self.config.memory_limit, engine.threads)
            return make_fingerprint(self.out, names, engine, memory)

    def refuse_odd(self, stage: str) -> set[str]:
        """Cases of the raw store that go no further, since most have another number of channels."""
        odd = find_odd_cases(self.out, list_cases(self.out))
        for case, cause in odd.items():
            self.refuse(stage, case, cause)
        return set(odd)

    def plan(self, fingerprint: Fingerprint, threads: int = 1) -> Plan:
        """Decide everything and write plan.json; refused where it would mix with other settings."""
        plan = make_plan(fingerprint, self.config, threads)
        return self._keep_plan(plan, self.check_plan(plan))

    def refit(self, threads: int = 1) -> Plan:
        """The frozen plan on the cases of OUT, into plan.json; cases that it is not for go no further."""
        assert self.frozen is not None
        plan, misfits = fit_plan(self.out, self.frozen, threads)
        for case, cause in misfits.items():
            self.refuse("plan", case, cause)
        return self._keep_plan(plan, self.check_plan(plan))

    def check_plan(self, plan: Plan) -> list[tuple[str, str]]:
        """What `restart` removes of the training store; a plan that does not fit OUT is refused."""
        if self.rehearsed is not None and plan == self.rehearsed[0]:
            return self.rehearsed[1]
        stale = check_plan(self.out, plan, self.restart)
        check_room(self.out, plan, stale)
        return stale

    def _keep_plan(self, plan: Plan, stale: Iterable[tuple[str, str]]) -> Plan:
        for configuration, case in stale:
            store.remove_group(self.out / store.TRAINING, f"{configuration}/{case}")
        for configuration, reason in plan.left_out.items():
            logger.info("plan: %s is left out: %s", configuration, reason)
        plan.save(self.out)
        return plan

    def preprocess(self, plan: Plan, engine: Engine) -> None:
        """The raw store into the training store."""
        self.doubt(plan)
        self.forget(case for of in plan.configurations.values() for case in of.cases)
        with self.stage("preprocess", engine):
            self.outcomes += preprocess_cases(self.out, plan, engine, self.share)
        self._check_memory()

    def _check_memory(self) -> None:
        """Refuse to go on where a case does not fit into memory, which is no fault of the case."""
        for outcome in self.outcomes:
            if outcome.trouble == "refused":
                raise MemoryLimitError(f"case {outcome.case}: {outcome.cause}")
