"""Memory: what a worker takes in each stage stays below what was planned, and the plan is no idle guess."""

import json
import re
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from readers_support import enhanced, save_ome_zarr, save_series, series
from runs import execute
from segments import seg

from voxelmill.config.load_settings import make_config
from voxelmill.runs.job import Job
from voxelmill.runtime.cluster.connection import connect
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine

SHAPE = (56, 1400, 1600)
"""240 MiB of int16, 480 MiB of float32; 4 MiB of int16 a slice."""

LIMITS = [None, "300MiB"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def worker():
    """One worker process, as a local cluster starts it."""
    with connect("local", 1) as client:
        yield client


@pytest.fixture(scope="module")
def voxels():
    """Noise that compresses and decompresses quickly, and a margin of zeros."""
    tile = np.random.default_rng(0).normal(1000, 300, (SHAPE[0], 100, 100)).astype("i2")
    whole = np.tile(tile, (1, 14, 16))
    whole[:, :40], whole[:, :, -30:] = 0, 0
    whole[20:24, 700:720] = 0
    return whole


@pytest.fixture(scope="module")
def labels():
    blocks = np.random.default_rng(1).integers(0, 4, (14, 70, 80)).astype("u1")
    return np.kron(blocks, np.ones((4, 20, 20), "u1"))


def save(name):
    def by_itk(folder, array):
        image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
        writer = sitk.ImageFileWriter()
        writer.SetFileName(str(folder / name))
        writer.SetUseCompression(name.startswith("z"))
        writer.SetCompressionLevel(1)
        writer.Execute(image)

    return by_itk


def save_big_endian(folder, array):
    """A scaled NIfTI of the other byte order."""
    image = nibabel.Nifti1Image(array.T.astype(">i2"), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    image.header.set_slope_inter(0.5, -20)
    nibabel.save(image, folder / "big.nii")


def save_npy(folder, array):
    np.save(folder / "a.npy", array)
    (folder / "a.json").write_text('{"spacing": [1, 1, 1]}')


def save_tiff(**how):
    def by_tifffile(folder, array):
        tifffile.imwrite(
            folder / "a.tif", array, imagej=False, resolution=(10, 10), resolutionunit="CENTIMETER",
            metadata={"axes": "ZYX", "spacing": 1.0, "unit": "mm"}, photometric="minisblack", **how,
        )  # fmt: skip
        (folder / "a.json").write_text('{"spacing": [1, 1, 1]}')

    return by_tifffile


def save_stack(folder, array):
    (folder / "a").mkdir()
    for z, page in enumerate(array):
        tifffile.imwrite(folder / "a" / f"{z:03}.tif", page, compression="zlib")
    (folder / "a.json").write_text('{"spacing": [1, 1, 1]}')


def save_dicom(folder, array):
    save_series(folder / "a", list(series(array)))


def save_frames(folder, array):
    save_series(folder / "a", [enhanced(list(series(array)))])


def save_chunks(folder, array):
    """Chunks thicker than a slab within 300 MiB."""
    save_ome_zarr(folder / "a.ome.zarr", array)


def save_pair(folder, array):
    nibabel.save(nibabel.Nifti1Pair(array.T, np.eye(4)), folder / "a.hdr")


def save_pieces(folder, array):
    """A MetaImage with a compressed file for each slice."""
    save("a.mha")(folder, array[:1])
    head = (folder / "a.mha").read_bytes().partition(b"ElementDataFile")[0].decode()
    head = head.replace("CompressedData = False", "CompressedData = True")
    (folder / "a.mha").unlink()
    size = " ".join(map(str, array.shape[::-1]))
    head = re.sub("DimSize = .*", f"DimSize = {size}", head)
    (folder / "a.mhd").write_text(f"{head}ElementDataFile = %d.raw 0 {len(array) - 1} 1\n")
    for z, page in enumerate(array):
        (folder / f"{z}.raw").write_bytes(zlib.compress(page.tobytes(), 1))


WRITERS = {
    "nifti": save("a.nii"),
    "nifti, pair": save_pair,
    "metaimage, pieces, zlib": save_pieces,
    "nifti, gzip": save("z.nii.gz"),
    "nifti, big-endian, scaled": save_big_endian,
    "metaimage": save("a.mhd"),
    "metaimage, zlib": save("z.mha"),
    "nrrd": save("a.nrrd"),
    "nrrd, gzip": save("z.nrrd"),
    "npy": save_npy,
    "tiff": save_tiff(),
    "tiff, tiled, deflate": save_tiff(compression="zlib", tile=(256, 256), bigtiff=True),
    "tiff, stack": save_stack,
    "dicom": save_dicom,
    "dicom, frames": save_frames,
    "ome-zarr": save_chunks,
}


def run(folder, worker, limit, **settings):
    """All stages on one worker; planned and measured bytes of each."""
    config = make_config({"memory_limit": limit, "target_spacing": [1.5, 1.25, 1.25], **settings})
    job = Job(folder.parent / "out", config)
    report = execute(job, job.discover(folder), Engine(worker, Reporter()))
    assert report.failed == []
    planned = json.loads((job.out / "plan.json").read_text())["peak_bytes"]
    return planned, report.stage_peak_bytes


def check(planned, measured, limit):
    for stage, peak in measured.items():
        said = f"{stage}: planned {planned[stage] >> 20} MiB, measured {peak >> 20} MiB"
        assert planned[stage] / 2 <= peak <= planned[stage], said
        assert limit is None or planned[stage] <= 300 * 2**20, said


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", WRITERS)
def test_every_reader(tmp_path, worker, voxels, name, limit):
    (tmp_path / "in").mkdir()
    WRITERS[name](tmp_path / "in", voxels)
    check(*run(tmp_path / "in", worker, limit, channels=["CT" if "dicom" in name else "zscore"]), limit)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", ["nifti", "npy", "tiff", "ome-zarr"])
def test_images_read_in_place(tmp_path, worker, voxels, name, limit):
    (tmp_path / "in").mkdir()
    WRITERS[name](tmp_path / "in", voxels)
    check(*run(tmp_path / "in", worker, limit, channels=["zscore"], ingest={"copy": False}), limit)
    assert not list((tmp_path / "out").glob("raw.zarr/*/image"))


CASES = {
    "float": ("f4", {}),
    "double": ("f8", {}),
    "order 0": ("i2", {"order": 0}),
    "anti-aliased": ("i2", {"anti_alias": True, "target_spacing": [1.0, 4.0, 4.0]}),
    "separate axis": ("i2", {"target_spacing": [1.0, 0.3, 0.3], "store": {"shard_mib": 64}}),
    "mask": ("i2", {"labels": "linear", "outside_label": -1}),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", CASES)
def test_every_way_through(tmp_path, worker, voxels, labels, name, limit):
    dtype, settings = CASES[name]
    source = tmp_path / "in"
    source.mkdir()
    save("image.nii")(source, (voxels[:28] + (0.25 if dtype != "i2" else 0)).astype(dtype))
    save("zlabel.nii.gz")(source, labels[:28])
    (source / "cases.csv").write_text("case,CT,label\na,image.nii,zlabel.nii.gz\n")
    check(*run(source / "cases.csv", worker, limit, **settings), limit)


@pytest.mark.parametrize("limit", LIMITS)
def test_layers_of_segments(tmp_path, worker, voxels, labels, limit):
    """Three layers of a label, one beside the other."""
    source = tmp_path / "in"
    source.mkdir()
    save("image.nii")(source, voxels[:28])
    layers = np.stack([np.where(labels[:28] == value, labels[:28], 0) for value in (1, 2, 3)])
    fields = {"space": "LPS", "origin": "(0,0,0)"}
    directions = " ".join(["none", "(1,0,0)", "(0,1,0)", "(0,0,1)"])
    segments = [(f"s{n}", n, n + 1) for n in range(3)]
    seg(source / "a.seg.nrrd", layers, segments, encoding="raw", directions=directions, **fields)
    (source / "cases.csv").write_text("case,CT,label\na,image.nii,a.seg.nrrd\n")
    check(*run(source / "cases.csv", worker, limit), limit)


@pytest.mark.parametrize("limit", LIMITS)
def test_many_channels(tmp_path, worker, voxels, limit):
    """A diffusion series: 60 volumes in one file, more than one tree of statistics."""
    (tmp_path / "in").mkdir()
    series_of = np.stack([voxels[:8, 100:500, 100:500] + channel for channel in range(60)]).astype("f4")
    nibabel.save(nibabel.Nifti1Image(series_of.T, np.eye(4)), tmp_path / "in" / "dwi.nii")
    check(*run(tmp_path / "in", worker, limit), limit)
