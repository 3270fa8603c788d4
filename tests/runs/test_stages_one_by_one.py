"""Stages one by one: a case that goes no further is reported by each of them as by `run`."""

import json

import datasets
import numpy as np
import pytest
from commands import call, within
from datasets import Grid, manifest, stores
from pydantic import BaseModel
from readers_support import save_series, series

from voxelmill.basics.errors import SettingsChangedError, StoreError
from voxelmill.runs.report_json import CaseReport, Report
from voxelmill.stages.planning.plan_doubts import doubts
from voxelmill.stages.planning.plan_json import CasePlan, ConfigurationPlan, Plan

ALONE = "--cluster=none"
ODD = "has 2 channels, most cases have 1"


def images(folder, shapes):
    """Images of one channel, or of more where a shape has four numbers."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        datasets.write_image(folder / f"{name}.nrrd", rng.normal(size=shape).astype("f4"), Grid())
    return folder


def scan(folder, without=None, **tags):
    """A series of seven slices, or of six."""
    folder.mkdir(parents=True)
    voxels = np.random.default_rng(1).integers(900, 1200, (7, 12, 14)).astype("u2")
    pieces = [piece for z, piece in enumerate(series(voxels, **tags)) if z != without]
    return save_series(folder, pieces)


def rows(out):
    return {case.case: case.cause for case in Report.load(out).cases}


class TestAnOddCase:
    SHAPES = {"a": (6, 7, 8), "b": (6, 7, 8), "odd": (6, 7, 8, 2)}

    def test_every_stage_reports_it(self, tmp_path):
        source, out = images(tmp_path / "raw", self.SHAPES), tmp_path / "out"
        for words in (["ingest", source, out], ["fingerprint", out], ["plan", out], ["preprocess", out]):
            done = within(*words, ALONE)
            assert done.exit_code == 1, words[0]
            assert f"failed  odd: {ODD}" in done.stdout
            found = rows(out)
            assert ODD in found["odd"]
            assert [found["a"], found["b"]] == [None, None]
        report = Report.load(out)
        assert list(report.stages) == ["ingest", "fingerprint", "preprocess"]
        assert report.voxels > 0
        assert within("run", source, tmp_path / "one", ALONE).exit_code == 1
        assert rows(tmp_path / "one") == rows(out)
        assert stores(tmp_path / "one") == stores(out)

    def test_a_broken_file_stays_in_the_report(self, tmp_path):
        source, out = images(tmp_path / "raw", {"a": (6, 7, 8), "b": (6, 7, 8)}), tmp_path / "out"
        (source / "b.nrrd").write_bytes(b"no image")
        for words in (["ingest", source, out], ["fingerprint", out], ["plan", out], ["preprocess", out]):
            assert within(*words, ALONE).exit_code == 1, words[0]
            assert rows(out)["b"] is not None

    def test_shares_report_it(self, tmp_path):
        source, out = images(tmp_path / "raw", self.SHAPES), tmp_path / "out"
        for share in ("1/2", "2/2"):
            assert within("ingest", source, out, "--share", share, ALONE).exit_code == 0  # which sees its own
        assert within("fingerprint", out, ALONE).exit_code == 1
        assert within("plan", out).exit_code == 1
        for share in ("1/2", "2/2"):
            assert within("preprocess", out, "--share", share, ALONE).exit_code == 0
        found = rows(out)
        assert ODD in found["odd"]
        assert [found["a"], found["b"]] == [None, None]

    def test_a_case_that_was_mended_is_forgotten(self, tmp_path):
        source, out = images(tmp_path / "raw", self.SHAPES), tmp_path / "out"
        assert within("ingest", source, out, ALONE).exit_code == 1
        datasets.write_image(source / "odd.nrrd", np.ones((6, 7, 8), "f4"), Grid())
        assert within("ingest", source, out, "--restart", ALONE).exit_code == 0
        for words in (["fingerprint", out], ["plan", out], ["preprocess", out]):
            assert within(*words, ALONE).exit_code == 0
        assert set(rows(out).values()) == {None}


def test_a_plan_needs_a_fingerprint_of_all_cases(tmp_path):
    source, out = images(tmp_path / "raw", {"a": (6, 7, 8)}), tmp_path / "out"
    assert within("ingest", source, out, ALONE).exit_code == 0
    assert within("fingerprint", out, ALONE).exit_code == 0
    datasets.write_image(source / "b.nrrd", np.ones((6, 7, 8), "f4"), Grid())
    assert within("ingest", source, out, ALONE).exit_code == 0
    with pytest.raises(StoreError, match=r"1 cases of OUT's raw store are not in fingerprint\.json: b"):
        within("plan", out)


class TestRepairFromSource:
    """`verify --repair --source` reads SOURCE by the settings that it was ingested with."""

    def damage(self, out, case):
        (out / "raw.zarr" / case / "zarr.json").unlink()

    @pytest.mark.parametrize("stage", ["run", "ingest"])
    def test_paths_that_lead_out(self, tmp_path, stage):
        made, out = manifest(tmp_path / "raw", {"a": ((6, 7, 8), (1, 1, 1))}), tmp_path / "out"
        (tmp_path / "elsewhere").mkdir()
        source = tmp_path / "elsewhere" / "cases.csv"
        text = made.source.read_text().replace("a_", "../raw/a_")
        source.write_text(text)
        words = ("--set", "ingest.outside=true", ALONE)
        assert within(stage, source, out, *words).exit_code == 0
        before = stores(out)
        self.damage(out, "a")
        assert within("verify", out, "--repair", "--source", source, ALONE).exit_code == 0
        assert stores(out) == before

    def test_names_of_dicom_cases(self, tmp_path):
        source, out = tmp_path / "raw", tmp_path / "out"
        for name in ("one", "two"):
            scan(source / name)
        words = ("--set", "dicom.ids=names", ALONE)
        assert within("run", source, out, *words).exit_code == 0
        before = stores(out)
        self.damage(out, "two")
        assert within("verify", out, "--repair", "--source", source, ALONE).exit_code == 0
        assert stores(out) == before

    def test_the_secret_is_said_again(self, tmp_path):
        source, out = tmp_path / "raw", tmp_path / "out"
        scan(source / "one")
        salt = ("--set", 'dicom.salt="a secret of sixteen bytes"', ALONE)
        assert within("run", source, out, *salt).exit_code == 0
        before = stores(out)
        (case,) = (path.name for path in (out / "raw.zarr").iterdir() if path.is_dir())
        self.damage(out, case)
        with pytest.raises(SettingsChangedError, match="is not in SOURCE; ids of DICOM cases depend"):
            within("verify", out, "--repair", "--source", source, ALONE)
        assert within("verify", out, "--repair", "--source", source, *salt).exit_code == 0
        assert stores(out) == before

    def test_out_keeps_neither_secret_nor_path(self, tmp_path):
        source, out = tmp_path / "raw", tmp_path / "out"
        scan(source / "one")
        settings = ['dicom.salt="a secret of sixteen bytes"', f'dicom.mapping="{tmp_path}/m.csv"']
        words = [word for setting in settings for word in ("--set", setting)]
        assert within("run", source, out, *words, ALONE).exit_code == 0
        content = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
        assert b"a secret" not in content
        assert str(tmp_path).encode() not in content
        assert json.loads((out / "raw.zarr" / "zarr.json").read_text())["attributes"]["voxelmill"]["reading"]


@pytest.mark.parametrize("cluster", ["none", "local"])
def test_repairs_and_notes_are_in_the_log(tmp_path, cluster):
    scan(tmp_path / "raw" / "one", without=3, BurnedInAnnotation="YES")
    words = ("--set", "repair.irregular=fill", "--set", "dicom.ids=names", "--cluster", cluster)
    command = call if cluster == "local" else within
    command("ingest", tmp_path / "raw", tmp_path / "out", *words, "--workers=1")
    text = (tmp_path / "out" / "logs" / "voxelmill.log").read_text()
    assert "INFO case one: repaired by repair.irregular=fill: " in text
    assert "INFO case one: " in text.replace("case one: repaired", "")


def test_a_report_is_two_lines_and_has_few_names():
    cases = tuple(CaseReport(case=f"c{i}", status="failed" if i else "done") for i in range(8))
    report = Report(cases=cases, seconds=1.25, voxels=12345, peak_bytes=2**28, stages={}, stage_peak_bytes={})
    assert (
        repr(report)
        == str(report)
        == (
            "Report: 1 of 8 cases done; failed: c1, c2, c3, c4, c5 and 2 more\n"
            "1.2 s, 12,345 voxels written, 256 MiB a worker at most"
        )
    )
    names = [name for name in dir(report) if not name.startswith("_")]
    fields = ["cases", "notes", "peak_bytes", "seconds", "stage_peak_bytes", "stages", "voxels"]
    assert names == sorted([*fields, "failed", "load", "save", "table"])
    assert all(hasattr(report, name) for name in names)
    assert isinstance(report, BaseModel)


class TestWhatLooksWrong:
    """Of rows of a plan; the message names the case, and says what to look at."""

    def row(self, spacing=(1.0, 1.0, 1.0), shape=(50, 60, 70), new=(50, 60, 70)):
        crop = [[0, n] for n in shape]
        return CasePlan(
            source_shape=shape, source_spacing=spacing, crop_box=crop, shape=new, target_spacing=(1, 1, 1),
            separate_axis=None, chunk=(1, 1, 1), shard=new, channels=1, has_label=False, source="",
            repairs=(), read_bytes=0,
        )  # fmt: skip

    def doubts(self, *rows):
        of = ConfigurationPlan(
            target_spacing=(1, 1, 1),
            normalization=("ZScoreNormalization",),
            use_mask_for_norm=(False,),
            cases={f"c{i}": row for i, row in enumerate(rows)},
        )
        plan = Plan.model_construct(configurations={"fullres": of})
        return doubts(plan)

    def test_nothing(self):
        thick = self.row(spacing=(8.0, 0.5, 0.5), shape=(5, 512, 512), new=(40, 256, 256))
        flat = self.row(shape=(1, 60, 70), new=(1, 60, 70))
        assert self.doubts(self.row(), thick, flat) == {}

    @pytest.mark.parametrize("scale", [1000, 0.001])
    def test_another_unit(self, scale):
        found = self.doubts(self.row(), self.row(), self.row(spacing=(scale,) * 3))
        assert list(found) == ["c2"]
        assert "spacing is about" in found["c2"]
        assert "millimetres?" in found["c2"]

    def test_all_of_them(self):
        """Nothing to compare with, but for what they become."""
        grown = self.row(new=(50_000, 60_000, 70_000))
        assert "50x60x70 voxels become 50000x60000x70000" in self.doubts(grown, grown)["c0"]

    def test_one_voxel(self):
        (found,) = self.doubts(self.row(new=(1, 60, 70))).values()
        assert "50 voxels along z become 1" in found
