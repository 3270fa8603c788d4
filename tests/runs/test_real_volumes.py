"""Whole runs on real volumes, against the reference on arrays that SimpleITK and nibabel read."""

import nibabel
import numpy as np
import pytest
import reference
import runs
import SimpleITK as sitk  # noqa: N813
import tifffile
from datasets import Grid, write_rows
from readers_support import DATA, save_ome_zarr, save_series, series

from voxelmill.stages.raw_store.raw_case import RawCase

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.exists(), reason="real volumes are absent"),
]
LUNG, BRAIN = (
    [f"pyradiomics/{name}_{part}.nrrd" for part in ("image", "label")] for name in ("lung1", "brain1")
)
MNI = [f"nilearn/mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz" for tissue in ("t1", "gm", "wm")]


def read(*channels, label=None):
    """A case as SimpleITK reads it, and its grid; 4-D files become channels."""
    images = [sitk.ReadImage(str(DATA / path)) for path in channels]
    first = images[0]
    arrays = [sitk.GetArrayFromImage(image).astype(np.float32) for image in images]
    image = arrays[0] if first.GetDimension() == 4 else np.stack(arrays)
    spacing, origin = first.GetSpacing()[:3], first.GetOrigin()[:3]
    size = first.GetDimension()
    direction = np.reshape(first.GetDirection(), (size, size))[:3, :3]
    grid = Grid(spacing, origin, tuple(direction.ravel()))
    labels = None if label is None else sitk.GetArrayFromImage(sitk.ReadImage(str(DATA / label)))
    return reference.ReferenceCase(image, labels, spacing[::-1]), grid


OUTSIDE = {"outside": True}  # manifests in a test's own folder name the data where they lie


def rows_to(folder, rows):
    """A manifest of paths below the data's folder."""
    path = folder / "cases.csv"
    absolute = [{k: v if k == "case" else str(DATA / v) for k, v in row.items()} for row in rows]
    write_rows(path, absolute)
    return path


def check(out, cases, channels, options=None, **settings):
    """Run on a manifest or a folder; `cases` maps an id to a case, its grid and its row."""
    options = options or {}
    source = rows_to(out.parent, [{"case": name, **row} for name, (_, _, row) in cases.items()])
    report = runs.process(source, out, ingest=OUTSIDE, **settings)
    assert not report.failed, report.failed
    expected, statistics = reference.run({n: case for n, (case, _, _) in cases.items()}, channels, **options)
    runs.compare(out, expected)
    runs.compare_statistics(out, statistics)
    shapes = {n: case.image.shape[1:] for n, (case, _, _) in cases.items()}
    runs.compare_geometry(out, {n: grid for n, (_, grid, _) in cases.items()}, shapes)
    return expected


def one(name, channel, *paths, label=None):
    """A case of one file for each channel name."""
    row = dict(zip(channel, paths, strict=True))
    return {name: (*read(*paths, label=label), row | ({} if label is None else {"label": label}))}


