"""The batch scripts through sbatch, on a real SLURM: they run, they go on after every kind of end.

Whatever happened on the way, the training store has the bytes of a run without any cluster.
"""

import re
import shlex
import subprocess
from contextlib import suppress

import datasets
import psutil
import pytest
from commands import wait_until
from slurm_support import BATCH, BIN, REPOSITORY, local, running, tell, training

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300, func_only=True)]

SETTINGS = ("--set", "target_spacing=[1,0.8,0.8]", "--set", "store.shard_mib=8")


@pytest.fixture(scope="module")
def slurm():
    with running(nodes=3) as started:
        yield started


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A source that takes no time, and what becomes of it."""
    folder = tmp_path_factory.mktemp("small")
    source = datasets.nnunet(folder / "raw").source
    local(source, folder / "out")
    return source, training(folder / "out")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A source that takes several seconds, for what happens meanwhile."""
    folder = tmp_path_factory.mktemp("large")
    cases = {f"case{i}": ((60, 200, 200), (1.2, 0.9, 0.9)) for i in range(6)}
    source = datasets.manifest(folder / "raw", cases, ("CT", "T1")).source
    local(source, folder / "out", *SETTINGS)
    return source, training(folder / "out")


def shards(out, number=1):
    """Whether so many shards of images are written."""
    found = out.glob("training.zarr/fullres/*/image/c/*/*/*/*")
    return len([p for p in found if p.name.isdigit()]) >= number


def processes(slurm, job, step="batch"):
    """The processes of a job's step with their command lines."""
    found = []
    for pid in slurm.processes(job).get(step, []):
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found.append((process, process.cmdline()))
    return found


class Allocation:
    """One job of slurm.sh, or of a script like it."""

    def __init__(self, slurm, folder, source, *words, script="slurm.sh", options=(), **variables):
        self.slurm, self.folder, self.out = slurm, folder, folder / "out"
        words = [source, self.out, *words]
        self.job = slurm.submit(BATCH / script, *words, options=options, cwd=folder, **variables)

    @property
    def logs(self):
        return self.out / "logs" / f"slurm-{self.job}"

    def output(self):
        path = self.folder / f"slurm-{self.job}.out"
        return path.read_text() if path.exists() else ""

    def wait(self, seconds=150):
        """Its exit status; nothing of it is left behind."""
        status = self.slurm.wait(self.job, seconds)
        assert "Traceback" not in self.output()
        assert not self.slurm.processes(self.job)
        return status

    def until(self, condition, seconds=90):
        wait_until(condition, seconds, self.output)
        assert self.slurm.state(self.job) == "RUNNING", self.output()


class TestAllocation:
    @pytest.mark.parametrize(
        ("options", "nodes", "workers"),
        [(["--nodes=1"], 1, 2), (["--nodes=3"], 3, 6), (["--ntasks=5"], 3, 5)],
    )
    def test_sizes(self, slurm, small, tmp_path, options, nodes, workers):
        source, expected = small
        run = Allocation(slurm, tmp_path, source, options=options)
        assert run.wait() == 0, run.output()
        assert training(run.out) == expected
        (job,) = slurm.show(run.job)
        assert job["NumNodes"] == str(nodes)
        logs = sorted(p.name for p in run.logs.iterdir())
        assert len([log for log in logs if log.startswith("worker-")]) == workers
        assert {"driver.log", "scheduler.log"} <= set(logs)
        assert re.search(r"cases done\W+2\b", run.output())
        assert re.search(r"cases done\W+2\b", (run.logs / "driver.log").read_text())

    def test_workers_keep_to_their_share_of_the_memory(self, slurm, small, tmp_path):
        """2 workers of 2 GiB: 4096 - 512 for driver and scheduler; half of it each, less 256."""
        run = Allocation(slurm, tmp_path, small[0], options=["--nodes=1"])
        run.until(lambda: (run.logs / "driver.log").exists())
        lines = [line for _, line in processes(slurm, run.job) if "run" in line]
        assert [line[line.index("--memory-limit") + 1] for line in lines] == ["1536MiB"]
        assert run.wait() == 0, run.output()

    def test_failed_cases_are_the_jobs_status(self, slurm, small, tmp_path):
        made = datasets.nnunet(tmp_path / "raw")
        (made.source / "imagesTr" / "b_0000.nii.gz").write_bytes(b"no image")
        run = Allocation(slurm, tmp_path, made.source, options=["--nodes=1"])
        assert run.wait() == 1
        assert slurm.state(run.job) == "FAILED"
        assert "failed  b: " in run.output()

    def test_words_are_refused(self, slurm, tmp_path):
        run = Allocation(slurm, tmp_path, tmp_path / "nothing", options=["--nodes=1"])
        assert run.wait() == 2
        assert "SOURCE does not exist" in run.output()

    def test_encrypted(self, slurm, small, tmp_path):
        source, expected = small
        keys = tmp_path / "keys"
        subprocess.run(["bash", REPOSITORY / "cluster" / "make_certificates.sh", keys], check=True)
        run = Allocation(slurm, tmp_path, source, options=["--nodes=2"], VOXELMILL_TLS=keys)
        assert run.wait() == 0, run.output()
        assert training(run.out) == expected
        for log in (run.logs / "scheduler.log", *run.logs.glob("worker-*.log")):
            assert "tls://" in log.read_text()
            assert "tcp://" not in log.read_text()


