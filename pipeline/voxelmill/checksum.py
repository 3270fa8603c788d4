"""Whether the files of a case are still what they were: by size and time, and by their contents.

In: a `CaseSource`. Out: numbers and a checksum, neither of which tells a file's name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from voxelmill.sources import CaseSource


def source_digest(source: CaseSource) -> str:
    """Checksum of the contents of a case's files, whatever their names."""
    digests = sorted(hashlib.blake2b(path.read_bytes(), digest_size=16).digest() for path in _files(source))
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def source_stats(source: CaseSource) -> list[list[int]]:
    """Size and time of change of each file, sorted."""
    return sorted([s.st_size, s.st_mtime_ns] for s in (path.stat() for path in _files(source)))


def _files(source: CaseSource) -> Iterator[Path]:
    """Every file of a case; a header's folder or data file counts where it has one."""
    for path in (*source.channels, *([source.label] if source.label else [])):
        if path.is_dir():
            yield from (p for p in sorted(path.iterdir()) if p.is_file())
        elif path.exists():
            yield path
            yield from (p for p in (path.with_suffix(e) for e in (".raw", ".zraw")) if p.exists())
