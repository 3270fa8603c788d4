"""What all records have in common that are read from or written to JSON or TOML.

In: nothing. Out: a base class, and words for what does not fit it. Knows no record.
"""

from pydantic import BaseModel, ConfigDict, ValidationError


class Model(BaseModel):
    """A record that is read from or written to JSON or TOML; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


def first_problem(error: ValidationError) -> str:
    """What is wrong with a record, and where in it."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
