"""What SOURCE holds: datasets, folders and manifests, right and wrong."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from readers_support import save_series, series
from source_support import refuse, touch

import voxelmill
from voxelmill.basics.errors import FormatError, SourceError
from voxelmill.config.dicom_settings import DicomConfig
from voxelmill.inputs.readers.formats import open_volume
from voxelmill.inputs.readers.formats_to_convert import CONVERTERS
from voxelmill.inputs.sources.case_names_and_spacing import case_problem
from voxelmill.inputs.sources.case_source import CaseSource
from voxelmill.inputs.sources.discover import discover

VOXELS = np.zeros((3, 4, 5), "i2")
DATASET = {
    "channel_names": {"0": "CT", "1": "PET"},
    "labels": {"background": 0, "liver": 1},
    "file_ending": ".nii.gz",
}


class TestNnunet:
    @pytest.fixture
    def folder(self, tmp_path):
        for case in ("b", "a"):
            touch(*(tmp_path / "imagesTr" / f"{case}_{n:04d}.nii.gz" for n in (0, 1)))
            touch(tmp_path / "labelsTr" / f"{case}.nii.gz")
        self.describe(tmp_path)
        return tmp_path

    @staticmethod
    def describe(folder: Path, **changes: object) -> None:
        content = {key: value for key, value in (DATASET | changes).items() if value is not None}
        (folder / "dataset.json").write_text(json.dumps(content))

    def test_cases_channels_and_labels(self, folder):
        found = discover(folder)
        images = folder / "imagesTr"
        assert found.kind == "nnunet"
        assert found.channel_names == ("CT", "PET")
        assert (found.labels, found.ignore_label) == ({"background": 0, "liver": 1}, None)
        assert [case.case for case in found.cases] == ["a", "b"]
        assert found.cases[0] == CaseSource(
            "a", (images / "a_0000.nii.gz", images / "a_0001.nii.gz"), folder / "labelsTr" / "a.nii.gz"
        )

    def test_what_a_case_lacks_is_missed_later(self, folder):
        (folder / "imagesTr" / "a_0000.nii.gz").unlink()
        (folder / "labelsTr" / "b.nii.gz").unlink()
        touch(folder / "labelsTr" / "c.nii.gz")
        found = discover(folder)
        assert [case.case for case in found.cases] == ["a", "b", "c"]
        assert not found.cases[0].channels[0].exists()
        assert not found.cases[1].label.exists()

    def test_channels_are_in_the_order_of_their_numbers(self, folder):
        names = {str(n): f"c{n}" for n in reversed(range(12))}
        self.describe(folder, channel_names=names)
        assert discover(folder).channel_names == tuple(f"c{n}" for n in range(12))

    def test_regions_and_ignore(self, folder):
        labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
        self.describe(folder, labels=labels)
        found = discover(folder)
        assert (found.labels, found.ignore_label) == (labels, 3)

    def test_older_datasets(self, folder):
        old = {"channel_names": None, "file_ending": None, "modality": {"0": "CT", "1": "PET"}}
        self.describe(folder, **old, labels={"0": "background", "1": "liver"})
        assert discover(folder).channel_names == ("CT", "PET")
        assert discover(folder).labels == {"background": 0, "liver": 1}

    def test_listed_cases_with_variables(self, folder, monkeypatch):
        monkeypatch.setenv("IMAGES", str(folder / "elsewhere"))
        entry = {"images": ["$IMAGES/x.nii.gz", "y.nii.gz"], "label": "z.nii.gz"}
        self.describe(folder, dataset={"one": entry})
        case = CaseSource("one", (folder / "elsewhere/x.nii.gz", folder / "y.nii.gz"), folder / "z.nii.gz")
        assert discover(folder).cases == (case,)

    def test_spacing_beside_images_that_state_none(self, folder):
        self.describe(folder, file_ending=".npy")
        touch(*(folder / "imagesTr" / f"a_{n:04d}.npy" for n in (0, 1)))
        (folder / "imagesTr" / "a.json").write_text('{"spacing": [3, 2, 1.5]}')
        assert discover(folder).cases[0].spacing == (3, 2, 1.5)
        (folder / "imagesTr" / "a.json").write_text('{"spacing": [3, 2]}')
        refuse(folder, "case 'a': the .json beside its image has no usable spacing")

    def test_files_without_a_channel_number_are_skipped(self, folder):
        touch(folder / "imagesTr" / "odd.nii.gz")
        assert discover(folder).skipped == ("1 file(s) ending '.gz'",)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"channel_names": None}, "channel_names None"),
            ({"channel_names": {"1": "CT"}}, "expected is"),
            ({"labels": None}, "labels None"),
            ({"labels": {"background": "zero"}}, "labels"),
            ({"labels": {"background": 0, "a": 1.5}}, "labels"),
            ({"labels": {"background": 0, "ignore": [1, 2]}}, "the ignore label is"),
            ({"file_ending": ".png"}, "file_ending '.png'; known are .nii.gz"),
            ({"dataset": ["a"]}, "`dataset` is no object"),
            (
                {"dataset": {"a": {"images": ["x.nii.gz"], "label": "y"}}},
                "case 'a' has 1 images; 2 and one `label`",
            ),
            ({"dataset": {"a": {"images": [1, 2], "label": "y"}}}, "case 'a' has 0 images"),
            (
                {"dataset": {"../a": {"images": ["x", "y"], "label": "y"}}},
                "'../a' could name a place outside",
            ),
            ({"dataset": {}}, "no file of a known format"),
        ],
    )
    def test_a_wrong_dataset_json_is_refused(self, folder, changes, message):
        self.describe(folder, **changes)
        refuse(folder, message)

    def test_other_damage_is_refused(self, folder):
        (folder / "dataset.json").write_text('{"labels": \n')
        refuse(folder, "dataset.json is no JSON at line 2")
        (folder / "dataset.json").write_text("[]")
        refuse(folder, "dataset.json is no object")
        self.describe(folder)
        (folder / "imagesTr").rename(folder / "images")
        refuse(folder, "no folder imagesTr")

    def test_names_of_channels_can_be_given(self, folder):
        assert discover(folder, channels=["MR", "CT"]).channel_names == ("MR", "CT")
        refuse(folder, r"names 1 channel\(s\) \['CT'\], but each case has 2 images", channels=["CT"])


class TestFolder:
    def test_one_image_or_series_a_case(self, tmp_path):
        save_series(tmp_path / "case.3", list(series(VOXELS)))
        touch(
            *(tmp_path / n for n in ("2.nii.gz", "1.mhd", "1.raw", "notes.txt", ".hidden", "stray.raw", "A"))
        )
        (tmp_path / "empty").mkdir()
        found = discover(tmp_path, dicom=DicomConfig(ids="names"))
        assert (found.kind, found.channel_names, found.labels) == ("folder", None, None)
        assert [(case.case, case.channels[0].name) for case in found.cases] == [
            ("1", "1.mhd"),
            ("2", "2.nii.gz"),
            ("case.3", "case.3"),
        ]
        assert found.skipped == (
            "1 file(s) ending ''",
            "1 file(s) ending '.raw'",
            "1 file(s) ending '.txt'",
            "1 folder(s)",
        )

    def test_a_folder_of_dicom_files_is_one_case(self, tmp_path):
        folder = save_series(tmp_path / "patient", list(series(VOXELS)))
        touch(folder / "LICENSE")
        found = discover(folder, dicom=DicomConfig(ids="names"))
        assert [(case.case, case.channels) for case in found.cases] == [("patient", (folder,))]

    def test_one_image_is_one_case(self, tmp_path):
        touch(tmp_path / "a.nii.gz")
        found = discover(tmp_path / "a.nii.gz", channels=["T1"])
        assert found.cases == (CaseSource("a", (tmp_path / "a.nii.gz",)),)
        assert (found.kind, found.channel_names) == ("file", ("T1",))

    def test_spacing_beside_the_image(self, tmp_path):
        touch(tmp_path / "a.npy")
        (tmp_path / "a.json").write_text('{"spacing": [3, 2, 1]}')
        assert discover(tmp_path).cases[0].spacing == (3, 2, 1)
        assert discover(tmp_path).skipped == ()

    def test_what_cannot_be_used_is_refused(self, tmp_path):
        refuse(tmp_path, "SOURCE holds no file of a known format; expected is a nnU-Net raw dataset")
        refuse(tmp_path / "nothing", "SOURCE does not exist")
        touch(tmp_path / "a.txt")
        refuse(tmp_path, r"no file of a known format \(1 file\(s\) ending '.txt'\)")
        refuse(tmp_path / "a.txt", "neither a manifest")
        touch(tmp_path / "a.nii", tmp_path / "a.mha")
        refuse(tmp_path, "the id 'a' is there twice")


class TestWords:
    def test_what_was_typed_is_repeated(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SourceError, match=r"SOURCE does not exist: 'in/data'; expected is"):
            voxelmill.run("in/data", "out", cluster="none")

    @pytest.mark.parametrize("ending", CONVERTERS)
    def test_files_of_microscopes_and_what_converts_them(self, tmp_path, ending):
        how = re.escape(CONVERTERS[ending])
        touch(tmp_path / f"a{ending.upper()}")
        refuse(tmp_path / f"a{ending.upper()}", f"neither a manifest .* {ending}: {how}")
        refuse(tmp_path, rf"no file of a known format \(1 file\(s\) ending '{ending}'\).* {ending}: {how}")
        with pytest.raises(FormatError, match=f"a file ending in '{ending}' is of no .* Convert it: {how}"):
            open_volume(tmp_path / f"a{ending.upper()}")


class TestManifest:
    @pytest.fixture
    def folder(self, tmp_path):
        touch(*(tmp_path / name for name in ("a.nii.gz", "b.nii.gz", "l.nii.gz", "c.npy")))
        return tmp_path

    def test_csv(self, folder):
        path = folder / "m.csv"
        path.write_text(
            '\ufeffcase,image,label,spacing\nb,b.nii.gz,l.nii.gz,"5, 1,0.5"\na,sub/a.nii.gz,,\n\n'
        )
        found = discover(path)
        assert (found.kind, found.channel_names) == ("manifest", ("image",))
        assert found.cases == (
            CaseSource("a", (folder / "sub/a.nii.gz",)),
            CaseSource("b", (folder / "b.nii.gz",), folder / "l.nii.gz", (5, 1, 0.5)),
        )

    @pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"cases": rows}])
    def test_json(self, folder, wrap):
        rows = [{"case": "a", "CT": "a.nii.gz", "PET": "b.nii.gz", "label": None, "spacing": [3, 2, 1]}]
        (folder / "m.json").write_text(json.dumps(wrap(rows)))
        found = discover(folder / "m.json")
        assert found.channel_names == ("CT", "PET")
        assert found.cases == (CaseSource("a", (folder / "a.nii.gz", folder / "b.nii.gz"), None, (3, 2, 1)),)

    def test_a_folder_of_dicom_files_and_spacing_beside_the_image(self, folder):
        save_series(folder / "s", list(series(VOXELS)))
        (folder / "two.json").write_text('{"spacing": [3, 2, 1]}')
        (folder / "m.csv").write_text("case,CT\none,s\ntwo,c.npy\n")
        one, two = discover(folder / "m.csv").cases
        assert (one.channels, one.spacing) == ((folder / "s",), None)
        assert (two.channels, two.spacing) == ((folder / "c.npy",), (3, 2, 1))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the manifest has no rows"),
            ("case,CT\n", "the manifest has no rows"),
            ("name,CT\na,a.nii.gz\n", "has 2 columns and no column `case`"),
            ("case,label\na,l.nii.gz\n", "no column of a channel"),
            ("case,CT,CT\na,a.nii.gz,b.nii.gz\n", "a column named 'CT' that is empty or there twice"),
            ("case,CT,\na,a.nii.gz,\n", "a column named ''"),
            ("case,CT,age\na,a.nii.gz,51\n", "unknown column 'age'.*Reserved are case, label, spacing"),
            ("case,CT\na,a.nii.gz\na,b.nii.gz\n", "the id 'a' is there twice"),
            ("case,CT\n,a.nii.gz\n", "row 1: the id '' is empty"),
            ("case,CT\na,a.nii.gz\n../b,b.nii.gz\n", "row 2: the id '../b' could name a place outside"),
            ("case,CT\n/b,b.nii.gz\n", "row 1: the id '/b' could"),
            ("case,CT\n.b,b.nii.gz\n", "row 1: the id '.b' could"),
            ("case,CT\na\\b,b.nii.gz\n", "row 1: the id .* could"),
            ("case,CT\na\tb,b.nii.gz\n", "row 1: the id .* holds control characters"),
            ("case,CT\na,a.nii.gz\nb,\n", "row 2: channel 'CT' is ''; a path is needed"),
            ("case,CT,spacing\na,a.nii.gz,1\n", "row 1: spacing is '1'; three positive numbers"),
            ('case,CT,spacing\na,a.nii.gz,"1,0,1"\n', "row 1: spacing is '1,0,1'"),
            ('case,CT,spacing\na,a.nii.gz,"1,nan,1"\n', "row 1: spacing is '1,nan,1'"),
            ("case,CT,spacing\na,a.nii.gz,1,1,1\n", "row 1: 5 cells, but the manifest has 3 columns"),
            ("case,CT,label\na,a.nii.gz\n", "row 1: 2 cells"),
        ],
    )
    def test_a_wrong_csv_is_refused(self, folder, text, message):
        (folder / "m.csv").write_text(text)
        refuse(folder / "m.csv", message)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "the manifest is no JSON at line 1"),
            ("3", "neither a list of records"),
            ('{"channel_names": {}}', "of a nnU-Net dataset name the folder"),
            ("[1]", "neither a list of records"),
            ("[]", "the manifest has no rows"),
            (
                '[{"case": "a", "CT": "a.nii.gz"}, {"case": "b", "MR": "b.nii.gz"}]',
                r"row 2: keys \['CT', 'MR'\]",
            ),
            ('[{"case": 3, "CT": "a.nii.gz"}]', "row 1: the id 3 is no text"),
            ('[{"case": "a", "CT": "a.nii.gz", "label": 3}]', "row 1: label is 3"),
            ('[{"case": "a", "CT": "a.nii.gz"}, {"case": "b", "CT": null}]', "row 2: channel 'CT' is None"),
            ('[{"case": "a", "CT": "a.nii.gz", "spacing": {"z": 1}}]', "row 1: spacing is {'z': 1}"),
            ('[{"case": "a", "CT": "a.nii.gz", "spacing": 2}]', "row 1: spacing is 2"),
        ],
    )
    def test_a_wrong_json_is_refused(self, folder, content, message):
        (folder / "m.json").write_text(content)
        refuse(folder / "m.json", message)

    def test_other_bytes_are_refused(self, folder):
        (folder / "m.csv").write_bytes(b"case,CT\n\xff\xfe,a\n")
        refuse(folder / "m.csv", "no CSV text in UTF-8")


@pytest.mark.parametrize("case", ["a", "Case 01", "a.b", "a-b_c", "é", "1"])
def test_ids_that_are_names(case):
    assert case_problem(case) is None


@pytest.mark.parametrize(
    "case",
    [
        "",
        " a",
        ".",
        "..",
        "a/b",
        "a\\b",
        "a..b",
        ".a",
        "a\n",
        "a\0b",
        "__a",
        "zarr.json",
        "a" * 201,
        "\u202ea",
        "a\u2028b",
        "a\uff0fb",
        "\u2025",
        "a.",
        "a ",
        "CON",
        "nul.txt",
        "a.0123456789abcdef0123456789abcdef.partial",
    ],
)
def test_ids_that_are_not(case):
    assert case_problem(case)
