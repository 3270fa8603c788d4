"""A plan made for other cases, applied to the cases of OUT: its decisions stay, its rows are computed again.

In: the file that --plan names, SOURCE, and the records of OUT's raw store. Out: a plan, and the cases that do
not fit it. Reads no voxel and needs no fingerprint.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voxelmill.basics.errors import ConfigError, PlanError
from voxelmill.config.settings import Config
from voxelmill.inputs.sources.case_source import Sources
from voxelmill.kernels.clip_and_normalize import scheme_of
from voxelmill.stages.fingerprint.dataset_statistics import case_facts
from voxelmill.stages.planning.make_plan import refit
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.raw_store.raw_case import RawCase, list_cases
from voxelmill.stages.raw_store.raw_records import CaseRecord, LabelRecord

THIS_RUN = frozenset({"memory_limit", "ingest", "repair", "cluster", "no_worker_timeout", "check_disk"})
"""Settings that a run may change under an existing plan."""


def load_frozen(path: Path) -> Plan:
    """Read the plan that --plan names.

    Raises
    ------
    ConfigError
        If the file cannot be read.
    StoreError
        If it is not a plan, or one of another version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--plan: {error.strerror}. Name the plan.json of a run.") from None
    what = "the file of --plan"
    plan = Plan.parse(content, what)
    plan.check_revision(what)
    return plan


def adopt(plan: Plan, config: Config) -> Plan:
    """Return the plan with this run's settings of `THIS_RUN`; refuse other settings that differ from it.

    Raises
    ------
    ConfigError
        If a setting differs; the message names it.
    StoreError
        If the plan is of another version.
    """
    plan.check_revision()
    said = config.model_fields_set - THIS_RUN
    written, before = (c.model_dump(mode="json", include=said) for c in (config, plan.settings))
    if changes := _changes("", written, before):
        them = "them" if len(changes) > 1 else "it"
        raise ConfigError(
            f"{'; '.join(changes)}. Leave {them} out, or make a plan with the same words: "
            "`voxelmill plan OUT`."
        )
    own = {name: getattr(config, name) for name in THIS_RUN & config.model_fields_set}
    return plan.model_copy(update={"settings": plan.settings.model_copy(update=own)})


def _changes(name: str, now: object, planned: object) -> list[str]:
    """Return a clause for each setting below `name` that differs from the plan's."""
    if isinstance(now, dict) and isinstance(planned, dict):
        names = sorted(now.keys() | planned.keys())
        below = (_changes(f"{name}.{key}".lstrip("."), now.get(key), planned.get(key)) for key in names)
        return [clause for clauses in below for clause in clauses]
    return [] if now == planned else [f"setting {name!r} is {now!r}, the plan was made with {planned!r}"]


def check_words(plan: Plan, sources: Sources) -> None:
    """Refuse a SOURCE that states other channel names or another ignore label than the plan.

    Raises
    ------
    ConfigError
        The message names both.
    """
    names = sources.channel_names
    if names is not None and names != plan.channel_names:
        raise ConfigError(
            f"SOURCE has the channels {', '.join(names)}, the plan was made for "
            f"{', '.join(plan.channel_names)}. Use a plan that was made for the same channels."
        )
    if sources.labels is not None and sources.ignore_label != plan.ignore_label:
        raise ConfigError(
            f"SOURCE's ignore label is {sources.ignore_label}, the plan was made with {plan.ignore_label}. "
            "Use a plan that was made with the same labels."
        )


def fit_plan(out: Path, plan: Plan, threads: int = 1) -> tuple[Plan, dict[str, str]]:
    """Return the plan with rows for the cases of OUT that fit it, and why the others do not.

    Raises
    ------
    PlanError
        If no case fits.
    MemoryLimitError
        If a piece of the training set does not fit into a worker's memory.
    """
    records = {case: RawCase(out, case).record for case in list_cases(out)}
    misfits = {case: cause for case, record in records.items() if (cause := _misfit(plan, record))}
    fitting = {case: case_facts(record) for case, record in records.items() if case not in misfits}
    if not fitting:
        case, cause = next(iter(misfits.items()))
        raise PlanError(f"the plan is for no case of OUT: case {case} {cause}")
    return refit(plan, fitting, threads), misfits


def _misfit(plan: Plan, record: CaseRecord) -> str | None:
    """Return why a case does not fit the plan, or None if it does."""
    names = plan.channel_names
    if record.channels != len(names):
        return (
            f"has {record.channels} channels, the plan is for {len(names)} ({', '.join(names)}). Mend the "
            "case, or run it with another plan."
        )
    is_ct = scheme_of(names[0]) == "CTNormalization"
    if is_ct and record.channels == 1 and record.modality not in (None, "CT"):
        return f"is of modality {record.modality}, the plan's channel is CT. Run it with another plan."
    return None if record.label is None else _label_misfit(plan, record.label)


def _label_misfit(plan: Plan, label: LabelRecord) -> str | None:
    if plan.label_dtype is None:
        return "has a label, the plan was made without any. Leave the label out, or make another plan."
    limits = np.iinfo(plan.label_dtype)
    if limits.min <= label.low and label.high <= limits.max:
        return None
    return (
        f"has labels from {label.low} to {label.high}, the plan's {plan.label_dtype} holds {limits.min} to "
        f"{limits.max}. Renumber them, or make another plan."
    )