class TestCt:
    @pytest.mark.slow
    @pytest.mark.parametrize("preset", ["default", "nnunet"])
    def test_lung(self, tmp_path, preset):
        cases = one("lung1", ["CT"], LUNG[0], label=LUNG[1])
        options = {"labels": "linear", "outside_label": -1} if preset == "nnunet" else {}
        target = (3.0, 0.8, 0.75)
        check(
            tmp_path / "out",
            cases,
            ["CT"],
            options | {"target": target},
            preset=preset,
            target_spacing=target,
        )
        stated = runs.attributes(tmp_path / "out", "lung1")
        assert stated["source_spacing"] == [5.0, 0.5703125, 0.5703125]

    def test_lung_keeps_its_grid(self, tmp_path):
        """Its own spacing is the target: normalised, cropped and nothing else."""
        cases = one("lung1", ["CT"], LUNG[0], label=LUNG[1])
        check(tmp_path / "out", cases, ["CT"])
        label = runs.group(tmp_path / "out", "lung1")["label"][:]
        assert (label == 1).sum() == 837

    def test_dicom_series(self, tmp_path):
        folder = DATA / "pydicom" / "CT5N"
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        array = sitk.GetArrayFromImage(image).astype(np.float32)
        case = reference.ReferenceCase(array[None], None, image.GetSpacing()[::-1])
        for source in (folder, rows_to(tmp_path, [{"case": "CT5N", "CT": folder}])):
            out = tmp_path / f"of_{source.stem}"
            names = {"ids": "names"}
            runs.process(source, out, target_spacing=(2.0, 0.4, 0.6), ingest=OUTSIDE, dicom=names)
            runs.compare(out, reference.run({"CT5N": case}, ["CT"], target=(2.0, 0.4, 0.6))[0])
            assert runs.attributes(out, "CT5N")["channel_names"] == ["CT"]
            grid = Grid(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
            runs.compare_geometry(out, {"CT5N": grid}, {"CT5N": array.shape})


class TestMr:
    def test_left_handed_brain(self, tmp_path):
        """Its y axis points the other way; 6.5 mm slices are resampled apart."""
        cases = one("brain1", ["T1"], BRAIN[0], label=BRAIN[1])
        target = (4.0, 0.9, 0.85)
        check(tmp_path / "out", cases, ["T1"], {"target": target}, target_spacing=target)
        stated = runs.attributes(tmp_path / "out", "brain1")
        assert np.linalg.det(stated["direction"]) == pytest.approx(-1)
        assert runs.group(tmp_path / "out", "brain1")["label"].dtype == np.uint8

    def test_brain_and_lung_are_one_dataset(self, tmp_path):
        cases = one("lung1", ["MR"], LUNG[0], label=LUNG[1]) | one("brain1", ["MR"], BRAIN[0], label=BRAIN[1])
        runs.process(
            rows_to(tmp_path, [{"case": n, **row} for n, (_, _, row) in cases.items()]),
            tmp_path / "out",
            ingest=OUTSIDE,
        )
        found = runs.fingerprint(tmp_path / "out")
        wanted = reference.foreground_statistics([case for case, _, _ in cases.values()], 0)
        assert found["foreground_intensity_properties_per_channel"]["0"] == pytest.approx(wanted)

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["nearest", "linear"])
    def test_head_with_an_atlas_of_116_classes(self, tmp_path, method):
        cases = one("ch2", ["T1"], "mricron/ch2.nii.gz", label="mricron/aal.nii.gz")
        target = (2.1, 1.9, 1.7)
        options = {"labels": method, "outside_label": -1, "target": target}
        expected = check(
            tmp_path / "out", cases, ["T1"], options, labels=method, outside_label=-1, target_spacing=target
        )
        assert len(np.unique(expected["ch2"].label)) == 118
        assert runs.group(tmp_path / "out", "ch2")["label"].dtype == np.int8

    def test_head_keeps_its_grid(self, tmp_path):
        cases = one("ch2", ["T1"], "mricron/ch2.nii.gz", label="mricron/aal.nii.gz")
        check(tmp_path / "out", cases, ["T1"])

    @pytest.mark.slow
    def test_three_aligned_channels(self, tmp_path):
        names, target = ["t1", "gm", "wm"], (1.4, 1.1, 1.25)
        check(tmp_path / "out", one("mni", names, *MNI), names, {"target": target}, target_spacing=target)

    def test_three_aligned_channels_coarse(self, tmp_path):
        names, target = ["t1", "gm", "wm"], (4.0, 4.0, 4.0)
        check(
            tmp_path / "out",
            one("mni", names, *MNI),
            names,
            {"target": target, "order": 1},
            target_spacing=target,
            order=1,
        )


