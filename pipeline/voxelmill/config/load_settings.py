"""Loading of settings from a preset, a TOML file and ``key=value`` words; later ones override earlier ones.

In: words, a file, a mapping. Out: a validated `Config`, or a `ConfigError` that says what is wrong.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from voxelmill.basics.errors import ConfigError
from voxelmill.config.settings import Config

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "nnunet": {"labels": "linear", "outside_label": -1, "dicom": {"padding": "keep"}},
}


def load_config(
    preset: str = "default",
    file: Path | None = None,
    settings: Sequence[str] = (),
    memory_limit: str | None = None,
) -> Config:
    """Return the settings from a preset, a TOML file and ``key=value`` words; later ones win.

    Parameters
    ----------
    preset : str
        "default" or "nnunet".
    file : Path, optional
        A TOML file with the names of `Config`'s fields.
    settings : sequence of str
        Words such as ``order=1`` or ``dicom.series="2"``; the value is TOML.
    memory_limit : str, optional
        The value of ``--memory-limit``; it overrides all others.

    Raises
    ------
    ConfigError
        If a setting is wrong: one line with the setting, the value found and what is expected.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}.")
    values = copy.deepcopy(PRESETS[preset])
    if file is not None:
        _merge(values, _read_toml(file))
    for word in settings:
        _merge(values, _parse_setting(word))
    if memory_limit is not None:
        values["memory_limit"] = memory_limit
    return make_config(values)


def make_config(values: Mapping[str, Any]) -> Config:
    """Validate a dictionary of settings, or raise `ConfigError` with one line."""
    return Config.model_validate(values)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: is not TOML ({error}).") from None


def _parse_setting(word: str) -> dict[str, Any]:
    """Parse ``dicom.series="2"`` into ``{"dicom": {"series": "2"}}``; a bare word counts as a string."""
    key, equals, value = word.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {word!r}: found no key=value; write for example --set order=1.")
    for text in (value, f'"{value}"'):
        with suppress(tomllib.TOMLDecodeError):
            return tomllib.loads(f"{key} = {text}")
    try:
        tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        raise ConfigError(f"--set {word!r}: {key!r} is no name; write for example --set order=1.") from None
    raise ConfigError(f"--set {word!r}: the value is not TOML; strings take quotes, lists take brackets.")


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
