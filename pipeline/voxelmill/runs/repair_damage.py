"""Repair: make again exactly what `verify` found damaged, from the raw store or from SOURCE.

In: a job that holds OUT, and a `Finding`. Out: stores with the same bytes as before the damage. What cannot
be repaired stays as it is, and the second `verify` names it. Raw cases come before the training store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from voxelmill.basics.errors import SettingsChangedError, StoreError
from voxelmill.basics.record_base import Model
from voxelmill.basics.stage_order import Stage, in_order
from voxelmill.basics.user_paths import local_path
from voxelmill.config.load_settings import make_config
from voxelmill.config.settings import Config
from voxelmill.inputs.sources.case_source import Sources
from voxelmill.inputs.sources.discover import discover
from voxelmill.inputs.sources.pseudonyms import hint
from voxelmill.inputs.sources.source_checksums import source_digest
from voxelmill.runs.job import Job
from voxelmill.runs.verify import MASK, OTHER_PLAN, RECORD, Damage, Finding, verify
from voxelmill.runtime.memory_budget import Memory
from voxelmill.runtime.stage_engine import Engine
from voxelmill.runtime.tasks import task
from voxelmill.stages.fingerprint.fingerprint_json import Fingerprint
from voxelmill.stages.ingest.ingest import dataset_record, ingest
from voxelmill.stages.planning.make_plan import make_plan
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.planning.plan_reuse import adopt
from voxelmill.stages.preprocessing.preprocess import preprocess
from voxelmill.stages.raw_store.raw_case import RawCase, read_dataset
from voxelmill.stages.raw_store.raw_records import DatasetRecord
from voxelmill.storage import zarr_stores

ADVICE = (
    "The raw store is damaged: pass --repair --source SOURCE, with what it was ingested from, to ingest the "
    "damaged cases again."
)


def verify_and_repair(job: Job, source: Path | None, engine: Engine, say: Callable[[str], None]) -> Finding:
    """Print the damage, repair it, and return what is still damaged afterwards."""
    found = verify(job.out, engine)
    if not found.damages:
        return found
    for line in (*map(str, found.damages), found.summary):
        say(line)
    repair(job, found, source, engine)
    return verify(job.out, engine, {damage.case for damage in found.damages})


def needs_source(damages: Collection[Damage]) -> bool:
    """Return whether some of the damage can be repaired from SOURCE only."""
    return any(d.array == zarr_stores.RAW or _is_raw(d) for d in damages)


def repair(job: Job, found: Finding, source: Path | None, engine: Engine) -> None:
    """Make damaged and missing data again, stage by stage.

    Raises
    ------
    SettingsChangedError
        Before any work, if SOURCE is not the one that was ingested.
    """
    again = _Repair(job, found, source, engine)
    steps = {
        Stage.INGEST: again.raw_store,
        Stage.FINGERPRINT: again.fingerprint,
        Stage.PLAN: again.plan,
        Stage.PREPROCESS: again.training_store,
    }
    in_order(steps, steps, lambda: True)


@dataclass
class _Repair:
    """The repair of each stage."""

    job: Job
    found: Finding
    source: Path | None
    engine: Engine
    broken: set[str] = field(init=False)
    """Cases with damaged raw data that are not repaired yet."""

    def __post_init__(self) -> None:
        self.broken = {d.case for d in self.found.damages if _is_raw(d)}

    def raw_store(self) -> None:
        masks = {d.case for d in self.found.damages if d.array == MASK} | _with_mask(
            self.job.out, self.broken
        )
        if self.source is not None and needs_source(self.found.damages):
            self.broken = _ingest_again(self.job, self.source, self.broken, self.engine)
        _make_masks(self.job, masks - self.broken, self.engine)

    def fingerprint(self) -> None:
        if not self.broken and any(d.array == Fingerprint.FILE for d in self.found.damages):
            self.job.perform([Stage.FINGERPRINT], self.engine)

    def plan(self) -> None:
        if any(d.array == Plan.FILE or d.what == OTHER_PLAN for d in self.found.damages):
            _plan_again(self.job, self.engine)

    def training_store(self) -> None:
        plan = known_plan(self.job)
        if plan is not None:
            damages = [d for d in self.found.damages if d.case not in self.broken]
            _preprocess_again(plan, damages, self.job.out, self.engine)


def known_plan(job: Job) -> Plan | None:
    """Return OUT's plan with the memory limit of this run, or None if OUT holds no readable plan.

    Raises
    ------
    ConfigError
        If the command line states settings that differ from the plan's.
    """
    with suppress(StoreError):
        return adopt(Plan.load(job.out), job.config)
    return None


def _is_raw(damage: Damage) -> bool:
    """Return whether the damage is in a case's record, image or label; a mask is computed, not read."""
    return damage.array.partition("/")[0] == RECORD and damage.array != MASK


