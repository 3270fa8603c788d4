"""Small valid sources of every format, for `fuzz.py` to damage.

In: a folder. Out: paths of sources in folders of their own, the same bytes each time. Every name holds
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
from nibabel import Nifti1Image, Nifti2Image
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless
from readers_support import enhanced, save_ome_zarr, save_series, series

SHAPE = (4, 6, 5)
VOXELS = np.random.default_rng(0).integers(0, 200, SHAPE).astype("i2")


def make(kind, folder):
    """The sources of one kind, each in a folder of its own, sorted by name."""
    if not folder.exists():
        folder.mkdir(parents=True)
        _MAKERS[kind](folder)
    cases = sorted(folder.iterdir())
    return [next(p for p in case.iterdir() if "source" in p.name and p.suffix != ".raw") for case in cases]


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


def _ome_zarr(folder):
    save_ome_zarr(_place(folder, "v5", ".ome.zarr"), VOXELS, (2.5, 0.8, 0.7), (2, 4, 5))
    path = _place(folder, "v4", ".ome.zarr")
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", shape=SHAPE, chunks=(2, 6, 5), dtype="i2")[:] = VOXELS
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    steps = [{"type": "scale", "scale": [2.5, 0.8, 0.7]}]
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
    "npy": _npy,
    "dicom": _dicom,
    "tiff": _tiff,
    "ome_zarr": _ome_zarr,
    "manifest": _manifest,
    "dataset": _dataset,
    "beside": _beside,
}
KINDS = tuple(_MAKERS)
