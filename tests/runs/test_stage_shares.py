"""Shares of a stage, `--share i/n`: processes that know nothing of each other make what one run makes."""

import json
import signal
import subprocess

import datasets
import pytest
from commands import ENVIRONMENT, SCRIPT, alone, status_within, wait_until, within
from datasets import stores
from hypothesis import given, settings
from hypothesis import strategies as st

from voxelmill.basics.errors import ConfigError
from voxelmill.basics.stage_share import Share
from voxelmill.runtime.memory_budget import Memory
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.preprocessing.training_store import deal, training_cases

CASES = ("a", "b", "c", "d", "e")
MANY_SHARDS = [
    "--set=store.shard_mib=1",
    "--set=store.chunk=[16, 32, 32]",
    "--set=target_spacing=[0.4, 0.08, 0.08]",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source, and what one run makes of it."""
    folder = tmp_path_factory.mktemp("shares")
    source = datasets.nnunet(folder / "raw", CASES, shape=(10, 20, 18)).source
    assert status_within("run", source, folder / "whole", *MANY_SHARDS) == 0
    return source, folder / "whole"


def shares(stage, count, *words):
    """One after another; their exit statuses."""
    return [status_within(stage, *words, f"--share={i + 1}/{count}") for i in range(count)]


def decide(out, *options, status=0):
    assert status_within("fingerprint", out) == status
    assert status_within("plan", out, *options) == status


def report(out):
    return {c["case"]: c["status"] for c in json.loads((out / "report.json").read_text())["cases"]}


def chain(source, out, count=3):
    assert shares("ingest", count, source, out) == [0] * count
    decide(out, *MANY_SHARDS)
    assert shares("preprocess", count, out) == [0] * count


# Who does what


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "-1/3", "1/0", "1/3/5", "a/b", "1 / 3"])
def test_what_names_no_share_is_refused(text):
    with pytest.raises(ConfigError, match=r"--share is .*: needs i/n with i from 1 to n, such as 2/4"):
        Share.parse(text)


def test_cases_are_dealt_out_once():
    dealt = [Share(i + 1, 3).of(CASES) for i in range(3)]
    assert sorted(case for share in dealt for case in share) == list(CASES)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 40))
def test_shards_are_dealt_out_once_in_runs_of_equal_voxels(made, count):
    """Whatever the number of shares; it depends on nothing but the plan."""
    out = made[1]
    cases = list(training_cases(out, Plan.load(out), "fullres", Memory()))
    owners = {}
    for i in range(count):
        for case, numbers in zip(cases, deal(cases, Share(i + 1, count)), strict=True):
            for number in numbers:
                assert (case.case, number) not in owners
                owners[case.case, number] = i
    order = [owners[c.case, n] for c in cases for n in range(c.plan.shards)]
    assert order == sorted(order)
    largest = max(c.voxels / c.plan.shards for c in cases)
    fair = sum(c.voxels for c in cases) / count
    for i in range(count):
        mine = sum(
            c.voxels / c.plan.shards for c in cases for n in range(c.plan.shards) if owners[c.case, n] == i
        )
        assert abs(mine - fair) <= largest + 1


# The same as one run


def test_shares_one_after_another_make_what_one_run_makes(made, tmp_path):
    source, whole = made
    chain(source, tmp_path / "out")
    assert stores(tmp_path / "out") == stores(whole)
    assert report(tmp_path / "out") == dict.fromkeys(CASES, "done")
    done = within("status", tmp_path / "out")
    assert done.exit_code == 0
    assert "at work" not in done.stdout


def test_more_shares_than_cases(made, tmp_path):
    source, whole = made
    chain(source, tmp_path / "out", 7)
    assert stores(tmp_path / "out") == stores(whole)


@pytest.mark.slow
def test_shares_at_once_one_of_them_killed_and_run_again(made, tmp_path):
    """An element of a job array is lost with its node: the others go on, and it is submitted again."""
    source, whole = made
    out = tmp_path / "out"
    assert shares("ingest", 2, source, out) == [0, 0]
    decide(out, *MANY_SHARDS)

    def start(i):
        return subprocess.Popen(
            [SCRIPT, "preprocess", out, f"--share={i}/3", "--cluster=none"],
            env=ENVIRONMENT,
            stderr=subprocess.DEVNULL,
        )

    running = [start(i) for i in (1, 2, 3)]
    wait_until(lambda: list((out / "training.zarr").rglob("*/c/*/*/*")), pause=0.01)
    running[1].send_signal(signal.SIGKILL)
    assert [p.wait(120) for p in running] == [0, -signal.SIGKILL, 0]
    assert within("status", out).exit_code == 1
    again = alone("preprocess", out, "--share=2/3")
    assert again.returncode == 0, again.stderr
    assert stores(out) == stores(whole)
    assert not list(out.rglob("*.partial"))
    assert report(out) == dict.fromkeys(CASES, "done")


# One bad case, one lost share


def test_a_bad_case_is_one_bad_case_of_its_share(made, tmp_path):
    source = tmp_path / "raw"
    datasets.nnunet(source, CASES, shape=(10, 20, 18))
    (source / "imagesTr" / "c_0000.nii.gz").write_bytes(b"no image")
    out = tmp_path / "out"
    assert shares("ingest", 2, source, out) == [1, 0]
    decide(out, *MANY_SHARDS, status=1)
    assert shares("preprocess", 2, out) == [0, 0]
    assert report(out) == dict.fromkeys(CASES, "done") | {"c": "failed"}
    done = within("status", out)
    assert done.exit_code == 1
    assert "failed  c: " in done.stdout
    assert "failed  a" not in done.stdout


def test_statistics_are_not_made_while_a_share_is_missing_and_nobody_says_why(made, tmp_path):
    """A killed element would silently change every voxel of the others."""
    out = tmp_path / "out"
    assert status_within("ingest", made[0], out, "--share=1/2") == 0
    done = alone("fingerprint", out)
    assert done.returncode == 2
    assert (
        "2 cases of SOURCE are not in the raw store, and none is reported as failed: b is one" in done.stderr
    )
    assert not (out / "fingerprint.json").exists()


# Wrong use


def test_restart_is_not_for_shares(made, tmp_path):
    done = alone("ingest", made[0], tmp_path / "out", "--share=1/2", "--restart")
    assert done.returncode == 2
    assert "Run it without --share" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--set", "order=1"], ["'order' is 1", "made with 3"]),
        (
            ["--preset", "nnunet"],
            ["'dicom.padding' is 'keep'", "'labels' is 'linear', the plan was made with 'nearest'"],
        ),
    ],
)
def test_other_settings_than_the_plan_s_are_refused(made, words, named):
    done = alone("preprocess", made[1], "--share=1/2", *words)
    assert done.returncode == 2
    for text in named:
        assert text in done.stderr


def test_the_plan_s_own_settings_may_be_said_again(made):
    assert status_within("preprocess", made[1], *MANY_SHARDS) == 0
