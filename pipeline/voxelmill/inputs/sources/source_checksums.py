"""Whether the files of a case are still what they were: by size and time, and by their contents.

In: a `CaseSource`. Out: a hash and a checksum, neither of which tells a file's name or time.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c

from voxelmill.inputs.readers.formats import data_files
from voxelmill.inputs.readers.tiff.stack_file_names import counts_of
from voxelmill.inputs.readers.tiff.stack_folder import TIFF_ENDINGS, tiff_stem
from voxelmill.inputs.sources.case_source import CaseSource


def source_digest(source: CaseSource) -> str:
    """Checksum of what a case is made of: its channels in order, its label, a spacing given for it.

    Names do not count: files that are renamed, or lie elsewhere, are the same. Of a TIFF stack the numbers in
    the names do.
    """
    digest = hashlib.blake2b(digest_size=16)
    for role, path in _parts(source):
        contents = sorted(_counts(file, path) + _digest(file) for file in _files(path))
        digest.update(role.encode() + b"".join(contents))
    digest.update(repr(source.spacing).encode())
    return digest.hexdigest()


def source_stats(source: CaseSource) -> str:
    """Hash of the place, size and time of change of each file, by role, and a spacing given for them.

    When an image was made is nobody's business: a time by itself could be found by trying all of them, one
    together with a path that OUT does not tell cannot.
    """
    stats: list[Any] = [source.spacing]
    for role, path in _parts(source):
        found = [(os.fsencode(file), file.stat()) for file in _files(path)]
        stats.append([role, sorted((name, t.st_size, t.st_mtime_ns) for name, t in found)])
    return hashlib.blake2b(repr(stats).encode(), digest_size=16).hexdigest()


def _parts(source: CaseSource) -> Iterator[tuple[str, Path]]:
    for channel, path in enumerate(source.channels):
        yield f"channel {channel}", path
    if source.label is not None:
        yield "label", source.label


def _files(path: Path) -> Iterator[Path]:
    """Every file that a path of a case stands for."""
    if path.is_dir():
        yield from (p for p in sorted(path.rglob("*")) if p.is_file())
    elif path.exists():
        yield from (path, *data_files(path))


def _counts(file: Path, path: Path) -> bytes:
    """What the name of a file says of its place in a TIFF stack; nothing for files of other images."""
    is_page = file != path and file.name.lower().endswith(TIFF_ENDINGS)
    return counts_of(tiff_stem(file)).encode() if is_page else b""


def _digest(file: Path) -> bytes:
    """Length and two cyclic checksums, as fast as any disk; BLAKE2 would take a second a gigabyte."""
    length = castagnoli = ethernet = 0
    with file.open("rb", buffering=0) as f:
        while part := f.read(1 << 20):
            length += len(part)
            castagnoli = google_crc32c.extend(castagnoli, part)
            ethernet = zlib.crc32(part, ethernet)
    return struct.pack("<QII", length, castagnoli, ethernet)
