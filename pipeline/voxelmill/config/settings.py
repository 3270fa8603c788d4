"""The settings of a run, as pydantic classes: `Config` and its tables.

In: values by the names of the fields. Out: a validated `Config`, or a `ConfigError` about the first wrong
value. The fields with ``exclude=True`` and `memory_limit` change no voxel; most others decide voxels or their
layout on disk. The number of workers is an option of the command, not a setting.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from datetime import time
from numbers import Real
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ByteSize,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from voxelmill.basics.errors import ConfigError
from voxelmill.basics.record_base import Settings
from voxelmill.config.configuration_names import Configuration
from voxelmill.config.dicom_settings import DicomConfig
from voxelmill.config.repair_settings import RepairConfig
from voxelmill.config.validation_messages import first_problem, leaves

SIZE = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMGTP]i?B?|B)?\s*", re.IGNORECASE)

SMALLEST_SIZE = 2**20
"""Bytes. Smaller values are refused: they are sizes whose unit was forgotten."""

Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def check_size(value: object) -> object:
    """Return a size in the form that pydantic's `ByteSize` reads.

    Refuse values that are no size, and numbers so small that their unit was forgotten.
    """
    if value is None:
        return None
    found = SIZE.fullmatch(value) if isinstance(value, str) else None
    if isinstance(value, Real) and float(value).is_integer() and float(value) >= 0:
        size = int(float(value))
    elif found is None:
        raise ValueError
    elif unit := found["unit"]:  # ByteSize reads "GB" and "GiB", but not "G" and "Gi"
        return found["number"] + unit + ("" if unit[-1] in "bB" else "B")
    else:
        size = int(float(found["number"]))
    if size < SMALLEST_SIZE:
        raise ValueError(f", which is {size} byte{'s' * (size != 1)}")
    return size


class IngestConfig(Settings):
    """How sources get into the raw store."""

    copy_: bool = Field(default=True, alias="copy")
    """False: images that can be read box by box (OME-Zarr; uncompressed NIfTI, MetaImage, NRRD, TIFF; .npy)
    stay where they are and are read there. Their paths are then kept in OUT/logs."""

    outside: bool = False
    """True: paths in a manifest or a dataset.json may lead out of its folder. Those of a dataset.json that
    begin with an environment variable may always."""


class ClusterConfig(Settings):
    """What jobs of a batch system are asked for, in dask-jobqueue's words.

    What is not set here comes from dask-jobqueue's own configuration files (jobqueue.yaml of the site).
    """

    model_config = ConfigDict(coerce_numbers_to_str=True)

    queue: str | None = Field(default=None, examples=["long"])
    """Partition or queue."""

    account: str | None = Field(default=None, examples=["imaging"])
    """Who pays."""

    walltime: str | None = Field(default=None, examples=["12:00:00"])
    """Longest time of a job, as the batch system writes it."""

    cores: PositiveInt | None = Field(default=None, examples=[8])
    """Cores of a job."""

    processes: PositiveInt | None = Field(default=None, examples=[4])
    """Worker processes of a job; by default one a core."""

    memory: ByteSize | None = Field(default=None, examples=["32GiB"])
    """Memory of a job; by default what its workers take. It limits them, too."""

    job_extra_directives: tuple[str, ...] | None = Field(default=None, examples=[["--constraint=avx512"]])
    """More directives for the head of the job script."""

    job_script_prologue: tuple[str, ...] | None = Field(default=None, examples=[["module load python"]])
    """Commands before a worker starts."""

    interface: str | None = Field(default=None, examples=["ib0"])
    """Network interface of the nodes that workers are reached by."""

    minimum: int | None = Field(default=None, ge=0, examples=[2])
    """Workers that are kept when there is little to do; by default all of --workers."""

    lifetime: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, examples=[3600.0], json_schema_extra={"unit": "seconds"}
    )
    """Time after which a worker ends by itself; by default nine tenths of the walltime. 0: never."""

    _size = field_validator("memory", mode="before")(check_size)

    @field_validator("walltime", mode="before")
    @classmethod
    def _time(cls, value: object) -> object:
        """Return the text of a walltime: TOML reads 12:00:00 without quotes as a time of day."""
        return value.isoformat() if isinstance(value, time) else value


class StoreConfig(Settings):
    """Layout of the training store."""

    chunk: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
        default=None, examples=[[64, 64, 64]], json_schema_extra={"unit": "voxels; z, y, x"}
    )
    """Inner chunk; by default about half a training patch a side."""

    shard_mib: int = Field(default=128, ge=1, le=4096, json_schema_extra={"unit": "MiB"})
    """Largest uncompressed shard of an image; a smaller case is one shard."""

    compressor: Literal["lz4", "zstd"] = "lz4"
    """Blosc codec: lz4 is fastest, zstd smallest."""

    level: int = Field(default=5, ge=0, le=9)
    """Compression level."""


class Config(Settings):
    """All settings of a run.

    Attributes are documented below each field; `--set key=value` takes the same names.
    """

    target_spacing: tuple[Millimetres, Millimetres, Millimetres] | None = Field(
        default=None, examples=[[1.0, 0.8, 0.8]], json_schema_extra={"unit": "millimetres; z, y, x"}
    )
    """Spacing to resample to; by default nnU-Net's rule on the dataset."""

    configurations: tuple[Configuration, ...] = Field(default=("fullres",), examples=[["fullres", "2d"]])
    """Which training sets to write: "fullres" (nnU-Net's 3d_fullres), "lowres" (its 3d_lowres; left out where
    it makes none), "2d" (in-plane spacing only)."""

    channels: tuple[str, ...] | None = Field(default=None, examples=[["CT"]])
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

    memory_limit: ByteSize | None = Field(default=None, examples=["4GiB"])
    """Most memory of a worker process; also the option --memory-limit. It changes no voxel,
    only how much of a volume is in memory at a time."""

    no_worker_timeout: float | None = Field(
        default=None, ge=0, exclude=True, examples=[600.0], json_schema_extra={"unit": "seconds"}
    )
    """Time without any worker after which a run ends, resumable, with status 1; by default 300, in which
    time that jobs wait in the queue of a batch system does not count."""

    check_disk: bool = Field(default=True, exclude=True)
    """Refuse to begin a training set that takes more room before compression than OUT's disk has. False: go
    on; a disk that fills up ends the run, and the same command goes on when there is room."""

    cluster: ClusterConfig = Field(default=ClusterConfig(), exclude=True)
    """Where a run takes place leaves no trace in OUT."""

    dicom: DicomConfig = DicomConfig()
    ingest: IngestConfig = IngestConfig()
    repair: RepairConfig = RepairConfig()
    store: StoreConfig = StoreConfig()

    _size = field_validator("memory_limit", mode="before")(check_size)

    @field_validator("configurations")
    @classmethod
    def _some_once(cls, value: tuple[Configuration, ...]) -> tuple[Configuration, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Turn every validation error into a `ConfigError` in the user's terms, however a Config is made."""
        try:
            return handler(values)
        except ValidationError as error:
            raise ConfigError(_explain(error, values)) from None


def _explain(error: ValidationError, values: Any) -> str:
    """Return the first validation problem as one line; for an unknown setting, suggest the nearest name."""
    problem = first_problem(error, Config, values)
    if not problem.name:
        return (
            f'config is {values!r}; expected: a Config, or settings by their names, such as {{"order": 1}}.'
        )
    closest = nearest(problem.name, (name for name, _ in leaves(Config)))
    end = f"; did you mean {closest!r}?" if problem.is_unknown else "."
    return f"setting {problem.name!r} {problem.text}{end}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return the choice most similar to `word`; a choice whose last dotted part equals `word` comes first."""

    def likeness(choice: str) -> float:
        is_last = choice.rpartition(".")[2] == word
        return is_last + difflib.SequenceMatcher(None, word.lower(), choice.lower()).ratio()

    return max(choices, key=likeness)
