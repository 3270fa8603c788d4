"""The slices of a DICOM series -> one regular grid; what is not regular is refused, or repaired by a setting.

In: slices of one series, and what the caller accepts. Out: a `Grid`. Decodes nothing. Messages name slices by
position and InstanceNumber.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from voxelmill.errors import FormatError, GeometryError, SpacingError
from voxelmill.geometry import Geometry
from voxelmill.readers.common import Hints
from voxelmill.readers.dicom_headers import Slice, axes, describe
from voxelmill.readers.uneven import MOST_MADE, Between, even_out, fill_gaps, median_step
from voxelmill.volume import Repair

Vector = npt.NDArray[np.float64]

STEP_TOLERANCE, STEP_LIMIT = 0.01, 0.25  # of the distance between slices: accepted at least, and at most
ROUNDING_MM = 0.021  # what steps differ by where positions are rounded to 0.01
SIDEWAYS_MM = 0.008  # what such a position is moved sideways
SAME_PIXELS = 0.1  # positions are one where they differ by less, and by less than ROUNDING_MM
TILT_PIXELS, TILT_SLOPE = 0.1, 0.002  # sideways shift accepted: pixels, and of the way along the normal


@dataclass(frozen=True)
class Grid:
    """A regular grid, and where its slices come from.

    Attributes
    ----------
    slices : sequence of Slice
        What is there, in order of position along the normal.
    places : sequence of Between
        For each slice of the grid, which of `slices` it is, or which two it lies between.
    """

    slices: Sequence[Slice]
    places: Sequence[Between]
    geometry: Geometry
    notes: tuple[str, ...]
    repairs: tuple[Repair, ...]


def make_grid(series: Sequence[Slice], hints: Hints) -> Grid:
    """Sort slices along their normal, and make the grid that they lie on.

    Where the gantry was tilted and that shall be undone, the grid is sheared: its third axis goes from slice
    to slice, and is not at right angles to the planes.

    Raises
    ------
    FormatError
        If a slice cannot be part of a series, or asks for more bytes than its file can hold.
    SpacingError
        If positions repeat or steps differ, or a single slice states no thickness.
    GeometryError
        If the gantry is tilted, slices lie beside the others, or differ in the distance between pixels.
    """
    _check_files(series)
    row, column, normal = axes(series[0])
    ordered = sorted(series, key=lambda s: s.along(normal))
    _check_pixels(ordered)
    ordered, duplicates = _take_first(ordered, normal, hints.repair.duplicates)
    places, uneven = _place(ordered, normal, hints)
    slope, tilted = _drift(ordered, normal, hints.repair.shear)
    step = _extent(ordered, normal) / (len(places) - 1) if len(places) > 1 else _thickness(ordered[0], hints)
    third = normal + slope
    length = float(np.linalg.norm(third))
    geometry = Geometry.from_itk(
        (ordered[0].shape[1], ordered[0].shape[0], len(places)),
        (ordered[0].spacing[1], ordered[0].spacing[0], step * length),
        ordered[0].position,
        np.stack([row, column, third / length], axis=1).ravel().tolist(),
    )
    return Grid(ordered, places, geometry, (*tilted, *_burned_in(ordered)), (*duplicates, *uneven))


def _check_files(series: Sequence[Slice]) -> None:
    problem = next((s.problem for s in series if s.problem), None)
    if problem:
        raise FormatError(problem)
    for piece in series:
        if piece.asks_too_much:
            compressed = "compressed " if piece.is_compressed else ""
            raise FormatError(
                f"{describe(piece)} asks for {piece.pixel_bytes} bytes of pixels; the {piece.file_bytes} "
                f"{compressed}bytes of its file cannot hold them. Restore the file from its source."
            )


def _check_pixels(series: Sequence[Slice]) -> None:
    first = series[0].spacing
    for piece in series:
        if len(piece.spacing) != 2 or not all(0 < s < float("inf") for s in piece.spacing):
            found = f"PixelSpacing {piece.spacing} mm" if piece.spacing else "no PixelSpacing"
            raise SpacingError(
                f"{describe(piece)} states {found}; two positive numbers are needed. Restore the series from "
                "its source."
            )
        if not np.allclose(piece.spacing, first, rtol=1e-4, atol=0):
            raise GeometryError(
                f"PixelSpacing is {first} mm in {describe(series[0])}, but {piece.spacing} mm in "
                f"{describe(piece)}. Give each series its own folder."
            )


def _burned_in(series: Sequence[Slice]) -> tuple[str, ...]:
    count = sum(s.is_burned_in for s in series)
    text = f"BurnedInAnnotation is YES in {count} slices: text in the pixels may name the patient; it stays"
    return (text,) if count else ()


def _take_first(
    series: Sequence[Slice], normal: Vector, choice: str
) -> tuple[list[Slice], tuple[Repair, ...]]:
    """One slice of each position, that of the lowest InstanceNumber; several are refused or recorded."""
    same = min(ROUNDING_MM, SAME_PIXELS * min(series[0].spacing))
    groups: list[list[Slice]] = []
    for piece in series:
        if groups and piece.along(normal) - groups[-1][0].along(normal) <= same:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    several = [group for group in groups if len(group) > 1]
    if several and choice == "refuse":
        raise SpacingError(
            f"two slices lie at one position, between {describe(several[0][0])} and "
            f"{describe(several[0][1])}. Give each time point or copy of the series its own folder, "
            "or keep the lowest InstanceNumber of each position: --set repair.duplicates=first."
        )
    kept = [min(group, key=_instance) for group in groups]
    left_out = len(series) - len(kept)
    what = f"{left_out} slices left out, at {len(several)} of {len(groups)} positions"
    if several:
        what += f", the first beside {describe(min(several[0], key=_instance))}"
    return kept, (Repair(f"repair.duplicates={choice}", what),) if several else ()


def _instance(piece: Slice) -> tuple[float, int]:
    return (float("inf") if piece.number is None else piece.number, piece.frame or 0)


def _place(
    series: Sequence[Slice], normal: Vector, hints: Hints
) -> tuple[Sequence[Between], tuple[Repair, ...]]:
    """Where the slices of an even grid come from; steps that differ are refused or recorded."""
    positions = [s.along(normal) for s in series]
    worst = _first_odd_step(positions) if len(series) > 1 else None
    if worst is None:
        return [Between(i) for i in range(len(series))], ()
    choice = hints.repair.irregular
    filled = fill_gaps(positions, _tolerance(median_step(positions)))
    places = {"refuse": None, "fill": filled, "resample": even_out(positions)}[choice]
    between = f"between {describe(series[worst])} and {describe(series[worst + 1])}"
    if places is None:
        raise SpacingError(_uneven(positions, worst, between, _way_out(choice, filled)))
    how = "copies of the nearest" if hints.is_label else "linear between the nearest two"
    what = f"{len(places) - len(series)} slices put in, {how}, the first {between}"
    if choice == "resample":
        steps = np.diff(positions)
        what = f"{len(series)} slices {steps.min():.4g} to {steps.max():.4g} mm apart became {len(places)}"
        what += f" at even steps, {how}; the first odd step is {between}"
    return places, (Repair(f"repair.irregular={choice}", what),)


def _tolerance(step: float) -> float:
    """Millimetres by which a step may differ."""
    return min(max(STEP_TOLERANCE * step, ROUNDING_MM), STEP_LIMIT * step)


def _first_odd_step(positions: Sequence[float]) -> int | None:
    expected = median_step(positions)
    steps = (b - a for a, b in pairwise(positions))
    return next((i for i, step in enumerate(steps) if abs(step - expected) > _tolerance(expected)), None)


def _way_out(choice: str, filled: Sequence[Between] | None) -> str:
    """What can be done besides restoring the series."""
    if choice == "resample":
        return f"take away what lies far off: even steps would make over {MOST_MADE} times as many slices"
    if filled is not None:
        return "put in what is missing: --set repair.irregular=fill"
    return "make even steps: --set repair.irregular=resample"


def _uneven(positions: Sequence[float], worst: int, between: str, way_out: str) -> str:
    expected = median_step(positions)
    found = positions[worst + 1] - positions[worst]
    missing = round(found / expected) - 1
    hint = f" ({missing} missing?)" if missing > 0 else ""
    return (
        f"slices are {expected:.4g} mm apart, but {found:.4g} mm {between}{hint}. "
        f"Restore the series from its source, or {way_out}."
    )


def _extent(series: Sequence[Slice], normal: Vector) -> float:
    return series[-1].along(normal) - series[0].along(normal)


def _thickness(piece: Slice, hints: Hints) -> float:
    if hints.spacing is not None:
        return hints.spacing[0]
    if piece.thickness is None:
        raise SpacingError(
            "the series has one slice and states neither SpacingBetweenSlices nor SliceThickness. "
            "Add a `spacing` column to a manifest."
        )
    return piece.thickness


def _drift(series: Sequence[Slice], normal: Vector, choice: str) -> tuple[Vector, tuple[str, ...]]:
    """How slices drift sideways, in millimetres per millimetre along the normal, and a note where they do.

    The drift of a tilted gantry is a straight line (least squares); a slice beside it is refused.
    """
    shifts = np.subtract([s.position for s in series], series[0].position)
    along = shifts @ normal
    sideways = shifts - along[:, None] * normal
    slope = _slope(along, sideways)
    _check_line(series, along, sideways, slope)
    distances = np.linalg.norm(sideways, axis=1)
    worst = int(np.argmax(distances))
    if distances[worst] <= max(TILT_PIXELS * min(series[0].spacing), TILT_SLOPE * along[worst]):
        return np.zeros(3), ()
    tilt = f"gantry tilt of {np.degrees(np.arctan(np.linalg.norm(slope))):.1f} degrees"
    if choice == "refuse":
        raise GeometryError(
            f"{tilt}: {describe(series[worst])} lies {distances[worst]:.2f} mm beside the normal of the "
            "first; straight slices are read. Undo the tilt before, or here: --set repair.shear=undo."
        )
    return slope, (tilt,)


def _slope(along: Vector, sideways: Vector) -> Vector:
    if len(along) == 1:
        return np.zeros(3)
    centred = along - along.mean()
    slope: Vector = centred @ sideways / (centred @ centred)
    return slope


def _check_line(series: Sequence[Slice], along: Vector, sideways: Vector, slope: Vector) -> None:
    line = sideways.mean(axis=0) + (along - along.mean())[:, None] * slope
    beside = np.linalg.norm(sideways - line, axis=1)
    worst = int(np.argmax(beside))
    accepted = max(TILT_PIXELS * min(series[0].spacing), SIDEWAYS_MM)
    if beside[worst] > accepted:
        raise GeometryError(
            f"slices do not lie in a straight row: {describe(series[worst])} is {beside[worst]:.2f} mm "
            f"beside the line through all, at most {accepted:.2g} mm is accepted. Restore the series from "
            "its source."
        )
