"""Pseudonyms for cases named after DICOM folders or files, which often carry patient names.

In: names, and a secret that is never written to OUT. Out: reproducible ids that do not reveal the names and,
on request, a table that maps ids to names.

A pseudonym is a keyed BLAKE2b hash (RFC 7693) of the name. Without the key, names cannot be found by trial.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from voxelmill.basics.errors import ConfigError
from voxelmill.config.dicom_settings import DicomConfig

PSEUDONYM = re.compile("case_[0-9a-f]{16}")
"""The form of a pseudonym."""

HEADER = ["case", "name"]
"""Columns of the table."""

_SALT_BYTES = range(16, 65)
_WAYS = "Set dicom.salt to a secret text of 16 to 64 bytes, or dicom.ids=names to keep the names"


def pseudonym(name: str, salt: str) -> str:
    """Return the id of the case with this name: ``case_`` and 16 hexadecimal digits."""
    key = salt.encode("utf-8", "surrogateescape")
    return "case_" + hashlib.blake2b(os.fsencode(name), digest_size=8, key=key).hexdigest()


def find_salt(config: DicomConfig) -> str:
    """Return the secret of the settings, or the user's own, which is created when it is first needed.

    Raises
    ------
    ConfigError
        If there is no valid secret, and none can be created.
    """
    if config.salt is not None:
        return _checked(config.salt.get_secret_value(), "dicom.salt")
    try:
        return _checked(_users_salt(), "the file `voxelmill/salt` in the user's configuration folder")
    except (OSError, RuntimeError, UnicodeDecodeError):
        raise ConfigError(
            "the secret that pseudonyms of DICOM cases are made with can neither be read nor made in the "
            f"user's configuration folder (voxelmill/salt). {_WAYS}."
        ) from None


def write_mapping(file: Path, out: Path, names: Mapping[str, str]) -> None:
    """Write the table of pseudonyms (case) and names (name) to a file that only its owner can read.

    Raises
    ------
    ConfigError
        If the file lies within OUT, is another kind of file, or cannot be written.
    """
    check_mapping(file, out)
    text = io.StringIO()
    csv.writer(text).writerows([HEADER, *sorted(names.items())])
    try:
        made = _private(file, text.getvalue())
        made.replace(file)
    except OSError as error:
        raise ConfigError(
            f"dicom.mapping cannot be written ({os.strerror(error.errno or 0)}). Name another file."
        ) from None


def check_mapping(file: Path, out: Path) -> None:
    """Refuse a file for the table that lies within OUT, which may be shared, or that cannot be replaced.

    Raises
    ------
    ConfigError
        If it lies within OUT, exists and is not such a table, or its folder is not writable.
    """
    if file.resolve().is_relative_to(out.resolve()):
        raise ConfigError("dicom.mapping lies within OUT, which must tell nobody's name. Name another file.")
    begins = (",".join(HEADER)).encode()
    if file.is_dir() or (file.exists() and file.read_bytes()[: len(begins)] != begins):
        raise ConfigError("dicom.mapping is there and is no such table. Name another file.")
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        raise ConfigError("dicom.mapping is in no folder that can be written. Name another file.")


def hint(case: str, names: Mapping[str, str]) -> str:
    """Return a hint on a case of OUT that is no longer in SOURCE; empty if pseudonyms are not involved."""
    if not (names or PSEUDONYM.fullmatch(case)):
        return ""
    return "; ids of DICOM cases depend on dicom.salt and dicom.ids, or on whose voxelmill/salt it was"


def _checked(salt: str, where: str) -> str:
    size = len(salt.encode("utf-8", "surrogateescape"))
    if size not in _SALT_BYTES:
        raise ConfigError(f"{where} holds {size} bytes, 16 to 64 are needed. {_WAYS}.")
    return salt


def _users_salt() -> str:
    """Return the user's secret; if two processes create it at once, both use the first one."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    file = Path(home, "voxelmill", "salt")
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = _private(file, secrets.token_hex(32))
        try:
            os.link(made, file)  # atomic, and fails if the file exists
        except FileExistsError:
            pass
        finally:
            made.unlink()
    return file.read_text().strip()


def _private(beside: Path, text: str) -> Path:
    """Write a whole file under a new name that only its owner can read; return its path."""
    made = beside.with_name(f"{beside.name}.{secrets.token_hex(16)}.partial")
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(file.fileno())
    return made
