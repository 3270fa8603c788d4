"""The user's choice of cluster, as options of the command line or arguments of `voxelmill.run`.

In: these options, and a configuration. Out: the configuration with a memory limit, and a client.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

from voxelmill.basics.errors import ConfigError
from voxelmill.basics.user_paths import local_path
from voxelmill.config.settings import Config
from voxelmill.runtime.cluster.batch_queues import SYSTEMS, Jobs
from voxelmill.runtime.cluster.connection import borrow, check_words, connect

DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class Where:
    """A cluster that the run starts, joins or borrows.

    Attributes
    ----------
    cluster : str
        "local", "none", "cuda", or a batch system.
    workers : int or None
        Number of worker processes.
    scheduler : str or None
        Address or scheduler file of a running scheduler.
    device : str
        "auto", "cpu" or "gpu".
    client : distributed.Client or None
        The caller's own client; it replaces cluster, workers and scheduler.

    Raises
    ------
    ConfigError
        If a value is unknown, or options contradict each other.
    """

    cluster: str = "local"
    workers: int | None = None
    scheduler: str | None = None
    device: str = "auto"
    client: Client | None = None

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ConfigError(f"--device {self.device!r} is unknown; choose one of {', '.join(DEVICES)}.")
        check_words(self.cluster, self.workers)
        others = self.cluster != "local" or self.workers is not None or self.scheduler is not None
        if self.client is not None and others:
            raise ConfigError("client has workers of its own. Pass it, or cluster, workers and scheduler.")
        if not isinstance(self.client, Client | None):
            raise ConfigError(f"client is {self.client!r}; a Dask Client is needed. Pass one, or none.")
        if self.device == "gpu" and self._starts("local"):
            raise ConfigError("--device gpu: workers of --cluster local have no GPU. Choose --cluster cuda.")

    def _starts(self, *clusters: str) -> bool:
        return self.cluster in clusters and self.scheduler is None and self.client is None

    @property
    def submits_jobs(self) -> bool:
        """Whether the run submits jobs to a batch system."""
        return self._starts(*SYSTEMS)

    def fit(self, config: Config) -> Config:
        """Return the configuration, with the memory limit of a job's workers if it has none of its own."""
        if not self.submits_jobs or config.memory_limit is not None:
            return config
        return config.model_copy(update={"memory_limit": self.jobs(Path(), config).worker_bytes})

    def jobs(self, out: Path, config: Config) -> Jobs:
        """Return the jobs to request from the batch system; they log to OUT/logs/workers."""
        logs = out.absolute() / "logs" / "workers"
        on_gpu = self.device == "gpu"
        return Jobs(self.cluster, config.cluster, self.workers, logs, config.memory_limit, on_gpu)

    @contextmanager
    def connect(self, out: Path, config: Config) -> Iterator[tuple[Client | None, int]]:
        """Yield a client, and the threads of a worker to assume before the first worker has connected."""
        if self.client is not None:
            with borrow(self.client) as client:
                yield client, 1
            return
        jobs = self.jobs(out, config) if self.submits_jobs else None
        with connect(self.cluster, self.workers, self._scheduler, jobs) as client:
            yield client, jobs.threads if jobs else 1

    @property
    def _scheduler(self) -> str | None:
        """Address, or path of a scheduler file with `~` expanded."""
        is_path = self.scheduler is not None and "://" not in self.scheduler
        return str(local_path(str(self.scheduler), "--scheduler")) if is_path else self.scheduler
