"""Walltimes, as batch systems write them."""

from __future__ import annotations

import re

from voxelmill.basics.errors import ConfigError

UNITS = {("slurm", 1): (60,), ("slurm", 2): (60, 1), ("lsf", 1): (60,), ("lsf", 2): (3600, 60)}
"""Seconds of the parts of a walltime, by system and number of parts; else they are the last of `WHOLE`."""

WHOLE = (3600, 60, 1)


def parse_walltime(text: str | None, system: str) -> float:
    """Seconds of a walltime: "1-12:00:00", "12:00:00", "90"; 0 where there is none.

    Less than three parts are minutes and seconds for SLURM ("90:30", "90"), hours and minutes for LSF
    ("1:30"; "90" are minutes), and seconds at their end for PBS and SGE ("90:30", "5400").

    Raises
    ------
    ConfigError
        If it is none.
    """
    if text is None:
        return 0.0
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(text).strip())
    if found is None:
        raise ConfigError(f"cluster.walltime is {text!r}: needs hours, minutes, seconds, such as 12:00:00.")
    parts = [int(part) for part in found.groups()[1:] if part is not None]
    units = WHOLE[: len(parts)] if found[1] else UNITS.get((system, len(parts)), WHOLE[3 - len(parts) :])
    return int(found[1] or 0) * 86400.0 + sum(n * unit for n, unit in zip(parts, units, strict=True))
