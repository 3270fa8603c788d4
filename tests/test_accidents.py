"""Real accidents in one dataset: each is one failed case with its own line, and nothing else suffers."""

import json
import re

import accidents
import pytest
from accidents import ACCIDENTS
from commands import within
from datasets import stores

from voxelmill.cases import list_cases

GOOD = ["good1", "good2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All accidents and two good cases, run once: OUT and what was said."""
    folder = tmp_path_factory.mktemp("accidents")
    source = accidents.write(folder / "raw")
    return folder / "out", within("run", source, folder / "out", "--cluster=none")


@pytest.fixture(scope="module")
def report(run):
    return {c["case"]: c for c in json.loads((run[0] / "report.json").read_text())["cases"]}


def test_there_are_many():
    assert len(ACCIDENTS) >= 30


@pytest.mark.parametrize("accident", ACCIDENTS, ids=lambda a: f"{a.name} ({a.thread})")
def test_is_told_with_its_cause(report, run, accident):
    of = report[accident.name]
    assert of["status"] == "failed"
    assert re.search(accident.cause, of["cause"]), of["cause"]
    assert len(of["cause"].splitlines()) == 1
    assert not re.search(r"\b(a|label)\.\w|IM\d|raw/", of["cause"]), of["cause"]
    assert f"failed  {accident.name}: {of['cause']}" in run[1].stdout


def test_others_are_completed_and_the_exit_status_says_so(report, run):
    out, done = run
    assert done.exit_code == 1
    assert [report[case]["status"] for case in ("good1", "good2")] == ["done", "done"]
    assert sorted(p.name for p in (out / "training.zarr" / "fullres").iterdir() if p.is_dir()) == GOOD
    assert list_cases(out) == GOOD


def test_the_good_ones_are_what_they_are_alone(run, tmp_path):
    alone = accidents.write(tmp_path / "raw", chosen=())
    assert within("run", alone, tmp_path / "out", "--cluster=none").exit_code == 0
    assert of_training(stores(run[0])) == of_training(stores(tmp_path / "out"))


def test_nothing_of_a_traceback_is_shown(run):
    assert "Traceback" not in run[1].stdout


def of_training(found):
    return {path: content for path, content in found.items() if path.startswith("training.zarr")}
