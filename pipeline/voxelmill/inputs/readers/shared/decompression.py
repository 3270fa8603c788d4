"""Streaming decompression of gzip, zlib and bzip2: forward only, in bounded memory.

In: a file of compressed bytes. Out: a stream of plain bytes. isal, about twice as fast as zlib, is used if
installed. This module knows nothing of images.
"""

from __future__ import annotations

import bz2
import io
import zlib as standard_zlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

zlib: ModuleType
try:
    from isal import isal_zlib as zlib
except ImportError:
    zlib = standard_zlib

ERRORS: tuple[type[Exception], ...] = (zlib.error, standard_zlib.error, EOFError)
"""Exceptions that damaged or truncated data raise."""
MAX_RATIO = {"gzip": 1032, "zlib": 1032, "bzip2": 1_600_000, "decimal": 8, "hex": 1}
"""Upper bound of the bytes that one stored byte can expand to.

Deflate stores 258 bytes in 2 bits, bzip2 46 million bytes in a block of 30, and a decimal digit is a value of
up to 8 bytes.
"""
_CHUNK = 1 << 18
HELD_BYTES = 24 * _CHUNK
"""Upper bound of the bytes that a stream holds: input, output and leftovers."""
_WINDOW_BITS = {"gzip": 31, "zlib": 15}  # zlib's wbits: plus 16 selects the gzip header and trailer


class Bzip2(bz2.BZ2File):
    """A bzip2 stream that also closes the underlying file."""

    def __init__(self, file: io.RawIOBase) -> None:
        super().__init__(file)
        self._below = file

    def close(self) -> None:
        """Close the stream and the underlying file."""
        super().close()
        self._below.close()


class Inflater(io.RawIOBase):
    """A decompressed view of a gzip file, of one or more members, or of a zlib stream.

    Raises
    ------
    EOFError
        From `readinto`, if the file ends before the end marker of the compressed stream.
    """

    def __init__(self, file: io.RawIOBase, codec: str) -> None:
        self._file = file
        self._bits = _WINDOW_BITS[codec]
        self._decoder = zlib.decompressobj(self._bits)
        self._pending = b""
        self._ended = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read up to ``len(buffer)`` bytes into a buffer; return their number, 0 at the end."""
        view = memoryview(buffer).cast("B")
        while view and not self._ended:
            # the limit keeps memory bounded, whatever the compression ratio
            data = self._decoder.decompress(self._pending, min(len(view), 4 * _CHUNK))
            self._pending = self._decoder.unconsumed_tail
            if self._decoder.eof:
                self._next_member()
            elif not data and not self._pending:
                self._pending = self._more()
            if data:
                view[: len(data)] = data
                return len(data)
        return 0

    def close(self) -> None:
        """Close the underlying file too."""
        self._file.close()
        super().close()

    def _more(self) -> bytes:
        data = self._file.read(_CHUNK)
        if not data:
            raise EOFError("compressed data end early")
        return data

    def _next_member(self) -> None:
        rest = self._decoder.unused_data.lstrip(b"\0")  # gzip files may be padded with zeros
        while len(rest) < 2 and (data := self._file.read(_CHUNK)):
            rest = (rest + data).lstrip(b"\0")
        self._ended = self._bits != _WINDOW_BITS["gzip"] or not rest.startswith(b"\x1f\x8b")
        self._decoder = zlib.decompressobj(self._bits)
        self._pending = rest
