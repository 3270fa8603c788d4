"""The grid of a NRRD file with a layer axis, computed here because ITK does not read all such files.

In: fields of a header. Out: a `Header`, or None if they state no such grid. No file is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from voxelmill.basics.geometry import Geometry
from voxelmill.inputs.readers.itk.header_fields import check_numbers, sizes
from voxelmill.inputs.readers.itk.itk_grid import Header

_SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
"""Signs (x, y, z) that turn a NRRD space into ITK's LPS world."""

_VECTOR = re.compile(r"none|\([^()]*\)", re.IGNORECASE)
_NO_VECTOR = re.compile(r"none|\(\s*nan\s*,\s*nan\s*,\s*nan\s*\)", re.IGNORECASE)


def layered_grid(fields: Mapping[str, str]) -> Header | None:
    """Return the grid of the three axes with a direction, if the first or last of four axes has none.

    Parameters
    ----------
    fields : mapping of str to str
        The lines ``field: value``, names in lower case without blanks.

    Returns
    -------
    Header or None
        None if the fields state no such grid.

    Raises
    ------
    FormatError
        If a number is malformed.
    GeometryError, SpacingError
        If the axes do not span a grid.
    """
    signs = _SPACES.get(fields.get("space", "").lower())
    vectors = _VECTOR.findall(fields.get("spacedirections", ""))
    without = [axis for axis, vector in enumerate(vectors) if _NO_VECTOR.fullmatch(vector)]
    if signs is None or len(vectors) != 4 or without not in ([0], [3]):
        return None
    lengths = sizes(fields, "sizes", 4)
    channels = lengths.pop(without[0])
    del vectors[without[0]]
    known = {"space directions": " ".join(vectors), "space origin": fields.get("spaceorigin", "(0,0,0)")}
    check_numbers(known, "space directions", 9)
    check_numbers(known, "space origin", 3)
    # a row of the field is the direction of one axis, in x, y, z; `columns` has them as columns
    columns = (_numbers(known["space directions"]).reshape(3, 3) * signs).T
    spacing = np.linalg.norm(columns, axis=0)
    direction = columns / np.where(spacing > 0, spacing, 1)
    origin = _numbers(known["space origin"]) * signs
    geometry = Geometry.from_itk(lengths, spacing.tolist(), origin.tolist(), direction.ravel().tolist())
    return Header(geometry, channels, is_interleaved=without == [0])


def _numbers(text: str) -> npt.NDArray[np.float64]:
    return np.array([float(word) for word in re.findall(r"[^\s(),]+", text)])
