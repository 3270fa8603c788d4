"""How tasks run while things go wrong: what passes is tried again, workers come and go, nobody is left.

The functions below run on real workers; a folder keeps count of their calls.
"""

import errno
import os
import time

import pytest
from commands import workers
from distributed import Nanny

from voxelmill.basics.errors import ClusterLostError, FormatError
from voxelmill.runtime import task_window
from voxelmill.runtime.cluster.connection import connect
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine
from voxelmill.runtime.task_window import execute
from voxelmill.runtime.tasks import Outcome, in_groups, task, together, tree
from voxelmill.runtime.workers_present import Watch


@pytest.fixture(scope="module")
def cluster():
    with connect("local", 2) as client:
        yield client


@pytest.fixture(params=["in this process", "on a cluster"])
def client(request):
    return None if request.param == "in this process" else request.getfixturevalue("cluster")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("voxelmill.runtime.task_window.PAUSE_SECONDS", 0.01)


# What workers do


def note(folder, name):
    """How often this was called, this time included."""
    with (folder / name).open("a") as file:
        file.write(f"{os.getpid()} {time.monotonic()}\n")
    return len((folder / name).read_text().splitlines())


def times(folder, name):
    return len((folder / name).read_text().splitlines()) if (folder / name).exists() else 0


def double(n):
    return 2 * n


def doubled(folder, name, n):
    note(folder, name)
    return 2 * n


def pause(seconds, n):
    time.sleep(seconds)
    return n


def passing(folder, name, failures, number=errno.EIO):
    if note(folder, name) <= failures:
        raise OSError(number, os.strerror(number))
    return 7


def short_of_memory(folder, name, failures):
    if note(folder, name) <= failures:
        raise MemoryError("8 GiB")
    return 7


def fail():
    raise FormatError("channel 0 ends early. Mend the file.")


def where():
    from distributed import get_worker

    return get_worker().name


def device():
    from voxelmill.kernels import backend

    return backend._device.get()


def run(tasks, client, **watch):
    return {o.name: o for o in execute(tasks, client, Watch(**watch))}


# Steps that share a task


def test_steps_of_several_cases_share_a_task(client):
    parts = [task(f"shard-{i}", f"case{i}", double, i) for i in range(5)]
    found = run([together(parts)], client)
    assert {name: (o.case, o.value) for name, o in found.items()} == {
        f"shard-{i}": (f"case{i}", 2 * i) for i in range(5)
    }


def test_where_one_fails_the_rest_of_its_case_is_left_out_and_the_others_are_not(client, tmp_path):
    parts = [
        task("prepare-a", "a", fail),
        task("shard-a", "a", note, tmp_path, "a"),
        task("prepare-b", "b", double, 1),
        task("shard-b", "b", note, tmp_path, "b"),
    ]
    found = run([together(parts)], client)
    assert found["prepare-a"].cause == "channel 0 ends early. Mend the file."
    assert "shard-a" not in found
    assert times(tmp_path, "a") == 0
    assert (found["shard-b"].value, found["shard-b"].cause) == (1, None)


def test_groups_keep_the_order_and_the_limit():
    parts = [(task(f"t-{i}", str(i), double, i), cost) for i, cost in enumerate([3, 3, 3, 9, 1, 1, 20, 4])]
    grouped = [[s.name for s in t.steps] for t in in_groups(parts, 9)]
    assert grouped == [["t-0", "t-1", "t-2"], ["t-3"], ["t-4", "t-5"], ["t-6"], ["t-7"]]


def test_what_waits_for_something_stays_a_task_of_its_own():
    before = task("prepare", "a", double, 1)
    parts = [(task("x", "x", double, 1), 1), (task("y", "a", double, 1, after=[before]), 1)]
    assert [t.name for t in in_groups([*parts, (task("z", "z", double, 1), 1)], 100)] == ["x", "y", "z"]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33, 300])
def test_a_coarse_tree_merges_in_the_same_groups(client, count):
    leaves = [task(f"leaf-{i}", f"case{i}", str, i) for i in range(count)]
    fine, coarse = (
        Engine(client, Reporter()).one("merge", tree("join", leaves, bracketed, 16, is_coarse))
        for is_coarse in (False, True)
    )
    assert fine == coarse


def bracketed(parts):
    return f"({' '.join(parts)})"


# Tried again


