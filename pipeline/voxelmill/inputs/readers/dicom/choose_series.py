"""This module groups DICOM slices into series, and selects the series to read.

In: slices. Out: the slices of one series. Messages list series by number, size, spacing and orientation,
never by SeriesInstanceUID, which identifies a patient's study.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np

from voxelmill.basics.errors import FormatError, GeometryError
from voxelmill.inputs.readers.dicom.slice_headers import Slice, axes
from voxelmill.inputs.readers.shared.uneven_slices import median_step

_PLANES = ("sagittal", "coronal", "axial")  # by the largest component (x, y, z) of the normal


def choose_series(slices: Sequence[Slice], chosen: str | None) -> tuple[list[Slice], tuple[str, ...]]:
    """Select the slices of one series.

    Parameters
    ----------
    slices : sequence of Slice
        All slices of a folder.
    chosen : str or None
        SeriesInstanceUID or number (from 1) of the series; required if there are several.

    Returns
    -------
    series : list of Slice
        In the order of the files.
    notes : tuple of str
        A note on localisers that were set aside.

    Raises
    ------
    FormatError
        If there are only localisers.
    GeometryError
        If not exactly one series matches.
    """
    kept = [s for s in slices if not s.is_localizer]
    numbers = ", ".join(str(s.number) for s in slices if s.is_localizer)
    left_out = len(slices) - len(kept)
    notes = (f"{left_out} localiser(s) set aside: InstanceNumber {numbers}",) if left_out else ()
    # a fixed order, because the user selects a series by its number
    series = sorted(_group(kept), key=lambda group: (group[0].series_number, group[0].uid, group[0].shape))
    if not series:
        raise FormatError(
            "the folder holds no DICOM image but localisers. Name a folder that holds a series."
        )
    matching = [g for n, g in enumerate(series, 1) if chosen in (None, str(n), g[0].uid)]
    if len(matching) == 1:
        return matching[0], notes
    listed = "; ".join(f"{n}: {_describe(group)}" for n, group in enumerate(series, 1))
    raise GeometryError(
        f"{_found(len(series), len(matching), chosen)}, one is needed: {listed}. Set dicom.series to a "
        "number or a SeriesInstanceUID, or give each series its own folder."
    )


def _found(series: int, matching: int, chosen: str | None) -> str:
    if chosen is None:
        return f"the folder holds {series} series"
    name = f"number {chosen}" if chosen.isdecimal() else "the SeriesInstanceUID"
    return f"{matching} of {series} series match {name} in dicom.series"


def _group(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Group slices by SeriesInstanceUID, shape and orientation."""
    groups: list[list[Slice]] = []
    for piece in slices:
        for group in groups:
            first = group[0]
            if (first.uid, first.shape, len(first.orientation)) == (
                piece.uid,
                piece.shape,
                len(piece.orientation),
            ) and np.allclose(first.orientation, piece.orientation, rtol=0, atol=1e-3):
                group.append(piece)
                break
        else:
            groups.append([piece])
    return groups


def _describe(group: Sequence[Slice]) -> str:
    """Describe a series: its size, and its spacing and orientation if they are stated."""
    words = ["{} slices of {}x{}".format(len(group), *group[0].shape)]
    if not any(s.problem or len(s.spacing) != 2 for s in group):
        with suppress(GeometryError):
            words += [_spacing(group), _orientation(group[0])]
    return ", ".join(words)


def _spacing(group: Sequence[Slice]) -> str:
    normal = axes(group[0])[2]
    step = group[0].thickness
    if len(group) > 1:
        step = median_step(sorted(s.along(normal) for s in group))
    words = [f"{n:.4g}" if n else "?" for n in (step, *group[0].spacing)]
    return f"{'x'.join(words)} mm"


def _orientation(piece: Slice) -> str:
    return _PLANES[int(np.abs(axes(piece)[2]).argmax())]
