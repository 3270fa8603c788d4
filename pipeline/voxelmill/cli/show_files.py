"""The names of the files that a line speaks of, for `--show-files`: on the terminal, and nowhere else.

In: a source's cases, and lines of a report or a refusal, which hold no name. Out: paths, and lines with
them. They are found where SOURCE is known, and not where a file was read: no worker, store or log is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from voxelmill.inputs.readers.files_in_messages import called
from voxelmill.inputs.readers.formats import data_files
from voxelmill.inputs.sources.case_source import CaseSource, Sources
from voxelmill.runs.report_json import Report
from voxelmill.stages.ingest.opened_case import THE_LABEL

HINT = "--show-files shows which files these are, on the terminal alone."


def files_of(case: CaseSource, line: str) -> list[Path]:
    """The files of a case that a line speaks of.

    Those of the channels and the label that it names, or else all; of a series or a stack the files that it
    tells by number or place, or else the folder.
    """
    spoken = [path for n, path in enumerate(case.channels) if re.search(rf"\bchannel {n}\b", line)]
    if case.label is not None and THE_LABEL in line:
        spoken.append(case.label)
    paths = spoken or [*case.channels, *([case.label] if case.label else [])]
    each = {path: _told(path, line) for path in paths}
    if not spoken and any(each.values()):
        return [file for files in each.values() for file in files]
    return [file for path, files in each.items() for file in files or [path]]


def _told(path: Path, line: str) -> list[Path]:
    """The files within an image that a line tells apart, each once."""
    with suppress(OSError):
        return list(dict.fromkeys(file for words, file in called(path) if words in line))
    return []


def report_lines(report: Report, sources: Sources) -> Iterator[str]:
    """Each cause, note and repair of a report's cases, and below it the files that it speaks of."""
    cases = {case.case: case for case in sources.cases}
    for row in report.cases:
        texts = [("note", text) for text in (*row.notes, *row.repairs)]
        for what, text in [*texts, *([("failed", row.cause)] if row.cause else [])]:
            yield f"{what:6}  {row.case}: {text}"
            files = files_of(cases[row.case], text) if row.case in cases else []
            yield from (f"        {str(path)!r}" for path in files)


def refusal_lines(line: str, sources: Sources) -> Iterator[str]:
    """The files of each case that a refusal names."""
    for case in sources.cases:
        if re.search(rf"\bcase (['\"]?){re.escape(case.case)}\1(?![\w-])", line):
            yield from (f"case {case.case}: {str(path)!r}" for path in files_of(case, line))


def left_out(source: Path, sources: Sources) -> Iterator[str]:
    """Files and folders of a folder, or of a nnU-Net dataset's imagesTr, that are of no case."""
    folder = source / "imagesTr" if sources.kind == "nnunet" else source
    files = {path for case in sources.cases for path in (*case.channels, case.label) if path}
    if sources.kind not in ("folder", "nnunet") or source in files or not folder.is_dir():
        return
    used = files | {path.parent for path in files} | {data for path in files for data in data_files(path)}
    for path in sorted(folder.iterdir()):
        if path not in used and not path.name.startswith("."):
            yield f"left out  {str(path)!r}"
