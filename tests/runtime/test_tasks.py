"""Graphs in this process and on worker processes: the same outcomes, also where tasks and workers fail."""

import gc
import os
import random
import re
import signal
import time

import numpy as np
import pytest
from commands import HALF_OPEN, collect_half_open, wait_until
from distributed import Client

from voxelmill.basics.errors import FormatError, StageError
from voxelmill.runtime.cluster.connection import connect
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine
from voxelmill.runtime.task_window import WINDOW_PER_THREAD, execute
from voxelmill.runtime.tasks import Outcome, task, tree

WORKERS = 2
FAN_IN = 16


@pytest.fixture(scope="module")
def cluster():
    with connect("local", WORKERS) as client:
        yield client
    collect_half_open()


@pytest.fixture(params=["in this process", "on a cluster"])
def client(request):
    """What `execute` takes: None, or a client of two worker processes."""
    return None if request.param == "in this process" else request.getfixturevalue("cluster")


# Functions that run on workers


def double(n):
    return 2 * n


def wait_and_double(n, seconds):
    time.sleep(seconds)
    return 2 * n


def fail_expectedly():
    raise FormatError("channel 0 ends early. Mend the file.")


def fail_unexpectedly():
    raise RuntimeError("first line\nsecond line")


def run_out_of_memory():
    raise MemoryError("8 GiB")


def fill_the_disk():
    raise OSError(28, "No space left on device", "/secret/name/of/a/patient")


def die():
    time.sleep(0.5)  # Dask does not restart a worker that dies before it was seen to have started
    os.kill(os.getpid(), signal.SIGKILL)


def append_line(path, line):
    with path.open("a") as file:
        file.write(line)


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


def is_after(path):
    return path.exists()


