"""The settings of DICOM, of which OUT keeps nothing that names a patient.

In: values that a user chose. Out: a validated `DicomConfig`. Knows neither files nor other settings.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_serializer

from voxelmill.model import Model

HASHED_UID = "uid-[0-9a-f]{12}"


class DicomConfig(Model):
    """How a folder of DICOM files becomes a volume."""

    series: str | None = Field(default=None, coerce_numbers_to_str=True)
    """SeriesInstanceUID, or number (from 1), where a folder holds several series. OUT keeps a short hash of a
    SeriesInstanceUID, which is an identifier, instead."""

    ids: Literal["pseudonyms", "names"] = Field(default="pseudonyms", exclude=True)
    """What cases are called where SOURCE is a folder of DICOM series or files, or one of them: folders and
    files are often called like patients. Manifests and nnU-Net datasets give ids themselves, which stay."""

    salt: SecretStr | None = Field(default=None, exclude=True)
    """Secret text, of 16 to 64 bytes, that pseudonyms are made with; the same gives the same. By default the
    user's own, which is made once, in voxelmill/salt of the user's configuration folder."""

    mapping: Path | None = Field(default=None, exclude=True)
    """File outside of OUT for a table (CSV) of which pseudonym stands for what; by default there is none."""

    @field_serializer("series", when_used="json")
    def _hash_uid(self, value: str | None) -> str | None:
        if value is None or value.isdecimal() or re.fullmatch(HASHED_UID, value):
            return value
        return "uid-" + hashlib.blake2b(value.encode(), digest_size=6).hexdigest()

    def __getstate__(self) -> dict[Any, Any]:
        """What travels to workers, which have no use for the secret and the names."""
        state = super().__getstate__()
        return state | {"__dict__": state["__dict__"] | {"salt": None, "mapping": None}}