def test_trouble_that_passes_is_tried_again(client, tmp_path):
    found = run([task("read", "a", passing, tmp_path, "read", 2)], client)
    assert (found["read"].value, found["read"].cause) == (7, None)
    assert times(tmp_path, "read") == 3


def test_trouble_that_stays_is_told_after_three_times(client, tmp_path):
    found = run([task("read", "a", passing, tmp_path, "read", 99, errno.ESTALE)], client)
    assert found["read"].cause.startswith(os.strerror(errno.ESTALE))
    assert times(tmp_path, "read") == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EDQUOT])
def test_trouble_that_does_not_pass_by_itself_is_told_at_once(client, tmp_path, number):
    found = run([task("read", "a", passing, tmp_path, "read", 99, number)], client)
    assert os.strerror(number) in found["read"].cause
    assert times(tmp_path, "read") == 1


def test_a_bad_file_is_not_read_again(client, tmp_path):
    found = run([together([task("count", "a", note, tmp_path, "a"), task("bad", "a", fail)])], client)
    assert found["bad"].cause is not None
    assert times(tmp_path, "a") == 1


def test_of_a_group_only_the_case_in_trouble_is_tried_again_as_a_whole(client, tmp_path):
    parts = [
        task("prepare-a", "a", note, tmp_path, "prepare-a"),
        task("shard-a", "a", passing, tmp_path, "shard-a", 1),
        task("shard-b", "b", note, tmp_path, "shard-b"),
    ]
    found = list(execute([together(parts)], client))
    assert sorted(o.name for o in found) == ["prepare-a", "shard-a", "shard-b"]
    assert all(o.cause is None for o in found)
    assert [times(tmp_path, name) for name in ("prepare-a", "shard-a", "shard-b")] == [2, 2, 1]


def test_what_stands_before_is_tried_again_with_it(client, tmp_path):
    before = task("prepare", "a", passing, tmp_path, "prepare", 1)
    shards = [task(f"shard-{i}", "a", doubled, tmp_path, f"shard-{i}", i, after=[before]) for i in range(3)]
    found = run(shards, client)
    assert {name: o.value for name, o in found.items()} == {f"shard-{i}": 2 * i for i in range(3)}


def test_a_tree_is_tried_again(client, tmp_path):
    leaves = [task("leaf-0", "a", str, 0), task("leaf-1", "b", lost_once, tmp_path)]
    assert Engine(client, Reporter()).one("merge", tree("join", leaves, bracketed, 16)) == "(0 7)"


def lost_once(folder):
    return str(passing(folder, "leaf", 1))


def test_a_machine_without_memory_is_tried_again_when_nothing_else_runs(cluster, tmp_path):
    tasks = [task("large", "a", short_of_memory, tmp_path, "large", 1)]
    tasks += [task(f"small-{i}", "b", pause, 0.02, i) for i in range(20)]
    outcomes = list(execute(tasks, cluster))
    assert outcomes[-1] == Outcome(
        "large", "a", 7, seconds=outcomes[-1].seconds, peak_bytes=outcomes[-1].peak_bytes
    )
    assert times(tmp_path, "large") == 2


# The order of cases


def test_cases_are_finished_one_after_another(tmp_path):
    """Each can be trained on as soon as it is whole; Dask alone would go on with any of them."""
    with connect("local", 1) as client:
        tasks = []
        for rank in range(4):
            before = task(f"prepare-{rank}", str(rank), pause, 0.05, 0, rank=rank)
            tasks += [
                task(f"shard-{rank}-{i}", str(rank), pause, 0.02, 0, after=[before], rank=rank)
                for i in range(4)
            ]
        order = [o.case for o in execute(tasks[::-1], client)]
    assert order == sorted(order)


# Workers that come and go


@pytest.mark.slow
def test_the_window_grows_with_the_workers():
    """Jobs of a batch system begin when they can; what is submitted ahead must be enough for all of them."""
    with workers({}) as client:
        ahead = []

        def many():
            for i in range(150):
                if i == 20:
                    client.cluster.worker_spec.update(
                        dict.fromkeys(range(1, 4), client.cluster.worker_spec[0])
                    )
                    client.cluster.sync(client.cluster._correct_state)
                ahead.append(len(client.futures))
                yield task(f"t-{i}", "", pause, 0.1, i)

        assert sum(1 for _ in execute(many(), client)) == 150
    assert max(ahead[:20]) <= 16
    assert max(ahead) > 16


