"""Schedulers and workers that have other versions than the program, or lack voxelmill: one line, at once.

Each says something else of itself, from `sitecustomize`: what runs there is Dask's own scheduler and worker.
"""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import ENVIRONMENT, HALF_OPEN, before, call, collect_half_open, wait_until
from datasets import nnunet
from distributed import Client, LocalCluster

import voxelmill
from voxelmill.basics.errors import ClusterLostError, ConfigError
from voxelmill.runtime.same_versions import Versions
from voxelmill.runtime.task_window import execute
from voxelmill.runtime.tasks import task
from voxelmill.runtime.workers_present import Watch

DASK = Path(sys.executable).with_name("dask")
OLD = "import voxelmill; voxelmill.__version__ = '0.0.9'"
WITHOUT = "import sys; sys.modules['voxelmill'] = None"
HERE = f"this process has {voxelmill.__version__}"


@pytest.fixture(scope="module")
def cluster():
    """A scheduler without workers."""
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0"
    ) as made:
        yield made
    collect_half_open()


@contextmanager
def started(folder, which, *words, says):
    """Dask's scheduler or worker, which says something else of itself."""
    (folder / "sitecustomize.py").write_text(says)
    process = subprocess.Popen(
        [DASK, which, *words, "--no-dashboard"],
        env=ENVIRONMENT | {"PYTHONPATH": before(folder)},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def worker(folder, address, says):
    return started(folder, "worker", address, "--no-nanny", "--nthreads=1", "--memory-limit=0", says=says)


@pytest.mark.parametrize(
    ("says", "line"),
    [
        (OLD, f"has voxelmill 0.0.9, {HERE}"),
        (WITHOUT, f"has no voxelmill, {HERE}"),
    ],
)
def test_a_worker_that_does_not_fit_is_named_before_work(tmp_path, cluster, says, line):
    source = nnunet(tmp_path / "raw", ("a",), shape=(4, 6, 6)).source
    with worker(tmp_path, cluster.scheduler_address, says), Client(cluster) as client:
        client.wait_for_workers(1, timeout=60)
        with pytest.raises(ConfigError, match=rf"worker tcp://127.0.0.1:[0-9]+ {line}"):
            voxelmill.run(source, tmp_path / "out", client=client)
    wait_until(lambda: not cluster.scheduler.workers)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings(HALF_OPEN)
def test_a_worker_that_comes_later_ends_the_run_at_once(tmp_path, cluster):
    with Client(cluster) as client:
        watch = Watch(no_worker_timeout=60, newcomers=Versions(client).worker_differs)
        with (
            worker(tmp_path, cluster.scheduler_address, OLD),
            pytest.raises(ClusterLostError, match=r"has voxelmill 0\.0\.9.*What is written stays"),
        ):
            list(execute([task("t", "", abs, -1)], client, watch))


@pytest.mark.parametrize(("says", "line"), [(OLD, "the scheduler has voxelmill 0.0.9"), (WITHOUT, "has no")])
def test_a_scheduler_that_does_not_fit_is_named(tmp_path, says, line):
    file, source = tmp_path / "scheduler.json", nnunet(tmp_path / "raw", ("a",), shape=(4, 6, 6)).source
    words = (f"--scheduler-file={file}", "--host=127.0.0.1", "--port=0")
    with started(tmp_path, "scheduler", *words, says=says):
        wait_until(lambda: file.exists() and file.read_text().strip(), 30)
        done = call("run", source, tmp_path / "out", f"--scheduler={file}")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 2), done.stderr  # cases found, and why not
    assert line in done.stderr.splitlines()[-1]
    assert HERE in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "theirs", "ours", "said"),
    [
        ("voxelmill", "0.1.0", "0.1.0", None),
        ("voxelmill", "0.1.1", "0.1.0", "has voxelmill 0.1.1, this process has 0.1.0"),
        ("Python", "3.11.2", "3.11.7", None),
        ("Python", "3.12.1", "3.11.7", "has Python 3.12.1, this process has 3.11.7"),
        ("NumPy", "2.3.1", "2.3.5", None),
        ("NumPy", "2.4.0", "2.3.5", "has NumPy 2.4.0, this process has 2.3.5"),
        ("NumPy", None, "2.3.5", "has no NumPy, this process has 2.3.5"),
    ],
)
def test_which_numbers_of_a_version_count(cluster, package, theirs, ours, said):
    with Client(cluster) as client:
        versions = Versions(client)
    versions._ours = {package: ours}
    line = versions._differs("worker w", {package: theirs}, [package])
    assert line is None if said is None else line.startswith(f"worker w {said}")


def test_what_is_asked_is_what_is_here(cluster):
    import numpy as np

    with Client(cluster) as client:
        asked = Versions(client)._ours
    python = ".".join(map(str, sys.version_info[:3]))
    assert asked == {"Python": python, "NumPy": np.__version__, "voxelmill": voxelmill.__version__}
