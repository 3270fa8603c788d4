"""Make training-ready Zarr v3 shards from medical and microscopy volumes of any size.

The main job takes a source of cases through all stages: files -> raw store -> fingerprint -> plan -> training
store. It is the command ``voxelmill run SOURCE OUT``, or in Python::

    import voxelmill

    report = voxelmill.run("Dataset001_Liver", "out", config={"labels": "linear"})
    print(report)

A run that was stopped or killed goes on where it was when it is called again. A case that fails is reported
with its cause, and the others are completed. ``voxelmill config`` prints every setting.

The kernels work on arrays by themselves: `resample`, `resample_labels`, `nonzero_box`, `fill_holes`, and
nnU-Net's rules on spacing, `target_spacing` and `new_shape`. Arrays are z, y, x everywhere, spacings are
millimetres in the same order, and boxes are half-open.

Every error that a user can meet is a `VoxelmillError`. A public name is imported when it is first used, so
``import voxelmill`` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from voxelmill.basics.errors import VoxelmillError
    from voxelmill.config.settings import Config
    from voxelmill.kernels.nonzero_mask import fill_holes, nonzero_box
    from voxelmill.kernels.resampling.images import resample
    from voxelmill.kernels.resampling.labels import resample_labels
    from voxelmill.runs.report_json import Report
    from voxelmill.runs.run_function import run
    from voxelmill.stages.planning.spacing_rules import new_shape, target_spacing

_HOME = {
    "Config": "config.settings",
    "Report": "runs.report_json",
    "VoxelmillError": "basics.errors",
    "fill_holes": "kernels.nonzero_mask",
    "new_shape": "stages.planning.spacing_rules",
    "nonzero_box": "kernels.nonzero_mask",
    "resample": "kernels.resampling.images",
    "resample_labels": "kernels.resampling.labels",
    "run": "runs.run_function",
    "target_spacing": "stages.planning.spacing_rules",
}

__all__ = [
    "Config",
    "Report",
    "VoxelmillError",
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


def __dir__() -> list[str]:
    return sorted(__all__)
