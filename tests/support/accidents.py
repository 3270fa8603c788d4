"""Broken files as they occur in practice: one function per accident writes a case and returns its row.

Each accident names the issue or forum thread that reported it, and a pattern for the expected error message.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813
import tifffile
from nibabel.nifti1 import Nifti1Header
from readers_support import save_ome_zarr, save_series, series

RNG = np.random.default_rng(2026)
SHAPE = (9, 12, 11)
GRID = datasets.Grid((0.6, 0.7, 2.5), (-10.0, 20.0, -30.0))
IMAGE = datasets.blobs(RNG, SHAPE, 100, 900).round().astype("i2")
LABEL = datasets.classes(RNG, SHAPE, 2)


@dataclass(frozen=True)
class Accident:
    """A kind of broken case: name, thread that reported it, pattern of its cause, function that writes it."""

    name: str
    thread: str
    cause: str
    build: Callable[[Path], dict[str, str]]


ACCIDENTS: list[Accident] = []


def accident(thread: str, cause: str):
    """Register the decorated function as the writer of a case; `cause` is a pattern for its error message."""

    def add(build):
        ACCIDENTS.append(Accident(build.__name__, thread, cause, build))
        return build

    return add


def nifti(path, stored=IMAGE, grid=GRID, **fields):
    """Write a NIfTI file and return its name; `fields` are written into the header without any check."""
    datasets.write_nifti(path, stored, grid)
    content = path.read_bytes()
    header = Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + content[348:])
    return path.name


def dicom(folder, change=lambda pieces: None, voxels=IMAGE, **tags):
    """Write a CT series and return its folder's name; `change` edits the list of slices first."""
    pieces = list(series(voxels, **tags))
    change(pieces)
    return save_series(folder, pieces).name


def with_label(folder, label, grid=GRID):
    """Write a good image with a bad label."""
    datasets.write_nifti(folder / f"{folder.name}_label.nii", label, grid)
    return {"T1": nifti(folder / f"{folder.name}.nii"), "label": f"{folder.name}_label.nii"}


def cut(path, count):
    """Remove the last `count` bytes of a file."""
    path.write_bytes(path.read_bytes()[:-count])


def moved(piece, axis, by):
    """Move one slice by some millimetres along a patient axis."""
    piece.ImagePositionPatient[axis] = float(piece.ImagePositionPatient[axis]) + by


# DICOM


@accident("rse-grand-challenge#1301", r"2\.5 mm apart, but 5 mm between .*1 missing\?.*repair\.irregular")
def a_slice_was_lost_on_the_way(folder):
    return {"T1": dicom(folder / "ct", lambda pieces: pieces.pop(4))}


@accident("rse-panimg#7", r"2\.5 mm apart, but [\d.]+ mm between the slice at .*repair\.irregular")
def slices_are_unevenly_spaced(folder):
    return {"T1": dicom(folder / "ct", lambda pieces: moved(pieces[8], 2, 0.9))}


@accident("dcm2niix#894", r"lie at one position, between .*InstanceNumber .*repair\.duplicates")
def a_slice_is_there_twice(folder):
    def repeat(pieces):
        pieces.append(copy.deepcopy(pieces[3]))
        pieces[-1].InstanceNumber = 77

    return {"T1": dicom(folder / "ct", repeat)}


@accident("dicom2nifti#19", r"holds 2 series, one is needed: 1: .*12x11.*2: .*dicom\.series")
def two_series_share_a_folder(folder):
    save_series(folder / "ct", list(series(IMAGE[:5], SeriesNumber=2)))
    return {"T1": dicom(folder / "ct")}


@accident("Slicer#1007", r"holds 2 series")
def orientations_are_mixed(folder):
    def turn(pieces):
        for piece in pieces[5:]:
            piece.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    return {"T1": dicom(folder / "ct", turn)}


@accident("dcmstack#55", r"PixelSpacing is \(0\.7, 0\.6\) mm in the slice at .*, but \(0\.7, 0\.65\) mm")
def pixel_spacings_are_mixed(folder):
    return {"T1": dicom(folder / "ct", lambda pieces: setattr(pieces[2], "PixelSpacing", [0.7, 0.65]))}


