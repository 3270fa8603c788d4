"""Job scripts of `--cluster slurm|pbs|lsf|sge --dry-run`, word for word; what is told where none is made.

The scripts in `golden` are what dask-jobqueue 0.9 makes; VOXELMILL_GOLDEN=1 writes them anew, to look at.
"""

import os
import sys
from pathlib import Path

import dask
import pytest
from commands import before, call

import voxelmill
from voxelmill.basics.errors import ConfigError
from voxelmill.config.load_settings import load_config
from voxelmill.config.settings import ClusterConfig
from voxelmill.runtime.cluster.batch_queues import Jobs
from voxelmill.runtime.cluster.walltime import parse_walltime

pytest.importorskip("dask_jobqueue")

GOLDEN = Path(__file__).parents[2] / "golden"
MIB = 2**20

WORDS = {
    "queue": "long",
    "account": "radiology",
    "walltime": "12:00:00",
    "cores": 4,
    "memory": "16GiB",
    "job_extra_directives": ["--one-more-word"],
    "job_script_prologue": ["module load python"],
    "interface": "lo",
}


def jobs(system, on_gpu=False, workers=8, limit=None, **words):
    return Jobs(system, ClusterConfig(**words), workers, Path("/out/logs/workers"), limit, on_gpu)


def general(script):
    """Without what differs from machine to machine."""
    package = str(Path(voxelmill.__file__).parent)
    return script.replace(sys.executable, "/env/bin/python").replace(package, "/env/voxelmill")


@pytest.fixture(autouse=True)
def no_configuration_of_this_machine():
    with dask.config.set({f"jobqueue.{s}.python": None for s in ("slurm", "pbs", "lsf", "sge")}):
        yield


@pytest.mark.parametrize("on_gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("system", ["slurm", "pbs", "lsf", "sge"])
def test_the_script_is_as_expected(system, on_gpu):
    words = WORDS | ({"job_extra_directives": ["-pe smp 4"]} if system == "sge" else {})
    found = general(jobs(system, on_gpu, **words).script())
    golden = GOLDEN / f"{system}{'-gpu' if on_gpu else ''}.sh"
    if os.environ.get("VOXELMILL_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text()


def test_the_command_prints_it_and_writes_nothing(tmp_path):
    words = [f"--set=cluster.{k}={v!r}".replace("'", '"') for k, v in WORDS.items()]
    done = call(
        "run", "source", "/out", "--cluster", "slurm", "--workers", 8, "--dry-run", *words, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert general(done.stdout).rstrip() == (GOLDEN / "slurm.sh").read_text().rstrip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "stage", [["ingest", "source", "out"], ["fingerprint", "out"], ["preprocess", "out"]]
)
def test_every_stage_that_submits_prints_its_script(tmp_path, stage):
    done = call(*stage, "--cluster=pbs", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert "#PBS -l select=1:ncpus=1" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_settings_come_from_a_file_too(tmp_path):
    (tmp_path / "site.toml").write_text('[cluster]\nqueue = "fat"\ncores = 3\nmemory = "9GiB"\n')
    done = call("run", "a", "b", "--cluster=slurm", "--dry-run", "--config=site.toml", cwd=tmp_path)
    assert "#SBATCH -p fat" in done.stdout
    assert "#SBATCH --cpus-per-task=3\n#SBATCH --mem=9G" in done.stdout


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("walltime=12:00:00", "#SBATCH -t 12:00:00"),  # a time of day in TOML
        ("walltime=48:00:00", "#SBATCH -t 48:00:00"),  # none
        ("walltime=90", "#SBATCH -t 90"),
        ("account=4711", "#SBATCH -A 4711"),
        ("queue=fat", "#SBATCH -p fat"),
    ],
)
def test_words_need_no_quotes(word, line):
    config = load_config(settings=[f"cluster.{word}"])
    assert line in Jobs("slurm", config.cluster, 1, Path("/logs")).script()


# What is not said


def test_dask_jobqueue_s_own_files_say_the_rest():
    site = {
        "cores": 6,
        "memory": "12GiB",
        "queue": "site",
        "walltime": "01:00:00",
        "worker-extra-args": ["--nthreads=1"],
    }
    with dask.config.set({f"jobqueue.slurm.{k}": v for k, v in site.items()}):
        found = jobs("slurm")
        assert (found.cores, found.processes, found.memory) == (6, 6, 12 * 1024 * MIB)
        script = found.script()
        assert "#SBATCH -p site" in script
        assert "--lifetime 3240s" in script
        assert "--nthreads=1 --no-dashboard" in script
        assert "#SBATCH -p mine" in jobs("slurm", queue="mine").script()


def test_a_worker_s_limit_is_its_part_of_the_job_s_memory():
    """Tasks that keep to it are not killed for their memory."""
    found = jobs("slurm", cores=4, memory="8GiB")
    assert found.worker_bytes == 2048 * MIB - 128 * MIB
    assert jobs("slurm", cores=4, memory="8GiB", limit=1024 * MIB).worker_bytes == 1024 * MIB


def test_a_job_s_memory_follows_from_the_workers_limit():
    assert jobs("slurm", cores=2, limit=1024 * MIB).memory == 2 * (1024 + 128) * MIB


@pytest.mark.parametrize(
    ("workers", "words", "expected"),
    [
        (None, {}, (1, 1)),  # one job
        (8, {}, (8, 8)),  # as many jobs as workers
        (8, {"cores": 4}, (2, 2)),  # four workers a job
        (9, {"cores": 4}, (3, 3)),  # a part of a job is a job
        (8, {"cores": 8, "processes": 2}, (4, 4)),  # workers of four threads
        (8, {"minimum": 0}, (0, 8)),
        (8, {"minimum": 3, "cores": 2}, (2, 4)),
        (8, {"minimum": 100}, (8, 8)),
    ],
)
def test_how_many_jobs_there_are(workers, words, expected):
    found = jobs("slurm", workers=workers, **words)
    assert (found.least, found.most) == expected


@pytest.mark.parametrize(
    ("text", "system", "seconds"),
    [
        (None, "slurm", 0),
        ("12:00:00", "slurm", 43200),
        ("1-12:00:00", "slurm", 129600),
        ("2-12", "slurm", 216000),
        ("90", "slurm", 5400),  # minutes
        ("90:30", "slurm", 5430),
        ("24:30", "lsf", 88200),  # hours and minutes
        ("90", "lsf", 5400),
        ("00:30:00", "pbs", 1800),
        ("5400", "pbs", 5400),  # seconds
        ("5400", "sge", 5400),
    ],
)
def test_walltimes(text, system, seconds):
    assert parse_walltime(text, system) == seconds


def test_a_walltime_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"cluster.walltime is 'soon': needs hours, minutes, seconds"):
        jobs("slurm", walltime="soon").script()