class TestNifti:
    @pytest.mark.parametrize(
        ("path", "target"),
        [
            ("nibabel/example4d.nii.gz", (3, 2.5, 1.8)),
            ("nibabel/anatomical.nii", (3.1, 2.2, 4.4)),
            ("nibabel/example_nifti2.nii.gz", (3, 3, 3)),
            ("dipy/small_64D.nii", (1.5, 2.5, 2)),
            ("dipy/aniso_vox.nii.gz", (3, 3, 3)),
        ],
    )
    @pytest.mark.parametrize("preset", ["default", "nnunet"])
    def test_alone(self, tmp_path, path, target, preset):
        """Big endian, NIfTI-2, 4-D: in a folder of their own, as nibabel reads them."""
        image = nibabel.load(DATA / path)
        array = np.asarray(image.dataobj).astype(np.float32)
        channels = array[..., None] if array.ndim == 3 else array
        zooms = tuple(float(z) for z in image.header.get_zooms()[:3])
        case = reference.ReferenceCase(channels.transpose(3, 2, 1, 0), None, zooms[::-1])
        name = path.split("/")[1].split(".")[0]
        report = runs.process(DATA / path, tmp_path / "out", preset=preset, target_spacing=target)
        assert [(c.case, c.status) for c in report.cases] == [(name, "done")]
        schemes = [str(i) for i in range(len(case.image))]
        runs.compare(tmp_path / "out", reference.run({name: case}, schemes, target=target)[0])
        self.check_world(tmp_path / "out", name, image)

    def check_world(self, out, name, image):
        """The written corners lie where nibabel's affine puts those of the crop box, in RAS millimetres."""
        stated = runs.attributes(out, name)
        shape = runs.group(out, name)["image"].shape[1:]
        step = np.array(stated["direction"]) * stated["spacing"]
        for corner in np.ndindex(2, 2, 2):
            inside = [n * c - 0.5 for n, c in zip(shape, corner, strict=True)]
            lps = (step @ inside + stated["origin"])[::-1]
            source = [bounds[c] - 0.5 for bounds, c in zip(stated["crop_box"], corner, strict=True)]
            ras = image.affine[:3, :3] @ source[::-1] + image.affine[:3, 3]
            np.testing.assert_allclose(lps * (-1, -1, 1), ras, atol=1e-3)

    def test_folder(self, tmp_path):
        (tmp_path / "raw").mkdir()
        for path in ("nibabel/anatomical.nii", "dipy/aniso_vox.nii.gz"):
            (tmp_path / "raw" / path.split("/")[1]).symlink_to(DATA / path)
        (tmp_path / "raw" / "notes.txt").write_text("not an image")
        report = runs.process(tmp_path / "raw", tmp_path / "out")
        assert [(c.case, c.status) for c in report.cases] == [("anatomical", "done"), ("aniso_vox", "done")]
        cases = {}
        for name, path in (("anatomical", "nibabel/anatomical.nii"), ("aniso_vox", "dipy/aniso_vox.nii.gz")):
            cases[name], _ = read(path)
        runs.compare(tmp_path / "out", reference.run(cases, ["0"])[0])