@accident("dicom2nifti#60", r"no DICOM image but localisers")
def nothing_but_localisers(folder):
    return {"T1": dicom(folder / "ct", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])}


@accident("TotalSegmentator#610", r"gantry tilt of 12\.0 degrees: the slice at .*repair\.shear")
def the_gantry_was_tilted(folder):
    def tilt(pieces):
        for n, piece in enumerate(pieces):
            moved(piece, 1, round(n * 2.5 * np.tan(np.radians(12)), 6))

    return {"T1": dicom(folder / "ct", tilt)}


@accident("dcm2niix#786", r"beside|sideways")
def one_slice_jumps_sideways(folder):
    return {"T1": dicom(folder / "ct", lambda pieces: moved(pieces[4], 1, 5.0))}


@accident("pyvoxel#34", r"state no position or orientation")
def positions_are_missing(folder):
    return {"T1": dicom(folder / "ct", ImagePositionPatient=None)}


@accident("dicom2stl#68", r"one slice and states neither SpacingBetweenSlices nor SliceThickness")
def a_single_slice_without_thickness(folder):
    return {"T1": dicom(folder / "ct", voxels=IMAGE[4:5])}


@accident("SimpleITK#2117", r"no PixelSpacing")
def pixel_spacing_is_missing(folder):
    return {"T1": dicom(folder / "ct", PixelSpacing=None)}


@accident("dcm2niix#404", r"are RGB; MONOCHROME is read")
def a_screenshot_in_colours(folder):
    return {"T1": dicom(folder / "ct", PhotometricInterpretation="RGB", SamplesPerPixel=3)}


@accident("MONAI#8468", r"multi-frame")
def a_multi_frame_file_without_positions(folder):
    return {"T1": dicom(folder / "ct", NumberOfFrames=9)}


@accident("nnUNet#2513", r"the slice at -20\.00 mm .* (does not decode|holds|bytes)")
def a_transfer_was_cut_off(folder):
    name = dicom(folder / "ct")
    cut(folder / "ct" / "IM0004", 60)
    return {"T1": name}


@accident("cornerstone3D#227", r"bytes")
def a_header_asks_for_more_pixels_than_the_file_has(folder):
    return {"T1": dicom(folder / "ct", Rows=60000, Columns=60000)}


@accident("dicom2nifti#23", r"header that cannot be read")
def a_text_that_is_called_dcm(folder):
    name = dicom(folder / "ct")
    (folder / "ct" / "IM9.dcm").write_text("Not found")
    return {"T1": name}


# NIfTI


@accident("nnUNet#2526", r"sform is right-handed, qform left-handed.*repair\.affine")
def sform_and_qform_disagree(folder):
    path = folder / "a.nii"
    image = nibabel.Nifti1Image(IMAGE.T, GRID.ras_affine())
    image.set_qform(GRID.ras_affine() * [-1, 1, 1, 1], 1)
    image.set_sform(GRID.ras_affine(), 2)
    nibabel.save(image, path)
    return {"T1": path.name}


@accident("ITK#1391", r"spacing \(0\.0, 0\.69\d*, 0\.6\d*\) mm \(z, y, x\).*positive")
def spacing_is_zero(folder):
    return {"T1": nifti(folder / "a.nii", pixdim=[1, 0.6, 0.7, 0, 0, 0, 0, 0])}


@accident("SimpleITK#2292", r"-2\.5.*repair\.pixdim")
def spacing_is_negative(folder):
    return {"T1": nifti(folder / "a.nii", pixdim=[1, 0.6, 0.7, -2.5, 0, 0, 0, 0])}


@accident("ITK#1607", r"direction .* is singular")
def two_axes_are_the_same(folder):
    return {"T1": nifti(folder / "a.nii", srow_x=[-0.6, -0.7, 0, 0], srow_y=[0, 0, 0, 0])}


