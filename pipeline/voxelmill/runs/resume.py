"""Resume: find out before any work whether settings, source or dataset changed since OUT was made.

In: what OUT holds, and what this run would do. Out: nothing, or a `SettingsChangedError` that names the
change. With `restart` the outdated parts of OUT are returned instead, to be removed before the work. A hash
of the sizes and times of the source files is kept in OUT/logs; if it differs, checksums are compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from voxelmill.basics.errors import SettingsChangedError, StoreError
from voxelmill.basics.stage_share import Share
from voxelmill.config.repair_settings import RepairConfig
from voxelmill.config.settings import Config
from voxelmill.inputs.sources.case_source import Sources
from voxelmill.inputs.sources.pseudonyms import hint
from voxelmill.inputs.sources.source_checksums import source_digest, source_stats
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.raw_store.notes_and_repairs import read_remarks
from voxelmill.stages.raw_store.raw_records import DatasetRecord
from voxelmill.storage import zarr_stores
from voxelmill.storage.partial_files import write_changed

LOGS, STATS = "logs", "sources{}.json"
"""File in OUT/logs with a hash of the sizes and times of each case's files; each share has its own file."""

HOW_ON = "Pass --restart to recompute what depends on it, or use another OUT."
WAYS_ON = (
    "Pass --plan OUT/plan.json to keep the statistics of before, so that only new cases are made, or "
    "--restart to make all cases again with the new ones."
)


def check_sources(
    out: Path,
    sources: Sources,
    dataset: DatasetRecord,
    repair: RepairConfig,
    restart: bool,
    share: Share | None = None,
) -> list[str]:
    """Refuse to go on from raw cases that this run, or this share, would make differently.

    Parameters
    ----------
    out : Path
    sources : Sources
    dataset : DatasetRecord
        The record that this run would write.
    repair : RepairConfig
    restart : bool
        Return the outdated cases instead of refusing.
    share : Share, optional
        Only the cases of this share are compared.

    Returns
    -------
    list of str
        Outdated raw cases; empty without `restart`.

    Raises
    ------
    SettingsChangedError
        Names the setting or the case that changed.
    """
    root = out / zarr_stores.RAW
    attributes = zarr_stores.read_attributes(root, "")
    if attributes is None:
        return []
    present = zarr_stores.list_groups(root)
    before, now = _read_dependencies(attributes, restart), _facts_depend_on(dataset)
    if before != now:  # settings that all raw cases depend on
        stale, change = present, difference(before, now)
    else:
        mine = present if share is None else [c for c in present if c in _names(sources, share)]
        changes = _changed_cases(out, sources, repair, mine)
        stale, change = list(changes), next(iter(changes.values()), "")
        if stale and stale[0] not in _names(sources, None):
            change += hint(stale[0], sources.names)
    if stale and not restart:
        raise SettingsChangedError(
            f"{len(stale)} of {len(present)} cases in OUT's raw store were made otherwise: {change}. {HOW_ON}"
        )
    return stale


def remove_raw(out: Path, cases: Iterable[str]) -> None:
    """Remove raw cases, after the training data made from them.

    The training data go first: if this is interrupted, none is left without its raw case.
    """
    for case in cases:
        for configuration in zarr_stores.list_groups(out / zarr_stores.TRAINING):
            zarr_stores.remove_group(out / zarr_stores.TRAINING, f"{configuration}/{case}")
        zarr_stores.remove_group(out / zarr_stores.RAW, case)


def remember_sources(out: Path, sources: Sources, share: Share | None = None) -> None:
    """Save the hash of file sizes and times for each case, or each of a share, that is in the raw store."""
    present = set(zarr_stores.list_groups(out / zarr_stores.RAW)) & set(_names(sources, share))
    stats = {c.case: source_stats(c) for c in sources.cases if c.case in present}
    suffix = "" if share is None else share.suffix
    write_changed(out / LOGS / STATS.format(suffix), json.dumps(stats).encode())


def _names(sources: Sources, share: Share | None) -> list[str]:
    """Return the cases of a share of ingest, or all of them."""
    names = [c.case for c in sources.cases]
    return names if share is None else list(share.of(names))


def check_plan(out: Path, plan: Plan, restart: bool) -> list[tuple[str, str]]:
    """Refuse to mix shards of another plan with those of this one; with `restart` return them.

    Returns
    -------
    list of (configuration, case)
        Groups in the training store that this plan did not make. An empty case stands for the whole
        configuration.

    Raises
    ------
    SettingsChangedError
        Names what changed.
    """
    left_out = _left_out(out, plan)
    stale = [
        (configuration, case)
        for configuration, of in plan.configurations.items()
        for case in of.cases
        if _token(out, configuration, case) not in (None, plan.token(configuration, case))
    ]
    if not restart and stale:
        raise SettingsChangedError(_why_stale(out, plan, len({case for _, case in stale})))
    if not restart and left_out:
        names = ", ".join(dict.fromkeys(configuration for configuration, _ in left_out))
        asked = plan.settings.configurations
        raise SettingsChangedError(
            f"OUT's training store holds {names}, which this plan leaves out: {_configurations(out, asked)}. "
            "Name them all in configurations, pass --restart to remove what is left out, or use another OUT."
        )
    return stale + left_out