def test_workers_end_before_the_walltime_and_not_all_at_a_time():
    assert "--lifetime 38880s --lifetime-stagger 2160s" in jobs("slurm", walltime="12:00:00").script()
    assert "--lifetime 600s" in jobs("slurm", walltime="12:00:00", lifetime=600).script()
    assert "--lifetime" not in jobs("slurm", walltime="12:00:00", lifetime=0).script()


def test_a_gpu_that_is_asked_for_already_is_not_asked_for_twice():
    script = jobs("slurm", True, job_extra_directives=["--gres=gpu:a100:1"]).script()
    assert script.count("gpu:") == 1
    assert "--resources GPU=1" in script


def test_a_gpu_has_one_process_and_the_cores_are_its_threads():
    """Processes that share a GPU would share its memory too."""
    found = jobs("slurm", True, workers=2, cores=8)
    assert (found.processes, found.threads, found.most) == (1, 8, 2)
    assert "--nthreads 8" in found.script()
    assert "--resources GPU=8" in found.script()


# What cannot be done


def test_a_process_needs_a_core():
    """Dask would give each process no thread, and take that for all there are."""
    with pytest.raises(ConfigError, match="4 processes are more than 2 cores"):
        jobs("slurm", cores=2, processes=4).script()


def test_cores_of_a_job_on_sge_need_a_parallel_environment():
    with pytest.raises(ConfigError, match=r"a job of 4 cores needs .* environments, such as .*-pe smp 4"):
        jobs("sge", cores=4).script()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--cluster=local --dry-run", "--cluster local submits no job"),
        ("--cluster=slurm --dry-run --set cluster.cores=0", "'cluster.cores' is 0"),
        ("--cluster=slurm --dry-run --set cluster.que=long", "did you mean 'cluster.queue'"),
        ("--cluster=slurm --dry-run --set cluster.memory=much", "'cluster.memory' is 'much'"),
        ("--cluster=slrum", "choose one of local, slurm, pbs, lsf, sge, cuda, none"),
        ("--device=tpu", "choose one of auto, cpu, gpu"),
        ("--device=gpu --cluster=local", "Choose --cluster cuda"),
    ],
)
def test_wrong_words_are_refused_in_one_line(tmp_path, words, said):
    (tmp_path / "image.npy").touch()
    done = call("run", "image.npy", "out", *words.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("cluster", "module", "line"),
    [
        ("slurm", "dask_jobqueue", "pip install dask-jobqueue"),
        ("cuda", "dask_cuda", "pip install dask-cuda cupy-cuda13x"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(tmp_path, cluster, module, line):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{module}.py").write_text("raise ImportError('hidden')")
    (tmp_path / "image.npy").touch()
    done = call("run", "image.npy", "out", f"--cluster={cluster}", cwd=tmp_path, PYTHONPATH=before(hidden))
    assert done.returncode == 2
    assert line in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_batch_system_that_is_not_here_is_named(tmp_path):
    (tmp_path / "image.npy").touch()
    done = call("run", "image.npy", "out", "--cluster=lsf", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no `bsub` here" in done.stderr