@pytest.mark.slow
@pytest.mark.timeout(900)  # on a busy machine a worker starts for longer than it lives
def test_workers_that_reach_their_lifetime_are_no_error():
    """A batch system would kill them a little later; what they leave undone is done by others."""
    options = {"lifetime": "3s", "lifetime_stagger": "1s", "lifetime_restart": True}
    with workers(options, options) as client:
        found = run((task(f"t-{i}", "", pause, 0.1, i) for i in range(160)), client)
        deaths = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.get_events("all")))
    assert {o.value for o in found.values()} == set(range(160))
    assert [o.cause for o in found.values() if o.cause] == []
    assert deaths > 2


def test_no_worker_for_too_long_ends_it():
    """Dask would wait for ever."""
    with workers() as client, pytest.raises(ClusterLostError, match=r"no worker for 1 s.*same command again"):
        run([task("t", "", double, 1)], client, no_worker_timeout=1)


def test_results_that_are_lost_with_the_last_worker_are_not_waited_for(monkeypatch):
    """They are finished, but not fetched yet: Dask would wait for a worker that computes them again."""
    with workers({}) as client:
        fetch = task_window._Window._results_of

        def too_late(self, finished):
            client.cluster.worker_spec.clear()
            client.cluster.sync(client.cluster._correct_state)
            return fetch(self, finished)

        monkeypatch.setattr(task_window._Window, "_results_of", too_late)
        with pytest.raises(ClusterLostError, match="no worker for 1 s"):
            run([task("t", "", double, 1)], client, no_worker_timeout=1)


def test_while_jobs_wait_in_the_queue_it_goes_on_waiting():
    asked = []

    def pending():
        asked.append(time.monotonic())
        return 1 if len(asked) < 4 else 0

    with workers() as client, pytest.raises(ClusterLostError):
        run([task("t", "", double, 1)], client, no_worker_timeout=1, pending=pending)
    assert len(asked) == 4


def test_a_worker_that_comes_in_time_is_enough():
    with workers() as client:
        spec = {"cls": Nanny, "options": {"nthreads": 1, "memory_limit": 0}}

        def start():
            client.cluster.worker_spec["late"] = spec
            client.cluster.loop.add_callback(client.cluster._correct_state)
            yield task("t", "", double, 4)

        assert run(start(), client, no_worker_timeout=60)["t"].value == 8


def test_a_run_that_may_not_go_on_stops(client):
    """Another run has taken OUT over."""
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 1:
            raise FormatError("taken over")

    with pytest.raises(FormatError, match="taken over"):
        run((task(f"t-{i}", "", pause, 0.3, i) for i in range(40)), client, check=check)


# GPUs


def test_tasks_for_a_gpu_go_to_workers_with_one_and_others_do_the_rest():
    with workers({"resources": {"GPU": 1}, "name": "gpu"}, {"name": "cpu"}) as client:
        tasks = [task(f"image-{i}", "", where, on_gpu=True) for i in range(10)]
        tasks += [task("device", "", device, on_gpu=True), task("other", "", device)]
        found = run(tasks, client)
        assert Engine(client, Reporter(), "auto").uses_gpu
        assert not Engine(client, Reporter(), "cpu").uses_gpu
    assert {o.value for name, o in found.items() if name.startswith("image")} == {"gpu"}
    assert (found["device"].value, found["other"].value) == ("gpu", "cpu")


@pytest.mark.slow
def test_when_the_last_gpu_is_gone_cpus_go_on():
    with workers({"resources": {"GPU": 1}}, {}) as client:

        def many():
            for i in range(60):
                if i == 20:
                    del client.cluster.worker_spec[0]
                    client.cluster.sync(client.cluster._correct_state)
                yield task(f"image-{i}", "", pause, 0.05, i, on_gpu=True)

        found = run(many(), client)
    assert {o.value for o in found.values()} == set(range(60))
    assert [o.cause for o in found.values() if o.cause] == []


def test_who_wants_a_gpu_and_nothing_else_is_told_that_there_is_none():
    tasks = [task("image", "", double, 1, on_gpu=True)]
    with workers({}) as client, pytest.raises(ClusterLostError, match="no worker with a GPU for 1 s"):
        run(tasks, client, no_worker_timeout=1, needs_gpu=True)
