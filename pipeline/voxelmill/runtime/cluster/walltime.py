"""Walltimes in the formats of the batch systems."""

from __future__ import annotations

import re

from voxelmill.basics.errors import ConfigError

UNITS = {("slurm", 1): (60,), ("slurm", 2): (60, 1), ("lsf", 1): (60,), ("lsf", 2): (3600, 60)}
"""Seconds of each part of a walltime, by system and number of parts; others take the end of `WHOLE`."""

WHOLE = (3600, 60, 1)
"""Seconds of an hour, a minute and a second."""


def parse_walltime(text: str | None, system: str) -> float:
    """Return the seconds of a walltime such as "1-12:00:00", "12:00:00" or "90"; 0 for None.

    Fewer than three parts are minutes and seconds for SLURM ("90:30", "90"), and hours and minutes for LSF
    ("1:30"; "90" is minutes). For PBS and SGE the last part is seconds ("90:30", "5400").

    Raises
    ------
    ConfigError
        If the text is not a walltime.
    """
    if text is None:
        return 0.0
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(text).strip())
    if found is None:
        raise ConfigError(f"cluster.walltime is {text!r}: needs hours, minutes, seconds, such as 12:00:00.")
    parts = [int(part) for part in found.groups()[1:] if part is not None]
    # After days come hours, even if minutes and seconds are left out.
    units = WHOLE[: len(parts)] if found[1] else UNITS.get((system, len(parts)), WHOLE[3 - len(parts) :])
    return int(found[1] or 0) * 86400.0 + sum(n * unit for n, unit in zip(parts, units, strict=True))
