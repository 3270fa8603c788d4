"""The function `voxelmill.run`, which does what the command `voxelmill run` does.

In: paths, settings, and where to run. Out: a `Report`. The order of the stages is set in `job`.
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
    """Run all stages on SOURCE, and write the stores, the plan and the report into OUT.

    Parameters
    ----------
    source : path
        An nnU-Net raw dataset folder, a folder with one file or one DICOM series folder per case, or a
        manifest (CSV or JSON).
    out : path
        Folder for the stores; results made earlier with the same settings are kept.
    config : Config or mapping, optional
        Settings; the keys of a mapping are the fields of `Config`.
    client : distributed.Client, optional
        Where to run, instead of `cluster`, `workers` and `scheduler`.
    plan : path, optional
        A plan.json to reuse, for instance for test images; no statistics are computed then.
    cluster : str
        "local" starts worker processes on this machine, "none" runs everything in this process, "slurm",
        "pbs", "lsf" and "sge" submit jobs, "cuda" starts one worker per GPU.
    workers : int, optional
        Number of worker processes; by default one per core, or as many as one job holds.
    scheduler : str or path, optional
        Address or file of a running Dask scheduler.
    memory_limit : int or str, optional
        Memory limit of a worker process: bytes, or a text such as "1GiB"; it changes no voxel.
    device : {"auto", "cpu", "gpu"}
        Where images are resampled: on GPUs if workers have any, on CPUs only, or on GPUs only.

    Returns
    -------
    Report
        One entry per case. A case that failed is in the report and raises nothing.

    Raises
    ------
    VoxelmillError
        If the run is refused before work begins, or if the cluster, OUT's disk or the lease on OUT is lost.
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
    """Return the configuration; `memory_limit` overrides the one in it."""
    stated = config.model_dump(exclude_unset=True) if isinstance(config, Config) else config or {}
    if not isinstance(stated, Mapping):
        return make_config(stated)  # raises the error for a value that is no mapping
    stated = dict(stated)
    return make_config(stated if memory_limit is None else stated | {"memory_limit": memory_limit})
