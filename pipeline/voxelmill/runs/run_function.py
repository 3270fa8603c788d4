"""`voxelmill.run`: one call for what `voxelmill run` does, and the engine that both run on.

In: paths, settings, and where to run. Out: a `Report`. The order of things is the pipeline's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from voxelmill.basics.user_paths import local_path
from voxelmill.config.load_settings import make_config
from voxelmill.config.settings import Config
from voxelmill.runs.job import Job
from voxelmill.runs.report_json import Report
from voxelmill.runtime.cluster.cluster_choice import Where
from voxelmill.runtime.cluster.make_engine import make_engine
from voxelmill.runtime.progress_display import Reporter, log_to
from voxelmill.runtime.stage_engine import Device, Engine
from voxelmill.stages.planning.plan_reuse import load_frozen
from voxelmill.storage.lease import Lease

if TYPE_CHECKING:
    from distributed import Client


def run(
    source: str | Path,
    out: str | Path,
    *,
    config: Config | Mapping[str, Any] | None = None,
    client: Client | None = None,
    plan: str | Path | None = None,
    cluster: str = "local",
    workers: int | None = None,
    scheduler: str | Path | None = None,
    memory_limit: int | str | None = None,
    device: str = "auto",
) -> Report:
    """Bring SOURCE through all stages into OUT.

    Parameters
    ----------
    source : path
        A nnU-Net raw dataset folder, a folder with one file or one DICOM series folder a case, or a
        manifest (CSV or JSON).
    out : path
        Folder for the stores; what is there already under the same settings is kept.
    config : Config or mapping, optional
        Settings; a mapping takes the names of `Config`'s fields.
    client : distributed.Client, optional
        Where to run, instead of `cluster`, `workers` and `scheduler`.
    plan : path, optional
        A plan.json whose decisions are taken, as for test images; no statistics are made.
    cluster : str
        "local" starts worker processes on this machine, "none" runs all in this process; "slurm", "pbs",
        "lsf", "sge" submit jobs, "cuda" starts a worker for each GPU.
    workers : int, optional
        Worker processes; by default one a core, or those of one job.
    scheduler : str or path, optional
        Address or file of a Dask scheduler that is running.
    memory_limit : int or str, optional
        Most memory of a worker process: bytes, or a text such as "1GiB"; changes no voxel.
    device : {"auto", "cpu", "gpu"}
        Where images are resampled: on GPUs if workers have any, never, or nowhere else.

    Returns
    -------
    Report
        One entry a case. A case that failed does not raise.

    Raises
    ------
    VoxelmillError
        If the run is refused before work begins.
    """
    where = Where(cluster, workers, None if scheduler is None else str(scheduler), device, client)
    settings = where.fit(_settings(config, memory_limit))
    frozen = None if plan is None else load_frozen(local_path(plan, "--plan"))
    job = Job(Path(out), settings, frozen=frozen)

    @contextmanager
    def start(lease: Lease) -> Iterator[Engine]:
        with where.connect(job.out, settings) as (on, threads), log_to(job.out / "logs"):
            yield make_engine(on, settings, lease, Reporter(), cast("Device", device), threads)

    return job.execute(job.all_stages, start, job.discover(Path(source)))


def _settings(config: Config | Mapping[str, Any] | None, memory_limit: int | str | None) -> Config:
    """The configuration; the memory limit goes before its own."""
    stated = config.model_dump(exclude_unset=True) if isinstance(config, Config) else config or {}
    if not isinstance(stated, Mapping):
        return make_config(stated)  # which says what it is
    stated = dict(stated)
    return make_config(stated if memory_limit is None else stated | {"memory_limit": memory_limit})
