"""From medical and microscopy volumes of any size to training-ready Zarr shards.

The names below are the public interface; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from voxelmill.kernels.nonzero_mask import fill_holes, nonzero_box
    from voxelmill.kernels.resampling.images import resample
    from voxelmill.kernels.resampling.labels import resample_labels
    from voxelmill.runs.run_function import run
    from voxelmill.stages.planning.spacing_rules import new_shape, target_spacing

_HOME = {
    "fill_holes": "kernels.nonzero_mask",
    "new_shape": "stages.planning.spacing_rules",
    "nonzero_box": "kernels.nonzero_mask",
    "resample": "kernels.resampling.images",
    "resample_labels": "kernels.resampling.labels",
    "run": "runs.run_function",
    "target_spacing": "stages.planning.spacing_rules",
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