@accident("dcm2niix#253", r"tilt|right angles|shear.*repair\.shear")
def an_sform_is_sheared(folder):
    matrix = GRID.ras_affine()
    return {"T1": nifti(folder / "a.nii", srow_y=[*matrix[1, :2], 0.6, matrix[1, 3]], pixdim=_sheared())}


def _sheared():
    return [1, 0.6, 0.7, float(np.hypot(2.5, 0.6)), 0, 0, 0, 0]


@accident("nnUNet#2094", r"quaternion that is no rotation")
def a_quaternion_is_no_rotation(folder):
    return {"T1": nifti(folder / "a.nii", sform_code=0, qform_code=1, quatern_b=0.9, quatern_c=0.9)}


@accident("nnUNet#1512", r"damaged or end early|does not decompress as \.gz")
def a_gz_was_cut_off(folder):
    datasets.write_image(folder / "a.nii.gz", IMAGE, GRID)
    cut(folder / "a.nii.gz", 300)
    return {"T1": "a.nii.gz"}


@accident("nnUNet#2729", r"does not decompress as \.gz|not start with a NIfTI")
def a_gz_that_is_not_compressed(folder):
    nifti(folder / "a.nii")
    (folder / "a.nii").rename(folder / "a.nii.gz")
    return {"T1": "a.nii.gz"}


@accident("bioformats#3535", r"states no spacing in a known unit of length along z, y, x.*<case>\.json")
def an_imagej_tiff_has_dots_an_inch(folder):
    facts = {"axes": "ZYX", "spacing": 1.0}
    tifffile.imwrite(folder / "a.tif", IMAGE.astype("u2"), imagej=True, resolution=(72, 72), metadata=facts)
    return {"T1": "a.tif"}


def stack(folder, name, places):
    """Write one TIFF file per slice, named by counters, and state a spacing in the manifest."""
    (folder / "a").mkdir()
    for place in places:
        tifffile.imwrite(folder / "a" / name.format(**place), IMAGE[place["z"]])
    return {"T1": "a", "spacing": "2.5,0.7,0.6"}


@accident("tiled#555", r"slices of the TIFF stack are numbered 0 to 8 in steps of 1, but 4 is missing.*=fill")
def a_slice_of_a_tiff_stack_was_lost(folder):
    return stack(folder, "img_z{z:03}.tif", [{"z": z} for z in range(9) if z != 4])


@accident("napari-ome-zarr#21", r"names of the TIFF stack count 2 time points \(t 0 to 1\)")
def two_time_points_share_a_folder(folder):
    return stack(folder, "_t{t:02}_z{z:02}.tif", [{"t": t, "z": z} for t in range(2) for z in range(4)])


@accident("waveorder#48", r"channel 1 of the TIFF stack lacks slice 0 and 2 more")
def a_channel_has_one_slice(folder):
    places = [{"c": 0, "z": z} for z in range(4)] + [{"c": 1, "z": 2}]
    return stack(folder, "img_z{z:02}_ch{c:02}.tif", places)


@accident("EuBI-Bridge#32", r"TIFF files of 2 stems, 4 and 4 of the first two")
def two_tiff_stacks_share_a_folder(folder):
    return stack(folder, "{s}_{z}.tif", [{"s": s, "z": z} for s in ("dapi", "gfp") for z in range(4)])


@accident("nnUNet#2585", r"asks for \d+ bytes of voxels, the file holds \d+")
def a_copy_filled_the_disk(folder):
    path = folder / "a.nii"
    name = nifti(path)
    cut(path, 777)
    return {"T1": name}


@accident("nnUNet#2585", r"not start with a NIfTI-1 or NIfTI-2 header")
def a_download_is_an_error_page(folder):
    (folder / "a.nii").write_text("<html>403 Forbidden</html>" * 40)
    return {"T1": "a.nii"}


@accident("nnUNet#896", r"bytes")
def a_header_asks_for_a_terabyte(folder):
    return {"T1": nifti(folder / "a.nii", dim=[3, 30000, 30000, 1000, 1, 1, 1, 1])}


@accident("dcm2niix#404", r"type .*integers and floats")
def colours_in_nifti(folder):
    return {"T1": nifti(folder / "a.nii", datatype=128, bitpix=24)}


