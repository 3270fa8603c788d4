"""The regular grid of a DICOM series; irregular series are refused, or repaired by a setting.

In: the slices of one series, and the accepted repairs. Out: a `Grid`. No pixels are decoded. Messages name
slices by position and InstanceNumber.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from voxelmill.basics.errors import FormatError, GeometryError, SpacingError
from voxelmill.basics.geometry import ROUNDING, SAME_GRID, Geometry
from voxelmill.basics.volume import Repair
from voxelmill.inputs.readers.dicom.detect_tilt import check_planes, find_drift
from voxelmill.inputs.readers.dicom.slice_headers import Slice, axes, describe
from voxelmill.inputs.readers.shared.hints import Hints
from voxelmill.inputs.readers.shared.uneven_slices import (
    MOST_MADE,
    Between,
    even_out,
    fill_gaps,
    fit_even,
    median_step,
)

Vector = npt.NDArray[np.float64]

ROUNDING_MM = 0.021
"""Positions that differ by this or less, and by at most `SAME_GRID` pixels, count as the same."""


@dataclass(frozen=True)
class Grid:
    """A regular grid, and the source of each of its slices.

    Attributes
    ----------
    slices : sequence of Slice
        The existing slices, in order of position along the normal.
    places : sequence of Between
        For each slice of the grid, the one of `slices` it is, or the two it lies between.
    geometry : Geometry
        The grid.
    notes : tuple of str
        Notes for the user, such as small deviations.
    repairs : tuple of Repair
        What the settings accepted and changed.
    """

    slices: Sequence[Slice]
    places: Sequence[Between]
    geometry: Geometry
    notes: tuple[str, ...]
    repairs: tuple[Repair, ...]


def make_grid(series: Sequence[Slice], hints: Hints) -> Grid:
    """Sort slices along their normal, and build the grid they lie on.

    If the gantry was tilted and repair.shear is "undo", the grid is sheared: its third axis runs from slice
    to slice and is not perpendicular to the planes.

    Raises
    ------
    FormatError
        If a slice cannot be part of a series, or asks for more bytes than its file can hold.
    SpacingError
        If positions repeat, steps differ, or a single slice states no thickness.
    GeometryError
        If the gantry is tilted, or slices are displaced sideways, or differ in orientation or pixel spacing.
    """
    _check_files(series)
    row, column, normal = axes(series[0])
    ordered = sorted(series, key=lambda s: s.along(normal))
    _check_pixels(ordered)
    ordered, duplicates = _take_first(ordered, normal, hints.repair.duplicates)
    stack = _stack(ordered, normal, hints)
    drift = find_drift(ordered, normal, hints.repair.shear)
    third = normal + drift.slope  # longer than 1 under tilt, which stretches the step
    length = float(np.linalg.norm(third))
    geometry = Geometry.from_itk(
        (ordered[0].shape[1], ordered[0].shape[0], len(stack.places)),
        (ordered[0].spacing[1], ordered[0].spacing[0], stack.step * length),
        _origin(ordered[0], stack.first, third, normal),
        np.stack([row, column, third / length], axis=1).ravel().tolist(),
    )
    off = np.maximum.reduce([np.abs(stack.off), drift.beside, check_planes(ordered)])
    notes = (*drift.notes, *_off_grid(ordered, off), *_burned_in(ordered))
    return Grid(ordered, stack.places, geometry, notes, (*duplicates, *stack.repairs))


def _origin(piece: Slice, first: float, third: Vector, normal: Vector) -> Sequence[float]:
    """Return the origin (x, y, z): the first slice, or the start of the fitted grid near it."""
    shift = first - piece.along(normal)
    return (np.asarray(piece.position) + shift * third).tolist() if shift else piece.position


def _off_grid(series: Sequence[Slice], off: Vector) -> tuple[str, ...]:
    """Return a note on the slice that lies farthest from its place on the grid."""
    worst = int(np.argmax(off))
    if off[worst] <= ROUNDING:
        return ()
    farthest = describe(series[worst])
    return (f"slices lie within {off[worst]:.2g} voxels of an even grid, farthest is {farthest}",)


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
        # differences add up over the image: SAME_GRID pixels at its far end
        if not np.allclose(np.divide(piece.spacing, first), 1, rtol=0, atol=SAME_GRID / max(piece.shape)):
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
    """Keep the lowest InstanceNumber of each position; duplicates are refused or recorded."""
    same = min(ROUNDING_MM, SAME_GRID * min(series[0].spacing))
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


@dataclass(frozen=True)
class _Stack:
    """The slices of the grid along the normal.

    Attributes
    ----------
    first, step : float
        In millimetres along the normal.
    off : array
        Signed distance of each existing slice from its place, in steps; 0 after resampling to even steps.
    """

    places: Sequence[Between]
    first: float
    step: float
    off: Vector
    repairs: tuple[Repair, ...] = ()


def _stack(series: Sequence[Slice], normal: Vector, hints: Hints) -> _Stack:
    """Fit an even grid along the normal; uneven steps are refused or recorded as a repair."""
    positions = [s.along(normal) for s in series]
    if len(series) == 1:
        return _Stack([Between(0)], positions[0], _thickness(series[0], hints), np.zeros(1))
    even = fit_even(positions, range(len(series)))
    if even.is_close:
        return _Stack([Between(i) for i in range(len(series))], even.first, even.step, even.off)
    made, filled = _make_even(positions, hints.repair.irregular)
    worst = _odd_step(positions)
    between = f"between {describe(series[worst])} and {describe(series[worst + 1])}"
    if made is None:
        way_out = _way_out(hints.repair.irregular, filled)
        raise SpacingError(_uneven(positions, worst, between, float(np.abs(even.off).max()), way_out))
    return replace(made, repairs=(_what_was_made(made, positions, between, hints),))


def _make_even(positions: Sequence[float], choice: str) -> tuple[_Stack | None, bool]:
    """Return the even grid that repair.irregular allows, if any, and whether "fill" is possible."""
    filled = fill_gaps(positions)
    if choice == "fill" and filled is not None:
        places, even = filled
        return _Stack(places, even.first, even.step, even.off), True
    evened = even_out(positions) if choice == "resample" else None
    if evened is None:
        return None, filled is not None
    step = (positions[-1] - positions[0]) / (len(evened) - 1)
    return _Stack(evened, positions[0], step, np.zeros(len(positions))), filled is not None


def _what_was_made(made: _Stack, positions: Sequence[float], between: str, hints: Hints) -> Repair:
    choice, there = hints.repair.irregular, len(positions)
    how = "copies of the nearest" if hints.is_label else "linear between the nearest two"
    what = f"{len(made.places) - there} slices put in, {how}, the first {between}"
    if choice == "resample":
        steps = np.diff(positions)
        what = f"{there} slices {steps.min():.4g} to {steps.max():.4g} mm apart became {len(made.places)}"
        what += f" at even steps, {how}; the first odd step is {between}"
    return Repair(f"repair.irregular={choice}", what)


def _odd_step(positions: Sequence[float]) -> int:
    """Return the first step too uneven for any grid, or the most uneven one if deviations only add up."""
    odd = np.abs(np.diff(positions) - median_step(positions))
    # both slices of a step may lie SAME_GRID off their places
    beyond = np.flatnonzero(odd > 2 * SAME_GRID * median_step(positions))
    return int(beyond[0] if len(beyond) else odd.argmax())


def _way_out(choice: str, can_be_filled: bool) -> str:
    """Return the advice besides restoring the series."""
    if choice == "resample":
        return f"take away what lies far off: even steps would make over {MOST_MADE} times as many slices"
    if can_be_filled:
        return "put in what is missing: --set repair.irregular=fill"
    return "make even steps: --set repair.irregular=resample"


def _uneven(positions: Sequence[float], worst: int, between: str, off: float, way_out: str) -> str:
    expected = median_step(positions)
    found = positions[worst + 1] - positions[worst]
    missing = round(found / expected) - 1
    hint = f" ({missing} missing?)" if missing > 0 else ""
    return (
        f"slices are {expected:.4g} mm apart, but {found:.4g} mm {between}{hint}: they lie up to {off:.2g} "
        f"voxels off the best even grid, at most {SAME_GRID} is accepted. Restore the series from its "
        f"source, or {way_out}."
    )


def _thickness(piece: Slice, hints: Hints) -> float:
    if hints.spacing is not None:
        return hints.spacing[0]
    if piece.thickness is None:
        raise SpacingError(
            "the series has one slice and states neither SpacingBetweenSlices nor SliceThickness. "
            "Add a `spacing` column to a manifest."
        )
    return piece.thickness