class TestInterrupted:
    def start(self, slurm, large, folder, **options):
        run = Allocation(slurm, folder, large[0], *SETTINGS, options=["--nodes=2"], **options)
        run.until(lambda: shards(run.out))
        return run

    def go_on(self, slurm, large, folder):
        """The same line again."""
        run = Allocation(slurm, folder, large[0], *SETTINGS, options=["--nodes=1"])
        assert run.wait() == 0, run.output()
        assert training(run.out) == large[1]
        assert not list(run.out.rglob("*.partial"))

    def test_cancelled(self, slurm, large, tmp_path):
        run = self.start(slurm, large, tmp_path)
        slurm.cancel(run.job)
        run.wait()
        assert "Run the same command again" in run.output()
        self.go_on(slurm, large, tmp_path)

    def test_told_that_the_time_is_up(self, slurm, large, tmp_path):
        """As #SBATCH --signal=B:TERM does: the driver ends in order while its workers are still there."""
        run = self.start(slurm, large, tmp_path)
        subprocess.run(["scancel", "--batch", "--signal=TERM", run.job], check=True)
        assert run.wait() == 143, run.output()
        assert "Run the same command again" in run.output()
        self.go_on(slurm, large, tmp_path)

    def test_scheduler_killed(self, slurm, large, tmp_path):
        run = self.start(slurm, large, tmp_path)
        (scheduler,) = (process for process, line in processes(slurm, run.job) if "scheduler" in line)
        scheduler.kill()
        assert run.wait() == 1, run.output()
        assert len(run.output().strip().splitlines()[-1]) > 20
        self.go_on(slurm, large, tmp_path)

    def test_preempted(self, slurm, large, tmp_path):
        """The job waits in the queue again under its own id, and goes on when it is its turn."""
        run = self.start(slurm, large, tmp_path)
        tell("scontrol", "requeue", run.job)
        slurm.wait_for(run.job, "PENDING")
        at_once = ("scontrol", "update", f"jobid={run.job}", "StartTime=now")  # else after two minutes
        wait_until(lambda: subprocess.run(at_once, capture_output=True).returncode == 0)
        assert run.wait() == 0, run.output()
        assert "6 found done, 0 to do" in run.output()
        assert training(run.out) == large[1]

    def test_a_node_is_lost(self, slurm, large, tmp_path):
        """Its tasks run elsewhere, and the job goes on with the nodes that it has."""
        run = self.start(slurm, large, tmp_path)
        last = tell("scontrol", "show", "hostnames", slurm.show(run.job)[0]["NodeList"]).split()[-1]
        tell("scontrol", "update", f"nodename={last}", "state=down", "reason=test")
        try:
            assert run.wait() == 0, run.output()
            assert slurm.show(run.job)[0]["NumNodes"] == "1"
        finally:
            tell("scontrol", "update", f"nodename={last}", "state=resume", check=False)
            wait_until(lambda: tell("sinfo", "-h", "-n", last, "-o", "%T") == "idle")
        assert training(run.out) == large[1]