def _with_mask(out: Path, cases: Collection[str]) -> set[str]:
    return {case for case in cases if (out / zarr_stores.RAW / case / "mask").exists()}


# The raw store


def _ingest_again(job: Job, path: Path, broken: set[str], engine: Engine) -> set[str]:
    """Ingest damaged raw cases again; return the cases that failed."""
    settings = _settings(job)
    sources = discover(
        local_path(path, "--source").absolute(),
        channels=settings.channels,
        dicom=settings.dicom,
        outside=settings.ingest.outside,
        typed=str(path),
    )
    with suppress(StoreError):  # cases that were added to SOURCE since are no part of the repair
        known = set(read_dataset(job.out).cases)
        sources = replace(sources, cases=tuple(c for c in sources.cases if c.case in known))
    _check_source(job.out, sources, settings, broken)
    for case in broken:
        zarr_stores.remove_group(job.out / zarr_stores.RAW, case)
    done = ingest(sources, job.out, settings, engine)
    return {outcome.case for outcome in done if outcome.cause is not None}


def _settings(job: Job) -> Config:
    """Return the settings that OUT was made with, as far as known; options about SOURCE given now win."""
    plan = known_plan(job)
    config = job.config if plan is None else plan.settings
    with suppress(StoreError):
        config = _as_read(config, read_dataset(job.out), job.config)
    return config


def _as_read(config: Config, dataset: DatasetRecord, said: Config) -> Config:
    """Return the settings that SOURCE was read with, overridden by those that are given now.

    The salt of pseudonyms has to be given again: no file of OUT holds it.
    """
    known = {**dataset.reading, **dataset.settings}
    dicom = {**known.get("dicom", {}), "ids": known.get("dicom_ids", config.dicom.ids)}
    names = {"ingest", "repair", "nonfinite"} & known.keys()
    kept = make_config({**{name: known[name] for name in names}, "dicom": dicom})
    parts = {name: _over(getattr(kept, name), getattr(said, name)) for name in ("dicom", "ingest", "repair")}
    nonfinite = said.nonfinite if "nonfinite" in said.model_fields_set else kept.nonfinite
    return config.model_copy(update={**parts, "nonfinite": nonfinite})


def _over(kept: Model, said: Model) -> Model:
    """Return `kept` with the fields that `said` states explicitly."""
    return kept.model_copy(update={name: getattr(said, name) for name in said.model_fields_set})


def _check_source(out: Path, sources: Sources, settings: Config, broken: set[str]) -> None:
    """Refuse a SOURCE that differs from the one that was ingested.

    Raises
    ------
    SettingsChangedError
        Names the first case that differs, or says that the record of the dataset does.
    """
    by_name, digests = {c.case: c for c in sources.cases}, _digests(out, broken)
    for case in sorted(broken):
        if case not in by_name:
            problem = "is not in SOURCE"
        elif digests.get(case) not in (None, source_digest(by_name[case])):
            problem = "has other contents in SOURCE than were ingested"
        else:
            continue
        known = hint(case, sources.names) if case not in by_name else ""
        raise SettingsChangedError(
            f"case {case} {problem}{known}: nothing is repaired. Name the SOURCE that OUT was made from, or "
            "use `voxelmill run SOURCE OUT --restart`."
        )
    if zarr_stores.read_attributes(out / zarr_stores.RAW, "") and _told(
        dataset_record(sources, settings)
    ) != _told(read_dataset(out)):
        raise SettingsChangedError(
            "SOURCE has other cases, channels or labels than were ingested, or settings differ: nothing is "
            "repaired. Name the SOURCE that OUT was made from, and the settings of then."
        )


