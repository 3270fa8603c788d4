"""--show-files: which file a line speaks of, on the terminal; no byte of OUT ever holds a name."""

import json

import datasets
import nibabel
import numpy as np
import pytest
import tifffile
from commands import call, within
from pydicom.uid import BasicTextSRStorage
from readers_support import save_series, series
from typer.testing import CliRunner

from voxelmill.basics.errors import SourceError
from voxelmill.cli.commands import app
from voxelmill.cli.show_files import HINT, files_of
from voxelmill.inputs.readers.files_in_messages import called
from voxelmill.inputs.readers.formats import open_volume
from voxelmill.inputs.sources.case_source import CaseSource

WORD = "Quixote"
VOXELS = np.random.default_rng(0).integers(1, 2000, (6, 10, 12)).astype("i2")


def save_nifti(path, spacing=1.0, voxels=VOXELS):
    nibabel.save(nibabel.Nifti1Image(voxels.T, np.diag([spacing, 1.0, 1.0, 1.0])), path)


def a_dicom_header(raw):
    """The third file by name ends amid its header."""
    folder = save_series(raw / f"{WORD} 1", list(series(VOXELS)))
    file = folder / "IM0002"
    file.write_bytes(file.read_bytes()[:300])
    return [file]


def a_gap(raw):
    """A slice is missing: the two beside the gap are told."""
    pieces = list(series(VOXELS))
    folder = save_series(raw / f"{WORD} 1", pieces[:3] + pieces[4:])
    return [folder / "IM0002", folder / "IM0003"]


def pixels_cut(raw):
    folder = save_series(raw / f"{WORD} 1", list(series(VOXELS)))
    file = folder / "IM0004"
    file.write_bytes(file.read_bytes()[:-100])
    return [file]


def a_page(raw):
    """A slice of a TIFF stack is of another size."""
    folder = raw / "a"
    folder.mkdir()
    for z in range(4):
        shape = (8, 9) if z != 2 else (7, 9)
        tifffile.imwrite(
            folder / f"{WORD}_z{z:02d}.tif", np.ones(shape, "u2") + z, resolution=(100, 100), resolutionunit=3
        )
    (raw / "a.json").write_text(json.dumps({"spacing": [1, 1, 1]}))
    return [folder / f"{WORD}_z02.tif"]


def an_image(raw):
    path = raw / f"{WORD}.nii"
    save_nifti(path)
    path.write_bytes(path.read_bytes()[:-50])
    (raw / "cases.csv").write_text(f"case,CT\nx,{WORD}.nii\n")
    return [path]


def a_channel(raw):
    """The second channel lies on another grid: both are spoken of, and the label is not."""
    for name, spacing in (("a", 1.0), ("b", 2.0), ("c", 1.0)):
        save_nifti(raw / f"{WORD}_{name}.nii", spacing, np.ones_like(VOXELS) if name == "c" else VOXELS)
    (raw / "cases.csv").write_text(f"case,CT,T1,label\nx,{WORD}_a.nii,{WORD}_b.nii,{WORD}_c.nii\n")
    return [raw / f"{WORD}_a.nii", raw / f"{WORD}_b.nii"]


def a_label(raw):
    save_nifti(raw / f"{WORD}_a.nii")
    (raw / "cases.csv").write_text(f"case,CT,label\nx,{WORD}_a.nii,{WORD}_missing.nii\n")
    return [raw / f"{WORD}_missing.nii"]


def a_data_file(raw):
    """The second of two files of a MetaImage is too short."""
    for n in (1, 2):
        (raw / f"{WORD}{n}.raw").write_bytes(VOXELS[n].tobytes()[: -40 * (n == 2) or None])
    (raw / f"{WORD}.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 12 10 2\nElementType = MET_SHORT\n"
        f"ElementSpacing = 1 1 1\nElementDataFile = {WORD}%d.raw 1 2 1\n"
    )
    (raw / "cases.csv").write_text(f"case,CT\nx,{WORD}.mhd\n")
    return [raw / f"{WORD}2.raw"]


BROKEN = [a_dicom_header, a_gap, pixels_cut, a_page, an_image, a_channel, a_label, a_data_file]


