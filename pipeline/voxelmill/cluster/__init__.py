"""Where graphs run: this process, workers on this machine, jobs of a batch system, a running cluster."""

import voxelmill.graph.loading  # noqa: F401  first of all: says what is wrong where Dask cannot be imported
from voxelmill.cluster.connection import CLUSTERS, borrow, check_words, connect
from voxelmill.cluster.queues import SYSTEMS, Jobs, pending_jobs
from voxelmill.cluster.where import Where

__all__ = ["CLUSTERS", "SYSTEMS", "Jobs", "Where", "borrow", "check_words", "connect", "pending_jobs"]
