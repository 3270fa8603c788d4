"""The options that all stages have in common: what they mean, and what follows from them.

In: words of the command line. Out: a configuration, and an engine on the cluster that they name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer
from rich.console import Console

from voxelmill.config import Config, load_config
from voxelmill.errors import ConfigError, StoppedError

if TYPE_CHECKING:
    from voxelmill.cluster import Jobs
    from voxelmill.graph import Device, Engine
    from voxelmill.lease import Lease

DEVICES = ("auto", "cpu", "gpu")

Option = typer.Option


@dataclass(frozen=True)
class Options:
    """What every stage's command takes."""

    preset: Annotated[str, Option(help="default, or nnunet: its labels, -1 outside the mask.")] = "default"
    config: Annotated[Path | None, Option("--config", help="TOML file with settings.")] = None
    set_: Annotated[list[str] | None, Option("--set", help="A setting, key=value in TOML; repeatable.")] = (
        None
    )
    memory_limit: Annotated[
        str | None, Option(help="Most memory of a worker process, such as 1GiB; changes no voxel.")
    ] = None
    device: Annotated[
        str, Option(help="Where images are resampled: auto (on GPUs, if workers have any), cpu or gpu.")
    ] = "auto"
    workers: Annotated[
        int | None, Option(help="Worker processes; by default one a core, or those of one job.")
    ] = None
    cluster: Annotated[
        str,
        Option(help="local; none: this process; slurm, pbs, lsf, sge: jobs; cuda: GPUs here."),
    ] = "local"
    scheduler: Annotated[str | None, Option(help="Address or file of a running Dask scheduler.")] = None
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the job script of --cluster and do nothing else.")
    ] = False
    restart: Annotated[bool, Option("--restart", help="Recompute what was made under other settings.")] = (
        False
    )

    def load(self) -> Config:
        """The configuration.

        Raises
        ------
        ConfigError
            If a word is wrong.
        """
        if self.device not in DEVICES:
            raise ConfigError(f"--device {self.device!r} is unknown; choose one of {', '.join(DEVICES)}.")
        config = load_config(self.preset, self.config, self.set_ or (), self.memory_limit)
        if self._submits_jobs and config.memory_limit is None:
            limit = self.jobs(Path(), config).worker_bytes
            return config.model_copy(update={"memory_limit": limit})
        return config

    @property
    def _submits_jobs(self) -> bool:
        if self.cluster in ("local", "none") or self.scheduler is not None:
            return False
        from voxelmill.cluster import SYSTEMS, check_words

        check_words(self.cluster, self.workers)
        return self.cluster in SYSTEMS

    def jobs(self, out: Path, config: Config) -> Jobs:
        """What a batch system is asked for."""
        from voxelmill.cluster import Jobs

        logs = out.absolute() / "logs" / "workers"
        on_gpu = self.device == "gpu"
        return Jobs(self.cluster, config.cluster, self.workers, logs, config.memory_limit, on_gpu)

    def job_script(self, out: Path) -> str:
        """What --dry-run prints."""
        config = self.load()
        if not self._submits_jobs:
            raise ConfigError(f"--dry-run: --cluster {self.cluster} submits no job. Choose one that does.")
        return self.jobs(out, config).script()

    @contextmanager
    def engine(self, out: Path, config: Config, console: Console, lease: Lease | None) -> Iterator[Engine]:
        """An engine on the cluster that the words name."""
        from voxelmill.cluster import connect
        from voxelmill.pipeline import make_engine
        from voxelmill.progress import Reporter

        if self.device == "gpu" and self.cluster == "local" and self.scheduler is None:
            raise ConfigError("--device gpu: workers of --cluster local have no GPU. Choose --cluster cuda.")
        jobs = self.jobs(out, config) if self._submits_jobs else None
        threads = jobs.threads if jobs else 1
        with connect(self.cluster, self.workers, self.scheduler, jobs) as client:
            device = cast("Device", self.device)  # `load` has looked at it
            yield make_engine(client, config, lease, Reporter(console), device, threads)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `options` is spelled out for typer, option by option."""
    names = [field.name for field in fields(Options)]

    def called(**words: Any) -> None:
        common = Options(**{name: words.pop(name) for name in names})
        try:
            command(**words, options=common)
        except KeyboardInterrupt:
            raise StoppedError from None

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
    hints = get_type_hints(command, include_extras=True) | get_type_hints(Options, include_extras=True)
    spelled = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name])
        for p in (*own, *inspect.signature(Options).parameters.values())
    ]
    called.__signature__ = inspect.Signature(spelled)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in spelled}
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return called