def noise(seed):
    """Numbers whose sum depends on the order of summing."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=50) * 10.0 ** rng.integers(-8, 8, 50)


def slow_noise(seed, seconds):
    time.sleep(seconds)
    return noise(seed)


def add(parts):
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def join(parts):
    return "".join(parts)


def known_tasks(cluster):
    return cluster.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


def outcomes_of(tasks, client):
    return {outcome.name: outcome for outcome in execute(tasks, client)}


# Outcomes


def test_every_task_has_one_outcome_with_its_value(client):
    tasks = [task(f"double-{i}", f"case{i}", double, i) for i in range(50)]
    found = list(execute(tasks, client))
    assert len(found) == 50
    assert {o.name: (o.case, o.value) for o in found} == {
        f"double-{i}": (f"case{i}", 2 * i) for i in range(50)
    }
    for outcome in found:
        assert outcome.cause is outcome.details is None
        assert 0 <= outcome.seconds < 60
        assert outcome.peak_bytes > 10 * 2**20


def test_outcomes_do_not_depend_on_the_order_of_tasks(client):
    tasks = [task(f"shuffled-{i}", "", double, i) for i in range(30)]
    random.Random(1).shuffle(tasks)
    assert {name: o.value for name, o in outcomes_of(tasks, client).items()} == {
        f"shuffled-{i}": 2 * i for i in range(30)
    }


def test_no_tasks_have_no_outcomes(client):
    assert list(execute([], client)) == []


def test_words_that_are_names_of_other_tasks_stay_words(client):
    tasks = [
        task("one", "", str, "two"),
        task("two", "", str, "one"),
        task("three", "", join, ["one", "two"]),
    ]
    assert {name: o.value for name, o in outcomes_of(tasks, client).items()} == {
        "one": "two",
        "two": "one",
        "three": "onetwo",
    }


@pytest.mark.parametrize(
    ("function", "cause", "has_details"),
    [
        (fail_expectedly, "channel 0 ends early. Mend the file.", False),
        (
            fail_unexpectedly,
            r"RuntimeError at test_tasks:\d+, called by voxelmill.*:\d+\. This is a bug; OUT/logs .*",
            True,
        ),
        (
            run_out_of_memory,
            r"out of memory\. Run with fewer workers, or on a machine with more memory.",
            False,
        ),
        (
            fill_the_disk,
            r"OUT's disk is full \(No space left on device\)\. What is written stays: make room and .*",
            True,
        ),
    ],
)
def test_a_failure_is_an_outcome_with_one_line(client, function, cause, has_details):
    tasks = [task(f"good-{i}", f"case{i}", double, i) for i in range(5)]
    tasks.insert(2, task("bad", "case9", function))
    found = outcomes_of(tasks, client)
    assert len(found) == 6
    bad = found.pop("bad")
    assert (bad.case, bad.value) == ("case9", None)
    assert re.fullmatch(cause, bad.cause)
    assert (bad.details is not None) == has_details
    if has_details:
        assert bad.details.startswith("Traceback")
        assert function.__name__ in bad.details
        assert "first line" not in bad.details
        assert "secret" not in bad.details
    assert [found[f"good-{i}"].value for i in range(5)] == [0, 2, 4, 6, 8]


def test_what_comes_after_runs_after(client, tmp_path):
    first = task("slow-first", "a", append_line, tmp_path / "file", "x")
    later = [task(f"later-{i}", "a", is_after, tmp_path / "file", after=[first]) for i in range(4)]
    assert [o.value for o in outcomes_of(later, client).values()] == [True] * 4


def test_what_comes_after_a_failure_is_not_run_and_passes_the_cause_on(client, tmp_path):
    first = [task("before-good", "a", double, 1), task("before-bad", "a", fail_expectedly)]
    last = task("last", "a", append_line, tmp_path / "file", "x", after=first)
    (found,) = execute([last], client)
    assert (found.name, found.case) == ("before-bad", "a")
    assert found.cause == "channel 0 ends early. Mend the file."
    assert not (tmp_path / "file").exists()


def test_a_stage_tells_of_a_failed_preparation_once(client, caplog):
    bad, good = task("prepare-bad", "a", fail_expectedly), task("prepare-good", "b", double, 1)
    shards = [task(f"shard-a-{i}", "a", double, i, after=[bad]) for i in range(3)]
    shards += [task(f"shard-b-{i}", "b", double, i, after=[good]) for i in range(3)]
    found = {o.case: o for o in Engine(client, Reporter()).run("preprocess", iter(shards), len(shards))}
    assert found.keys() == {"a", "b"}
    assert found["a"].cause == "channel 0 ends early. Mend the file."
    assert (found["b"].cause, found["b"].value) == (None, 6)
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        "preprocess: case a: channel 0 ends early. Mend the file."
    ]


# Trees


@pytest.mark.parametrize("fan_in", [2, FAN_IN])
@pytest.mark.parametrize("count", [1, 2, FAN_IN, FAN_IN + 1, 3 * FAN_IN + 5])
def test_a_tree_merges_in_order(client, count, fan_in):
    letters = [chr(ord("0") + i) for i in range(count)]
    leaves = [task(f"leaf-{i}", f"case{i}", str, letter) for i, letter in enumerate(letters)]
    assert Engine(client, Reporter()).one("merge", tree("join", leaves, join, fan_in)) == "".join(letters)


def test_a_tree_deeper_than_two_levels():
    count = FAN_IN**2 + 3
    leaves = [task(f"deep-{i}", "", str, i % 10) for i in range(count)]
    joined = Engine(None, Reporter()).one("merge", tree("deep", leaves, join, FAN_IN))
    assert joined == "".join(str(i % 10) for i in range(count))


def test_sums_have_the_same_bits_whatever_is_done_first(cluster):
    count = 2 * FAN_IN + 3
    numbers = [noise(seed) for seed in range(count)]
    assert not np.array_equal(add(numbers), add(numbers[::-1]))  # the order matters

    def sums(client, *seconds):
        leaves = [task(f"noise-{i}", "", slow_noise, i, seconds[i] if seconds else 0.0) for i in range(count)]
        return Engine(client, Reporter()).one("merge", tree("add", leaves, add, FAN_IN))

    expected = sums(None)
    groups = [numbers[i : i + FAN_IN] for i in range(0, count, FAN_IN)]
    assert np.array_equal(expected, add([add(group) for group in groups]))
    for waits in (
        [],
        [0.0005 * i for i in range(count)],
        [0.0005 * (count - i) for i in range(count)],
        [0.01 * (i % 3 == 0) for i in range(count)],
    ):
        assert np.array_equal(sums(cluster, *waits), expected)


def test_a_tree_with_a_bad_leaf_fails_with_its_case(client):
    leaves = [task(f"leaf-{i}", f"case{i}", str, i) for i in range(FAN_IN + 4)]
    leaves[3] = task("leaf-3", "case3", fail_expectedly)
    with pytest.raises(StageError) as caught:
        Engine(client, Reporter()).one("fingerprint", tree("join-bad", leaves, join, FAN_IN))
    assert str(caught.value) == "fingerprint: case case3: channel 0 ends early. Mend the file."


def test_a_merge_that_fails_is_told(client):
    leaves = [task(f"number-{i}", f"case{i}", double, i) for i in range(3)]
    with pytest.raises(StageError, match=r"^merge: TypeError at test_tasks:\d+, called"):
        Engine(client, Reporter()).one("merge", tree("join-numbers", leaves, join, FAN_IN))


# The window


def test_no_more_than_a_window_is_ever_known(cluster):
    window = WORKERS * WINDOW_PER_THREAD
    taken = 0

    def many():
        nonlocal taken
        for i in range(4 * window):
            taken += 1
            yield task(f"window-{i}", "", double, i)

    done = 0
    for outcome in execute(many(), cluster):
        assert taken - done <= window
        assert len(cluster.futures) <= window
        if done % 16 == 0:
            wait_until(lambda: known_tasks(cluster) <= window)  # that a task is over is told a little later
        assert outcome.cause is None
        done += 1
    assert done == taken == 4 * window


def test_in_this_process_tasks_are_taken_one_by_one():
    taken = []

    def many():
        for i in range(5):
            taken.append(i)
            yield task(f"lazy-{i}", "", double, i)

    for done, _ in enumerate(execute(many(), None), 1):
        assert len(taken) == done


def test_a_slow_task_does_not_hold_up_the_others(cluster, tmp_path):
    """Outcomes come as they are ready, and the window slides on."""
    count = 3 * WORKERS * WINDOW_PER_THREAD
    tasks = [task("the-slow-one", "", wait_for, tmp_path / "go")]
    tasks += [task(f"quick-{i}", "", double, i) for i in range(count)]
    names = []
    for outcome in execute(tasks, cluster):
        names.append(outcome.name)
        if len(names) == count:
            (tmp_path / "go").touch()
    assert sorted(names) == sorted(t.name for t in tasks)
    assert names[-1] == "the-slow-one"


# One scheduler, several runs


def test_runs_one_after_the_other_compute_anew(cluster):
    for i in range(3):
        (found,) = execute([task("same name", "case", double, i)], cluster)
        assert found.value == 2 * i


def test_two_runs_on_one_scheduler_do_not_take_each_other_s_results(cluster):
    """Two datasets at once on one cluster, whose cases have the same names."""
    first = [task(f"ingest-{i}", f"{i}", double, i) for i in range(4)]
    second = [task(f"ingest-{i}", f"{i}", double, 10 * i) for i in range(4)]
    with Client(cluster.scheduler.address, set_as_default=False) as other:
        one = execute(first, cluster)
        values = [next(one).value]  # the first run goes on while the second one starts
        found = outcomes_of(second, other)
        values += [o.value for o in one]
    assert sorted(values) == [0, 2, 4, 6]
    assert {name: o.value for name, o in found.items()} == {f"ingest-{i}": 20 * i for i in range(4)}


def test_a_dashboard_that_finds_its_port_taken_takes_another(cluster):
    """Without a warning, and without a socket that stays open."""
    assert cluster.dashboard_link  # one of the two has the port that both ask for
    with connect("local", 1) as second:
        assert second.dashboard_link != cluster.dashboard_link
    gc.collect()


# Workers that die


@pytest.mark.filterwarnings(HALF_OPEN)
def test_a_task_that_kills_its_worker_is_one_bad_task(cluster):
    """To Dask all that waits on a dead worker is suspect, and what waits there three times is guilty."""
    count, place = 40, 5
    ready = [task(f"prepare-{i}", f"case{i}", double, i) for i in range(8)]
    tasks = [task(f"shard-{i}", "", wait_and_double, i, 0.1, after=[ready[i % 8]]) for i in range(count)]
    tasks[place] = task("shard-guilty", "case", die, after=[ready[place]])
    found = outcomes_of(tasks, cluster)
    assert len(found) == count
    bad = found.pop("shard-guilty")
    assert isinstance(bad, Outcome)
    assert bad.case == "case"
    assert bad.cause == (
        "its worker died three times while working on it: it was killed (SIGKILL), most likely for lack of "
        "memory by the batch system. It was skipped. Rerun with fewer workers or more memory."
    )
    assert [name for name, o in found.items() if o.cause is not None] == []
    assert {o.value for o in found.values()} == {2 * i for i in range(count) if i != place}


@pytest.mark.filterwarnings(HALF_OPEN)
def test_a_preparation_that_kills_its_worker_fails_its_own_shards_alone(cluster):
    bad, good = task("prepare-deadly", "a", die), task("prepare-fine", "b", double, 1)
    shards = [task(f"shard-deadly-{i}", "a", double, i, after=[bad]) for i in range(3)]
    shards += [task(f"shard-fine-{i}", "b", double, i, after=[good]) for i in range(3)]
    found = list(execute(shards, cluster))
    assert {o.case for o in found if o.cause is not None} == {"a"}
    assert all(o.cause.startswith("its worker died three times") for o in found if o.case == "a")
    assert sorted(o.value for o in found if o.case == "b") == [0, 2, 4]


@pytest.mark.filterwarnings(HALF_OPEN)
def test_a_leaf_that_kills_its_worker_fails_the_tree_with_the_cause(cluster):
    leaves = [task(f"leaf-{i}", f"case{i}", str, i) for i in range(3)]
    leaves[1] = task("leaf-deadly", "case1", die)
    with pytest.raises(StageError, match="worker died three times"):
        Engine(cluster, Reporter()).one("fingerprint", tree("join-deadly", leaves, join, FAN_IN))
