"""A DICOM file of many frames -> one header for each frame, as if each were a file of its own.

In: a header. Out: headers. Enhanced CT, MR and PET objects state what all frames share in
SharedFunctionalGroupsSequence and what differs in PerFrameFunctionalGroupsSequence (DICOM PS3.3, C.7.6.16);
what a frame states goes before what all share. Older multi-frame objects state no position of a frame.
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
    """NumberOfFrames; 1 where it is not stated."""
    return int(header.get("NumberOfFrames") or 1)


def split(header: Any) -> Iterator[Any]:
    """A header for each frame that is described; none where no frame is, or not every one."""
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
    """Put what the functional groups of one frame, or of all, say of geometry and values beside the rest."""
    for name, tags in _MACROS.items():
        for item in macros.get(name) or ():
            into.update({item[tag].tag: item[tag] for tag in tags if tag in item})
