"""Detection of changes to the files of a case: by size and time, and by their contents.

In: a `CaseSource`. Out: a hash and a checksum, neither of which reveals a file's name or time.
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
    """Return a checksum of the contents of a case: its channels in order, its label, and a stated spacing.

    Names do not count, so renamed or moved files give the same checksum. The exception is a TIFF stack, where
    the numbers in the names count.
    """
    digest = hashlib.blake2b(digest_size=16)
    for role, path in _parts(source):
        # sorted by content: the order of names must not count
        contents = sorted(_counts(file, path) + _digest(file) for file in _files(path))
        digest.update(role.encode() + b"".join(contents))
    digest.update(repr(source.spacing).encode())
    return digest.hexdigest()


def source_stats(source: CaseSource) -> str:
    """Return a hash of the path, size and modification time of each file, by role, and a stated spacing.

    The time of an image is private. A hash of the time alone could be reversed by trial; together with the
    path, which is not in OUT, it cannot.
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
    """Yield every file of an image: those of a folder, or the file and its data files."""
    if path.is_dir():
        yield from (p for p in sorted(path.rglob("*")) if p.is_file())
    elif path.exists():
        yield from (path, *data_files(path))


def _counts(file: Path, path: Path) -> bytes:
    """Return the numbers in the name of a TIFF stack's file; empty for other images."""
    is_page = file != path and file.name.lower().endswith(TIFF_ENDINGS)
    return counts_of(tiff_stem(file)).encode() if is_page else b""


def _digest(file: Path) -> bytes:
    """Return length, CRC-32C and CRC-32, as fast as any disk; BLAKE2 would take a second per gigabyte."""
    length = castagnoli = ethernet = 0
    with file.open("rb", buffering=0) as f:
        while part := f.read(1 << 20):
            length += len(part)
            castagnoli = google_crc32c.extend(castagnoli, part)
            ethernet = zlib.crc32(part, ethernet)
    return struct.pack("<QII", length, castagnoli, ethernet)
