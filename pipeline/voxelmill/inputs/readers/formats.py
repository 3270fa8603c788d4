"""The registry of image formats, which opens any path of a known format as a lazily read volume.

In: a path. Out: a `Volume`. Each format is one module with a function ``open_volume(path, hints)`` and one
row in `FORMATS`. The libraries of a format are imported when its first file is opened.
"""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np

from voxelmill.basics.errors import FormatError, VoxelmillError
from voxelmill.basics.geometry import Triple
from voxelmill.basics.safe_tracebacks import is_own_fault
from voxelmill.basics.volume import Volume
from voxelmill.config.repair_settings import RepairConfig
from voxelmill.inputs.readers.dicom.dicom_files import holds_dicom
from voxelmill.inputs.readers.formats_to_convert import CONVERTERS
from voxelmill.inputs.readers.nifti import header_voxel_pairs
from voxelmill.inputs.readers.ome_zarr.ome_folder import holds_ome
from voxelmill.inputs.readers.shared import decompression
from voxelmill.inputs.readers.shared.hints import Hints
from voxelmill.inputs.readers.shared.packed_voxels import readable
from voxelmill.inputs.readers.tiff.stack_folder import TIFF_ENDINGS, tiff_files


@dataclass(frozen=True)
class Format:
    """A file format and the module that reads it.

    Attributes
    ----------
    name : str
        As messages show it.
    module : str
        Module below `voxelmill.inputs.readers` that holds ``open_volume``.
    endings : tuple of str
        File name endings in lower case, with the dot.
    states_spacing : bool
        Whether every file of this format states its spacing.
    """

    name: str
    module: str
    endings: tuple[str, ...]
    states_spacing: bool = True


READERS = __name__.rpartition(".")[0]

DICOM = Format("DICOM", "dicom.dicom_reader", (".dcm", ".ima"))
TIFF = Format("TIFF", "tiff.tiff_reader", TIFF_ENDINGS, states_spacing=False)
OME_ZARR = Format("OME-Zarr", "ome_zarr.ome_zarr_reader", (".ome.zarr", ".zarr"), states_spacing=False)
FORMATS = (
    Format(
        "NIfTI",
        "nifti.nifti_reader",
        (".nii.gz", ".nii", *header_voxel_pairs.HEADERS[::-1], *header_voxel_pairs.VOXELS[::-1]),
    ),
    Format("MetaImage", "itk.metaimage_reader", (".mhd", ".mha")),
    Format("NRRD", "itk.nrrd_reader", (".nrrd", ".nhdr")),
    Format("NumPy", "npy_reader", (".npy",), states_spacing=False),
    TIFF,
    OME_ZARR,
    DICOM,
)

_DETACHED = (".mhd", ".mha", ".nhdr", ".nrrd")
"""Endings of headers whose voxels may lie in other files."""

_OTHER_ENDINGS = (
    ".raw",
    ".zraw",
    ".mgz",
    ".md",
    ".log",
    ".yaml",
    ".toml",
)
"""Endings of other common files, which `known_ending` may show beside those of the formats."""


def open_volume(
    path: Path,
    *,
    spacing: Triple | None = None,
    dicom_series: str | None = None,
    dicom_padding: str = "minimum",
    repair: RepairConfig | None = None,
    is_label: bool = False,
) -> Volume:
    """Open an image file, or a folder that holds a DICOM series, a TIFF stack or an OME-Zarr image.

    Only headers are read. A header that asks for more bytes than the file can hold is refused here.

    Parameters
    ----------
    path : Path
        File or folder.
    spacing : (z, y, x), optional
        In millimetres. Overrides the spacing in the file; required where the file states none.
    dicom_series : str, optional
        The series to read where a folder holds several: its SeriesInstanceUID, or its number from 1.
    dicom_padding : {"minimum", "keep"}
        How DICOM voxels that hold PixelPaddingValue are treated: replaced by the lowest value of all other
        voxels, or kept.
    repair : RepairConfig, optional
        Problems to accept; by default none.
    is_label : bool
        Whether values are labels, which must not be interpolated.

    Returns
    -------
    Volume
        Channels, z, y, x; spacing and origin in millimetres, in ITK's LPS world.

    Raises
    ------
    FormatError
        If the file is missing, has no known format, or does not follow its format.
    GeometryError, SpacingError
        If its grid is invalid, or its spacing is missing or irregular.
    """
    with readable():
        found = find_format(path)
        if found is None:
            raise FormatError(_unknown(path))
        volume = _open(
            found, path, Hints(spacing, dicom_series, dicom_padding, repair or RepairConfig(), is_label)
        )
    if spacing is not None:
        volume.geometry = replace(volume.geometry, spacing=spacing)
    return volume


