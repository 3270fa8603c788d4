"""Microscopy formats that voxelmill does not read, and the programs that convert them.

In: a file name ending. Out: text for messages. It opens no file.
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
"""File name ending to the advice on how to convert such a file."""
