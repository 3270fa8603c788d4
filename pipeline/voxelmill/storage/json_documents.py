"""Records that have a file of their own in OUT: JSON, written whole or not at all, refused where damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

from pydantic import ValidationError

from voxelmill.basics.errors import ConfigError, StoreError
from voxelmill.basics.record_base import Model
from voxelmill.config.validation_messages import first_problem
from voxelmill.storage.partial_files import write_changed


class Document(Model):
    """A record with a file in OUT.

    Attributes
    ----------
    FILE : str
        Its name.
    COMMAND : str
        What makes it.
    """

    FILE: ClassVar[str]
    COMMAND: ClassVar[str]

    def save(self, out: Path) -> None:
        """Write the file, under another name first; not where it is there already."""
        write_changed(out / self.FILE, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, out: Path) -> Self:
        """Read the file.

        Raises
        ------
        StoreError
            If it is not there, or is not what this version writes.
        """
        try:
            content = (out / cls.FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"{cls.FILE} is not in OUT. Run `{cls.COMMAND}` first.") from None
        return cls.parse(content, f"{cls.FILE} in OUT")

    @classmethod
    def parse(cls, content: bytes, what: str) -> Self:
        """The record that a file holds; `what` tells a user which.

        Raises
        ------
        StoreError
            If it is not what this version writes.
        """
        try:
            return cls.model_validate_json(content)
        except ConfigError as error:
            problem = str(error).rstrip(".")
        except ValidationError as error:
            problem = _problem(error, cls, content)
        raise StoreError(f"{what} is damaged or of another version ({problem}). Run `{cls.COMMAND}` again.")


def _problem(error: ValidationError, model: type[Model], content: bytes) -> str:
    """What is wrong with the text of a record."""
    try:
        values = json.loads(content)
    except ValueError:  # of a text as of an encoding
        return "it is not JSON"
    return str(first_problem(error, model, values))
