"""The settings ``dicom.*``. What OUT keeps of them identifies no patient.

In: values that a user chose. Out: a validated `DicomConfig`. This module knows no files and no other
settings.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    SecretStr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
)

from voxelmill.basics.record_base import Settings
from voxelmill.basics.user_paths import local_path

HASHED_UID = "uid-[0-9a-f]{12}"


class DicomConfig(Settings):
    """How a folder of DICOM files becomes a volume."""

    series: str | None = Field(default=None, coerce_numbers_to_str=True, examples=["2"])
    """SeriesInstanceUID, or number (from 1), where a folder holds several series. OUT keeps a short hash of a
    SeriesInstanceUID, which is an identifier, instead."""

    padding: Literal["minimum", "keep"] = "minimum"
    """Voxels that hold PixelPaddingValue, which is no measurement (-2000 in CT, or 63536 where the sign got
    lost): "minimum" gives them the lowest value of all others of the series; "keep" leaves them, as
    SimpleITK, dcm2niix, and so nnU-Net, do. A value of 0 is background already, and stays, as labels do."""

    ids: Literal["pseudonyms", "names"] = Field(default="pseudonyms", exclude=True)
    """What cases are called where SOURCE is a folder of DICOM series or files, or one of them: folders and
    files are often called like patients. Manifests and nnU-Net datasets give ids themselves, which stay."""

    salt: SecretStr | None = Field(
        default=None,
        exclude=True,
        examples=["a text of your own that nobody else knows"],
        json_schema_extra={"unit": "16 to 64 bytes"},
    )
    """Secret that pseudonyms are made with; the same gives the same. By default the
    user's own, which is made once, in voxelmill/salt of the user's configuration folder."""

    mapping: Path | None = Field(default=None, exclude=True, examples=["../pseudonyms.csv"])
    """File outside of OUT for a table (CSV) of which pseudonym stands for what; by default there is none."""

    @field_validator("mapping")
    @classmethod
    def _at_home(cls, value: Path | None) -> Path | None:
        return None if value is None else local_path(value, "dicom.mapping")

    @field_serializer("series", when_used="json")
    def _hash_uid(self, value: str | None) -> str | None:
        if value is None or value.isdecimal() or re.fullmatch(HASHED_UID, value):
            return value
        return "uid-" + hashlib.blake2b(value.encode(), digest_size=6).hexdigest()

    @model_serializer(mode="wrap")
    def _leave_out_default(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        """Leave out the default of `padding`, so that settings tokens from before this setting stay valid."""
        values = write(self)
        if info.mode == "json" and values.get("padding") == "minimum":
            del values["padding"]
        return values

    def __getstate__(self) -> dict[Any, Any]:
        """Leave salt and mapping out of what is sent to workers: they do not need the secret or the names."""
        state = super().__getstate__()
        return state | {"__dict__": state["__dict__"] | {"salt": None, "mapping": None}}
