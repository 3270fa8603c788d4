"""What a hostile or careless source can do: nothing outside of its folder, nothing runs, nothing listens."""

import json
import os
import pickle
import subprocess
import time

import datasets
import nibabel
import numpy as np
import psutil
import pytest
import runs
import SimpleITK as sitk  # noqa: N813
import tifffile
from commands import ENVIRONMENT, SCRIPT, alone
from readers_support import save_ome_zarr

from voxelmill.basics.errors import FormatError, SourceError, SpacingError
from voxelmill.inputs.readers.formats import data_files, open_volume
from voxelmill.inputs.sources.discover import discover
from voxelmill.storage import zarr_stores
from voxelmill.storage.partial_files import remove, sweep

VOXELS = np.arange(1, 61, dtype="i2").reshape(3, 4, 5)


class Bomb:
    """A pickle that leaves a mark where it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    for path in (tmp_path / "secret.nii", folder / "a.nii"):
        datasets.write_nifti(path, VOXELS, datasets.Grid())
    return folder


class TestPaths:
    @pytest.mark.parametrize("stated", ["../secret.nii", "sub/../../secret.nii", "{root}/secret.nii"])
    @pytest.mark.parametrize("column", ["CT", "label"])
    def test_a_manifest_may_not_lead_out(self, source, tmp_path, stated, column):
        stated = stated.format(root=tmp_path)
        row = {"case": "a", "CT": "a.nii", "label": "a.nii"} | {column: stated}
        datasets.write_rows(source / "m.csv", [row])
        with pytest.raises(
            SourceError, match=f"row 1: the path in column '{column}' leads out.*outside=true"
        ) as e:
            discover(source / "m.csv")
        assert "secret" not in str(e.value)
        with pytest.raises(SourceError, match="leads out"):
            runs.process(source / "m.csv", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert discover(source / "m.csv", outside=True).cases

    def test_the_command_refuses_with_2_and_goes_on_where_it_is_meant(self, source, tmp_path):
        datasets.write_rows(source / "m.csv", [{"case": "a", "CT": "../secret.nii"}])
        words = "ingest", source / "m.csv", tmp_path / "out"
        refused = alone(*words)
        assert refused.returncode == 2
        assert "ingest.outside=true" in refused.stderr
        assert alone(*words, "--set", "ingest.outside=true").returncode == 0

    def test_absolute_paths_within_and_links_are_followed(self, source, tmp_path):
        """Whoever made the folder made its links."""
        (source / "link.nii").symlink_to(tmp_path / "secret.nii")
        (tmp_path / "other").symlink_to(source)
        rows = [{"case": str(n), "CT": p} for n, p in enumerate((source / "a.nii", "link.nii"))]
        datasets.write_rows(source / "m.csv", rows)
        for at in (source, tmp_path / "other"):
            assert all(case.channels[0].exists() for case in discover(at / "m.csv").cases)

    def test_a_dataset_json_may_not_lead_out_but_by_a_variable(self, source, tmp_path, monkeypatch):
        monkeypatch.setenv("IMAGES", str(tmp_path))
        for image, is_free in (
            ("$IMAGES/secret.nii", True),
            ("../secret.nii", False),
            (str(tmp_path / "x"), False),
        ):
            described = {
                "channel_names": {"0": "CT"},
                "labels": {"background": 0},
                "dataset": {"a": {"images": [image], "label": "a.nii"}},
            }
            (source / "dataset.json").write_text(json.dumps(described))
            if is_free:
                assert discover(source).cases[0].channels[0].exists()
                continue
            with pytest.raises(SourceError, match=r"a path of case 'a' leads out.*ingest.outside=true"):
                discover(source)
            assert discover(source, outside=True).cases

    @pytest.mark.parametrize("ending", ["mhd", "nhdr"])
    @pytest.mark.parametrize("stated", ["../secret.raw", "{root}/secret.raw"])
    def test_a_header_may_not_name_data_elsewhere(self, source, tmp_path, ending, stated):
        (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
        sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(source / f"b.{ending}"))
        header = source / f"b.{ending}"
        assert open_volume(header)
        assert data_files(header) == (source / "b.raw",)
        header.write_text(header.read_text().replace("b.raw", stated.format(root=tmp_path)))
        with pytest.raises(FormatError, match="names a data file outside of its folder") as e:
            open_volume(header)
        assert "secret" not in str(e.value)
        assert data_files(header) == ()

    def test_an_ome_zarr_may_not_lead_out(self, source):
        save_ome_zarr(source / "one.ome.zarr", VOXELS)
        save_ome_zarr(source / "two.ome.zarr", VOXELS)
        file = source / "two.ome.zarr" / "zarr.json"
        file.write_text(file.read_text().replace('"path": "0"', '"path": "../one.ome.zarr/0"'))
        with pytest.raises(FormatError):
            open_volume(source / "two.ome.zarr")


class TestLinksInOut:
    @pytest.fixture
    def precious(self, tmp_path):
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious" / "zarr.json").write_text("{}")
        return tmp_path / "precious"

    def test_of_a_link_only_the_link_is_removed(self, tmp_path, precious):
        link = tmp_path / f"x.{'0' * 32}.trash"
        for remove_it in (remove, lambda _: sweep(tmp_path, frozenset())):
            link.symlink_to(precious)
            remove_it(link)
            assert not os.path.lexists(link)
        (tmp_path / "raw.zarr").mkdir()
        (tmp_path / "raw.zarr" / "a").symlink_to(precious)
        zarr_stores.remove_group(tmp_path / "raw.zarr", "a")
        assert list((tmp_path / "raw.zarr").iterdir()) == []
        assert (precious / "zarr.json").read_text() == "{}"

    def test_out_and_its_stores_may_be_links(self, source, tmp_path, precious):
        """A case that is a link to something else is made anew; what it led to stays."""
        for name in ("out", "raw.zarr", "training.zarr"):
            (tmp_path / f"real_{name}").mkdir()
        (tmp_path / "out").symlink_to(tmp_path / "real_out")
        for name in ("raw.zarr", "training.zarr"):
            (tmp_path / "out" / name).symlink_to(tmp_path / f"real_{name}")
        (tmp_path / "real_raw.zarr" / "a").symlink_to(precious)
        assert not runs.process(source, tmp_path / "out").failed
        assert not runs.process(source, tmp_path / "out", restart=True, order=1).failed
        assert [p.name for p in precious.iterdir()] == ["zarr.json"]
        assert (tmp_path / "real_training.zarr" / "fullres" / "a" / "image").is_dir()


class TestNothingRuns:
    def test_pickles(self, tmp_path):
        """.npy with objects, a Zarr array with the codec `pickle`, an extension of a NIfTI header."""
        bomb, raw = pickle.dumps(Bomb(tmp_path / "mark")), tmp_path / "raw"
        raw.mkdir()
        np.save(raw / "npy.npy", np.array([[[Bomb(tmp_path / "mark")]]], object))
        (raw / "npy.json").write_text('{"spacing": [1, 1, 1]}')
        image = nibabel.Nifti1Image(VOXELS.T, np.eye(4))
        for code in (0, 4, 6, 38):
            image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, bomb))
        nibabel.save(image, raw / "nifti.nii")
        for name, dtype in (("numbers", "<i2"), ("objects", "|O")):
            self.save_zarr(raw / f"{name}.ome.zarr", dtype, bomb)
        report = runs.process(raw, tmp_path / "out", channels=["zscore"])
        assert {c.case: c.status for c in report.cases} == {
            "npy": "failed", "nifti": "done", "numbers": "failed", "objects": "failed",
        }  # fmt: skip
        assert not (tmp_path / "mark").exists()

    @staticmethod
    def save_zarr(path, dtype, chunk):
        (path / "0").mkdir(parents=True)
        scale = [{"type": "scale", "scale": [1, 1, 1]}]
        axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
        image = {
            "version": "0.4",
            "axes": axes,
            "datasets": [{"path": "0", "coordinateTransformations": scale}],
        }
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
        array = {
            "shape": [3, 4, 5], "chunks": [3, 4, 5], "dtype": dtype, "fill_value": 0, "order": "C",
            "filters": [{"id": "pickle", "protocol": 5}], "compressor": None, "zarr_format": 2,
        }  # fmt: skip
        (path / "0" / ".zarray").write_text(json.dumps(array))
        (path / "0" / "0.0.0").write_bytes(chunk)

    def test_entities_of_entities(self, tmp_path):
        """The "billion laughs" in OME metadata, 10^9 words of a kilobyte, come to an end."""
        entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
        text = (
            f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY l0 "lol">{entities}]>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image>&l9;</Image></OME>'
        )
        tifffile.imwrite(
            tmp_path / "a.ome.tif", VOXELS, description=text, metadata=None, photometric="minisblack"
        )
        with pytest.raises((FormatError, SpacingError)):
            open_volume(tmp_path / "a.ome.tif")


@pytest.mark.slow
def test_a_local_run_listens_on_this_machine_alone(tmp_path):
    made = datasets.nnunet(tmp_path / "raw", cases=[f"c{n}" for n in range(12)], shape=(24, 96, 96))
    words = [SCRIPT, "run", str(made.source), str(tmp_path / "out"), "--workers", "2"]
    seen, processes = set(), set()
    with subprocess.Popen(
        words, env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as run:
        while run.poll() is None:
            family = [psutil.Process(run.pid)]
            try:
                family += family[0].children(recursive=True)
                for process in family:
                    found = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
                    seen |= {c.laddr.ip for c in found}
                    processes |= {process.pid for _ in found}
            except psutil.Error:
                pass
            time.sleep(0.1)
    assert run.returncode == 0
    assert seen == {"127.0.0.1"}
    assert len(processes) >= 3
