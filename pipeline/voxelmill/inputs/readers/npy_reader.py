"""The reader for NumPy's .npy files, memory-mapped: (z, y, x) or (c, z, y, x).

In: a path, and a spacing, which .npy cannot state. Out: a volume with identity direction. It never unpickles.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voxelmill.basics.errors import FormatError, SpacingError
from voxelmill.basics.geometry import Geometry
from voxelmill.basics.safe_tracebacks import is_own_fault
from voxelmill.basics.volume import Volume
from voxelmill.inputs.readers.shared.hints import Hints
from voxelmill.inputs.readers.shared.packed_voxels import PackedVolume, Packing


def open_volume(path: Path, hints: Hints) -> Volume:
    """Open a .npy file; see `voxelmill.inputs.readers.formats.open_volume`."""
    array = _map(path)  # only for its type, shape and offset
    if hints.spacing is None:
        raise SpacingError(
            'a .npy file states no spacing. Add a `spacing` column "z,y,x" in mm to a manifest, or a '
            '<case>.json beside the file with {"spacing": [z, y, x]}.'
        )
    z, y, x = array.shape[-3:]
    dtype = np.dtype(np.uint8) if array.dtype == bool else array.dtype
    packing = Packing(path, dtype, offset=array.offset)
    return PackedVolume(Geometry((z, y, x), hints.spacing), packing, channels=array.size // (z * y * x))


def _map(path: Path) -> np.memmap:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy evaluates the header and trusts its sizes: anything can be raised
        if is_own_fault(error):
            raise
        raise FormatError(
            "the .npy file is cut short, or holds Python objects; an array of numbers is needed. "
            "Restore the file, or save the array again."
        ) from None
    if not isinstance(array, np.memmap) or array.ndim not in (3, 4) or array.size == 0:
        raise FormatError(
            f"the .npy file has shape {getattr(array, 'shape', None)}; (z, y, x) or (c, z, y, x) is needed. "
            "Save the array in that shape."
        )
    if not array.flags.c_contiguous:
        raise FormatError(
            "the .npy file is in Fortran order; C order is needed. Save numpy.ascontiguousarray(array)."
        )
    return array
