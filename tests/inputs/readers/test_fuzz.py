"""Damaged files of every format are read, or refused with a line that helps; no crash, no hang, no print.

Users' files end early, have headers edited by hand, and sizes that no file of theirs can hold; the libraries
that read them end the process over some of that. `fuzz.py` makes more examples than these.
"""

import gzip
import json
import struct

import fuzz
import pytest
import tifffile
from fuzz_seeds import KINDS, make

from voxelmill.basics.errors import FormatError
from voxelmill.inputs.readers.formats import open_volume

EXAMPLES = 200


def test_the_formats_are_those_that_there_are_seeds_of():
    assert list(KINDS) == fuzz.FORMATS


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzz.FORMATS)
def test_damaged_files_are_read_or_refused(kind):
    found = fuzz.run(kind, EXAMPLES, seed=2)
    assert found.problems == []
    assert found.examples == EXAMPLES
    assert found.kinds["opened"] > EXAMPLES // 20
    assert found.kinds.total() - found.kinds["opened"] > EXAMPLES // 5


class TestWhatTheFuzzerFound:
    """Each in the smallest file; before, the first three ended the process, the others took memory."""

    def refused(self, path, match):
        with pytest.raises(FormatError, match=match):
            open_volume(path, spacing=(1, 1, 1))

    def damaged(self, kind, name, folder, old, new):
        path = next(p for p in make(kind, folder / kind) if p.parent.name == name)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))
        return path

    def test_a_long_line_that_itk_complains_of(self, tmp_path):
        wrong = b"kinds: domain domain domain" + b" 1" * 600
        path = self.damaged("nrrd", "plain", tmp_path, b"kinds: domain domain domain", wrong)
        self.refused(path, "'kinds' in the header is longer than 500 characters")

    def test_a_long_line_that_is_no_field(self, tmp_path):
        path = self.damaged("nrrd", "plain", tmp_path, b"encoding: raw", b"encoding: raw\n" + b"1 " * 600)
        self.refused(path, "has a line that is not 'field: value'")

    def test_a_line_that_itk_ends_within(self, tmp_path):
        comment = b"encoding: raw\n# a comment\r" + b"1 " * 600
        path = self.damaged("nrrd", "plain", tmp_path, b"encoding: raw", comment)
        self.refused(path, "has a line break that is no line's end")

    def test_a_name_where_numbers_should_be(self, tmp_path):
        wrong = b"space origin: (0,0,0)ata file: secret_source.raw"
        path = self.damaged("nrrd", "plain", tmp_path, b"space origin: (0,0,0)", wrong)
        self.refused(path, r"spaceorigin in the header is '\(0,0,0\)ata \.\.\.: \.\.\.'; 3 finite numbers")

    def test_a_number_of_axes_below_zero(self, tmp_path):
        path = self.damaged("metaimage", "plain", tmp_path, b"NDims = 3", b"NDims = -1")
        self.refused(path, "NDims in the MetaImage header is -1")

    def test_sizes_that_bzip2_cannot_hold(self, tmp_path):
        path = self.damaged("nrrd", "bzip2", tmp_path, b"sizes: 5 6 4", b"sizes: 500000 600000 4")
        self.refused(
            path, r"asks for 2400000000000 bytes of voxels; \d+ bytes of compressed data cannot hold them"
        )

    def test_a_page_that_its_bytes_cannot_hold(self, tmp_path):
        path = next(p for p in make("tiff", tmp_path / "tiff") if p.parent.name == "deflate")
        with tifffile.TiffFile(path, mode="r+b") as tif:
            for page in tif.pages:
                for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                    page.tags[tag].overwrite(60000)
        self.refused(path, "the tags ask for 3600000000 values a page")

    def test_chunks_far_beyond_the_image(self, tmp_path):
        path = next(p for p in make("ome_zarr", tmp_path / "ome") if p.parent.name == "v5")
        described = json.loads((path / "0" / "zarr.json").read_text())
        described["chunk_grid"]["configuration"]["chunk_shape"] = [4000, 4000, 4000]
        (path / "0" / "zarr.json").write_text(json.dumps(described))
        self.refused(path, r"has chunks of \(4000, 4000, 4000\) voxels \(128000000000 bytes\)")

    def test_voxels_before_the_file(self, tmp_path):
        path = next(p for p in make("nifti", tmp_path / "nifti") if p.parent.name == "gz")
        plain = bytearray(gzip.decompress(path.read_bytes()))
        plain[108:112] = struct.pack("<f", -1e9)
        path.write_bytes(gzip.compress(plain))
        self.refused(path, "puts the voxels before the file begins")
