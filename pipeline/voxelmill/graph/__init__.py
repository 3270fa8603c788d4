"""The Dask graphs of the stages: what a task is (`tasks`), how they run (`window`), a stage (`engine`).

With `cluster` the only modules that know Dask.
"""

import voxelmill.graph.loading  # noqa: F401  first of all: says what is wrong where Dask cannot be imported
from voxelmill.graph.engine import Device, Engine
from voxelmill.graph.tasks import Outcome, Task, in_groups, task, together, tree
from voxelmill.graph.versions import Versions
from voxelmill.graph.window import Watch, execute
from voxelmill.graph.within import did, expect, hear

__all__ = [
    "Device",
    "Engine",
    "Outcome",
    "Task",
    "Versions",
    "Watch",
    "did",
    "execute",
    "expect",
    "hear",
    "in_groups",
    "task",
    "together",
    "tree",
]
