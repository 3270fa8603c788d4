"""From medical and microscopy volumes of any size to training-ready Zarr shards.

The names below are the public interface; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from voxelmill.kernels.crop import fill_holes, nonzero_box
    from voxelmill.kernels.labels import resample_labels
    from voxelmill.kernels.resample import resample
    from voxelmill.running import run
    from voxelmill.spacing import new_shape, target_spacing

_HOME = {
    "fill_holes": "kernels.crop",
    "new_shape": "spacing",
    "nonzero_box": "kernels.crop",
    "resample": "kernels.resample",
    "resample_labels": "kernels.labels",
    "run": "running",
    "target_spacing": "spacing",
}

__all__ = [
    "__version__",
    "fill_holes",
    "new_shape",
    "nonzero_box",
    "resample",
    "resample_labels",
    "run",
    "target_spacing",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'voxelmill' has no attribute {name!r}")
    return getattr(import_module(f"voxelmill.{_HOME[name]}"), name)
