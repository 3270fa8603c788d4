"""Small valid sources of every format, which `fuzz.py` damages.

In: a folder. Out: paths of sources in separate folders, with the same bytes each time. Every name contains
"secret", so that a message that quotes one is noticed.
"""

import bz2
import gzip
import json

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
import tifffile
import zarr
from nibabel import AnalyzeImage, Nifti1Image, Nifti1Pair, Nifti2Image, Nifti2Pair
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless
from readers_support import enhanced, save_ome_zarr, save_series, series

SHAPE = (4, 6, 5)
VOXELS = np.random.default_rng(0).integers(0, 200, SHAPE).astype("i2")


def make(kind, folder):
    """Return the sources of one kind, each in its own folder, sorted; write them on the first call."""
    if not folder.exists():
        folder.mkdir(parents=True)
        _MAKERS[kind](folder)
    cases = sorted(folder.iterdir())
    return [next(p for p in case.iterdir() if "source" in p.name and not _is_data(p)) for case in cases]


def _is_data(path):
    return path.name.endswith((".raw", ".img", ".img.gz"))


def _place(folder, name, ending):
    (folder / name).mkdir()
    return folder / name / f"secret_source{ending}"


def _nifti(folder):
    for name, kind, ending in (
        ("1", Nifti1Image, ".nii"),
        ("2", Nifti2Image, ".nii"),
        ("gz", Nifti1Image, ".nii.gz"),
    ):
        image = kind(VOXELS.T, np.diag([0.7, 0.8, 2.5, 1]))
        path = _place(folder, name, ending)
        content = image.to_bytes()
        path.write_bytes(gzip.compress(content, mtime=0) if ending.endswith("gz") else content)
    for name, kind in (("pair", Nifti1Pair), ("pair2", Nifti2Pair), ("analyze", AnalyzeImage)):
        kind(VOXELS.T, np.diag([-0.7, 0.8, 2.5, 1])).to_filename(_place(folder, name, ".hdr"))
    place = _place(folder, "pairgz", "").parent
    for file in (folder / "pair").iterdir():
        (place / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))


def _image(array=VOXELS, vector=False):
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing((0.7, 0.8, 2.5))
    return image


def _metaimage(folder):
    for name, ending, packed in (
        ("plain", ".mha", False),
        ("packed", ".mha", True),
        ("apart", ".mhd", False),
    ):
        sitk.WriteImage(_image(), str(_place(folder, name, ending)), packed)
    sitk.WriteImage(_image(VOXELS.reshape(4, 3, 5, 2), True), str(_place(folder, "vector", ".mha")))
    head = (folder / "plain" / "secret_source.mha").read_bytes()[: -VOXELS.nbytes]
    text = head.replace(b"BinaryData = True", b"BinaryData = False")
    numbers = " ".join(map(str, VOXELS.ravel().tolist())).encode()
    _place(folder, "text", ".mha").write_bytes(text + numbers + b"\n")
    head = head.rpartition(b"ElementDataFile")[0] + b"ElementDataFile = "
    _pieces(folder, "list", ".mhd", head, b"LIST\n" + b"\n".join(PIECES) + b"\n")
    _pieces(folder, "pattern", ".mhd", head, b"secret%02d.raw 1 4 1\n")


PIECES = [b"secret%02d.raw" % n for n in range(1, 5)]


def _pieces(folder, name, ending, head, stated):
    """Write a header, and one data file per slice."""
    path = _place(folder, name, ending)
    path.write_bytes(head + stated)
    for piece, plane in zip(PIECES, VOXELS, strict=True):
        (path.parent / piece.decode()).write_bytes(plane.tobytes())