def check_settings(out: Path, config: Config) -> None:
    """Refuse settings that differ from those that OUT's shards were made with, before any work.

    The statistics are taken from OUT's plan: this run has not read them yet.

    Raises
    ------
    SettingsChangedError
        Names what changed.
    """
    try:
        before = Plan.load(out)
    except StoreError:
        return
    asked = {name: of for name, of in before.configurations.items() if name in config.configurations}
    now = before.model_copy(update={"settings": config, "configurations": asked})
    if now.decisions() != before.decisions():
        check_plan(out, now, restart=False)


def _left_out(out: Path, plan: Plan) -> list[tuple[str, str]]:
    """Return the configurations with cases in the training store that the plan does not contain."""
    root = out / zarr_stores.TRAINING
    others = [name for name in zarr_stores.list_groups(root) if name not in plan.configurations]
    return [(name, "") for name in others if zarr_stores.list_groups(root, name)]


def _configurations(out: Path, asked: Sequence[str]) -> str:
    """Describe the change of the setting `configurations`, with the old value if plan.json is readable."""
    with suppress(StoreError):
        return difference(list(Plan.load(out).settings.configurations), list(asked), "configurations")
    return f"configurations is {_short(list(asked))}"


def _why_stale(out: Path, plan: Plan, count: int) -> str:
    """Describe how the plan differs from the one that made the shards, and how to go on."""
    made = f"{count} cases in OUT's training store were made"
    try:
        before = Plan.load(out)
    except StoreError:
        how = "plan.json, which said how, is gone, damaged or of another version"
        return f"{made} with other settings: {how}. {HOW_ON}"
    was, now = before.decisions(), plan.decisions()
    change = difference(was, now)
    if any(was[name] != now[name] for name in ("revision", "settings", "channel_names")):
        return f"{made} with other settings: {change}. Say what was said then. Or p{HOW_ON[1:]}"
    return f"{made} with other statistics of the dataset{_because(before, plan)}: {change}. {WAYS_ON}"


def _because(before: Plan, plan: Plan) -> str:
    """Name the added and removed cases that changed the statistics, if there are any."""
    was, now = ({case for of in p.configurations.values() for case in of.cases} for p in (before, plan))
    added, gone = sorted(now - was), sorted(was - now)
    words = [f"{_count(added, 'new case')} ({_few(added)})"] if added else []
    words += [f"the loss of {_count(gone, 'case')} ({_few(gone)})"] if gone else []
    return f", which {' and '.join(words)} changed" if words else ""


def _count(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _read_dependencies(attributes: dict[str, Any], restart: bool) -> dict[str, Any] | None:
    """Return what the raw store's facts depend on; None if it is unreadable and `restart` replaces all."""
    try:
        return _facts_depend_on(DatasetRecord.read(attributes))
    except StoreError:
        if restart:
            return None
        raise


def _facts_depend_on(dataset: DatasetRecord) -> dict[str, Any]:
    return {"revision": dataset.revision, **dataset.settings, "ignore_label": dataset.ignore_label}


def _token(out: Path, configuration: str, case: str) -> str | None:
    attributes = zarr_stores.read_attributes(out / zarr_stores.TRAINING, f"{configuration}/{case}")
    return None if attributes is None else str(attributes.get("settings"))


def _changed_cases(out: Path, sources: Sources, repair: RepairConfig, present: list[str]) -> dict[str, str]:
    """Return the raw cases with another source or other repairs than now, each with what changed.

    A repair setting matters only to cases that needed it.
    """
    accepted = _accepted(repair)
    stats = _read_stats(out)
    by_name = {c.case: c for c in sources.cases}
    changed = {}
    for case, remarks in read_remarks(out, present).items():
        source, settings = by_name.get(case), [r.setting for r in remarks.repairs]
        other = next((setting for setting in settings if setting not in accepted), None)
        new = next((setting for setting in remarks.otherwise if setting in accepted), None)
        if other is not None:
            changed[case] = f"case {case} was repaired by {other}, which is not set now"
        elif new is not None:
            changed[case] = f"case {case} was read without {new}, which is set now"
        elif source is None or stats.get(case) != source_stats(source):  # checksums only where these differ
            attributes = zarr_stores.read_attributes(out / zarr_stores.RAW, case) or {}
            if source is None or attributes.get("source") != source_digest(source):
                changed[case] = f"case {case} has other files or contents now, or is gone"
    return changed


def _accepted(repair: RepairConfig) -> set[str]:
    """Return the settings in the form in which the raw store records them."""
    return {f"repair.{name}={value}" for name, value in repair}


def _read_stats(out: Path) -> dict[str, Any]:
    """Read what `remember_sources` wrote, the newest entry per case.

    A case without an entry is compared by checksum.
    """
    stats: dict[str, Any] = {}
    files = sorted((out / LOGS).glob(STATS.format("*")), key=lambda file: file.stat().st_mtime)
    for file in files:
        with suppress(OSError, ValueError, TypeError):
            stats |= json.loads(file.read_text())
    return stats


def difference(before: Any, after: Any, name: str = "") -> str:
    """Describe the first value in which two nested mappings differ, as ``name was a, is b``."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*after, *(k for k in before if k not in after)]:
            if before.get(key) != after.get(key):
                return difference(before.get(key), after.get(key), f"{name}.{key}".lstrip("."))
    return f"{name} was {_short(before)}, is {_short(after)}"


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 60 else text[:57] + "..."
