"""Every error a user can meet.

Each message has four parts, in one or two sentences: what is wrong, what was found against what was
expected, where, and what to do. It never holds a file name, since a file name can hold a patient's name.
"""


class VoxelmillError(Exception):
    """Base of all errors that voxelmill raises on purpose; shown as one line."""


class StoppedError(Exception):
    """Ctrl-C, or a batch system's SIGTERM; not KeyboardInterrupt, which the command parser would swallow."""


class ConfigError(VoxelmillError):
    """A setting, an option or a path is wrong; refused before any work begins."""


class SourceError(VoxelmillError):
    """SOURCE as a whole cannot be used: a wrong manifest, an empty folder."""


class FormatError(VoxelmillError):
    """A file is not what its format says, or holds what voxelmill does not read."""


class GeometryError(VoxelmillError):
    """Grids that should agree do not, or a geometry makes no sense."""


class SpacingError(GeometryError):
    """The distance between voxels is missing, not positive or not regular."""


class ValueRuleError(VoxelmillError):
    """Voxel values break a rule: all zero, not finite, a label that is not a whole number."""


class PlanError(VoxelmillError):
    """The plan cannot be carried out with these settings."""


class MemoryLimitError(VoxelmillError):
    """Work does not fit into the memory that a worker may take, however it is cut."""


class StoreError(VoxelmillError):
    """A store is missing, damaged or not what it should be."""


class SettingsChangedError(StoreError):
    """OUT was made with other settings than this run's."""


class StageError(VoxelmillError):
    """A stage that needs all its cases could not be finished."""


class ClusterLostError(VoxelmillError):
    """No worker or no scheduler is left: the run ends, what is written stays."""


class LeaseError(VoxelmillError):
    """OUT is held by another run."""


class LeaseLostError(LeaseError):
    """OUT was held by this run, and is no more."""
