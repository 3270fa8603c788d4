"""Formats of microscopes that no module here reads, and what makes readable files of them.

In: the ending of a file. Out: words. Opens nothing.
"""

from __future__ import annotations

_BIO_FORMATS = "bfconvert (Bio-Formats) makes OME-TIFF of it, bioformats2raw makes OME-Zarr"

CONVERTERS = {
    ".czi": _BIO_FORMATS,
    ".ims": _BIO_FORMATS,
    ".lif": _BIO_FORMATS,
    ".lsm": _BIO_FORMATS,
    ".nd2": _BIO_FORMATS,
    ".ozx": "unzip makes the OME-Zarr folder of it that it holds",
    ".qptiff": _BIO_FORMATS,
    ".stk": _BIO_FORMATS,
    ".svs": _BIO_FORMATS,
}
"""What each ending is converted with."""
