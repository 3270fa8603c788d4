"""Manifests as people write them: names of columns, signs between cells, and what is wrong with them."""

import json

import pytest
from source_support import refuse, touch

from voxelmill.inputs.sources.case_source import CaseSource
from voxelmill.inputs.sources.discover import discover


@pytest.fixture
def folder(tmp_path):
    touch(*(tmp_path / name for name in ("a.nii.gz", "b.nii.gz", "l.nii.gz")))
    return tmp_path


class TestColumns:
    @pytest.mark.parametrize("name", ["label", "Label", "LABEL ", " label"])
    def test_reserved_names_count_whatever_their_case_and_blanks(self, folder, name):
        (folder / "m.csv").write_text(f'Case,CT,{name},SPACING\na,a.nii.gz,l.nii.gz,"3,2,1"\n')
        row = {"CASE": "a", "CT": "a.nii.gz", name: "l.nii.gz", "Spacing ": [3, 2, 1]}
        (folder / "m.json").write_text(json.dumps([row]))
        for file in ("m.csv", "m.json"):
            found = discover(folder / file)
            case = CaseSource("a", (folder / "a.nii.gz",), folder / "l.nii.gz", (3, 2, 1))
            assert (found.cases, found.channel_names) == ((case,), ("CT",))

    @pytest.mark.parametrize(
        "name",
        [
            *("mask", "Masks", "seg", "Segmentation", "labels", "gt", "ground_truth", "annotation"),
            *("labelmap", "Label Path", "mask_file", "CT_mask", "liver-seg"),
            *("roi", "ROIs", "truth"),
        ],
    )
    def test_names_of_labels_are_refused_unless_they_are_said_to_be_channels(self, folder, name):
        (folder / "m.csv").write_text(f"case,CT,{name}\na,a.nii.gz,l.nii.gz\n")
        refuse(folder / "m.csv", f"a column '{name}', which is what labels are called. Call it `label`")
        refuse(folder / "m.csv", "labels are called", channels=["CT", "PET"])
        assert discover(folder / "m.csv", channels=["CT", name.upper()]).cases[0].label is None

    def test_two_labels(self, folder):
        (folder / "m.csv").write_text("case,CT,Label,label\na,a.nii.gz,l.nii.gz,l.nii.gz\n")
        refuse(folder / "m.csv", "a column named 'label' that is empty or there twice")


class TestSigns:
    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("m.csv", "case;CT;label;spacing\na;a.nii.gz;l.nii.gz;3,2,1\n"),
            ("m.csv", "\ufeffcase\tCT\tlabel\tspacing\r\na\ta.nii.gz\tl.nii.gz\t3,2,1\r\n"),
            ("m.tsv", "case\tCT\tlabel\tspacing\na\ta.nii.gz\tl.nii.gz\t3,2,1\n"),
            ("m.CSV", '\n"Case" ; CT;label;spacing\na;a.nii.gz;l.nii.gz;"3,2,1"\n'),
        ],
    )
    def test_semicolons_and_tabs(self, folder, file, text):
        (folder / file).write_text(text, newline="")
        found = discover(folder / file)
        assert found.channel_names == ("CT",)
        assert found.cases == (CaseSource("a", (folder / "a.nii.gz",), folder / "l.nii.gz", (3, 2, 1)),)

    def test_a_comma_in_the_name_of_a_channel(self, folder):
        (folder / "m.csv").write_text("case;CT, arterial, portal, late\na;a.nii.gz\n")
        assert discover(folder / "m.csv").channel_names == ("CT, arterial, portal, late",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case;CT;spacing\na;a.nii.gz;5,0;0,7;0,7\n", "row 1: 5 cells.*a cell with semicolons needs quotes"),
        ("case;CT;spacing\na;a.nii.gz;5,0,0,7,0,7\n", "with decimal points instead of commas"),
        ('case,CT,spacing\na,a.nii.gz,"5,0;0,7;0,7"\n', "with decimal points instead of commas"),
        ("case,CT,label\na,sub\\a.nii.gz,\n", "row 1: the path in column 'CT' has backslashes"),
        ("case,CT,label\na,a.nii.gz,sub\\l.nii.gz\n", "row 1: the path in column 'label' has backslashes"),
        ("a,a.nii.gz,l.nii.gz\nb,b.nii.gz,\n", "the manifest has no header: its first row holds paths"),
        ("a;a.nii.gz\nb;b.nii.gz\n", "the manifest has no header"),
        ("a,a.nii.gz,\nb,b.nii.gz,l.nii.gz\n", "the manifest has no header"),
        ("patient;CT\na;a.nii.gz\n", "the manifest has 2 columns and no column `case`"),
        ("case\na\n", "the manifest has 1 column and no column of a channel"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(folder, text, message):
    (folder / "m.csv").write_text(text)
    refuse(folder / "m.csv", message)