class TestFormats:
    """One volume in every format that can hold it ends as the same training set."""

    SPACING = (5.0, 0.5703125, 0.5703125)

    @staticmethod
    def save_all(folder, name, array):
        """The same voxels as each library writes them; returns the path in each format."""
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(TestFormats.SPACING[::-1])
        paths = {}
        for ending in ("nii", "nii.gz", "mha", "mhd", "nrrd", "nhdr"):
            paths[ending] = folder / f"{name}.{ending}"
            sitk.WriteImage(image, str(paths[ending]), ending in ("mha", "nrrd"))
        paths["npy"], paths["tif"] = folder / f"{name}.npy", folder / f"{name}.tif"
        np.save(paths["npy"], array)
        tifffile.imwrite(paths["tif"], array, compression="zlib", photometric="minisblack")
        paths["stack"] = folder / f"{name}_pages"
        paths["stack"].mkdir()
        for z, page in enumerate(array):
            tifffile.imwrite(paths["stack"] / f"{z:03}.tif", page)
        paths["ome.zarr"] = folder / f"{name}.ome.zarr"
        save_ome_zarr(paths["ome.zarr"], array, TestFormats.SPACING)
        return paths

    @pytest.mark.slow
    def test_lung_in_every_format(self, tmp_path):
        image, label = (sitk.GetArrayFromImage(sitk.ReadImage(str(DATA / path))) for path in LUNG)
        images, labels = self.save_all(tmp_path, "image", image), self.save_all(tmp_path, "label", label)
        images["dicom"], labels["dicom"] = tmp_path / "series", tmp_path / "beside.nrrd"
        beside = sitk.ReadImage(str(labels["nrrd"]))
        beside.SetOrigin((-10, 20, -30))  # of `series`
        sitk.WriteImage(beside, str(labels["dicom"]))
        tags = {"PixelSpacing": list(self.SPACING[1:])}
        save_series(images["dicom"], list(series((image + 1024).astype("i2"), step=self.SPACING[0], **tags)))
        spacing = ",".join(str(s) for s in self.SPACING)
        header = "case,CT,label,spacing"
        found = {}
        for name, path in images.items():
            (tmp_path / "cases.csv").write_text(f'{header}\nlung,{path},{labels[name]},"{spacing}"\n')
            for copy in (True, False):
                out = tmp_path / f"{name}-{copy}"
                report = runs.process(
                    tmp_path / "cases.csv",
                    out,
                    target_spacing=(3.0, 0.8, 0.75),
                    ingest=OUTSIDE | {"copy": copy},
                )
                assert report.failed == [], name
                group = runs.group(out, "lung")
                found[out.name] = {key: group[key][:] for key in ("image", "label")}
        first = found["nrrd-True"]
        assert {k for k, v in found.items() if not np.array_equal(v["image"], first["image"])} == set()
        assert {k for k, v in found.items() if not np.array_equal(v["label"], first["label"])} == set()
        reference_case, _ = read(LUNG[0], label=LUNG[1])
        expected, _ = reference.run({"lung": reference_case}, ["CT"], target=(3.0, 0.8, 0.75))
        np.testing.assert_array_equal(first["label"], expected["lung"].label)
        assert np.abs(first["image"][0] - expected["lung"].image[0]).max() <= 1e-5 * np.ptp(
            expected["lung"].image[0]
        )


class TestMicroscopy:
    """A confocal stack with 51 labelled nuclei, which states no spacing along z."""

    ROW = {"channel": "stardist/img3d.tif", "label": "stardist/mask3d.tif"}

    @pytest.mark.slow
    @pytest.mark.parametrize("limit", [None, "300MiB"])
    def test_nuclei(self, tmp_path, limit):
        row = {name: str(DATA / path) for name, path in self.ROW.items()}
        write_rows(tmp_path / "cases.csv", [{"case": "a", **row, "spacing": "0.001,0.0005,0.0005"}])
        out, target = tmp_path / "out", (0.0008, 0.0006, 0.0006)
        settings = {"target_spacing": target, "memory_limit": limit, "ingest": OUTSIDE}
        report = runs.process(tmp_path / "cases.csv", out, **settings)
        assert report.failed == []
        image, mask = (tifffile.imread(DATA / path) for path in self.ROW.values())
        case = reference.ReferenceCase(image[None].astype("f4"), mask, (0.001, 0.0005, 0.0005))
        expected, _ = reference.run({"a": case}, ["channel"], target=target)
        runs.compare(out, expected)
        record = RawCase(out, "a").record.label
        assert not record.is_instances
        assert sum(value > 0 for value in record.counts) == 51
        locations = RawCase(out, "a").locations()
        assert np.array_equal(mask[tuple(locations[:, 1:].T)], locations[:, 0])
        assert np.array_equal(np.unique(locations[:, 0]), np.unique(mask)[1:])