@accident("MONAI#8468", r"either channels or time points.*Split")
def time_points_of_channels(folder):
    return {"T1": nifti(folder / "a.nii", dim=[5, 11, 12, 3, 3, 3, 1, 1])}


@accident("nibabel#673", r"the file holds voxels alone \(\.img\), and their header .* is missing")
def voxels_came_without_their_header(folder):
    (folder / "a.img").write_bytes(IMAGE.tobytes())
    return {"T1": "a.img"}


@accident("nnUNet#2513", r"the header's file of voxels \(\.img\) is missing beside it")
def a_header_came_without_its_voxels(folder):
    nibabel.save(nibabel.Nifti1Pair(IMAGE.T, GRID.ras_affine()), folder / "a.hdr")
    (folder / "a.img").unlink()
    return {"T1": "a.hdr"}


@accident("medpy#101", r"is a header of ENVI; those of NIfTI and Analyze are read")
def a_header_of_another_program(folder):
    (folder / "a.hdr").write_text("ENVI\nsamples = 11\nlines = 12\nbands = 9\n")
    (folder / "a.img").write_bytes(IMAGE.tobytes())
    return {"T1": "a.hdr"}


# Grids


@accident("nnUNet#2551", r"the label has \(8, 12, 11\) voxels \(z, y, x\), channel 0 has \(9, 12, 11\)")
def a_label_lacks_a_slice(folder):
    return with_label(folder, LABEL[1:])


@accident("nnUNet#1287", r"the label lies 3\.3\d voxels away .*repair\.grids")
def a_label_lies_elsewhere(folder):
    return with_label(folder, LABEL, datasets.Grid(GRID.spacing, (-8.0, 20.0, -30.0)))