def held(out):
    """Every byte of a folder, and every name in it."""
    files = [path for path in out.rglob("*") if path.is_file()]
    names = [str(path.relative_to(out)).encode() for path in out.rglob("*")]
    return b"\n".join([*(path.read_bytes() for path in files), *names])


def shown(lines):
    """The paths of files that lines show."""
    return [line.strip() for line in lines if line.startswith("        '")]


class TestFailedCases:
    @pytest.mark.parametrize("broken", BROKEN)
    def test_their_files_are_shown_on_the_terminal_alone(self, tmp_path, broken):
        raw = tmp_path / "raw"
        raw.mkdir()
        files = broken(raw)
        source = raw / "cases.csv" if (raw / "cases.csv").exists() else raw
        words = ("run", source, tmp_path / "out", "--cluster=none")
        plain = within(*words)
        assert plain.exit_code == 1
        assert WORD not in plain.stdout.replace(str(raw), "")
        assert plain.stdout.count(HINT) == 1
        done = within(*words, "--show-files")
        assert done.exit_code == 1
        assert shown(done.stdout.splitlines()) == [repr(str(file)) for file in files]
        assert HINT not in done.stdout
        assert WORD.encode() not in held(tmp_path / "out")

    def test_as_a_person_runs_it(self, tmp_path):
        (tmp_path / "raw").mkdir()
        (file,) = a_dicom_header(tmp_path / "raw")
        done = call("run", "raw", "out", "--workers=1", "--show-files", cwd=tmp_path)
        assert done.returncode == 1
        assert shown(done.stdout.splitlines()) == [repr(str(file))]
        assert WORD not in done.stderr
        assert WORD.encode() not in held(tmp_path / "out")


class TestOthers:
    def test_notes_and_repairs(self, tmp_path):
        pieces = list(series(VOXELS))
        pieces[1].BurnedInAnnotation = "YES"
        (tmp_path / "raw").mkdir()
        folder = save_series(tmp_path / "raw" / f"{WORD} 1", pieces[:3] + pieces[4:])
        words = ("ingest", tmp_path / "raw", tmp_path / "out", "--cluster=none")
        done = within(*words, "--set", "repair.irregular=fill", "--show-files")
        assert done.exit_code == 0
        expected = ["IM0001", "IM0002", "IM0003"]
        assert shown(done.stdout.splitlines()) == [repr(str(folder / name)) for name in expected]
        assert WORD.encode() not in held(tmp_path / "out")

    def test_what_is_left_out(self, tmp_path):
        (tmp_path / "raw").mkdir()
        save_nifti(tmp_path / "raw" / "a.nii")
        (tmp_path / "raw" / f"{WORD}.txt").write_text("notes")
        words = ("ingest", tmp_path / "raw", tmp_path / "out", "--cluster=none")
        assert WORD not in within(*words).stdout
        assert f"left out  {str(tmp_path / 'raw' / WORD)!r}"[:-1] in within(*words, "--show-files").stdout
        assert WORD.encode() not in held(tmp_path / "out")

    def test_a_refusal_that_names_a_case(self, tmp_path):
        (tmp_path / "raw").mkdir()
        save_nifti(tmp_path / "raw" / f"{WORD}_a.nii")
        (tmp_path / "raw" / "cases.csv").write_text(f"case,CT\nx,{WORD}_a.nii\n")
        words = ("run", "raw/cases.csv", "out", "--cluster=none")
        assert call(*words, cwd=tmp_path).returncode == 0
        save_nifti(tmp_path / "raw" / f"{WORD}_a.nii", voxels=VOXELS + 1)
        refused = call(*words, cwd=tmp_path)
        assert refused.returncode == 2
        assert WORD not in refused.stderr
        assert refused.stderr.count(HINT) == 1
        with_names = call(*words, "--show-files", cwd=tmp_path)
        assert f"case x: {str(tmp_path / 'raw' / f'{WORD}_a.nii')!r}" in with_names.stderr
        assert WORD.encode() not in held(tmp_path / "out")


def strangers(raw):
    (raw / f"{WORD}.txt").write_text("notes")
    return [raw / f"{WORD}.txt"]


def two_labels(raw):
    names = [f"{WORD}.nii", f"{WORD}_mask.nii", f"{WORD}_seg.nii"]
    for name in names:
        save_nifti(raw / name)
    return [raw / name for name in names]


