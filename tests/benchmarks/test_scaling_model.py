"""The model of scaling: what it may never say, whatever the numbers, and what it says in clear cases."""

import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[2]))  # benchmarks are not installed

from benchmarks import scaling_model as model
from benchmarks.scaling_model import Costs, PerTask, Stage, Store, bounds, predict

times = st.floats(0.0, 1e3)
sizes = st.floats(0.0, 1e10)
rates = st.floats(1e6, 1e12)
workers = st.integers(1, 2000)
cases = st.integers(1, 10**6)
largest = st.floats(1.0, 10.0)
pertask = st.builds(PerTask, alone=times, batch=times)
stages = st.builds(
    Stage,
    name=st.just("stage"),
    tasks=st.floats(0.01, 1000.0),
    cpu=times,
    read=sizes,
    written=sizes,
    crowding=st.floats(1.0, 2.0),
)
costs = st.builds(
    Costs,
    stages=st.lists(stages, min_size=1, max_size=3).map(tuple),
    client=pertask,
    scheduler=pertask,
    worker=times,
    serial=times,
    startup=times,
    window=st.integers(1, 16),
    fewest=st.integers(1, 8),
)
stores = st.builds(Store, name=st.just("store"), read=rates, write=rates)


def at_most(small, large):
    return small <= large * (1 + 1e-9) + 1e-9


# Whatever the numbers


@given(costs, cases, workers, st.integers(1, 2000), stores, largest)
def test_more_workers_never_take_longer(costs, cases, workers, more, store, largest):
    few, many = (predict(costs, cases, n, store, largest).seconds for n in (workers, workers + more))
    if workers == 1:  # the others may compute on the same machine
        few *= max(stage.crowding for stage in costs.stages)
    assert at_most(many, few)


@given(costs, cases, workers, stores, largest)
def test_more_cases_never_take_less(costs, cases, workers, store, largest):
    few, many = (predict(costs, n, workers, store, largest).seconds for n in (cases, cases + 1))
    assert at_most(few, many)


@given(costs, cases, workers, stores, largest, st.integers(1, 64))
def test_no_resource_is_busy_for_longer_than_the_job(costs, cases, workers, store, largest, cores):
    whole = predict(costs, cases, workers, store, largest, cores)
    own = costs.startup + cases * costs.serial
    busy = [bounds(costs, stage, cases, workers, store, largest, cores) for stage in costs.stages]
    for name in busy[0]:
        assert at_most(own + sum(of[name] for of in busy), whole.seconds)
    assert at_most(whole.seconds, own + sum(sum(of.values()) for of in busy))


@given(costs, cases, workers, stores, largest)
def test_the_shares_are_the_whole(costs, cases, workers, store, largest):
    whole = predict(costs, cases, workers, store, largest)
    assert math.isclose(sum(whole.shares.values()), whole.seconds, rel_tol=1e-9)
    assert whole.first in model.ADVICE
    assert whole.shares[whole.first] * len(whole.shares) >= whole.seconds * (1 - 1e-9)


@given(costs, cases, workers, stores, rates)
def test_a_faster_store_never_takes_longer(costs, cases, workers, store, more):
    faster = Store("faster", store.read + more, store.write + more)
    slow, fast = (predict(costs, cases, workers, s).seconds for s in (store, faster))
    assert at_most(fast, slow)


@given(cases, workers, st.floats(0.001, 100.0), st.floats(0.01, 100.0))
def test_where_all_else_is_free_the_work_is_shared_out_until_one_task_is_left(cases, workers, cpu, tasks):
    work = Costs((Stage("stage", tasks, cpu),))
    found = predict(work, cases, workers, Store("free"))
    assert math.isclose(found.seconds, max(cases * tasks * cpu / workers, cpu), rel_tol=1e-9)
    assert found.first == ("workers" if cases * tasks >= workers else "longest case")


@given(pertask, st.floats(1.0, 1e4), st.floats(1.5, 100.0))
def test_a_fit_gives_both_measurements(truth, few, factor):
    many = few * factor
    small, large = ((n, truth.seconds(n)) for n in (few, many))
    found = model.fit(small, large)
    for size, seconds in (small, large):
        assert math.isclose(found.seconds(size), seconds, rel_tol=1e-6, abs_tol=1e-6)


def test_a_fit_makes_no_negative_times():
    assert model.fit((4, 0.001), (64, 0.002)) == PerTask(0.002, 0.0)


# Clear cases: 1,000 cases of 10 tasks of a second


def job(stage=None, **of):
    return Costs((Stage(**{"name": "stage", "tasks": 10, "cpu": 1.0} | (stage or {})),), **of)


FREE = Store("free")


@pytest.mark.parametrize(
    ("costs", "workers", "store", "first", "seconds"),
    [
        (job(), 10, FREE, "workers", 1000),
        (job(), 100_000, FREE, "longest case", 1),  # one shard
        (job({"tasks": 1}), 1000, FREE, "longest case", 4),  # the largest case is four times the mean
        (job(scheduler=PerTask(0.01)), 1000, FREE, "scheduler", 100),
        (job(client=PerTask(0.0, 4.0), window=8), 100, FREE, "client", 10_000 * 4 / 200),
        (job({"read": 1e6, "written": 1e6}), 1000, Store("slow", 1e9, 0.5e9), "store", 30),
        (job(serial=0.1), 1000, FREE, "client, case by case", 100 + 10),
        (job(startup=60.0), 1000, FREE, "start-up", 60 + 10),
    ],
)
def test_what_saturates_is_named(costs, workers, store, first, seconds):
    found = predict(costs, 1000, workers, store, largest=4.0)
    assert found.first == first
    assert math.isclose(found.seconds, seconds, rel_tol=1e-9)


def test_what_computes_on_one_machine_shares_its_cores():
    costs = job(scheduler=PerTask(0.1), client=PerTask(0.1))
    found = predict(costs, 1000, 2, FREE, cores=2)
    assert found.first == "machine"
    assert math.isclose(found.seconds, 10_000 * 1.2 / 2)


def test_tasks_are_slower_where_all_cores_compute():
    costs = job({"crowding": 1.5})
    assert predict(costs, 1000, 1, FREE).seconds == 10_000
    assert predict(costs, 1000, 2, FREE).seconds == 7_500


def test_a_table_names_what_saturates_and_what_to_do():
    lines = list(model.table(model.grid(job(scheduler=PerTask(0.01)), FREE, 4.0)))
    assert len(lines[0].split()) == 1 + len(model.MANY) + 1
    assert [line.split()[0] for line in lines[1:6]] == [f"{n:,}" for n in model.CASES]
    row = lines[1 + model.CASES.index(1_000)].split()[1:]
    assert dict(zip(model.MANY, zip(row[::2], row[1::2], strict=True), strict=True))[1000] == ("1.67min", "s")
    assert any(line.split() == ["s", "scheduler:", *model.ADVICE["scheduler"].split()] for line in lines)


def test_where_a_row_saturates():
    row = model.grid(job(scheduler=PerTask(0.01)), FREE, 1.0)[1_000]
    assert model.saturates_at(row) == (200, "scheduler")
    assert model.saturates_at(row[:3]) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.123, "0.123s"),
        (9.96, "10s"),
        (99.4, "99s"),
        (100, "1.67min"),
        (5970.1, "1.66h"),
        (7200, "2h"),
        (360_000, "4.2d"),
        (1e7, "116d"),
    ],
)
def test_durations_are_short(seconds, text):
    assert model.duration(seconds) == text
