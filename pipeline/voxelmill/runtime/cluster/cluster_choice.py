"""Where a run is to take place, in the words of the command line and of `voxelmill.run`.

In: those words, and a configuration. Out: the configuration with what follows from them, and a client.
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
    """A cluster that is started, joined or lent.

    Attributes
    ----------
    cluster : str
        "local", "none", "cuda", or a batch system.
    workers : int or None
        Worker processes.
    scheduler : str or None
        Address or file of a scheduler that is running.
    device : str
        "auto", "cpu" or "gpu".
    client : distributed.Client or None
        Somebody else's, which is used instead of all these.

    Raises
    ------
    ConfigError
        If the words make no sense.
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
        """Whether a batch system is asked for jobs."""
        return self._starts(*SYSTEMS)

    def fit(self, config: Config) -> Config:
        """The configuration with the memory limit of a job's workers, where none is stated."""
        if not self.submits_jobs or config.memory_limit is not None:
            return config
        return config.model_copy(update={"memory_limit": self.jobs(Path(), config).worker_bytes})

    def jobs(self, out: Path, config: Config) -> Jobs:
        """What a batch system is asked for."""
        logs = out.absolute() / "logs" / "workers"
        on_gpu = self.device == "gpu"
        return Jobs(self.cluster, config.cluster, self.workers, logs, config.memory_limit, on_gpu)

    @contextmanager
    def connect(self, out: Path, config: Config) -> Iterator[tuple[Client | None, int]]:
        """A client, and the threads that a worker has, as long as there is none to ask."""
        if self.client is not None:
            with borrow(self.client) as client:
                yield client, 1
            return
        jobs = self.jobs(out, config) if self.submits_jobs else None
        with connect(self.cluster, self.workers, self._scheduler, jobs) as client:
            yield client, jobs.threads if jobs else 1

    @property
    def _scheduler(self) -> str | None:
        """Address, or the path of a file, where `~` is the home folder."""
        is_path = self.scheduler is not None and "://" not in self.scheduler
        return str(local_path(str(self.scheduler), "--scheduler")) if is_path else self.scheduler