def _told(dataset: DatasetRecord) -> DatasetRecord:
    """Return the record without the settings that concern reading alone."""
    return dataset.model_copy(update={"reading": {}})


def _digests(out: Path, cases: Collection[str]) -> dict[str, str]:
    """Return the source checksum of each case, from the plan or from an undamaged record."""
    found: dict[str, str] = {}
    with suppress(StoreError):
        for of in Plan.load(out).configurations.values():
            found |= {case: row.source for case, row in of.cases.items()}
    for case in cases:
        with suppress(StoreError):
            found[case] = RawCase(out, case).record.source
    return found


def _make_masks(job: Job, cases: set[str], engine: Engine) -> None:
    memory = Memory(_settings(job).memory_limit, engine.threads)
    for case in cases:
        zarr_stores.remove_group(job.out / zarr_stores.RAW, f"{case}/mask")
    tasks = [task(f"mask-{case}", case, _make_mask, job.out, case, memory) for case in sorted(cases)]
    engine.run("masks", tasks, len(tasks))


def _make_mask(out: Path, case: str, memory: Memory) -> int:
    raw = RawCase(out, case)
    raw.make_mask(memory)
    return raw.crop_box.size


# The plan


def _plan_again(job: Job, engine: Engine) -> None:
    """Write the plan that the training store was made with, if the known settings lead to it."""
    with suppress(StoreError):
        fingerprint = Fingerprint.load(job.out)
        for settings in _candidates(job):  # the tokens in the training store tell which settings made it
            plan = make_plan(fingerprint, settings, engine.threads)
            if _fits(job.out, plan):
                plan.save(job.out)
                return


def _candidates(job: Job) -> Iterator[Config]:
    with suppress(StoreError):
        yield Plan.load(job.out).settings
    yield job.config


def _fits(out: Path, plan: Plan) -> bool:
    """Return whether every case in the training store was made by this plan."""
    for configuration, of in plan.configurations.items():
        for case in of.cases:
            attributes = zarr_stores.read_attributes(out / zarr_stores.TRAINING, f"{configuration}/{case}")
            if attributes is not None and attributes["settings"] != plan.token(configuration, case):
                return False
    return True


# The training store


def _preprocess_again(plan: Plan, damages: list[Damage], out: Path, engine: Engine) -> None:
    """Remove the damaged shards and cases of the plan, then preprocess these cases only."""
    root, again = out / zarr_stores.TRAINING, set[tuple[str, str]]()
    for damage in damages:
        configuration, _, name = damage.array.partition("/")
        if configuration not in plan.configurations or damage.what == OTHER_PLAN:
            continue
        path = f"{configuration}/{damage.case}"
        again.add((configuration, damage.case))
        if damage.shard is None:
            zarr_stores.remove_group(root, path)
        else:
            with suppress(StoreError):  # the array may be gone: its whole case was removed above
                zarr_stores.open_array(root, f"{path}/{name}").file(damage.shard).unlink(missing_ok=True)
    preprocess(out, _limited(plan, again), engine)


def _limited(plan: Plan, to: set[tuple[str, str]]) -> Plan:
    """Return the plan restricted to some pairs of configuration and case."""
    configurations = {
        name: of.model_copy(update={"cases": {c: row for c, row in of.cases.items() if (name, c) in to}})
        for name, of in plan.configurations.items()
    }
    return plan.model_copy(update={"configurations": configurations})