def a_lost_label(raw):
    save_nifti(raw / "a.nii")
    save_nifti(raw / f"{WORD}_seg.nii")
    return [raw / f"{WORD}_seg.nii"]


def several_a_folder(raw):
    (raw / WORD).mkdir()
    for name in "ab":
        save_nifti(raw / WORD / f"{name}.nii")
    return [raw / WORD]


@pytest.mark.parametrize("broken", [strangers, two_labels, a_lost_label, several_a_folder])
def test_a_source_that_is_refused(tmp_path, broken):
    raw = tmp_path / "raw"
    raw.mkdir()
    files = broken(raw)
    words = ("run", raw, tmp_path / "out", "--cluster=none")
    with pytest.raises(SourceError) as caught:
        within(*words)
    assert str(caught.value).count(HINT) == 1
    assert WORD not in str(caught.value)
    done = CliRunner().invoke(app, [*map(str, words), "--show-files"])
    assert isinstance(done.exception, SourceError)
    assert not any(word in str(done.exception) for word in (HINT, WORD))
    assert done.stderr.splitlines() == [repr(str(file)) for file in files]


def test_what_is_left_out_of_a_dataset(tmp_path):
    source = datasets.nnunet(tmp_path / "raw").source
    (source / "imagesTr" / f"{WORD}.nii.gz").write_bytes(b"")
    words = ("ingest", source, tmp_path / "out", "--cluster=none", "--show-files")
    assert f"left out  {str(source / 'imagesTr' / WORD)!r}"[:-1] in within(*words).stdout


def localisers(folder):
    scout = series(VOXELS[:2, :, :3], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    save_series(folder, [*series(VOXELS), *scout])
    return ["IM0006", "IM0007"]


def off_an_even_grid(folder):
    pieces = list(series(VOXELS))
    x, y, z = pieces[2].ImagePositionPatient
    pieces[2].ImagePositionPatient = [x, y, z + 0.15]
    save_series(folder, pieces)
    return ["IM0002"]


def a_report(folder):
    save_series(folder, list(series(VOXELS)))
    report = next(series(VOXELS))
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    del report.Rows, report.Columns, report.PixelData
    save_series(folder, [report])
    return ["IM0006"]


def a_projection(folder):
    folder.mkdir()
    for name in ("s_z0.tif", "s_z1.tif", "s_z2.tif", "MAX_s.tif"):
        tifffile.imwrite(folder / name, np.ones((4, 5), "u2"))
    return ["MAX_s.tif"]


def a_burned_in_slice(folder):
    pieces = list(series(VOXELS))
    pieces[3].BurnedInAnnotation = "YES"
    save_series(folder, pieces)
    return ["IM0003"]


@pytest.mark.parametrize("made", [localisers, off_an_even_grid, a_report, a_projection, a_burned_in_slice])
def test_words_of_notes_are_those_that_readers_write(tmp_path, made):
    """What a note speaks of is found by its words: where a reader changes them, this fails."""
    names = made(tmp_path / "s")
    (note,) = open_volume(tmp_path / "s", spacing=(2.5, 1, 1)).notes
    assert files_of(CaseSource("x", (tmp_path / "s",)), note) == [tmp_path / "s" / name for name in names]


class TestFilesOf:
    """A pure table where no file is opened: channels and the label by what a line calls them."""

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("channel 1 (T2): the file is missing.", "b"),
            ("channel 1: the file is missing.", "b"),
            ("the label is 3 mm off channel 0; one grid is needed.", "al"),
            ("the label: the file is missing.", "l"),
            ("channel 11: no such.", "abl"),
            ("every voxel is zero.", "abl"),
        ],
    )
    def test_table(self, tmp_path, line, expected):
        paths = {name: tmp_path / name for name in "abl"}
        case = CaseSource("x", (paths["a"], paths["b"]), paths["l"])
        assert files_of(case, line) == [paths[name] for name in expected]

    def test_twenty_one_is_not_two(self, tmp_path):
        folder = save_series(tmp_path / "s", list(series(np.ones((21, 4, 4), "i2"))))
        case = CaseSource("x", (folder,))
        for number in (1, 2, 21):
            line = f"DICOM file {number} in the order of names has a header that cannot be read."
            assert files_of(case, line) == [folder / f"IM{number - 1:04d}"]
        assert len({words for words, _ in called(folder)}) == 42
