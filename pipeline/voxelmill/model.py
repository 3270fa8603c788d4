"""What all records have in common that are read from or written to JSON or TOML.

In: nothing. Out: a base class. Knows no record.
"""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """A record that is read from or written to JSON or TOML; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)
