"""Voxels stored as text, decoded into bytes: forward only, in bounded memory.

In: a file of decimal numbers, or of bytes as hexadecimal digits. Out: a stream of bytes. It knows no header.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from voxelmill.basics.errors import FormatError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CODECS = ("decimal", "hex")
_CHUNK = 1 << 14
MOST_DIGITS = 512
"""Longest number in characters; anything longer is refused."""
_BETWEEN = bytes.maketrans(b",{}", b"   ")  # separators beside blanks, as in NRRD's own library
_BLANKS = b" \t\n\r\f\v"


class TextStream(io.RawIOBase):
    """The bytes that a text encodes: decimal numbers of type `dtype`, or hexadecimal digits if it is None.

    Raises
    ------
    FormatError
        From `readinto`, if the text holds anything else.
    """

    def __init__(self, file: io.RawIOBase, dtype: np.dtype[Any] | None) -> None:
        self._file = file
        self._decode = _hexadecimal if dtype is None else _numbers_of(dtype)
        self._rest = self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read up to ``len(buffer)`` bytes into a buffer; return their number, 0 at the end."""
        while not self._ready and not self._ended:
            text = self._file.read(_CHUNK) or b""
            self._ended = not text
            self._ready, self._rest = self._decode(self._rest + text, self._ended)
        view = memoryview(buffer).cast("B")
        taken = self._ready[: len(view)]
        view[: len(taken)] = taken
        self._ready = self._ready[len(taken) :]
        return len(taken)

    def close(self) -> None:
        """Close the underlying file too."""
        self._file.close()
        super().close()


def _hexadecimal(text: bytes, is_last: bool) -> tuple[bytes, bytes]:
    """Return the bytes of a text, and a last digit if its pair is incomplete so far."""
    digits = text.translate(None, _BLANKS)
    whole = len(digits) - (0 if is_last else len(digits) % 2)
    try:
        return bytes.fromhex(digits[:whole].decode("ascii")), digits[whole:]
    except ValueError:
        raise FormatError(
            "the file holds voxels as hexadecimal text, and something in it is no pair of such digits. "
            "Restore it from its source."
        ) from None


def _numbers_of(dtype: np.dtype[Any]) -> Callable[[bytes, bool], tuple[bytes, bytes]]:
    def decode(text: bytes, is_last: bool) -> tuple[bytes, bytes]:
        text = text.translate(_BETWEEN)
        # a number at the end may go on in the next chunk
        end = len(text) if is_last else max(map(text.rfind, (bytes([b]) for b in _BLANKS))) + 1
        rest = text[end:]
        if len(rest) > MOST_DIGITS:
            raise _no_number(dtype)
        return _numbers(text[:end].split(), dtype), rest

    return decode


def _numbers(words: list[bytes], dtype: np.dtype[Any]) -> bytes:
    parse = float if dtype.kind == "f" else int
    try:
        values = [parse(word) for word in words]
    except ValueError:
        raise _no_number(dtype) from None
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            found = np.array(values, dtype)
        # infinity is allowed where the text says so, not where a number overflows its type
        if np.isinf(found).sum() > sum(map(math.isinf, values)):
            raise _no_number(dtype)
        return found.tobytes()
    limits = np.iinfo(dtype)
    if values and not limits.min <= min(values) <= max(values) <= limits.max:
        raise _no_number(dtype)
    return np.array(values, dtype).tobytes()


def _no_number(dtype: np.dtype[Any]) -> FormatError:
    return FormatError(
        f"the file holds voxels as text, and something in it is no number of type {dtype.name}. "
        "Restore it from its source."
    )
