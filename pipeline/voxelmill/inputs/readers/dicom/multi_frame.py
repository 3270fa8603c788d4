"""This module splits the header of a multi-frame DICOM file into one header per frame.

In: a header. Out: headers. Enhanced CT, MR and PET objects state shared attributes in
SharedFunctionalGroupsSequence and individual ones in PerFrameFunctionalGroupsSequence (DICOM PS3.3,
C.7.6.16); individual ones override shared ones. Older multi-frame objects state no frame positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom.dataset import Dataset

SHARED, EACH = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"

_MACROS = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PlanePositionSequence": ("ImagePositionPatient",),
}


def count_frames(header: Any) -> int:
    """Return NumberOfFrames, or 1 if it is not stated."""
    return int(header.get("NumberOfFrames") or 1)


def split(header: Any) -> Iterator[Any]:
    """Yield a header per frame; nothing unless every frame is described."""
    each = header.get(EACH) or ()
    if len(each) != count_frames(header):
        return
    common = Dataset()
    common.update({e.tag: e for e in header if e.keyword not in (SHARED, EACH)})
    for macros in header.get(SHARED) or ():
        _take(common, macros)
    for macros in each:
        frame = Dataset()
        frame.update(common)
        _take(frame, macros)
        frame.file_meta = header.file_meta
        yield frame


def _take(into: Dataset, macros: Any) -> None:
    """Copy geometry and rescaling from functional groups to the top level of a data set."""
    for name, tags in _MACROS.items():
        for item in macros.get(name) or ():
            into.update({item[tag].tag: item[tag] for tag in tags if tag in item})
