"""What may be told of an exception, and when it is voxelmill's own fault."""

import json

import numpy as np
import pytest
import tifffile

from voxelmill.basics.errors import FormatError
from voxelmill.basics.safe_tracebacks import is_own_fault
from voxelmill.inputs.readers.formats import open_volume

SPACING = (1.0, 1.0, 1.0)


def caught(function, *args):
    with pytest.raises(Exception) as found:
        function(*args)
    return found.value


def test_what_a_library_raises_is_not_our_fault():
    assert not is_own_fault(caught(json.loads, "{"))
    assert not is_own_fault(caught(json.loads, 1))  # a TypeError, of the json module


def test_a_line_of_ours_that_asks_for_what_is_not_there_is(tmp_path):
    assert is_own_fault(caught(open_volume, "a string, where a path is needed"))


def test_a_renamed_attribute_never_reads_as_a_damaged_file(tmp_path, monkeypatch):
    """zarr 3.3 changed what an attribute holds, and every label was called damaged."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((5, 6, 7), "u1"), photometric="minisblack")
    monkeypatch.delattr(tifffile.TiffFile, "series")
    with pytest.raises(AttributeError):
        open_volume(path, spacing=SPACING)


def test_a_changed_signature_never_reads_as_a_damaged_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((3, 4, 5), "f4"))
    monkeypatch.setattr(np, "load", lambda file: np.ones(1))
    with pytest.raises(TypeError):
        open_volume(path, spacing=SPACING)


def test_a_damaged_file_is_still_called_damaged(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': 1, 'x'")
    with pytest.raises(FormatError, match="cut short"):
        open_volume(path, spacing=SPACING)
