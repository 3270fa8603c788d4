"""Segmentations (seg.nrrd) in the form in which 3D Slicer writes them."""

import gzip

import numpy as np

HEAD = """NRRD0004
# Complete NRRD file format specification at:
# http://teem.sourceforge.net/nrrd/format.html
type: {type}
dimension: 4
space: {space}
sizes: {sizes}
space directions: {directions}
kinds: {kinds}
endian: little
encoding: {encoding}
space origin: {origin}
"""


SEGMENT = """Segment{n}_Color:=0.5 0.6 0.1
Segment{n}_ID:=Segment_{n}
Segment{n}_LabelValue:={value}
Segment{n}_Layer:={layer}
Segment{n}_Name:={name}
Segment{n}_Tags:=Segmentation.Status:inprogress|TerminologyEntry:{filling}|
"""


TAIL = "Segmentation_ContainedRepresentationNames:=Binary labelmap|Closed surface|\n\n"


SEGMENTS = [("Leber", 0, 1), ("Tumour", 1, 2), ("Vessel: portal", 0, 7)]


DIRECTIONS = ["(0,0.5,0)", "(1,0,0)", "(0,0,2)"]


def layers(shape=(5, 6, 7)):
    """Return two layers (2, z, y, x) with segments that touch but do not overlap."""
    found = np.zeros((2, *shape), "u1")
    found[0, :2], found[0, 3:, 1:3], found[1, 2:, 3:] = 1, 7, 2
    return found


def seg(path, values=None, segments=SEGMENTS, *, first=True, encoding="gzip", **fields):
    """Write a file as Slicer does, and return its path.

    Parameters
    ----------
    path : Path
    values : ndarray, optional
        Layers (layer, z, y, x); `layers()` by default.
    segments : sequence of (name, layer, value)
    first : bool
        Whether the axis of layers is the first in the file, as in Slicer, or the last.
    encoding : {"gzip", "raw"}
    fields
        Values of header fields, over the defaults.
    """
    values = layers() if values is None else values
    count, z, y, x = values.shape
    sizes, vectors, kinds = [str(n) for n in (x, y, z)], [*DIRECTIONS], ["domain"] * 3
    for axis, new in ((sizes, str(count)), (vectors, "none"), (kinds, fields.pop("kind", "list"))):
        axis.insert(0 if first else 3, new)
    known = {
        "space": "left-posterior-superior",
        "origin": "(1,-2,3)",
        "encoding": encoding,
        "sizes": " ".join(sizes),
    }
    known |= {"directions": " ".join(vectors), "kinds": " ".join(kinds)}
    known |= {"type": {"u1": "unsigned char", "i2": "short", "f4": "float"}[values.dtype.str[1:]]}
    text = HEAD.format(**known | fields)
    for n, (name, layer, value) in enumerate(segments):
        text += SEGMENT.format(n=n, name=name, layer=layer, value=value, filling="x" * 600)
    data = np.ascontiguousarray(np.moveaxis(values, 0, -1) if first else values).tobytes()
    path.write_bytes((text + TAIL).encode() + (gzip.compress(data) if encoding == "gzip" else data))
    return path
