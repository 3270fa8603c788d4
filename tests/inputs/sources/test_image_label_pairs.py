"""Labels beside their images: which names make a pair, which are refused, and what a run makes of it."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from commands import alone
from datasets import blobs, classes
from runs import attributes, group
from source_support import refuse, touch

import voxelmill
from voxelmill.inputs.sources.case_source import CaseSource
from voxelmill.inputs.sources.discover import NO_LABEL, discover
from voxelmill.inputs.sources.image_label_pairs import SUFFIXES, Pair, find_pairs

RULES = [
    *((suffix, f"p1{suffix}", f"as the image with {suffix!r} behind") for suffix in SUFFIXES),
    ("_seg", "p1_Seg", "as the image with '_seg' behind"),
    ("mask", "mask", "'mask'"),
    ("ground_truth", "Ground_Truth", "'ground_truth'"),
]


class TestPairs:
    @pytest.mark.parametrize(("rule", "stem", "words"), RULES)
    def test_a_label_beside_its_image(self, tmp_path, rule, stem, words):
        image, label = tmp_path / "p1.nii.gz", tmp_path / f"{stem}.nrrd"
        touch(image, label)
        assert find_pairs([label, image]) == (Pair(image, label, rule),)
        (case,), remarks = discover(tmp_path).cases, discover(tmp_path).remarks
        assert (case.case, case.channels, case.label) == ("p1", (image,), label)
        assert remarks == (f"1 of 1 images have their label beside them: the file called {words}",)

    def test_images_without_a_label_stay_images(self, tmp_path):
        touch(*(tmp_path / name for name in ("a.nii.gz", "a_seg.nii.gz", "b.nii.gz")))
        found = discover(tmp_path, channels=["CT"])
        assert [(case.case, case.label is not None) for case in found.cases] == [("a", True), ("b", False)]
        assert found.remarks[0].startswith("1 of 2 images")

    @pytest.mark.parametrize(
        "names", [("a", "b"), ("masked", "segment_1"), ("a_segment", "x"), ("t1", "t1_1")]
    )
    def test_other_names_are_images(self, tmp_path, names):
        touch(*(tmp_path / f"{name}.nii.gz" for name in names))
        found = discover(tmp_path)
        assert [case.case for case in found.cases] == sorted(names)
        assert found.remarks == (NO_LABEL,)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("a", "a_seg", "a_mask"), "an image has 2 labels beside it, called by '_mask' and '_seg'"),
            (
                ("a", "a_seg", "b_seg"),
                r"1 file\(s\) are called as labels .* where other files are images",
            ),
            (("a", "b", "mask"), r"1 file\(s\) are called as labels are \('mask'"),
            (("a", "a_seg", "a_seg_gt"), "'_gt'"),
            (("a_seg", "b_seg"), r'2 file\(s\) .* name their channel, as in channels=\["MR"\]'),
        ],
    )
    def test_what_is_not_clear_is_refused(self, tmp_path, names, message):
        touch(*(tmp_path / f"{name}.nii.gz" for name in names))
        refuse(tmp_path, message)
        refuse(tmp_path, "Write a manifest")

    def test_masks_alone_are_images_where_channels_say_so(self, tmp_path):
        touch(*(tmp_path / f"{name}.nii.gz" for name in ("a_seg", "b_seg")))
        assert len(discover(tmp_path, channels=["mask"]).cases) == 2
        touch(tmp_path / "c.nii.gz")
        refuse(tmp_path, "where other files are images", channels=["mask"])

    def test_flat_tiffs_with_masks_are_no_pages_of_a_stack(self, tmp_path):
        for name in ("w0.tif", "w0_cp_masks.tif", "w1.tif"):
            tifffile.imwrite(tmp_path / name, np.zeros((8, 9), "u2"))
        found = discover(tmp_path)
        assert [(case.case, case.label) for case in found.cases] == [
            ("w0", tmp_path / "w0_cp_masks.tif"),
            ("w1", None),
        ]


class TestFoldersOfCases:
    def test_a_sub_folder_with_one_image_is_a_case(self, tmp_path):
        touch(*(tmp_path / name for name in ("p1/scan.nii.gz", "p2/scan.nii.gz", "p2/scan_seg.nii.gz")))
        touch(*(tmp_path / name for name in ("p3/imaging.nii.gz", "p3/segmentation.nii.gz", "p4/x.npy")))
        (tmp_path / "p4" / "p4.json").write_text('{"spacing": [3, 2, 1]}')
        (tmp_path / "empty").mkdir()
        found = discover(tmp_path)
        assert found.cases == (
            CaseSource("p1", (tmp_path / "p1/scan.nii.gz",)),
            CaseSource("p2", (tmp_path / "p2/scan.nii.gz",), tmp_path / "p2/scan_seg.nii.gz"),
            CaseSource("p3", (tmp_path / "p3/imaging.nii.gz",), tmp_path / "p3/segmentation.nii.gz"),
            CaseSource("p4", (tmp_path / "p4/x.npy",), None, (3, 2, 1)),
        )
        assert found.skipped == ("1 folder(s)",)
        assert found.remarks == (
            "1 of 4 images have their label beside them: the file called as the image with '_seg' behind",
            "1 of 4 images have their label beside them: the file called 'segmentation'",
        )

    def test_a_mask_is_no_page_of_a_stack_in_a_folder(self, tmp_path):
        for name in ("p1/w.tif", "p1/w_cp_masks.tif", "p2/z0.tif", "p2/z1.tif"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / name, np.zeros((8, 9), "u2"))
        assert discover(tmp_path).cases == (
            CaseSource("p1", (tmp_path / "p1/w.tif",), tmp_path / "p1/w_cp_masks.tif"),
            CaseSource("p2", (tmp_path / "p2",)),
        )

    def test_folders_beside_images_are_left_out_as_ever(self, tmp_path):
        touch(*(tmp_path / name for name in ("a.nii.gz", "extra/b.nii.gz", "extra/c.nii.gz", "d/e.nii.gz")))
        found = discover(tmp_path)
        assert ([case.case for case in found.cases], found.skipped) == (["a"], ("2 folder(s)",))

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("images/a.nii.gz", "labels/a.nii.gz"), r"labels in a folder of their own \('labels'\)"),
            (("images/a.tif", "images/b.tif", "Masks/a.tif", "Masks/b.tif"), "'Masks'"),
            (("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"), "'labelsTr'.*dataset.json of a nnU-Net raw"),
            (("a.nii.gz", "b.nii.gz", "seg/a.nii.gz"), "'seg'"),
            (("s1/ct.nii.gz", "s1/segmentations/liver.nii.gz"), "'segmentations'"),
            (("p1/p1_t1.nii.gz", "p1/p1_t2.nii.gz", "p1/p1_seg.nii.gz"), "called as labels"),
            (
                ("p1/t1.nii.gz", "p1/t2.nii.gz", "p2/t1.nii.gz"),
                "1 of 2 sub-folders of SOURCE hold several images, the first 2",
            ),
        ],
    )
    def test_other_layouts_want_a_manifest(self, tmp_path, names, message):
        touch(*(tmp_path / name for name in names))
        refuse(tmp_path, message)
        refuse(tmp_path, "Write a manifest")


def test_a_run_takes_the_mask_for_the_label(tmp_path, caplog):
    rng, source = np.random.default_rng(5), tmp_path / "in"
    source.mkdir()
    image, label = blobs(rng, (9, 12, 11), -500, 900).astype("i2"), classes(rng, (9, 12, 11))
    sitk.WriteImage(sitk.GetImageFromArray(image), source / "p1.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(label), source / "p1_seg.nii.gz")
    with caplog.at_level("INFO", logger="voxelmill"):
        report = voxelmill.run(source, tmp_path / "out", cluster="none")
    assert [(case.case, case.status) for case in report.cases] == [("p1", "done")]
    stored, box = group(tmp_path / "out", "p1"), attributes(tmp_path / "out", "p1")["crop_box"]
    assert stored["image"].shape[0] == 1
    crop = tuple(slice(*bounds) for bounds in box)
    np.testing.assert_array_equal(np.maximum(stored["label"][:], 0), label[crop])
    said = "1 of 1 images have their label beside them: the file called as the image with '_seg' behind"
    assert report.notes == (said,)
    assert f"source: {said}" in caplog.text
    logs = "".join(file.read_text() for file in (tmp_path / "out/logs").glob("*.log"))
    assert said in logs
    assert "p1_seg" not in logs


def test_a_run_without_labels_says_so(tmp_path):
    """On the terminal, in the log and in the report, in one line; by the stages, too."""
    image = blobs(np.random.default_rng(5), (9, 12, 11), -500, 900).astype("i2")
    (tmp_path / "in").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(image), tmp_path / "in" / "p1.nii.gz")
    for command in ("ingest", "run"):
        out = tmp_path / command
        done = alone(command, tmp_path / "in", out)
        assert done.returncode == 0
        assert [line for line in done.stderr.splitlines() if line.endswith(f"source: {NO_LABEL}")]
        assert (out / "logs/voxelmill.log").read_text().count(f"source: {NO_LABEL}") == 1
        assert json.loads((out / "report.json").read_text())["notes"] == [NO_LABEL]
