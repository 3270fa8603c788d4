"""Jobs of a batch system, through dask-jobqueue: each job runs worker processes, and lost jobs are replaced.

In: resources of a job, under dask-jobqueue's names; its own configuration files supply what is missing. Out:
the exact job script, or a client that gets its workers as the queue starts the jobs.
"""

from __future__ import annotations

import importlib
import logging
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
from dask.utils import parse_bytes
from distributed import Client

from voxelmill.basics.errors import ConfigError
from voxelmill.config.settings import ClusterConfig
from voxelmill.runtime.cluster.dask_settings import DASK_CONFIG, introduce, security
from voxelmill.runtime.cluster.walltime import parse_walltime
from voxelmill.runtime.cluster.workers_here import dashboard_port, starting
from voxelmill.runtime.memory_budget import NANNY_BYTES

logger = logging.getLogger("voxelmill")

WORKER_BYTES = 4 * 2**30
"""Default memory of a worker process, in bytes."""

LOST_TIMEOUT = "15s"
"""A job that has no worker for this long counts as ended; its nanny restarts a dead worker sooner."""

ASK_SECONDS = 30
"""Longest time that a batch system may take to list its jobs."""


@dataclass(frozen=True)
class System:
    """A batch system.

    Attributes
    ----------
    name : str
        First part of the name of dask-jobqueue's class, such as "SLURM" of `SLURMCluster`.
    submit : str
        The command that submits a job.
    jobs : tuple of str
        The command that lists jobs; their ids are appended, unless `lists_all`.
    waiting : str
        Regular expression that matches the line of a waiting job.
    gpu : str
        The directive that requests a GPU; empty for PBS, which has it in the resource specification.
    lists_all : bool
        Whether the command lists all jobs of the user, and takes no ids.
    """

    name: str
    submit: str
    jobs: tuple[str, ...]
    waiting: str
    gpu: str
    lists_all: bool = False


SYSTEMS = {
    "slurm": System(
        "SLURM", "sbatch", ("squeue", "-h", "-o", "%A %T", "-j"), "PENDING|CONFIGURING", "--gres=gpu:1"
    ),
    "pbs": System("PBS", "qsub", ("qstat",), r"\s[QHW]\s", ""),
    "lsf": System("LSF", "bsub", ("bjobs", "-noheader", "-o", "jobid stat"), "PEND", "-gpu num=1"),
    "sge": System("SGE", "qsub", ("qstat",), r"\s[hE]?qw\s", "-l gpu=1", lists_all=True),
}