def _open(found: Format, path: Path, hints: Hints) -> Volume:
    """Open a path with its format's module; turn whatever a library raises into a `FormatError`."""
    module = import_module(f"{READERS}.{found.module}")
    try:
        with np.errstate(all="ignore"):  # invalid numbers are refused later; NumPy need not warn
            volume: Volume = module.open_volume(path, hints)
    except (VoxelmillError, OSError):
        raise
    except decompression.ERRORS:  # `readable` in `open_volume` words these
        raise
    except Exception as error:
        if is_own_fault(error):
            raise
        raise FormatError(
            f"the file is no {found.name}, or its header is damaged ({type(error).__name__}). "
            "Restore it from its source."
        ) from error
    if min(volume.geometry.shape) < 1:
        raise FormatError(
            f"the image has {volume.geometry.shape} voxels (z, y, x); each axis needs one at least. "
            "Restore the file from its source."
        )
    return volume


def find_format(path: Path) -> Format | None:
    """Return the format of a path, by its ending or else by its content; None if neither is known."""
    ending = _ending(path)
    for known in FORMATS:
        # DICOM files may end in .img as well
        if ending in known.endings and not (ending == ".img" and holds_dicom(path)):
            return known
    if holds_ome(path):
        return OME_ZARR
    if holds_dicom(path):
        return DICOM
    return TIFF if tiff_files(path) else None


def data_files(path: Path) -> tuple[Path, ...]:
    """Return the existing data files that a header names in its folder, or the other file of a pair.

    The result is empty for other files, and for a header that cannot be read: opening it reports why.
    """
    if header_voxel_pairs.is_header(path) or header_voxel_pairs.is_voxels(path):
        other = header_voxel_pairs.other_half(path)
        return () if other is None else (other,)
    if not path.name.lower().endswith(_DETACHED) or not path.is_file():
        return ()
    name = "itk.nrrd_reader" if path.suffix.lower() in (".nhdr", ".nrrd") else "itk.metaimage_reader"
    module = import_module(f"{READERS}.{name}")
    try:
        return tuple(file for file in module.data_files(path) if file != path)
    except (FormatError, OSError):
        return ()


def is_known(path: Path) -> bool:
    """Return whether `open_volume` has a reader for this path; a path with a known ending need not exist."""
    return find_format(path) is not None


def states_spacing(path: Path) -> bool:
    """Return whether every file in the format of this path states its spacing."""
    found = find_format(path)
    return found is not None and found.states_spacing


def case_stem(path: Path) -> str:
    """Return the name of a path without the ending of its format: ``a.b.nii.gz`` -> ``a.b``."""
    return path.name[: len(path.name) - len(_ending(path))]


def known_endings() -> tuple[str, ...]:
    """Return the file name endings of all formats."""
    return tuple(ending for known in FORMATS for ending in known.endings)


def known_ending(path: Path) -> str:
    """Return the ending of a name, or ".?" if unknown: text after a dot may be part of a patient's name."""
    ending = path.suffix.lower()
    known = {
        *_OTHER_ENDINGS,
        *CONVERTERS,
        *(e[e.rindex(".") :] for e in known_endings()),
        *mimetypes.types_map,
    }
    return ending if ending in known or not ending else ".?"


def _ending(path: Path) -> str:
    name = path.name.lower()
    return next((ending for ending in known_endings() if name.endswith(ending)), "")


def _unknown(path: Path) -> str:
    if not path.exists():
        return "the file is missing. Restore it, or correct the path."
    known = f"known are {', '.join(known_endings())} and DICOM"
    if path.is_dir():
        return f"the folder holds no DICOM file, TIFF file or OME-Zarr image; {known}. Name another folder."
    ending = known_ending(path)
    how = f"Convert it: {CONVERTERS[ending]}" if ending in CONVERTERS else "Convert it"
    return f"a file ending in '{ending}' is of no known format; {known}. {how}."
