"""Shards on a GPU, and on the CPU of a worker that was meant to have one."""

import logging

import datasets
import numpy as np
import pytest
import runs
from commands import workers
from datasets import stores

from voxelmill.config.load_settings import make_config
from voxelmill.kernels import backend
from voxelmill.runs.job import Job
from voxelmill.runtime.memory_budget import Memory
from voxelmill.runtime.progress_display import Reporter
from voxelmill.runtime.stage_engine import Engine
from voxelmill.stages.planning.plan_json import Plan
from voxelmill.stages.preprocessing.preprocess import _tasks, image_block, prepare_case
from voxelmill.stages.preprocessing.training_store import training_cases

MANY_SHARDS = {"store": {"shard_mib": 1, "chunk": (16, 32, 32)}, "target_spacing": (0.2, 0.1, 0.1)}


def has_gpu():
    return backend._usable_cupy() is not None


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A source with large and small cases, and what the CPU makes of it."""
    folder = tmp_path_factory.mktemp("devices")
    source = datasets.nnunet(folder / "raw", ("a", "b"), shape=(20, 30, 40)).source
    assert not runs.process(source, folder / "whole", **MANY_SHARDS).failed
    return source, folder / "whole"


def process(source, out, client, device):
    job = Job(out, make_config(MANY_SHARDS))
    return runs.execute(job, job.discover(source), Engine(client, Reporter(), device))


@pytest.mark.skipif("has_gpu()")
def test_without_a_gpu_the_cpu_computes_and_says_so_once(caplog):
    backend._usable_cupy.cache_clear()
    block = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    with caplog.at_level(logging.WARNING, "voxelmill"), backend.on_device("gpu"):
        for _ in range(3):
            found = backend.compute(lambda a, mask: a * 2 if mask is None else a, block, None)
            np.testing.assert_array_equal(found, block * 2)
    assert len(caplog.records) == 1
    assert "was given tasks for a GPU, but has none" in caplog.records[0].getMessage()


def test_the_device_is_that_of_the_task_alone():
    assert backend._device.get() == "cpu"
    with backend.on_device("gpu"):
        assert backend._device.get() == "gpu"
    assert backend._device.get() == "cpu"


@pytest.mark.slow
@pytest.mark.skipif("has_gpu()")
@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_has_no_gpu_after_all_makes_the_same(made, tmp_path):
    """It was started with --resources GPU=1 on a node without a driver."""
    source, whole = made
    assert not process(source, tmp_path / "here", None, "gpu").failed
    assert stores(tmp_path / "here") == stores(whole)
    with workers({"resources": {"GPU": 1}, "name": "gpu"}, {"name": "cpu"}) as client:
        assert not process(source, tmp_path / "there", client, "auto").failed
    assert stores(tmp_path / "there") == stores(whole)


def test_images_are_for_gpus_and_labels_and_preparations_for_all(made):
    cases = list(training_cases(made[1], Plan.load(made[1]), "fullres", Memory()))
    waiting = [(case, range(case.plan.shards)) for case in cases]
    kinds = {}
    for made_task in _tasks(waiting, uses_gpu=True):
        for step in made_task.steps:
            kinds.setdefault(step.name.partition("-")[0], set()).add(made_task.on_gpu)
        assert not any(before.on_gpu for before in made_task.after)
    assert kinds == {"image": {True}, "label": {False}}
    assert not any(t.on_gpu for t in _tasks(waiting, uses_gpu=False))


@pytest.mark.gpu
def test_a_gpu_makes_the_voxels_of_the_cpu(made):
    """Within 1e-6 of the range."""
    for case in training_cases(made[1], Plan.load(made[1]), "fullres", Memory()):
        prepare_case(case)
        box = case.plan.write_box(0)
        with backend.on_device("gpu"):
            found = image_block(case, 0, box)
        expected = image_block(case, 0, box)
        assert np.abs(found - expected).max() <= 1e-6 * np.ptp(expected)
