"""Records with a JSON file of their own in OUT: written atomically, and refused if damaged."""

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
        Name of the file.
    COMMAND : str
        Command that writes it, for messages.
    """

    FILE: ClassVar[str]
    COMMAND: ClassVar[str]

    def save(self, out: Path) -> None:
        """Write the file atomically, unless it has this content already."""
        write_changed(out / self.FILE, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def load(cls, out: Path) -> Self:
        """Read the file.

        Raises
        ------
        StoreError
            If it is missing, damaged or from another version.
        """
        try:
            content = (out / cls.FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise StoreError(f"{cls.FILE} is not in OUT. Run `{cls.COMMAND}` first.") from None
        return cls.parse(content, f"{cls.FILE} in OUT")

    @classmethod
    def parse(cls, content: bytes, what: str) -> Self:
        """Parse the content of a file; messages call the file `what`.

        Raises
        ------
        StoreError
            If it is damaged or from another version.
        """
        try:
            return cls.model_validate_json(content)
        except ConfigError as error:
            problem = str(error).rstrip(".")
        except ValidationError as error:
            problem = _problem(error, cls, content)
        raise StoreError(f"{what} is damaged or of another version ({problem}). Run `{cls.COMMAND}` again.")


def _problem(error: ValidationError, model: type[Model], content: bytes) -> str:
    """Return the first problem of a record's text."""
    try:
        values = json.loads(content)
    except ValueError:  # raised for wrong JSON and for a wrong encoding
        return "it is not JSON"
    return str(first_problem(error, model, values))
