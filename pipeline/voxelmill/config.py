"""Settings: what a user may choose, where each value came from, and what a wrong one is told.

In: a preset, a TOML file and ``key=value`` words, later ones winning. Out: one validated `Config`. All
settings here change voxels or their layout on disk, but for the memory that a worker may take and what jobs
of a batch system are asked for; how many workers there are does not belong here.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from datetime import time
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
)

from voxelmill.dicom_config import DicomConfig as DicomConfig
from voxelmill.errors import ConfigError
from voxelmill.model import Model as Model

Configuration = Literal["fullres", "lowres", "2d"]

SIZE = r"\d+(\.\d+)?\s*([KMGT]i?)?B?"

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "nnunet": {"labels": "linear", "outside_label": -1},
}


def check_size(value: object) -> object:
    """Refuse what is no number of bytes."""
    is_size = isinstance(value, int) or (isinstance(value, str) and re.fullmatch(SIZE, value.strip()))
    if value is not None and not is_size:
        raise ValueError('needs a size, such as "4GiB"')
    return value


class RepairConfig(Model):
    """Problems of a source's geometry that are repaired instead of refused; what was done stands in the
    case's attributes and in the report.

    A setting matters to the cases that have the problem and to no other.
    """

    irregular: Literal["refuse", "fill", "resample"] = "refuse"
    """Slices of a DICOM series that are not evenly spaced: "fill" puts in slices that are missing, where the
    others leave a gap of a whole number of steps; "resample" makes even steps of any. Linear between the two
    nearest slices; the nearest one for labels. Refused where there would be ten times as many slices."""

    duplicates: Literal["refuse", "first"] = "refuse"
    """Several slices of a DICOM series at one position: "first" keeps the one of lowest InstanceNumber."""

    shear: Literal["refuse", "undo"] = "refuse"
    """Axes that are not at right angles, such as a tilted gantry makes: "undo" moves each slice."""

    grids: Literal["refuse", "resample"] = "refuse"
    """A channel or a label on another grid than the first channel: "resample" brings it there by its physical
    coordinates, linear, or the nearest voxel for labels."""

    affine: Literal["refuse", "sform", "qform"] = "refuse"
    """sform and qform of a NIfTI file that place the image differently, or sform and pixdim: which holds."""

    pixdim: Literal["refuse", "absolute"] = "refuse"
    """A negative spacing in a NIfTI header: "absolute" leaves its sign out."""


class IngestConfig(Model):
    """How sources get into the raw store."""

    copy_: bool = Field(default=True, alias="copy")
    """False: images that can be read box by box (OME-Zarr; uncompressed NIfTI, MetaImage, NRRD, TIFF; .npy)
    stay where they are and are read there. Their paths are then kept in OUT/logs."""

    outside: bool = False
    """True: paths in a manifest or a dataset.json may lead out of its folder. Those of a dataset.json that
    begin with an environment variable may always."""


class ClusterConfig(Model):
    """What jobs of a batch system are asked for, in dask-jobqueue's words.

    What is not set here comes from dask-jobqueue's own configuration files (jobqueue.yaml of the site).
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    queue: str | None = None
    """Partition or queue."""

    account: str | None = None
    """Who pays."""

    walltime: str | None = None
    """Longest time of a job, as the batch system writes it, such as "12:00:00"."""

    cores: PositiveInt | None = None
    """Cores of a job."""

    processes: PositiveInt | None = None
    """Worker processes of a job; by default one a core."""

    memory: ByteSize | None = None
    """Memory of a job, such as "32GiB"; by default what its workers take. It limits them, too."""

    job_extra_directives: tuple[str, ...] | None = None
    """More directives, such as ["--constraint=avx512"]."""

    job_script_prologue: tuple[str, ...] | None = None
    """Commands before a worker starts, such as ["module load python"]."""

    interface: str | None = None
    """Network interface, such as "ib0"."""

    minimum: int | None = Field(default=None, ge=0)
    """Workers that are kept when there is little to do; by default all of --workers."""

    lifetime: float | None = Field(default=None, ge=0)
    """Seconds after which a worker ends by itself; by default nine tenths of the walltime. 0: never."""

    _size = field_validator("memory", mode="before")(check_size)

    @field_validator("walltime", mode="before")
    @classmethod
    def _time(cls, value: object) -> object:
        """TOML takes 12:00:00 without quotes for a time of day."""
        return value.isoformat() if isinstance(value, time) else value


class StoreConfig(Model):
    """Layout of the training store."""

    chunk: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """Inner chunk (z, y, x) in voxels; by default about half a training patch a side."""

    shard_mib: int = Field(default=128, ge=1, le=4096)
    """Largest uncompressed shard of an image, MiB; a smaller case is one shard."""

    compressor: Literal["lz4", "zstd"] = "lz4"
    """Blosc codec: lz4 is fastest, zstd smallest."""

    level: int = Field(default=5, ge=0, le=9)
    """Compression level."""


