"""How far a stage is, where one volume is all there is: the bar moves within a case, and never back."""

import io
import itertools
import logging

import numpy as np
import pytest
from commands import HALF_OPEN, collect_half_open
from rich.console import Console
from runs import execute

from voxelmill.basics.errors import FormatError
from voxelmill.config.load_settings import make_config
from voxelmill.runs.job import Job
from voxelmill.runtime import progress_display, step_progress
from voxelmill.runtime.cluster.connection import connect
from voxelmill.runtime.progress_display import Reporter, StageProgress
from voxelmill.runtime.stage_engine import Engine
from voxelmill.runtime.step_progress import did, expect
from voxelmill.runtime.tasks import task, tree

SHAPE = (80, 160, 160)


@pytest.fixture(scope="module")
def cluster():
    with connect("local", 1) as client:
        client.run(say_at_once)
        yield client
    collect_half_open()


@pytest.fixture(params=["in this process", "on a cluster"])
def client(request, monkeypatch):
    """Where a step says at once how far it is."""
    monkeypatch.setattr(step_progress, "SAY_EVERY_SECONDS", 0)
    return None if request.param == "in this process" else request.getfixturevalue("cluster")


def say_at_once():
    step_progress.SAY_EVERY_SECONDS = 0


@pytest.fixture
def bars(monkeypatch):
    """Where the bar of each stage stood, each time that it was drawn anew; the bar is the real one."""
    seen = {}
    make = progress_display._bar

    def watched(console):
        bar = make(console)
        update = bar.update

        def watch(bar_id, **words):
            update(bar_id, **words)
            (shown,) = bar.tasks
            assert "%" in "".join(map(str, bar.make_tasks_table(bar.tasks).columns[2].cells))
            seen.setdefault(shown.description, []).append(shown.completed / shown.total)

        bar.update = watch
        return bar

    monkeypatch.setattr(progress_display, "_bar", watched)
    return seen


@pytest.fixture
def reporter():
    return Reporter(Console(file=io.StringIO(), force_terminal=True))


def is_monotonic(values):
    return all(a <= b for a, b in itertools.pairwise(values))


def one_case(folder, columns):
    """A manifest of one volume, and perhaps its label."""
    rng = np.random.default_rng(0)
    np.save(folder / "image.npy", rng.integers(1, 1000, SHAPE, "i2"))
    np.save(folder / "label.npy", rng.integers(0, 3, SHAPE, "u1"))
    files = ["image.npy", "label.npy"][: len(columns.split(","))]
    (folder / "cases.csv").write_text(f'case,{columns},spacing\na,{",".join(files)},"1,1,1"\n')
    return folder / "cases.csv"


@pytest.mark.filterwarnings(HALF_OPEN)
@pytest.mark.parametrize(
    ("columns", "stages"),
    [
        ("T1,label", ["ingest", "preprocess fullres"]),
        ("CT", ["ingest", "fingerprint", "preprocess fullres"]),  # without a label the mask is made first
    ],
)
def test_the_bar_moves_within_one_case(tmp_path, client, bars, reporter, columns, stages):
    settings = {"memory_limit": "238MiB", "store": {"shard_mib": 4, "chunk": [32, 32, 32]}}
    job = Job(tmp_path / "out", make_config(settings))
    report = execute(job, job.discover(one_case(tmp_path, columns)), Engine(client, reporter))
    assert [c.status for c in report.cases] == ["done"], report.cases[0].cause
    for stage in stages:
        stood = bars[stage]
        assert is_monotonic(stood), stage
        assert stood[-1] == 1
        assert len({part for part in stood if 0 < part < 1}) >= 3, (stage, stood)


# Functions that run on workers


def work(parts, fails=False):
    expect(parts)
    for _ in range(parts):
        did(1)
    if fails:
        raise FormatError("the file ends early. Mend it.")
    return 1


def more_than_expected():
    expect(2)
    for _ in range(5):
        did(1)
    return 1


def nothing_expected():
    did(5)
    return 1


@pytest.mark.filterwarnings(HALF_OPEN)
@pytest.mark.parametrize(
    ("tasks", "stood"),
    [
        ([(work, 4)], [0.25, 0.5, 0.75, 1, 1]),
        ([(work, 2), (work, 2)], [0.25, 0.5, 0.5, 0.75, 1, 1]),
        ([(work, 2, True), (work, 2)], [0.25, 0.5, 0.5, 0.75, 1, 1]),  # one that fails is over
        ([(more_than_expected,)], [0.5, 1, 1, 1, 1, 1]),
        ([(nothing_expected,)], [1]),
    ],
)
def test_where_the_bar_stands(client, bars, reporter, tasks, stood):
    made = (task(f"work-{i}", str(i), *of) for i, of in enumerate(tasks))
    Engine(client, reporter).run("work", made, len(tasks))
    assert is_monotonic(bars["work"])  # a cluster tells of the next before this is told to be over
    assert (len(bars["work"]), set(bars["work"])) == (len(stood), set(stood))


@pytest.mark.filterwarnings(HALF_OPEN)
def test_what_is_prepared_counts_until_a_task_is_done(client, bars, reporter):
    prepared = task("prepare", "a", work, 2)
    made = [task("shard-0", "a", nothing_expected, after=[prepared])]
    Engine(client, reporter).run("work", made, 2)
    assert bars["work"] == [0.25, 0.5, 0.5]


@pytest.mark.filterwarnings(HALF_OPEN)
def test_a_graph_with_one_end_moves_by_its_steps(client, bars, reporter):
    leaves = [task(f"leaf-{i}", str(i), work, 2) for i in range(2)]
    assert Engine(client, reporter).one("join", tree("join", leaves, sum, 2)) == 2
    assert is_monotonic(bars["join"])
    assert set(bars["join"]) == {0.25, 0.5, 0.75, 1}


def test_a_step_that_takes_no_time_says_nothing(bars, reporter):
    Engine(None, reporter).run("work", [task("work", "a", work, 1000)], 1)
    assert bars["work"] == [1]


def test_nobody_need_listen(monkeypatch):
    monkeypatch.setattr(step_progress, "SAY_EVERY_SECONDS", 0)
    assert work(3) == 1
    with step_progress.taking("0123456789ab", "work"):
        assert work(3) == 1


def test_a_bar_never_goes_back():
    stage = StageProgress("ingest", 2)
    for part in (0.5, 0.25, 0.75):  # as when a task is tried again
        stage.note("a", part)
    assert stage.shown == 0.75
    stage.note("b", 0.5)
    assert stage.shown == 1.25
    stage.advance(10, "a")
    assert (stage.done, stage.shown) == (1, 1.5)
    stage.note("late", 0.9)
    assert stage.shown == 2
    stage.advance(10, "b")
    assert (stage.done, stage.shown) == (2, 2)


def test_a_line_says_how_far_one_case_is(monkeypatch, caplog):
    monkeypatch.setattr(progress_display, "LINE_EVERY_SECONDS", -1)
    monkeypatch.setattr(progress_display.logger, "propagate", True)
    stage = StageProgress("ingest", 1)
    with caplog.at_level(logging.INFO, "voxelmill"):
        stage.note("a", 0.25)
        stage.advance(10**6, "a")
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("ingest: 0 of 1 (25 %), about ")
    assert last.startswith("ingest: 1 of 1, ")