@dataclass(frozen=True)
class Jobs:
    """The jobs that a run requests from a batch system.

    Attributes
    ----------
    system : str
        A key of `SYSTEMS`.
    words : ClusterConfig
        The user's settings.
    workers : int or None
        Worker processes in all jobs together; by default those of one job.
    logs : Path
        Folder for the output of the jobs, unless dask-jobqueue's configuration names one.
    memory_limit : int or None
        Memory of a worker process in bytes, from --memory-limit.
    on_gpu : bool
        Whether each job gets a GPU.
    """

    system: str
    words: ClusterConfig
    workers: int | None
    logs: Path
    memory_limit: int | None = None
    on_gpu: bool = False

    @property
    def cores(self) -> int:
        """Cores of a job."""
        return self.words.cores or self._configured("cores") or self.words.processes or 1

    @property
    def processes(self) -> int:
        """Worker processes of a job: by default one per core, since a task uses one core; one with a GPU."""
        return self.words.processes or self._configured("processes") or (1 if self.on_gpu else self.cores)

    @property
    def threads(self) -> int:
        """Tasks that a worker process runs at a time."""
        return max(1, self.cores // self.processes)

    @property
    def memory(self) -> int:
        """Memory of a job in bytes, for its workers and their nannies."""
        if self.words.memory is not None:
            return self.words.memory
        if (configured := self._configured("memory")) is not None:
            return int(parse_bytes(configured))
        return self.processes * ((self.memory_limit or WORKER_BYTES) + NANNY_BYTES)

    @property
    def worker_bytes(self) -> int:
        """Memory limit of a worker process in bytes: --memory-limit, or its part of the job's memory."""
        return self.memory_limit or self.memory // self.processes - NANNY_BYTES

    @property
    def most(self) -> int:
        """Most jobs at a time."""
        return -(-(self.workers or self.processes) // self.processes)

    @property
    def least(self) -> int:
        """Jobs that stay when there is little to do."""
        kept = self.words.minimum
        return self.most if kept is None else min(self.most, -(-kept // self.processes))

    def options(self) -> dict[str, Any]:
        """Return the arguments for dask-jobqueue's cluster class.

        Raises
        ------
        ConfigError
            If a job has more processes than cores, or SGE lacks a parallel environment.
        """
        words = self.words.model_dump(include=WORDS, exclude_none=True)
        if self.processes > self.cores:
            raise ConfigError(
                f"--cluster {self.system}: {self.processes} processes are more than {self.cores} cores, and "
                "each needs one. Raise cluster.cores, or lower cluster.processes."
            )
        if self.system in ("lsf", "sge") and "account" in words:
            words["project"] = words.pop("account")
        if self.system == "lsf" and (minutes := int(self._walltime // 60)):
            words["walltime"] = f"{minutes // 60}:{minutes % 60:02}"  # LSF takes no seconds
        if self.system == "pbs" and self.on_gpu and not self._configured("resource-spec"):
            words["resource_spec"] = f"select=1:ncpus={self.cores}:mem={-(-self.memory >> 20)}MB:ngpus=1"
        return words | {
            "cores": self.cores,
            "memory": f"{self.memory}B",
            "processes": self.processes,
            "job_name": "voxelmill",
            "log_directory": self._configured("log-directory") or str(self.logs),
            "job_extra_directives": self._directives(),
            "job_script_prologue": [
                *self._list("job_script_prologue"),
                f"export DASK_CONFIG={DASK_CONFIG}",
                "export PYTHONFAULTHANDLER=1",  # a crash leaves its Python stack in the job's log
            ],
            "worker_extra_args": self._worker_arguments(),
        }

    def _directives(self) -> list[str]:
        stated = self._list("job_extra_directives")
        if self.system == "sge" and self.cores > 1 and not any("-pe " in directive for directive in stated):
            raise ConfigError(
                f"--cluster sge: a job of {self.cores} cores needs one of the site's parallel environments, "
                f"such as --set 'cluster.job_extra_directives=[\"-pe smp {self.cores}\"]'."
            )
        gpu = SYSTEMS[self.system].gpu
        asks = self.on_gpu and gpu and not any("gpu" in directive for directive in stated)
        return [*stated, gpu] if asks else stated

    def _worker_arguments(self) -> list[str]:
        """Arguments of `dask worker`: a worker ends before the batch system kills it, and not all at once."""
        stated = [str(word) for word in self._configured("worker-extra-args") or []]
        lifetime = []
        if "--lifetime" not in stated:
            seconds = self.words.lifetime
            if seconds is None:
                seconds = 0.9 * self._walltime  # 85 to 95 %, with the stagger
            if seconds:
                lifetime = ["--lifetime", f"{seconds:.0f}s", "--lifetime-stagger", f"{seconds / 18:.0f}s"]
        gpu = ["--resources", f"GPU={self.threads}"] if self.on_gpu else []
        loaded = ["--preload", "voxelmill.worker", "--preload-nanny", "voxelmill.nanny"]
        return [*stated, "--no-dashboard", *loaded, *lifetime, *gpu]

    @property
    def _walltime(self) -> float:
        """Walltime of a job in seconds; 0 where none is set."""
        return parse_walltime(self.words.walltime or self._configured("walltime"), self.system)

    def _list(self, word: str) -> list[str]:
        return list(getattr(self.words, word) or self._configured(word.replace("_", "-")) or [])

    def _configured(self, key: str) -> Any:
        """Value from dask-jobqueue's configuration files; importing the package loads its defaults."""
        _package()
        return dask.config.get(f"jobqueue.{self.system}.{key}", None)

    def script(self) -> str:
        """Return the exact job script, except for the scheduler's address; start and submit nothing.

        Raises
        ------
        ConfigError
            If dask-jobqueue is not installed.
        """
        job = getattr(_package(), f"{SYSTEMS[self.system].name}Cluster").job_cls
        options = self.options()
        logs = options["log_directory"]
        with TemporaryDirectory() as folder:  # dask-jobqueue creates the folder
            address = "tcp://<address of the scheduler>:8786"
            made: str = job(address, name="voxelmill-0", **options | {"log_directory": folder}).job_script()
            return made.replace(folder, logs)


WORDS = {"queue", "account", "walltime", "interface"}
"""Settings that dask-jobqueue has under the same name."""


def _package() -> Any:
    """Import dask-jobqueue; undo its handler of Ctrl-C, which would end this process with status 0."""
    before = signal.getsignal(signal.SIGINT)
    try:
        return importlib.import_module("dask_jobqueue")
    except ImportError:
        raise ConfigError(
            "--cluster on a batch system needs dask-jobqueue: pip install dask-jobqueue."
        ) from None
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


@contextmanager
def start_jobs(jobs: Jobs) -> Iterator[Client]:
    """Start a scheduler in this process, submit jobs that connect to it, and replace those that end.

    Raises
    ------
    ConfigError
        If this machine has no such batch system, or the batch system refuses the jobs.
    """
    system, package = SYSTEMS[jobs.system], _package()
    if shutil.which(system.submit) is None:
        raise ConfigError(
            f"--cluster {jobs.system}: there is no `{system.submit}` here. Run it where jobs are submitted."
        )
    keys = security()
    options = jobs.options()
    with starting("the scheduler of jobs"):
        cluster = getattr(package, f"{system.name}Cluster")(
            **options,
            scheduler_options={
                "dashboard_address": f":{dashboard_port()}",
                **(jobs._configured("scheduler-options") or {}),
            },
            silence_logs=logging.CRITICAL,
            name="voxelmill",
            **({} if keys is None else {"security": keys, "protocol": "tls://"}),
        )
    with _lost_jobs_are_replaced(), cluster, Client(cluster) as client:
        logger.info(
            "%s: %d jobs of %d workers, %.1f GiB a job",
            jobs.system,
            jobs.most,
            jobs.processes,
            jobs.memory / 2**30,
        )
        introduce(client)
        _submit(cluster, jobs)
        yield client


def _lost_jobs_are_replaced() -> Any:
    """Let a job without workers count as ended after `LOST_TIMEOUT`, so that another is submitted."""
    return dask.config.set({"distributed.deploy.lost-worker-timeout": LOST_TIMEOUT})


def _submit(cluster: Any, jobs: Jobs) -> None:
    """Submit the first jobs, then let the number of jobs follow the work."""
    for _ in range(max(1, jobs.least)):
        cluster.worker_spec.update(cluster.new_worker_spec())
    try:
        cluster.sync(cluster._correct_state)  # cluster.scale would not wait for the batch system's answer
    except RuntimeError as error:
        _forget_refused(cluster)
        said = re.search(r"stderr:\n(.*)", str(error))
        reason = said[1].strip() if said and said[1].strip() else "it does not say why"
        raise ConfigError(
            f"--cluster {jobs.system}: the job was not accepted ({reason}). Look at it with --dry-run."
        ) from None
    cluster.adapt(minimum_jobs=jobs.least, maximum_jobs=jobs.most)


def _forget_refused(cluster: Any) -> None:
    """Remove jobs without an id: they cannot be cancelled, and Dask would fail to close the cluster."""
    for name in [name for name, job in cluster.workers.items() if job.job_id is None]:
        cluster._created.discard(cluster.workers.pop(name))
        cluster.worker_spec.pop(name, None)


def pending_jobs(client: Client | None) -> int:
    """Return how many jobs of a client's cluster wait in a batch system's queue; 0 if it does not answer."""
    cluster = None if client is None else client.cluster
    ids = [i for i in (getattr(job, "job_id", None) for job in getattr(cluster, "workers", {}).values()) if i]
    system = next((s for s in SYSTEMS.values() if type(cluster).__name__ == f"{s.name}Cluster"), None)
    if system is None or not ids:
        return 0
    among = [] if system.lists_all else [",".join(ids)] if system.name == "SLURM" else ids
    try:
        told = subprocess.run([*system.jobs, *among], capture_output=True, text=True, timeout=ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    lines = [line for line in told.stdout.splitlines() if line.lstrip().startswith(tuple(ids))]
    return sum(re.search(system.waiting, line) is not None for line in lines)
