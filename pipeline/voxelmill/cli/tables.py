"""The tables that commands print: the fingerprint, the plan and its costs, and the status.

In: a Fingerprint, a Plan or a Status. Out: rich tables. Only OUT is looked at: its disk's free space and, if
that is short, the shards it holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from voxelmill.runs.disk_and_memory import bytes_to_make, free_bytes, size
from voxelmill.runs.status import Status
from voxelmill.stages.fingerprint.fingerprint_json import Fingerprint
from voxelmill.stages.planning.plan_json import ConfigurationPlan, Plan

FEW = 5
"""Number of unfinished cases that are named."""

MANY = 20
"""Number of cases with a row of their own; the rest are counted."""


def fingerprint_table(fingerprint: Fingerprint) -> Table:
    """Return the table of each channel's foreground intensities over the dataset."""
    table = Table(
        title=f"Foreground ({fingerprint.statistics_from}) of {len(fingerprint.cases)} cases",
        title_justify="left",
    )
    columns = ("mean", "std", "min", "percentile_00_5", "median", "percentile_99_5", "max")
    for name in ("channel", *columns):
        table.add_column(name, justify="right")
    for channel, of in fingerprint.foreground_intensity_properties_per_channel.items():
        name = fingerprint.channel_names[int(channel)]
        table.add_row(f"{channel} {name}", *(f"{getattr(of, c):.6g}" for c in columns))
    return table


def plan_tables(plan: Plan, out: Path) -> list[Table]:
    """Return a table of the cases for each configuration, and a table of the total costs."""
    tables = [_cases_table(name, of) for name, of in plan.configurations.items()]
    return [*tables, _totals_table(plan, out)]


def _cases_table(name: str, of: ConfigurationPlan) -> Table:
    target = " x ".join(f"{s:.4g}" for s in of.target_spacing)
    title = f"{name}: to {target} mm (z, y, x), {', '.join(of.normalization)}"
    caption = "apart: the axis that is resampled separately"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=SIMPLE_HEAD)
    headings = ("case", "shape", "crop", "spacing mm", "new shape", "apart", "shards", "MiB")
    for heading in headings:
        left = heading == "case"
        table.add_column(
            heading, justify="left" if left else "right", overflow="fold" if left else "ellipsis"
        )
    for case, row in list(of.cases.items())[:MANY]:
        table.add_row(
            case,
            _shape(row.source_shape),
            _shape(b - a for a, b in row.crop_box),
            "x".join(f"{s:.3g}" for s in row.source_spacing),
            _shape(row.shape),
            "-" if row.separate_axis is None else "zyx"[row.separate_axis],
            str(row.shards),
            f"{row.image_bytes / 2**20:.0f}",
        )
    if len(of.cases) > MANY:
        table.add_row(f"... {len(of.cases) - MANY} more", *[""] * 7)
    return table


def _totals_table(plan: Plan, out: Path) -> Table:
    table = Table(title="What it takes", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows = [row for of in plan.configurations.values() for row in of.cases.values()]
    shards = sum(row.shards for row in rows)
    # Beside the shards there is one metadata file per array, case, configuration and store.
    arrays = [(row.shards, 1 + row.has_label) for row in rows]
    files = sum(n * count + 1 + count for n, count in arrays) + 1 + len(plan.configurations)
    free = free_bytes(out)
    to_make = plan.training_bytes if free > plan.training_bytes else bytes_to_make(out, plan)
    table.add_row("cases", str(len(plan.configurations[next(iter(plan.configurations))].cases)))
    table.add_row("tasks", f"{shards} shards, {len(rows)} preparations")
    table.add_row("files (inodes)", str(files))
    table.add_row("bytes, uncompressed", size(plan.training_bytes))
    table.add_row("room on disk", f"{size(free)}, {'enough' if free > to_make else 'NOT ENOUGH'}")
    for stage, peak in plan.peak_bytes.items():
        table.add_row(f"peak memory of a worker, {stage}", size(peak))
    return table


def status_table(status: Status) -> Table:
    """Return the table with the progress of each stage."""
    table = Table(title="How far it is", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("stage", "done", "of", "", "lacking"):
        table.add_column(heading, justify="right" if heading in ("done", "of") else "left", overflow="fold")
    for stage in status.stages:
        lacking = ", ".join(stage.unfinished[:FEW])
        if len(stage.unfinished) > FEW:
            lacking += f" and {len(stage.unfinished) - FEW} more"
        table.add_row(stage.name, str(stage.done), str(stage.total), stage.what, lacking)
    return table


def _shape(values: Iterable[Any]) -> str:
    return "x".join(str(int(n)) for n in values)
