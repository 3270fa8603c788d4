"""Base classes of records that are read from or written to JSON or TOML, and of settings."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Model(BaseModel):
    """A record that is read from or written to JSON or TOML; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


class Settings(Model):
    """A record that users write; `voxelmill config` prints the docstring of each field."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false for fields that are not bool: pydantic would read them as 1 and 0."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        found = value if isinstance(value, list | tuple) else [value]
        if bool not in (annotation, *get_args(annotation)) and any(isinstance(v, bool) for v in found):
            raise ValueError
        return value
