"""The output of `voxelmill config`: all settings as a commented TOML file.

In: a `Config`. Out: a text with the meaning, default, choices or bounds and unit of every setting, all taken
from the declarations of the settings. Loaded with --config, the text gives the same `Config`.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import ByteSize, SecretStr
from pydantic.fields import FieldInfo

from voxelmill.basics.record_base import Settings
from voxelmill.config.settings import Config
from voxelmill.config.validation_messages import is_model, takes, toml

WIDTH = 100

HEAD = (
    "All settings of voxelmill. Change some, and pass the file: --config FILE. Of --preset, --config "
    "and --set the later ones win. Take the # away from an example to use it."
)


def config_text(config: Config) -> str:
    """Return the settings as commented TOML.

    A setting without a value is written as a comment with an example. Secrets are left out.

    Returns
    -------
    str
        Lines of at most 100 characters, except for long values.
    """
    return "\n".join([*_comment(HEAD), *_table(config, "")]) + "\n"


def _table(settings: Settings, prefix: str) -> Iterator[str]:
    """Yield the lines of one table, then of its subtables, which TOML requires at the end."""
    fields = type(settings).model_fields
    for name, field in fields.items():
        if not is_model(field.annotation):
            yield from ("", *_setting(field.alias or name, field, getattr(settings, name)))
    for name, field in fields.items():
        if is_model(field.annotation):
            table = getattr(settings, name)
            yield from ("", *_comment(inspect.getdoc(type(table)) or ""), f"[{prefix}{name}]")
            yield from _table(table, f"{prefix}{name}.")


def _setting(name: str, field: FieldInfo, value: Any) -> Iterator[str]:
    default = "" if field.default is None else f"; default: {toml(field.default)}"
    yield from _comment(field.description or "")
    yield from _comment(f"It takes {takes(field.annotation, field)}{default}.")
    if value is None or SecretStr in get_args(field.annotation):
        yield from (f"# {name} = {toml(example)}" for example in field.examples or ())
    else:
        yield f"{name} = {toml(_plain(value))}"


def _plain(value: Any) -> Any:
    """Return a value as a TOML type; a size is written in the largest unit that divides it."""
    if isinstance(value, ByteSize):
        shift, unit = next(p for p in ((30, "GiB"), (20, "MiB"), (0, "B")) if not value % (1 << p[0]))
        return f"{value >> shift}{unit}"
    return str(value) if isinstance(value, Path) else value


def _comment(text: str) -> list[str]:
    lines = textwrap.wrap(" ".join(text.split()), WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in lines]