class Config(Model):
    """All settings of a run.

    Attributes are documented below each field; `--set key=value` takes the same names.
    """

    target_spacing: tuple[float, float, float] | None = None
    """Millimetres (z, y, x) to resample to; by default nnU-Net's rule on the dataset."""

    configurations: tuple[Configuration, ...] = ("fullres",)
    """Which training sets to write: "fullres" (nnU-Net's 3d_fullres), "lowres" (its 3d_lowres; left out where
    it makes none), "2d" (in-plane spacing only)."""

    channels: tuple[str, ...] | None = None
    """Names of the channels, which choose the normalisation; by default what SOURCE says."""

    order: int = Field(default=3, ge=0, le=3)
    """Spline order for images."""

    order_separate: int = Field(default=0, ge=0, le=3)
    """Spline order across planes, where an axis is resampled separately."""

    separate_axis: Literal["auto", "never"] = "auto"
    """Resample an anisotropic axis separately: by nnU-Net's rule, or never."""

    anti_alias: bool = False
    """Smooth before shrinking; nnU-Net does not."""

    labels: Literal["nearest", "linear"] = "nearest"
    """How labels are resampled: nearest voxel, or argmax of interpolated one-hots as nnU-Net does."""

    outside_label: Literal[0, -1] = 0
    """Label of background voxels outside the non-zero mask; -1 as nnU-Net writes it."""

    nonfinite: Literal["fail", "zero"] = "fail"
    """What NaN and infinite voxels do: fail the case, or count as zero."""

    memory_limit: ByteSize | None = None
    """Most memory of a worker process, such as "4GiB"; also the option --memory-limit. It changes no voxel,
    only how much of a volume is in memory at a time."""

    no_worker_timeout: float | None = Field(default=None, ge=0, exclude=True)
    """Seconds without any worker after which a run ends, resumable, with status 1; by default 300, in which
    time that jobs wait in the queue of a batch system does not count."""

    cluster: ClusterConfig = Field(default=ClusterConfig(), exclude=True)
    """Where a run takes place leaves no trace in OUT."""

    dicom: DicomConfig = DicomConfig()
    ingest: IngestConfig = IngestConfig()
    repair: RepairConfig = RepairConfig()
    store: StoreConfig = StoreConfig()

    _size = field_validator("memory_limit", mode="before")(check_size)

    @field_validator("target_spacing")
    @classmethod
    def _positive(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and not all(0 < v < float("inf") for v in value):
            raise ValueError("needs three positive numbers of millimetres, z, y, x")
        return value

    @field_validator("configurations")
    @classmethod
    def _some_once(cls, value: tuple[Configuration, ...]) -> tuple[Configuration, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("needs at least one configuration, each once")
        return value


def load_config(
    preset: str = "default",
    file: Path | None = None,
    settings: Sequence[str] = (),
    memory_limit: str | None = None,
) -> Config:
    """The configuration from a preset, a TOML file and ``key=value`` words; later ones win.

    Parameters
    ----------
    preset : str
        "default" or "nnunet".
    file : Path, optional
        A TOML file with the names of `Config`'s fields.
    settings : sequence of str
        Words like ``order=1`` or ``dicom.series="2"``; the value is TOML.
    memory_limit : str, optional
        Of the option; goes before all others.

    Raises
    ------
    ConfigError
        One line that names the setting, the value found and what is expected.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}.")
    values = dict(PRESETS[preset])
    if file is not None:
        _merge(values, _read_toml(file))
    for word in settings:
        _merge(values, _parse_setting(word))
    if memory_limit is not None:
        values["memory_limit"] = memory_limit
    return make_config(values)


def make_config(values: dict[str, Any]) -> Config:
    """Validate a dictionary of settings, or raise `ConfigError` with one line."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, Config)) from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: is not TOML ({error}).") from None


def _parse_setting(word: str) -> dict[str, Any]:
    """``dicom.series="2"`` -> ``{"dicom": {"series": "2"}}``; a bare word counts as a string."""
    key, equals, value = word.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {word!r}: found no key=value; write for example --set order=1.")
    for text in (value, f'"{value}"'):
        try:
            return tomllib.loads(f"{key} = {text}")
        except tomllib.TOMLDecodeError:
            continue
    raise ConfigError(f"--set {word!r}: the value is not TOML; strings take quotes, lists take brackets.")


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation as one line with the nearest valid setting."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"setting {name!r} is unknown; did you mean {nearest(name, _names(model))!r}?"
    reason = problem["msg"].removeprefix("Value error, ")
    found = "not usable" if name == "dicom.salt" else repr(problem["input"])
    return f"setting {name!r} is {found}: {reason[0].lower()}{reason[1:]}."


def _names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            names += _names(nested, f"{prefix}{name}.")
        else:
            names.append(prefix + (field.alias or name))
    return names


def nearest(word: str, choices: Iterable[str]) -> str:
    """The choice that looks most like `word`."""
    return max(choices, key=lambda c: difflib.SequenceMatcher(None, word.lower(), c.lower()).ratio())
