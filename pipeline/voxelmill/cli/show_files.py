"""The names of the files behind a message, for `--show-files`: shown on the terminal only.

In: a source's cases, and lines of a report or an error, which hold no file name. Out: paths, and lines with
them. The names are looked up from SOURCE in this process, so no worker, store or log ever holds them.
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
    """Return the files of a case that a line refers to.

    These are the files of the channels and the label that the line names, or all files if it names none. In a
    series or a stack they are the files that the line identifies by number or position, or else the folder.
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
    """Return the single files of an image that a line identifies, without repetition."""
    with suppress(OSError):
        return list(dict.fromkeys(file for words, file in called(path) if words in line))
    return []


def report_lines(report: Report, sources: Sources) -> Iterator[str]:
    """Yield each cause, note and repair of a report's cases, followed by the files that it refers to."""
    cases = {case.case: case for case in sources.cases}
    for row in report.cases:
        texts = [("note", text) for text in (*row.notes, *row.repairs)]
        for what, text in [*texts, *([("failed", row.cause)] if row.cause else [])]:
            yield f"{what:6}  {row.case}: {text}"
            files = files_of(cases[row.case], text) if row.case in cases else []
            yield from (f"        {str(path)!r}" for path in files)


def refusal_lines(line: str, sources: Sources) -> Iterator[str]:
    """Yield the files of each case that an error names."""
    for case in sources.cases:
        if re.search(rf"\bcase (['\"]?){re.escape(case.case)}\1(?![\w-])", line):
            yield from (f"case {case.case}: {str(path)!r}" for path in files_of(case, line))


def left_out(source: Path, sources: Sources) -> Iterator[str]:
    """Yield the entries of a folder, or of an nnU-Net dataset's imagesTr, that belong to no case."""
    folder = source / "imagesTr" if sources.kind == "nnunet" else source
    files = {path for case in sources.cases for path in (*case.channels, case.label) if path}
    if sources.kind not in ("folder", "nnunet") or source in files or not folder.is_dir():
        return
    used = files | {path.parent for path in files} | {data for path in files for data in data_files(path)}
    for path in sorted(folder.iterdir()):
        if path not in used and not path.name.startswith("."):
            yield f"left out  {str(path)!r}"
