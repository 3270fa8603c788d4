"""The Dask graphs of the stages: what a task is (`tasks`), how they run (`window`), a stage (`engine`).

With `cluster` the only modules that know Dask.
"""

from voxelmill.graph.engine import Device, Engine
from voxelmill.graph.tasks import Outcome, Task, in_groups, task, together, tree
from voxelmill.graph.window import Watch, execute

__all__ = ["Device", "Engine", "Outcome", "Task", "Watch", "execute", "in_groups", "task", "together", "tree"]
