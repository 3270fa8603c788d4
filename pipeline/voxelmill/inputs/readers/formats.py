"""Source files of every known format, opened as lazily read volumes.

In: a path. Out: a `Volume`. A format is one module with a function ``open_volume(path, hints)`` and one
line in `FORMATS`. The libraries that read a format are imported when its first file is opened.
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
    """A family of files that one module reads."""

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
"""Headers that may name other files, which hold their voxels."""

_OTHER_ENDINGS = (
    ".raw",
    ".zraw",
    ".mgz",
    ".md",
    ".log",
    ".yaml",
    ".toml",
)


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

    Reads headers only; a header that asks for more bytes than the file can hold is refused here.

    Parameters
    ----------
    path : Path
        File, or folder.
    spacing : (z, y, x), optional
        Millimetres; goes before what the file states, and is needed where it states none.
    dicom_series : str, optional
        The series to read where a folder holds several: its SeriesInstanceUID, or its number from 1.
    dicom_padding : {"minimum", "keep"}
        What voxels of DICOM become that hold PixelPaddingValue: the lowest value of all others, or nothing.
    repair : RepairConfig, optional
        Problems to accept; by default none.
    is_label : bool
        Whether values are labels, which nothing may be made between.

    Raises
    ------
    FormatError
        If the file is missing, of no known format, or not what its format says.
    GeometryError, SpacingError
        If its grid makes no sense, or its spacing is missing or irregular.
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
    """Let a format's module read a header; what libraries raise over a damaged one is theirs to choose."""
    module = import_module(f"{READERS}.{found.module}")
    try:
        with np.errstate(all="ignore"):  # numbers without sense are refused, not warned of
            volume: Volume = module.open_volume(path, hints)
    except (VoxelmillError, OSError):
        raise
    except decompression.ERRORS:
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
    """The format of a path: by its ending, else by content; None where neither tells."""
    ending = _ending(path)
    for known in FORMATS:
        if ending in known.endings and not (ending == ".img" and holds_dicom(path)):
            return known
    if holds_ome(path):
        return OME_ZARR
    if holds_dicom(path):
        return DICOM
    return TIFF if tiff_files(path) else None


def data_files(path: Path) -> tuple[Path, ...]:
    """The data files that a header names within its folder, or the other file of a pair.

    Those that are there; nothing for other files, and for a header that cannot be read: its reader says why.
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
    """Whether `open_volume` has a reader for this path; a path with a known ending need not exist."""
    return find_format(path) is not None


def states_spacing(path: Path) -> bool:
    """Whether every file of this format states the distance between voxels."""
    found = find_format(path)
    return found is not None and found.states_spacing


def case_stem(path: Path) -> str:
    """The name of a path without the ending of its format: ``a.b.nii.gz`` -> ``a.b``."""
    return path.name[: len(path.name) - len(_ending(path))]


def known_endings() -> tuple[str, ...]:
    """Every ending that tells a format."""
    return tuple(ending for known in FORMATS for ending in known.endings)


def known_ending(path: Path) -> str:
    """The ending of a name as it may be shown: what follows a dot can also be a part of a patient's name."""
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