class TestArray:
    """Jobs that know nothing of each other."""

    def submit(self, slurm, folder, source, *words, **variables):
        """The ids by stage, and what was said about running one element again."""
        script = BATCH / "slurm_array.sh"
        said = tell("bash", script, source, folder / "out", *words, cwd=folder, **variables)
        stages = ("ingest", "plan", "preprocess", "status")
        return {stage: re.search(rf"{stage} (\d+)", said)[1] for stage in stages}, said.splitlines()[-1]

    def test_all_stages(self, slurm, small, tmp_path):
        """From inside a job, with a word for all stages, more shares than cases."""
        source, expected = small
        job = slurm.submit(BATCH / "slurm_array.sh", source, tmp_path / "out", cwd=tmp_path, SHARES=3)
        assert slurm.wait(job) == 0
        said = (tmp_path / f"slurm-{job}.out").read_text()
        ids = {stage: re.search(rf"{stage} (\d+)", said)[1] for stage in ("ingest", "status")}
        assert slurm.wait(ids["status"], 200) == 0
        assert len(slurm.show(ids["ingest"])) == 3
        assert training(tmp_path / "out") == expected
        logs = {path.name for path in (tmp_path / "out" / "logs" / "slurm-array").iterdir()}
        assert {f"ingest-{ids['ingest']}_{i}.log" for i in (1, 2, 3)} < logs
        assert f"status-{ids['status']}.log" in logs

    def test_killed_element_is_run_again(self, slurm, large, tmp_path):
        source, expected = large
        ids, again = self.submit(slurm, tmp_path, source, *SETTINGS, SHARES=2)
        element = f"{ids['preprocess']}_1"
        log = tmp_path / "out" / "logs" / "slurm-array" / f"preprocess-{element}.log"
        wait_until(lambda: log.exists() and shards(tmp_path / "out"), 150, lambda: slurm.show(element))
        number = slurm.show(element)[0]["JobId"]
        for process, _ in processes(slurm, number):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert slurm.wait(ids["preprocess"]) != 0
        assert slurm.wait(ids["status"]) == 1
        assert slurm.wait(f"{ids['preprocess']}_2") == 0
        words = shlex.split(again.replace("--array=3", "--array=1"))
        job = tell("env", *words, cwd=tmp_path).split()[-1]
        assert slurm.wait(job) == 0
        assert training(tmp_path / "out") == expected
        assert subprocess.run([BIN / "voxelmill", "status", tmp_path / "out"]).returncode == 0

    def test_bad_case_and_lost_element_of_ingest(self, slurm, tmp_path):
        """A bad case stops nothing; an element that never ran stops the chain before a plan is made."""
        source = datasets.nnunet(tmp_path / "raw").source
        (source / "imagesTr" / "b_0000.nii.gz").write_bytes(b"no image")
        local(source, tmp_path / "alone", check=False)
        tell("scontrol", "update", "nodename=ALL", "state=drain", "reason=test")
        ids, _ = self.submit(slurm, tmp_path, source, SHARES=2)
        slurm.cancel(f"{ids['ingest']}_2")  # while it waits: then SLURM forgets that it was
        tell("scontrol", "update", "nodename=ALL", "state=resume")
        assert slurm.wait(ids["plan"]) == 2
        slurm.wait(ids["preprocess"])
        assert slurm.state(ids["preprocess"]) == "CANCELLED"
        assert slurm.wait(ids["status"]) != 0
        assert not (tmp_path / "out" / "training.zarr").exists()
        ids, _ = self.submit(slurm, tmp_path, source, SHARES=2)
        assert slurm.wait(ids["status"], 200) == 1
        assert slurm.wait(ids["preprocess"]) == 0
        log = tmp_path / "out" / "logs" / "slurm-array" / f"status-{ids['status']}.log"
        assert "failed  b: " in log.read_text()
        assert training(tmp_path / "out") == training(tmp_path / "alone")


class TestGpu:
    """SLURM pretends to have GPUs: it counts them and names one for each worker; tasks compute on CPUs."""

    def test_each_worker_its_own(self, tmp_path, small):
        source, expected = small
        with running(nodes=3, cpus=4, gpus=2) as slurm:
            options = ["--nodes=2", "--gres=gpu:2", "--ntasks-per-node=3", "--mem-per-cpu=1G"]
            run = Allocation(slurm, tmp_path, source, script="slurm_gpu.sh", options=options)
            (job,) = slurm.show(run.job)
            assert job["TresPerNode"] == "gres:gpu:2"
            assert run.wait() == 0, run.output()
            said = "".join(path.read_text() for path in run.logs.glob("worker-*.log"))
            found = re.findall(r"^node (n\d), task (\d), GPU (\w+)$", said, re.M)
            nodes = sorted({node for node, _, _ in found})
            assert len(nodes) == 2
            wanted = [("0", "0"), ("1", "1"), ("2", "none")]
            assert sorted(found) == [(node, *pair) for node in nodes for pair in wanted]
        assert training(run.out) == expected
