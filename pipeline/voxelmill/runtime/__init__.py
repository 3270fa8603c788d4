"""Tasks on Dask: graphs, window, retries, worker deaths, progress, memory. No other package imports Dask."""

import voxelmill.runtime.dask_loading  # noqa: F401  first: reports a broken Dask configuration
