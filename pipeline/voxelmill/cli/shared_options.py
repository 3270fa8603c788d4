"""The options that all stages share.

In: words of the command line. Out: a configuration, and an engine on the cluster that they choose.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer
from rich.console import Console

from voxelmill.basics.errors import ConfigError, StoppedError
from voxelmill.basics.user_paths import local_path
from voxelmill.config.load_settings import load_config
from voxelmill.config.settings import Config

if TYPE_CHECKING:
    from voxelmill.runtime.cluster.cluster_choice import Where
    from voxelmill.runtime.stage_engine import Device, Engine
    from voxelmill.storage.lease import Lease

Option = typer.Option


def _count(word: str) -> int:
    """Parse a whole number; `Where` checks its range."""
    if not re.fullmatch(r"\s*[+-]?\d+\s*", word):
        raise ConfigError(f"--workers {word!r} is no whole number; at least 1 is needed.")
    return int(word)


Workers = Annotated[
    int | None,
    Option(
        parser=_count,
        metavar="N",
        help="Start this many worker processes. Without it there is one a core, or those of one job.",
    ),
]


def named(what: str) -> Callable[[Path | None], Path | None]:
    """Return a callback that turns a typed path into a local path; errors call the path `what`."""
    return lambda path: None if path is None else local_path(path, what)


Source = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="Take the cases of this nnU-Net raw dataset, folder of images or series, or manifest.",
        callback=named("SOURCE"),
    ),
]
Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="The stores are in this folder.", callback=named("OUT"))
]
ShareOf = Annotated[
    str | None,
    Option("--share", help="Do the i-th of n shares: i/n. They need no network between them."),
]
PlanFile = Annotated[
    Path | None,
    Option(
        "--plan",
        help="Take the decisions of this plan.json for the cases at hand, and make no statistics.",
        callback=named("--plan"),
    ),
]
ShowFiles = Annotated[
    bool,
    Option(
        "--show-files", help="Show on the terminal, and nowhere else, which files are spoken of, by name."
    ),
]


@dataclass(frozen=True)
class Options:
    """The options of every command that runs a stage."""

    preset: Annotated[
        str,
        Option(
            help="Begin with these settings: default, or nnunet (labels as nnU-Net, -1 outside the mask)."
        ),
    ] = "default"
    config: Annotated[Path | None, Option("--config", help="Read settings from this TOML file.")] = None
    set_: Annotated[
        list[str] | None, Option("--set", help="Set one setting: key=value, in TOML. Repeat it for more.")
    ] = None
    memory_limit: Annotated[
        str | None,
        Option(help="Keep each worker process below this memory, such as 4GiB. It changes no voxel."),
    ] = None
    device: Annotated[
        str,
        Option(
            help="Resample images on GPUs if workers have any (auto), never (cpu), or on GPUs alone (gpu)."
        ),
    ] = "auto"
    workers: Workers = None
    cluster: Annotated[
        str,
        Option(
            help="Run on processes here (local), in this process (none), in jobs (slurm, pbs, lsf, sge), "
            "or on the GPUs here (cuda)."
        ),
    ] = "local"
    scheduler: Annotated[
        str | None, Option(help="Use the running Dask scheduler of this address or file.")
    ] = None
    dry_run: Annotated[
        bool,
        Option("--dry-run", help="Write nothing: print the job script of --cluster, or what plan decides."),
    ] = False
    restart: Annotated[bool, Option("--restart", help="Make again what was made under other settings.")] = (
        False
    )

    def load(self) -> Config:
        """Return the configuration: preset, file, `--set` and `--memory-limit`, each over the one before.

        Raises
        ------
        ConfigError
            If a setting or an option is wrong.
        """
        file = None if self.config is None else local_path(self.config, "--config")
        config = load_config(self.preset, file, self.set_ or (), self.memory_limit)
        return self.where.fit(config)

    @property
    def where(self) -> Where:
        """The cluster that the options choose."""
        from voxelmill.runtime.cluster.cluster_choice import Where

        return Where(self.cluster, self.workers, self.scheduler, self.device)

    def job_script(self, out: Path) -> str:
        """Return the job script that --dry-run prints.

        Raises
        ------
        ConfigError
            If the chosen cluster submits no jobs.
        """
        config = self.load()
        if not self.where.submits_jobs:
            raise ConfigError(f"--dry-run: --cluster {self.cluster} submits no job. Choose one that does.")
        return self.where.jobs(out, config).script()

    @contextmanager
    def engine(self, out: Path, config: Config, console: Console, lease: Lease | None) -> Iterator[Engine]:
        """Start an engine on the cluster that the options choose."""
        from voxelmill.runtime.cluster.make_engine import make_engine
        from voxelmill.runtime.progress_display import Reporter

        with self.where.connect(out, config) as (client, threads):
            device = cast("Device", self.device)  # `Where` has checked it
            yield make_engine(client, config, lease, Reporter(console), device, threads)


def with_options(command: Callable[..., None], only: Sequence[str] = ()) -> Callable[..., None]:
    """Replace a command's parameter `options` by one parameter per option, which typer needs.

    Parameters
    ----------
    command : callable
        Takes `options` : Options.
    only : sequence of str
        Fields of `Options` that the command takes; all of them if it is empty.
    """
    names = [field.name for field in fields(Options) if field.name in only or not only]

    def called(**words: Any) -> None:
        common = Options(**{name: words.pop(name) for name in names})
        try:
            command(**words, options=common)
        except KeyboardInterrupt:  # click would catch it and exit with a status of its own
            raise StoppedError from None

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
    hints = get_type_hints(command, include_extras=True) | get_type_hints(Options, include_extras=True)
    spelled = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name])
        for p in (*own, *(p for n, p in inspect.signature(Options).parameters.items() if n in names))
    ]
    called.__signature__ = inspect.Signature(spelled)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in spelled}
    called.__name__, called.__doc__ = command.__name__, command.__doc__
    return called
