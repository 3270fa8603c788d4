"""How tasks run: graphs, a window, retries, worker deaths, progress, memory. Dask is known here alone."""

import voxelmill.runtime.dask_loading  # noqa: F401  first of all: says what is wrong where Dask cannot be imported