def _nrrd(folder):
    for name, ending, packed in (
        ("plain", ".nrrd", False),
        ("packed", ".nrrd", True),
        ("apart", ".nhdr", False),
    ):
        sitk.WriteImage(_image(), str(_place(folder, name, ending)), packed)
    plain = (folder / "plain" / "secret_source.nrrd").read_bytes()
    head, _, data = plain.partition(b"\n\n")
    bzip2 = head.replace(b"encoding: raw", b"encoding: bzip2") + b"\n\n" + bz2.compress(data)
    _place(folder, "bzip2", ".nrrd").write_bytes(bzip2)
    _pieces(folder, "list", ".nhdr", head + b"\ndata file: ", b"LIST\n" + b"\n".join(PIECES) + b"\n")
    _pieces(folder, "pattern", ".nhdr", head + b"\ndata file: ", b"secret%02d.raw 1 4 1\n")
    text = " ".join(map(str, VOXELS.ravel().tolist())).encode()
    for name, content in (("ascii", text), ("hex", VOXELS.tobytes().hex().encode())):
        words = head.replace(b"encoding: raw", b"encoding: " + name.encode())
        _place(folder, name, ".nrrd").write_bytes(words + b"\n\n" + content + b"\n")
    words = head.replace(b"dimension: 3", b"dimension: 4").replace(b"sizes: 5 6 4", b"sizes: 5 6 2 2")
    words = words.replace(b"domain domain domain", b"domain domain domain vector")
    assert b"(0,0,2.5)" in words
    words = words.replace(b"(0,0,2.5)", b"(0,0,2.5) none")
    _place(folder, "last", ".nrrd").write_bytes(words + b"\n\n" + data)


def _segments(folder):
    from segments import layers, seg

    for name, words in (("packed", {}), ("plain", {"encoding": "raw"}), ("last", {"first": False})):
        how = {"encoding": "raw", **words} if name == "last" else words
        seg(_place(folder, name, ".seg.nrrd"), layers(SHAPE), **how)


def _npy(folder):
    np.save(_place(folder, "one", ".npy"), VOXELS)
    np.save(_place(folder, "channels", ".npy"), np.stack([VOXELS, VOXELS]).astype("f4"))


def _dicom(folder):
    syntaxes = {
        "explicit": ExplicitVRLittleEndian,
        "implicit": ImplicitVRLittleEndian,
        "rle": RLELossless,
        "jpegls": JPEGLSLossless,
    }
    for name, syntax in syntaxes.items():
        uids = {"SeriesInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.4", "SliceThickness": 2.5}
        pieces = list(series(VOXELS.astype("u2"), **uids))
        for piece in pieces:
            piece.file_meta.MediaStorageSOPInstanceUID = "1.2.4"
            if syntax.is_compressed:
                piece.compress(syntax, generate_instance_uid=False)
            else:
                piece.file_meta.TransferSyntaxUID = syntax
        place = _place(folder, name, "")
        if name == "explicit":
            pydicom.dcmwrite(_place(folder, "single", ".dcm"), pieces[0])
            pydicom.dcmwrite(_place(folder, "frames", ".dcm"), enhanced(pieces))
        if name == "implicit":
            words = {"implicit_vr": True, "little_endian": True, "enforce_file_format": False}
            pieces[0].PixelPaddingValue, pieces[0].PixelPaddingRangeLimit = 3, 9
            pydicom.dcmwrite(_place(folder, "bare", ".dcm"), pydicom.Dataset(pieces[0]), **words)
        save_series(place, pieces, [f"secret{n}.dcm" for n in range(len(pieces))])


