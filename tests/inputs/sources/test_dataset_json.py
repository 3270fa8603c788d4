"""dataset.json in the words of nnU-Net 1 and 2 and of the Decathlon: what is read, and what is refused."""

import json

import datasets
import nibabel
import numpy as np
import pytest
import runs
from nibabel.nifti1 import Nifti1Image
from source_support import refuse, touch

import voxelmill
from voxelmill.inputs.sources.discover import discover

TODAY = {
    "channel_names": {"0": "CT", "1": "PET"},
    "labels": {"background": 0, "liver": 1},
    "file_ending": ".nii.gz",
}
LABELS = TODAY["labels"]
BOTH = ["CT", "PET"]
SAID = "dataset.json: "


def describe(folder, changes):
    """Write a dataset.json of today with changes; None takes a key away."""
    content = {key: value for key, value in (TODAY | changes).items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    """Two cases of two channels, as nnU-Net has them."""
    for case in "ab":
        touch(*(tmp_path / "imagesTr" / f"{case}_{n:04d}.nii.gz" for n in (0, 1)))
        touch(tmp_path / "labelsTr" / f"{case}.nii.gz")
    return tmp_path


@pytest.fixture
def decathlon(tmp_path):
    """Two cases, each with all channels in one file."""
    touch(*(tmp_path / place / f"{case}.nii.gz" for case in "ab" for place in ("imagesTr", "labelsTr")))
    return tmp_path


def entries(cases, image="./imagesTr/{}.nii.gz", label="./labelsTr/{}.nii.gz"):
    return [{"image": image.format(case), "label": label.format(case)} for case in cases]


OLD = {"channel_names": None}
AS_MODALITY = "`modality` is read as channel_names"
ZEROS = "numbers of modality have zeros before them, as in names of files"
REVERSED = "labels are number: name, and read as name: number"
TEXTS = "values of labels are texts, and read as numbers"

READ = [  # what it says, channels, labels, remarks
    ({}, BOTH, LABELS, []),
    ({**OLD, "modality": {"0": "CT", "1": "PET"}}, BOTH, LABELS, [AS_MODALITY]),
    ({**OLD, "modality": {"0001": "PET", "0000": "CT"}}, BOTH, LABELS, [ZEROS, AS_MODALITY]),
    ({"modality": {"0": "CT", "1": "PET"}}, BOTH, LABELS, []),
    ({"channel_names": ["CT", "PET"]}, BOTH, LABELS, ["channel_names is a list: channels have its order"]),
    (
        {"channel_names": {"PET": 1, "CT": "0"}},
        BOTH,
        LABELS,
        ["channel_names is name: number, and read as number: name"],
    ),
    ({"channel_names": {"0": " CT", "1": "PET "}}, BOTH, LABELS, []),
    ({"labels": {"0": "background", "1": "liver"}}, BOTH, LABELS, [REVERSED]),
    ({"labels": {"1": "liver", "3": "ignore"}}, BOTH, {"liver": 1, "ignore": 3}, [REVERSED]),
    ({"labels": {"background": "0", "liver": "1"}}, BOTH, LABELS, [TEXTS]),
    ({"labels": {"background": 0, "both": ["1", 2]}}, BOTH, {"background": 0, "both": [1, 2]}, [TEXTS]),
    ({"labels": {"background": 0, "liver": 1.0}}, BOTH, LABELS, []),
    ({"labels": {"0": "0", "1": "1"}}, BOTH, {"0": 0, "1": 1}, [TEXTS]),
    ({"labels": {}}, BOTH, None, ["labels is empty: no class is stated, and no label is checked against it"]),
    ({"file_ending": "nii.gz"}, BOTH, LABELS, ["file_ending 'nii.gz' is read as '.nii.gz'"]),
    ({"file_ending": None}, BOTH, LABELS, []),
    ({"numTraining": 2}, BOTH, LABELS, []),
    ({"numTraining": "2"}, BOTH, LABELS, []),
    ({"numTraining": 20}, BOTH, LABELS, ["numTraining is 20, and 2 cases are there: these count"]),
    ({"numTraining": "all"}, BOTH, LABELS, ["numTraining is 'all', and 2 cases are there: these count"]),
    ({"training": entries("ab")}, BOTH, LABELS, []),
    (
        {"training": entries("a")},
        BOTH,
        LABELS,
        ["`training` lists 1 cases, and imagesTr and labelsTr hold 2: these count, as in nnU-Net"],
    ),
    (
        {"training": entries("ab"), "file_ending": None},
        BOTH,
        LABELS,
        ["the cases are those of the list `training`"],
    ),
]


@pytest.mark.parametrize(("changes", "channels", "labels", "remarks"), READ)
def test_dialects(folder, changes, channels, labels, remarks):
    describe(folder, changes)
    found = discover(folder)
    assert (list(found.channel_names), found.labels) == (channels, labels)
    assert found.ignore_label == (labels or {}).get("ignore")
    assert found.remarks == tuple(SAID + remark for remark in remarks)
    assert [(case.case, [path.name for path in case.channels], case.label.name) for case in found.cases] == [
        (c, [f"{c}_0000.nii.gz", f"{c}_0001.nii.gz"], f"{c}.nii.gz") for c in "ab"
    ]


V1 = {"channel_names": None, "file_ending": None, "modality": {"0": "CT", "1": "PET"}}

LISTED = [  # of files that hold all channels: what the list says, and what becomes of it
    (entries("ab"), ["a", "b"], 0),
    (entries("ab", "imagesTr/{}.nii.gz", "labelsTr/{}.nii.gz"), ["a", "b"], 0),
    ([{"image": ["imagesTr/a.nii.gz"], "label": "labelsTr/a.nii.gz"}, *entries("b")], ["a", "b"], 0),
    ([*entries("a"), {"image": "./imagesTr/b.nii.gz"}], ["a", "b"], 1),
    ([*entries("abc")], ["a", "b", "c"], 0),  # c is missed when it is read
]


@pytest.mark.parametrize(("training", "cases", "unlabelled"), LISTED)
def test_the_decathlons_list(decathlon, training, cases, unlabelled):
    describe(decathlon, V1 | {"training": training})
    found = discover(decathlon).cases
    assert [case.case for case in found] == cases
    assert [case.channels for case in found] == [(decathlon / f"imagesTr/{c}.nii.gz",) for c in cases]
    assert [case.label for case in found].count(None) == unlabelled
    assert {case.label for case in found} - {None} <= {decathlon / f"labelsTr/{c}.nii.gz" for c in cases}


def test_a_list_with_a_file_ending_where_no_file_has_a_number(decathlon):
    describe(decathlon, {"training": entries("ab")})
    assert [len(case.channels) for case in discover(decathlon).cases] == [1, 1]


@pytest.mark.parametrize("image", ["./imagesTr/{}.nii.gz", "./imagesTr/{}_0000.nii.gz"])
def test_a_list_of_numbered_files(folder, image):
    describe(folder, V1 | {"training": entries("ab", image)})
    listed = discover(folder).cases
    describe(folder, {})
    assert listed == discover(folder).cases


def test_files_of_channels_that_are_listed_one_by_one(folder):
    images = [[f"imagesTr/{case}_000{n}.nii.gz" for n in (0, 1)] for case in "ab"]
    labels = [f"labelsTr/{case}.nii.gz" for case in "ab"]
    training = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    describe(folder, V1 | {"training": training})
    listed = discover(folder).cases
    describe(folder, {})
    assert listed == discover(folder).cases


def test_a_case_whose_name_ends_like_a_number(tmp_path):
    touch(*(tmp_path / place / f"p_{n:04d}.nii.gz" for n in (0, 1) for place in ("imagesTr", "labelsTr")))
    describe(tmp_path, V1 | {"training": entries(["p_0000", "p_0001"])})
    assert [(c.case, len(c.channels)) for c in discover(tmp_path).cases] == [("p_0000", 1), ("p_0001", 1)]


def test_cases_of_other_lists_are_left_out(decathlon):
    touch(decathlon / "imagesTr/t.nii.gz", decathlon / "imagesTr/readme.txt")
    lists = {"training": entries("a"), "validation": entries("b"), "test": ["./imagesTr/t.nii.gz"]}
    describe(decathlon, V1 | lists)
    found = discover(decathlon)
    assert [case.case for case in found.cases] == ["a"]
    assert f"{SAID}1 cases of the list `validation` are left out" in found.remarks
    assert found.skipped == ("1 file(s) ending '.txt'",)


REFUSED = [
    ({"channel_names": {"0": "CT", "0000": "PET"}}, "channel_names .*; expected is"),
    ({"channel_names": {"1": "CT", "2": "PET"}}, "expected is"),
    ({"channel_names": {"0": "CT", "PET": 1}}, "expected is"),
    ({"channel_names": {"CT": 0, "PET": 0}}, "expected is"),
    ({"channel_names": {"0": "CT", "1": ""}}, "expected is"),
    ({"channel_names": ["CT", 1]}, "expected is"),
    ({"channel_names": []}, "expected is"),
    ({"channel_names": "CT, PET"}, "expected is"),
    ({"modality": {"0": "MR", "1": "PET"}}, "channel_names .* and modality .*, which differ"),
    ({"labels": {"0": "1", "1": "0"}}, "which is number: name or name: number; expected is"),
    ({"labels": {"1": "lesion", "2": "lesion"}}, "two classes have one name; expected is"),
    ({"labels": {"0": "background", "liver": 1}}, "labels .*expected is"),
    ({"labels": {"background": 0, "liver": "one"}}, "labels .*expected is"),
    ({"labels": {"background": 0, "liver": "-1"}}, "labels .*expected is"),
    ({"labels": {"background": 0, "liver": True}}, "labels .*expected is"),
    ({"labels": {"background": 0, "liver": []}}, "labels .*expected is"),
    ({"labels": ["background", "liver"]}, "labels .*expected is"),
    ({"file_ending": "gz"}, "file_ending 'gz'; known are"),
    (
        {"file_ending": ".nrrd"},
        r"no file that ends _0000.nrrd, .* 4 file\(s\) ending '.gz'. Correct file_end",
    ),
    (
        {"file_ending": None, "training": entries("a")},
        "lists 1 cases .* imagesTr holds 2 images that are in no",
    ),
    (
        {"file_ending": None, "training": ["./imagesTr/a.nii.gz"]},
        'entry 1 of `training` is no {"image": path',
    ),
    ({"file_ending": None, "training": [*entries("a"), {"image": ""}]}, "entry 2 of `training`"),
    ({"file_ending": None, "training": entries("aab")}, "the id 'a' is there twice"),
    ({"file_ending": None, "training": entries("a", "../{}.nii.gz")}, "a path of case 'a' leads out"),
    ({"file_ending": None, "training": {"a": 1}}, "entry 1 of `training`"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_may_mean_two_things_is_refused(folder, changes, message):
    describe(folder, changes)
    refuse(folder, message)


def test_an_image_with_a_number_and_without_is_refused(folder):
    touch(folder / "imagesTr" / "a.nii.gz")
    describe(folder, V1 | {"training": entries("ab")})
    refuse(folder, "case 'a' has an image without a number of its channel")


def write(path, stored, grid):
    """x, y, z and channels last, as the Decathlon has them; `stored` is (c, z, y, x) or (z, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(Nifti1Image(stored.T, grid.ras_affine()), path)


def test_a_dataset_of_the_decathlon_from_end_to_end(tmp_path):
    """Its MR of the brain: four sequences in a file, numbers before names, paths that begin with a dot."""
    source, rng = tmp_path / "Task01", np.random.default_rng(3)
    made = datasets.Dataset(source, ("FLAIR", "T1w"))
    for case in ("BRATS_001", "BRATS_002"):
        grid = datasets.Grid((1.0, 1.0, 1.5), (5.0, -7.0, 3.0))
        image = np.stack([datasets.blobs(rng, (9, 12, 11), 1, 900).round() for _ in "ab"]).astype("i2")
        label = datasets.classes(rng, (9, 12, 11), 2)
        write(source / "imagesTr" / f"{case}.nii.gz", image, grid)
        write(source / "labelsTr" / f"{case}.nii.gz", label, grid)
        spacing = grid.spacing[::-1]
        made.cases[case] = datasets.reference.ReferenceCase(image.astype("f4"), label, spacing)
    description = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "enhancing tumour"},
        "numTraining": "484",
        "numTest": 266,
        "training": entries(made.cases),
        "test": ["./imagesTs/BRATS_485.nii.gz"],
    }
    (source / "dataset.json").write_text(json.dumps(description))
    report = voxelmill.run(source, tmp_path / "out", cluster="none")
    assert report.failed == []
    assert report.notes == tuple(
        SAID + what
        for what in (
            AS_MODALITY,
            REVERSED,
            "the cases are those of the list `training`",
            "numTraining is '484', and 2 cases are there: these count",
        )
    )
    runs.compare(tmp_path / "out", made.expected()[0])


def test_a_case_with_more_channels_than_have_names_fails_alone(tmp_path):
    made = datasets.nnunet(tmp_path / "raw", ("a", "b"), shape=(4, 6, 6))
    image = made.source / "imagesTr" / "a_0000.nii.gz"
    (made.source / "imagesTr" / "a_0001.nii.gz").write_bytes(image.read_bytes())
    report = voxelmill.run(made.source, tmp_path / "out", cluster="none")
    assert [(case.case, case.cause) for case in report.failed] == [
        ("a", "found 2 channels, expected 1 (CT). Mend the files or names.")
    ]
