"""The main job: SOURCE through all stages into OUT, and each stage by itself.

In: paths, settings, an engine. Out: the stores, fingerprint.json, plan.json, report.json. The order in
which things are checked, run and reported is here and nowhere else.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxelmill.cases import list_cases, read_dataset
from voxelmill.cluster import connect, pending_jobs
from voxelmill.config import Config, make_config
from voxelmill.errors import (
    ClusterLostError,
    ConfigError,
    DiskError,
    MemoryLimitError,
    StoreError,
    VoxelmillError,
    disk_message,
)
from voxelmill.fingerprint import Fingerprint
from voxelmill.frozen import adopt, check_words, fit_plan, load_frozen
from voxelmill.graph import Device, Engine, Outcome, Watch
from voxelmill.ingest import dataset_record
from voxelmill.ingest import ingest as ingest_cases
from voxelmill.lease import Lease, hold
from voxelmill.memory import BASE_BYTES, Memory
from voxelmill.partials import sweep
from voxelmill.plan import Plan
from voxelmill.planner import make_plan
from voxelmill.preprocess import preprocess as preprocess_cases
from voxelmill.progress import Reporter, log_to, say_failed
from voxelmill.pseudonyms import check_mapping, write_mapping
from voxelmill.remarks import read_remarks
from voxelmill.report import Report, forget_reports, make_report, save_share
from voxelmill.resume import check_plan, check_sources, remember_sources
from voxelmill.share import Share
from voxelmill.sources import Sources, discover
from voxelmill.statistics import find_odd_cases, make_fingerprint
from voxelmill.status import check_raw, read_status
from voxelmill.summary import say_memory
from voxelmill.training import deal, training_cases

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("voxelmill")

NO_WORKER_TIMEOUT = 300.0
"""Seconds without any worker after which nothing is expected any more."""

SMALLEST_LIMIT = BASE_BYTES + 2**24
"""Bytes of a worker's memory below which it is no use to begin."""


def run(
    source: str | Path,
    out: str | Path,
    *,
    config: Config | Mapping[str, Any] | None = None,
    client: Client | None = None,
    plan: str | Path | None = None,
) -> Report:
    """Bring SOURCE through all stages into OUT.

    Parameters
    ----------
    source : path
        A nnU-Net raw dataset folder, a folder with one file or one DICOM series folder a case, or a
        manifest (CSV or JSON).
    out : path
        Folder for the stores; what is there already under the same settings is kept.
    config : Config or mapping, optional
        Settings; a mapping takes the names of `Config`'s fields.
    client : distributed.Client, optional
        Where to run; by default a local cluster is started with one worker process a core.
    plan : path, optional
        A plan.json whose decisions are taken, as for test images; no statistics are made.

    Returns
    -------
    Report
        One entry a case. A case that failed does not raise.

    Raises
    ------
    VoxelmillError
        If the run is refused before work begins.
    """
    settings = config if isinstance(config, Config) else make_config(dict(config or {}))
    job = Job(Path(out), settings, frozen=None if plan is None else load_frozen(Path(plan)))
    sources = job.discover(Path(source))
    with job.hold("run") as lease:
        job.check(sources)
        with nullcontext(client) if client is not None else connect() as on, log_to(job.out / "logs"):
            return job.run(sources, make_engine(on, settings, lease, Reporter()))


def make_engine(
    client: Client | None,
    config: Config,
    lease: Lease | None,
    reporter: Reporter,
    device: Device = "auto",
    worker_threads: int = 1,
) -> Engine:
    """An engine that gives up when OUT is lost, or when there is no worker for as long as the settings say.

    Unless they do, time in which jobs wait in the queue of a batch system does not count.
    """
    timeout = config.no_worker_timeout
    watch = Watch(
        no_worker_timeout=NO_WORKER_TIMEOUT if timeout is None else timeout,
        pending=lambda: pending_jobs(client) if timeout is None else 0,
        check=lambda: lease.check() if lease is not None else None,
        needs_gpu=device == "gpu",
    )
    return Engine(client, reporter, device, watch, worker_threads)


