"""The plan: what it decides, when its token changes, and that it says what a run writes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from runs import execute
from strategies import SEEDS

from voxelmill.basics.errors import PlanError, StoreError
from voxelmill.basics.stage_order import Stage
from voxelmill.cli.tables import plan_tables
from voxelmill.config.load_settings import load_config
from voxelmill.config.settings import Config
from voxelmill.kernels.resampling.axis_matrix import GRID
from voxelmill.runs.job import Job
from voxelmill.runtime.memory_budget import SlabCost
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine
from voxelmill.stages.fingerprint.fingerprint_json import CaseFingerprint, Fingerprint, Intensity
from voxelmill.stages.planning.make_plan import make_plan
from voxelmill.stages.planning.plan_json import CasePlan, Plan
from voxelmill.stages.planning.spacing_rules import new_shape
from voxelmill.stages.raw_store.raw_case import RawCase
from voxelmill.storage.zarr_stores import TRAINING

CT = Intensity(max=3000, mean=40, median=35, min=-1000, percentile_00_5=-900, percentile_99_5=1200, std=80)


def case(
    shape=(40, 50, 60),
    spacing=(1.0, 1.0, 1.0),
    box=None,
    channels=1,
    label="uint8",
    labels=(0, 3),
    repairs=(),
):
    return CaseFingerprint(
        source="0",
        repairs=repairs,
        shape=shape,
        spacing=spacing,
        crop_box=box or [[0, n] for n in shape],
        channels=channels,
        dtype="int16",
        label_dtype=label,
        label_range=labels if label else None,
        image_cost=SlabCost(fixed=2**20, per_slice=3 * shape[1] * shape[2]),
        label_cost=SlabCost(fixed=2**19, per_slice=2 * shape[1] * shape[2]) if label else None,
        read_bytes=2**20,
    )


def fingerprint(cases, names=("MR",), intensity=None, relative=1.0, **others):
    boxes = [[b - a for a, b in c.crop_box] for c in cases.values()]
    return Fingerprint(
        spacings=[c.spacing for c in cases.values()],
        shapes_after_crop=boxes,
        foreground_intensity_properties_per_channel=intensity or {},
        median_relative_size_after_cropping=relative,
        statistics_from="label",
        channel_names=names,
        ignore_label=others.get("ignore_label"),
        classes=others.get("classes", 2),
        cases=cases,
    )


def plan_of(*cases, config=None, **others):
    named = {f"case{i}": c for i, c in enumerate(cases)}
    return make_plan(fingerprint(named, **others), config or Config())


# Shards


@st.composite
def case_plans(draw):
    rng = np.random.default_rng(draw(SEEDS))
    cases = [
        case(
            tuple(rng.integers(1, 400, 3).tolist()),
            tuple(rng.choice([0.5, 0.8, 1, 1.25, 3, 5], 3).tolist()),
            channels=draw(st.integers(1, 3)),
        )
    ]
    words = [f"store.shard_mib={draw(st.sampled_from([1, 4, 128]))}"]
    if draw(st.booleans()):
        words.append(f"store.chunk={rng.choice([8, 20, 32, 48, 64], 3).tolist()}")
    target = rng.choice([0.8, 1, 2.5], 3).tolist()
    words.append(f"target_spacing={target}")
    names = tuple("abc"[: cases[0].channels])
    return (
        plan_of(*cases, names=names, config=load_config(settings=words))
        .configurations["fullres"]
        .cases["case0"]
    )


@settings(max_examples=100, derandomize=True)
@given(case_plans())
def test_write_boxes_tile_the_output_exactly_once(plan):
    touched = [np.zeros(n + 1, int) for n in plan.shape]
    boxes = {index: plan.write_box(n) for n, index in enumerate(np.ndindex(plan.grid))}
    assert len(boxes) == plan.shards
    assert sum(box.size for box in boxes.values()) == np.prod(plan.shape, dtype=np.int64)
    for index, box in boxes.items():
        assert min(box.shape) > 0
        for axis in range(3):
            assert box.start[axis] == index[axis] * plan.shard[axis]
            assert box.stop[axis] == min(plan.shape[axis], box.start[axis] + plan.shard[axis])
            assert box.start[axis] % GRID == 0
            touched[axis][box.start[axis]] = 1
    # Their borders form a grid, so sizes that add up leave no gap and no overlap.
    assert [int(t.sum()) for t in touched] == list(plan.grid)


def test_write_boxes_tile_voxel_by_voxel():
    plan = CasePlan(
        source="0",
        repairs=(),
        source_shape=(5, 6, 7),
        source_spacing=(1, 1, 1),
        crop_box=[[0, 5], [0, 6], [0, 7]],
        shape=(70, 33, 9),
        target_spacing=(1, 1, 1),
        separate_axis=None,
        chunk=(32, 32, 9),
        shard=(32, 32, 9),
        channels=1,
        has_label=False,
        read_bytes=0,
    )
    times = np.zeros(plan.shape, int)
    for number in range(plan.shards):
        times[plan.write_box(number).slices] += 1
    assert (times == 1).all()
    assert plan.grid == (3, 2, 1)


@settings(max_examples=60, derandomize=True)
@given(case_plans())
def test_shapes_and_layout_agree(plan):
    assert plan.shape == new_shape(
        [b - a for a, b in plan.crop_box], plan.source_spacing, plan.target_spacing
    )
    assert all(c <= n for c, n in zip(plan.chunk, plan.shape, strict=True))
    assert all(s % c == 0 for s, c in zip(plan.shard, plan.chunk, strict=True))
    assert plan.image_bytes == 4 * plan.channels * np.prod(plan.shape)


# Decisions


def test_the_target_is_the_rule_s_or_the_user_s():
    cases = [case(spacing=(2.0, 1.0, 1.0)), case(spacing=(4.0, 1.0, 1.2))]
    assert plan_of(*cases).configurations["fullres"].target_spacing == (3.0, 1.0, 1.1)
    chosen = plan_of(*cases, config=load_config(settings=["target_spacing=[1, 2, 3]"]))
    assert chosen.configurations["fullres"].target_spacing == (1.0, 2.0, 3.0)


def test_the_2d_set_keeps_each_case_s_spacing_across():
    cases = [
        case((20, 50, 60), (4.0, 1.0, 1.0)),
        case((30, 50, 60), (3.0, 2.0, 1.0)),
        case((10, 50, 60), (5.0, 1.0, 0.5)),
    ]
    of = plan_of(*cases, config=load_config(settings=['configurations=["2d", "fullres"]'])).configurations
    assert of["2d"].target_spacing == of["fullres"].target_spacing == (4.0, 1.0, 1.0)
    for before, after in zip(cases, of["2d"].cases.values(), strict=True):
        assert after.target_spacing == (before.spacing[0], 1.0, 1.0)
        assert after.shape[0] == before.shape[0]
        assert after.chunk[0] == 1
    assert of["2d"].cases["case1"].shape == (30, 100, 60)
    assert of["fullres"].cases["case1"].shape == (22, 100, 60)  # 22.5 goes to the even 22


def test_the_2d_set_leaves_out_the_axis_of_the_largest_target_spacing():
    of = plan_of(
        case((50, 60, 20), (1.0, 1.0, 4.0)),
        case((50, 60, 30), (1.0, 2.0, 3.0)),
        config=load_config(settings=['configurations=["2d"]']),
    ).configurations
    assert [c.target_spacing for c in of["2d"].cases.values()] == [(1.0, 1.5, 4.0), (1.0, 1.5, 3.0)]


def lowres_of(*cases, names='["lowres", "fullres", "2d"]', words=(), **others):
    config = load_config(settings=[f"configurations={names}", *words])
    return plan_of(*cases, config=config, **others)


def test_lowres_resamples_each_case_s_crop_to_the_spacing_of_the_rule():
    plan = lowres_of(
        case((520, 512, 512), (1.0, 0.75, 0.75), box=[[10, 492], [0, 512], [0, 512]]),
        case((482, 512, 512), (1.0, 0.75, 0.75)),
        case((241, 512, 512), (2.0, 0.75, 0.75)),
        classes=3,
    )
    assert list(plan.configurations) == ["lowres", "fullres", "2d"]
    assert plan.left_out == {}
    of = plan.configurations["lowres"]
    # nnU-Net 2.8.1 plans (193, 205, 205) voxels of this spacing.
    assert of.target_spacing == pytest.approx((2.5000803453253524, 1.8750602589940135, 1.8750602589940135))
    assert [row.shape for row in of.cases.values()] == [(193, 205, 205)] * 3
    assert {row.target_spacing for row in of.cases.values()} == {of.target_spacing}
    for name in ("fullres", "2d"):
        assert plan.configurations[name].target_spacing == (1.0, 0.75, 0.75)


def test_lowres_changes_no_other_configuration():
    cases = [case((300, 600, 600), (1.0, 0.75, 0.75)), case((480, 512, 400), (3.0, 0.75, 0.75))]
    without, with_ = lowres_of(*cases, names='["fullres", "2d"]'), lowres_of(*cases)
    assert "lowres" in with_.configurations
    for name in ("fullres", "2d"):
        assert with_.configurations[name] == without.configurations[name]
        assert with_.token(name, "case0") == without.token(name, "case0")
    assert len({with_.token(name, "case0") for name in with_.configurations}) == 3


def test_lowres_starts_from_the_user_s_spacing():
    cases = [case((482, 512, 512), (1.0, 0.75, 0.75))]
    plan = lowres_of(*cases, words=["target_spacing=[1.0, 0.75, 0.75]"], classes=3)
    assert plan.configurations["lowres"] == lowres_of(*cases, classes=3).configurations["lowres"]
    coarse = lowres_of(*cases, words=["target_spacing=[3.0, 3.0, 3.0]"])
    assert list(coarse.configurations) == ["fullres", "2d"]


@pytest.mark.parametrize(
    ("cases", "reason"),
    [
        (
            [case((138, 169, 138)), case((140, 169, 138))],
            "a fullres patch, 128x128x128, holds 65% of the median case, 139x169x138, and 25% is enough",
        ),
        (
            [case((210, 210, 210))],
            "a fullres patch, 128x128x128, holds 23% of the median case, 210x210x210, and 25% would need "
            "more than half of its voxels",
        ),
        ([case((1, 3000, 3000), (5.0, 1.0, 1.0))], "its cases are single slices"),
    ],
)
def test_lowres_is_left_out_where_nnunet_makes_none(cases, reason):
    plan = lowres_of(*cases)
    assert list(plan.configurations) == ["fullres", "2d"]
    assert plan.left_out == {"lowres": reason}
    with pytest.raises(PlanError) as caught:
        lowres_of(*cases, names='["lowres"]')
    assert str(caught.value) == (
        f"lowres alone is asked for, but nnU-Net makes none for this dataset: {reason}. "
        "Choose --set 'configurations=[\"fullres\"]'."
    )


def test_what_is_left_out_is_said(tmp_path, caplog):
    (tmp_path / "out").mkdir()
    job = Job(tmp_path / "out", load_config(settings=['configurations=["fullres", "lowres"]']))
    with caplog.at_level("INFO", "voxelmill"):
        job.fingerprint = fingerprint({"a": case((138, 169, 138))})
        job.perform([Stage.PLAN], Engine(None, Reporter()))
    plan = job.plan
    assert caplog.messages == [f"plan: lowres is left out: {plan.left_out['lowres']}"]
    assert Plan.load(tmp_path / "out") == plan


def test_an_anisotropic_case_gets_its_separate_axis_unless_told_never():
    cases = [case((20, 50, 60), (5.0, 1.0, 1.0)), case((60, 50, 60), (1.0, 1.0, 1.0))]
    target = "target_spacing=[1, 1, 1]"
    axes = {
        rule: [
            c.separate_axis
            for c in plan_of(*cases, config=load_config(settings=[target, f"separate_axis={rule}"]))
            .configurations["fullres"]
            .cases.values()
        ]
        for rule in ("auto", "never")
    }
    assert axes == {"auto": [0, None], "never": [None, None]}


@pytest.mark.parametrize(
    ("labels", "outside", "expected"),
    [
        ([(0, 1)], 0, "uint8"),
        ([(0, 255)], 0, "uint8"),
        ([(0, 256)], 0, "uint16"),
        ([(0, 1), (0, 70000)], 0, "uint32"),
        ([(0, 2**32)], 0, "uint64"),
        ([(0, 127)], -1, "int8"),
        ([(0, 128)], -1, "int16"),
        ([(0, 2**31)], -1, "int64"),
        ([(-2, 127)], 0, "int8"),
        ([(-200, 5)], 0, "int16"),
        ([(3, 5), None], 0, "uint8"),
        ([None, None], 0, None),
        ([None], -1, None),
        ([(0, 2**64 - 1)], 0, "uint64"),
    ],
)
def test_labels_take_the_smallest_type_that_holds_them(labels, outside, expected):
    cases = [case(label=None if r is None else "int64", labels=r) for r in labels]
    assert plan_of(*cases, config=load_config(settings=[f"outside_label={outside}"])).label_dtype == expected


def test_labels_that_no_type_holds_are_refused():
    with pytest.raises(PlanError, match="18446744073709551615"):
        plan_of(case(label="uint64", labels=(0, 2**64 - 1)), config=load_config("nnunet"))


@pytest.mark.parametrize(
    ("relative", "masked"), [(0.74, (True, False)), (0.75, (False, False)), (1.0, (False, False))]
)
def test_masked_normalisation_where_cropping_takes_a_quarter(relative, masked):
    names = ("T1", "CT")
    plan = plan_of(case(channels=2), names=names, intensity={"0": CT, "1": CT}, relative=relative)
    of = plan.configurations["fullres"]
    assert of.normalization == ("ZScoreNormalization", "CTNormalization")
    assert of.use_mask_for_norm == masked


def test_channel_names_must_be_as_many_as_channels():
    with pytest.raises(PlanError) as caught:
        plan_of(case(), case(channels=2), names=("T1",))
    assert str(caught.value) == (
        "case case1 has 2 channels, but 1 are named (T1). Name each channel once: --set 'channels=[...]'."
    )
    with pytest.raises(PlanError, match=r"case case0 has 1 channels, but 2 are named \(A, B\)"):
        plan_of(case(), names=("T1",), config=load_config(settings=['channels=["A", "B"]']))


def test_the_user_s_channel_names_choose_the_scheme():
    config = load_config(settings=['channels=["noNorm", "rescale_to_0_1"]'])
    plan = plan_of(case(channels=2), names=("CT", "CT"), config=config)
    assert plan.channel_names == ("noNorm", "rescale_to_0_1")
    schemes = plan.configurations["fullres"].normalization
    assert schemes == ("NoNormalization", "RescaleTo01Normalization")


def test_ct_without_foreground_is_refused_by_channel():
    with pytest.raises(PlanError, match=r"^channel 1 is CT, .* no label of any case has foreground\. Check"):
        plan_of(case(channels=2), names=("T1", "ct"), intensity={"0": CT})
    assert plan_of(case(), names=("CT",), intensity={"0": CT}).channel_names == ("CT",)


def test_peak_memory_grows_with_the_shard_and_is_said_for_each_stage():
    cases = [case((300, 300, 300), (1.0, 1.0, 1.0))]
    small = plan_of(*cases, config=load_config(settings=["store.shard_mib=4"])).peak_bytes
    large = plan_of(*cases, config=load_config(settings=["store.shard_mib=128"])).peak_bytes
    assert small.keys() == large.keys() == {"ingest", "fingerprint", "preprocess"}
    assert small["ingest"] == large["ingest"]
    assert large["preprocess"] - small["preprocess"] > 100 * 2**20


# Its file


def test_json_comes_back(tmp_path):
    config = load_config("nnunet", None, ['configurations=["fullres", "2d"]', "store.chunk=[8, 8, 8]"])
    plan = plan_of(case(), case(label=None), names=("CT",), intensity={"0": CT}, config=config)
    plan.save(tmp_path)
    assert Plan.load(tmp_path) == plan
    first = (tmp_path / "plan.json").read_bytes()
    Plan.load(tmp_path).save(tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == first
    for name in ("case0", "case1"):
        assert Plan.load(tmp_path).token("2d", name) == plan.token("2d", name)


@settings(max_examples=60, derandomize=True)
@given(st.tuples(*[st.floats(0.01, 50)] * 3), st.tuples(*[st.floats(-1e6, 1e6)] * 7))
def test_numbers_come_back_to_the_last_bit(spacing, numbers):
    intensity = Intensity(**dict(zip(Intensity.model_fields, numbers, strict=True)))
    plan = plan_of(case((4, 4, 4), spacing), names=("CT",), intensity={"0": intensity})
    assert Plan.model_validate_json(plan.model_dump_json(indent=1)) == plan


def test_a_plan_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StoreError, match="voxelmill plan OUT"):
        Plan.load(tmp_path)


def test_unknown_keys_are_refused(tmp_path):
    plan_of(case()).save(tmp_path)
    content = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**content, "more": 1}))
    with pytest.raises(StoreError, match="more"):
        Plan.load(tmp_path)


# The token

BASE = ["target_spacing=[1, 1, 1]"]
CASES = {"case0": case(), "case1": case((30, 30, 30))}


def token_of(words=(), cases=None, name="case0", configuration="fullres", **others):
    found = fingerprint({**CASES, **(cases or {})}, **{"intensity": {"0": CT}, **others})
    return make_plan(found, load_config(settings=[*BASE, *words])).token(configuration, name)


@pytest.mark.parametrize(
    "word",
    [
        "target_spacing=[1, 1, 2]",
        'channels=["T2"]',
        "order=1",
        "order_separate=1",
        "separate_axis=never",
        "anti_alias=true",
        "labels=linear",
        "outside_label=-1",
        "nonfinite=zero",
        "dicom.series=2",
        "dicom.padding=keep",
        "store.chunk=[8, 8, 8]",
        "store.shard_mib=1",
        "store.compressor=zstd",
        "store.level=1",
    ],
)
def test_a_changed_setting_changes_the_token(word):
    assert token_of([word]) != token_of()


ELSEWHERE = {"cluster", "no_worker_timeout", "check_disk", "dicom.ids", "dicom.salt", "dicom.mapping"}
"""Say where a run takes place and what cases are called, and are not written to OUT."""


def test_every_setting_is_in_the_table_above_or_does_not_matter():
    leaves = {f for f in Config.model_fields if f not in ("dicom", "ingest", "store", "repair")}
    for name in ("dicom", "ingest", "store"):
        fields = type(getattr(Config(), name)).model_fields
        leaves |= {f"{name}.{field.alias or f}" for f, field in fields.items()}
    (table,) = (m for m in test_a_changed_setting_changes_the_token.pytestmark if m.name == "parametrize")
    left = leaves - {word.partition("=")[0] for word in table.args[1]}
    assert left == {"configurations", "memory_limit", "ingest.copy", "ingest.outside"} | ELSEWHERE


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("CT",)},
        {"names": ("T2",)},
        {"relative": 0.5},
        {"cases": {"case0": case((41, 50, 60))}},
        {"cases": {"case0": case(spacing=(1.0, 1.0, 1.1))}},
        {"cases": {"case0": case(box=[[1, 40], [0, 50], [0, 60]])}},
        {"cases": {"case0": case(repairs=("repair.shear=undo",))}},
        {"cases": {"case1": case((30, 30, 30), labels=(0, 300))}},  # the labels' type is the dataset's
    ],
)
def test_a_changed_dataset_changes_the_token(change):
    assert token_of(**change) != token_of()


def test_ct_depends_on_the_datasets_intensities():
    other = {"0": CT.model_copy(update={"mean": 41.0})}
    assert token_of(names=("CT",), intensity=other) != token_of(names=("CT",), intensity={"0": CT})


@pytest.mark.parametrize(
    "change",
    [
        {"intensity": {"0": CT.model_copy(update={"mean": 41.0})}},  # z-score needs none of it
        {"words": ['configurations=["2d", "fullres"]']},
        {"words": ["memory_limit=4GiB"]},
        {"words": ["ingest.copy=false"]},
        {"cases": {"case1": case((30, 31, 30))}},
        {"cases": {"case1": case((30, 30, 30), labels=(0, 9))}},
        {"cases": {"case2": case((30, 30, 30))}},
    ],
)
def test_what_does_not_matter_keeps_the_token(change):
    assert token_of(**change) == token_of()


def test_cases_and_configurations_have_tokens_of_their_own():
    tokens = {
        token_of(['configurations=["2d", "fullres"]'], name=name, configuration=configuration)
        for name in CASES
        for configuration in ("2d", "fullres")
    }
    assert len(tokens) == 4


# What it says is what a run writes


def table_of(tables):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(tables[-1])
    rows = (line.strip(" │┃").split("│") for line in capture.get().splitlines())
    return {row[0].strip(): row[-1].strip() for row in rows if len(row) == 2}


@pytest.mark.parametrize("labels", ["every case", "one case", "no case"])
def test_files_and_bytes_are_those_of_a_run(tmp_path, labels):
    rng = np.random.default_rng(3)
    rows = ["case,T1,T2,label,spacing"]
    for i, shape in enumerate([(90, 150, 45), (33, 140, 40)]):
        for name in ("T1", "T2"):
            np.save(tmp_path / f"{i}{name}.npy", rng.integers(1, 99, shape).astype("i2"))
        np.save(tmp_path / f"{i}label.npy", rng.integers(0, 3, shape).astype("u1"))
        has_label = labels == "every case" or (labels == "one case" and i == 0)
        rows.append(f'{i},{i}T1.npy,{i}T2.npy,{f"{i}label.npy" if has_label else ""},"1,0.5,2"')
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    settings_ = ['configurations=["fullres", "2d"]', "store.shard_mib=1", "store.chunk=[16, 16, 16]"]
    job = Job(tmp_path / "out", load_config(settings=settings_))
    report = execute(job, job.discover(tmp_path / "cases.csv"))
    assert {c.status for c in report.cases} == {"done"}

    plan = Plan.load(tmp_path / "out")
    written = [p for p in (tmp_path / "out" / TRAINING).rglob("*") if p.is_file()]
    assert sum(c.shards for of in plan.configurations.values() for c in of.cases.values()) > 4
    table = table_of(plan_tables(plan, tmp_path / "out"))
    assert int(table["files (inodes)"]) == len(written)
    voxels = {
        (name, c): np.prod(row.shape)
        for name, of in plan.configurations.items()
        for c, row in of.cases.items()
    }
    labelled = {c for c in ("0", "1") if RawCase(tmp_path / "out", c).has_label}
    assert plan.training_bytes == sum(n * (8 + (c in labelled)) for (_, c), n in voxels.items())