def _tiff(folder):
    ome = {"axes": "ZYX", "PhysicalSizeX": 0.7, "PhysicalSizeY": 0.7, "PhysicalSizeZ": 2.5}
    options = {
        "plain": {},
        "deflate": {"compression": "zlib"},
        "lzw": {"compression": "lzw", "predictor": True},
        "zstd": {"compression": "zstd"},
        "jpeg": {"compression": "jpeg"},
        "tiles": {"compression": "zlib", "tile": (16, 16)},
        "ome": {"ome": True, "metadata": ome},
        "imagej": {
            "imagej": True,
            "metadata": {"axes": "ZYX", "spacing": 2.5, "unit": "mm"},
            "resolution": (1, 1),
        },
        "big": {"bigtiff": True},
    }
    for name, words in options.items():
        data = VOXELS.astype("u1") if name == "jpeg" else VOXELS.astype("u2")
        tifffile.imwrite(_place(folder, name, ".tif"), data, photometric="minisblack", **words)
    path = _place(folder, "sparse", ".tif")
    tifffile.imwrite(path, np.zeros((2, 32, 32), "u2"), photometric="minisblack", tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = tif.pages[0].tags[name]
            tag.overwrite([0, *tag.value[1:]])


def _stack(folder):
    names = {
        "lone": "secret_{z:04}.tif",
        "named": "secret_z{z:02}_ch{c:02}.tif",
        "dated": "20260131-{time}_secret_{z}.tif",
    }
    for name, called in names.items():
        place = _place(folder, name, "")
        place.mkdir()
        for z, page in enumerate(VOXELS.astype("u2")):
            for c in range(2 if "{c" in called else 1):
                path = place / called.format(z=z, c=c, time=1000 + z * z)
                tifffile.imwrite(path, page, photometric="minisblack")
        if name == "lone":
            tifffile.imwrite(place / "MAX_secret.tif", VOXELS.max(0), photometric="minisblack")


def _ome_zarr(folder):
    save_ome_zarr(_place(folder, "v5", ".ome.zarr"), VOXELS, (2.5, 0.8, 0.7), (2, 4, 5))
    path = _place(folder, "v4", ".ome.zarr")
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", shape=SHAPE, chunks=(2, 6, 5), dtype="i2")[:] = VOXELS
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    steps = [{"type": "scale", "scale": [-2.5, 0.8, 0.7]}]
    levels = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]
    path = _place(folder, "sharded", ".ome.zarr")
    save_ome_zarr(path, VOXELS, (2.5, 0.8, 0.7))
    zarr.create_array(
        path / "0", shape=SHAPE, shards=(4, 6, 5), chunks=(2, 6, 5), dtype="i2", overwrite=True
    )[:] = VOXELS


def _manifest(folder):
    rows = [{"case": f"c{n}", "CT": f"image{n}.nii", "label": None, "spacing": [2.5, 1, 1]} for n in range(3)]
    _place(folder, "json", ".json").write_text(json.dumps(rows))
    _place(folder, "cases", ".json").write_text(json.dumps({"cases": rows}, indent=1))
    lines = ["case,CT,label,spacing", *(f'c{n},image{n}.nii,,"2.5,1,1"' for n in range(3))]
    _place(folder, "csv", ".csv").write_text("\n".join(lines) + "\n")


def _dataset(folder):
    described = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        "numTraining": 2,
        "file_ending": ".nii",
    }
    entry = {"images": ["imagesTr/a_0000.nii"], "label": "labelsTr/a.nii"}
    for name, more in (("folders", {}), ("listed", {"dataset": {"a": entry, "b": entry}})):
        place = _place(folder, name, "")
        for part in ("imagesTr", "labelsTr"):
            (place / part).mkdir(parents=True)
        (place / "imagesTr" / "a_0000.nii").touch()
        (place / "labelsTr" / "a.nii").touch()
        (place / "dataset.json").write_text(json.dumps(described | more))


def _beside(folder):
    place = _place(folder, "npy", "")
    place.mkdir()
    np.save(place / "a.npy", VOXELS)
    (place / "a.json").write_text(json.dumps({"spacing": [2.5, 0.8, 0.7]}))


_MAKERS = {
    "nifti": _nifti,
    "metaimage": _metaimage,
    "nrrd": _nrrd,
    "segments": _segments,
    "npy": _npy,
    "dicom": _dicom,
    "tiff": _tiff,
    "stack": _stack,
    "ome_zarr": _ome_zarr,
    "manifest": _manifest,
    "dataset": _dataset,
    "beside": _beside,
}
KINDS = tuple(_MAKERS)
