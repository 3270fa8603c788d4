"""The grid of a NRRD file with an axis of layers, from its own fields: ITK does not read all of them.

In: fields of a header. Out: a `Header`, or nothing where they state no grid of that kind. Reads no file.
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
"""What turns an axis of the world into ITK's."""

_VECTOR = re.compile(r"none|\([^()]*\)", re.IGNORECASE)
_NO_VECTOR = re.compile(r"none|\(\s*nan\s*,\s*nan\s*,\s*nan\s*\)", re.IGNORECASE)


def layered_grid(fields: Mapping[str, str]) -> Header | None:
    """The grid of three axes that have a direction, where the fourth, first or last, has none.

    Raises
    ------
    FormatError
        If a number is none.
    GeometryError, SpacingError
        If the axes make no grid.
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
    columns = (_numbers(known["space directions"]).reshape(3, 3) * signs).T
    spacing = np.linalg.norm(columns, axis=0)
    direction = columns / np.where(spacing > 0, spacing, 1)
    origin = _numbers(known["space origin"]) * signs
    geometry = Geometry.from_itk(lengths, spacing.tolist(), origin.tolist(), direction.ravel().tolist())
    return Header(geometry, channels, is_interleaved=without == [0])


def _numbers(text: str) -> npt.NDArray[np.float64]:
    return np.array([float(word) for word in re.findall(r"[^\s(),]+", text)])