@accident("nnUNet#2526", r"channel 1 \(T1\) lies [\d.]+ voxels away")
def a_channel_is_flipped(folder):
    flipped = datasets.Grid(GRID.spacing, GRID.origin, (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    nifti(folder / "flipped.nii", grid=flipped)
    return {"T1": nifti(folder / "a.nii"), "T2": "flipped.nii"}


# Values


@accident("nnUNet#2094", r"1 voxels of slice 4 are NaN, infinite.*nonfinite=zero")
def a_voxel_is_nan(folder):
    image = IMAGE.astype("f4")
    image[4, 5, 6] = np.nan
    return {"T1": nifti(folder / "a.nii", image)}


@accident("nnUNet#2094", r"NaN, infinite or beyond float32")
def a_voxel_is_infinite(folder):
    image = IMAGE.astype("f4")
    image[4, 5, 6] = -np.inf
    return {"T1": nifti(folder / "a.nii", image)}


@accident("nnUNet#2729", r"every voxel of all 2 channels is zero")
def an_image_is_all_zero(folder):
    return {"T1": nifti(folder / "a.nii", np.zeros_like(IMAGE))}


@accident("nnUNet#1512", r"the label holds 0\.5 in 1 voxels of slice 2; whole numbers")
def a_label_was_interpolated(folder):
    label = LABEL.astype("f4")
    label[2, 3, 4] = 0.5
    return with_label(folder, label)


@accident("MONAILabel#565", r"the label: segments 'liver' and 'tumour' overlap in \d+ voxels of slice 2")
def segments_of_slicer_overlap(folder):
    layers = np.zeros((*SHAPE, 2), "u1")
    layers[:5, ..., 0], layers[2:, ..., 1] = 1, 2
    datasets.write_image(folder / "a.nrrd", IMAGE, GRID)
    image = sitk.GetImageFromArray(layers, isVector=True)
    image.CopyInformation(sitk.ReadImage(folder / "a.nrrd"))
    sitk.WriteImage(image, folder / "label.seg.nrrd", useCompression=False)
    head, end, data = (folder / "label.seg.nrrd").read_bytes().partition(b"\n\n")
    for n, name in enumerate((b"liver", b"tumour")):
        head += b"\nSegment%d_Name:=%b\nSegment%d_Layer:=%d\nSegment%d_LabelValue:=%d" % (
            n,
            name,
            n,
            n,
            n,
            n + 1,
        )
    (folder / "label.seg.nrrd").write_bytes(head + end + data)
    return {"T1": "a.nrrd", "label": "label.seg.nrrd"}


@accident("nnUNet#2713", r"the label has 2 channels")
def a_label_has_two_channels(folder):
    datasets.write_nifti(folder / "label.nii", np.concatenate([LABEL, LABEL]), GRID)
    path = folder / "label.nii"
    header = Nifti1Header(path.read_bytes()[:348], check=False)
    header["dim"] = [4, 11, 12, 9, 2, 1, 1, 1]
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    return {"T1": nifti(folder / "a.nii"), "label": "label.nii"}


@accident("nnUNet#2513", r"channel 0 \(T2\) is missing: no such file")
def an_image_is_not_there(folder):
    return {"T1": "nowhere.nii"}


@accident("nnUNet#2513", r"the label is missing: no such file")
def a_label_is_not_there(folder):
    return {"T1": nifti(folder / "a.nii"), "label": "nowhere.nii"}


# Other formats


@accident("MONAI#6904", r"\.npy file .*Python objects")
def a_npy_holds_objects(folder):
    np.save(folder / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    return {"T1": "a.npy"}


@accident("nnUNet#355", r"states no spacing in a known unit of length along z, y, x.*<case>\.json")
def a_tiff_states_no_spacing(folder):
    tifffile.imwrite(folder / "a.tif", IMAGE)
    return {"T1": "a.tif"}


@accident("nnUNet#2585", r"asks for \d+ bytes of voxels, the file holds \d+|damaged or end early")
def a_nrrd_was_cut_off(folder):
    datasets.write_image(folder / "a.nrrd", IMAGE, GRID)
    cut(folder / "a.nrrd", 50)
    return {"T1": "a.nrrd"}


@accident("nnUNet#2513", r"file is missing")
def a_header_whose_data_file_was_renamed(folder):
    datasets.write_image(folder / "a.mhd", IMAGE, GRID)
    for data in (*folder.glob("*.zraw"), *folder.glob("*.raw")):
        data.rename(folder / "b.raw")
    return {"T1": "a.mhd"}


@accident("MetaIO#141", r"data file 5 of 9: the file is missing")
def a_file_of_many_was_lost(folder):
    datasets.write_image(folder / "a.mha", IMAGE, GRID)
    head = (folder / "a.mha").read_text("latin-1").partition("ElementDataFile")[0]
    head = head.replace("CompressedData = True", "CompressedData = False")
    (folder / "a.mhd").write_text(head + "ElementDataFile = IM%d.raw 0 8 1\n")
    for z, plane in enumerate(IMAGE):
        (folder / f"IM{z}.raw").write_bytes(plane.tobytes())
    (folder / "IM4.raw").unlink()
    return {"T1": "a.mhd"}


@accident("zarr-python#3683", r"chunk of the OME-Zarr image does not decode|missing")
def a_chunk_is_damaged(folder):
    save_ome_zarr(folder / "a.ome.zarr", IMAGE, (2.5, 0.7, 0.6), chunk=(4, 12, 11))
    chunk = next(p for p in (folder / "a.ome.zarr").rglob("c/*/*/*") if p.is_file())
    cut(chunk, 9)
    return {"T1": "a.ome.zarr"}


def write(folder, chosen=None):
    """Write all accidents, or the chosen ones, and two good cases; return the manifest's path."""
    rows = []
    for name, build in [("good1", _good), ("good2", _good), *((a.name, a.build) for a in ACCIDENTS)]:
        if chosen is None or name in chosen or name.startswith("good"):
            place = folder / name
            place.mkdir(parents=True)
            row = {col: f"{name}/{word}" if col != "spacing" else word for col, word in build(place).items()}
            rows.append({"case": name, "T2": row["T1"], "label": "", "spacing": "", **row})
    datasets.write_rows(folder / "cases.csv", rows)
    return folder / "cases.csv"


def _good(folder):
    return with_label(folder, LABEL)