@dataclass
class Job:
    """One command on one OUT, and what became of it so far."""

    out: Path
    config: Config
    restart: bool = False
    share: Share | None = None
    frozen: Plan | None = None
    command: str = "run"
    outcomes: list[Outcome] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.out = self.out.absolute()  # workers may run in another folder
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
            for folder in (self.out, self.out / "logs", self.out / "logs" / "in_place"):
                sweep(folder, lease.live)  # small files that a killed run was writing
            yield lease

    def discover(self, source: Path) -> Sources:
        """Find the cases of SOURCE; refused before anything is started or written."""
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError("OUT is a file; a folder is needed. Name another path.")
        dicom, outside = self.config.dicom, self.config.ingest.outside
        if dicom.mapping is not None:
            check_mapping(dicom.mapping, self.out)
        sources = discover(source.absolute(), channels=self.config.channels, dicom=dicom, outside=outside)
        if self.frozen is not None:
            check_words(self.frozen, sources)
        nearest = next(p for p in (self.out, *self.out.parents) if p.exists())
        if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            raise ConfigError(
                "OUT cannot be written: no permission, or a file is in the way. Name another path."
            )
        return sources

    def check(self, sources: Sources) -> None:
        """Refuse to mix what OUT holds with other settings or sources, or remove what does not fit.

        Then the table of pseudonyms is written, where it is asked for.
        """
        dataset = dataset_record(sources, self.config)
        check_sources(self.out, sources, dataset, self.config.repair, self.restart, self.share)
        if self.config.dicom.mapping is not None:
            write_mapping(self.config.dicom.mapping, self.out, sources.names)

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
            return None
        plan = Plan.load(self.out)
        read_dataset(self.out)
        return adopt(plan, self.config)

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
        with self.reporting(cases):
            self.ingest(sources, engine)
            if len(self.failed()) < len(cases):
                plan = self._make_plan(engine)
                say_memory(plan, engine.local_workers)
                self.preprocess(plan, engine)
        return self.report(cases)

    def _make_plan(self, engine: Engine) -> Plan:
        if self.frozen is not None:
            return self.refit(engine.threads)
        return self.plan(self.fingerprint(engine), engine.threads)

    @contextmanager
    def reporting(self, cases: Sequence[str]) -> Iterator[None]:
        """Where the cluster is lost, or OUT's disk, report what the store lacks, and let the error pass."""
        try:
            yield
        except (ClusterLostError, DiskError) as error:
            self._report_lost(cases, error)
            raise
        except OSError as error:
            if line := disk_message(error):
                self._report_lost(cases, DiskError(line))
                raise DiskError(line) from None
            raise

    def _report_lost(self, cases: Sequence[str], error: VoxelmillError) -> None:
        """Every case that is not finished, with what ended the run; not, where OUT cannot be written."""
        with suppress(StoreError, OSError):
            unfinished, failed = set(read_status(self.out).unfinished), self.failed()
            cause = f"not finished: {error}"
            self.outcomes += [Outcome("", c, cause=cause) for c in cases if c in unfinished - failed]
            self.report(cases)

    def ingest(self, sources: Sources, engine: Engine) -> None:
        """Source files into the raw store."""
        with self._stage("ingest", engine):
            self.outcomes += ingest_cases(sources, self.out, self.config, engine, self.share)
            remember_sources(self.out, sources, self.share)
        self._check_memory()

    def fingerprint(self, engine: Engine) -> Fingerprint:
        """Facts of the raw store into fingerprint.json."""
        with self._stage("fingerprint", engine):
            names = list_cases(self.out)
            odd = find_odd_cases(self.out, names)
            for case, cause in odd.items():
                self.outcomes.append(engine.refuse("fingerprint", case, cause))
            memory = Memory(self.config.memory_limit, engine.threads)
            fingerprint = make_fingerprint(self.out, [n for n in names if n not in odd], engine, memory)
            fingerprint.save(self.out)
            return fingerprint

    def plan(self, fingerprint: Fingerprint, threads: int = 1) -> Plan:
        """Decide everything and write plan.json; refused where it would mix with other settings."""
        plan = make_plan(fingerprint, self.config, threads)
        return self._keep_plan(plan)

    def refit(self, threads: int = 1) -> Plan:
        """The frozen plan on the cases of OUT, into plan.json; cases that it is not for go no further."""
        assert self.frozen is not None
        plan, misfits = fit_plan(self.out, self.frozen, threads)
        for case, cause in misfits.items():
            say_failed("plan", case, cause)
            self.outcomes.append(Outcome("plan", case, cause=cause))
        return self._keep_plan(plan)

    def _keep_plan(self, plan: Plan) -> Plan:
        check_plan(self.out, plan, self.restart)
        for configuration, reason in plan.left_out.items():
            logger.info("plan: %s is left out: %s", configuration, reason)
        plan.save(self.out)
        return plan

    def preprocess(self, plan: Plan, engine: Engine) -> None:
        """The raw store into the training store."""
        with self._stage("preprocess", engine):
            self.outcomes += preprocess_cases(self.out, plan, engine, self.share)
        self._check_memory()

    def _check_memory(self) -> None:
        """Refuse to go on where a case does not fit into memory, which is no fault of the case."""
        for outcome in self.outcomes:
            if outcome.trouble == "refused":
                raise MemoryLimitError(f"case {outcome.case}: {outcome.cause}")

    def failed(self) -> set[str]:
        """Cases that failed so far."""
        return {o.case for o in self.outcomes if o.cause is not None}

    @contextmanager
    def _stage(self, name: str, engine: Engine) -> Iterator[None]:
        """Notes the wall time and the peak memory of a stage; before the first, old reports go."""
        if not self.stages and name != "fingerprint":
            forget_reports(self.out, self.command, self.share)
        start = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - start
        self.peak_bytes |= engine.peak_bytes

    def report(self, cases: Iterable[str]) -> Report:
        """Write report.json; a share joins what it did to what the others did."""
        written = sum(o.value or 0 for o in self.outcomes if o.name.startswith("preprocess"))
        seconds = time.perf_counter() - self.started
        names = list(cases)
        remarks = read_remarks(self.out, names)
        report = make_report(names, self.outcomes, written, self.stages, self.peak_bytes, seconds, remarks)
        if self.share is None:
            report.save(self.out)
        else:
            save_share(self.out, self.command, self.share, report)
        return report
